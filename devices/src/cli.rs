//! The command line.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::PoisonError;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{Args as ClapArgs, Parser, Subcommand};

use crate::bench;
use crate::client::{Full, Options, Rng, tls};
use crate::conformance;
use crate::rogue;
use crate::sensors;
use crate::sensors::machine::Machine;
use crate::sensors::replay::{self, Pace};
use crate::sensors::thermometer::Thermometer;
use crate::sensors::vibration::Vibration;
use crate::swarm;
use crate::wire::Encoding;

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

/// Where the hub is and how to speak to it.
#[derive(Debug, Clone, ClapArgs)]
pub struct Common {
    /// The hub; /v1/devices/ID is appended
    #[arg(long, value_name = "URL", default_value = "ws://127.0.0.1:8787")]
    pub hub: String,
    /// For wss://: the certificate of the authority that the hub's is of, in PEM
    #[arg(long, value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// Speak JSON in text frames instead of CBOR in binary ones
    #[arg(long)]
    pub json: bool,
    /// Unacked batches to keep while the hub is away
    #[arg(long, value_name = "N", default_value_t = 1000)]
    pub keep: usize,
    /// At the end, wait this long for acks
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = duration)]
    pub drain_timeout: Duration,
    /// Be a board without a clock: send no times, and the age of what had to wait
    #[arg(long)]
    pub no_clock: bool,
}

impl Common {
    /// What a device is told of all this.
    ///
    /// # Errors
    /// The file of `--ca` cannot be used.
    pub fn options(
        &self,
        id: String,
        token: Option<String>,
        full: Full,
    ) -> anyhow::Result<Options> {
        Ok(Options {
            hub: self.hub.clone(),
            tls: self.ca.as_deref().map(tls::trust).transpose()?,
            id,
            token,
            encoding: if self.json {
                Encoding::Json
            } else {
                Encoding::Cbor
            },
            keep: self.keep,
            full,
            window: None,
            model: "",
            drain: self.drain_timeout,
            no_clock: self.no_clock,
        })
    }
}

/// Who a single device is.
#[derive(Debug, Clone, ClapArgs)]
pub struct Identity {
    /// The device's id [default: made of the host name and the command]
    #[arg(long, value_name = "ID", value_parser = device_id)]
    id: Option<String>,
    /// Its token, as `telehub device add` printed it
    #[arg(long, value_name = "TOKEN", conflicts_with = "token_file")]
    token: Option<String>,
    /// A file that holds the token, so that it does not show in the list of processes
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
}

impl Identity {
    /// Id and token; `what` names the device when nothing else does.
    ///
    /// # Errors
    /// The token's file cannot be read.
    pub fn resolve(self, what: &str) -> anyhow::Result<(String, Option<String>)> {
        let token = match self.token_file {
            Some(file) => Some(read(&file)?.trim().to_owned()),
            None => self.token,
        };
        let id = self.id.unwrap_or_else(|| default_id(what));
        Ok((id, token))
    }
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

/// Reads a small text file.
///
/// # Errors
/// When it cannot be read.
pub fn read(file: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))
}

/// A time as people write it: `500ms`, `2s`, `1.5m`, `1h`; a bare number is seconds.
///
/// # Errors
/// One sentence: what to write instead.
pub fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        _ => return Err("expected a time such as 500ms, 2s, 1.5m or 1h".into()),
    };
    let seconds = digits.parse::<f64>().ok().map(|number| number * unit);
    seconds
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .ok_or_else(|| "expected a time such as 500ms, 2s, 1.5m or 1h".into())
}

/// A device id as the hub takes it: 1 to 64 of `A-Z a-z 0-9 . _ -`, the first one alphanumeric.
fn device_id(text: &str) -> Result<String, String> {
    let fits = text.len() <= 64
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "._-".contains(c));
    if fits {
        Ok(text.to_owned())
    } else {
        Err("expected 1 to 64 of A-Z a-z 0-9 . _ - with a letter or digit first".into())
    }
}

/// Host name and command, as far as an id allows.
fn default_id(what: &str) -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host: String = host
        .trim()
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || "._-".contains(c) {
                c
            } else {
                '-'
            }
        })
        .take(40)
        .collect();
    let id = format!("{host}-{what}");
    device_id(&id).unwrap_or_else(|_| what.to_owned())
}

/// Refuses zero where it would mean nothing.
///
/// # Errors
/// One sentence.
pub fn at_least_one(value: usize, option: &str) -> anyhow::Result<()> {
    if value == 0 {
        bail!("{option} 0: expected at least 1");
    }
    Ok(())
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

    #[test]
    fn times_are_read_as_people_write_them() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("0.5"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("1.5m"), Ok(Duration::from_secs(90)));
        for wrong in ["", "s", "-1s", "1d", "1 s", "NaN", "1e400"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn ids_are_checked_before_the_hub_does() {
        assert!(device_id("barn-1.temp_2").is_ok());
        for wrong in ["", "-a", "a b", "ä", &"a".repeat(65)] {
            assert!(device_id(wrong).is_err(), "{wrong}");
        }
        assert!(device_id(&default_id("machine")).is_ok());
    }
}
