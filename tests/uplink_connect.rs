//! Connecting, and not getting through: refusals, silence, garbage, files that cannot be read.
#![allow(clippy::unwrap_used, missing_docs, unreachable_pub)]

#[allow(dead_code)]
#[path = "support/broker.rs"]
mod broker;
#[allow(dead_code)]
#[path = "support/uplink_rig.rs"]
mod uplink_rig;

use std::time::{Duration, Instant};

use broker::{Broker, soon};
use rumqttc::ConnectReturnCode;
use telehub::status::board::UplinkState;
use telehub::uplink::Event;
use uplink_rig::{Rig, settings};

#[tokio::test]
async fn each_refusal_says_in_words_what_is_wrong_and_what_to_do() {
    use ConnectReturnCode::*;
    let cases = [
        (RefusedProtocolVersion, "MQTT 3.1.1"),
        (BadClientId, "uplink.client_id"),
        (ServiceUnavailable, "server unavailable"),
        (BadUserNamePassword, "bad user name or password"),
        (NotAuthorized, "not authorized"),
    ];
    let broker = Broker::start().await;
    let mut rig = Rig::start(settings(broker.port));
    for (code, words) in cases {
        let mut peer = broker.accept().await;
        peer.connect().await;
        peer.connack(code, false).await;
        let error = rig.down().await;
        assert!(error.contains(words), "{code:?}: {error}");
        assert_eq!(rig.board.status().uplink.last_error, Some(error));
    }
    // Every refusal is tried again: what was wrong may have been put right.
    let _peer = broker.welcome_hub().await;
    assert_eq!(rig.up().await, 1, "failed connects use up no epochs");
    assert_eq!(rig.board.uplink.state(), UplinkState::Connected);
}

#[tokio::test]
async fn no_broker_at_all_is_a_down_and_a_broker_that_appears_is_used() {
    let broker = Broker::start().await;
    let port = broker.port;
    drop(broker);
    let mut rig = Rig::start(settings(port));
    let error = rig.down().await;
    assert!(
        error.contains(&format!("cannot connect to mqtt://127.0.0.1:{port}")),
        "{error}"
    );
    let broker = Broker::on(&format!("127.0.0.1:{port}")).await;
    let _peer = broker.welcome_hub().await;
    while !matches!(rig.event().await, Event::Up { epoch: 1 }) {}
}

#[tokio::test]
async fn a_broker_on_an_ipv6_address_is_reached() {
    let broker = Broker::on("[::1]:0").await;
    let mut settings = settings(broker.port);
    settings.broker.brokers[0].host = "::1".into();
    let mut rig = Rig::start(settings);
    let _peer = broker.welcome_hub().await;
    rig.up().await;
}

#[tokio::test]
async fn a_broker_that_hangs_in_the_handshake_is_given_up() {
    let broker = Broker::start().await;
    let mut rig = Rig::start(settings(broker.port));
    let mut peer = broker.accept().await;
    peer.connect().await;
    let error = rig.down().await;
    assert!(error.contains("did not answer within 1 s"), "{error}");
    peer.closed().await;
}

#[tokio::test]
async fn a_broker_that_sends_half_a_connack_is_given_up() {
    let broker = Broker::start().await;
    let mut rig = Rig::start(settings(broker.port));
    let mut peer = broker.accept().await;
    peer.connect().await;
    peer.raw(&[0x20, 0x02, 0x00]).await;
    let error = rig.down().await;
    assert!(error.contains("did not answer within"), "{error}");
}

