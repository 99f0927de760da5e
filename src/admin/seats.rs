//! Who has the connections of the admin listener, and who gives way when all are taken. Pure.
//!
//! A connection is *proven* once its request has shown the token, or carries events where none is
//! needed. When a newcomer finds all seats taken, the oldest connection that is not proven goes, of
//! the address that has most of these: whoever squats pushes out his own first, and the token's
//! holder gets in.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

/// A connection's number; later ones have larger ones.
pub(super) type Id = u64;

#[derive(Debug)]
struct Seat {
    from: IpAddr,
    proven: bool,
}

/// The seats.
#[derive(Debug)]
pub(super) struct Seats {
    max: usize,
    last: Id,
    taken: BTreeMap<Id, Seat>,
}

impl Seats {
    pub(super) fn new(max: usize) -> Self {
        Self {
            max,
            last: 0,
            taken: BTreeMap::new(),
        }
    }

    /// A newcomer from this address: its number, and who has to go for it. `None`: all the others
    /// are proven.
    pub(super) fn enter(&mut self, from: IpAddr) -> Option<(Id, Option<Id>)> {
        let mut evicted = None;
        if self.taken.len() >= self.max {
            let out = self.squatter()?;
            self.taken.remove(&out);
            evicted = Some(out);
        }
        self.last += 1;
        let proven = false;
        self.taken.insert(self.last, Seat { from, proven });
        Some((self.last, evicted))
    }

    fn squatter(&self) -> Option<Id> {
        let unproven = || self.taken.iter().filter(|(_, seat)| !seat.proven);
        let mut held: HashMap<IpAddr, usize> = HashMap::new();
        for (_, seat) in unproven() {
            *held.entry(seat.from).or_default() += 1;
        }
        let most = held.values().copied().max()?;
        unproven()
            .find(|(_, seat)| held.get(&seat.from) == Some(&most))
            .map(|(id, _)| *id)
    }

    /// The connection has proven itself, or is one of those without a proof again.
    pub(super) fn prove(&mut self, id: Id, proven: bool) {
        if let Some(seat) = self.taken.get_mut(&id) {
            seat.proven = proven;
        }
    }

    /// The connection has ended.
    pub(super) fn leave(&mut self, id: Id) {
        self.taken.remove(&id);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn address(last: u8) -> IpAddr {
        [10, 0, 0, last].into()
    }

    #[test]
    fn the_oldest_without_a_proof_makes_room() {
        let mut seats = Seats::new(3);
        let ids: Vec<_> = (0..3).map(|_| seats.enter(address(1)).unwrap().0).collect();
        seats.prove(ids[0], true);
        let (new, evicted) = seats.enter(address(1)).unwrap();
        assert_eq!(evicted, Some(ids[1]));
        assert_eq!(seats.enter(address(1)).unwrap().1, Some(ids[2]));
        assert_eq!(seats.enter(address(1)).unwrap().1, Some(new));
        assert_eq!(seats.taken.len(), 3);
        seats.leave(ids[0]);
        assert_eq!(seats.enter(address(1)).unwrap().1, None);
    }

    #[test]
    fn a_squatter_pushes_out_his_own_and_nobody_else() {
        let mut seats = Seats::new(8);
        let honest = seats.enter(address(1)).unwrap().0;
        for _ in 0..1_000 {
            let (_, evicted) = seats.enter(address(2)).unwrap();
            assert_ne!(evicted, Some(honest));
        }
        assert!(seats.taken.contains_key(&honest));
    }

    #[test]
    fn nobody_who_is_proven_is_pushed_out() {
        let mut seats = Seats::new(2);
        for _ in 0..2 {
            let (id, _) = seats.enter(address(1)).unwrap();
            seats.prove(id, true);
        }
        assert!(seats.enter(address(2)).is_none());
    }
}
