//! Which record does a PUBACK acknowledge? Pure: no IO, no clock.
//!
//! The MQTT library gives packet ids to publishes when it writes them, in the order in which they
//! were submitted, and tells so. A record therefore passes three stations: submitted (in order,
//! without an id), flying (found by its id), and gone.
//!
//! Packet ids go round in a circle of `capacity + 1`. [`Ledger::span`] counts from the *oldest*
//! unacknowledged record, acknowledged ones behind it included, and is kept at `capacity` or
//! less: so the next id can never meet one that is still out, in whatever order the broker
//! acknowledges. One id of the circle may go to something else meanwhile, an UNSUBSCRIBE.

use std::collections::VecDeque;

/// A broker or library that does not do what MQTT says. The connection is of no more use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Breach {
    /// A PUBACK for an id that is not out.
    #[error("the broker acknowledged packet {0}, which it was not sent")]
    UnknownAck(u16),
    /// The library sent something that was not submitted, or under an id that is still out.
    #[error("packet {0} was sent, but nothing was submitted for it")]
    UnknownSend(u16),
}

/// The records of one connection.
#[derive(Debug)]
pub(super) struct Ledger<T> {
    submitted: VecDeque<T>,
    /// Index: packet id, 1 to `capacity + 1`. The number is the record's place in the order.
    flying: Vec<Option<(u64, T)>>,
    /// One flag for each record from the oldest unacknowledged on: whether it is acknowledged.
    order: VecDeque<bool>,
    /// Place of the first of `order`.
    first: u64,
    /// Place of the next record to be sent.
    next_sent: u64,
    /// Records without acknowledgement.
    unacked: usize,
}

impl<T> Ledger<T> {
    /// An empty ledger for packet ids from 1 to `capacity + 1`.
    pub(super) fn new(capacity: u16) -> Self {
        Self {
            submitted: VecDeque::new(),
            flying: std::iter::repeat_with(|| None)
                .take(usize::from(capacity) + 2)
                .collect(),
            order: VecDeque::new(),
            first: 0,
            next_sent: 0,
            unacked: 0,
        }
    }

    /// Records from the oldest unacknowledged to the newest.
    pub(super) fn span(&self) -> usize {
        self.order.len()
    }

    /// Records without acknowledgement.
    pub(super) fn len(&self) -> usize {
        self.unacked
    }

    /// Whether everything is acknowledged.
    pub(super) fn is_empty(&self) -> bool {
        self.unacked == 0
    }

    /// A record was handed to the library. The caller keeps `span` within the capacity.
    pub(super) fn submit(&mut self, record: T) {
        debug_assert!(self.span() + 2 <= self.flying.len(), "beyond the window");
        self.submitted.push_back(record);
        self.order.push_back(false);
        self.unacked += 1;
    }

    /// The library sent the oldest submitted record under this id.
    pub(super) fn sent(&mut self, id: u16) -> Result<(), Breach> {
        let slot = self
            .flying
            .get_mut(usize::from(id))
            .filter(|slot| id != 0 && slot.is_none())
            .ok_or(Breach::UnknownSend(id))?;
        let record = self.submitted.pop_front().ok_or(Breach::UnknownSend(id))?;
        *slot = Some((self.next_sent, record));
        self.next_sent += 1;
        Ok(())
    }

