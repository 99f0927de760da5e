//! A token bucket.

use std::time::{Duration, Instant};

/// So many at once, and then so many a second.
#[derive(Debug, Clone)]
pub(super) struct Bucket {
    burst: f64,
    per_second: f64,
    tokens: f64,
    refilled: Instant,
}

impl Bucket {
    /// A full one.
    pub(super) fn new(burst: u32, per_second: u32, now: Instant) -> Self {
        Self {
            burst: f64::from(burst),
            per_second: f64::from(per_second),
            tokens: f64::from(burst),
            refilled: now,
        }
    }

    fn refill(&mut self, now: Instant) {
        // A moment of another thread may lie a little before the last one.
        let elapsed = now.saturating_duration_since(self.refilled).as_secs_f64();
        self.tokens = (self.tokens + elapsed * self.per_second).min(self.burst);
        self.refilled = self.refilled.max(now);
    }

    /// Takes one token, if there is one.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        self.refill(now);
        let there = self.tokens >= 1.0;
        if there {
            self.tokens -= 1.0;
        }
        there
    }

    /// Whether nothing is missing.
    pub(super) fn is_full(&self, now: Instant) -> bool {
        let elapsed = now.saturating_duration_since(self.refilled).as_secs_f64();
        self.tokens + elapsed * self.per_second >= self.burst
    }

    /// When the next token is there.
    pub(super) fn next(&mut self, now: Instant) -> Instant {
        self.refill(now);
        let missing = (1.0 - self.tokens).max(0.0);
        now + Duration::from_secs_f64(missing / self.per_second)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_and_then_a_rate() {
        let start = Instant::now();
        let mut bucket = Bucket::new(10, 1, start);
        assert_eq!((0..20).filter(|_| bucket.take(start)).count(), 10);
        let next = bucket.next(start);
        assert_eq!(next, start + Duration::from_secs(1));
        assert!(bucket.take(next) && !bucket.take(next));
        let later = start + Duration::from_secs(3_600);
        assert_eq!((0..20).filter(|_| bucket.take(later)).count(), 10);
    }
}
