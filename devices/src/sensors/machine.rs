//! This machine's own sensors, from `/proc` and `/sys`. What a machine does not have is left out.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Interval;

use super::{now, ticks};
use crate::client::Source;
use crate::wire::senml::{Pack, Record, name_of};

/// Disks that are reported; a machine with hundreds of mounts would fill a message.
const MAX_DISKS: usize = 16;
/// Network interfaces that are reported, for the same reason.
const MAX_INTERFACES: usize = 16;
/// Temperatures that are reported, for the same reason.
const MAX_TEMPERATURES: usize = 64;

/// Reads all sensors once per interval into one pack.
#[derive(Debug)]
pub struct Machine {
    base: Arc<str>,
    every: Duration,
    ticks: Option<Interval>,
    root: PathBuf,
    cpu: Option<CpuTime>,
}

impl Machine {
    /// Names are `id/sensor`.
    #[must_use]
    pub fn new(id: &str, every: Duration) -> Self {
        Self {
            base: format!("{}/", name_of(id)).into(),
            every,
            ticks: None,
            root: "/".into(),
            cpu: None,
        }
    }

    fn read(&mut self) -> Pack {
        let mut pack = Pack::new(self.base.clone(), Some(now()));
        let records = &mut pack.records;
        let text = |path: &str| fs::read_to_string(self.root.join(path)).ok();
        if let Some(stat) = text("proc/stat") {
            let time = CpuTime::parse(&stat);
            let busy = self.cpu.and_then(|before| time?.busy_since(before));
            if let Some(busy) = busy {
                records.push(Record::number("cpu", Some("/"), busy));
            }
            self.cpu = time;
        }
        if let Some(loads) = text("proc/loadavg") {
            load(&loads, records);
        }
        if let Some(info) = text("proc/meminfo") {
            memory(&info, records);
        }
        if let Some(seconds) = text("proc/uptime").and_then(|text| first_number(&text)) {
            records.push(Record::number("uptime", Some("s"), seconds));
        }
        if let Some(mounts) = text("proc/mounts") {
            disks(&mounts, records);
        }
        if let Some(dev) = text("proc/net/dev") {
            network(&dev, records);
        }
        temperatures(&self.root, records);
        pack
    }
}

impl Source for Machine {
    async fn next(&mut self) -> Option<Pack> {
        loop {
            ticks(&mut self.ticks, self.every).tick().await;
            let pack = self.read();
            // A machine without any of these files has nothing to say.
            if !pack.records.is_empty() {
                return Some(pack);
            }
        }
    }
}

fn first_number(text: &str) -> Option<f64> {
    text.split_whitespace().next()?.parse().ok()
}

/// Jiffies since boot, from the first line of `/proc/stat`.
#[derive(Debug, Clone, Copy, PartialEq)]
struct CpuTime {
    idle: u64,
    total: u64,
}

impl CpuTime {
    fn parse(stat: &str) -> Option<Self> {
        let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
        // user nice system idle iowait irq softirq steal; guest time is part of user time.
        let jiffies: Vec<u64> = line
            .split_whitespace()
            .take(8)
            .filter_map(|field| field.parse().ok())
            .collect();
        Some(Self {
            idle: jiffies.get(3)? + jiffies.get(4).unwrap_or(&0),
            total: jiffies.iter().sum(),
        })
    }

    /// The busy share of the time between two readings, 0 to 1.
    fn busy_since(self, before: Self) -> Option<f64> {
        let total = self
            .total
            .checked_sub(before.total)
            .filter(|total| *total > 0)?;
        let idle = self.idle.saturating_sub(before.idle).min(total);
        Some(round(1.0 - idle as f64 / total as f64, 1e4))
    }
}

fn round(value: f64, scale: f64) -> f64 {
    (value * scale).round() / scale
}

fn load(loads: &str, records: &mut Vec<Record>) {
    let names = ["load/1m", "load/5m", "load/15m"];
    for (name, field) in names.into_iter().zip(loads.split_whitespace()) {
        if let Ok(value) = field.parse() {
            records.push(Record::number(name, Some("1"), value));
        }
    }
}

fn memory(info: &str, records: &mut Vec<Record>) {
    let bytes = |key: &str| {
        let line = info.lines().find_map(|line| line.strip_prefix(key))?;
        Some(1024.0 * first_number(line)?)
    };
    for (name, key) in [
        ("memory/total", "MemTotal:"),
        ("memory/available", "MemAvailable:"),
    ] {
        if let Some(value) = bytes(key) {
            records.push(Record::number(name, Some("B"), value));
        }
    }
    if let (Some(total), Some(free)) = (bytes("SwapTotal:"), bytes("SwapFree:")) {
        records.push(Record::number("swap/used", Some("B"), total - free));
    }
}

