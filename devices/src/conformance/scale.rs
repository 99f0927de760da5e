//! Protocol seconds and real ones. The program under test and the harness agree on one factor, so
//! that a device's minute takes seconds here.

use std::time::Duration;

/// Real seconds that one second of the protocol lasts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scale(pub f64);

impl Scale {
    /// How long `seconds` of the protocol last on the clock.
    #[must_use]
    pub fn real(self, seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds * self.0)
    }

    /// How many seconds of the protocol have passed.
    #[must_use]
    pub fn protocol(self, real: Duration) -> f64 {
        real.as_secs_f64() / self.0
    }
}

/// `0.1`, or anything else above 0 and up to 1.
///
/// # Errors
/// One sentence: what to write instead.
pub fn scale(text: &str) -> Result<Scale, String> {
    match text.parse::<f64>() {
        Ok(factor) if factor > 0.0 && factor <= 1.0 => Ok(Scale(factor)),
        _ => Err("expected a number above 0 and up to 1, such as 0.1".into()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_minute_of_the_protocol_takes_six_seconds_at_a_tenth() {
        let tenth = scale("0.1").unwrap();
        assert_eq!(tenth.real(60.0), Duration::from_secs(6));
        assert!((tenth.protocol(Duration::from_secs(6)) - 60.0).abs() < 1e-9);
        for wrong in ["0", "-1", "2", "NaN", "fast"] {
            assert!(scale(wrong).is_err(), "{wrong}");
        }
    }
}
