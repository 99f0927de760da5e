//! `telehub tail`: readings as they come in.

use std::io::{self, BufRead, IsTerminal, Write};
use std::thread::sleep;
use std::time::Duration;

use clap::Args;
use serde::Deserialize;
use serde_json::Value;
use telehub::plain::{self, text as plain};

use super::device::parse_id;
use super::http::{Address, Conn, Hub, Refused, Unknown};
use super::moment::utc;
use super::terminal::{Mood, Paint};

/// Between two tries to reach a hub that has gone.
const AGAIN: Duration = Duration::from_secs(1);

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  telehub tail
  telehub tail barn-1 --json | jq .value

Without DEVICE at most 20 readings a second are shown, of all devices together; with DEVICE at most
500. When the hub goes, it is tried again every second, and stderr says so. It goes on until ctrl-c,
which ends it as it ends cat (130 in a shell), or until its output is closed, with status 0. When the
hub cannot be reached at the start, or refuses: status 1.")]
pub(super) struct Arguments {
    /// Only the readings of this device
    #[arg(value_parser = parse_id)]
    device: Option<String>,
    #[command(flatten)]
    address: Address,
    /// Print each reading as the hub tells it, as one JSON map a line
    #[arg(short, long)]
    json: bool,
}

/// Prints readings until the output is closed.
///
/// # Errors
///
/// The hub cannot be reached at the start, or refuses; the output cannot be written.
pub(super) fn tail(arguments: &Arguments) -> anyhow::Result<()> {
    let hub = arguments.address.hub()?;
    let path = match &arguments.device {
        Some(device) => format!("/api/events?device={device}"),
        None => "/api/events".to_owned(),
    };
    let show = |data: &str| -> io::Result<()> {
        let mut out = io::stdout().lock();
        if arguments.json {
            writeln!(out, "{}", plain::json(data))?;
        } else if let Ok(reading) = serde_json::from_str::<Reading>(data) {
            writeln!(out, "{}", line(&reading, Paint::of_stdout()))?;
        }
        out.flush()
    };
    if let Some(device) = &arguments.device {
        known(&hub, device)?;
    }
    let mut events = hub.lines(&path)?;
    if io::stdout().is_terminal() {
        super::complain(&format!(
            "readings from the hub at {}; ctrl-c ends it",
            hub.base
        ));
    }
    loop {
        let end = read(events, show)?;
        super::complain(&format!(
            "the hub at {} has gone ({end}); trying again",
            hub.base
        ));
        events = again(&hub, &path)?;
        super::complain(&format!("the hub at {} is back", hub.base));
    }
}

/// A name that nobody has would be waited for in vain.
fn known(hub: &Hub, device: &str) -> anyhow::Result<()> {
    match hub.get(&format!("/api/devices/{device}")) {
        Err(error) if error.downcast_ref::<Unknown>().is_some() => anyhow::bail!(
            "the hub at {} knows no device {device:?}; telehub status lists those that it knows",
            hub.base
        ),
        other => other.map(|_| ()),
    }
}

/// Until it answers.
fn again(hub: &Hub, path: &str) -> anyhow::Result<io::BufReader<Conn>> {
    loop {
        sleep(AGAIN);
        match hub.lines(path) {
            Ok(events) => return Ok(events),
            Err(error) if error.downcast_ref::<Refused>().is_some() => return Err(error),
            Err(_) => {}
        }
    }
}

/// Reads events to the end of the connection, and why it ended. Every reading goes to `show`,
/// whose error is returned.
fn read(events: impl BufRead, show: impl Fn(&str) -> io::Result<()>) -> io::Result<String> {
    let mut is_reading = false;
    for line in events.lines() {
        let line = match line {
            Ok(line) => line,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Ok("it has been silent for too long".to_owned());
            }
            Err(error) => return Ok(error.to_string()),
        };
        if let Some(event) = line.strip_prefix("event: ") {
            is_reading = event == "reading";
        } else if let Some(data) = line.strip_prefix("data: ").filter(|_| is_reading) {
            show(data)?;
        }
    }
    Ok("it closed the connection".to_owned())
}

#[derive(Debug, Deserialize)]
struct Reading {
    device: String,
    time: f64,
    name: String,
    unit: Option<String>,
    value: Value,
}

/// Time, device, name, value and unit.
fn line(reading: &Reading, paint: Paint) -> String {
    let value = match &reading.value {
        Value::String(text) => plain(text),
        Value::Null => "-".to_owned(),
        other => plain(&other.to_string()),
    };
    let unit = reading
        .unit
        .as_ref()
        .map_or_else(String::new, |unit| format!(" {}", plain(unit)));
    let (device, name) = (plain(&reading.device), plain(&reading.name));
    let time = paint.text(Mood::Faint, time(reading.time));
    format!("{time}  {device}  {name}  {value}{unit}")
}

/// Unix seconds as UTC, to the millisecond. What no calendar has is printed as it is.
fn time(seconds: f64) -> String {
    let millis = (seconds * 1000.0).round();
    if !(0.0..1e15).contains(&millis) {
        return seconds.to_string();
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "within the range"
    )]
    let millis = millis as u64;
    let whole = utc(millis / 1000);
    format!("{}.{:03}Z", whole.trim_end_matches('Z'), millis % 1000)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::cell::RefCell;

    use super::*;

    #[test]
    fn a_reading_is_one_line_and_steers_no_terminal() {
        let reading = serde_json::from_str(
            r#"{"device":"barn-1","received":1,"time":1763600000.25,"name":"barn-1/t","unit":"Cel","value":21.5}"#,
        );
        assert_eq!(
            line(&reading.unwrap(), Paint::never()),
            "2025-11-20T00:53:20.250Z  barn-1  barn-1/t  21.5 Cel"
        );
        let hostile = serde_json::from_str(
            r#"{"device":"x","received":1,"time":-1.5,"name":"x","unit":null,"value":"a\u001b[2J\nb"}"#,
        );
        assert_eq!(
            line(&hostile.unwrap(), Paint::never()),
            "-1.5  x  x  a?[2J?b"
        );
    }

    #[test]
    fn only_readings_are_shown_and_the_end_is_told() {
        let events = "retry: 2000\n\nevent: hello\ndata: {\"hub\":1}\n\nevent: reading\ndata: {1}\n\n: keep-alive\n\nevent: change\ndata: {2}\n\nevent: reading\ndata: {3}\n\n";
        let shown = RefCell::new(Vec::new());
        let end = read(events.as_bytes(), |data| {
            shown.borrow_mut().push(data.to_owned());
            Ok(())
        });
        assert_eq!(end.unwrap(), "it closed the connection");
        assert_eq!(shown.into_inner(), ["{1}", "{3}"]);
    }
}
