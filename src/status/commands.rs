//! The commands' part of the board.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::counts::Counts;
use super::histogram::Histogram;
use super::number::{Number, lock};
use super::report::PastCommand;
use crate::clock;

/// Ended commands that are remembered of each device, to be shown: 3 KB, which only a device that
/// is sent commands takes.
const REMEMBERED: usize = 16;

/// Why desired states are passed over.
pub const SKIPS: [&str; 3] = ["forbidden", "malformed", "too-large"];

/// How a command ended. Without arguments and values, which may be secrets.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "as in the answer to a command")]
pub struct CommandEnd {
    /// [`clock::uptime`].
    pub time: f64,
    pub id: Option<Arc<str>>,
    pub name: Arc<str>,
    /// The topic that it came by, `admin`, or `device` for a result that nobody asked for.
    pub who: Arc<str>,
    pub state: &'static str,
    /// One of [`OUTCOMES`].
    pub outcome: &'static str,
    pub attempt: u32,
    /// From receipt to the end.
    pub took: Duration,
    pub late: bool,
}

/// The commands of one device.
#[derive(Debug, Default)]
pub struct DeviceCommands(Mutex<Option<Box<Ends>>>);

#[derive(Debug)]
struct Ends {
    counts: Counts<{ OUTCOMES.len() }>,
    last: VecDeque<CommandEnd>,
}

impl DeviceCommands {
    /// One more has ended.
    pub fn ended(&self, end: CommandEnd) {
        let mut ends = lock(&self.0);
        let ends = ends.get_or_insert_with(|| {
            Box::new(Ends {
                counts: Counts::new(OUTCOMES),
                last: VecDeque::new(),
            })
        });
        if !end.late {
            ends.counts.add(end.outcome, 1);
        }
        if ends.last.len() >= REMEMBERED {
            ends.last.pop_front();
        }
        ends.last.push_back(end);
    }

    /// How the last ones ended, newest last.
    #[must_use]
    pub fn report(&self) -> Vec<PastCommand> {
        let ends = lock(&self.0);
        let last = ends.iter().flat_map(|ends| &ends.last);
        last.map(|end| PastCommand {
            time: clock::wall_at(end.time),
            id: end.id.as_deref().map(str::to_owned),
            name: end.name.to_string(),
            who: end.who.to_string(),
            state: end.state.to_owned(),
            error: (end.outcome != end.state).then(|| end.outcome.to_owned()),
            attempt: end.attempt,
            took: end.took.as_secs_f64(),
            late: end.late,
        })
        .collect()
    }

    /// How often each outcome was there, those that never were left out.
    #[must_use]
    pub fn counts(&self) -> Vec<(&'static str, u64)> {
        let ends = lock(&self.0);
        let counts = ends.iter().flat_map(|ends| ends.counts.iter());
        counts.filter(|(_, count)| *count > 0).collect()
    }
}

/// How commands end: what the room of the commands calls it.
pub const OUTCOMES: [&str; 14] = [
    "busy",
    "conflict",
    "disconnected",
    "done",
    "expired",
    "failed",
    "forbidden",
    "hub stopping",
    "malformed",
    "offline",
    "retained",
    "timeout",
    "too-large",
    "unknown",
];

/// Numbers of the commands.
#[derive(Debug)]
pub struct CommandBoard {
    /// Messages on topics of commands, and requests of the operator.
    pub received: Number,
    /// Commands sent to devices, again included.
    pub sent: Number,
    /// Gauge: accepted, and waiting for their turn.
    pub waiting: Number,
    /// Gauge: sent, and not ended.
    pub under_way: Number,
    /// How they ended.
    pub ended: Counts<{ OUTCOMES.len() }>,
    /// From receipt to the end, of what was sent.
    pub latency: Histogram,
    /// Results that came after the end.
    pub late: Number,
    /// Messages that no answer could be sent to.
    pub unanswerable: Number,
    /// Refusals and progress that nobody was told of, [`Self::dropped`] included.
    pub untold: Number,
    /// Those of them that the uplink had no room for.
    pub dropped: Number,
    /// Gauge: 1 while the broker sends commands to the hub.
    pub listening: Number,
    /// Results that were given up: too old, too large for the broker, or lost with the spool.
    pub lost: Number,
    /// Results that answer nothing.
    pub stray: Number,
    /// Desired states handed to devices.
    pub desired_given: Number,
    /// Desired states that were passed over.
    pub desired_skipped: Counts<{ SKIPS.len() }>,
    /// Reported states that the broker has taken.
    pub reported: Number,
    /// Reported states that the broker did not take.
    pub reported_refused: Number,
    /// Reported states of devices that may not report.
    pub reported_skipped: Number,
}

impl Default for CommandBoard {
    fn default() -> Self {
        Self {
            received: Number::default(),
            sent: Number::default(),
            waiting: Number::default(),
            under_way: Number::default(),
            ended: Counts::new(OUTCOMES),
            latency: Histogram::default(),
            late: Number::default(),
            unanswerable: Number::default(),
            untold: Number::default(),
            dropped: Number::default(),
            listening: Number::default(),
            lost: Number::default(),
            stray: Number::default(),
            desired_given: Number::default(),
            desired_skipped: Counts::new(SKIPS),
            reported: Number::default(),
            reported_refused: Number::default(),
            reported_skipped: Number::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(n: u32, late: bool) -> CommandEnd {
        CommandEnd {
            time: f64::from(n),
            id: Some(n.to_string().into()),
            name: "on".into(),
            who: "admin".into(),
            state: "refused",
            outcome: "busy",
            attempt: 0,
            took: Duration::ZERO,
            late,
        }
    }

    #[test]
    fn the_oldest_ends_give_way_and_are_counted_all_the_same() {
        let commands = DeviceCommands::default();
        assert!(commands.report().is_empty() && commands.counts().is_empty());
        for n in 0..100 {
            commands.ended(end(n, false));
        }
        commands.ended(end(100, true));
        let report = commands.report();
        assert_eq!(report.len(), REMEMBERED);
        assert_eq!(report[15].id.as_deref(), Some("100"));
        assert_eq!(report[15].error.as_deref(), Some("busy"));
        assert_eq!(commands.counts(), [("busy", 100)]);
    }
}
