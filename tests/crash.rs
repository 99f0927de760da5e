//! SIGKILL at any moment, in both lanes, with a broker that comes and goes: what was acked
//! arrives, and what comes twice can be recognised.
#![allow(clippy::unwrap_used, missing_docs, clippy::print_stdout)]

#[path = "support/daemon.rs"]
mod daemon;

use std::time::Duration;

use daemon::{Consumer, Device, Hub, Mosquitto, Sensor, config, every_acked_batch_arrives, until};

/// Not random, but not in step with anything: milliseconds between a start and a kill.
fn moments(count: u64) -> impl Iterator<Item = Duration> {
    (0..count).map(|n| Duration::from_millis(20 + (n * 7_919) % 331))
}

#[tokio::test]
async fn every_acked_batch_survives_kills_in_both_lanes_and_duplicates_are_recognisable() {
    const KILLS: u64 = 24;
    let dir = tempfile::tempdir().unwrap();
    let mut broker = Mosquitto::start(dir.path());
    let consumer = Consumer::start(broker.port).await;
    let text = config(dir.path(), broker.port, "");
    let mut hub = Hub::start(dir.path(), &text).await;
    let sensors: Vec<_> = (0..4)
        .map(|n| Sensor::start(hub.address, &format!("s-{n}"), Duration::from_millis(1)))
        .collect();

    for (n, moment) in moments(KILLS).enumerate() {
        match n % 8 {
            2 => broker.stop(),
            6 => broker.start_again(),
            _ => {}
        }
        let before: u64 = sensors.iter().map(Sensor::acked).sum();
        let some = || sensors.iter().map(Sensor::acked).sum::<u64>() > before;
        until("acks", some).await;
        tokio::time::sleep(moment).await;
        hub.kill();
        hub = Hub::start(dir.path(), &text).await;
        sensors.iter().for_each(|sensor| sensor.moved(hub.address));
    }
    sensors.iter().for_each(Sensor::rest);
    hub.until_uplink("connected").await;
    until("every ack", || {
        sensors.iter().all(|sensor| sensor.unacked() == 0)
    })
    .await;
    hub.until_drained().await;
    let acked = every_acked_batch_arrives(&sensors, &consumer).await;
    let batches = consumer.batches();
    for got in consumer.got().iter().filter(|got| got.batch().is_some()) {
        let json = got.json();
        assert_eq!(
            json["pack"][0]["v"], json["seq"],
            "exactly as taken, every time"
        );
    }
    assert!(
        consumer.got().iter().all(|got| got.kind() != "gap"),
        "nothing was dropped"
    );
    let doubled: usize = batches.values().map(|times| times - 1).sum();
    println!("{KILLS} kills: {acked} batches acked, 0 lost, {doubled} came twice");
}

#[tokio::test]
async fn a_killed_hub_resumes_streams_from_what_is_on_disk() {
    let dir = tempfile::tempdir().unwrap();
    let text = config(dir.path(), daemon::free_port(), "");
    let hub = Hub::start(dir.path(), &text).await;
    let mut device = Device::connect(hub.address, "d").await;
    device.hello("s").await;
    for seq in 1..=20 {
        device.data(seq).await;
    }
    device.acked(20).await;
    hub.kill();
    let hub = Hub::start(dir.path(), &text).await;
    let mut device = Device::connect(hub.address, "d").await;
    assert_eq!(device.hello("s").await, 20, "welcome.seq after the crash");
    assert_eq!(device.hello_again("other").await, "malformed");
    assert_eq!(hub.status("/spool/batches"), 20);
    // A resent batch is acked again and not stored again.
    device.data(20).await;
    device.acked(20).await;
    assert_eq!(hub.status("/spool/batches"), 20);
}

#[tokio::test]
async fn an_orderly_stop_remembers_live_streams_and_the_next_start_publishes_nothing_twice() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Mosquitto::start(dir.path());
    let consumer = Consumer::start(broker.port).await;
    let text = config(dir.path(), broker.port, "");
    let hub = Hub::start(dir.path(), &text).await;
    hub.until_uplink("connected").await;
    let mut device = Device::connect(hub.address, "d").await;
    device.hello("s").await;
    for seq in 1..=5 {
        device.data(seq).await;
    }
    device.acked(5).await;
    assert!(hub.stop().await.success());

    let hub = Hub::start(dir.path(), &text).await;
    hub.until_uplink("connected").await;
    let mut device = Device::connect(hub.address, "d").await;
    assert_eq!(device.hello("s").await, 5);
    for seq in 1..=6 {
        device.data(seq).await;
    }
    device.acked(6).await;
    until("the sixth", || consumer.batches().len() == 6).await;
    assert!(consumer.batches().values().all(|times| *times == 1));
}
