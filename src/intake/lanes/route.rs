//! Live or through the disk: what is overdue, which way is taken, and the change from one to the
//! other.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Action, Entry, Lanes, Now, Pending, Phase, Route, Source};
use crate::reading::Lane;

/// With `in_order`, new batches wait in memory again once fewer than this part of the live lane
/// is before them. They must, or a steady stream would go through the disk for ever.
const CATCH_UP: usize = 4;

/// One device may have this part of the live queue's bytes: a largest payload, with the default.
const DEVICE_BYTES: usize = 8;

/// And this part of its batches: one device alone does not go to the disk before the broker is
/// slow.
const DEVICE_BATCHES: usize = 2;

/// A broker that has not sent one PUBACK for this many `ack_timeout`s, though publishes are in
/// flight, has lost them: the connection is made anew.
pub(super) const HOPELESS: u32 = 6;

/// A commit that takes longer than this stands before a disk that hangs (a frozen file system, a
/// card that recovers): ten times what the largest takes on the slowest card. With the uplink up,
/// data goes past it.
pub(super) const DISK_PATIENCE: Duration = Duration::from_secs(10);

impl Lanes {
    pub(super) fn check_deadlines(&mut self, now: Now, out: &mut Vec<Action>) {
        let timeout = self.settings.ack_timeout;
        let overdue = self
            .flight
            .oldest()
            .is_some_and(|(since, _)| since + timeout <= now.mono);
        match (overdue, self.stalled_since) {
            (true, None) => self.stalled_since = Some(now.mono),
            (true, Some(since)) => {
                let progress = self.last_ack.max(Some(since)).unwrap_or(since);
                if self.up.is_some() && progress + timeout * HOPELESS <= now.mono {
                    out.push(Action::Reconnect);
                    self.stalled_since = Some(now.mono);
                }
            }
            (false, _) => self.stalled_since = None,
        }
        self.spill(now);
        if self.disk_retry.is_some_and(|(at, _)| at <= now.mono) {
            self.disk_bad = false;
        }
        if self.disk_hangs(now.mono) {
            self.disk_bad = true;
        }
    }

    /// Whether what is too much for the live queue may go to the disk.
    pub(super) fn may_spill(&self) -> bool {
        self.route == Route::Live && !self.disk_bad
    }

    /// Who has waited too long in the live queue, or fills it, goes through the disk.
    fn spill(&mut self, now: Now) {
        let timeout = self.settings.ack_timeout;
        while self.may_spill()
            && let Some((since, device)) = self.live.oldest()
            && since + timeout <= now.mono
        {
            let device = device.clone();
            self.spill_device(&device);
        }
        while self.may_spill()
            && (self.live.len() >= self.settings.live_batches
                || self.live.weight() >= self.settings.live_bytes)
            && let Some(device) = self.live.heaviest()
        {
            if self.spill_device(&device) == 0 {
                // What is stored already waits for the broker alone.
                return;
            }
        }
    }

    /// The same for one device that has just got more.
    pub(super) fn spill_if_too_much(&mut self, device: &Arc<str>) {
        let (batches, bytes) = self.live.of(device);
        let much = batches > self.settings.live_batches / DEVICE_BATCHES
            || bytes > self.settings.live_bytes / DEVICE_BYTES;
        if much && self.may_spill() {
            self.spill_device(device);
        }
    }

    /// Returns how many batches go to the disk.
    fn spill_device(&mut self, device: &Arc<str>) -> u64 {
        let diverted = self.divert_device(device);
        let live = self
            .flight
            .iter()
            .filter(|flying| flying.lane == Lane::Live);
        let out = live.filter(|flying| flying.item.device() == device).count();
        if out > 0 {
            self.spilling.insert(device.clone(), out);
        }
        diverted
    }

    /// Whether the disk has not answered for so long that it counts as failed.
    #[must_use]
    pub fn disk_hangs(&self, now: Instant) -> bool {
        let commit = self.committing.as_ref();
        commit.is_some_and(|commit| commit.since + DISK_PATIENCE <= now)
    }

