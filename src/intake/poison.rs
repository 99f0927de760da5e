//! Finding the one payload that makes the broker hang up.
//!
//! Pure. A broker that refuses a publish (too large, a topic that is not allowed, a bug) has no
//! way in MQTT 3.1.1 but to close the connection. With a window of publishes in flight nobody
//! knows which one it was, and all of them are sent again, for ever. So after a few connections
//! in a row that the broker closed on us, publishes go out one at a time; the one that is alone
//! in flight when the connection is closed, again and again, is set aside.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::{Duration, Instant};

use crate::reading::Item;

/// Connections in a row that the broker closed with publishes in flight, before publishes go out
/// one at a time. A broker that is being restarted does this once or twice.
const BAD_ENDS: u32 = 3;

/// How often a publish must have been alone when the broker hung up before it is set aside.
/// Wrongly setting aside loses data, waiting costs only time.
const STRIKES: u32 = 4;

/// A connection that lived longer did not die of what was sent first.
const QUICK: Duration = Duration::from_secs(60);

/// Names an item across connections and places.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key(u64);

impl Key {
    /// The key of this item.
    #[must_use]
    pub fn of(item: &Item) -> Self {
        let mut hasher = DefaultHasher::new();
        match item {
            Item::Batch(b) => {
                (0, &b.device, &b.stream, b.seq, b.received.wall.to_bits()).hash(&mut hasher)
            }
            Item::Gap(g) => (1, &g.device, &g.stream, g.from, g.time.to_bits()).hash(&mut hasher),
        }
        Self(hasher.finish())
    }
}

/// See the module.
#[derive(Debug, Default)]
pub struct Suspicion {
    up_since: Option<Instant>,
    bad_ends: u32,
    /// One at a time until so many more are acknowledged.
    careful: Option<usize>,
    strikes: Option<(Key, u32)>,
    set_aside: HashSet<Key>,
}

impl Suspicion {
    /// A connection is up.
    pub fn up(&mut self, now: Instant) {
        self.up_since = Some(now);
    }

    /// The connection ended, with `in_flight` publishes unacknowledged, the oldest of which is
    /// `oldest`. `hung_up`: the peer closed it, as opposed to a network that went away. Returns
    /// whether `oldest` is to be set aside from now on.
    pub fn ended(
        &mut self,
        now: Instant,
        hung_up: bool,
        in_flight: usize,
        oldest: Option<Key>,
        window: usize,
    ) -> bool {
        let Some(since) = self.up_since.take() else {
            return false;
        };
        let quick = now.saturating_duration_since(since) < QUICK;
        if !hung_up {
            if !quick && self.careful.is_none() {
                self.bad_ends = 0;
            }
            return false;
        }
        if let Some(left) = &mut self.careful {
            *left = window;
            if let (Some(key), 1, true) = (oldest, in_flight, quick) {
                let before = self.strikes.filter(|(known, _)| *known == key);
                let strikes = before.map_or(1, |(_, strikes)| strikes + 1);
                self.strikes = Some((key, strikes));
                if strikes >= STRIKES {
                    self.strikes = None;
                    self.set_aside.insert(key);
                    return true;
                }
            }
        } else if quick && in_flight > 0 {
            self.bad_ends += 1;
            if self.bad_ends >= BAD_ENDS {
                self.careful = Some(window);
            }
        } else {
            self.bad_ends = 0;
        }
        false
    }

    /// A publish was acknowledged. Care ends after a window of them, or with the first on a
    /// connection that has lived: a hub with little to send would be careful for hours otherwise,
    /// and all that time write to its disk.
    pub fn acked(&mut self, now: Instant) {
        if let Some(left) = &mut self.careful {
            *left = left.saturating_sub(1);
            let lives = |since| now.saturating_duration_since(since) >= QUICK;
            if *left == 0 || self.up_since.is_some_and(lives) {
                self.careful = None;
                self.bad_ends = 0;
            }
        }
    }

    /// Whether publishes go out one at a time.
    #[must_use]
    pub fn is_careful(&self) -> bool {
        self.careful.is_some()
    }

    /// Whether this item was set aside.
    #[must_use]
    pub fn is_set_aside(&self, item: &Item) -> bool {
        !self.set_aside.is_empty() && self.set_aside.contains(&Key::of(item))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(suspicion: &mut Suspicion, in_flight: usize, key: u64, hung_up: bool) -> bool {
        let now = Instant::now();
        suspicion.up(now);
        suspicion.ended(now, hung_up, in_flight, Some(Key(key)), 10)
    }

    #[test]
    fn only_what_was_alone_again_and_again_is_set_aside() {
        let mut suspicion = Suspicion::default();
        for _ in 0..BAD_ENDS {
            assert!(!suspicion.is_careful());
            assert!(!cut(&mut suspicion, 10, 1, true));
        }
        assert!(suspicion.is_careful());
        for _ in 1..STRIKES {
            assert!(!cut(&mut suspicion, 1, 1, true));
        }
        assert!(cut(&mut suspicion, 1, 1, true));
    }

    #[test]
    fn a_network_that_goes_away_accuses_nobody() {
        let mut suspicion = Suspicion::default();
        for _ in 0..100 {
            assert!(!cut(&mut suspicion, 10, 1, false));
        }
        assert!(!suspicion.is_careful());
    }

    #[test]
    fn care_ends_after_a_window_of_acks() {
        let mut suspicion = Suspicion::default();
        for _ in 0..BAD_ENDS {
            cut(&mut suspicion, 10, 1, true);
        }
        for _ in 0..10 {
            assert!(suspicion.is_careful());
            suspicion.acked(Instant::now());
        }
        assert!(!suspicion.is_careful());
    }

    #[test]
    fn care_ends_with_an_ack_on_a_connection_that_has_lived() {
        let mut suspicion = Suspicion::default();
        for _ in 0..BAD_ENDS {
            cut(&mut suspicion, 10, 1, true);
        }
        let now = Instant::now();
        suspicion.up(now);
        suspicion.acked(now);
        assert!(suspicion.is_careful());
        suspicion.acked(now + QUICK);
        assert!(!suspicion.is_careful());
    }

    #[test]
    fn bad_ends_with_a_good_connection_between_them_are_not_in_a_row() {
        let mut suspicion = Suspicion::default();
        for _ in 0..10 {
            cut(&mut suspicion, 10, 1, true);
            let now = Instant::now();
            suspicion.up(now);
            suspicion.ended(now + QUICK, false, 10, None, 10);
        }
        assert!(!suspicion.is_careful());
    }

    #[test]
    fn strikes_against_another_do_not_add_up() {
        let mut suspicion = Suspicion::default();
        for _ in 0..BAD_ENDS {
            cut(&mut suspicion, 10, 1, true);
        }
        for n in 0..100 {
            assert!(!cut(&mut suspicion, 1, n % 2, true));
        }
    }
}
