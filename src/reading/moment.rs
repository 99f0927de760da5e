//! When something happened, by every clock that the machine has.
//!
//! A board without a battery starts in the past and learns the time later, or never. What it
//! always has is the time since the kernel began, which only goes forward. Both are kept, so that
//! a stamp can be put right as long as the same boot lasts.

use std::fmt;

use serde::{Deserialize, Serialize};

/// One start of the machine: the kernel's `random/boot_id`, random(4).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Boot([u8; 16]);

impl Boot {
    /// Of what was stored before boots were noted.
    pub const UNKNOWN: Self = Self([0; 16]);

    /// The bytes of a UUID.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The bytes of the UUID.
    #[must_use]
    pub const fn bytes(self) -> [u8; 16] {
        self.0
    }

    /// Reads a UUID as the kernel writes it; `None`: it is none.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let hex: String = text.trim().split('-').collect();
        let number = u128::from_str_radix(&hex, 16).ok()?;
        (hex.len() == 32).then_some(Self(number.to_be_bytes()))
    }
}

impl fmt::Display for Boot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, byte) in self.0.iter().enumerate() {
            let dash = if matches!(at, 4 | 6 | 8 | 10) {
                "-"
            } else {
                ""
            };
            write!(f, "{dash}{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Boot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What is said of a time that may be wrong: the value of the key `clock` beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Doubt {
    /// Nobody vouched for the clock.
    Unsynced,
    /// The device gave a time that cannot be true.
    Implausible,
}

/// A moment.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Moment {
    /// What the wall clock said: Unix seconds.
    pub wall: f64,
    /// Seconds since the machine's start, suspended time included (`CLOCK_BOOTTIME`).
    pub uptime: f64,
    /// Which start.
    pub boot: Boot,
    /// The wall clock was known to be right.
    pub synced: bool,
}

impl Moment {
    /// A moment that only the wall clock tells of, and that is taken for right.
    #[must_use]
    pub const fn at(wall: f64) -> Self {
        Self {
            wall,
            uptime: 0.0,
            boot: Boot::UNKNOWN,
            synced: true,
        }
    }

    /// What has to be said of `wall`; `None`: nothing.
    #[must_use]
    pub fn doubt(&self) -> Option<Doubt> {
        (!self.synced).then_some(Doubt::Unsynced)
    }

    /// Seconds from this moment to `now`. Within one boot the wall clock has no say in it; across
    /// boots it is all there is, and both stamps have to be right. `None`: nobody knows.
    #[must_use]
    pub fn age(&self, now: &Self) -> Option<f64> {
        if self.boot == now.boot && self.boot != Boot::UNKNOWN {
            Some(now.uptime - self.uptime)
        } else {
            (self.synced && now.synced).then_some(now.wall - self.wall)
        }
    }
}

impl From<f64> for Moment {
    fn from(wall: f64) -> Self {
        Self::at(wall)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const TEXT: &str = "dd1ece91-fa39-4d7c-ba90-d6055b060a0e";

    #[test]
    fn a_boot_is_read_and_written_as_the_kernel_does() {
        let boot = Boot::parse(&format!("{TEXT}\n")).unwrap();
        assert_eq!(boot.to_string(), TEXT);
        assert_eq!(Boot::from_bytes(boot.bytes()), boot);
        for wrong in ["", "-", "dd1ece91", &TEXT[1..], &format!("{TEXT}0"), "x"] {
            assert_eq!(Boot::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn an_age_never_comes_from_a_clock_that_nobody_vouches_for() {
        let boot = Boot::parse(TEXT).unwrap();
        let then = Moment {
            wall: 5.0,
            uptime: 100.0,
            boot,
            synced: false,
        };
        let now = Moment {
            wall: 1.7e9,
            uptime: 130.0,
            boot,
            synced: true,
        };
        assert_eq!(then.age(&now), Some(30.0));
        let after_a_restart = Moment {
            boot: Boot::from_bytes([1; 16]),
            ..now
        };
        assert_eq!(then.age(&after_a_restart), None);
        let known = Moment {
            synced: true,
            wall: 1.7e9 - 7.0,
            ..then
        };
        assert_eq!(known.age(&after_a_restart), Some(7.0));
        let lost = Moment {
            synced: false,
            ..after_a_restart
        };
        assert_eq!(known.age(&lost), None);
        // Stored before boots were noted: two unknown boots are not the same one.
        assert_eq!(Moment::at(5.0).age(&Moment::at(9.0)), Some(4.0));
    }
}
