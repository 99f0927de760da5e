//! The order of stopping: nothing that was accepted is lost, and the stop is bounded.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "support/daemon.rs"]
mod daemon;

use std::io::{Read, Write};
use std::net::TcpListener;
use std::time::Duration;

use daemon::{Consumer, Device, Hub, Mosquitto, Sensor, config, until};

#[tokio::test]
async fn a_stop_under_load_loses_nothing_and_tells_devices_and_broker() {
    for signal in ["TERM", "INT"] {
        let dir = tempfile::tempdir().unwrap();
        let broker = Mosquitto::start(dir.path());
        let consumer = Consumer::start(broker.port).await;
        let text = config(dir.path(), broker.port, "");
        let mut hub = Hub::start(dir.path(), &text).await;
        hub.until_uplink("connected").await;
        let sensors: Vec<_> = (0..8)
            .map(|n| Sensor::start(hub.address, &format!("s-{n}"), Duration::from_millis(1)))
            .collect();
        until("load", || sensors.iter().all(|sensor| sensor.acked() > 100)).await;
        hub.signal(signal);
        assert!(hub.ended().await.success(), "{:#?}", hub.log());
        assert_eq!(hub.complaints(), Vec::<String>::new());

        let acked: Vec<_> = sensors.iter().flat_map(Sensor::acked_batches).collect();
        until("what was acked", || {
            let batches = consumer.batches();
            acked.iter().all(|id| batches.contains_key(id))
        })
        .await;
        // The hub speaks of itself last.
        until("the hub's offline state", || {
            consumer
                .last("telehub/barn/status")
                .is_some_and(|status| status["state"] == "offline")
        })
        .await;
        for sensor in &sensors {
            let status = consumer
                .last(&format!("telehub/barn/{}/status", sensor.id))
                .unwrap();
            assert_eq!(status["state"], "offline");
            assert_eq!(status["reason"], "hub stopping");
        }
        // Every batch came once: the stop is no crash.
        assert!(consumer.batches().values().all(|times| *times == 1));
    }
}

#[tokio::test]
async fn devices_hear_1001_when_the_hub_stops() {
    let dir = tempfile::tempdir().unwrap();
    let hub = Hub::start(dir.path(), &config(dir.path(), daemon::free_port(), "")).await;
    let mut device = Device::connect(hub.address, "d").await;
    device.hello("s").await;
    hub.signal("TERM");
    assert_eq!(device.close_code().await, 1001);
    assert!(hub.stop_was_clean().await);
}

#[tokio::test]
async fn a_hub_killed_leaves_the_last_will_and_the_next_start_is_online_again() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Mosquitto::start(dir.path());
    let consumer = Consumer::start(broker.port).await;
    let text = config(dir.path(), broker.port, "");
    let state = || {
        consumer
            .last("telehub/barn/status")
            .map(|status| status["state"].clone())
    };
    let hub = Hub::start(dir.path(), &text).await;
    until("online", || state().is_some_and(|state| state == "online")).await;
    hub.kill();
    until("the last will", || {
        state().is_some_and(|state| state == "offline")
    })
    .await;
    let _hub = Hub::start(dir.path(), &text).await;
    until("online again", || {
        state().is_some_and(|state| state == "online")
    })
    .await;
}

#[tokio::test]
async fn a_broker_that_never_answers_does_not_hold_up_the_stop() {
    let dir = tempfile::tempdir().unwrap();
    // Accepts into the kernel's queue, and is silent.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    let hub = Hub::start(dir.path(), &config(dir.path(), port, "")).await;
    let mut device = Device::connect(hub.address, "d").await;
    device.hello("s").await;
    device.data(1).await;
    device.acked(1).await;
    // A stop that the hub's own deadline ends is no success.
    assert!(hub.stop().await.success());
}

#[tokio::test]
async fn a_second_signal_ends_a_stop_that_takes_its_time() {
    let dir = tempfile::tempdir().unwrap();
    // Accepts CONNECT and never says another word: the hub's farewell waits for a PUBACK.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    let broker = std::thread::spawn(move || {
        let (mut stream, _) = silent.accept().unwrap();
        let mut connect = [0; 256];
        let _ = stream.read(&mut connect).unwrap();
        stream.write_all(&[0x20, 2, 0, 0]).unwrap();
        // Until the hub is gone.
        let _ = stream.read_to_end(&mut Vec::new());
    });
    let spoken = config(dir.path(), port, "version = \"3.1.1\"");
    let mut hub = Hub::start(dir.path(), &spoken).await;
    hub.until_uplink("connected").await;
    hub.signal("TERM");
    until("the stop to begin", || {
        hub.log().iter().any(|line| line.contains("stopping"))
    })
    .await;
    hub.signal("TERM");
    assert_eq!(hub.ended().await.code(), Some(1), "{:#?}", hub.log());
    let said = hub
        .log()
        .iter()
        .any(|line| line.contains("SIGTERM came while stopping"));
    assert!(said, "{:#?}", hub.log());
    broker.join().unwrap();
}

#[tokio::test]
async fn a_part_that_cannot_start_is_named_and_the_hub_exits_1() {
    let dir = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let text = config(dir.path(), 1, "").replacen("127.0.0.1:0", &address, 1);
    let file = dir.path().join("telehub.toml");
    std::fs::write(&file, text).unwrap();
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_telehub"))
        .args(["run", "--config"])
        .arg(&file)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(
        stderr.contains(&address) && stderr.contains("devices.listen"),
        "{stderr}"
    );
}

#[tokio::test]
async fn a_stop_in_the_middle_of_a_drain_leaves_the_rest_and_at_most_one_group_comes_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut broker = Mosquitto::start(dir.path());
    let consumer = Consumer::start(broker.port).await;
    broker.stop();
    let text = config(dir.path(), broker.port, "inflight = 2");
    let hub = Hub::start(dir.path(), &text).await;
    let sensor = Sensor::start(hub.address, "d", Duration::from_millis(1));
    until("a backlog", || sensor.acked() > 2_000).await;
    sensor.rest();
    until("every ack", || sensor.unacked() == 0).await;
    broker.start_again();
    hub.until_uplink("connected").await;
    until("some of it on the broker", || consumer.batches().len() > 50).await;
    assert!(hub.stop().await.success());

    let hub = Hub::start(dir.path(), &text).await;
    hub.until_drained().await;
    let all = usize::try_from(sensor.acked()).unwrap();
    until("all of it", || consumer.batches().len() == all).await;
    // A group is deleted as a whole: of the one that the stop found begun, the batches that were
    // out already come again. One group holds 32 KiB.
    let twice = consumer
        .batches()
        .values()
        .filter(|times| **times > 1)
        .count();
    assert!(twice <= 300, "{twice} of {all} came twice");
}