    fn wanted_route(&self) -> Route {
        let s = &self.settings;
        if self.up.is_none() || self.phase == Phase::Abandoning {
            return Route::Spool;
        }
        if self.disk_bad && self.stalled_since.is_none() {
            return Route::Live;
        }
        let behind = s.in_order && self.behind() > s.live_batches / CATCH_UP;
        let spool = self.stalled_since.is_some() || s.write_always || behind;
        if spool { Route::Spool } else { Route::Live }
    }

    pub(super) fn choose_route(&mut self) {
        let wanted = self.wanted_route();
        let before = std::mem::replace(&mut self.route, wanted);
        match self.route {
            Route::Spool if before == Route::Live => self.divert(),
            Route::Live if self.disk_bad && self.some_may_go_live() => self.undivert(),
            _ => {}
        }
    }

    fn some_may_go_live(&self) -> bool {
        let aside: usize = self.aside.values().map(|aside| aside.batches).sum();
        let committing = self.committing.iter().flat_map(|commit| &commit.pending);
        let aside_committing = committing.filter(|pending| pending.aside).count();
        self.to_commit.len() + aside_committing > aside
    }

    /// How many batches have to go out before a new one may, in order.
    fn behind(&self) -> usize {
        let committing = self
            .committing
            .as_ref()
            .map_or(0, |commit| commit.pending.len());
        let stored = usize::try_from(self.backlog.ahead()).unwrap_or(usize::MAX);
        let aside: usize = self.aside.values().map(|aside| aside.batches).sum();
        stored.saturating_add(committing + self.to_commit.len() - aside)
    }

    /// Everything that is not safe goes to the disk, in the order of arrival.
    pub(super) fn divert(&mut self) {
        let mut entries = self.take_flying(|_| true);
        let queued = self.live.take_unsafe();
        entries.extend(queued.into_iter().map(|entry| (None, entry)));
        self.spilling.clear();
        self.send_to_disk(entries);
    }

    /// What is not safe of this device goes to the disk. Returns how many batches that are.
    pub(super) fn divert_device(&mut self, device: &Arc<str>) -> u64 {
        let mut entries = self.take_flying(|other| other == device);
        let queued = self.live.take_unsafe_of(device);
        entries.extend(queued.into_iter().map(|entry| (None, entry)));
        let diverted = entries.len() as u64;
        self.send_to_disk(entries);
        diverted
    }

    /// What flies and is not safe, of the devices that are wanted. It flies on.
    fn take_flying(&mut self, wanted: impl Fn(&Arc<str>) -> bool) -> Vec<(Option<u64>, Entry)> {
        let mut entries = Vec::new();
        for (token, flying) in self.flight.iter_mut() {
            let n = match &flying.source {
                Source::Live(entry) if wanted(entry.item.device()) => entry.n,
                _ => continue,
            };
            let source = std::mem::replace(&mut flying.source, Source::Diverted { n });
            if let Source::Live(entry) = source {
                entries.push((Some(token), entry));
            }
        }
        entries
    }

    pub(super) fn send_to_disk(&mut self, entries: Vec<(Option<u64>, Entry)>) {
        if entries.is_empty() {
            return;
        }
        for (token, entry) in entries {
            let aside = self.is_put_aside(entry.item.device());
            self.push_commit(Pending::new(entry, token, aside));
        }
        self.to_commit
            .make_contiguous()
            .sort_by_key(|pending| pending.entry.n);
    }

    /// The disk does not work but the uplink does: back to the live lane, but for what the broker
    /// refuses.
    fn undivert(&mut self) {
        self.spilling.clear();
        let mut entries = Vec::new();
        for pending in std::mem::take(&mut self.to_commit) {
            let aside = pending.aside || self.is_refused_answer(&pending.entry.item);
            if aside {
                self.to_commit.push_back(pending);
                continue;
            }
            self.left_commit(&pending);
            match pending.token.and_then(|token| self.flight.get_mut(token)) {
                _ if pending.done => {}
                Some(flying) => flying.source = Source::Live(pending.entry),
                None => entries.push(pending.entry),
            }
        }
        self.live.merge(entries);
    }
}
