//! The board's part of what `[[reduce]]` leaves out.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use serde::{Deserialize, Serialize};

use super::number::Number;

/// Counters of readings that there is a rule for, and of their batches.
#[derive(Debug, Default)]
pub struct ReduceBoard {
    /// There are rules.
    is_on: AtomicBool,
    /// Readings that were kept.
    pub kept: Number,
    /// Readings that were left out.
    pub left_out: Number,
    /// Batches that something was left out of, and something was left of.
    pub shortened: Number,
    /// Batches that nothing was left of.
    pub dropped: Number,
}

/// `reduce` in `/api/status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the field names are the documented contract")]
pub struct ReduceReport {
    pub kept_readings: u64,
    pub left_out_readings: u64,
    pub shortened_batches: u64,
    pub left_out_batches: u64,
}

impl ReduceBoard {
    /// What has become of all that came so far.
    pub fn show(&self, kept: u64, left_out: u64, shortened: u64, dropped: u64) {
        self.is_on.store(true, Relaxed);
        self.kept.set(kept);
        self.left_out.set(left_out);
        self.shortened.set(shortened);
        self.dropped.set(dropped);
    }

    /// `None`: there are no rules.
    #[must_use]
    pub fn report(&self) -> Option<ReduceReport> {
        self.is_on.load(Relaxed).then(|| ReduceReport {
            kept_readings: self.kept.get(),
            left_out_readings: self.left_out.get(),
            shortened_batches: self.shortened.get(),
            left_out_batches: self.dropped.get(),
        })
    }
}
