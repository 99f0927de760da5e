//! Which sequence numbers a connection has sent: new, sent before, or backwards. Pure.

use std::collections::VecDeque;

/// Skipped ranges that are remembered, the newest. A firmware that counts wrongly does so by a
/// few; when older ranges are forgotten, a number from them passes as a resend, which the intake
/// acks without publishing it.
const REMEMBERED_RANGES: usize = 64;

/// What a sequence number means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Above everything before: a new batch.
    New,
    /// Taken before, by this connection or an earlier one: ack it again, publish nothing.
    Resend,
    /// Below the highest, and skipped on the way up: it was never sent.
    Backwards,
}

/// The sequence numbers of one stream, as one connection sends them.
#[derive(Debug)]
pub struct Sequence {
    highest: u64,
    skipped: VecDeque<(u64, u64)>,
}

impl Sequence {
    /// Starts at the highest number that the hub took before this connection; 0 for none.
    /// What was skipped up to there is not known, so all of it counts as taken.
    #[must_use]
    pub fn new(taken: u64) -> Self {
        Self {
            highest: taken,
            skipped: VecDeque::new(),
        }
    }

    /// The highest number so far.
    #[must_use]
    pub fn highest(&self) -> u64 {
        self.highest
    }

    /// Judges the next number and remembers it.
    pub fn judge(&mut self, seq: u64) -> Verdict {
        if seq > self.highest {
            // The first number of a stream that is new to the hub may be any: a device may have
            // lost what came before, or counts from elsewhere.
            if seq - self.highest > 1 {
                if self.skipped.len() == REMEMBERED_RANGES {
                    self.skipped.pop_front();
                }
                self.skipped.push_back((self.highest + 1, seq - 1));
            }
            self.highest = seq;
            return Verdict::New;
        }
        let at = self.skipped.partition_point(|&(_, last)| last < seq);
        match self.skipped.get(at) {
            Some(&(first, _)) if first <= seq => Verdict::Backwards,
            _ => Verdict::Resend,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growing_numbers_are_new_and_gaps_are_allowed() {
        let mut sequence = Sequence::new(0);
        for seq in [1, 2, 5, 6, 100] {
            assert_eq!(sequence.judge(seq), Verdict::New, "{seq}");
        }
        assert_eq!(sequence.highest(), 100);
    }

    #[test]
    fn numbers_taken_before_are_resends() {
        let mut sequence = Sequence::new(7);
        assert_eq!(sequence.judge(7), Verdict::Resend);
        assert_eq!(sequence.judge(1), Verdict::Resend);
        assert_eq!(sequence.judge(8), Verdict::New);
        assert_eq!(sequence.judge(8), Verdict::Resend);
    }

    #[test]
    fn a_skipped_number_that_comes_late_goes_backwards() {
        let mut sequence = Sequence::new(10);
        assert_eq!(sequence.judge(15), Verdict::New);
        assert_eq!(sequence.judge(20), Verdict::New);
        for seq in [11, 14, 16, 19] {
            assert_eq!(sequence.judge(seq), Verdict::Backwards, "{seq}");
        }
        for seq in [10, 15, 20] {
            assert_eq!(sequence.judge(seq), Verdict::Resend, "{seq}");
        }
        assert_eq!(sequence.highest(), 20);
    }

    #[test]
    fn memory_of_skipped_ranges_is_bounded_and_keeps_the_newest() {
        let mut sequence = Sequence::new(0);
        for seq in (2..=2_000).step_by(2) {
            assert_eq!(sequence.judge(seq), Verdict::New);
        }
        assert_eq!(sequence.skipped.len(), REMEMBERED_RANGES);
        assert_eq!(sequence.judge(1_999), Verdict::Backwards);
        assert_eq!(sequence.judge(1), Verdict::Resend);
    }

    #[test]
    fn the_largest_number_does_not_overflow() {
        let mut sequence = Sequence::new(0);
        assert_eq!(sequence.judge(u64::MAX), Verdict::New);
        assert_eq!(sequence.judge(u64::MAX), Verdict::Resend);
        assert_eq!(sequence.judge(u64::MAX - 1), Verdict::Backwards);
    }
}
