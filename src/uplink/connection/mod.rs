//! One connection's life, from the broker's consent to the end: what is taken when, and what
//! becomes of it. This task alone owns the wire and the ledger.

mod careful;
mod commands;
mod desired;
mod discovery;
mod feed;
mod hear;
mod kept;
mod messages;
mod overtaken;
pub(super) mod packs;
mod silence;
mod states;
mod values;

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::pin::{Pin, pin};
use std::sync::Arc;

use tokio::time::{Duration, Instant, sleep_until};

use super::blame::{Alone, Ending, Thing};
use super::failure::Failure;
use super::ledger::{Breach, Ledger};
use super::ports::Ports;
use super::publication::Publisher;
use super::transport::Wire;
use super::{Event, Settings, Submission};
use crate::clock;
use crate::commands::port::News;
use crate::reading::{Item, Lane, Moment, Reply};
use crate::status::board::UplinkState;
use crate::status::presence::Presence;
use packs::{Pack, Packing};

/// Device states that may be unacknowledged at a time. More would hurry nobody and crowd out
/// data when thousands of states have to be told to a new broker.
const STATUSES: u16 = 8;

/// Bytes of data that may be unacknowledged when one more is taken. Ordinary batches never reach
/// it, and no link needs more in flight to be busy. Without it a window of packs that resolve to
/// a megabyte each would take a hundred of them, some of it twice.
const OUT_BYTES: usize = 8 << 20;

/// How long a connection waits for what is suspected, so that it can go first. The intake has it
/// within a moment, unless it has become something else meanwhile.
const GRACE: Duration = Duration::from_secs(1);

/// A time that does not come.
const NEVER: Duration = Duration::from_secs(365 * 24 * 3600);

/// How much may be out on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Window {
    /// Data, counted from the oldest unacknowledged publish.
    data: usize,
    /// Device states.
    states: usize,
    /// All of it.
    whole: u16,
}

impl Window {
    /// `inflight` by the configuration, `allowed` by the broker.
    fn of(inflight: u16, allowed: u16) -> Self {
        let states = |data: u16| (data / 4).clamp(1, STATUSES);
        let asked = inflight.saturating_add(states(inflight));
        if asked <= allowed {
            return Self {
                data: inflight.into(),
                states: states(inflight).into(),
                whole: asked,
            };
        }
        let states = states(allowed);
        Self {
            data: allowed.saturating_sub(states).max(1).into(),
            states: states.into(),
            whole: allowed,
        }
    }
}

/// A submission that is out.
#[derive(Debug)]
struct Data {
    token: u64,
    lane: Lane,
    item: Arc<Item>,
    /// Of its packet.
    bytes: usize,
    since: Instant,
}

impl Data {
    fn alone(&self) -> Alone {
        Alone {
            content: content_of(&self.item),
            bytes: self.bytes,
        }
    }
}

/// Tells one item from another, over all connections.
fn content_of(item: &Item) -> u64 {
    let mut hasher = DefaultHasher::new();
    match item {
        Item::Batch(batch) => {
            (&batch.stream, batch.seq).hash(&mut hasher);
            batch.frame.hash(&mut hasher);
        }
        Item::Gap(gap) => (&gap.stream, gap.from, gap.to).hash(&mut hasher),
        Item::Reply(reply) => (&reply.topic, &reply.name, &reply.payload).hash(&mut hasher),
    }
    hasher.finish()
}

/// What a publish was.
#[derive(Debug)]
enum Record {
    Data(Data),
    /// Batches and gap records that went together.
    Pack(Pack),
    /// A device's state.
    Device(Arc<str>, Box<Presence>),
    /// The hub's `online`.
    Hub,
    /// The hub's `offline`.
    Farewell,
    /// The empty batch whose echo is waited for.
    Probe,
    /// The newest value of a name of a device, by the number of its series; `None`: one that is
    /// taken back.
    Value(Arc<str>, Option<u64>),
    /// What Home Assistant finds a device by.
    Document(Arc<str>),
    /// What a device reports of its state, and which of its reports.
    Reported(Arc<str>, u64),
    /// The answer to a command for this device, which is not its final one.
    Reply(Arc<str>),
}

impl Record {
    /// What it was about; `None`: a pack, of which there are several.
    fn thing(&self) -> Option<Thing> {
        Some(match self {
            Self::Pack(_) => return None,
            Self::Data(data) => thing_of(&data.item, data.lane),
            Self::Device(device, _) => Thing::Status(device.clone()),
            Self::Hub | Self::Farewell => Thing::Hub,
            Self::Probe => Thing::Probe,
            Self::Value(device, _) | Self::Document(device) => Thing::Value(device.clone()),
            Self::Reported(device, _) => Thing::Reported(device.clone()),
            Self::Reply(device) => Thing::Result(device.clone()),
        })
    }

