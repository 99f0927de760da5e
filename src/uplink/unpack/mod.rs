//! `telehub unpack`: the other end of packs. It reads `{prefix}/+/packed` of one broker and publishes
//! what is in them on the usual topics, of the same broker or another.
//!
//! A message is acknowledged once everything in it was PUBACKed; until then the broker keeps it in a
//! session that outlives every connection. So whatever ends, it comes again, and consumers know what
//! they have by its key. After any error both connections are made anew.

mod work;

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};
use tracing::{error, info, warn};

use super::Settings;
use super::backoff::Backoff;
use super::failure::Failure;
use super::ledger::Ledger;
use super::mqtt::Library;
use super::paths::Paths;
use super::publication::{Head, Properties};
use super::reasons::{self, ERRORS};
use super::transport::{Client, Dial, Retained, Signal, Subscription, Wire};
use crate::config::{TopicDots, Uplink};
use crate::packed;
use work::{Bad, Item, Work};

/// Publishes without PUBACK: with more nothing goes faster, see docs/benchmark.md.
const WINDOW: u16 = 100;

/// A broker that answers pings and none of the publishes for so long has lost them.
const PATIENCE: Duration = Duration::from_secs(60);

/// Packet id of the one SUBSCRIBE, above those of publishes.
const SUBSCRIPTION: u16 = 60_000;

/// Where to, and what if not.
#[derive(Debug, Clone)]
pub struct Unpacking {
    /// The broker with the packs, and the prefix of their topics.
    pub from: Uplink,
    /// Where their items go; `None`: to the same broker.
    pub to: Option<Uplink>,
    /// What the broker does not take is given up, not waited for.
    pub skip: bool,
}

/// What was done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Done {
    /// Packs that were read, taken and acknowledged.
    pub packs: u64,
    /// Items that were published and PUBACKed.
    pub items: u64,
    /// Packs that could not be read, or not to their end.
    pub bad: u64,
    /// Items that the broker did not take and that were given up.
    pub skipped: u64,
}

/// Works until `stop` returns.
pub async fn run(unpacking: Unpacking, stop: impl Future<Output = ()>) -> Done {
    let mut stop = pin!(stop);
    let mut done = Done::default();
    let settings = |broker: &Uplink| Arc::new(Settings::new(broker.clone(), "unpack"));
    let from = settings(&unpacking.from);
    let to = unpacking.to.as_ref().map(settings);
    let pace = from.pace;
    let mut backoff = Backoff::new(pace.first_retry, pace.longest_retry);
    let mut given_up = GivenUp::default();
    let mut ways = (Paths::new(&from), to.as_ref().map(|to| Paths::new(to)));
    loop {
        let before = done.items;
        let work = async {
            let (wire, ..) = ways.0.connect(&Library, &from, Client::Reader).await?;
            let other = match (&mut ways.1, &to) {
                (Some(paths), Some(to)) => {
                    let (wire, ..) = paths.connect(&Library, to, Client::Writer).await?;
                    Some(wire)
                }
                _ => None,
            };
            Line::new(wire, other, &unpacking, &mut done, &mut given_up)
                .serve()
                .await
        };
        let failure = tokio::select! {
            end = work => match end {
                Ok(()) => Failure::passing("the connection ended"),
                Err(failure) => failure,
            },
            () = &mut stop => return done,
        };
        if done.items > before {
            backoff.reset();
        }
        let wait = backoff.next(Library.chance());
        let seconds = wait.as_secs_f32();
        warn!(error = %failure.sentence, seconds, "not unpacking; trying again");
        tokio::select! {
            () = sleep(wait) => {}
            () = &mut stop => return done,
        }
    }
}

/// Items that are given up, over all connections: a broker may close its own after each refusal, as
/// mosquitto 2.0 does, and then the rest of the pack has to get past them.
#[derive(Debug, Default)]
struct GivenUp(VecDeque<u64>);

impl GivenUp {
    /// What is remembered. More in one pack would be a broker that refuses everything.
    const MOST: usize = 4_096;

    fn key(item: &Item) -> u64 {
        let mut hasher = DefaultHasher::new();
        (&item.topic, &item.payload).hash(&mut hasher);
        hasher.finish()
    }

    fn has(&self, item: &Item) -> bool {
        !self.0.is_empty() && self.0.contains(&Self::key(item))
    }

    fn add(&mut self, item: &Item) {
        if self.0.len() >= Self::MOST {
            self.0.pop_front();
        }
        self.0.push_back(Self::key(item));
    }
}

/// Both connections, while they last.
struct Line<'a, W> {
    from: W,
    /// `None`: the same.
    to: Option<W>,
    work: Work,
    ledger: Ledger<Item>,
    window: usize,
    filter: String,
    skip: bool,
    done: &'a mut Done,
    given_up: &'a mut GivenUp,
    /// When the other end was last known to take something.
    progress: Instant,
    bad: Vec<Bad>,
    acks: Vec<u16>,
}

impl<'a, W: Wire> Line<'a, W> {
    fn new(
        from: W,
        to: Option<W>,
        unpacking: &Unpacking,
        done: &'a mut Done,
        given_up: &'a mut GivenUp,
    ) -> Self {
        let writer = to.as_ref().unwrap_or(&from);
        let window = writer.terms().window.min(WINDOW);
        let broker = unpacking.to.as_ref().unwrap_or(&unpacking.from);
        Self {
            work: Work::new(packed::MOST, broker.topic_dots == TopicDots::Escape),
            ledger: Ledger::new(window),
            window: window.into(),
            filter: format!("{}/+/{}", unpacking.from.prefix, packed::LEVEL),
            skip: unpacking.skip,
            from,
            to,
            done,
            given_up,
            progress: Instant::now(),
            bad: Vec::new(),
            acks: Vec::new(),
        }
    }

