//! The clock: stamps, and how far they can be trusted.
//!
//! Deadlines use `Instant`; ages use [`Moment::age`]. The wall clock only stamps, because a board
//! without a battery starts in the past and jumps when NTP answers. `judge` decides whether it is
//! right, `machine` asks the kernel, `watch` notices changes.
//!
//! A machine has one clock, so what is known of it is the process's, not some room's.

mod judge;
mod machine;
mod watch;

use std::sync::{LazyLock, Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use tokio::sync::watch as channel;

pub use judge::{Change, JUMP, Judge, RELEASED, Sample, Trust};
pub use watch::watch;

#[cfg(test)]
pub(crate) use machine::simulated;

use crate::reading::Moment;

/// What is known of the clock; `None` before the first look.
static JUDGE: Mutex<Option<Judge>> = Mutex::new(None);

/// Counts the changes.
static CHANGES: LazyLock<channel::Sender<u64>> = LazyLock::new(|| channel::Sender::new(0));

/// Whether the wall clock can be trusted, as `/api/status` says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClockState {
    /// It is right, as far as anybody knows.
    Synced,
    /// It may be years off.
    Unsynced,
}

fn with<T>(act: impl FnOnce(&mut Judge) -> T) -> T {
    #[cfg(test)]
    if machine::simulated::is_on() {
        return machine::simulated::with(act);
    }
    let mut judge = JUDGE.lock().unwrap_or_else(PoisonError::into_inner);
    act(judge.get_or_insert_with(|| Judge::new(machine::boot(), &machine::sample(true))))
}

/// Now in Unix seconds, whatever the wall clock says; negative before 1970.
#[must_use]
pub fn unix_now() -> f64 {
    machine::wall()
}

/// No reading is older: 2020, Unix seconds.
const EARLIEST: f64 = 1_577_836_800.0;

/// How far ahead of the moment of its arrival a reading's time can be true, in seconds.
const AHEAD: f64 = 86_400.0;

/// Whether the time of a reading that came at `received` can be true; both Unix seconds.
#[must_use]
pub fn is_plausible(time: f64, received: f64) -> bool {
    (EARLIEST..=received.max(EARLIEST) + AHEAD).contains(&time)
}

/// Seconds since the machine's start. Only goes forward.
#[must_use]
pub fn uptime() -> f64 {
    machine::uptime()
}

/// Now, by every clock.
#[must_use]
pub fn now() -> Moment {
    let (wall, uptime) = (machine::wall(), machine::uptime());
    let (moment, surprised) =
        with(|judge| (judge.stamp(wall, uptime), !judge.expects(wall, uptime)));
    if surprised {
        look();
    }
    moment
}

/// Now, for asking how old something is. Not `synced` after a jump that is hard to believe.
#[must_use]
pub fn now_for_ages() -> Moment {
    let now = now();
    Moment {
        synced: now.synced && with(|judge| judge.is_steady(now.uptime)),
        ..now
    }
}

/// What is known of an earlier moment now: see [`Judge::corrected`].
#[must_use]
pub fn corrected(then: Moment) -> Moment {
    if then.synced {
        return then;
    }
    with(|judge| judge.corrected(then))
}

/// The wall clock at this uptime: Unix seconds. Keeps its value until the clock jumps.
#[must_use]
pub fn wall_at(uptime: f64) -> f64 {
    with(|judge| judge.wall_at(uptime))
}

/// Whether the wall clock can be trusted.
#[must_use]
pub fn state() -> ClockState {
    match with(|judge| judge.trust()) {
        Trust::Unsynced => ClockState::Unsynced,
        Trust::Assumed | Trust::Synced => ClockState::Synced,
    }
}

/// Hears of every jump, and of the clock becoming right or doubtful.
#[must_use]
pub fn changes() -> channel::Receiver<u64> {
    #[cfg(test)]
    if simulated::is_on() {
        return simulated::changes().subscribe();
    }
    CHANGES.subscribe()
}

/// Looks at the clock anew. Returns how far it is trusted.
fn look() -> Trust {
    let (change, trust) = with(|judge| {
        let change = judge.see(&machine::sample(false));
        (change, judge.trust())
    });
    if let Some(change) = change {
        log(&change);
        #[cfg(test)]
        if simulated::is_on() {
            simulated::changes().send_modify(|count| *count += 1);
            return trust;
        }
        CHANGES.send_modify(|count| *count += 1);
    }
    trust
}

fn log(change: &Change) {
    // Milliseconds are enough for a person.
    let by = (change.by * 1e3).round() / 1e3;
    match (change.was, change.now) {
        (Trust::Unsynced, Trust::Assumed | Trust::Synced) => {
            tracing::info!(
                corrected_by = by,
                "the clock is right now; what was taken before is stamped anew"
            );
        }
        (Trust::Assumed | Trust::Synced, Trust::Unsynced) => tracing::warn!(
            by,
            "the clock was set and nobody vouches for it; what is taken now is stamped anew once \
             it is right"
        ),
        _ => tracing::info!(by, "the clock was set"),
    }
}
