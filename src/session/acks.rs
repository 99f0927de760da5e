//! When an ack is told. Pure.
//!
//! A device that waits for its ack gets it at once. One that has more under way gets one ack for
//! several batches: each ack is a write here and a read there, which at full speed is a third of
//! all the work that a batch makes.

use std::time::{Duration, Instant};

/// The window is opened in steps of this part of it: small enough that the device never runs dry.
const STEPS: u32 = 4;

/// No ack waits longer.
const DELAY: Duration = Duration::from_millis(2);

/// But for a device that is far behind: with more than half of its window under way it waits for the
/// queue before it, not for the ack, and whatever it is told late it has room for.
const DELAY_BEHIND: Duration = Duration::from_millis(10);

/// The ack that a device has not been told.
#[derive(Debug)]
pub struct Acks {
    step: u32,
    newest: Option<u64>,
    settled: u32,
    due: Option<Instant>,
}

impl Acks {
    /// For a device that may have `window` batches unacked.
    #[must_use]
    pub fn new(window: u32) -> Self {
        Self {
            step: (window / STEPS).max(1),
            newest: None,
            settled: 0,
            due: None,
        }
    }

    /// So many batches were settled, everything up to `ack` is safe, and `left` are under way.
    pub fn add(&mut self, now: Instant, settled: u32, ack: Option<u64>, left: u32) {
        self.settled = self.settled.saturating_add(settled);
        self.newest = self.newest.max(ack);
        if self.newest.is_some() {
            let at_once = left == 0 || self.settled >= self.step;
            let behind = left > self.step * STEPS / 2;
            let delay = if behind { DELAY_BEHIND } else { DELAY };
            let due = if at_once { now } else { now + delay };
            self.due = Some(self.due.map_or(due, |known| known.min(due)));
        }
    }

    /// When the ack is to be told.
    #[must_use]
    pub fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Takes the ack to tell it.
    pub fn take(&mut self) -> Option<u64> {
        (self.settled, self.due) = (0, None);
        self.newest.take()
    }

    /// It cannot be told now; the next one to come, or output that flows again, brings it.
    pub fn postpone(&mut self) {
        self.due = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_is_told_at_once() {
        let now = Instant::now();
        let mut acks = Acks::new(32);
        acks.add(now, 1, Some(7), 0);
        assert_eq!(acks.due(), Some(now));
        assert_eq!(acks.take(), Some(7));
        assert_eq!((acks.due(), acks.take()), (None, None));
    }

    #[test]
    fn who_has_more_under_way_is_told_for_a_quarter_of_the_window_or_after_the_delay() {
        let now = Instant::now();
        let mut acks = Acks::new(32);
        for seq in 1..8 {
            acks.add(now + Duration::from_micros(seq), 1, Some(seq), 10);
            assert_eq!(acks.due(), Some(now + Duration::from_micros(1) + DELAY));
        }
        let eighth = now + Duration::from_millis(1);
        acks.add(eighth, 1, Some(8), 10);
        assert_eq!(acks.due(), Some(eighth));
        assert_eq!(acks.take(), Some(8));
    }

    #[test]
    fn who_is_far_behind_is_told_later_and_still_before_it_runs_dry() {
        let now = Instant::now();
        let mut acks = Acks::new(32);
        acks.add(now, 1, Some(1), 24);
        assert_eq!(acks.due(), Some(now + DELAY_BEHIND));
        // It catches up: from here on it may wait for the ack.
        acks.add(now + DELAY / 2, 1, Some(2), 16);
        assert_eq!(acks.due(), Some(now + DELAY / 2 + DELAY));
        for seq in 3..=8 {
            acks.add(now + DELAY / 2, 1, Some(seq), 24);
        }
        assert_eq!(acks.due(), Some(now + DELAY / 2));
    }

    #[test]
    fn a_window_of_one_never_waits() {
        let now = Instant::now();
        let mut acks = Acks::new(1);
        acks.add(now, 1, Some(1), 1);
        assert_eq!(acks.due(), Some(now));
    }

    #[test]
    fn what_settles_without_a_number_asks_for_nothing() {
        let mut acks = Acks::new(32);
        acks.add(Instant::now(), 20, None, 0);
        assert_eq!(acks.due(), None);
    }
}
