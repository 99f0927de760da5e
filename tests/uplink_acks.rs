//! Which publish was acknowledged, whatever the broker does.
#![allow(clippy::unwrap_used, missing_docs, unreachable_pub)]

#[allow(dead_code)]
#[path = "support/broker.rs"]
mod broker;
#[allow(dead_code)]
#[path = "support/uplink_rig.rs"]
mod uplink_rig;

use std::collections::HashSet;
use std::time::Duration;

use broker::Broker;
use rumqttc::ConnectReturnCode;
use telehub::uplink::Event;
use uplink_rig::{Rig, settings};

/// The token that a rig's batch was submitted under.
fn token(payload: &[u8]) -> u64 {
    let payload: serde_json::Value = serde_json::from_slice(payload).unwrap();
    let pack = payload.get("pack").unwrap_or(&payload);
    pack[0]["v"].as_f64().unwrap() as u64
}

#[tokio::test]
async fn a_publish_is_acked_when_its_puback_comes_and_not_before() {
    let broker = Broker::start().await;
    let mut rig = Rig::start(settings(broker.port));
    let mut peer = broker.welcome_hub().await;
    let epoch = rig.up().await;
    rig.submit(epoch, 7).await;
    let publish = peer.publish().await;
    assert_eq!(publish.topic, "telehub/barn/cow/data");
    assert_eq!(token(&publish.payload), 7);
    assert!(!publish.retain && publish.qos == rumqttc::QoS::AtLeastOnce);
    // Late: other traffic passes before the ack.
    rig.submit(epoch, 8).await;
    let second = peer.publish().await;
    assert!(rig.events.try_recv().is_err());
    peer.puback(second.pkid).await;
    assert_eq!(rig.event().await, Event::Acked { epoch, token: 8 });
    peer.puback(publish.pkid).await;
    assert_eq!(rig.event().await, Event::Acked { epoch, token: 7 });
}

#[tokio::test]
async fn packet_ids_never_collide_over_10_000_publishes_acked_out_of_order() {
    const COUNT: u64 = 10_000;
    let broker = Broker::start().await;
    let mut settings = settings(broker.port);
    settings.broker.inflight = 20;
    let mut rig = Rig::start(settings);
    let mut peer = broker.welcome_hub().await;
    let epoch = rig.up().await;
    let broker = tokio::spawn(async move {
        let mut out: Vec<(u16, u64)> = Vec::new();
        let mut sequence = Vec::new();
        let mut random = 1_u64;
        while sequence.len() < COUNT as usize {
            // As many as the window lets through, then all but the oldest in a shuffled order.
            while let Ok(packet) =
                tokio::time::timeout(Duration::from_millis(2), peer.publish()).await
            {
                assert!(
                    out.iter().all(|(id, _)| *id != packet.pkid),
                    "packet id {} is out twice",
                    packet.pkid
                );
                out.push((packet.pkid, token(&packet.payload)));
                if out.len() == 20 {
                    break;
                }
            }
            let spare = usize::from(out.len() > 1 && !random.is_multiple_of(3));
            for _ in spare..out.len() {
                random = random
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                let (id, token) = out.remove(spare + (random >> 33) as usize % (out.len() - spare));
                peer.puback(id).await;
                sequence.push(token);
            }
        }
        (sequence, peer)
    });
    for token in 0..COUNT {
        rig.submit(epoch, token).await;
    }
    let mut acked = Vec::new();
    while acked.len() < COUNT as usize {
        acked.push(rig.acked().await);
    }
    let (sequence, _peer) = broker.await.unwrap();
    assert_eq!(
        acked, sequence,
        "acks name other records than the broker did"
    );
    assert_eq!(acked.iter().collect::<HashSet<_>>().len(), COUNT as usize);
}

#[tokio::test]
async fn a_puback_for_an_unknown_packet_ends_the_connection_and_acks_nothing() {
    for stray in [2, 77, 9_999] {
        let broker = Broker::start().await;
        let mut rig = Rig::start(settings(broker.port));
        let mut peer = broker.welcome_hub().await;
        let epoch = rig.up().await;
        peer.puback(stray).await;
        peer.closed().await;
        assert!(matches!(rig.event().await, Event::Down { epoch: down, .. } if down == epoch));
        let _peer = broker.welcome_hub().await;
        assert_eq!(rig.up().await, epoch + 1);
    }
}

#[tokio::test]
async fn a_second_puback_for_the_same_packet_ends_the_connection() {
    let broker = Broker::start().await;
    let mut rig = Rig::start(settings(broker.port));
    let mut peer = broker.welcome_hub().await;
    let epoch = rig.up().await;
    rig.submit(epoch, 1).await;
    rig.submit(epoch, 2).await;
    let publishes = peer.publishes(2).await;
    peer.pubacks([publishes[0].pkid, publishes[0].pkid]).await;
    assert_eq!(rig.acked().await, 1);
    rig.down().await;
}

