//! The benchmark: starts a hub and brokers of its own, runs fixed loads, and prints what came out
//! beside what must come out. `docs/benchmark.md` says what each row means.

mod broker;
mod commands;
mod flash;
mod footprint;
mod hub;
mod latency;
mod live;
mod load;
mod machine;
mod memory;
mod mqtt;
mod outage;
mod plain;
mod process;
mod steady;
mod table;
mod tls;
mod watched;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::ValueEnum;
use rustix::process::{Resource, getrlimit, setrlimit};
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

use broker::Broker;
use hub::Hub;
use machine::Machine;
use table::Table;

/// Options of the benchmark.
#[derive(Debug, Clone, clap::Args)]
pub struct BenchArgs {
    /// Measure only these
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    only: Vec<Part>,
    /// How long each load lasts
    #[arg(long, value_name = "N", default_value_t = 5)]
    seconds: u64,
    /// Where the hub's spool and the bridge's store are; a real disk, not a tmpfs [default: the
    /// build directory]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// The hub [default: `telehub` beside this program]
    #[arg(long, value_name = "FILE")]
    hub_binary: Option<PathBuf>,
    /// Print one JSON object instead of the table
    #[arg(long)]
    json: bool,
    /// Exit status 1 when a bound is not reached
    #[arg(long)]
    strict: bool,
}

/// What can be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Readings a second and CPU per reading with the broker at hand, beside a mosquitto bridge
    Live,
    /// CPU per batch of a hub that is not busy, from few devices and from many
    Steady,
    /// Ack latency in the live lane, beside the broker's own
    Latency,
    /// What is acked from the disk while the broker is away, and how fast it drains afterwards
    Outage,
    /// Memory with and without connections
    Memory,
    /// Memory and time to start with 500 MB in the spool
    Start,
    /// What the hub takes on a small board: memory idle and with 100 and 1,000 devices, CPU per
    /// reading, and how long a start takes with 1 GB in the spool; only when it is named
    Footprint,
    /// What a flash card has to write in an outage, at the block device; only when it is named,
    /// because it takes eight minutes and needs root
    Flash,
    /// What commands at their full rate cost the live lane beside them; only when it is named, because it
    /// takes three minutes
    Commands,
    /// What it costs when somebody looks; only when it is asked for, because it takes five minutes
    Watched,
}

/// What every measurement needs.
struct Setup {
    hub: PathBuf,
    mosquitto: PathBuf,
    dir: Directory,
    time: Duration,
}

impl Setup {
    /// A hub with a spool of its own, and its broker, connected.
    async fn hub(&self, name: &str) -> anyhow::Result<(Hub, Broker)> {
        let dir = self.dir.child(name)?;
        let broker = Broker::start(&self.mosquitto, &dir, broker::free_port()?).await?;
        let hub = Hub::start(&self.hub, &dir, broker.port).await?;
        hub.connected().await?;
        Ok((hub, broker))
    }
}

/// A directory that goes when the benchmark ends.
struct Directory(PathBuf);

impl Directory {
    fn path(&self) -> &Path {
        &self.0
    }

    fn child(&self, name: &str) -> anyhow::Result<PathBuf> {
        let dir = self.0.join(name);
        std::fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        Ok(dir)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Runs the benchmark and prints its table.
///
/// # Errors
/// When something is missing, or when a part of it did not work. A bound that is not reached is
/// printed and is no error, unless `--strict` says so.
pub fn run(args: BenchArgs) -> anyhow::Result<ExitCode> {
    if args.seconds == 0 {
        bail!("--seconds 0: expected at least 1");
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start")?;
    let setup = prepare(&args)?;
    let machine = Machine::look(setup.dir.path())?;
    if !args.json {
        println!("{}\n", machine.text());
    }
    let table = runtime.block_on(async {
        tokio::select! {
            table = measure(&setup, &args.only) => table,
            // Children and files go when they are dropped.
            interrupted = interrupt() => interrupted.and_then(|()| bail!("interrupted")),
        }
    })?;
    if args.json {
        println!(
            "{}",
            json!({"machine": machine.json(), "table": table.json()})
        );
    } else {
        print!("{}", table.text());
    }
    Ok(if args.strict && !table.all_reached() {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

/// Returns with SIGINT or SIGTERM.
async fn interrupt() -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        interrupt = tokio::signal::ctrl_c() => interrupt?,
        _ = terminate.recv() => {}
    }
    Ok(())
}

fn prepare(args: &BenchArgs) -> anyhow::Result<Setup> {
    let here = std::env::current_exe().context("where am I?")?;
    let beside = here.parent().unwrap_or(Path::new("."));
    let hub = args.hub_binary.clone().unwrap_or(beside.join("telehub"));
    if !hub.is_file() {
        bail!(
            "there is no hub at {}: cargo build --release -p telehub",
            hub.display()
        );
    }
    let base = match &args.dir {
        Some(dir) => std::path::absolute(dir)?,
        None => beside.parent().unwrap_or(beside).to_owned(),
    };
    let dir = Directory(base.join(format!("bench-{}", std::process::id())));
    dir.child("")?;
    // Ten thousand connections are more files than most systems allow a process at first.
    let mut files = getrlimit(Resource::Nofile);
    files.current = files.maximum;
    let _ = setrlimit(Resource::Nofile, files);
    Ok(Setup {
        hub,
        mosquitto: broker::mosquitto()?,
        dir,
        time: Duration::from_secs(args.seconds),
    })
}

async fn measure(setup: &Setup, only: &[Part]) -> anyhow::Result<Table> {
    let wanted = |part| only.is_empty() || only.contains(&part);
    let mut table = Table::default();
    if wanted(Part::Live) {
        live::measure(setup, &mut table).await?;
    }
    if wanted(Part::Steady) {
        steady::measure(setup, &mut table).await?;
    }
    if wanted(Part::Latency) {
        latency::measure(setup, &mut table).await?;
    }
    if wanted(Part::Outage) {
        outage::measure(setup, &mut table).await?;
    }
    if wanted(Part::Memory) {
        memory::connections(setup, &mut table, memory::CROWDS).await?;
        memory::connections_with_tls(setup, &mut table).await?;
    }
    if wanted(Part::Start) {
        memory::full_spool(setup, &mut table, memory::FULL).await?;
    }
    if only.contains(&Part::Footprint) {
        footprint::measure(setup, &mut table).await?;
    }
    if only.contains(&Part::Flash) {
        flash::measure(setup, &mut table).await?;
    }
    if only.contains(&Part::Commands) {
        commands::measure(setup, &mut table).await?;
    }
    if only.contains(&Part::Watched) {
        watched::measure(setup, &mut table).await?;
    }
    Ok(table)
}

/// Stops a hub; what it complained of goes below the table, because a figure of a hub that was
/// not well means little.
async fn finish(hub: Hub, table: &mut Table, where_: &str) -> anyhow::Result<()> {
    let (_, errors, last) = hub.troubles();
    if errors > 0 {
        table.note(format!(
            "{where_}: the hub logged {errors} errors, the last one: {last}"
        ));
    }
    hub.process.stop().await
}
