//! Power cuts under the whole daemon: real devices before it, ext4 beneath it, and what was acked
//! looked for with `telehub spool export` and at the broker. Each test is a way of living between
//! two cuts; the controls leave a sync out and must lose data in the same rig.
//!
//! `POWER_CUTS=10000` for more than the usual 100 in all; `SEED=2` for other moments.
#![allow(clippy::unwrap_used, missing_docs, clippy::print_stdout)]

#[path = "support/daemon.rs"]
mod daemon;
#[path = "support/dice.rs"]
mod dice;
#[path = "support/disc.rs"]
mod disc;
#[path = "support/preload.rs"]
mod preload;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use daemon::{Consumer, Hub, Mosquitto, Sensor, config, until};
use dice::Dice;
use disc::Disc;
use serde_json::Value;

/// Cuts of all tests together, without the controls.
const CUTS: u64 = 100;

/// After so many cuts the spool begins anew; until then each life goes on with what is there.
const CHAIN: u64 = 10;

/// Nobody listens there.
const NO_BROKER: u16 = 1;

/// The way of living between two cuts.
#[derive(Clone, Copy)]
struct Life {
    name: &'static str,
    /// Keys of `[spool]`.
    spool: &'static str,
    /// Bytes of a batch, about.
    bytes: usize,
    /// Two lives of three have a broker.
    broker: bool,
    /// How it ends.
    end: End,
}

#[derive(Clone, Copy, PartialEq)]
enum End {
    /// Under load.
    Load,
    /// Every second one while it starts.
    Opening,
    /// While it stops.
    Stopping,
    /// Killed under load, started again, and cut as soon as devices have heard where to resume.
    Resumed,
}

const OUTAGE: Life = Life {
    name: "outage",
    spool: "",
    bytes: 0,
    broker: false,
    end: End::Load,
};

/// Generations of 512 KiB.
const SMALL: &str = "max_size = \"8MiB\"";

#[derive(Default, Debug)]
struct Outcome {
    cuts: u64,
    acked: u64,
    /// Acked, and neither stored nor at the broker nor in a gap record.
    lost: BTreeSet<(String, u64)>,
    /// Stored after a later one of its stream.
    disorder: BTreeSet<(String, u64)>,
    /// What the hub and `telehub spool export` complained of.
    complaints: Vec<String>,
    dropped: u64,
    published: u64,
}

impl Outcome {
    fn tell(&self, name: &str, begun: Instant) {
        println!(
            "{name}: {} cuts, {} batches acked, {} lost, {} out of order, {} complaints, \
             {} dropped with a record, {} at the broker, {:.0} s",
            self.cuts,
            self.acked,
            self.lost.len(),
            self.disorder.len(),
            self.complaints.len(),
            self.dropped,
            self.published,
            begun.elapsed().as_secs_f64()
        );
    }
}

/// What is in the spool of a stopped hub.
#[derive(Default)]
struct Stored {
    batches: BTreeMap<String, BTreeSet<u64>>,
    disorder: Vec<(String, u64)>,
    gaps: Vec<Value>,
    complaint: String,
}

impl Stored {
    fn read(dir: &Path) -> Self {
        let export = daemon::command()
            .args(["spool", "export", "--config"])
            .arg(dir.join("telehub.toml"))
            .env("TMPDIR", dir)
            .output()
            .unwrap();
        let mut stored = Self {
            complaint: String::from_utf8(export.stderr).unwrap(),
            ..Self::default()
        };
        for line in String::from_utf8(export.stdout).unwrap().lines() {
            let line: Value = serde_json::from_str(line).unwrap();
            if line["pack"].is_null() {
                stored.gaps.push(line);
                continue;
            }
            let seq = line["seq"].as_u64().unwrap();
            let device = line["device"].as_str().unwrap();
            assert_eq!(line["pack"][0]["v"], seq, "exactly as taken");
            let of_device = stored.batches.entry(device.to_owned()).or_default();
            if of_device.last().is_some_and(|last| *last >= seq) {
                stored.disorder.push((device.to_owned(), seq));
            }
            of_device.insert(seq);
        }
        stored
    }

    fn accounts_for(&self, device: &str, seq: u64) -> bool {
        let number = |value: &Value| value.as_u64().unwrap_or(0);
        let stored = self.batches.get(device);
        stored.is_some_and(|stored| stored.contains(&seq))
            || self.gaps.iter().any(|gap| {
                gap["reason"] == "overflow"
                    && gap["device"] == device
                    && (number(&gap["from"])..=number(&gap["to"])).contains(&seq)
            })
    }
}