#[tokio::test]
async fn packets_that_come_in_pieces_are_understood() {
    let broker = Broker::start().await;
    let mut rig = Rig::start(settings(broker.port));
    let mut peer = broker.accept().await;
    peer.connect().await;
    for byte in [0x20, 0x02, 0x00, 0x00] {
        peer.raw(&[byte]).await;
        tokio::task::yield_now().await;
    }
    let online = peer.publish().await;
    let epoch = rig.up().await;
    rig.submit(epoch, 1).await;
    let publish = peer.publish().await;
    let [high, low] = publish.pkid.to_be_bytes();
    // The first ack whole, half of the second; the other half when the first was understood.
    let [first_high, first_low] = online.pkid.to_be_bytes();
    peer.raw(&[0x40, 0x02, first_high, first_low, 0x40, 0x02, high])
        .await;
    while rig.board.status().uplink.acknowledged < 1 {
        tokio::task::yield_now().await;
    }
    assert!(rig.events.try_recv().is_err());
    peer.raw(&[low]).await;
    assert_eq!(rig.acked().await, 1);
}

#[tokio::test]
async fn garbage_costs_the_connection_and_nothing_else() {
    let garbage: [&[u8]; 8] = [
        b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n400 Bad Request",
        &[0xff; 64],
        &[0x00, 0x00],
        // An answer that claims 256 MiB.
        &[0x90, 0xff, 0xff, 0xff, 0x7f],
        // A length that never ends.
        &[0x40, 0xff, 0xff, 0xff, 0xff, 0xff],
        // PUBACK without an id, with half an id.
        &[0x40, 0x00],
        &[0x40, 0x01, 0x00],
        // A second CONNACK.
        &[0x20, 0x02, 0x00, 0x00],
    ];
    let broker = Broker::start().await;
    let mut rig = Rig::start(settings(broker.port));
    for (expected, bytes) in (1..).zip(garbage) {
        let mut peer = broker.welcome_hub().await;
        let epoch = rig.up().await;
        assert_eq!(epoch, expected);
        rig.submit(epoch, 1).await;
        let publish = peer.publish().await;
        peer.puback(publish.pkid).await;
        assert_eq!(rig.acked().await, 1);
        peer.raw(bytes).await;
        peer.closed().await;
        rig.down().await;
    }
    // In place of CONNACK, too.
    for bytes in garbage.into_iter().take(7) {
        let mut peer = broker.accept().await;
        peer.connect().await;
        peer.raw(bytes).await;
        drop(peer);
        rig.down().await;
    }
    let _peer = broker.welcome_hub().await;
    rig.up().await;
}

#[tokio::test]
async fn a_broker_that_answers_no_pings_is_left_after_two_keep_alives() {
    let broker = Broker::start().await;
    let mut settings = settings(broker.port);
    settings.broker.keep_alive = Duration::from_millis(1_900);
    let mut rig = Rig::start(settings);
    let begun = Instant::now();
    let (peer, connect) = broker.welcome().await;
    assert_eq!(
        connect.keep_alive, 1,
        "whole seconds, the broker's and ours alike"
    );
    rig.up().await;
    let error = rig.down().await;
    assert!(error.contains("does not answer pings"), "{error}");
    assert!(begun.elapsed() >= Duration::from_millis(1_900));
    drop(peer);
}

#[tokio::test]
async fn what_nobody_asked_for_is_skipped_and_never_ends_the_connection() {
    let broker = Broker::start().await;
    let mut rig = Rig::start(settings(broker.port));
    let mut peer = broker.welcome_hub().await;
    let epoch = rig.up().await;
    peer.raw(&[0x30, 0x05, 0x00, 0x01, b'x', b'h', b'i']).await;
    // Nor does one that is malformed, has QoS 2, or claims 1 MiB and brings them.
    peer.raw(&[0x30, 0x03, 0x00, 0x09, b'x']).await;
    peer.raw(&[0x34, 0x05, 0x00, 0x01, b'x', 0x00, 0x01]).await;
    peer.raw(&[0x30, 0x80, 0x80, 0x40]).await;
    peer.raw(&vec![0; 1 << 20]).await;
    rig.submit(epoch, 1).await;
    let publish = peer.publish().await;
    peer.puback(publish.pkid).await;
    assert_eq!(rig.acked().await, 1);
    assert_eq!(rig.board.uplink.skipped.get(), 4);
}

