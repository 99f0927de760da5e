//! Into the window and out of it: what is published next, and what a PUBACK means.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Action, Entry, Flying, Lanes, Now, Pending, Phase, Queued, Source};
use crate::intake::refusals::Key;
use crate::reading::{Gap, GapReason, Item, Lane, Topic};
use crate::uplink::{Cause, Refusal};

impl Lanes {
    pub(super) fn acked(&mut self, now: Now, epoch: u64, token: u64, out: &mut Vec<Action>) {
        if self.up != Some(epoch) {
            return;
        }
        let since = self.flight.since(token);
        let Some(flying) = self.flight.take(token) else {
            return;
        };
        self.answered(now, since, &flying);
        if !self.refusals.is_empty() {
            let key = Key::new(flying.item.device(), flying.item.topic(flying.lane));
            self.accepted(&key, out);
        }
        match flying.source {
            Source::Live(entry) => self.settle(entry.origin, out),
            Source::Stored(loc) => self.backlog.done(loc),
            Source::GivenUp => {}
            Source::Diverted { n } => {
                if let Some(pending) = self.pending_mut(n) {
                    pending.token = None;
                    pending.done = true;
                    let origin = pending.entry.origin.take();
                    self.settle(origin, out);
                }
            }
        }
    }

    /// The broker has answered to it, whatever it said.
    pub(super) fn answered(&mut self, now: Now, since: Option<Instant>, flying: &Flying) {
        if let Some(since) = since {
            match flying.lane {
                Lane::History => self.drain_window.acked(now.mono, since, flying.cost),
                Lane::Live => {
                    // What it waited for others to go with says nothing of the link.
                    let sent = (since + self.settings.pack_delay).min(now.mono);
                    self.live_window.acked(now.mono, sent, flying.cost);
                }
            }
        }
        self.last_ack = Some(now.mono);
        self.landed(flying);
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
        let is_gap = |flying: &Flying| matches!(*flying.item, Item::Gap(_));
        if self.flight.get(token).is_some_and(is_gap) {
            // Nothing less can be said, and it has to be said: it is tried again, and not at once.
            let refusal = Refusal {
                cause: Cause::TOO_LARGE,
                detail: "not even a gap record can be published here".to_owned(),
            };
            return self.refused(now, epoch, token, &refusal, out);
        }
        let Some(flying) = self.flight.take(token) else {
            return;
        };
        self.landed(&flying);
        match flying.source {
            Source::Live(mut entry) => {
                // It takes its place, and with it the right to be acked.
                let Some(instead) = instead_of(&entry.item, reason, now, out) else {
                    return self.settle(entry.origin, out);
                };
                entry.item = instead;
                entry.cost = entry.item.payload_estimate();
                let device = entry.item.device().clone();
                let topic = entry.item.topic(Lane::Live);
                if topic == Topic::Gap && self.refusals.is_open(&device, topic) {
                    self.send_to_disk(vec![(None, entry)]);
                    self.divert_device(&device);
                } else {
                    self.live.push(Queued::Unsafe(entry));
                }
            }
            Source::Diverted { n } => {
                if let Some(pending) = self.pending_mut(n) {
                    pending.token = None;
                    let Some(instead) = instead_of(&pending.entry.item, reason, now, out) else {
                        pending.done = true;
                        let origin = pending.entry.origin.take();
                        return self.settle(origin, out);
                    };
                    let weight = instead.weight();
                    let aside = pending.aside;
                    let item = std::mem::replace(&mut pending.entry.item, instead);
                    self.to_commit_bytes = self.to_commit_bytes - item.weight() + weight;
                    if aside && let Some(aside) = self.aside.get_mut(item.device()) {
                        aside.bytes = aside.bytes - item.weight() + weight;
                    }
                }
            }
            Source::Stored(loc) => match instead_of(&flying.item, reason, now, out) {
                Some(instead) => self.backlog.substitute(loc, instead),
                None => self.backlog.done(loc),
            },
            Source::GivenUp => {}
        }
    }

    pub(super) fn submit(&mut self, now: Now, out: &mut Vec<Action>) {
        let Some(epoch) = self.up else { return };
        if self.stalled_since.is_some() {
            return;
        }
        let share = self.drain_share(now);
        while self.flight.room() > 0 {
            let draining = self.flight.len() - self.live_flying;
            let may_drain = self.phase == Phase::Running
                && self.backlog.has_next()
                && (self.settings.in_order || draining < share)
                && self.may_fly(Lane::History);
            let answers = self.phase == Phase::Running && self.backlog.has_reply();
            let live_waits = !self.live.is_empty();
            // What waits in the queue but is stored is older than anything in the backlog.
            let held = self.settings.in_order
                && matches!(self.live.front(), Some(Queued::Unsafe(_)))
                && self.others_first();
            if let Some(past) = self.past_the_disk(now) {
                let Entry { n, item, cost, .. } = &past.entry;
                let (n, item, cost) = (*n, item.clone(), *cost);
                let source = Source::Diverted { n };
                let token = self.fly(now, epoch, Lane::History, item, cost, source, out);
                if let Some(pending) = self.pending_mut(n) {
                    pending.token = Some(token);
                }
            } else if answers && self.may_fly(Lane::History) {
                self.submit_stored(now, epoch, out);
            } else if live_waits && (!held || self.phase != Phase::Running) {
                if !self.may_fly(Lane::Live) {
                    break;
                }
                self.submit_live(now, epoch, out);
            } else if may_drain {
                self.submit_stored(now, epoch, out);
            } else {
                break;
            }
        }
    }

