//! TLS handshakes that take turns: see [`turns`](super::turns).

use std::collections::HashMap;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::sleep_until;
use tokio_rustls::server::TlsStream;
use tokio_rustls::{Accept, TlsAcceptor};

use super::attempts::Origin;
use super::turns::{Caller, Step, Turn, Turns};

/// What this thread has computed, whatever else the machine does meanwhile.
fn computed() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanos = u32::try_from(time.tv_nsec).unwrap_or(0);
    Duration::new(seconds, nanos)
}

#[derive(Debug)]
struct State {
    turns: Turns<Origin>,
    /// How those that wait are told to ask again.
    waiting: HashMap<Step, Arc<Notify>>,
}

/// The turns of all handshakes of the port.
#[derive(Debug)]
pub(super) struct Pace(Mutex<State>);

impl Pace {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::new(State {
            turns: Turns::new(Instant::now()),
            waiting: HashMap::new(),
        })))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a turn to compute.
    async fn turn(self: Arc<Self>, caller: Caller<Origin>) {
        let place = Place::new(self, caller);
        loop {
            let turn = {
                let mut state = place.pace.lock();
                state.turns.ask(place.step, place.caller, Instant::now())
            };
            match turn {
                Turn::Now => return,
                Turn::Behind => place.notify.notified().await,
                Turn::At(at) => tokio::select! {
                    () = sleep_until(at.into()) => {}
                    () = place.notify.notified() => {}
                },
            }
        }
    }

    fn spent(&self, caller: Caller<Origin>, took: Duration) {
        self.lock().turns.spent(caller, took, Instant::now());
    }
}

/// A place in the queue; given up when dropped.
struct Place {
    pace: Arc<Pace>,
    caller: Caller<Origin>,
    step: Step,
    notify: Arc<Notify>,
}

impl Place {
    fn new(pace: Arc<Pace>, caller: Caller<Origin>) -> Self {
        let notify = Arc::new(Notify::new());
        let mut state = pace.lock();
        let step = state.turns.queue(caller, Instant::now());
        state.waiting.insert(step, notify.clone());
        drop(state);
        Self {
            pace,
            caller,
            step,
            notify,
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.pace.lock();
        state.turns.leave(self.step, self.caller);
        state.waiting.remove(&self.step);
        // Whoever is first now has nobody else to tell it.
        if let Some(first) = state.turns.first()
            && let Some(notify) = state.waiting.get(&first)
        {
            notify.notify_one();
        }
    }
}

/// A handshake, one step after the other.
struct Paced {
    pace: Arc<Pace>,
    caller: Caller<Origin>,
    accept: Accept<TcpStream>,
    turn: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl Future for Paced {
    type Output = io::Result<TlsStream<TcpStream>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let turn = this
            .turn
            .get_or_insert_with(|| Box::pin(this.pace.clone().turn(this.caller)));
        ready!(turn.as_mut().poll(cx));
        this.turn = None;
        let before = computed();
        let step = Pin::new(&mut this.accept).poll(cx);
        let took = computed().checked_sub(before).unwrap_or_default();
        this.pace.spent(this.caller, took);
        step
    }
}

/// Shakes hands, in turn with all others.
pub(super) async fn accept(
    pace: &Arc<Pace>,
    caller: Caller<Origin>,
    acceptor: &TlsAcceptor,
    tcp: TcpStream,
) -> io::Result<TlsStream<TcpStream>> {
    Paced {
        pace: pace.clone(),
        caller,
        accept: acceptor.accept(tcp),
        turn: None,
    }
    .await
}
