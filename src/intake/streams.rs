//! What the hub has taken from each stream, and how much of that is safe.
//!
//! Pure. A stream's numbers grow strictly; two marks describe it: `taken`, the highest number
//! that was ever accepted, and `safe`, up to which every accepted number is PUBACKed or synced.
//! Batches become safe in any order; an ack is cumulative and follows `safe`.
//!
//! No number is ever used for other content. A device whose counter begins again would break that
//! without knowing, and its data would be acked and thrown away as a resend. So the content of the
//! last batches of each stream is remembered, and a number at or below `taken` counts as a resend
//! only when it comes with the same content; otherwise it is a [`Verdict::Conflict`]. For the same
//! reason a connection is told of no number above what came over it: another connection may have
//! sent it, with other content.
//!
//! The content is kept in memory only. After a restart of the hub the marks come from the disk,
//! and what is at or below them is refused if it comes again. A device that waits for `welcome`
//! never sends it: `welcome.seq` has told it that all of that is safe.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::num::NonZeroU64;
use std::sync::Arc;

use super::ids::IdMap;
use super::port::{Attached, ConnId, StreamId};
use crate::reading::{Content, Mark};

/// Named streams remembered for one device. A device that begins a new stream at every boot
/// would fill the table otherwise; 16 restarts back is further than any resume reaches.
pub const STREAMS_PER_DEVICE: usize = 16;

/// Streams remembered in all, about 250 bytes each. Beyond it one in which nothing was ever taken is
/// forgotten, then the one that has rested longest: its device, should it come back, starts from 0
/// and may send duplicates.
pub const STREAMS: usize = 65_536;

/// Contents remembered in all, 16 bytes each: 4 MiB, which is the last window of 8,192 streams
/// with the default settings. Beyond it the stream that has rested longest loses its own; those
/// that a device is attached to never do, and they are bounded by `max_connections`.
pub const CONTENTS: usize = 262_144;

/// What becomes of a batch that arrives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is new and has been noted as taken.
    New,
    /// It was taken before. `Some`: it, and everything up to this number, is safe by now.
    Known(Option<u64>),
    /// Its number is not above all before it, and this content is not remembered under it.
    Conflict {
        /// The highest number that was taken: any above it is free.
        highest: u64,
    },
}

/// What is known of a connection that another one has taken the acks from.
#[derive(Debug)]
struct Displaced {
    conn: ConnId,
    /// As in [`Stream`].
    heard: u64,
    told: u64,
}

#[derive(Debug)]
struct Stream {
    device: Arc<str>,
    name: Arc<str>,
    /// Whether `hello` named it: only then can it be resumed, and is worth remembering.
    named: bool,
    conn: Option<ConnId>,
    /// Connections that are attached as well, and hear of acks again once those after them have gone:
    /// a batch by `POST` comes over a connection of its own.
    displaced: Vec<Displaced>,
    taken: u64,
    safe: u64,
    /// The highest number that came over `conn` and was taken, now or before; at first what
    /// `welcome` called safe.
    heard: u64,
    /// The highest number that `conn` was told is safe.
    told: u64,
    /// Taken numbers above `safe`, ascending, and whether each is safe by itself.
    pending: VecDeque<(u64, bool)>,
    /// What the last numbers taken stood for, ascending.
    contents: VecDeque<(u64, Content)>,
    /// Whether `safe` moved since the marks were last handed to the spool.
    dirty: bool,
    /// By the table's clock; unique.
    used: u64,
}

impl Stream {
    /// Whether nobody is attached and nothing is under way: it may be forgotten.
    fn is_resting(&self) -> bool {
        self.conn.is_none() && self.pending.is_empty()
    }

    /// Who is forgotten first: a stream that was named and in which nothing was ever sent costs
    /// nobody anything when it is forgotten.
    fn rank(&self) -> (bool, u64) {
        (self.taken > 0, self.used)
    }

    /// What the attached connection may be told.
    fn ack(&self) -> u64 {
        self.safe.min(self.heard)
    }

