//! Value topics: the newest reading of each name, beside the data and never in its way.
#![allow(clippy::unwrap_used, missing_docs, unreachable_pub)]

#[allow(dead_code)]
#[path = "support/broker.rs"]
mod broker;
#[path = "support/broker5.rs"]
mod broker5;
#[path = "support/daemon.rs"]
mod daemon;
#[allow(dead_code)]
#[path = "support/uplink_rig.rs"]
mod uplink_rig;

use std::collections::BTreeSet;
use std::time::Duration;

use broker::{Broker, soon};
use broker5::Broker5;
use daemon::{Consumer, Device, Hub, Mosquitto, config, until};
use rumqttc::Packet;
use rumqttc::v5::mqttbytes::v5::Publish;
use serde_json::{Value, json};
use telehub::config::{MqttVersion, Values};
use telehub::uplink::{Event, Settings};
use uplink_rig::{Rig, batch, batch_of, settings};

fn with_values(port: u16, version: MqttVersion) -> Settings {
    let mut settings = settings(port);
    settings.broker.version = version;
    settings.values = Values {
        enabled: true,
        max_rate: 100,
        ..Values::default()
    };
    settings
}

fn is_value(topic: &[u8]) -> bool {
    String::from_utf8_lossy(topic).contains("/value/")
}

const TOPIC: &str = "telehub/barn/cow/value/room/1/temp";

async fn send(device: &mut Device, seq: u64, value: f64, time: f64) {
    let pack = json!([{"bn": "room/1/", "bt": time, "n": "temp", "u": "Cel", "v": value}]);
    let data = json!({"data": {"seq": seq, "pack": pack}});
    device.send(data).await;
    device.acked(seq).await;
}

fn shown(value: f64, time: f64, seq: u64) -> Value {
    json!({"v": value, "u": "Cel", "t": time, "seq": seq})
}

#[tokio::test]
async fn a_reading_is_shown_at_once_and_stays_and_the_backlog_is_not_shown() {
    for version in ["5", "3.1.1"] {
        let dir = tempfile::tempdir().unwrap();
        let mut broker = Mosquitto::start(dir.path());
        let consumer = Consumer::start(broker.port).await;
        let extra = format!("version = \"{version}\"\n[values]\nenabled = true");
        let hub = Hub::start(dir.path(), &config(dir.path(), broker.port, &extra)).await;
        let mut device = Device::connect(hub.address, "cow").await;
        device.hello("s").await;
        let now = std::time::SystemTime::now();
        let now = now.duration_since(std::time::UNIX_EPOCH).unwrap();
        let time = now.as_secs_f64().floor() - 1_000.0;
        hub.until_uplink("connected").await;
        send(&mut device, 1, 21.5, time).await;
        let first = shown(21.5, time, 1);
        until("the first value", || {
            consumer.last(TOPIC) == Some(first.clone())
        })
        .await;

        broker.stop();
        hub.until_uplink("down").await;
        for seq in 2..20 {
            let seconds = u32::try_from(seq).unwrap();
            send(&mut device, seq, -1.0, time + f64::from(seconds)).await;
        }
        broker.start_again();
        hub.until_uplink("connected").await;
        hub.until_drained().await;
        until("the backlog", || consumer.batches().len() == 19).await;
        // What the live lane brings is newer than all of it.
        send(&mut device, 20, 22.5, time + 100.0).await;
        let last = shown(22.5, time + 100.0, 20);
        until("the last value", || {
            consumer.last(TOPIC) == Some(last.clone())
        })
        .await;
        let values: Vec<_> = consumer
            .got()
            .iter()
            .filter(|one| one.topic == TOPIC && one.json()["v"] == -1.0)
            .cloned()
            .collect();
        assert!(values.is_empty(), "{version}: of the backlog: {values:?}");

        // Who comes later has it at once.
        drop(consumer);
        let late = Consumer::start(broker.port).await;
        let retained = || {
            let got = late.got();
            let mut own = got.iter().filter(|one| one.topic == TOPIC);
            own.any(|one| one.retained && one.json() == last)
        };
        until("the retained value", retained).await;
        assert!(hub.stop().await.success());
    }
}

#[tokio::test]
async fn plain_values_that_are_not_retained() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Mosquitto::start(dir.path());
    let consumer = Consumer::start(broker.port).await;
    let extra = "[values]\nenabled = true\nplain = true\nretain = false";
    let hub = Hub::start(dir.path(), &config(dir.path(), broker.port, extra)).await;
    let mut device = Device::connect(hub.address, "cow").await;
    hub.until_uplink("connected").await;
    let pack = json!([{"n": "a", "v": 1.5}, {"n": "b", "vb": true}, {"n": "c", "vs": "on"}]);
    device.send(json!({"data": {"seq": 1, "pack": pack}})).await;
    device.acked(1).await;
    for (name, text) in [("a", "1.5"), ("b", "true"), ("c", "on")] {
        let topic = format!("telehub/barn/cow/value/{name}");
        until("a bare value", || {
            let got = consumer.got();
            got.iter()
                .any(|one| one.topic == topic && one.payload == text.as_bytes())
        })
        .await;
    }
    drop(consumer);
    let late = Consumer::start(broker.port).await;
    until("the retained states", || {
        late.last("telehub/barn/cow/status").is_some()
    })
    .await;
    assert!(
        !late
            .got()
            .iter()
            .any(|one| is_value(one.topic.as_bytes()) && one.retained)
    );
    assert!(hub.stop().await.success());
}

