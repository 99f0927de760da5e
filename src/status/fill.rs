//! How fast the spool fills, and when it will be full. Pure.

use std::collections::VecDeque;

/// Seconds between two looks that are kept.
const STEP: f64 = 10.0;

/// Seconds over which the growth is averaged: longer than the spool's segments take to be
/// filled and emptied on a small board, short enough to follow a device that begins to send more.
const WINDOW: f64 = 900.0;

/// Seconds before anything is said.
const ENOUGH: f64 = 30.0;

/// What the spool's files took, over the last minutes.
#[derive(Debug, Default)]
pub struct Fill(VecDeque<(f64, u64)>);

impl Fill {
    /// The files take `bytes` now; `now` in seconds of a steady clock.
    pub fn note(&mut self, now: f64, bytes: u64) {
        match self.0.back() {
            Some((at, _)) if now - at < STEP => return,
            // What is given back begins the measure anew: the two do not average.
            Some((_, last)) if bytes < *last => self.0.clear(),
            _ => {}
        }
        while self.0.front().is_some_and(|(at, _)| now - at > WINDOW) {
            self.0.pop_front();
        }
        self.0.push_back((now, bytes));
    }

    /// Seconds until the files take `most`, as fast as they have grown; `None` while they do not
    /// grow or it is too early to say.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "an estimate")]
    pub fn full_in(&self, most: u64) -> Option<f64> {
        let (first, last) = (self.0.front()?, self.0.back()?);
        let (passed, grown) = (last.0 - first.0, last.1.checked_sub(first.1)?);
        if passed < ENOUGH || grown == 0 {
            return None;
        }
        // It may be fuller than it is to be for a moment, and is full then.
        let left = most.saturating_sub(last.1);
        Some(left as f64 * passed / grown as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_steady_growth_foretells_the_end() {
        let mut fill = Fill::default();
        for second in 0..3_600_u32 {
            fill.note(f64::from(second), u64::from(second) * 1_000);
            assert!(fill.0.len() <= 92);
        }
        let left = fill.full_in(3_590_000 + 86_400_000).unwrap_or(0.0);
        assert!((left - 86_400.0).abs() < 1.0, "{left}");
        assert_eq!(fill.full_in(5), Some(0.0));
    }

    #[test]
    fn what_does_not_grow_or_has_just_begun_foretells_nothing() {
        let mut fill = Fill::default();
        fill.note(0.0, 100);
        fill.note(10.0, 200);
        assert_eq!(fill.full_in(1_000), None);
        let mut fill = Fill::default();
        (0..100).for_each(|n| fill.note(f64::from(n) * 10.0, 500));
        assert_eq!(fill.full_in(1_000), None);
        fill.note(1_010.0, 400);
        assert_eq!(fill.full_in(1_000), None);
    }
}
