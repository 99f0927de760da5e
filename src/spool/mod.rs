//! The spool: what could not go out at once, on disk until its PUBACK.
//!
//! One thread owns the store. It takes [`Command`]s in order and answers with [`Event`]s.
//!
//! Items travel in groups (`codec`), groups live in small databases, the segments
//! (`segment`, `contents`) on the `segment_log`: put there (`commit`), read and deleted again
//! (`drain`). A segment goes when the last of its groups is deleted, or later if the disk does
//! not let it go (`deletions`). When room is needed (`overflow`) the devices with the largest shares
//! pay (`fairness`, `compaction`). What is found damaged is repaired, and becomes gap records where it
//! cannot be (`recovery`, `salvage`). The engine is behind `store`; `disk` alone names sled.

mod ahead;
mod attach;
mod codec;
mod commit;
mod compaction;
mod contents;
mod deletions;
mod disk;
mod drain;
mod fairness;
mod files;
mod fs;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
mod inspect;
pub mod look;
mod overflow;
mod recovery;
mod replies;
mod salvage;
mod segment;
mod segment_log;
mod space;
mod stat;
mod store;
mod tally;
mod watermarks;
mod wire;
mod worker;

#[cfg(test)]
mod ahead_tests;
#[cfg(test)]
mod compaction_tests;
#[cfg(test)]
mod damage_tests;
#[cfg(test)]
mod deletions_tests;
#[cfg(test)]
mod fault_tests;
#[cfg(test)]
mod powercut_tests;
#[cfg(test)]
pub(crate) mod simulated;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

use std::fmt;
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use tokio::sync::mpsc;

pub use inspect::{Each, Inspection, StreamDepth, inspect};
pub use worker::CommandSender;

use crate::config;
use crate::reading::{Item, Mark};

/// Starts the spool's thread. The first event is always [`Event::Opened`], whatever state the
/// disk is in: when it cannot be used at all, the spool is empty and commits fail until it can.
///
/// Nothing is written, and sled is not opened, before there is something to store. The thread
/// ends after [`Command::Stop`], or when every [`CommandSender`] is gone.
///
/// # Errors
/// Only when the thread itself cannot be started.
pub fn start(
    config: &config::Spool,
) -> io::Result<(CommandSender, mpsc::Receiver<Event>, JoinHandle<()>)> {
    let engine = Box::new(disk::Disk { own_sync: true });
    let looker = worker::Looker {
        path: config.path.clone(),
        min_free: config.min_free,
    };
    let log = segment_log::SegmentLog::new(config, engine);
    worker::start(log, worker::IDLE_AFTER, Some(looker))
}

/// A group of items, stored as one value with a checksum. Ids grow in the order of arrival.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupId(pub u64);

impl fmt::Display for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Where an item is on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Loc {
    /// The group.
    pub group: GroupId,
    /// Position within the group, from 0.
    pub index: u32,
}

/// A group as read back.
#[derive(Debug, Clone)]
pub struct Group {
    /// Its id.
    pub id: GroupId,
    /// Its items in order. A group that cannot be read comes back as gap items (reason
    /// `corrupt`) that say what is known of it.
    pub items: Vec<Arc<Item>>,
}

/// What the spool holds.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Depth {
    /// Groups on disk.
    pub groups: u64,
    /// Batches in them.
    pub batches: u64,
    /// Readings in these.
    pub readings: u64,
    /// Final answers to commands.
    pub replies: u64,
    /// Arrival of the oldest whose stamp can be trusted: Unix seconds.
    pub oldest: Option<f64>,
}

/// Sizes that only the store knows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes that the spool's files take on disk (allocated blocks, not lengths).
    pub disk_bytes: u64,
}

/// A group out of which items were taken. Those behind them move up; with the last of them the
/// group is gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compacted {
    /// The group.
    pub group: GroupId,
    /// Positions that are gone, as they were, ascending.
    pub gone: Vec<u32>,
}

