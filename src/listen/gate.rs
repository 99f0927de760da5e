//! What the device port remembers of those who came: attempts, handshakes that are open, and what
//! the log was told. All of it is bounded, whoever comes and how often.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tracing::{debug, info, warn};

use super::attempts::{Attempts, Origin};

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

/// Handshakes of one address that may be open at the same time. A whole site may be behind one
/// gateway, and all its sensors come back at once when the power does: a handshake takes
/// milliseconds then, so that 64 at a time are thousands a second. Whoever opens connections and
/// says nothing takes no more than these.
pub(super) const OPEN_HANDSHAKES: usize = 64;

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

/// What was logged when, and how often it happened since. Pure.
#[derive(Debug, Default)]
struct Journal(HashMap<(Origin, &'static str), Logged>);

impl Journal {
    /// Something happened. `Some`: log it, with how often it happened since the last time.
    fn note(&mut self, origin: Origin, reason: &'static str, now: Instant) -> Option<u64> {
        let old = |logged: &Logged| now.saturating_duration_since(logged.at) >= LOG_EVERY;
        if let Some(logged) = self.0.get_mut(&(origin, reason)) {
            logged.since += 1;
            if !old(logged) {
                return None;
            }
            logged.at = now;
            return Some(std::mem::take(&mut logged.since));
        }
        if self.0.len() >= LOGGED {
            self.0.retain(|_, logged| !old(logged));
        }
        if self.0.len() >= LOGGED {
            return None;
        }
        self.0
            .insert((origin, reason), Logged { at: now, since: 0 });
        Some(1)
    }
}

#[derive(Debug)]
struct State {
    failures: Attempts<Origin>,
    entries: Attempts<Box<str>>,
    open: HashMap<Origin, usize>,
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
            open: HashMap::new(),
            journal: Journal::default(),
        })))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A handshake begins. `None`: this address has too many open.
    pub(super) fn open(self: &Arc<Self>, origin: Origin) -> Option<Open> {
        let mut state = self.lock();
        // Bounded by the sockets that the port takes.
        let open = state.open.entry(origin).or_default();
        if *open >= OPEN_HANDSHAKES {
            return None;
        }
        *open += 1;
        Some(Open {
            gate: self.clone(),
            origin,
        })
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
    origin: Origin,
}

impl Drop for Open {
    fn drop(&mut self) {
        let mut state = self.gate.lock();
        if let Some(open) = state.open.get_mut(&self.origin) {
            *open -= 1;
            if *open == 0 {
                state.open.remove(&self.origin);
            }
        }
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
        assert_eq!(journal.0.len(), 1);
    }

    #[test]
    fn open_handshakes_are_counted_by_address_and_given_back() {
        let gate = Gate::new();
        let mut open: Vec<_> = (0..OPEN_HANDSHAKES)
            .map(|_| gate.open(origin(1)).unwrap())
            .collect();
        assert!(gate.open(origin(1)).is_none());
        assert!(gate.open(origin(2)).is_some());
        open.pop();
        assert!(gate.open(origin(1)).is_some());
        open.clear();
        assert!(gate.lock().open.is_empty());
    }
}
