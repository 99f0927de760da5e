//! What the hub has taken from each stream, and how much of that is safe.
//!
//! Pure. A stream's numbers grow strictly; two marks describe it: `taken`, the highest number
//! that was ever accepted, and `safe`, up to which every accepted number is PUBACKed or synced.
//! Batches become safe in any order; an ack is cumulative and follows `safe`.

use std::collections::{HashMap, VecDeque};
use std::num::NonZeroU64;
use std::sync::Arc;

use super::port::{Attached, ConnId, StreamId};
use crate::lru::Lru;
use crate::reading::Mark;

/// Named streams remembered for one device. A device that begins a new stream at every boot
/// would fill the table otherwise; 16 restarts back is further than any resume reaches.
pub const STREAMS_PER_DEVICE: usize = 16;

/// Streams remembered in all, about 300 bytes each. Beyond it one is forgotten that rests: first
/// those of which nothing is safe, then those of few batches, then the others, and among equals the
/// one that has rested longest. Its device, should it come back, starts from 0 and may send
/// duplicates.
pub const STREAMS: usize = 65_536;

/// Numbers that a stream has to reach to be more than a try: streams of made-up devices push out
/// each other and not those of real ones.
const WORKING: u64 = 16;

/// What becomes of a batch that arrives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is new and has been noted as taken.
    New,
    /// It was taken before. `Some`: it, and everything up to this number, is safe by now.
    Known(Option<u64>),
}

#[derive(Debug)]
struct Stream {
    device: Arc<str>,
    name: Arc<str>,
    /// Whether `hello` named it: only then can it be resumed, and is worth remembering.
    named: bool,
    conn: Option<ConnId>,
    taken: u64,
    safe: u64,
    /// Taken numbers above `safe`, ascending, and whether each is safe by itself.
    pending: VecDeque<(u64, bool)>,
    /// Whether `safe` moved since the marks were last handed to the spool.
    dirty: bool,
    used: u64,
}

/// All streams of all devices.
#[derive(Debug, Default)]
pub struct Streams {
    streams: HashMap<StreamId, Stream>,
    by_device: HashMap<Arc<str>, Vec<StreamId>>,
    by_conn: HashMap<ConnId, StreamId>,
    /// Those without a connection and without anything pending, which can be forgotten.
    resting: Lru<StreamId>,
    dirty: Vec<StreamId>,
    next: u64,
    clock: u64,
}

impl Streams {
    /// Takes over the marks that the spool remembers. They may come late, after a spool that could
    /// not be used: what was taken in a stream meanwhile keeps its own way, and marks only rise.
    pub fn restore(&mut self, marks: impl IntoIterator<Item = Mark>) {
        for mark in marks {
            let id = self
                .find(&mark.device, &mark.stream)
                .unwrap_or_else(|| self.insert(mark.device.clone(), mark.stream.clone(), true));
            if let Some(stream) = self.streams.get_mut(&id) {
                stream.safe = stream.safe.max(mark.seq);
                stream.taken = stream.taken.max(mark.seq);
            }
            self.rest(id);
        }
    }

    /// Attaches a connection to a stream: to the named one, new or resumed, or to a fresh
    /// unnamed one. An older connection of the same stream hears no more acks.
    pub fn attach(
        &mut self,
        conn: ConnId,
        device: &Arc<str>,
        name: Option<Arc<str>>,
        unnamed: impl FnOnce() -> Arc<str>,
    ) -> Attached {
        self.detach(conn);
        let id = match name {
            Some(name) => self
                .find(device, &name)
                .unwrap_or_else(|| self.insert(device.clone(), name, true)),
            None => self.insert(device.clone(), unnamed(), false),
        };
        self.clock += 1;
        let clock = self.clock;
        let stream = self.streams.get_mut(&id).expect("found or inserted above");
        stream.used = clock;
        self.resting.remove(&id);
        let before = stream.conn.replace(conn);
        let attached = Attached {
            stream: id,
            name: stream.name.clone(),
            safe: stream.safe,
            taken: stream.taken,
        };
        if let Some(before) = before {
            self.by_conn.remove(&before);
        }
        self.by_conn.insert(conn, id);
        attached
    }

