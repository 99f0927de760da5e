//! How many readings a reader of events is shown. Pure.

use std::time::Instant;

/// So many readings a second, and no more than that at once.
#[derive(Debug)]
pub struct Budget {
    a_second: f64,
    left: f64,
    at: Instant,
}

impl Budget {
    /// A full one.
    #[must_use]
    pub fn new(a_second: u32, now: Instant) -> Self {
        Self {
            a_second: f64::from(a_second),
            left: f64::from(a_second),
            at: now,
        }
    }

    /// How many of `wanted` readings may be shown now; these are taken off.
    pub fn take(&mut self, wanted: u32, now: Instant) -> u32 {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.at = now;
        self.left = (self.left + passed * self.a_second).min(self.a_second);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "between 0 and a u32"
        )]
        let taken = wanted.min(self.left as u32);
        self.left -= f64::from(taken);
        taken
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_second_brings_so_many_and_a_pause_no_more_than_a_second_does() {
        let began = Instant::now();
        let mut budget = Budget::new(20, began);
        assert_eq!(budget.take(50, began), 20);
        assert_eq!(budget.take(1, began), 0);
        let shown: u32 = (1..=1_000)
            .map(|ms| budget.take(3, began + Duration::from_millis(ms)))
            .sum();
        assert!((19..=20).contains(&shown), "{shown}");
        assert_eq!(budget.take(90, began + Duration::from_secs(60)), 20);
    }
}
