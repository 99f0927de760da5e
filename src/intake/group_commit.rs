//! How long a commit waits for more to go with it.
//!
//! Pure. A commit writes three or four blocks of 4 KiB however little is in it, so on a flash card
//! it matters how many there are. But a device waits for its ack. So: a batch that is alone is
//! committed at once. Only while others come as well is a commit held back, until it is a full
//! group, until nobody has come for a while, or until its oldest batch has waited as long as two
//! commits take on this disk. The slower the disk and the more arrives, the larger the groups.
//!
//! Who would rather spare the card sets `spool.commit_interval`: then a commit is held back even
//! for a batch that is alone, so that its ack comes within that time of its arrival. Not when a
//! full group is there, because waiting would spare nothing more, and not when a device has its
//! whole window unacked, because it could send nothing more.

use std::time::{Duration, Instant};

use super::ids::IdMap;
use super::port::ConnId;

/// A fast disk is not asked more often than once in this time: the least that makes a difference
/// to its wear (20 batches instead of 3 at 4,000 a second), and no device notices it.
pub const HOLD_BACK: Duration = Duration::from_millis(5);

/// No batch is held back longer than this after its arrival, however slow the disk is.
pub const HOLD_BACK_MOST: Duration = Duration::from_millis(100);

/// With this many bytes nothing is gained by waiting: the size of the spool's groups.
const ENOUGH: usize = 32 * 1024;

/// Batches are held back while one of the last so many [`GroupCommit::patience`]s brought two at a
/// time.
const REMEMBERED: u32 = 4;

/// The share of a new measurement in the mean is one of so many.
const SMOOTH: u32 = 4;

/// See the module.
#[derive(Debug)]
pub struct GroupCommit {
    least: Duration,
    /// `spool.commit_interval`; zero: none.
    interval: Duration,
    /// Batches that a connection may have unacked.
    window: usize,
    /// Batches that wait, by connection. Only counted with an interval.
    waiting: IdMap<ConnId, usize>,
    /// A connection has so many waiting that it may send no more.
    used_up: bool,
    /// What a commit takes, smoothed.
    takes: Duration,
    last: Option<(Instant, ConnId)>,
    /// When a batch last came while another waited, or soon after one of another connection.
    company: Option<Instant>,
}

impl GroupCommit {
    /// `least`: usually [`HOLD_BACK`]; zero: commits are not held back for company. `interval`:
    /// `spool.commit_interval`; `window`: batches that a connection may have unacked.
    #[must_use]
    pub fn new(least: Duration, interval: Duration, window: usize) -> Self {
        Self {
            least,
            interval,
            window,
            waiting: IdMap::default(),
            used_up: false,
            takes: Duration::ZERO,
            last: None,
            company: None,
        }
    }

    /// The longest that a batch is held back after its arrival, at present.
    #[must_use]
    pub fn patience(&self) -> Duration {
        if self.least.is_zero() {
            return Duration::ZERO;
        }
        (self.takes * 2).clamp(self.least, HOLD_BACK_MOST.max(self.least))
    }

    /// A batch came that has to go to the disk. `waiting`: others are not stored yet.
    pub fn arrived(&mut self, now: Instant, conn: ConnId, waiting: bool) {
        let another = self.last.is_some_and(|(at, other)| {
            other != conn && now.saturating_duration_since(at) <= self.patience()
        });
        if waiting || another {
            self.company = Some(now);
        }
        self.last = Some((now, conn));
    }

    /// A batch of this connection waits for a commit.
    pub fn waits(&mut self, conn: ConnId) {
        if self.interval.is_zero() {
            return;
        }
        let count = self.waiting.entry(conn).or_default();
        *count += 1;
        self.used_up |= *count >= self.window;
    }

    /// A commit is under way, and takes along what waited.
    pub fn begun(&mut self) {
        self.waiting.clear();
        self.used_up = false;
    }

    /// A commit is done.
    pub fn committed(&mut self, took: Duration) {
        self.takes = if self.takes.is_zero() {
            took
        } else {
            (self.takes * (SMOOTH - 1) + took) / SMOOTH
        };
    }

    /// Until when to hold back a commit of so many bytes, whose oldest batch came at `oldest`.
    /// `None`: not any longer.
    #[must_use]
    pub fn until(&self, now: Instant, oldest: Instant, bytes: usize) -> Option<Instant> {
        if bytes >= ENOUGH {
            return None;
        }
        let until = self.company_until(now, oldest).max(self.due(oldest));
        until.filter(|at| *at > now)
    }

    /// While others come as well.
    fn company_until(&self, now: Instant, oldest: Instant) -> Option<Instant> {
        let patience = self.patience();
        let together = self
            .company
            .is_some_and(|at| now.saturating_duration_since(at) <= patience * REMEMBERED);
        if !together {
            return None;
        }
        let quiet = self.last.map_or(now, |(at, _)| at + patience / 2);
        Some(quiet.min(oldest + patience))
    }

