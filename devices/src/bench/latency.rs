//! How long an ack takes in the live lane at a moderate rate, beside the broker's own PUBACK.

use std::time::Duration;

use super::load::{self, Load};
use super::table::Bound::AtMost;
use super::table::{Figure, Table};
use super::{Setup, finish, mqtt};

const DEVICES: usize = 200;
/// Batches a second and device.
const RATE: f64 = 5.0;
/// Readings in a batch.
const BATCH: usize = 10;
/// Bytes of such a batch as the hub publishes it, about.
pub const PAYLOAD: usize = 780;

/// What the hub may take beyond three times the broker's own time: two wakeups of a busy machine.
const EXTRA: Duration = Duration::from_millis(5);

/// The broker alone, then the hub before it, at the same rate.
pub async fn measure(setup: &Setup, table: &mut Table) -> anyhow::Result<()> {
    let group = "live, 1,000 batches/s";
    eprintln!("{group}");
    let (hub, broker) = setup.hub("latency").await?;
    let rate = DEVICES as f64 * RATE;
    let pubacks = mqtt::puback_times(broker.port, rate, PAYLOAD, setup.time).await?;
    let own = pubacks.quantile(0.99);
    table.told(
        group,
        "PUBACK p50 of the broker alone",
        Figure::Time(pubacks.quantile(0.5)),
    );
    table.told(group, "PUBACK p99 of the broker alone", Figure::Time(own));
    let load = Load {
        devices: DEVICES,
        batch: BATCH,
        rate: RATE,
        window: None,
        time: setup.time,
    };
    let outcome = load::run(&hub.url, &load).await?;
    table.told(group, "ack p50", Figure::Time(outcome.latency("p50")));
    let bound = AtMost(Figure::Time(own * 3 + EXTRA));
    table.bound(
        group,
        "ack p99",
        Figure::Time(outcome.latency("p99")),
        bound,
    );
    finish(hub, table, "latency").await?;
    broker.process.stop().await
}
