//! The whole daemon on a disk that others fill, that becomes read-only, that hangs.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "support/daemon.rs"]
mod daemon;
#[path = "support/disc.rs"]
mod disc;
#[path = "support/scene.rs"]
mod scene;

use std::time::{Duration, Instant};

use daemon::{Device, Sensor, until};
use scene::{A_WHILE, Scene};

#[tokio::test]
async fn a_disk_that_others_fill_costs_acks_until_there_is_room_and_no_data() {
    let Some(mut scene) = Scene::new("").await else {
        return;
    };
    let foreign = scene.disc().fill();
    scene.more_acks("live acks beside a full disk").await;
    scene.broker.stop();
    until("the report of a full disk", || {
        scene.hub.status("/spool/state") == "full"
    })
    .await;
    scene.acks_nothing().await;
    // With the uplink back nothing needs the disk.
    scene.broker.start_again();
    scene.more_acks("live acks").await;
    scene.broker.stop();
    std::fs::remove_file(foreign).unwrap();
    scene.more_acks("acks from disk").await;
    assert_eq!(scene.hub.status("/spool/state"), "ok");
    scene.broker.start_again();
    scene.ends().await;
}

#[tokio::test]
async fn a_disk_that_fills_up_in_an_outage_keeps_what_it_has() {
    let Some(mut scene) = Scene::new("").await else {
        return;
    };
    scene.broker.stop();
    scene.more_acks("acks from disk").await;
    let foreign = scene.disc().fill();
    // What was stored may make way for what comes, with gap records; without that rule it stays.
    until("a commit that finds no room, or old data dropped", || {
        scene.hub.status("/spool/state") != "ok" || scene.hub.status("/spool/dropped_batches") != 0
    })
    .await;
    std::fs::remove_file(foreign).unwrap();
    scene.more_acks("acks from disk again").await;
    scene.well().await;
    let dropped = scene.hub.status("/spool/dropped_batches").as_u64().unwrap();
    scene.broker.start_again();
    scene.sensors.iter().for_each(Sensor::rest);
    let all = || scene.sensors.iter().all(|sensor| sensor.unacked() == 0);
    until("every ack", all).await;
    scene.hub.until_drained().await;
    let acked: u64 = scene.acked().iter().sum();
    let gaps = || -> u64 {
        let got = scene.consumer.got();
        let gaps = got.iter().filter(|got| got.kind() == "gap");
        gaps.map(|got| got.json()["batches"].as_u64().unwrap())
            .sum()
    };
    until("every acked batch, or the record of it", || {
        scene.consumer.batches().len() as u64 + gaps() >= acked
    })
    .await;
    assert_eq!(gaps(), dropped);
}

#[tokio::test]
async fn a_disk_that_becomes_read_only_is_told_and_used_again_once_it_can_be_written() {
    let Some(mut scene) = Scene::new("").await else {
        return;
    };
    assert!(
        scene.disc().read_only(),
        "nothing is open while all is live"
    );
    scene.more_acks("live acks").await;
    assert_eq!(scene.hub.get("/healthz").0, 200, "nothing has failed yet");
    scene.broker.stop();
    scene.fails("failed", "Read-only file system").await;
    scene.broker.start_again();
    scene.more_acks("live acks").await;
    // Longer than the hub waits before it tries again.
    let tried_again = Instant::now() + Duration::from_secs(6);
    while Instant::now() < tried_again {
        assert_eq!(scene.hub.get("/healthz").0, 503, "still read-only");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    scene.disc().writable();
    // Found out without a batch to store.
    scene.well().await;
    scene.broker.stop();
    scene.more_acks("acks from disk").await;
    scene.broker.start_again();
    scene.ends().await;
}

#[tokio::test]
async fn a_disk_that_hangs_is_told_live_data_goes_past_it_and_it_goes_on_by_itself() {
    let Some(mut scene) = Scene::new("").await else {
        return;
    };
    scene.broker.stop();
    scene.more_acks("acks from disk").await;
    scene.disc().freeze();
    // What was being synced at that moment may still be told.
    tokio::time::sleep(A_WHILE).await;
    scene.fails("failed", "does not answer").await;
    scene.broker.start_again();
    scene.hub.until_uplink("connected").await;
    scene.more_acks("live acks past the disk").await;
    scene.disc().thaw();
    scene.well().await;
    scene.broker.stop();
    scene.more_acks("acks from disk again").await;
    scene.broker.start_again();
    scene.ends().await;
}

#[tokio::test]
async fn a_short_hang_of_the_disk_drops_no_device() {
    let Some(mut scene) = Scene::new("").await else {
        return;
    };
    scene.broker.stop();
    scene.more_acks("acks from disk").await;
    let connects: Vec<_> = scene.sensors.iter().map(Sensor::connects).collect();
    scene.disc().freeze();
    let mut device = Device::connect(scene.hub.address, "new").await;
    assert_eq!(device.hello("s").await, 0, "devices are taken meanwhile");
    tokio::time::sleep(A_WHILE).await;
    scene.disc().thaw();
    scene.more_acks("acks from disk again").await;
    assert_eq!(scene.hub.get("/healthz").0, 200);
    let after: Vec<_> = scene.sensors.iter().map(Sensor::connects).collect();
    assert_eq!(after, connects);
    scene.broker.start_again();
    scene.ends().await;
}

#[tokio::test]
async fn a_full_disk_that_may_not_drop_anything_refuses_and_takes_devices_again_when_it_has_room() {
    let Some(mut scene) = Scene::new("overflow = \"refuse\"").await else {
        return;
    };
    scene.broker.stop();
    scene.more_acks("acks from disk").await;
    let foreign = scene.disc().fill();
    scene.fails("full", "min_free").await;
    let mut device = Device::connect(scene.hub.address, "new").await;
    device.hello("s").await;
    device.data(1).await;
    assert_eq!(device.close_code().await, 1013);
    assert_eq!(scene.hub.status("/spool/dropped_batches"), 0);
    std::fs::remove_file(foreign).unwrap();
    scene.more_acks("acks from disk again").await;
    scene.well().await;
    scene.broker.start_again();
    scene.ends().await;
}
