//! The times of a pack: which of them the device gave, and which cannot be true.

use super::Record;
use crate::reading::{Doubt, Moment};

/// Times below this many seconds are relative to the moment of arrival (RFC 8428 §4.5.3).
pub const RELATIVE_BELOW: f64 = 268_435_456.0;

/// Unix seconds, 2020-01-01. There was no telehub before: an earlier time comes of a clock that
/// was never set, or of a unit or precision that does not hold it.
pub const PLAUSIBLE_FROM: f64 = 1_577_836_800.0;

/// Seconds. A time so far ahead of a hub whose clock is right is no drift.
pub const PLAUSIBLE_AHEAD: f64 = 24.0 * 3600.0;

/// From the first to the last of some times.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Span {
    /// Infinity when there are none.
    pub first: f64,
    /// Minus infinity when there are none.
    pub last: f64,
}

impl Span {
    const NONE: Self = Self {
        first: f64::INFINITY,
        last: f64::NEG_INFINITY,
    };

    fn add(&mut self, time: f64) {
        self.first = self.first.min(time);
        self.last = self.last.max(time);
    }
}

/// The times of a pack, in Unix seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Times {
    /// Those that the device gave as such: 2^28 and above.
    pub absolute: Span,
    /// Those that were relative to the moment of arrival, resolved.
    pub relative: Span,
    /// Some time was above 0, which no age is.
    pub is_given: bool,
}

impl Times {
    pub(super) fn none() -> Self {
        Self {
            absolute: Span::NONE,
            relative: Span::NONE,
            is_given: false,
        }
    }

    /// A record has this time, base time included; `received`: what it is relative to.
    pub(super) fn add(&mut self, time: f64, received: f64) {
        self.is_given |= time > 0.0;
        if time >= RELATIVE_BELOW {
            self.absolute.add(time);
        } else {
            self.relative.add(received + time);
        }
    }

    pub(super) fn of(records: &[Record<'_>], received: f64) -> Self {
        let mut times = Self::none();
        let mut base = None;
        for record in records {
            base = record.base.as_ref().and_then(|base| base.time).or(base);
            if record.is_base_only() || record.is_dropped() {
                continue;
            }
            let [base, own] = [base, record.time].map(|t| t.map_or(0.0, super::Number::as_f64));
            times.add(base + own, received);
        }
        times
    }

    /// Whether some time cannot be true. What is relative, and what may be ahead, is judged only
    /// by a hub whose own clock is right.
    #[must_use]
    pub fn are_implausible(&self, received: &Moment) -> bool {
        self.absolute.first < PLAUSIBLE_FROM
            || (received.synced && {
                let ahead = received.wall + PLAUSIBLE_AHEAD;
                self.relative.first < PLAUSIBLE_FROM
                    || self.absolute.last > ahead
                    || self.relative.last > ahead
            })
    }

    /// What has to be said of the times of a batch beside it.
    #[must_use]
    pub fn doubt(&self, received: &Moment) -> Option<Doubt> {
        if self.are_implausible(received) {
            return Some(Doubt::Implausible);
        }
        received.doubt()
    }
}
