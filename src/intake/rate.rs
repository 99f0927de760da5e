//! How fast the backlog drains, for the estimate of when it will be over.

use std::time::{Duration, Instant};

/// Time between samples.
const SAMPLE: Duration = Duration::from_secs(1);

/// Samples that the average is made of: a minute. What the link or the broker does for some
/// seconds says little of hours.
const REMEMBERED: u32 = 60;

/// A smoothed rate of batches that leave the spool on one connection of the uplink. Pure.
#[derive(Debug, Default)]
pub(super) struct DrainRate {
    last: Option<(Instant, u64)>,
    per_second: f64,
    /// At most [`REMEMBERED`].
    samples: u32,
}

impl DrainRate {
    /// When the next sample is due; `None` while there is nothing to drain.
    pub(super) fn next_sample(&self) -> Option<Instant> {
        self.last.map(|(at, _)| at + SAMPLE)
    }

    /// `left`: batches in the backlog. `drained`: batches that left it in all, so far.
    /// Returns batches a second, times 1,000; 0 while nothing is known.
    pub(super) fn sample(&mut self, now: Instant, left: u64, drained: u64) -> u64 {
        if left == 0 {
            *self = Self::default();
            return 0;
        }
        match self.last {
            None => self.last = Some((now, drained)),
            Some((at, before)) if now >= at + SAMPLE => {
                let seconds = now.duration_since(at).as_secs_f64();
                let rate = drained.saturating_sub(before) as f64 / seconds;
                // The mean of all samples, and later one that forgets slowly.
                self.samples = (self.samples + 1).min(REMEMBERED);
                self.per_second += (rate - self.per_second) / f64::from(self.samples);
                self.last = Some((now, drained));
            }
            Some(_) => {}
        }
        (self.per_second * 1000.0) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_of_some_seconds_says_little_and_a_change_is_followed_within_two_minutes() {
        let start = Instant::now();
        let mut rate = DrainRate::default();
        let mut drained = 0;
        let mut sample = |second: u64, more: u64| {
            drained += more;
            rate.sample(start + Duration::from_secs(second), 1 << 40, drained)
        };
        (0..60).for_each(|second| _ = sample(second, 1_000));
        let paused = (60..70).map(|second| sample(second, 0)).last();
        assert!(paused > Some(800_000), "{paused:?}");
        let slower = (70..190).map(|second| sample(second, 100)).last();
        assert!(slower < Some(250_000), "{slower:?}");
    }

    #[test]
    fn the_rate_is_learned_smoothed_and_forgotten_when_the_backlog_is_gone() {
        let start = Instant::now();
        let at = |s| start + Duration::from_secs(s);
        let mut rate = DrainRate::default();
        assert_eq!(rate.sample(at(0), 100, 0), 0);
        assert_eq!(rate.sample(at(1), 90, 10), 10_000);
        assert_eq!(rate.sample(at(2), 90, 10), 5_000);
        assert!(rate.next_sample().is_some());
        assert_eq!(rate.sample(at(3), 0, 100), 0);
        assert!(rate.next_sample().is_none());
    }
}
