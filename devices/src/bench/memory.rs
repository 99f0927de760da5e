//! Resident memory of the hub: idle, with silent connections, with a full spool; and how long a
//! start takes.

use std::time::Duration;

use anyhow::Context;
use rustix::process::{Resource, getrlimit};
use tokio::time::sleep;

use super::hub::Hub;
use super::load::{self, Load};
use super::table::Bound::Below;
use super::table::{Figure, Table};
use super::{Setup, broker, finish};

/// How much the spool holds on disk.
const FULL: u64 = 500_000_000;
/// Readings in a batch that fills the spool: frames of about 10 KiB, so that this takes seconds.
const LARGE: usize = 500;
/// What was in use a moment ago is given back.
const SETTLE: Duration = Duration::from_secs(2);
/// Files of a process beside its connections.
const OTHER_FILES: u64 = 100;

/// Idle, with 1,000 and with 10,000 connections.
pub async fn connections(setup: &Setup, table: &mut Table) -> anyhow::Result<()> {
    let group = "memory";
    eprintln!("{group}");
    let (hub, broker) = setup.hub("connections").await?;
    sleep(SETTLE).await;
    let idle = Figure::Bytes(hub.process.rss()?);
    table.bound(group, "an idle hub", idle, Below(Figure::Bytes(12_000_000)));
    let files = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
    for count in [1_000, 10_000] {
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
        if count == 10_000 {
            table.bound(group, what, rss, Below(Figure::Bytes(100_000_000)));
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

/// Starts with an empty spool and with a full one; memory with a full one.
pub async fn full_spool(setup: &Setup, table: &mut Table) -> anyhow::Result<()> {
    let group = "spool of 500 MB";
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
    while hub.status().await?.number(disk) < FULL {
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
    let hub = Hub::start(&setup.hub, &dir, nobody)
        .await
        .context("with a full spool")?;
    table.told(group, "start with it", Figure::Time(hub.ready_after));
    sleep(SETTLE).await;
    let rss = Figure::Bytes(hub.process.rss()?);
    table.told(group, "memory after that start", rss);
    finish(hub, table, "full spool").await
}
