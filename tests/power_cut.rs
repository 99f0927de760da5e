//! Power cuts under the whole daemon: real devices before it, ext4 beneath it, and what was acked
//! looked for with `telehub spool export` and at the broker. Each test is a way of living between
//! two cuts; the controls leave a sync out and must lose data in the same rig.
//!
//! Some hundred cuts by default. For many more, in every way of living by turns:
//! `POWER_CUTS=10000 cargo test --test power_cut -- --ignored --nocapture as_many_cuts`, with
//! `RIGS=8` discs at a time, `SEED=2` for other moments, and `LIFE=drain` for one way alone. With
//! `KEEP=DIR` what was on the disc is copied there when something is missing.
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
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use daemon::{Consumer, Hub, Mosquitto, Sensor, config, until};
use dice::Dice;
use disc::Disc;
use serde_json::Value;

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
    /// Under load, after syncs that failed.
    Faulty,
}

const OUTAGE: Life = Life {
    name: "outage",
    spool: "",
    bytes: 0,
    broker: false,
    end: End::Load,
};

/// Segments of 512 KiB.
const SMALL: &str = "max_size = \"8MiB\"";

const ROLL_OVER: Life = Life {
    name: "roll-over",
    spool: SMALL,
    bytes: 3_000,
    ..OUTAGE
};

const DRAIN: Life = Life {
    name: "drain",
    spool: SMALL,
    bytes: 1_000,
    broker: true,
    ..OUTAGE
};

const OVERFLOW: Life = Life {
    name: "overflow",
    spool: SMALL,
    bytes: 20_000,
    ..OUTAGE
};

const OPENING: Life = Life {
    name: "opening",
    spool: SMALL,
    bytes: 1_000,
    end: End::Opening,
    ..OUTAGE
};

const STOPPING: Life = Life {
    name: "stopping",
    bytes: 1_000,
    broker: true,
    end: End::Stopping,
    ..OUTAGE
};

const RESUMED: Life = Life {
    name: "killed, resumed",
    end: End::Resumed,
    ..OUTAGE
};

const FAULTY: Life = Life {
    name: "failed syncs",
    end: End::Faulty,
    ..OUTAGE
};

const WRITE_ALWAYS: Life = Life {
    name: "write always",
    spool: "write = \"always\"",
    broker: true,
    ..OUTAGE
};

/// Taken by turns when there are many cuts.
const LIVES: [Life; 12] = [
    OUTAGE,
    ROLL_OVER,
    DRAIN,
    STOPPING,
    OVERFLOW,
    OPENING,
    RESUMED,
    WRITE_ALWAYS,
    OUTAGE,
    ROLL_OVER,
    DRAIN,
    FAULTY,
];

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
    fn add(&mut self, other: Self) {
        self.cuts += other.cuts;
        self.acked += other.acked;
        self.lost.extend(other.lost);
        self.disorder.extend(other.disorder);
        self.complaints.extend(other.complaints);
        self.dropped += other.dropped;
        self.published += other.published;
    }

    fn is_good(&self) {
        assert!(self.lost.is_empty(), "lost: {:?}", self.lost);
        assert!(self.complaints.is_empty(), "{:#?}", self.complaints);
        assert!(self.disorder.is_empty(), "{:?}", self.disorder);
        assert!(self.acked > self.cuts, "{self:?}");
    }

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
        let mut stored = Self::default();
        if !export.status.success() {
            let verify = daemon::command()
                .args(["spool", "verify", "--config"])
                .arg(dir.join("telehub.toml"))
                .env("TMPDIR", dir)
                .output()
                .unwrap();
            stored.complaint = String::from_utf8([export.stderr, verify.stdout].concat()).unwrap();
        }
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
            let late = of_device.last().is_some_and(|last| *last > seq);
            // What was in doubt after a failed sync is written anew, and both may be there.
            if of_device.insert(seq) && late {
                stored.disorder.push((device.to_owned(), seq));
            }
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
    /// Environment of the daemon.
    env: Vec<(&'static str, PathBuf)>,
    sensors: Vec<Sensor>,
    consumer: Option<Consumer>,
    /// Since the spool began anew.
    at_broker: BTreeMap<String, BTreeSet<u64>>,
    known: u64,
    /// Which chain of many.
    chain: u64,
    outcome: Outcome,
    // In this order: whoever writes ends before the disc is unmounted.
    broker: Option<Mosquitto>,
    disc: Disc,
    dir: tempfile::TempDir,
}

