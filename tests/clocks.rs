//! The whole daemon on boards whose clock is wrong, becomes right, or jumps. The clock is that of a
//! preloaded library, so the machine's own is left alone.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "support/daemon.rs"]
mod daemon;
#[path = "support/preload.rs"]
mod preload;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use daemon::{
    Consumer, Device, Hub, Mosquitto, Received, Sensor, config, every_acked_batch_arrives, until,
};
use serde_json::{Value, json};

const YEAR: i64 = 365 * 86_400;

const FIRST_BOOT: &str = "0f9b6d1c-52a7-4c1e-8a33-3e5f0c7d9b21";
const SECOND_BOOT: &str = "c2d4e6f8-1122-4334-9556-778899aabbcc";

/// Seconds. As right as a corrected time has to be.
const RIGHT: f64 = 1.0;

/// The true time.
fn truth() -> f64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    since.as_secs_f64()
}

/// The clock of a board.
struct Clock {
    library: PathBuf,
    dir: PathBuf,
}

impl Clock {
    /// Without a battery, and so many seconds off. `None`, said loudly, without a C compiler.
    fn new(dir: &Path, off: i64, flag: &str) -> Option<Self> {
        let library = preload::shim(dir, "clock")?;
        let clock = Self {
            library,
            dir: dir.join("clock"),
        };
        fs::create_dir_all(clock.dir.join("proc/sys/kernel/random")).unwrap();
        clock.set(off, flag);
        clock.boot(FIRST_BOOT);
        Some(clock)
    }

    /// Both at once, as an NTP daemon does it: the step and the kernel's word for it.
    fn set(&self, off: i64, flag: &str) {
        // Nobody reads half a number: each file takes the place of the one before.
        let put = |name: &str, text: &str| {
            let new = self.dir.join("new");
            fs::write(&new, text).unwrap();
            fs::rename(new, self.dir.join(name)).unwrap();
        };
        // The kernel takes its word back before anything moves.
        put("flag", if flag == "refused" { flag } else { "unsynced" });
        put("offset", &off.to_string());
        put("flag", flag);
    }

    fn boot(&self, id: &str) {
        fs::write(self.dir.join("proc/sys/kernel/random/boot_id"), id).unwrap();
    }

    async fn hub(&self, dir: &Path, config: &str) -> Hub {
        let mut command = Command::new(daemon::program());
        command
            .env("LD_PRELOAD", &self.library)
            .env("CLOCK_SHIM", &self.dir);
        Hub::start_by(&mut command, dir, config, |_| {}).await
    }
}

struct Scene {
    clock: Clock,
    broker: Mosquitto,
    consumer: Consumer,
    config: String,
    dir: tempfile::TempDir,
}

impl Scene {
    async fn new(off: i64, flag: &str) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let clock = Clock::new(dir.path(), off, flag)?;
        let broker = Mosquitto::start(dir.path());
        let consumer = Consumer::start(broker.port).await;
        let config =
            config(dir.path(), broker.port, "").replace("[spool]", "[spool]\nmax_age = \"1h\"");
        Some(Self {
            clock,
            broker,
            consumer,
            config,
            dir,
        })
    }

    async fn hub(&self) -> Hub {
        self.clock.hub(self.dir.path(), &self.config).await
    }

    /// The batch with this number.
    fn batch(&self, seq: u64) -> Option<Value> {
        let got = self.consumer.got();
        let is = |message: &&Received| message.batch().is_some_and(|(_, _, n)| n == seq);
        got.iter().find(is).map(Received::json)
    }

    async fn until_batch(&self, seq: u64) -> Value {
        until(&format!("batch {seq}"), || self.batch(seq).is_some()).await;
        self.batch(seq).unwrap()
    }
}

async fn until_clock(hub: &Hub, state: &str) {
    until(&format!("clock {state}"), || {
        hub.status("/clock/state") == state
    })
    .await;
}

fn about(what: &str, lines: &[String]) -> usize {
    lines.iter().filter(|line| line.contains(what)).count()
}

/// Takes a batch, and says between which true times it did.
async fn take(device: &mut Device, seq: u64, pack: Value) -> (f64, f64) {
    let before = truth();
    device
        .send(json!({"data": {"seq": seq, "pack": pack}}))
        .await;
    device.acked(seq).await;
    (before, truth())
}

fn is_right(time: &Value, (after, before): (f64, f64)) -> bool {
    let time = time.as_f64().unwrap();
    time >= after - RIGHT && time <= before + RIGHT
}

const ABSOLUTE: f64 = 1_650_000_000.5;

/// Readings without a time, with a relative one and with one of the device's own.
fn pack() -> Value {
    json!([{"n": "a", "v": 1}, {"n": "b", "v": 2, "t": -10}, {"n": "c", "v": 3, "t": ABSOLUTE}])
}

fn all_right(batch: &Value, (after, before): (f64, f64)) {
    assert!(batch.get("clock").is_none(), "{batch}");
    assert!(is_right(&batch["received"], (after, before)), "{batch}");
    let times: Vec<_> = (0..3).map(|n| &batch["pack"][n]["t"]).collect();
    assert!(is_right(times[0], (after, before)), "{batch}");
    assert!(is_right(times[1], (after - 10.0, before - 10.0)), "{batch}");
    assert_eq!(*times[2], ABSOLUTE);
}

