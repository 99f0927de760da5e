//! What a device keeps until the hub has called it safe, and what it may send next. Pure.

use std::collections::VecDeque;
use std::time::Instant;

/// A batch that is kept.
#[derive(Debug, Clone)]
pub struct Entry<F> {
    /// Its sequence number.
    pub seq: u64,
    /// Readings in it.
    pub readings: u32,
    /// When it was made; its age at the ack is the latency.
    pub made: Instant,
    /// The encoded message.
    pub frame: F,
}

/// The hub said something safe that was never sent: it is wrong, or two devices share a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NeverSent {
    /// What the hub called safe.
    pub claimed: u64,
    /// The highest number that went out.
    pub sent: u64,
}

/// The unacked batches of one stream, in order. The first `in_flight` of them have gone out on
/// the present connection.
#[derive(Debug)]
pub struct Unacked<F> {
    queue: VecDeque<Entry<F>>,
    keep: usize,
    in_flight: usize,
    window: usize,
    last: u64,
    sent: u64,
    safe: u64,
}

impl<F> Unacked<F> {
    /// Keeps at most `keep` batches, at least one. Nothing may be sent before
    /// [`welcome`](Self::welcome).
    #[must_use]
    pub fn new(keep: usize) -> Self {
        Self {
            queue: VecDeque::new(),
            keep: keep.max(1),
            in_flight: 0,
            window: 0,
            last: 0,
            sent: 0,
            safe: 0,
        }
    }

    /// The number that the next batch has.
    #[must_use]
    pub fn next_seq(&self) -> u64 {
        self.last + 1
    }

    /// The highest number that the hub has called safe; 0: none.
    #[must_use]
    pub fn safe(&self) -> u64 {
        self.safe
    }

