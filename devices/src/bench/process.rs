//! Processes that the benchmark starts, and what the kernel says of them.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::time::timeout;

/// A hub stops within ten seconds; what takes longer is killed.
const STOP: Duration = Duration::from_secs(12);
/// `utime` and `stime` count in hundredths of a second on every architecture that Linux still
/// builds the hub for (`USER_HZ`).
const TICK: Duration = Duration::from_millis(10);

/// A child that ends with its owner.
#[derive(Debug)]
pub struct Process {
    name: &'static str,
    child: Child,
    pid: u32,
}

impl Process {
    /// Starts it.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn(name: &'static str, command: &mut Command) -> anyhow::Result<Self> {
        let child = command
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        let pid = child
            .id()
            .context("a child that has just begun has a pid")?;
        Ok(Self { name, child, pid })
    }

    /// The child itself, for its pipes.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// SIGTERM, then SIGKILL if that does not end it in time.
    ///
    /// # Errors
    /// When it had to be killed.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw);
        if let Some(pid) = pid {
            let _ = kill_process(pid, Signal::TERM);
        }
        match timeout(STOP, self.child.wait()).await {
            Ok(_) => Ok(()),
            Err(_) => {
                let _ = self.child.kill().await;
                bail!("{} did not stop within {} s", self.name, STOP.as_secs());
            }
        }
    }

    fn read(&self, file: &str) -> anyhow::Result<String> {
        let path = format!("/proc/{}/{file}", self.pid);
        std::fs::read_to_string(path)
            .with_context(|| format!("{} has ended before its time", self.name))
    }

    /// CPU time so far, user and system, of all its threads, in steps of 10 ms.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn cpu(&self) -> anyhow::Result<Duration> {
        let stat = self.read("stat")?;
        let ticks = cpu_ticks(&stat).context("/proc/PID/stat has no CPU times")?;
        Ok(TICK * ticks)
    }

    /// How often its threads have gone to sleep by themselves so far, which is how often they have
    /// been woken up.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn switches(&self) -> anyhow::Result<u64> {
        let threads = std::fs::read_dir(format!("/proc/{}/task", self.pid))
            .with_context(|| format!("{} has ended before its time", self.name))?;
        let mut sum = 0;
        for thread in threads {
            let status = std::fs::read_to_string(thread?.path().join("status"));
            // A thread that has ended meanwhile.
            let status = status.unwrap_or_default();
            sum += field(&status, "voluntary_ctxt_switches").unwrap_or_default();
        }
        Ok(sum)
    }

    /// Bytes that it made the kernel write to a disk so far (`write_bytes`).
    ///
    /// # Errors
    /// When the process is gone.
    pub fn written(&self) -> anyhow::Result<u64> {
        field(&self.read("io")?, "write_bytes").context("/proc/PID/io has no write_bytes")
    }

    /// Resident memory, bytes.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn rss(&self) -> anyhow::Result<u64> {
        let kib = field(&self.read("status")?, "VmRSS");
        Ok(kib.context("/proc/PID/status has no VmRSS")? * 1024)
    }

    /// The most resident memory since the start or [`forget_peak`](Self::forget_peak), bytes.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn peak(&self) -> anyhow::Result<u64> {
        let kib = field(&self.read("status")?, "VmHWM");
        Ok(kib.context("/proc/PID/status has no VmHWM")? * 1024)
    }

    /// Lets the peak begin at what is resident now, where the kernel allows it.
    pub fn forget_peak(&self) {
        let _ = std::fs::write(format!("/proc/{}/clear_refs", self.pid), "5");
    }
}

/// `utime + stime` of `/proc/PID/stat`. The name before them may hold anything but ends at the
/// last parenthesis.
fn cpu_ticks(stat: &str) -> Option<u32> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11);
    let user: u32 = fields.next()?.parse().ok()?;
    let system: u32 = fields.next()?.parse().ok()?;
    Some(user + system)
}

/// The number behind `name:`.
fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let value = line.strip_prefix(name)?.strip_prefix(':')?;
        value.split_whitespace().next()?.parse().ok()
    })
}

/// Finds a program on the PATH, or where Debian keeps daemons.
#[must_use]
pub fn find(program: &str) -> Option<std::path::PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain([Path::new("/usr/sbin").into(), "/usr/local/sbin".into()])
        .map(|dir| dir.join(program))
        .find(|file| file.is_file())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn cpu_times_are_found_behind_a_name_with_blanks_and_parentheses() {
        let stat = "42 (a) b (c) S 1 42 42 0 -1 4194304 100 0 0 0 250 30 0 0 20 0 5 0 1 2 3";
        assert_eq!(cpu_ticks(stat), Some(280));
        assert_eq!(cpu_ticks("42 (x) S 1"), None);
    }

    #[test]
    fn a_field_is_the_number_behind_its_name() {
        let text = "rchar: 5\nwrite_bytes: 4096\ncancelled_write_bytes: 7\n";
        assert_eq!(field(text, "write_bytes"), Some(4096));
        assert_eq!(field("VmHWM:\t  2048 kB\n", "VmHWM"), Some(2048));
        assert_eq!(field(text, "nothing"), None);
    }

    #[tokio::test]
    async fn a_process_is_measured_and_stopped() {
        let mut command = Command::new("sleep");
        let process = Process::spawn("sleep", command.arg("60")).unwrap();
        // Two reads of a process that is just starting: it may have grown between them, so the peak
        // is only compared with what was read before it.
        let before = process.rss().unwrap();
        assert!(before > 0);
        assert!(process.peak().unwrap() >= before);
        process.cpu().unwrap();
        process.stop().await.unwrap();
    }
}
