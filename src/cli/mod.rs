//! The command line. Results go to stdout; a failure is one sentence on stderr and an exit
//! status: 2 for usage (by clap), 78 for the configuration, 1 for anything else.

mod check;
mod command;
mod device;
mod http;
mod moment;
mod page;
mod registry;
mod setup;
mod spool;
mod status;
mod tail;
mod terminal;
mod tls;
mod unpack;
mod watch;

use std::fmt::Display;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use rustix::fs::Mode;
use telehub::config::{self, Checked, DEFAULT_FILE, Problem};
use telehub::hub::Start;
use telehub::service::socket;

/// `EX_CONFIG` of sysexits.h; the systemd unit does not restart on it.
const EXIT_CONFIG: u8 = 78;

/// IoT telemetry hub: WebSocket and CBOR in, MQTT out, nothing acknowledged is lost.
#[derive(Debug, Parser)]
#[command(name = "telehub", version, arg_required_else_help = true)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the hub
    #[command(after_help = "\
Examples:
  telehub run
  telehub run --config ./telehub.toml")]
    Run(ConfigFile),
    /// Read the configuration and print it resolved, or every error in it
    #[command(after_help = "\
Examples:
  telehub check
  telehub check --config ./telehub.toml && systemctl restart telehub
  telehub check --connect")]
    Check(check::Arguments),
    /// Ask five questions, try the broker, write the configuration, let a first device in
    Setup(setup::Arguments),
    /// Ask a running hub how it is: uplink, spool, devices
    Status(status::Arguments),
    /// Print readings as they come in at a running hub, one a line
    Tail(tail::Arguments),
    /// Send a device a command, and say how it ended
    #[command(name = "command")]
    Send(command::Arguments),
    /// The devices that may connect, and their tokens
    Device {
        #[command(subcommand)]
        command: device::Command,
    },
    /// A private authority, and certificates for the hub and its devices
    Tls {
        #[command(subcommand)]
        command: tls::Command,
    },
    /// At the broker: publish what hubs send in packs (uplink.pack) on the usual topics
    Unpack(unpack::Arguments),
    /// What a stopped hub still has to publish
    Spool {
        #[command(subcommand)]
        command: spool::Command,
    },
}

#[derive(Debug, Args)]
struct ConfigFile {
    /// The configuration file
    #[arg(short, long, value_name = "FILE", default_value = DEFAULT_FILE)]
    config: PathBuf,
}

/// Why a command failed, and with it the exit status.
#[derive(Debug)]
enum Failure {
    Config(config::Errors),
    Other(anyhow::Error),
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Other(error.into())
    }
}

/// Does what the arguments ask for.
pub(crate) fn execute(arguments: Arguments) -> ExitCode {
    let done = match arguments.command {
        Command::Run(file) => run(&file.config),
        Command::Check(arguments) => check::check(&arguments),
        Command::Setup(arguments) => setup::setup(&arguments),
        Command::Status(arguments) => status::status(&arguments).map_err(Failure::from),
        Command::Tail(arguments) => tail::tail(&arguments).map_err(Failure::from),
        Command::Send(arguments) => match command::command(&arguments) {
            Ok(status) => return status,
            Err(error) => Err(error.into()),
        },
        Command::Device { command } => device::execute(&command).map_err(Failure::from),
        Command::Tls { command } => tls::execute(&command).map_err(Failure::from),
        Command::Unpack(arguments) => unpack::unpack(&arguments),
        Command::Spool { command } => spool::execute(&command),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever reads our output has read enough of it.
        Err(Failure::Other(error)) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(Failure::Other(error)) => {
            complain(&format!("{error:#}"));
            match error.is::<config::Errors>() {
                true => ExitCode::from(EXIT_CONFIG),
                false => ExitCode::FAILURE,
            }
        }
        Err(Failure::Config(errors)) => {
            complain(&errors);
            ExitCode::from(EXIT_CONFIG)
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let kind = error.downcast_ref::<io::Error>().map(io::Error::kind);
    kind == Some(io::ErrorKind::BrokenPipe)
}

/// One line on stderr. Nobody can be told when stderr is closed.
fn complain(what: &impl Display) {
    let _ = writeln!(io::stderr(), "{what}");
}

fn load(path: &Path) -> Result<Checked, Failure> {
    config::load(path).map_err(Failure::Config)
}

/// What systemd hands over is configuration too.
fn unit_error(error: &socket::Unfit) -> config::Errors {
    config::Errors(vec![Problem {
        file: "telehub.socket".to_owned(),
        line: None,
        key: None,
        text: error.to_string(),
    }])
}

/// For whatever waits for the network: one thread is enough.
fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")
}

/// The configuration that names this broker alone. There is no file that a line of a problem could be of.
fn with_broker(url: &str, name: &str) -> Result<config::Config, config::Errors> {
    let text = format!("[uplink]\nurl = {}\n", toml::Value::from(url));
    let checked = config::parse(&text, name).map_err(|errors| {
        let problems = errors.0.into_iter().map(|problem| Problem {
            line: None,
            key: None,
            ..problem
        });
        config::Errors(problems.collect())
    })?;
    Ok(checked.config)
}

fn run(path: &Path) -> Result<(), Failure> {
    // What the hub writes is its user's alone: data of devices, above all. A unit may be without
    // UMask=, and whoever starts it by hand too.
    rustix::process::umask(Mode::from_bits_truncate(0o077));
    // Before anything is opened.
    let socket = socket::take().map_err(|error| Failure::Config(unit_error(&error)))?;
    let Checked { config, warnings } = load(path)?;
    telehub::log::start(&config.log);
    for Problem {
        file,
        line,
        key,
        text,
    } in &warnings
    {
        tracing::warn!(file, line, key, "{text}");
    }
    telehub::memory::prepare();
    // One thread carries the sessions of a small board; the disk has a thread of its own.
    let runtime = runtime()?;
    let start = Start {
        file: path.to_owned(),
        socket,
    };
    let outcome = runtime.block_on(telehub::hub::run(config, start));
    // A name look-up that hangs must not hold up the end.
    runtime.shutdown_background();
    Ok(outcome?)
}
