//! What the person in front of the demo sees and types.

use std::fmt::Write as _;
use std::io::{IsTerminal, Read, Write as _};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use serde_json::Value;
use tokio::sync::mpsc;

use super::ledger::Ledger;

/// Keys typed. Without a terminal, lines of input do as well.
pub struct Keys {
    keys: mpsc::Receiver<u8>,
    before: Option<Termios>,
}

impl Keys {
    /// Takes the terminal out of line mode until dropped.
    #[must_use]
    pub fn new() -> Self {
        let stdin = rustix::stdio::stdin();
        let before = tcgetattr(stdin).ok();
        if let Some(before) = &before {
            let mut now = before.clone();
            now.local_modes -= LocalModes::ICANON | LocalModes::ECHO;
            let _ = tcsetattr(stdin, OptionalActions::Now, &now);
        }
        let (sender, keys) = mpsc::channel(16);
        thread::spawn(move || {
            for byte in std::io::stdin().lock().bytes().map_while(Result::ok) {
                if sender.blocking_send(byte).is_err() {
                    break;
                }
            }
        });
        Self { keys, before }
    }

    /// The next key; never, once the input has ended. Cancel safe.
    pub async fn next(&mut self) -> u8 {
        match self.keys.recv().await {
            Some(key) => key,
            None => std::future::pending().await,
        }
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            let _ = tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, before);
        }
    }
}

/// Draws the state of things, again and again in place on a terminal, else line after line.
pub struct View {
    terminal: bool,
}

/// What is drawn.
pub struct Scene<'a> {
    /// Since the demo began.
    pub elapsed: Duration,
    /// Whether the link is whole.
    pub intact: bool,
    /// Of the hub.
    pub status: Option<&'a Value>,
    /// Where the dashboard is.
    pub page: &'a str,
    /// The most batches in the spool since it was empty.
    pub backlog: u64,
    /// Of the broker.
    pub ledger: &'a Mutex<Ledger>,
}

impl View {
    /// `plain`: lines even on a terminal.
    #[must_use]
    pub fn new(plain: bool) -> Self {
        Self {
            terminal: !plain && std::io::stdout().is_terminal(),
        }
    }

    /// How long to wait between two drawings.
    #[must_use]
    pub fn period(&self) -> Duration {
        Duration::from_millis(if self.terminal { 200 } else { 1000 })
    }

    /// Draws.
    pub fn draw(&self, scene: &Scene<'_>) {
        let text = if self.terminal {
            scene.table()
        } else {
            scene.line()
        };
        let mut out = std::io::stdout().lock();
        let _ = out.write_all(text.as_bytes());
        let _ = out.flush();
    }
}

impl Scene<'_> {
    fn hub(&self) -> String {
        let Some(status) = self.status else {
            return "hub not reached".into();
        };
        let (uplink, spool) = (&status["uplink"], &status["spool"]);
        format!(
            "uplink {}, {} in flight; spool {} batches, {:.0} KiB on disk",
            uplink["state"].as_str().unwrap_or("?"),
            uplink["in_flight"],
            spool["batches"],
            spool["disk_bytes"].as_f64().unwrap_or(0.0) / 1024.0,
        )
    }

    fn line(&self) -> String {
        let ledger = self.ledger.lock().unwrap_or_else(PoisonError::into_inner);
        let sum = |count: fn(&super::ledger::Arrived) -> u64| -> u64 {
            ledger.devices.values().map(count).sum()
        };
        format!(
            "{:5.1} s  link {}; {}; arrived: {} data, {} history, {} gap, {} twice\n",
            self.elapsed.as_secs_f64(),
            if self.intact { "whole" } else { "CUT" },
            self.hub(),
            sum(|device| device.data),
            sum(|device| device.history),
            sum(|device| device.gaps),
            sum(|device| device.twice),
        )
    }

    /// How much of the backlog is left, as a bar.
    fn drain(&self) -> String {
        /// Cells of the bar.
        const BAR: u64 = 30;
        let Some(spool) = self.status.map(|status| &status["spool"]) else {
            return String::new();
        };
        let left = spool["batches"].as_u64().unwrap_or(0);
        if left == 0 {
            return "[no backlog]".into();
        }
        let full = (left * BAR).div_ceil(self.backlog.max(left));
        let bar: String = (0..BAR)
            .map(|cell| if cell < full { '#' } else { '.' })
            .collect();
        let what = match (self.intact, spool["drain_eta"].as_f64()) {
            (false, _) => "filling".to_owned(),
            (true, Some(eta)) => format!("draining, about {:.0} s", eta.max(1.0)),
            (true, None) => "draining".to_owned(),
        };
        format!("[{bar}] {left} of {}, {what}", self.backlog.max(left))
    }

    /// At most [`COLUMNS`] wide.
    fn table(&self) -> String {
        /// From the top left corner, clearing what was there.
        const HOME: &str = "\x1b[H\x1b[J";
        let ledger = self.ledger.lock().unwrap_or_else(PoisonError::into_inner);
        let link = if self.intact {
            "\x1b[32mwhole\x1b[0m"
        } else {
            "\x1b[31mCUT\x1b[0m"
        };
        let mut out = format!(
            "{HOME}telehub demo, {:.0} s    link to the broker: {link}, {} KiB/s at most\n\
             the hub's page: {}\n\nu cuts or restores the link, q quits\n\n{}\n{}\n\n\
             what the broker receives, in batches:\n\n\
             {:<11} {:<22} {:>6} {:>7} {:>4} {:>5} {:>9}\n",
            self.elapsed.as_secs_f64(),
            super::uplink::RATE / 1024,
            self.page,
            self.hub(),
            self.drain(),
            "device",
            "status",
            "data",
            "history",
            "gap",
            "twice",
            "readings",
        );
        for (id, device) in &ledger.devices {
            let _ = writeln!(
                out,
                "{:<11} {:<22} {:>6} {:>7} {:>4} {:>5} {:>9}",
                cut(id, 11),
                cut(&device.status, 22),
                device.data,
                device.history,
                device.gaps,
                device.twice,
                device.readings,
            );
        }
        out.push_str(
            "\ndata: at once; history: waited in the spool; gap: given up\n\
             twice: came again, because a cut swallowed the broker's answer; its number tells\n\n",
        );
        for (id, device) in &ledger.devices {
            let _ = writeln!(
                out,
                "{:<11} {}",
                cut(id, 11),
                cut(&device.last(), COLUMNS - 12)
            );
        }
        out
    }
}

