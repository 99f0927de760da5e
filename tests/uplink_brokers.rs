//! Several brokers and several addresses: which is tried when, and the way back to the first.
#![allow(clippy::unwrap_used, missing_docs, unreachable_pub)]

#[allow(dead_code)]
#[path = "support/broker.rs"]
mod broker;
#[allow(dead_code)]
#[path = "support/uplink_rig.rs"]
mod uplink_rig;

use std::time::Duration;

use broker::Broker;
use rumqttc::Packet;
use telehub::config;
use uplink_rig::{Rig, presence, settings};

fn two(first: u16, second: u16) -> telehub::uplink::Settings {
    let mut settings = settings(first);
    settings.broker.brokers.push(config::Broker {
        host: "127.0.0.1".into(),
        port: second,
        tls: None,
    });
    settings.broker.return_after = Duration::from_millis(500);
    settings
}

#[tokio::test]
async fn a_first_broker_that_accepts_and_stays_silent_does_not_keep_from_the_second() {
    let (first, second) = (Broker::start().await, Broker::start().await);
    let mut rig = Rig::start(two(first.port, second.port));
    let silent = first.accept().await;
    let _peer = second.welcome_hub().await;
    rig.up().await;
    let report = rig.board.status().uplink;
    assert_eq!(
        report.broker,
        Some(format!("mqtt://127.0.0.1:{}", second.port))
    );
    drop(silent);
}

#[tokio::test]
async fn the_first_choice_is_taken_again_when_it_has_answered_for_a_while() {
    let first = Broker::start().await;
    let port = first.port;
    drop(first);
    let second = Broker::start().await;
    let mut rig = Rig::start(two(port, second.port));
    let mut peer = second.welcome_hub().await;
    let epoch = rig.up().await;
    rig.outbox
        .put(&"cow".into(), presence("online", "connected"));
    let cow = peer.publish().await;
    peer.puback(cow.pkid).await;
    rig.submit(epoch, 1).await;
    let data = peer.publish().await;
    peer.puback(data.pkid).await;
    assert_eq!(rig.acked().await, 1);
    // It is back. It is knocked at by TCP alone, and then the second hears the end in order.
    let first = Broker::on(&format!("127.0.0.1:{port}")).await;
    let (mut moved, mut offline) = (false, false);
    loop {
        match peer.read().await {
            Some(Packet::Publish(publish)) => {
                let said: serde_json::Value = serde_json::from_slice(&publish.payload).unwrap();
                assert_eq!(said["state"], "offline", "{}", publish.topic);
                if publish.topic == "telehub/barn/status" {
                    assert!(moved, "the devices come first");
                    offline = true;
                } else {
                    assert_eq!(
                        (publish.topic.as_str(), &said["reason"]),
                        ("telehub/barn/cow/status", &"moved".into())
                    );
                    moved = true;
                }
                peer.puback(publish.pkid).await;
            }
            Some(Packet::Disconnect) => break,
            other => panic!("{other:?}"),
        }
    }
    assert!(moved && offline);
    drop(peer);
    let error = rig.down().await;
    assert!(error.contains("first choice"), "{error}");
    // Some of the connections were knocks.
    let mut peer = loop {
        let mut peer = first.accept().await;
        match peer.read().await {
            None => {}
            Some(Packet::Connect(_)) => break peer,
            other => panic!("{other:?}"),
        }
    };
    peer.connack(rumqttc::ConnectReturnCode::Success, false)
        .await;
    rig.up().await;
    let online = peer.publish().await;
    assert_eq!(online.topic, "telehub/barn/status");
    peer.puback(online.pkid).await;
    let cow = peer.publish().await;
    let said: serde_json::Value = serde_json::from_slice(&cow.payload).unwrap();
    assert_eq!(said["state"], "online", "the state itself has not changed");
}
