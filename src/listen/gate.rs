//! What the device port remembers of those who came: attempts, handshakes that are open, and what
//! the log was told. All of it is bounded, whoever comes and how often.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tracing::{debug, info, warn};

use super::attempts::{Attempts, Origin};
use super::handshakes::{self, Handshakes};
use crate::lru::Lru;

/// Attempts without valid credentials: so many at once from one address …
const FAILURES: u32 = 10;
/// … and then one in this time: a mistyped token is found within minutes all the same.
const FAILURE_EVERY: Duration = Duration::from_secs(6);

/// Connections of one device: so many at once …
const ENTRIES: u32 = 30;
/// … and then one in this time. A device on a bad radio link comes back every few seconds; one
/// that comes back faster for long has a fault, and each time costs the hub, the log and the
/// broker something.
const ENTRY_EVERY: Duration = Duration::from_secs(1);

/// Addresses and devices remembered for that: 8,192 are about 1 MB.
const REMEMBERED: usize = 8_192;

/// Addresses from which devices have got in that are remembered: some 400 KB.
const KNOWN: usize = 4_096;

/// The same trouble of the same address is logged once in this time.
const LOG_EVERY: Duration = Duration::from_secs(600);

/// Troubles remembered as logged. More within [`LOG_EVERY`] are not logged one by one: then it is
/// a scan or an attack, and the first of them have said so.
const LOGGED: usize = 256;

/// How loud a trouble is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Loudness {
    /// A device that somebody expects to work does not.
    Warn,
    /// Somebody who speaks something else, or does not speak.
    Info,
}

#[derive(Debug)]
struct Logged {
    at: Instant,
    since: u64,
}

type Trouble = (Origin, &'static str);

/// What was logged when, and how often it happened since. Pure.
#[derive(Debug, Default)]
struct Journal {
    logged: HashMap<Trouble, Logged>,
    /// In the order in which they were logged last.
    order: Lru<Trouble>,
}

impl Journal {
    /// Something happened. `Some`: log it, with how often it happened since the last time.
    fn note(&mut self, origin: Origin, reason: &'static str, now: Instant) -> Option<u64> {
        let trouble = (origin, reason);
        let old = |logged: &Logged| now.saturating_duration_since(logged.at) >= LOG_EVERY;
        if let Some(logged) = self.logged.get_mut(&trouble) {
            logged.since += 1;
            if !old(logged) {
                return None;
            }
            logged.at = now;
            self.order.touch(&trouble, 0);
            return Some(std::mem::take(&mut logged.since));
        }
        // Two at a time, so that old ones go faster than new ones come.
        for _ in 0..2 {
            if let Some(first) = self.order.first().copied()
                && self.logged.get(&first).is_none_or(old)
            {
                self.order.remove(&first);
                self.logged.remove(&first);
            }
        }
        if self.logged.len() >= LOGGED {
            return None;
        }
        self.logged.insert(trouble, Logged { at: now, since: 0 });
        self.order.touch(&trouble, 0);
        Some(1)
    }
}

#[derive(Debug)]
struct State {
    failures: Attempts<Origin>,
    entries: Attempts<Box<str>>,
    open: Handshakes,
    /// Dropped to cut the handshake off.
    cut: HashMap<handshakes::Id, oneshot::Sender<()>>,
    /// From where devices have got in.
    known: Lru<IpAddr>,
    journal: Journal,
}

/// The gate of the device port.
#[derive(Debug)]
pub(super) struct Gate(Mutex<State>);

impl Gate {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::new(State {
            failures: Attempts::new(FAILURES, FAILURE_EVERY, REMEMBERED),
            entries: Attempts::new(ENTRIES, ENTRY_EVERY, REMEMBERED),
            open: Handshakes::default(),
            cut: HashMap::new(),
            known: Lru::default(),
            journal: Journal::default(),
        })))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A handshake begins. It always may; another one is cut off for it when there are too many.
    pub(super) fn open(self: &Arc<Self>, address: IpAddr) -> (Open, PushedOut) {
        let (sender, receiver) = oneshot::channel();
        let mut state = self.lock();
        let (id, victim) = state.open.begin(address);
        if let Some(victim) = victim {
            state.cut.remove(&victim);
        }
        state.cut.insert(id, sender);
        let open = Open {
            gate: self.clone(),
            id,
            address: address.to_canonical(),
        };
        (open, PushedOut(receiver))
    }

    /// An attempt without valid credentials. `Err`: one too many, and how long to wait. Attempts
    /// with valid ones are not counted and never refused for this: whoever shares an address with
    /// a misconfigured or hostile device is not shut out with it.
    pub(super) fn failure(&self, origin: Origin) -> Result<(), Duration> {
        self.lock().failures.spend(&origin, Instant::now())
    }

    /// A connection of a device, with valid credentials. `Err`: one too many, and how long to
    /// wait.
    pub(super) fn entry(&self, device: &str) -> Result<(), Duration> {
        self.lock().entries.spend(&device.into(), Instant::now())
    }

    /// Logs why there is no connection, once in ten minutes for each address and reason.
    /// `detail`: the device, as far as it is known, or the error.
    pub(super) fn log(
        &self,
        loudness: Loudness,
        origin: Origin,
        reason: &'static str,
        detail: &str,
    ) {
        let times = self.lock().journal.note(origin, reason, Instant::now());
        match (times, loudness) {
            (None, _) => debug!(address = %origin, reason, detail, "connection refused"),
            (Some(times), Loudness::Warn) => {
                warn!(address = %origin, reason, detail, times, "connection refused");
            }
            (Some(times), Loudness::Info) => {
                info!(address = %origin, reason, detail, times, "connection refused");
            }
        }
    }
}

