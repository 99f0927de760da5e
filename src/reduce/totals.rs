//! What was left out of which stream, told once an hour as a gap record with the reason `reduced`.
//!
//! It takes the numbers of batches of which nothing was left off the list of what a consumer waits
//! for, and it is the account of what was decided not to be sent. Kept in memory: a hub that is killed
//! has forgotten those of its last hour.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::reading::{Batch, Gap, GapReason, Moment};

/// From the first reading that was left out of a stream to the record of all of them.
pub(super) const HOUR: Duration = Duration::from_secs(3_600);

/// Streams of which something is to be told: four for each of 1,024 devices, 300 bytes each. When one
/// more comes, the one that has waited longest is told at once.
const STREAMS: usize = 4_096;

type Key = (Arc<str>, Arc<str>);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Totals {
    streams: HashMap<Key, Gap>,
    /// In the order in which they are due: they all wait as long.
    due: VecDeque<(Instant, Key)>,
}

impl Totals {
    /// So many readings were left out of a batch; `whole`: all of them.
    pub(super) fn add(&mut self, batch: &Batch, readings: u32, whole: bool, now: Instant) {
        let gap = Gap {
            batches: u64::from(whole),
            readings: u64::from(readings),
            ..Gap::of(batch, GapReason::Reduced, batch.received)
        };
        let key = (batch.device.clone(), batch.stream.clone());
        if let Some(total) = self.streams.get_mut(&key) {
            total.merge(&gap);
            return;
        }
        self.due.push_back((now + HOUR, key.clone()));
        self.streams.insert(key, gap);
    }

    /// When [`Totals::take`] has something to give.
    pub(super) fn next(&self) -> Option<Instant> {
        self.due.front().map(|(at, _)| *at)
    }

    /// The records that are due; `all`: every one.
    pub(super) fn take(&mut self, now: Instant, moment: Moment, all: bool) -> Vec<Gap> {
        let mut gaps = Vec::new();
        while let Some((at, _)) = self.due.front()
            && (all || *at <= now || self.streams.len() > STREAMS)
            && let Some((_, key)) = self.due.pop_front()
        {
            gaps.extend(self.streams.remove(&key).map(|gap| Gap {
                time: moment.wall,
                clock: moment.doubt(),
                ..gap
            }));
        }
        gaps
    }
}
