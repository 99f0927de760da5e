//! The way of a reading through the whole daemon, against a real mosquitto.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "support/daemon.rs"]
mod daemon;

use std::time::Duration;

use daemon::{
    Consumer, Device, Hub, Mosquitto, Sensor, config, every_acked_batch_arrives, post, until,
};
use serde_json::json;

#[tokio::test]
async fn readings_flow_live_acknowledged_without_a_warning_and_without_a_write_to_disk() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Mosquitto::start(dir.path());
    let consumer = Consumer::start(broker.port).await;
    let hub = Hub::start(dir.path(), &config(dir.path(), broker.port, "")).await;
    hub.until_uplink("connected").await;
    let before = hub.bytes_written();

    let mut device = Device::connect(hub.address, "hive-7").await;
    device
        .send(json!({"hello": {"stream": "run-1", "model": "TH-2"}}))
        .await;
    let welcome = device.receive().await.expect("welcome");
    assert_eq!(welcome["welcome"]["seq"], 0);
    device
        .send(json!({"data": {"seq": 1, "pack": [
            {"bn": "hive-7/", "bt": 1.7e9, "bu": "Cel", "n": "brood", "v": 34.8},
            {"n": "air", "u": "%RH", "v": 61, "t": 2},
        ]}}))
        .await;
    device.acked(1).await;
    until("the batch on the broker", || consumer.batches().len() == 1).await;

    let got = consumer.last("telehub/barn/hive-7/data").unwrap();
    assert_eq!(got["device"], "hive-7");
    assert_eq!(got["stream"], "run-1");
    assert_eq!(got["seq"], 1);
    let expected = json!([
        {"n": "hive-7/brood", "u": "Cel", "v": 34.8, "t": 1.7e9},
        {"n": "hive-7/air", "u": "%RH", "v": 61, "t": 1_700_000_002.0},
    ]);
    assert_eq!(got["pack"], expected);

    drop(device);
    let status = "telehub/barn/hive-7/status";
    until("the device's offline state", || {
        consumer
            .last(status)
            .is_some_and(|status| status["state"] == "offline")
    })
    .await;
    let online = consumer
        .got()
        .into_iter()
        .filter(|message| message.topic == status && message.json()["state"] == "online");
    assert_eq!(online.count(), 1, "once for each connection");
    assert_eq!(
        hub.bytes_written(),
        before,
        "P6: a healthy uplink writes nothing"
    );
    assert_eq!(hub.complaints(), Vec::<String>::new());
    assert!(!dir.path().join("spool").join("format").exists());
    assert!(hub.stop().await.success());
    until("the hub's offline state", || {
        consumer
            .last("telehub/barn/status")
            .is_some_and(|status| status["state"] == "offline")
    })
    .await;
}

#[tokio::test]
async fn an_outage_of_the_broker_goes_to_disk_is_acked_and_comes_as_history() {
    let dir = tempfile::tempdir().unwrap();
    let mut broker = Mosquitto::start(dir.path());
    let consumer = Consumer::start(broker.port).await;
    let hub = Hub::start(dir.path(), &config(dir.path(), broker.port, "")).await;
    hub.until_uplink("connected").await;
    let sensors: Vec<_> = (0..5)
        .map(|n| Sensor::start(hub.address, &format!("s-{n}"), Duration::from_millis(5)))
        .collect();
    until("live acks", || {
        sensors.iter().all(|sensor| sensor.acked() > 20)
    })
    .await;

    broker.stop();
    let before: Vec<_> = sensors.iter().map(Sensor::acked).collect();
    until("acks from disk", || {
        sensors
            .iter()
            .zip(&before)
            .all(|(sensor, before)| sensor.acked() > before + 50)
    })
    .await;
    assert!(hub.status("/spool/batches").as_u64().unwrap() > 200);
    let sentence = hub
        .status("/uplink/last_error")
        .as_str()
        .unwrap()
        .to_owned();
    assert!(sentence.contains("127.0.0.1"), "{sentence}");

    broker.start_again();
    hub.until_uplink("connected").await;
    hub.until_drained().await;
    let before: Vec<_> = sensors.iter().map(Sensor::acked).collect();
    until("live acks again", || {
        sensors
            .iter()
            .zip(&before)
            .all(|(sensor, before)| sensor.acked() > before + 20)
    })
    .await;
    for sensor in &sensors {
        sensor.rest();
    }
    until("every ack", || {
        sensors.iter().all(|sensor| sensor.unacked() == 0)
    })
    .await;

    every_acked_batch_arrives(&sensors, &consumer).await;
    let kinds: Vec<_> = consumer
        .got()
        .iter()
        .map(|got| got.kind().to_owned())
        .collect();
    let count = |kind: &str| kinds.iter().filter(|k| *k == kind).count();
    assert!(
        count("history") > 200 && count("data") > 100,
        "{} {}",
        count("history"),
        count("data")
    );
    for got in consumer.got().iter().filter(|got| got.batch().is_some()) {
        let json = got.json();
        assert_eq!(json["pack"][0]["v"], json["seq"], "exactly as taken");
    }
    assert_eq!(hub.status("/spool/dropped_batches"), 0);
}

