//! A vibration sensor on a motor: samples fast for a moment, then sends the burst as one pack.

use std::f64::consts::TAU;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Interval;

use super::{now, ticks};
use crate::client::{Rng, Source};
use crate::wire::senml::{Pack, Record, name_of};

/// The motor turns at 1,500 a minute; its fundamental, in Hz.
const FUNDAMENTAL: f64 = 25.0;

/// One burst per interval. The times of the samples are relative to the last one.
#[derive(Debug)]
pub struct Vibration {
    base: Arc<str>,
    every: Duration,
    ticks: Option<Interval>,
    samples: usize,
    hertz: f64,
    rng: Rng,
}

impl Vibration {
    /// `samples` at `hertz` a second; the name is `id/acceleration`.
    #[must_use]
    pub fn new(id: &str, every: Duration, samples: usize, hertz: f64, rng: Rng) -> Self {
        Self {
            // One name for all samples stands in the base name once.
            base: format!("{}/acceleration", name_of(id)).into(),
            every,
            ticks: None,
            samples,
            hertz,
            rng,
        }
    }

    fn burst(&mut self) -> Pack {
        let mut pack = Pack::new(self.base.clone(), Some(now()));
        pack.base_unit = Some("m/s2");
        pack.records.reserve_exact(self.samples);
        let phase = self.rng.unit() * TAU;
        for index in 0..self.samples {
            let ago = (self.samples - 1 - index) as f64 / self.hertz;
            let turn = phase - ago * FUNDAMENTAL * TAU;
            let value = 1.2 * turn.sin() + 0.4 * (3.0 * turn).sin() + 0.1 * self.rng.normal();
            let mut record = Record::number("", None, (value * 1000.0).round() / 1000.0);
            record.time = -((ago * 1e6).round() / 1e6);
            pack.records.push(record);
        }
        pack
    }
}

impl Source for Vibration {
    async fn next(&mut self) -> Option<Pack> {
        ticks(&mut self.ticks, self.every).tick().await;
        Some(self.burst())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_burst_has_its_samples_in_order_and_ends_now() {
        let mut sensor = Vibration::new("m", Duration::from_secs(1), 256, 1000.0, Rng::seeded(1));
        let pack = sensor.burst();
        assert_eq!(pack.records.len(), 256);
        assert_eq!(pack.records[0].time, -0.255);
        assert_eq!(pack.records.last().unwrap().time, 0.0);
        assert!(
            pack.records
                .windows(2)
                .all(|pair| pair[0].time < pair[1].time)
        );
    }
}
