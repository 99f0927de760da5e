//! What each device has left to spend, for longer than one connection: by connecting anew a device
//! gets no fresh buckets.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::rate::{Limits, Rate};
use crate::lru::Lru;

/// Devices that have gone and whose buckets are remembered. They are full again after some seconds,
/// so these are the devices that go in that time.
const REMEMBERED: usize = 1_024;

/// The buckets of one device; its connections share them.
#[derive(Debug, Clone, Default)]
pub struct Purse(Arc<Mutex<Option<Rate>>>);

impl Purse {
    fn lock(&self) -> MutexGuard<'_, Option<Rate>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something with the buckets, which are full at first.
    pub(super) fn with<T>(
        &self,
        limits: Limits,
        now: Instant,
        change: impl FnOnce(&mut Rate) -> T,
    ) -> T {
        change(self.lock().get_or_insert_with(|| Rate::new(limits, now)))
    }
}

/// The purses of all devices.
#[derive(Debug, Default)]
pub(super) struct Rates {
    purses: HashMap<Arc<str>, Purse>,
    gone: Lru<Arc<str>>,
}

impl Rates {
    /// The device is there.
    pub(super) fn take(&mut self, device: &Arc<str>) -> Purse {
        self.gone.remove(device);
        self.purses.entry(device.clone()).or_default().clone()
    }

    /// The device has gone.
    pub(super) fn put_by(&mut self, device: &Arc<str>) {
        self.gone.touch(device, 0);
        if self.gone.len() > REMEMBERED
            && let Some(oldest) = self.gone.pop()
        {
            self.purses.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::rate::Cost;
    use super::*;

    const LIMITS: Limits = Limits {
        messages: 10,
        bytes: 1_000,
        readings: 10,
    };

    fn spends(purse: &Purse, messages: u32, now: Instant) -> bool {
        let cost = Cost {
            messages,
            ..Cost::default()
        };
        purse.with(LIMITS, now, |rate| rate.spend(cost, now).is_some())
    }

    #[test]
    fn connecting_anew_gives_no_fresh_buckets() {
        let (mut rates, now) = (Rates::default(), Instant::now());
        let device = Arc::from("d");
        assert!(!spends(&rates.take(&device), 19, now));
        // Beside the old connection, and after both.
        assert!(spends(&rates.take(&device), 1, now));
        rates.put_by(&device);
        assert!(spends(&rates.take(&device), 1, now));
        assert!(!spends(&rates.take(&"other".into()), 1, now));
    }

    #[test]
    fn devices_without_end_take_bounded_memory() {
        let mut rates = Rates::default();
        let there = Arc::from("there");
        rates.take(&there);
        for n in 0..10_000 {
            let device = Arc::from(format!("d-{n}"));
            rates.take(&device);
            rates.put_by(&device);
            assert!(rates.purses.len() <= REMEMBERED + 2);
        }
        assert!(rates.purses.contains_key(&there));
    }
}
