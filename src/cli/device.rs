//! `telehub device`: who may connect, and what is expected of them. The registry has hashes; a token
//! is shown once.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Read, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use clap::{Args, Subcommand};
use telehub::clock::unix_now;
use telehub::config::{self, DEFAULT_FILE};
use telehub::listen::registry::{Registered, token_hash};

use super::http::Address;
use super::moment::utc;
use super::registry::Registry;
use super::tls;

/// Where the registry is unless something says otherwise.
const REGISTRY: &str = "/var/lib/telehub/devices.toml";

/// How long a token that is replaced is good for: a day's shift to reach every device.
const KEEP: &str = "1d";

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Let devices in: print a new token for each, once
    #[command(after_help = "\
Examples:
  telehub device add barn-1
  telehub device add barn-1 --expect 5m
  telehub device add --from ids.csv > tokens.csv
  telehub device add barn-1 --certificate

With one id the token alone is printed, with several ID,TOKEN lines. A CSV file has an id in the first
column of each line; empty lines, lines that begin with #, and a heading \"id\" are skipped. Either all
of them are added or none.")]
    Add {
        /// Ids: 1 to 64 of A-Z a-z 0-9 . _ -, beginning with a letter or digit
        #[arg(value_name = "ID", value_parser = parse_id, required_unless_present = "from")]
        ids: Vec<String>,
        /// A CSV file with an id in the first column
        #[arg(short = 'f', long, value_name = "FILE", conflicts_with = "ids")]
        from: Option<PathBuf>,
        #[command(flatten)]
        wishes: Wishes,
        /// No token: the device shows a certificate
        #[arg(long)]
        no_token: bool,
        /// No token: make a certificate for each, signed by the authority of telehub tls init; ID.pem
        /// and ID.key are left in the present directory
        #[arg(long)]
        certificate: bool,
        #[command(flatten)]
        authority: tls::Directory,
        #[command(flatten)]
        file: RegistryFile,
    },
    /// Print the ids of all devices, and when each was added
    #[command(after_help = "\
Examples:
  telehub device list
  telehub device list --registry ./devices.toml")]
    List {
        #[command(flatten)]
        file: RegistryFile,
    },
    /// Let a device in no longer; a running hub closes its connection
    #[command(after_help = "\
Example:
  telehub device remove barn-1")]
    Remove {
        /// The device's id
        id: String,
        #[command(flatten)]
        file: RegistryFile,
    },
    /// Give a device a new token; the old one is good for a while longer
    #[command(after_help = "\
Examples:
  telehub device rotate barn-1
  telehub device rotate barn-1 --keep 0s

Until the time of --keep is over the device may connect with either token. A connection that it has then
with the old one stays until it ends.")]
    Rotate {
        /// The device's id
        id: String,
        /// How long the old token is good for new connections
        #[arg(short, long, value_name = "TIME", default_value = KEEP, value_parser = parse_time)]
        keep: std::time::Duration,
        #[command(flatten)]
        file: RegistryFile,
    },
    /// Change what is expected of a device, and which commands it takes
    #[command(after_help = "\
Examples:
  telehub device set barn-1 --expect 5m
  telehub device set barn-1 --expect none
  telehub device set lamp --command on --command off --command 'set-*'
  telehub device set lamp --no-commands
  telehub device set lamp --desired")]
    Set {
        /// The device's id
        id: String,
        #[command(flatten)]
        wishes: Wishes,
        /// It takes no commands at all
        #[arg(long, conflicts_with = "commands")]
        no_commands: bool,
        /// It has no desired state
        #[arg(long, conflicts_with = "desired")]
        no_desired: bool,
        #[command(flatten)]
        file: RegistryFile,
    },
    /// Have a running hub forget a device that is gone, and its alarm with it
    #[command(after_help = "\
Example:
  telehub device forget old-barn

A device of the registry stays there, as one that has never come; telehub device remove takes it out.")]
    Forget {
        /// The device's id
        #[arg(value_parser = parse_id)]
        id: String,
        #[command(flatten)]
        address: Address,
    },
    /// Tell a running hub that it is known that a device is gone: no alarm until it was back
    #[command(after_help = "\
Example:
  telehub device acknowledge barn-2")]
    Acknowledge {
        /// The device's id
        #[arg(value_parser = parse_id)]
        id: String,
        #[command(flatten)]
        address: Address,
    },
}

/// What an entry says of a device beside its token.
#[derive(Debug, Default, Args)]
pub(super) struct Wishes {
    /// A reading is expected at least this often, and its absence is an alarm; none: the hub
    /// learns how often it sends
    #[arg(short, long, value_name = "TIME", value_parser = parse_expect)]
    expect: Option<String>,
    /// A command that the device takes, * for any characters; once for each, in place of all that
    /// it took before
    #[arg(long = "command", value_name = "NAME", value_parser = parse_command)]
    commands: Vec<String>,
    /// It has a desired state on the broker, and reports its own
    #[arg(long)]
    desired: bool,
}

