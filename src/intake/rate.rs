//! How fast the backlog drains, for the estimate of when it will be over.

use std::time::{Duration, Instant};

/// Time between samples.
const SAMPLE: Duration = Duration::from_secs(1);

/// Weight of the newest sample: the average follows a change within about ten seconds.
const NEWEST: f64 = 0.2;

/// A smoothed rate of batches that leave the spool on one connection of the uplink. Pure.
#[derive(Debug, Default)]
pub(super) struct DrainRate {
    last: Option<(Instant, u64)>,
    per_second: f64,
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
                self.per_second = if self.per_second == 0.0 {
                    rate
                } else {
                    self.per_second + NEWEST * (rate - self.per_second)
                };
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
    fn the_rate_is_learned_smoothed_and_forgotten_when_the_backlog_is_gone() {
        let start = Instant::now();
        let at = |s| start + Duration::from_secs(s);
        let mut rate = DrainRate::default();
        assert_eq!(rate.sample(at(0), 100, 0), 0);
        assert_eq!(rate.sample(at(1), 90, 10), 10_000);
        let slower = rate.sample(at(2), 90, 10);
        assert!(slower < 10_000 && slower > 5_000, "{slower}");
        assert!(rate.next_sample().is_some());
        assert_eq!(rate.sample(at(3), 0, 100), 0);
        assert!(rate.next_sample().is_none());
    }
}