    /// Whether there is room for the bytes of one more of this lane. One is always let through,
    /// but no second large one, of whichever lane.
    fn may_fly(&self, lane: Lane) -> bool {
        let (live, history) = (self.live_cost, self.history_cost);
        if live + history == 0 {
            return true;
        }
        match lane {
            Lane::Live => self.live_window.allows(live) && !self.drain_window.exceeded(history),
            Lane::History => self.drain_window.allows(history) && !self.live_window.exceeded(live),
        }
    }

    /// Whether something is on the disk, or on its way there, that has to go out before a new
    /// batch does. What the broker refuses is not waited for.
    pub(super) fn others_first(&self) -> bool {
        let counts = |pending: &Pending| !pending.aside;
        let committing = self.committing.as_ref();
        self.backlog.has_next()
            || !self.backlog.all_at_hand()
            || committing.is_some_and(|commit| commit.pending[commit.passed..].iter().any(counts))
            || self.to_commit.iter().any(counts)
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
                || matches!(self.live.front(), Some(Queued::Stored(..))));
        if !self.disk_hangs(now.mono) || behind_others {
            return None;
        }
        let commit = self.committing.as_mut()?;
        let refusals = &self.refusals;
        let rest = &commit.pending[commit.passed..];
        let skipped = rest.iter().position(|pending| {
            let item = &pending.entry.item;
            pending.token.is_none()
                && !pending.done
                && !refusals.is_open(item.device(), item.topic(Lane::History))
        });
        commit.passed += skipped.map_or(rest.len(), |at| at + 1);
        commit.pending[..commit.passed]
            .last()
            .filter(|_| skipped.is_some())
    }

    fn submit_live(&mut self, now: Now, epoch: u64, out: &mut Vec<Action>) {
        let Some(queued) = self.live.pop() else {
            return;
        };
        let cost = queued.cost();
        let (item, source) = match queued {
            Queued::Unsafe(entry) => (entry.item.clone(), Source::Live(entry)),
            Queued::Stored(loc, item) => (item, Source::Stored(loc)),
        };
        self.fly(now, epoch, Lane::Live, item, cost, source, out);
    }

    fn submit_stored(&mut self, now: Now, epoch: u64, out: &mut Vec<Action>) {
        let Some((loc, item)) = self.backlog.take_next() else {
            return;
        };
        let cost = item.payload_estimate();
        self.fly(
            now,
            epoch,
            Lane::History,
            item,
            cost,
            Source::Stored(loc),
            out,
        );
    }

    #[expect(clippy::too_many_arguments, reason = "each says something else of it")]
    pub(super) fn fly(
        &mut self,
        now: Now,
        epoch: u64,
        lane: Lane,
        item: Arc<Item>,
        cost: usize,
        source: Source,
        out: &mut Vec<Action>,
    ) -> u64 {
        let item = self.backlog.redirect(item);
        let readings = u64::from(item.readings());
        match lane {
            Lane::History => self.history_cost += cost,
            Lane::Live => {
                self.live_flying += 1;
                self.live_cost += cost;
                self.flying_readings += readings;
                if let Some(out) = self.spilling.get_mut(item.device()) {
                    *out += 1;
                }
            }
        }
        let token = self.flight.submit(
            now.mono,
            Flying {
                source,
                item: item.clone(),
                lane,
                cost,
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

    pub(super) fn landed(&mut self, flying: &Flying) {
        if flying.lane == Lane::History {
            self.history_cost -= flying.cost;
            return;
        }
        self.live_flying -= 1;
        self.live_cost -= flying.cost;
        self.flying_readings -= flying.readings;
        let device = flying.item.device();
        if let Some(out) = self.spilling.get_mut(device) {
            *out -= 1;
            if *out == 0 {
                self.spilling.remove(device);
            }
        }
    }
}

/// What is published instead of this item: a gap record, or an answer without its value. `None`:
/// nothing is left to be said.
fn instead_of(
    item: &Arc<Item>,
    reason: GapReason,
    now: Now,
    out: &mut Vec<Action>,
) -> Option<Arc<Item>> {
    let gap = match &**item {
        Item::Batch(batch) => Gap::of(batch, reason, now.moment),
        // It comes here no more: see `Lanes::unpublishable`.
        Item::Gap(gap) => gap.clone(),
        Item::Reply(reply) => {
            let less = reply.without_value().map(Item::Reply).map(Arc::new);
            if less.is_none() {
                let item = item.clone();
                out.push(Action::AnswerLost { item, reason });
            }
            return less;
        }
    };
    out.push(Action::Lost(gap.clone()));
    Some(Arc::new(Item::Gap(gap)))
}
