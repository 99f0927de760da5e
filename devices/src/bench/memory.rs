//! Resident memory of the hub: idle, with silent connections, with a full spool; and how long a
//! start takes.

use std::fs::File;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use rustix::fs::{Advice, fadvise};
use rustix::process::{Resource, getrlimit};
use tokio::time::sleep;

use super::hub::{Hub, More};
use super::load::{self, Load};
use super::table::Bound::{AtMost, Below};
use super::table::{Figure, Table};
use super::tls::{self, Certificate};
use super::{Setup, broker, finish};

/// How much the spool holds on disk, in the benchmark and for the footprint.
pub const FULL: u64 = 500_000_000;
/// Readings in a batch that fills the spool: frames of about 10 KiB, so that this takes seconds.
const LARGE: usize = 500;
/// What was in use a moment ago is given back.
const SETTLE: Duration = Duration::from_secs(2);
/// Devices wait at most so long for a hub that starts, whatever it has stored.
const READY: Duration = Duration::from_secs(1);
/// Files of a process beside its connections.
const OTHER_FILES: u64 = 100;

/// Numbers of connections, and what they may take in bytes where there is a bound.
pub type Crowds = &'static [(u64, Option<u64>)];

/// The benchmark's.
pub const CROWDS: Crowds = &[(1_000, None), (10_000, Some(75_000_000))];

/// With TLS, and what they may take.
const WITH_TLS: (u64, u64) = (10_000, 140_000_000);

/// Idle, and with so many connections.
pub async fn connections(setup: &Setup, table: &mut Table, crowds: Crowds) -> anyhow::Result<()> {
    let group = "memory";
    eprintln!("{group}");
    let (hub, broker) = setup.hub("connections").await?;
    sleep(SETTLE).await;
    let idle = Figure::Bytes(hub.process.rss()?);
    table.bound(group, "an idle hub", idle, Below(Figure::Bytes(12_000_000)));
    let files = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
    for &(count, bound) in crowds {
        if files < count + OTHER_FILES {
            table.note(format!(
                "{count} connections were not tried: the system allows {files} open files"
            ));
            continue;
        }
        hub.process.forget_peak();
        let swarm = load::idle(&hub.url, usize::try_from(count)?)?;
        let patience = Duration::from_secs(60);
        hub.wait("all devices are connected", patience, |status| {
            status.number("/devices/connected") == count
        })
        .await?;
        sleep(SETTLE).await;
        let rss = Figure::Bytes(hub.process.rss()?);
        let what = format!("{count} idle connections");
        if let Some(bound) = bound {
            table.bound(group, what, rss, Below(Figure::Bytes(bound)));
            let peak = Figure::Bytes(hub.process.peak()?);
            table.told(group, "… at most, while they connected", peak);
        } else {
            table.told(group, what, rss);
        }
        swarm.stop().await?;
        hub.wait("all devices are gone", patience, |status| {
            status.number("/devices/connected") == 0
        })
        .await?;
    }
    sleep(SETTLE).await;
    let after = Figure::Bytes(hub.process.rss()?);
    table.told(group, "after they have gone", after);
    finish(hub, table, "memory").await?;
    broker.process.stop().await
}

/// A hub of its own whose devices come by TLS.
pub async fn connections_with_tls(setup: &Setup, table: &mut Table) -> anyhow::Result<()> {
    let group = "memory";
    let (count, bound) = WITH_TLS;
    let files = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
    if files < count + OTHER_FILES {
        table.note(format!(
            "{count} connections with TLS were not tried: the system allows {files} open files"
        ));
        return Ok(());
    }
    let dir = setup.dir.child("tls")?;
    let certificate = Certificate::make(&dir)?;
    let tables = certificate.tables();
    let more = More {
        tables: &tables,
        ..More::default()
    };
    let hub = Hub::start_with(&setup.hub, &dir, broker::free_port()?, more).await?;
    let mut silent = tls::silent(&hub.url, &certificate, count).await?;
    sleep(SETTLE).await;
    let connected = hub.status().await?.number("/devices/connected");
    anyhow::ensure!(connected == count, "{connected} of {count} are connected");
    let rss = Figure::Bytes(hub.process.rss()?);
    let what = format!("{count} idle connections with TLS");
    table.bound(group, what, rss, Below(Figure::Bytes(bound)));
    silent.abort_all();
    while silent.join_next().await.is_some() {}
    finish(hub, table, "memory with TLS").await
}

/// Starts with an empty spool and with one of `full` bytes; memory with a full one.
pub async fn full_spool(setup: &Setup, table: &mut Table, full: u64) -> anyhow::Result<()> {
    let group = "full spool";
    eprintln!("{group}");
    let dir = setup.dir.child("full")?;
    // Nobody listens there: an outage from the start.
    let nobody = broker::free_port()?;
    let hub = Hub::start(&setup.hub, &dir, nobody).await?;
    table.told(
        group,
        "start with an empty spool",
        Figure::Time(hub.ready_after),
    );
    sleep(SETTLE).await;
    let before = hub.process.rss()?;
    hub.process.forget_peak();
    let load = Load {
        devices: 50,
        batch: LARGE,
        rate: 0.0,
        window: Some(4),
        time: Duration::from_secs(2),
    };
    let disk = "/spool/disk_bytes";
    while hub.status().await?.number(disk) < full {
        load::run(&hub.url, &load).await?;
    }
    sleep(SETTLE).await;
    let status = hub.status().await?;
    let added = hub.process.rss()?.saturating_sub(before);
    let bytes = status.number(disk);
    let batches = status.number("/spool/batches");
    table.told(group, "on disk", Figure::Bytes(bytes));
    table.told(group, "… in", Figure::Count(batches, "batches"));
    let bound = Below(Figure::Bytes(40_000_000));
    table.bound(
        group,
        "memory added, after the load",
        Figure::Bytes(added),
        bound,
    );
    let peak = hub.process.peak()?.saturating_sub(before);
    table.told(group, "memory added, at most", Figure::Bytes(peak));
    finish(hub, table, "filling the spool").await?;
    forget(&dir)?;
    let hub = Hub::start(&setup.hub, &dir, nobody)
        .await
        .context("with a full spool")?;
    let bound = AtMost(Figure::Time(READY));
    let after = Figure::Time(hub.ready_after);
    table.bound(group, "start with it, read from the disk", after, bound);
    sleep(SETTLE).await;
    let rss = Figure::Bytes(hub.process.rss()?);
    table.told(group, "memory after that start", rss);
    finish(hub, table, "full spool").await
}

/// Takes every file below a directory out of the kernel's cache, as after a boot.
fn forget(dir: &Path) -> anyhow::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            forget(&path)?;
        } else {
            let file = File::open(&path)?;
            // Only what is on the disk already can be forgotten.
            file.sync_data()?;
            fadvise(&file, 0, None, Advice::DontNeed)?;
        }
    }
    Ok(())
}
