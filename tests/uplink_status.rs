//! What the broker's retained `status` topics say, and the last words.
#![allow(clippy::unwrap_used, missing_docs, unreachable_pub)]

#[allow(dead_code)]
#[path = "support/broker.rs"]
mod broker;
#[allow(dead_code)]
#[path = "support/uplink_rig.rs"]
mod uplink_rig;

use std::collections::HashSet;
use std::time::{Duration, Instant};

use broker::{Broker, PATIENCE, soon};
use rumqttc::{Packet, QoS};
use serde_json::Value;
use telehub::status::board::Expected;
use uplink_rig::{Rig, presence, settings};

fn json(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap()
}

#[tokio::test]
async fn the_hub_is_online_at_connect_and_offline_by_its_last_will() {
    let broker = Broker::start().await;
    let mut settings = settings(broker.port);
    settings.version = "1.2.3".into();
    settings.broker.keep_alive = Duration::from_secs(17);
    let _rig = Rig::start(settings);
    let (mut peer, connect) = broker.welcome().await;
    assert_eq!(connect.client_id, "telehub-barn");
    assert_eq!(connect.keep_alive, 17);
    assert!(connect.clean_session && connect.login.is_none());
    let will = connect.last_will.unwrap();
    assert_eq!(will.topic, "telehub/barn/status");
    assert!(will.retain && will.qos == QoS::AtLeastOnce);
    let said = json(&will.message);
    assert_eq!(
        (&said["state"], &said["version"]),
        (&"offline".into(), &"1.2.3".into())
    );

    let online = peer.publish().await;
    assert_eq!(online.topic, "telehub/barn/status");
    assert!(online.retain && online.qos == QoS::AtLeastOnce);
    let said = json(&online.payload);
    assert_eq!(
        (&said["state"], &said["version"]),
        (&"online".into(), &"1.2.3".into())
    );
    assert!(said["since"].as_f64().unwrap() > 1.7e9, "{said}");
}

#[tokio::test]
async fn a_new_broker_hears_of_all_devices_and_a_change_is_told_at_once() {
    let broker = Broker::start().await;
    let mut rig = Rig::start(settings(broker.port));
    rig.outbox
        .put(&"cow".into(), presence("online", "connected"));
    rig.outbox
        .put(&"pig".into(), presence("offline", "ping timeout"));
    for round in 0..2 {
        let mut peer = broker.welcome_hub().await;
        rig.up().await;
        let told = peer.publishes(2).await;
        for status in &told {
            assert!(status.retain && status.qos == QoS::AtLeastOnce);
            peer.puback(status.pkid).await;
        }
        let topics: HashSet<_> = told.iter().map(|status| status.topic.as_str()).collect();
        let expected = ["telehub/barn/cow/status", "telehub/barn/pig/status"];
        assert_eq!(topics, HashSet::from(expected), "round {round}");
        rig.outbox.put(&"cow".into(), presence("offline", "closed"));
        let change = peer.publish().await;
        let said = json(&change.payload);
        assert_eq!(change.topic, "telehub/barn/cow/status");
        assert_eq!(
            (&said["state"], &said["reason"]),
            (&"offline".into(), &"closed".into())
        );
        drop(peer);
        rig.down().await;
    }
}

#[tokio::test]
async fn a_thousand_states_and_data_share_the_window_and_neither_starves() {
    let broker = Broker::start().await;
    let mut settings = settings(broker.port);
    settings.broker.inflight = 20;
    let mut rig = Rig::start(settings);
    for number in 0..1000 {
        rig.outbox.put(
            &format!("d{number}").into(),
            presence("online", "connected"),
        );
    }
    let mut peer = broker.welcome_hub().await;
    let epoch = rig.up().await;
    for token in 0..4000 {
        rig.submit(epoch, token).await;
    }
    let (mut states, mut data, mut out) = (0, 0, 0);
    // The broker acknowledges one only when nothing more comes: the window is always full.
    let mut waiting = std::collections::VecDeque::new();
    while states < 200 || data < 200 {
        match tokio::time::timeout(Duration::from_millis(5), peer.read()).await {
            Ok(Some(Packet::Publish(publish))) => {
                let state = publish.retain;
                states += u32::from(state);
                data += u32::from(!state);
                out += u32::from(state);
                assert!(out <= 8, "{out} device states at a time");
                waiting.push_back((publish.pkid, state));
            }
            Ok(other) => panic!("{other:?}"),
            Err(_) => {
                for _ in 0..10 {
                    let (id, state) = waiting.pop_front().expect("stuck with an empty window");
                    out -= u32::from(state);
                    peer.puback(id).await;
                }
            }
        }
    }
    assert!(
        states > 100 && data > states,
        "{states} states, {data} data"
    );
}

