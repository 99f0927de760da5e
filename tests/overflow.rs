//! A spool that is full, through the whole daemon: who pays, what is said of it, and that limits
//! on size, free space and age hold.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "support/daemon.rs"]
mod daemon;
#[path = "support/disc.rs"]
mod disc;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use daemon::{Consumer, Device, Hub, Mosquitto, config, until};
use disc::Disc;
use serde_json::{Value, json};

/// A device sends so many batches before it waits for the acks; below the hub's window of 32.
const AT_ONCE: u64 = 16;

fn spool(dir: &Path, port: u16, keys: &str) -> String {
    config(dir, port, "").replace("min_free = \"1MiB\"", keys)
}

/// A batch of this many bytes and one reading.
fn batch(seq: u64, bytes: usize) -> Value {
    let text = "x".repeat(bytes);
    json!({"data": {"seq": seq, "pack": [{"n": "t", "vs": text}]}})
}

/// A device that sends batches of one size.
struct Sender {
    name: String,
    device: Device,
    sent: u64,
}

impl Sender {
    async fn new(hub: &Hub, name: &str) -> Self {
        let mut device = Device::connect(hub.address, name).await;
        device.hello("s").await;
        let name = name.to_owned();
        Self {
            name,
            device,
            sent: 0,
        }
    }

    async fn send(&mut self, count: u64, bytes: usize) {
        for _ in 0..count {
            self.sent += 1;
            self.device.send(batch(self.sent, bytes)).await;
        }
        self.device.acked(self.sent).await;
    }
}

/// The numbers of each device's batches in the order in which they came.
fn arrived(consumer: &Consumer) -> BTreeMap<String, Vec<u64>> {
    in_lane(consumer, "")
}

/// The same of one lane, or of both.
fn in_lane(consumer: &Consumer, lane: &str) -> BTreeMap<String, Vec<u64>> {
    let mut batches: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for received in consumer.got() {
        if !lane.is_empty() && received.kind() != lane {
            continue;
        }
        if let Some((device, _, seq)) = received.batch() {
            batches.entry(device).or_default().push(seq);
        }
    }
    batches
}

fn gaps(consumer: &Consumer) -> Vec<Value> {
    let got = consumer.got();
    let gaps = got.iter().filter(|received| received.kind() == "gap");
    gaps.map(daemon::Received::json).collect()
}

/// Batches that gap records of this device report, after checking that the records are exact:
/// nothing that they name has arrived, nothing twice, and everything that has not is named.
fn missing(consumer: &Consumer, device: &str, sent: u64, reason: &str) -> BTreeSet<u64> {
    let batches = arrived(consumer).remove(device).unwrap_or_default();
    let mut known: BTreeSet<u64> = batches.iter().copied().collect();
    assert_eq!(known.len(), batches.len(), "no batch of {device} twice");
    let history = in_lane(consumer, "history").remove(device);
    assert!(
        history.is_none_or(|numbers| numbers.is_sorted()),
        "in order"
    );
    let mut missing = BTreeSet::new();
    for gap in gaps(consumer) {
        if gap["device"] != device {
            continue;
        }
        assert_eq!(
            (&gap["stream"], &gap["reason"]),
            (&json!("s"), &json!(reason))
        );
        let range = gap["from"].as_u64().unwrap()..=gap["to"].as_u64().unwrap();
        let count = range.clone().count() as u64;
        assert_eq!(
            (&gap["batches"], &gap["readings"]),
            (&json!(count), &json!(count))
        );
        for seq in range {
            assert!(
                known.insert(seq),
                "{device} {seq}: reported, but not lost once"
            );
            missing.insert(seq);
        }
    }
    assert_eq!(
        known,
        (1..=sent).collect(),
        "every batch of {device} is accounted for"
    );
    missing
}

async fn until_reported(consumer: &Consumer, sent: u64) {
    until("every batch or its gap record", || {
        let batches = arrived(consumer).values().map(Vec::len).sum::<usize>() as u64;
        let gaps = gaps(consumer);
        let reported = gaps.iter().map(|gap| gap["batches"].as_u64().unwrap());
        batches + reported.sum::<u64>() >= sent
    })
    .await;
}

