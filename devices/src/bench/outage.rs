//! The broker goes away, readings are acked from the disk, the broker comes back, the backlog
//! drains; beside a plain publisher that pushes the same messages.

use std::time::Duration;

use anyhow::{Context, bail};
use tokio::time::Instant;

use super::broker::Broker;
use super::load::{self, Load};
use super::mqtt::Subscriber;
use super::plain::{self, Messages};
use super::table::Bound::{AtLeast, AtMost};
use super::table::{Figure, Table};
use super::{Setup, finish};

const DEVICES: usize = 200;
/// Readings in a batch.
const BATCH: usize = 10;
/// `uplink.inflight`, as it is by default.
const WINDOW: u16 = 100;
/// What a batch waits at least for others to go with it, while some come: 5 ms, and a tick of the
/// timer.
const HELD_BACK: Duration = Duration::from_millis(6);
/// Both sides of the comparison at the end publish so much, or all of a shorter backlog.
const DRAIN: Duration = Duration::from_secs(120);

/// Outage, commits, drain, plain publisher.
pub async fn measure(setup: &Setup, table: &mut Table) -> anyhow::Result<()> {
    let group = "outage";
    eprintln!("{group}");
    let (hub, broker) = setup.hub("outage").await?;
    let load = |devices, rate, window| Load {
        devices,
        batch: BATCH,
        rate,
        window,
        time: setup.time,
    };
    let size = payload_size(&hub.url, broker.port).await?;
    let (port, dir) = (broker.port, setup.dir.child("outage")?);
    broker.process.stop().await?;
    hub.wait("the uplink is down", Duration::from_secs(20), |s| {
        s.uplink() != "connected"
    })
    .await?;

    // One device that waits for each ack: every batch is a commit of its own.
    let alone = load::run(&hub.url, &load(1, 0.0, Some(1))).await?;
    let before = hub.process.written()?;
    let moderate = load::run(&hub.url, &load(DEVICES, 5.0, None)).await?;
    let written = (hub.process.written()? - before) as f64;
    let commit = alone.latency("p99");
    table.told(group, "one commit p50", Figure::Time(alone.latency("p50")));
    table.told(group, "one commit p99", Figure::Time(commit));
    table.told(
        group,
        "ack p50 at 1,000 batches/s",
        Figure::Time(moderate.latency("p50")),
    );
    let what = "ack p99 at 1,000 batches/s";
    let bound = AtMost(Figure::Time(commit * 3 + HELD_BACK));
    table.bound(group, what, Figure::Time(moderate.latency("p99")), bound);

    let ratio = written / moderate.figure("/sent_bytes").max(1.0);
    let what = "bytes written per byte at 1,000/s";
    table.told(group, what, Figure::Ratio(ratio));
    let before = hub.process.written()?;
    let brisk = load::run(&hub.url, &load(DEVICES, 20.0, None)).await?;
    let written = (hub.process.written()? - before) as f64;
    table.told(
        group,
        "ack p50 at 4,000 batches/s",
        Figure::Time(brisk.latency("p50")),
    );
    table.told(
        group,
        "ack p99 at 4,000 batches/s",
        Figure::Time(brisk.latency("p99")),
    );
    let ratio = written / brisk.figure("/sent_bytes").max(1.0);
    let what = "bytes written per byte at 4,000/s";
    table.told(group, what, Figure::Ratio(ratio));

    let before = (hub.process.written()?, hub.process.cpu()?);
    let outcome = load::run(&hub.url, &load(DEVICES, 0.0, None)).await?;
    let written = (hub.process.written()? - before.0) as f64;
    let cpu = (hub.process.cpu()? - before.1).as_secs_f64();
    let rate = outcome.figure("/readings_per_second");
    let bound = AtLeast(Figure::Rate(100_000.0, "readings"));
    table.bound(
        group,
        "readings acked from the disk",
        Figure::Rate(rate, "readings"),
        bound,
    );
    let ratio = written / outcome.figure("/sent_bytes").max(1.0);
    let bound = AtMost(Figure::Ratio(6.0));
    table.bound(
        group,
        "bytes written per byte of payload",
        Figure::Ratio(ratio),
        bound,
    );
    let micros = cpu * 1e6 / outcome.readings().max(1.0);
    table.told(group, "the hub's CPU per reading", Figure::Cost(micros));
    table.told(
        group,
        "ack p50 at full load",
        Figure::Time(outcome.latency("p50")),
    );
    table.told(
        group,
        "ack p99 at full load",
        Figure::Time(outcome.latency("p99")),
    );

    let group = "drain";
    eprintln!("{group}");
    let backlog = hub.status().await?.number("/spool/batches");
    if backlog == 0 {
        bail!("the outage left nothing in the spool");
    }
    let broker = Broker::start(&setup.mosquitto, &dir, port).await?;
    let since = hub.connected().await?;
    let before = hub.process.cpu()?;
    let empty = hub.wait("the spool is empty", DRAIN, |s| {
        s.number("/spool/batches") == 0
    });
    let took = empty.await?.0 - since;
    let cpu = (hub.process.cpu()? - before).as_secs_f64();
    let drained = backlog as f64 / took.as_secs_f64();

    let messages = Messages {
        topics: (0..DEVICES)
            .map(|n| format!("telehub/bench/swarm-{n}/history"))
            .collect(),
        size,
        count: usize::try_from(backlog)?,
        window: WINDOW,
    };
    let plain = plain::push(broker.port, &messages).await?;
    let plain = backlog as f64 / plain.as_secs_f64();
    table.told(group, "backlog", Figure::Count(backlog, "batches"));
    table.told(group, "plain publisher", Figure::Rate(plain, "batches"));
    table.told(group, "the hub", Figure::Rate(drained, "batches"));
    let bound = AtLeast(Figure::Ratio(1.1));
    table.bound(
        group,
        "… divided by the plain publisher's",
        Figure::Ratio(drained / plain),
        bound,
    );
    table.told(
        group,
        "the hub's CPU per batch",
        Figure::Cost(cpu * 1e6 / backlog as f64),
    );
    finish(hub, table, "outage").await?;
    broker.process.stop().await
}

/// Bytes of a batch as the hub publishes it: one is sent and looked at.
async fn payload_size(hub: &str, broker: u16) -> anyhow::Result<usize> {
    let mut subscriber = Subscriber::new(broker, "telehub/bench/swarm-0/data").await?;
    let load = Load {
        devices: 1,
        batch: BATCH,
        rate: 20.0,
        window: None,
        time: Duration::from_millis(200),
    };
    let since = Instant::now();
    load::run(hub, &load).await?;
    let (_, payload) = subscriber
        .next()
        .await
        .with_context(|| format!("no batch came through within {:.0?}", since.elapsed()))?;
    Ok(payload.len())
}