    /// The connection is gone. An unnamed stream goes with it once nothing of it is pending.
    pub fn detach(&mut self, conn: ConnId) {
        let Some(id) = self.by_conn.remove(&conn) else {
            return;
        };
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.conn = None;
        }
        self.rest(id);
    }

    /// Judges a batch that arrives, and notes it as taken if it is new.
    pub fn arrive(&mut self, id: StreamId, seq: Option<u64>) -> Verdict {
        let Some(seq) = seq else { return Verdict::New };
        let Some(stream) = self.streams.get_mut(&id) else {
            // Its connection was replaced and the unnamed stream dropped: nobody waits for it.
            return Verdict::New;
        };
        if seq <= stream.safe {
            return Verdict::Known(Some(stream.safe));
        }
        if seq <= stream.taken {
            return Verdict::Known(None);
        }
        stream.taken = seq;
        stream.pending.push_back((seq, false));
        // It may still be on its way when its connection has gone.
        if stream.conn.is_none() {
            self.resting.remove(&id);
        }
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
        let moved = (stream.conn, stream.safe);
        self.rest(id);
        Some(moved)
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
        known.into_iter().map(mark).collect()
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
            taken: 0,
            safe: 0,
            pending: VecDeque::new(),
            dirty: false,
            used: self.clock,
        };
        self.streams.insert(id, stream);
        id
    }

    /// Makes room for one more stream of this device. One that has many gives up one of its own.
    fn forget_for(&mut self, device: &str) {
        let own = self.by_device.get(device).map_or(&[][..], Vec::as_slice);
        let forget = if own.len() >= STREAMS_PER_DEVICE {
            self.oldest_resting(own)
        } else if self.streams.len() >= STREAMS {
            self.resting.first().copied()
        } else {
            None
        };
        if let Some(id) = forget {
            self.remove(id);
        }
    }

    fn oldest_resting(&self, own: &[StreamId]) -> Option<StreamId> {
        let resting = |id: &&StreamId| self.streams.get(id).is_some_and(is_resting);
        let used = |id: &&StreamId| self.streams.get(id).map(|stream| stream.used);
        own.iter().filter(resting).min_by_key(used).copied()
    }

    /// Notes that a stream may rest from now on. An unnamed one is over then.
    fn rest(&mut self, id: StreamId) {
        let Some(stream) = self.streams.get(&id).filter(|stream| is_resting(stream)) else {
            return;
        };
        if !stream.named {
            return self.remove(id);
        }
        let rank = match stream.safe {
            0 => 0,
            1..WORKING => 1,
            WORKING.. => 2,
        };
        let own = self.by_device.get(&stream.device);
        // More than that when too few were at rest to make room for the newest.
        let surplus = own
            .filter(|own| own.len() > STREAMS_PER_DEVICE)
            .and_then(|own| self.oldest_resting(own));
        self.resting.touch(&id, rank);
        if let Some(surplus) = surplus {
            self.remove(surplus);
        }
    }

    fn remove(&mut self, id: StreamId) {
        self.resting.remove(&id);
        let Some(stream) = self.streams.remove(&id) else {
            return;
        };
        if let Some(ids) = self.by_device.get_mut(&stream.device) {
            ids.retain(|other| *other != id);
            if ids.is_empty() {
                self.by_device.remove(&stream.device);
            }
        }
    }
}

fn is_resting(stream: &Stream) -> bool {
    stream.conn.is_none() && stream.pending.is_empty()
}

