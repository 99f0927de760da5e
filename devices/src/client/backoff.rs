//! How long to wait before the next attempt to connect. Pure but for its random numbers.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

/// First delay: short enough that a hub's restart goes unnoticed.
pub const FIRST: Duration = Duration::from_millis(500);
/// Longest delay: a hub that was away for hours is found again within half a minute.
pub const LONGEST: Duration = Duration::from_secs(30);
/// A hub's `Retry-After` is obeyed up to this; beyond it more likely a mistake than a wish.
pub const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(300);

/// Exponential backoff with jitter: each delay is drawn from the upper half of a span that
/// doubles from [`FIRST`] to [`LONGEST`], so that a thousand devices do not come back at once.
#[derive(Debug)]
pub struct Backoff {
    span: Duration,
    rng: Rng,
}

impl Backoff {
    /// Starts at [`FIRST`].
    #[must_use]
    pub fn new(rng: Rng) -> Self {
        Self { span: FIRST, rng }
    }

    /// The connection was of use: start at [`FIRST`] again.
    pub fn reset(&mut self) {
        self.span = FIRST;
    }

    /// The next delay. A hub that asked for `at_least` gets it, plus up to a tenth.
    pub fn next(&mut self, at_least: Option<Duration>) -> Duration {
        let span = self.span;
        self.span = (span * 2).min(LONGEST);
        let delay = span.mul_f64(0.5 + 0.5 * self.rng.unit());
        match at_least {
            None => delay,
            Some(wish) => {
                let wish = wish.min(LONGEST_RETRY_AFTER);
                delay.max(wish.mul_f64(1.0 + 0.1 * self.rng.unit()))
            }
        }
    }
}

/// Random numbers (SplitMix64): good enough for noise and jitter, and without a dependency.
#[derive(Debug, Clone)]
pub struct Rng(u64);

impl Rng {
    /// The same seed gives the same numbers.
    #[must_use]
    pub fn seeded(seed: u64) -> Self {
        Self(seed)
    }

    /// Different numbers in every process and for every call.
    #[must_use]
    pub fn fresh() -> Self {
        Self(RandomState::new().hash_one(std::process::id()))
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// In `0.0..1.0`.
    pub fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// About normal with mean 0 and deviation 1 (a sum of twelve).
    pub fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.unit()).sum::<f64>() - 6.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_from_half_a_second_to_half_a_minute_with_jitter() {
        let mut backoff = Backoff::new(Rng::seeded(1));
        let mut span = FIRST;
        for _ in 0..20 {
            let delay = backoff.next(None);
            assert!(delay >= span / 2 && delay <= span, "{delay:?} of {span:?}");
            span = (span * 2).min(LONGEST);
        }
        backoff.reset();
        assert!(backoff.next(None) <= FIRST);
    }

    #[test]
    fn a_retry_after_is_waited_out_but_not_for_ever() {
        let mut backoff = Backoff::new(Rng::seeded(2));
        let asked = Duration::from_secs(60);
        let delay = backoff.next(Some(asked));
        assert!(delay >= asked && delay <= asked.mul_f64(1.1));
        let delay = backoff.next(Some(Duration::from_secs(1 << 40)));
        assert!(delay <= LONGEST_RETRY_AFTER.mul_f64(1.1));
    }
}