#[tokio::test]
async fn a_broker_that_accepts_and_drops_at_once_is_met_less_and_less_often() {
    let broker = Broker::start().await;
    let mut settings = settings(broker.port);
    settings.pace.first_retry = Duration::from_millis(20);
    settings.pace.longest_retry = Duration::from_millis(640);
    let mut rig = Rig::start(settings);
    let mut arrivals = Vec::new();
    for _ in 0..7 {
        let (mut peer, _) = broker.welcome().await;
        arrivals.push(Instant::now());
        // Even a hub whose own status is acknowledged has achieved nothing.
        let online = peer.publish().await;
        peer.puback(online.pkid).await;
        // Not right behind the PUBACK, which would be an answer to the status.
        peer.is_silent_for(Duration::from_millis(300)).await;
        drop(peer);
        rig.up().await;
        rig.down().await;
    }
    // Waits of at least half of 20, 40, 80, 160, 320, 640 ms.
    for (number, pair) in arrivals.windows(2).enumerate() {
        let least = Duration::from_millis(10 << number);
        assert!(
            pair[1] - pair[0] >= least,
            "{number}: {:?}",
            pair[1] - pair[0]
        );
    }
}

#[tokio::test]
async fn a_connection_that_acknowledged_data_is_replaced_soon() {
    let broker = Broker::start().await;
    let mut settings = settings(broker.port);
    settings.pace.longest_retry = Duration::from_secs(3600);
    let mut rig = Rig::start(settings);
    // Twenty doublings of 10 ms would be three hours.
    for _ in 0..20 {
        let mut peer = broker.welcome_hub().await;
        let epoch = rig.up().await;
        rig.submit(epoch, 1).await;
        let publish = peer.publish().await;
        peer.puback(publish.pkid).await;
        assert_eq!(rig.acked().await, 1);
        drop(peer);
        rig.down().await;
    }
}

#[tokio::test]
async fn the_password_is_read_at_every_connect() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("password");
    let broker = Broker::start().await;
    let mut settings = settings(broker.port);
    settings.broker.username = Some("barn".into());
    settings.broker.password_file = Some(file.clone());
    let mut rig = Rig::start(settings);
    let error = rig.down().await;
    assert!(
        error.contains("password file") && error.contains(file.to_str().unwrap()),
        "{error}"
    );
    for password in ["secret", "renewed"] {
        std::fs::write(&file, format!("{password}\r\nsecond line\n")).unwrap();
        let mut peer = broker.accept().await;
        let login = peer.connect().await.login.unwrap();
        // The connect may have begun before the file changed.
        let login = if login.password == password {
            login
        } else {
            drop(peer);
            peer = broker.accept().await;
            peer.connect().await.login.unwrap()
        };
        assert_eq!(
            (login.username.as_str(), login.password.as_str()),
            ("barn", password)
        );
        peer.connack(ConnectReturnCode::BadUserNamePassword, false)
            .await;
    }
}

#[tokio::test]
async fn a_stop_ends_an_uplink_that_is_not_connected() {
    // While it waits for the next try, and while a broker hangs in the handshake.
    let broker = Broker::start().await;
    let mut hanging = settings(broker.port);
    hanging.pace.patience = Duration::from_secs(3600);
    let rig = Rig::start(hanging.clone());
    let _peer = broker.accept().await;
    rig.finish().await;

    hanging.pace.first_retry = Duration::from_secs(3600);
    hanging.pace.longest_retry = Duration::from_secs(3600);
    let mut rig = Rig::start(hanging);
    drop(broker.accept().await);
    rig.down().await;
    // The intake may submit until it closes.
    rig.stopper.stop();
    for token in 0..1000 {
        rig.submit(1, token).await;
    }
    assert!(!rig.task.is_finished());
    rig.close();
    soon("the end", rig.task).await.unwrap();
}