/// File systems on block devices, each once. The space is what is left to unprivileged users.
fn disks(mounts: &str, records: &mut Vec<Record>) {
    let mut seen: Vec<&str> = Vec::new();
    for line in mounts.lines() {
        let mut fields = line.split(' ');
        let (Some(device), Some(at)) = (fields.next(), fields.next()) else {
            continue;
        };
        if !device.starts_with("/dev/") || seen.contains(&device) || seen.len() >= MAX_DISKS {
            continue;
        }
        let at = unescape(at);
        let Ok(stat) = rustix::fs::statvfs(at.as_str()) else {
            continue;
        };
        if stat.f_blocks == 0 {
            continue;
        }
        seen.push(device);
        let name = if at == "/" {
            "root".to_owned()
        } else {
            name_of(at.trim_matches('/'))
        };
        let block = stat.f_frsize as f64;
        let used = stat.f_blocks.saturating_sub(stat.f_bfree) as f64;
        let usable = used + stat.f_bavail as f64;
        records.push(Record::number(
            format!("disk/{name}/free"),
            Some("B"),
            stat.f_bavail as f64 * block,
        ));
        if usable > 0.0 {
            let share = round(used / usable, 1e4);
            records.push(Record::number(
                format!("disk/{name}/used"),
                Some("/"),
                share,
            ));
        }
    }
}

/// Mount points have blanks and the like as three octal digits.
fn unescape(text: &str) -> String {
    let mut out = text.to_owned();
    for (escaped, plain) in [
        ("\\040", " "),
        ("\\011", "\t"),
        ("\\012", "\n"),
        ("\\134", "\\"),
    ] {
        out = out.replace(escaped, plain);
    }
    out
}

fn network(dev: &str, records: &mut Vec<Record>) {
    let interfaces = dev.lines().skip(2).filter_map(|line| line.split_once(':'));
    for (name, counters) in interfaces
        .map(|(name, counters)| (name.trim(), counters))
        .filter(|(name, _)| *name != "lo")
        .take(MAX_INTERFACES)
    {
        let counters: Vec<f64> = counters
            .split_whitespace()
            .filter_map(|field| field.parse().ok())
            .collect();
        let name = name_of(name);
        for (which, column) in [("received", 0), ("sent", 8)] {
            if let Some(value) = counters.get(column) {
                records.push(Record::number(
                    format!("net/{name}/{which}"),
                    Some("B"),
                    *value,
                ));
            }
        }
    }
}

/// Millidegrees in `thermal_zone*/temp` and `hwmon*/temp*_input`.
fn temperatures(root: &Path, records: &mut Vec<Record>) {
    let mut found: Vec<(String, f64)> = Vec::new();
    for zone in entries(&root.join("sys/class/thermal"), "thermal_zone") {
        let kind = fs::read_to_string(zone.join("type")).unwrap_or_default();
        if let Some(value) = millidegrees(&zone.join("temp")) {
            found.push((format!("temperature/{}", name_of(&kind)), value));
        }
    }
    for chip in entries(&root.join("sys/class/hwmon"), "hwmon") {
        let kind = name_of(&fs::read_to_string(chip.join("name")).unwrap_or_default());
        for input in entries(&chip, "temp") {
            let file = input
                .file_name()
                .and_then(|name| name.to_str())
                .unwrap_or_default();
            let Some(sensor) = file.strip_suffix("_input") else {
                continue;
            };
            let label = fs::read_to_string(chip.join(format!("{sensor}_label")));
            let label = label.map_or_else(|_| sensor.to_owned(), |label| name_of(&label));
            if let Some(value) = millidegrees(&input) {
                found.push((format!("temperature/{kind}/{label}"), value));
            }
        }
    }
    // Two sensors of one name, such as two disks of one model, are told apart by a number.
    found.truncate(MAX_TEMPERATURES);
    for index in 0..found.len() {
        let (before, rest) = found.split_at(index);
        let (name, value) = &rest[0];
        let same = before.iter().filter(|(other, _)| other == name).count();
        let name = if same == 0 {
            name.clone()
        } else {
            format!("{name}.{}", same + 1)
        };
        records.push(Record::number(name, Some("Cel"), *value));
    }
}

