//! The ways into the room of the commands and out of it.

use std::sync::Arc;

use tokio::sync::{mpsc, watch};

use super::authority::Authority;
use super::desired::Desired;
use super::event::{Incoming, Said};
use super::tray::Tray;
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