#[tokio::test]
async fn what_waits_when_the_clock_becomes_right_arrives_with_the_right_times() {
    for started in [-56 * YEAR, -6 * YEAR] {
        let Some(mut scene) = Scene::new(started, "unsynced").await else {
            return;
        };
        scene.broker.stop();
        let hub = scene.hub().await;
        until_clock(&hub, "unsynced").await;
        let connected = truth();
        let mut device = Device::connect(hub.address, "cow").await;
        device.hello("s").await;
        let first = take(&mut device, 1, pack()).await;
        // The hub is killed and comes back within the same boot.
        hub.kill();
        let hub = scene.hub().await;
        let mut device = Device::connect(hub.address, "cow").await;
        assert_eq!(device.hello("s").await, 1);
        let second = take(&mut device, 2, pack()).await;
        scene.clock.set(0, "synced");
        until_clock(&hub, "synced").await;
        let third = take(&mut device, 3, pack()).await;
        scene.broker.start_again();
        hub.until_uplink("connected").await;
        for (seq, taken) in [(1, first), (2, second), (3, third)] {
            all_right(&scene.until_batch(seq).await, taken);
        }
        for topic in ["telehub/barn/cow/status", "telehub/barn/status"] {
            until(topic, || scene.consumer.last(topic).is_some()).await;
            let status = scene.consumer.last(topic).unwrap();
            assert!(is_right(&status["since"], (connected, truth())), "{status}");
            assert!(status.get("clock").is_none(), "{status}");
        }
        let log = hub.log();
        assert_eq!(about("the clock is not synchronised", &log), 1, "{log:#?}");
        assert_eq!(about("corrected_by", &log), 1, "{log:#?}");
        let devices: Value = serde_json::from_str(&hub.get("/api/devices").1).unwrap();
        assert!(is_right(&devices[0]["since"], (connected, truth())));
        assert!(hub.stop().await.success());
    }
}

#[tokio::test]
async fn what_an_earlier_boot_took_in_the_dark_is_marked_and_kept_as_it_was() {
    let Some(mut scene) = Scene::new(-6 * YEAR, "unsynced").await else {
        return;
    };
    scene.broker.stop();
    let hub = scene.hub().await;
    let mut device = Device::connect(hub.address, "cow").await;
    device.hello("s").await;
    let (after, before) = take(&mut device, 1, pack()).await;
    assert!(hub.stop().await.success());

    let export = Command::new(daemon::program())
        .args(["spool", "export", "--config"])
        .arg(scene.dir.path().join("telehub.toml"))
        .output()
        .unwrap();
    let line: Value = serde_json::from_slice(&export.stdout).unwrap();
    assert_eq!(line["clock"], "unsynced", "{line}");
    assert_eq!(line["boot"], FIRST_BOOT, "{line}");
    assert!(line["uptime"].as_f64().unwrap() > 0.0, "{line}");

    scene.clock.boot(SECOND_BOOT);
    scene.clock.set(0, "synced");
    scene.broker.start_again();
    let hub = scene.hub().await;
    let batch = scene.until_batch(1).await;
    assert_eq!(batch["clock"], "unsynced", "{batch}");
    let off = 6.0 * 365.0 * 86_400.0;
    assert!(
        is_right(&batch["received"], (after - off, before - off)),
        "{batch}"
    );
    assert_eq!(batch["pack"][2]["t"], ABSOLUTE);
    let mut device = Device::connect(hub.address, "cow").await;
    device.hello("s").await;
    let taken = take(&mut device, 2, pack()).await;
    all_right(&scene.until_batch(2).await, taken);
    hub.signal("TERM");
    assert!(hub.stop_was_clean().await);
}

#[tokio::test]
async fn what_is_published_before_the_clock_is_right_is_marked() {
    let Some(scene) = Scene::new(-6 * YEAR, "unsynced").await else {
        return;
    };
    let hub = scene.hub().await;
    hub.until_uplink("connected").await;
    let connected = truth();
    let mut device = Device::connect(hub.address, "cow").await;
    device.hello("s").await;
    take(&mut device, 1, pack()).await;
    let batch = scene.until_batch(1).await;
    assert_eq!(batch["clock"], "unsynced", "{batch}");
    assert!(batch["received"].as_f64().unwrap() < connected - 5.0 * 365.0 * 86_400.0);
    assert_eq!(batch["pack"][2]["t"], ABSOLUTE);
    let topics = ["telehub/barn/cow/status", "telehub/barn/status"];
    for topic in topics {
        until(topic, || scene.consumer.last(topic).is_some()).await;
        assert_eq!(scene.consumer.last(topic).unwrap()["clock"], "unsynced");
    }
    scene.clock.set(0, "synced");
    let taken = take(&mut device, 2, pack()).await;
    all_right(&scene.until_batch(2).await, taken);
    for topic in topics {
        // The states were wrong and are told anew.
        until(topic, || {
            let status = scene.consumer.last(topic).unwrap();
            status.get("clock").is_none() && is_right(&status["since"], (connected - 60.0, truth()))
        })
        .await;
    }
    hub.signal("TERM");
    assert!(hub.stop_was_clean().await);
}

