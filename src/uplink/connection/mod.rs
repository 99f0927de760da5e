//! One connection's life, from the broker's consent to the end: what is taken when, and what
//! becomes of it. This task alone owns the wire and the ledger.

mod commands;
mod feed;
mod hear;
mod states;

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;

use tokio::time::{Duration, Instant, sleep_until};

use super::door::{Subscription, Wire};
use super::failure::Failure;
use super::ledger::{Breach, Ledger};
use super::life::Ports;
use super::publication::Publisher;
use super::{Event, Settings, Submission};
use crate::clock;
use crate::reading::{Item, Lane, Moment};
use crate::status::board::UplinkState;
use crate::status::presence::Presence;

/// Device states that may be unacknowledged at a time. More would hurry nobody and crowd out
/// data when thousands of states have to be told to a new broker.
const STATUSES: u16 = 8;

/// Bytes of data that may be unacknowledged when one more is taken. Ordinary batches never reach
/// it, and no link needs more in flight to be busy. Without it a window of packs that resolve to
/// a megabyte each would take a hundred of them, some of it twice.
const OUT_BYTES: usize = 8 << 20;

/// Packet ids of subscriptions, far above those of publishes.
const SUBSCRIPTION_IDS: u16 = 60_000;

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

/// What a publish was.
#[derive(Debug)]
enum Record {
    Data(Data),
    /// A device's state.
    Device(Arc<str>, Box<Presence>),
    /// The hub's `online`.
    Hub,
    /// The hub's `offline`.
    Farewell,
    /// The answer to a command, and its number if it is a final one.
    Reply(Option<u64>),
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
    /// Bytes of data that are out.
    out_bytes: usize,
    /// Device states that are out.
    statuses: usize,
    /// Answers to commands that are out.
    replies: usize,
    /// The packet id of the subscription to commands.
    command_subscription: Option<u16>,
    /// The outbox may hold something.
    untold: bool,
    /// The hub's own state has to be said again.
    untold_hub: bool,
    /// While the devices' states are subscribed to: when the last of them will have come, once
    /// the first sign of the broker has.
    stale: Option<Option<Instant>>,
    /// Subscriptions made on this connection.
    subscribed: u16,
    phase: Phase,
    acked_data: bool,
}

/// Serves until the end. Announces [`Event::Up`]; [`Event::Down`] is the caller's.
pub(super) async fn serve<W: Wire>(
    ports: &mut Ports,
    settings: &Settings,
    publisher: &Publisher,
    wire: W,
    epoch: u64,
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
        inflight: settings.broker.inflight.into(),
        ledger: Ledger::new(window.whole),
        window,
        out_bytes: 0,
        statuses: 0,
        replies: 0,
        command_subscription: None,
        untold: true,
        untold_hub: false,
        stale: None,
        subscribed: 0,
        phase: Phase::Serving,
        acked_data: false,
    };
    let result = connection.serve(settings.pace.farewell).await;
    let end = match result {
        Ok(()) => End::Finished,
        Err(_) if connection.phase == Phase::Leaving => End::Finished,
        Err(failure) => {
            // What was read before the error counts.
            while let Some(signal) = connection.wire.take() {
                if connection.hear(signal, Instant::now()).is_err() {
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

impl<W: Wire> Connection<'_, W> {
    /// `Ok`: the farewell's deadline has come. An error while leaving is the end that was sought.
    async fn serve(&mut self, farewell: Duration) -> Result<(), Failure> {
        self.greet()?;
        let mut deadline = pin!(sleep_until(Instant::now() + NEVER));
        // Half of the time is for what is out and for the devices' states, the rest for the
        // hub's own.
        let mut halfway = pin!(sleep_until(Instant::now() + NEVER));
        let mut closing = false;
        loop {
            self.feed()?;
            let serving = self.phase == Phase::Serving;
            if !serving && !closing {
                closing = true;
                deadline.as_mut().reset(Instant::now() + farewell);
                halfway.as_mut().reset(Instant::now() + farewell / 2);
            }
            let parked = self.ports.parked.next();
            let may_reply = self.may_reply();
            let wire = &mut self.wire;
            tokio::select! {
                result = poll_fn(|cx| wire.poll(cx)) => {
                    result?;
                    self.signals()?;
                }
                submission = self.ports.submissions.recv(), if serving && self.held.len() < self.inflight => {
                    self.receive(submission);
                }
                dispatch = commands::next(&mut self.ports.commands), if may_reply => {
                    self.reply(dispatch);
                }
                () = self.ports.outlet.hand_over(), if self.ports.outlet.waiting() > 0 => {}
                () = self.ports.outbox.changed(), if !self.untold => self.untold = true,
                () = reached(parked), if !self.untold => self.untold = true,
                () = reached(self.stale.flatten()) => self.end_stale(),
                () = set(&mut self.ports.clock) => self.tell_times(),
                failure = given_up(&mut self.ports.reconnect, self.epoch) => return Err(failure),
                () = self.ports.pulse.asked() => self.ports.pulse.answer().await,
                () = &mut halfway, if self.phase == Phase::Flushing => self.say_offline()?,
                () = &mut deadline, if !serving => return Ok(()),
            }
        }
    }

    /// The first things on a new connection.
    fn greet(&mut self) -> Result<(), Failure> {
        self.ports.show(UplinkState::Connected, None);
        self.ports.outlet.push(Event::Up { epoch: self.epoch });
        self.ports.outbox.retell();
        self.look_for_stale();
        self.listen_for_commands();
        self.ports.clock.mark_unchanged();
        self.say_online();
        Ok(())
    }

    fn subscribe(&mut self, subscription: &Subscription) -> u16 {
        let id = SUBSCRIPTION_IDS + self.subscribed % (u16::MAX - SUBSCRIPTION_IDS);
        self.subscribed = self.subscribed.wrapping_add(1);
        self.wire.subscribe(id, subscription);
        id
    }

    fn unsubscribe(&mut self, filter: &str) {
        let id = SUBSCRIPTION_IDS + self.subscribed % (u16::MAX - SUBSCRIPTION_IDS);
        self.subscribed = self.subscribed.wrapping_add(1);
        self.wire.unsubscribe(id, filter);
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
