//! The two lanes: which way each batch goes, and when it is safe.
//!
//! Pure: events go in, actions come out, `now` is given. One batch, step by step:
//!
//! 1. It *arrives*. [`Streams`] says whether it is new; a known one is answered at once.
//! 2. On the live route it waits in `queue` until the window has room, then it is published and
//!    flies as [`What::Live`]. Its PUBACK makes it safe: the device gets its ack.
//! 3. When the route changes to the spool (uplink down, an ack overdue, the queue full), every
//!    batch that is not safe, flying or queued, goes to `to_commit`, in the order of arrival, and
//!    whatever arrives follows it. One that flies on as [`What::Diverted`] may still be PUBACKed
//!    on this connection; then it is not published again.
//! 4. One commit is under way at a time; what gathers meanwhile goes into the next. Once synced a
//!    batch is safe, and is the [`Backlog`]'s.
//! 5. While the uplink is up the backlog drains beside the live lane, as [`What::Stored`]. When
//!    all of a group is PUBACKed, the group is deleted.
//!
//! Two things hold at any time. What is not safe is in memory exactly once. And no batch is
//! committed before an older one of its stream is committed or safe, so that the highest number
//! on disk is a true `welcome.seq`.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::backlog::{Backlog, Fate};
use super::flight::Flight;
use super::poison::{Key, Suspicion};
use super::port::{Arrival, ConnId, StreamId};
use super::streams::{Streams, Verdict};
use crate::reading::{Gap, GapReason, Item, Lane, Mark};
use crate::spool::{Depth, Group, GroupId, Loc};

/// What can be set.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Every batch through the disk first.
    pub write_always: bool,
    /// New batches wait behind the backlog.
    pub in_order: bool,
    /// When the spool is full, new batches are refused instead of held.
    pub refuse: bool,
    /// Publishes in flight, from the oldest unacknowledged one.
    pub window: usize,
    /// How long a publish may wait for its PUBACK before data goes to disk.
    pub ack_timeout: Duration,
    /// Older batches become gap records instead of being published.
    pub max_age: Duration,
    /// The live lane's bound in batches that wait.
    pub live_batches: usize,
    /// And in bytes.
    pub live_bytes: usize,
    /// Bytes in memory, not yet safe, at which no more batches are taken in.
    pub held_bytes: usize,
}

impl Settings {
    /// The live lane holds what 256 devices with a window of 32 may send; one second and more at
    /// the speed of a broker on the local network.
    pub const LIVE_BATCHES: usize = 8_192;
    /// Half of `HELD_BYTES`.
    pub const LIVE_BYTES: usize = 8 << 20;
    /// Bounds the memory that a stalled disk can cost.
    pub const HELD_BYTES: usize = 16 << 20;
}

/// Bytes of items in one commit at most. The disk is given what gathered while it was busy, so
/// this only bounds how long one commit can take on the slowest card: 1 MiB at 1 MB/s.
const COMMIT_BYTES: usize = 1 << 20;

/// With `in_order`, new batches wait in memory again once fewer than this part of the live lane
/// is before them. They must, or a steady stream would go through the disk for ever.
const CATCH_UP: usize = 4;

/// First and longest pause before a failed commit is tried again.
const DISK_RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10));

/// A commit that takes longer than this stands before a disk that hangs (a frozen file system, a
/// card that recovers): ten times what the largest takes on the slowest card. With the uplink up,
/// data goes past it.
const DISK_PATIENCE: Duration = Duration::from_secs(10);

/// Pause before a disk that could not be read is read again.
const LOAD_RETRY: Duration = Duration::from_secs(5);

/// A broker that has not sent one PUBACK for this many `ack_timeout`s, though publishes are in
/// flight, has lost them: the connection is made anew.
const HOPELESS: u32 = 6;

/// The moment, by both clocks.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// For deadlines.
    pub mono: Instant,
    /// Unix seconds, for stamps and `max_age`.
    pub unix: f64,
}