#[tokio::test]
async fn an_answer_of_another_quality_of_service_ends_the_connection() {
    let broker = Broker::start().await;
    let mut rig = Rig::start(settings(broker.port));
    let mut peer = broker.welcome_hub().await;
    let epoch = rig.up().await;
    rig.submit(epoch, 1).await;
    let publish = peer.publish().await;
    peer.pubrec(publish.pkid).await;
    rig.down().await;
}

#[tokio::test]
async fn what_was_in_flight_when_the_broker_closed_is_not_acked_and_not_resent() {
    for session_present in [false, true] {
        let broker = Broker::start().await;
        let mut rig = Rig::start(settings(broker.port));
        let mut peer = broker.welcome_hub().await;
        let epoch = rig.up().await;
        for token in 1..=5 {
            rig.submit(epoch, token).await;
        }
        let publishes = peer.publishes(5).await;
        peer.puback(publishes[2].pkid).await;
        assert_eq!(rig.acked().await, 3);
        drop(peer);
        rig.down().await;
        // A submission that the end overtook is for nobody.
        rig.submit(epoch, 6).await;

        let mut peer = broker.accept().await;
        let connect = peer.connect().await;
        assert!(connect.clean_session);
        peer.connack(ConnectReturnCode::Success, session_present)
            .await;
        let online = peer.publish().await;
        assert_eq!(online.topic, "telehub/barn/status");
        peer.puback(online.pkid).await;
        let next = rig.up().await;
        assert_eq!(next, epoch + 1);
        // The intake resends what it still has; nothing else comes, nothing is missing.
        for token in [1, 2, 4, 5] {
            rig.submit(epoch, 100 + token).await;
            rig.submit(next, token).await;
        }
        let again = peer.publishes(4).await;
        let tokens: Vec<_> = again
            .iter()
            .map(|publish| token(&publish.payload))
            .collect();
        assert_eq!(tokens, [1, 2, 4, 5]);
        peer.pubacks(again.iter().map(|publish| publish.pkid)).await;
        for token in [1, 2, 4, 5] {
            assert_eq!(rig.event().await, Event::Acked { epoch: next, token });
        }
    }
}

#[tokio::test]
async fn pubacks_of_the_last_connection_are_not_credited_on_the_next() {
    let broker = Broker::start().await;
    let mut rig = Rig::start(settings(broker.port));
    let mut peer = broker.welcome_hub().await;
    let epoch = rig.up().await;
    for token in 1..=5 {
        rig.submit(epoch, token).await;
    }
    let publishes = peer.publishes(5).await;
    drop(peer);
    rig.down().await;

    let (mut peer, _) = broker.welcome().await;
    assert_eq!(rig.up().await, epoch + 1);
    peer.pubacks(publishes.iter().skip(1).map(|publish| publish.pkid))
        .await;
    let error = rig.down().await;
    assert!(error.contains("was not sent"), "{error}");
}

#[tokio::test]
async fn pubacks_that_came_just_before_the_close_count_but_for_the_last() {
    let broker = Broker::start().await;
    let mut rig = Rig::start(settings(broker.port));
    let mut peer = broker.welcome_hub().await;
    let epoch = rig.up().await;
    for token in 1..=5 {
        rig.submit(epoch, token).await;
    }
    let publishes = peer.publishes(5).await;
    peer.pubacks(publishes.iter().map(|publish| publish.pkid))
        .await;
    drop(peer);
    // The last may be what the broker has hung up on: MQTT 3.1.1 makes it acknowledge that too.
    for token in 1..=4 {
        assert_eq!(rig.acked().await, token);
    }
    rig.down().await;
}

#[tokio::test]
async fn a_broker_that_never_acks_gets_the_window_and_is_left_when_the_intake_says_so() {
    let broker = Broker::start().await;
    let mut settings = settings(broker.port);
    settings.broker.inflight = 4;
    let mut rig = Rig::start(settings);
    let mut peer = broker.welcome_hub().await;
    let epoch = rig.up().await;
    for token in 1..=50 {
        rig.submit(epoch, token).await;
    }
    peer.publishes(4).await;
    assert!(
        peer.is_silent_for(Duration::from_millis(200)).await,
        "window not kept"
    );
    assert_eq!(rig.board.status().uplink.in_flight, 4);
    rig.reconnect.send_replace(epoch);
    peer.closed().await;
    let event = rig.event().await;
    assert!(
        matches!(event, Event::Down { hung_up: false, .. }),
        "{event:?}"
    );
    // An old complaint does not hurt the new connection.
    let mut peer = broker.welcome_hub().await;
    let next = rig.up().await;
    rig.reconnect.send_replace(epoch);
    rig.submit(next, 1).await;
    let publish = peer.publish().await;
    peer.puback(publish.pkid).await;
    assert_eq!(rig.acked().await, 1);
}
