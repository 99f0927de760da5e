//! Many devices in one process, to load a hub and to check that every batch is acked.

mod load;
mod report;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use crate::args::{self, Common, at_least_one};
use crate::client::{self, Full, Options, Outcome, Rng, Stats, Stopper};
use crate::progress::Progress;
use crate::sensors::on_interrupt;
use load::Load;
use report::Report;

/// Handshakes at the same time: the listen backlog of a small hub is 128, and a hub that checks
/// tokens should not be measured by how it takes a thousand at once.
const CONNECTING: usize = 64;
/// Load on a hub.
#[derive(Debug, Clone, clap::Args)]
pub struct SwarmArgs {
    #[command(flatten)]
    common: Common,
    /// How many devices; their ids are PREFIX-0, PREFIX-1, …
    #[arg(long, value_name = "N", default_value_t = 100)]
    devices: usize,
    /// Start of the ids
    #[arg(long, value_name = "PREFIX", default_value = "swarm")]
    prefix: String,
    /// Batches a second and device; 0: as fast as the window allows
    #[arg(long, value_name = "R", default_value_t = 1.0)]
    rate: f64,
    /// Readings in a batch
    #[arg(long, value_name = "B", default_value_t = 10)]
    batch: usize,
    /// Send for this long, counted from when all are connected [default: until Ctrl-C]
    #[arg(long, value_name = "TIME", value_parser = args::duration)]
    duration: Option<Duration>,
    /// Send this many batches a device, then end
    #[arg(long, value_name = "N")]
    batches: Option<u64>,
    /// Unacked batches a device at most [default: what the hub allows]
    #[arg(long, value_name = "W")]
    window: Option<usize>,
    /// Wait this long for all to be connected before sending
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = args::duration)]
    ramp_timeout: Duration,
    /// A file with a line `ID TOKEN` for every device
    #[arg(long, value_name = "FILE")]
    tokens: Option<PathBuf>,
    /// Print the report as one JSON object
    #[arg(long)]
    report_json: bool,
    /// No progress, only notes and the report
    #[arg(long)]
    quiet: bool,
}