#[tokio::test]
async fn the_last_value_comes_out_at_the_stop() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Mosquitto::start(dir.path());
    let consumer = Consumer::start(broker.port).await;
    let extra = "[values]\nenabled = true\nmax_rate = 1";
    let hub = Hub::start(dir.path(), &config(dir.path(), broker.port, extra)).await;
    let mut device = Device::connect(hub.address, "cow").await;
    hub.until_uplink("connected").await;
    for seq in 1..=5 {
        device.data(seq).await;
        device.acked(seq).await;
    }
    assert!(hub.stop().await.success());
    until("the last value", || {
        consumer
            .last("telehub/barn/cow/value/x")
            .is_some_and(|last| last["v"] == 5)
    })
    .await;
}

/// Answers everything, values with this reason. Ends once so many values have come.
async fn refuse_values(peer: &mut broker5::Peer5, reason: u8, count: usize) -> Vec<Publish> {
    let mut values = Vec::new();
    while values.len() < count {
        let publish = peer.publish().await;
        if is_value(&publish.topic) {
            peer.puback(publish.pkid, reason).await;
            values.push(publish);
        } else {
            peer.puback(publish.pkid, 0).await;
        }
    }
    values
}

#[tokio::test]
async fn a_refused_value_costs_no_data_and_is_not_tried_again_at_once() {
    let broker = Broker5::start().await;
    let mut rig = Rig::start(with_values(broker.port, MqttVersion::V5));
    let mut peer = broker.welcome_hub(&[]).await;
    let epoch = rig.up().await;
    rig.submit(epoch, 1).await;
    let refused = refuse_values(&mut peer, 0x87, 1).await;
    assert_eq!(&refused[0].topic[..], b"telehub/barn/cow/value/t");
    assert!(refused[0].retain);
    // A week: nobody knows yet how often it comes.
    let properties = refused[0].properties.as_ref().unwrap();
    assert_eq!(properties.message_expiry_interval, Some(7 * 86_400));
    assert_eq!(rig.acked().await, 1);
    for token in 2..=50 {
        rig.submit(epoch, token).await;
        let publish = peer.publish().await;
        assert_eq!(&publish.topic[..], b"telehub/barn/cow/data");
        peer.puback(publish.pkid, 0).await;
        assert_eq!(rig.acked().await, token);
    }
    // Another name is another matter.
    let other = batch_of(51, br#"[{"n":"other","v":1}]"#.to_vec());
    rig.submit_item(epoch, 51, other).await;
    refuse_values(&mut peer, 0, 1).await;
    assert_eq!(rig.acked().await, 51);
    let uplink = rig.board.uplink.refused_values.get();
    assert_eq!((uplink, rig.board.uplink.refused.get()), (1, 0));
    assert_eq!(rig.board.status().uplink.refused_statuses, 0);
}

#[tokio::test]
async fn values_pass_where_a_broker_receives_one_publish_at_a_time() {
    let broker = Broker5::start().await;
    let mut rig = Rig::start(with_values(broker.port, MqttVersion::V5));
    // Receive Maximum 1.
    let mut peer = broker.welcome_hub(&[0x21, 0, 1]).await;
    let epoch = rig.up().await;
    for token in 1..=200 {
        rig.submit(epoch, token).await;
    }
    let (mut data, mut values) = (0, 0);
    while data < 200 || values == 0 {
        let publish = peer.publish().await;
        match is_value(&publish.topic) {
            true => values += 1,
            false => data += 1,
        }
        peer.puback(publish.pkid, 0).await;
    }
    for token in 1..=200 {
        assert_eq!(rig.acked().await, token);
    }
}

#[tokio::test]
async fn a_broker_that_hangs_up_on_values_gets_the_data_and_no_more_values() {
    let broker = Broker::start().await;
    let mut rig = Rig::start(with_values(broker.port, MqttVersion::V311));
    tokio::spawn(async move {
        loop {
            let (mut peer, _) = broker.welcome().await;
            while let Some(packet) = peer.read().await {
                if let Packet::Publish(publish) = packet {
                    if is_value(publish.topic.as_bytes()) {
                        break;
                    }
                    peer.puback(publish.pkid).await;
                }
            }
        }
    });
    let board = rig.board.clone();
    let paused = || board.uplink.refused_values.get() > 0;
    let (mut open, mut next) = (BTreeSet::new(), 1);
    let mut epoch = None;
    let mut out = BTreeSet::new();
    while !open.is_empty() || !paused() {
        assert!(next < 20_000, "no end of it");
        while open.len() < 20 && !paused() {
            open.insert(next);
            next += 1;
        }
        if let Some(epoch) = epoch {
            // Few at a time, so that values come between.
            for token in open.iter().take(3).copied().collect::<Vec<_>>() {
                if out.insert(token) {
                    rig.submit_item(epoch, token, batch(token)).await;
                }
            }
        }
        match rig.event().await {
            Event::Up { epoch: up } => epoch = Some(up),
            Event::Down { .. } => {
                epoch = None;
                out.clear();
            }
            Event::Acked { token, .. } => _ = open.remove(&token),
            other => panic!("data was given up for a value: {other:?}"),
        }
    }
    // The connection lives: nothing more is hung up on.
    let Some(epoch) = epoch else {
        panic!("the connection was lost after the end of values");
    };
    for token in next..next + 100 {
        rig.submit_item(epoch, token, batch(token)).await;
        let acked = soon("an ack", rig.events.recv()).await.unwrap();
        assert_eq!(acked, Event::Acked { epoch, token });
    }
    tokio::time::timeout(Duration::from_millis(50), rig.events.recv())
        .await
        .expect_err("no further event");
}
