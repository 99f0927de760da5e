//! `telehub setup`: from nothing to a configuration that works, and a first device.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, IsTerminal, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use clap::{Args, ValueEnum};
use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
use telehub::config::{self, Config, DEFAULT_FILE};

use super::check::examine_brokers;
use super::device::{self, parse_id};
use super::{Failure, complain, tls, with_broker};

/// Where systemd looks for credentials of units, and the name of the one that the unit loads.
const CREDENTIALS: &str = "/etc/credstore";
const PASSWORD: &str = "telehub.mqtt-password";

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Who {
    /// Devices on the network, each with a token of its own
    Network,
    /// Programs on this machine alone, without tokens
    Local,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Page {
    /// The dashboard on this machine, at port 8788
    Local,
    /// No dashboard
    Off,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sudo telehub setup
  sudo telehub setup --yes --id barn --broker mqtts://broker.example --first-device barn-1
  telehub setup --config ./telehub.toml

What a flag answers is not asked. A configuration that says something already is left as it is, unless
--force is there; then it is kept as FILE.old.")]
pub(super) struct Arguments {
    /// The configuration file to write
    #[arg(short, long, value_name = "FILE", default_value = DEFAULT_FILE)]
    config: PathBuf,
    /// The hub's id, a part of every topic; the host name if nothing is said
    #[arg(long, value_name = "ID", value_parser = parse_id)]
    id: Option<String>,
    /// Who may connect
    #[arg(long, value_name = "WHO")]
    devices: Option<Who>,
    /// The broker: mqtt://HOST[:PORT], or mqtts:// with TLS
    #[arg(long, value_name = "URL")]
    broker: Option<String>,
    /// The user name at the broker
    #[arg(long, value_name = "NAME")]
    username: Option<String>,
    /// A file with the password in its first line
    #[arg(long, value_name = "FILE", requires = "username")]
    password_file: Option<PathBuf>,
    /// PEM certificates that sign the broker's, unless it is one that everybody trusts
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Where the dashboard is
    #[arg(long, value_name = "WHERE")]
    page: Option<Page>,
    /// The first device's id; its token is printed
    #[arg(long, value_name = "ID", value_parser = parse_id)]
    first_device: Option<String>,
    /// Ask nothing: what no flag answers has its default, and there is no first device
    #[arg(short, long)]
    yes: bool,
    /// Do not connect to the broker
    #[arg(long)]
    no_connect: bool,
    /// Replace a configuration that says something already
    #[arg(long)]
    force: bool,
}

/// What has to be known.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Answers {
    id: Option<String>,
    who: Who,
    broker: String,
    username: Option<String>,
    /// As the configuration names it, and where it is.
    password: Option<(String, PathBuf)>,
    ca: Option<PathBuf>,
    page: Page,
    /// Where the hub keeps its files, if not in the usual place.
    state: Option<PathBuf>,
}

pub(super) fn setup(arguments: &Arguments) -> Result<(), Failure> {
    let file = &arguments.config;
    let old = replaced(file, arguments.force)?;
    let asks = !arguments.yes;
    if asks && !io::stdin().is_terminal() {
        return Err(anyhow::anyhow!(
            "this asks its questions on a terminal; without one, give the answers as flags and --yes"
        )
        .into());
    }
    let answers = answers(arguments, asks)?;
    // With the password's own path: its name as a credential means nothing to this process.
    let config = config::parse(&answers.text(true), &file.display().to_string());
    let config = config.map_err(Failure::Config)?.config;
    if !arguments.no_connect {
        say("\nTrying the broker.")?;
        let well = examine_brokers(&config)?;
        let anyway = "Not everything would arrive there. Write it all the same?";
        if !(well || asks && yes(anyway)?) {
            return Err(anyhow::anyhow!(
                "nothing was written; correct what stands above, or leave the broker for later with \
                 --no-connect"
            )
            .into());
        }
    }
    write(file, &answers.text(false), old.as_deref())?;
    say(&format!("\nWrote {}.", file.display()))?;
    let first = match (&arguments.first_device, asks) {
        (Some(id), _) => Some(id.clone()),
        (None, true) if config.devices.auth == config::Auth::Token => first_device()?,
        _ => None,
    };
    if let Some(id) = first {
        introduce(&id, &config)?;
    }
    next_steps(file, &config)?;
    Ok(())
}

/// What is to be kept of the file that is there. Refuses to replace what somebody wrote.
fn replaced(file: &Path, force: bool) -> anyhow::Result<Option<PathBuf>> {
    let text = match fs::read_to_string(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        read => read.with_context(|| format!("cannot read {}", file.display()))?,
    };
    let says_something = !text.parse::<toml::Table>().is_ok_and(|table| {
        table
            .values()
            .all(|section| section.as_table().is_some_and(toml::Table::is_empty))
    });
    ensure!(
        !says_something || force,
        "{0} says something already and was left as it is; telehub check --connect looks at it, and \
         --force replaces it and keeps it as {0}.old",
        file.display()
    );
    let mut old = file.as_os_str().to_owned();
    old.push(".old");
    Ok(Some(old.into()))
}

fn answers(arguments: &Arguments, asks: bool) -> anyhow::Result<Answers> {
    let host = config::parse("", "").map_or_else(|_| "hub".to_owned(), |it| it.config.hub.id);
    let id = match (&arguments.id, asks) {
        (Some(id), _) => Some(id.clone()),
        (None, true) => Some(ask_until("The hub's id", &host, parse_id)?),
        (None, false) => None,
    };
    let who = match (arguments.devices, asks) {
        (Some(who), _) => who,
        (None, true) => {
            let network = yes("May devices on the network connect, each with a token?")?;
            if network { Who::Network } else { Who::Local }
        }
        (None, false) => Who::Network,
    };
    let broker = match (&arguments.broker, asks) {
        (Some(url), _) => url.clone(),
        (None, true) => ask_until("The broker", "mqtt://localhost:1883", parse_broker)?,
        (None, false) => "mqtt://localhost:1883".to_owned(),
    };
    let username = match (&arguments.username, asks && arguments.broker.is_none()) {
        (Some(name), _) => Some(name.clone()),
        (None, true) => Some(ask("The user name there, if it wants one", "")?),
        (None, false) => None,
    };
    let username = username.filter(|name| !name.is_empty());
    let password = match (&arguments.password_file, &username) {
        (Some(path), _) => {
            let whole = fs::canonicalize(path);
            let whole = whole.with_context(|| format!("cannot read {}", path.display()))?;
            Some((whole.display().to_string(), whole))
        }
        (None, Some(_)) if asks => password(&arguments.config)?,
        _ => None,
    };
    let page = match (arguments.page, asks) {
        (Some(page), _) => page,
        (None, true) => {
            let local = yes("Show the dashboard on this machine, at http://127.0.0.1:8788?")?;
            if local { Page::Local } else { Page::Off }
        }
        (None, false) => Page::Local,
    };
    let ca = arguments.ca.as_ref().map(fs::canonicalize).transpose();
    let state = match arguments.config == Path::new(DEFAULT_FILE) {
        true => None,
        false => Some(directory_of(&arguments.config)?),
    };
    Ok(Answers {
        id,
        who,
        broker,
        username,
        password,
        ca: ca.context("cannot read the file of --ca")?,
        page,
        state,
    })
}

/// The directory of a file that need not be there yet.
fn directory_of(file: &Path) -> anyhow::Result<PathBuf> {
    let directory = match file.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    let failed = || format!("cannot find the directory {}", directory.display());
    fs::canonicalize(directory).with_context(failed)
}

impl Answers {
    /// The configuration. `whole`: with the path of the password instead of its name.
    fn text(&self, whole: bool) -> String {
        let mut text = String::from(
            "# Written by telehub setup. All keys: man telehub.toml, or docs/operations.md.\n",
        );
        let mut section = |name: &str, keys: &[(&str, Option<String>)]| {
            if keys.iter().any(|(_, value)| value.is_some()) {
                let _ = writeln!(text, "\n[{name}]");
            }
            for (key, value) in keys {
                if let Some(value) = value {
                    let _ = writeln!(text, "{key} = {}", toml::Value::from(value.as_str()));
                }
            }
        };
        section("hub", &[("id", self.id.clone())]);
        let (listen, auth) = match self.who {
            Who::Network => ("0.0.0.0:8787", "token"),
            Who::Local => ("127.0.0.1:8787", "open"),
        };
        let beside = |name: &str| {
            let state = self.state.as_ref()?;
            Some(state.join(name).display().to_string())
        };
        section(
            "devices",
            &[
                ("listen", Some(listen.to_owned())),
                ("auth", Some(auth.to_owned())),
                ("registry", beside("devices.toml")),
            ],
        );
        section("spool", &[("path", beside("spool"))]);
        let password = self.password.as_ref().map(|(name, path)| match whole {
            true => path.display().to_string(),
            false => name.clone(),
        });
        section(
            "uplink",
            &[
                ("url", Some(self.broker.clone())),
                ("username", self.username.clone()),
                ("password_file", password),
                ("ca", self.ca.as_ref().map(|ca| ca.display().to_string())),
            ],
        );
        if self.page == Page::Local {
            section("admin", &[("listen", Some("127.0.0.1:8788".to_owned()))]);
        }
        text
    }
}

/// Writes the configuration; one that is there keeps its owner and mode.
fn write(file: &Path, text: &str, old: Option<&Path>) -> anyhow::Result<()> {
    let failed = || format!("cannot write {}; is this the right user?", file.display());
    match old {
        Some(old) => {
            fs::copy(file, old).with_context(failed)?;
            fs::write(file, text).with_context(failed)
        }
        None => {
            let mut new = File::create_new(file).with_context(failed)?;
            let readable = fs::Permissions::from_mode(0o644);
            new.set_permissions(readable).with_context(failed)?;
            new.write_all(text.as_bytes()).with_context(failed)
        }
    }
}

/// Asks for the password and puts it where the hub finds it: among systemd's credentials, for the
/// hub that systemd runs, or beside the configuration.
fn password(file: &Path) -> anyhow::Result<Option<(String, PathBuf)>> {
    let password = ask_hidden("The password there, not shown")?;
    if password.is_empty() {
        return Ok(None);
    }
    let (name, path) = if file == Path::new(DEFAULT_FILE) {
        fs::create_dir_all(CREDENTIALS).with_context(|| format!("cannot make {CREDENTIALS}"))?;
        (PASSWORD.to_owned(), Path::new(CREDENTIALS).join(PASSWORD))
    } else {
        let path = directory_of(file)?.join(PASSWORD);
        (path.display().to_string(), path)
    };
    tls::write(&path, &format!("{password}\n"), 0o600, None)?;
    Ok(Some((name, path)))
}

fn first_device() -> anyhow::Result<Option<String>> {
    loop {
        let id = ask("The first device's id, if there is one already", "")?;
        if id.is_empty() {
            return Ok(None);
        }
        match parse_id(&id) {
            Ok(id) => return Ok(Some(id)),
            Err(error) => complain(&error),
        }
    }
}

/// Lets the device in, and says how to try it.
fn introduce(id: &str, config: &Config) -> anyhow::Result<()> {
    let port = config.devices.listen.port();
    let token = match config.devices.auth {
        config::Auth::Token => Some(device::add_one(id, &config.devices.registry)?),
        _ => None,
    };
    let mut header = String::new();
    if let Some(token) = &token {
        say(&format!("\nThe token of {id}, shown this once:\n  {token}"))?;
        header = format!("-H 'Authorization: Bearer {token}' ");
    }
    say(&format!(
        "\nOnce the hub runs, this sends a reading as {id} would, and 204 means that it is safe:\n  curl -i \
         {header}-H 'Content-Type: application/senml+json' -d '[{{\"n\":\"temp\",\"u\":\"Cel\",\"v\":21.5}}]' \
         http://127.0.0.1:{port}/v1/devices/{id}/data"
    ))
}

fn next_steps(file: &Path, config: &Config) -> anyhow::Result<()> {
    if file == Path::new(DEFAULT_FILE) {
        say("\nNow start the hub anew:\n  sudo systemctl restart telehub")?;
    } else {
        let file = file.display();
        say(&format!(
            "\nNow start the hub:\n  telehub run --config {file}"
        ))?;
    }
    if config.admin.is_some() {
        say("and look at http://127.0.0.1:8788, or: telehub status")?;
    }
    Ok(())
}

fn say(text: &str) -> anyhow::Result<()> {
    writeln!(io::stdout(), "{text}").map_err(Into::into)
}

fn ask(question: &str, default: &str) -> anyhow::Result<String> {
    let hint = match default {
        "" => String::new(),
        default => format!(" [{default}]"),
    };
    let mut out = io::stdout();
    write!(out, "{question}{hint}: ")?;
    out.flush()?;
    let mut line = String::new();
    if io::stdin().read_line(&mut line)? == 0 {
        bail!("the answers ended; nothing was written");
    }
    Ok(match line.trim() {
        "" => default.to_owned(),
        answer => answer.to_owned(),
    })
}

fn ask_until<T, E: std::fmt::Display>(
    question: &str,
    default: &str,
    parse: impl Fn(&str) -> Result<T, E>,
) -> anyhow::Result<T> {
    loop {
        match parse(&ask(question, default)?) {
            Ok(answer) => return Ok(answer),
            Err(error) => complain(&error),
        }
    }
}

fn yes(question: &str) -> anyhow::Result<bool> {
    let parse = |answer: &str| match answer.to_ascii_lowercase().as_str() {
        "y" | "yes" => Ok(true),
        "n" | "no" => Ok(false),
        _ => Err("y or n"),
    };
    ask_until(question, "y", parse)
}

/// Reads a line that the terminal does not show.
fn ask_hidden(question: &str) -> anyhow::Result<String> {
    let stdin = io::stdin();
    let shown = tcgetattr(&stdin)?;
    let mut hidden = shown.clone();
    hidden.local_modes.remove(LocalModes::ECHO);
    tcsetattr(&stdin, OptionalActions::Now, &hidden)?;
    let answer = ask(question, "");
    tcsetattr(&stdin, OptionalActions::Now, &shown)?;
    say("")?;
    answer
}

/// What the configuration says of it is what is right.
fn parse_broker(url: &str) -> Result<String, config::Errors> {
    with_broker(url, "the broker").map(|_| url.to_owned())
}
