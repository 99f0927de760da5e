//! The ends of sessions: who hangs up, with which code, and what is said of it.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "support/device_port.rs"]
mod device_port;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use device_port::{Device, FakeIntake, Port, data, devices, frame, raw_close, soon, until};
use futures_util::{SinkExt, StreamExt};
use serde_json::json;
use telehub::intake::port::Close;
use telehub::protocol::decode_to_device;
use telehub::protocol::message::ToDevice;
use telehub::protocol::reject::RejectCode;
use telehub::reading::Encoding;
use telehub::session::roster::Roster;
use telehub::session::wire::Wire;
use telehub::session::{self, Settings};
use telehub::status::board::Board;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;

#[tokio::test]
async fn a_silent_device_is_closed_with_4000_in_time() {
    let mut settings = devices();
    settings.ping_interval = Duration::from_millis(300);
    settings.ping_timeout = Duration::from_millis(200);
    let port = Port::start(settings).await;
    let start = Instant::now();
    let mut tcp = port.raw("a").await;
    assert_eq!(port.offline("a").await, "ping timeout");
    let took = start.elapsed();
    assert!(took > Duration::from_millis(400), "{took:?}");
    assert_eq!(port.presence(), ("offline", "ping timeout".to_owned()));
    assert_eq!(port.board.devices.evicted.get(), 1);
    assert_eq!(raw_close(&mut tcp).await, 4000);
}

#[tokio::test]
async fn any_frame_keeps_a_device_alive_and_pongs_measure_the_way() {
    let mut settings = devices();
    settings.ping_interval = Duration::from_millis(100);
    settings.ping_timeout = Duration::from_millis(1_000);
    let port = Port::start(settings).await;
    let mut mute = port.raw("mute").await;
    let mut polite = port.connect("polite").await;
    let answers = tokio::spawn(async move { while polite.ws.next().await.is_some() {} });
    for _ in 0..30 {
        tokio::time::sleep(Duration::from_millis(50)).await;
        // An unasked pong, which the hub never answers.
        mute.write_all(&frame(0x8a, b"hello")).await.unwrap();
    }
    assert_eq!(port.report("mute").state, "online");
    assert_eq!(port.report("mute").rtt_ms, None);
    assert_eq!(port.report("polite").state, "online");
    let rtt = port.report("polite").rtt_ms.unwrap();
    assert!(rtt > 0.0 && rtt < 1_100.0, "{rtt}");
    answers.abort();
}

#[tokio::test]
async fn a_pong_that_comes_late_is_counted_when_other_frames_kept_the_device_alive() {
    let mut settings = devices();
    settings.ping_interval = Duration::from_millis(200);
    settings.ping_timeout = Duration::from_millis(400);
    let port = Port::start(settings).await;
    let mut tcp = port.raw("slow").await;
    let mut ping = [0; 10];
    soon(tcp.read_exact(&mut ping)).await.unwrap();
    assert_eq!(ping[..2], [0x89, 8]);
    for _ in 0..12 {
        tokio::time::sleep(Duration::from_millis(50)).await;
        tcp.write_all(&frame(0x8a, b"hello")).await.unwrap();
    }
    tcp.write_all(&frame(0x8a, &ping[2..])).await.unwrap();
    let slow = port.board.devices.get("slow").unwrap();
    until(|| slow.late_pongs.get() == 1).await;
    assert_eq!(port.report("slow").state, "online");
    assert!(port.report("slow").rtt_ms.unwrap() > 400.0);
}

#[tokio::test]
async fn a_long_frame_on_a_slow_link_is_a_sign_of_life() {
    let mut settings = devices();
    settings.ping_interval = Duration::from_millis(100);
    settings.ping_timeout = Duration::from_millis(1_000);
    let mut port = Port::start(settings).await;
    let mut tcp = port.raw("a").await;
    let message = frame(0x81, data(Some(1)).to_string().as_bytes());
    let part = message.len().div_ceil(20);
    for part in message.chunks(part) {
        tcp.write_all(part).await.unwrap();
        tokio::time::sleep(Duration::from_millis(80)).await;
    }
    assert_eq!(port.intake.arrival().await.batch.seq, Some(1));
}

#[tokio::test]
async fn a_newer_connection_of_a_device_replaces_the_older_one() {
    let mut port = Port::start(devices()).await;
    let mut older = port.connect("a").await;
    older.hello("s").await;
    let mut newer = port.connect("a").await;
    assert_eq!(older.closed().await, 4001);
    newer.hello("s").await;
    newer.data(1).await;
    port.intake.arrival().await;
    assert_eq!(port.report("a").state, "online");
    assert_eq!(port.presence().0, "online");
    until(|| port.board.devices.connected.get() == 1).await;
    assert_eq!(port.board.devices.evicted.get(), 0);
}

