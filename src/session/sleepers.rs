//! Devices that said when they will be back. Pure.
//!
//! Such a device counts as asleep until it is overdue, also while it is awake for a moment: what
//! is told of it changes only when it does not come, stays up, or leaves without a word.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::status::presence::REMEMBERED;

/// How much later than announced a device may come: cheap oscillators are off by some percent in
/// the cold …
const LATE_PARTS: u32 = 10;
/// … and a connection over a slow radio takes some seconds.
const LATE: Duration = Duration::from_secs(10);

/// A device that comes back after so much of its sleep, in tenths, is on its rhythm: limits on how
/// often a device may connect are not for it.
const ON_TIME_PARTS: u32 = 9;

/// Shorter sleeps are no rhythm that limits would make way for.
const SHORTEST: Duration = Duration::from_millis(100);

#[derive(Debug, Clone, Copy)]
struct Sleeper {
    fell: Instant,
    sleep: Duration,
    overdue: Instant,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Sleepers {
    devices: HashMap<Arc<str>, Sleeper>,
    by_time: BTreeSet<(Instant, Arc<str>)>,
}

impl Sleepers {
    /// A device leaves for so long. `false`: too many do, so that nobody could watch over it.
    pub(super) fn falls(&mut self, device: &Arc<str>, sleep: Duration, now: Instant) -> bool {
        self.forget(device);
        if self.devices.len() >= REMEMBERED {
            return false;
        }
        let overdue = now + sleep + sleep / LATE_PARTS + LATE;
        let sleeper = Sleeper {
            fell: now,
            sleep,
            overdue,
        };
        self.devices.insert(device.clone(), sleeper);
        self.by_time.insert((overdue, device.clone()));
        true
    }

    /// Whether the device said that it would be back, and is not overdue.
    pub(super) fn expects(&self, device: &str) -> bool {
        self.devices.contains_key(device)
    }

    /// Whether the device comes when it said that it would.
    pub(super) fn is_on_time(&self, device: &str, now: Instant) -> bool {
        self.devices.get(device).is_some_and(|sleeper| {
            sleeper.sleep >= SHORTEST
                && now.saturating_duration_since(sleeper.fell) >= sleeper.sleep / 10 * ON_TIME_PARTS
        })
    }

    /// The device is no sleeper any more.
    pub(super) fn forget(&mut self, device: &str) {
        if let Some((device, sleeper)) = self.devices.remove_entry(device) {
            self.by_time.remove(&(sleeper.overdue, device));
        }
    }

    /// Takes one whose time is over.
    pub(super) fn overdue(&mut self, now: Instant) -> Option<Arc<str>> {
        if self.by_time.first()?.0 > now {
            return None;
        }
        let (_, device) = self.by_time.pop_first()?;
        self.devices.remove(&device);
        Some(device)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLEEP: Duration = Duration::from_secs(600);

    #[test]
    fn a_device_is_overdue_a_tenth_and_some_seconds_after_its_time_and_once() {
        let (mut sleepers, start) = (Sleepers::default(), Instant::now());
        let device: Arc<str> = "a".into();
        assert!(sleepers.falls(&device, SLEEP, start));
        assert!(sleepers.expects("a"));
        let time = start + SLEEP + SLEEP / 10 + LATE;
        assert_eq!(sleepers.overdue(time - Duration::from_nanos(1)), None);
        assert_eq!(sleepers.overdue(time), Some(device));
        assert!(!sleepers.expects("a"));
        assert_eq!(sleepers.overdue(time + SLEEP), None);
    }

    #[test]
    fn who_sleeps_again_is_awaited_anew_and_who_is_forgotten_is_not() {
        let (mut sleepers, start) = (Sleepers::default(), Instant::now());
        for (device, again) in [("a", true), ("b", false)] {
            let device: Arc<str> = device.into();
            sleepers.falls(&device, SLEEP, start);
            if again {
                sleepers.falls(&device, SLEEP, start + SLEEP);
            } else {
                sleepers.forget(&device);
            }
        }
        assert_eq!(sleepers.overdue(start + SLEEP * 3 / 2), None);
        assert_eq!(sleepers.overdue(start + SLEEP * 3).as_deref(), Some("a"));
        assert!(sleepers.by_time.is_empty() && sleepers.devices.is_empty());
    }

    #[test]
    fn limits_make_way_for_who_comes_on_time_and_not_for_who_says_that_he_sleeps_and_does_not() {
        let (mut sleepers, start) = (Sleepers::default(), Instant::now());
        sleepers.falls(&"a".into(), SLEEP, start);
        sleepers.falls(&"b".into(), Duration::ZERO, start);
        assert!(!sleepers.is_on_time("a", start + SLEEP / 2));
        assert!(sleepers.is_on_time("a", start + SLEEP * 95 / 100));
        assert!(!sleepers.is_on_time("b", start + SLEEP));
        assert!(!sleepers.is_on_time("c", start + SLEEP));
    }

    #[test]
    fn memory_is_bounded() {
        let (mut sleepers, start) = (Sleepers::default(), Instant::now());
        let fell = (0..2 * REMEMBERED)
            .filter(|n| sleepers.falls(&format!("d{n}").into(), SLEEP, start))
            .count();
        assert_eq!(fell, REMEMBERED);
    }
}
