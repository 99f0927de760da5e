//! How often somebody may try: token buckets by address or device, in bounded memory. Pure.

use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

/// Who is counted as one: an IPv4 address, or the /64 of an IPv6 address, because whoever has one
/// address of a /64 has all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Origin {
    V4(Ipv4Addr),
    V6([u16; 4]),
}

impl From<IpAddr> for Origin {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self::V4(address),
            IpAddr::V6(address) => {
                let [a, b, c, d, ..] = address.segments();
                Self::V6([a, b, c, d])
            }
        }
    }
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match *self {
            Self::V4(address) => address.fmt(f),
            Self::V6([a, b, c, d]) => {
                write!(f, "{}/64", Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
            }
        }
    }
}

/// The buckets of one kind of attempt. A bucket is known by when it will be full again: as many
/// attempts are left as the time between now and then leaves of the whole.
#[derive(Debug)]
pub(super) struct Attempts<K> {
    burst: u32,
    every: Duration,
    remembered: usize,
    full_at: HashMap<K, Instant>,
    /// The same, those with the most attempts left first.
    mildest: BTreeSet<(Instant, K)>,
}

impl<K: Clone + Eq + Hash + Ord> Attempts<K> {
    /// `burst` attempts at once, then one `every` so long, for at most `remembered` names.
    pub(super) fn new(burst: u32, every: Duration, remembered: usize) -> Self {
        Self {
            burst,
            every,
            remembered,
            full_at: HashMap::new(),
            mildest: BTreeSet::new(),
        }
    }

    /// Counts an attempt. `Err`: it is one too many, and the next may come after this time.
    pub(super) fn spend(&mut self, who: &K, now: Instant) -> Result<(), Duration> {
        let whole = self.every * self.burst;
        let before = self.full_at.get(who).copied();
        if before.is_none() {
            self.make_room(now);
        }
        let full_at = before.map_or(now, |before| before.max(now)) + self.every;
        let missing = full_at - now;
        if missing > whole {
            return Err(missing - whole);
        }
        if let Some(before) = before {
            self.mildest.remove(&(before, who.clone()));
        }
        self.full_at.insert(who.clone(), full_at);
        self.mildest.insert((full_at, who.clone()));
        debug_assert_eq!(self.full_at.len(), self.mildest.len());
        Ok(())
    }

    /// Forgets two of those who have all their attempts again, so that rested names go faster than
    /// new ones come; and when the table is full, the one who has the most: an attacker of many
    /// addresses pushes out others who tried once or twice, and not those who try all the time.
    fn make_room(&mut self, now: Instant) {
        for _ in 0..2 {
            let full = self.full_at.len() >= self.remembered;
            match self.mildest.first() {
                Some((full_at, _)) if full || *full_at <= now => {}
                _ => return,
            }
            if let Some((_, who)) = self.mildest.pop_first() {
                self.full_at.remove(&who);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const EVERY: Duration = Duration::from_secs(6);

    #[test]
    fn after_the_burst_one_attempt_passes_in_each_interval_and_a_pause_restores_it() {
        let mut attempts = Attempts::new(3, EVERY, 10);
        let start = Instant::now();
        for _ in 0..3 {
            assert_eq!(attempts.spend(&1, start), Ok(()));
        }
        assert_eq!(attempts.spend(&1, start), Err(EVERY));
        let later = start + Duration::from_secs(4);
        assert_eq!(attempts.spend(&1, later), Err(Duration::from_secs(2)));
        assert_eq!(attempts.spend(&2, later), Ok(()), "others are not meant");
        assert_eq!(attempts.spend(&1, start + EVERY), Ok(()));
        assert!(attempts.spend(&1, start + EVERY).is_err());
        let rested = start + 10 * EVERY;
        for _ in 0..3 {
            assert_eq!(attempts.spend(&1, rested), Ok(()));
        }
        assert!(attempts.spend(&1, rested).is_err());
    }

    #[test]
    fn memory_is_bounded_and_the_busiest_stays_remembered() {
        let mut attempts = Attempts::new(3, EVERY, 100);
        let start = Instant::now();
        while attempts.spend(&0_u32, start).is_ok() {}
        for who in 1..10_000 {
            assert_eq!(attempts.spend(&who, start), Ok(()));
            assert!(attempts.full_at.len() <= 100);
        }
        assert!(attempts.spend(&0, start).is_err());
        for who in 10_000..10_100 {
            assert_eq!(attempts.spend(&who, start + 10 * EVERY), Ok(()));
        }
        assert_eq!(attempts.full_at.len(), 100, "the others have rested");
        attempts.spend(&0, start + 100 * EVERY).unwrap();
        assert!(attempts.full_at.len() < 100);
    }

    #[test]
    fn an_ipv6_network_is_one_origin_and_a_mapped_address_is_its_ipv4_address() {
        let origin = |text: &str| Origin::from(text.parse::<IpAddr>().unwrap());
        assert_eq!(origin("2001:db8:1:2::5"), origin("2001:db8:1:2:ffff::1"));
        assert_ne!(origin("2001:db8:1:2::5"), origin("2001:db8:1:3::5"));
        assert_eq!(origin("::ffff:192.0.2.1"), origin("192.0.2.1"));
        assert_ne!(origin("192.0.2.1"), origin("192.0.2.2"));
        assert_eq!(origin("2001:db8:1:2::5").to_string(), "2001:db8:1:2::/64");
    }
}
