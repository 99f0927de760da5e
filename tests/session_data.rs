//! Batches, acks, rejects and the window, over real sockets with a fake intake.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "support/device_port.rs"]
mod device_port;

use std::time::{Duration, Instant};

use device_port::{Known, Port, data, devices, frame, soon, until};
use futures_util::{SinkExt, StreamExt};
use serde_json::json;
use telehub::intake::port::Refused;
use telehub::protocol::message::{NoteCode, ToDevice};
use telehub::protocol::reject::RejectCode;
use telehub::reading::Encoding;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
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
    assert!(welcome.known);
    assert!((welcome.ping_interval - 60.0).abs() < 1e-9);
    assert!((welcome.ping_timeout - 60.0).abs() < 1e-9);
    assert_eq!(welcome.max_rate, 1_000_000);
    assert!((welcome.time - telehub::clock::unix_now()).abs() < 60.0);
    assert_eq!(welcome.time.floor(), welcome.time_s as f64);

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
}

#[tokio::test]
async fn hello_after_data_is_rejected_and_ends_the_connection_after_the_acks() {
    let mut port = Port::start(devices()).await;
    let mut device = port.connect("a").await;
    device.data(1).await;
    device.json(json!({"hello": {"stream": "s"}})).await;
    assert_eq!(device.reject().await, (RejectCode::Malformed, None));
    let arrival = port.intake.arrival().await;
    port.intake.settle(&arrival);
    assert_eq!(device.ack().await, 1);
    assert_eq!(device.closed().await, 1002);
    assert_eq!(port.offline("a").await, "protocol error");
    assert_eq!(port.intake.seen.lock().unwrap().attached, [(1, None)]);
}

#[tokio::test]
async fn a_hello_without_a_stream_gets_one_that_can_be_named_again() {
    let mut port = Port::start(devices()).await;
    let mut names = Vec::new();
    for _ in 0..2 {
        let mut device = port.connect("a").await;
        device
            .json(json!({"hello": {"stream": null, "next": 1}}))
            .await;
        let (_, ToDevice::Welcome(welcome)) = device.answer().await else {
            panic!("no welcome");
        };
        assert!(!welcome.known);
        assert!(!telehub::reading::is_unnamed(&welcome.stream));
        device.data(1).await;
        let arrival = port.intake.arrival().await;
        assert_eq!(&*arrival.batch.stream, welcome.stream);
        names.push(Some(welcome.stream));
    }
    assert_ne!(names[0], names[1]);
    let attached = &port.intake.seen.lock().unwrap().attached;
    let asked: Vec<_> = attached.iter().map(|(_, name)| name.clone()).collect();
    assert_eq!(asked, names, "the intake remembers them like any other");
}

#[tokio::test]
async fn a_refused_number_is_told_before_any_ack_and_does_not_count_towards_the_ten() {
    let mut port = Port::start(devices()).await;
    let mut device = port.connect("a").await;
    device.hello("s").await;
    for seq in 1..=30 {
        device.data(2 * seq).await;
        let arrival = port.intake.arrival().await;
        let mailbox = port.intake.mailbox(arrival.conn);
        // As they wait in the mailbox, an ack of more is there as well.
        mailbox.settle(0, Some(100 + seq));
        mailbox.refuse(Refused {
            seq: 2 * seq,
            highest: 100,
        });
        loop {
            match device.answer().await.1 {
                ToDevice::Reject(reject) => {
                    assert_eq!(
                        (reject.code, reject.seq),
                        (RejectCode::BadSeq, Some(2 * seq))
                    );
                    assert!(reject.detail.contains("above 100"), "{}", reject.detail);
                    break;
                }
                // The mail may be taken between the two.
                ToDevice::Ack { seq: ack } => assert!(ack > 100),
                other => panic!("{other:?}"),
            }
        }
        if seq < 30 {
            continue;
        }
        device.data(2).await;
        let arrival = port.intake.arrival().await;
        port.intake.mailbox(arrival.conn).settle(1, Some(200));
        while device.ack().await != 200 {}
    }
    // Nor does a number that is none.
    for _ in 0..12 {
        device.data(0).await;
        assert_eq!(device.reject().await, (RejectCode::BadSeq, None));
    }
    assert_eq!(port.report("a").rejected, 42);
    assert_eq!(port.report("a").state, "online");
}

