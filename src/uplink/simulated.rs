//! The uplink on a simulated network, for the simulation: everything but the MQTT library, whose
//! place the world takes.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use tokio::sync::{mpsc, watch};

use super::failure::Failure;
use super::publication::Head;
use super::route::Target;
use super::terms::{Terms, Verdict};
use super::transport::{Attempt, Dial, Missed, Signal, Subscription, Wire};
use super::{Event, Settings, Submission, lifecycle};
use crate::status::board::Board;
use crate::status::presence::Outbox;
use crate::stop::Stop;

/// What the library was given to write.
#[derive(Debug)]
enum Given {
    Publish(Written),
    Subscribe(u16),
    Unsubscribe,
    Disconnect,
}

/// What was written.
#[derive(Debug)]
pub(crate) enum Written {
    /// A publish, under this packet id.
    Publish {
        id: u16,
        topic: String,
        payload: Vec<u8>,
        retain: bool,
    },
    /// A subscription under this packet id, to be agreed to.
    Subscribe(u16),
    /// Nothing that the broker answers.
    Other,
    /// The end.
    Disconnect,
}

#[derive(Debug, Default)]
struct Connection {
    given: VecDeque<Given>,
    signals: VecDeque<Signal>,
    /// Read before the end, but not told before it.
    leftovers: Vec<Signal>,
    end: Option<Failure>,
}

#[derive(Debug, Default)]
struct State {
    /// Counts connections and attempts.
    serial: u64,
    dialing: bool,
    /// The broker's answer to the attempt.
    answer: Option<bool>,
    connection: Option<Connection>,
    waker: Option<Waker>,
    chance: u64,
}

/// The network between the hub and the broker.
#[derive(Debug, Clone, Default)]
pub(crate) struct Net(Arc<Mutex<State>>);

impl Net {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(state: &mut State) {
        if let Some(waker) = state.waker.take() {
            waker.wake();
        }
    }

    /// The number of the attempt that waits for an answer.
    pub(crate) fn dialing(&self) -> Option<u64> {
        let state = self.lock();
        state.dialing.then_some(state.serial)
    }

    /// The broker answers the attempt.
    pub(crate) fn answer(&self, agrees: bool) {
        let mut state = self.lock();
        if std::mem::take(&mut state.dialing) {
            state.answer = Some(agrees);
            if agrees {
                state.connection = Some(Connection::default());
            }
        }
        Self::wake(&mut state);
    }

    /// The connection that is there, and how much waits to be written on it.
    pub(crate) fn given(&self) -> Option<(u64, usize)> {
        let state = self.lock();
        let connection = state.connection.as_ref()?;
        let open = !state.dialing && connection.end.is_none();
        open.then_some((state.serial, connection.given.len()))
    }

    /// Writes what was given first.
    pub(crate) fn write(&self) -> Option<Written> {
        let mut state = self.lock();
        let connection = state.connection.as_mut()?;
        let written = match connection.given.pop_front()? {
            Given::Publish(written) => written,
            Given::Subscribe(id) => Written::Subscribe(id),
            Given::Unsubscribe => Written::Other,
            Given::Disconnect => {
                connection.signals.push_back(Signal::SaidGoodbye);
                Written::Disconnect
            }
        };
        Self::wake(&mut state);
        Some(written)
    }

    /// A PUBACK comes in; `late`: only the end of the connection brings it to light. Returns
    /// whether anybody hears it.
    pub(crate) fn puback(&self, id: u16, late: bool) -> bool {
        let mut state = self.lock();
        let Some(connection) = state.connection.as_mut().filter(|one| one.end.is_none()) else {
            return false;
        };
        if late {
            connection.leftovers.push(Signal::Acked(id));
        } else {
            connection.signals.push_back(Signal::Acked(id));
        }
        Self::wake(&mut state);
        true
    }

    /// A PUBACK with this reason code comes in: the broker refuses. Returns whether anybody
    /// hears it.
    pub(crate) fn refuse(&self, id: u16, code: u8) -> bool {
        let mut state = self.lock();
        let Some(connection) = state.connection.as_mut().filter(|one| one.end.is_none()) else {
            return false;
        };
        connection.signals.push_back(Signal::Refused {
            id,
            reason: code,
            words: String::new(),
        });
        Self::wake(&mut state);
        true
    }

    /// A SUBACK comes in.
    pub(crate) fn suback(&self, id: u16) {
        let mut state = self.lock();
        if let Some(connection) = &mut state.connection {
            connection
                .signals
                .push_back(Signal::Subscribed { id, reason: 0 });
        }
        Self::wake(&mut state);
    }

    /// The connection ends, by the broker's doing or the network's.
    pub(crate) fn cut(&self, hung_up: bool) {
        let mut state = self.lock();
        if let Some(connection) = &mut state.connection {
            connection.end = Some(if hung_up {
                Failure::hung_up("closed")
            } else {
                Failure::passing("broken")
            });
        }
        Self::wake(&mut state);
    }
}