struct Rig {
    life: Life,
    dice: Dice,
    preload: Option<(std::path::PathBuf, &'static str)>,
    sensors: Vec<Sensor>,
    consumer: Option<Consumer>,
    /// Since the spool began anew.
    at_broker: BTreeMap<String, BTreeSet<u64>>,
    known: u64,
    outcome: Outcome,
    // In this order: whoever writes ends before the disc is unmounted.
    broker: Option<Mosquitto>,
    disc: Disc,
    dir: tempfile::TempDir,
}

impl Rig {
    async fn new(life: Life) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let disc = Disc::new(dir.path(), 96)?;
        let broker = life.broker.then(|| Mosquitto::start(dir.path()));
        let consumer = match &broker {
            Some(broker) => Some(Consumer::start(broker.port).await),
            None => None,
        };
        Some(Self {
            life,
            dice: Dice::new(),
            preload: None,
            sensors: Vec::new(),
            consumer,
            at_broker: BTreeMap::new(),
            known: 0,
            outcome: Outcome::default(),
            broker,
            disc,
            dir,
        })
    }

    fn config(&mut self) -> String {
        let port = match &self.broker {
            Some(broker) if !self.dice.one_in(3) => broker.port,
            _ => NO_BROKER,
        };
        // A small window, so that a drain takes a while.
        config(&self.disc.path, port, "inflight = 20")
            .replace("[admin]", &format!("{}\n[admin]", self.life.spool))
    }

    fn command(&self) -> Command {
        let mut command = daemon::command();
        if let Some((library, left_out)) = &self.preload {
            command
                .env("LD_PRELOAD", library)
                .env("LEAVE_OUT", left_out);
        }
        command
    }

    fn acked(&self) -> u64 {
        self.sensors.iter().map(Sensor::acked).sum()
    }

    /// A hub with devices.
    async fn start(&mut self) -> Hub {
        let text = self.config();
        let mut command = self.command();
        let hub = Hub::start_by(&mut command, self.dir.path(), &text, |_| {}).await;
        if self.sensors.is_empty() {
            let (round, bytes) = (self.outcome.cuts, self.life.bytes);
            let sensor = |n| {
                let id = format!("d{round}-{n}");
                Sensor::heavy(hub.address, &id, Duration::from_millis(1), bytes)
            };
            self.sensors = (0..4).map(sensor).collect();
        }
        self.sensors
            .iter()
            .for_each(|sensor| sensor.moved(hub.address));
        hub
    }

    fn end(&mut self, hub: Hub) {
        self.sensors
            .iter()
            .for_each(|sensor| sensor.moved(Sensor::NOWHERE));
        // The uplink's and the overflow's are what this is about.
        let expected = |line: &String| line.contains("uplink") || line.contains("is full");
        let lines = hub.complaints();
        self.outcome
            .complaints
            .extend(lines.into_iter().filter(|line| !expected(line)));
        hub.kill();
    }

    async fn live(&mut self) {
        let opening = self.life.end == End::Opening && self.outcome.cuts % 2 == 1;
        if opening {
            let text = self.config();
            std::fs::write(self.dir.path().join("telehub.toml"), text).unwrap();
            let mut child = self
                .command()
                .args(["run", "--config"])
                .arg(self.dir.path().join("telehub.toml"))
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            // A start takes about half of that.
            tokio::time::sleep(self.dice.millis(120)).await;
            child.kill().unwrap();
            child.wait().unwrap();
            return;
        }
        let hub = self.start().await;
        let before = self.known;
        until("acks", || self.acked() > before).await;
        tokio::time::sleep(self.dice.millis(250)).await;
        match self.life.end {
            End::Load | End::Opening => self.end(hub),
            End::Stopping => {
                hub.signal("TERM");
                tokio::time::sleep(self.dice.millis(80)).await;
                self.end(hub);
            }
            End::Resumed => {
                self.end(hub);
                let connects = |rig: &Self| rig.sensors.iter().map(Sensor::connects).sum::<u64>();
                let before = connects(self);
                let hub = self.start().await;
                until("welcomes", || connects(self) >= before + 4).await;
                self.end(hub);
            }
        }
    }

