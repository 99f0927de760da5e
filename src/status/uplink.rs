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

/// How the connection to the broker is.
#[derive(Debug, Clone, PartialEq)]
pub struct Present {
    /// The state.
    pub state: UplinkState,
    /// Uptime.
    pub since: f64,
    /// Why it is not connected, and the uptime of that.
    pub error: Option<(String, f64)>,
}

/// Whether a broker of MQTT 3.1.1 delivers what it acknowledges: an empty batch must come back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum ProbeState {
    /// MQTT 5 needs none, or there is no connection.
    #[default]
    Off,
    /// The echo is waited for.
    Waiting,
    /// It came.
    Heard,
    /// It did not: the broker throws away what it acknowledges.
    Silent,
    /// The hub may not subscribe to it, so it cannot be known.
    Unknown,
}

/// The uplink's part of the board.
#[derive(Debug)]
pub struct UplinkBoard {
    state: Mutex<Present>,
    /// Gauge: publishes without PUBACK.
    pub in_flight: Number,
    /// Publishes handed to the network.
    pub published: Number,
    /// PUBACKs that matched one.
    pub acknowledged: Number,
    /// Bytes of MQTT to all brokers: what TLS and the network add is not in them.
    pub sent_bytes: Number,
    /// The same from them.
    pub received_bytes: Number,
    /// Publishes of many batches together.
    pub packs: Number,
    /// Those that the broker did not take as they were, and that were sent again in halves.
    pub refused_packs: Number,
    /// Batches and gap records that the broker refused with a reason.
    pub refused: Number,
    /// Statuses that it refused.
    pub refused_statuses: Number,
    /// Gauge: devices whose status it refuses now.
    pub parked_statuses: Number,
    /// Values that it has taken on their own topics.
    pub values: Number,
    /// Values that it refused.
    pub refused_values: Number,
    /// Values that were not shown for lack of room: of too many names, or too long.
    pub dropped_values: Number,
    /// Gauge: 1 while another client seems to have the same client id.
    pub twins: Number,
    /// The broker's address and the version of MQTT spoken with it; the probe.
    broker: Mutex<(Option<(String, &'static str)>, ProbeState)>,
    /// Publishes that it took and that nobody subscribes to.
    pub unheard: Number,
    /// Messages from it that were skipped: unasked, too large, malformed.
    pub skipped: Number,
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
    pub refused_topics: Arc<RefusedBoard>,
}

impl UplinkBoard {
    pub(super) fn new(refused_topics: Arc<RefusedBoard>) -> Self {
        Self {
            state: Mutex::new(Present {
                state: UplinkState::Connecting,
                since: clock::uptime(),
                error: None,
            }),
            in_flight: Number::default(),
            published: Number::default(),
            acknowledged: Number::default(),
            sent_bytes: Number::default(),
            received_bytes: Number::default(),
            packs: Number::default(),
            refused_packs: Number::default(),
            refused: Number::default(),
            refused_statuses: Number::default(),
            parked_statuses: Number::default(),
            values: Number::default(),
            refused_values: Number::default(),
            dropped_values: Number::default(),
            twins: Number::default(),
            broker: Mutex::default(),
            unheard: Number::default(),
            skipped: Number::default(),
            connects: Number::default(),
            connect_failures: Number::default(),
            puback_latency: Histogram::default(),
            gaps: Counts::new(GAPS),
            gap_batches: Counts::new(GAPS),
            refused_topics,
        }
    }

    /// Records a change of state. An error stays until the next one, or until the connection is
    /// there: what is over is no news. The time is that of the connection or of its loss: tries
    /// in between are the same outage.
    pub fn set(&self, state: UplinkState, error: Option<String>) {
        let now = clock::uptime();
        let mut current = lock(&self.state);
        let connected = |state| state == UplinkState::Connected;
        if connected(current.state) != connected(state) {
            current.since = now;
        }
        current.state = state;
        if connected(state) {
            current.error = None;
        } else if let Some(error) = error {
            current.error = Some((error, now));
        }
    }

    /// The broker that is connected to, and the version of MQTT.
    pub fn set_broker(&self, address: &str, version: &'static str) {
        lock(&self.broker).0 = Some((address.to_owned(), version));
    }

    /// The broker of the present or last connection, and the version of MQTT.
    #[must_use]
    pub fn broker(&self) -> Option<(String, &'static str)> {
        lock(&self.broker).0.clone()
    }

    /// Records where the probe is. `true`: nobody has been told so yet.
    pub fn set_probe(&self, state: ProbeState) -> bool {
        // While a new echo is waited for, what was known last still holds.
        let known = [ProbeState::Heard, ProbeState::Silent, ProbeState::Unknown];
        let last = &mut lock(&self.broker).1;
        if state == ProbeState::Waiting && known.contains(last) {
            return false;
        }
        std::mem::replace(last, state) != state
    }

    /// Where the probe is.
    #[must_use]
    pub fn probe(&self) -> ProbeState {
        lock(&self.broker).1
    }

    /// Connections beyond the first.
    #[must_use]
    pub fn reconnects(&self) -> u64 {
        self.connects.get().saturating_sub(1)
    }

    /// The present state.
    #[must_use]
    pub fn state(&self) -> UplinkState {
        lock(&self.state).state
    }

    /// All of it at one moment.
    #[must_use]
    pub fn whole(&self) -> Present {
        lock(&self.state).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_is_as_old_as_the_loss_of_the_connection() {
        let board = UplinkBoard::new(Arc::default());
        let lost = clock::uptime() - 5.0;
        lock(&board.state).since = lost;
        board.set(UplinkState::Down, Some("refused".into()));
        board.set(UplinkState::Connecting, None);
        let present = board.whole();
        assert_eq!(
            (present.state, present.since),
            (UplinkState::Connecting, lost)
        );
        let (error, at) = present.error.unwrap_or_default();
        assert!(error == "refused" && at > lost, "{error} at {at}");
        board.set(UplinkState::Connected, None);
        let connected = board.whole().since;
        assert!(connected > lost);
        board.set(UplinkState::Connected, None);
        assert_eq!(board.whole().since, connected);
    }

    #[test]
    fn an_error_is_over_with_the_next_connection() {
        let board = UplinkBoard::new(Arc::default());
        board.set(UplinkState::Down, Some("refused".into()));
        board.set(UplinkState::Connected, None);
        let present = board.whole();
        assert_eq!(present.error, None);
    }
}
