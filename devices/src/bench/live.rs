//! The live lane, beside the same readings sent one message each through a mosquitto bridge.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::broker::{Broker, free_port};
use super::load::{self, Load};
use super::mqtt::{self, Delivered, Subscriber, marked_by};
use super::table::Bound::{AtLeast, AtMost};
use super::table::{Figure, Table};
use super::{Setup, finish};

/// Devices of every load here.
const DEVICES: usize = 200;
/// Until all devices are connected to the bridge and everything flows.
const WARM_UP: Duration = Duration::from_millis(500);

/// `uplink.inflight`, as it is by default.
const WINDOW: u64 = 100;
/// Bytes of a batch as the hub publishes it, about: of ten readings, and of one.
const PAYLOADS: [usize; 2] = [780, 150];

/// The loads take turns so often, and the median of each counts: a machine is never equally
/// fast for a minute.
const ROUNDS: usize = 3;

/// What was carried, and what that cost.
#[derive(Debug, Clone, Copy)]
struct Carried {
    /// Readings a second.
    rate: f64,
    /// CPU time for a reading, µs.
    micros: f64,
    /// Bytes that went to the disk meanwhile.
    written: u64,
}

/// Bridge, hub with batches of ten, hub with batches of one.
pub async fn measure(setup: &Setup, table: &mut Table) -> anyhow::Result<()> {
    eprintln!("live lane and bridge");
    let (mut bridged, mut tens, mut ones) = (Vec::new(), Vec::new(), Vec::new());
    let mut limits = [Vec::new(), Vec::new()];
    for round in 1..=ROUNDS {
        eprintln!("  round {round} of {ROUNDS}");
        bridged.push(bridge(setup, round).await?);
        tens.push(hub(setup, &format!("live-ten-{round}"), 10, table).await?);
        ones.push(hub(setup, &format!("live-one-{round}"), 1, table).await?);
        for (limits, size) in limits.iter_mut().zip(PAYLOADS) {
            limits.push(ready_made(setup, size).await?);
        }
    }
    let bridge = median(&bridged);
    let group = "bridge";
    let rate = Figure::Rate(bridge.rate, "readings");
    table.told(group, "readings through it", rate);
    table.told(group, "its CPU per reading", Figure::Cost(bridge.micros));
    let [limit_of_tens, limit_of_ones] = limits.map(|rounds| median(&rounds).rate);
    for (group, rounds, bounds, limit, batch) in [
        (
            "live, batches of 10",
            tens,
            (15.0, 0.06),
            limit_of_tens,
            10.0,
        ),
        ("live, batches of 1", ones, (1.6, 0.35), limit_of_ones, 1.0),
    ] {
        let hub = median(&rounds);
        let (rate, micros) = (hub.rate / bridge.rate, hub.micros / bridge.micros);
        table.told(group, "readings acked", Figure::Rate(hub.rate, "readings"));
        let what = "… divided by the bridge's";
        let bound = AtLeast(Figure::Ratio(bounds.0));
        table.bound(group, what, Figure::Ratio(rate), bound);
        let own = Figure::Rate(limit * batch, "readings");
        table.told(group, "the broker's own limit, packets ready-made", own);
        table.told(group, "the hub's CPU per reading", Figure::Cost(hub.micros));
        let bound = AtMost(Figure::Ratio(bounds.1));
        table.bound(group, what, Figure::Ratio(micros), bound);
        let none = AtMost(Figure::Bytes(0));
        let what = "written to the disk";
        table.bound(group, what, Figure::Bytes(hub.written), none);
    }
    Ok(())
}

/// Messages a second that the last broker takes at most, of this size.
async fn ready_made(setup: &Setup, size: usize) -> anyhow::Result<Carried> {
    let dir = setup.dir.child("ready-made")?;
    let broker = Broker::start(&setup.mosquitto, &dir, free_port()?).await?;
    let topics: Vec<String> = (0..DEVICES)
        .map(|number| format!("telehub/bench/swarm-{number}/data"))
        .collect();
    let rate = mqtt::limit(broker.port, &topics, size, WINDOW, setup.time).await?;
    broker.process.stop().await?;
    Ok(Carried {
        rate,
        micros: 0.0,
        written: 0,
    })
}

/// Of each figure; the most of what was written.
fn median(rounds: &[Carried]) -> Carried {
    let middle = |of: fn(&Carried) -> f64| {
        let mut figures: Vec<f64> = rounds.iter().map(of).collect();
        figures.sort_by(f64::total_cmp);
        figures.get(figures.len() / 2).copied().unwrap_or_default()
    };
    let written = rounds.iter().map(|round| round.written).max();
    Carried {
        rate: middle(|round| round.rate),
        micros: middle(|round| round.micros),
        written: written.unwrap_or_default(),
    }
}

/// Per reading, over the whole of a load.
fn per_reading(cpu: Duration, readings: f64) -> f64 {
    cpu.as_secs_f64() * 1e6 / readings.max(1.0)
}

async fn hub(
    setup: &Setup,
    name: &str,
    batch: usize,
    table: &mut Table,
) -> anyhow::Result<Carried> {
    let (hub, broker) = setup.hub(name).await?;
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
    let carried = Carried {
        written: hub.process.written()? - before.1,
        rate: outcome.figure("/readings_per_second"),
        micros: per_reading(cpu, outcome.readings()),
    };
    finish(hub, table, "live lane").await?;
    broker.process.stop().await?;
    Ok(carried)
}

async fn bridge(setup: &Setup, round: usize) -> anyhow::Result<Carried> {
    let dir = setup.dir.child(&format!("bridged-{round}"))?;
    let last = Broker::start(&setup.mosquitto, &dir, free_port()?).await?;
    let mut marks = Subscriber::new(last.port, "telehub/bridge/+/mark").await?;
    let bridge = Broker::bridge(&setup.mosquitto, &dir, last.port).await?;
    let delivered: Vec<Arc<Delivered>> = (0..DEVICES).map(|_| Arc::default()).collect();
    let mut devices = JoinSet::new();
    for (number, delivered) in delivered.iter().enumerate() {
        devices.spawn(mqtt::device(bridge.port, number, delivered.clone()));
    }
    let all = || delivered.iter().map(|one| one.readings()).sum::<u64>();
    let observe = async {
        sleep(WARM_UP).await;
        let before = (Instant::now(), bridge.process.cpu()?, all());
        sleep(setup.time).await;
        let took = before.0.elapsed().as_secs_f64();
        let cpu = bridge.process.cpu()? - before.1;
        let readings = (all() - before.2) as f64;
        anyhow::Ok(Carried {
            rate: readings / took,
            micros: per_reading(cpu, readings),
            written: bridge.process.written()?,
        })
    };
    let carried = tokio::select! {
        carried = observe => carried?,
        Err(failed) = count(&mut marks, &delivered) => return Err(failed),
        Some(failed) = devices.join_next() => {
            failed.context("a device crashed")??;
            bail!("a device ended before its time");
        }
    };
    devices.shutdown().await;
    bridge.process.stop().await?;
    last.process.stop().await?;
    Ok(carried)
}

/// Hands the marks to the devices that have sent them. Ends with an error only.
async fn count(marks: &mut Subscriber, delivered: &[Arc<Delivered>]) -> anyhow::Result<Infallible> {
    loop {
        let (topic, _) = marks.next().await?;
        if let Some(one) = marked_by(&topic).and_then(|number| delivered.get(number)) {
            one.mark();
        }
    }
}