fn parse_command(pattern: &str) -> Result<String, &'static str> {
    if telehub::commands::authority::is_pattern(pattern) {
        Ok(pattern.to_owned())
    } else {
        Err("the name of a command has 1 to 64 of A-Z a-z 0-9 . _ -, and * for any of them")
    }
}

#[derive(Debug, Args)]
pub(super) struct RegistryFile {
    /// The registry, instead of the one that the configuration names
    #[arg(short, long, value_name = "FILE")]
    registry: Option<PathBuf>,
    /// The configuration whose devices.registry is meant; /etc/telehub/telehub.toml if it is there
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl RegistryFile {
    /// Which file is meant.
    fn path(&self) -> anyhow::Result<PathBuf> {
        if let Some(path) = &self.registry {
            return Ok(path.clone());
        }
        let config = match &self.config {
            Some(path) => path.as_path(),
            None if Path::new(DEFAULT_FILE).exists() => Path::new(DEFAULT_FILE),
            None => return Ok(REGISTRY.into()),
        };
        match config::load_alone(config) {
            Ok(checked) => Ok(checked.config.devices.registry),
            Err(errors) => bail!("{errors}\nname the registry itself with --registry"),
        }
    }
}

pub(super) fn parse_id(id: &str) -> Result<String, &'static str> {
    if telehub::config::is_id(id) {
        Ok(id.to_owned())
    } else {
        Err("an id has 1 to 64 of A-Z a-z 0-9 . _ - and begins with a letter or digit")
    }
}

fn parse_time(text: &str) -> Result<std::time::Duration, &'static str> {
    config::parse_duration(text).ok_or("write a time such as 30s, 5m, 2h or 1d")
}

/// `none`, or a duration, as it is to stand in the registry.
fn parse_expect(text: &str) -> Result<String, &'static str> {
    if text != "none" {
        parse_time(text)?;
    }
    Ok(text.to_owned())
}

/// Does it.
pub(super) fn execute(command: &Command) -> anyhow::Result<()> {
    match command {
        Command::Add {
            ids,
            from,
            wishes,
            no_token,
            certificate,
            authority,
            file,
        } => {
            let ids = match from {
                Some(path) => ids_of(path)?,
                None => ids.clone(),
            };
            // Before anybody is let in who would then have nothing to show.
            let prepare = |id: &String| tls::prepare_device(id, authority, Path::new("."));
            let certified = ids.iter().filter(|_| *certificate);
            let files: Vec<_> = certified.map(prepare).collect::<anyhow::Result<_>>()?;
            add(&ids, wishes, !no_token && !certificate, file)?;
            for (id, files) in ids.iter().zip(&files) {
                tls::issue_device(id, authority, files)?;
                let [certificate, key] = files;
                writeln!(io::stdout(), "{} {}", certificate.display(), key.display())?;
            }
            Ok(())
        }
        Command::List { file } => list(file),
        Command::Remove { id, file } => {
            let mut registry = Registry::edit(&file.path()?)?;
            if !registry.remove(id)? {
                bail!(unknown(id, registry.path()));
            }
            written(&registry);
            Ok(())
        }
        Command::Rotate { id, keep, file } => rotate(id, *keep, file),
        Command::Set {
            id,
            wishes,
            no_commands,
            no_desired,
            file,
        } => {
            let mut registry = Registry::edit(&file.path()?)?;
            let mut entry = find(&registry, id)?;
            if let Some(expect) = &wishes.expect {
                entry.expect = Some(expect.clone()).filter(|expect| expect != "none");
            }
            if *no_commands || !wishes.commands.is_empty() {
                entry.commands.clone_from(&wishes.commands);
            }
            entry.desired = (entry.desired || wishes.desired) && !no_desired;
            registry.replace(entry)?;
            written(&registry);
            Ok(())
        }
        Command::Forget { id, address } => address
            .hub()?
            .change("DELETE", &format!("/api/devices/{id}")),
        Command::Acknowledge { id, address } => {
            let path = format!("/api/devices/{id}/acknowledge");
            address.hub()?.change("POST", &path)
        }
    }
}

fn add(ids: &[String], wishes: &Wishes, token: bool, file: &RegistryFile) -> anyhow::Result<()> {
    let mut registry = Registry::edit(&file.path()?)?;
    let mut entries: Vec<Registered> = Vec::new();
    let mut shown = String::new();
    for id in ids {
        ensure_new(id, &registry)?;
        let twice = entries.iter().any(|entry| entry.id == *id);
        ensure!(!twice, "{id} is there twice; nothing was added");
        let mut hashed = None;
        if token {
            let token = new_token().context("cannot read random numbers from /dev/urandom")?;
            hashed = Some(hash(&token));
            if ids.len() > 1 {
                shown += &format!("{id},");
            }
            shown += &token;
            shown.push('\n');
        }
        entries.push(entry(id, hashed, wishes));
    }
    registry.add(entries)?;
    written(&registry);
    io::stdout().lock().write_all(shown.as_bytes())?;
    Ok(())
}

