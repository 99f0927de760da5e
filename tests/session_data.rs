//! Batches, acks, rejects and the window, over real sockets with a fake intake.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "support/device_port.rs"]
mod device_port;

use std::time::{Duration, Instant};

use device_port::{Known, Port, data, devices, soon, until};
use futures_util::{SinkExt, StreamExt};
use serde_json::json;
use telehub::protocol::message::{RejectCode, ToDevice};
use telehub::reading::Encoding;
use tokio_tungstenite::tungstenite::{Bytes, Message};

#[tokio::test]
async fn hello_is_answered_with_what_is_safe_and_data_goes_on_from_there() {
    let mut port = Port::start(devices()).await;
    *port.intake.known.lock().unwrap() = Known {
        safe: 5,
        taken: 7,
        safe_soon: None,
    };
    let mut device = port.connect("barn-1").await;
    device
        .json(json!({"hello": {"stream": "boot-1", "model": "TH-2", "firmware": "1.0"}}))
        .await;
    let (_, ToDevice::Welcome(welcome)) = device.answer().await else {
        panic!("no welcome");
    };
    assert_eq!((&*welcome.stream, welcome.seq), ("boot-1", 5));
    assert_eq!((welcome.window, welcome.max_message), (32, 65_536));
    assert!((welcome.ping_interval - 60.0).abs() < 1e-9);
    assert!((welcome.time - telehub::clock::unix_now()).abs() < 5.0);

    // Taken and not safe: sent again, it is handed on, so that the intake can ack it.
    for seq in [6, 8] {
        device.data(seq).await;
        let arrival = port.intake.arrival().await;
        assert_eq!(arrival.batch.seq, Some(seq));
        assert_eq!(&*arrival.batch.stream, "boot-1");
        assert_eq!(&*arrival.batch.device, "barn-1");
        assert_eq!(arrival.batch.readings, 2);
        assert_eq!(arrival.batch.encoding, Encoding::Json);
        assert_eq!(arrival.batch.frame, data(Some(seq)).to_string());
        port.intake.settle(&arrival);
        assert_eq!(device.ack().await, seq);
    }
    let report = port.report("barn-1");
    assert_eq!((report.seq, report.batches, report.readings), (8, 1, 2));
    assert_eq!(report.stream.as_deref(), Some("boot-1"));
    assert_eq!(report.model.as_deref(), Some("TH-2"));
    assert_eq!(report.firmware.as_deref(), Some("1.0"));
}

#[tokio::test]
async fn no_ack_comes_before_the_welcome() {
    let port = Port::start(devices()).await;
    *port.intake.known.lock().unwrap() = Known {
        safe: 5,
        taken: 7,
        safe_soon: Some(7),
    };
    let mut device = port.connect("a").await;
    assert_eq!(device.hello("s").await.seq, 5);
    assert_eq!(device.ack().await, 7);
}

#[tokio::test]
async fn data_without_hello_gets_a_stream_of_its_own() {
    let mut port = Port::start(devices()).await;
    let mut device = port.connect("a").await;
    device.data(1).await;
    device.data(2).await;
    for seq in 1..=2 {
        let arrival = port.intake.arrival().await;
        assert_eq!(&*arrival.batch.stream, "unnamed-1");
        port.intake.settle(&arrival);
        assert_eq!(device.ack().await, seq);
    }
    assert_eq!(port.intake.seen.lock().unwrap().attached, [(1, None)]);

    // Too late now.
    device.json(json!({"hello": {"stream": "s"}})).await;
    assert_eq!(device.reject().await, (RejectCode::Malformed, None));
}

#[tokio::test]
async fn answers_come_in_the_encoding_last_used() {
    let mut port = Port::start(devices()).await;
    let mut device = port.connect("a").await;
    device.cbor(json!({"hello": {"stream": "s"}})).await;
    assert_eq!(device.answer().await.0, Encoding::Cbor);
    device.data(1).await;
    let arrival = port.intake.arrival().await;
    port.intake.settle(&arrival);
    assert_eq!(
        device.answer().await,
        (Encoding::Json, ToDevice::Ack { seq: 1 })
    );
    device.cbor(data(Some(2))).await;
    let arrival = port.intake.arrival().await;
    assert_eq!(arrival.batch.encoding, Encoding::Cbor);
    port.intake.settle(&arrival);
    assert_eq!(
        device.answer().await,
        (Encoding::Cbor, ToDevice::Ack { seq: 2 })
    );
}

#[tokio::test]
async fn acks_that_are_ready_together_are_one() {
    let mut port = Port::start(devices()).await;
    let mut device = port.connect("a").await;
    device.hello("s").await;
    let mut arrivals = Vec::new();
    for seq in 1..=10 {
        device.data(seq).await;
        arrivals.push(port.intake.arrival().await);
    }
    for arrival in &arrivals {
        port.intake.settle(arrival);
    }
    assert_eq!(device.ack().await, 10);
    // Nothing between it and the answer to the next message.
    device.json(json!({"what": 1})).await;
    assert_eq!(device.reject().await, (RejectCode::UnknownKind, None));
}

#[tokio::test]
async fn a_device_that_keeps_to_its_window_gets_its_pings_answered() {
    let mut settings = devices();
    settings.window = 3;
    let mut port = Port::start(settings).await;
    let mut device = port.connect("a").await;
    device.hello("s").await;
    for seq in 1..=3 {
        device.data(seq).await;
        port.intake.arrival().await;
    }
    device.ws.send(Message::Ping(Bytes::new())).await.unwrap();
    assert!(matches!(
        soon(device.ws.next()).await,
        Some(Ok(Message::Pong(_)))
    ));
}