#[tokio::test]
async fn messages_above_the_limit_end_the_connection_with_1009() {
    let mut settings = devices();
    settings.max_message = 1_000;
    let port = Port::start(settings).await;

    let mut device = port.connect("whole").await;
    let _ = device.ws.send(Message::text("x".repeat(1_001))).await;
    assert_eq!(device.closed().await, 1009);
    assert_eq!(port.offline("whole").await, "message too large");

    let mut tcp = port.raw("parts").await;
    tcp.write_all(&frame(0x01, &[b'x'; 600])).await.unwrap();
    tcp.write_all(&frame(0x80, &[b'x'; 600])).await.unwrap();
    assert_eq!(raw_close(&mut tcp).await, 1009);

    // A length that could not even be reserved.
    let mut tcp = port.raw("liar").await;
    let claim = [0x82, 0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
    tcp.write_all(&claim).await.unwrap();
    tcp.write_all(&[0; 4]).await.unwrap();
    assert_eq!(raw_close(&mut tcp).await, 1009);
}

/// A message that is too large, which begins like this.
fn too_large(encoding: Encoding, seq: u64) -> Vec<u8> {
    let pad = vec![b' '; 2_000];
    match encoding {
        Encoding::Json => [format!("{{\"data\":{{\"seq\":{seq},").into_bytes(), pad].concat(),
        Encoding::Cbor => {
            let head = b"\xa1\x64data\xa2\x63seq\x1b";
            [&head[..], &seq.to_be_bytes(), b"\x64pack", &pad].concat()
        }
    }
}

#[tokio::test]
async fn a_message_above_the_limit_is_named_by_its_number_where_that_stands_at_its_beginning() {
    let mut settings = devices();
    settings.max_message = 1_000;
    let port = Port::start(settings).await;
    for encoding in [Encoding::Cbor, Encoding::Json] {
        for whole in [true, false] {
            let message = too_large(encoding, 4_711);
            let (opcode, text) = match encoding {
                Encoding::Cbor => (0x02, false),
                Encoding::Json => (0x01, true),
            };
            let mut tcp = port.raw("a").await;
            if whole {
                tcp.write_all(&frame(0x80 | opcode, &message))
                    .await
                    .unwrap();
            } else {
                // The head alone first; and a ping between.
                let (first, rest) = message.split_at(9);
                tcp.write_all(&frame(opcode, first)).await.unwrap();
                tcp.write_all(&frame(0x89, b"x")).await.unwrap();
                tcp.write_all(&frame(0x00, &rest[..600])).await.unwrap();
                tcp.write_all(&frame(0x80, &rest[600..])).await.unwrap();
            }
            let (mut said, mut why) = (String::new(), String::new());
            loop {
                let mut head = [0; 2];
                soon(tcp.read_exact(&mut head)).await.unwrap();
                let mut length = usize::from(head[1]);
                if length == 126 {
                    length = usize::from(soon(tcp.read_u16()).await.unwrap());
                }
                let mut payload = vec![0; length];
                soon(tcp.read_exact(&mut payload)).await.unwrap();
                match head[0] {
                    0x88 => {
                        assert_eq!(u16::from_be_bytes([payload[0], payload[1]]), 1009);
                        why.push_str(std::str::from_utf8(&payload[2..]).unwrap());
                        break;
                    }
                    0x8a => {}
                    0x81 | 0x82 => {
                        // In its own encoding, though it said nothing before.
                        assert_eq!(head[0] == 0x81, text);
                        let answer = decode_to_device(encoding, &payload).unwrap();
                        let ToDevice::Reject(reject) = answer else {
                            panic!("{answer:?}");
                        };
                        assert_eq!(reject.seq, Some(4_711));
                        assert_eq!(reject.code, RejectCode::TooLarge);
                        said = reject.detail;
                    }
                    other => panic!("{other:x}"),
                }
            }
            assert!(said.contains("1000 bytes"), "{said}");
            assert!(why.contains("1000 bytes") && why.contains("4711"), "{why}");
        }
    }
}

#[tokio::test]
async fn the_close_frame_reaches_a_device_that_is_still_sending() {
    let mut settings = devices();
    settings.max_message = 1_000;
    let port = Port::start(settings).await;
    let tcp = port.raw("a").await;
    let (mut input, mut output) = tcp.into_split();
    let flood = tokio::spawn(async move {
        let message = frame(0x82, &[0; 60_000]);
        while output.write_all(&message).await.is_ok() {}
    });
    // A reject that says why, and the close.
    for expected in [0x82, 0x88] {
        let mut head = [0; 2];
        soon(input.read_exact(&mut head)).await.unwrap();
        let mut length = usize::from(head[1]);
        if length == 126 {
            length = usize::from(soon(input.read_u16()).await.unwrap());
        }
        let mut payload = vec![0; length];
        soon(input.read_exact(&mut payload)).await.unwrap();
        assert_eq!(head[0], expected);
        if expected == 0x88 {
            assert_eq!(u16::from_be_bytes([payload[0], payload[1]]), 1009);
        }
    }
    // And the connection ends, however long the device goes on.
    soon(flood).await.unwrap();
}

#[tokio::test]
async fn what_is_not_websocket_ends_with_1002_and_bad_text_with_1007() {
    let port = Port::start(devices()).await;
    let unmasked = [0x81, 0x02, b'{', b'}'].to_vec();
    let reserved_bit = frame(0xc1, b"{}");
    let unknown_opcode = frame(0x83, b"{}");
    let orphan = frame(0x80, b"{}");
    let long_ping = frame(0x89, &[0; 126]);
    for bytes in [unmasked, reserved_bit, unknown_opcode, orphan, long_ping] {
        let mut tcp = port.raw("a").await;
        tcp.write_all(&bytes).await.unwrap();
        assert_eq!(raw_close(&mut tcp).await, 1002, "{bytes:x?}");
        assert_eq!(port.offline("a").await, "protocol error");
    }
    let mut tcp = port.raw("a").await;
    tcp.write_all(&frame(0x81, b"\xff\xfe")).await.unwrap();
    assert_eq!(raw_close(&mut tcp).await, 1007);
}

#[tokio::test]
async fn a_connection_that_breaks_is_lost_and_not_closed() {
    let port = Port::start(devices()).await;
    drop(port.raw("a").await);
    assert_eq!(port.offline("a").await, "connection lost");
    assert_eq!(port.board.devices.evicted.get(), 0);
}

#[tokio::test]
async fn a_device_that_says_goodbye_is_answered() {
    let port = Port::start(devices()).await;
    let mut tcp = port.raw("a").await;
    tcp.write_all(&frame(0x88, &1000u16.to_be_bytes()))
        .await
        .unwrap();
    assert_eq!(raw_close(&mut tcp).await, 1000);
    assert_eq!(port.offline("a").await, "closed");
}

#[tokio::test]
async fn the_hub_can_end_a_session_for_reasons_of_its_own() {
    for (close, code, reason) in [
        (Close::Refused, 1013, "refused"),
        (Close::Revoked, 4002, "revoked"),
        (Close::Stopping, 1001, "hub stopping"),
    ] {
        let port = Port::start(devices()).await;
        let mut device = port.connect("a").await;
        device.hello("s").await;
        port.intake.mailbox(1).close(close);
        assert_eq!(device.closed().await, code);
        assert_eq!(port.offline("a").await, reason);
        assert_eq!(port.board.devices.evicted.get(), 0);
    }
}

#[tokio::test]
async fn acks_that_came_before_the_end_are_told() {
    let mut port = Port::start(devices()).await;
    let mut device = port.connect("a").await;
    device.hello("s").await;
    device.data(1).await;
    let arrival = port.intake.arrival().await;
    port.intake.settle(&arrival);
    port.intake.mailbox(1).close(Close::Stopping);
    assert_eq!(device.ack().await, 1);
    assert_eq!(device.closed().await, 1001);
}

#[tokio::test]
async fn the_port_stops_when_its_sessions_have_ended() {
    let port = Port::start(devices()).await;
    let mut device = port.connect("a").await;
    port.stopper.stop();
    until(|| std::net::TcpStream::connect(port.addr).is_err()).await;
    assert!(!port.task.is_finished());
    port.roster.close_all(Close::Stopping);
    assert_eq!(device.closed().await, 1001);
    drop(device);
    soon(port.task).await.unwrap();
}

/// A session on a pipe in memory, which holds so much in each direction.
async fn on_a_pipe(
    holds: usize,
    settings: Settings,
    intake: &FakeIntake,
) -> (
    Device<DuplexStream>,
    tokio::task::JoinHandle<()>,
    std::sync::Arc<Board>,
) {
    let (ours, theirs) = duplex(holds);
    let board = Board::new("barn");
    let roster = Roster::new(1, board.clone(), std::sync::Arc::default());
    let seat = roster.admit("a").unwrap();
    let present = roster.enter("a".into(), "pipe".into(), seat);
    let port = intake.port.clone();
    let task = tokio::spawn(async move {
        let wire = Wire::new(theirs, bytes::Bytes::new(), 65_536).await;
        session::run(wire, &settings, port, present).await;
    });
    let ws = WebSocketStream::from_raw_socket(ours, Role::Client, None).await;
    (Device { ws }, task, board)
}

fn settings() -> Settings {
    Settings {
        commands: None,
        desired: None,
        ping_interval: Duration::from_millis(200),
        ping_timeout: Duration::from_millis(200),
        ..Settings::from(&devices())
    }
}

#[tokio::test]
async fn a_device_that_sends_but_never_reads_is_evicted() {
    let mut intake = FakeIntake::new(8);
    let (mut device, task, board) = on_a_pipe(256, settings(), &intake).await;
    // Every other message gets an answer that nobody reads.
    let sends = tokio::spawn(async move {
        loop {
            for message in [json!({"what": 1}), data(None)] {
                let message = Message::text(message.to_string());
                if device.ws.feed(message).await.is_err() || device.ws.flush().await.is_err() {
                    return;
                }
            }
        }
    });
    let settles = tokio::spawn(async move {
        while let Some(arrival) = intake.data.recv().await {
            intake.settle(&arrival);
        }
    });
    soon(task).await.unwrap();
    assert_eq!(board.device_reports()[0].reason, "ping timeout");
    soon(sends).await.unwrap();
    settles.abort();
}

/// A device that sends this all the time, up to its end. Returns the close code, how many messages
/// were taken, and its board.
async fn floods(
    settings: Settings,
    message: serde_json::Value,
) -> (Option<u16>, usize, Arc<Board>) {
    let mut intake = FakeIntake::new(1_000);
    let (device, _task, board) = on_a_pipe(4_096, settings, &intake).await;
    let taken = Arc::new(AtomicUsize::new(0));
    let counter = taken.clone();
    let settles = tokio::spawn(async move {
        while let Some(arrival) = intake.data.recv().await {
            intake.settle(&arrival);
            counter.fetch_add(1, Relaxed);
        }
    });
    let (mut output, mut input) = device.ws.split();
    let message = Message::text(message.to_string());
    let flood = tokio::spawn(async move { while output.send(message.clone()).await.is_ok() {} });
    let code = soon(async {
        while let Some(message) = input.next().await {
            if let Ok(Message::Close(Some(frame))) = message {
                return Some(u16::from(frame.code));
            }
        }
        None
    })
    .await;
    soon(flood).await.unwrap();
    settles.abort();
    (code, taken.load(Relaxed), board)
}

#[tokio::test]
async fn a_device_above_any_of_its_rates_for_too_long_is_slowed_and_then_closed_with_4003() {
    let plenty = Settings {
        rate_patience: Duration::from_millis(500),
        ..Settings::from(&devices())
    };
    let small = data(None);
    let many: Vec<_> = (0..500).map(|n| json!({"n": "t", "v": n})).collect();
    let long = json!([{"n": "t", "vs": "x".repeat(10_000)}]);
    for (what, settings, message, burst) in [
        (
            "messages",
            Settings {
                max_rate: 100,
                ..plenty.clone()
            },
            small,
            200,
        ),
        (
            "bytes",
            Settings {
                max_bytes: 100_000,
                ..plenty.clone()
            },
            long,
            20,
        ),
        (
            "readings",
            Settings {
                max_readings: 1_000,
                ..plenty.clone()
            },
            json!(many),
            4,
        ),
    ] {
        let start = Instant::now();
        let (code, taken, board) = floods(settings, message).await;
        assert_eq!(code, Some(4003), "{what}");
        assert_eq!(board.device_reports()[0].reason, "rate exceeded");
        let evictions = board.devices.evictions.iter();
        let counted: Vec<_> = evictions.filter(|(_, count)| *count > 0).collect();
        assert_eq!(counted, [("rate exceeded", 1)]);
        // The burst, and half of it again for each second; what has been read is taken.
        let seconds = usize::try_from(start.elapsed().as_secs()).unwrap() + 1;
        let most = burst + seconds * burst / 2 + 2;
        assert!(
            (burst - 2..=most).contains(&taken),
            "{what}: {taken}, at most {most}"
        );
    }
}

#[tokio::test]
async fn the_way_into_the_intake_closes_before_the_devices_hang_up() {
    let mut port = Port::start(devices()).await;
    let tcp = port.raw("a").await;
    port.stopper.stop();
    port.roster.close_all(Close::Stopping);
    let (unused, _) = tokio::sync::mpsc::channel(1);
    port.intake.port.data = unused;
    assert!(soon(port.intake.data.recv()).await.is_none());
    assert!(!port.task.is_finished(), "the device has not hung up yet");
    drop(tcp);
    soon(port.task).await.unwrap();
}

#[tokio::test]
async fn a_session_ends_when_the_intake_is_gone() {
    let mut intake = FakeIntake::new(1);
    let (mut device, _task, _) = on_a_pipe(4_096, settings(), &intake).await;
    device.hello("s").await;
    intake.data.close();
    device.data(1).await;
    assert_eq!(device.closed().await, 1001);
}

#[tokio::test]
async fn a_device_that_never_pauses_is_pinged_all_the_same() {
    let mut intake = FakeIntake::new(1_000);
    let (device, _task, board) = on_a_pipe(65_536, settings(), &intake).await;
    let settles = tokio::spawn(async move {
        while let Some(arrival) = intake.data.recv().await {
            intake.settle(&arrival);
        }
    });
    let (mut output, mut input) = device.ws.split();
    let message = Message::text(data(None).to_string());
    let flood = tokio::spawn(async move { while output.send(message.clone()).await.is_ok() {} });
    soon(async {
        for _ in 0..3 {
            while !matches!(input.next().await, Some(Ok(Message::Ping(_)))) {}
        }
    })
    .await;
    assert_eq!(board.device_reports()[0].state, "online");
    flood.abort();
    settles.abort();
}

#[tokio::test]
async fn no_bytes_make_a_session_panic_or_stay() {
    let intake = FakeIntake::new(100_000);
    // xorshift, so that every run tries the same.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for round in 0..300 {
        let (device, task, _) = on_a_pipe(1 << 20, settings(), &intake).await;
        let mut pipe = device.ws.into_inner();
        for _ in 0..random() % 20 {
            let noise: Vec<u8> = (0..random() % 120).map(|_| random() as u8).collect();
            let bytes = match random() % 4 {
                0 => noise,
                1 => frame(random() as u8, &noise),
                2 => frame(0x82, &noise),
                _ => frame(0x81, data(Some(random() % 9)).to_string().as_bytes()),
            };
            if pipe.write_all(&bytes).await.is_err() {
                break;
            }
        }
        drop(pipe);
        let ended = tokio::time::timeout(device_port::PATIENCE, task).await;
        ended
            .unwrap_or_else(|_| panic!("round {round} stays"))
            .unwrap();
    }
}

