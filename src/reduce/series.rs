//! One name of one device: what was kept last, and whether the next reading is worth as much.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::{Duration, Instant};

use crate::config::{Deadband, ReduceRule};
use crate::protocol::number::Number;
use crate::protocol::pack::resolved::{Resolved, ResolvedValue};
use crate::protocol::select::When;

/// What a reading says. Of texts and data only a hash is kept, so that a series takes the same room
/// whatever it is of; that a change goes unseen happens once in 2^64.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Says {
    Number(Number),
    Other(u64),
}

/// When it was taken, in seconds: by the device's clock, or by the hub's, which no step moves.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Taken {
    Device(f64),
    Hub(f64),
}

/// A reading as it is compared with the one that was kept last.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Reading {
    /// `None`: a sum alone.
    says: Option<Says>,
    has_sum: bool,
    unit: Option<u64>,
    taken: Taken,
    arrived: Instant,
}

fn hash(of: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    of.hash(&mut hasher);
    hasher.finish()
}

impl Reading {
    /// `uptime`: when the batch arrived, by the machine's clock since its start.
    pub(super) fn of(record: &Resolved<'_>, when: When, uptime: f64, arrived: Instant) -> Self {
        let says = record.value.map(|value| match value {
            ResolvedValue::Number(number) => Says::Number(number),
            ResolvedValue::Text(text) => Says::Other(hash(&(0, text))),
            ResolvedValue::Bool(value) => Says::Other(hash(&(1, value))),
            ResolvedValue::Data(data) => Says::Other(hash(&(2, data))),
        });
        Self {
            says,
            has_sum: record.sum.is_some(),
            unit: record.unit.map(|unit| hash(&unit)),
            taken: match when {
                When::Given(time) => Taken::Device(time),
                When::Arrival(seconds) => Taken::Hub(uptime + seconds),
            },
            arrived,
        }
    }

    /// Seconds since another; `None`: they are not by the same clock, or this one is the older.
    fn since(&self, last: &Self) -> Option<f64> {
        let seconds = match (self.taken, last.taken) {
            (Taken::Device(now), Taken::Device(then)) | (Taken::Hub(now), Taken::Hub(then)) => {
                now - then
            }
            _ => return None,
        };
        (seconds >= 0.0).then_some(seconds)
    }

    /// Whether it has to be published, when `last` was the last one of its series that was.
    pub(super) fn is_kept(&self, last: &Self, rule: &ReduceRule) -> bool {
        let comparable = self.unit == last.unit && !self.has_sum && !last.has_sum;
        let (Some(says), Some(said), true) = (self.says, last.says, comparable) else {
            return true;
        };
        let Some(seconds) = self.since(last) else {
            return true;
        };
        // A clock that stands still must not hide the silence.
        let waited = self.arrived.saturating_duration_since(last.arrived);
        if seconds >= rule.max_interval.as_secs_f64() || waited >= rule.max_interval {
            return true;
        }
        let soon = seconds < rule.min_interval.as_secs_f64();
        match (says, said) {
            (Says::Number(now), Says::Number(then)) => !soon && leaves(now, then, rule.deadband),
            // A state that changes is news, however soon. One that stays is told again at the pace
            // that was asked for.
            (now, then) => now != then || (!soon && rule.deadband.is_none()),
        }
    }
}

/// Whether a number is away from another by more than the deadband. Without one every number is.
fn leaves(now: Number, then: Number, deadband: Option<Deadband>) -> bool {
    let away = distance(now, then);
    match deadband {
        None => true,
        Some(Deadband::Absolute(width)) => away > width,
        Some(Deadband::Percent(percent)) => away > then.as_f64().abs() * percent / 100.0,
    }
}

/// Counters beyond 2^53 still differ by one.
#[expect(
    clippy::cast_precision_loss,
    reason = "the nearest double is near enough"
)]
fn distance(a: Number, b: Number) -> f64 {
    match (a.as_integer(), b.as_integer()) {
        (Some(a), Some(b)) => (a - b).unsigned_abs() as f64,
        _ => (a.as_f64() - b.as_f64()).abs(),
    }
}

/// No value of a series that a rule holds for is told less often, so none is out of date sooner.
#[must_use]
pub fn silence(rule: &ReduceRule) -> Duration {
    /// The device may be late by as much again.
    const LATE: u32 = 2;
    rule.max_interval.saturating_mul(LATE)
}
