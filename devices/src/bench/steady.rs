//! What a batch costs a hub that has time to spare, as a board at the edge does: the same batches a
//! second from few devices and from many.

use super::load::{self, Load};
use super::table::Bound::AtMost;
use super::table::{Figure, Table};
use super::{Setup, finish};

/// Batches a second of all devices together.
const RATE: f64 = 3_000.0;
/// Readings in a batch.
const BATCH: usize = 10;
/// Who sends them.
const DEVICES: [usize; 3] = [50, 500, 3_000];
/// Lengths of the two loads, in those of the other parts.
const SHORT: u32 = 1;
const LONG: u32 = 3;
/// CPU time that the project allows a batch, µs.
const BOUND: f64 = 33.0;

/// CPU for each batch.
pub async fn measure(setup: &Setup, table: &mut Table) -> anyhow::Result<()> {
    let group = "live, 3,000 batches/s";
    eprintln!("{group}");
    for devices in DEVICES {
        let (hub, broker) = setup.hub(&format!("steady-{devices}")).await?;
        let load = |times: u32| Load {
            devices,
            batch: BATCH,
            rate: RATE / devices as f64,
            window: None,
            time: setup.time * times,
        };
        // The difference of two loads: what connecting takes is in both.
        let mut cost = Vec::new();
        for times in [SHORT, LONG] {
            let before = hub.process.cpu()?;
            let outcome = load::run(&hub.url, &load(times)).await?;
            let cpu = (hub.process.cpu()? - before).as_secs_f64();
            cost.push((cpu, outcome.readings() / BATCH as f64));
        }
        let (cpu, batches) = (cost[1].0 - cost[0].0, cost[1].1 - cost[0].1);
        let micros = Figure::Cost(cpu * 1e6 / batches.max(1.0));
        let what = format!("the hub's CPU per batch, {devices} devices");
        table.bound(group, what, micros, AtMost(Figure::Cost(BOUND)));
        finish(hub, table, "steady").await?;
        broker.process.stop().await?;
    }
    Ok(())
}
