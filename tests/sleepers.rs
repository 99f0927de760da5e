//! Devices that wake, send and sleep, and boards that post, over real sockets with a fake intake.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "support/device_port.rs"]
mod device_port;

use std::time::{Duration, Instant};

use device_port::{Known, Port, devices, handshake, head, one_flight, soon, until};
use serde_json::{Value, json};
use telehub::intake::port::{Arrival, Refused};
use telehub::reading::Encoding;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

#[tokio::test]
async fn request_hello_data_and_goodbye_in_one_flight_are_taken_each_time() {
    let mut port = Port::start(devices()).await;
    for wake in 1..=25 {
        let mut tcp = TcpStream::connect(port.addr).await.unwrap();
        tcp.write_all(&one_flight("a", "s", wake)).await.unwrap();
        let arrival = port.intake.arrival().await;
        assert_eq!(arrival.batch.seq, Some(wake));
        port.intake.settle(&arrival);
        let mut answers = Vec::new();
        soon(tcp.read_to_end(&mut answers)).await.unwrap();
        let text = String::from_utf8_lossy(&answers);
        let at = |part: &str| {
            text.find(part)
                .unwrap_or_else(|| panic!("no {part} in {text}"))
        };
        let ack = format!("{{\"ack\":{{\"seq\":{wake}}}}}");
        assert!(text.starts_with("HTTP/1.1 101 "));
        assert!(at("\"welcome\"") < at(&ack), "{text}");
        // Close 1000, and nothing behind it.
        assert!(answers.ends_with(b"\x88\x09\x03\xe8goodbye"), "{text}");
        until(|| port.report("a").state == "asleep").await;
    }
    // One word on the broker, however often it woke.
    assert_eq!(port.presence(), ("asleep", "asleep".to_owned()));
}

#[tokio::test]
async fn the_limit_of_connects_is_not_for_sleepers_that_come_when_they_said() {
    let mut port = Port::start(devices()).await;
    let nap = Duration::from_millis(200);
    let goodbye = |seq: u64| {
        let mut flight = handshake("a", "").into_bytes();
        for message in [
            device_port::data(Some(seq)),
            json!({"bye": {"sleep": nap.as_secs_f64()}}),
        ] {
            flight.extend(device_port::frame(0x81, message.to_string().as_bytes()));
        }
        flight
    };
    // Its attempts are used up by what looks like a fault.
    let mut refused = false;
    while !refused {
        let mut tcp = TcpStream::connect(port.addr).await.unwrap();
        tcp.write_all(handshake("a", "").as_bytes()).await.unwrap();
        refused = head(&mut tcp).await.starts_with("HTTP/1.1 429 ");
    }
    // From here on it keeps to its word: five times a second.
    let mut wakes = 0;
    while wakes < 10 {
        let mut tcp = TcpStream::connect(port.addr).await.unwrap();
        tcp.write_all(&goodbye(wakes + 1)).await.unwrap();
        let answer = head(&mut tcp).await;
        if answer.starts_with("HTTP/1.1 429 ") {
            assert_eq!(wakes, 0, "once asleep it is never refused");
            tokio::time::sleep(nap).await;
            continue;
        }
        wakes += 1;
        let arrival = port.intake.arrival().await;
        port.intake.settle(&arrival);
        let mut rest = Vec::new();
        soon(tcp.read_to_end(&mut rest)).await.unwrap();
        until(|| port.report("a").state == "asleep").await;
        tokio::time::sleep(nap).await;
    }
}

struct Answer {
    status: u16,
    head: String,
    body: Value,
}

fn request(path: &str, kind: &str, body: &[u8]) -> Vec<u8> {
    let mut request = format!(
        "POST /v1/devices/{path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\n\
         Content-Length: {}\r\n\r\n",
        body.len()
    )
    .into_bytes();
    request.extend(body);
    request
}

fn send(port: &Port, request: Vec<u8>) -> JoinHandle<Answer> {
    let addr = port.addr;
    tokio::spawn(async move {
        let mut tcp = TcpStream::connect(addr).await.unwrap();
        // A hub that has seen enough does not read on.
        let _ = tcp.write_all(&request).await;
        let mut answer = String::new();
        let _ = soon(tcp.read_to_string(&mut answer)).await;
        let (head, body) = answer.split_once("\r\n\r\n").expect("an answer");
        Answer {
            status: head[9..12].parse().unwrap(),
            head: head.to_ascii_lowercase(),
            body: serde_json::from_str(body).unwrap_or_default(),
        }
    })
}