    /// When the common commit has to begin, so that it is done within the interval.
    fn due(&self, oldest: Instant) -> Option<Instant> {
        let hold = self.interval.checked_sub(self.patience())?;
        (!hold.is_zero() && !self.used_up).then_some(oldest + hold)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MS: Duration = Duration::from_millis(1);

    /// Batches of `size` bytes from many connections, one every `every`, for two seconds, onto a
    /// disk that takes `takes`. Returns batches per commit and the longest wait for an ack.
    fn play(every: Duration, size: usize, takes: Duration, least: Duration) -> (f64, Duration) {
        let begin = Instant::now();
        let mut group_commit = GroupCommit::new(least, Duration::ZERO, 32);
        let mut waiting: Vec<Instant> = Vec::new();
        let mut committing: Option<(Instant, Vec<Instant>)> = None;
        let (mut commits, mut batches, mut longest) = (0.0, 0.0, Duration::ZERO);
        let step = Duration::from_micros(100);
        let (mut now, mut next, mut conn) = (begin, begin, 0);
        while now < begin + MS * 2_000 {
            if let Some((since, items)) = committing.take_if(|(since, _)| *since + takes <= now) {
                group_commit.committed(now - since);
                for arrived in items {
                    longest = longest.max(now - arrived);
                }
            }
            while next <= now {
                conn += 1;
                group_commit.arrived(now, conn, !waiting.is_empty() || committing.is_some());
                waiting.push(now);
                next += every;
            }
            if committing.is_none()
                && let Some(oldest) = waiting.first()
                && group_commit
                    .until(now, *oldest, waiting.len() * size)
                    .is_none()
            {
                commits += 1.0;
                batches += waiting.len() as f64;
                committing = Some((now, std::mem::take(&mut waiting)));
            }
            now += step;
        }
        (batches / commits, longest)
    }

    #[test]
    fn a_lone_device_that_waits_for_each_ack_is_never_held_back() {
        let mut group_commit = GroupCommit::new(HOLD_BACK, Duration::ZERO, 32);
        let mut now = Instant::now();
        for _ in 0..100 {
            group_commit.arrived(now, 1, false);
            assert_eq!(group_commit.until(now, now, 300), None);
            group_commit.committed(MS);
            now += MS;
        }
    }

    #[test]
    fn the_more_arrives_the_larger_the_groups() {
        let disk = Duration::from_micros(400);
        let (slow, _) = play(MS * 100, 300, disk, HOLD_BACK);
        let (brisk, _) = play(MS, 300, disk, HOLD_BACK);
        let (fast, _) = play(MS / 4, 300, disk, HOLD_BACK);
        assert!((slow - 1.0).abs() < 0.1, "{slow}");
        assert!(brisk > 4.0 && fast > 3.0 * brisk, "{brisk} {fast}");
        let (before, _) = play(MS / 4, 300, disk, Duration::ZERO);
        assert!(fast > 5.0 * before, "{fast} {before}");
    }

    #[test]
    fn the_slower_the_disk_the_larger_the_groups() {
        let sizes = [1, 10, 40].map(|takes| play(MS, 300, MS * takes, HOLD_BACK).0);
        assert!(
            sizes[0] * 2.0 < sizes[1] && sizes[1] * 2.0 < sizes[2],
            "{sizes:?}"
        );
    }

    #[test]
    fn full_groups_do_not_wait() {
        let now = Instant::now();
        let mut group_commit = GroupCommit::new(HOLD_BACK, Duration::ZERO, 32);
        group_commit.arrived(now, 1, true);
        assert!(group_commit.until(now, now, 300).is_some());
        assert_eq!(group_commit.until(now, now, ENOUGH), None);
    }

    #[test]
    fn with_an_interval_even_a_lone_batch_waits_and_is_safe_within_it() {
        let interval = MS * 1_000;
        let mut group_commit = GroupCommit::new(HOLD_BACK, interval, 32);
        group_commit.committed(MS * 40);
        let now = Instant::now();
        group_commit.arrived(now, 1, false);
        group_commit.waits(1);
        // Two commits' time is left for the commit itself.
        assert_eq!(group_commit.until(now, now, 300), Some(now + MS * 920));
        assert_eq!(group_commit.until(now + MS * 920, now, 300), None);
        assert_eq!(group_commit.until(now, now, ENOUGH), None);
    }

    #[test]
    fn who_has_used_up_its_window_waits_no_longer() {
        let now = Instant::now();
        let mut group_commit = GroupCommit::new(HOLD_BACK, MS * 1_000, 3);
        for conn in [1, 2, 1, 2] {
            group_commit.arrived(now, conn, true);
            group_commit.waits(conn);
        }
        let later = now + MS * 300;
        assert!(group_commit.until(later, now, 300).is_some());
        group_commit.waits(2);
        assert_eq!(group_commit.until(later, now, 300), None);
        group_commit.begun();
        group_commit.waits(2);
        assert!(group_commit.until(later, later, 300).is_some());
    }

    proptest! {
        #[test]
        fn nobody_waits_longer_than_the_bound_and_two_commits(every in 1..200u64, takes in 1..400u64) {
            let (every, takes) = (MS * every as u32 / 10, MS * takes as u32 / 10);
            let (_, longest) = play(every, 300, takes, HOLD_BACK);
            let held = (takes * 2).clamp(HOLD_BACK, HOLD_BACK_MOST);
            prop_assert!(longest <= held.max(takes) + takes + MS, "{longest:?}");
        }

        #[test]
        fn what_is_told_to_wait_is_told_a_moment_to_come(since in 0..50u64, bytes in 0..40_000usize, takes in 0..300u64) {
            let oldest = Instant::now();
            let now = oldest + MS * since as u32;
            let mut group_commit = GroupCommit::new(HOLD_BACK, Duration::ZERO, 32);
            group_commit.committed(MS * takes as u32);
            group_commit.arrived(oldest, 1, true);
            if let Some(at) = group_commit.until(now, oldest, bytes) {
                prop_assert!(at > now && at <= oldest + HOLD_BACK_MOST);
            }
        }
    }
}
