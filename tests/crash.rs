//! SIGKILL at any moment, in both lanes, with a broker that comes and goes: what was acked
//! arrives, and what comes twice can be recognised.
//!
//! `KILLS=2000` for more than the usual 40 in the second test, `SEED=2` for another order of events.
#![allow(clippy::unwrap_used, missing_docs, clippy::print_stdout)]

#[path = "support/daemon.rs"]
mod daemon;
#[path = "support/dice.rs"]
mod dice;
#[path = "support/tap.rs"]
mod tap;

use std::time::{Duration, Instant};

use daemon::{Consumer, Device, Hub, Mosquitto, Sensor, config, every_acked_batch_arrives, until};
use dice::Dice;
use tap::Tap;

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
        sensors
            .iter()
            .for_each(|sensor| sensor.moved(Sensor::NOWHERE));
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

/// Both are killed, hub and broker. What the broker has acknowledged it may forget when it is
/// killed; so a tap between them is the witness.
#[tokio::test]
async fn every_acked_batch_reaches_a_broker_that_is_killed_as_well_and_comes_once_a_connection() {
    let kills = std::env::var("KILLS").map_or(40, |kills| kills.parse().unwrap());
    let begun = Instant::now();
    let mut dice = Dice::new();
    let dir = tempfile::tempdir().unwrap();
    let mut broker = Mosquitto::start(dir.path());
    let tap = Tap::start(broker.port).await;
    let text = config(dir.path(), tap.port, "inflight = 20");
    let mut hub = Hub::start(dir.path(), &text).await;
    let sensors: Vec<_> = (0..4)
        .map(|n| Sensor::start(hub.address, &format!("s-{n}"), Duration::from_millis(1)))
        .collect();
    let acked = || sensors.iter().map(Sensor::acked).sum::<u64>();
    let (mut hub_kills, mut broker_kills) = (0, 0);
    while hub_kills + broker_kills < kills {
        let before = acked();
        until("acks", || acked() > before).await;
        tokio::time::sleep(dice.millis(150)).await;
        if !broker.runs() {
            // It stays away for some lives of the hub.
            if dice.one_in(2) {
                broker.start_again();
            }
        } else if dice.one_in(3) {
            broker.kill();
            broker_kills += 1;
        }
        // Now and then the hub lives through what happens to the broker.
        if dice.one_in(4) {
            continue;
        }
        sensors
            .iter()
            .for_each(|sensor| sensor.moved(Sensor::NOWHERE));
        hub.kill();
        hub_kills += 1;
        if dice.one_in(10) {
            // Killed again while it starts.
            let mut child = daemon::command()
                .args(["run", "--config"])
                .arg(dir.path().join("telehub.toml"))
                .stderr(std::process::Stdio::null())
                .spawn()
                .unwrap();
            tokio::time::sleep(dice.millis(100)).await;
            child.kill().unwrap();
            child.wait().unwrap();
            hub_kills += 1;
        }
        hub = Hub::start(dir.path(), &text).await;
        sensors.iter().for_each(|sensor| sensor.moved(hub.address));
    }
    if !broker.runs() {
        broker.start_again();
    }
    sensors.iter().for_each(Sensor::rest);
    let all = || sensors.iter().all(|sensor| sensor.unacked() == 0);
    until("every ack", all).await;
    while hub.status("/spool/batches") != 0 {
        let before = hub.status("/uplink/acknowledged");
        let more = || hub.status("/uplink/acknowledged") != before;
        until("the drain to go on", || {
            more() || hub.status("/spool/batches") == 0
        })
        .await;
    }
    let missing: Vec<_> = tap.look(|seen| {
        let ids = sensors.iter().flat_map(Sensor::acked_batches);
        ids.filter(|(device, _, seq)| !seen.acknowledged(device, *seq))
            .collect()
    });
    let (doubled, most, connections) =
        tap.look(|seen| (seen.doubled(), seen.most_out, seen.connections));
    println!(
        "{hub_kills} kills of the hub, {broker_kills} of the broker: {} batches acked, {} lost, \
         {doubled} published again on {connections} connections, {:.0} s",
        acked(),
        missing.len(),
        begun.elapsed().as_secs_f64()
    );
    assert!(missing.is_empty(), "{missing:?}");
    tap.look(|seen| {
        assert!(seen.twice.is_empty(), "{:?}", seen.twice);
        assert!(seen.gaps.is_empty(), "{:?}", seen.gaps);
    });
    assert!(most <= 20, "{most} were out at a time");
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
    // What stood under the number is not remembered over a kill: it is neither acked unseen nor
    // stored again, and the device that waited for `welcome` has nothing to send under it.
    device.data(20).await;
    assert_eq!(device.rejected().await, (Some(20), "bad-seq".to_owned()));
    device.data(21).await;
    device.acked(21).await;
    assert_eq!(hub.status("/spool/batches"), 21);
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
    for seq in 1..=5 {
        device.data(seq).await;
        assert_eq!(device.rejected().await, (Some(seq), "bad-seq".to_owned()));
    }
    device.data(6).await;
    device.acked(6).await;
    until("the sixth", || consumer.batches().len() == 6).await;
    assert!(consumer.batches().values().all(|times| *times == 1));
}
