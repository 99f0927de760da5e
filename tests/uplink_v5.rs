//! MQTT 5: what a broker may say in CONNACK, PUBACK and DISCONNECT, and how the hub finds out
//! whether it speaks it at all.
#![allow(clippy::unwrap_used, missing_docs, unreachable_pub)]

#[allow(dead_code)]
#[path = "support/broker.rs"]
mod broker;
#[path = "support/broker5.rs"]
mod broker5;
#[allow(dead_code)]
#[path = "support/uplink_rig.rs"]
mod uplink_rig;

use std::time::Duration;

use broker::soon;
use broker5::Broker5;
use rumqttc::v5::mqttbytes::v5::Packet;
use telehub::config::{Format, MqttVersion};
use telehub::uplink::{Cause, Event, Settings};
use uplink_rig::{Rig, batch_of, presence, settings};

fn five(port: u16) -> Settings {
    let mut settings = settings(port);
    settings.broker.version = MqttVersion::Auto;
    settings
}

fn large(seq: u64) -> telehub::reading::Item {
    let text = "x".repeat(1500);
    batch_of(seq, format!(r#"[{{"n":"t","vs":"{text}"}}]"#).into_bytes())
}

#[tokio::test]
async fn a_refusal_is_no_ack_and_stops_nobody_else() {
    let broker = Broker5::start().await;
    let mut rig = Rig::start(five(broker.port));
    let mut peer = broker.welcome_hub(&[]).await;
    let epoch = rig.up().await;
    for token in 1..=3 {
        rig.submit(epoch, token).await;
    }
    let publishes = peer.publishes(3).await;
    peer.puback(publishes[0].pkid, 0x87).await;
    peer.puback(publishes[1].pkid, 0x10).await;
    peer.puback(publishes[2].pkid, 0).await;
    match rig.event().await {
        Event::Refused { token, refusal, .. } => {
            assert_eq!((token, refusal.cause), (1, Cause::Reason(0x87)));
            for words in ["telehub/barn/cow/data", "not authorized", "ACL"] {
                assert!(refusal.detail.contains(words), "{}", refusal.detail);
            }
        }
        other => panic!("{other:?}"),
    }
    assert_eq!([rig.acked().await, rig.acked().await], [2, 3]);
    let uplink = &rig.board.uplink;
    assert_eq!((uplink.refused.get(), uplink.unheard.get()), (1, 1));
    let report = rig.board.status().uplink;
    assert_eq!(report.mqtt.as_deref(), Some("5"));
    assert_eq!(
        report.broker,
        Some(format!("mqtt://127.0.0.1:{}", broker.port))
    );
}

#[tokio::test]
async fn what_connack_allows_holds_for_that_connection_and_no_longer() {
    let broker = Broker5::start().await;
    let mut rig = Rig::start(five(broker.port));
    // Receive Maximum 3, Maximum Packet Size 1100, Retain Available 0, Server Keep Alive 1.
    let limits = [0x21, 0, 3, 0x27, 0, 0, 4, 0x4c, 0x25, 0, 0x13, 0, 1];
    let (mut peer, connect, will) = broker.welcome(&limits).await;
    assert!(connect.clean_start && will.retain);
    assert_eq!(connect.properties.unwrap().session_expiry_interval, Some(0));
    let epoch = rig.up().await;
    let online = peer.publish().await;
    assert!(!online.retain, "Retain Available is 0");
    peer.puback(online.pkid, 0).await;
    for token in 1..=9 {
        rig.submit(epoch, token).await;
    }
    let first = peer.publishes(2).await;
    assert!(
        peer.is_silent_for(Duration::from_millis(100)).await,
        "beyond the window"
    );
    for publish in first {
        peer.puback(publish.pkid, 0).await;
        rig.acked().await;
    }
    rig.submit_item(epoch, 10, large(10)).await;
    let mut rest = 7;
    loop {
        tokio::select! {
            event = rig.event() => match event {
                Event::Unpublishable { token: 10, error, .. } => {
                    assert!(error.contains("1100"), "{error}");
                    break;
                }
                Event::Acked { .. } => rest -= 1,
                other => panic!("{other:?}"),
            },
            publish = peer.publish() => peer.puback(publish.pkid, 0).await,
        }
    }
    assert!(rest <= 1, "it waited for its turn");
    // The keep-alive of the broker replaces ours, which is 30 s.
    while peer.pings == 0 {
        tokio::select! {
            packet = peer.read() => match packet {
                Some(Packet::Publish(rest)) => peer.puback(rest.pkid, 0).await,
                other => panic!("{other:?}"),
            },
            () = tokio::time::sleep(Duration::from_millis(20)) => {}
        }
    }
    drop(peer);
    while !matches!(rig.event().await, Event::Down { .. }) {}
    let mut peer = broker.welcome_hub(&[]).await;
    let epoch = rig.up().await;
    rig.submit_item(epoch, 11, large(11)).await;
    for token in 12..=20 {
        rig.submit(epoch, token).await;
    }
    peer.publishes(10).await;
}

#[tokio::test]
async fn a_broker_that_takes_qos_0_alone_is_no_broker_for_a_hub() {
    let broker = Broker5::start().await;
    let mut rig = Rig::start(five(broker.port));
    let mut peer = broker.accept().await;
    peer.read().await;
    peer.connack(0, &[0x24, 0]).await;
    let error = rig.down().await;
    assert!(
        error.contains("QoS 0") && error.contains("acknowledge"),
        "{error}"
    );
}

#[tokio::test]
async fn a_disconnect_says_why_and_two_takeovers_mean_a_twin() {
    let broker = Broker5::start().await;
    let mut rig = Rig::start(five(broker.port));
    for round in 0..2 {
        let mut peer = broker.welcome_hub(&[]).await;
        rig.up().await;
        assert_eq!(rig.board.status().uplink.twins, round > 1);
        // As mosquitto writes it.
        peer.raw(&[0xe0, 1, 0x8e]).await;
        let error = rig.down().await;
        assert!(error.contains("uplink.client_id"), "{error}");
    }
    let mut peer = broker.welcome_hub(&[]).await;
    rig.up().await;
    assert!(rig.board.status().uplink.twins);
    peer.raw(&[0xe0, 10, 0x9d, 8, 0x1c, 0, 5, b'o', b't', b'h', b'e', b'r'])
        .await;
    let error = rig.down().await;
    assert!(
        error.contains("change uplink.url") && error.contains("\"other\""),
        "{error}"
    );
}

#[tokio::test]
async fn a_broker_that_does_not_know_5_is_spoken_to_in_3_1_1() {
    let broker = Broker5::start().await;
    let mut rig = Rig::start(five(broker.port));
    // In either form of the answer, and then it is known.
    let mut peer = broker.accept().await;
    assert_eq!(peer.level().await, 5);
    peer.raw(&[0x20, 2, 0, 1]).await;
    drop(peer);
    for _ in 0..2 {
        let mut peer = broker.accept().await;
        assert_eq!(peer.level().await, 4);
        peer.raw(&[0x20, 2, 0, 0]).await;
        rig.up().await;
        assert_eq!(rig.board.status().uplink.mqtt.as_deref(), Some("3.1.1"));
        drop(peer);
        rig.down().await;
    }
}

#[tokio::test]
async fn a_hang_up_on_5_is_a_reason_to_try_3_1_1_only_where_5_was_never_spoken() {
    let broker = Broker5::start().await;
    let mut rig = Rig::start(five(broker.port));
    for expected in [5, 5, 4] {
        let mut peer = broker.accept().await;
        assert_eq!(peer.level().await, expected);
    }
    rig.down().await;
    // 3.1.1 did not succeed, so nothing has been learnt. Now it speaks 5.
    let peer = broker.welcome_hub(&[]).await;
    rig.up().await;
    drop(peer);
    rig.down().await;
    for _ in 0..4 {
        assert_eq!(broker.accept().await.level().await, 5);
        rig.down().await;
    }
}

#[tokio::test]
async fn a_status_that_is_refused_waits_and_nothing_else_does() {
    let broker = Broker5::start().await;
    let mut rig = Rig::start(five(broker.port));
    let mut peer = broker.welcome_hub(&[]).await;
    let epoch = rig.up().await;
    rig.outbox
        .put(&"hen".into(), presence("online", "connected"));
    let hen = peer.publish().await;
    peer.puback(hen.pkid, 0x87).await;
    rig.outbox
        .put(&"cow".into(), presence("online", "connected"));
    let cow = peer.publish().await;
    assert_eq!(&cow.topic[..], b"telehub/barn/cow/status");
    peer.puback(cow.pkid, 0).await;
    rig.submit(epoch, 1).await;
    let data = peer.publish().await;
    peer.puback(data.pkid, 0).await;
    assert_eq!(rig.acked().await, 1);
    assert_eq!(rig.board.status().uplink.refused_statuses, 1);
    assert!(
        peer.is_silent_for(Duration::from_millis(200)).await,
        "it has a pause"
    );
}

#[tokio::test]
async fn a_message_with_qos_1_is_acknowledged_asked_for_or_not() {
    let broker = Broker5::start().await;
    let mut rig = Rig::start(five(broker.port));
    let mut peer = broker.welcome_hub(&[]).await;
    rig.up().await;
    peer.raw(&[0x32, 7, 0, 1, b'x', 0, 9, 0, b'p']).await;
    match peer.read().await {
        Some(Packet::PubAck(ack)) => assert_eq!(ack.pkid, 9),
        other => panic!("{other:?}"),
    }
    assert_eq!(rig.board.uplink.skipped.get(), 1);
}

#[tokio::test]
async fn the_senml_formats_carry_stream_and_number_as_user_properties() {
    let broker = Broker5::start().await;
    let mut settings = five(broker.port);
    settings.broker.format = Format::SenmlJson;
    let mut rig = Rig::start(settings);
    let mut peer = broker.welcome_hub(&[]).await;
    let epoch = rig.up().await;
    rig.submit(epoch, 7).await;
    let publish = peer.publish().await;
    let properties = publish.properties.unwrap();
    assert_eq!(
        properties.content_type.as_deref(),
        Some("application/senml+json")
    );
    let user = properties.user_properties;
    assert!(user.contains(&("stream".into(), "a".into())), "{user:?}");
    assert!(user.contains(&("seq".into(), "7".into())), "{user:?}");
}

#[tokio::test]
async fn the_last_words_are_offline_and_disconnect() {
    let broker = Broker5::start().await;
    let mut rig = Rig::start(five(broker.port));
    let mut peer = broker.welcome_hub(&[]).await;
    rig.up().await;
    let end = tokio::spawn(rig.finish());
    let offline = peer.publish().await;
    let said: serde_json::Value = serde_json::from_slice(&offline.payload).unwrap();
    assert_eq!(
        (&said["state"], &said["commands"]),
        (&"offline".into(), &false.into())
    );
    peer.puback(offline.pkid, 0).await;
    assert!(peer.read().await.is_none(), "DISCONNECT");
    drop(peer);
    soon("the end", end).await.unwrap();
}

fn of_device(device: &str, seq: u64) -> telehub::reading::Item {
    match batch_of(seq, br#"[{"n":"t","v":1}]"#.to_vec()) {
        telehub::reading::Item::Batch(batch) => {
            telehub::reading::Item::Batch(telehub::reading::Batch {
                device: device.into(),
                ..batch
            })
        }
        other => other,
    }
}

#[tokio::test]
async fn what_is_never_acknowledged_while_later_ones_are_is_refused_and_the_others_go_on() {
    let broker = Broker5::start().await;
    let mut settings = five(broker.port);
    settings.broker.ack_timeout = Duration::from_millis(200);
    let mut rig = Rig::start(settings);
    // Once it may be an acknowledgement that got lost: the connection is made anew, and nothing else.
    let mut peers = Vec::new();
    for again in [false, true] {
        let mut peer = broker.welcome_hub(&[]).await;
        let epoch = rig.up().await;
        rig.submit_item(epoch, 1, of_device("bull", 1)).await;
        rig.submit_item(epoch, 2, of_device("cow", 1)).await;
        rig.submit_item(epoch, 3, of_device("cow", 2)).await;
        let publishes = peer.publishes(3).await;
        peer.puback(publishes[1].pkid, 0).await;
        peer.puback(publishes[2].pkid, 0).await;
        assert_eq!([rig.acked().await, rig.acked().await], [2, 3]);
        peers.push(peer);
        if !again {
            assert!(matches!(rig.event().await, Event::Down { .. }));
        }
    }
    match rig.event().await {
        Event::Refused { token, refusal, .. } => {
            assert_eq!((token, refusal.cause), (1, Cause::HungUp));
            let words = "acknowledges what comes after it";
            assert!(refusal.detail.contains(words), "{}", refusal.detail);
        }
        other => panic!("{other:?}"),
    }
    assert!(matches!(rig.event().await, Event::Down { .. }));
    let mut peer = broker.welcome_hub(&[]).await;
    let epoch = rig.up().await;
    rig.submit(epoch, 4).await;
    let publish = peer.publish().await;
    peer.puback(publish.pkid, 0).await;
    assert_eq!(rig.acked().await, 4);
}

#[tokio::test]
async fn a_broker_without_retained_messages_gets_a_will_that_is_not_retained() {
    let broker = Broker5::start().await;
    let mut rig = Rig::start(five(broker.port));
    let mut peer = broker.accept().await;
    match peer.read().await {
        Some(Packet::Connect(_, Some(will), _)) => assert!(will.retain),
        other => panic!("{other:?}"),
    }
    peer.connack(0x9a, &[]).await;
    let (mut peer, _, will) = broker.welcome(&[0x25, 0]).await;
    assert!(!will.retain);
    let online = peer.publish().await;
    assert!(!online.retain);
    rig.up().await;
}

#[tokio::test]
async fn a_broker_whose_packets_are_too_small_for_a_gap_record_is_no_broker_for_a_hub() {
    for (size, words) in [
        ([0, 0, 0, 0], "Maximum Packet Size is 0"),
        ([0, 0, 0, 130], "130 bytes"),
    ] {
        let broker = Broker5::start().await;
        let mut rig = Rig::start(five(broker.port));
        let mut peer = broker.accept().await;
        peer.read().await;
        let mut properties = vec![0x27];
        properties.extend_from_slice(&size);
        peer.connack(0, &properties).await;
        let error = rig.down().await;
        assert!(error.contains(words), "{error}");
    }
}