    async fn serve(&mut self) -> Result<(), Failure> {
        let subscription = Subscription {
            filter: self.filter.clone(),
            at_least_once: true,
            // A pack is never retained by a hub.
            retained: Retained::NotSent,
            as_published: false,
            limit: packed::MOST,
        };
        // Before anything is read: what the session has kept comes right behind the CONNACK.
        self.from.subscribe(SUBSCRIPTION, &subscription);
        loop {
            self.feed()?;
            let (from, to) = (&mut self.from, &mut self.to);
            let both = poll_fn(|cx| {
                let first = from.poll(cx);
                let second = to.as_mut().map_or(Poll::Pending, |to| to.poll(cx));
                match (first, second) {
                    (Poll::Ready(Err(failure)), _) | (_, Poll::Ready(Err(failure))) => {
                        Poll::Ready(Err(failure))
                    }
                    (Poll::Pending, Poll::Pending) => Poll::Pending,
                    _ => Poll::Ready(Ok(())),
                }
            });
            let overdue = match self.ledger.is_empty() {
                true => Instant::now() + PATIENCE,
                false => self.progress + PATIENCE,
            };
            tokio::select! {
                polled = both => polled?,
                () = sleep_until(overdue), if !self.ledger.is_empty() => return Err(Failure::silent()),
            }
            while let Some(signal) = self.from.take() {
                self.hear(signal)?;
            }
            while let Some(signal) = self.to.as_mut().and_then(Wire::take) {
                self.hear(signal)?;
            }
        }
    }

    fn writer(&mut self) -> &mut W {
        self.to.as_mut().unwrap_or(&mut self.from)
    }

    /// Publishes what fits, and acknowledges what is done.
    fn feed(&mut self) -> Result<(), Failure> {
        while self.ledger.span() < self.window {
            let Some(item) = self.work.next(&mut self.bad) else {
                break;
            };
            if self.ledger.is_empty() {
                self.progress = Instant::now();
            }
            self.publish(item)?;
        }
        for Bad { topic, why } in std::mem::take(&mut self.bad) {
            self.done.bad += 1;
            error!(
                topic,
                why,
                "a pack cannot be read; it is acknowledged, and what cannot be read of it is lost"
            );
        }
        self.work.finished(&mut self.acks);
        for id in std::mem::take(&mut self.acks) {
            self.done.packs += 1;
            self.from.acknowledge(id);
        }
        Ok(())
    }

    fn publish(&mut self, item: Item) -> Result<(), Failure> {
        if self.given_up.has(&item) {
            self.work.answered(&item, &mut self.acks);
            return Ok(());
        }
        let id = self.ledger.next_id();
        let properties = Properties::default();
        let head = Head {
            topic: [&item.topic, "", "", ""],
            retain: false,
            properties: Some(&properties),
        };
        let written = self.writer().publish(id, &head, |out| {
            out.extend_from_slice(&item.payload);
            Ok(())
        });
        match written {
            Ok(_) => {
                self.ledger.enter(item);
                Ok(())
            }
            Err(why) => self.not_taken(&item, &why),
        }
    }

    fn hear(&mut self, signal: Signal) -> Result<(), Failure> {
        match signal {
            Signal::Message(message) => self.work.received(message),
            Signal::Acked(id) | Signal::Unheard(id) => {
                let item = self.ledger.acked(id)?;
                self.progress = Instant::now();
                self.done.items += 1;
                self.work.answered(&item, &mut self.acks);
            }
            Signal::Refused { id, reason, words } => {
                let item = self.ledger.acked(id)?;
                self.progress = Instant::now();
                let why = reasons::sentence(reason, &words, "");
                self.not_taken(&item, &why)?;
            }
            Signal::Subscribed { reason, .. } if reason >= ERRORS => {
                let (filter, why) = (&self.filter, reasons::sentence(reason, "", ""));
                let sentence = format!("the broker does not let this user read {filter}: {why}");
                return Err(Failure::standing(sentence));
            }
            Signal::Subscribed { .. } => {
                let broker = self.from.broker().to_owned();
                let to = self.writer().broker().to_owned();
                info!(broker, to, filter = self.filter, "unpacking");
            }
            Signal::Skipped => {
                self.done.bad += 1;
                let most = packed::MOST;
                error!(
                    most,
                    "a message was larger than any pack, or none; it is acknowledged and lost"
                );
            }
            Signal::Alive | Signal::SaidGoodbye => {}
        }
        Ok(())
    }

    /// The broker does not take this item.
    fn not_taken(&mut self, item: &Item, why: &str) -> Result<(), Failure> {
        let topic = &item.topic;
        if self.skip {
            self.done.skipped += 1;
            self.given_up.add(item);
            error!(
                topic,
                why, "what is published there is not taken; it is given up (--skip)"
            );
            self.work.answered(item, &mut self.acks);
            return Ok(());
        }
        Err(Failure::standing(format!(
            "what is published to {topic} is not taken: {why}; nothing of its pack is acknowledged and \
             what comes after it waits: mend the broker's rules (ACL) or limits, or give such items up \
             with --skip"
        )))
    }
}
