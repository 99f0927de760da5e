//! What the hub takes on a small board. `docs/footprint.md` has the table; the instructions in it
//! are counted by `tests/footprint.sh`.

use std::time::Duration;

use anyhow::Context;

use super::load::{self, Load};
use super::memory::{self, Crowds};
use super::table::{Figure, Table};
use super::{Setup, finish};

/// A board with 512 MB has better use for more.
const CROWDS: Crowds = &[(100, None), (1_000, Some(40_000_000))];
/// The default of `spool.max_size`, nearly.
const FULL: u64 = 1_000_000_000;
/// A busy barn: devices, batches a second of each, readings in a batch.
const BARN: (usize, f64, usize) = (200, 5.0, 10);

/// Size, memory, CPU, start.
pub async fn measure(setup: &Setup, table: &mut Table) -> anyhow::Result<()> {
    let size = std::fs::metadata(&setup.hub).context("the hub")?.len();
    table.told("binary", "size", Figure::Bytes(size));
    memory::connections(setup, table, CROWDS).await?;
    cpu(setup, table).await?;
    memory::full_spool(setup, table, FULL).await
}

/// CPU per reading at a rate that leaves the hub time, not at its limit, where it has more to do
/// in one go.
async fn cpu(setup: &Setup, table: &mut Table) -> anyhow::Result<()> {
    let group = "live";
    let (hub, broker) = setup.hub("footprint").await?;
    let (devices, rate, batch) = BARN;
    let load = Load {
        devices,
        batch,
        rate,
        window: None,
        time: setup.time.max(Duration::from_secs(1)),
    };
    let before = hub.process.cpu()?;
    let outcome = load::run(&hub.url, &load).await?;
    let cpu = (hub.process.cpu()? - before).as_secs_f64();
    let million = Duration::from_secs_f64(cpu * 1e6 / outcome.readings().max(1.0));
    let what = "CPU for a million readings at 10,000 a second";
    table.told(group, what, Figure::Time(million));
    finish(hub, table, "footprint").await?;
    broker.process.stop().await
}