#[tokio::test]
async fn a_flood_of_empty_fragments_counts_against_the_rate() {
    let intake = FakeIntake::new(10);
    let settings = Settings {
        max_rate: 10,
        max_message: 1_000,
        rate_patience: Duration::from_millis(500),
        ..Settings::from(&devices())
    };
    let (device, _task, board) = on_a_pipe(4_096, settings, &intake).await;
    let (mut input, mut output) = tokio::io::split(device.ws.into_inner());
    let sent = tokio::spawn(async move {
        output.write_all(&frame(0x01, b"")).await.unwrap();
        let fragments = frame(0x00, b"").repeat(1_000);
        let mut sent = 0;
        while output.write_all(&fragments).await.is_ok() {
            sent += fragments.len();
        }
        sent
    });
    assert_eq!(raw_close(&mut input).await, 4003);
    assert_eq!(board.device_reports()[0].reason, "rate exceeded");
    drop(input);
    // The burst alone is twenty times 4 KiB: no small burst of them has ended it.
    let sent = soon(sent).await.unwrap();
    assert!(sent > 80_000, "{sent}");
}

#[tokio::test]
async fn a_message_in_many_fragments_arrives_and_nothing_of_it_is_lost() {
    let mut intake = FakeIntake::new(10);
    let settings = Settings {
        max_rate: 1_000,
        ..Settings::from(&devices())
    };
    let (device, _task, _) = on_a_pipe(4_096, settings, &intake).await;
    let mut pipe = device.ws.into_inner();
    let padding = " ".repeat(60_000);
    let message = data(Some(1)).to_string() + &padding;
    let bytes = message.as_bytes();
    let mut frames = frame(0x01, &bytes[..1]);
    for byte in &bytes[1..] {
        frames.extend(frame(0x00, &[*byte]));
    }
    frames.extend(frame(0x80, b""));
    soon(pipe.write_all(&frames)).await.unwrap();
    assert_eq!(intake.arrival().await.batch.seq, Some(1));
}
