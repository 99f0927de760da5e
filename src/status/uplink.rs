//! The uplink's part of the board.

use std::sync::Mutex;

use serde::{Deserialize, Serialize};

use super::number::{Number, lock};
use crate::clock;

/// State of the connection to the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UplinkState {
    /// Publishing.
    Connected,
    /// Trying.
    Connecting,
    /// Waiting for the next try.
    Down,
}

/// The uplink's part of the board.
#[derive(Debug)]
pub struct UplinkBoard {
    /// State, since which uptime, last error.
    state: Mutex<(UplinkState, f64, Option<String>)>,
    /// Gauge: publishes without PUBACK.
    pub in_flight: Number,
    /// Publishes handed to the network.
    pub published: Number,
    /// PUBACKs that matched one.
    pub acknowledged: Number,
}

impl UplinkBoard {
    pub(super) fn new() -> Self {
        Self {
            state: Mutex::new((UplinkState::Connecting, clock::uptime(), None)),
            in_flight: Number::default(),
            published: Number::default(),
            acknowledged: Number::default(),
        }
    }

    /// Records a change of state. An error stays as `last_error` until the next one.
    pub fn set(&self, state: UplinkState, error: Option<String>) {
        let mut current = lock(&self.state);
        if current.0 != state {
            (current.0, current.1) = (state, clock::uptime());
        }
        if error.is_some() {
            current.2 = error;
        }
    }

    /// The present state.
    #[must_use]
    pub fn state(&self) -> UplinkState {
        lock(&self.state).0
    }

    /// The present state, since when (Unix seconds), and the last error.
    #[must_use]
    pub fn whole(&self) -> (UplinkState, f64, Option<String>) {
        let (state, since, error) = lock(&self.state).clone();
        (state, clock::wall_at(since), error)
    }
}