struct Library(Net);

/// A connection, from the attempt on.
struct Here {
    net: Net,
    serial: u64,
    terms: Terms,
}

impl Drop for Here {
    fn drop(&mut self) {
        let mut state = self.net.lock();
        if state.serial == self.serial {
            state.connection = None;
            state.dialing = false;
            state.answer = None;
        }
    }
}

impl Dial for Library {
    type Wire = Here;

    async fn resolve(&self, target: &Target) -> Result<Vec<Target>, Failure> {
        Ok(vec![target.clone()])
    }

    async fn dial(&self, _settings: &Arc<Settings>, attempt: &Attempt) -> Result<Here, Missed> {
        let here = {
            let mut state = self.0.lock();
            state.serial += 1;
            state.dialing = true;
            (state.answer, state.connection) = (None, None);
            Here {
                net: self.0.clone(),
                serial: state.serial,
                terms: Terms::of(attempt.version),
            }
        };
        let agrees = poll_fn(|cx| {
            let mut state = self.0.lock();
            state.waker = Some(cx.waker().clone());
            state.answer.take().map_or(Poll::Pending, Poll::Ready)
        })
        .await;
        if agrees {
            return Ok(here);
        }
        Err(Missed {
            failure: Failure::passing("refused"),
            version: Verdict::Open,
        })
    }

    async fn knock(&self, _settings: &Arc<Settings>, _target: &Target) -> bool {
        false
    }

    fn chance(&self) -> u64 {
        let mut state = self.0.lock();
        state.chance = state.chance.wrapping_mul(0x5851_f42d_4c95_7f2d) ^ (state.chance >> 29);
        state.chance = state.chance.wrapping_add(0x1405_7b7e_f767_814f);
        state.chance
    }
}

impl Here {
    fn give(&self, given: Given) {
        let mut state = self.net.lock();
        let serial = state.serial;
        let connection = state.connection.as_mut().filter(|_| serial == self.serial);
        if let Some(connection) = connection {
            connection.given.push_back(given);
        }
    }
}

impl Wire for Here {
    fn terms(&self) -> &Terms {
        &self.terms
    }

    fn limit(&mut self, _bytes: usize) {}

    fn publish(
        &mut self,
        id: u16,
        head: &Head<'_>,
        write: impl FnOnce(&mut Vec<u8>) -> Result<(), String>,
    ) -> Result<usize, String> {
        let mut payload = Vec::new();
        write(&mut payload)?;
        let size = payload.len();
        self.give(Given::Publish(Written::Publish {
            id,
            topic: head.topic.concat(),
            payload,
            retain: head.retain,
        }));
        Ok(size)
    }

    fn subscribe(&mut self, id: u16, _subscription: &Subscription) {
        self.give(Given::Subscribe(id));
    }

    fn unsubscribe(&mut self, _id: u16, _filter: &str) {
        self.give(Given::Unsubscribe);
    }

    fn acknowledge(&mut self, _id: u16) {}

    fn ping(&mut self) {}

    fn disconnect(&mut self) {
        self.give(Given::Disconnect);
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        let mut state = self.net.lock();
        assert_eq!(
            state.serial, self.serial,
            "the wire of an earlier connection"
        );
        state.waker = Some(cx.waker().clone());
        let Some(connection) = &mut state.connection else {
            return Poll::Pending;
        };
        if !connection.signals.is_empty() {
            return Poll::Ready(Ok(()));
        }
        match connection.end.clone() {
            Some(failure) => {
                let late = std::mem::take(&mut connection.leftovers);
                connection.signals.extend(late);
                Poll::Ready(Err(failure))
            }
            None => Poll::Pending,
        }
    }

    fn take(&mut self) -> Option<Signal> {
        let mut state = self.net.lock();
        state.connection.as_mut()?.signals.pop_front()
    }

    fn traffic(&mut self) -> (u64, u64) {
        (0, 0)
    }

    fn broker(&self) -> &str {
        "mqtt://simulated"
    }
}

/// Runs the uplink on this network.
#[expect(
    clippy::too_many_arguments,
    reason = "each is an end of one of its ways"
)]
pub(crate) async fn run(
    net: Net,
    chance: u64,
    settings: Settings,
    submissions: mpsc::Receiver<Submission>,
    outbox: Arc<Outbox>,
    events: mpsc::Sender<Event>,
    board: Arc<Board>,
    reconnect: watch::Receiver<u64>,
    stop: Stop,
) {
    net.lock().chance = chance;
    let library = Library(net);
    lifecycle::run(
        library,
        settings,
        submissions,
        outbox,
        events,
        board,
        reconnect,
        stop,
        None,
    )
    .await;
}
