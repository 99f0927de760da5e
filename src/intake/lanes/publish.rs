//! Into the window and out of it: what is published next, and what a PUBACK means.

use std::sync::Arc;
use std::time::Duration;

use super::{Action, Entry, Flying, Lanes, Now, Pending, Phase, Queued, What};
use crate::reading::{Gap, GapReason, Item, Lane};

impl Lanes {
    pub(super) fn acked(&mut self, now: Now, epoch: u64, token: u64, out: &mut Vec<Action>) {
        if self.up != Some(epoch) {
            return;
        }
        let since = self.flight.since(token);
        let Some(flying) = self.flight.take(token) else {
            return;
        };
        if let (Some(since), Lane::History) = (since, flying.lane) {
            self.pace.acked(now.mono, since, flying.item.weight());
        }
        self.last_ack = Some(now.mono);
        self.suspicion.acked(now.mono);
        self.landed(&flying);
        match flying.what {
            What::Live(entry) => self.settle(entry.origin, out),
            What::Stored(loc) => self.backlog.done(loc),
            What::GivenUp => {}
            What::Diverted { n } => {
                if let Some(pending) = self.pending_mut(n) {
                    pending.token = None;
                    pending.done = true;
                    let origin = pending.entry.origin.take();
                    self.settle(origin, out);
                }
            }
        }
    }

    /// Not safe by this. What is not on disk goes there, and with it all of its device that is
    /// not safe: nothing is committed before an older batch of its stream. What is stored waits
    /// there for the next connection.
    pub(super) fn refused(&mut self, epoch: u64, token: u64) {
        if self.up != Some(epoch) {
            return;
        }
        let Some(flying) = self.flight.take(token) else {
            return;
        };
        self.landed(&flying);
        match flying.what {
            What::Live(entry) => {
                let Item::Batch(batch) = &*entry.item else {
                    self.push_queue(Queued::Unsafe(entry));
                    return;
                };
                let device = batch.device.clone();
                self.push_commit(Pending {
                    entry,
                    token: None,
                    done: false,
                });
                self.divert_device(&device);
            }
            What::Diverted { n } => {
                if let Some(pending) = self.pending_mut(n) {
                    pending.token = None;
                }
            }
            What::Stored(loc) => self.backlog.park(loc),
            What::GivenUp => {}
        }
    }

    pub(super) fn unpublishable(
        &mut self,
        now: Now,
        epoch: u64,
        token: u64,
        reason: GapReason,
        out: &mut Vec<Action>,
    ) {
        if self.up != Some(epoch) {
            return;
        }
        let Some(flying) = self.flight.take(token) else {
            return;
        };
        self.landed(&flying);
        match flying.what {
            What::Live(mut entry) => {
                // Its gap takes its place, and with it the right to be acked.
                entry.item = gap_instead(&entry.item, reason, now, out);
                self.push_queue(Queued::Unsafe(entry));
            }
            What::Diverted { n } => {
                if let Some(pending) = self.pending_mut(n) {
                    pending.token = None;
                    let gap = gap_instead(&pending.entry.item, reason, now, out);
                    let item = std::mem::replace(&mut pending.entry.item, gap.clone());
                    self.to_commit_bytes =
                        (self.to_commit_bytes + gap.weight()).saturating_sub(item.weight());
                }
            }
            What::Stored(loc) => {
                let gap = gap_instead(&flying.item, reason, now, out);
                self.backlog.substitute(loc, gap);
            }
            What::GivenUp => {}
        }
    }

    pub(super) fn submit(&mut self, now: Now, out: &mut Vec<Action>) {
        let Some(epoch) = self.up else { return };
        if self.stalled_since.is_some() {
            return;
        }
        let careful = self.suspicion.is_careful();
        let stored_first = self.settings.in_order || careful;
        let share = self.drain_share(now);
        while self.flight.room() > 0 && (!careful || self.flight.is_empty()) {
            let draining = self.flight.len() - self.live_flying;
            let may_drain = self.phase == Phase::Running
                && self.backlog.has_next()
                && (self.settings.in_order || draining < share)
                && self.pace.allows(self.history_bytes);
            let live_waits = !self.queue.is_empty();
            // What waits in the queue but is stored is older than anything in the backlog.
            let held = stored_first
                && matches!(self.queue.front(), Some(Queued::Unsafe(_)))
                && (self.backlog.has_next()
                    || !self.backlog.all_at_hand()
                    || self
                        .committing
                        .as_ref()
                        .is_some_and(|commit| commit.passed < commit.pending.len())
                    || !self.to_commit.is_empty());
            if let Some(past) = self.past_the_disk(now) {
                let Entry { n, item, .. } = &past.entry;
                let (what, item) = (What::Diverted { n: *n }, item.clone());
                let (n, token) = (*n, self.fly(now, epoch, Lane::History, item, what, out));
                if let Some(pending) = self.pending_mut(n) {
                    pending.token = Some(token);
                }
            } else if live_waits && (!held || self.phase != Phase::Running) {
                self.submit_live(now, epoch, out);
            } else if may_drain {
                self.submit_stored(now, epoch, out);
            } else {
                break;
            }
        }
    }