    /// All of it.
    fn things(&self) -> Vec<Thing> {
        match self {
            Self::Pack(pack) => pack.things().collect(),
            one => one.thing().into_iter().collect(),
        }
    }
}

/// What a broker's rules can be about.
fn thing_of(item: &Item, lane: Lane) -> Thing {
    match (item, lane) {
        (Item::Batch(batch), Lane::Live) => Thing::Data(batch.device.clone()),
        (Item::Batch(batch), Lane::History) => Thing::History(batch.device.clone()),
        (Item::Gap(gap), _) => Thing::Gap(gap.device.clone()),
        (Item::Reply(reply), _) => Thing::Result(reply.device.clone()),
    }
}

/// Why a connection is left that works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Leave {
    /// For the first choice among the brokers.
    Return,
    /// To ask the broker for MQTT 5 again.
    Version,
}

/// Where a connection is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Submissions are taken.
    Serving,
    /// The connection is left for another one; what is out is waited for.
    Moving(Leave),
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
    /// In order, for another one.
    Left(Leave),
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

struct Connection<'a, W> {
    ports: &'a mut Ports,
    publisher: &'a Publisher,
    wire: W,
    epoch: u64,
    /// When the broker consented.
    since: Moment,
    /// Submissions that have been received but do not fit into the window yet: states may be in
    /// the way. They are received all the same, so that the closing behind them is seen.
    held: VecDeque<Submission>,
    /// As many submissions as the intake has out at most.
    inflight: usize,
    ledger: Ledger<Record>,
    window: Window,
    /// `None`: each batch goes by itself.
    packing: Option<Packing>,
    /// Bytes of data that are out.
    out_bytes: usize,
    /// Device states that are out.
    statuses: usize,
    /// Answers to commands that are out, but for final ones.
    replies: usize,
    /// Reported states that are out.
    reports: usize,
    /// Values that are out.
    values: usize,
    /// A value went before data, whose turn it is.
    value_went: bool,
    /// When the hub's health is told next.
    health: Option<Instant>,
    /// One that waits until nothing else is out.
    reply: Option<Reply>,
    /// The outbox may hold something.
    untold: bool,
    /// The hub's own state has to be said again.
    untold_hub: bool,
    /// While the devices' states are subscribed to: when the last of them will have come, once
    /// the first sign of the broker has.
    stale: Option<Option<Instant>>,
    /// Subscriptions to make, and those that are made.
    subscriptions: messages::Subscriptions,
    /// States that were taken out of the outbox and had to wait.
    states: VecDeque<(Arc<str>, Presence)>,
    /// What was PUBACKed last, in 3.1.1.
    kept: Option<kept::Kept>,
    /// Something is out alone, and how long its answer may take.
    silence: Option<silence::Silence>,
    /// The oldest publish, if a later one was acknowledged before it.
    overtaken: Option<overtaken::Overtaken>,
    /// The broker does not let the hub hear commands.
    deaf: bool,
    ack_timeout: Duration,
    /// What is out has to stay alone.
    alone: bool,
    /// Until when nothing goes before the one that is suspected.
    grace: Option<Instant>,
    /// Data goes before states the next time.
    data_first: bool,
    /// The broker has taken the hub's `online`.
    told_hub: bool,
    /// How often that was said again because the broker had something else.
    corrections: u8,
    probe: messages::Probe,
    phase: Phase,
    /// Why the connection is left, once it is.
    left: Option<Leave>,
    acked_data: bool,
}