/// Runs a swarm and prints its report.
///
/// # Errors
/// When an option makes no sense or there is no runtime.
pub fn run(args: SwarmArgs) -> anyhow::Result<ExitCode> {
    at_least_one(args.devices, "--devices")?;
    at_least_one(args.batch, "--batch")?;
    at_least_one(args.window.unwrap_or(1), "--window")?;
    if !(0.0..=1e6).contains(&args.rate) {
        bail!("--rate {}: expected 0 to 1000000", args.rate);
    }
    let tokens = match &args.tokens {
        Some(file) => parse_tokens(&args::read(file)?).context("--tokens")?,
        None => HashMap::new(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start")?;
    let json = args.report_json;
    let report = runtime.block_on(drive(args, tokens))?;
    if json {
        println!("{}", report.json());
    } else {
        print!("{}", report.text());
    }
    Ok(if report.is_well() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Reads lines of `ID TOKEN`.
///
/// # Errors
/// One sentence with the line.
pub fn parse_tokens(text: &str) -> anyhow::Result<HashMap<String, String>> {
    let mut tokens = HashMap::new();
    for (number, line) in text.lines().enumerate() {
        let mut words = line.split_whitespace();
        match (words.next(), words.next(), words.next()) {
            (None, ..) => {}
            (Some(id), Some(token), None) => {
                tokens.insert(id.to_owned(), token.to_owned());
            }
            _ => bail!("line {}: expected `ID TOKEN`", number + 1),
        }
    }
    Ok(tokens)
}

async fn drive(args: SwarmArgs, mut tokens: HashMap<String, String>) -> anyhow::Result<Report> {
    let stats = Arc::new(Stats::default());
    let (stopper, stop) = Stopper::new();
    let (go, gone) = watch::channel(false);
    let gate = Arc::new(Semaphore::new(CONNECTING));
    let mut rng = Rng::fresh();
    let mut devices = JoinSet::new();
    // Read once; devices share what it says of TLS.
    let common = args.common.options(String::new(), None, Full::Window)?;
    for index in 0..args.devices {
        let id = format!("{}-{index}", args.prefix);
        let token = tokens.remove(&id);
        let source = Load {
            base: format!("{id}/").into(),
            batch: args.batch,
            rng: Rng::seeded(rng.bits()),
            interval: (args.rate > 0.0).then(|| Duration::from_secs_f64(1.0 / args.rate)),
            due: None,
            left: args.batches.unwrap_or(u64::MAX),
            go: gone.clone(),
        };
        let mut options = Options {
            id,
            token,
            window: args.window,
            model: "swarm",
            ..common.clone()
        };
        // Each hub is the first choice of as many.
        let mut hubs = args.common.hubs.clone();
        hubs.rotate_left(index % args.common.hubs.len().max(1));
        let mut hubs = hubs.into_iter();
        options.hub = hubs.next().unwrap_or_default();
        options.others = hubs.collect();
        let run = client::run(
            options,
            source,
            stats.clone(),
            stop.clone(),
            Some(gate.clone()),
        );
        devices.spawn(run);
    }
    drop(stop);
    let stopper = Arc::new(stopper);
    let (interrupted, mut interrupt) = Stopper::new();
    on_interrupt(interrupted);

    let started = Instant::now();
    let mut progress = Progress::new(args.quiet);
    let mut tick = tokio::time::interval(progress.period());
    let mut report = Report::new(&args);
    let mut phase = Phase::Ramp;
    let mut last = (started, 0, 0);
    let mut line = String::new();
    loop {
        let until = match phase {
            Phase::Ramp => Some(started + args.ramp_timeout),
            Phase::Load { since } => args.duration.map(|duration| since + duration),
            Phase::Drain => None,
        };
        tokio::select! {
            done = devices.join_next() => match done {
                Some(Ok(outcome)) => report.end_of_device(&outcome),
                Some(Err(_)) => report.crashed += 1,
                None => break,
            },
            () = interrupt.wait(), if !matches!(phase, Phase::Drain) => {
                report.load_ends(&stats);
                phase = Phase::Drain;
                stopper.stop();
            }
            () = async { if let Some(at) = until { sleep_until(at).await } }, if until.is_some() => {
                if let Phase::Ramp = phase {
                    phase = Phase::Load { since: Instant::now() };
                    report.load_begins(&stats, started.elapsed());
                    go.send_replace(true);
                } else {
                    report.load_ends(&stats);
                    phase = Phase::Drain;
                    stopper.stop();
                }
            }
            _ = tick.tick() => {
                let connected = stats.connected.load(Relaxed);
                if matches!(phase, Phase::Ramp) && connected >= args.devices as u64 {
                    phase = Phase::Load { since: Instant::now() };
                    report.load_begins(&stats, started.elapsed());
                    go.send_replace(true);
                }
                let acked = (stats.acked.load(Relaxed), stats.acked_readings.load(Relaxed));
                let seconds = last.0.elapsed().as_secs_f64();
                if seconds >= 1.0 || line.is_empty() {
                    line = format!(
                        "{connected} of {} connected, {} batches acked, {:.0} batches/s, \
                         {:.0} readings/s, {} rejected, {} lost connections",
                        args.devices,
                        acked.0,
                        (acked.0 - last.1) as f64 / seconds.max(0.001),
                        (acked.1 - last.2) as f64 / seconds.max(0.001),
                        stats.rejected.load(Relaxed),
                        stats.lost.load(Relaxed),
                    );
                    last = (Instant::now(), acked.0, acked.1);
                }
                progress.show(&stats, || line.clone());
            }
        }
    }
    report.load_ends(&stats);
    progress.end(&stats);
    report.finish(&stats);
    Ok(report)
}

enum Phase {
    /// Connecting; nobody sends yet.
    Ramp,
    /// Sending.
    Load { since: Instant },
    /// Waiting for the last acks.
    Drain,
}

impl Report {
    fn end_of_device(&mut self, outcome: &Outcome) {
        if !outcome.unacked.is_empty() {
            self.never_acked += outcome.unacked.len() as u64;
            self.unfinished += 1;
        }
        if let Some(fatal) = &outcome.fatal {
            *self.fatal.entry(fatal.clone()).or_default() += 1;
        }
    }
}
