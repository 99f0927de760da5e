//! What the broker refuses: where it goes, and when it is tried again.
//!
//! A refusal is not safety. What was refused goes to the disk or stays there, and its key's
//! breaker opens ([`Refusals`](crate::intake::refusals::Refusals)). Until it closes, new batches of
//! that device go to the disk at once, and what is stored of it is passed over; nobody else
//! notices. A new batch that probes goes both ways: it must not be what others of its stream wait
//! for.

use std::sync::Arc;

use super::{Action, Aside, Entry, Flying, Lanes, Now, Pending, Phase, Route, Source};
use crate::intake::refusals::Key;
use crate::reading::{Item, Lane, Topic};
use crate::uplink::Refusal;

/// Bytes of one device that may wait for a disk which does not work while nobody else's have to,
/// because the broker refuses this device: with as much again of seven others the intake still
/// takes what comes.
const DEVICE_HELD: usize = 1 << 20;

impl Lanes {
    pub(super) fn refused(
        &mut self,
        now: Now,
        epoch: u64,
        token: u64,
        refusal: &Refusal,
        out: &mut Vec<Action>,
    ) {
        if self.up != Some(epoch) {
            return;
        }
        let since = self.flight.since(token);
        let Some(flying) = self.flight.take(token) else {
            return;
        };
        self.answered(now, since, &flying);
        let device = flying.item.device().clone();
        let key = Key::new(&device, flying.item.topic(flying.lane));
        if key.topic == Topic::Response {
            return self.refused_elsewhere(flying, refusal, out);
        }
        self.open(now, &key, refusal, out);
        let Flying {
            source, item, lane, ..
        } = flying;
        match source {
            Source::Live(entry) => {
                self.refusals.count(&key, 1);
                self.send_to_disk(vec![(None, entry)]);
            }
            Source::Diverted { n } => {
                if let Some(pending) = self.pending_mut(n) {
                    pending.token = None;
                }
            }
            Source::Stored(loc) if lane == Lane::Live => self.backlog.give_back(loc, &item),
            Source::Stored(loc) => self.backlog.park(loc, &item, refusal.cause),
            Source::GivenUp => {}
        }
        let data = key.topic != Topic::Result;
        if data && (lane == Lane::Live || self.is_put_aside(&device)) {
            self.put_aside(&device, &key);
        }
    }

    /// An answer was refused where whoever asked wanted it: from now on what is for there goes to
    /// the topic of its device.
    fn refused_elsewhere(&mut self, flying: Flying, refusal: &Refusal, out: &mut Vec<Action>) {
        let device = flying.item.device().clone();
        if let Item::Reply(reply) = &*flying.item
            && let Some(topic) = &reply.topic
        {
            self.backlog.goes_elsewhere(topic);
        }
        match flying.source {
            Source::Live(entry) if self.refusals.is_open(&device, Topic::Result) => {
                self.send_to_disk(vec![(None, entry)]);
            }
            Source::Live(entry) => self.live.merge(vec![entry]),
            Source::Diverted { n } => {
                if let Some(pending) = self.pending_mut(n) {
                    pending.token = None;
                }
            }
            Source::Stored(loc) => self.backlog.give_back(loc, &flying.item),
            Source::GivenUp => {}
        }
        let detail = refusal.detail.clone();
        out.push(Action::RefusedElsewhere { device, detail });
    }

    /// Whether this is an answer to a command that the broker would refuse.
    pub(super) fn is_refused_answer(&self, item: &Item) -> bool {
        let topic = item.topic(Lane::Live);
        topic == Topic::Result && self.refusals.is_open(item.device(), topic)
    }

    /// What waits of a device whose live data is refused goes, or stays, on the disk.
    fn put_aside(&mut self, device: &Arc<str>, key: &Key) {
        let moved = self.divert_device(device);
        self.refusals.count(key, moved);
        for (loc, item) in self.live.take_stored_of(device) {
            self.backlog.give_back(loc, &item);
        }
    }

    fn open(&mut self, now: Now, key: &Key, refusal: &Refusal, out: &mut Vec<Action>) {
        let opened = self.refusals.refused(now.mono, now.moment, key, refusal);
        if let Some(forgotten) = opened.forgotten {
            self.closed(&forgotten, out);
        }
        if key.topic != Topic::Data {
            self.backlog.hold(key);
        }
        if opened.new {
            self.flag_aside(&key.device);
            if key.topic == Topic::History {
                out.push(Action::Unwanted {
                    device: key.device.clone(),
                    unwanted: true,
                });
            }
            out.push(Action::Refused {
                key: key.clone(),
                detail: refusal.detail.clone(),
            });
        } else {
            out.push(Action::RefusedAgain { topic: key.topic });
        }
    }

    /// The broker has taken something of this key.
    pub(super) fn accepted(&mut self, key: &Key, out: &mut Vec<Action>) {
        if self.refusals.taken(key) {
            self.closed(key, out);
            out.push(Action::Accepted { key: key.clone() });
        }
    }