const JSON: &str = "application/senml+json";
const CBOR: &str = "application/senml+cbor";
const PACK: &[u8] = br#"[{"n":"a","v":1}]"#;

async fn posted(port: &mut Port, request: Vec<u8>) -> (JoinHandle<Answer>, Arrival) {
    let answer = send(port, request);
    let arrival = port.intake.arrival().await;
    (answer, arrival)
}

#[tokio::test]
async fn a_posted_batch_is_answered_when_it_is_safe() {
    let mut port = Port::start(devices()).await;
    let cbor = serde_cbor::to_vec(&json!([{"n": "a", "v": 1}])).unwrap();
    for (seq, kind, body, encoding) in [
        (7, JSON, PACK, Encoding::Json),
        (8, CBOR, &cbor[..], Encoding::Cbor),
        (
            9,
            "Application/SenML+JSON; charset=utf-8",
            PACK,
            Encoding::Json,
        ),
    ] {
        let path = format!("a/data?stream=boot%2D1&seq={seq}&age=12.5");
        let (answer, arrival) = posted(&mut port, request(&path, kind, body)).await;
        assert_eq!(&*arrival.batch.device, "a");
        assert_eq!(&*arrival.batch.stream, "boot-1");
        assert_eq!(
            (arrival.batch.seq, arrival.batch.encoding),
            (Some(seq), encoding)
        );
        // Known, and not safe yet: that is no answer.
        let mailbox = port.intake.mailbox(arrival.conn);
        mailbox.settle(1, None);
        tokio::time::sleep(device_port::A_WHILE).await;
        assert!(!answer.is_finished());
        mailbox.settle(0, Some(seq));
        let answer = answer.await.unwrap();
        assert_eq!(answer.status, 204, "{}", answer.head);
        assert!(answer.head.contains("connection: close"));
        until(|| {
            port.intake
                .seen
                .lock()
                .unwrap()
                .detached
                .contains(&arrival.conn)
        })
        .await;
    }
    let report = port.report("a");
    assert_eq!((report.state.as_str(), report.batches), ("unseen", 3));
    assert!(port.outbox.try_last().is_none(), "statuses do not change");

    // Without a number there is nothing to ack; settled is safe.
    let (answer, arrival) = posted(&mut port, request("a/data", JSON, PACK)).await;
    assert_eq!(arrival.batch.seq, None);
    port.intake.mailbox(arrival.conn).settle(1, None);
    assert_eq!(answer.await.unwrap().status, 204);
}

#[tokio::test]
async fn a_posted_number_that_is_not_free_is_409_and_says_which_is() {
    let mut port = Port::start(devices()).await;
    *port.intake.known.lock().unwrap() = Known {
        safe: 40,
        taken: 41,
        safe_soon: None,
    };
    let (answer, arrival) = posted(&mut port, request("a/data?stream=s&seq=3", JSON, PACK)).await;
    port.intake.mailbox(arrival.conn).refuse(Refused {
        seq: 3,
        highest: 41,
    });
    let answer = answer.await.unwrap();
    assert_eq!(answer.status, 409);
    assert_eq!(
        (&answer.body["seq"], &answer.body["code"]),
        (&json!(41), &json!("bad-seq"))
    );
    assert_eq!(port.report("a").rejected, 1);
    assert_eq!(port.report("a").batches, 0);
}

