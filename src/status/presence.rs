//! Who is online, as the broker's retained `…/{device}/status` topics say it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;
use tokio::sync::Notify;

/// The state of one device: payload of `{prefix}/{hub}/{device}/status`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Presence {
    /// `online` or `offline`.
    pub state: &'static str,
    /// Since when: Unix seconds.
    pub since: f64,
    /// Why, for example `connected`, `ping timeout`, `closed`, `replaced`, `hub stopping`.
    pub reason: String,
    /// From `hello`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// From `hello`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub firmware: Option<String>,
}

/// Device states that are remembered for the broker. An offline device beyond this number is
/// forgotten once its state has been published. 16,384 entries are about 3 MB.
pub const REMEMBERED: usize = 16_384;

#[derive(Debug, Default)]
struct State {
    devices: HashMap<Arc<str>, (Presence, bool)>,
    dirty: Vec<Arc<str>>,
}

/// The latest state of every device, and which of them the broker has not been told.
/// States overwrite each other, so that a long outage costs no more than one entry a device.
#[derive(Debug, Default)]
pub struct Outbox {
    state: Mutex<State>,
    notify: Notify,
}

impl Outbox {
    /// Records a device's new state and wakes the uplink.
    pub fn put(&self, device: &Arc<str>, presence: Presence) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.devices.len() >= REMEMBERED && !state.devices.contains_key(device) {
            state
                .devices
                .retain(|_, (presence, dirty)| *dirty || presence.state == "online");
        }
        let was_dirty = state
            .devices
            .insert(device.clone(), (presence, true))
            .is_some_and(|(_, dirty)| dirty);
        if !was_dirty {
            state.dirty.push(device.clone());
        }
        drop(state);
        self.notify.notify_one();
    }

    /// Marks every remembered state as untold: a broker that is new has to hear all of them.
    pub fn retell(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let state = &mut *state;
        state.dirty.clear();
        for (device, (_, dirty)) in &mut state.devices {
            *dirty = true;
            state.dirty.push(device.clone());
        }
        self.notify.notify_one();
    }

    /// Takes one state that the broker has not been told, if there is any.
    pub fn try_next(&self) -> Option<(Arc<str>, Presence)> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let device = state.dirty.pop()?;
        let (presence, dirty) = state.devices.get_mut(&device)?;
        *dirty = false;
        Some((device, presence.clone()))
    }

    /// Waits until a state may be there to take. Cancel safe; for one reader.
    pub async fn changed(&self) {
        self.notify.notified().await;
    }
}
