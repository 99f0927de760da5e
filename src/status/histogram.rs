//! How long things take.

use std::time::Duration;

use super::number::Number;

/// Upper bounds of the buckets in microseconds: from a broker on the same machine to a link on
/// which `ack_timeout` has passed three times.
pub const BOUNDS: [u64; 15] = [
    500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    2_500_000, 5_000_000, 10_000_000, 30_000_000,
];

/// Counts durations by bucket. One observation is a search among 15 numbers and two additions.
#[derive(Debug, Default)]
pub struct Histogram {
    /// Each bucket's own, not those below it; the last one has what is above all bounds.
    buckets: [Number; BOUNDS.len() + 1],
    micros: Number,
}

impl Histogram {
    /// `n` of these took so long.
    pub fn observe(&self, duration: Duration, n: u64) {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let bucket = BOUNDS.partition_point(|bound| *bound < micros);
        self.buckets[bucket].add(n);
        self.micros.add(micros.saturating_mul(n));
    }

    /// How many there were within each bound, and in all: the numbers grow.
    #[must_use]
    pub fn cumulated(&self) -> [u64; BOUNDS.len() + 1] {
        let mut sum = 0;
        std::array::from_fn(|at| {
            sum += self.buckets[at].get();
            sum
        })
    }

    /// Of all durations, in microseconds.
    #[must_use]
    pub fn sum_micros(&self) -> u64 {
        self.micros.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_counts_in_its_bucket_and_in_all_above() {
        let histogram = Histogram::default();
        histogram.observe(Duration::from_micros(500), 2);
        histogram.observe(Duration::from_micros(501), 1);
        histogram.observe(Duration::from_secs(31), 1);
        let cumulated = histogram.cumulated();
        assert_eq!(cumulated[0], 2);
        assert_eq!(cumulated[1], 3);
        assert_eq!(cumulated[14], 3);
        assert_eq!(cumulated[15], 4);
        assert_eq!(histogram.sum_micros(), 31_001_501);
    }
}
