//! Every number that is kept beside what it counts is counted again: in debug builds after each
//! event, so in all tests and in the simulation.

use std::collections::HashMap;
use std::sync::Arc;

use super::{Aside, Lanes, Pending, Source};
use crate::reading::Lane;

impl Lanes {
    /// Checks now and then: the more there is to count, the less often.
    pub(super) fn check_sometimes(&mut self) {
        /// Things that are counted at once after each event.
        const AT_ONCE: usize = 256;
        let things = self.live.len() + self.to_commit.len() + self.flight.len();
        self.unchecked += 1;
        if self.unchecked > things / AT_ONCE {
            self.unchecked = 0;
            self.check();
        }
    }

    /// Panics when a number is not what it counts.
    pub fn check(&self) {
        self.live.check();
        self.backlog.check();
        self.refusals.check();
        let flying = || self.flight.iter();
        let live = || flying().filter(|flying| flying.lane == Lane::Live);
        assert_eq!(self.live_flying, live().count(), "live publishes out");
        let cost: usize = live().map(|flying| flying.cost).sum();
        assert_eq!(self.live_cost, cost, "bytes of live publishes out");
        let readings: u64 = live().map(|flying| flying.readings).sum();
        assert_eq!(self.flying_readings, readings, "readings out");
        let history = flying().filter(|flying| flying.lane == Lane::History);
        let cost: usize = history.map(|flying| flying.cost).sum();
        assert_eq!(self.history_cost, cost, "bytes of the backlog out");
        for (device, count) in &self.spilling {
            let of_it = live().filter(|flying| flying.item.device() == device);
            assert_eq!(*count, of_it.count(), "publishes of {device} out");
            assert_ne!(*count, 0, "{device} has nothing out");
        }
        self.check_pending();
    }

    fn check_pending(&self) {
        let committing = self.committing.iter().flat_map(|commit| &commit.pending);
        let pending = || self.to_commit.iter();
        let all: Vec<&Pending> = pending().chain(committing).collect();
        let weights = all.iter().map(|pending| pending.entry.item.weight());
        assert_eq!(
            self.to_commit_bytes,
            weights.sum::<usize>(),
            "bytes for the disk"
        );
        let mut aside: HashMap<Arc<str>, Aside> = HashMap::new();
        for pending in all.iter().filter(|pending| pending.aside) {
            let of_it = aside
                .entry(pending.entry.item.device().clone())
                .or_default();
            of_it.batches += 1;
            of_it.bytes += pending.entry.item.weight();
        }
        assert_eq!(self.aside, aside, "what is put aside");
        let order: Vec<u64> = pending().map(|pending| pending.entry.n).collect();
        assert!(order.is_sorted(), "not in the order of arrival: {order:?}");
        for pending in all {
            let Some(token) = pending.token else { continue };
            let flies = self.flight.get(token);
            let n = pending.entry.n;
            assert!(
                flies.is_some_and(
                    |flying| matches!(flying.source, Source::Diverted { n: m } if n == m)
                ),
                "{n} is on its way to the disk and does not fly"
            );
        }
    }
}