#[tokio::test]
async fn a_clock_that_jumps_by_years_expires_reorders_and_evicts_nothing() {
    let Some(mut scene) = Scene::new(0, "synced").await else {
        return;
    };
    let mut hub = scene.hub().await;
    hub.until_uplink("connected").await;
    let start = |n| Sensor::start(hub.address, &format!("s-{n}"), Duration::from_millis(5));
    let sensors: Vec<_> = (0..3).map(start).collect();
    let more = async |what: &str| {
        let before: Vec<_> = sensors.iter().map(Sensor::acked).collect();
        until(what, || {
            let now = sensors.iter().map(Sensor::acked);
            now.zip(&before).all(|(now, before)| now >= before + 20)
        })
        .await;
    };
    for round in 0..3 {
        scene.broker.stop();
        for off in [20 * YEAR, -40 * YEAR, 0] {
            scene.clock.set(off, "unsynced");
            more(&format!("acks in round {round} with the clock {off} s off")).await;
        }
        assert_eq!(hub.status("/devices/evicted"), 0);
        assert!(sensors.iter().all(|sensor| sensor.connects() == round + 1));
        if round == 1 {
            // What is on disk is of another boot for this one, which knows no time at all, and
            // then one that somebody vouches for.
            for sensor in &sensors {
                sensor.moved(Sensor::NOWHERE);
            }
            assert!(hub.stop().await.success());
            scene.clock.boot(SECOND_BOOT);
            scene.clock.set(30 * YEAR, "unsynced");
            hub = scene.hub().await;
        } else {
            scene.clock.set(-3 * YEAR, "unsynced");
            for sensor in &sensors {
                sensor.moved(Sensor::NOWHERE);
            }
            hub.kill();
            hub = scene.hub().await;
        }
        scene.broker.start_again();
        for sensor in &sensors {
            sensor.moved(hub.address);
        }
        hub.until_uplink("connected").await;
        hub.until_drained().await;
        scene.clock.set(0, "synced");
        more("acks after the outage").await;
        assert_eq!(hub.status("/devices/evicted"), 0);
    }
    for sensor in &sensors {
        sensor.rest();
    }
    until("the last acks", || {
        sensors.iter().all(|sensor| sensor.unacked() == 0)
    })
    .await;
    every_acked_batch_arrives(&sensors, &scene.consumer).await;
    let got = scene.consumer.got();
    assert!(got.iter().all(|message| message.kind() != "gap"));
    in_order(&got);
}

/// Within a lane no batch comes for the first time after a later one of its device.
fn in_order(got: &[Received]) {
    let mut newest = std::collections::HashMap::new();
    for message in got {
        let Some((_, _, seq)) = message.batch() else {
            continue;
        };
        let (last, seen) = newest
            .entry(message.topic.clone())
            .or_insert((0, std::collections::HashSet::new()));
        assert!(
            !seen.insert(seq) || seq > *last,
            "{seq} after {last} on {}",
            message.topic
        );
        *last = seq.max(*last);
    }
}

#[tokio::test]
async fn a_machine_whose_clock_is_right_says_nothing_of_it() {
    let Some(scene) = Scene::new(0, "synced").await else {
        return;
    };
    let hub = scene.hub().await;
    hub.until_uplink("connected").await;
    assert_eq!(hub.status("/clock/state"), "synced");
    let mut device = Device::connect(hub.address, "cow").await;
    device.hello("s").await;
    let first = take(&mut device, 1, pack()).await;
    all_right(&scene.until_batch(1).await, first);
    // A long outage of the NTP server: the kernel takes its word back, and nothing has moved.
    scene.clock.set(0, "unsynced");
    let second = take(&mut device, 2, pack()).await;
    all_right(&scene.until_batch(2).await, second);
    assert_eq!(hub.status("/clock/state"), "synced");
    assert_eq!(about("clock", &hub.log()), 0, "{:#?}", hub.log());
    hub.signal("TERM");
    assert!(hub.stop_was_clean().await);
}

#[tokio::test]
async fn where_nobody_can_be_asked_only_the_jumps_count() {
    let Some(mut scene) = Scene::new(0, "refused").await else {
        return;
    };
    scene.broker.stop();
    let hub = scene.hub().await;
    let mut device = Device::connect(hub.address, "cow").await;
    device.hello("s").await;
    assert_eq!(hub.status("/clock/state"), "synced");
    let first = take(&mut device, 1, pack()).await;
    scene.clock.set(-6 * YEAR, "refused");
    take(&mut device, 2, json!([{"n": "a", "v": 1}])).await;
    scene.clock.set(0, "refused");
    let third = take(&mut device, 3, pack()).await;
    scene.broker.start_again();
    for (seq, taken) in [(1, first), (3, third)] {
        all_right(&scene.until_batch(seq).await, taken);
    }
    let said = about("nobody can be asked", &hub.log());
    assert_eq!(said, 1, "{:#?}", hub.log());
}