    /// A batch that was taken, now or before, came over a connection that hears no acks at present.
    fn heard_of_displaced(&mut self, conn: ConnId, seq: u64) {
        let mut displaced = self.displaced.iter_mut();
        if let Some(displaced) = displaced.find(|displaced| displaced.conn == conn) {
            displaced.heard = displaced.heard.max(seq);
        }
    }

    fn remembers(&self, seq: u64, content: Content) -> bool {
        let at = self.contents.binary_search_by_key(&seq, |(seq, _)| *seq);
        at.is_ok_and(|at| self.contents[at].1 == content)
    }
}

/// All streams of all devices.
#[derive(Debug)]
pub struct Streams {
    /// Contents remembered for each stream, at least.
    window: usize,
    /// Boxed: a table keeps room for a third more than it holds.
    streams: IdMap<StreamId, Box<Stream>>,
    by_device: HashMap<Arc<str>, Vec<StreamId>>,
    by_conn: IdMap<ConnId, StreamId>,
    /// The named streams that rest, those of which nothing is known first, then by when they were
    /// used last.
    resting: BTreeMap<(bool, u64), StreamId>,
    /// Those of them that still remember contents.
    remembering: BTreeMap<u64, StreamId>,
    /// Contents remembered, over all streams.
    contents: usize,
    /// Most of these.
    max_contents: usize,
    dirty: Vec<StreamId>,
    next: u64,
    clock: u64,
}

impl Streams {
    /// No streams yet. `window`: batches that a device may have unacked, and so may send again.
    #[must_use]
    pub fn new(window: usize) -> Self {
        Self {
            window: window.max(1),
            streams: IdMap::default(),
            by_device: HashMap::new(),
            by_conn: IdMap::default(),
            resting: BTreeMap::new(),
            remembering: BTreeMap::new(),
            contents: 0,
            max_contents: CONTENTS,
            dirty: Vec::new(),
            next: 0,
            clock: 0,
        }
    }

    /// Takes over the marks that the spool remembers. They may come late, after a spool that could
    /// not be used: what was taken in a stream meanwhile keeps its own way, and marks only rise.
    pub fn restore(&mut self, marks: impl IntoIterator<Item = Mark>) {
        for mark in marks {
            let id = match self.find(&mark.device, &mark.stream) {
                Some(id) => id,
                None => self.insert(mark.device.clone(), mark.stream.clone(), true),
            };
            if let Some(stream) = self.streams.get_mut(&id) {
                self.resting.remove(&stream.rank());
                stream.safe = stream.safe.max(mark.seq);
                stream.taken = stream.taken.max(mark.seq);
            }
            self.rest(id);
        }
    }

    /// Attaches a connection to a stream: to the named one, new or resumed, or to a fresh
    /// unnamed one. An older connection of the same stream hears no acks while this one is there.
    pub fn attach(
        &mut self,
        conn: ConnId,
        device: &Arc<str>,
        name: Option<Arc<str>>,
        unnamed: impl FnOnce() -> Arc<str>,
    ) -> Attached {
        let _ = self.detach(conn);
        let known = name.as_ref().and_then(|name| self.find(device, name));
        let id = match (known, name) {
            (Some(id), _) => id,
            (None, Some(name)) => self.insert(device.clone(), name, true),
            (None, None) => self.insert(device.clone(), unnamed(), false),
        };
        self.clock += 1;
        let clock = self.clock;
        let stream = self.streams.get_mut(&id).expect("found or inserted above");
        self.resting.remove(&stream.rank());
        self.remembering.remove(&stream.used);
        stream.used = clock;
        if let Some(before) = stream.conn.replace(conn) {
            stream.displaced.push(Displaced {
                conn: before,
                heard: stream.heard,
                told: stream.told,
            });
        }
        (stream.heard, stream.told) = (stream.safe, stream.safe);
        let attached = Attached {
            stream: id,
            name: stream.name.clone(),
            known: known.is_some(),
            safe: stream.safe,
            taken: stream.taken,
        };
        self.by_conn.insert(conn, id);
        attached
    }

