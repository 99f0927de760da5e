//! The whole daemon with packs before a real mosquitto: every acked batch arrives exactly once by its
//! key, through outages, kills and rules that forbid one device.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "support/daemon.rs"]
mod daemon;
#[path = "support/packs.rs"]
mod packs;

use std::collections::BTreeMap;
use std::time::Duration;

use daemon::{Consumer, Device, Hub, Mosquitto, Received, Sensor, config, until};

const EVERY: Duration = Duration::from_millis(15);

fn packing(dir: &std::path::Path, port: u16, more: &str) -> String {
    let lines = format!("pack = \"16KiB\"\npack_delay = \"100ms\"\n{more}");
    config(dir, port, &lines)
}

/// What came in packs, on the topics where it would be without.
fn unpacked(consumer: &Consumer) -> Vec<Received> {
    let packs = consumer.got().into_iter();
    let packs = packs.filter(|message| message.topic == "telehub/barn/packed");
    packs
        .flat_map(|message| packs::unpack(&message.payload))
        .map(|(kind, device, payload)| Received {
            topic: format!("telehub/barn/{device}/{kind}"),
            payload,
            retained: false,
        })
        .collect()
}

fn count(consumer: &Consumer) -> BTreeMap<(String, String, u64), usize> {
    let mut batches = BTreeMap::new();
    for id in unpacked(consumer).iter().filter_map(Received::batch) {
        *batches.entry(id).or_default() += 1;
    }
    batches
}

/// Everything that a sensor has an ack for is there; how many came more than once.
async fn all_there(consumer: &Consumer, sensors: &[&Sensor]) -> usize {
    let missing = || {
        let batches = count(consumer);
        let of = |sensor: &Sensor| {
            let keys = batches.keys().filter(|(device, ..)| *device == sensor.id);
            keys.count() as u64
        };
        sensors.iter().any(|sensor| of(sensor) < sensor.acked())
    };
    until("every acked batch at the consumer", || !missing()).await;
    for sensor in sensors {
        assert_eq!(sensor.unacked(), 0);
    }
    count(consumer).values().filter(|times| **times > 1).count()
}

async fn rest(sensors: &[&Sensor]) {
    sensors.iter().for_each(|sensor| sensor.rest());
    until("all acks", || {
        sensors.iter().all(|sensor| sensor.unacked() == 0)
    })
    .await;
}

#[tokio::test]
async fn packs_carry_live_data_and_the_backlog_in_both_versions() {
    for version in ["5", "3.1.1"] {
        let dir = tempfile::tempdir().unwrap();
        let mut broker = Mosquitto::start(dir.path());
        let consumer = Consumer::start(broker.port).await;
        let lines = format!("version = \"{version}\"\n");
        let hub = Hub::start(dir.path(), &packing(dir.path(), broker.port, &lines)).await;
        hub.until_uplink("connected").await;
        let sensors: Vec<_> = (0..4)
            .map(|n| Sensor::start(hub.address, &format!("s{n}"), EVERY))
            .collect();
        let sensors: Vec<_> = sensors.iter().collect();
        until("live acks", || {
            sensors.iter().all(|sensor| sensor.acked() > 40)
        })
        .await;
        broker.stop();
        hub.until_uplink("down").await;
        let before = sensors[0].acked();
        until("acks by the disk", || sensors[0].acked() > before + 60).await;
        broker.start_again();
        hub.until_uplink("connected").await;
        hub.until_drained().await;
        rest(&sensors).await;
        let again = all_there(&consumer, &sensors).await;
        let messages = unpacked(&consumer);
        let of = |kind: &str| messages.iter().filter(|one| one.kind() == kind).count();
        assert!(of("data") > 0 && of("history") > 0 && of("gap") == 0);
        let all = count(&consumer).len();
        // Those that were out when the broker stopped.
        assert!(again < all / 2, "{again} of {all} came twice");
        let got = consumer.got();
        let packs = got.iter().filter(|one| one.topic.ends_with("/packed"));
        let packs = packs.count();
        assert!(packs * 3 < all, "{packs} packs for {all} batches");
        assert!(
            !got.iter()
                .any(|one| one.batch().is_some_and(|(device, ..)| device != "_probe"))
        );
        assert_eq!(hub.status("/spool/batches"), 0);
        assert!(hub.stop().await.success());
    }
}

