//! The live lane, beside the same readings sent one message each through a mosquitto bridge.

use std::time::Duration;

use anyhow::Context;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::broker::{Broker, free_port};
use super::load::{self, Load};
use super::mqtt::{self, Subscriber};
use super::table::Bound::{AtLeast, AtMost};
use super::table::{Figure, Table};
use super::{Setup, finish};

/// Devices of every load here.
const DEVICES: usize = 200;
/// About what a bridge carries; decides only how many readings it gets.
const EXPECTED_BRIDGE: u64 = 30_000;

/// What something costs.
struct Carried {
    rate: f64,
    micros: f64,
}

/// Bridge, hub with batches of ten, hub with batches of one.
pub async fn measure(setup: &Setup, table: &mut Table) -> anyhow::Result<()> {
    eprintln!("bridge");
    let bridge = bridge(setup).await?;
    let group = "bridge";
    table.told(
        group,
        "readings through it",
        Figure::Rate(bridge.rate, "readings"),
    );
    table.told(group, "its CPU per reading", Figure::Cost(bridge.micros));
    for (group, batch, factor) in [
        ("live, batches of 10", 10, 10.0),
        ("live, batches of 1", 1, 1.0),
    ] {
        eprintln!("{group}");
        let (hub, written) = hub(setup, batch, table).await?;
        let (rate, micros) = (hub.rate / bridge.rate, hub.micros / bridge.micros);
        table.told(group, "readings acked", Figure::Rate(hub.rate, "readings"));
        let bound = AtLeast(Figure::Ratio(factor));
        table.bound(
            group,
            "… divided by the bridge's",
            Figure::Ratio(rate),
            bound,
        );
        table.told(group, "the hub's CPU per reading", Figure::Cost(hub.micros));
        let bound = AtMost(Figure::Ratio(1.0 / factor));
        table.bound(
            group,
            "… divided by the bridge's",
            Figure::Ratio(micros),
            bound,
        );
        let none = AtMost(Figure::Bytes(0));
        table.bound(group, "written to the disk", Figure::Bytes(written), none);
    }
    Ok(())
}

/// Per reading, over the whole of a load.
fn per_reading(cpu: Duration, readings: f64) -> f64 {
    cpu.as_secs_f64() * 1e6 / readings.max(1.0)
}

async fn hub(setup: &Setup, batch: usize, table: &mut Table) -> anyhow::Result<(Carried, u64)> {
    let (hub, broker) = setup.hub(&format!("live-{batch}")).await?;
    let load = Load {
        devices: DEVICES,
        batch,
        rate: 0.0,
        window: None,
        time: setup.time,
    };
    let before = (hub.process.cpu()?, hub.process.written()?);
    let outcome = load::run(&hub.url, &load).await?;
    let cpu = hub.process.cpu()? - before.0;
    let written = hub.process.written()? - before.1;
    let carried = Carried {
        rate: outcome.figure("/readings_per_second"),
        micros: per_reading(cpu, outcome.readings()),
    };
    finish(hub, table, "live lane").await?;
    broker.process.stop().await?;
    Ok((carried, written))
}

async fn bridge(setup: &Setup) -> anyhow::Result<Carried> {
    let dir = setup.dir.child("bridged")?;
    let last = Broker::start(&setup.mosquitto, &dir, free_port()?).await?;
    let mut done = Subscriber::new(last.port, "telehub/bridge/+/data/done").await?;
    let bridge = Broker::bridge(&setup.mosquitto, &dir, last.port).await?;
    let each = EXPECTED_BRIDGE * setup.time.as_secs() / DEVICES as u64;
    let before = bridge.process.cpu()?;
    let since = Instant::now();
    let mut devices = JoinSet::new();
    for number in 0..DEVICES {
        devices.spawn(mqtt::device(bridge.port, number, each));
    }
    let all_sent = async {
        while let Some(device) = devices.join_next().await {
            device.context("a device crashed")??;
        }
        anyhow::Ok(())
    };
    // A bridge keeps the order, so what came before the last message of a device is there too.
    let all_there = async {
        for _ in 0..DEVICES {
            done.next().await?;
        }
        anyhow::Ok(since.elapsed())
    };
    let ((), took) = tokio::try_join!(all_sent, all_there)?;
    let readings = (each * DEVICES as u64) as f64;
    let cpu = bridge.process.cpu()? - before;
    let carried = Carried {
        rate: readings / took.as_secs_f64(),
        micros: per_reading(cpu, readings),
    };
    bridge.process.stop().await?;
    last.process.stop().await?;
    Ok(carried)
}