#[tokio::test]
async fn a_chatty_device_loses_its_oldest_and_the_quiet_ones_lose_nothing() {
    const SIZE: u64 = 8 << 20;
    let dir = tempfile::tempdir().unwrap();
    let mut broker = Mosquitto::start(dir.path());
    let consumer = Consumer::start(broker.port).await;
    broker.stop();
    let text = spool(
        dir.path(),
        broker.port,
        "min_free = \"1MiB\"\nmax_size = \"8MiB\"",
    );
    let hub = Hub::start(dir.path(), &text).await;
    let mut chatty = Sender::new(&hub, "chatty").await;
    let mut quiet = Vec::new();
    for n in 0..4 {
        quiet.push(Sender::new(&hub, &format!("quiet-{n}")).await);
    }
    // Two and a half times what there is room for.
    while chatty.sent < 2_400 {
        chatty.send(AT_ONCE, 8 << 10).await;
        for device in &mut quiet {
            device.send(1, 200).await;
        }
        let disk = hub.status("/spool/disk_bytes").as_u64().unwrap();
        assert!(disk <= SIZE, "{disk}");
    }
    assert!(hub.status("/spool/dropped_batches").as_u64().unwrap() > 0);
    broker.start_again();
    hub.until_uplink("connected").await;
    let sent = chatty.sent + quiet.iter().map(|device| device.sent).sum::<u64>();
    until_reported(&consumer, sent).await;
    for device in &quiet {
        let lost = missing(&consumer, &device.name, device.sent, "overflow");
        assert!(lost.is_empty(), "{}: {lost:?}", device.name);
    }
    let lost = missing(&consumer, "chatty", chatty.sent, "overflow");
    let kept = arrived(&consumer)["chatty"].len() as u64;
    assert_eq!(
        lost,
        (1..=chatty.sent - kept).collect(),
        "the oldest, and nothing else"
    );
    assert!(
        kept * (8 << 10) > SIZE / 2,
        "what there is room for is kept: {kept}"
    );
}

#[tokio::test]
async fn free_space_of_the_file_system_is_left_to_others() {
    const FREE: u64 = 16 << 20;
    let dir = tempfile::tempdir().unwrap();
    let Some(disc) = Disc::new(dir.path(), 40) else {
        return;
    };
    let mut broker = Mosquitto::start(dir.path());
    let consumer = Consumer::start(broker.port).await;
    broker.stop();
    let text = spool(&disc.path, broker.port, "min_free = \"16MiB\"");
    let hub = Hub::start(dir.path(), &text).await;
    let mut device = Sender::new(&hub, "d").await;
    let mut least = u64::MAX;
    while device.sent < 1_600 {
        device.send(AT_ONCE, 16 << 10).await;
        let disc = rustix::fs::statvfs(&disc.path).unwrap();
        least = least.min(disc.f_bavail * disc.f_frsize);
    }
    assert!(least >= FREE, "{least}");
    assert!(least < 2 * FREE, "the space above it is used: {least}");
    broker.start_again();
    hub.until_uplink("connected").await;
    until_reported(&consumer, device.sent).await;
    let lost = missing(&consumer, "d", device.sent, "overflow");
    assert!(!lost.is_empty());
}

#[tokio::test]
async fn what_is_too_old_is_reported_as_expired_and_not_published() {
    let dir = tempfile::tempdir().unwrap();
    let mut broker = Mosquitto::start(dir.path());
    let consumer = Consumer::start(broker.port).await;
    broker.stop();
    let text = spool(
        dir.path(),
        broker.port,
        "min_free = \"1MiB\"\nmax_age = \"2s\"",
    );
    let hub = Hub::start(dir.path(), &text).await;
    let mut device = Sender::new(&hub, "d").await;
    device.send(5, 10).await;
    // Time has to pass for this.
    tokio::time::sleep(Duration::from_millis(2_100)).await;
    broker.start_again();
    hub.until_uplink("connected").await;
    until_reported(&consumer, 5).await;
    let lost = missing(&consumer, "d", 5, "expired");
    assert_eq!(lost, (1..=5).collect());
    device.send(1, 10).await;
    until_reported(&consumer, 6).await;
    assert_eq!(arrived(&consumer)["d"], [6]);
}

#[tokio::test]
async fn a_spool_that_refuses_keeps_what_it_acked_and_takes_more_once_it_has_room() {
    let dir = tempfile::tempdir().unwrap();
    let mut broker = Mosquitto::start(dir.path());
    let consumer = Consumer::start(broker.port).await;
    broker.stop();
    let keys = "min_free = \"1MiB\"\nmax_size = \"8MiB\"\noverflow = \"refuse\"";
    let hub = Hub::start(dir.path(), &spool(dir.path(), broker.port, keys)).await;
    let mut device = Device::connect(hub.address, "d").await;
    device.hello("s").await;
    let (mut sent, mut acked) = (0, 0);
    // The one that finds the spool full is told so as well, and gets no ack.
    let code = loop {
        sent += 1;
        device.send(batch(sent, 16 << 10)).await;
        match device.ack_or_code().await {
            Ok(ack) => acked = ack,
            Err(code) => break code,
        }
    };
    assert_eq!((code, acked), (1013, sent - 1));
    assert_eq!(hub.status("/spool/state"), "full");
    let mut other = Device::connect(hub.address, "e").await;
    other.hello("s").await;
    other.send(batch(1, 10)).await;
    assert_eq!(other.ack_or_code().await, Err(1013));
    assert!(hub.status("/spool/disk_bytes").as_u64().unwrap() <= 8 << 20);
    broker.start_again();
    hub.until_uplink("connected").await;
    hub.until_drained().await;
    let mut device = Device::connect(hub.address, "d").await;
    let safe = device.hello("s").await;
    // What had no room waited in memory, and may have gone out meanwhile.
    assert!(safe >= acked && safe <= sent);
    sent += 1;
    for seq in safe + 1..=sent {
        device.send(batch(seq, 10)).await;
    }
    device.acked(sent).await;
    until_reported(&consumer, sent).await;
    assert!(missing(&consumer, "d", sent, "none").is_empty());
}
