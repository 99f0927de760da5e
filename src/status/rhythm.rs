//! How often a device sends, learned from what came, and when its silence is worth a word. Pure.

/// Arrivals that are closer together than this, in seconds, are one: a device that sends ten
/// batches a second, or many after an outage, is one that sends every second.
const STEP: f64 = 1.0;

/// Pauses that are remembered: few enough that a new habit is learned within some minutes, and
/// enough that one late batch is not taken for the habit.
const PAUSES: usize = 16;

/// Pauses before anything is said.
const ENOUGH: usize = 4;

/// Pauses of the usual length that may pass without a word …
const PATIENCE: f64 = 3.0;

/// … and seconds on top: a radio link that is down for a moment is no news.
const FLOOR: f64 = 60.0;

/// The pauses between one device's arrivals. Times are seconds of one steady clock.
#[derive(Debug, Default)]
pub struct Rhythm {
    last: Option<f64>,
    pauses: [f32; PAUSES],
    /// How many were noted, in all.
    noted: usize,
}

impl Rhythm {
    /// Something came.
    pub fn note(&mut self, now: f64) {
        let Some(last) = self.last else {
            self.last = Some(now);
            return;
        };
        let pause = now - last;
        if pause < STEP {
            return;
        }
        #[expect(clippy::cast_possible_truncation, reason = "seconds, for an estimate")]
        let pause = pause as f32;
        self.pauses[self.noted % PAUSES] = pause;
        self.noted += 1;
        self.last = Some(now);
    }

    /// The device was away: the time until it comes again says nothing of how often it sends.
    pub fn interrupt(&mut self) {
        self.last = None;
    }

    /// The usual pause, in seconds; `None` while there were too few.
    #[must_use]
    pub fn usual(&self) -> Option<f64> {
        self.sorted().map(|pauses| pauses[pauses.len() / 2])
    }

    /// Seconds after which silence is unusual: some of the longer pauses that are usual. The very
    /// longest is left out, because it may have been a fault already.
    #[must_use]
    pub fn silent_after(&self) -> Option<f64> {
        self.sorted()
            .map(|pauses| FLOOR + PATIENCE * pauses[pauses.len() - 2])
    }

    fn sorted(&self) -> Option<Vec<f64>> {
        let pauses = &self.pauses[..self.noted.min(PAUSES)];
        if pauses.len() < ENOUGH {
            return None;
        }
        let mut pauses: Vec<_> = pauses.iter().copied().map(f64::from).collect();
        pauses.sort_by(f64::total_cmp);
        Some(pauses)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn of(times: impl IntoIterator<Item = f64>) -> Rhythm {
        let mut rhythm = Rhythm::default();
        times.into_iter().for_each(|time| rhythm.note(time));
        rhythm
    }

    #[test]
    fn nothing_is_said_of_a_device_that_has_hardly_sent() {
        assert_eq!(of([]).usual(), None);
        assert_eq!(of([1.0, 2.0, 3.0, 4.0]).silent_after(), None);
        assert_eq!(of([1.0, 2.0, 3.0, 4.0, 5.0]).usual(), Some(1.0));
    }

    #[test]
    fn many_in_a_second_are_one_a_second() {
        let fast = of((0..1_000).map(|n| f64::from(n) / 64.0));
        assert_eq!(fast.usual(), Some(1.0));
        // A backlog of a hundred batches between readings that come every ten minutes.
        let slow = of((0..20)
            .flat_map(|n| (0..100).map(move |i| f64::from(n) * 600.0 + f64::from(i) * 0.001)));
        assert_eq!(slow.usual().unwrap().round(), 600.0);
        assert_eq!(slow.silent_after().unwrap().round(), 1_860.0);
    }

    #[test]
    fn one_long_pause_is_no_habit_and_an_interruption_is_none_at_all() {
        let mut times: Vec<_> = (0..20).map(f64::from).collect();
        times.extend((0..10).map(|n| 4_000.0 + f64::from(n)));
        let rhythm = of(times);
        assert_eq!(rhythm.usual(), Some(1.0));
        assert_eq!(rhythm.silent_after(), Some(63.0));
        let mut rhythm = of((0..20).map(f64::from));
        rhythm.interrupt();
        rhythm.note(9_000.0);
        rhythm.note(9_001.0);
        assert_eq!(rhythm.silent_after(), Some(63.0));
    }

    #[test]
    fn a_new_habit_is_learned() {
        let mut rhythm = of((0..100).map(f64::from));
        (1..=20).for_each(|n| rhythm.note(100.0 + 300.0 * f64::from(n)));
        assert_eq!(rhythm.usual(), Some(300.0));
    }
}
