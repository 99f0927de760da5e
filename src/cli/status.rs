//! `telehub status`: what a running hub says of itself, on one screen.

use std::io::{self, Write};

use anyhow::{Context, bail};
use clap::Args;
use telehub::clock::unix_now;
use telehub::status::board::{DeviceReport, SpoolState, StatusReport, UplinkState};

use super::http;
use super::page::{page, plain};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Where the hub's admin listener is
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8788")]
    admin: String,
    /// Print what the hub answers, as one JSON map: {"status": …, "devices": […]}
    #[arg(long)]
    json: bool,
}

/// Prints the state of the hub.
///
/// # Errors
///
/// The hub does not answer, or is not well: its uplink is not connected, or its spool full or
/// failed.
pub(super) fn status(arguments: &Arguments) -> anyhow::Result<()> {
    let status = http::get(&arguments.admin, "/api/status")?;
    let devices = http::get(&arguments.admin, "/api/devices")?;
    let foreign = || {
        format!(
            "{} answers in a form that is not known here; is it of another version?",
            arguments.admin
        )
    };
    let report: StatusReport = serde_json::from_slice(&status).with_context(foreign)?;
    let list: Vec<DeviceReport> = serde_json::from_slice(&devices).with_context(foreign)?;
    let page = if arguments.json {
        // Fields that a newer hub adds are passed on.
        let status: serde_json::Value = serde_json::from_slice(&status)?;
        let devices: serde_json::Value = serde_json::from_slice(&devices)?;
        format!(
            "{}\n",
            serde_json::json!({"status": status, "devices": devices})
        )
    } else {
        page(&report, &list, unix_now())
    };
    let mut out = io::stdout().lock();
    out.write_all(page.as_bytes())?;
    out.flush()?;
    verdict(&report)
}

fn verdict(report: &StatusReport) -> anyhow::Result<()> {
    match (report.spool.state, report.uplink.state) {
        (SpoolState::Failed, _) => {
            bail!("the spool cannot be written; see the hub's log for the reason")
        }
        (SpoolState::Full, _) => {
            bail!("the spool is full; restore the uplink or raise spool.max_size")
        }
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
        board.spool.set(SpoolState::Full, Some("1 GiB".into()));
        assert!(
            verdict(&board.status())
                .unwrap_err()
                .to_string()
                .contains("max_size")
        );
    }
}
