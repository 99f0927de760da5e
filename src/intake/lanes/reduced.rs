//! What the operator's rules leave out of what comes in, and the records that say so.

use std::sync::Arc;
use std::time::Instant;

use super::{Lanes, Now, Pending, Phase, Queued, Route};
use crate::reading::{Batch, Gap, Item, Topic};
use crate::reduce::{Counts, Reducer, Selected};

impl Lanes {
    /// The same lanes, with rules about what comes in.
    #[must_use]
    pub fn with_reducer(self, reducer: Option<Reducer>) -> Self {
        Self { reducer, ..self }
    }

    /// What became of the readings that there are rules for; `None`: there are no rules.
    #[must_use]
    pub fn reduced(&self) -> Option<Counts> {
        self.reducer.as_ref().map(Reducer::counts)
    }

    /// What is left of a new batch, and about how many bytes of payload; `None`: nothing, and so it
    /// is safe.
    pub(super) fn reduce(
        &mut self,
        now: Now,
        batch: Batch,
        resolved: usize,
    ) -> Option<(Batch, usize)> {
        let Some(reducer) = &mut self.reducer else {
            return Some((batch, resolved));
        };
        match reducer.reduce(&batch, now.mono) {
            Selected::All => Some((batch, resolved)),
            Selected::Nothing => None,
            Selected::Some(less) => {
                let part = less.readings as usize;
                let whole = batch.readings.max(less.readings) as usize;
                Some((less, (resolved * part).div_ceil(whole)))
            }
        }
    }

    pub(super) fn next_total(&self) -> Option<Instant> {
        self.reducer.as_ref().and_then(Reducer::next_total)
    }

    /// What was left out is told once an hour, and at the stop.
    pub(super) fn tell_totals(&mut self, now: Now) {
        let Some(reducer) = &mut self.reducer else {
            return;
        };
        let all = self.phase != Phase::Running;
        for gap in reducer.totals(now.mono, now.moment, all) {
            self.total(now, gap);
        }
    }

    /// Takes its way like a batch that comes now: behind everything of its stream, because a number
    /// that is on disk makes those below it safe.
    fn total(&mut self, now: Now, gap: Gap) {
        let device = gap.device.clone();
        let item = Arc::new(Item::Gap(gap));
        let cost = item.payload_estimate();
        let entry = self.entry(now, item, cost, None);
        let live = self.route == Route::Live && !self.is_set_apart(&device);
        if live && !self.refusals.is_open(&device, Topic::Gap) {
            self.live.push(Queued::Unsafe(entry));
            return;
        }
        let aside = self.is_put_aside(&device);
        self.push_commit(Pending::new(entry, None, aside));
        if live {
            self.divert_device(&device);
        }
    }
}
