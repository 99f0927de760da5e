//! What systemd is told: ready, how it goes, reloading, stopping. See sd_notify(3).

use std::sync::Arc;
use std::time::Duration;

use sd_notify::NotifyState;

use super::line::Line;
use crate::status::board::Board;
use crate::stop::Stop;

/// The status line is told at most so often.
const STATUS_EVERY: Duration = Duration::from_secs(1);

/// The way to systemd. Telling costs one datagram, and nothing where there is no systemd.
#[derive(Debug, Clone, Copy)]
pub struct Manager {
    present: bool,
}

impl Manager {
    /// As the environment has it.
    #[must_use]
    pub fn new() -> Self {
        let present = std::env::var_os("NOTIFY_SOCKET").is_some();
        Self { present }
    }

    fn tell(self, states: &[NotifyState<'_>]) {
        if !self.present {
            return;
        }
        if let Err(error) = sd_notify::notify(states) {
            tracing::debug!(%error, "systemd cannot be told");
        }
    }

    /// Devices are accepted.
    pub fn ready(self) {
        self.tell(&[NotifyState::Ready]);
    }

    /// Files are read again; [`Manager::ready`] follows.
    pub fn reloading(self) {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => self.tell(&[NotifyState::Reloading, now]),
            Err(_) => self.tell(&[NotifyState::Reloading]),
        }
    }

    /// The stop has begun.
    pub fn stopping(self) {
        self.tell(&[
            NotifyState::Stopping,
            NotifyState::Status("stopping: making safe what is under way"),
        ]);
    }

    /// The hub's parts make progress.
    pub fn well(self) {
        self.tell(&[NotifyState::Watchdog]);
    }

    /// How soon [`Manager::well`] has to be told again; `None`: never.
    #[must_use]
    pub fn watchdog(self) -> Option<Duration> {
        let timeout = sd_notify::watchdog_enabled()?;
        (self.present && !timeout.is_zero()).then_some(timeout)
    }

    /// Keeps the status line as the board has it until the stop is asked for. Sleeps while the
    /// board rests. `max_size`: bytes that the spool may take.
    pub async fn keep_status(self, board: Arc<Board>, max_size: u64, mut stop: Stop) {
        if !self.present {
            return;
        }
        let mut line = Line::default();
        let mut told = String::new();
        loop {
            let now = line.say(&board.status(), max_size);
            if now != told {
                self.tell(&[NotifyState::Status(&now)]);
                told = now;
            }
            tokio::select! {
                () = tokio::time::sleep(STATUS_EVERY) => {}
                () = stop.requested() => return,
            }
            tokio::select! {
                () = board.stirred() => {}
                () = stop.requested() => return,
            }
        }
    }
}

impl Default for Manager {
    fn default() -> Self {
        Self::new()
    }
}
