//! What the kernel says of this process (proc(5)). Where it says nothing, it is 0.

use std::fs;

use rustix::param::page_size;
use rustix::process::{Resource, getrlimit};
use rustix::time::{ClockId, clock_gettime};

/// Bytes that this process has caused to be written to block devices, by the kernel's account
/// (`write_bytes` in proc_pid_io(5)); 0 where the kernel keeps none.
#[must_use]
pub fn bytes_written() -> u64 {
    let Ok(io) = fs::read_to_string("/proc/self/io") else {
        return 0;
    };
    io.lines()
        .find_map(|line| line.strip_prefix("write_bytes: "))
        .and_then(|bytes| bytes.trim().parse().ok())
        .unwrap_or(0)
}

/// Virtual and resident memory in bytes (proc_pid_statm(5)).
#[must_use]
pub fn memory() -> (u64, u64) {
    let statm = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let mut pages = statm.split(' ').map(|pages| pages.parse().unwrap_or(0));
    let mut bytes = || pages.next().unwrap_or(0) * page_size() as u64;
    (bytes(), bytes())
}

/// Seconds of processor time, of all threads together.
#[must_use]
pub fn cpu_seconds() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    #[expect(
        clippy::cast_precision_loss,
        reason = "nanoseconds of a second, seconds of a life"
    )]
    let seconds = time.tv_sec as f64 + time.tv_nsec as f64 / 1e9;
    seconds
}

/// Open file descriptors, and how many there may be.
#[must_use]
pub fn descriptors() -> (u64, u64) {
    // One of them is the directory's own.
    let open = fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count().saturating_sub(1));
    let most = getrlimit(Resource::Nofile).current.unwrap_or(0);
    (open as u64, most)
}
