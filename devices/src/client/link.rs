//! The life of one device: connect, converse, lose the connection, wait, connect again.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_tungstenite::tungstenite::Bytes;

use super::backoff::{Backoff, Rng};
use super::connect::{Refused, connect, request};
use super::unacked::Unacked;
use super::{Full, Options, Outcome, Source, Stats, Stop};
use crate::wire::message;
use crate::wire::senml::Pack;

/// A connection that held this long was of use, even if nothing was acked over it.
const HELD: Duration = Duration::from_secs(20);

/// Before the next of several hubs is tried, on the average: the devices of a hub that has died must not
/// all come to one other in the same moment.
const NEXT_HUB: Duration = Duration::from_millis(500);

/// How a connection ended.
pub enum End {
    /// Nothing left to do, or no time left to do it.
    Done,
    /// Try again.
    Lost,
    /// Trying again would do harm or nothing.
    Fatal(String),
}

/// Runs one device until its source is exhausted and everything is acked, or until `stop` and
/// then at most `options.drain` longer. `gate` bounds how many connect at the same time.
pub async fn run<S: Source>(
    options: Options,
    source: S,
    stats: Arc<Stats>,
    stop: Stop,
    gate: Option<Arc<Semaphore>>,
) -> Outcome {
    let mut rng = Rng::fresh();
    let started = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let stream = format!("{:x}-{:08x}", started.as_secs(), rng.bits() as u32);
    let mut device = Device {
        unacked: Unacked::new(options.keep),
        input: Input {
            source,
            stop,
            deadline: None,
            drain: options.drain,
        },
        max_message: usize::MAX,
        stream,
        stats,
        options,
    };
    let hurry = Rng::seeded(rng.bits());
    let fatal = device.live(Backoff::new(rng), hurry, gate).await;
    Outcome {
        acked: device.unacked.safe(),
        unacked: device.unacked.seqs().collect(),
        stream: device.stream,
        fatal,
    }
}

/// A device with everything that outlives its connections.
pub struct Device<S> {
    /// How it behaves.
    pub options: Options,
    /// What is not safe yet.
    pub unacked: Unacked<Bytes>,
    /// Its own side.
    pub input: Input<S>,
    /// What it counts.
    pub stats: Arc<Stats>,
    /// Its run of sequence numbers.
    pub stream: String,
    /// Of the hub, in bytes; without limit before the first welcome.
    pub max_message: usize,
}

/// What comes from the device's own side.
pub struct Input<S> {
    /// Where batches come from.
    pub source: S,
    stop: Stop,
    /// Set once the source has ended: when to give up waiting for acks.
    pub deadline: Option<Instant>,
    drain: Duration,
}

/// An event of the device's own side.
pub enum Own {
    /// A batch is due.
    Batch(Pack),
    /// There will be no more.
    SourceEnded,
    /// The wait for acks is over.
    TimeUp,
}

impl<S: Source> Input<S> {
    /// The next event. `room`: a batch is welcome. Cancel safe.
    pub async fn next(&mut self, room: bool) -> Own {
        if let Some(deadline) = self.deadline {
            sleep_until(deadline).await;
            return Own::TimeUp;
        }
        tokio::select! {
            () = self.stop.wait() => Own::SourceEnded,
            pack = self.source.next(), if room => match pack {
                Some(pack) => Own::Batch(pack),
                None => Own::SourceEnded,
            },
        }
    }
}

