//! The uplink: publishes to the broker and says exactly which publish was acknowledged.
//!
//! The uplink keeps nothing across connections: when one ends, everything that it had not
//! acknowledged is the intake's again.
//!
//! One publish on its way: the intake sends a [`Submission`] → the `ledger` gives it a packet id →
//! `publication` makes topic and payload in the wire's output buffer → one write takes it along
//! with others → the broker's PUBACK names the id → the ledger names the record → the intake gets
//! [`Event::Acked`], or [`Event::Refused`] with the reason.
//!
//! After any error the connection is thrown away and made anew, with a clean session and the next
//! epoch.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use crate::commands::port::UplinkWays;
use crate::config;
use crate::pulse::Pulse;
use crate::reading::{Item, Lane};
use crate::reduce::Rules;
use crate::status::board::Board;
use crate::status::presence::Outbox;
use crate::stop::Stop;

mod backoff;
mod blame;
mod connection;
mod credentials;
mod event_queue;
pub mod examine;
mod failure;
mod homeassistant;
mod ledger;
mod lifecycle;
mod mqtt;
mod packer;
mod parked;
mod paths;
mod ports;
mod publication;
mod reasons;
mod retained_states;
mod route;
#[cfg(test)]
pub(crate) mod simulated;
mod terms;
mod topic;
mod transport;
mod twins;
pub mod unpack;
mod values;

/// Runs the uplink until `submissions` is closed and the last words are said.
///
/// `reconnect` holds the last epoch that the intake has given up on: a connection of this epoch
/// or an earlier one is dropped, because its broker answers but acknowledges nothing.
///
/// While `submissions` is open a connection is kept and served even after `stop` is requested;
/// a stop only means that no further connection is tried. Once `submissions` is closed, the
/// states in the outbox are published, then the hub's own `offline`, then DISCONNECT follows,
/// all within [`Pace::farewell`].
///
/// `commands`: where commands for devices go, and their answers come from; `None`: there are none.
#[expect(
    clippy::too_many_arguments,
    reason = "each is an end of one of its ways"
)]
pub async fn run(
    settings: Settings,
    submissions: mpsc::Receiver<Submission>,
    outbox: Arc<Outbox>,
    events: mpsc::Sender<Event>,
    board: Arc<Board>,
    reconnect: watch::Receiver<u64>,
    stop: Stop,
    commands: Option<UplinkWays>,
) {
    lifecycle::run(
        mqtt::Library,
        settings,
        submissions,
        outbox,
        events,
        board,
        reconnect,
        stop,
        commands,
    )
    .await;
}

/// What the uplink has to know.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `[uplink]`
    pub broker: config::Uplink,
    /// `[values]`
    pub values: config::Values,
    /// `[[reduce]]`: how seldom values may come.
    pub rules: Rules,
    /// `[homeassistant]`
    pub homeassistant: config::HomeAssistant,
    /// The hub's id, a topic level.
    pub hub: String,
    /// The hub's version, for its status.
    pub version: String,
    /// Batches that a device may have unacked: with so many in a pack it waits for no more.
    pub device_window: usize,
    /// How long things take.
    pub pace: Pace,
    /// Answers the watchdog.
    pub pulse: Pulse,
}

impl Settings {
    /// The hub of this id, at this version of the program.
    #[must_use]
    pub fn new(broker: config::Uplink, hub: &str) -> Self {
        Self {
            broker,
            values: config::Values::default(),
            rules: Rules::default(),
            homeassistant: config::HomeAssistant::default(),
            hub: hub.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            device_window: usize::MAX,
            pace: Pace::default(),
            pulse: Pulse::default(),
        }
    }
}

/// How many submissions may be unanswered at a time: as many as publishes, and with packs as many as
/// fit into some of these, since they answer for all that is in them.
#[must_use]
pub fn window(broker: &config::Uplink) -> usize {
    /// No payload is smaller, in no format.
    const SMALLEST: usize = 32;
    usize::from(broker.inflight) + broker.pack / SMALLEST
}