    /// The connection is gone. An unnamed stream goes with it once nothing of it is pending. Returns
    /// the connection that hears of acks again, and the one that it has missed.
    pub fn detach(&mut self, conn: ConnId) -> Option<(ConnId, u64)> {
        let id = self.by_conn.remove(&conn)?;
        let stream = self.streams.get_mut(&id)?;
        if stream.conn != Some(conn) {
            stream.displaced.retain(|displaced| displaced.conn != conn);
            return None;
        }
        let Some(back) = stream.displaced.pop() else {
            stream.conn = None;
            self.rest(id);
            return None;
        };
        stream.conn = Some(back.conn);
        (stream.heard, stream.told) = (back.heard, back.told);
        let ack = stream.ack();
        let missed = ack > stream.told;
        stream.told = stream.told.max(ack);
        missed.then_some((back.conn, ack))
    }

    /// Judges a batch that arrives over a connection, and notes it as taken if it is new.
    pub fn arrive(
        &mut self,
        conn: ConnId,
        id: StreamId,
        seq: Option<u64>,
        content: Content,
    ) -> Verdict {
        let Some(seq) = seq else { return Verdict::New };
        let Some(stream) = self.streams.get_mut(&id) else {
            // Its connection was replaced and the unnamed stream dropped: nobody waits for it.
            return Verdict::New;
        };
        let attached = stream.conn == Some(conn);
        if seq <= stream.taken {
            if !stream.remembers(seq, content) {
                let highest = stream.taken;
                return Verdict::Conflict { highest };
            }
            if !attached {
                stream.heard_of_displaced(conn, seq);
                return Verdict::Known(None);
            }
            stream.heard = stream.heard.max(seq);
            // Again, also when it was told before.
            let ack = (seq <= stream.safe).then(|| stream.ack());
            stream.told = stream.told.max(ack.unwrap_or(0));
            return Verdict::Known(ack);
        }
        stream.taken = seq;
        if attached {
            stream.heard = seq;
        } else {
            stream.heard_of_displaced(conn, seq);
        }
        stream.pending.push_back((seq, false));
        stream.contents.push_back((seq, content));
        self.contents += 1;
        // What is not safe yet will be sent again for certain if the connection breaks.
        while stream.contents.len() > self.window
            && stream
                .contents
                .front()
                .is_some_and(|(seq, _)| *seq <= stream.safe)
        {
            stream.contents.pop_front();
            self.contents -= 1;
        }
        self.forget_contents();
        Verdict::New
    }

    /// A taken batch is safe now. Returns the connection to tell, and the new cumulative ack,
    /// when that moved it.
    pub fn safe(&mut self, id: StreamId, seq: u64) -> Option<(Option<ConnId>, u64)> {
        let stream = self.streams.get_mut(&id)?;
        let at = stream
            .pending
            .binary_search_by_key(&seq, |(seq, _)| *seq)
            .ok()?;
        stream.pending[at].1 = true;
        if at != 0 {
            return None;
        }
        while let Some((seq, true)) = stream.pending.front() {
            // A mark that came late may be ahead.
            stream.safe = stream.safe.max(*seq);
            stream.pending.pop_front();
        }
        if stream.named && !stream.dirty {
            stream.dirty = true;
            self.dirty.push(id);
        }
        let (conn, ack) = (stream.conn, stream.ack());
        let moved = ack > stream.told;
        stream.told = stream.told.max(ack);
        self.rest(id);
        moved.then_some((conn, ack))
    }

    /// The marks that moved since the last call.
    pub fn take_dirty(&mut self) -> Vec<Mark> {
        let ids = std::mem::take(&mut self.dirty);
        ids.into_iter()
            .filter_map(|id| {
                let stream = self.streams.get_mut(&id)?;
                stream.dirty = false;
                Some(mark(stream))
            })
            .collect()
    }

    /// The marks of a [`Streams::take_dirty`] were not stored after all.
    pub fn put_back(&mut self, marks: &[Mark]) {
        for mark in marks {
            let Some(id) = self.find(&mark.device, &mark.stream) else {
                continue;
            };
            if let Some(stream) = self.streams.get_mut(&id)
                && !std::mem::replace(&mut stream.dirty, true)
            {
                self.dirty.push(id);
            }
        }
    }

