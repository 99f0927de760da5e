//! What the figures were measured on.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// Long enough for a disk that syncs ten times a second.
const SYNCING: Duration = Duration::from_secs(1);

/// Facts of this machine.
#[derive(Debug)]
pub struct Machine {
    cpu: String,
    cores: usize,
    kernel: String,
    /// Busy before anything was started: the load average of the last minute.
    load: String,
    disk: String,
    syncs: f64,
}

impl Machine {
    /// Looks around; `dir` is where the spool will be.
    ///
    /// # Errors
    /// When nothing can be written there.
    pub fn look(dir: &Path) -> anyhow::Result<Self> {
        let read = |path| std::fs::read_to_string(path).unwrap_or_default();
        let cpuinfo = read("/proc/cpuinfo");
        // ARM kernels name the board in `Model` where others have `model name`.
        let named = |name: &str| {
            cpuinfo.lines().find_map(|line| {
                let (key, value) = line.split_once(':')?;
                (key.trim() == name).then(|| value.trim().to_owned())
            })
        };
        let cpu = named("model name").or_else(|| named("Model"));
        let load = read("/proc/loadavg");
        Ok(Self {
            cpu: cpu.unwrap_or_else(|| "unknown CPU".into()),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            load: load.split(' ').next().unwrap_or_default().to_owned(),
            disk: file_system(&read("/proc/self/mountinfo"), dir),
            syncs: syncs_per_second(dir)?,
        })
    }

    /// For people.
    #[must_use]
    pub fn text(&self) -> String {
        format!(
            "{} × {}, Linux {}, spool on {}, {:.0} fdatasync/s of 4 KiB, load average {} at the start",
            self.cores, self.cpu, self.kernel, self.disk, self.syncs, self.load
        )
    }

    /// For scripts.
    #[must_use]
    pub fn json(&self) -> Value {
        json!({
            "cpu": self.cpu,
            "cores": self.cores,
            "kernel": self.kernel,
            "load_average": self.load,
            "file_system": self.disk,
            "syncs_per_second": self.syncs,
        })
    }
}

/// Type and device of the file system that holds `dir`.
fn file_system(mountinfo: &str, dir: &Path) -> String {
    let mut best = (0, "an unknown file system".to_owned());
    for line in mountinfo.lines() {
        let mount = line.split(' ').nth(4).unwrap_or_default();
        let Some((_, rest)) = line.split_once(" - ") else {
            continue;
        };
        let mut rest = rest.split(' ');
        let (kind, device) = (rest.next(), rest.next());
        // Of two mounts in the same place the later one is seen.
        if dir.starts_with(mount) && mount.len() >= best.0 {
            let text = format!("{} ({})", kind.unwrap_or("?"), device.unwrap_or("?"));
            best = (mount.len(), text);
        }
    }
    best.1
}

/// Appends of 4 KiB, each synced.
fn syncs_per_second(dir: &Path) -> anyhow::Result<f64> {
    let path = dir.join("sync");
    let mut file = File::create(&path)?;
    let since = Instant::now();
    let mut count = 0;
    while since.elapsed() < SYNCING {
        file.write_all(&[0x5a; 4096])?;
        file.sync_data()?;
        count += 1;
    }
    let rate = f64::from(count) / since.elapsed().as_secs_f64();
    std::fs::remove_file(path)?;
    Ok(rate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_system_is_the_one_mounted_closest() {
        let mountinfo = "22 1 254:0 / / rw shared:1 - ext4 /dev/root rw\n\
                         30 22 0:26 / /tmp rw - tmpfs tmpfs rw\n";
        let of = |dir| file_system(mountinfo, Path::new(dir));
        assert_eq!(of("/tmp/x"), "tmpfs (tmpfs)");
        assert_eq!(of("/tmpx"), "ext4 (/dev/root)");
    }
}
