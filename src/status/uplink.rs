//! The uplink's part of the board.

use std::sync::{Arc, Mutex};

use serde::{Deserialize, Serialize};

use super::counts::{Counts, GAPS};
use super::histogram::Histogram;
use super::number::{Number, lock};
use super::refused::RefusedBoard;
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
    /// Connections that the broker agreed to.
    pub connects: Number,
    /// Tries that came to nothing.
    pub connect_failures: Number,
    /// From a batch's way to the network to its PUBACK.
    pub puback_latency: Histogram,
    /// Gap records that were published and acknowledged, by reason.
    pub gaps: Counts<{ GAPS.len() }>,
    /// Batches that these tell of.
    pub gap_batches: Counts<{ GAPS.len() }>,
    /// What the broker refuses.
    pub refused: Arc<RefusedBoard>,
}

impl UplinkBoard {
    pub(super) fn new(refused: Arc<RefusedBoard>) -> Self {
        Self {
            state: Mutex::new((UplinkState::Connecting, clock::uptime(), None)),
            in_flight: Number::default(),
            published: Number::default(),
            acknowledged: Number::default(),
            connects: Number::default(),
            connect_failures: Number::default(),
            puback_latency: Histogram::default(),
            gaps: Counts::new(GAPS),
            gap_batches: Counts::new(GAPS),
            refused,
        }
    }

    /// Records a change of state. An error stays as `last_error` until the next one. The time is
    /// that of the connection or of its loss: tries in between are the same outage.
    pub fn set(&self, state: UplinkState, error: Option<String>) {
        let mut current = lock(&self.state);
        let connected = |state| state == UplinkState::Connected;
        if connected(current.0) != connected(state) {
            current.1 = clock::uptime();
        }
        current.0 = state;
        if error.is_some() {
            current.2 = error;
        }
    }

    /// Connections beyond the first.
    #[must_use]
    pub fn reconnects(&self) -> u64 {
        self.connects.get().saturating_sub(1)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_is_as_old_as_the_loss_of_the_connection() {
        let board = UplinkBoard::new(Arc::default());
        let lost = clock::uptime() - 5.0;
        lock(&board.state).1 = lost;
        board.set(UplinkState::Down, Some("refused".into()));
        board.set(UplinkState::Connecting, None);
        assert_eq!(
            board.whole(),
            (
                UplinkState::Connecting,
                clock::wall_at(lost),
                Some("refused".into())
            )
        );
        board.set(UplinkState::Connected, None);
        let (_, connected, _) = board.whole();
        assert!(connected > clock::wall_at(lost));
        board.set(UplinkState::Connected, None);
        assert_eq!(board.whole().1, connected);
    }
}