/// How long the uplink waits for what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// Wait after the first failure; doubles with each further one.
    pub first_retry: Duration,
    /// No wait is longer.
    pub longest_retry: Duration,
    /// A connection that lived this long was a good one, even if it acknowledged nothing.
    pub settled: Duration,
    /// From the first packet to the broker's answer to CONNECT, TLS included, and for one write
    /// to be taken by the network. Whole seconds, at least 1.
    pub patience: Duration,
    /// For the last states and the DISCONNECT once the submissions have ended.
    pub farewell: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            // Short enough not to be noticed after a broker's restart, long enough for it to open
            // its socket.
            first_retry: Duration::from_secs(1),
            // A link that comes back is used within a minute.
            longest_retry: Duration::from_secs(60),
            // Ten times the first wait: a broker that drops everyone after a moment is met less
            // and less often.
            settled: Duration::from_secs(10),
            // A TLS handshake takes three round trips; on a bad GPRS link that is 5 s.
            patience: Duration::from_secs(15),
            // Stopping the whole hub is bounded by 10 s.
            farewell: Duration::from_secs(3),
        }
    }
}

/// One publish that the intake asks for.
#[derive(Debug)]
pub struct Submission {
    /// The connection that it is meant for, as told by [`Event::Up`]. A submission for a
    /// connection that has ended is dropped without an answer.
    pub epoch: u64,
    /// The intake's name for it.
    pub token: u64,
    /// Decides the topic.
    pub lane: Lane,
    /// What to publish.
    pub item: Arc<Item>,
}

/// What the uplink tells the intake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Connected: submissions for this epoch are taken, at most `inflight` counted from the
    /// oldest unacknowledged one.
    Up {
        /// Grows with every connection.
        epoch: u64,
    },
    /// The connection ended, or could not be made. Nothing that was submitted for this epoch
    /// will be acknowledged any more.
    Down {
        /// The epoch that ended; the last one again when a connect failed.
        epoch: u64,
        /// One sentence for the log and the status.
        error: String,
        /// The broker closed an established connection, as opposed to a network that went away.
        hung_up: bool,
    },
    /// The broker has acknowledged this publish (PUBACK).
    Acked {
        /// Of the submission.
        epoch: u64,
        /// Of the submission.
        token: u64,
    },
    /// The broker refuses this publish, which it has therefore not taken. Comes before the
    /// [`Event::Down`] of its connection where it was proven by a hang-up.
    Refused {
        /// Of the submission.
        epoch: u64,
        /// Of the submission.
        token: u64,
        /// How it said so.
        refusal: Refusal,
    },
    /// This item cannot be published at all: it does not decode, or is larger than any broker
    /// takes. The connection is unharmed.
    Unpublishable {
        /// Of the submission.
        epoch: u64,
        /// Of the submission.
        token: u64,
        /// One sentence.
        error: String,
    },
}

/// How the broker refused a publish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// What shows it.
    pub cause: Cause,
    /// One sentence for people: the topic, the reason in words, what to do.
    pub detail: String,
}

/// What shows that a publish was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cause {
    /// The reason code of a PUBACK, 0x80 or above (MQTT 5 §3.4.2.1). It costs nobody else
    /// anything.
    Reason(u8),
    /// The broker hangs up on it and on nothing else: proven by hang-ups while it was alone on
    /// the wire. Each attempt costs everybody a reconnect.
    HungUp,
}

impl Cause {
    /// The packet is larger than the broker takes.
    pub const TOO_LARGE: Self = Self::Reason(reasons::PACKET_TOO_LARGE);

    /// Whether it is the topic that is refused, whatever is published there. By any other reason
    /// it may be the payload.
    #[must_use]
    pub fn is_of_topic(self) -> bool {
        matches!(
            self,
            Self::Reason(
                reasons::NOT_AUTHORIZED | reasons::TOPIC_NAME_INVALID | reasons::QUOTA_EXCEEDED
            )
        )
    }
}