fn ensure_new(id: &str, registry: &Registry) -> anyhow::Result<()> {
    ensure!(
        registry.entries().iter().all(|entry| entry.id != id),
        "{id} is in {} already; for a new token: telehub device rotate {id}",
        registry.path().display()
    );
    Ok(())
}

fn entry(id: &str, token_sha256: Option<String>, wishes: &Wishes) -> Registered {
    Registered {
        id: id.to_owned(),
        token_sha256,
        added: Some(now()),
        expect: wishes.expect.clone().filter(|expect| expect != "none"),
        commands: wishes.commands.clone(),
        desired: wishes.desired,
        old_sha256: None,
        old_until: None,
    }
}

/// Adds one device with a token, and returns that.
pub(super) fn add_one(id: &str, registry: &Path) -> anyhow::Result<String> {
    let mut registry = Registry::edit(registry)?;
    ensure_new(id, &registry)?;
    let token = new_token().context("cannot read random numbers from /dev/urandom")?;
    let entry = entry(id, Some(hash(&token)), &Wishes::default());
    registry.add(vec![entry])?;
    Ok(token)
}

fn list(file: &RegistryFile) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    for entry in Registry::read(&file.path()?)?.entries() {
        let added = entry.added.map_or_else(|| "-".to_owned(), utc);
        let expect = entry
            .expect
            .as_ref()
            .map(|expect| format!("  expect {expect}"));
        let takes = !entry.commands.is_empty();
        let commands = takes.then(|| format!("  commands {}", entry.commands.join(" ")));
        let desired = entry.desired.then_some("  desired");
        let token = entry.token_sha256.is_none().then_some("  no token");
        writeln!(
            out,
            "{:<32} {added}{}{}{}{}",
            entry.id,
            expect.unwrap_or_default(),
            commands.unwrap_or_default(),
            desired.unwrap_or_default(),
            token.unwrap_or_default()
        )?;
    }
    Ok(())
}

fn rotate(id: &str, keep: std::time::Duration, file: &RegistryFile) -> anyhow::Result<()> {
    let mut registry = Registry::edit(&file.path()?)?;
    let mut entry = find(&registry, id)?;
    let token = new_token().context("cannot read random numbers from /dev/urandom")?;
    let old = entry.token_sha256.replace(hash(&token));
    // A token that may be in wrong hands is not kept at all.
    entry.old_until = old
        .as_ref()
        .filter(|_| !keep.is_zero())
        .map(|_| now() + keep.as_secs());
    entry.old_sha256 = old.filter(|_| !keep.is_zero());
    registry.replace(entry)?;
    written(&registry);
    writeln!(io::stdout().lock(), "{token}")?;
    Ok(())
}

fn find(registry: &Registry, id: &str) -> anyhow::Result<Registered> {
    let found = registry.entries().iter().find(|entry| entry.id == id);
    found.cloned().with_context(|| unknown(id, registry.path()))
}

fn unknown(id: &str, path: &Path) -> String {
    format!(
        "there is no device {id:?} in {}; telehub device list prints those that are",
        path.display()
    )
}

/// On stderr, because what is on stdout goes into a file or a program.
fn written(registry: &Registry) {
    super::complain(&format!("wrote {}", registry.path().display()));
}

/// The first column of a CSV file.
fn ids_of(path: &Path) -> anyhow::Result<Vec<String>> {
    let text =
        fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut ids = Vec::new();
    for (number, line) in (1..).zip(text.trim_start_matches('\u{feff}').lines()) {
        let first = line.split([',', ';', '\t']).next().unwrap_or_default();
        let id = first.trim().trim_matches('"');
        if id.is_empty() || id.starts_with('#') || (number == 1 && id.eq_ignore_ascii_case("id")) {
            continue;
        }
        let id = parse_id(id).map_err(|error| {
            anyhow::anyhow!(
                "{}:{number}: {id:?} is no id: {error}; nothing was added",
                path.display()
            )
        })?;
        ids.push(id);
    }
    ensure!(
        !ids.is_empty(),
        "{} has no ids in its first column",
        path.display()
    );
    Ok(ids)
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "after 1970"
)]
fn now() -> u64 {
    unix_now() as u64
}

/// 256 random bits, which nobody guesses, so that a plain hash of them suffices.
fn new_token() -> io::Result<String> {
    let mut bits = [0; 32];
    File::open("/dev/urandom")?.read_exact(&mut bits)?;
    Ok(URL_SAFE_NO_PAD.encode(bits))
}

fn hash(token: &str) -> String {
    token_hash(token)
        .iter()
        .fold(String::new(), |mut hex, byte| {
            let _ = write!(hex, "{byte:02x}");
            hex
        })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_token_has_43_characters_and_no_two_are_the_same() {
        let (one, other) = (new_token().unwrap(), new_token().unwrap());
        assert_eq!((one.len(), other.len()), (43, 43));
        assert_ne!(one, other);
        assert!(
            one.bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
        );
    }

    #[test]
    fn the_hash_is_sha_256_in_lower_case_hex() {
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(hash("abc"), abc);
    }
}
