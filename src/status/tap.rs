//! Batches on their way to whoever keeps readings for the page: a sample, bounded in work and bytes.
//!
//! While nobody keeps any, an offer is one relaxed load.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use tokio::sync::Notify;

use super::last_batches::Last;
use super::number::lock;
use super::sampling::Budget;
use crate::clock;
use crate::reading::Batch;

/// Batches a second that are looked at, of all devices: some 5 ms of work.
const A_SECOND: u32 = 500;

/// Batches a second of one device: a device that sends each of its names by itself has its turn
/// with all of them, and one that sends without end does not take the others' turns.
pub(super) const OF_ONE: u32 = 10;

/// Bytes that wait at most.
const BYTES: usize = 1 << 20;

#[derive(Debug)]
struct Queue {
    batches: Vec<(Arc<str>, Last)>,
    bytes: usize,
    budget: Budget,
}

/// The way.
#[derive(Debug)]
pub struct Tap {
    open: AtomicBool,
    queue: Mutex<Queue>,
    came: Notify,
}

impl Default for Tap {
    fn default() -> Self {
        Self {
            open: AtomicBool::new(false),
            queue: Mutex::new(Queue {
                batches: Vec::new(),
                bytes: 0,
                budget: Budget::new(A_SECOND, Instant::now()),
            }),
            came: Notify::new(),
        }
    }
}

impl Tap {
    /// Somebody takes batches from now on.
    pub fn open(&self) {
        self.open.store(true, Relaxed);
    }

    /// Whether somebody does.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.open.load(Relaxed)
    }

    /// A batch was taken. What there is no room for is left out.
    pub fn offer(&self, batch: &Batch, now: Instant) {
        let mut queue = lock(&self.queue);
        if queue.bytes + batch.frame.len() > BYTES || queue.budget.take(1, now) == 0 {
            return;
        }
        queue.bytes += batch.frame.len();
        let last = Last {
            received: clock::corrected(batch.received).wall,
            encoding: batch.encoding,
            frame: batch.frame.clone(),
        };
        queue.batches.push((batch.device.clone(), last));
        if queue.batches.len() == 1 {
            self.came.notify_one();
        }
    }

    /// Returns once there is a batch. Cancel safe. For one waiter.
    pub async fn came(&self) {
        while lock(&self.queue).batches.is_empty() {
            self.came.notified().await;
        }
    }

    /// Takes all that waits.
    #[must_use]
    pub fn take(&self) -> Vec<(Arc<str>, Last)> {
        let mut queue = lock(&self.queue);
        queue.bytes = 0;
        std::mem::take(&mut queue.batches)
    }
}