fn mark(stream: &Stream) -> Mark {
    Mark {
        device: stream.device.clone(),
        stream: stream.name.clone(),
        seq: stream.safe,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn attach(streams: &mut Streams, conn: ConnId, name: &str) -> Attached {
        streams.attach(conn, &"d".into(), Some(name.into()), || unreachable!())
    }

    #[test]
    fn an_ack_waits_for_every_number_before_it() {
        let mut streams = Streams::default();
        let s = attach(&mut streams, 1, "a").stream;
        for seq in [1, 2, 5] {
            assert_eq!(streams.arrive(s, Some(seq)), Verdict::New);
        }
        assert_eq!(streams.safe(s, 5), None);
        assert_eq!(streams.safe(s, 2), None);
        assert_eq!(streams.safe(s, 1), Some((Some(1), 5)));
    }

    #[test]
    fn a_resent_number_is_acked_again_once_safe_and_never_taken_twice() {
        let mut streams = Streams::default();
        let s = attach(&mut streams, 1, "a").stream;
        streams.arrive(s, Some(3));
        assert_eq!(streams.arrive(s, Some(3)), Verdict::Known(None));
        streams.safe(s, 3);
        assert_eq!(streams.arrive(s, Some(3)), Verdict::Known(Some(3)));
        assert_eq!(streams.safe(s, 3), None);
    }

    #[test]
    fn a_named_stream_resumes_on_another_connection_and_its_acks_follow() {
        let mut streams = Streams::default();
        let s = attach(&mut streams, 1, "a").stream;
        streams.arrive(s, Some(1));
        streams.arrive(s, Some(2));
        streams.safe(s, 1);
        let resumed = attach(&mut streams, 2, "a");
        assert_eq!((resumed.stream, resumed.safe, resumed.taken), (s, 1, 2));
        streams.detach(1);
        assert_eq!(streams.safe(s, 2), Some((Some(2), 2)));
    }

    #[test]
    fn an_unnamed_stream_ends_with_its_connection_but_not_before_its_last_batch() {
        let mut streams = Streams::default();
        let s = streams.attach(1, &"d".into(), None, || "x".into()).stream;
        streams.arrive(s, Some(1));
        streams.detach(1);
        assert_eq!(streams.len(), 1);
        assert_eq!(streams.safe(s, 1), Some((None, 1)));
        assert!(streams.is_empty());
    }

    #[test]
    fn marks_survive_through_restore_and_dirty_tells_only_what_moved() {
        let mut streams = Streams::default();
        let s = attach(&mut streams, 1, "a").stream;
        attach(&mut streams, 2, "b");
        streams.arrive(s, Some(7));
        streams.safe(s, 7);
        let dirty = streams.take_dirty();
        assert_eq!(
            dirty,
            [Mark {
                device: "d".into(),
                stream: "a".into(),
                seq: 7
            }]
        );
        assert!(streams.take_dirty().is_empty());
        streams.put_back(&dirty);
        assert_eq!(streams.take_dirty(), dirty);

        let mut restored = Streams::default();
        restored.restore(streams.marks());
        assert_eq!(attach(&mut restored, 1, "a").safe, 7);
    }

    #[test]
    fn marks_that_come_late_are_never_lowered_by_what_was_taken_before() {
        let mut streams = Streams::default();
        let s = attach(&mut streams, 1, "a").stream;
        streams.arrive(s, Some(3));
        streams.restore([Mark {
            device: "d".into(),
            stream: "a".into(),
            seq: 20,
        }]);
        assert_eq!(streams.safe(s, 3), Some((Some(1), 20)));
        assert_eq!(streams.arrive(s, Some(20)), Verdict::Known(Some(20)));
        assert_eq!(streams.arrive(s, Some(21)), Verdict::New);
    }

    #[test]
    fn a_device_that_renames_its_stream_at_every_boot_does_not_fill_the_table() {
        let mut streams = Streams::default();
        for boot in 0..100 {
            attach(&mut streams, boot, &format!("boot-{boot}"));
            streams.detach(boot);
        }
        assert_eq!(streams.len(), STREAMS_PER_DEVICE);
        let last = attach(&mut streams, 100, "boot-99");
        assert_eq!(streams.len(), STREAMS_PER_DEVICE);
        assert_eq!(last.name.as_ref(), "boot-99");
    }

    fn attach_of(streams: &mut Streams, conn: ConnId, device: &str, name: &str) -> StreamId {
        let attached = streams.attach(conn, &device.into(), Some(name.into()), || unreachable!());
        attached.stream
    }

    #[test]
    fn one_device_opening_streams_without_end_pushes_out_only_its_own() {
        let mut streams = Streams::default();
        let other = attach_of(&mut streams, 1, "other", "s");
        streams.detach(1);
        // Something of each is on its way when the next one begins, so that none can go at once.
        let mut pending = Vec::new();
        for n in 2..=200 {
            let id = attach_of(&mut streams, n, "loud", &format!("s-{n}"));
            streams.arrive(id, Some(1));
            pending.push(id);
        }
        for (n, id) in (2..).zip(pending) {
            streams.detach(n);
            streams.safe(id, 1);
        }
        assert!(streams.len() <= STREAMS_PER_DEVICE + 1);
        assert!(streams.streams.contains_key(&other));
    }

    #[test]
    fn made_up_devices_push_out_each_other_and_no_mark_of_a_real_one() {
        let mut streams = Streams::default();
        let real = attach_of(&mut streams, 1, "real", "s");
        for seq in 1..=WORKING {
            streams.arrive(real, Some(seq));
            streams.safe(real, seq);
        }
        streams.detach(1);
        for n in 2..2 * STREAMS as u64 {
            let id = attach_of(&mut streams, n, &format!("d-{n}"), "s");
            if n % 2 == 0 {
                streams.arrive(id, Some(1));
                streams.safe(id, 1);
            }
            streams.detach(n);
            assert!(streams.len() <= STREAMS);
        }
        assert_eq!(streams.resting.len(), streams.len());
        assert!(streams.streams.contains_key(&real));
    }
}