    /// Whether the next batch would push another out.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.queue.len() >= self.keep
    }

    /// Whether everything made is safe (or given up).
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// How many are kept.
    #[cfg(test)]
    #[must_use]
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// The numbers that are kept, in order.
    pub fn seqs(&self) -> impl Iterator<Item = u64> {
        self.queue.iter().map(|entry| entry.seq)
    }

    /// Whether another batch made now could be sent at once.
    #[must_use]
    pub fn has_room_in_window(&self) -> bool {
        self.queue.len() < self.window
    }

    /// Adds a batch with the next number. When the queue is full, the oldest that has not gone
    /// out gives way, or the oldest of all, and is returned: what is on its way is most likely
    /// safe already.
    pub fn push(&mut self, readings: u32, made: Instant, frame: F) -> Option<Entry<F>> {
        let pushed_out = if self.is_full() {
            let index = if self.in_flight < self.queue.len() {
                self.in_flight
            } else {
                0
            };
            self.remove(index)
        } else {
            None
        };
        self.last += 1;
        self.queue.push_back(Entry {
            seq: self.last,
            readings,
            made,
            frame,
        });
        pushed_out
    }

    /// The next batch to send, if the window has room for it.
    #[must_use]
    pub fn to_send(&self) -> Option<&Entry<F>> {
        if self.in_flight >= self.window {
            return None;
        }
        self.queue.get(self.in_flight)
    }

    /// The batch of [`to_send`](Self::to_send) went out.
    pub fn sent(&mut self) {
        if let Some(entry) = self.queue.get(self.in_flight) {
            self.sent = self.sent.max(entry.seq);
            self.in_flight += 1;
        }
    }

    /// The batch of [`to_send`](Self::to_send) cannot be sent; it is taken out.
    pub fn give_up(&mut self) -> Option<Entry<F>> {
        self.remove(self.in_flight)
    }

    /// What `hello` says as `next`: the last number that went out, plus one.
    #[must_use]
    pub fn next_unused(&self) -> u64 {
        self.sent + 1
    }

    /// The hub's answer to `hello`. Below what was sent, everything up to `seq` is safe and
    /// everything else is to be sent again in order. Otherwise another life of the device has used
    /// the numbers: nothing that is kept has been taken, and all of it gets new numbers, which
    /// `renumber` writes into the frames. `settled` gets each batch that turns out to be safe.
    pub fn welcome(
        &mut self,
        seq: u64,
        window: usize,
        settled: impl FnMut(Entry<F>),
        mut renumber: impl FnMut(&mut Entry<F>),
    ) {
        self.in_flight = 0;
        self.window = window;
        if seq <= self.sent {
            // Cannot fail: it was sent.
            let _ = self.ack(seq, settled);
            return;
        }
        self.last = seq;
        (self.sent, self.safe) = (seq, seq);
        for entry in &mut self.queue {
            self.last += 1;
            entry.seq = self.last;
            renumber(entry);
        }
    }

    /// The number of a batch is not free: the same content comes under the next one.
    pub fn again(&mut self, seq: u64, mut renumber: impl FnMut(&mut Entry<F>)) -> bool {
        let Some(mut entry) = self.reject(seq) else {
            return false;
        };
        self.last += 1;
        entry.seq = self.last;
        renumber(&mut entry);
        self.queue.push_back(entry);
        true
    }

    /// Everything up to `seq` is safe. `settled` gets each batch that was not known to be. The
    /// ack may be for a batch of an earlier connection.
    ///
    /// # Errors
    /// [`NeverSent`]; nothing is settled then.
    pub fn ack(&mut self, seq: u64, mut settled: impl FnMut(Entry<F>)) -> Result<(), NeverSent> {
        if seq > self.sent {
            return Err(NeverSent {
                claimed: seq,
                sent: self.sent,
            });
        }
        self.safe = self.safe.max(seq);
        while self.queue.front().is_some_and(|entry| entry.seq <= seq) {
            if let Some(entry) = self.remove(0) {
                settled(entry);
            }
        }
        Ok(())
    }

    /// The hub will never take this batch; it is taken out. `None`: it is not kept (any more).
    pub fn reject(&mut self, seq: u64) -> Option<Entry<F>> {
        let index = self
            .queue
            .binary_search_by_key(&seq, |entry| entry.seq)
            .ok()?;
        self.remove(index)
    }

    /// The connection is gone: nothing may be sent before the next welcome.
    pub fn disconnected(&mut self) {
        self.in_flight = 0;
        self.window = 0;
    }

    fn remove(&mut self, index: usize) -> Option<Entry<F>> {
        let entry = self.queue.remove(index)?;
        if index < self.in_flight {
            self.in_flight -= 1;
        }
        Some(entry)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    enum Step {
        Make,
        Send,
        /// The hub calls this share of what it has got safe.
        Ack(u8),
        Reject(u8),
        Lose,
        Welcome(u8),
        AckTooMuch,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => Just(Step::Make),
            6 => Just(Step::Send),
            2 => any::<u8>().prop_map(Step::Ack),
            1 => any::<u8>().prop_map(Step::Reject),
            1 => Just(Step::Lose),
            2 => any::<u8>().prop_map(Step::Welcome),
            1 => Just(Step::AckTooMuch),
        ]
    }

    proptest! {
        /// Every batch ever made is, at any moment, in exactly one of: kept, settled, rejected,
        /// pushed out. What is sent on one connection goes up, and never beyond the window.
        #[test]
        fn no_batch_is_lost_track_of(
            steps in proptest::collection::vec(step(), 0..200),
            keep in 1_usize..12,
            window in 1_usize..8,
        ) {
            let mut unacked = Unacked::new(keep);
            let now = Instant::now();
            let (mut made, mut gone) = (0_u64, BTreeSet::new());
            let (mut got, mut safe) = (0_u64, 0_u64);
            let (mut connected, mut here, mut on_this) = (false, 0_u64, 0_usize);
            for step in steps {
                match step {
                    Step::Make => {
                        made += 1;
                        prop_assert_eq!(unacked.next_seq(), made);
                        if let Some(out) = unacked.push(1, now, made) {
                            prop_assert!(gone.insert(out.seq));
                            on_this = on_this.min(unacked.in_flight);
                        }
                    }
                    Step::Send => if let Some(entry) = unacked.to_send() {
                        prop_assert!(connected);
                        prop_assert!(entry.seq > here, "{} after {here}", entry.seq);
                        prop_assert_eq!(entry.seq, entry.frame);
                        here = entry.seq;
                        got = got.max(here);
                        unacked.sent();
                        on_this += 1;
                        prop_assert!(on_this <= window);
                    },
                    Step::Ack(share) => if connected {
                        let seq = safe + (got - safe) * u64::from(share) / 255;
                        safe = seq;
                        let mut before = 0;
                        unacked.ack(seq, |entry| {
                            assert!(entry.seq > before && entry.seq <= seq);
                            before = entry.seq;
                            assert!(gone.insert(entry.seq));
                        }).unwrap();
                        on_this = unacked.in_flight;
                    },
                    Step::Reject(share) => {
                        let seq = made * u64::from(share) / 255;
                        if let Some(entry) = unacked.reject(seq) {
                            prop_assert_eq!(entry.seq, seq);
                            prop_assert!(gone.insert(seq));
                            on_this = unacked.in_flight;
                        }
                    }
                    Step::Lose => {
                        connected = false;
                        unacked.disconnected();
                    }
                    Step::Welcome(share) => {
                        safe += (got - safe) * u64::from(share) / 255;
                        unacked.welcome(
                            safe,
                            window,
                            |entry| assert!(gone.insert(entry.seq)),
                            |_| unreachable!("it was sent"),
                        );
                        (connected, here, on_this) = (true, 0, 0);
                    }
                    Step::AckTooMuch => {
                        let error = unacked.ack(got + 1, |_| panic!("settled")).unwrap_err();
                        prop_assert_eq!(error, NeverSent { claimed: got + 1, sent: got });
                    }
                }
                prop_assert!(unacked.len() <= keep);
                let mut all = gone.clone();
                for seq in unacked.seqs() {
                    prop_assert!(seq > safe || !connected);
                    prop_assert!(all.insert(seq));
                }
                prop_assert!(all.into_iter().eq(1..=made));
            }
        }
    }

    #[test]
    fn after_a_welcome_what_is_not_safe_is_sent_again_in_order() {
        let mut unacked = Unacked::new(10);
        for _ in 0..4 {
            unacked.push(1, Instant::now(), ());
        }
        assert!(unacked.to_send().is_none(), "no welcome yet");
        unacked.welcome(0, 10, |_| (), |_| ());
        while unacked.to_send().is_some() {
            unacked.sent();
        }
        unacked.disconnected();
        let mut safe = Vec::new();
        unacked.welcome(2, 10, |entry| safe.push(entry.seq), |_| ());
        assert_eq!(safe, [1, 2]);
        assert_eq!(unacked.to_send().unwrap().seq, 3);
    }

    #[test]
    fn a_counter_that_was_lost_goes_on_behind_the_hubs_and_nothing_is_taken_for_safe() {
        let mut unacked = Unacked::new(10);
        for n in 1..=3 {
            unacked.push(1, Instant::now(), n);
        }
        assert_eq!(unacked.next_unused(), 1);
        let mut renumbered = Vec::new();
        unacked.welcome(
            7,
            10,
            |_| panic!("none of it was ever sent"),
            |entry| renumbered.push((entry.frame, entry.seq)),
        );
        assert_eq!(renumbered, [(1, 8), (2, 9), (3, 10)]);
        assert_eq!(unacked.next_unused(), 8);
        unacked.sent();
        unacked.ack(8, |_| ()).unwrap();
        assert_eq!(unacked.next_seq(), 11);
    }

    #[test]
    fn a_number_that_is_not_free_is_given_up_for_the_next() {
        let mut unacked = Unacked::new(10);
        unacked.welcome(0, 10, |_| (), |_| ());
        for _ in 0..3 {
            unacked.push(1, Instant::now(), ());
            unacked.sent();
        }
        assert!(unacked.again(2, |entry| assert_eq!(entry.seq, 4)));
        assert!(!unacked.again(2, |_| panic!("it is gone")));
        assert!(unacked.seqs().eq([1, 3, 4]));
        assert_eq!(unacked.to_send().unwrap().seq, 4);
    }
}