impl Rig {
    async fn new(life: Life, dice: Dice) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let disc = Disc::new(dir.path(), 96)?;
        let mut env = Vec::new();
        if life.end == End::Faulty {
            env.push(("LD_PRELOAD", preload::shim(dir.path(), "faulty")?));
            env.push(("FAULTS", dir.path().join("faults")));
            env.push(("FAULTS_BELOW", disc.path.clone()));
        }
        let broker = life.broker.then(|| Mosquitto::start(dir.path()));
        let consumer = match &broker {
            Some(broker) => Some(Consumer::start(broker.port).await),
            None => None,
        };
        Some(Self {
            life,
            dice,
            env,
            sensors: Vec::new(),
            consumer,
            at_broker: BTreeMap::new(),
            known: 0,
            chain: 0,
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
        command.envs(self.env.iter().cloned());
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
            let (round, bytes) = (self.chain + self.outcome.cuts, self.life.bytes);
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
        let faulty = self.life.end == End::Faulty;
        let expected = |line: &String| {
            let failed = [
                "the spool cannot be written",
                "cannot remove a drained part",
            ];
            faulty && failed.iter().any(|words| line.contains(words))
                || line.contains("uplink")
                || line.contains("is full")
        };
        let (chain, round) = (self.chain, self.outcome.cuts);
        let lines = hub.complaints().into_iter();
        self.outcome.complaints.extend(
            lines
                .filter(|line| !expected(line))
                .map(|line| format!("{chain} {round}: {line}")),
        );
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
            End::Faulty => {
                let switch = self.dir.path().join("faults");
                // EIO, and nothing of it is synced.
                std::fs::write(&switch, "sync 5").unwrap();
                tokio::time::sleep(self.dice.millis(100)).await;
                std::fs::remove_file(&switch).unwrap();
                let before = self.acked();
                until("acks after a failed sync", || self.acked() > before + 100).await;
                self.end(hub);
            }
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
        let complaints = self.outcome.complaints.len();
        let stored = Stored::read(self.dir.path());
        self.outcome.complaints.extend(
            (!stored.complaint.is_empty())
                .then(|| format!("{} {round}: {}", self.chain, stored.complaint)),
        );
        let corrupt = stored.gaps.iter().filter(|gap| gap["reason"] != "overflow");
        self.outcome
            .complaints
            .extend(corrupt.map(|gap| format!("{} {round}: {gap}", self.chain)));
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
        if !missing.is_empty() || self.outcome.complaints.len() > complaints {
            let name = format!("{}-{}-{round}", self.life.name, self.chain);
            self.disc.keep(&name.replace([',', ' '], "-"));
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
        if self.chain == 0 {
            self.outcome.tell(self.life.name, begun);
        }
        self.outcome
    }
}

async fn survives(cuts: u64, life: Life) {
    if let Some(rig) = Rig::new(life, Dice::new()).await {
        let outcome = rig.run(cuts).await;
        outcome.is_good();
        assert!(!life.broker || cuts < CHAIN || outcome.published > 0);
    }
}

#[tokio::test]
async fn what_was_acked_is_in_the_spool_after_every_power_cut() {
    if disc::ran_alone(&|| ()) {
        return;
    }
    survives(20, OUTAGE).await;
}

#[tokio::test]
async fn what_was_acked_survives_cuts_while_databases_roll_over() {
    if disc::ran_alone(&|| ()) {
        return;
    }
    survives(20, ROLL_OVER).await;
}

#[tokio::test]
async fn what_was_acked_survives_cuts_while_the_backlog_drains() {
    if disc::ran_alone(&|| ()) {
        return;
    }
    survives(20, DRAIN).await;
}

#[tokio::test]
async fn what_was_acked_survives_cuts_while_the_oldest_is_dropped() {
    if disc::ran_alone(&|| ()) {
        return;
    }
    survives(10, OVERFLOW).await;
}

#[tokio::test]
async fn what_was_acked_survives_cuts_while_the_spool_is_opened() {
    if disc::ran_alone(&|| ()) {
        return;
    }
    survives(10, OPENING).await;
}

#[tokio::test]
async fn what_was_acked_survives_cuts_during_the_stop() {
    if disc::ran_alone(&|| ()) {
        return;
    }
    survives(10, STOPPING).await;
}

#[tokio::test]
async fn what_a_killed_hub_had_written_and_the_next_one_speaks_of_survives_a_cut() {
    if disc::ran_alone(&|| ()) {
        return;
    }
    survives(5, RESUMED).await;
}

#[tokio::test]
async fn what_was_acked_survives_cuts_after_syncs_that_failed() {
    if disc::ran_alone(&|| ()) {
        return;
    }
    survives(5, FAULTY).await;
}

#[tokio::test]
async fn what_was_acked_survives_cuts_with_every_batch_on_disk_first() {
    if disc::ran_alone(&|| ()) {
        return;
    }
    survives(10, WRITE_ALWAYS).await;
}

fn number(variable: &str, usual: u64) -> u64 {
    std::env::var(variable).map_or(usual, |number| number.parse().unwrap())
}

/// One chain of cuts on a disc of its own. The same number gives the same moments.
fn chain(number: u64) -> Option<(&'static str, Outcome)> {
    let mut lives = LIVES.to_vec();
    if let Ok(name) = std::env::var("LIFE") {
        lives.retain(|life| life.name == name);
    }
    let life = lives[usize::try_from(number).unwrap() % lives.len()];
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut rig = Rig::new(life, Dice::of(number)).await?;
        rig.chain = number;
        Some((life.name, rig.run(CHAIN).await))
    })
}

