//! The intake's outward port: how a session hands batches over and hears what became of them.
//!
//! Two channels lead in: `control` (attach, detach) and `data` (batches). Data is bounded and the
//! intake stops receiving it while its lanes are full, which is the backpressure that reaches the
//! device; control is never held up by that. The way back is a [`Mailbox`] per connection, which
//! merges, so that the intake never waits for a session.

use std::num::NonZeroU64;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{Notify, mpsc, oneshot};

use crate::reading::{Batch, Content, Final};

/// A connection, unique within this run of the hub.
pub type ConnId = u64;

/// A stream that a connection is attached to, unique within this run of the hub.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamId(pub NonZeroU64);

/// Why the hub ends a session for a reason outside of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Close {
    /// A newer connection of the same device: 4001.
    Replaced,
    /// The spool is full and its rule is `refuse`: 1013.
    Refused,
    /// The device's credentials were withdrawn: 4002.
    Revoked,
    /// The hub was full, and the session had said nothing: 1013.
    MadeRoom,
    /// The hub stops: 1001.
    Stopping,
}

/// What waits in a [`Mailbox`].
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Mail {
    /// How many of the batches that this connection handed over are settled: safe, or known
    /// already. They no longer count against the window.
    pub settled: u32,
    /// Every batch of the attached stream up to and including this number is safe, but for the
    /// refused ones. To be told after them.
    pub ack: Option<u64>,
    /// Batches that were not taken, in order. They are among the settled, so that there are never
    /// more of them than the window.
    pub refused: Vec<Refused>,
    /// End the session.
    pub close: Option<Close>,
}

/// A batch whose number has been used for other content, or is below one that was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused {
    /// Its number.
    pub seq: u64,
    /// The highest number that was taken in the stream.
    pub highest: u64,
}

/// News from the hub to one session, merged until the session takes them.
#[derive(Debug, Default)]
pub struct Mailbox {
    mail: Mutex<Mail>,
    notify: Notify,
}

impl Mailbox {
    /// Adds to what the session will read; `ack` replaces an older, lower one.
    pub fn settle(&self, settled: u32, ack: Option<u64>) {
        let mut mail = self.mail.lock().unwrap_or_else(PoisonError::into_inner);
        mail.settled += settled;
        mail.ack = mail.ack.max(ack);
        drop(mail);
        self.notify.notify_one();
    }

    /// A batch is settled by not being taken.
    pub fn refuse(&self, refused: Refused) {
        let mut mail = self.mail.lock().unwrap_or_else(PoisonError::into_inner);
        mail.settled += 1;
        mail.refused.push(refused);
        drop(mail);
        self.notify.notify_one();
    }

    /// Asks the session to end. The first reason stands.
    pub fn close(&self, reason: Close) {
        let mut mail = self.mail.lock().unwrap_or_else(PoisonError::into_inner);
        mail.close.get_or_insert(reason);
        drop(mail);
        self.notify.notify_one();
    }

    /// Waits for mail and takes all of it. Cancel safe. For one reader.
    pub async fn take(&self) -> Mail {
        loop {
            self.notify.notified().await;
            let mail = self.try_take();
            if mail != Mail::default() {
                return mail;
            }
        }
    }

    /// Takes what is there, possibly nothing.
    pub fn try_take(&self) -> Mail {
        std::mem::take(&mut *self.mail.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Answer to [`Control::Attach`].
#[derive(Debug, Clone)]
pub struct Attached {
    /// To be given with every batch.
    pub stream: StreamId,
    /// The stream's name; made up by the hub when the device gave none.
    pub name: Arc<str>,
    /// Whether the hub has heard of the stream before: `welcome.known`.
    pub known: bool,
    /// The highest safe sequence number, 0 for none: `welcome.seq`.
    pub safe: u64,
    /// The highest sequence number that the hub has taken, safe or not; 0 for none.
    pub taken: u64,
}

/// What a session tells the intake beside batches.
#[derive(Debug)]
pub enum Control {
    /// The connection sends in this stream from now on; acks of the stream go to this mailbox.
    Attach {
        /// The connection.
        conn: ConnId,
        /// The device's id.
        device: Arc<str>,
        /// The stream of `hello`; `None`: the device sent none, and a fresh, unnamed stream is
        /// made that ends with the connection.
        stream: Option<Arc<str>>,
        /// Where news for this connection goes.
        mailbox: Arc<Mailbox>,
        /// The answer.
        reply: oneshot::Sender<Attached>,
    },
    /// The connection is gone. What it handed over stays taken.
    Detach {
        /// The connection.
        conn: ConnId,
    },
}

/// A batch on its way in.
#[derive(Debug)]
pub struct Arrival {
    /// The connection that it came over.
    pub conn: ConnId,
    /// The stream that the connection is attached to.
    pub stream: StreamId,
    /// The batch.
    pub batch: Batch,
    /// Bytes that its readings take once they are resolved: what it costs the uplink.
    pub resolved: usize,
    /// What it says.
    pub content: Content,
}

/// The ways of the final answers to commands.
#[derive(Debug)]
pub struct Answers {
    /// On their way in. When every sender is gone there will be no more.
    pub come: mpsc::Receiver<Final>,
    /// The names of those that are safe. At most one for each that came.
    pub safe: mpsc::UnboundedSender<u64>,
}

/// A session's way into the intake. Clones lead to the same intake.
#[derive(Debug, Clone)]
pub struct IntakePort {
    /// Attach and detach.
    pub control: mpsc::Sender<Control>,
    /// Batches; full while the lanes are.
    pub data: mpsc::Sender<Arrival>,
}
