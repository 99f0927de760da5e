//! How fast a device may send: token buckets for messages, bytes and readings. Pure.
//!
//! A device above one of its rates is slowed down first: its messages stay in its socket until there
//! are tokens again, and nothing is lost. Only one that stays above for minutes is disconnected.

use std::time::{Duration, Instant};

/// A bucket holds this many seconds' worth.
const BURST_SECONDS: f64 = 2.0;

/// What a device may send in a second.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Messages, pings and pongs among them.
    pub messages: u32,
    /// Bytes of its WebSocket frames.
    pub bytes: u64,
    /// Readings.
    pub readings: u32,
}

/// What something costs.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cost {
    /// Messages.
    pub messages: u32,
    /// Bytes.
    pub bytes: u64,
    /// Readings.
    pub readings: u32,
}

#[derive(Debug)]
struct Bucket {
    per_second: f64,
    tokens: f64,
    /// What has to be there before the next message is read. Whoever has just this much may go
    /// into debt by what one message costs: how much that is, is known when it has been read.
    needs: f64,
}

impl Bucket {
    #[expect(clippy::cast_precision_loss, reason = "limits are far below 2^53")]
    fn new(per_second: u64, needs: f64) -> Self {
        let per_second = per_second.max(1) as f64;
        Self {
            per_second,
            tokens: per_second * BURST_SECONDS,
            needs,
        }
    }

    fn refill(&mut self, seconds: f64) {
        let full = self.per_second * BURST_SECONDS;
        self.tokens = (self.tokens + seconds * self.per_second).min(full);
    }

    fn is_half_full(&self) -> bool {
        self.tokens >= self.per_second * BURST_SECONDS / 2.0
    }

    /// Seconds until the next message may be read.
    fn wait(&self) -> f64 {
        ((self.needs - self.tokens) / self.per_second).max(0.0)
    }
}

/// The tokens of one device.
#[derive(Debug)]
pub struct Rate {
    messages: Bucket,
    bytes: Bucket,
    readings: Bucket,
    refilled: Instant,
    throttled_since: Option<Instant>,
}

impl Rate {
    /// Full buckets.
    #[must_use]
    pub fn new(limits: Limits, now: Instant) -> Self {
        Self {
            messages: Bucket::new(limits.messages.into(), 1.0),
            bytes: Bucket::new(limits.bytes, 0.0),
            readings: Bucket::new(limits.readings.into(), 0.0),
            refilled: now,
            throttled_since: None,
        }
    }

    /// So much has been read. Returns when the next message may be, if that is not now.
    #[expect(clippy::cast_precision_loss, reason = "bytes of one message")]
    pub fn spend(&mut self, cost: Cost, now: Instant) -> Option<Instant> {
        let seconds = now.saturating_duration_since(self.refilled).as_secs_f64();
        self.refilled = now;
        let spent = [
            f64::from(cost.messages),
            cost.bytes as f64,
            f64::from(cost.readings),
        ];
        let buckets = [&mut self.messages, &mut self.bytes, &mut self.readings];
        let (mut saved, mut wait) = (true, 0.0_f64);
        for (bucket, spent) in buckets.into_iter().zip(spent) {
            bucket.refill(seconds);
            saved &= bucket.is_half_full();
            bucket.tokens -= spent;
            wait = wait.max(bucket.wait());
        }
        // Half a bucket saved up shows that the device does pause.
        if saved {
            self.throttled_since = None;
        }
        if wait == 0.0 {
            return None;
        }
        self.throttled_since.get_or_insert(now);
        Some(now + Duration::from_secs_f64(wait))
    }

    /// How long the device has been held at its rate without ever letting the buckets fill.
    #[must_use]
    pub fn throttled_for(&self, now: Instant) -> Duration {
        self.throttled_since
            .map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        messages: 100,
        bytes: 100_000,
        readings: 1_000,
    };

    fn message(bytes: u64, readings: u32) -> Cost {
        Cost {
            messages: 1,
            bytes,
            readings,
        }
    }

    /// How many of these pass in ten seconds, after the burst, from a device that never pauses.
    fn in_ten_seconds(cost: Cost) -> u32 {
        let start = Instant::now();
        let mut rate = Rate::new(LIMITS, start);
        while rate.spend(cost, start).is_none() {}
        let (mut now, mut passed) = (start, 0);
        while now < start + Duration::from_secs(10) {
            now = rate.spend(cost, now).unwrap_or(now);
            passed += 1;
        }
        passed
    }

    #[test]
    fn a_burst_of_two_seconds_passes_and_then_the_rate_holds() {
        let start = Instant::now();
        let mut rate = Rate::new(LIMITS, start);
        let burst = (0..1_000)
            .take_while(|_| rate.spend(message(1, 1), start).is_none())
            .count();
        assert_eq!(burst, 199);
        // One message every 10 ms.
        let passed = in_ten_seconds(message(1, 1));
        assert!((990..=1_010).contains(&passed), "{passed}");
    }

    #[test]
    fn few_messages_are_held_to_their_bytes_and_to_their_readings() {
        let large = in_ten_seconds(message(50_000, 1));
        assert!((19..=22).contains(&large), "{large}");
        let full = in_ten_seconds(message(1, 500));
        assert!((19..=22).contains(&full), "{full}");
    }

    #[test]
    fn a_message_larger_than_the_burst_passes_and_is_paid_for_afterwards() {
        let start = Instant::now();
        let mut rate = Rate::new(LIMITS, start);
        let next = rate.spend(message(500_000, 1), start);
        assert_eq!(next, Some(start + Duration::from_secs(3)));
    }

    #[test]
    fn throttling_is_counted_until_the_device_pauses() {
        for cost in [message(1, 1), message(50_000, 1), message(1, 500)] {
            let start = Instant::now();
            let mut rate = Rate::new(LIMITS, start);
            let mut now = start;
            while now < start + Duration::from_secs(100) {
                now = rate.spend(cost, now).unwrap_or(now);
            }
            assert!(rate.throttled_for(now) > Duration::from_secs(90));
            now += Duration::from_secs(3);
            rate.spend(message(1, 1), now);
            assert_eq!(rate.throttled_for(now), Duration::ZERO);
        }
    }
}
