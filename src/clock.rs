//! The wall clock. Only for stamping; deadlines and ages use `Instant`.

use std::time::{SystemTime, UNIX_EPOCH};

/// Now in Unix seconds; 0 when the clock stands before 1970.
#[must_use]
pub fn unix_now() -> f64 {
    #[cfg(test)]
    if let Some(now) = simulated::now() {
        return now;
    }
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0.0, |since| since.as_secs_f64())
}

/// A wall clock that a test sets, for the calling thread.
#[cfg(test)]
pub(crate) mod simulated {
    use std::cell::Cell;

    thread_local! {
        static NOW: Cell<Option<f64>> = const { Cell::new(None) };
    }

    pub(super) fn now() -> Option<f64> {
        NOW.get()
    }

    /// Sets it; `None`: the real one.
    pub(crate) fn set(now: Option<f64>) {
        NOW.set(now);
    }
}
