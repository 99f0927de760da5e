//! The readings of the last hours of all devices, within so many bytes. Pure.

use std::collections::HashMap;
use std::sync::Arc;

use super::series::{FEWEST, Series};

/// Names of one device that are kept: what its page shows. More would push out other devices'.
pub(super) const NAMES: usize = 48;

/// The store.
#[derive(Debug)]
pub(super) struct Store {
    max_bytes: usize,
    /// Seconds.
    span: f64,
    bytes: usize,
    devices: HashMap<Arc<str>, Vec<Series>>,
}

impl Store {
    pub(super) fn new(max_bytes: usize, span: f64) -> Self {
        Self {
            max_bytes,
            span,
            bytes: 0,
            devices: HashMap::new(),
        }
    }

    /// Takes a reading.
    pub(super) fn take(
        &mut self,
        device: &Arc<str>,
        name: &str,
        unit: Option<&str>,
        time: f64,
        value: &serde_json::Value,
    ) {
        let all = self.devices.entry(device.clone()).or_default();
        let known = all
            .iter()
            .position(|one| &*one.name == name && one.unit.as_deref() == unit);
        let at = match known {
            Some(at) => at,
            None if all.len() >= NAMES => return,
            None => {
                let series = Series::new(name, unit);
                self.bytes += series.bytes();
                all.push(series);
                all.len() - 1
            }
        };
        let series = &mut all[at];
        let before = series.bytes();
        series.take(time, value);
        series.forget_before(series.last - self.span);
        let after = series.bytes();
        self.bytes = self.bytes - before + after;
        while self.bytes > self.max_bytes && self.shrink() {}
    }

    /// Every series with where it is.
    fn each(&self) -> impl Iterator<Item = (&Arc<str>, usize, &Series)> {
        let of = |(id, all)| {
            let all: &Vec<Series> = all;
            all.iter().enumerate().map(move |(at, one)| (id, at, one))
        };
        self.devices.iter().flat_map(of)
    }

    /// The largest series is thinned; when it has few points, or gets no smaller by it, the one that
    /// was quiet for longest goes. `false`: there is none.
    fn shrink(&mut self) -> bool {
        let largest = self.each().max_by_key(|(_, _, one)| one.bytes());
        let largest = largest.map(|(id, at, one)| (id.clone(), at, one.size()));
        if let Some((id, at, size)) = largest
            && size > FEWEST
            && let Some(series) = self.devices.get_mut(&id).and_then(|all| all.get_mut(at))
        {
            let before = series.bytes();
            series.thin();
            let after = series.bytes();
            self.bytes = self.bytes - before + after;
            if after < before {
                return true;
            }
        }
        let quiet = self
            .each()
            .min_by(|(_, _, a), (_, _, b)| a.last.total_cmp(&b.last));
        let Some((id, at)) = quiet.map(|(id, at, _)| (id.clone(), at)) else {
            return false;
        };
        if let Some(all) = self.devices.get_mut(&id) {
            self.bytes -= all.remove(at).bytes();
            if all.is_empty() {
                self.devices.remove(&id);
            }
        }
        true
    }

    /// Every device that has series, in no order.
    pub(super) fn devices(&self) -> impl Iterator<Item = (&Arc<str>, &[Series])> {
        self.devices.iter().map(|(id, all)| (id, all.as_slice()))
    }

    /// The series of a device, in the order in which they first came.
    pub(super) fn of(&self, device: &str) -> &[Series] {
        self.devices.get(device).map_or(&[], Vec::as_slice)
    }

    /// What it takes, about.
    #[cfg(test)]
    fn counted(&self) -> usize {
        self.devices.values().flatten().map(Series::bytes).sum()
    }

    /// Forgets devices that are known no longer.
    pub(super) fn retain(&mut self, known: impl Fn(&str) -> bool) {
        let bytes = &mut self.bytes;
        self.devices.retain(|id, all| {
            let keep = known(id);
            if !keep {
                *bytes -= all.iter().map(Series::bytes).sum::<usize>();
            }
            keep
        });
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn whatever_comes_it_takes_no_more_than_it_may_and_counts_right() {
        let mut store = Store::new(200_000, 86_400.0);
        for n in 0..60_000_u32 {
            let device: Arc<str> = format!("d{}", n % 50).into();
            let name = format!("n{}", n % 7);
            let value = if n % 11 == 0 {
                json!(n.to_string())
            } else {
                json!(n)
            };
            store.take(&device, &name, None, f64::from(n), &value);
            assert!(store.bytes <= 200_000, "{}", store.bytes);
        }
        assert_eq!(store.bytes, store.counted());
        assert!(store.bytes > 100_000, "{}", store.bytes);
        // Everybody has something.
        assert!((0..50).all(|n| !store.of(&format!("d{n}")).is_empty()));
        store.retain(|id| id == "d1");
        assert_eq!(store.bytes, store.counted());
        assert!(store.of("d2").is_empty() && !store.of("d1").is_empty());
    }

    #[test]
    fn a_device_with_names_without_end_has_so_many() {
        let mut store = Store::new(10_000_000, 86_400.0);
        let device: Arc<str> = "d".into();
        for n in 0..1_000_u32 {
            store.take(&device, &n.to_string(), None, 5.0, &json!(1));
        }
        assert_eq!(store.of("d").len(), NAMES);
    }
}
