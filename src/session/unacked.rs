//! Since when batches wait for their ack. Pure.

use std::collections::VecDeque;
use std::time::Instant;

/// Entries of one connection: twice the default window, about 1.5 KB. Who has more under way, or
/// does not read its acks, has them counted with a neighbour.
const ENTRIES: usize = 64;

/// Batches that were handed over and not acked, oldest first.
#[derive(Debug, Default)]
pub(super) struct Unacked(VecDeque<Entry>);

/// Some batches in a row.
#[derive(Debug)]
struct Entry {
    /// The number of the last.
    seq: u64,
    batches: u64,
    /// When the first came.
    since: Instant,
}

impl Unacked {
    /// A batch goes on its way that came at `since`.
    pub(super) fn push(&mut self, seq: u64, since: Instant) {
        if self.0.len() < ENTRIES {
            self.0.push_back(Entry {
                seq,
                batches: 1,
                since,
            });
        } else if let Some(newest) = self.0.back_mut() {
            newest.seq = newest.seq.max(seq);
            newest.batches += 1;
        }
    }

    /// A batch was not taken: it waits for nothing. One that is counted with a neighbour is acked
    /// with it.
    pub(super) fn refused(&mut self, seq: u64) {
        let alone = |entry: &Entry| entry.seq == seq && entry.batches == 1;
        if let Some(at) = self.0.iter().rposition(alone) {
            self.0.remove(at);
        }
    }

    /// Everything up to `seq` is acked now: how many batches, and since when they waited.
    pub(super) fn upto(&mut self, seq: u64, mut acked: impl FnMut(u64, Instant)) {
        while let Some(entry) = self.0.front().filter(|entry| entry.seq <= seq) {
            acked(entry.batches, entry.since);
            self.0.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn an_ack_answers_for_all_up_to_it_and_for_none_twice() {
        let began = Instant::now();
        let mut unacked = Unacked::default();
        for seq in 1..=3 {
            unacked.push(seq, began + Duration::from_secs(seq));
        }
        let mut told = Vec::new();
        unacked.upto(2, |batches, since| {
            told.push((batches, (since - began).as_secs()))
        });
        unacked.upto(2, |_, _| unreachable!("told before"));
        assert_eq!(told, [(1, 1), (1, 2)]);
    }

    #[test]
    fn a_refused_batch_is_never_acked() {
        let mut unacked = Unacked::default();
        for seq in 1..=3 {
            unacked.push(seq, Instant::now());
        }
        unacked.refused(2);
        let mut told = 0;
        unacked.upto(3, |batches, _| told += batches);
        assert_eq!(told, 2);
    }

    #[test]
    fn a_device_that_does_not_read_its_acks_takes_no_more_memory_and_every_batch_counts() {
        let mut unacked = Unacked::default();
        for seq in 1..=10_000 {
            unacked.push(seq, Instant::now());
        }
        assert!(unacked.0.len() <= ENTRIES);
        let mut sum = 0;
        unacked.upto(10_000, |batches, _| sum += batches);
        assert_eq!(sum, 10_000);
    }
}
