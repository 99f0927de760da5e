//! What the lanes are told, what they answer, and what can be set.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::intake::moved::Moved;
use crate::intake::port::{Arrival, ConnId, Refused};
use crate::intake::refusals::Key;
use crate::reading::{Final, Gap, GapReason, Item, Lane, Mark, Moment, Topic};
use crate::spool::{Depth, Group, GroupId, Loc};
use crate::uplink::Refusal;

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
    /// Bytes of a pack, 0: none.
    pub pack: usize,
    /// How long the uplink may hold a live batch back for one.
    pub pack_delay: Duration,
    /// Batches that a device may have unacked.
    pub device_window: usize,
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
    /// How long a commit waits for more at least, while more is arriving: see
    /// [`group_commit`](crate::intake::group_commit). Zero: never.
    pub hold_back: Duration,
    /// `spool.commit_interval`: acks wait for a common commit so long at most. Zero: they do not.
    pub commit_interval: Duration,
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

/// The moment, by both clocks.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// For deadlines.
    pub mono: Instant,
    /// For the stamps of gap records and for `max_age`.
    pub moment: Moment,
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
    /// A command has ended: its answer is to be made safe and published.
    Answered(Final),
    /// The uplink is connected.
    Up {
        /// Its connection.
        epoch: u64,
    },
    /// The uplink's connection ended.
    Down,
    /// A publish was acknowledged.
    Acked {
        /// Its connection.
        epoch: u64,
        /// Its name.
        token: u64,
    },
    /// The broker refuses a publish: it has not taken it.
    Refused {
        /// Its connection.
        epoch: u64,
        /// Its name.
        token: u64,
        /// How it said so.
        refusal: Refusal,
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
    /// The spool, which failed, can be written again.
    Writable,
    /// Stored groups were read.
    Loaded {
        /// After the position asked for.
        groups: Vec<Group>,
        /// There may be more, but the disk cannot be read now.
        again: bool,
    },
    /// Stored groups were given up, and gap records stored for them.
    Dropped {
        /// From the first of them to the last.
        groups: RangeInclusive<GroupId>,
        /// What was in them.
        batches: u64,
        /// What was in them.
        readings: u64,
    },
    /// Some items of stored groups were given up, and gap records stored for them.
    Compacted {
        /// Where the others are now.
        moved: Moved,
        /// What went.
        batches: u64,
        /// What went.
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
        /// Only groups with final answers to commands.
        replies: bool,
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
    /// A final answer is safe.
    Safe {
        /// Its name.
        token: u64,
    },
    /// A final answer was given up: no gap record speaks of it.
    AnswerLost {
        /// The answer.
        item: Arc<Item>,
        /// `Expired` or `TooLarge`.
        reason: GapReason,
    },
    /// The broker refuses a final answer at its Response Topic: it goes to the device's own.
    RefusedElsewhere {
        /// Whose it is.
        device: Arc<str>,
        /// One sentence.
        detail: String,
    },
    /// Tell a session that a batch was not taken, before any ack that covers its number.
    Conflict {
        /// Which session.
        conn: ConnId,
        /// Which batch.
        refused: Refused,
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
    /// The broker refuses this key, which it did not before.
    Refused {
        /// What.
        key: Key,
        /// One sentence.
        detail: String,
    },
    /// It still does.
    RefusedAgain {
        /// Which kind of topic.
        topic: Topic,
    },
    /// The broker takes it again.
    Accepted {
        /// What.
        key: Key,
    },
    /// Tell the spool whether what is stored of this device is refused.
    Unwanted {
        /// The device.
        device: Arc<str>,
        /// It is.
        unwanted: bool,
    },
}
