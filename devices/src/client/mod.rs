//! A well-behaved device: keeps what is not acked, connects again with patience, resumes where
//! the hub says, stays within the window.

mod backoff;
pub mod connect;
mod converse;
mod link;
mod pump;
mod stats;
pub mod tls;
mod unacked;

#[cfg(test)]
pub mod fake_hub;
#[cfg(test)]
mod tests;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_rustls::rustls::ClientConfig;

pub use backoff::Rng;
pub use link::run;
pub use stats::{Histogram, Stats};

use crate::wire::Encoding;
use crate::wire::senml::Pack;

/// Where readings come from.
pub trait Source: Send {
    /// The next batch, when it is due; `None` when there are no more. Must be cancel safe: a
    /// call that is dropped before it is ready must not lose a batch.
    fn next(&mut self) -> impl Future<Output = Option<Pack>> + Send;
}

/// What to do with a new batch when as many as may be kept are unacked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Full {
    /// Take no more from the source until there is room: for data that waits, like a file.
    Wait,
    /// Give up an older one: for sensors, which go on measuring.
    DropOldest,
    /// Take no more from the source than the hub's window lets go out at once: for load.
    Window,
}

/// How one device behaves.
#[derive(Debug, Clone)]
pub struct Options {
    /// `ws://HOST:PORT` or `wss://HOST:PORT`
    pub hub: String,
    /// Where it goes when that one does not answer, in this order.
    pub others: Vec<String>,
    /// Whom it trusts; `wss://` needs it.
    pub tls: Option<Arc<ClientConfig>>,
    /// The device's id.
    pub id: String,
    /// Its credentials.
    pub token: Option<String>,
    /// What it speaks.
    pub encoding: Encoding,
    /// Unacked batches that are kept at most.
    pub keep: usize,
    /// What happens beyond that.
    pub full: Full,
    /// Tighter than the hub's window, if given.
    pub window: Option<usize>,
    /// Told in `hello`.
    pub model: &'static str,
    /// How long the end waits for acks.
    pub drain: Duration,
    /// Sends no times, and the age of what had to wait.
    pub no_clock: bool,
}

/// How it ended.
#[derive(Debug)]
pub struct Outcome {
    /// The stream of this run.
    pub stream: String,
    /// The highest sequence number up to which the hub has called everything safe; 0: none.
    pub acked: u64,
    /// Sequence numbers that were made and are neither acked nor known to be given up.
    pub unacked: Vec<u64>,
    /// Why it ended before its time, if it did.
    pub fatal: Option<String>,
}

/// Asks clients to end in order. All clones follow the [`Stopper`].
#[derive(Debug, Clone)]
pub struct Stop(watch::Receiver<bool>);

impl Stop {
    /// Returns once it is time to end. Cancel safe.
    pub async fn wait(&mut self) {
        // An error means that the stopper is gone, which ends things just as well.
        let _ = self.0.wait_for(|stop| *stop).await;
    }
}

/// The other end of [`Stop`]. Dropping it stops too.
#[derive(Debug)]
pub struct Stopper(watch::Sender<bool>);

impl Stopper {
    /// A stopper and what it stops.
    #[must_use]
    pub fn new() -> (Self, Stop) {
        let (sender, receiver) = watch::channel(false);
        (Self(sender), Stop(receiver))
    }

    /// Time to end.
    pub fn stop(&self) {
        self.0.send_replace(true);
    }
}