/// What happens to the lanes.
#[derive(Debug)]
pub enum Event {
    /// The spool is open, at the start or later.
    Opened {
        /// What it holds.
        depth: Depth,
    },
    /// A batch came in.
    Arrived(Arrival),
    /// The uplink is connected.
    Up {
        /// Its connection.
        epoch: u64,
    },
    /// The uplink's connection ended.
    Down {
        /// Whether the broker closed it.
        hung_up: bool,
    },
    /// A publish was acknowledged.
    Acked {
        /// Its connection.
        epoch: u64,
        /// Its name.
        token: u64,
    },
    /// A publish is impossible.
    Unpublishable {
        /// Its connection.
        epoch: u64,
        /// Its name.
        token: u64,
        /// `Corrupt` or `TooLarge`.
        reason: GapReason,
    },
    /// A commit is synced.
    Committed {
        /// Its name.
        ticket: u64,
        /// Where its items are.
        placed: Vec<Loc>,
    },
    /// A commit did not reach the disk.
    CommitFailed {
        /// Its name.
        ticket: u64,
        /// For want of room.
        full: bool,
    },
    /// Stored groups were read.
    Loaded {
        /// After the position asked for.
        groups: Vec<Group>,
        /// There may be more, but the disk cannot be read now.
        again: bool,
    },
    /// Stored groups were given up, and gap records stored for them.
    Dropped {
        /// The last of them.
        upto: GroupId,
        /// What was in them.
        batches: u64,
        /// What was in them.
        readings: u64,
    },
    /// Time has passed.
    Tick,
    /// No more batches will arrive: the backlog no longer drains, live batches finish.
    Finish,
    /// No more time: whatever is not safe goes to disk.
    Abandon,
}

/// What is to be done.
#[derive(Debug)]
pub enum Action {
    /// Give this to the uplink.
    Publish {
        /// Connection.
        epoch: u64,
        /// Name.
        token: u64,
        /// Topic.
        lane: Lane,
        /// Payload.
        item: Arc<Item>,
    },
    /// Give this to the spool.
    Commit {
        /// Name.
        ticket: u64,
        /// In order of arrival.
        items: Vec<Arc<Item>>,
        /// Marks that moved beside the disk.
        marks: Vec<Mark>,
    },
    /// Ask the spool to read on.
    Load {
        /// From there.
        after: Option<GroupId>,
    },
    /// Tell the spool that these are over.
    Delete {
        /// Any order.
        groups: Vec<GroupId>,
    },
    /// Tell a session.
    Settle {
        /// Which.
        conn: ConnId,
        /// Batches of it that are settled.
        settled: u32,
        /// Its new cumulative ack.
        ack: Option<u64>,
    },
    /// Close a session: its batch was not taken.
    Refuse {
        /// Which.
        conn: ConnId,
    },
    /// Have the uplink connect anew.
    Reconnect,
    /// Data was given up; the gap record is on its way.
    Lost(Gap),
}

/// Whom a batch came from.
#[derive(Debug, Clone, Copy)]
struct Origin {
    conn: ConnId,
    stream: StreamId,
    seq: Option<u64>,
}

/// A batch (or gap) that is not safe yet.
#[derive(Debug)]
struct Entry {
    /// Order of arrival.
    n: u64,
    since: Instant,
    item: Arc<Item>,
    origin: Option<Origin>,
}

/// What waits in the live queue.
#[derive(Debug)]
enum Queued {
    Unsafe(Entry),
    /// Stored already (`write_always`), published from memory all the same.
    Stored(Loc, Arc<Item>),
}

/// What is in flight.
#[derive(Debug)]
enum What {
    /// Not safe: its PUBACK makes it so.
    Live(Entry),
    /// Also in `to_commit` or being committed, under this number.
    Diverted { n: u64 },
    /// On disk.
    Stored(Loc),
}

#[derive(Debug)]
struct Flying {
    what: What,
    item: Arc<Item>,
    lane: Lane,
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
    phase: Phase,
    route: Route,
    up: Option<u64>,
    stalled_since: Option<Instant>,
    /// The live queue ran full and the broker has not caught up.
    spilling: bool,
    queue: VecDeque<Queued>,
    queue_bytes: usize,
    flight: Flight<Flying>,
    live_flying: usize,
    /// Of the queue and of what flies in the live lane.
    live_readings: u64,
    last_ack: Option<Instant>,
    suspicion: Suspicion,
    to_commit: VecDeque<Pending>,
    to_commit_bytes: usize,
    committing: Option<Commit>,
    ticket: u64,
    disk_bad: bool,
    disk_full: bool,
    disk_retry: Option<(Instant, Duration)>,
    load_retry: Option<Instant>,
    backlog: Backlog,
    arrivals: u64,
    last_live: Option<Instant>,
    /// Connections that were refused a batch and are still there.
    refused: HashSet<ConnId>,
}

