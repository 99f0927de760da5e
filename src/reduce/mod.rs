//! `[[reduce]]`: what of the readings that come in is worth a publish. Pure: `now` and batches go in.
//!
//! Decided for each series, a name of a device, by the first rule that fits it:
//!
//! 1. The first reading of a series is kept, and so is every one that cannot be compared with the
//!    last one kept: of another unit or kind, with a sum, by another clock, older.
//! 2. After `max_interval` the next one is kept whatever it says, so that silence stays visible.
//! 3. Before `min_interval` no number is kept.
//! 4. With a `deadband` a number is kept when it is away from the last one kept by more than that.
//! 5. Truth values, texts and data are kept whenever they change.
//!
//! A batch with a time that cannot be true is kept as it is and compared with nothing.
//!
//! What is left out is safe by decision: it is acked as the rest of its batch is, and a batch of
//! which nothing is left as soon as what came before it in its stream is safe. The stream's mark moves
//! on and its content is remembered, as with any batch.
//!
//! Nothing of this is kept on disk: after a start every series begins with its first reading. Memory is
//! bounded; a series that is pushed out begins anew as well, which costs a publish and no reading.

mod rules;
mod series;
mod totals;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

pub use rules::Rules;
pub use series::silence;

pub use crate::config::{Deadband, ReduceRule};
use crate::lru::Lru;
pub use crate::protocol::select::Selected;
use crate::protocol::select::select;
use crate::reading::{Batch, Gap, Moment};
use series::Reading;
use totals::Totals;

/// Series of one device, as with the value topics. One that makes up names pushes out its own.
const DEVICE_SERIES: usize = 256;

/// Series in all: 64 devices with all of theirs, or 1,000 with 16. About 300 bytes each, 5 MiB.
const SERIES: usize = 16_384;

/// What became of readings for which there is a rule, and of their batches.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Readings that were kept.
    pub kept: u64,
    /// Readings that were left out.
    pub left_out: u64,
    /// Batches that something was left out of, and something was left of.
    pub shortened: u64,
    /// Batches that nothing was left of.
    pub dropped: u64,
}

#[derive(Debug, Default)]
struct Device {
    series: HashMap<Arc<str>, Reading>,
    uses: Lru<Arc<str>>,
}

/// See the module.
#[derive(Debug)]
pub struct Reducer {
    rules: Rules,
    devices: HashMap<Arc<str>, Device>,
    uses: Lru<Arc<str>>,
    /// Series of all devices.
    series: usize,
    totals: Totals,
    counts: Counts,
    name: String,
}

impl Reducer {
    /// `None`: there is nothing to reduce.
    #[must_use]
    pub fn new(rules: Rules) -> Option<Self> {
        (!rules.is_empty()).then(|| Self {
            rules,
            devices: HashMap::new(),
            uses: Lru::default(),
            series: 0,
            totals: Totals::default(),
            counts: Counts::default(),
            name: String::new(),
        })
    }

    /// What became of the readings so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// What is left of a new batch.
    pub fn reduce(&mut self, batch: &Batch, now: Instant) -> Selected {
        if !self.rules.concern(&batch.device) {
            return Selected::All;
        }
        self.uses.touch(&batch.device, 0);
        let (mut kept, mut left_out) = (0, 0);
        let selected = select(batch, |record, when| {
            let mut name = std::mem::take(&mut self.name);
            name.clear();
            name.push_str(record.base_name);
            name.push_str(record.name);
            let reading = Reading::of(record, when, batch.received.uptime, now);
            let keep = self.decide(&batch.device, &name, reading);
            self.name = name;
            kept += u32::from(keep == Some(true));
            left_out += u32::from(keep == Some(false));
            keep != Some(false)
        });
        // Without a record that a rule holds for there is nothing to remember of it.
        if !self.devices.contains_key(&batch.device) {
            self.uses.remove(&batch.device);
        }
        self.counts.kept += u64::from(kept);
        self.counts.left_out += u64::from(left_out);
        let whole = match selected {
            Selected::All => return selected,
            Selected::Nothing => true,
            Selected::Some(_) => false,
        };
        match whole {
            true => self.counts.dropped += 1,
            false => self.counts.shortened += 1,
        }
        self.totals.add(batch, left_out, whole, now);
        selected
    }

    /// When [`Reducer::totals`] has something to give.
    #[must_use]
    pub fn next_total(&self) -> Option<Instant> {
        self.totals.next()
    }

    /// The records of what was left out that are due; `all`: every one.
    pub fn totals(&mut self, now: Instant, moment: Moment, all: bool) -> Vec<Gap> {
        self.totals.take(now, moment, all)
    }

    /// `None`: no rule holds for it.
    fn decide(&mut self, device: &Arc<str>, name: &str, reading: Reading) -> Option<bool> {
        let rule = self.rules.of(device, name)?;
        let known = self.devices.get_mut(device);
        if let Some(known) = known
            && let Some((name, last)) = known.series.get_key_value(name)
        {
            let (name, keep) = (name.clone(), reading.is_kept(last, rule));
            known.uses.touch(&name, 0);
            if keep {
                known.series.insert(name, reading);
            }
            return Some(keep);
        }
        self.enter(device, name.into(), reading);
        Some(true)
    }

    fn enter(&mut self, device: &Arc<str>, name: Arc<str>, reading: Reading) {
        let known = self.devices.entry(device.clone()).or_default();
        known.uses.touch(&name, 0);
        known.series.insert(name, reading);
        self.series += 1;
        if known.series.len() > DEVICE_SERIES
            && let Some(oldest) = known.uses.pop()
        {
            known.series.remove(&oldest);
            self.series -= 1;
        }
        while self.series > SERIES
            && let Some(oldest) = self
                .uses
                .first()
                .filter(|oldest| *oldest != device)
                .cloned()
        {
            self.uses.remove(&oldest);
            if let Some(gone) = self.devices.remove(&oldest) {
                self.series -= gone.series.len();
            }
        }
        debug_assert!(self.series <= SERIES);
    }
}

#[cfg(test)]
mod tests;
