//! How much of the same the log takes. Pure.
//!
//! In each minute a kind of event of one device gets some lines; what comes beyond is counted and
//! told in one line when the minute is over. Kinds that have limits of their own (refused
//! connections, the uplink's reasons) stay far below this.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

/// What is held back is told after this time.
pub(super) const WINDOW: Duration = Duration::from_secs(60);

/// Lines of one key in one window: more than a device needs that reconnects every few seconds on a
/// bad radio link, so that its story stays whole.
const LINES: u32 = 20;

/// Keys remembered: connects and disconnects of 2,000 devices, some 500 KB. Beyond that, devices
/// that are new in this window share the lines of their kind.
const KEYS: usize = 4_096;

/// When there are too many keys, those that are over are looked for at most so often.
const SWEEP: Duration = Duration::from_secs(1);

#[derive(Debug)]
struct Window<W> {
    since: Instant,
    lines: u32,
    held: u64,
    what: Option<W>,
}

/// The limit for keys `K`; `W` says what was held back.
#[derive(Debug)]
pub(super) struct Limit<K, W> {
    windows: HashMap<K, Window<W>>,
    /// When those that are over were last looked for.
    swept: Option<Instant>,
}

impl<K, W> Default for Limit<K, W> {
    fn default() -> Self {
        Self {
            windows: HashMap::new(),
            swept: None,
        }
    }
}

/// What becomes of one event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is printed.
    Print,
    /// It is counted. `first`: the first one since the last [`Limit::held`].
    Hold { first: bool },
}

impl<K: Clone + Eq + Hash, W> Limit<K, W> {
    /// An event with this key. `shared`: the key that it falls under when there are too many.
    pub(super) fn note(
        &mut self,
        key: K,
        shared: K,
        now: Instant,
        what: impl FnOnce() -> W,
    ) -> Verdict {
        let over = |window: &Window<W>| now.saturating_duration_since(window.since) >= WINDOW;
        let known = self.windows.contains_key(&key);
        let swept = |at: Instant| now.saturating_duration_since(at) < SWEEP;
        if !known && self.windows.len() >= KEYS && !self.swept.is_some_and(swept) {
            self.swept = Some(now);
            self.windows
                .retain(|_, window| !over(window) || window.held > 0);
        }
        let key = if known || self.windows.len() < KEYS {
            key
        } else {
            shared
        };
        let window = self.windows.entry(key).or_insert(Window {
            since: now,
            lines: 0,
            held: 0,
            what: None,
        });
        if over(window) && window.held == 0 {
            (window.since, window.lines) = (now, 0);
        }
        if window.lines < LINES {
            window.lines += 1;
            return Verdict::Print;
        }
        window.held += 1;
        let first = window.held == 1;
        window.what.get_or_insert_with(what);
        Verdict::Hold { first }
    }

    /// What was held back and has not been told yet, with how often. Windows begin anew.
    pub(super) fn held(&mut self) -> Vec<(K, W, u64)> {
        let mut held = Vec::new();
        self.windows.retain(|key, window| {
            let Some(what) = window.what.take() else {
                return true;
            };
            held.push((key.clone(), what, window.held));
            false
        });
        held
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn print(limit: &mut Limit<u32, u32>, key: u32, now: Instant) -> bool {
        limit.note(key, 0, now, || key) == Verdict::Print
    }

    #[test]
    fn a_loud_device_gets_some_lines_and_then_one_that_counts_the_rest() {
        let mut limit = Limit::default();
        let now = Instant::now();
        let printed = (0..1_000).filter(|_| print(&mut limit, 1, now)).count();
        assert_eq!(printed, LINES as usize);
        assert!(print(&mut limit, 2, now), "others are not meant");
        assert_eq!(limit.held(), [(1, 1, 980)]);
        assert_eq!(limit.held(), []);
        assert!(print(&mut limit, 1, now), "told, and begun anew");
    }

    #[test]
    fn only_the_first_that_is_held_back_asks_for_the_telling() {
        let mut limit = Limit::default();
        let now = Instant::now();
        while print(&mut limit, 1, now) {}
        let again = limit.note(1, 0, now, || 1);
        assert_eq!(again, Verdict::Hold { first: false });
        // A window that is over stays closed until it was told.
        assert!(!print(&mut limit, 1, now + WINDOW));
        assert_eq!(limit.held(), [(1, 1, 3)]);
    }

    #[test]
    fn a_new_minute_brings_new_lines() {
        let mut limit = Limit::default();
        let now = Instant::now();
        for _ in 0..LINES {
            assert!(print(&mut limit, 1, now));
        }
        assert!(print(&mut limit, 1, now + WINDOW));
    }

    #[test]
    fn a_hundred_thousand_devices_take_bounded_memory_and_bounded_lines() {
        let mut limit = Limit::default();
        let now = Instant::now();
        let printed = (1..=100_000)
            .filter(|key| print(&mut limit, *key, now))
            .count();
        assert!(limit.windows.len() <= KEYS + 1);
        assert!(printed <= KEYS + LINES as usize);
        let held: u64 = limit.held().iter().map(|(_, _, held)| held).sum();
        assert_eq!(held + printed as u64, 100_000);
        // Later these are forgotten.
        assert!(print(&mut limit, 100_001, now + WINDOW));
        assert!(limit.windows.len() < 10);
    }
}
