//! What the kernel says of this process (proc(5)).

/// Bytes that this process has caused to be written to block devices, by the kernel's account
/// (`write_bytes` in proc_pid_io(5)); 0 where the kernel keeps none.
#[must_use]
pub fn bytes_written() -> u64 {
    let Ok(io) = std::fs::read_to_string("/proc/self/io") else {
        return 0;
    };
    io.lines()
        .find_map(|line| line.strip_prefix("write_bytes: "))
        .and_then(|bytes| bytes.trim().parse().ok())
        .unwrap_or(0)
}
