//! The device port before the upgrade: routes, refusals, credentials, limits.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "support/device_port.rs"]
mod device_port;

use std::fmt::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use device_port::{Device, Port, data, devices, frame, handshake, head, request_with, soon};
use serde_json::Value;
use telehub::config::{Auth, Devices};
use telehub::listen::registry::token_hash;
use telehub::protocol::message::ToDevice;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

struct Answer {
    head: String,
    problem: Value,
}

impl Answer {
    fn status(&self) -> u16 {
        self.head[9..12].parse().unwrap()
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (found, value) = line.split_once(": ")?;
            found.eq_ignore_ascii_case(name).then_some(value)
        })
    }
}

/// Sends a request and reads everything up to the end of the connection.
async fn ask(port: &Port, request: &str) -> Answer {
    let mut tcp = TcpStream::connect(port.addr).await.unwrap();
    tcp.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    soon(tcp.read_to_string(&mut answer)).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").expect("an answer");
    Answer {
        head: head.to_owned(),
        problem: serde_json::from_str(body).unwrap_or_default(),
    }
}

/// Asks and checks what all refusals have in common.
async fn refused(port: &Port, status: u16, request: &str) -> Answer {
    let answer = ask(port, request).await;
    assert_eq!(answer.status(), status, "{}", answer.head);
    assert_eq!(
        answer.header("content-type"),
        Some("application/problem+json")
    );
    assert_eq!(answer.problem["status"], status);
    for text in ["type", "title", "detail"] {
        assert!(answer.problem[text].as_str().is_some_and(|t| !t.is_empty()));
    }
    answer
}

fn registry(path: &Path, devices: &[(&str, &str)]) {
    let mut text = String::new();
    for (id, token) in devices {
        let hash = token_hash(token);
        let hex: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
        writeln!(text, "[[device]]\nid = \"{id}\"\ntoken_sha256 = \"{hex}\"").unwrap();
    }
    let new = path.with_extension("new");
    std::fs::write(&new, text).unwrap();
    std::fs::rename(new, path).unwrap();
}

fn with_tokens(path: &Path) -> Devices {
    Devices {
        auth: Auth::Token,
        registry: path.to_owned(),
        ..devices()
    }
}

#[tokio::test]
async fn every_other_request_is_refused_with_a_problem_description() {
    let port = Port::start(devices()).await;
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: hub\r\n\r\n");
    refused(&port, 404, &get("/")).await;
    refused(&port, 404, &get("/v1/devices/a/b")).await;
    refused(&port, 404, &handshake("../x", "")).await;
    refused(&port, 400, &handshake("-a", "")).await;
    refused(&port, 400, &handshake("a%20b", "")).await;
    refused(&port, 400, &handshake(&"a".repeat(65), "")).await;

    let answer = refused(&port, 426, &get("/v1/devices/a")).await;
    assert_eq!(answer.header("upgrade"), Some("websocket"));
    let old = handshake("a", "").replace("Version: 13", "Version: 8");
    let answer = refused(&port, 426, &old).await;
    assert_eq!(answer.header("sec-websocket-version"), Some("13"));
    let bad_key = handshake("a", "").replace("dGhlIHNh", "");
    refused(&port, 400, &bad_key).await;
    let post = get("/v1/devices/a").replace("GET", "POST");
    let answer = refused(&port, 405, &post).await;
    assert_eq!(answer.header("allow"), Some("GET"));
}

#[tokio::test]
async fn the_subprotocol_is_selected_when_offered_and_only_then() {
    let port = Port::start(devices()).await;
    let upgraded = async |extra: &str| {
        let mut tcp = TcpStream::connect(port.addr).await.unwrap();
        let request = handshake("a", extra);
        tcp.write_all(request.as_bytes()).await.unwrap();
        let head = head(&mut tcp).await.to_ascii_lowercase();
        assert!(head.starts_with("http/1.1 101 "), "{head}");
        assert!(head.contains("\r\nsec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=\r\n"));
        assert!(head.contains("\r\nconnection: upgrade\r\n"), "{head}");
        head
    };
    let head = upgraded("Sec-WebSocket-Protocol: telehub.bearer.xyz, telehub.v1\r\n").await;
    assert!(head.contains("\r\nsec-websocket-protocol: telehub.v1\r\n"));
    assert!(!head.contains("bearer"));
    let head = upgraded("Sec-WebSocket-Protocol: mqtt\r\n").await;
    assert!(!head.contains("sec-websocket-protocol"));
    let head = upgraded("").await;
    assert!(!head.contains("sec-websocket-protocol"));
}

