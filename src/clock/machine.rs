//! What this machine says of its clock.

use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};

use super::judge::{RELEASED, Sample};
use crate::reading::Boot;

/// Battery clocks that are looked at. Boards have one, seldom two.
const BATTERY_CLOCKS: u8 = 4;

/// Seconds. A battery clock that has kept running agrees better, after years without NTP; one
/// that has lost its power is decades off.
const AGREES: f64 = 24.0 * 3600.0;

/// Seconds. Two clocks that are read in this time are read at once.
const AT_ONCE: f64 = 0.001;

/// The wall clock in Unix seconds, negative before 1970.
pub(super) fn wall() -> f64 {
    #[cfg(test)]
    if let Some(now) = simulated::now() {
        return now.wall;
    }
    match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(since) => since.as_secs_f64(),
        Err(before) => -before.duration().as_secs_f64(),
    }
}

/// Seconds since the machine's start, suspended time included.
pub(super) fn uptime() -> f64 {
    #[cfg(test)]
    if let Some(now) = simulated::now() {
        return now.uptime;
    }
    let time = clock_gettime(ClockId::Boottime);
    #[expect(clippy::cast_precision_loss, reason = "seconds of some centuries fit")]
    let seconds = time.tv_sec as f64;
    #[expect(clippy::cast_precision_loss, reason = "less than a billion")]
    let nanos = time.tv_nsec as f64;
    seconds + nanos / 1e9
}

/// Wall clock and uptime at one moment, even on a machine that is busy with other things.
fn both() -> (f64, f64) {
    /// More would not help.
    const ATTEMPTS: u32 = 8;
    let mut best = (0.0, 0.0);
    let mut shortest = f64::INFINITY;
    for _ in 0..ATTEMPTS {
        let (before, wall, after) = (uptime(), wall(), uptime());
        if after - before < shortest {
            shortest = after - before;
            best = (wall, before.midpoint(after));
        }
        if shortest < AT_ONCE {
            break;
        }
    }
    best
}

/// Looks at everything. `first`: nothing has been able to set the clock since the start that
/// this process knows of.
pub(super) fn sample(first: bool) -> Sample {
    #[cfg(test)]
    if let Some(now) = simulated::now() {
        return now;
    }
    let (wall, uptime) = both();
    let flag = kernel::says_synchronised().or_else(timesyncd_says);
    Sample {
        wall,
        uptime,
        flag,
        vouched: flag != Some(true)
            && wall >= RELEASED
            && (battery_agrees(wall) || (first && is_virtual())),
    }
}

/// Where the kernel may not be asked (systemd's `ProtectClock`), the daemon that tells it may have
/// left a sign, systemd-timesyncd.service(8). `/run` is empty after each start.
fn timesyncd_says() -> Option<bool> {
    let there = |path| fs::File::open(path).is_ok();
    there("/run/systemd/timesync").then(|| there("/run/systemd/timesync/synchronized"))
}

/// Whether the kernel took the time from a battery clock at the start (`hctosys`), and that clock
/// still says so. Without a battery it says 1970 or 2000 after a power cut, whatever the system
/// has made of that meanwhile.
fn battery_agrees(wall: f64) -> bool {
    (0..BATTERY_CLOCKS).any(|n| {
        let read = |name| fs::read_to_string(format!("/sys/class/rtc/rtc{n}/{name}")).ok();
        if read("hctosys").as_deref().map(str::trim) != Some("1") {
            return false;
        }
        let seconds = read("since_epoch").and_then(|text| text.trim().parse::<f64>().ok());
        seconds.is_some_and(|seconds| (seconds - wall).abs() < AGREES)
    })
}

/// Whether this is a virtual machine (x86): its host gave it the time when it started. Those of
/// other kinds have a battery clock that the host answers for.
fn is_virtual() -> bool {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let mut flags = info.lines().filter(|line| line.starts_with("flags"));
    flags
        .next()
        .is_some_and(|line| line.split_whitespace().any(|flag| flag == "hypervisor"))
}

/// Which start of the machine this is. Where that cannot be read it is taken for one of its own,
/// so that nothing is compared with uptimes of another.
pub(super) fn boot() -> Boot {
    use std::hash::{BuildHasher, RandomState};
    let read = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok();
    read.and_then(|text| Boot::parse(&text)).unwrap_or_else(|| {
        let random = || u128::from(RandomState::new().hash_one(0));
        Boot::from_bytes(((random() << 64) | random()).to_be_bytes())
    })
}

/// A machine that a test sets, with a judge of its own, for the calling thread.
#[cfg(test)]
pub(crate) mod simulated {
    use std::cell::{Cell, RefCell};

    use tokio::sync::watch;

    use crate::clock::judge::{Judge, Sample};
    use crate::reading::Boot;

    thread_local! {
        static NOW: Cell<Option<Sample>> = const { Cell::new(None) };
        static JUDGE: RefCell<Option<Judge>> = const { RefCell::new(None) };
        static CHANGES: watch::Sender<u64> = watch::Sender::new(0);
    }

    pub(in crate::clock) fn changes() -> watch::Sender<u64> {
        CHANGES.with(Clone::clone)
    }

    pub(super) fn now() -> Option<Sample> {
        NOW.get()
    }

    pub(in crate::clock) fn is_on() -> bool {
        NOW.get().is_some()
    }

    pub(in crate::clock) fn with<T>(act: impl FnOnce(&mut Judge) -> T) -> T {
        JUDGE.with_borrow_mut(|judge| act(judge.as_mut().expect("a process has begun")))
    }

    /// Sets the clocks; `None`: the real ones.
    pub(crate) fn set(now: Option<Sample>) {
        NOW.set(now);
    }

    /// A process begins, in this start of the machine.
    pub(crate) fn begin(boot: u64) {
        let boot = Boot::from_bytes((u128::from(boot) + 1).to_be_bytes());
        if let Some(now) = NOW.get() {
            JUDGE.with_borrow_mut(|judge| *judge = Some(Judge::new(boot, &now)));
        }
    }
}

mod kernel {
    #![allow(unsafe_code)]

    /// Whether the kernel calls the clock synchronised; `None`: it may not be asked.
    pub(super) fn says_synchronised() -> Option<bool> {
        // SAFETY: `timex` is integers all through, for which zero is a value.
        let mut answer: libc::timex = unsafe { std::mem::zeroed() };
        // `modes` is 0: adjtimex(2) only reads, and needs no privilege for that.
        // SAFETY: the kernel writes one `timex` to where one is.
        let state = unsafe { libc::adjtimex(&raw mut answer) };
        (state >= 0).then_some(answer.status & libc::STA_UNSYNC == 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_can_be_asked() {
        let (wall, uptime) = both();
        assert!(uptime > 0.0 && self::uptime() >= uptime);
        assert_eq!(boot(), boot());
        assert_ne!(boot(), Boot::UNKNOWN);
        assert!((sample(true).wall - wall).abs() < 60.0);
    }
}
