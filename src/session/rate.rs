//! How fast a device may send: a token bucket. Pure.
//!
//! A device above its rate is slowed down first: its messages stay in its socket until there are
//! tokens again, and nothing is lost. Only one that stays above it for minutes is disconnected.

use std::time::{Duration, Instant};

/// The bucket holds this many seconds' worth of messages.
const BURST_SECONDS: f64 = 2.0;

/// Tokens for messages: one each.
#[derive(Debug)]
pub struct Rate {
    per_second: f64,
    tokens: f64,
    refilled: Instant,
    throttled_since: Option<Instant>,
}

impl Rate {
    /// A full bucket for this many messages a second, at least 1.
    #[must_use]
    pub fn new(per_second: u32, now: Instant) -> Self {
        let per_second = f64::from(per_second.max(1));
        Self {
            per_second,
            tokens: per_second * BURST_SECONDS,
            refilled: now,
            throttled_since: None,
        }
    }

    /// So many messages have been read. Returns when the next one may be, if that is not now.
    pub fn spend(&mut self, messages: u32, now: Instant) -> Option<Instant> {
        let full = self.per_second * BURST_SECONDS;
        let elapsed = now.saturating_duration_since(self.refilled).as_secs_f64();
        self.tokens = (self.tokens + elapsed * self.per_second).min(full);
        self.refilled = now;
        // Half a bucket saved up shows that the device does pause.
        if self.tokens >= full / 2.0 {
            self.throttled_since = None;
        }
        self.tokens -= f64::from(messages);
        if self.tokens >= 1.0 {
            return None;
        }
        self.throttled_since.get_or_insert(now);
        let wait = (1.0 - self.tokens) / self.per_second;
        Some(now + Duration::from_secs_f64(wait))
    }

    /// How long the device has been held at its rate without ever letting the bucket fill.
    #[must_use]
    pub fn throttled_for(&self, now: Instant) -> Duration {
        self.throttled_since
            .map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_of_two_seconds_passes_and_then_the_rate_holds() {
        let start = Instant::now();
        let mut rate = Rate::new(100, start);
        let burst = (0..1_000)
            .take_while(|_| rate.spend(1, start).is_none())
            .count();
        assert_eq!(burst, 199);

        // From here on one message every 10 ms, as often as it asks.
        let mut now = start;
        let mut passed = 0;
        while now < start + Duration::from_secs(10) {
            now = rate.spend(1, now).unwrap_or(now);
            passed += 1;
        }
        assert!((990..=1_010).contains(&passed), "{passed}");
    }

    #[test]
    fn throttling_is_counted_until_the_device_pauses() {
        let start = Instant::now();
        let mut rate = Rate::new(10, start);
        let mut now = start;
        while now < start + Duration::from_secs(100) {
            now = rate.spend(1, now).unwrap_or(now);
        }
        assert!(rate.throttled_for(now) > Duration::from_secs(90));

        now += Duration::from_secs(2);
        rate.spend(1, now);
        assert_eq!(rate.throttled_for(now), Duration::ZERO);
    }
}
