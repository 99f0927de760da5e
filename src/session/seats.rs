//! How many sessions there may be, and which one makes room when there are too many: the oldest
//! that has not sent a single message yet. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::intake::port::ConnId;

/// The seats of a hub.
#[derive(Debug)]
pub(super) struct Seats {
    max: usize,
    taken: usize,
    /// Present sessions that have said nothing, oldest first: numbers of connections only grow.
    silent: BTreeMap<ConnId, Arc<str>>,
}

/// What becomes of somebody who asks for a seat.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Admission {
    /// There is one.
    Free,
    /// There is one, and the session of this device has to end for it.
    InPlaceOf(Arc<str>),
    /// All are taken, and whoever sits there uses them.
    Full,
}

impl Seats {
    pub(super) fn new(max: usize) -> Self {
        Self {
            max,
            taken: 0,
            silent: BTreeMap::new(),
        }
    }

    /// Takes a seat, unless the answer is [`Admission::Full`]. `back`: the device is present, and
    /// takes the place of its old connection.
    pub(super) fn take(&mut self, back: bool) -> Admission {
        // Whoever has to make room keeps its seat until it has gone, which may be a moment later.
        let admission = if self.taken < self.max || back {
            Admission::Free
        } else {
            match self.silent.pop_first() {
                Some((_, device)) => Admission::InPlaceOf(device),
                None => return Admission::Full,
            }
        };
        self.taken += 1;
        admission
    }

    /// A seat is free again.
    pub(super) fn give_back(&mut self) {
        debug_assert!(self.taken > 0, "a seat is given back once");
        self.taken -= 1;
    }

    /// A session begins.
    pub(super) fn sit(&mut self, conn: ConnId, device: Arc<str>) {
        self.silent.insert(conn, device);
    }

    /// A session has said something, was replaced or has ended: it makes no room for anybody.
    pub(super) fn settle(&mut self, conn: ConnId) {
        self.silent.remove(&conn);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_silent_session_makes_room_and_one_that_has_spoken_does_not() {
        let mut seats = Seats::new(3);
        for (conn, device) in (1..).zip(["a", "b", "c"]) {
            assert_eq!(seats.take(false), Admission::Free);
            seats.sit(conn, device.into());
        }
        seats.settle(1);
        assert_eq!(seats.take(false), Admission::InPlaceOf("b".into()));
        // Which has not gone yet: the next newcomer costs another one its seat.
        assert_eq!(seats.take(false), Admission::InPlaceOf("c".into()));
        assert_eq!(seats.take(false), Admission::Full);
        assert_eq!(seats.take(true), Admission::Free, "it replaces itself");
        for _ in 0..4 {
            seats.give_back();
        }
        assert_eq!(seats.take(false), Admission::Free);
    }
}