#[test]
#[ignore = "as long as you like: POWER_CUTS=10000"]
fn as_many_cuts_as_you_like_lose_nothing() {
    if disc::ran_alone(&|| ()) {
        return;
    }
    let begun = Instant::now();
    let chains = number("POWER_CUTS", 1_000) / CHAIN;
    let first = number("SEED", 1) * 1_000_000;
    let next = AtomicU64::new(0);
    let outcomes: Mutex<BTreeMap<&str, Outcome>> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..number("RIGS", 4) {
            scope.spawn(|| {
                loop {
                    let done = next.fetch_add(1, Relaxed);
                    if done >= chains {
                        return;
                    }
                    let Some((name, outcome)) = chain(first + done) else {
                        return;
                    };
                    let mut outcomes = outcomes.lock().unwrap();
                    outcomes.entry(name).or_default().add(outcome);
                    if (done + 1).is_multiple_of(100) {
                        tell_all(&outcomes, begun);
                    }
                }
            });
        }
    });
    let outcomes = outcomes.into_inner().unwrap();
    tell_all(&outcomes, begun);
    outcomes.values().for_each(Outcome::is_good);
}

fn tell_all(outcomes: &BTreeMap<&str, Outcome>, begun: Instant) {
    println!();
    let mut sum = Outcome::default();
    for (name, outcome) in outcomes {
        outcome.tell(name, begun);
        sum.cuts += outcome.cuts;
        sum.acked += outcome.acked;
        sum.dropped += outcome.dropped;
        sum.published += outcome.published;
        sum.lost.extend(outcome.lost.iter().cloned());
        sum.disorder.extend(outcome.disorder.iter().cloned());
        sum.complaints.extend(outcome.complaints.iter().cloned());
    }
    sum.tell("all", begun);
    for complaint in &sum.complaints {
        println!("{complaint}");
    }
}

/// The same rig with syncs left out.
async fn without(left_out: &'static str, life: Life, cuts: u64) -> Option<Outcome> {
    let mut rig = Rig::new(life, Dice::new()).await?;
    let library = preload::shim(rig.dir.path(), "unsynced")?;
    rig.env = vec![("LD_PRELOAD", library), ("LEAVE_OUT", left_out.into())];
    println!("{}, without the syncs of: {left_out}", life.name);
    let outcome = rig.run(cuts).await;
    if let Some(complaint) = outcome.complaints.first() {
        println!("the first complaint: {complaint}");
    }
    Some(outcome)
}

/// The rig must see the loss.
async fn control(left_out: &'static str) {
    const AT_MOST: u64 = 10;
    let Some(outcome) = without(left_out, OUTAGE, AT_MOST).await else {
        return;
    };
    assert!(
        !outcome.lost.is_empty(),
        "without {left_out} nothing was lost in {AT_MOST} cuts: the rig proves nothing"
    );
}

#[tokio::test]
async fn without_the_syncs_of_ours_power_cuts_lose_data() {
    if disc::ran_alone(&|| ()) {
        return;
    }
    control("data file dir").await;
}

#[tokio::test]
async fn without_the_sync_of_each_commit_power_cuts_lose_data() {
    if disc::ran_alone(&|| ()) {
        return;
    }
    control("data").await;
}

/// What each kind of sync is for on this file system; nothing is asserted. Some are not missed on
/// ext4, because a sync of the data writes out what else the journal holds.
#[tokio::test]
#[ignore = "shows, and asserts nothing; takes two minutes"]
async fn what_is_lost_without_each_kind_of_sync() {
    if disc::ran_alone(&|| ()) {
        return;
    }
    let lives = [ROLL_OVER, STOPPING];
    for left_out in ["range", "dir", "file", "file dir", "data"] {
        for life in lives {
            without(left_out, life, 20).await;
        }
    }
}
