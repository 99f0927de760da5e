//! A thermometer in a room: drifts slowly, jitters a little, comes back to what the room is like.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Interval;

use super::{now, ticks};
use crate::client::{Rng, Source};
use crate::wire::senml::{Pack, Record, name_of};

/// What the temperature returns to, in °C.
const HOME: f64 = 21.0;
/// Share of the distance home that one reading goes back.
const PULL: f64 = 0.01;
/// Deviation of one step, in °C.
const STEP: f64 = 0.05;

/// One reading per interval.
#[derive(Debug)]
pub struct Thermometer {
    base: Arc<str>,
    every: Duration,
    ticks: Option<Interval>,
    rng: Rng,
    temperature: f64,
}

impl Thermometer {
    /// The name is `id/temperature`.
    #[must_use]
    pub fn new(id: &str, every: Duration, mut rng: Rng) -> Self {
        Self {
            base: format!("{}/", name_of(id)).into(),
            every,
            ticks: None,
            temperature: HOME + rng.normal(),
            rng,
        }
    }

    fn read(&mut self) -> f64 {
        self.temperature += PULL * (HOME - self.temperature) + STEP * self.rng.normal();
        (self.temperature * 100.0).round() / 100.0
    }
}

impl Source for Thermometer {
    async fn next(&mut self) -> Option<Pack> {
        ticks(&mut self.ticks, self.every).tick().await;
        let mut pack = Pack::new(self.base.clone(), Some(now()));
        let record = Record::number("temperature", Some("Cel"), self.read());
        pack.records.push(record);
        Some(pack)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_of_readings_stays_plausible_and_never_jumps() {
        let mut thermometer = Thermometer::new("t", Duration::from_secs(1), Rng::seeded(7));
        let mut before = thermometer.read();
        for _ in 0..86_400 {
            let reading = thermometer.read();
            assert!(
                (reading - before).abs() < 0.5 && (reading - HOME).abs() < 5.0,
                "{reading}"
            );
            before = reading;
        }
    }
}
