//! What one client, or a swarm of them, counts.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Notes that wait to be printed; more are only counted.
const NOTES: usize = 64;

/// Counters that clients write and a reporter reads.
#[derive(Debug, Default)]
pub struct Stats {
    /// Connections with a welcome, now.
    pub connected: AtomicU64,
    /// Welcomes ever.
    pub welcomes: AtomicU64,
    /// Connections lost after a welcome.
    pub lost: AtomicU64,
    /// Attempts to connect that failed.
    pub failed_connects: AtomicU64,
    /// Batches made.
    pub made: AtomicU64,
    /// Frames with a batch sent, repeats included.
    pub sent: AtomicU64,
    /// Bytes of these frames' payloads, without WebSocket headers.
    pub sent_bytes: AtomicU64,
    /// Batches acked.
    pub acked: AtomicU64,
    /// Readings in these.
    pub acked_readings: AtomicU64,
    /// Batches rejected.
    pub rejected: AtomicU64,
    /// Batches given up before the hub had them: pushed out by newer ones, or too large.
    pub dropped: AtomicU64,
    /// Times that the hub broke the contract.
    pub violations: AtomicU64,
    shared: Mutex<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    latency: Histogram,
    reasons: BTreeMap<String, u64>,
    notes: VecDeque<String>,
    unsaid: u64,
}

impl Stats {
    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A batch was acked this long after it was made.
    pub fn acked(&self, latency: Duration, readings: u32) {
        self.acked.fetch_add(1, Relaxed);
        self.acked_readings.fetch_add(u64::from(readings), Relaxed);
        self.shared().latency.add(latency);
    }

    /// Something that a person should read, counted by its kind.
    pub fn note(&self, kind: &str, text: impl Into<String>) {
        let mut shared = self.shared();
        *shared.reasons.entry(kind.to_owned()).or_default() += 1;
        if shared.notes.len() < NOTES {
            shared.notes.push_back(text.into());
        } else {
            shared.unsaid += 1;
        }
    }

    /// Takes the notes, and how many more there were.
    pub fn take_notes(&self) -> (Vec<String>, u64) {
        let mut shared = self.shared();
        (
            std::mem::take(&mut shared.notes).into(),
            std::mem::take(&mut shared.unsaid),
        )
    }

    /// How often what was noted, by kind.
    pub fn reasons(&self) -> BTreeMap<String, u64> {
        self.shared().reasons.clone()
    }

    /// The latencies so far.
    pub fn latency(&self) -> Histogram {
        self.shared().latency.clone()
    }
}

/// Buckets per doubling, as a power of two: 32 keep every figure within about 3 %.
const FINE: u32 = 5;

/// Durations in microseconds, in buckets that grow with them.
#[derive(Debug, Clone, Default)]
pub struct Histogram {
    buckets: Vec<u64>,
    count: u64,
    max: u64,
}

impl Histogram {
    /// Adds one.
    pub fn add(&mut self, duration: Duration) {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let bucket = Self::bucket(micros);
        if bucket >= self.buckets.len() {
            self.buckets.resize(bucket + 1, 0);
        }
        self.buckets[bucket] += 1;
        self.count += 1;
        self.max = self.max.max(micros);
    }

    fn bucket(micros: u64) -> usize {
        if micros < (1 << FINE) {
            return micros as usize;
        }
        let doublings = micros.ilog2() - FINE;
        ((u64::from(doublings + 1) << FINE) + ((micros >> doublings) - (1 << FINE))) as usize
    }

    /// The highest value that belongs to a bucket.
    fn upper(bucket: usize) -> u64 {
        let bucket = bucket as u64;
        if bucket < (1 << FINE) {
            return bucket;
        }
        let doublings = (bucket >> FINE) - 1;
        let fine = bucket & ((1 << FINE) - 1);
        (((1 << FINE) + fine + 1) << doublings) - 1
    }

    /// How many were added.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The duration below which this share of them lies; zero when there are none.
    #[must_use]
    pub fn quantile(&self, share: f64) -> Duration {
        let rank = (share * self.count as f64).ceil().max(1.0) as u64;
        let mut seen = 0;
        for (bucket, count) in self.buckets.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return Duration::from_micros(Self::upper(bucket).min(self.max));
            }
        }
        Duration::ZERO
    }

    /// The longest.
    #[must_use]
    pub fn max(&self) -> Duration {
        Duration::from_micros(self.max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_quantile_is_within_a_few_percent() {
        let mut histogram = Histogram::default();
        for micros in 1..=100_000 {
            histogram.add(Duration::from_micros(micros));
        }
        for share in [0.01, 0.5, 0.95, 0.99] {
            let exact = share * 100_000.0;
            let got = histogram.quantile(share).as_micros() as f64;
            assert!(
                (got / exact - 1.0).abs() < 0.04,
                "{share}: {got} for {exact}"
            );
        }
        assert_eq!(histogram.max(), Duration::from_micros(100_000));
        assert_eq!(histogram.quantile(1.0), histogram.max());
        assert_eq!(Histogram::default().quantile(0.5), Duration::ZERO);
    }

    #[test]
    fn buckets_follow_each_other_without_holes() {
        for bucket in 0..500 {
            assert_eq!(Histogram::bucket(Histogram::upper(bucket)), bucket);
            assert_eq!(Histogram::bucket(Histogram::upper(bucket) + 1), bucket + 1);
        }
    }
}
