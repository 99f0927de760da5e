//! What is told once and not kept: refusals, `accepted`, progress. Pure.
//!
//! A million commands for nobody must not become a million publishes beside the readings, so
//! these are paced and bounded, and what goes beyond is counted.

use std::collections::VecDeque;
use std::time::Instant;

use super::bucket::Bucket;
use crate::reading::Reply;

/// Replies that wait.
const QUEUED: usize = 256;

/// And their bytes: four progress reports of the largest size, or thousands of refusals.
const QUEUED_BYTES: usize = 256 * 1024;

/// Replies a second. A refusal is some 200 bytes: 4 KB/s, which the slowest uplink has to spare.
const A_SECOND: u32 = 20;

/// Replies that go out as fast as [`A_SECOND`] allows.
#[derive(Debug)]
pub(super) struct Notices {
    queue: VecDeque<Reply>,
    bytes: usize,
    bucket: Bucket,
    /// Replies that found no room.
    pub(super) dropped: u64,
}

impl Notices {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            queue: VecDeque::new(),
            bytes: 0,
            bucket: Bucket::new(A_SECOND, A_SECOND, now),
            dropped: 0,
        }
    }

    /// Whether one more would be told: what would not need not be made.
    pub(super) fn has_room(&self) -> bool {
        self.queue.len() < QUEUED && self.bytes < QUEUED_BYTES
    }

    /// Takes a reply, or counts it as dropped.
    pub(super) fn push(&mut self, reply: Reply) {
        if self.has_room() {
            self.bytes += reply.weight();
            self.queue.push_back(reply);
        } else {
            self.dropped += 1;
        }
    }

    /// The next reply, if it may go now.
    pub(super) fn take(&mut self, now: Instant) -> Option<Reply> {
        if self.queue.is_empty() || !self.bucket.take(now) {
            return None;
        }
        self.pop()
    }

    /// The next reply, whether or not it may go: at the end nothing is held back.
    pub(super) fn pop(&mut self) -> Option<Reply> {
        let reply = self.queue.pop_front()?;
        self.bytes -= reply.weight();
        Some(reply)
    }

    /// When [`Notices::take`] has one.
    pub(super) fn due(&mut self, now: Instant) -> Option<Instant> {
        (!self.queue.is_empty()).then(|| self.bucket.next(now))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;

    use super::*;
    use crate::reading::{Encoding, Moment};

    fn reply(size: usize) -> Reply {
        Reply {
            device: "lamp".into(),
            name: "on".into(),
            topic: None,
            correlation: None,
            encoding: Encoding::Json,
            payload: Bytes::from(vec![b'x'; size]),
            made: Moment::at(1.0),
        }
    }

    #[test]
    fn a_million_refusals_are_a_few_a_second_and_a_number() {
        let mut now = Instant::now();
        let mut notices = Notices::new(now);
        for _ in 0..1_000_000 {
            notices.push(reply(10));
        }
        let told = std::iter::from_fn(|| notices.take(now)).count();
        assert_eq!(told, 20);
        assert_eq!(notices.dropped, 1_000_000 - QUEUED as u64);
        for _ in 0..QUEUED - 20 {
            now = notices.due(now).unwrap_or(now);
            assert!(notices.take(now).is_some());
        }
        assert_eq!((notices.bytes, notices.due(now)), (0, None));
    }

    #[test]
    fn large_ones_are_bounded_by_their_bytes() {
        let mut notices = Notices::new(Instant::now());
        for _ in 0..100 {
            notices.push(reply(64 * 1024));
        }
        assert!(notices.bytes < 2 * QUEUED_BYTES, "{}", notices.bytes);
        let later = Instant::now() + Duration::from_secs(1);
        assert!(notices.take(later).is_some());
    }
}
