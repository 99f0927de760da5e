//! What the devices' parts of the board have in common.

use std::sync::{Arc, Mutex};

use super::counts::{CODES, Counts};
use super::feed::Feed;
use super::histogram::Histogram;
use super::last_batches::LastBatches;
use super::number::Number;
use super::refused::RefusedBoard;
use super::tap::Tap;

/// Sums over all devices, those that are no longer remembered too, and what they share.
#[derive(Debug)]
pub struct Shared {
    pub(super) feed: Arc<Feed>,
    /// For whoever keeps readings.
    pub tap: Tap,
    /// The last batches.
    pub(super) kept: Mutex<LastBatches>,
    /// What the broker refuses of them.
    pub(super) refused: Arc<RefusedBoard>,
    /// Batches taken.
    pub batches: Number,
    /// Readings in these.
    pub readings: Number,
    /// Messages rejected, by code.
    pub rejected: Counts<{ CODES.len() }>,
    /// Records left out because they had no usable value.
    pub dropped_records: Number,
    /// Batches whose device was told that they are safe.
    pub acked: Number,
    /// From the arrival of a batch to its ack.
    pub ack_latency: Histogram,
}

impl Default for Shared {
    fn default() -> Self {
        Self {
            feed: Arc::default(),
            tap: Tap::default(),
            kept: Mutex::default(),
            refused: Arc::default(),
            batches: Number::default(),
            readings: Number::default(),
            rejected: Counts::new(CODES),
            dropped_records: Number::default(),
            acked: Number::default(),
            ack_latency: Histogram::default(),
        }
    }
}
