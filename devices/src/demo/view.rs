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
            "{HOME}telehub demo, {:.0} s    link to the broker: {link}\n\n\
             u cuts or restores the link, q quits\n\n{}\n\nwhat the broker receives:\n\n\
             {:<14} {:<24} {:>6} {:>8} {:>5} {:>6} {:>9}  last\n",
            self.elapsed.as_secs_f64(),
            self.hub(),
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
                "{id:<14} {:<24} {:>6} {:>8} {:>5} {:>6} {:>9}  {}",
                device.status,
                device.data,
                device.history,
                device.gaps,
                device.twice,
                device.readings,
                device.last(),
            );
        }
        out
    }
}
