//! What the room has for one session.

use std::sync::{Arc, Mutex, PoisonError};

use serde_json::value::RawValue;
use tokio::sync::Notify;

use super::event::Order;

/// What waits for one session.
#[derive(Debug, Default)]
pub struct Waiting {
    /// Commands to send; one, because the next waits for its result, and what a takeover has
    /// left behind.
    pub orders: Vec<Order>,
    /// Results that are safe.
    pub acks: Vec<Arc<str>>,
    /// The state that the device is to be in, a JSON map. Of several the last.
    pub desired: Option<Arc<RawValue>>,
}

impl Waiting {
    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.orders.is_empty() && self.acks.is_empty() && self.desired.is_none()
    }
}

/// What the room has for one session, gathered until the session takes it: the room never waits
/// for a session. Bounded by what is under way: one command, and results that are not safe.
#[derive(Debug, Default)]
pub struct Tray {
    waiting: Mutex<Waiting>,
    notify: Notify,
}

impl Tray {
    fn put(&self, add: impl FnOnce(&mut Waiting)) {
        add(&mut self.waiting.lock().unwrap_or_else(PoisonError::into_inner));
        self.notify.notify_one();
    }

    /// A command is to be sent.
    pub fn order(&self, order: Order) {
        self.put(|waiting| waiting.orders.push(order));
    }

    /// A result is safe.
    pub fn ack(&self, id: Arc<str>) {
        self.put(|waiting| waiting.acks.push(id));
    }

    /// The device is to be in this state.
    pub fn desire(&self, map: Arc<RawValue>) {
        self.put(|waiting| waiting.desired = Some(map));
    }

    /// Waits for something and takes all of it. Cancel safe. For one reader.
    pub async fn take(&self) -> Waiting {
        loop {
            self.notify.notified().await;
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            if !waiting.is_empty() {
                return std::mem::take(&mut waiting);
            }
        }
    }
}
