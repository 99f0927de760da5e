//! The last batch of each device, as its frame, for whoever asks what a device says.
//!
//! It is kept whether or not anybody watches: who looks after a silent device wants its last
//! words. The bytes go into the same buffer each time, which is a lock and a copy of a few hundred
//! bytes for a batch. When there is no room, the frames of devices that have not shown yet that
//! they work go first, and then the largest: a few large ones do not take the place of many.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use bytes::Bytes;

use crate::clock;
use crate::reading::{Batch, Encoding, Moment};

/// Bytes of last batches that are kept of all devices together. 1,000 devices with batches of
/// 300 bytes take a fourteenth. A device whose batch does not fit is shown without.
pub const KEPT_BYTES: usize = 4 << 20;

/// A batch as it came.
#[derive(Debug, Clone, PartialEq)]
pub struct Last {
    /// Unix seconds.
    pub received: f64,
    /// Of the frame.
    pub encoding: Encoding,
    /// A `data` message or a bare pack that decodes and resolves.
    pub frame: Bytes,
}

/// One device's place in the table.
#[derive(Debug)]
pub(super) struct Slot(usize);

/// In which order frames go: those of devices that do not work yet, by size in powers of two from
/// the largest, and the oldest first.
type Turn = (bool, Reverse<u32>, u64, usize);

#[derive(Debug)]
struct Kept {
    received: Moment,
    encoding: Encoding,
    frame: Vec<u8>,
    works: bool,
    since: u64,
}

impl Kept {
    fn turn(&self, slot: usize) -> Turn {
        let size = Reverse(usize::BITS - self.frame.capacity().leading_zeros());
        (self.works, size, self.since, slot)
    }
}

/// The last batches of all devices.
#[derive(Debug, Default)]
pub(super) struct LastBatches {
    slots: Vec<Option<Kept>>,
    free: Vec<usize>,
    bytes: usize,
    turns: BTreeSet<Turn>,
    clock: u64,
}

impl LastBatches {
    /// A place for one more device. To be given back.
    pub(super) fn slot(&mut self) -> Slot {
        Slot(self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        }))
    }

    /// The device is forgotten.
    pub(super) fn give_back(&mut self, slot: &Slot) {
        self.empty(slot.0);
        self.free.push(slot.0);
    }

    /// Keeps a batch in place of the one before. `works`: the device has shown that it does.
    pub(super) fn put(&mut self, slot: &Slot, batch: &Batch, works: bool) {
        let needs = batch.frame.len();
        let fits = |kept: &&mut Kept| kept.works == works && kept.frame.capacity() >= needs;
        if let Some(kept) = self.slots[slot.0].as_mut().filter(fits) {
            kept.frame.clear();
            kept.frame.extend_from_slice(&batch.frame);
            (kept.received, kept.encoding) = (batch.received, batch.encoding);
            return;
        }
        self.empty(slot.0);
        self.clock += 1;
        let kept = Kept {
            received: batch.received,
            encoding: batch.encoding,
            frame: batch.frame.to_vec(),
            works,
            since: self.clock,
        };
        let (turn, bytes) = (kept.turn(slot.0), kept.frame.capacity());
        while self.bytes + bytes > KEPT_BYTES {
            match self.turns.first() {
                Some(&first) if (first.0, first.1) <= (turn.0, turn.1) => self.empty(first.3),
                _ => return,
            }
        }
        self.bytes += bytes;
        self.turns.insert(turn);
        self.slots[slot.0] = Some(kept);
    }

    pub(super) fn get(&self, slot: &Slot) -> Option<Last> {
        let kept = self.slots[slot.0].as_ref()?;
        Some(Last {
            received: clock::corrected(kept.received).wall,
            encoding: kept.encoding,
            frame: Bytes::copy_from_slice(&kept.frame),
        })
    }

    fn empty(&mut self, slot: usize) {
        if let Some(kept) = self.slots[slot].take() {
            self.turns.remove(&kept.turn(slot));
            self.bytes -= kept.frame.capacity();
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn batch(bytes: usize) -> Batch {
        Batch {
            device: "cow".into(),
            stream: "s".into(),
            seq: None,
            received: Moment::at(5.0),
            readings: 1,
            encoding: Encoding::Json,
            frame: vec![b'x'; bytes].into(),
        }
    }

    /// The counter against what it counts.
    fn check(table: &LastBatches) {
        let kept = table.slots.iter().flatten();
        let bytes: usize = kept.clone().map(|kept| kept.frame.capacity()).sum();
        assert_eq!((table.bytes, table.turns.len()), (bytes, kept.count()));
        assert!(bytes <= KEPT_BYTES);
    }

    #[test]
    fn the_last_batch_takes_the_place_of_the_one_before() {
        let mut table = LastBatches::default();
        let slot = table.slot();
        assert_eq!(table.get(&slot), None);
        for bytes in [100, 7, 3_000, 0] {
            table.put(&slot, &batch(bytes), false);
            let last = table.get(&slot).unwrap();
            assert_eq!((last.received, last.encoding), (5.0, Encoding::Json));
            assert_eq!(last.frame.len(), bytes);
            check(&table);
        }
        table.put(&slot, &batch(KEPT_BYTES + 1), true);
        assert_eq!(table.get(&slot), None, "larger than all the room");
        table.give_back(&slot);
        assert_eq!(table.bytes, 0);
        assert_eq!(table.slot().0, slot.0, "places are used again");
    }

    #[test]
    fn large_batches_without_end_push_out_each_other_and_not_the_small_ones() {
        let mut table = LastBatches::default();
        let small = table.slot();
        table.put(&small, &batch(300), false);
        let large: Vec<_> = (0..200).map(|_| table.slot()).collect();
        for slot in &large {
            table.put(slot, &batch(64 << 10), false);
            check(&table);
        }
        assert!(table.get(&small).is_some());
        assert!(table.get(&large[0]).is_none() && table.get(&large[199]).is_some());
    }

    #[test]
    fn devices_that_work_keep_theirs_against_any_that_only_came() {
        let mut table = LastBatches::default();
        let works = table.slot();
        table.put(&works, &batch(60_000), true);
        for _ in 0..50_000 {
            let other = table.slot();
            table.put(&other, &batch(200), false);
        }
        check(&table);
        assert!(table.get(&works).is_some());
        // And push out as many of them as it takes.
        let another = table.slot();
        table.put(&another, &batch(60_000), true);
        assert!(table.get(&another).is_some() && table.get(&works).is_some());
        check(&table);
    }
}
