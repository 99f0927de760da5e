//! The conformance test of devices: plays a hub, a proxy and a network that do everything such
//! things do, to a program under test, and judges what it makes of it.
//!
//! It has a server's side of its own, by hand, because no library would do half of this.

mod arrival;
mod ends;
mod frame;
mod hostile;
mod ledger;
mod network;
mod numbers;
mod plays;
mod program;
mod rig;
mod scale;
mod session;
mod talk;
pub mod tls;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex};

use anyhow::{Context, bail};
use futures_util::StreamExt;
use futures_util::stream;
use tokio::net::TcpListener;
use tokio::time::Instant;

use crate::args::at_least_one;
use ledger::Ledger;
use plays::Scenario;
use program::{Environment, Program};
use rig::{Rig, TOKEN};
use scale::Scale;
use session::Terms;
use tls::Certificates;

/// The conformance test.
#[derive(Debug, Clone, clap::Args)]
pub struct ConformanceArgs {
    /// Only scenarios whose names contain this; may be given several times
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// Leaves out scenarios whose names contain this
    #[arg(long, value_name = "NAME")]
    skip: Vec<String>,
    /// Print the names of the scenarios and end
    #[arg(long)]
    list: bool,
    /// Real seconds that a second of the protocol lasts; the program is told in its environment
    #[arg(long, value_name = "FACTOR", default_value = "0.1", value_parser = scale::scale)]
    scale: Scale,
    /// Scenarios at a time
    #[arg(long, value_name = "N", default_value_t = 6)]
    jobs: usize,
    /// Print what was observed of devices that did well, too
    #[arg(long)]
    verbose: bool,
    /// The program under test, with its arguments
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// What came of one scenario.
struct Verdict {
    name: String,
    seconds: f64,
    faults: Vec<String>,
    notes: Vec<String>,
    lines: Vec<String>,
}

/// Runs the scenarios and prints what came of each. Exit status 0: the device did everything
/// right; 1: it did not.
///
/// # Errors
/// When the test itself cannot run.
pub fn run(args: &ConformanceArgs) -> anyhow::Result<ExitCode> {
    at_least_one(args.jobs, "--jobs")?;
    let named = |names: &[String], scenario: &Scenario| {
        names
            .iter()
            .any(|name| scenario.name.contains(name.as_str()))
    };
    let scenarios: Vec<Scenario> = plays::all()
        .into_iter()
        .filter(|scenario| args.only.is_empty() || named(&args.only, scenario))
        .filter(|scenario| !named(&args.skip, scenario))
        .collect();
    if args.list {
        for scenario in &scenarios {
            println!("{}", scenario.name);
        }
        return Ok(ExitCode::SUCCESS);
    }
    if args.command.is_empty() {
        bail!("no program to test: devices conformance -- COMMAND");
    }
    if scenarios.is_empty() {
        bail!("no scenario has such a name; --list prints them");
    }
    let dir = Scratch::make()?;
    let certificates = Certificates::make(&dir.0)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start")?;
    let failed = runtime.block_on(async {
        let play = |scenario| one(args, &dir.0, &certificates, scenario);
        let mut verdicts = stream::iter(scenarios).map(play).buffered(args.jobs);
        let (mut passed, mut failed) = (0_usize, 0_usize);
        while let Some(verdict) = verdicts.next().await {
            if verdict.faults.is_empty() {
                passed += 1;
            } else {
                failed += 1;
            }
            print(&verdict, args.verbose);
        }
        println!("{passed} passed, {failed} failed");
        failed
    });
    Ok(if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn print(verdict: &Verdict, verbose: bool) {
    let good = verdict.faults.is_empty();
    let word = if good { "ok  " } else { "FAIL" };
    println!("{word} {:<28} {:6.1} s", verdict.name, verdict.seconds);
    for fault in &verdict.faults {
        println!("       {fault}");
    }
    if verbose || !good {
        for note in &verdict.notes {
            println!("     - {note}");
        }
    }
    if !good {
        for line in &verdict.lines {
            println!("     > {line}");
        }
    }
}

/// Plays one scenario with a program of its own.
async fn one(
    args: &ConformanceArgs,
    dir: &Path,
    certificates: &Certificates,
    scenario: Scenario,
) -> Verdict {
    let start = Instant::now();
    let mut verdict = Verdict {
        name: scenario.name.clone(),
        seconds: 0.0,
        faults: Vec::new(),
        notes: Vec::new(),
        lines: Vec::new(),
    };
    match rig(args, dir, certificates, &scenario).await {
        Err(fault) => verdict.faults.push(fault),
        Ok(mut rig) => {
            let played = scenario.play.run(&mut rig, certificates).await;
            rig.program.kill().await;
            let mut faults = std::mem::take(&mut rig.ledger().faults);
            verdict.faults.append(&mut faults);
            verdict.faults.extend(played.err());
            verdict.lines = std::mem::take(&mut rig.program.said().lines);
            verdict.notes = rig.notes;
        }
    }
    verdict.seconds = start.elapsed().as_secs_f64();
    verdict
}

/// Everything that a scenario needs, and the program started.
async fn rig(
    args: &ConformanceArgs,
    dir: &Path,
    certificates: &Certificates,
    scenario: &Scenario,
) -> Result<Rig, String> {
    let listener = TcpListener::bind("127.0.0.1:0").await;
    let listener = listener.map_err(|error| format!("cannot listen: {error}"))?;
    let port = listener
        .local_addr()
        .map_err(|error| error.to_string())?
        .port();
    let state = dir.join(&scenario.name);
    std::fs::create_dir_all(&state).map_err(|error| format!("{}: {error}", state.display()))?;
    let ledger = Arc::new(Mutex::new(Ledger::default()));
    let secure = scenario.shows.is_some();
    let environment = Environment {
        url: if secure {
            format!("wss://localhost:{port}")
        } else {
            format!("ws://127.0.0.1:{port}")
        },
        token: TOKEN,
        ca: secure.then(|| certificates.ca.clone()),
        scale: args.scale.0,
        first: 1,
        count: scenario.count,
        interval: scenario.interval,
        queue: scenario.queue,
    };
    let program = Program::start(&args.command, &environment, &state, &ledger)?;
    Ok(Rig {
        listener,
        tls: scenario.shows.map(|shows| certificates.acceptor(shows)),
        scale: args.scale,
        program,
        environment,
        command: args.command.clone(),
        state,
        ledger,
        terms: Terms::default(),
        notes: Vec::new(),
    })
}

/// A directory of the run's own, removed at its end.
struct Scratch(PathBuf);

impl Scratch {
    fn make() -> anyhow::Result<Self> {
        let unique = crate::client::Rng::fresh().bits();
        let name = format!("devices-conformance-{}-{unique:016x}", std::process::id());
        let dir = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        Ok(Self(dir))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
