//! Noticing that the clock was set, or has become right, while nothing arrives.
//!
//! The kernel wakes whoever waits for that: a timer on the wall clock with
//! `TFD_TIMER_CANCEL_ON_SET`, timerfd_create(2), which never runs out. The flag alone has no such
//! sign, so it is asked for as long as the clock is not known to be right.

use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use tokio::io::unix::AsyncFd;

use super::judge::Trust;
use super::{look, machine};

/// NTP answers within seconds of the network's coming; what is published before is marked.
const SOON: Duration = Duration::from_secs(1);

/// For so long the answer is awaited every moment.
const HOPE: Duration = Duration::from_secs(300);

/// Between looks after that.
const LATER: Duration = Duration::from_secs(10);

/// Between looks where the kernel wakes nobody.
const WITHOUT_TIMER: Duration = Duration::from_secs(60);

/// Watches the clock as long as it is polled. While the clock is right it never wakes by itself.
pub async fn watch() {
    let timer = Timer::new();
    if let Err(error) = &timer {
        tracing::debug!(%error, "the kernel does not tell when the clock is set");
    }
    let first = look();
    if machine::sample(false).flag.is_none() {
        tracing::info!(
            "nobody can be asked whether the clock is right: adjtimex is refused, and \
             systemd-timesyncd does not run; only jumps are noticed"
        );
    }
    if first == Trust::Unsynced {
        tracing::info!(
            "the clock is not synchronised; what is taken is stamped anew once it is, and marked \
             if it is published before"
        );
    }
    let mut trust = first;
    let mut doubted = Instant::now();
    loop {
        let pause = match (&timer, trust) {
            (_, Trust::Unsynced) if doubted.elapsed() < HOPE => Some(SOON),
            (_, Trust::Unsynced) => Some(LATER),
            (Ok(_), _) => None,
            (Err(_), _) => Some(WITHOUT_TIMER),
        };
        tokio::select! {
            () = was_set(timer.as_ref().ok()) => {}
            () = after(pause) => {}
        }
        let before = std::mem::replace(&mut trust, look());
        if before > trust {
            doubted = Instant::now();
        }
    }
}

async fn after(pause: Option<Duration>) {
    match pause {
        Some(pause) => tokio::time::sleep(pause).await,
        None => std::future::pending().await,
    }
}

async fn was_set(timer: Option<&Timer>) {
    if let Some(timer) = timer
        && timer.was_set().await.is_ok()
    {
        return;
    }
    std::future::pending().await
}

struct Timer(AsyncFd<OwnedFd>);

impl Timer {
    fn new() -> io::Result<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Realtime, flags)?;
        arm(&timer)?;
        #[allow(
            deprecated,
            reason = "what it warns of is a descriptor that changes or closes early; this one is owned"
        )]
        let timer = AsyncFd::new(timer)?;
        Ok(Self(timer))
    }

    /// Returns once somebody has set the clock. Cancel safe.
    async fn was_set(&self) -> io::Result<()> {
        let mut ready = self.0.readable().await?;
        // The read fails with ECANCELED, which is what was waited for.
        let _ = rustix::io::read(self.0.get_ref(), &mut [0; 8]);
        ready.clear_ready();
        arm(self.0.get_ref())
    }
}

/// Sets the timer to a time that does not come: the year 2255, about the kernel's last.
fn arm(timer: &OwnedFd) -> io::Result<()> {
    let never = Itimerspec {
        it_interval: Timespec::default(),
        it_value: Timespec {
            tv_sec: 9_000_000_000,
            tv_nsec: 0,
        },
    };
    let flags = TimerfdTimerFlags::ABSTIME | TimerfdTimerFlags::CANCEL_ON_SET;
    timerfd_settime(timer, flags, &never)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn a_clock_that_nobody_sets_wakes_nobody() {
        let timer = Timer::new().unwrap();
        let quiet = Duration::from_millis(50);
        assert!(tokio::time::timeout(quiet, timer.was_set()).await.is_err());
    }
}
