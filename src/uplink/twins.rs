//! Two hubs with one client id: each connect ends the other's connection. MQTT 5 says so; in 3.1.1
//! the pattern has to be seen. Pure: no IO, no clock.

use std::time::Duration;

use super::failure::Failure;
use super::reasons::TAKEN_OVER;

/// Takeovers by MQTT 5's own word before somebody is told. One may be the connection that the hub
/// lost before the broker noticed.
const SAID: u32 = 2;

/// Hang-ups in a row, on connections that worked, while nothing was out: a broker that hangs up on
/// something does it while that is out.
const GUESSED: u32 = 5;

/// A connection that lasted this long has no twin. Each of two takes the other's within a minute,
/// the longest pause between connects.
const PEACE: Duration = Duration::from_secs(300);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Twins {
    said: u32,
    guessed: u32,
}

impl Twins {
    /// A connection has ended; `idle`: nothing was out. `true`: it is likely now that there is a
    /// twin, and was not before.
    pub(super) fn ended(&mut self, failure: &Failure, idle: bool, lived: Duration) -> bool {
        let before = self.are_likely();
        if lived >= PEACE {
            *self = Self::default();
        }
        if failure.code == Some(TAKEN_OVER) {
            self.said += 1;
        } else if failure.hung_up && failure.code.is_none() && idle {
            self.guessed += 1;
        } else {
            self.guessed = 0;
        }
        !before && self.are_likely()
    }

    /// A connection works: whether it has for long enough to be alone.
    pub(super) fn are_likely(&self) -> bool {
        self.said >= SAID || self.guessed >= GUESSED
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(1);

    #[test]
    fn a_takeover_that_is_said_twice_is_told_once() {
        let (mut twins, taken) = (
            Twins::default(),
            Failure::disconnected("b", TAKEN_OVER, "", ""),
        );
        let told: Vec<_> = (0..4).map(|_| twins.ended(&taken, false, SOON)).collect();
        assert_eq!(told, [false, true, false, false]);
        twins.ended(&Failure::passing("broke"), true, PEACE);
        assert!(!twins.are_likely());
    }

    #[test]
    fn hang_ups_on_idle_connections_are_a_pattern_and_others_are_not() {
        let (mut twins, hung_up) = (Twins::default(), Failure::hung_up("closed"));
        for _ in 0..100 {
            assert!(!twins.ended(&hung_up, false, SOON), "something was out");
        }
        for _ in 0..GUESSED - 1 {
            assert!(!twins.ended(&hung_up, true, SOON));
        }
        assert!(twins.ended(&hung_up, true, SOON));
    }
}
