//! Who goes first when a table is full: the lowest rank, and within a rank the least recently
//! used. Nothing is searched for, however large the table is.

use std::borrow::Borrow;
use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;

/// Keys by rank and by their last use. Pure.
#[derive(Debug)]
pub struct Lru<K> {
    turns: BTreeMap<(u8, u64), K>,
    places: HashMap<K, (u8, u64)>,
    uses: u64,
}

impl<K> Default for Lru<K> {
    fn default() -> Self {
        Self {
            turns: BTreeMap::new(),
            places: HashMap::new(),
            uses: 0,
        }
    }
}

impl<K: Clone + Eq + Hash> Lru<K> {
    /// The key is used now, and has this rank from now on.
    pub fn touch(&mut self, key: &K, rank: u8) {
        self.remove(key);
        self.uses += 1;
        let turn = (rank, self.uses);
        self.turns.insert(turn, key.clone());
        self.places.insert(key.clone(), turn);
    }

    /// Takes a key out. `false`: it was not in.
    pub fn remove<Q>(&mut self, key: &Q) -> bool
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        let place = self.places.remove(key);
        place.is_some_and(|turn| self.turns.remove(&turn).is_some())
    }

    /// Whether a key is in.
    #[must_use]
    pub fn contains<Q>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        self.places.contains_key(key)
    }

    /// The key that goes first.
    #[must_use]
    pub fn first(&self) -> Option<&K> {
        self.turns.values().next()
    }

    /// Takes out the key that goes first.
    pub fn pop(&mut self) -> Option<K> {
        let (_, key) = self.turns.pop_first()?;
        self.places.remove(&key);
        Some(key)
    }

    /// Number of keys.
    #[must_use]
    pub fn len(&self) -> usize {
        self.turns.len()
    }

    /// Whether there is no key.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.turns.is_empty()
    }

    /// Takes all keys out.
    pub fn clear(&mut self) {
        self.turns.clear();
        self.places.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_rank_goes_first_and_within_it_the_longest_unused() {
        let mut lru = Lru::default();
        for (key, rank) in [("a", 1), ("b", 0), ("c", 0), ("d", 2)] {
            lru.touch(&key, rank);
        }
        lru.touch(&"b", 0);
        lru.touch(&"d", 0);
        assert_eq!(lru.first(), Some(&"c"));
        let order: Vec<_> = std::iter::from_fn(|| lru.pop()).collect();
        assert_eq!(order, ["c", "b", "d", "a"]);
        assert!(lru.is_empty());
    }

    #[test]
    fn what_was_taken_out_has_no_turn() {
        let mut lru = Lru::default();
        lru.touch(&1, 0);
        lru.touch(&2, 0);
        assert!(lru.remove(&1));
        assert!(!lru.remove(&1));
        assert_eq!((lru.len(), lru.pop(), lru.pop()), (1, Some(2), None));
        lru.touch(&3, 0);
        lru.clear();
        assert_eq!(lru.pop(), None);
    }
}