/// What the intake asks of the spool. At most one `Commit` and one `Load` are outstanding.
#[derive(Debug)]
pub enum Command {
    /// Store these items, in order, in as many groups as their size asks for, and sync.
    Commit {
        /// Comes back in the answer.
        ticket: u64,
        /// The items, at least one.
        items: Vec<Arc<Item>>,
        /// Watermarks that moved since the last commit without going through the disk; stored along.
        marks: Vec<Mark>,
    },
    /// Read the groups after this one (`None`: from the first).
    Load {
        /// Exclusive.
        after: Option<GroupId>,
        /// Stop after the group with which this many bytes of items are reached; at least one
        /// group is read if there is one.
        max_bytes: usize,
        /// Only groups with final answers to commands in them, which go before everything else.
        replies: bool,
    },
    /// Remove these groups: all their items are PUBACKed. Needs no sync of its own; a group
    /// that comes back after a power cut is published again.
    Delete {
        /// Ids, any order.
        groups: Vec<GroupId>,
    },
    /// Whether the broker refuses what is stored of this device: the reason of the gap record if
    /// it has to make way. Forgotten at the end of the run.
    Unwanted {
        /// The device.
        device: Arc<str>,
        /// It does.
        unwanted: bool,
    },
    /// Store these marks (all named streams), sync, close, answer `Stopped`, end the thread.
    Stop {
        /// Every mark.
        marks: Vec<Mark>,
    },
}

/// What the spool answers.
#[derive(Debug)]
pub enum Event {
    /// First answer of all: the spool is usable, or has been set aside and begun anew.
    Opened {
        /// The highest safe number of every stream known on disk.
        marks: Vec<Mark>,
        /// What is stored.
        depth: Depth,
    },
    /// Right after `Opened`, or found out since while nobody needed it: the spool cannot be used.
    /// It is tried again every few seconds.
    Unusable {
        /// One sentence for the status.
        error: String,
    },
    /// It can be used after all. What was found comes on top of what `Opened` and the commits
    /// since have told.
    Reopened {
        /// The highest safe number of every stream known on disk.
        marks: Vec<Mark>,
        /// What was stored before this start.
        depth: Depth,
    },
    /// After `Unusable` or `CommitFailed`, without a commit that would say so: it can be written
    /// again.
    Writable,
    /// The items are on disk and synced.
    Committed {
        /// Of the `Commit`.
        ticket: u64,
        /// Where each item is, in the order of the command.
        placed: Vec<Loc>,
    },
    /// Nothing of this commit counts as stored. Some of it may turn up after a restart.
    CommitFailed {
        /// Of the `Commit`.
        ticket: u64,
        /// Full (`max_size` or `min_free` under `overflow = "refuse"`, or no space left on the
        /// device), as opposed to broken.
        full: bool,
        /// The directory is not the hub's own: it must not be used, as opposed to cannot be.
        foreign: bool,
        /// One sentence for the log and the status.
        error: String,
    },
    /// Answer to `Load`.
    Loaded {
        /// In order of id; empty: nothing after that position at this time.
        groups: Vec<Group>,
        /// There may be more, but the disk cannot be read now: ask again after a while.
        again: bool,
    },
    /// Old groups were given up for new ones (`overflow = "drop-oldest"`). The gap records that
    /// say so are already stored, in newer groups.
    Dropped {
        /// Every group from this one on is gone,
        from: GroupId,
        /// up to and including this one.
        upto: GroupId,
        /// What went with them.
        batches: u64,
        /// And the readings in these.
        readings: u64,
        /// Final answers to commands that went with them. No record says so.
        replies: u64,
        /// Gap records stored in their place.
        gaps: u64,
    },
    /// Some batches of old groups were given up for new ones, those of the devices with the
    /// largest shares. The gap records that say so are already stored, in newer groups.
    Compacted {
        /// Where they were.
        groups: Vec<Compacted>,
        /// What went.
        batches: u64,
        /// And the readings in these.
        readings: u64,
        /// Gap records stored in their place.
        gaps: u64,
    },
    /// Final answers to commands were lost with a damaged part of the store.
    RepliesLost {
        /// How many, at most.
        replies: u64,
    },
    /// The store's own sizes; after a commit, a delete that freed space, and at opening.
    Usage(Usage),
    /// The store is closed.
    Stopped,
}
