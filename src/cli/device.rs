//! `telehub device`: who may connect. The registry has hashes; a token is shown once.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read, Write as _};
use std::path::PathBuf;

use anyhow::{Context, bail};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use clap::{Args, Subcommand};
use telehub::clock::unix_now;
use telehub::listen::registry::{Registered, token_hash};

use super::registry::Registry;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Let a device in: print a new token for it, once
    Add {
        /// The device's id: 1 to 64 of A-Z a-z 0-9 . _ -, beginning with a letter or digit
        #[arg(value_parser = parse_id)]
        id: String,
        #[command(flatten)]
        rights: Rights,
        /// Make no token: the device shows a certificate
        #[arg(long)]
        no_token: bool,
        #[command(flatten)]
        file: RegistryFile,
    },
    /// Change what a device may be sent; a running hub follows
    Set {
        /// The device's id
        id: String,
        #[command(flatten)]
        rights: Rights,
        /// No commands at all
        #[arg(long, conflicts_with = "commands")]
        no_commands: bool,
        /// No desired state
        #[arg(long, conflicts_with = "desired")]
        no_desired: bool,
        #[command(flatten)]
        file: RegistryFile,
    },
    /// Print the ids of all devices, and when each was added
    List {
        #[command(flatten)]
        file: RegistryFile,
    },
    /// Let a device in no longer; a running hub closes its connection
    Remove {
        /// The device's id
        id: String,
        #[command(flatten)]
        file: RegistryFile,
    },
}

/// What a device takes.
#[derive(Debug, Args)]
pub(super) struct Rights {
    /// A command that the device takes, * for any characters; once for each, in place of all
    /// that were there
    #[arg(long = "command", value_name = "NAME", value_parser = parse_command)]
    commands: Vec<String>,
    /// The device takes its desired state
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
    /// The registry, as devices.registry in the configuration names it
    #[arg(
        long,
        value_name = "FILE",
        default_value = "/var/lib/telehub/devices.toml"
    )]
    registry: PathBuf,
}

pub(super) fn parse_id(id: &str) -> Result<String, &'static str> {
    if telehub::config::is_id(id) {
        Ok(id.to_owned())
    } else {
        Err("an id has 1 to 64 of A-Z a-z 0-9 . _ - and begins with a letter or digit")
    }
}

/// Does it.
pub(super) fn execute(command: &Command) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    match command {
        Command::Add {
            id,
            rights,
            no_token,
            file,
        } => {
            let mut registry = Registry::edit(&file.registry)?;
            if registry.entries().iter().any(|entry| entry.id == *id) {
                bail!(
                    "{id} is there already; for a new token, first: telehub device remove {id}; \
                     for other commands: telehub device set {id}"
                );
            }
            let token = if *no_token {
                None
            } else {
                Some(new_token().context("cannot read random numbers from /dev/urandom")?)
            };
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "after 1970"
            )]
            let added = Some(unix_now() as u64);
            registry.add(Registered {
                id: id.clone(),
                token_sha256: token.as_deref().map(hash),
                added,
                commands: rights.commands.clone(),
                desired: rights.desired,
            })?;
            if let Some(token) = token {
                writeln!(out, "{token}")?;
            }
        }
        Command::Set {
            id,
            rights,
            no_commands,
            no_desired,
            file,
        } => {
            let change = |entry: &mut Registered| {
                if *no_commands || !rights.commands.is_empty() {
                    entry.commands.clone_from(&rights.commands);
                }
                entry.desired = !no_desired && (entry.desired || rights.desired);
            };
            if !Registry::edit(&file.registry)?.set(id, change)? {
                return Err(unknown(id, file));
            }
        }
        Command::List { file } => {
            for entry in Registry::read(&file.registry)?.entries() {
                let added = entry.added.map_or_else(|| "-".to_owned(), utc);
                write!(out, "{:<32} {added}", entry.id)?;
                if !entry.commands.is_empty() {
                    write!(out, "  commands {}", entry.commands.join(" "))?;
                }
                if entry.desired {
                    write!(out, "  desired")?;
                }
                writeln!(out)?;
            }
        }
        Command::Remove { id, file } => {
            if !Registry::edit(&file.registry)?.remove(id)? {
                return Err(unknown(id, file));
            }
        }
    }
    Ok(())
}

fn unknown(id: &str, file: &RegistryFile) -> anyhow::Error {
    anyhow::anyhow!(
        "there is no device {id:?} in {}; telehub device list prints those that are",
        file.registry.display()
    )
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

/// Unix seconds as `2025-11-20T00:53:20Z`.
pub(super) fn utc(seconds: u64) -> String {
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Civil date of a day count, in years that begin in March, so that the leap day is the last.
    let day = days + 719_468;
    let (era, day) = (day / 146_097, day % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let date = day - (153 * month + 2) / 5 + 1;
    let (month, carry) = if month < 10 {
        (month + 3, 0)
    } else {
        (month - 9, 1)
    };
    let year = era * 400 + year + carry;
    let (hour, minute) = (second / 3_600, second / 60 % 60);
    format!(
        "{year:04}-{month:02}-{date:02}T{hour:02}:{minute:02}:{:02}Z",
        second % 60
    )
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

    #[test]
    fn times_are_printed_in_utc() {
        assert_eq!(utc(0), "1970-01-01T00:00:00Z");
        assert_eq!(utc(951_782_399), "2000-02-28T23:59:59Z");
        assert_eq!(utc(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(utc(1_763_600_000), "2025-11-20T00:53:20Z");
    }
}
