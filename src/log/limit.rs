//! How much of the same the log takes. Pure.
//!
//! In each minute a kind of event of one device gets some lines; what comes beyond is counted and
//! told in one line when the minute is over. Kinds that have limits of their own (refused
//! connections, the uplink's reasons) stay far below this.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

/// What is held back is told after this time.
pub(super) const WINDOW: Duration = Duration::from_secs(60);

/// Lines of one key in one window: more than a device needs that reconnects every few seconds on a
/// bad radio link, so that its story stays whole.
const LINES: u32 = 20;

/// Lines of one kind in one window, of all keys together: a site of some hundred devices that come
/// back after a power cut is told whole. More is not read by anybody, and wears out a flash card.
const LINES_OF_KIND: u32 = 600;

/// Lines that tell what was held back: so many keys by name, and then one line for each kind.
const HELD_LINES: usize = 50;

/// Keys remembered: connects and disconnects of 2,000 devices, some 500 KB. Beyond that, devices
/// that are new in this window share the lines of their kind.
const KEYS: usize = 4_096;

/// When there are too many keys, those that are over are looked for at most so often.
const SWEEP: Duration = Duration::from_secs(1);

#[derive(Debug)]
struct Window<K, W> {
    shared: K,
    since: Instant,
    lines: u32,
    held: u64,
    what: Option<W>,
}

/// The limit for keys `K`; `W` says what was held back.
#[derive(Debug)]
pub(super) struct Limit<K, W> {
    windows: HashMap<K, Window<K, W>>,
    /// Lines of each kind, by its shared key, and since when. There are as many as there are places
    /// in the code that log.
    kinds: HashMap<K, (Instant, u32)>,
    /// When those that are over were last looked for.
    swept: Option<Instant>,
}

impl<K, W> Default for Limit<K, W> {
    fn default() -> Self {
        Self {
            windows: HashMap::new(),
            kinds: HashMap::new(),
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
    /// An event with this key. `shared`: the key of its kind, under which it falls when there are
    /// too many.
    pub(super) fn note(
        &mut self,
        key: K,
        shared: K,
        now: Instant,
        what: impl FnOnce() -> W,
    ) -> Verdict {
        let over = |since: Instant| now.saturating_duration_since(since) >= WINDOW;
        let (since, lines) = self.kinds.entry(shared.clone()).or_insert((now, 0));
        if over(*since) {
            (*since, *lines) = (now, 0);
        }
        let kind_is_full = *lines >= LINES_OF_KIND;
        let known = self.windows.contains_key(&key);
        let swept = |at: Instant| now.saturating_duration_since(at) < SWEEP;
        if !known && self.windows.len() >= KEYS && !self.swept.is_some_and(swept) {
            self.swept = Some(now);
            self.windows
                .retain(|_, window| !over(window.since) || window.held > 0);
        }
        let own = known || (self.windows.len() < KEYS && !kind_is_full);
        let window = self
            .windows
            .entry(if own { key } else { shared.clone() })
            .or_insert(Window {
                shared,
                since: now,
                lines: 0,
                held: 0,
                what: None,
            });
        if over(window.since) && window.held == 0 {
            (window.since, window.lines) = (now, 0);
        }
        if window.lines < LINES && !kind_is_full {
            window.lines += 1;
            *lines += 1;
            return Verdict::Print;
        }
        window.held += 1;
        let first = window.held == 1;
        window.what.get_or_insert_with(what);
        Verdict::Hold { first }
    }

    /// What was held back and has not been told yet, with how often: the loudest by themselves, the
    /// others together by their kind. Windows begin anew.
    pub(super) fn held(&mut self) -> Vec<(K, W, u64)> {
        let mut held = Vec::new();
        self.windows.retain(|key, window| {
            let Some(what) = window.what.take() else {
                return true;
            };
            held.push((key.clone(), window.shared.clone(), what, window.held));
            false
        });
        held.sort_by_key(|(_, _, _, times)| Reverse(*times));
        let mut told: Vec<(K, W, u64)> = Vec::new();
        // Where the common line of each kind stands.
        let mut kinds: HashMap<K, usize> = HashMap::new();
        let mut alone = 0;
        for (key, shared, what, times) in held {
            if key != shared && alone < HELD_LINES {
                alone += 1;
                told.push((key, what, times));
            } else if let Some(at) = kinds.get(&shared) {
                told[*at].2 += times;
            } else {
                kinds.insert(shared.clone(), told.len());
                told.push((shared, what, times));
            }
        }
        told
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
        assert_eq!(printed, LINES_OF_KIND as usize);
        let held: u64 = limit.held().iter().map(|(_, _, held)| held).sum();
        assert_eq!(held + printed as u64, 100_000);
        assert_eq!(limit.held(), []);
        // Later these are forgotten.
        for key in 0..10_000 {
            print(&mut limit, 100_000 + key, now + WINDOW);
        }
        assert!(limit.windows.len() <= KEYS + 1);
    }

    #[test]
    fn many_loud_devices_share_the_lines_of_a_kind_and_another_kind_has_its_own() {
        let mut limit = Limit::default();
        let now = Instant::now();
        let mut printed = 0;
        for n in 0..100_000 {
            let verdict = limit.note((1, n % 3_000), (1, 0), now, || n);
            printed += u32::from(verdict == Verdict::Print);
        }
        assert_eq!(printed, LINES_OF_KIND);
        let held = limit.held();
        assert!(held.len() <= HELD_LINES + 1, "{}", held.len());
        let sum: u64 = held.iter().map(|(_, _, held)| held).sum();
        assert_eq!(sum, 100_000 - u64::from(LINES_OF_KIND));
        let other = limit.note((2, 7), (2, 0), now, || 0);
        assert_eq!(other, Verdict::Print);
        let next = limit.note((1, 7), (1, 0), now + WINDOW, || 0);
        assert_eq!(next, Verdict::Print, "a new minute");
    }

    #[test]
    fn who_was_told_by_name_before_the_kind_was_full_is_counted_by_name() {
        let mut limit = Limit::default();
        let now = Instant::now();
        assert!(print(&mut limit, 1, now));
        for key in 2..2_000 {
            print(&mut limit, key, now);
        }
        assert!(!print(&mut limit, 1, now));
        let held = limit.held();
        assert!(held.contains(&(1, 1, 1)), "{held:?}");
        assert_eq!(held.len(), 2, "and one line for the others: {held:?}");
    }
}
