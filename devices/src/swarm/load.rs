//! What one device of a swarm sends, and when.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use crate::client::{Rng, Source};
use crate::sensors::now;
use crate::wire::senml::{Pack, Record};

/// A device that is this far behind its rate has been held up; it goes on from now instead of
/// sending all at once what it missed.
const BEHIND: Duration = Duration::from_secs(1);

/// The source of one device of the swarm.
pub struct Load {
    /// Base name of its packs.
    pub base: Arc<str>,
    /// Readings in a batch.
    pub batch: usize,
    /// Makes the readings.
    pub rng: Rng,
    /// Between two batches; `None`: as fast as they are taken.
    pub interval: Option<Duration>,
    /// When the next one is due, once there was one.
    pub due: Option<Instant>,
    /// Batches to go.
    pub left: u64,
    /// Nothing is sent before this is true.
    pub go: watch::Receiver<bool>,
}

impl Load {
    fn pack(&mut self) -> Pack {
        let time = now();
        let mut pack = Pack::new(self.base.clone(), Some(time));
        pack.base_unit = Some("Cel");
        pack.records.reserve_exact(self.batch);
        for index in 0..self.batch {
            // Two decimals, as a thermometer has them.
            let value = (2000.0 + self.rng.unit() * 500.0).round() / 100.0;
            let mut record = Record::number("t", None, value);
            record.time = (index + 1) as f64 - self.batch as f64;
            pack.records.push(record);
        }
        pack
    }
}

impl Source for Load {
    async fn next(&mut self) -> Option<Pack> {
        if self.left == 0 {
            return None;
        }
        if !*self.go.borrow() && self.go.wait_for(|go| *go).await.is_err() {
            return None;
        }
        if let Some(interval) = self.interval {
            let now = Instant::now();
            // The first one at a random moment, so that devices do not march in step.
            let mut first = || now + interval.mul_f64(self.rng.unit());
            let due = match self.due {
                None => first(),
                Some(due) if due + BEHIND + interval < now => now,
                Some(due) => due,
            };
            self.due = Some(due);
            if due > now {
                sleep(due - now).await;
            }
            self.due = Some(due + interval);
        }
        self.left -= 1;
        Some(self.pack())
    }
}