    /// Nothing stands in the way of this key any more.
    fn closed(&mut self, key: &Key, out: &mut Vec<Action>) {
        match key.topic {
            Topic::Data | Topic::Response => {}
            Topic::History => {
                self.backlog.release(key);
                if let Some(commit) = &mut self.committing {
                    commit.passed = 0;
                }
                out.push(Action::Unwanted {
                    device: key.device.clone(),
                    unwanted: false,
                });
            }
            Topic::Gap | Topic::Result => self.backlog.release(key),
        }
        self.flag_aside(&key.device);
    }

    /// What is on its way to the disk of this device is waited for by others, or is not any more.
    fn flag_aside(&mut self, device: &Arc<str>) {
        let aside = self.is_put_aside(device);
        let mut sum = Aside::default();
        let committing = self.committing.iter_mut();
        let pending = self
            .to_commit
            .iter_mut()
            .chain(committing.flat_map(|commit| &mut commit.pending));
        for pending in pending.filter(|pending| pending.entry.item.device() == device) {
            pending.aside = aside;
            sum.batches += 1;
            sum.bytes += pending.entry.item.weight();
        }
        if aside && sum.batches > 0 {
            self.aside.insert(device.clone(), sum);
        } else {
            self.aside.remove(device);
        }
    }

    /// Whether what is new of this device has to wait because of what the broker refuses. In order,
    /// it waits for its device's backlog.
    pub(super) fn is_put_aside(&self, device: &Arc<str>) -> bool {
        self.refusals.is_open(device, Topic::Data)
            || self.settings.in_order && self.refusals.is_open(device, Topic::History)
    }

    /// Whether a new batch of this device goes to the disk although others go out at once.
    pub(super) fn is_set_apart(&self, device: &Arc<str>) -> bool {
        self.is_put_aside(device)
            || (!self.spilling.is_empty() && self.spilling.contains_key(device))
            // In order, it must not overtake what was put aside before.
            || self.settings.in_order
                && (self.backlog.is_behind(device) || self.aside.contains_key(device))
    }

    /// Whether the disk has no room for more of a device that has nowhere else to go.
    pub(super) fn has_no_room_for(&self, device: &Arc<str>) -> bool {
        let held = self.aside.get(device).map_or(0, |aside| aside.bytes);
        self.disk_bad && self.route == Route::Live && held >= DEVICE_HELD
    }

    /// A batch of a device that is set apart goes to the disk, and as a probe to the broker if
    /// that is due.
    pub(super) fn apart(&mut self, now: Now, entry: Entry, out: &mut Vec<Action>) {
        let key = Key::new(entry.item.device(), Topic::Data);
        let aside = self.is_put_aside(&key.device);
        let (n, item, cost) = (entry.n, entry.item.clone(), entry.cost);
        self.push_commit(Pending::new(entry, None, aside));
        if !self.refusals.is_open(&key.device, Topic::Data) {
            return;
        }
        self.refusals.count(&key, 1);
        let in_turn = !self.settings.in_order || self.is_next(&key.device);
        let may = in_turn && self.may_probe() && self.flight.room() > 0;
        if may && self.refusals.may_probe(now.mono, &key) {
            let Some(epoch) = self.up else { return };
            self.refusals.probe(now.mono, &key);
            let source = Source::Diverted { n };
            let token = self.fly(now, epoch, Lane::Live, item, cost, source, out);
            if let Some(pending) = self.pending_mut(n) {
                pending.token = Some(token);
            }
        }
    }

    /// Whether the batch of this device that is on its way to the disk has no other before it.
    fn is_next(&self, device: &Arc<str>) -> bool {
        let alone = self
            .aside
            .get(device)
            .is_some_and(|aside| aside.batches == 1)
            && !self.refusals.is_open(device, Topic::History);
        alone && !self.others_first() && !self.backlog.is_behind(device)
    }

    /// Whether a batch that was just stored may go out as live data from memory.
    pub(super) fn may_go_live(&mut self, now: Now, item: &Item) -> bool {
        let key = Key::new(item.device(), item.topic(Lane::Live));
        let history = self.refusals.is_open(&key.device, Topic::History);
        if self.settings.in_order && (history || self.backlog.is_behind(&key.device)) {
            return false;
        }
        if !self.refusals.is_open(&key.device, key.topic) {
            return true;
        }
        let probes = self.may_probe() && self.refusals.may_probe(now.mono, &key);
        if probes {
            self.refusals.probe(now.mono, &key);
        } else {
            self.refusals.count(&key, 1);
        }
        probes
    }

    /// Whether a probe that goes out now would say something.
    pub(super) fn may_probe(&self) -> bool {
        self.up.is_some() && self.phase == Phase::Running && self.stalled_since.is_none()
    }

    /// Sets off the probes of what is stored, and hears what the backlog has passed over.
    pub(super) fn probe(&mut self, now: Now) {
        while self.may_probe()
            && let Some(key) = self.refusals.due(now.mono)
        {
            if self.backlog.probe(&key) {
                self.refusals.probe(now.mono, &key);
            } else {
                self.refusals.nothing_stored(&key);
            }
        }
        for key in self.backlog.take_nothing() {
            self.refusals.nothing_stored(&key);
        }
        for (key, batches) in self.backlog.take_passed() {
            self.refusals.count(&key, batches);
            self.refusals.is_stored(&key);
        }
    }
}
