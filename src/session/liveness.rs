//! Whether a device is alive: when to ping, when to give up. Pure: time comes in, actions go out.
//!
//! Every `interval` a ping goes out; any byte from the device within `timeout` of it counts as
//! life. While the hub itself does not read (its window, its lanes or its disk hold it up), it
//! cannot see life and does not judge; it still pings, so that a peer that is gone shows up as a
//! TCP timeout.

use std::time::{Duration, Instant};

/// A timer that fires later than this after its time shows that the hub was held up itself
/// (a suspended machine, a starved CPU), and what the device sent meanwhile may not be read yet.
const LATE: Duration = Duration::from_millis(500);

/// What has to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Send a WebSocket ping with this payload.
    Ping([u8; 8]),
    /// The device is dead: close 4000.
    Evict,
}

/// The liveness of one connection.
#[derive(Debug)]
pub struct Liveness {
    interval: Duration,
    timeout: Duration,
    start: Instant,
    next_ping: Instant,
    /// When the device counts as dead unless it is heard before.
    deadline: Option<Instant>,
    newest_ping: u64,
    paused: bool,
}

impl Liveness {
    /// A connection that has just begun. The first ping goes out after one interval.
    #[must_use]
    pub fn new(interval: Duration, timeout: Duration, now: Instant) -> Self {
        Self {
            interval,
            timeout,
            start: now,
            next_ping: now + interval,
            deadline: None,
            newest_ping: 0,
            paused: false,
        }
    }

    /// Bytes came from the device.
    pub fn seen(&mut self) {
        self.deadline = None;
    }

    /// A pong came with this payload. Returns the round-trip time if the payload is one of ours.
    #[must_use]
    pub fn pong(&self, payload: &[u8], now: Instant) -> Option<Duration> {
        let sent = u64::from_be_bytes(payload.try_into().ok()?);
        if sent == 0 || sent > self.newest_ping {
            return None;
        }
        let now = now.saturating_duration_since(self.start);
        now.checked_sub(Duration::from_micros(sent))
    }

    /// The hub stops reading from the device, for reasons of its own.
    pub fn pause(&mut self) {
        self.paused = true;
    }

    /// The hub reads again. An open ping gets its full timeout anew.
    pub fn resume(&mut self, now: Instant) {
        if self.paused {
            self.paused = false;
            if self.deadline.is_some() {
                self.deadline = Some(now + self.timeout);
            }
        }
    }

    /// When to call [`Liveness::tick`] next.
    #[must_use]
    pub fn wake_at(&self) -> Instant {
        match self.deadline {
            Some(deadline) if !self.paused => deadline.min(self.next_ping),
            _ => self.next_ping,
        }
    }

    /// Decides what the time asks for. Everything that had come in by now must have been
    /// reported before.
    pub fn tick(&mut self, now: Instant) -> Option<Action> {
        if let Some(deadline) = self.deadline
            && !self.paused
            && now >= deadline
        {
            if now.saturating_duration_since(deadline) < LATE {
                return Some(Action::Evict);
            }
            self.deadline = Some(now + self.timeout);
        }
        if now < self.next_ping {
            return None;
        }
        // From now on, not from when it was due: after a hold-up pings do not come in a bunch.
        self.next_ping = now + self.interval;
        // A ping that is still open keeps its deadline: pings faster than the timeout must not
        // keep a dead device alive.
        self.deadline.get_or_insert(now + self.timeout);
        let micros = now.saturating_duration_since(self.start).as_micros();
        self.newest_ping = u64::try_from(micros).unwrap_or(u64::MAX).max(1);
        Some(Action::Ping(self.newest_ping.to_be_bytes()))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(20);
    const TIMEOUT: Duration = Duration::from_secs(10);

    fn ping(action: Option<Action>) -> [u8; 8] {
        match action {
            Some(Action::Ping(payload)) => payload,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_silent_device_is_evicted_one_timeout_after_the_ping() {
        let start = Instant::now();
        let mut liveness = Liveness::new(INTERVAL, TIMEOUT, start);
        assert_eq!(liveness.tick(start), None);
        assert_eq!(liveness.wake_at(), start + INTERVAL);
        ping(liveness.tick(start + INTERVAL));
        assert_eq!(liveness.wake_at(), start + INTERVAL + TIMEOUT);
        assert_eq!(
            liveness.tick(start + INTERVAL + TIMEOUT - Duration::from_nanos(1)),
            None
        );
        assert_eq!(
            liveness.tick(start + INTERVAL + TIMEOUT),
            Some(Action::Evict)
        );
    }

    #[test]
    fn any_sign_of_life_after_a_ping_is_enough() {
        let start = Instant::now();
        let mut liveness = Liveness::new(INTERVAL, TIMEOUT, start);
        let mut now = start;
        for _ in 0..100 {
            now += INTERVAL;
            ping(liveness.tick(now));
            liveness.seen();
            assert_eq!(liveness.tick(now + TIMEOUT), None);
        }
    }

    #[test]
    fn life_before_the_ping_does_not_answer_it() {
        let start = Instant::now();
        let mut liveness = Liveness::new(INTERVAL, TIMEOUT, start);
        liveness.seen();
        ping(liveness.tick(start + INTERVAL));
        assert_eq!(
            liveness.tick(start + INTERVAL + TIMEOUT),
            Some(Action::Evict)
        );
    }

    #[test]
    fn pings_faster_than_the_timeout_do_not_postpone_it() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let mut liveness = Liveness::new(second, TIMEOUT, start);
        for n in 1..=10 {
            ping(liveness.tick(start + second * n));
        }
        assert_eq!(liveness.tick(start + second + TIMEOUT), Some(Action::Evict));
    }

    #[test]
    fn a_device_that_the_hub_does_not_read_is_pinged_but_not_judged() {
        let start = Instant::now();
        let mut liveness = Liveness::new(INTERVAL, TIMEOUT, start);
        liveness.pause();
        for n in 1..=50 {
            ping(liveness.tick(start + INTERVAL * n));
            assert_eq!(liveness.wake_at(), start + INTERVAL * (n + 1));
        }
        let resumed = start + INTERVAL * 50 + Duration::from_secs(1);
        liveness.resume(resumed);
        assert_eq!(liveness.tick(resumed), None);
        assert_eq!(liveness.wake_at(), resumed + TIMEOUT);
        assert_eq!(liveness.tick(resumed + TIMEOUT), Some(Action::Evict));
    }

    #[test]
    fn a_hub_that_was_held_up_gives_the_device_another_timeout() {
        let start = Instant::now();
        let mut liveness = Liveness::new(INTERVAL, TIMEOUT, start);
        ping(liveness.tick(start + INTERVAL));
        let woken = start + Duration::from_secs(3_600);
        ping(liveness.tick(woken));
        assert_eq!(
            liveness.tick(woken + TIMEOUT),
            Some(Action::Evict),
            "but only one"
        );
    }

    #[test]
    fn the_round_trip_is_measured_from_our_own_payloads_only() {
        let start = Instant::now();
        let mut liveness = Liveness::new(INTERVAL, TIMEOUT, start);
        let payload = ping(liveness.tick(start + INTERVAL));
        let rtt = Duration::from_millis(35);
        assert_eq!(liveness.pong(&payload, start + INTERVAL + rtt), Some(rtt));
        for foreign in [&b""[..], b"hello", &[0xff; 8], &[0; 8], &[1; 9]] {
            assert_eq!(liveness.pong(foreign, start + INTERVAL + rtt), None);
        }
    }
}
