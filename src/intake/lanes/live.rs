//! What waits to be published as live data: fair between the devices, in the order of each.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use super::Entry;
use crate::intake::fair::Fair;
use crate::reading::Item;
use crate::spool::Loc;

/// What waits in the live queue.
#[derive(Debug)]
pub(super) enum Queued {
    Unsafe(Entry),
    /// Stored already (`write_always`), published from memory all the same.
    Stored(Loc, Arc<Item>),
}

impl Queued {
    pub(super) fn item(&self) -> &Arc<Item> {
        match self {
            Self::Unsafe(entry) => &entry.item,
            Self::Stored(_, item) => item,
        }
    }

    fn into_entry(self) -> Option<Entry> {
        match self {
            Self::Unsafe(entry) => Some(entry),
            Self::Stored(..) => None,
        }
    }

    fn into_stored(self) -> Option<(Loc, Arc<Item>)> {
        match self {
            Self::Unsafe(_) => None,
            Self::Stored(loc, item) => Some((loc, item)),
        }
    }

    /// Bytes of its payload.
    pub(super) fn cost(&self) -> usize {
        match self {
            Self::Unsafe(entry) => entry.cost,
            Self::Stored(_, item) => item.payload_estimate(),
        }
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Live {
    items: Fair<Queued>,
    /// Before all of these goes what is stored, which is older.
    stored: Fair<Queued>,
    /// Bytes of memory.
    weight: usize,
    readings: u64,
    /// Entries that are not safe, in the order in which they came; some may be gone.
    order: VecDeque<(Instant, u64, Arc<str>)>,
    /// Those of them that are still here.
    waiting: HashSet<u64>,
}

impl Live {
    pub(super) fn len(&self) -> usize {
        self.items.len() + self.stored.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.items.is_empty() && self.stored.is_empty()
    }

    pub(super) fn weight(&self) -> usize {
        self.weight
    }

    pub(super) fn readings(&self) -> u64 {
        self.readings
    }

    /// How many wait that are not safe.
    pub(super) fn unsafe_len(&self) -> usize {
        self.waiting.len()
    }

    /// What is not safe of one device: how many, and how many bytes of payload.
    pub(super) fn of(&self, device: &str) -> (usize, usize) {
        self.items.of(device)
    }

    /// The device with the most bytes that are not safe.
    pub(super) fn heaviest(&self) -> Option<Arc<str>> {
        self.items.heaviest()
    }

    /// Since when the oldest waits that is not safe, and whose it is.
    pub(super) fn oldest(&self) -> Option<(Instant, &Arc<str>)> {
        let (since, _, device) = self.order.front()?;
        Some((*since, device))
    }

    pub(super) fn push(&mut self, queued: Queued) {
        let item = queued.item();
        let device = item.device().clone();
        self.weight += item.weight();
        self.readings += u64::from(item.readings());
        if let Queued::Unsafe(entry) = &queued {
            self.order.push_back((entry.since, entry.n, device.clone()));
            self.waiting.insert(entry.n);
            self.items.push(&device, queued.cost(), queued);
        } else {
            self.stored.push(&device, queued.cost(), queued);
        }
    }

    /// What [`Live::pop`] would return.
    pub(super) fn front(&self) -> Option<&Queued> {
        self.stored.front().or_else(|| self.items.front())
    }

    pub(super) fn pop(&mut self) -> Option<Queued> {
        let (_, queued) = self.stored.pop().or_else(|| self.items.pop())?;
        self.left(&queued);
        self.tidy();
        Some(queued)
    }

    fn left(&mut self, queued: &Queued) {
        let item = queued.item();
        self.weight -= item.weight();
        self.readings -= u64::from(item.readings());
        if let Queued::Unsafe(entry) = queued {
            self.waiting.remove(&entry.n);
        }
    }

    fn tidy(&mut self) {
        let gone = |(_, n, _): &(Instant, u64, Arc<str>)| !self.waiting.contains(n);
        while self.order.front().is_some_and(gone) {
            self.order.pop_front();
        }
    }

    /// Takes out what is not safe of one device, in order.
    pub(super) fn take_unsafe_of(&mut self, device: &Arc<str>) -> Vec<Entry> {
        let taken = self.items.take_of(device, |_| true);
        taken.iter().for_each(|queued| self.left(queued));
        self.tidy();
        taken.into_iter().filter_map(Queued::into_entry).collect()
    }

    /// Takes out what is stored of one device, in order.
    pub(super) fn take_stored_of(&mut self, device: &Arc<str>) -> Vec<(Loc, Arc<Item>)> {
        let taken = self.stored.take_of(device, |_| true);
        taken.iter().for_each(|queued| self.left(queued));
        taken.into_iter().filter_map(Queued::into_stored).collect()
    }

    /// Takes out what is not safe, each device's in order.
    pub(super) fn take_unsafe(&mut self) -> Vec<Entry> {
        let taken: Vec<Queued> = self
            .items
            .take_all()
            .into_iter()
            .map(|(_, one)| one)
            .collect();
        taken.iter().for_each(|queued| self.left(queued));
        self.tidy();
        taken.into_iter().filter_map(Queued::into_entry).collect()
    }

    /// Puts in what is older than what waits here of the same devices, or not.
    pub(super) fn merge(&mut self, entries: Vec<Entry>) {
        let mut all = self.take_unsafe();
        all.extend(entries);
        all.sort_by_key(|entry| entry.n);
        all.into_iter()
            .for_each(|entry| self.push(Queued::Unsafe(entry)));
    }

    /// Follows where the spool has moved what is stored.
    pub(super) fn move_stored(&mut self, to: impl Fn(Loc) -> Option<Loc>) {
        let gone = self.stored.retain_mut(|queued| match queued {
            Queued::Unsafe(_) => true,
            Queued::Stored(loc, _) => {
                let there = to(*loc);
                *loc = there.unwrap_or(*loc);
                there.is_some()
            }
        });
        gone.iter().for_each(|queued| self.left(queued));
    }

    /// Panics when a sum is not the sum of its parts.
    #[cfg(debug_assertions)]
    pub(super) fn check(&self) {
        self.items.check();
        self.stored.check();
        let all = || self.items.iter().chain(self.stored.iter());
        let items = || all().map(|(_, queued)| queued);
        let weight: usize = items().map(|queued| queued.item().weight()).sum();
        assert_eq!(self.weight, weight, "bytes in the live queue");
        let readings = items().map(|queued| u64::from(queued.item().readings()));
        assert_eq!(
            self.readings,
            readings.sum::<u64>(),
            "readings in the live queue"
        );
        let waiting = items().filter(|queued| matches!(queued, Queued::Unsafe(_)));
        assert_eq!(
            self.waiting.len(),
            waiting.count(),
            "entries in the live queue"
        );
        let first = self.order.front();
        assert!(
            first.is_none_or(|(_, n, _)| self.waiting.contains(n)),
            "the oldest is gone"
        );
    }
}