#[tokio::test]
async fn a_posted_batch_that_is_not_safe_in_time_is_503_and_one_goes_at_a_time() {
    let mut port = Port::patient(devices(), Duration::from_millis(700)).await;
    let began = Instant::now();
    let (slow, arrival) = posted(&mut port, request("a/data?stream=s&seq=1", JSON, PACK)).await;
    let busy = send(&port, request("a/data?stream=s&seq=2", JSON, PACK))
        .await
        .unwrap();
    assert_eq!(busy.status, 429);
    assert!(busy.head.contains("retry-after: 1"), "{}", busy.head);
    // Others are not meant.
    let (other, theirs) = posted(&mut port, request("b/data", JSON, PACK)).await;
    port.intake.mailbox(theirs.conn).settle(1, None);
    assert_eq!(other.await.unwrap().status, 204);
    let slow = slow.await.unwrap();
    assert_eq!(slow.status, 503);
    assert!(slow.head.contains("retry-after: "), "{}", slow.head);
    assert!(began.elapsed() >= Duration::from_millis(700));
    until(|| {
        port.intake
            .seen
            .lock()
            .unwrap()
            .detached
            .contains(&arrival.conn)
    })
    .await;
    let (again, arrival) = posted(&mut port, request("a/data?stream=s&seq=1", JSON, PACK)).await;
    port.intake.settle(&arrival);
    assert_eq!(again.await.unwrap().status, 204);
}

#[tokio::test]
async fn whoever_hangs_up_in_the_middle_of_a_post_leaves_nothing_behind() {
    let mut port = Port::patient(devices(), Duration::from_millis(300)).await;
    let mut tcp = TcpStream::connect(port.addr).await.unwrap();
    tcp.write_all(&request("a/data?stream=s&seq=1", JSON, PACK))
        .await
        .unwrap();
    let arrival = port.intake.arrival().await;
    drop(tcp);
    until(|| {
        port.intake
            .seen
            .lock()
            .unwrap()
            .detached
            .contains(&arrival.conn)
    })
    .await;
    let (answer, arrival) = posted(&mut port, request("a/data?stream=s&seq=1", JSON, PACK)).await;
    port.intake.settle(&arrival);
    assert_eq!(answer.await.unwrap().status, 204);
}