impl Lanes {
    /// Empty lanes with an uplink that is down and a spool that is not open yet.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            streams: Streams::default(),
            phase: Phase::Running,
            route: Route::Spool,
            up: None,
            stalled_since: None,
            spilling: false,
            queue: VecDeque::new(),
            queue_bytes: 0,
            flight: Flight::new(settings.window),
            live_flying: 0,
            live_readings: 0,
            last_ack: None,
            suspicion: Suspicion::default(),
            to_commit: VecDeque::new(),
            to_commit_bytes: 0,
            committing: None,
            ticket: 0,
            disk_bad: false,
            disk_full: false,
            disk_retry: None,
            load_retry: None,
            backlog: Backlog::default(),
            arrivals: 0,
            last_live: None,
            refused: HashSet::new(),
        }
    }

    /// Handles one event and adds what is to be done to `out`.
    pub fn apply(&mut self, now: Now, event: Event, out: &mut Vec<Action>) {
        match event {
            Event::Opened { depth } => self.backlog.opened(depth),
            Event::Arrived(arrival) => self.arrived(now, arrival, out),
            Event::Up { epoch } => self.connected(now, epoch),
            Event::Down { hung_up } => self.disconnected(now, hung_up),
            Event::Acked { epoch, token } => self.acked(now, epoch, token, out),
            Event::Unpublishable {
                epoch,
                token,
                reason,
            } => {
                self.unpublishable(now, epoch, token, reason, out);
            }
            Event::Committed { ticket, placed } => self.committed(ticket, &placed, out),
            Event::CommitFailed { ticket, full } => self.commit_failed(now, ticket, full),
            Event::Loaded { groups, again } => {
                if again {
                    self.load_retry = Some(now.mono + LOAD_RETRY);
                }
                let expired_before = now.unix - self.settings.max_age.as_secs_f64();
                self.backlog.loaded(groups, again, expired_before, now.unix);
            }
            Event::Dropped {
                upto,
                batches,
                readings,
            } => {
                self.backlog.dropped(upto, batches, readings);
            }
            Event::Tick => {}
            Event::Finish => self.phase = Phase::Finishing,
            Event::Abandon => self.phase = Phase::Abandoning,
        }
        self.check_deadlines(now, out);
        self.choose_route();
        self.submit(now, out);
        self.start_commit(now, out);
        self.start_load(now, out);
        let groups = self.backlog.take_deletable();
        if !groups.is_empty() {
            out.push(Action::Delete { groups });
        }
    }

    /// The connection is gone. What it handed over stays taken.
    pub fn detach(&mut self, conn: ConnId) {
        self.streams.detach(conn);
        self.refused.remove(&conn);
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
        let queued = match self.queue.front() {
            Some(Queued::Unsafe(entry)) if !self.spilling => Some(entry.since + timeout),
            _ => None,
        };
        let disk = self.disk_retry.filter(|_| self.disk_bad).map(|(at, _)| at);
        let hangs = self.committing.as_ref().filter(|_| !self.disk_bad);
        let hangs = hangs.map(|commit| commit.since + DISK_PATIENCE);
        [flying, queued, disk, hangs, self.load_retry]
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
        self.queue_bytes + self.to_commit_bytes < self.settings.held_bytes
            && self.to_commit.len() + committing < 4 * self.settings.live_batches
    }

    /// Whether nothing in memory is unsafe.
    #[must_use]
    pub fn all_safe(&self) -> bool {
        self.live_unsafe() == 0 && self.to_commit.is_empty() && self.committing.is_none()
    }

    /// Batches in the live lane, in flight included.
    #[must_use]
    pub fn live_batches(&self) -> usize {
        self.queue.len() + self.live_flying
    }

    /// Readings in these.
    #[must_use]
    pub fn live_readings(&self) -> u64 {
        self.live_readings
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
        let queued = self
            .queue
            .iter()
            .filter(|q| matches!(q, Queued::Unsafe(_)))
            .count();
        queued + self.live_flying
    }

    // ---- events ------------------------------------------------------------------------------

    fn arrived(&mut self, now: Now, arrival: Arrival, out: &mut Vec<Action>) {
        let Arrival {
            conn,
            stream,
            batch,
        } = arrival;
        // Once one batch of a connection is refused, none of it may be taken any more: an ack of a
        // later one would cover it.
        if self.refused.contains(&conn) {
            return;
        }
        if self.disk_full && self.settings.refuse && self.route == Route::Spool {
            self.refused.insert(conn);
            out.push(Action::Refuse { conn });
            return;
        }
        let origin = Origin {
            conn,
            stream,
            seq: batch.seq,
        };
        match self.streams.arrive(stream, batch.seq) {
            Verdict::Known(ack) => out.push(Action::Settle {
                conn,
                settled: 1,
                ack,
            }),
            Verdict::New => {
                self.arrivals += 1;
                let item = Arc::new(Item::Batch(batch));
                let entry = Entry {
                    n: self.arrivals,
                    since: now.mono,
                    item,
                    origin: Some(origin),
                };
                match self.route {
                    Route::Live => {
                        self.last_live = Some(now.mono);
                        self.push_queue(Queued::Unsafe(entry));
                    }
                    Route::Spool => self.push_commit(Pending {
                        entry,
                        token: None,
                        done: false,
                    }),
                }
            }
        }
    }

    fn connected(&mut self, now: Now, epoch: u64) {
        self.up = Some(epoch);
        self.stalled_since = None;
        self.last_ack = None;
        self.suspicion.up(now.mono);
    }

    fn disconnected(&mut self, now: Now, hung_up: bool) {
        if self.up.take().is_none() {
            return;
        }
        let oldest = self
            .flight
            .oldest()
            .map(|(_, flying)| Key::of(&flying.item));
        let (in_flight, window) = (self.flight.len(), self.settings.window);
        self.suspicion
            .ended(now.mono, hung_up, in_flight, oldest, window);
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
        (self.live_flying, self.live_readings) = (0, 0);
        self.queue.clear();
        self.queue_bytes = 0;
        self.backlog.reset();
        self.stalled_since = None;
        self.spilling = false;
    }

    fn acked(&mut self, now: Now, epoch: u64, token: u64, out: &mut Vec<Action>) {
        if self.up != Some(epoch) {
            return;
        }
        let Some(flying) = self.flight.take(token) else {
            return;
        };
        self.last_ack = Some(now.mono);
        self.suspicion.acked();
        self.landed(&flying);
        match flying.what {
            What::Live(entry) => self.settle(entry.origin, out),
            What::Stored(loc) => self.backlog.done(loc),
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

    fn unpublishable(
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
                    pending.entry.item = gap_instead(&pending.entry.item, reason, now, out);
                }
            }
            What::Stored(loc) => {
                let gap = gap_instead(&flying.item, reason, now, out);
                self.backlog.substitute(loc, gap);
            }
        }
    }

    fn committed(&mut self, ticket: u64, placed: &[Loc], out: &mut Vec<Action>) {
        let Some(commit) = self.committing.take_if(|commit| commit.ticket == ticket) else {
            return;
        };
        (self.disk_bad, self.disk_full, self.disk_retry) = (false, false, None);
        let mut groups: Vec<GroupId> = Vec::new();
        let direct = self.may_publish_from_memory();
        for (pending, loc) in commit.pending.into_iter().zip(placed) {
            let Pending { entry, token, done } = pending;
            self.to_commit_bytes = self.to_commit_bytes.saturating_sub(entry.item.weight());
            if groups.last() != Some(&loc.group) {
                groups.push(loc.group);
            }
            let fate = match token {
                _ if done => Fate::Done,
                Some(_) => Fate::Busy,
                None if direct && self.queue.len() < self.settings.live_batches => Fate::Busy,
                None => Fate::Idle,
            };
            self.backlog.stored(*loc, &entry.item, fate);
            if let Some(flying) = token.and_then(|token| self.flight.get_mut(token)) {
                flying.what = What::Stored(*loc);
            } else if fate == Fate::Busy {
                self.push_queue(Queued::Stored(*loc, entry.item));
            }
            self.settle(entry.origin, out);
        }
        self.backlog.commit_ends(groups);
    }

    fn commit_failed(&mut self, now: Now, ticket: u64, full: bool) {
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
    }

    // ---- decisions ---------------------------------------------------------------------------

    fn check_deadlines(&mut self, now: Now, out: &mut Vec<Action>) {
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

    fn choose_route(&mut self) {
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
    fn divert(&mut self) {
        let before = self.to_commit.len();
        for (token, flying) in self.flight.iter_mut() {
            if let What::Live(entry) = &flying.what {
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

    fn submit(&mut self, now: Now, out: &mut Vec<Action>) {
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
                && (self.settings.in_order || draining < share);
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

    /// The next batch that a hanging disk holds up and that may as well be published.
    fn past_the_disk(&mut self, now: Now) -> Option<&Pending> {
        let behind_others =
            self.settings.in_order && (self.backlog.has_next() || !self.backlog.all_at_hand());
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
        let Some((loc, item)) = self.backlog.next() else {
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

    fn start_commit(&mut self, now: Now, out: &mut Vec<Action>) {
        let wait = self.disk_retry.is_some_and(|(at, _)| at > now.mono);
        if self.committing.is_some() || wait {
            return;
        }
        let mut bytes = 0;
        let mut pending = Vec::new();
        while let Some(next) = self.to_commit.pop_front() {
            let weight = next.entry.item.weight();
            if next.done {
                self.to_commit_bytes = self.to_commit_bytes.saturating_sub(weight);
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

    fn start_load(&mut self, now: Now, out: &mut Vec<Action>) {
        if self.load_retry.is_some_and(|at| at > now.mono) {
            return;
        }
        self.load_retry = None;
        if self.up.is_some()
            && self.phase == Phase::Running
            && let Some(after) = self.backlog.want_load()
        {
            out.push(Action::Load { after });
        }
    }

    /// Whether a batch that was just stored may be published at once (`write_always`), instead
    /// of being read back.
    fn may_publish_from_memory(&self) -> bool {
        self.settings.write_always
            && self.up.is_some()
            && self.phase == Phase::Running
            && self.stalled_since.is_none()
            && !self.suspicion.is_careful()
            && (!self.settings.in_order || (self.backlog.all_at_hand() && !self.backlog.has_next()))
    }

    // ---- helpers -----------------------------------------------------------------------------

    fn settle(&mut self, origin: Option<Origin>, out: &mut Vec<Action>) {
        let Some(Origin { conn, stream, seq }) = origin else {
            return;
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

    fn push_queue(&mut self, queued: Queued) {
        let (Queued::Unsafe(Entry { item, .. }) | Queued::Stored(_, item)) = &queued;
        self.queue_bytes += item.weight();
        self.live_readings += u64::from(item.readings());
        self.queue.push_back(queued);
    }

    fn landed(&mut self, flying: &Flying) {
        if flying.lane == Lane::Live {
            self.live_flying -= 1;
            self.live_readings = self.live_readings.saturating_sub(flying.readings);
        }
    }

    fn push_commit(&mut self, pending: Pending) {
        self.to_commit_bytes += pending.entry.item.weight();
        self.to_commit.push_back(pending);
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

/// The gap record that is published instead of this item.
fn gap_instead(item: &Item, reason: GapReason, now: Now, out: &mut Vec<Action>) -> Arc<Item> {
    let gap = match item {
        Item::Batch(batch) => Gap::of(batch, reason, now.unix),
        // A gap record is a few hundred bytes; a broker that refuses even that will get it again.
        Item::Gap(gap) => gap.clone(),
    };
    out.push(Action::Lost(gap.clone()));
    Arc::new(Item::Gap(gap))
}

#[cfg(test)]
#[path = "lanes_test.rs"]
mod tests;
