//! The connects and ends of one device.

use std::collections::VecDeque;

use super::report::Past;
use crate::clock;

/// Connects and ends that are remembered of each device: enough to see how often a bad link
/// drops, about 1 KB, which only a device that comes and goes ever takes.
pub const HISTORY: usize = 32;

/// The newest [`HISTORY`] connects and ends.
#[derive(Debug, Default)]
pub(super) struct History(VecDeque<(f64, bool, &'static str)>);

impl History {
    /// `time`: [`clock::uptime`].
    pub(super) fn push(&mut self, time: f64, online: bool, reason: &'static str) {
        if self.0.len() >= HISTORY {
            self.0.pop_front();
        }
        self.0.push_back((time, online, reason));
    }

    /// Newest last.
    pub(super) fn report(&self) -> Vec<Past> {
        let past = |&(time, online, reason): &(f64, bool, &str)| Past {
            time: clock::wall_at(time),
            state: state(online, reason).to_owned(),
            reason: reason.to_owned(),
        };
        self.0.iter().map(past).collect()
    }
}

/// Why a device is gone that has said when it will be back.
pub const ASLEEP: &str = "asleep";

/// The word for it.
#[must_use]
pub fn state(online: bool, reason: &str) -> &'static str {
    match (online, reason) {
        (true, _) => "online",
        (false, ASLEEP) => ASLEEP,
        (false, _) => "offline",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_give_way_and_the_newest_stand_last() {
        let mut history = History::default();
        for n in 0..100_u32 {
            history.push(f64::from(n), n % 2 == 0, "closed");
        }
        let report = history.report();
        assert_eq!(report.len(), HISTORY);
        assert!(report[0].time < report[1].time);
        assert_eq!(report[31].time, clock::wall_at(99.0));
        assert_eq!(report[31].state, "offline");
    }
}
