//! What the decider is told, and what it answers.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::value::RawValue;

use super::answer::{Fault, State};
use super::authority::Authority;
use super::request::Request;
use crate::reading::{Moment, Reply};

/// The moment, by both clocks.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// For deadlines.
    pub mono: Instant,
    /// For what is told.
    pub moment: Moment,
}

/// A message on a topic of commands.
#[derive(Debug, Clone)]
pub struct Incoming {
    /// As it was published.
    pub topic: Arc<str>,
    /// As it was published.
    pub payload: Bytes,
    /// It stands on the broker, or was published to stand there.
    pub retain: bool,
    /// It may have been delivered before.
    pub dup: bool,
    /// MQTT 5.
    pub response_topic: Option<Arc<str>>,
    /// MQTT 5.
    pub correlation: Option<Bytes>,
    /// MQTT 5: its Message Expiry.
    pub expiry: Option<Duration>,
}

/// A device's `result`.
#[derive(Debug, Clone)]
pub struct Said {
    /// 1 to 64 characters.
    pub id: Arc<str>,
    /// A valid one; `None`: none was given, or it is no name.
    pub name: Option<Arc<str>>,
    /// Whether it worked.
    pub ok: bool,
    /// What it gave, as JSON.
    pub value: Option<Arc<RawValue>>,
    /// The device's own words.
    pub error: Option<Arc<str>>,
    /// Progress: the last one follows.
    pub more: bool,
}

/// What happens.
#[derive(Debug)]
pub enum Event {
    /// A message came from the broker.
    Arrived(Incoming),
    /// The operator asks, and waits for [`Action::Respond`].
    Asked {
        /// Names the request.
        caller: u64,
        /// The device.
        device: Arc<str>,
        /// The command.
        name: Arc<str>,
        /// What is asked.
        request: Request,
    },
    /// The operator does not wait any more.
    Hung {
        /// The request.
        caller: u64,
    },
    /// The registry was read.
    Allowed(Arc<Authority>),
    /// A device can be sent commands, or has said more of itself.
    Online {
        /// Its id.
        device: Arc<str>,
        /// Its connection.
        conn: u64,
        /// It writes down at least one id before it carries a command out.
        remembers: bool,
        /// Bytes of one message that it can take.
        max_message: usize,
    },
    /// A connection has ended.
    Offline {
        /// The device.
        device: Arc<str>,
        /// Which.
        conn: u64,
    },
    /// A device has answered.
    Result {
        /// The device.
        device: Arc<str>,
        /// What it said.
        said: Said,
    },
    /// A final answer is safe.
    Safe {
        /// Of [`Action::Keep`].
        token: u64,
    },
    /// Time has passed.
    Tick,
    /// The hub stops: everything ends now.
    Stop,
}

/// A command on its way to the device.
#[derive(Debug, Clone)]
pub struct Order {
    /// Comes back with the result.
    pub id: Arc<str>,
    /// Which.
    pub name: Arc<str>,
    /// As JSON.
    pub args: Option<Arc<RawValue>>,
    /// How long the device has.
    pub timeout: Duration,
    /// It may have been sent before.
    pub again: bool,
}

/// What became of one command, for the log and the metrics.
#[derive(Debug, Clone)]
pub struct Record {
    /// The device that it was for.
    pub device: Arc<str>,
    /// The command.
    pub name: Arc<str>,
    /// `None`: it could not be read, or none was made for what is refused.
    pub id: Option<Arc<str>>,
    /// The topic that it came by, or `admin`; `device` for a result that nobody asked for.
    pub who: Arc<str>,
    /// A final one.
    pub state: State,
    /// Why, where the hub decided.
    pub fault: Option<Fault>,
    /// How often it was sent.
    pub attempt: u32,
    /// From receipt to the end.
    pub took: Duration,
    /// A result that came after the end.
    pub late: bool,
}

/// What is to be done.
#[derive(Debug)]
pub enum Action {
    /// Send a command.
    Send {
        /// To this device.
        device: Arc<str>,
        /// On this connection.
        conn: u64,
        /// What.
        order: Order,
    },
    /// Tell a device that its result is safe.
    Ack {
        /// The device.
        device: Arc<str>,
        /// On this connection.
        conn: u64,
        /// The command.
        id: Arc<str>,
    },
    /// Make this safe and publish it, like a reading.
    Keep {
        /// To be named in [`Event::Safe`]; `None`: nobody waits for it.
        token: Option<u64>,
        /// The final answer.
        reply: Reply,
    },
    /// Publish this if that is possible now.
    Tell(Reply),
    /// Answer the operator.
    Respond {
        /// The request.
        caller: u64,
        /// How it ended.
        state: State,
        /// The answer, in JSON.
        answer: Vec<u8>,
    },
    /// A command has ended.
    Ended(Record),
}

/// What is counted and said nowhere else.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Messages on topics of commands.
    pub received: u64,
    /// Commands sent to devices, again included.
    pub sent: u64,
    /// Messages that could not even be refused, because no answer has a place to go.
    pub unanswerable: u64,
    /// Refusals and progress that were not told.
    pub untold: u64,
    /// Results that answer nothing, or say again what was said.
    pub stray: u64,
}
