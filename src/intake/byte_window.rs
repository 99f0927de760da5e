//! How much of the backlog may be on its way at a time.
//!
//! Pure. Whatever is sent stands before every live batch, ping and PUBACK that comes after it, in
//! the buffers of a link that may carry a few kilobytes a second. A window of packets alone can
//! hold minutes of such a link: live batches would be overdue behind it, go to the disk, and the
//! broker's answers to pings would come too late. So the drain is given as many bytes as come back
//! acknowledged within a second or two, found out as it goes. The live lane has a pace of its own,
//! so that what one device has on its way is never more than others can wait for.

use std::time::{Duration, Instant};

/// Bytes at the beginning of a connection. A whole window of ordinary batches, so that these are
/// never held up; a second and a half of a slow mobile link.
const START: usize = 32 * 1024;

/// Never less. Below this a link is so slow that one batch at a time is all there is.
const LEAST: usize = 4 * 1024;

/// Never more: more than any link needs to be busy.
const MOST: usize = 8 << 20;

/// A PUBACK that came within this time gives room for more. Above the round trip of a
/// geostationary satellite, 0.6 s, so that such a link is filled as well.
const CALM: Duration = Duration::from_secs(1);

/// One that took longer than this takes half of the room away. This is about how long a live
/// batch waits behind the backlog on a slow link.
const LATE: Duration = Duration::from_secs(2);

/// Bytes of one lane that may be in flight.
#[derive(Debug)]
pub struct ByteWindow {
    least: usize,
    limit: usize,
    /// When the limit was last halved: what was sent before says nothing of the new one.
    halved: Option<Instant>,
}

impl Default for ByteWindow {
    fn default() -> Self {
        Self::of_at_least(LEAST)
    }
}

impl ByteWindow {
    /// For live data: a link on which this takes longer than a live batch may wait sends it
    /// through the disk in any case, and a broker that is slow by itself is not made slower.
    pub const LEAST_LIVE: usize = 16 * 1024;

    /// Packs of live data that may be on their way or being filled, by what their batches are
    /// thought to take: a lane that has less in flight than a pack never fills one. Of these one is
    /// on the wire, and compressed.
    pub const PACKS: usize = 8;

    /// One that never goes below so many bytes.
    #[must_use]
    pub fn of_at_least(least: usize) -> Self {
        Self {
            least,
            limit: START.max(least),
            halved: None,
        }
    }

    /// A connection begins. What was learned of a slow link stays.
    pub fn connected(&mut self) {
        self.limit = self.limit.min(START.max(self.least));
        self.halved = None;
    }

    /// Whether one more may be sent while so many bytes are in flight.
    #[must_use]
    pub fn allows(&self, in_flight: usize) -> bool {
        in_flight < self.limit
    }

    /// Whether something is on its way that is larger than all that should be: whatever is sent
    /// after it waits for it, and a second one of its kind would make that twice as long.
    #[must_use]
    pub fn exceeded(&self, in_flight: usize) -> bool {
        in_flight >= self.limit.saturating_mul(2)
    }

    /// Something of the lane, of so many bytes and sent at `sent`, was acknowledged.
    pub fn acked(&mut self, now: Instant, sent: Instant, bytes: usize) {
        let took = now.saturating_duration_since(sent);
        if took <= CALM {
            self.limit = self.limit.saturating_add(bytes).min(MOST);
        } else if took > LATE && self.halved.is_none_or(|at| sent >= at) {
            self.limit = (self.limit / 2).max(self.least);
            self.halved = Some(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    /// Drains for a minute over a link of so many bytes a second and this round trip. Returns the
    /// share of the link that was used, and the longest that something sent in the second half
    /// had to wait.
    fn drain(link: f64, round_trip: f64, item: usize) -> (f64, f64) {
        let start = Instant::now();
        let at = |seconds: f64| start + Duration::from_secs_f64(seconds);
        let mut pace = ByteWindow::default();
        let mut flying: VecDeque<(f64, f64)> = VecDeque::new();
        let (mut now, mut free, mut done, mut longest) = (0.0_f64, 0.0_f64, 0.0, 0.0_f64);
        while now < 60.0 {
            while pace.allows(flying.len() * item) && flying.len() < 100_000 {
                free = free.max(now) + item as f64 / link;
                flying.push_back((now, free + round_trip));
            }
            let Some((sent, back)) = flying.pop_front() else {
                break;
            };
            now = now.max(back);
            if sent > 30.0 {
                longest = longest.max(now - sent);
            }
            done += item as f64;
            pace.acked(at(now), at(sent), item);
        }
        (done / (link * now), longest)
    }

    #[test]
    fn a_slow_link_is_kept_busy_and_never_filled_for_long() {
        for link in [5e3, 20e3, 100e3, 1e6] {
            let (used, longest) = drain(link, 0.2, 2_000);
            assert!(used > 0.8, "{link}: {used}");
            assert!(longest < 3.0, "{link}: {longest}");
        }
    }

    #[test]
    fn a_fast_link_far_away_is_filled() {
        let (used, _) = drain(2e6, 0.6, 20_000);
        assert!(used > 0.8, "{used}");
    }

    #[test]
    fn one_at_a_time_is_always_allowed() {
        let mut pace = ByteWindow::default();
        let start = Instant::now();
        for n in 0..100 {
            let sent = start + Duration::from_secs(n * 100);
            pace.acked(sent + Duration::from_secs(50), sent, 64 * 1024);
        }
        assert!(pace.allows(0));
        assert!(!pace.allows(LEAST));
    }
}
