//! How many bytes that is in a day: what wears a flash card, or what a metered link costs.
//!
//! Pure: readings of a counter go in, bytes a day come out. It is what was counted in the last
//! 24 h. While the run is younger, what was counted since it began is scaled up to a day, as if the
//! run were at least an hour old: the first minute of an outage says nothing of a day.

use std::collections::VecDeque;
use std::time::Duration;

const DAY: Duration = Duration::from_secs(86_400);

/// A run younger than this counts as this old.
const LEAST: Duration = Duration::from_secs(3_600);

/// Readings are remembered at this distance. The day is exact to one of them, and they are 145.
const STEP: Duration = Duration::from_secs(600);

/// Bytes a day.
#[derive(Debug, Default)]
pub struct BytesPerDay {
    /// Age of the run and bytes counted by then, oldest first. At most one is older than a day.
    readings: VecDeque<(Duration, u64)>,
}

impl BytesPerDay {
    /// Whether the next reading is worth remembering. Between readings nothing has to be read.
    #[must_use]
    pub fn is_due(&self, age: Duration) -> bool {
        let last = self.readings.back();
        last.is_none_or(|(at, _)| age.saturating_sub(*at) >= STEP)
    }

    /// When the run was so old, so many bytes had been counted. Returns the bytes a day.
    pub fn observe(&mut self, age: Duration, counted: u64) -> u64 {
        if self.readings.is_empty() {
            self.readings.push_back((Duration::ZERO, 0));
        }
        if self.is_due(age) {
            self.readings.push_back((age, counted));
        }
        while let Some((second, _)) = self.readings.get(1)
            && *second + DAY <= age
        {
            self.readings.pop_front();
        }
        let (since, before) = self.readings[0];
        let time = age.saturating_sub(since).max(LEAST);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "a rate, not negative"
        )]
        let rate = (counted.saturating_sub(before) as f64 * DAY.as_secs_f64() / time.as_secs_f64())
            .round() as u64;
        rate
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);
    const HOUR: Duration = Duration::from_secs(3_600);

    #[test]
    fn a_young_run_is_scaled_up_and_its_first_hour_counts_as_one() {
        let mut flash = BytesPerDay::default();
        assert_eq!(flash.observe(MINUTE, 1_000), 24_000);
        assert_eq!(flash.observe(HOUR, 1_000), 24_000);
        assert_eq!(flash.observe(HOUR * 6, 1_000), 4_000);
    }

    #[test]
    fn what_is_more_than_a_day_ago_is_forgotten() {
        let mut flash = BytesPerDay::default();
        for minute in 0..=3 * 24 * 60_u32 {
            let written = match minute / 60 {
                0 => u64::from(minute) * 1_000,
                1..48 => 60_000,
                hours => 60_000 + u64::from(hours - 47) * 10,
            };
            let rate = flash.observe(MINUTE * minute, written);
            match minute / 60 {
                2..24 => assert!(rate >= 60_000, "{minute}: {rate}"),
                26..48 => assert_eq!(rate, 0, "{minute}"),
                48.. => assert!(rate <= 250, "{minute}: {rate}"),
                _ => {}
            }
            assert!(flash.readings.len() <= 147);
        }
        assert!((240..=250).contains(&flash.observe(HOUR * 72, 60_250)));
    }

    #[test]
    fn a_steady_rate_is_told_as_it_is_however_often_it_is_asked() {
        for every in [1, 7, 90] {
            let mut flash = BytesPerDay::default();
            let mut rate = 0;
            for look in 1..=5_000_u32 {
                let age = MINUTE * every * look;
                rate = flash.observe(age, age.as_secs() * 5);
            }
            assert_eq!(rate, 5 * 86_400, "every {every} minutes");
        }
    }
}
