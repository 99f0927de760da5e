//! What happened, as a hash of all of it and the last of it in words.

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash, Hasher};

use super::plan::Fault;

/// Events that are kept for the report; `SIM_TRACE=n` keeps n.
const KEPT: usize = 120;

/// A batch, by its number in this history.
pub(super) type Uid = u64;

/// One thing that happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Note {
    /// A hub starts; which run it is.
    Starts(u64),
    Opened,
    Stopping,
    /// Whether in order.
    Stopped(bool),
    Fault(Fault),
    Killed,
    PowerLost,
    Healed,
    Quiet,
    /// Device, connection, `welcome.seq`.
    Welcome(usize, u64, u64),
    Taken(usize, Uid),
    /// Device, connection, number.
    Ack(usize, u64, u64),
    /// Connection, and whether the broker agrees.
    Connects(u64, bool),
    Cut(u64, bool),
    /// Packet id and batch.
    Arrives(u16, Uid, bool),
    ArrivesGap(u16, u64),
    /// Packet id and reason code.
    Refuses(u16, u8),
    Puback(u16),
    /// Items and bytes.
    Commit(usize, usize),
    Load(u64),
    Delete(usize),
    StopSpool,
    OtherSpoolCommand,
    /// Groups stored so far.
    Synced(u64),
    Committed(u64),
    CommitFailed(u64, bool),
    Loaded(usize, bool),
    Dropped(u64, u64),
    Compacted(u64, u64),
    OtherSpoolEvent,
    /// Device and command.
    Asks(usize, usize),
    SendsCommand(usize, usize),
    Result(usize, usize),
    ResultAcked(usize, usize),
    /// Command, and whether it is a late answer.
    Ends(usize, bool),
    /// Packet id and command.
    ArrivesAnswer(u16, usize),
}

/// See the module.
#[derive(Debug)]
pub(super) struct Trace {
    hasher: DefaultHasher,
    kept: VecDeque<(u64, Note)>,
    keep: usize,
    /// Tells everything at once: beside the hub's own log.
    loud: bool,
    pub(super) events: u64,
}

impl Default for Trace {
    fn default() -> Self {
        Self {
            hasher: DefaultHasher::new(),
            kept: VecDeque::new(),
            keep: match std::env::var("SIM_TRACE") {
                Ok(all) => all.parse().unwrap_or(usize::MAX),
                Err(_) => KEPT,
            },
            loud: std::env::var_os("SIM_LOG").is_some(),
            events: 0,
        }
    }
}

impl Trace {
    /// `ms`: since the beginning.
    pub(super) fn note(&mut self, ms: u64, note: Note) {
        self.events += 1;
        (ms, note).hash(&mut self.hasher);
        if self.loud {
            eprint!("{}", line(ms, &note));
        }
        if self.kept.len() >= self.keep {
            self.kept.pop_front();
        }
        self.kept.push_back((ms, note));
    }

    pub(super) fn hash(&self) -> u64 {
        self.hasher.finish()
    }

    pub(super) fn last(&self) -> String {
        self.kept.iter().map(|(ms, note)| line(*ms, note)).collect()
    }
}

fn line(ms: u64, note: &Note) -> String {
    format!("{:>8}.{:03} s  {note:?}\n", ms / 1000, ms % 1000)
}
