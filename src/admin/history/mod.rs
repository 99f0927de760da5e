//! The readings of the last hours, in memory alone: what a device's page shows after it is loaded
//! again, and `/api/devices/{id}/readings`.

mod series;
mod store;
mod values;
mod write;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::sleep;

use self::store::Store;
pub(super) use self::values::values;
pub(super) use self::write::{Range, all, csv, one};
use super::readings;
use crate::clock;
use crate::status::board::Board;

/// Batches gather for so long: their readings are looked at together, and an idle hub sleeps.
const GATHER: Duration = Duration::from_secs(1);

/// Readings of one batch that are taken.
const OF_A_BATCH: usize = 200;

/// Rounds after which devices that are known no longer are looked for.
const SWEEP: u32 = 300;

/// How much is kept.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// For how long; zero: nothing.
    pub span: Duration,
    /// In how many bytes, about, of all devices together.
    pub bytes: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            span: Duration::from_secs(86_400),
            bytes: 16 << 20,
        }
    }
}

/// What is kept.
#[derive(Debug)]
pub(super) struct History {
    settings: Settings,
    store: Mutex<Store>,
}

impl History {
    pub(super) fn new(settings: Settings) -> Self {
        Self {
            settings,
            store: Mutex::new(Store::new(settings.bytes, settings.span.as_secs_f64())),
        }
    }

    fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in what devices send, for as long as it is polled.
    pub(super) async fn gather(&self, board: &Arc<Board>) {
        let tap = &board.devices.shared.tap;
        if self.settings.span.is_zero() {
            return std::future::pending().await;
        }
        tap.open();
        let mut rounds = 0;
        loop {
            tap.came().await;
            sleep(GATHER).await;
            let batches = tap.take();
            let mut store = self.store();
            for (device, batch) in batches {
                readings::each(&batch, OF_A_BATCH, |reading| {
                    // A time that cannot be true is no place on a time axis; the moment when it
                    // came is.
                    let time = reading.time.as_f64();
                    let time = if clock::is_plausible(time, batch.received) {
                        time
                    } else {
                        batch.received
                    };
                    let (name, value) = (readings::name(reading), readings::value(reading));
                    store.take(&device, &name, reading.unit, time, &value);
                });
            }
            rounds += 1;
            if rounds % SWEEP == 0 {
                store.retain(|id| board.devices.get(id).is_some());
            }
        }
    }
}
