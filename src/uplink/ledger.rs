//! Which record does a PUBACK acknowledge? Pure: no IO, no clock.
//!
//! The ledger gives each record its packet id when it is entered. Ids go round in a circle of
//! `capacity + 1`. [`Ledger::span`] counts from the *oldest* unacknowledged record, acknowledged
//! ones behind it included, and is kept at `capacity` or less: so the next id can never meet one
//! that is still out, in whatever order the broker acknowledges.

use std::collections::VecDeque;

/// A broker that does not do what MQTT says. The connection is of no more use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Breach {
    /// A PUBACK for an id that is not out.
    #[error("the broker acknowledged packet {0}, which it was not sent")]
    UnknownAck(u16),
}

/// The records of one connection.
#[derive(Debug)]
pub(super) struct Ledger<T> {
    /// Index: packet id, 1 to `capacity + 1`. The number is the record's place in the order.
    flying: Vec<Option<(u64, T)>>,
    /// One flag for each record from the oldest unacknowledged on: whether it is acknowledged.
    order: VecDeque<bool>,
    /// Place of the first of `order`.
    first: u64,
    last_id: u16,
    /// Records without acknowledgement.
    unacked: usize,
}

impl<T> Ledger<T> {
    /// An empty ledger for packet ids from 1 to `capacity + 1`.
    pub(super) fn new(capacity: u16) -> Self {
        Self {
            flying: std::iter::repeat_with(|| None)
                .take(usize::from(capacity) + 2)
                .collect(),
            order: VecDeque::new(),
            first: 0,
            last_id: 0,
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

    /// The packet id that the next record will have. The caller keeps `span` within the capacity.
    pub(super) fn next_id(&self) -> u16 {
        let next = usize::from(self.last_id) + 1;
        let id = if next < self.flying.len() { next } else { 1 };
        u16::try_from(id).unwrap_or(1)
    }

    /// A record is out under [`Self::next_id`].
    pub(super) fn enter(&mut self, record: T) {
        let id = self.next_id();
        let place = self.first + self.order.len() as u64;
        if let Some(slot) = self.flying.get_mut(usize::from(id)) {
            debug_assert!(slot.is_none(), "beyond the window");
            *slot = Some((place, record));
            self.order.push_back(false);
            self.last_id = id;
            self.unacked += 1;
        }
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

    /// The place of the oldest record when one that went out after it is acknowledged already.
    pub(super) fn overtaken(&self) -> Option<u64> {
        (self.span() > self.len()).then_some(self.first)
    }

    /// The oldest that is still out, which will never be acknowledged. The connection is of no more use.
    pub(super) fn take_oldest(&mut self) -> Option<T> {
        let is_first = |slot: &&mut Option<(u64, T)>| {
            slot.as_ref().is_some_and(|(place, _)| *place == self.first)
        };
        let (_, record) = self.flying.iter_mut().find(is_first)?.take()?;
        self.unacked -= 1;
        Some(record)
    }

    /// What is still out, the oldest first.
    pub(super) fn take_all(&mut self) -> Vec<T> {
        let mut all: Vec<_> = self.flying.iter_mut().filter_map(Option::take).collect();
        all.sort_by_key(|(place, _)| *place);
        self.first += self.order.len() as u64;
        self.order.clear();
        self.unacked = 0;
        all.into_iter().map(|(_, record)| record).collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_ack_names_the_record_that_went_out_under_its_id() {
        let mut ledger = Ledger::new(3);
        ledger.enter("a");
        ledger.enter("b");
        assert_eq!(ledger.acked(2), Ok("b"));
        assert_eq!((ledger.span(), ledger.len()), (2, 1), "a is still out");
        assert_eq!(ledger.acked(1), Ok("a"));
        assert_eq!((ledger.span(), ledger.len()), (0, 0));
    }

    #[test]
    fn the_oldest_is_overtaken_by_any_ack_that_comes_for_a_later_one() {
        let mut ledger = Ledger::new(4);
        for record in ["a", "b", "c"] {
            ledger.enter(record);
        }
        assert_eq!(ledger.overtaken(), None);
        ledger.acked(1).unwrap();
        assert_eq!(ledger.overtaken(), None, "in order");
        ledger.acked(3).unwrap();
        assert_eq!(ledger.overtaken(), Some(1));
        assert_eq!(ledger.take_oldest(), Some("b"));
        assert!(ledger.is_empty() && ledger.take_all().is_empty());
    }

    #[test]
    fn an_ack_for_an_id_that_is_not_out_is_a_breach() {
        let mut ledger = Ledger::new(3);
        assert_eq!(ledger.acked(1), Err(Breach::UnknownAck(1)));
        ledger.enter("a");
        ledger.acked(1).unwrap();
        for id in [0, 1, 2, 4, 5, u16::MAX] {
            assert_eq!(ledger.acked(id), Err(Breach::UnknownAck(id)));
        }
    }

    #[test]
    fn what_is_still_out_at_the_end_is_known_in_its_order() {
        let mut ledger = Ledger::new(3);
        for record in ["a", "b", "c"] {
            ledger.enter(record);
        }
        ledger.acked(1).unwrap();
        ledger.enter("d");
        ledger.acked(3).unwrap();
        ledger.enter("e");
        assert_eq!(ledger.take_all(), ["b", "d", "e"]);
        assert!(ledger.is_empty() && ledger.span() == 0);
    }

    #[derive(Debug, Clone)]
    enum Step {
        Enter,
        Ack(prop::sample::Index),
        StrayAck(u16),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => Just(Step::Enter),
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
            let mut out: HashMap<u16, u32> = HashMap::new();
            let mut token = 0;
            for step in steps {
                match step {
                    Step::Enter if ledger.span() < usize::from(capacity) => {
                        token += 1;
                        let id = ledger.next_id();
                        prop_assert!(id >= 1 && id <= capacity + 1);
                        ledger.enter(token);
                        prop_assert_eq!(out.insert(id, token), None, "packet id used twice");
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
                prop_assert_eq!(ledger.len(), out.len());
                let span = out.values().min().map_or(0, |oldest| token - oldest + 1);
                prop_assert_eq!(ledger.span(), span as usize);
            }
        }
    }
}