#[tokio::test]
async fn acks_come_before_the_answer_to_a_close_that_came_with_the_data() {
    let mut port = Port::start(devices()).await;
    for encoding in [Encoding::Json, Encoding::Cbor] {
        let mut device = port.connect("a").await;
        device.hello("s").await;
        for seq in 1..=3 {
            let message = data(Some(seq));
            let frame = match encoding {
                Encoding::Json => Message::text(message.to_string()),
                Encoding::Cbor => Message::binary(serde_cbor::to_vec(&message).unwrap()),
            };
            device.ws.feed(frame).await.unwrap();
        }
        let goodbye = CloseFrame {
            code: CloseCode::from(1000),
            reason: "".into(),
        };
        device.ws.close(Some(goodbye)).await.unwrap();
        let mut arrivals = Vec::new();
        for _ in 1..=3 {
            arrivals.push(port.intake.arrival().await);
        }
        for (arrival, seq) in arrivals.iter().zip(1..) {
            port.intake.settle(arrival);
            let mut acked = 0;
            while acked < seq {
                let (how, answer) = device.answer().await;
                assert_eq!(how, encoding);
                let ToDevice::Ack { seq } = answer else {
                    panic!("{answer:?}");
                };
                acked = seq;
            }
        }
        assert_eq!(device.closed().await, 1000);
        assert_eq!(port.offline("a").await, "closed");
    }
    assert_eq!(port.board.devices.shared.acked.get(), 6);
}

#[tokio::test]
async fn a_close_waits_two_seconds_for_acks_and_no_longer() {
    let mut port = Port::start(devices()).await;
    let mut device = port.connect("a").await;
    device.hello("s").await;
    for seq in 1..=2 {
        device.data(seq).await;
    }
    device.ws.close(None).await.unwrap();
    let began = Instant::now();
    let first = port.intake.arrival().await;
    port.intake.arrival().await;
    port.intake.settle(&first);
    assert_eq!(device.ack().await, 1);
    while let Some(Ok(message)) = soon(device.ws.next()).await {
        assert!(matches!(message, Message::Close(_)), "{message:?}");
    }
    assert!(began.elapsed() > Duration::from_millis(1_900));
    until(|| !port.intake.seen.lock().unwrap().detached.is_empty()).await;
}

#[tokio::test]
async fn who_says_goodbye_gets_its_acks_and_is_asleep_or_closed() {
    let mut port = Port::start(devices()).await;
    for (bye, state) in [
        (json!({"bye": {"sleep": 600}}), "asleep"),
        (json!({"bye": {"sleep": null}}), "closed"),
        (json!({"bye": {}}), "closed"),
    ] {
        let mut device = port.connect("a").await;
        device.hello("s").await;
        device.data(1).await;
        device.json(bye).await;
        let arrival = port.intake.arrival().await;
        port.intake.settle(&arrival);
        assert_eq!(device.ack().await, 1);
        assert_eq!(device.closed().await, 1000);
        until(|| port.report("a").reason == state).await;
        assert_eq!(port.presence().1, state);
    }
}

