//! The uplink on a simulated network, for the simulation: everything but the MQTT library, whose
//! place the world takes.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};

use tokio::sync::{mpsc, watch};

use super::door::{Dial, Link, Signal, Wire};
use super::failure::Failure;
use super::publication::Publication;
use super::{Event, Settings, Submission, life};
use crate::status::board::Board;
use crate::status::presence::Outbox;
use crate::stop::Stop;

/// What the library was given to write.
#[derive(Debug)]
enum Given {
    Publish(Publication),
    Subscribe,
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
    /// A subscription, to be agreed to.
    Subscribe,
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
    last_id: u16,
    ids: u16,
}

#[derive(Debug, Default)]
struct State {
    /// Counts connections and attempts.
    serial: u64,
    dialing: bool,
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
        state.dialing = false;
        if let Some(connection) = &mut state.connection {
            if agrees {
                connection.signals.push_back(Signal::Connected);
            } else {
                connection.end = Some(Failure::passing("refused"));
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
        let given = connection.given.pop_front()?;
        if !matches!(given, Given::Disconnect) {
            connection.last_id = connection.last_id % connection.ids + 1;
        }
        let id = connection.last_id;
        let written = match given {
            Given::Publish(publication) => {
                connection.signals.push_back(Signal::Sent(id));
                Written::Publish {
                    id,
                    topic: publication.topic,
                    payload: publication.payload,
                    retain: publication.retain,
                }
            }
            Given::Subscribe => Written::Subscribe,
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
        connection.signals.push_back(Signal::Refused(id, code));
        Self::wake(&mut state);
        true
    }

    /// A SUBACK comes in.
    pub(crate) fn suback(&self) {
        let mut state = self.lock();
        if let Some(connection) = &mut state.connection {
            connection.signals.push_back(Signal::Subscribed(true));
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

/// One end of a connection.
struct Here {
    net: Net,
    serial: u64,
    /// The reading end, with which the connection goes.
    reads: bool,
}

impl Drop for Here {
    fn drop(&mut self) {
        let mut state = self.net.lock();
        if self.reads && state.serial == self.serial {
            state.connection = None;
            state.dialing = false;
        }
    }
}

impl Dial for Library {
    type Link = Here;
    type Wire = Here;

    async fn dial(
        &self,
        _settings: &Arc<Settings>,
        _will: Publication,
        capacity: u16,
    ) -> Result<(Here, Here), Failure> {
        let mut state = self.0.lock();
        state.serial += 1;
        state.dialing = true;
        state.connection = Some(Connection {
            ids: capacity + 1,
            ..Connection::default()
        });
        let serial = state.serial;
        drop(state);
        let end = |reads| Here {
            net: self.0.clone(),
            serial,
            reads,
        };
        Ok((end(false), end(true)))
    }

    fn chance(&self) -> u64 {
        let mut state = self.0.lock();
        state.chance = state.chance.wrapping_mul(0x5851_f42d_4c95_7f2d) ^ (state.chance >> 29);
        state.chance = state.chance.wrapping_add(0x1405_7b7e_f767_814f);
        state.chance
    }
}

impl Here {
    fn give(&self, given: Given) -> bool {
        let mut state = self.net.lock();
        let serial = state.serial;
        let connection = state.connection.as_mut().filter(|_| serial == self.serial);
        if let Some(connection) = connection {
            connection.given.push_back(given);
        }
        true
    }
}

impl Link for Here {
    fn publish(&self, publication: Publication) -> Result<(), Failure> {
        self.give(Given::Publish(publication));
        Ok(())
    }

    fn subscribe(&self, _filter: &str) -> Result<(), Failure> {
        self.give(Given::Subscribe);
        Ok(())
    }

    fn unsubscribe(&self, _filter: &str) -> bool {
        self.give(Given::Unsubscribe)
    }

    fn disconnect(&self) {
        self.give(Given::Disconnect);
    }
}

impl Wire for Here {
    fn next(&mut self) -> impl Future<Output = Result<Signal, Failure>> + Send {
        poll_fn(|cx| {
            let mut state = self.net.lock();
            assert_eq!(
                state.serial, self.serial,
                "the wire of an earlier connection"
            );
            state.waker = Some(cx.waker().clone());
            let Some(connection) = &mut state.connection else {
                return Poll::Pending;
            };
            if let Some(signal) = connection.signals.pop_front() {
                return Poll::Ready(Ok(signal));
            }
            match connection.end.clone() {
                Some(failure) => Poll::Ready(Err(failure)),
                None => Poll::Pending,
            }
        })
    }

    fn leftovers(&mut self) -> Vec<Signal> {
        let mut state = self.net.lock();
        let connection = state.connection.as_mut();
        connection.map_or_else(Vec::new, |connection| {
            std::mem::take(&mut connection.leftovers)
        })
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
    life::run(
        library,
        settings,
        submissions,
        outbox,
        events,
        board,
        reconnect,
        stop,
    )
    .await;
}
