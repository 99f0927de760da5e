//! One connection's life, from the broker's consent to the end: what is taken when, and what
//! becomes of it. This task alone owns the client, the event loop and the ledger.

use std::collections::VecDeque;
use std::pin::pin;

use tokio::sync::mpsc::error::TryRecvError;
use tokio::time::{Duration, Instant, sleep_until};
use tracing::{debug, info};

use super::door::{Link, Signal, Wire};
use super::failure::Failure;
use super::ledger::{Breach, Ledger};
use super::life::Ports;
use super::publication::{Publication, Publisher};
use super::{Cause, Event, Refusal, Settings, Submission, stale};
use crate::clock;
use crate::reading::{GapReason, Item, Moment};
use crate::status::board::UplinkState;

/// Device states that may be unacknowledged at a time. More would hurry nobody and crowd out
/// data when thousands of states have to be told to a new broker.
const STATUSES: u16 = 8;

/// Bytes of data payloads that may be unacknowledged when one more is taken. Ordinary batches
/// never reach it, and no link needs more in flight to be busy. Without it a window of packs that
/// resolve to a megabyte each would take a hundred of them, some of it twice.
const OUT_BYTES: usize = 8 << 20;

/// A time that does not come.
const NEVER: Duration = Duration::from_secs(365 * 24 * 3600);

/// Device states beside a data window of this size: a quarter of it, at least one.
fn status_window(inflight: u16) -> u16 {
    (inflight / 4).clamp(1, STATUSES)
}

/// Publishes of every kind that may be out, counted from the oldest unacknowledged one.
pub(super) fn capacity(inflight: u16) -> u16 {
    inflight.saturating_add(status_window(inflight))
}

/// A submission that is out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Data {
    token: u64,
    /// Of its payload.
    bytes: usize,
    since: Instant,
    /// It is a gap record: why, and of how many batches.
    gap: Option<(GapReason, u64)>,
}

/// What a publish was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Record {
    /// A submission.
    Data(Data),
    /// A device's state.
    Device,
    /// The hub's `online`.
    Hub,
    /// The hub's `offline`.
    Farewell,
}

/// Where a connection is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Submissions are taken.
    Serving,
    /// There are no more; the last states go out and everything out is waited for.
    Flushing,
    /// `offline` is out, or DISCONNECT is.
    Leaving,
}

/// How a connection ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum End {
    /// In order, or at its deadline.
    Finished,
    /// By an error. `good`: it had lived a while or acknowledged data.
    Lost {
        /// Why.
        failure: Failure,
        /// It is worth connecting again soon.
        good: bool,
    },
}

impl From<Breach> for Failure {
    fn from(breach: Breach) -> Self {
        Self::passing(breach.to_string())
    }
}

struct Connection<'a, L> {
    ports: &'a mut Ports,
    publisher: &'a Publisher,
    link: L,
    epoch: u64,
    /// When the broker consented.
    since: Moment,
    /// Submissions that have been received but do not fit into the window yet: states may be in
    /// the way. They are received all the same, so that the closing behind them is seen.
    held: VecDeque<Submission>,
    ledger: Ledger<Record>,
    inflight: usize,
    capacity: usize,
    status_window: usize,
    /// Bytes of data payloads that are out.
    out_bytes: usize,
    /// Device states that are out.
    statuses: usize,
    /// The outbox may hold something.
    untold: bool,
    /// The hub's own state has to be said again.
    untold_hub: bool,
    /// While the devices' states are subscribed to: when the last of them will have come, once
    /// the first sign of the broker has.
    stale: Option<Option<Instant>>,
    phase: Phase,
    acked_data: bool,
}

/// Serves until the end. Announces [`Event::Up`]; [`Event::Down`] is the caller's.
pub(super) async fn serve<L: Link, W: Wire>(
    ports: &mut Ports,
    settings: &Settings,
    publisher: &Publisher,
    link: L,
    mut wire: W,
    epoch: u64,
) -> End {
    let began = Instant::now();
    let inflight = settings.broker.inflight;
    let capacity = capacity(inflight);
    let mut connection = Connection {
        ports,
        publisher,
        link,
        epoch,
        since: clock::now(),
        held: VecDeque::new(),
        ledger: Ledger::new(capacity),
        inflight: usize::from(inflight),
        capacity: usize::from(capacity),
        status_window: usize::from(status_window(inflight)),
        out_bytes: 0,
        statuses: 0,
        untold: true,
        untold_hub: false,
        stale: None,
        phase: Phase::Serving,
        acked_data: false,
    };
    let result = connection.serve(&mut wire, settings.pace.farewell).await;
    let end = match result {
        Ok(()) => End::Finished,
        Err(_) if connection.phase == Phase::Leaving => End::Finished,
        Err(failure) => {
            for signal in wire.leftovers() {
                if connection.apply(signal).is_err() {
                    break;
                }
            }
            let good = connection.acked_data || began.elapsed() >= settings.pace.settled;
            End::Lost { failure, good }
        }
    };
    connection.ports.board.uplink.in_flight.set(0);
    end
}