#[tokio::test]
async fn a_window_of_one_still_carries_data_and_states_in_turn() {
    let broker = Broker::start().await;
    let mut settings = settings(broker.port);
    settings.broker.inflight = 1;
    let mut rig = Rig::start(settings);
    for number in 0..20 {
        rig.outbox.put(
            &format!("d{number}").into(),
            presence("online", "connected"),
        );
    }
    let mut peer = broker.welcome_hub().await;
    let epoch = rig.up().await;
    for token in 0..20 {
        rig.submit(epoch, token).await;
    }
    for _ in 0..40 {
        let publish = peer.publish().await;
        peer.puback(publish.pkid).await;
    }
    for token in 0..20 {
        assert_eq!(rig.acked().await, token);
    }
}

#[tokio::test]
async fn a_stop_waits_for_what_is_out_then_tells_devices_then_the_hub_then_disconnects() {
    let broker = Broker::start().await;
    let mut rig = Rig::start(settings(broker.port));
    let mut peer = broker.welcome_hub().await;
    let epoch = rig.up().await;
    rig.submit(epoch, 1).await;
    let data = peer.publish().await;
    rig.stopper.stop();
    // Still open: the intake may hand over what it has.
    rig.submit(epoch, 2).await;
    let more = peer.publish().await;
    rig.outbox
        .put(&"cow".into(), presence("offline", "hub stopping"));
    rig.close();
    let cow = peer.publish().await;
    assert_eq!(cow.topic, "telehub/barn/cow/status");
    peer.pubacks([data.pkid, cow.pkid, more.pkid]).await;
    let hub = peer.publish().await;
    assert_eq!(hub.topic, "telehub/barn/status");
    assert!(hub.retain);
    assert_eq!(json(&hub.payload)["state"], "offline");
    assert!(
        peer.is_silent_for(Duration::from_millis(100)).await,
        "no DISCONNECT before PUBACK"
    );
    peer.puback(hub.pkid).await;
    assert!(matches!(peer.read().await, Some(Packet::Disconnect)));
    drop(peer);
    assert_eq!((rig.acked().await, rig.acked().await), (1, 2));
    soon("the end", rig.task).await.unwrap();
}

#[tokio::test]
async fn a_broker_that_acknowledges_nothing_does_not_hold_up_the_stop() {
    let broker = Broker::start().await;
    let mut settings = settings(broker.port);
    settings.broker.inflight = 2;
    settings.pace.farewell = Duration::from_millis(300);
    let mut rig = Rig::start(settings);
    let (mut peer, _) = broker.welcome().await;
    let epoch = rig.up().await;
    rig.submit(epoch, 1).await;
    rig.submit(epoch, 2).await;
    peer.publishes(2).await;
    rig.finish().await;
    // No DISCONNECT: the broker publishes the last will.
    while let Some(packet) = peer.read().await {
        assert!(!matches!(packet, Packet::Disconnect));
    }
}

