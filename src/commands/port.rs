//! The ways into the room of the commands and out of it.

use std::sync::{Arc, Mutex, PoisonError};

use serde_json::value::RawValue;
use tokio::sync::{Notify, mpsc, watch};

use super::authority::Authority;
use super::desired::Desired;
use super::event::{Incoming, Order, Said};
use crate::reading::Reply;

/// Events of sessions on their way in. A session that finds it full stops reading its device.
pub const FROM_SESSIONS: usize = 128;

/// Messages of the broker on their way in. What finds it full is counted and not answered; the
/// room takes them in one go whenever it runs.
pub const FROM_BROKER: usize = 256;

/// Replies on their way out that are not final.
pub const REPLIES: usize = 64;

/// Final answers on their way to the intake, which takes them as it takes batches. What finds it
/// full waits in the room.
pub const FINALS: usize = 64;

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

/// What a session tells.
#[derive(Debug)]
pub enum FromSession {
    /// The device can be sent commands, or has said more of itself.
    Online {
        /// Its id.
        device: Arc<str>,
        /// Its connection.
        conn: u64,
        /// It writes down at least one id before it carries a command out.
        remembers: bool,
        /// Bytes of one message that it can take.
        max_message: usize,
        /// Where its commands go.
        tray: Arc<Tray>,
    },
    /// The connection has ended.
    Offline {
        /// The device.
        device: Arc<str>,
        /// Which.
        conn: u64,
    },
    /// The device has answered.
    Result {
        /// The device.
        device: Arc<str>,
        /// What it said.
        said: Said,
    },
}

/// A session's way into the room.
pub type CommandPort = mpsc::Sender<FromSession>;

/// What the uplink tells of its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum News {
    /// There is one.
    Up,
    /// There is none any more.
    Down,
}

/// The uplink's ends of the ways.
#[derive(Debug)]
pub struct UplinkWays {
    /// Messages on topics of commands.
    pub incoming: mpsc::Sender<Incoming>,
    /// What is published if there is a connection, and that is all: refusals, `accepted` and
    /// progress. Closed when the last has been said.
    pub replies: mpsc::Receiver<Reply>,
    /// Two for each connection.
    pub news: mpsc::UnboundedSender<News>,
    /// Desired and reported states.
    pub desired: Arc<Desired>,
    /// What devices may be asked, for those who are to be offered it.
    pub authority: watch::Receiver<Arc<Authority>>,
    /// Bytes of a command; the uplink skips what is far beyond.
    pub max_size: usize,
}
