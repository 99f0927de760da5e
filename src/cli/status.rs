//! `telehub status`: what a running hub says of itself, on one screen.

use std::io::{self, Write};

use anyhow::{Context, bail};
use clap::Args;
use telehub::clock::unix_now;
use telehub::plain::{self, text as plain};
use telehub::status::board::{DeviceReport, SpoolState, StatusReport, UplinkState};

use super::http::{Address, Hub};
use super::page::{LISTED, Room, page};
use super::terminal::{Paint, rows};
use super::watch::{Look, watch};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  telehub status
  telehub status --watch
  telehub status --json | jq '.devices[] | select(.lost)'
  telehub status --admin http://barn.local:8788 --token-file token

Exit status, for scripts:
  0  all is well: the uplink is connected and the spool can be written
  1  it is not, or the hub does not answer; the reason is on stderr
  2  wrong arguments

Colour is used on a terminal only, and not when NO_COLOR is set.")]
pub(super) struct Arguments {
    #[command(flatten)]
    address: Address,
    /// Print what the hub answers, as one JSON map: {"status": …, "devices": […]}
    #[arg(short, long)]
    json: bool,
    /// Ask again every two seconds, until ctrl-c; the exit status is that of the last answer
    #[arg(short, long)]
    watch: bool,
}

/// Prints the state of the hub.
///
/// # Errors
///
/// The hub does not answer, or is not well: its uplink is not connected, or its spool full or
/// failed.
pub(super) fn status(arguments: &Arguments) -> anyhow::Result<()> {
    let hub = arguments.address.hub()?;
    let (json, paint) = (arguments.json, Paint::of_stdout());
    if arguments.watch {
        return watch(move || {
            let room = rows().map_or(Room::Devices(LISTED), Room::Rows);
            look(&hub, json, paint, room)
        });
    }
    let look = look(&hub, json, paint, Room::Devices(LISTED))?;
    let mut out = io::stdout().lock();
    out.write_all(look.page.as_bytes())?;
    out.flush()?;
    look.verdict
}

/// Asks once.
fn look(hub: &Hub, json: bool, paint: Paint, room: Room) -> anyhow::Result<Look> {
    let status = hub.get("/api/status")?;
    let devices = hub.get("/api/devices")?;
    let foreign = || {
        format!(
            "{} answers in a form that is not known here; is it of another version?",
            hub.base
        )
    };
    let report: StatusReport = serde_json::from_slice(&status).with_context(foreign)?;
    let list: Vec<DeviceReport> = serde_json::from_slice(&devices).with_context(foreign)?;
    let page = if json {
        // Fields that a newer hub adds are passed on.
        let status: serde_json::Value = serde_json::from_slice(&status)?;
        let devices: serde_json::Value = serde_json::from_slice(&devices)?;
        let both = serde_json::json!({"status": status, "devices": devices});
        format!("{}\n", plain::json(&both.to_string()))
    } else {
        page(&report, &list, unix_now(), paint, room)
    };
    Ok(Look {
        page,
        verdict: verdict(&report),
    })
}

fn verdict(report: &StatusReport) -> anyhow::Result<()> {
    let reason = report
        .spool
        .reason
        .as_deref()
        .map_or_else(|| "see the hub's log for the reason".to_owned(), plain);
    match (report.spool.state, report.uplink.state) {
        (SpoolState::Failed, _) => bail!("the spool cannot be written: {reason}"),
        (SpoolState::Unusable, _) => bail!("the spool cannot be used: {reason}"),
        (SpoolState::Full, _) => {
            bail!("the spool is full; restore the uplink or raise spool.max_size")
        }
        // It may be connected for the moment.
        (SpoolState::Ok, _) if report.uplink.twins => bail!(
            "another hub has the id {}: each ends the other's connection to the broker; write another \
             [hub] id for one of them",
            plain(&report.hub)
        ),
        (SpoolState::Ok, UplinkState::Connected) => Ok(()),
        (SpoolState::Ok, _) => match &report.uplink.last_error {
            Some(error) => bail!("the uplink is not connected: {}", plain(error)),
            None => bail!("the uplink is not connected yet"),
        },
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use telehub::status::board::Board;

    use super::*;

    #[test]
    fn a_full_or_failed_spool_and_a_lost_uplink_are_not_well() {
        let board = Board::new("barn");
        assert!(verdict(&board.status()).is_err());
        board.uplink.set(UplinkState::Connected, None);
        assert!(verdict(&board.status()).is_ok());
        board.uplink.twins.set(1);
        let twins = verdict(&board.status()).unwrap_err().to_string();
        assert!(twins.contains("another hub has the id barn"), "{twins}");
        board.spool.set(SpoolState::Full, Some("1 GiB".into()));
        assert!(
            verdict(&board.status())
                .unwrap_err()
                .to_string()
                .contains("max_size")
        );
    }
}