/// A handshake that is open; given back when dropped.
#[derive(Debug)]
pub(super) struct Open {
    gate: Arc<Gate>,
    id: handshakes::Id,
    address: IpAddr,
}

impl Open {
    /// The gate that it stands in.
    pub(super) fn gate(&self) -> &Gate {
        &self.gate
    }

    /// Its first bytes have come.
    pub(super) fn spoke(&self) {
        self.gate.lock().open.spoke(self.id);
    }

    /// Its credentials are accepted: it has a seat now, and makes room for nobody.
    pub(super) fn accepted(&self) {
        let mut state = self.gate.lock();
        state.open.end(self.id);
        state.known.touch(&self.address, 0);
        if state.known.len() > KNOWN {
            state.known.pop();
        }
    }

    /// Whether a device has got in from its address before.
    pub(super) fn is_known(&self) -> bool {
        self.gate.lock().known.contains(&self.address)
    }
}

/// How a handshake learns that it has to make room.
#[derive(Debug)]
pub(super) struct PushedOut(oneshot::Receiver<()>);

impl PushedOut {
    /// Returns when the handshake has to make room for a newcomer.
    pub(super) async fn heard(self) {
        // Nothing is ever sent: the sender is dropped.
        let _ = self.0.await;
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let mut state = self.gate.lock();
        state.open.end(self.id);
        state.cut.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn origin(last: u8) -> Origin {
        Origin::V4([10, 0, 0, last].into())
    }

    #[test]
    fn the_same_trouble_is_logged_once_and_later_with_its_number() {
        let mut journal = Journal::default();
        let start = Instant::now();
        assert_eq!(journal.note(origin(1), "a", start), Some(1));
        for _ in 0..999 {
            assert_eq!(journal.note(origin(1), "a", start), None);
        }
        assert_eq!(journal.note(origin(1), "b", start), Some(1));
        assert_eq!(journal.note(origin(2), "a", start), Some(1));
        assert_eq!(journal.note(origin(1), "a", start + LOG_EVERY), Some(1_000));
        assert_eq!(journal.note(origin(1), "a", start + LOG_EVERY), None);
    }

    #[test]
    fn a_thousand_addresses_do_not_make_a_thousand_lines() {
        let mut journal = Journal::default();
        let now = Instant::now();
        let addresses = (0..1_000_u32).map(|n| Origin::V4(n.into()));
        let lines = addresses.filter_map(|o| journal.note(o, "a", now)).count();
        assert_eq!(lines, LOGGED);
        assert_eq!(journal.note(origin(1), "a", now + LOG_EVERY), Some(1));
        assert!(journal.logged.len() < LOGGED);
    }

    #[tokio::test]
    async fn the_oldest_silent_handshake_is_cut_off_for_a_newcomer_and_an_accepted_one_is_not() {
        let gate = Gate::new();
        let (open, mut pushed_out): (Vec<_>, Vec<_>) = (0..handshakes::OF_ADDRESS)
            .map(|_| gate.open([10, 0, 0, 1].into()))
            .unzip();
        open[0].accepted();
        open[1].spoke();
        let newcomers = [0; 2].map(|_| gate.open([10, 0, 0, 1].into()));
        for standing in [0, 1, 3] {
            let state = pushed_out[standing].0.try_recv();
            assert_eq!(state, Err(oneshot::error::TryRecvError::Empty));
        }
        pushed_out.swap_remove(2).heard().await;
        drop((open, newcomers));
        assert!(gate.lock().cut.is_empty());
    }
}
