//! Whether the wall clock is right, from what the machine says of it. Pure.
//!
//! The wall clock minus the uptime (`CLOCK_BOOTTIME`) is a number that changes only when somebody
//! sets the clock: both run at the same speed, whatever NTP does to that. Call it the offset. The
//! question is whether the offset is right, and one answer holds until the next jump. So:
//!
//! * The clock is *synced* once the kernel says so (`STA_UNSYNC` is clear, adjtimex(2)), or
//!   something else vouches for it, see [`Sample::vouched`].
//! * It stays synced until it jumps. The kernel takes its word back after nine hours without an
//!   NTP server, which is what an outage of the uplink looks like; a clock that was right and has
//!   not been touched is still right to within its drift.
//! * After a jump it is synced if the kernel says so, or if it is back where it was right.
//! * Where the kernel cannot be asked there are only the jumps: the clock is *assumed* to be right
//!   unless it stands before this program's own time. What arrives is not noted as synced then.

use crate::reading::{Boot, Moment};

/// Seconds. The clock has jumped when it moves further against the uptime; less is a leap second
/// or how long it takes to read two clocks.
pub const JUMP: f64 = 1.0;

/// Seconds. What two clocks read one after the other may seem to move apart.
const NOISE: f64 = 0.01;

/// Unix seconds. This program is from a later time, 2026-11-01: no clock before it is right.
pub const RELEASED: f64 = 1_793_491_200.0;

/// Seconds. A clock that was right and moves so far is not believed at once when data would be
/// thrown away for it, whoever vouches for it: see [`Judge::is_steady`].
const INCREDIBLE: f64 = 24.0 * 3600.0;

/// Seconds for which it is not believed. In an hour somebody has put an NTP server right, or the
/// new time is there to stay.
const DOUBT: f64 = 3600.0;

/// What the machine says at one moment.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sample {
    /// The wall clock: Unix seconds.
    pub wall: f64,
    /// Seconds since the machine's start.
    pub uptime: f64,
    /// Whether the kernel calls the clock synchronised; `None`: it may not be asked.
    pub flag: Option<bool>,
    /// Something that runs without power says the same time: a battery clock, or the host of a
    /// virtual machine.
    pub vouched: bool,
}

impl Sample {
    fn offset(&self) -> f64 {
        self.wall - self.uptime
    }

    fn trust(&self) -> Trust {
        match self.flag {
            Some(true) => Trust::Synced,
            _ if self.vouched && self.wall >= RELEASED => Trust::Synced,
            None if self.wall >= RELEASED => Trust::Assumed,
            _ => Trust::Unsynced,
        }
    }
}

/// How far the wall clock is to be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Trust {
    /// It may be years off.
    Unsynced,
    /// Nothing speaks against it, and nobody can be asked.
    Assumed,
    /// It is right.
    Synced,
}

/// Something has changed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Change {
    /// Seconds by which the wall clock was put forward (back, if negative).
    pub by: f64,
    /// How far it was trusted.
    pub was: Trust,
    /// How far it is.
    pub now: Trust,
}

/// See the module.
#[derive(Debug, Clone, PartialEq)]
pub struct Judge {
    boot: Boot,
    offset: f64,
    trust: Trust,
    /// The offset when the clock was last known to be right.
    right: Option<f64>,
    /// The uptime until which ages by the wall clock are not believed.
    doubt_until: f64,
}

impl Judge {
    /// Of this boot, by a first look.
    #[must_use]
    pub fn new(boot: Boot, first: &Sample) -> Self {
        let trust = first.trust();
        let offset = first.offset();
        Self {
            boot,
            offset,
            trust,
            right: (trust == Trust::Synced).then_some(offset),
            doubt_until: f64::NEG_INFINITY,
        }
    }

    /// A further look.
    pub fn see(&mut self, sample: &Sample) -> Option<Change> {
        let by = sample.offset() - self.offset;
        let jumped = by.abs() > JUMP;
        let back = |right: f64| (sample.offset() - right).abs() <= JUMP;
        let was = self.trust;
        self.trust = if self.right.is_some_and(back) {
            Trust::Synced
        } else if jumped {
            sample.trust()
        } else {
            was.max(sample.trust())
        };
        if by.abs() > NOISE {
            self.offset = sample.offset();
        }
        if self.trust == Trust::Synced {
            self.right = Some(self.offset);
        }
        if was == Trust::Synced && by.abs() > INCREDIBLE {
            self.doubt_until = sample.uptime + DOUBT;
        }
        (jumped || self.trust != was).then_some(Change {
            by,
            was,
            now: self.trust,
        })
    }

    /// How far the wall clock is trusted.
    #[must_use]
    pub fn trust(&self) -> Trust {
        self.trust
    }

    /// Whether the wall clock stands where it stood at the last look; if not, another is due.
    #[must_use]
    pub fn expects(&self, wall: f64, uptime: f64) -> bool {
        (wall - uptime - self.offset).abs() <= JUMP
    }

    /// The moment of these two times.
    #[must_use]
    pub fn stamp(&self, wall: f64, uptime: f64) -> Moment {
        Moment {
            wall,
            uptime,
            boot: self.boot,
            synced: self.trust == Trust::Synced && self.expects(wall, uptime),
        }
    }

    /// What is known of an earlier moment now. One that was right stays as it is. One of this boot
    /// follows from its uptime, and is right if the clock is. One of an earlier boot stays, and
    /// stays in doubt.
    #[must_use]
    pub fn corrected(&self, then: Moment) -> Moment {
        if then.synced || then.boot != self.boot {
            return then;
        }
        Moment {
            wall: self.wall_at(then.uptime),
            synced: self.trust > Trust::Unsynced,
            ..then
        }
    }

    /// The wall clock at this uptime, as it stands now.
    #[must_use]
    pub fn wall_at(&self, uptime: f64) -> f64 {
        self.offset + uptime
    }

    /// Whether the wall clock may be asked how old something from an earlier boot is.
    #[must_use]
    pub fn is_steady(&self, uptime: f64) -> bool {
        uptime >= self.doubt_until
    }
}

#[cfg(test)]
#[path = "judge_tests.rs"]
mod tests;