    /// Looks for everything that was acked.
    async fn check(&mut self) {
        let round = self.outcome.cuts;
        let stored = Stored::read(self.dir.path());
        self.outcome.complaints.extend(
            (!stored.complaint.is_empty()).then(|| format!("{round}: {}", stored.complaint)),
        );
        let corrupt = stored.gaps.iter().filter(|gap| gap["reason"] != "overflow");
        self.outcome
            .complaints
            .extend(corrupt.map(|gap| format!("{round}: {gap}")));
        self.outcome
            .disorder
            .extend(stored.disorder.iter().cloned());
        let mut missing: BTreeSet<(String, u64)> = BTreeSet::new();
        for sensor in &self.sensors {
            let acked = (1..=sensor.acked()).filter(|seq| !stored.accounts_for(&sensor.id, *seq));
            missing.extend(acked.map(|seq| (sensor.id.clone(), seq)));
        }
        let begun = Instant::now();
        loop {
            self.listen();
            missing.retain(|(device, seq)| {
                let at_broker = self.at_broker.get(device);
                !at_broker.is_some_and(|batches| batches.contains(seq))
            });
            // What was PUBACKed is on its way to the consumer.
            let patience = Duration::from_secs(if self.consumer.is_some() { 20 } else { 0 });
            if missing.is_empty() || begun.elapsed() >= patience {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        self.outcome.lost.extend(missing);
        let acked = self.acked();
        self.outcome.acked += acked - self.known;
        self.known = acked;
        if round % CHAIN == CHAIN - 1 {
            let dropped = stored.gaps.iter().filter_map(|gap| gap["batches"].as_u64());
            self.outcome.dropped += dropped.sum::<u64>();
        }
    }

    fn listen(&mut self) {
        let Some(consumer) = &self.consumer else {
            return;
        };
        for got in consumer.take() {
            if let Some((device, _, seq)) = got.batch() {
                self.outcome.published += 1;
                self.at_broker.entry(device).or_default().insert(seq);
            } else if got.kind() == "gap" {
                self.outcome.complaints.push(got.json().to_string());
            }
        }
    }

    async fn run(mut self, cuts: u64) -> Outcome {
        let begun = Instant::now();
        while self.outcome.cuts < cuts {
            if self.outcome.cuts.is_multiple_of(CHAIN) {
                self.sensors.clear();
                self.at_broker.clear();
                self.known = 0;
                let _ = std::fs::remove_dir_all(self.disc.path.join("spool"));
            }
            self.live().await;
            self.disc.cut_power();
            self.check().await;
            self.outcome.cuts += 1;
        }
        self.outcome.tell(self.life.name, begun);
        self.outcome
    }
}

/// `share`: of a hundred cuts.
async fn survives(share: u64, life: Life) {
    let Some(rig) = Rig::new(life).await else {
        return;
    };
    let all = std::env::var("POWER_CUTS").map_or(CUTS, |cuts| cuts.parse().unwrap());
    let cuts = (all * share).div_ceil(100);
    let outcome = rig.run(cuts).await;
    assert!(outcome.lost.is_empty(), "lost: {:?}", outcome.lost);
    assert!(outcome.disorder.is_empty(), "{:?}", outcome.disorder);
    assert!(outcome.complaints.is_empty(), "{:#?}", outcome.complaints);
    assert!(outcome.acked > outcome.cuts, "{outcome:?}");
    if life.broker && cuts >= CHAIN {
        assert!(outcome.published > 0, "nothing was drained");
    }
}

#[tokio::test]
async fn what_was_acked_is_in_the_spool_after_every_power_cut() {
    survives(20, OUTAGE).await;
}

#[tokio::test]
async fn what_was_acked_survives_cuts_while_databases_roll_over() {
    let life = Life {
        name: "roll-over",
        spool: SMALL,
        bytes: 3_000,
        ..OUTAGE
    };
    survives(20, life).await;
}

#[tokio::test]
async fn what_was_acked_survives_cuts_while_the_backlog_drains() {
    let life = Life {
        name: "drain",
        spool: SMALL,
        bytes: 1_000,
        broker: true,
        ..OUTAGE
    };
    survives(20, life).await;
}

#[tokio::test]
async fn what_was_acked_survives_cuts_while_the_oldest_is_dropped() {
    let life = Life {
        name: "overflow",
        spool: SMALL,
        bytes: 20_000,
        ..OUTAGE
    };
    survives(10, life).await;
}

#[tokio::test]
async fn what_was_acked_survives_cuts_while_the_spool_is_opened() {
    let life = Life {
        name: "opening",
        spool: SMALL,
        bytes: 1_000,
        end: End::Opening,
        ..OUTAGE
    };
    survives(10, life).await;
}

#[tokio::test]
async fn what_was_acked_survives_cuts_during_the_stop() {
    let life = Life {
        name: "stopping",
        bytes: 1_000,
        broker: true,
        end: End::Stopping,
        ..OUTAGE
    };
    survives(5, life).await;
}

#[tokio::test]
async fn what_a_killed_hub_had_written_and_the_next_one_speaks_of_survives_a_cut() {
    let life = Life {
        name: "killed, resumed, cut",
        end: End::Resumed,
        ..OUTAGE
    };
    survives(5, life).await;
}

#[tokio::test]
async fn what_was_acked_survives_cuts_with_every_batch_on_disk_first() {
    let life = Life {
        name: "write always",
        spool: "write = \"always\"",
        broker: true,
        ..OUTAGE
    };
    survives(10, life).await;
}

/// The same rig with something left out: it must see the loss.
async fn control(left_out: &'static str) {
    const AT_MOST: u64 = 10;
    let Some(mut rig) = Rig::new(OUTAGE).await else {
        return;
    };
    let Some(library) = preload::shim(rig.dir.path(), "unsynced") else {
        return;
    };
    rig.preload = Some((library, left_out));
    rig.life.name = "control";
    let outcome = rig.run(AT_MOST).await;
    println!("control without {left_out}: {} lost", outcome.lost.len());
    assert!(
        !outcome.lost.is_empty(),
        "without {left_out} nothing was lost in {AT_MOST} cuts: the rig proves nothing"
    );
}

#[tokio::test]
async fn without_the_syncs_of_ours_power_cuts_lose_data() {
    control("data file dir").await;
}

#[tokio::test]
async fn without_the_sync_of_each_commit_power_cuts_lose_data() {
    control("data").await;
}
