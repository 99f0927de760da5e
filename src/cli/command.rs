//! `telehub command`: one command to a device, and how it ended.

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use telehub::config;
use telehub::plain::{self, text as plain};

use super::complain;
use super::device::parse_id;
use super::http::{Address, Posted};

/// Whether it was carried out is not known.
const NOT_KNOWN: u8 = 3;

/// How long a command may wait for its turn at the hub, behind others of its device.
const TTL: Duration = Duration::from_secs(60);

/// What the ways there and back may take beyond that.
const MARGIN: Duration = Duration::from_secs(10);

/// The longest timeout that the hub takes.
const LONGEST: Duration = Duration::from_secs(3_600);

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  telehub command lamp on
  telehub command lamp set-level '{\"level\": 3}' --timeout 5s
  telehub command barn-1 read-meter --idempotent --json | jq .value

The hub takes commands here when its configuration has enabled = true and admin = true in [commands],
and a device those that its entry in the registry allows: telehub device set lamp --command 'set-*'.
What the device gave is printed as JSON; why it was not done is said on stderr.

Exit status, for scripts:
  0  done: the device has carried it out
  1  not done: refused, expired, or the device says that it did not work
  2  wrong arguments
  3  not known: the device, the hub or the connection to it went away, or did not answer in time")]
pub(super) struct Arguments {
    /// The device's id
    #[arg(value_parser = parse_id)]
    device: String,
    /// The command: 1 to 64 of A-Z a-z 0-9 . _ -
    #[arg(value_parser = parse_name)]
    name: String,
    /// Its arguments, as JSON
    #[arg(value_name = "JSON", value_parser = parse_json)]
    args: Option<Json>,
    /// How long the device has for its answer once the command was sent, at most 1h
    #[arg(short = 'T', long, value_name = "TIME", default_value = "30s", value_parser = parse_timeout)]
    timeout: Duration,
    /// It does no harm to carry it out more than once: it is sent again when the device comes back
    #[arg(short, long)]
    idempotent: bool,
    /// Print the whole answer of the hub, as one JSON map
    #[arg(short, long)]
    json: bool,
    #[command(flatten)]
    address: Address,
}

/// JSON as it was written: no number in it is rounded on the way.
#[derive(Debug, Clone)]
struct Json(Box<RawValue>);

fn parse_json(text: &str) -> Result<Json, String> {
    serde_json::from_str(text).map(Json).map_err(|error| {
        format!("this is no JSON ({error}); a text needs its own quotes: '\"text\"'")
    })
}

fn parse_name(name: &str) -> Result<String, &'static str> {
    if telehub::commands::authority::is_name(name) {
        Ok(name.to_owned())
    } else {
        Err("the name of a command has 1 to 64 of A-Z a-z 0-9 . _ -")
    }
}

fn parse_timeout(text: &str) -> Result<Duration, &'static str> {
    let timeout = config::parse_duration(text);
    let fits = |timeout: &Duration| !timeout.is_zero() && *timeout <= LONGEST;
    timeout
        .filter(fits)
        .ok_or("write a time above 0 and at most 1h, such as 500ms, 30s or 5m")
}

#[derive(Serialize)]
struct Body<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    args: Option<&'a RawValue>,
    timeout: f64,
    idempotent: bool,
}

/// The answer of the hub.
#[derive(Deserialize)]
struct Ended<'a> {
    state: String,
    error: Option<String>,
    #[serde(borrow)]
    value: Option<&'a RawValue>,
}

/// Sends it, prints what the device gave, and says how it ended.
///
/// # Errors
///
/// It is not known which hub is meant; the output cannot be written.
pub(super) fn command(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let hub = arguments.address.hub()?;
    let body = serde_json::to_string(&Body {
        name: &arguments.name,
        args: arguments.args.as_ref().map(|json| &*json.0),
        timeout: arguments.timeout.as_secs_f64(),
        idempotent: arguments.idempotent,
    })?;
    let path = format!("/api/devices/{}/commands", arguments.device);
    let patience = TTL + arguments.timeout + MARGIN;
    let answer = match hub.post(&path, &body, patience) {
        Posted::Answered(answer) => answer,
        Posted::Not(why) => {
            complain(&why);
            return Ok(ExitCode::FAILURE);
        }
        Posted::Unheard(why) => {
            complain(&format!(
                "the command was sent to the hub at {} and no answer came ({why}): it is not known \
                 whether it was carried out",
                hub.base
            ));
            return Ok(ExitCode::from(NOT_KNOWN));
        }
    };
    show(arguments, &hub.base, &answer)
}