    /// How many stored items may be in flight, so that a live batch never finds the window full.
    fn drain_share(&self, now: Now) -> usize {
        /// With live traffic this part of the window is kept for it.
        const RESERVE: usize = 4;
        const RECENT: Duration = Duration::from_secs(1);
        let window = self.settings.window;
        let live = self
            .last_live
            .is_some_and(|at| now.mono.duration_since(at) < RECENT);
        if live && window > 1 {
            window - window.div_ceil(RESERVE)
        } else {
            window
        }
    }

    /// The next batch that a hanging disk holds up and that may as well be published.
    fn past_the_disk(&mut self, now: Now) -> Option<&Pending> {
        let behind_others = self.settings.in_order
            && (self.backlog.has_next()
                || !self.backlog.all_at_hand()
                || matches!(self.queue.front(), Some(Queued::Stored(..))));
        if !self.disk_hangs(now.mono) || behind_others {
            return None;
        }
        let commit = self.committing.as_mut()?;
        let rest = &commit.pending[commit.passed..];
        let skipped = rest
            .iter()
            .position(|pending| pending.token.is_none() && !pending.done);
        commit.passed += skipped.map_or(rest.len(), |at| at + 1);
        commit.pending[..commit.passed]
            .last()
            .filter(|_| skipped.is_some())
    }

    fn submit_live(&mut self, now: Now, epoch: u64, out: &mut Vec<Action>) {
        let Some(queued) = self.queue.pop_front() else {
            return;
        };
        let (item, what) = match queued {
            Queued::Unsafe(entry) => {
                self.queue_bytes = self.queue_bytes.saturating_sub(entry.item.weight());
                (entry.item.clone(), What::Live(entry))
            }
            Queued::Stored(loc, item) => {
                self.queue_bytes = self.queue_bytes.saturating_sub(item.weight());
                (item, What::Stored(loc))
            }
        };
        self.live_flying += 1;
        self.fly(now, epoch, Lane::Live, item, what, out);
    }

    fn submit_stored(&mut self, now: Now, epoch: u64, out: &mut Vec<Action>) {
        let Some((loc, item)) = self.backlog.take_next() else {
            return;
        };
        self.fly(now, epoch, Lane::History, item, What::Stored(loc), out);
    }

    fn fly(
        &mut self,
        now: Now,
        epoch: u64,
        lane: Lane,
        item: Arc<Item>,
        what: What,
        out: &mut Vec<Action>,
    ) -> u64 {
        let readings = u64::from(item.readings());
        let item = if self.suspicion.is_set_aside(&item) {
            gap_instead(&item, GapReason::TooLarge, now, out)
        } else {
            item
        };
        if lane == Lane::History {
            self.history_bytes += item.weight();
        }
        let token = self.flight.submit(
            now.mono,
            Flying {
                what,
                item: item.clone(),
                lane,
                readings,
            },
        );
        out.push(Action::Publish {
            epoch,
            token,
            lane,
            item,
        });
        token
    }

    fn landed(&mut self, flying: &Flying) {
        if flying.lane == Lane::Live {
            self.live_flying -= 1;
            self.live_readings = self.live_readings.saturating_sub(flying.readings);
        } else {
            self.history_bytes = self.history_bytes.saturating_sub(flying.item.weight());
        }
    }
}

/// The gap record that is published instead of this item.
fn gap_instead(item: &Item, reason: GapReason, now: Now, out: &mut Vec<Action>) -> Arc<Item> {
    let gap = match item {
        Item::Batch(batch) => Gap::of(batch, reason, now.moment),
        // A gap record is a few hundred bytes; a broker that refuses even that will get it again.
        Item::Gap(gap) => gap.clone(),
    };
    out.push(Action::Lost(gap.clone()));
    Arc::new(Item::Gap(gap))
}