/// Serves until the end. Announces [`Event::Up`]; [`Event::Down`] is the caller's.
pub(super) async fn serve<W: Wire>(
    ports: &mut Ports,
    settings: &Settings,
    publisher: &Publisher,
    wire: W,
    epoch: u64,
    leave: impl Future<Output = Leave>,
) -> End {
    let began = Instant::now();
    let window = Window::of(settings.broker.inflight, wire.terms().window);
    let mut connection = Connection {
        ports,
        publisher,
        wire,
        epoch,
        since: clock::now(),
        held: VecDeque::new(),
        inflight: super::window(&settings.broker),
        packing: Packing::new(&settings.broker, settings.device_window),
        ledger: Ledger::new(window.whole),
        window,
        out_bytes: 0,
        statuses: 0,
        replies: 0,
        reports: 0,
        values: 0,
        value_went: false,
        health: None,
        reply: None,
        untold: true,
        untold_hub: false,
        stale: None,
        subscriptions: messages::Subscriptions::default(),
        states: VecDeque::new(),
        kept: None,
        silence: None,
        overtaken: None,
        deaf: false,
        ack_timeout: settings.broker.ack_timeout,
        alone: false,
        grace: Some(began + GRACE),
        data_first: false,
        told_hub: false,
        corrections: 0,
        probe: messages::Probe::default(),
        phase: Phase::Serving,
        left: None,
        acked_data: false,
    };
    let result = connection.serve(settings.pace.farewell, pin!(leave)).await;
    let in_order = match (connection.left, connection.phase) {
        (Some(leave), _) => Some(End::Left(leave)),
        (None, Phase::Leaving) => Some(End::Finished),
        _ => None,
    };
    let end = match (result, in_order) {
        (Ok(()), end) => end.unwrap_or(End::Finished),
        (Err(_), Some(end)) => end,
        (Err(failure), None) => {
            // What was read before the error counts.
            while let Some(signal) = connection.wire.take() {
                if connection.hear(signal, Instant::now()).is_err() {
                    break;
                }
            }
            let lived = began.elapsed();
            let careful = connection.ports.blame.is_careful() && connection.told_hub;
            let good = connection.acked_data || careful || lived >= settings.pace.settled;
            // What is proven is not tried for a while: nothing speaks against the next connect.
            let known = connection.end(&failure, lived);
            let good = good || known;
            End::Lost { failure, good }
        }
    };
    connection.release();
    connection.count_traffic();
    connection.ports.board.uplink.in_flight.set(0);
    end
}

