//! Giving memory back to the system.
//!
//! glibc keeps what is freed for the next time. After ten thousand devices have connected at once,
//! or a long backlog has drained, that is tens of megabytes on a board that may have 512. So when
//! the hub has been through something large and is quiet again, the free part is given back.

use std::time::Duration;

use crate::status::board::Board;
use crate::stop::Stop;

/// How often the hub looks whether there is something to give back. A trim takes about a
/// millisecond; an idle hub does none.
const LOOK: Duration = Duration::from_secs(10);

/// Connections and batches in one such time that are no reason to wait: there is always someone
/// who sends.
const CALM: u64 = 1_000;

/// Fewer arenas keep less: every thread that allocates would get one of its own otherwise, and
/// the threads of the storage engine are many and short-lived.
const ARENAS: i32 = 2;

/// Call once, before other threads begin.
pub fn prepare() {
    allocator::limit_arenas(ARENAS);
}

/// Trims after every stretch of activity until the stop is asked for. The timer is the only work
/// of an idle hub for this.
pub async fn keep_small(board: &Board, mut stop: Stop) {
    let mut known = board.activity();
    // What starting took can go as well.
    let mut trimmed = false;
    loop {
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            () = stop.requested() => return,
        }
        board.watch_days();
        let now = board.activity();
        let calm = now.wrapping_sub(known) < CALM;
        if calm && !trimmed {
            allocator::trim();
        }
        trimmed = calm;
        known = now;
    }
}

#[cfg(target_env = "gnu")]
mod allocator {
    #![allow(unsafe_code)]

    pub(super) fn limit_arenas(arenas: i32) {
        // SAFETY: mallopt(3) only sets a parameter of the allocator and may be called at any time.
        unsafe {
            libc::mallopt(libc::M_ARENA_MAX, arenas);
        }
    }

    pub(super) fn trim() {
        // SAFETY: malloc_trim(3) takes the allocator's own locks and touches no memory in use.
        unsafe {
            libc::malloc_trim(0);
        }
    }
}

#[cfg(not(target_env = "gnu"))]
mod allocator {
    pub(super) fn limit_arenas(_: i32) {}
    pub(super) fn trim() {}
}