#[tokio::test]
async fn the_hub_starts_accepts_and_acks_without_any_broker() {
    let dir = tempfile::tempdir().unwrap();
    let hub = Hub::start(dir.path(), &config(dir.path(), daemon::free_port(), "")).await;
    assert_eq!(hub.get("/readyz").0, 200);
    let mut device = Device::connect(hub.address, "d").await;
    device.hello("s").await;
    for seq in 1..=100 {
        device.data(seq).await;
    }
    device.acked(100).await;
    assert_eq!(hub.status("/spool/batches"), 100);
    assert_eq!(hub.get("/healthz").0, 200);
}

#[tokio::test]
async fn a_device_resumes_after_a_reconnect_and_nothing_is_published_twice() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Mosquitto::start(dir.path());
    let consumer = Consumer::start(broker.port).await;
    let hub = Hub::start(dir.path(), &config(dir.path(), broker.port, "")).await;
    hub.until_uplink("connected").await;

    let mut device = Device::connect(hub.address, "d").await;
    device.hello("s").await;
    for seq in 1..=10 {
        device.data(seq).await;
    }
    device.acked(10).await;
    drop(device);
    let mut device = Device::connect(hub.address, "d").await;
    assert_eq!(device.hello("s").await, 10);
    // A firmware that does not look at `welcome` sends again what it has.
    for seq in 8..=12 {
        device.data(seq).await;
    }
    device.acked(12).await;
    until("12 batches", || consumer.batches().len() == 12).await;
    assert!(consumer.batches().values().all(|times| *times == 1));
}

#[tokio::test]
async fn all_formats_arrive_as_the_contract_has_them() {
    for format in ["json", "cbor", "senml-json", "senml-cbor"] {
        let dir = tempfile::tempdir().unwrap();
        let broker = Mosquitto::start(dir.path());
        let consumer = Consumer::start(broker.port).await;
        let extra = format!("format = {format:?}");
        let hub = Hub::start(dir.path(), &config(dir.path(), broker.port, &extra)).await;
        hub.until_uplink("connected").await;
        let mut device = Device::connect(hub.address, "d").await;
        device.hello("s").await;
        device
            .send(json!({"data": {"seq": 7, "pack": [{"bn": "d/", "n": "x", "u": "V", "v": 2.5, "t": 1.7e9}]}}))
            .await;
        device.acked(7).await;
        let data = || consumer.got().into_iter().find(|got| got.kind() == "data");
        until("the batch", || data().is_some()).await;
        let payload = data().unwrap().payload;
        let record = json!({"n": "d/x", "u": "V", "v": 2.5, "t": 1.7e9});
        match format {
            "json" | "cbor" => {
                let map: serde_json::Value = if format == "json" {
                    serde_json::from_slice(&payload).unwrap()
                } else {
                    serde_cbor::from_slice(&payload).unwrap()
                };
                assert_eq!(map["pack"], json!([record]), "{format}");
                assert_eq!(
                    (&map["seq"], &map["stream"]),
                    (&json!(7), &json!("s")),
                    "{format}"
                );
            }
            "senml-json" => {
                let pack: serde_json::Value = serde_json::from_slice(&payload).unwrap();
                assert_eq!(pack, json!([record]));
            }
            _ => {
                use serde_cbor::Value::{Array, Float, Integer, Map, Text};
                let pack: serde_cbor::Value = serde_cbor::from_slice(&payload).unwrap();
                let record = [
                    (Integer(0), Text("d/x".into())),
                    (Integer(1), Text("V".into())),
                    (Integer(2), Float(2.5)),
                    (Integer(6), Float(1.7e9)),
                ];
                assert_eq!(pack, Array(vec![Map(record.into_iter().collect())]));
            }
        }
    }
}

#[tokio::test]
async fn in_order_drain_holds_new_batches_behind_the_backlog() {
    let dir = tempfile::tempdir().unwrap();
    let mut broker = Mosquitto::start(dir.path());
    let consumer = Consumer::start(broker.port).await;
    broker.stop();
    let extra = "drain = \"in-order\"\ninflight = 4";
    let hub = Hub::start(dir.path(), &config(dir.path(), broker.port, extra)).await;
    let sensor = Sensor::start(hub.address, "d", Duration::from_millis(1));
    until("a backlog", || sensor.acked() > 1_000).await;
    broker.start_again();
    hub.until_uplink("connected").await;
    let before = sensor.acked();
    until("more batches", || sensor.acked() > before + 500).await;
    sensor.rest();
    until("every ack", || sensor.unacked() == 0).await;
    let last = usize::try_from(sensor.acked()).unwrap();
    until("every batch", || consumer.batches().len() == last).await;
    let mut highest = 0;
    for (_, _, seq) in consumer.got().iter().filter_map(daemon::Received::batch) {
        assert!(seq <= highest + 1, "{seq} came after {highest}");
        highest = highest.max(seq);
    }
    // The backlog is through: what comes now takes the live lane, on however slow a machine.
    let other = Sensor::start(hub.address, "e", Duration::from_millis(20));
    until("the live lane", || {
        consumer.got().iter().any(|got| got.kind() == "data")
    })
    .await;
    other.rest();
}

