//! The two lanes: which way each batch goes, and when it is safe.
//!
//! Pure: events go in, actions come out, `now` is given. One batch, step by step:
//!
//! 1. It *arrives*. [`Streams`] says whether it is new; a known one is answered at once.
//! 2. On the live route it waits in `queue` until the window has room, then it is published and
//!    flies as `Live`. Its PUBACK makes it safe: the device gets its ack.
//! 3. When the route changes to the spool (uplink down, an ack overdue), every
//!    batch that is not safe, flying or queued, goes to `to_commit`, in the order of arrival, and
//!    whatever arrives follows it. One that flies on as `Diverted` may still be PUBACKed
//!    on this connection; then it is not published again. The same happens to the batches of one
//!    device when that has more in the queue than its part, or when the broker refuses it.
//! 4. One commit is under way at a time; what gathers meanwhile goes into the next. Once synced a
//!    batch is safe, and is the [`Backlog`]'s.
//! 5. While the uplink is up the backlog drains beside the live lane, as `Stored`. When
//!    all of a group is PUBACKed, the group is deleted.
//!
//! Two things hold at any time. What is not safe is in memory exactly once. And no batch is
//! committed before an older one of its stream is committed or safe, so that the highest number
//! on disk is a true `welcome.seq`.

#[cfg(debug_assertions)]
mod check;
mod event;
mod live;
mod publish;
mod reduced;
mod refused;
mod route;
mod store;

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use event::{Action, Event, Now, Settings};
use live::{Live, Queued};
use route::{DISK_PATIENCE, HOPELESS};
use store::LOAD_RETRY;

use crate::intake::backlog::{Backlog, Expiry};
use crate::intake::byte_window::ByteWindow;
use crate::intake::flight::Flight;
use crate::intake::group_commit::GroupCommit;
use crate::intake::port::{Arrival, ConnId, Refused, StreamId};
use crate::intake::refusals::Refusals;
use crate::intake::streams::{Streams, Verdict};
use crate::reading::{Final, GapReason, Item, Lane, Mark};
use crate::reduce::Reducer;
use crate::spool::Loc;

/// Who is told that something is safe.
#[derive(Debug, Clone, Copy)]
enum Origin {
    /// The connection that a batch came over.
    Batch {
        conn: ConnId,
        stream: StreamId,
        seq: Option<u64>,
    },
    /// The room of the commands, which gave an answer this name.
    Answer { token: u64 },
}

impl Origin {
    fn conn(self) -> Option<ConnId> {
        match self {
            Self::Batch { conn, .. } => Some(conn),
            Self::Answer { .. } => None,
        }
    }
}

/// A batch, a gap or an answer that is not safe yet.
#[derive(Debug)]
struct Entry {
    /// Order of arrival.
    n: u64,
    since: Instant,
    item: Arc<Item>,
    /// Bytes of its payload, about.
    cost: usize,
    origin: Option<Origin>,
}

/// What is in flight.
#[derive(Debug)]
enum Source {
    /// Not safe: its PUBACK makes it so.
    Live(Entry),
    /// Also in `to_commit` or being committed, under this number.
    Diverted { n: u64 },
    /// On disk.
    Stored(Loc),
    /// Was on disk, and has been given up meanwhile.
    GivenUp,
}

#[derive(Debug)]
struct Flying {
    source: Source,
    item: Arc<Item>,
    lane: Lane,
    /// Bytes of its payload, about.
    cost: usize,
    /// Of the item that came in, which a gap may stand for.
    readings: u64,
}

/// An entry on its way to the disk.
#[derive(Debug)]
struct Pending {
    entry: Entry,
    /// In flight as well.
    token: Option<u64>,
    /// PUBACKed meanwhile.
    done: bool,
    /// It is here because the broker refuses its device's live data: nobody else waits for it.
    aside: bool,
}

impl Pending {
    fn new(entry: Entry, token: Option<u64>, aside: bool) -> Self {
        Self {
            entry,
            token,
            done: false,
            aside,
        }
    }
}