#[tokio::test]
async fn what_cannot_be_taken_by_post_is_refused_each_in_its_way() {
    let port = Port::start(devices()).await;
    let long = format!("[{{\"n\":\"a\",\"vs\":\"{}\"}}]", "x".repeat(65_536));
    for (status, path, kind, body, word) in [
        (415, "a/data", "application/json", PACK, "senml+json"),
        (415, "a/data", "", PACK, "senml+cbor"),
        (413, "a/data", JSON, long.as_bytes(), "65536 bytes"),
        (400, "a/data?seq=1", JSON, PACK, "give both"),
        (400, "a/data?stream=s&seq=0", JSON, PACK, "at least 1"),
        (400, "a/data", JSON, b"[", "ends too early"),
        (400, "a/data", JSON, b"", "ends too early"),
        (400, "a/data", JSON, br#"[{"n":"a"}]"#, "record 1"),
        (
            400,
            "a/data",
            JSON,
            br#"{"data":{"pack":[{"n":"a","v":1}]}}"#,
            "SenML pack",
        ),
        (
            400,
            "a/data",
            JSON,
            br#"[{"n":"a","v":1}],"seq":5"#,
            "not valid JSON",
        ),
        (400, "a/data", CBOR, PACK, "looks like JSON"),
        (400, "-a/data", JSON, PACK, "device id"),
        (404, "a/b/data", JSON, PACK, "/v1/devices/{id}/data"),
        (405, "a", JSON, PACK, "GET"),
    ] {
        let answer = send(&port, request(path, kind, body)).await.unwrap();
        assert_eq!(answer.status, status, "{path} {}", answer.body);
        let detail = answer.body["detail"].as_str().unwrap();
        assert!(detail.contains(word), "{detail}");
        assert!(answer.head.contains("application/problem+json"));
    }
    // A body that only claims its length, and one without: the same limit.
    let claimed = "POST /v1/devices/b/data HTTP/1.1\r\nHost: localhost\r\n\
                   Content-Type: application/senml+json\r\nContent-Length: 9999999\r\n\r\n[";
    assert_eq!(send(&port, claimed.into()).await.unwrap().status, 413);
    let mut chunked = b"POST /v1/devices/b/data HTTP/1.1\r\nHost: localhost\r\n\
        Content-Type: application/senml+json\r\nTransfer-Encoding: chunked\r\n\r\n"
        .to_vec();
    for _ in 0..80 {
        chunked.extend(format!("400\r\n{}\r\n", " ".repeat(1024)).bytes());
    }
    chunked.extend(b"0\r\n\r\n");
    assert_eq!(send(&port, chunked).await.unwrap().status, 413);
    // Other methods are told the right one.
    let get = b"GET /v1/devices/b/data HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec();
    let answer = send(&port, get).await.unwrap();
    assert_eq!(answer.status, 405);
    assert!(answer.head.contains("allow: post"), "{}", answer.head);
}

#[tokio::test]
async fn a_body_that_does_not_come_is_cut_with_the_handshake() {
    let mut settings = devices();
    settings.handshake_timeout = Duration::from_millis(300);
    let port = Port::start(settings).await;
    let mut tcp = TcpStream::connect(port.addr).await.unwrap();
    let head = "POST /v1/devices/a/data HTTP/1.1\r\nHost: localhost\r\n\
                Content-Type: application/senml+json\r\nContent-Length: 10\r\n\r\n[";
    tcp.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    soon(tcp.read_to_end(&mut answer)).await.unwrap();
    assert!(answer.is_empty());
}

#[tokio::test]
async fn what_is_posted_counts_against_the_budgets_of_the_device() {
    let mut settings = devices();
    settings.max_readings = 2;
    let mut port = Port::start(settings).await;
    let many = format!("[{}]", [r#"{"n":"a","v":1}"#; 2_000].join(","));
    let many = many.as_bytes();
    // A full bucket may go into debt by one batch, and no further.
    let (first, arrival) = posted(&mut port, request("a/data", JSON, many)).await;
    port.intake.mailbox(arrival.conn).settle(1, None);
    assert_eq!(first.await.unwrap().status, 204);
    let refused = send(&port, request("a/data", JSON, PACK)).await.unwrap();
    assert_eq!(refused.status, 429, "{}", refused.body);
    let after = refused.head.split_once("retry-after: ").unwrap().1;
    let after: u64 = after.lines().next().unwrap().parse().unwrap();
    assert!((100..=1_000).contains(&after), "{after}");
    let detail = refused.body["detail"].as_str().unwrap();
    assert!(detail.contains("max_readings"), "{detail}");
    // Others have budgets of their own.
    let (other, arrival) = posted(&mut port, request("b/data", JSON, PACK)).await;
    port.intake.mailbox(arrival.conn).settle(1, None);
    assert_eq!(other.await.unwrap().status, 204);
}

#[tokio::test]
async fn posting_takes_credentials_and_counts_like_connecting() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("devices.toml");
    let hash = telehub::listen::registry::token_hash("secret");
    let hex: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    let entry = format!("[[device]]\nid = \"a\"\ntoken_sha256 = \"{hex}\"\n");
    std::fs::write(&path, entry).unwrap();
    let mut settings = devices();
    settings.auth = telehub::config::Auth::Token;
    settings.registry = path;
    let mut port = Port::start(settings).await;
    let with_token = |path: &str, token: &str| {
        let request = request(path, JSON, PACK);
        let text = String::from_utf8(request).unwrap();
        let header = format!("HTTP/1.1\r\nAuthorization: Bearer {token}\r\n");
        text.replacen("HTTP/1.1\r\n", &header, 1).into_bytes()
    };
    let none = send(&port, request("a/data", JSON, PACK)).await.unwrap();
    assert_eq!(none.status, 401);
    let wrong = send(&port, with_token("a/data", "guess")).await.unwrap();
    assert_eq!(wrong.status, 401);
    let other = send(&port, with_token("b/data", "secret")).await.unwrap();
    assert_eq!(other.status, 403);
    let mut status = 204;
    let mut taken = 0;
    while status == 204 {
        let answer = send(&port, with_token("a/data", "secret"));
        let arrival = tokio::time::timeout(device_port::A_WHILE * 10, port.intake.data.recv());
        if let Ok(Some(arrival)) = arrival.await {
            taken += 1;
            port.intake.mailbox(arrival.conn).settle(1, None);
        }
        let answer = answer.await.unwrap();
        status = answer.status;
        if status == 429 {
            assert!(answer.head.contains("retry-after: "));
        }
    }
    assert_eq!(status, 429);
    assert!(taken >= 30, "{taken}");
}
