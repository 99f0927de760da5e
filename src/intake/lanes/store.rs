//! To the disk and back: commits, their outcome, and reading on.

use std::time::Duration;

use super::{Action, Commit, Lanes, Now, Pending, Phase, Queued, Route, Source};
use crate::intake::backlog::Load;
use crate::intake::moved::Moved;
use crate::intake::tracked::SlotState;
use crate::spool::{GroupId, Loc};

/// Bytes of items in one commit at most. The disk is given what gathered while it was busy, so
/// this only bounds how long one commit can take on the slowest card: 1 MiB at 1 MB/s.
const COMMIT_BYTES: usize = 1 << 20;

/// First and longest pause before a failed commit is tried again.
const DISK_RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10));

/// Pause before a disk that could not be read is read again.
pub(super) const LOAD_RETRY: Duration = Duration::from_secs(5);

impl Lanes {
    pub(super) fn committed(
        &mut self,
        now: Now,
        ticket: u64,
        placed: &[Loc],
        out: &mut Vec<Action>,
    ) {
        let Some(commit) = self.committing.take_if(|commit| commit.ticket == ticket) else {
            return;
        };
        let took = now.mono.saturating_duration_since(commit.since);
        self.group_commit.committed(took);
        (self.disk_bad, self.disk_full, self.disk_retry) = (false, false, None);
        let mut groups: Vec<GroupId> = Vec::new();
        let direct = self.may_publish_from_memory();
        for (pending, loc) in commit.pending.into_iter().zip(placed) {
            self.left_commit(&pending);
            let Pending {
                entry, token, done, ..
            } = pending;
            if groups.last() != Some(&loc.group) {
                groups.push(loc.group);
            }
            let may_go = direct && self.live.len() < self.settings.live_batches;
            let state = match token {
                _ if done => SlotState::Done,
                Some(_) => SlotState::Busy,
                None if may_go && self.may_go_live(now, &entry.item) => SlotState::Busy,
                None => SlotState::Idle,
            };
            self.backlog.stored(*loc, &entry.item, state);
            if let Some(flying) = token.and_then(|token| self.flight.get_mut(token)) {
                flying.source = Source::Stored(*loc);
            } else if state == SlotState::Busy {
                self.live.push(Queued::Stored(*loc, entry.item));
            }
            self.settle(entry.origin, out);
        }
        self.backlog.commit_ends(groups);
    }

    pub(super) fn commit_failed(
        &mut self,
        now: Now,
        ticket: u64,
        full: bool,
        out: &mut Vec<Action>,
    ) {
        let Some(commit) = self.committing.take_if(|commit| commit.ticket == ticket) else {
            return;
        };
        self.streams.put_back(&commit.marks);
        let pause = self
            .disk_retry
            .map_or(DISK_RETRY.0, |(_, pause)| (pause * 2).min(DISK_RETRY.1));
        self.disk_retry = Some((now.mono + pause, pause));
        (self.disk_bad, self.disk_full) = (true, full);
        self.to_commit.extend(commit.pending);
        self.to_commit
            .make_contiguous()
            .sort_by_key(|pending| pending.entry.n);
        if full && self.settings.refuse && self.phase == Phase::Running {
            self.refuse_waiting(out);
        }
    }

    /// Whoever waits for a disk that has no room is told that the hub cannot take data now. What was
    /// taken stays, unacked, and is stored if there is room again.
    fn refuse_waiting(&mut self, out: &mut Vec<Action>) {
        let waiting = self.to_commit.iter().filter(|pending| !pending.done);
        for conn in waiting.filter_map(|pending| pending.entry.origin?.conn()) {
            if self.turned_away.insert(conn) {
                out.push(Action::Refuse { conn });
            }
        }
    }

    pub(super) fn start_commit(&mut self, now: Now, out: &mut Vec<Action>) {
        let wait = self.disk_retry.is_some_and(|(at, _)| at > now.mono);
        self.held_until = None;
        if self.committing.is_some() || wait {
            return;
        }
        if self.may_hold_back()
            && let Some(oldest) = self.to_commit.front().map(|pending| pending.entry.since)
        {
            self.held_until = self
                .group_commit
                .until(now.mono, oldest, self.to_commit_bytes);
            if self.held_until.is_some() {
                return;
            }
        }
        let mut bytes = 0;
        let mut pending = Vec::new();
        while let Some(next) = self.to_commit.pop_front() {
            let weight = next.entry.item.weight();
            if next.done {
                self.left_commit(&next);
                continue;
            }
            if bytes > 0 && bytes + weight > COMMIT_BYTES {
                self.to_commit.push_front(next);
                break;
            }
            bytes += weight;
            pending.push(next);
        }
        if pending.is_empty() {
            return;
        }
        self.group_commit.begun();
        self.ticket += 1;
        let items = pending
            .iter()
            .map(|pending| pending.entry.item.clone())
            .collect();
        let marks = self.streams.take_dirty();
        let commit = Commit {
            ticket: self.ticket,
            pending,
            marks: marks.clone(),
            since: now.mono,
            passed: 0,
        };
        self.committing = Some(commit);
        out.push(Action::Commit {
            ticket: self.ticket,
            items,
            marks,
        });
    }

    /// Whether a commit may wait for more to go with it. Not once the hub stops. Not after one that
    /// failed, because the pause before the next attempt was long enough. And not when new batches
    /// go the live way again: nothing more would come.
    fn may_hold_back(&self) -> bool {
        let more_comes =
            self.route == Route::Spool || !self.spilling.is_empty() || !self.aside.is_empty();
        self.phase == Phase::Running && self.disk_retry.is_none() && more_comes
    }

    /// Stored items that are in memory as well follow where the spool has moved them.
    pub(super) fn move_stored(&mut self, moved: &Moved) {
        for (_, flying) in self.flight.iter_mut() {
            if let Source::Stored(loc) = &flying.source {
                flying.source = moved.to(*loc).map_or(Source::GivenUp, Source::Stored);
            }
        }
        self.live.move_stored(|loc| moved.to(loc));
    }

    pub(super) fn start_load(&mut self, now: Now, out: &mut Vec<Action>) {
        if self.load_retry.is_some_and(|at| at > now.mono) {
            return;
        }
        self.load_retry = None;
        if self.up.is_some()
            && self.phase == Phase::Running
            && let Some(Load { after, replies }) = self.backlog.want_load()
        {
            out.push(Action::Load { after, replies });
        }
    }

    /// Whether a batch that was just stored may be published at once (`write_always`), instead
    /// of being read back.
    fn may_publish_from_memory(&self) -> bool {
        self.settings.write_always
            && self.up.is_some()
            && self.phase == Phase::Running
            && self.stalled_since.is_none()
            && (!self.settings.in_order || (self.backlog.all_at_hand() && !self.backlog.has_next()))
    }
}
