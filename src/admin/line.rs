//! What the answers on one connection tell the task that serves it.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::seats::{Id, Seats};

/// One connection.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) from: IpAddr,
    /// By the socket of this machine.
    pub(super) local: bool,
    id: Id,
    table: Arc<Table>,
    events: AtomicBool,
    waits: AtomicBool,
    /// Told when the connection is to be dropped at once: its reader does not keep up and may never
    /// read again, or its seat is needed.
    pub(super) cut: Arc<Notify>,
}

/// All connections.
#[derive(Debug)]
pub(super) struct Table(Mutex<State>);

#[derive(Debug)]
struct State {
    seats: Seats,
    cuts: std::collections::HashMap<Id, Arc<Notify>>,
}

impl Table {
    pub(super) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self(Mutex::new(State {
            seats: Seats::new(max),
            cuts: std::collections::HashMap::new(),
        })))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A newcomer. `None`: everybody here is there by right.
    pub(super) fn enter(self: &Arc<Self>, from: IpAddr) -> Option<Line> {
        let mut state = self.lock();
        let (id, evicted) = state.seats.enter(from)?;
        if let Some(cut) = evicted.and_then(|id| state.cuts.remove(&id)) {
            cut.notify_one();
        }
        let cut = Arc::new(Notify::new());
        state.cuts.insert(id, cut.clone());
        drop(state);
        Some(Line {
            from,
            local: false,
            id,
            table: self.clone(),
            events: AtomicBool::new(false),
            waits: AtomicBool::new(false),
            cut,
        })
    }
}

impl Table {
    /// A newcomer by the socket of this machine, who has proven who he is by opening it.
    pub(super) fn enter_local(self: &Arc<Self>) -> Option<Line> {
        let mut line = self.enter(Ipv4Addr::LOCALHOST.into())?;
        line.local = true;
        line.prove(true);
        Some(line)
    }
}

impl Line {
    /// A request on it has shown the token, or has not.
    pub(super) fn prove(&self, proven: bool) {
        self.table.lock().seats.prove(self.id, proven);
    }

    /// An answer without end begins.
    pub(super) fn begin_events(&self) {
        self.events.store(true, Relaxed);
        self.prove(true);
    }

    /// The end of a command is waited for until what is returned is dropped.
    pub(super) fn begin_wait(&self) -> Wait<'_> {
        self.waits.store(true, Relaxed);
        Wait(self)
    }

    /// Whether the connection carries one of these.
    pub(super) fn is_held(&self) -> bool {
        self.events.load(Relaxed) || self.waits.load(Relaxed)
    }
}

/// See [`Line::begin_wait`].
#[derive(Debug)]
pub(super) struct Wait<'a>(&'a Line);

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        self.0.waits.store(false, Relaxed);
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        let mut state = self.table.lock();
        state.seats.leave(self.id);
        state.cuts.remove(&self.id);
    }
}