/// What a small terminal has.
const COLUMNS: usize = 80;

/// The first `most` characters.
fn cut(text: &str, most: usize) -> String {
    text.chars().take(most).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A scene in a bad hour, with numbers as large as an evening makes them.
    fn table(backlog: u64, spooled: u64, eta: Option<f64>) -> String {
        let mut ledger = Ledger::default();
        for id in ["thermometer", "vibration-with-a-long-name"] {
            let status = json!({"state": "offline", "reason": "ping timeout and something more"});
            ledger.received(&format!("t/h/{id}/status"), status.to_string().as_bytes());
            let pack = json!([{"n": format!("{id}/{}", "x".repeat(99)), "v": 1.5}]);
            let batch = json!({"stream": "s", "seq": 1, "pack": pack});
            ledger.received(&format!("t/h/{id}/data"), batch.to_string().as_bytes());
            if let Some(device) = ledger.devices.get_mut(id) {
                (device.data, device.history, device.readings) = (99_999, 99_999, 99_999_999);
            }
        }
        let status = json!({
            "uplink": {"state": "connecting", "in_flight": 100},
            "spool": {"batches": spooled, "disk_bytes": 67_108_864, "drain_eta": eta},
        });
        let scene = Scene {
            elapsed: Duration::from_secs(86_400),
            intact: eta.is_some(),
            status: Some(&status),
            page: "http://127.0.0.1:65535/",
            backlog,
            ledger: &Mutex::new(ledger),
        };
        scene.table()
    }

    #[test]
    fn the_table_fits_80_columns_and_has_the_address_of_the_page() {
        for text in [
            table(99_999, 99_998, Some(86_400.0)),
            table(99_999, 99_999, None),
            table(0, 0, Some(0.0)),
        ] {
            for line in text.lines() {
                let plain = line
                    .replace("\x1b[H\x1b[J", "")
                    .replace("\x1b[32m", "")
                    .replace("\x1b[31m", "")
                    .replace("\x1b[0m", "");
                assert!(plain.chars().count() <= COLUMNS, "{plain}");
            }
            assert!(text.contains("page: http://127.0.0.1:65535/"), "{text}");
            assert!(text.contains("twice: came again"), "{text}");
        }
    }

    #[test]
    fn the_bar_shows_what_is_left_of_the_backlog() {
        let bar = |text: &str| text.matches('#').count();
        assert_eq!(bar(&table(300, 300, None)), 30);
        assert_eq!(bar(&table(300, 150, Some(4.4))), 15);
        assert!(table(300, 150, Some(4.4)).contains("150 of 300, draining, about 4 s"));
        assert_eq!(bar(&table(300, 1, Some(0.1))), 1);
        assert!(table(0, 0, Some(0.0)).contains("[no backlog]"));
    }
}