impl<L: Link> Connection<'_, L> {
    /// `Ok`: the farewell's deadline has come. An error while leaving is the end that was sought.
    async fn serve(&mut self, wire: &mut impl Wire, farewell: Duration) -> Result<(), Failure> {
        self.greet()?;
        let mut deadline = pin!(sleep_until(Instant::now() + NEVER));
        // Half of the time is for what is out and for the devices' states, the rest for the
        // hub's own.
        let mut halfway = pin!(sleep_until(Instant::now() + NEVER));
        let mut closing = false;
        loop {
            // Never dropped half-way: see `mqtt`.
            let mut next = pin!(wire.next());
            let signal = loop {
                self.feed()?;
                let serving = self.phase == Phase::Serving;
                if !serving && !closing {
                    closing = true;
                    deadline.as_mut().reset(Instant::now() + farewell);
                    halfway.as_mut().reset(Instant::now() + farewell / 2);
                }
                tokio::select! {
                    signal = &mut next => break signal?,
                    submission = self.ports.submissions.recv(), if serving && self.held.len() < self.inflight => {
                        self.receive(submission);
                    }
                    () = self.ports.outlet.hand_over(), if self.ports.outlet.waiting() > 0 => {}
                    () = self.ports.outbox.changed(), if !self.untold => self.untold = true,
                    () = reached(self.stale.flatten()) => self.end_stale(),
                    () = set(&mut self.ports.clock) => self.tell_times(),
                    failure = given_up(&mut self.ports.reconnect, self.epoch) => return Err(failure),
                    () = self.ports.pulse.asked() => self.ports.pulse.answer().await,
                    () = &mut halfway, if self.phase == Phase::Flushing => self.say_offline()?,
                    () = &mut deadline, if !serving => return Ok(()),
                }
            };
            self.apply(signal)?;
        }
    }

    /// The first things on a new connection.
    fn greet(&mut self) -> Result<(), Failure> {
        self.ports.show(UplinkState::Connected, None);
        self.ports.outlet.push(Event::Up { epoch: self.epoch });
        self.ports.outbox.retell();
        // Before any publish: see `Link::subscribe`.
        if self.ports.stale_attempts > 0 {
            self.ports.stale_attempts -= 1;
            self.link.subscribe(&self.publisher.status_filter())?;
            self.stale = Some(None);
        }
        self.ports.clock.mark_unchanged();
        self.say_online()
    }

    fn say_online(&mut self) -> Result<(), Failure> {
        let online = self.publisher.hub_status("online", self.since);
        self.publish(online, Record::Hub)
    }

    /// The clock was set: what the broker has been told of times is told anew.
    fn tell_times(&mut self) {
        self.ports.outbox.retell();
        self.untold = true;
        self.untold_hub = true;
    }

    /// Keeps a submission of this connection until it fits; `None`: there are no more.
    fn receive(&mut self, submission: Option<Submission>) {
        match submission {
            Some(submission) if submission.epoch == self.epoch => self.held.push_back(submission),
            Some(_) => {}
            None => self.begin_to_flush(),
        }
    }

    /// No more submissions. The last states of the devices were put into the outbox before, so
    /// it is looked at once more, whether or not its change has been noticed, and what was held
    /// back goes out now.
    fn begin_to_flush(&mut self) {
        self.phase = Phase::Flushing;
        self.untold = true;
    }

    /// Hands over to the library whatever is there and fits: data first, then device states.
    fn feed(&mut self) -> Result<(), Failure> {
        while self.phase != Phase::Leaving
            && self.ledger.span() + self.ports.outlet.waiting() < self.inflight
            && self.out_bytes < OUT_BYTES
        {
            let submission = match self.held.pop_front() {
                Some(submission) => submission,
                None if self.phase != Phase::Serving => break,
                None => match self.ports.submissions.try_recv() {
                    Ok(submission) => submission,
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => {
                        self.begin_to_flush();
                        break;
                    }
                },
            };
            self.take(&submission)?;
        }
        if self.untold_hub && self.phase == Phase::Serving && self.ledger.span() < self.capacity {
            self.untold_hub = false;
            self.say_online()?;
        }
        while self.untold
            && self.phase != Phase::Leaving
            && self.statuses < self.status_window
            && self.ledger.span() < self.capacity
        {
            // On the way out there is no later.
            let next = match self.phase {
                Phase::Serving => self.ports.outbox.try_next(),
                _ => self.ports.outbox.try_last(),
            };
            let Some((device, presence)) = next else {
                self.untold = false;
                break;
            };
            let status = self.publisher.device_status(&device, &presence);
            self.publish(status, Record::Device)?;
            self.statuses += 1;
        }
        let all_said = self.held.is_empty() && !self.untold && self.ledger.is_empty();
        if self.phase == Phase::Flushing && all_said {
            self.say_offline()?;
        }
        Ok(())
    }

    fn take(&mut self, submission: &Submission) -> Result<(), Failure> {
        let &Submission { epoch, token, .. } = submission;
        if epoch != self.epoch {
            return Ok(());
        }
        match self.publisher.item(&submission.item, submission.lane) {
            Ok(publication) => {
                let bytes = publication.payload.len();
                self.out_bytes += bytes;
                let data = Data {
                    token,
                    bytes,
                    since: Instant::now(),
                    gap: match &*submission.item {
                        Item::Batch(_) => None,
                        Item::Gap(gap) => Some((gap.reason, gap.batches)),
                    },
                };
                self.publish(publication, Record::Data(data))
            }
            Err(error) => {
                self.ports.outlet.push(Event::Unpublishable {
                    epoch,
                    token,
                    error,
                });
                Ok(())
            }
        }
    }

    fn publish(&mut self, publication: Publication, record: Record) -> Result<(), Failure> {
        self.link.publish(publication)?;
        self.ledger.submit(record);
        Ok(())
    }

    /// What the wire tells changes the ledger, and nothing else does.
    fn apply(&mut self, signal: Signal) -> Result<(), Failure> {
        match signal {
            Signal::Connected | Signal::SaidGoodbye => {}
            Signal::Subscribed(agreed) => {
                if !agreed {
                    debug!("the broker does not let the hub read its devices' states");
                }
                self.put_off_stale();
            }
            Signal::Retained { topic, payload } => {
                self.retained(&topic, &payload);
                self.put_off_stale();
            }
            Signal::Sent(id) => {
                self.ledger.sent(id)?;
                self.ports.board.uplink.published.add(1);
            }
            Signal::Acked(id) => {
                let record = self.ledger.acked(id)?;
                self.ports.board.uplink.acknowledged.add(1);
                match record {
                    Record::Data(data) => {
                        let token = data.token;
                        self.out_bytes = self.out_bytes.saturating_sub(data.bytes);
                        self.acked_data = true;
                        self.count(&data);
                        let epoch = self.epoch;
                        self.ports.outlet.push(Event::Acked { epoch, token });
                    }
                    Record::Device => self.statuses -= 1,
                    Record::Hub => {}
                    Record::Farewell => self.link.disconnect(),
                }
            }
            Signal::Refused(id, code) => match self.ledger.acked(id)? {
                Record::Data(data) => {
                    self.out_bytes = self.out_bytes.saturating_sub(data.bytes);
                    self.ports.outlet.push(Event::Refused {
                        epoch: self.epoch,
                        token: data.token,
                        refusal: Refusal {
                            cause: Cause::Reason(code),
                            detail: format!("the broker refuses it with reason code 0x{code:02x}"),
                        },
                    });
                }
                Record::Device => self.statuses -= 1,
                Record::Hub => {}
                Record::Farewell => self.link.disconnect(),
            },
        }
        let in_flight = self.ledger.len() as u64;
        self.ports.board.uplink.in_flight.set(in_flight);
        Ok(())
    }

    /// The broker has acknowledged it.
    fn count(&self, data: &Data) {
        let board = &self.ports.board.uplink;
        board.puback_latency.observe(data.since.elapsed(), 1);
        if let Some((reason, batches)) = data.gap {
            let reason = reason.as_str();
            board.gaps.add(reason, 1);
            board.gap_batches.add(reason, batches);
        }
    }

    /// A state that the broker had before this connection.
    fn retained(&mut self, topic: &str, payload: &[u8]) {
        let Some(device) = self.publisher.device_of(topic) else {
            return;
        };
        if let Some(correction) = stale::correction(payload)
            && self.ports.outbox.put_unknown(device, correction)
        {
            info!(device, "was online when an earlier run of the hub ended");
        }
    }

    fn put_off_stale(&mut self) {
        if let Some(quiet) = &mut self.stale {
            *quiet = Some(Instant::now() + stale::QUIET);
        }
    }

    fn end_stale(&mut self) {
        // Without room now the states stay subscribed to, which costs their echo and nothing else.
        self.link.unsubscribe(&self.publisher.status_filter());
        self.stale = None;
        self.ports.stale_attempts = 0;
    }

    /// The hub's last words. Its PUBACK is followed by DISCONNECT, and that by the broker's
    /// closing of the connection.
    fn say_offline(&mut self) -> Result<(), Failure> {
        self.phase = Phase::Leaving;
        if self.ledger.span() >= self.capacity {
            // A broker that acknowledges nothing: the last will says it.
            return Err(Failure::passing("no room for the last words"));
        }
        let offline = self.publisher.hub_status("offline", clock::now());
        self.publish(offline, Record::Farewell)
    }
}

/// Returns at this time, if there is one.
async fn reached(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// Returns when the clock has been set. Cancel safe.
async fn set(clock: &mut tokio::sync::watch::Receiver<u64>) {
    if clock.changed().await.is_err() {
        std::future::pending().await
    }
}

/// Returns once the intake has given up on this connection. Cancel safe.
async fn given_up(reconnect: &mut tokio::sync::watch::Receiver<u64>, epoch: u64) -> Failure {
    let asked = reconnect
        .wait_for(|given_up| *given_up >= epoch)
        .await
        .is_ok();
    if asked {
        return Failure::passing("the broker answers but acknowledges nothing");
    }
    // Nobody is left to ask.
    std::future::pending().await
}
