//! Outages of many segments of the spool: it rolls over, overflows, is killed in between, and
//! drains. Sizes above 4 GiB, because the same test runs with the binary for 32-bit boards.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "support/daemon.rs"]
mod daemon;

use std::collections::BTreeSet;
use std::path::Path;

use daemon::{Consumer, Device, Hub, Mosquitto, config, until};
use serde_json::json;

/// Text in each batch: a few hundred of them are many segments.
const TEXT: usize = 40_000;

/// More than 4 GiB, which a size or a free space of 32 bits would not hold.
const LARGE: &str = "max_size = \"9GiB\"\nmin_free = \"4200MiB\"";
const LARGE_FREE: u64 = 4_300 << 20;

fn spool_with(text: &str, settings: &str) -> String {
    text.replace("min_free = \"1MiB\"", settings)
}

/// Sends batches until the hub has acked all of them. Their second reading says which they are.
async fn send(device: &mut Device, numbers: std::ops::RangeInclusive<u64>) {
    let text = "x".repeat(TEXT);
    let last = *numbers.end();
    for seq in numbers {
        let pack = json!([{"n": "log", "vs": text}, {"n": "number", "v": seq}]);
        device
            .send(json!({"data": {"seq": seq, "pack": pack}}))
            .await;
        if seq % 16 == 0 {
            device.acked(seq).await;
        }
    }
    if !last.is_multiple_of(16) {
        device.acked(last).await;
    }
}

/// Numbers of the batches that arrived, each as it was taken.
fn arrived(consumer: &Consumer) -> BTreeSet<u64> {
    let got = consumer.got();
    let batches = got.iter().filter(|got| got.batch().is_some());
    batches
        .map(|got| {
            let batch = got.json();
            assert_eq!(batch["pack"][0]["vs"].as_str().unwrap().len(), TEXT);
            assert_eq!(batch["pack"][1]["v"], batch["seq"]);
            batch["seq"].as_u64().unwrap()
        })
        .collect()
}

fn has_room(dir: &Path) -> bool {
    let room = rustix::fs::statvfs(dir).unwrap();
    room.f_bavail * room.f_frsize > LARGE_FREE
}

#[tokio::test]
async fn a_long_outage_fills_many_segments_survives_a_kill_and_drains() {
    const BATCHES: u64 = 600;
    let dir = tempfile::tempdir().unwrap();
    let mut broker = Mosquitto::start(dir.path());
    let consumer = Consumer::start(broker.port).await;
    broker.stop();
    let mut text = config(dir.path(), broker.port, "");
    if has_room(dir.path()) {
        text = spool_with(&text, LARGE);
    } else {
        eprintln!("NOT TESTED: sizes above 4 GiB; there is less free space");
    }
    let hub = Hub::start(dir.path(), &text).await;
    let mut device = Device::connect(hub.address, "d").await;
    device.hello("s").await;
    send(&mut device, 1..=BATCHES / 2).await;
    hub.kill();

    let hub = Hub::start(dir.path(), &text).await;
    let mut device = Device::connect(hub.address, "d").await;
    assert_eq!(device.hello("s").await, BATCHES / 2);
    send(&mut device, BATCHES / 2 + 1..=BATCHES).await;
    assert_eq!(hub.status("/spool/batches"), BATCHES);
    let on_disk = hub.status("/spool/disk_bytes").as_u64().unwrap();
    assert!(on_disk > BATCHES * TEXT as u64, "{on_disk}");
    let spool = dir.path().join("spool");
    let segments = || {
        let entries = std::fs::read_dir(&spool).unwrap().map(Result::unwrap);
        entries.filter(|entry| entry.path().is_dir()).count()
    };
    assert!(segments() > 4, "{}", segments());

    broker.start_again();
    hub.until_drained().await;
    until("every batch", || arrived(&consumer).len() as u64 == BATCHES).await;
    until("drained segments to go", || segments() <= 1).await;
    assert!(consumer.got().iter().all(|got| got.kind() != "gap"));
    assert!(hub.stop().await.success());
}

#[tokio::test]
async fn a_spool_that_overflows_tells_exactly_which_batches_gave_way() {
    const BATCHES: u64 = 500;
    let dir = tempfile::tempdir().unwrap();
    let mut broker = Mosquitto::start(dir.path());
    let consumer = Consumer::start(broker.port).await;
    broker.stop();
    let small = "max_size = \"8MiB\"\nmin_free = \"1MiB\"";
    let text = spool_with(&config(dir.path(), broker.port, ""), small);
    let hub = Hub::start(dir.path(), &text).await;
    let mut device = Device::connect(hub.address, "d").await;
    device.hello("s").await;
    send(&mut device, 1..=BATCHES).await;
    let dropped = hub.status("/spool/dropped_batches").as_u64().unwrap();
    assert!(dropped > 0 && dropped < BATCHES, "{dropped}");
    assert!(hub.status("/spool/disk_bytes").as_u64().unwrap() <= 8 << 20);
    hub.kill();

    let hub = Hub::start(dir.path(), &text).await;
    broker.start_again();
    hub.until_drained().await;
    // Gap records travel like data: they are there when the spool is empty.
    let gone = || {
        let got = consumer.got();
        let gaps = got.iter().filter(|got| got.kind() == "gap");
        gaps.flat_map(|gap| {
            let gap = gap.json();
            assert_eq!(gap["reason"], "overflow");
            gap["from"].as_u64().unwrap()..=gap["to"].as_u64().unwrap()
        })
        .collect::<BTreeSet<u64>>()
    };
    until("every batch or its gap record", || {
        let (gone, arrived) = (gone(), arrived(&consumer));
        assert!(gone.is_disjoint(&arrived));
        (gone.len() + arrived.len()) as u64 == BATCHES
    })
    .await;
    assert_eq!(gone().len() as u64, dropped);
    assert!(hub.stop().await.success());
}