#[tokio::test]
async fn a_hub_that_is_killed_with_batches_in_a_pack_loses_none_that_was_acked() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Mosquitto::start(dir.path());
    let consumer = Consumer::start(broker.port).await;
    let text = packing(dir.path(), broker.port, "");
    let mut hub = Hub::start(dir.path(), &text).await;
    let sensors: Vec<_> = (0..3)
        .map(|n| Sensor::start(hub.address, &format!("s{n}"), EVERY))
        .collect();
    let sensors: Vec<_> = sensors.iter().collect();
    for _ in 0..3 {
        let before = sensors[0].acked();
        until("acks", || sensors[0].acked() > before + 30).await;
        sensors
            .iter()
            .for_each(|sensor| sensor.moved(Sensor::NOWHERE));
        hub.kill();
        hub = Hub::start(dir.path(), &text).await;
        sensors.iter().for_each(|sensor| sensor.moved(hub.address));
    }
    let before = sensors[0].acked();
    until("acks", || sensors[0].acked() > before + 30).await;
    rest(&sensors).await;
    hub.until_drained().await;
    all_there(&consumer, &sensors).await;
    assert!(hub.stop().await.success());
}

#[tokio::test]
async fn a_stop_does_not_wait_for_the_delay() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Mosquitto::start(dir.path());
    let consumer = Consumer::start(broker.port).await;
    let lines = "pack = \"64KiB\"\npack_delay = \"500s\"\nack_timeout = \"600s\"\n";
    let hub = Hub::start(dir.path(), &config(dir.path(), broker.port, lines)).await;
    hub.until_uplink("connected").await;
    let mut device = Device::connect(hub.address, "cow").await;
    device.hello("a").await;
    for seq in 1..=5 {
        device.data(seq).await;
    }
    until("the batches in the hub", || {
        hub.status("/live/batches") == 5
    })
    .await;
    assert_eq!(count(&consumer).len(), 0);
    hub.signal("TERM");
    until("the pack", || count(&consumer).len() == 5).await;
    assert!(hub.stop_was_clean().await);
}

#[tokio::test]
async fn a_broker_that_refuses_all_packs_costs_nothing_but_time() {
    let dir = tempfile::tempdir().unwrap();
    let acl = dir.path().join("acl");
    std::fs::write(&acl, "topic readwrite #\ntopic deny telehub/barn/packed\n").unwrap();
    let broker = Mosquitto::start_with(dir.path(), &format!("acl_file {}", acl.display()));
    let consumer = Consumer::start(broker.port).await;
    let hub = Hub::start(dir.path(), &packing(dir.path(), broker.port, "")).await;
    hub.until_uplink("connected").await;
    let cow = Sensor::start(hub.address, "cow", Duration::from_millis(100));
    until("the refusal in the status", || {
        let said = hub.status("/uplink/refused").to_string();
        said.contains("telehub/barn/packed")
    })
    .await;
    let before = cow.acked();
    until("acks by the disk", || cow.acked() > before + 10).await;
    rest(&[&cow]).await;
    assert_eq!(count(&consumer).len(), 0);
    std::fs::write(&acl, "topic readwrite #\n").unwrap();
    broker.signal("HUP");
    // A start tries everything at once; a hub that runs on, after a pause.
    cow.moved(Sensor::NOWHERE);
    assert!(hub.stop().await.success());
    let hub = Hub::start(dir.path(), &packing(dir.path(), broker.port, "")).await;
    all_there(&consumer, &[&cow]).await;
    hub.until_drained().await;
    assert!(hub.stop().await.success());
}