#[tokio::test]
async fn a_token_opens_its_own_device_and_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("devices.toml");
    registry(&path, &[("a", "token-a"), ("b", "token-b")]);
    let port = Port::start(with_tokens(&path)).await;

    let answer = refused(&port, 401, &handshake("a", "")).await;
    assert_eq!(
        answer.header("www-authenticate"),
        Some("Bearer realm=\"telehub\"")
    );
    let wrong = handshake("a", "Authorization: Bearer token-x\r\n");
    let answer = refused(&port, 401, &wrong).await;
    assert!(answer.header("www-authenticate").is_some());
    let other = handshake("a", "Authorization: Bearer token-b\r\n");
    refused(&port, 403, &other).await;
    let unknown = handshake("c", "Authorization: Bearer token-b\r\n");
    refused(&port, 403, &unknown).await;
    let other = handshake("b", "Sec-WebSocket-Protocol: telehub.bearer.token-a\r\n");
    refused(&port, 403, &other).await;

    for header in [
        ("authorization", "Bearer token-a"),
        (
            "sec-websocket-protocol",
            "telehub.v1, telehub.bearer.token-a",
        ),
    ] {
        let tcp = TcpStream::connect(port.addr).await.unwrap();
        let request = request_with(port.addr, "a", header);
        let (ws, _) = tokio_tungstenite::client_async(request, tcp).await.unwrap();
        Device { ws }.hello("s").await;
    }
}

