//! The spool's part of the board.

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use serde::{Deserialize, Serialize};

use super::fill::Fill;
use super::histogram::Histogram;
use super::number::{Number, lock};

/// State of the spool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SpoolState {
    /// Can be written.
    Ok,
    /// No room for more.
    Full,
    /// Could not be written when it was needed.
    Failed,
    /// Could not be written if it was needed now.
    Unusable,
}

#[derive(Debug)]
struct Present {
    state: SpoolState,
    error: Option<String>,
    oldest: Option<f64>,
    path: PathBuf,
    fill: Fill,
}

/// The spool's part of the board.
#[derive(Debug)]
pub struct SpoolBoard {
    state: Mutex<Present>,
    /// Gauge: batches on disk that are not PUBACKed.
    pub batches: Number,
    /// Gauge: readings in these.
    pub readings: Number,
    /// Gauge: bytes that the spool's files take.
    pub disk_bytes: Number,
    /// Setting: the most that `disk_bytes` may be; 0 before it is known.
    pub max_size: Number,
    /// Bytes of batches that were committed.
    pub committed_bytes: Number,
    /// From a commit's way to the disk to the end of its sync.
    pub commit_latency: Histogram,
    /// Commits that came to nothing.
    pub commit_failures: Number,
    /// Batches that became gap records.
    pub dropped_batches: Number,
    /// Gauge: batches a second that leave the spool, times 1,000, averaged over some seconds.
    pub drain_millirate: Number,
}

impl SpoolBoard {
    pub(super) fn new() -> Self {
        Self {
            state: Mutex::new(Present {
                state: SpoolState::Ok,
                error: None,
                oldest: None,
                path: PathBuf::new(),
                fill: Fill::default(),
            }),
            batches: Number::default(),
            readings: Number::default(),
            disk_bytes: Number::default(),
            max_size: Number::default(),
            committed_bytes: Number::default(),
            commit_latency: Histogram::default(),
            commit_failures: Number::default(),
            dropped_batches: Number::default(),
            drain_millirate: Number::default(),
        }
    }

    /// Records the state and, unless it is `Ok`, one sentence why.
    pub fn set(&self, state: SpoolState, error: Option<String>) {
        let mut current = lock(&self.state);
        (current.state, current.error) = (state, error);
    }

    /// Where it is: every reason names it.
    pub fn set_path(&self, path: &Path) {
        path.clone_into(&mut lock(&self.state).path);
    }

    /// The present state and the reason for it.
    #[must_use]
    pub fn state(&self) -> (SpoolState, Option<String>) {
        let current = lock(&self.state);
        let path = current.path.display().to_string();
        let reason = current.error.as_ref().map(|error| {
            if error.contains(&path) {
                error.clone()
            } else {
                format!("{path}: {error}")
            }
        });
        (current.state, reason)
    }

    /// Looks how far it has grown. `now`: uptime.
    pub fn watch_fill(&self, now: f64) {
        lock(&self.state).fill.note(now, self.disk_bytes.get());
    }

    /// Seconds until it is full, as fast as it grows; `None` while it does not.
    #[must_use]
    pub fn full_in(&self) -> Option<f64> {
        let most = self.max_size.get();
        (most > 0).then(|| lock(&self.state).fill.full_in(most))?
    }

    /// Arrival of the oldest batch, Unix seconds.
    pub fn set_oldest(&self, oldest: Option<f64>) {
        lock(&self.state).oldest = oldest;
    }

    /// Arrival of the oldest batch, Unix seconds; `None`: there is none.
    #[must_use]
    pub fn oldest(&self) -> Option<f64> {
        lock(&self.state).oldest
    }

    /// Seconds until the spool is empty at the present rate; `None` while nothing drains.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "an estimate")]
    pub fn drain_eta(&self) -> Option<f64> {
        match (self.batches.get(), self.drain_millirate.get()) {
            (0, _) => Some(0.0),
            (_, 0) => None,
            (batches, rate) => Some(batches as f64 * 1000.0 / rate as f64),
        }
    }
}
