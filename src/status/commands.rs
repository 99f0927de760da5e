//! The commands' part of the board.

use super::counts::Counts;
use super::histogram::Histogram;
use super::number::Number;

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
    pub ended: Counts<14>,
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
        }
    }
}