#[tokio::test]
async fn what_is_odd_is_noted_a_few_times_and_only_to_devices_that_know_of_notes() {
    let mut port = Port::start(devices()).await;
    let odd = |seq: u64| {
        json!({"data": {"seq": seq, "pack": [
            {"bn": "a/", "n": "early", "v": 1, "t": 946_684_800},
            {"n": "unplugged", "v": null},
            {"n": "h", "v": 40},
        ]}})
    };
    for (hello, notes) in [
        (json!({"stream": "s"}), 0),
        (json!({"stream": "s", "next": 1}), 3),
        (json!({"stream": "s", "clock": "unsure"}), 3),
    ] {
        let mut device = port.connect("a").await;
        device.json(json!({"hello": hello})).await;
        assert!(matches!(device.answer().await.1, ToDevice::Welcome(_)));
        for seq in 1..=10 {
            device.json(odd(seq)).await;
            let arrival = port.intake.arrival().await;
            assert_eq!(arrival.batch.readings, 2);
            if seq <= notes {
                let note = device.note().await;
                assert_eq!(
                    (note.code, note.seq),
                    (NoteCode::ImplausibleTime, Some(seq))
                );
                let note = device.note().await;
                assert_eq!((note.code, note.seq), (NoteCode::RecordDropped, Some(seq)));
                assert!(note.detail.contains("record 2"), "{}", note.detail);
            }
            port.intake.settle(&arrival);
            assert_eq!(device.ack().await, seq);
        }
    }
    assert_eq!(port.report("a").dropped_records, 30);
}

#[tokio::test]
async fn a_device_without_a_clock_sends_ages_or_no_times() {
    let mut port = Port::start(devices()).await;
    let mut device = port.connect("a").await;
    device
        .json(json!({"hello": {"stream": "s", "clock": "none"}}))
        .await;
    assert!(matches!(device.answer().await.1, ToDevice::Welcome(_)));
    let pack = |record| json!({"data": {"seq": 1, "pack": [record]}});
    for time in [json!(12), json!(0.5), json!(946_684_800), json!(1.8e9)] {
        device
            .json(pack(json!({"n": "a", "v": 1, "t": time})))
            .await;
        assert_eq!(device.reject().await, (RejectCode::BadPack, Some(1)));
    }
    // With a base time and an own that add up to an age all is well.
    for record in [
        json!({"n": "a", "v": 1}),
        json!({"n": "a", "v": 1, "t": 0}),
        json!({"n": "a", "v": 1, "t": -30.5}),
        json!({"bt": -30, "n": "a", "v": 1, "t": 30}),
    ] {
        device.json(pack(record)).await;
        port.intake.arrival().await;
    }
}

#[tokio::test]
async fn a_message_too_large_is_told_the_limit_before_the_close() {
    let port = Port::start(devices()).await;
    let mut device = port.connect("a").await;
    device.hello("s").await;
    let long = "x".repeat(65_537);
    // The hub stops reading before the end of it.
    let _ = device.ws.send(Message::text(long)).await;
    match device.answer().await.1 {
        ToDevice::Reject(reject) => {
            assert_eq!(reject.code, RejectCode::TooLarge);
            assert!(reject.detail.contains("65536 bytes"), "{}", reject.detail);
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(device.closed().await, 1009);
}

#[tokio::test]
async fn frames_of_the_wrong_kind_are_told_which_is_right() {
    let port = Port::start(devices()).await;
    let mut device = port.connect("a").await;
    device.hello("s").await;
    let json = data(Some(7)).to_string().into_bytes();
    device.ws.send(Message::binary(json)).await.unwrap();
    match device.answer().await.1 {
        ToDevice::Reject(reject) => {
            assert_eq!((reject.code, reject.seq), (RejectCode::Malformed, Some(7)));
            assert!(reject.detail.contains("text frame"), "{}", reject.detail);
        }
        other => panic!("{other:?}"),
    }
    // No library sends CBOR as text.
    let mut tcp = port.raw("b").await;
    let cbor = serde_cbor::to_vec(&data(Some(7))).unwrap();
    tcp.write_all(&frame(0x81, &cbor)).await.unwrap();
    let mut answer = Vec::new();
    soon(tcp.read_to_end(&mut answer)).await.unwrap();
    let text = String::from_utf8_lossy(&answer);
    assert!(text.contains("send it in a binary frame"), "{text}");
    assert!(text.contains("CBOR goes in binary frames"), "{text}");
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
    for _ in 0..8 {
        device.json(json!({"what": 1})).await;
    }
    // Where commands are off, a result is one of them.
    device
        .json(json!({"result": {"id": "1", "ok": true}}))
        .await;
    device.data(1).await;
    port.intake.arrival().await;
    for _ in 0..9 {
        device.json(json!({"what": 1})).await;
    }
    device.data(2).await;
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
