//! What a flash card has to write in an outage, at the block device: what a process is charged with
//! (`write_bytes`) leaves out the journal of the file system, which is most of it.
//!
//! On a file system of its own, ext4 in a file, so that nobody else's writes count. Needs root, a
//! loop device and mkfs.ext4; without them it says so and measures nothing.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::Context;
use rustix::fs::{major, minor, syncfs};

use super::broker;
use super::hub::{Hub, More};
use super::load::{self, Load, Outcome};
use super::table::Bound::AtMost;
use super::table::{Figure, Table};
use super::{Setup, finish};

/// Bytes of the file system: more than `spool.min_free`, and sparse.
const SIZE: u64 = 1 << 30;

/// The figure that the project sets itself for a lone commit.
const LONE: u64 = 8_000;

/// One that comes a second after the one before. To it alone goes what the file system writes of
/// itself each few seconds; commits in quick succession share that.
const LONE_RATE: f64 = 1.0;
const LONE_TIME: Duration = Duration::from_secs(60);

/// Ten sensors, one batch of one reading each ten seconds.
const SENSORS: usize = 10;
const PERIOD: Duration = Duration::from_secs(10);

/// So long, for each interval. Begins when all sensors have sent something.
const WATCHED: Duration = Duration::from_secs(120);

/// Settings of `spool.commit_interval`.
const INTERVALS: [&str; 3] = ["0s", "1s", "10s"];

const DAY: f64 = 86_400.0;

/// Lone commits, and a day of ten sensors.
pub async fn measure(setup: &Setup, table: &mut Table) -> anyhow::Result<()> {
    let group = "flash, in an outage";
    eprintln!("{group}");
    let Some(disk) = Disk::new(&setup.dir.child("flash")?) else {
        table.note("flash was not measured: it needs root, a loop device and mkfs.ext4".to_owned());
        return Ok(());
    };
    let load = Load {
        devices: 1,
        batch: 1,
        rate: 0.0,
        window: Some(1),
        time: setup.time,
    };
    let quick = lone(setup, &disk, "quick", &load, table).await?;
    let what = "the device writes for a lone commit, one after the other";
    let bound = AtMost(Figure::Bytes(LONE));
    table.bound(group, what, Figure::Bytes(quick.0), bound);
    let what = "… of that by write_bytes";
    table.told(group, what, Figure::Bytes(quick.1));
    let load = Load {
        rate: LONE_RATE,
        time: LONE_TIME,
        ..load
    };
    let slow = lone(setup, &disk, "slow", &load, table).await?;
    table.told(group, "… one a second", Figure::Bytes(slow.0));
    table.told(group, what, Figure::Bytes(slow.1));
    for interval in INTERVALS {
        let load = Load {
            devices: SENSORS,
            rate: 1.0 / PERIOD.as_secs_f64(),
            window: None,
            time: WATCHED,
            ..load
        };
        let name = format!("sensors-{interval}");
        let (_, written, _) = outage(setup, &disk, &name, interval, &load, table).await?;
        let day = written * DAY / WATCHED.as_secs_f64();
        let what = format!("ten sensors, a day at commit_interval {interval}");
        table.told(group, what, Figure::Bytes(day as u64));
    }
    Ok(())
}

/// What the device wrote for each commit of a load, and what of it the kernel charged the hub with.
async fn lone(
    setup: &Setup,
    disk: &Disk,
    name: &str,
    load: &Load,
    table: &mut Table,
) -> anyhow::Result<(u64, u64)> {
    let (outcome, written, charged) = outage(setup, disk, name, "0s", load, table).await?;
    let commits = outcome.readings().max(1.0);
    Ok(((written / commits) as u64, (charged / commits) as u64))
}

/// A hub without a broker takes a load: what came of it, what the device wrote, and what of it the
/// kernel charged the hub with.
async fn outage(
    setup: &Setup,
    disk: &Disk,
    name: &str,
    interval: &str,
    load: &Load,
    table: &mut Table,
) -> anyhow::Result<(Outcome, f64, f64)> {
    let dir = disk.path.join(name);
    std::fs::create_dir(&dir)?;
    // Left out where it is the default, so that older hubs can be measured as well.
    let keys = match interval {
        "0s" => String::new(),
        _ => format!("commit_interval = \"{interval}\"\n"),
    };
    let more = More {
        spool: &keys,
        ..More::default()
    };
    let hub = Hub::start_with(&setup.hub, &dir, broker::free_port()?, more).await?;
    // The first database is made, which an outage costs once.
    let first = Load {
        time: Duration::from_millis(200),
        rate: 10.0,
        ..*load
    };
    load::run(&hub.url, &first).await?;
    disk.sync()?;
    let before = (disk.written()?, hub.process.written()?);
    let outcome = load::run(&hub.url, load).await?;
    disk.sync()?;
    let written = disk.written()? - before.0;
    let charged = hub.process.written()? - before.1;
    finish(hub, table, "flash").await?;
    Ok((outcome, written as f64, charged as f64))
}

/// A file system of its own, mounted while this lives.
struct Disk {
    path: PathBuf,
}

impl Disk {
    fn new(dir: &Path) -> Option<Self> {
        let (image, path) = (dir.join("image"), dir.join("disk"));
        File::create(&image)
            .and_then(|file| file.set_len(SIZE))
            .ok()?;
        std::fs::create_dir_all(&path).ok()?;
        let (image, mounted) = (image.to_str()?, path.to_str()?);
        let made = run("mkfs.ext4", &["-q", "-F", "-m", "0", "-b", "4096", image])
            && run("mount", &["-o", "loop", image, mounted]);
        made.then_some(Self { path })
    }

    /// All that waits goes to the device.
    fn sync(&self) -> anyhow::Result<()> {
        syncfs(File::open(&self.path)?).context("cannot sync the disk")
    }

    /// Bytes that the device was told to write so far.
    fn written(&self) -> anyhow::Result<u64> {
        /// The kernel counts in these, whatever the device has.
        const SECTOR: u64 = 512;
        let dev = std::fs::metadata(&self.path)?.dev();
        let stat = format!("/sys/dev/block/{}:{}/stat", major(dev), minor(dev));
        let text = std::fs::read_to_string(&stat).context(stat)?;
        let sectors = text.split_whitespace().nth(6).and_then(|n| n.parse().ok());
        let sectors: u64 = sectors.context("the device does not say what it wrote")?;
        Ok(sectors * SECTOR)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if let Some(path) = self.path.to_str() {
            run("umount", &["-l", path]);
        }
    }
}

fn run(program: &str, args: &[&str]) -> bool {
    let Some(program) = super::process::find(program) else {
        return false;
    };
    let status = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    status.is_ok_and(|status| status.success())
}
