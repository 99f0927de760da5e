//! What the uplink needs of an MQTT connection, and of chance. `mqtt` is the real one.

use std::future::Future;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;

use super::Settings;
use super::failure::Failure;
use super::publication::{Head, Publication, Publisher};
use super::route::Target;
use super::terms::{Terms, Verdict, Version};

/// What happened on the connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Signal {
    /// PUBACK: taken.
    Acked(u16),
    /// PUBACK 0x10: taken, and nobody subscribes.
    Unheard(u16),
    /// PUBACK of 0x80 and above: not taken.
    Refused {
        id: u16,
        reason: u8,
        /// The broker's own, possibly empty.
        words: String,
    },
    /// SUBACK; a reason of 0x80 and above: the broker does not agree.
    Subscribed { id: u16, reason: u8 },
    /// A message on one of the hub's subscriptions.
    Message(Message),
    /// A message that was skipped: too large, malformed, or with QoS 2.
    Skipped,
    /// Anything else from the broker, such as PINGRESP.
    Alive,
    /// DISCONNECT was written.
    SaidGoodbye,
}

/// A message from the broker.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Message {
    pub(super) topic: String,
    pub(super) payload: Bytes,
    pub(super) retain: bool,
    pub(super) dup: bool,
    /// Of a message that waits for [`Wire::acknowledge`].
    pub(super) id: Option<u16>,
    /// MQTT 5 only.
    pub(super) response_topic: Option<String>,
    /// MQTT 5 only.
    pub(super) correlation: Option<Bytes>,
    /// Message Expiry Interval in seconds, MQTT 5 only.
    pub(super) expiry: Option<u32>,
}

/// What to subscribe to, and how. What MQTT 3.1.1 cannot say is left out there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Subscription {
    pub(super) filter: String,
    /// QoS 1 instead of 0.
    pub(super) at_least_once: bool,
    /// Which retained messages come at SUBSCRIBE (Retain Handling, MQTT 5 §3.8.3.1).
    pub(super) retained: Retained,
    /// The retain flag stays as it was published (Retain As Published).
    pub(super) as_published: bool,
    /// Bytes of a message; larger ones are skipped and counted.
    pub(super) limit: usize,
}

/// Retain Handling.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Retained {
    /// All of them come.
    Sent,
    /// None does.
    NotSent,
}

/// One attempt to connect.
#[derive(Debug, Clone)]
pub(super) struct Attempt {
    pub(super) target: Target,
    pub(super) version: Version,
    pub(super) will: Option<Publication>,
    /// The session outlives the connection, and messages wait for [`Wire::acknowledge`].
    pub(super) keeps: bool,
}

/// Who connects.
#[derive(Debug, Clone, Copy)]
pub(super) enum Client<'a> {
    /// A hub, whose end is told by its last will.
    Hub(&'a Publisher),
    /// One that only publishes.
    Writer,
    /// One that lets go of a message when it says so, in a session that outlives the connection.
    Reader,
}

/// Why an attempt failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Missed {
    pub(super) failure: Failure,
    /// What it says about the version that was tried.
    pub(super) version: Verdict,
}

/// Makes connections.
pub(super) trait Dial {
    /// A connection.
    type Wire: Wire;

    /// All addresses of a target, in the order in which they are to be tried.
    fn resolve(&self, target: &Target)
    -> impl Future<Output = Result<Vec<Target>, Failure>> + Send;

    /// Reads the files that the connection needs, connects to one address and waits for the
    /// broker's consent.
    fn dial(
        &self,
        settings: &Arc<Settings>,
        attempt: &Attempt,
    ) -> impl Future<Output = Result<Self::Wire, Missed>> + Send;

    /// Whether a broker answers, by TCP and TLS alone: a CONNECT with the client id of the
    /// connection that is there would end it.
    fn knock(&self, settings: &Arc<Settings>, target: &Target)
    -> impl Future<Output = bool> + Send;

    /// A random number, for the jitter.
    fn chance(&self) -> u64;
}

/// A connection. Nothing here waits.
pub(super) trait Wire {
    /// What the broker agreed to.
    fn terms(&self) -> &Terms;

    /// Publishes no packet of so many bytes or more from now on.
    fn limit(&mut self, bytes: usize);

    /// Queues a publish with QoS 1 under this id, its payload written in place by `write`. Tells
    /// how many bytes the packet has. An error is one sentence that says why it can never be
    /// published here; nothing is queued then.
    fn publish(
        &mut self,
        id: u16,
        head: &Head<'_>,
        write: impl FnOnce(&mut Vec<u8>) -> Result<(), String>,
    ) -> Result<usize, String>;

    /// Queues a SUBSCRIBE.
    fn subscribe(&mut self, id: u16, subscription: &Subscription);

    /// Queues an UNSUBSCRIBE.
    fn unsubscribe(&mut self, id: u16, filter: &str);

    /// Queues the PUBACK of a message that waits for it.
    fn acknowledge(&mut self, id: u16);

    /// Queues a PINGREQ, unless one is unanswered.
    fn ping(&mut self);

    /// Queues a DISCONNECT.
    fn disconnect(&mut self);

    /// Writes what is queued and reads. Ready once there are signals to take. After an error the
    /// connection is over. Cancel safe.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>>;

    /// The next signal; also after an error, for what was read before it.
    fn take(&mut self) -> Option<Signal>;

    /// Bytes sent and received since the last call, from CONNECT on.
    fn traffic(&mut self) -> (u64, u64);

    /// The broker's address for people.
    fn broker(&self) -> &str;
}