impl<W: Wire> Connection<'_, W> {
    /// `Ok`: the farewell's deadline has come. An error while leaving is the end that was sought.
    async fn serve(
        &mut self,
        farewell: Duration,
        mut leave: Pin<&mut impl Future<Output = Leave>>,
    ) -> Result<(), Failure> {
        self.greet();
        let mut deadline = pin!(sleep_until(Instant::now() + NEVER));
        // Half of the time is for what is out and for the devices' states, the rest for the
        // hub's own.
        let mut halfway = pin!(sleep_until(Instant::now() + NEVER));
        let mut closing = false;
        loop {
            self.feed()?;
            let in_flight = self.ledger.len() as u64;
            self.ports.board.uplink.in_flight.set(in_flight);
            self.count_traffic();
            let serving = self.phase == Phase::Serving;
            if !serving && !closing {
                closing = true;
                deadline.as_mut().reset(Instant::now() + farewell);
                halfway.as_mut().reset(Instant::now() + farewell / 2);
            }
            let states = self.next_state();
            self.watch_silence();
            let silence = self.next_silence();
            self.watch_overtaken();
            let overtaken = self.next_overtaken();
            let kept = self.kept.as_ref().map(kept::Kept::next);
            let probe = self.probe.deadline();
            let may_reply = self.may_reply();
            let grace = self.grace;
            let report = self.next_report();
            let values = self.next_values();
            let packs = self.packing.as_ref().and_then(Packing::wakes);
            let hurries = self.packing.as_ref().is_some_and(|packs| !packs.is_empty())
                && !self.ports.stop.is_requested();
            let wire = &mut self.wire;
            // Rare things first, so that none of them waits behind a wire that is always ready; what
            // is submitted is taken by `feed` as well. In one order, so that a simulated history
            // can be told again.
            tokio::select! {
                biased;
                () = self.ports.pulse.asked() => self.ports.pulse.answer().await,
                () = &mut deadline, if !serving => return Ok(()),
                () = &mut halfway, if self.phase == Phase::Flushing => self.say_offline()?,
                failure = given_up(&mut self.ports.reconnect, self.epoch) => return Err(failure),
                () = set(&mut self.ports.clock) => self.tell_times(),
                why = leave.as_mut(), if serving => self.begin_to_move(why),
                () = reached(self.stale.flatten()) => self.end_stale(),
                () = reached(probe) => self.probe_is_silent(),
                () = reached(kept) => self.tend_kept(),
                () = reached(silence) => self.ping_into_silence(),
                () = reached(overtaken) => return Err(self.refuse_overtaken()),
                () = reached(grace), if self.grace.is_some() => self.grace = None,
                () = reached(states) => self.untold = true,
                () = desired::changed(self.ports.desired.as_deref()) => {}
                () = discovery::rights_change(&mut self.ports.authority) => self.follow_rights(),
                // It goes out with the next feed.
                () = reached(report) => {}
                // What is due now is fed.
                () = reached(values) => {}
                () = reached(packs) => {}
                // Nothing waits for others any more.
                () = self.ports.stop.requested(), if hurries => {}
                () = self.ports.outbox.changed(), if !self.untold => self.untold = true,
                () = self.ports.events.hand_over(), if self.ports.events.waiting() > 0 => {}
                dispatch = commands::next(&mut self.ports.commands), if may_reply => {
                    self.replies_come(dispatch);
                }
                result = poll_fn(|cx| wire.poll(cx)) => {
                    result?;
                    self.signals()?;
                }
                submission = self.ports.submissions.recv(), if serving && self.held.len() < self.inflight => {
                    self.receive(submission);
                }
            }
        }
    }

    /// The first things on a new connection.
    fn greet(&mut self) {
        self.ports.show(UplinkState::Connected, None);
        self.ports.events.push(Event::Up { epoch: self.epoch });
        self.ports.outbox.retell();
        self.ports.clock.mark_unchanged();
        self.ports.blame.begin();
        if let Some(bytes) = self.ports.blame.too_large() {
            self.wire.limit(bytes);
        }
        self.plan_subscriptions();
        self.begin_discovery();
        if let Some(desired) = &self.ports.desired {
            desired.begin();
        }
        self.ports.tell_commands(News::Up);
        self.untold_hub = true;
    }

    fn count_traffic(&mut self) {
        let (sent, received) = self.wire.traffic();
        let board = &self.ports.board.uplink;
        board.sent_bytes.add(sent);
        board.received_bytes.add(received);
    }

    /// Nothing waits for an answer of the broker.
    fn nothing_is_out(&self) -> bool {
        self.ledger.is_empty() && self.kept.is_none() && self.subscriptions.are_answered()
    }

    fn begin_to_move(&mut self, why: Leave) {
        self.phase = Phase::Moving(why);
        self.left = Some(why);
        if why == Leave::Return {
            // Of the devices the broker that is left would say the last for ever.
            self.states = self.ports.outbox.gone("moved", clock::now()).into();
        }
    }

    /// The connection is lost: what was out, and whose doing it was. `true`: that is known.
    fn end(&mut self, failure: &Failure, lived: Duration) -> bool {
        if !failure.hung_up {
            self.release();
        }
        self.ports.barren = !self.acked_data && self.out_bytes > 0;
        let kept = self.kept.take().map(|kept| kept.record);
        let out: Vec<Record> = kept.into_iter().chain(self.ledger.take_all()).collect();
        let mut things: Vec<Thing> = out.iter().flat_map(Record::things).collect();
        things.extend(self.subscriptions.unanswered());
        let ending = match failure.hung_up || failure.silent {
            true if failure.is_excuse() => Ending::Excused,
            true if failure.is_explained() => Ending::Explained,
            true => Ending::HungUp,
            false => Ending::Other,
        };
        let twins = &mut self.ports.twins;
        if twins.ended(failure, things.is_empty(), lived) {
            let client_id = &self.ports.client_id;
            tracing::error!(
                client_id,
                "another client seems to connect with this hub's client id, and each ends the \
                 other's connection: give each hub its own uplink.client_id"
            );
        }
        self.ports
            .board
            .uplink
            .twins
            .set(u64::from(self.ports.twins.are_likely()));
        let alone = match &out[..] {
            [Record::Data(data)] => data.alone(),
            [Record::Pack(pack)] => pack.single().map(Data::alone).unwrap_or_default(),
            _ => Alone::default(),
        };
        let packs = out.iter().filter_map(|record| match record {
            Record::Pack(pack) if pack.pieces.len() > 1 => Some(pack.size),
            _ => None,
        });
        if let (Ending::HungUp, Some(largest)) = (&ending, packs.max()) {
            self.ports.packs.hung_up(largest);
        }
        let Some(verdict) = self.ports.blame.ended(&ending, &things, alone) else {
            return false;
        };
        let record = out.into_iter().next();
        self.condemn(&verdict, record);
        true
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
        self.hurry_values();
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
        return Failure::silent();
    }
    // Nobody is left to ask.
    std::future::pending().await
}

#[cfg(test)]
mod tests {
    use super::Window;

    #[test]
    fn no_more_is_out_than_the_broker_receives() {
        for inflight in [1, 2, 10, 100, 10_000] {
            for allowed in [1, 2, 5, 10, 100, u16::MAX] {
                let window = Window::of(inflight, allowed);
                assert!(window.whole <= allowed && window.whole >= 1);
                assert!(window.data >= 1 && window.data <= inflight.into());
                assert!(window.data <= window.whole.into());
                assert!(window.states >= 1);
            }
        }
        let plain = Window::of(100, u16::MAX);
        assert_eq!((plain.data, plain.states, plain.whole), (100, 8, 108));
    }
}