fn show(arguments: &Arguments, base: &str, answer: &[u8]) -> anyhow::Result<ExitCode> {
    let text = std::str::from_utf8(answer).unwrap_or_default();
    let Ok(ended) = serde_json::from_str::<Ended<'_>>(text) else {
        complain(&format!(
            "what {base} answers is not how a command ended: it is not known whether it was carried out"
        ));
        return Ok(ExitCode::from(NOT_KNOWN));
    };
    let mut out = io::stdout().lock();
    if arguments.json {
        writeln!(out, "{}", plain::json(text.trim_end()))?;
    } else if let Some(value) = ended.value {
        writeln!(out, "{}", plain::json(value.get()))?;
    }
    out.flush()?;
    let status = status_of(&ended.state);
    if ended.state != "done" {
        let Arguments { device, name, .. } = arguments;
        let said = ended.error.as_deref().map(plain);
        complain(&sentence(device, name, &ended.state, said.as_deref()));
    }
    Ok(status)
}

fn status_of(state: &str) -> ExitCode {
    match state {
        "done" => ExitCode::SUCCESS,
        "failed" | "refused" | "expired" => ExitCode::FAILURE,
        // Above all `timeout` and `unknown`.
        _ => ExitCode::from(NOT_KNOWN),
    }
}

fn sentence(device: &str, name: &str, state: &str, error: Option<&str>) -> String {
    let why = match (state, error.unwrap_or_default()) {
        ("failed", "") => "the device says that it did not work".to_owned(),
        ("failed", words) => format!("the device says: {words}"),
        ("expired", _) => "its turn did not come in time; it was not sent".to_owned(),
        ("timeout", _) => {
            "the device is there and has not answered in time; it may be carried out".to_owned()
        }
        ("refused", "forbidden") => format!(
            "its entry in the registry does not allow it; telehub device set {device} --command {name} \
             would, in place of what it allows now"
        ),
        ("refused", "offline") => "the device is not connected; it was not sent".to_owned(),
        ("refused", "busy") => {
            "too many wait, or they come too fast; it was not sent; try again".to_owned()
        }
        ("refused", "too-large") => {
            "it is larger than the device or the hub takes (commands.max_size)".to_owned()
        }
        ("refused", error) => format!("it was not sent: {error}"),
        ("unknown", "disconnected") => {
            "the device went away and has not said; it may have been carried out".to_owned()
        }
        ("unknown", error) => format!("it may have been carried out: {error}"),
        (_, error) => error.to_owned(),
    };
    format!("{device} {name}: {}: {why}", plain(state))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_end_has_its_status_and_its_sentence() {
        for (state, error, status, words) in [
            ("done", None, ExitCode::SUCCESS, ""),
            ("failed", Some("jammed"), ExitCode::FAILURE, "jammed"),
            ("failed", None, ExitCode::FAILURE, "did not work"),
            (
                "refused",
                Some("forbidden"),
                ExitCode::FAILURE,
                "device set lamp --command on",
            ),
            (
                "refused",
                Some("offline"),
                ExitCode::FAILURE,
                "not connected",
            ),
            (
                "refused",
                Some("hub stopping"),
                ExitCode::FAILURE,
                "hub stopping",
            ),
            ("expired", None, ExitCode::FAILURE, "not sent"),
            (
                "timeout",
                None,
                ExitCode::from(NOT_KNOWN),
                "may be carried out",
            ),
            (
                "unknown",
                Some("disconnected"),
                ExitCode::from(NOT_KNOWN),
                "went away",
            ),
            ("of a later version", None, ExitCode::from(NOT_KNOWN), ""),
        ] {
            assert_eq!(format!("{:?}", status_of(state)), format!("{status:?}"));
            let sentence = sentence("lamp", "on", state, error);
            assert!(
                sentence.contains(words) && sentence.contains(state),
                "{sentence}"
            );
        }
    }
}
