//! The command line.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::PoisonError;
use std::time::Duration;

use anyhow::bail;
use clap::{Args as ClapArgs, Parser, Subcommand};

use crate::args::{Common, Identity, at_least_one, duration};
use crate::bench;
use crate::client::{Full, Rng};
use crate::conformance;
use crate::rogue;
use crate::sensors;
use crate::sensors::machine::Machine;
use crate::sensors::replay::{self, Pace};
use crate::sensors::thermometer::Thermometer;
use crate::sensors::vibration::Vibration;
use crate::swarm;

/// Sensors for telehub: this machine's own, simulated ones, a file's, and thousands at once.
#[derive(Debug, Parser)]
#[command(version)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// This machine's own sensors: CPU, memory, disks, network, temperatures, uptime
    Machine(MachineArgs),
    /// A simulated thermometer: one slowly changing reading per interval
    Thermometer(ThermometerArgs),
    /// A simulated vibration sensor: bursts of hundreds of samples in one batch
    Vibration(VibrationArgs),
    /// Your own data: a CSV file, whose header names the series
    Replay(ReplayArgs),
    /// A lamp that takes commands: on, off, blink, sleep, fail, forget, twice, drop
    Lamp(crate::lamp::LampArgs),
    /// Many devices at once, to load a hub and to check that every batch is acked
    Swarm(swarm::SwarmArgs),
    /// Devices that misbehave, to see how a hub of your own takes it
    Rogue(rogue::RogueArgs),
    /// Plays a hub in all its moods to a device of yours, and judges what it does
    Conformance(conformance::ConformanceArgs),
    /// Everything in one command: a broker, a hub, three devices, and a link to cut and restore
    #[cfg(feature = "demo")]
    Demo(crate::demo::DemoArgs),
    /// Everything in one command (not in this build: add `--features demo`)
    #[cfg(not(feature = "demo"))]
    #[command(hide = true)]
    Demo {
        /// Whatever the demo would take
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
        rest: Vec<String>,
    },
    /// The benchmark: a hub and brokers of its own, fixed loads, and a table of what came out
    Bench(bench::BenchArgs),
}

#[derive(Debug, ClapArgs)]
struct MachineArgs {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    identity: Identity,
    /// Time between two readings of all sensors
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = duration)]
    interval: Duration,
    /// Say nothing while all goes well: for a service, whose log is on a disk
    #[arg(long)]
    quiet: bool,
}

#[derive(Debug, ClapArgs)]
struct ThermometerArgs {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    identity: Identity,
    /// Time between two readings
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = duration)]
    interval: Duration,
}

#[derive(Debug, ClapArgs)]
struct VibrationArgs {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    identity: Identity,
    /// Time between two bursts
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = duration)]
    interval: Duration,
    /// Samples in a burst
    #[arg(long, value_name = "N", default_value_t = 500)]
    samples: usize,
    /// Samples a second within a burst
    #[arg(long, value_name = "HZ", default_value_t = 1000.0)]
    hertz: f64,
}

#[derive(Debug, ClapArgs)]
struct ReplayArgs {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    identity: Identity,
    /// CSV (RFC 4180) with a header; a first column `time` (Unix seconds or RFC 3339, UTC unless
    /// it says otherwise) tells when each row was taken, else a row is taken when it is sent
    file: PathBuf,
    /// Send this many times faster than the rows were taken; without times, rows a second
    #[arg(long, value_name = "N", default_value_t = 1.0, conflicts_with = "asap")]
    speed: f64,
    /// Send as fast as the hub takes it
    #[arg(long)]
    asap: bool,
    /// Rows in a batch
    #[arg(long, value_name = "N", default_value_t = 1)]
    batch: usize,
}

fn replay(args: ReplayArgs) -> anyhow::Result<ExitCode> {
    at_least_one(args.batch, "--batch")?;
    if !(args.speed > 0.0 && args.speed.is_finite()) {
        bail!("--speed {}: expected more than 0", args.speed);
    }
    let pace = if args.asap {
        Pace::Asap
    } else {
        Pace::Speed(args.speed)
    };
    let (id, token) = args.identity.resolve("replay")?;
    let (source, fault) = match replay::open(&args.file, &id, pace, args.batch) {
        Ok(opened) => opened,
        Err(error) => {
            // A file that cannot be sent is wrong usage: nothing was sent.
            eprintln!("devices: {error:#}");
            return Ok(ExitCode::from(2));
        }
    };
    let mut options = args.common.options(id, token, Full::Wait)?;
    options.model = "replay";
    let code = sensors::run(options, source, false)?;
    let fault = fault.lock().unwrap_or_else(PoisonError::into_inner).take();
    match fault {
        Some(fault) => bail!(
            "{}: {fault}; what stands before it was sent",
            args.file.display()
        ),
        None => Ok(code),
    }
}

/// Carries out what the command line asks for.
///
/// # Errors
/// One sentence for stderr.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    match args.command {
        Command::Machine(args) => {
            let (id, token) = args.identity.resolve("machine")?;
            let source = Machine::new(&id, args.interval);
            let mut options = args.common.options(id, token, Full::DropOldest)?;
            options.model = "machine";
            sensors::run(options, source, args.quiet)
        }
        Command::Thermometer(args) => {
            let (id, token) = args.identity.resolve("thermometer")?;
            let source = Thermometer::new(&id, args.interval, Rng::fresh());
            let mut options = args.common.options(id, token, Full::DropOldest)?;
            options.model = "thermometer";
            sensors::run(options, source, false)
        }
        Command::Vibration(args) => {
            at_least_one(args.samples, "--samples")?;
            if !(args.hertz > 0.0 && args.hertz.is_finite()) {
                bail!("--hertz {}: expected more than 0", args.hertz);
            }
            let (id, token) = args.identity.resolve("vibration")?;
            let (samples, hertz) = (args.samples, args.hertz);
            let source = Vibration::new(&id, args.interval, samples, hertz, Rng::fresh());
            let mut options = args.common.options(id, token, Full::DropOldest)?;
            options.model = "vibration";
            sensors::run(options, source, false)
        }
        Command::Replay(args) => replay(args),
        Command::Lamp(args) => crate::lamp::run(args),
        Command::Swarm(args) => swarm::run(args),
        Command::Rogue(args) => rogue::run(&args),
        Command::Conformance(args) => conformance::run(&args),
        #[cfg(feature = "demo")]
        Command::Demo(args) => crate::demo::run(args),
        #[cfg(not(feature = "demo"))]
        Command::Demo { rest } => bail!(
            "this build has no broker in it; use: cargo build --workspace --features devices/demo --bins \
             && target/debug/devices demo {}",
            rest.join(" ")
        ),
        Command::Bench(args) => bench::run(args),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }
}
