//! What the hub writes to the flash card, by the kernel's own account.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "support/daemon.rs"]
mod daemon;

use std::time::Duration;

use daemon::{Consumer, Hub, Mosquitto, Sensor, config, every_acked_batch_arrives, until};

#[tokio::test]
async fn under_load_a_healthy_uplink_writes_not_one_byte_between_start_and_stop() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Mosquitto::start(dir.path());
    let consumer = Consumer::start(broker.port).await;
    // The first start of all makes the directory, which the kernel counts as 4 KiB. Since then it
    // is there.
    std::fs::create_dir(dir.path().join("spool")).unwrap();
    let hub = Hub::start(dir.path(), &config(dir.path(), broker.port, "")).await;
    hub.until_uplink("connected").await;
    let start = |n| Sensor::start(hub.address, &format!("s-{n}"), Duration::from_millis(2));
    let sensors: Vec<Sensor> = (0..8).map(start).collect();
    let acked = || sensors.iter().map(Sensor::acked).sum::<u64>();
    until("acks", || acked() > 3_000).await;
    sensors.iter().for_each(Sensor::rest);
    until("every ack", || {
        sensors.iter().all(|sensor| sensor.unacked() == 0)
    })
    .await;
    every_acked_batch_arrives(&sensors, &consumer).await;
    drop(sensors);
    until("the devices' end", || hub.status("/devices/connected") == 0).await;
    assert_eq!(hub.bytes_written(), 0);
    assert_eq!(hub.status("/spool/written_bytes"), 0);
    assert_eq!(hub.status("/spool/flash_per_day"), 0);
    let spool = std::fs::read_dir(dir.path().join("spool")).unwrap();
    assert_eq!(spool.count(), 0, "nothing but the directory");
    assert!(hub.stop().await.success());
    // What was taken is remembered over the stop, which is when it is written.
    assert!(dir.path().join("spool").join("marks").exists());
}

#[tokio::test]
async fn what_an_outage_writes_is_told_as_bytes_a_day() {
    let dir = tempfile::tempdir().unwrap();
    let mut broker = Mosquitto::start(dir.path());
    broker.stop();
    let hub = Hub::start(dir.path(), &config(dir.path(), broker.port, "")).await;
    let sensor = Sensor::start(hub.address, "s", Duration::from_millis(5));
    until("acks from the disk", || sensor.acked() > 100).await;
    sensor.rest();
    until("every ack", || sensor.unacked() == 0).await;
    // The run counts as an hour old.
    let mut day = 0;
    until("the same figure, scaled", || {
        let written = hub.status("/spool/written_bytes").as_u64().unwrap();
        day = hub.status("/spool/flash_per_day").as_u64().unwrap();
        written > 0 && day == written * 24
    })
    .await;
    // Whoever asks elsewhere is told the same, unless something was written meanwhile.
    let metrics = || hub.get("/metrics").1;
    until("the metric", || {
        let gauge = "telehub_flash_written_bytes_per_day ";
        let line = metrics();
        let line = line.lines().find_map(|line| line.strip_prefix(gauge));
        line.unwrap().parse::<u64>().unwrap() >= day
    })
    .await;
    let screen = daemon::command()
        .args(["status", "--admin", &format!("http://{}", hub.admin)])
        .output()
        .unwrap();
    let screen = String::from_utf8(screen.stdout).unwrap();
    let flash = screen.lines().find(|line| line.starts_with("flash "));
    let flash = flash.unwrap_or_else(|| panic!("{screen}"));
    assert!(
        flash.ends_with(" a day") && !flash.contains(" 0 B a day"),
        "{flash}"
    );
}