#[tokio::test]
async fn what_an_earlier_run_left_online_is_corrected_and_then_nothing_is_subscribed() {
    let broker = Broker::start().await;
    let mut rig = Rig::start(settings(broker.port));
    rig.outbox
        .put(&"cow".into(), presence("online", "connected"));
    let mut peer = broker.welcome_hub().await;
    assert_eq!(peer.subscriptions, ["telehub/barn/+/status"]);
    let cow = peer.publish().await;
    assert_eq!(cow.topic, "telehub/barn/cow/status");
    peer.puback(cow.pkid).await;
    let online = r#"{"state":"online","since":1.0,"reason":"connected","model":"T1"}"#;
    let offline = r#"{"state":"offline","since":1.0,"reason":"closed"}"#;
    // Known to this run; right already; an echo; nobody's; not a state; and the one that is stale.
    peer.deliver("telehub/barn/cow/status", online, true).await;
    peer.deliver("telehub/barn/hen/status", offline, true).await;
    peer.deliver("telehub/barn/dog/status", online, false).await;
    peer.deliver("telehub/barn/-bad-/status", online, true)
        .await;
    peer.deliver("elsewhere", online, true).await;
    peer.deliver("telehub/barn/cat/status", "online", true)
        .await;
    peer.deliver("telehub/barn/pig/status", online, true).await;
    let pig = peer.publish().await;
    assert_eq!(pig.topic, "telehub/barn/pig/status");
    assert!(pig.retain);
    let said = json(&pig.payload);
    assert_eq!(
        (&said["state"], &said["reason"], &said["model"]),
        (&"offline".into(), &"hub restarted".into(), &"T1".into())
    );
    peer.puback(pig.pkid).await;
    // Data goes on all the while, over the whole circle of packet ids, and past the unsubscribing.
    let epoch = rig.up().await;
    let begun = Instant::now();
    let mut token = 0;
    while !peer.subscriptions.is_empty() {
        token += 1;
        rig.submit(epoch, token).await;
        let data = peer.publish().await;
        assert!(!data.retain, "{}", data.topic);
        peer.puback(data.pkid).await;
        // The PUBACK is believed once something else has come: the answer to a ping.
        let acked = tokio::select! {
            acked = rig.acked() => acked,
            packet = peer.read() => panic!("{packet:?}"),
        };
        assert_eq!(acked, token);
        assert!(begun.elapsed() < PATIENCE, "still subscribed");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert!(token > 110, "{token}");
    rig.submit(epoch, 0).await;
    let data = peer.publish().await;
    peer.puback(data.pkid).await;
    assert_eq!(rig.acked().await, 0);
    // The next connection of this run has nothing to look for.
    drop(peer);
    rig.down().await;
    let peer = broker.welcome_hub().await;
    assert!(peer.subscriptions.is_empty());
}

#[tokio::test]
async fn a_broker_that_sends_nothing_for_the_wildcard_is_asked_by_exact_topic() {
    let broker = Broker::start().await;
    let rig = Rig::start(settings(broker.port));
    let expected = ["cow", "pig"].map(|id| Expected {
        id: id.into(),
        every: None,
    });
    rig.board.devices.expect(expected.into());
    rig.board.devices.online(&"cow".into(), 1, "here".into());
    let mut peer = broker.welcome_hub().await;
    assert_eq!(peer.subscriptions, ["telehub/barn/+/status"]);
    // Read on until the hub has changed what it listens to; nothing is published meanwhile.
    let exact = ["telehub/barn/pig/status"];
    while peer.subscriptions != exact {
        tokio::select! {
            packet = peer.read() => panic!("{packet:?}"),
            () = tokio::time::sleep(Duration::from_millis(20)) => {}
        }
    }
    let online = r#"{"state":"online","since":1.0,"reason":"connected"}"#;
    peer.deliver(exact[0], online, true).await;
    let pig = peer.publish().await;
    assert_eq!((&*pig.topic, pig.retain), (exact[0], true));
    assert_eq!(json(&pig.payload)["reason"], "hub restarted");
    peer.puback(pig.pkid).await;
    while !peer.subscriptions.is_empty() {
        tokio::select! {
            packet = peer.read() => panic!("{packet:?}"),
            () = tokio::time::sleep(Duration::from_millis(20)) => {}
        }
    }
}

#[tokio::test]
async fn a_broker_that_hangs_up_on_the_subscription_gets_its_data_nevertheless() {
    let broker = Broker::start().await;
    let mut rig = Rig::start(settings(broker.port));
    for _ in 0..2 {
        let peer = broker.welcome_hub().await;
        assert_eq!(peer.subscriptions.len(), 1);
        drop(peer);
        rig.up().await;
        rig.down().await;
    }
    let mut peer = broker.welcome_hub().await;
    assert!(peer.subscriptions.is_empty());
    let epoch = rig.up().await;
    rig.submit(epoch, 1).await;
    let data = peer.publish().await;
    peer.puback(data.pkid).await;
    assert_eq!(rig.acked().await, 1);
}