#[tokio::test]
async fn live_first_drain_lets_new_batches_overtake_the_backlog() {
    let dir = tempfile::tempdir().unwrap();
    let mut broker = Mosquitto::start(dir.path());
    let consumer = Consumer::start(broker.port).await;
    broker.stop();
    let hub = Hub::start(dir.path(), &config(dir.path(), broker.port, "inflight = 4")).await;
    // The broker's first answer comes when some of the backlog is still to be drained.
    let sensor = Sensor::start(hub.address, "d", Duration::from_millis(1));
    until("a backlog", || sensor.acked() > 3_000).await;
    broker.start_again();
    hub.until_uplink("connected").await;
    let before = sensor.acked();
    until("new batches", || sensor.acked() > before + 200).await;
    sensor.rest();
    hub.until_drained().await;
    until("every ack", || sensor.unacked() == 0).await;
    let last = usize::try_from(sensor.acked()).unwrap();
    until("every batch", || consumer.batches().len() == last).await;
    let got = consumer.got();
    let kinds: Vec<_> = got
        .iter()
        .filter(|g| g.batch().is_some())
        .map(|g| g.kind())
        .collect();
    let first_live = kinds.iter().position(|kind| *kind == "data").unwrap();
    let last_history = kinds.iter().rposition(|kind| *kind == "history").unwrap();
    assert!(first_live < last_history, "{first_live} {last_history}");
}

#[tokio::test]
async fn write_always_has_every_batch_on_disk_before_it_is_published() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Mosquitto::start(dir.path());
    let consumer = Consumer::start(broker.port).await;
    let text =
        config(dir.path(), broker.port, "").replace("min_free", "write = \"always\"\nmin_free");
    let hub = Hub::start(dir.path(), &text).await;
    hub.until_uplink("connected").await;
    let before = hub.bytes_written();
    let mut device = Device::connect(hub.address, "d").await;
    device.hello("s").await;
    for seq in 1..=50 {
        device.data(seq).await;
    }
    device.acked(50).await;
    assert!(hub.bytes_written() > before);
    until("all of them", || consumer.batches().len() == 50).await;
    assert!(
        consumer.got().iter().all(|got| got.kind() != "history"),
        "published from memory"
    );
    hub.until_drained().await;
}

#[tokio::test]
async fn a_batch_by_post_into_the_stream_of_an_open_connection_leaves_that_its_acks() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Mosquitto::start(dir.path());
    let consumer = Consumer::start(broker.port).await;
    let hub = Hub::start(dir.path(), &config(dir.path(), broker.port, "")).await;
    hub.until_uplink("connected").await;
    let mut device = Device::connect(hub.address, "cow").await;
    device.hello("s").await;
    device.data(1).await;
    device.acked(1).await;
    let address = hub.address;
    // One that is new, and one that came over the connection before.
    for (seq, value) in [(2, 2), (1, 1)] {
        let path = format!("/v1/devices/cow/data?stream=s&seq={seq}");
        let body = format!("[{{\"n\":\"x\",\"v\":{value}}}]");
        let answer = tokio::task::spawn_blocking(move || post(address, &path, None, &body));
        assert_eq!(answer.await.unwrap(), "HTTP/1.1 204 No Content");
        let next = if seq == 2 { 3 } else { 4 };
        device.data(next).await;
        device.acked(next).await;
    }
    until("all four", || consumer.batches().len() == 4).await;
}

#[tokio::test]
async fn a_result_for_a_hub_without_commands_is_rejected_so_that_the_device_may_forget_it() {
    let dir = tempfile::tempdir().unwrap();
    let hub = Hub::start(dir.path(), &config(dir.path(), daemon::free_port(), "")).await;
    let mut device = Device::connect(hub.address, "lamp").await;
    device.hello("s").await;
    // More than the ten rejects in a row that end a connection: nothing is wrong with the device.
    for n in 0..12 {
        let id = format!("old-{n}");
        device
            .send(json!({"result": {"id": id, "name": "on", "ok": true}}))
            .await;
        let answer = device.receive().await.expect("an answer");
        let reject = &answer["reject"];
        assert_eq!(
            (&reject["result"], &reject["code"]),
            (&json!(id), &json!("unknown-kind"))
        );
    }
    device.data(1).await;
    device.acked(1).await;
}
