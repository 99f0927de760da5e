//! The window of publishes that wait for their PUBACK.
//!
//! Pure. The window is counted from the oldest unacknowledged publish, not by their number:
//! MQTT packet ids are handed out in a circle, and one that is still in use must not be reached
//! again while a broker acknowledges out of order.

use std::collections::VecDeque;
use std::time::Instant;

/// Publishes in flight, each with what the caller wants to know of it.
#[derive(Debug)]
pub struct Flight<T> {
    window: usize,
    base: u64,
    slots: VecDeque<Option<(Instant, T)>>,
    count: usize,
}

impl<T> Flight<T> {
    /// An empty window of this width, at least 1.
    #[must_use]
    pub fn new(window: usize) -> Self {
        Self {
            window: window.max(1),
            base: 0,
            slots: VecDeque::new(),
            count: 0,
        }
    }

    /// How many more may be submitted now.
    #[must_use]
    pub fn room(&self) -> usize {
        self.window.saturating_sub(self.slots.len())
    }

    /// Number in flight.
    #[must_use]
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether nothing is in flight.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Notes a publish and names it.
    pub fn submit(&mut self, now: Instant, what: T) -> u64 {
        self.slots.push_back(Some((now, what)));
        self.count += 1;
        self.base + self.slots.len() as u64 - 1
    }

    /// Takes out what this token stands for; `None` when it is not in flight.
    pub fn take(&mut self, token: u64) -> Option<T> {
        let at = usize::try_from(token.checked_sub(self.base)?).ok()?;
        let (_, what) = self.slots.get_mut(at)?.take()?;
        self.count -= 1;
        while let Some(None) = self.slots.front() {
            self.slots.pop_front();
            self.base += 1;
        }
        Some(what)
    }

    /// When this token was submitted.
    #[must_use]
    pub fn since(&self, token: u64) -> Option<Instant> {
        let at = usize::try_from(token.checked_sub(self.base)?).ok()?;
        self.slots.get(at)?.as_ref().map(|(since, _)| *since)
    }

    /// What this token stands for.
    #[must_use]
    pub fn get(&self, token: u64) -> Option<&T> {
        let at = usize::try_from(token.checked_sub(self.base)?).ok()?;
        self.slots.get(at)?.as_ref().map(|(_, what)| what)
    }

    /// What this token stands for, to be changed.
    pub fn get_mut(&mut self, token: u64) -> Option<&mut T> {
        let at = usize::try_from(token.checked_sub(self.base)?).ok()?;
        self.slots.get_mut(at)?.as_mut().map(|(_, what)| what)
    }

    /// The oldest, and since when it waits.
    #[must_use]
    pub fn oldest(&self) -> Option<(Instant, &T)> {
        self.slots
            .iter()
            .flatten()
            .next()
            .map(|(since, what)| (*since, what))
    }

    /// All in flight, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.slots.iter().flatten().map(|(_, what)| what)
    }

    /// All in flight with their tokens, oldest first.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (u64, &mut T)> {
        let base = self.base;
        self.slots
            .iter_mut()
            .enumerate()
            .filter_map(move |(at, slot)| slot.as_mut().map(|(_, what)| (base + at as u64, what)))
    }

    /// Empties the window, oldest first. Tokens are never used again.
    pub fn clear(&mut self) -> Vec<T> {
        self.base += self.slots.len() as u64;
        self.count = 0;
        std::mem::take(&mut self.slots)
            .into_iter()
            .flatten()
            .map(|(_, what)| what)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_window_is_counted_from_the_oldest_unacked() {
        let now = Instant::now();
        let mut flight = Flight::new(3);
        let tokens: Vec<_> = (0..3).map(|n| flight.submit(now, n)).collect();
        assert_eq!(flight.room(), 0);
        assert_eq!(flight.take(tokens[1]), Some(1));
        assert_eq!((flight.room(), flight.len()), (0, 2));
        assert_eq!(flight.take(tokens[0]), Some(0));
        assert_eq!((flight.room(), flight.len()), (2, 1));
    }

    #[test]
    fn a_token_is_good_once_and_never_again_after_clear() {
        let now = Instant::now();
        let mut flight = Flight::new(2);
        let old = flight.submit(now, 'a');
        assert_eq!(flight.clear(), ['a']);
        let new = flight.submit(now, 'b');
        assert_ne!(old, new);
        assert_eq!(flight.take(old), None);
        assert_eq!(flight.take(new), Some('b'));
        assert_eq!(flight.take(new), None);
    }
}