impl<S: Source> Device<S> {
    async fn live(
        &mut self,
        mut backoff: Backoff,
        mut hurry: Rng,
        gate: Option<Arc<Semaphore>>,
    ) -> Option<String> {
        let options = &self.options;
        let hubs = std::iter::once(&options.hub).chain(&options.others);
        let requests = hubs.map(|hub| request(hub, &options.id, options.token.as_deref()));
        let requests: Vec<_> = match requests.collect() {
            Ok(requests) => requests,
            Err(error) => return Some(error),
        };
        // It stays where it is until that hub does not answer, and waits longer only when none of
        // them has.
        let (mut at, mut failures) = (0, 0);
        loop {
            let permit = match &gate {
                None => None,
                Some(gate) => match self.meanwhile(gate.clone().acquire_owned()).await {
                    Some(permit) => permit.ok(),
                    None => return None,
                },
            };
            let attempt = self
                .meanwhile(connect(requests[at].clone(), self.options.tls.clone()))
                .await?;
            let since = Instant::now();
            let mut wish = None;
            match attempt {
                Ok(socket) => {
                    failures = 0;
                    let acked = self.stats.acked.load(Relaxed);
                    let end = self.converse(socket, permit).await;
                    self.unacked.disconnected();
                    match end {
                        End::Done => return None,
                        End::Fatal(text) => return Some(text),
                        End::Lost => {}
                    }
                    if since.elapsed() > HELD || self.stats.acked.load(Relaxed) > acked {
                        backoff.reset();
                    }
                }
                Err(Refused::Never(text)) => return Some(text),
                Err(Refused::Later(retry_after, text)) => {
                    drop(permit);
                    self.stats.failed_connects.fetch_add(1, Relaxed);
                    self.note("connect", &text);
                    (at, failures) = ((at + 1) % requests.len(), failures + 1);
                    if failures % requests.len() != 0 {
                        // A hub that is full or stopping speaks for itself alone.
                        self.meanwhile(sleep(NEXT_HUB.mul_f64(0.5 + hurry.unit())))
                            .await?;
                        continue;
                    }
                    wish = retry_after;
                }
            }
            self.meanwhile(sleep(backoff.next(wish))).await?;
        }
    }

    /// Tells a person, and counts by kind.
    pub fn note(&self, kind: &str, text: &str) {
        self.stats
            .note(kind, format!("{}: {text}", self.options.id));
    }

    /// Waits for something while the source goes on. `None`: there is nothing left to wait for.
    async fn meanwhile<T>(&mut self, wait: impl Future<Output = T>) -> Option<T> {
        let mut wait = pin!(wait);
        loop {
            if self.finished() {
                return None;
            }
            let room = match self.options.full {
                Full::Wait => !self.unacked.is_full(),
                Full::DropOldest => true,
                Full::Window => false,
            };
            tokio::select! {
                result = &mut wait => return Some(result),
                own = self.input.next(room) => self.own(own)?,
            }
        }
    }

    /// Nothing left to send or to wait for.
    pub fn finished(&self) -> bool {
        self.input.deadline.is_some() && self.unacked.is_empty()
    }

    /// Deals with an event of the own side. `None`: time is up.
    pub fn own(&mut self, own: Own) -> Option<()> {
        match own {
            Own::Batch(pack) => self.take(&pack),
            Own::SourceEnded => self.input.deadline = Some(Instant::now() + self.input.drain),
            Own::TimeUp => return None,
        }
        Some(())
    }

    /// Numbers, encodes and keeps a batch.
    pub fn take(&mut self, pack: &Pack) {
        let (encoding, seq) = (self.options.encoding, self.unacked.next_seq());
        let frame = if self.options.no_clock {
            let mut pack = pack.clone();
            pack.base_time = None;
            message::data(encoding, seq, &pack)
        } else {
            message::data(encoding, seq, pack)
        };
        let readings = u32::try_from(pack.records.len()).unwrap_or(u32::MAX);
        self.stats.made.fetch_add(1, Relaxed);
        let made = std::time::Instant::now();
        if let Some(old) = self.unacked.push(readings, made, frame.into()) {
            self.stats.dropped.fetch_add(1, Relaxed);
            let text = format!(
                "batch {} given up: as many as may be kept are unacked",
                old.seq
            );
            self.note("given up", &text);
        }
    }

    /// Whether a connected device takes another batch from its source.
    pub fn room(&self) -> bool {
        match self.options.full {
            Full::Wait => !self.unacked.is_full(),
            Full::DropOldest => true,
            Full::Window => self.unacked.has_room_in_window() && !self.unacked.is_full(),
        }
    }
}