    /// The broker acknowledged this id: the record it stands for.
    pub(super) fn acked(&mut self, id: u16) -> Result<T, Breach> {
        let (place, record) = self
            .flying
            .get_mut(usize::from(id))
            .and_then(Option::take)
            .ok_or(Breach::UnknownAck(id))?;
        let offset = usize::try_from(place - self.first).ok();
        if let Some(flag) = offset.and_then(|offset| self.order.get_mut(offset)) {
            *flag = true;
        }
        while self.order.front() == Some(&true) {
            self.order.pop_front();
            self.first += 1;
        }
        self.unacked -= 1;
        Ok(record)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    /// Gives packet ids as the library does: 1 to `cycle`, round and round.
    struct Ids {
        last: u16,
        cycle: u16,
    }

    impl Ids {
        fn next(&mut self) -> u16 {
            self.last = self.last % self.cycle + 1;
            self.last
        }
    }

    #[test]
    fn an_ack_names_the_record_that_was_sent_under_its_id() {
        let mut ledger = Ledger::new(3);
        ledger.submit("a");
        ledger.submit("b");
        ledger.sent(1).unwrap();
        ledger.sent(2).unwrap();
        assert_eq!(ledger.acked(2), Ok("b"));
        assert_eq!((ledger.span(), ledger.len()), (2, 1), "a is still out");
        assert_eq!(ledger.acked(1), Ok("a"));
        assert_eq!((ledger.span(), ledger.len()), (0, 0));
    }

    #[test]
    fn an_ack_before_the_send_or_twice_or_for_an_unknown_id_is_a_breach() {
        let mut ledger = Ledger::new(3);
        ledger.submit("a");
        assert_eq!(ledger.acked(1), Err(Breach::UnknownAck(1)));
        ledger.sent(1).unwrap();
        ledger.acked(1).unwrap();
        for id in [0, 1, 2, 4, 5, u16::MAX] {
            assert_eq!(ledger.acked(id), Err(Breach::UnknownAck(id)));
        }
    }

    #[test]
    fn a_send_of_nothing_or_under_an_id_that_is_out_is_a_breach() {
        let mut ledger = Ledger::new(3);
        assert_eq!(ledger.sent(1), Err(Breach::UnknownSend(1)));
        ledger.submit("a");
        ledger.submit("b");
        assert_eq!(ledger.sent(0), Err(Breach::UnknownSend(0)));
        assert_eq!(ledger.sent(5), Err(Breach::UnknownSend(5)));
        ledger.sent(1).unwrap();
        assert_eq!(ledger.sent(1), Err(Breach::UnknownSend(1)));
    }

    #[derive(Debug, Clone)]
    enum Step {
        Submit,
        Send,
        Ack(prop::sample::Index),
        StrayAck(u16),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => Just(Step::Submit),
            4 => Just(Step::Send),
            3 => any::<prop::sample::Index>().prop_map(Step::Ack),
            1 => any::<u16>().prop_map(Step::StrayAck),
        ]
    }

    proptest! {
        /// Against a plain map, with acks in any order and strays between them.
        #[test]
        fn every_record_is_acked_once_and_ids_never_collide(
            capacity in 1_u16..12,
            steps in prop::collection::vec(step(), 1..600),
        ) {
            let mut ledger = Ledger::new(capacity);
            let mut ids = Ids { last: 0, cycle: capacity + 1 };
            let mut waiting = VecDeque::new();
            let mut out: HashMap<u16, u32> = HashMap::new();
            let mut token = 0;
            for step in steps {
                match step {
                    Step::Submit if ledger.span() < usize::from(capacity) => {
                        token += 1;
                        ledger.submit(token);
                        waiting.push_back(token);
                    }
                    Step::Send if !waiting.is_empty() => {
                        let id = ids.next();
                        prop_assert_eq!(ledger.sent(id), Ok(()));
                        let earlier = out.insert(id, waiting.pop_front().unwrap());
                        prop_assert_eq!(earlier, None, "packet id used twice");
                    }
                    Step::Ack(index) if !out.is_empty() => {
                        let id = *index.get(&out.keys().copied().collect::<Vec<_>>());
                        prop_assert_eq!(ledger.acked(id).ok(), out.remove(&id));
                    }
                    Step::StrayAck(id) if !out.contains_key(&id) => {
                        prop_assert_eq!(ledger.acked(id), Err(Breach::UnknownAck(id)));
                    }
                    _ => {}
                }
                prop_assert_eq!(ledger.len(), waiting.len() + out.len());
                let oldest = out.values().chain(waiting.front()).min();
                let span = oldest.map_or(0, |oldest| token - oldest + 1);
                prop_assert_eq!(ledger.span(), span as usize);
            }
        }
    }
}
