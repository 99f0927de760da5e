//! Live or through the disk: what is overdue, which way is taken, and the change from one to the
//! other.

use std::time::{Duration, Instant};

use super::{Action, Lanes, Now, Pending, Phase, Queued, Route, What};
use crate::reading::Item;

/// With `in_order`, new batches wait in memory again once fewer than this part of the live lane
/// is before them. They must, or a steady stream would go through the disk for ever.
const CATCH_UP: usize = 4;

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
        let waits_too_long = match self.queue.front() {
            Some(Queued::Unsafe(entry)) => entry.since + timeout <= now.mono,
            _ => false,
        };
        let full = self.queue.len() >= self.settings.live_batches
            || self.queue_bytes >= self.settings.live_bytes;
        if waits_too_long || full {
            self.spilling = true;
        } else if self.live_flying == 0 && self.queue.is_empty() {
            self.spilling = false;
        }
        if self.disk_retry.is_some_and(|(at, _)| at <= now.mono) {
            self.disk_bad = false;
        }
        if self.disk_hangs(now.mono) {
            self.disk_bad = true;
        }
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
        let spool = self.stalled_since.is_some()
            || self.spilling
            || s.write_always
            || behind
            || self.suspicion.is_careful();
        if spool { Route::Spool } else { Route::Live }
    }

    pub(super) fn choose_route(&mut self) {
        let wanted = self.wanted_route();
        let before = std::mem::replace(&mut self.route, wanted);
        match self.route {
            Route::Spool if before == Route::Live => self.divert(),
            Route::Live if self.disk_bad && !self.to_commit.is_empty() => self.undivert(),
            _ => {}
        }
    }

    /// How many batches have to go out before a new one may, in order.
    fn behind(&self) -> usize {
        let committing = self
            .committing
            .as_ref()
            .map_or(0, |commit| commit.pending.len());
        let stored = usize::try_from(self.backlog.batches()).unwrap_or(usize::MAX);
        stored.saturating_add(committing + self.to_commit.len())
    }

    /// Everything that is not safe goes to the disk, in the order of arrival.
    pub(super) fn divert(&mut self) {
        let before = self.to_commit.len();
        for (token, flying) in self.flight.iter_mut() {
            if let What::Live(entry) = &flying.what {
                let n = entry.n;
                let What::Live(entry) = std::mem::replace(&mut flying.what, What::Diverted { n })
                else {
                    continue;
                };
                self.to_commit_bytes += entry.item.weight();
                if let Some(origin) = &entry.origin {
                    self.gather.waits(origin.conn);
                }
                self.to_commit.push_back(Pending {
                    entry,
                    token: Some(token),
                    done: false,
                });
            }
        }
        for queued in std::mem::take(&mut self.queue) {
            match queued {
                Queued::Unsafe(entry) => {
                    self.queue_bytes = self.queue_bytes.saturating_sub(entry.item.weight());
                    self.live_readings -= u64::from(entry.item.readings());
                    self.push_commit(Pending {
                        entry,
                        token: None,
                        done: false,
                    });
                }
                stored @ Queued::Stored(..) => self.queue.push_back(stored),
            }
        }
        if self.to_commit.len() > before {
            self.to_commit
                .make_contiguous()
                .sort_by_key(|pending| pending.entry.n);
        }
    }

    /// What is not safe of this device goes to the disk.
    pub(super) fn divert_device(&mut self, device: &str) {
        let of_it = |item: &Item| matches!(item, Item::Batch(batch) if &*batch.device == device);
        for (token, flying) in self.flight.iter_mut() {
            let What::Live(entry) = &flying.what else {
                continue;
            };
            if !of_it(&entry.item) {
                continue;
            }
            let n = entry.n;
            let What::Live(entry) = std::mem::replace(&mut flying.what, What::Diverted { n })
            else {
                continue;
            };
            self.to_commit_bytes += entry.item.weight();
            self.to_commit.push_back(Pending {
                entry,
                token: Some(token),
                done: false,
            });
        }
        for queued in std::mem::take(&mut self.queue) {
            match queued {
                Queued::Unsafe(entry) if of_it(&entry.item) => {
                    self.queue_bytes = self.queue_bytes.saturating_sub(entry.item.weight());
                    self.live_readings -= u64::from(entry.item.readings());
                    self.push_commit(Pending {
                        entry,
                        token: None,
                        done: false,
                    });
                }
                other => self.queue.push_back(other),
            }
        }
        self.to_commit
            .make_contiguous()
            .sort_by_key(|pending| pending.entry.n);
    }

    /// The disk does not work but the uplink does: back to the live lane.
    fn undivert(&mut self) {
        let mut entries = Vec::new();
        for pending in std::mem::take(&mut self.to_commit) {
            self.to_commit_bytes = self
                .to_commit_bytes
                .saturating_sub(pending.entry.item.weight());
            match pending.token.and_then(|token| self.flight.get_mut(token)) {
                _ if pending.done => {}
                Some(flying) => flying.what = What::Live(pending.entry),
                None => entries.push(pending.entry),
            }
        }
        for entry in entries {
            self.push_queue(Queued::Unsafe(entry));
        }
        self.queue
            .make_contiguous()
            .sort_by_key(|queued| match queued {
                Queued::Stored(..) => 0,
                Queued::Unsafe(entry) => entry.n,
            });
    }
}