#[tokio::test]
async fn beyond_the_window_nothing_is_read_until_there_is_room() {
    let mut settings = devices();
    settings.window = 2;
    let mut port = Port::start(settings).await;
    let mut device = port.connect("a").await;
    // Without sequence numbers, without acks: the window counts all the same.
    for _ in 0..5 {
        device.json(data(None)).await;
    }
    let first = port.intake.arrival().await;
    port.intake.arrival().await;
    port.intake.nothing_arrives().await;
    let mailbox = port.intake.mailbox(first.conn);
    mailbox.settle(1, None);
    port.intake.arrival().await;
    port.intake.nothing_arrives().await;
    mailbox.settle(2, None);
    port.intake.arrival().await;
    port.intake.arrival().await;
}

#[tokio::test]
async fn a_device_is_not_evicted_because_the_intake_takes_nothing() {
    let mut settings = devices();
    settings.ping_interval = Duration::from_millis(50);
    settings.ping_timeout = Duration::from_millis(50);
    let mut port = Port::with_capacity(settings, 1).await;
    let mut device = port.connect("a").await;
    device.hello("s").await;
    for seq in 1..=10 {
        device.data(seq).await;
    }
    // Ten times as long as a silent device has.
    tokio::time::sleep(Duration::from_millis(1_000)).await;
    assert_eq!(port.report("a").state, "online");
    let reader = tokio::spawn(async move {
        while device.ack().await < 10 {}
        device
    });
    for seq in 1..=10 {
        let arrival = port.intake.arrival().await;
        assert_eq!(arrival.batch.seq, Some(seq));
        port.intake.settle(&arrival);
    }
    soon(reader).await.unwrap();
    assert_eq!(port.report("a").state, "online");
}

#[tokio::test]
async fn a_number_that_was_skipped_cannot_come_later() {
    let mut port = Port::start(devices()).await;
    let mut device = port.connect("a").await;
    device.hello("s").await;
    for seq in [1, 5] {
        device.data(seq).await;
        port.intake.arrival().await;
    }
    device.data(3).await;
    assert_eq!(device.reject().await, (RejectCode::BadSeq, Some(3)));
    device.data(0).await;
    assert_eq!(device.reject().await.0, RejectCode::BadSeq);
    device.data(5).await;
    assert_eq!(port.intake.arrival().await.batch.seq, Some(5));
    assert_eq!(port.report("a").rejected, 2);
}

#[tokio::test]
async fn bad_messages_are_rejected_each_with_its_code() {
    let mut port = Port::start(devices()).await;
    let mut device = port.connect("a").await;
    device.hello("s").await;
    device.ws.send(Message::text("{")).await.unwrap();
    assert_eq!(device.reject().await.0, RejectCode::Malformed);
    device
        .ws
        .send(Message::binary(vec![0xff; 9]))
        .await
        .unwrap();
    assert_eq!(device.reject().await.0, RejectCode::Malformed);
    let nameless = json!({"data": {"seq": 9, "pack": [{"v": 1}]}});
    device.json(nameless).await;
    assert_eq!(device.reject().await, (RejectCode::BadPack, Some(9)));
    device.json(json!({"hello": {"stream": "s"}})).await;
    assert_eq!(device.reject().await.0, RejectCode::Malformed);
    device.data(1).await;
    assert_eq!(port.intake.arrival().await.batch.seq, Some(1));
}

#[tokio::test]
async fn ten_rejects_in_a_row_end_the_connection() {
    let mut port = Port::start(devices()).await;
    let mut device = port.connect("a").await;
    for _ in 0..9 {
        device.json(json!({"what": 1})).await;
    }
    device
        .json(json!({"result": {"id": "1", "ok": true}}))
        .await;
    for _ in 0..9 {
        device.json(json!({"what": 1})).await;
    }
    device.data(1).await;
    port.intake.arrival().await;
    for _ in 0..10 {
        device.json(json!({"what": 1})).await;
    }
    assert_eq!(device.closed().await, 1007);
    assert_eq!(port.offline("a").await, "too many rejects");
    assert_eq!(port.report("a").rejected, 28);
    assert_eq!(port.board.devices.evicted.get(), 1);
}

#[tokio::test]
async fn a_device_above_its_rate_is_slowed_down_and_loses_nothing() {
    let mut settings = devices();
    settings.max_rate = 100;
    let mut port = Port::start(settings).await;
    let mut device = port.connect("a").await;
    let start = Instant::now();
    for _ in 0..300 {
        device.json(data(None)).await;
    }
    for _ in 0..300 {
        let arrival = port.intake.arrival().await;
        port.intake.settle(&arrival);
    }
    // A burst of 200 at once, the other 100 in a second.
    assert!(start.elapsed() > Duration::from_millis(900));
    assert_eq!(port.report("a").state, "online");
}

#[tokio::test]
async fn a_session_that_ends_is_detached_after_its_last_batch() {
    let mut port = Port::start(devices()).await;
    let mut device = port.connect("a").await;
    device.hello("s").await;
    device.data(1).await;
    device.ws.close(None).await.unwrap();
    let arrival = port.intake.arrival().await;
    until(|| port.intake.seen.lock().unwrap().detached == [arrival.conn]).await;
    assert_eq!(port.offline("a").await, "closed");
    assert_eq!(port.presence(), ("offline", "closed".to_owned()));
    assert_eq!(port.board.devices.connected.get(), 0);
}