    /// The marks of all named streams, for the stop; the stream that has rested longest first.
    #[must_use]
    pub fn marks(&self) -> Vec<Mark> {
        let known = self.streams.values().filter(|s| s.named && s.safe > 0);
        let mut known: Vec<_> = known.collect();
        known.sort_unstable_by_key(|stream| stream.used);
        known.into_iter().map(|stream| mark(stream)).collect()
    }

    /// Number of streams remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.streams.len()
    }

    /// Whether none is remembered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.streams.is_empty()
    }

    fn find(&self, device: &str, name: &str) -> Option<StreamId> {
        let ids = self.by_device.get(device)?;
        ids.iter().copied().find(|id| {
            self.streams
                .get(id)
                .is_some_and(|stream| stream.named && &*stream.name == name)
        })
    }

    fn insert(&mut self, device: Arc<str>, name: Arc<str>, named: bool) -> StreamId {
        self.forget_for(&device);
        self.next += 1;
        self.clock += 1;
        let id = StreamId(NonZeroU64::new(self.next).unwrap_or(NonZeroU64::MIN));
        self.by_device.entry(device.clone()).or_default().push(id);
        let stream = Stream {
            device,
            name,
            named,
            conn: None,
            displaced: Vec::new(),
            taken: 0,
            safe: 0,
            heard: 0,
            told: 0,
            pending: VecDeque::new(),
            contents: VecDeque::new(),
            dirty: false,
            used: self.clock,
        };
        self.streams.insert(id, Box::new(stream));
        id
    }

    /// Makes room for one more stream of this device: its own go first, so that
    /// a device that names streams without end costs no other device anything.
    fn forget_for(&mut self, device: &str) {
        let own = self.by_device.get(device).map_or(&[][..], Vec::as_slice);
        let forget = if own.len() >= STREAMS_PER_DEVICE {
            let resting = own.iter().filter_map(|id| {
                let stream = self.streams.get(id).filter(|stream| stream.is_resting())?;
                Some((stream.rank(), *id))
            });
            resting.min().map(|(_, id)| id)
        } else if self.streams.len() >= STREAMS {
            self.resting.first_key_value().map(|(_, id)| *id)
        } else {
            None
        };
        if let Some(id) = forget {
            self.remove(id);
        }
    }

    /// Forgets what the streams that have rested longest stood for, while it is too much in all.
    fn forget_contents(&mut self) {
        while self.contents > self.max_contents
            && let Some((_, id)) = self.remembering.pop_first()
        {
            if let Some(stream) = self.streams.get_mut(&id) {
                self.contents -= stream.contents.len();
                stream.contents = VecDeque::new();
            }
        }
    }

    /// If nobody uses the stream any more it is dropped when it cannot be resumed, and takes its
    /// place among those that rest otherwise.
    fn rest(&mut self, id: StreamId) {
        let Some(stream) = self.streams.get(&id).filter(|stream| stream.is_resting()) else {
            return;
        };
        if stream.named {
            self.resting.insert(stream.rank(), id);
            if !stream.contents.is_empty() {
                self.remembering.insert(stream.used, id);
            }
        } else {
            self.remove(id);
        }
    }

    fn remove(&mut self, id: StreamId) {
        let Some(stream) = self.streams.remove(&id) else {
            return;
        };
        self.resting.remove(&stream.rank());
        self.remembering.remove(&stream.used);
        self.contents -= stream.contents.len();
        if let Some(ids) = self.by_device.get_mut(&stream.device) {
            ids.retain(|other| *other != id);
            if ids.is_empty() {
                self.by_device.remove(&stream.device);
            }
        }
    }
}

fn mark(stream: &Stream) -> Mark {
    Mark {
        device: stream.device.clone(),
        stream: stream.name.clone(),
        seq: stream.safe,
    }
}

#[cfg(test)]
#[path = "streams_tests.rs"]
mod tests;
