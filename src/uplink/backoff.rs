//! How long to wait before the next connect. Pure: no IO, no clock, no randomness of its own.

use std::time::Duration;

/// Doubling waits with equal jitter: half of each wait is fixed, so that a broker is never
/// hammered; the other half is random, so that the hubs of a site do not come back in step.
#[derive(Debug, Clone)]
pub(super) struct Backoff {
    first: Duration,
    longest: Duration,
    failures: u32,
}

impl Backoff {
    /// Waits from `first` up to `longest`.
    pub(super) fn new(first: Duration, longest: Duration) -> Self {
        Self {
            first,
            longest,
            failures: 0,
        }
    }

    /// The wait after one more failure. `random`: any number, uniformly distributed.
    pub(super) fn next(&mut self, random: u64) -> Duration {
        let doubled = 2_u32.saturating_pow(self.failures);
        let wait = self.first.saturating_mul(doubled).min(self.longest);
        self.failures = self.failures.saturating_add(1);
        let half = wait / 2;
        #[expect(clippy::cast_precision_loss, reason = "53 random bits are plenty")]
        let share = (random >> 11) as f64 / (1_u64 << 53) as f64;
        half + half.mul_f64(share)
    }

    /// The connection was a good one: the next wait is the shortest again.
    pub(super) fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn backoff() -> Backoff {
        Backoff::new(Duration::from_secs(1), Duration::from_secs(60))
    }

    #[test]
    fn waits_double_up_to_the_longest() {
        let mut backoff = backoff();
        let waits: Vec<_> = (0..8)
            .map(|_| backoff.next(u64::MAX).as_secs_f64())
            .collect();
        let expected = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0];
        for (wait, expected) in waits.iter().zip(expected) {
            assert!((wait - expected).abs() < 1e-6, "{waits:?}");
        }
    }

    #[test]
    fn a_good_connection_makes_the_next_wait_short_again() {
        let mut backoff = backoff();
        for _ in 0..5 {
            backoff.next(0);
        }
        backoff.reset();
        assert_eq!(backoff.next(0), Duration::from_millis(500));
    }

    proptest! {
        #[test]
        fn jitter_takes_at_most_half_and_never_adds(
            failures in 0_u32..2_000, random in any::<u64>()
        ) {
            let mut backoff = backoff();
            backoff.failures = failures;
            let wait = backoff.next(random);
            let full = Duration::from_secs(1 << failures.min(6)).min(Duration::from_secs(60));
            prop_assert!(wait >= full / 2 && wait <= full, "{wait:?} of {full:?}");
        }
    }
}