#[tokio::test]
async fn a_registry_that_changes_is_followed_within_two_seconds() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("devices.toml");
    let port = Port::start(with_tokens(&path)).await;
    let connect = async |id: &str, token: &str| {
        let tcp = TcpStream::connect(port.addr).await.unwrap();
        let bearer = format!("Bearer {token}");
        let request = request_with(port.addr, id, ("authorization", &bearer));
        let (ws, _) = tokio_tungstenite::client_async(request, tcp).await.ok()?;
        Some(Device { ws })
    };
    assert!(connect("a", "1").await.is_none());
    registry(&path, &[("a", "1"), ("b", "2"), ("c", "3")]);
    let mut a = soon(async {
        loop {
            if let Some(device) = connect("a", "1").await {
                return device;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    let (mut b, mut c) = (
        connect("b", "2").await.unwrap(),
        connect("c", "3").await.unwrap(),
    );

    registry(&path, &[("a", "1"), ("b", "new")]);
    assert_eq!(b.closed().await, 4002);
    assert_eq!(c.closed().await, 4002);
    assert_eq!(port.offline("b").await, "revoked");
    a.hello("s").await;
    assert!(connect("b", "2").await.is_none());
    assert!(connect("b", "new").await.is_some());
}

#[tokio::test]
async fn a_full_hub_says_so_and_lets_a_present_device_come_back() {
    let mut settings = devices();
    settings.max_connections = 2;
    let port = Port::start(settings).await;
    let mut a = port.connect("a").await;
    let mut b = port.connect("b").await;
    // Who has not said anything would make room.
    a.hello("s").await;
    b.hello("s").await;
    let answer = refused(&port, 503, &handshake("c", "")).await;
    assert!(
        answer
            .header("retry-after")
            .unwrap()
            .parse::<u32>()
            .unwrap()
            > 0
    );
    let mut a2 = port.connect("a").await;
    a2.hello("s").await;
    assert_eq!(a.closed().await, 4001);
    refused(&port, 503, &handshake("c", "")).await;
}

#[tokio::test]
async fn a_stopping_hub_says_so_to_who_is_half_way_in() {
    let port = Port::start(devices()).await;
    let mut tcp = TcpStream::connect(port.addr).await.unwrap();
    let request = handshake("a", "");
    let (first, second) = request.split_at(20);
    tcp.write_all(first.as_bytes()).await.unwrap();
    // Accepted, because a later connection has been served.
    port.connect("other").await;
    port.stopper.stop();
    tcp.write_all(second.as_bytes()).await.unwrap();
    let head = head(&mut tcp).await;
    assert!(head.starts_with("HTTP/1.1 503 "), "{head}");
    assert!(head.to_ascii_lowercase().contains("\r\nretry-after: "));
}

#[tokio::test]
async fn a_half_open_handshake_does_not_hold_up_the_stop() {
    // Longer than anybody waits here: only the stop ends the handshake.
    let mut settings = devices();
    settings.handshake_timeout = Duration::from_secs(3_600);
    let port = Port::start(settings).await;
    let mut tcp = TcpStream::connect(port.addr).await.unwrap();
    tcp.write_all(b"GET /v1/dev").await.unwrap();
    port.connect("other").await;
    port.stopper.stop();
    port.roster
        .close_all(telehub::intake::port::Close::Stopping);
    soon(port.task).await.unwrap();
}

#[tokio::test]
async fn a_handshake_that_never_finishes_is_cut() {
    let mut settings = devices();
    settings.handshake_timeout = Duration::from_millis(300);
    let port = Port::start(settings).await;
    let request = handshake("a", "");
    for sent in [0, 1, 40, request.len() - 2] {
        let start = Instant::now();
        let mut tcp = TcpStream::connect(port.addr).await.unwrap();
        tcp.write_all(&request.as_bytes()[..sent]).await.unwrap();
        let mut rest = Vec::new();
        let _ = soon(tcp.read_to_end(&mut rest)).await;
        let took = start.elapsed();
        assert!(took > Duration::from_millis(150), "{sent}: {took:?}");
    }
    // A byte now and then does not buy time: who sends them would go on for a quarter of an hour.
    let tcp = TcpStream::connect(port.addr).await.unwrap();
    let (mut input, mut output) = tcp.into_split();
    let drip = tokio::spawn(async move {
        let endless = request.trim_end().bytes().chain(std::iter::repeat(b'x'));
        for byte in endless {
            if output.write_all(&[byte]).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    let _ = soon(input.read_to_end(&mut Vec::new())).await;
    drip.abort();
    assert!(port.board.device_reports().is_empty());
}

#[tokio::test]
async fn half_open_handshakes_do_not_take_the_seats_of_devices() {
    let mut settings = devices();
    settings.max_connections = 2;
    let port = Port::start(settings).await;
    let mut idle = Vec::new();
    for _ in 0..60 {
        idle.push(TcpStream::connect(port.addr).await.unwrap());
    }
    let _a = port.connect("a").await;
    let _b = port.connect("b").await;
}

#[tokio::test]
async fn garbage_ends_its_own_connection_only() {
    let mut port = Port::start(devices()).await;
    let mut device = port.connect("a").await;
    device.hello("s").await;
    let tls_hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec();
    let long_line = [b"GET /".to_vec(), vec![b'x'; 100_000]].concat();
    let many_headers = [
        b"GET / HTTP/1.1\r\n".to_vec(),
        b"a: b\r\n".repeat(1_000),
        b"\r\n".to_vec(),
    ]
    .concat();
    for garbage in [vec![0xff; 300], tls_hello, long_line, many_headers] {
        let mut tcp = TcpStream::connect(port.addr).await.unwrap();
        let _ = tcp.write_all(&garbage).await;
        let _ = tcp.shutdown().await;
        let _ = soon(tcp.read_to_end(&mut Vec::new())).await;
    }
    device.data(1).await;
    port.intake.arrival().await;
}

#[tokio::test]
async fn what_comes_right_behind_the_request_is_not_lost() {
    let mut port = Port::start(devices()).await;
    let mut tcp = TcpStream::connect(port.addr).await.unwrap();
    let mut bytes = handshake("a", "").into_bytes();
    for seq in 1..=20 {
        bytes.extend(frame(0x81, data(Some(seq)).to_string().as_bytes()));
    }
    tcp.write_all(&bytes).await.unwrap();
    assert!(head(&mut tcp).await.starts_with("HTTP/1.1 101 "));
    for seq in 1..=20 {
        assert_eq!(port.intake.arrival().await.batch.seq, Some(seq));
    }
}

#[tokio::test]
async fn one_bad_device_costs_the_others_nothing() {
    let mut port = Port::start(devices()).await;
    let mut good = port.connect("good").await;
    good.hello("s").await;
    let mut bad = port.connect("bad").await;
    for _ in 0..10 {
        bad.json(serde_json::json!({"what": 1})).await;
    }
    assert_eq!(bad.closed().await, 1007);
    good.data(1).await;
    let arrival = port.intake.arrival().await;
    port.intake.settle(&arrival);
    assert_eq!(good.answer().await.1, ToDevice::Ack { seq: 1 });
}

#[tokio::test]
async fn who_tries_without_valid_credentials_has_to_wait_and_others_at_that_address_do_not() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("devices.toml");
    registry(&path, &[("a", "token-a")]);
    let port = Port::start(with_tokens(&path)).await;
    let wrong = handshake("a", "Authorization: Bearer token-x\r\n");
    for _ in 0..10 {
        refused(&port, 401, &wrong).await;
    }
    let answer = refused(&port, 429, &wrong).await;
    let wait: u64 = answer.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=7).contains(&wait), "{wait}");
    refused(&port, 429, &handshake("a", "")).await;
    // The same address, because there may be a gateway in between.
    let tcp = TcpStream::connect(port.addr).await.unwrap();
    let request = request_with(port.addr, "a", ("authorization", "Bearer token-a"));
    let (ws, _) = tokio_tungstenite::client_async(request, tcp).await.unwrap();
    Device { ws }.hello("s").await;
    // Another address has its own attempts.
    let other = tokio::net::TcpSocket::new_v4().unwrap();
    other.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    let mut tcp = other.connect(port.addr).await.unwrap();
    tcp.write_all(wrong.as_bytes()).await.unwrap();
    assert!(head(&mut tcp).await.starts_with("HTTP/1.1 401 "));
}

#[tokio::test]
async fn a_device_that_comes_back_all_the_time_is_slowed_and_no_other() {
    let port = Port::start(devices()).await;
    let mut held = Vec::new();
    for _ in 0..30 {
        held.push(port.connect("a").await);
    }
    let answer = soon(async {
        loop {
            let mut tcp = TcpStream::connect(port.addr).await.unwrap();
            tcp.write_all(handshake("a", "").as_bytes()).await.unwrap();
            let head = head(&mut tcp).await;
            if !head.starts_with("HTTP/1.1 101 ") {
                return head;
            }
        }
    })
    .await;
    assert!(answer.starts_with("HTTP/1.1 429 "), "{answer}");
    assert!(answer.to_ascii_lowercase().contains("\r\nretry-after: "));
    port.connect("b").await.hello("s").await;
}

#[tokio::test]
async fn one_address_that_opens_connections_and_says_nothing_does_not_keep_others_out() {
    let mut settings = devices();
    settings.max_connections = 1;
    // Longer than anybody waits here: the newcomer does not get in because the others gave up.
    settings.handshake_timeout = Duration::from_secs(3_600);
    let port = Port::start(settings).await;
    let mut idle = Vec::new();
    for _ in 0..1_000 {
        idle.push(TcpStream::connect(port.addr).await.unwrap());
    }
    let other = tokio::net::TcpSocket::new_v4().unwrap();
    other.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    let mut tcp = other.connect(port.addr).await.unwrap();
    tcp.write_all(handshake("a", "").as_bytes()).await.unwrap();
    assert!(head(&mut tcp).await.starts_with("HTTP/1.1 101 "));
}

#[tokio::test]
async fn a_foreign_web_page_is_no_device_where_no_token_is_needed() {
    let mut settings = devices();
    let listed = telehub::config::WebOrigin::parse("https://farm.example").unwrap();
    settings.origins = vec![listed];
    let port = Port::start(settings).await;
    let own = port.addr;
    let meant =
        |extra: &str| handshake("a", extra).replace("Host: localhost", &format!("Host: {own}"));
    for origin in [
        "https://evil.example",
        "null",
        &format!("http://evil.example:{}", own.port()),
    ] {
        let answer = refused(&port, 403, &meant(&format!("Origin: {origin}\r\n"))).await;
        let detail = answer.problem["detail"].as_str().unwrap();
        assert!(detail.contains("devices.origins"), "{detail}");
    }
    // A name that was let point to 127.0.0.1.
    let rebound = handshake("a", "").replace("Host: localhost", "Host: evil.example");
    let answer = refused(&port, 403, &rebound).await;
    let detail = answer.problem["detail"].as_str().unwrap();
    assert!(detail.contains("devices.auth"), "{detail}");
    for origin in ["https://farm.example", "file://", &format!("http://{own}")] {
        let mut tcp = TcpStream::connect(port.addr).await.unwrap();
        let request = meant(&format!("Origin: {origin}\r\n"));
        tcp.write_all(request.as_bytes()).await.unwrap();
        let head = head(&mut tcp).await;
        assert!(head.starts_with("HTTP/1.1 101 "), "{origin}: {head}");
    }
}

#[tokio::test]
async fn with_a_token_any_page_may_be_a_device() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("devices.toml");
    registry(&path, &[("a", "token-a")]);
    let port = Port::start(with_tokens(&path)).await;
    let page = "Origin: https://anywhere.example\r\nSec-WebSocket-Protocol: telehub.v1, \
                telehub.bearer.token-a\r\n";
    let mut tcp = TcpStream::connect(port.addr).await.unwrap();
    tcp.write_all(handshake("a", page).as_bytes())
        .await
        .unwrap();
    assert!(head(&mut tcp).await.starts_with("HTTP/1.1 101 "));
}
