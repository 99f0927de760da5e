//! What several commands take on their command lines.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args as ClapArgs;

use crate::client::{Full, Options, tls};
use crate::wire::Encoding;

/// Where the hub is and how to speak to it.
#[derive(Debug, Clone, ClapArgs)]
pub struct Common {
    /// The hub; /v1/devices/ID is appended. Several, with commas between them: when one does not
    /// answer, the device goes to the next
    #[arg(
        long = "hub",
        value_name = "URL",
        default_value = "ws://127.0.0.1:8787",
        value_delimiter = ',',
        num_args = 1
    )]
    pub hubs: Vec<String>,
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
        let mut hubs = self.hubs.iter().cloned();
        Ok(Options {
            hub: hubs.next().unwrap_or_default(),
            others: hubs.collect(),
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

    use super::*;

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