/// What of one device is put aside and not stored yet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Aside {
    batches: usize,
    bytes: usize,
}

#[derive(Debug)]
struct Commit {
    ticket: u64,
    pending: Vec<Pending>,
    marks: Vec<Mark>,
    since: Instant,
    /// How many of `pending` have been looked at to be published past a disk that hangs.
    passed: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Route {
    Live,
    Spool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Running,
    Finishing,
    Abandoning,
}

/// See the module.
#[derive(Debug)]
pub struct Lanes {
    settings: Settings,
    /// What was taken and what is safe.
    pub streams: Streams,
    /// What is left out of what comes in; `None`: nothing.
    reducer: Option<Reducer>,
    phase: Phase,
    route: Route,
    up: Option<u64>,
    stalled_since: Option<Instant>,
    /// Devices that had more in the live queue than their part, or longer: what comes of them
    /// goes to the disk until the broker has caught up with so many publishes of them.
    spilling: HashMap<Arc<str>, usize>,
    live: Live,
    flight: Flight<Flying>,
    /// What flies in the live lane: how many, their payloads, and their readings.
    live_flying: usize,
    live_cost: usize,
    flying_readings: u64,
    live_window: ByteWindow,
    /// Payloads of what flies in the other lane.
    history_cost: usize,
    drain_window: ByteWindow,
    /// What the broker refuses.
    refusals: Refusals,
    /// By device; there is none without batches.
    aside: HashMap<Arc<str>, Aside>,
    last_ack: Option<Instant>,
    to_commit: VecDeque<Pending>,
    to_commit_bytes: usize,
    committing: Option<Commit>,
    ticket: u64,
    group_commit: GroupCommit,
    /// A commit is held back until then.
    held_until: Option<Instant>,
    disk_bad: bool,
    disk_full: bool,
    disk_retry: Option<(Instant, Duration)>,
    load_retry: Option<Instant>,
    backlog: Backlog,
    arrivals: u64,
    last_live: Option<Instant>,
    /// Connections that were refused a batch and are still there.
    turned_away: HashSet<ConnId>,
    /// Events since the last check.
    #[cfg(debug_assertions)]
    unchecked: usize,
}

impl Lanes {
    /// Empty lanes with an uplink that is down and a spool that is not open yet.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            streams: Streams::new(settings.device_window),
            reducer: None,
            phase: Phase::Running,
            route: Route::Spool,
            up: None,
            stalled_since: None,
            spilling: HashMap::new(),
            live: Live::default(),
            flight: Flight::new(settings.window),
            live_flying: 0,
            live_cost: 0,
            flying_readings: 0,
            live_window: ByteWindow::of_at_least(
                ByteWindow::LEAST_LIVE.max(settings.pack * ByteWindow::PACKS),
            ),
            history_cost: 0,
            drain_window: ByteWindow::default(),
            refusals: Refusals::default(),
            aside: HashMap::new(),
            last_ack: None,
            to_commit: VecDeque::new(),
            to_commit_bytes: 0,
            committing: None,
            ticket: 0,
            group_commit: GroupCommit::new(
                settings.hold_back,
                settings.commit_interval,
                settings.device_window,
            ),
            held_until: None,
            disk_bad: false,
            disk_full: false,
            disk_retry: None,
            load_retry: None,
            backlog: Backlog::default(),
            arrivals: 0,
            last_live: None,
            turned_away: HashSet::new(),
            #[cfg(debug_assertions)]
            unchecked: 0,
        }
    }

    /// Handles one event and adds what is to be done to `out`.
    pub fn apply(&mut self, now: Now, event: Event, out: &mut Vec<Action>) {
        match event {
            Event::Opened { depth } => self.backlog.opened(depth),
            Event::Arrived(arrival) => self.arrived(now, arrival, out),
            Event::Answered(answer) => self.answered_command(now, answer),
            Event::Up { epoch } => self.connected(epoch),
            Event::Down => self.disconnected(now),
            Event::Acked { epoch, token } => self.acked(now, epoch, token, out),
            Event::Refused {
                epoch,
                token,
                refusal,
            } => self.refused(now, epoch, token, &refusal, out),
            Event::Unpublishable {
                epoch,
                token,
                reason,
            } => {
                self.unpublishable(now, epoch, token, reason, out);
            }
            Event::Committed { ticket, placed } => self.committed(now, ticket, &placed, out),
            Event::CommitFailed { ticket, full } => self.commit_failed(now, ticket, full, out),
            // Only this: a commit that still waits for its next attempt finds out by itself.
            Event::Writable => self.disk_full = false,
            Event::Loaded { groups, again } => {
                if again {
                    self.load_retry = Some(now.mono + LOAD_RETRY);
                }
                let expiry = Expiry {
                    now: now.moment,
                    max_age: self.settings.max_age.as_secs_f64(),
                };
                self.backlog.loaded(groups, again, expiry);
            }
            Event::Dropped {
                groups,
                batches,
                readings,
            } => {
                self.backlog.dropped(groups, batches, readings);
            }
            Event::Compacted {
                moved,
                batches,
                readings,
            } => {
                self.move_stored(&moved);
                self.backlog.compacted(&moved, batches, readings);
            }
            Event::Tick => {}
            Event::Finish => self.phase = Phase::Finishing,
            Event::Abandon => self.phase = Phase::Abandoning,
        }
        self.tell_totals(now);
        self.check_deadlines(now, out);
        self.choose_route();
        self.probe(now);
        self.submit(now, out);
        self.start_commit(now, out);
        // Before anything is read: what is over must not be brought again.
        let groups = self.backlog.take_deletable();
        if !groups.is_empty() {
            out.push(Action::Delete { groups });
        }
        for item in self.backlog.take_lost() {
            let reason = GapReason::Expired;
            out.push(Action::AnswerLost { item, reason });
        }
        self.start_load(now, out);
        #[cfg(debug_assertions)]
        self.check_sometimes();
    }

    /// The connection is gone. What it handed over stays taken. As [`Streams::detach`].
    pub fn detach(&mut self, conn: ConnId) -> Option<(ConnId, u64)> {
        self.turned_away.remove(&conn);
        self.streams.detach(conn)
    }

    /// When [`Event::Tick`] is due, if nothing else happens before.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        let timeout = self.settings.ack_timeout;
        let flying = self
            .flight
            .oldest()
            .map(|(since, _)| match self.stalled_since {
                None => since + timeout,
                Some(since) => self.last_ack.max(Some(since)).unwrap_or(since) + timeout * HOPELESS,
            });
        let spills = self.may_spill();
        let queued = self.live.oldest().filter(|_| spills);
        let queued = queued.map(|(since, _)| since + timeout);
        let probe = self.refusals.next_due().filter(|_| self.may_probe());
        // Of a commit under way the retry is past; what it waits for is its answer.
        let retry = self.disk_bad && self.committing.is_none();
        let disk = self.disk_retry.filter(|_| retry).map(|(at, _)| at);
        let hangs = self.committing.as_ref().filter(|_| !self.disk_bad);
        let hangs = hangs.map(|commit| commit.since + DISK_PATIENCE);
        [
            flying,
            queued,
            probe,
            disk,
            hangs,
            self.load_retry,
            self.held_until,
            self.next_total(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Whether more batches may come in. While this is false the intake does not receive, and
    /// devices are held back.
    #[must_use]
    pub fn has_room(&self) -> bool {
        let committing = self
            .committing
            .as_ref()
            .map_or(0, |commit| commit.pending.len());
        self.live.weight() + self.to_commit_bytes < self.settings.held_bytes
            && self.to_commit.len() + committing < 4 * self.settings.live_batches
    }

    /// Whether nothing in memory is unsafe.
    #[must_use]
    pub fn all_safe(&self) -> bool {
        self.unsafe_items() == 0
    }

    /// What is neither published nor stored.
    #[must_use]
    pub fn unsafe_items(&self) -> usize {
        let committing = self.committing.as_ref();
        self.live_unsafe() + self.to_commit.len() + committing.map_or(0, |one| one.pending.len())
    }

    /// Batches in the live lane, in flight included.
    #[must_use]
    pub fn live_batches(&self) -> usize {
        self.live.len() + self.live_flying
    }

    /// Readings in these.
    #[must_use]
    pub fn live_readings(&self) -> u64 {
        self.live.readings() + self.flying_readings
    }

    /// What the broker refuses.
    #[must_use]
    pub fn refusals(&self) -> &Refusals {
        &self.refusals
    }

    /// Whether what is to be said of it has changed since the last call.
    pub fn refusals_changed(&mut self) -> bool {
        self.refusals.take_changed()
    }

    /// Publishes in flight.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.flight.len()
    }

    /// What is stored and not done.
    #[must_use]
    pub fn backlog(&self) -> &Backlog {
        &self.backlog
    }

    fn live_unsafe(&self) -> usize {
        let flying = self.flight.iter();
        self.live.unsafe_len()
            + flying
                .filter(|f| matches!(f.source, Source::Live(_)))
                .count()
    }

    fn arrived(&mut self, now: Now, arrival: Arrival, out: &mut Vec<Action>) {
        let Arrival {
            conn,
            stream,
            batch,
            resolved,
            content,
        } = arrival;
        // Once one batch of a connection is refused, none of it may be taken any more: an ack of a
        // later one would cover it.
        if self.turned_away.contains(&conn) {
            return;
        }
        let apart = self.route == Route::Live && self.is_set_apart(&batch.device);
        let full = self.disk_full && self.settings.refuse;
        if full && (apart || self.route == Route::Spool)
            || apart && self.has_no_room_for(&batch.device)
        {
            self.turned_away.insert(conn);
            out.push(Action::Refuse { conn });
            return;
        }
        let origin = Origin::Batch {
            conn,
            stream,
            seq: batch.seq,
        };
        match self.streams.arrive(conn, stream, batch.seq, content) {
            Verdict::Conflict { highest } => {
                if let Some(seq) = batch.seq {
                    let refused = Refused { seq, highest };
                    out.push(Action::Conflict { conn, refused });
                }
            }
            Verdict::Known(ack) => out.push(Action::Settle {
                conn,
                settled: 1,
                ack,
            }),
            Verdict::New => {
                let Some((batch, resolved)) = self.reduce(now, batch, resolved) else {
                    return self.settle(Some(origin), out);
                };
                let item = Arc::new(Item::Batch(batch));
                let entry = self.entry(now, item, resolved, Some(origin));
                self.enters(now, entry, conn, apart, out);
            }
        }
    }

    /// A new batch takes its way.
    fn enters(&mut self, now: Now, entry: Entry, conn: ConnId, apart: bool, out: &mut Vec<Action>) {
        if self.route == Route::Live && !apart {
            self.last_live = Some(now.mono);
            let device = entry.item.device().clone();
            self.live.push(Queued::Unsafe(entry));
            self.spill_if_too_much(&device);
            return;
        }
        let waiting = !self.to_commit.is_empty() || self.committing.is_some();
        self.group_commit.arrived(now.mono, conn, waiting);
        if apart {
            self.apart(now, entry, out);
        } else {
            let aside = self.is_put_aside(entry.item.device());
            self.push_commit(Pending::new(entry, None, aside));
        }
    }

    /// An item that comes now.
    fn entry(&mut self, now: Now, item: Arc<Item>, cost: usize, origin: Option<Origin>) -> Entry {
        self.arrivals += 1;
        Entry {
            n: self.arrivals,
            since: now.mono,
            item,
            cost,
            origin,
        }
    }

    /// An answer takes its way: at once, unless what is older of the whole backlog would have to go
    /// before. Then it goes to the disk, from where answers come first.
    fn answered_command(&mut self, now: Now, answer: Final) {
        let Final { token, reply } = answer;
        let item = self.backlog.redirect(Arc::new(Item::Reply(reply)));
        let cost = item.payload_estimate();
        let origin = token.map(|token| Origin::Answer { token });
        let entry = self.entry(now, item, cost, origin);
        let behind = self.settings.in_order && !self.disk_bad && self.others_first();
        let live = self.route == Route::Live && !behind;
        if live && !self.is_refused_answer(&entry.item) {
            self.live.push(Queued::Unsafe(entry));
        } else {
            let aside = self.is_put_aside(entry.item.device());
            self.push_commit(Pending::new(entry, None, aside));
        }
    }

    fn connected(&mut self, epoch: u64) {
        self.up = Some(epoch);
        self.stalled_since = None;
        self.last_ack = None;
        self.drain_window.connected();
        self.live_window.connected();
    }

    fn disconnected(&mut self, now: Now) {
        if self.up.take().is_none() {
            return;
        }
        self.divert();
        if let Some(commit) = &mut self.committing {
            commit.passed = 0;
        }
        // Nothing flies any more. What was diverted waits for its commit, what is stored is the
        // backlog's again, and so is what waited in the queue but is on disk.
        for pending in self.to_commit.iter_mut().chain(
            self.committing
                .iter_mut()
                .flat_map(|commit| commit.pending.iter_mut()),
        ) {
            pending.token = None;
        }
        self.flight.clear();
        (self.live_flying, self.live_cost, self.flying_readings) = (0, 0, 0);
        self.history_cost = 0;
        self.live = Live::default();
        self.backlog.reset();
        self.refusals.disconnected(now.mono);
        self.stalled_since = None;
        self.spilling.clear();
    }

    fn settle(&mut self, origin: Option<Origin>, out: &mut Vec<Action>) {
        let (conn, stream, seq) = match origin {
            None => return,
            Some(Origin::Answer { token }) => return out.push(Action::Safe { token }),
            Some(Origin::Batch { conn, stream, seq }) => (conn, stream, seq),
        };
        let moved = seq.and_then(|seq| self.streams.safe(stream, seq));
        match moved {
            Some((Some(now_at), ack)) if now_at != conn => {
                out.push(Action::Settle {
                    conn,
                    settled: 1,
                    ack: None,
                });
                out.push(Action::Settle {
                    conn: now_at,
                    settled: 0,
                    ack: Some(ack),
                });
            }
            moved => {
                let ack = moved.map(|(_, ack)| ack);
                out.push(Action::Settle {
                    conn,
                    settled: 1,
                    ack,
                });
            }
        }
    }

    fn push_commit(&mut self, pending: Pending) {
        if let Some(conn) = pending.entry.origin.and_then(Origin::conn) {
            self.group_commit.waits(conn);
        }
        let weight = pending.entry.item.weight();
        self.to_commit_bytes += weight;
        if pending.aside {
            let device = pending.entry.item.device().clone();
            let aside = self.aside.entry(device).or_default();
            aside.batches += 1;
            aside.bytes += weight;
        }
        self.to_commit.push_back(pending);
    }

    /// It does not wait for the disk any more.
    fn left_commit(&mut self, pending: &Pending) {
        let weight = pending.entry.item.weight();
        self.to_commit_bytes -= weight;
        if pending.aside
            && let Some(aside) = self.aside.get_mut(pending.entry.item.device())
        {
            aside.batches -= 1;
            aside.bytes -= weight;
            if aside.batches == 0 {
                self.aside.remove(pending.entry.item.device());
            }
        }
    }

    fn pending_mut(&mut self, n: u64) -> Option<&mut Pending> {
        if let Ok(at) = self
            .to_commit
            .binary_search_by_key(&n, |pending| pending.entry.n)
        {
            return self.to_commit.get_mut(at);
        }
        let pending = &mut self.committing.as_mut()?.pending;
        let at = pending
            .binary_search_by_key(&n, |pending| pending.entry.n)
            .ok()?;
        pending.get_mut(at)
    }
}

#[cfg(test)]
mod tests;
