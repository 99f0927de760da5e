//! The wall clock. Only for stamping; deadlines and ages use `Instant`.

use std::time::{SystemTime, UNIX_EPOCH};

/// Now in Unix seconds; 0 when the clock stands before 1970.
#[must_use]
pub fn unix_now() -> f64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0.0, |since| since.as_secs_f64())
}
