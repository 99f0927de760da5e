//! What it costs the live lane when somebody looks: the same load by turns with nobody looking,
//! and with a dashboard and a scraper.

use std::time::Duration;

use anyhow::Context;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::sleep;

use super::hub::Hub;
use super::load::{self, Load};
use super::table::Bound::{AtLeast, AtMost};
use super::table::{Figure, Table};
use super::{Setup, finish};

/// As in the live lane.
const DEVICES: usize = 200;
/// Pairs of loads. Each pair is compared with itself, and the median of the pairs counts.
const ROUNDS: usize = 7;
/// Between two scrapes.
const SCRAPE: Duration = Duration::from_secs(5);
/// How long an idle hub is looked at.
const IDLE: Duration = Duration::from_secs(60);

/// Readings a second, and CPU seconds of the hub for a reading.
type Carried = (f64, f64);

/// With and without those who look.
pub async fn measure(setup: &Setup, table: &mut Table) -> anyhow::Result<()> {
    eprintln!("live lane, watched");
    let (hub, broker) = setup.hub("watched").await?;
    let (mut rates, mut costs, mut bare) = (Vec::new(), Vec::new(), Vec::new());
    // The first load warms everything up.
    carry(setup, &hub).await?;
    for round in 1..=ROUNDS {
        eprintln!("  round {round} of {ROUNDS}");
        // Who goes first changes: machines slow down and speed up.
        let (alone, watched) = if round % 2 == 0 {
            let watched = carry_watched(setup, &hub).await?;
            (carry(setup, &hub).await?, watched)
        } else {
            let alone = carry(setup, &hub).await?;
            (alone, carry_watched(setup, &hub).await?)
        };
        rates.push(watched.0 / alone.0);
        costs.push(watched.1 / alone.1);
        bare.push(alone.0);
    }
    let group = "live, watched";
    let rate = Figure::Rate(median(bare), "readings");
    table.told(group, "readings acked with nobody looking", rate);
    let bound = AtLeast(Figure::Percent(97.0));
    let what = "… with a dashboard and a scraper";
    table.bound(group, what, Figure::Percent(100.0 * median(rates)), bound);
    let bound = AtMost(Figure::Percent(103.0));
    let what = "the hub's CPU per reading, of that without";
    table.bound(group, what, Figure::Percent(100.0 * median(costs)), bound);
    finish(hub, table, group).await?;
    broker.process.stop().await?;
    idle(setup, table).await
}

/// How often an idle hub wakes up: before anybody has looked, and after somebody has.
async fn idle(setup: &Setup, table: &mut Table) -> anyhow::Result<()> {
    eprintln!("  idle");
    let (hub, broker) = setup.hub("unwatched").await?;
    sleep(Duration::from_secs(12)).await;
    let mut figures = Vec::new();
    for round in 0..2 {
        if round == 1 {
            let _ = tokio::time::timeout(Duration::from_secs(3), look(hub.admin())).await;
            sleep(Duration::from_secs(12)).await;
        }
        let before = (hub.process.switches()?, hub.process.cpu()?);
        sleep(IDLE).await;
        let switches = hub.process.switches()? - before.0;
        figures.push((switches, hub.process.cpu()? - before.1));
    }
    let group = "idle for a minute";
    for (what, (switches, cpu)) in [
        ("before anybody has looked", figures[0]),
        ("after somebody has", figures[1]),
    ] {
        let times = Figure::Count(switches, "times");
        table.told(group, format!("the hub wakes up, {what}"), times);
        table.told(group, format!("its CPU, {what}"), Figure::Time(cpu));
    }
    finish(hub, table, group).await?;
    broker.process.stop().await
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or_default()
}

async fn carry(setup: &Setup, hub: &Hub) -> anyhow::Result<Carried> {
    let load = Load {
        devices: DEVICES,
        batch: 10,
        rate: 0.0,
        window: None,
        time: setup.time,
    };
    let before = hub.process.cpu()?;
    let outcome = load::run(&hub.url, &load).await?;
    let cpu = hub.process.cpu()? - before;
    let readings = outcome.readings().max(1.0);
    Ok((
        outcome.figure("/readings_per_second"),
        cpu.as_secs_f64() / readings,
    ))
}

async fn carry_watched(setup: &Setup, hub: &Hub) -> anyhow::Result<Carried> {
    tokio::select! {
        carried = carry(setup, hub) => carried,
        failed = look(hub.admin()) => Err(failed.err().context("the hub has gone")?),
    }
}

/// Reads events, and scrapes every five seconds, without an end.
async fn look(admin: &str) -> anyhow::Result<()> {
    let events = async {
        let mut stream = ask(admin, "/api/events").await?;
        let mut sink = tokio::io::sink();
        tokio::io::copy(&mut stream, &mut sink).await?;
        anyhow::bail!("the hub has ended the events")
    };
    let scrapes = async {
        loop {
            let mut text = String::new();
            let mut stream = ask(admin, "/metrics").await?;
            stream.read_to_string(&mut text).await?;
            anyhow::ensure!(text.contains("telehub_received_batches_total"), "{text}");
            sleep(SCRAPE).await;
        }
    };
    tokio::select! {
        failed = events => failed,
        failed = scrapes => failed,
    }
}

async fn ask(admin: &str, path: &str) -> anyhow::Result<TcpStream> {
    let mut stream = TcpStream::connect(admin).await?;
    let request = format!("GET {path} HTTP/1.0\r\nHost: {admin}\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    Ok(stream)
}
