//! What the uplink needs of an MQTT library, and of chance. `mqtt` is the real one.

use std::future::Future;
use std::sync::Arc;

use bytes::Bytes;

use super::Settings;
use super::failure::Failure;
use super::publication::Publication;

/// What happened on the connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Signal {
    /// The broker has accepted CONNECT.
    Connected,
    /// A publish was written under this packet id.
    Sent(u16),
    /// PUBACK, which accepts.
    Acked(u16),
    /// PUBACK with a reason code of 0x80 or above (MQTT 5 §3.4.2.1): not accepted.
    #[cfg_attr(
        not(test),
        expect(
            dead_code,
            reason = "MQTT 3.1.1 has no such answer; the simulation has"
        )
    )]
    Refused(u16, u8),
    /// SUBACK, and whether the broker agreed.
    Subscribed(bool),
    /// A retained message that was there before the subscription.
    Retained {
        /// Where.
        topic: String,
        /// A few kilobytes at most.
        payload: Bytes,
    },
    /// DISCONNECT was written.
    SaidGoodbye,
}

/// Makes connections.
pub(super) trait Dial {
    /// The writing end of a connection.
    type Link: Link;
    /// Its reading end.
    type Wire: Wire;

    /// Reads the files that the connection needs and prepares it for `capacity` unacknowledged
    /// publishes. The first call of [`Wire::next`] connects.
    fn dial(
        &self,
        settings: &Arc<Settings>,
        will: Publication,
        capacity: u16,
    ) -> impl Future<Output = Result<(Self::Link, Self::Wire), Failure>> + Send;

    /// A random number, for the jitter.
    fn chance(&self) -> u64;
}

/// The writing end. Nothing here waits.
pub(super) trait Link {
    /// Queues a publish with QoS 1. There is room as long as the window is kept, and the topic
    /// is valid: an error is a fault of ours, and ends the connection.
    fn publish(&self, publication: Publication) -> Result<(), Failure>;

    /// Queues a SUBSCRIBE. The library takes its packet id from the same circle as those of
    /// publishes: only one may fall between the oldest unacknowledged publish and the newest, see
    /// `ledger`.
    fn subscribe(&self, filter: &str) -> Result<(), Failure>;

    /// Queues an UNSUBSCRIBE, which takes a packet id like [`Link::subscribe`]; `false`: there is
    /// no room now.
    fn unsubscribe(&self, filter: &str) -> bool;

    /// Queues a DISCONNECT.
    fn disconnect(&self);
}

/// The reading end, which also does the work.
pub(super) trait Wire {
    /// Works until something happened that matters. After an error the connection is over.
    /// Must not be dropped half-way, except together with the wire.
    fn next(&mut self) -> impl Future<Output = Result<Signal, Failure>> + Send;

    /// What was read before the error that ended the connection, in order: acknowledgements that
    /// came just before the end still count.
    fn leftovers(&mut self) -> Vec<Signal>;

    /// The broker's address for people.
    fn broker(&self) -> &str;
}