/// Entries of a directory that begin with `prefix`, in order; none where there is no directory.
fn entries(directory: &Path, prefix: &str) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = fs::read_dir(directory)
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| {
            let name = path.file_name().and_then(|name| name.to_str());
            name.is_some_and(|name| name.starts_with(prefix))
        })
        .collect();
    found.sort();
    found
}

fn millidegrees(file: &Path) -> Option<f64> {
    // Some sensors exist but cannot be read while their device sleeps.
    Some(first_number(&fs::read_to_string(file).ok()?)? / 1000.0)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::wire::senml::Value;

    fn values(records: &[Record]) -> Vec<(String, f64)> {
        records
            .iter()
            .map(|record| match record.value {
                Value::Number(value) => (record.name.to_string(), value),
                _ => panic!("no number"),
            })
            .collect()
    }

    #[test]
    fn cpu_load_is_the_busy_share_between_two_readings() {
        let before = CpuTime::parse("cpu  100 0 100 700 100 0 0 0 0 0\ncpu0 1 2 3\n").unwrap();
        let after = CpuTime::parse("cpu  150 0 125 715 110 0 0 0 50 0\n").unwrap();
        assert_eq!(after.busy_since(before), Some(0.75));
        assert_eq!(after.busy_since(after), None);
        assert_eq!(before.busy_since(after), None);
        assert_eq!(CpuTime::parse("nonsense"), None);
    }

    #[test]
    fn memory_load_and_network_are_read_from_their_files() {
        let mut records = Vec::new();
        memory(
            "MemTotal: 1000 kB\nMemAvailable: 600 kB\nSwapTotal: 10 kB\nSwapFree: 4 kB\n",
            &mut records,
        );
        load("0.25 0.30 0.33 1/92 12273\n", &mut records);
        network(
            "Inter-|   Receive\n face |bytes\n    lo: 1 2 3 4 5 6 7 8 9 10\n  \
             eth0.1:100 2 3 4 5 6 7 8 900 10\n",
            &mut records,
        );
        let expected = [
            ("memory/total", 1_024_000.0),
            ("memory/available", 614_400.0),
            ("swap/used", 6144.0),
            ("load/1m", 0.25),
            ("load/5m", 0.3),
            ("load/15m", 0.33),
            ("net/eth0.1/received", 100.0),
            ("net/eth0.1/sent", 900.0),
        ];
        let got = values(&records);
        assert_eq!(got, expected.map(|(name, value)| (name.to_owned(), value)));
    }

    #[test]
    fn temperatures_come_from_both_trees_and_have_names_of_their_own() {
        let root = std::env::temp_dir().join(format!("devices-machine-{}", std::process::id()));
        for (file, text) in [
            ("sys/class/thermal/thermal_zone0/type", "cpu-thermal\n"),
            ("sys/class/thermal/thermal_zone0/temp", "48312\n"),
            ("sys/class/thermal/cooling_device0/type", "fan\n"),
            ("sys/class/hwmon/hwmon0/name", "nvme\n"),
            ("sys/class/hwmon/hwmon0/temp1_input", "30000\n"),
            ("sys/class/hwmon/hwmon0/temp1_label", "Composite\n"),
            ("sys/class/hwmon/hwmon1/name", "nvme\n"),
            ("sys/class/hwmon/hwmon1/temp1_input", "-1500\n"),
            ("sys/class/hwmon/hwmon1/temp1_label", "Composite\n"),
            ("sys/class/hwmon/hwmon1/temp2_input", "asleep\n"),
        ] {
            let file = root.join(file);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        }
        let mut records = Vec::new();
        temperatures(&root, &mut records);
        fs::remove_dir_all(&root).unwrap();
        let expected = [
            ("temperature/cpu-thermal", 48.312),
            ("temperature/nvme/Composite", 30.0),
            ("temperature/nvme/Composite.2", -1.5),
        ];
        let got = values(&records);
        assert_eq!(got, expected.map(|(name, value)| (name.to_owned(), value)));
    }

    #[test]
    fn a_machine_with_nothing_to_read_is_no_error() {
        let mut machine = Machine::new("x", Duration::from_secs(1));
        machine.root = "/nonexistent".into();
        assert!(machine.read().records.is_empty());
    }

    #[tokio::test]
    async fn this_machine_has_something_to_say() {
        let mut machine = Machine::new("this", Duration::from_millis(5));
        let pack = machine.next().await.unwrap();
        assert_eq!(&*pack.base_name, "this/");
        assert!(
            pack.records
                .iter()
                .any(|record| record.name == "memory/total")
        );
    }
}
