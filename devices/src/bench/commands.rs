//! The live lane beside commands at the full rate that each device is allowed.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::process::Command;

use super::broker::{Broker, free_port};
use super::hub::{Hub, More};
use super::load::{self, Load};
use super::table::Bound::{AtLeast, AtMost};
use super::table::{Figure, Table};
use super::{Setup, finish, mqtt};

/// Devices of the load, as in the other rows of the live lane.
const DEVICES: usize = 200;

/// What the hub takes for each device for ever: one command a second.
const RATE: f64 = DEVICES as f64;

/// Pairs with and without. The machine is not equally fast for a minute, so each pair is compared with
/// itself; half of the quotients lie on either side of what is told.
const ROUNDS: usize = 9;

/// Batches a second and device: as many as the window allows, and next to none.
const FULL: f64 = 0.0;
const NOTHING: f64 = 0.02;

/// What came of one load.
#[derive(Debug, Clone, Copy)]
struct Carried {
    /// Readings a second.
    rate: f64,
    readings: f64,
    /// The hub's.
    cpu: Duration,
    /// Commands that were carried out.
    done: u64,
}

impl Carried {
    /// The hub's CPU for a reading.
    fn per_reading(&self) -> f64 {
        self.cpu.as_secs_f64() / self.readings.max(1.0)
    }
}

/// With and without commands.
pub async fn measure(setup: &Setup, table: &mut Table) -> anyhow::Result<()> {
    eprintln!("live lane, beside commands");
    let dir = setup.dir.child("commands")?;
    let (registry, tokens) = register(&setup.hub, &dir).await?;
    let broker = Broker::start(&setup.mosquitto, &dir, free_port()?).await?;
    let more = More {
        registry: Some(&registry),
        tables: "[commands]\nenabled = true\n",
        ..More::default()
    };
    let hub = Hub::start_with(&setup.hub, &dir, broker.port, more).await?;
    hub.connected().await?;
    let bench = Bench {
        setup,
        hub: &hub,
        port: broker.port,
        tokens: &tokens,
    };
    // The first load warms everything up.
    bench.carry(FULL).await?;
    let (mut rates, mut costs, mut bare, mut done) = (Vec::new(), Vec::new(), Vec::new(), 0);
    for round in 1..=ROUNDS {
        eprintln!("  round {round} of {ROUNDS}");
        let (alone, beside) = if round % 2 == 0 {
            let beside = bench.carry_beside(FULL).await?;
            (bench.carry(FULL).await?, beside)
        } else {
            let alone = bench.carry(FULL).await?;
            (alone, bench.carry_beside(FULL).await?)
        };
        rates.push(100.0 * beside.rate / alone.rate);
        costs.push(100.0 * beside.per_reading() / alone.per_reading());
        bare.push(alone.rate);
        done += beside.done;
    }
    // The same without data: next to nothing, and nothing but commands.
    let (quiet, asked) = (
        bench.carry(NOTHING).await?,
        bench.carry_beside(NOTHING).await?,
    );
    if done == 0 || asked.done == 0 {
        bail!("no command was carried out");
    }
    let cpu = asked.cpu.as_secs_f64() - quiet.cpu.as_secs_f64();
    let each = cpu * 1e6 / asked.done as f64;
    let group = "live, beside commands";
    let rate = Figure::Rate(quantile(&bare, 0.5), "readings");
    table.told(group, "readings acked without", rate);
    table.told(
        group,
        "commands carried out",
        Figure::Count(done, "commands"),
    );
    let own = "the hub's CPU for each, with nothing beside";
    table.told(group, own, Figure::Cost(each));
    let bound = AtLeast(Figure::Percent(97.0));
    let what = "readings acked with them, of that without";
    table.bound(group, what, Figure::Percent(quantile(&rates, 0.5)), bound);
    for (what, q) in [
        ("… a quarter of the pairs below", 0.25),
        ("… and above", 0.75),
    ] {
        table.told(group, what, Figure::Percent(quantile(&rates, q)));
    }
    let bound = AtMost(Figure::Percent(103.0));
    let what = "the hub's CPU per reading, of that without";
    table.bound(group, what, Figure::Percent(quantile(&costs, 0.5)), bound);
    finish(hub, table, group).await?;
    broker.process.stop().await
}

/// Enters the devices, each of which takes `echo`. Returns the registry and the file of tokens.
async fn register(hub: &Path, dir: &Path) -> anyhow::Result<(PathBuf, PathBuf)> {
    let (registry, tokens) = (dir.join("devices.toml"), dir.join("tokens"));
    let mut lines = String::new();
    for number in 0..DEVICES {
        let id = format!("swarm-{number}");
        let mut command = Command::new(hub);
        command.args(["device", "add", &id, "--command", "echo", "--registry"]);
        let added = command.arg(&registry).output().await?;
        if !added.status.success() {
            bail!(
                "telehub device add: {}",
                String::from_utf8_lossy(&added.stderr)
            );
        }
        let token = String::from_utf8(added.stdout).context("a token is text")?;
        let _ = writeln!(lines, "{id} {}", token.trim());
    }
    std::fs::write(&tokens, lines)?;
    Ok((registry, tokens))
}

struct Bench<'a> {
    setup: &'a Setup,
    hub: &'a Hub,
    port: u16,
    tokens: &'a Path,
}

impl Bench<'_> {
    async fn carry(&self, rate: f64) -> anyhow::Result<Carried> {
        let load = Load {
            devices: DEVICES,
            batch: 10,
            rate,
            window: None,
            time: self.setup.time,
        };
        let before = (self.hub.process.cpu()?, self.done().await?);
        let outcome = load::run_with(&self.hub.url, &load, Some(self.tokens)).await?;
        let cpu: Duration = self.hub.process.cpu()? - before.0;
        Ok(Carried {
            rate: outcome.figure("/readings_per_second"),
            readings: outcome.readings(),
            cpu,
            done: self.done().await? - before.1,
        })
    }

    async fn carry_beside(&self, rate: f64) -> anyhow::Result<Carried> {
        let topics: Vec<String> = (0..DEVICES)
            .map(|number| format!("telehub/bench/swarm-{number}/command/echo"))
            .collect();
        tokio::select! {
            carried = self.carry(rate) => carried,
            failed = mqtt::publish_in_turn(self.port, &topics, RATE) => {
                Err(failed.err().context("the broker has gone")?)
            }
        }
    }

    /// Commands that were carried out so far.
    async fn done(&self) -> anyhow::Result<u64> {
        let text = self.hub.metrics().await?;
        let series = "telehub_commands_ended_total{outcome=\"done\"} ";
        let count = text.lines().find_map(|line| line.strip_prefix(series));
        count.map_or(Ok(0), |count| Ok(count.trim().parse()?))
    }
}

fn quantile(figures: &[f64], q: f64) -> f64 {
    let mut figures = figures.to_vec();
    figures.sort_by(f64::total_cmp);
    let place = (figures.len() as f64 * q) as usize;
    figures.get(place).copied().unwrap_or_default()
}
