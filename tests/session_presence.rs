//! What the broker's `status` topics say when the hub could not say goodbye. Needs mosquitto.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "support/daemon.rs"]
mod daemon;

use daemon::{Consumer, Device, Hub, Mosquitto, config, until};
use serde_json::Value;

fn said(consumer: &Consumer, device: &str) -> (Value, Value) {
    let topic = format!("telehub/barn/{device}/status");
    let last = consumer.last(&topic).unwrap_or_default();
    (last["state"].clone(), last["reason"].clone())
}

fn state(state: &str, reason: &str) -> (Value, Value) {
    (state.into(), reason.into())
}

#[tokio::test]
async fn after_a_kill_the_next_run_corrects_what_still_says_online() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Mosquitto::start(dir.path());
    let consumer = Consumer::start(broker.port).await;
    let settings = config(dir.path(), broker.port, "");
    let hub = Hub::start(dir.path(), &settings).await;
    let mut devices = Vec::new();
    for id in ["gone", "back", "closed"] {
        devices.push(Device::connect(hub.address, id).await);
    }
    until("all online", || {
        ["gone", "back", "closed"].map(|id| said(&consumer, id).0) == ["online"; 3]
    })
    .await;
    drop(devices.pop());
    until("one closed", || said(&consumer, "closed").0 == "offline").await;
    let reason = said(&consumer, "closed").1;
    hub.kill();
    until("the last will", || {
        consumer.last("telehub/barn/status").unwrap()["state"] == "offline"
    })
    .await;
    assert_eq!(said(&consumer, "gone"), state("online", "connected"));

    let hub = Hub::start(dir.path(), &settings).await;
    let _back = Device::connect(hub.address, "back").await;
    until("the correction", || {
        said(&consumer, "gone") == state("offline", "hub restarted")
    })
    .await;
    // Whether it came before the correction or after: its last state is the true one.
    until("the other's return", || {
        said(&consumer, "back") == state("online", "connected")
    })
    .await;
    assert_eq!(said(&consumer, "closed").1, reason);
    assert_eq!(hub.complaints(), Vec::<String>::new());
    drop(devices);
    assert!(hub.stop().await.success());
    until("the stop", || {
        said(&consumer, "back") == state("offline", "hub stopping")
    })
    .await;
}
