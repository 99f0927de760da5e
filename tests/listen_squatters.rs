//! Full tables push out who squats: at every limit of the device port a device with credentials gets
//! in, while everybody who holds a place and says nothing still holds on to it.
//!
//! The handshake timeout is far above the patience of the tests, so that nobody gets in because a
//! squatter's time is up.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "support/device_port.rs"]
mod device_port;

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use std::time::Duration;

use device_port::{Port, devices, frame, handshake, head, raw_close, soon, until};
use rcgen::{CertificateParams, KeyPair};
use rustls::ClientConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use telehub::config::{Auth, DeviceTls, Devices};
use telehub::listen::registry::token_hash;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Of the device that has to get in.
const TOKEN: &str = "Authorization: Bearer token-good\r\n";

/// How far a squatter goes before it falls silent.
const STAGES: [&[u8]; 3] = [
    b"",
    // The first bytes of a TLS hello, and of a request.
    b"\x16\x03\x01\x02\x00\x01",
    b"GET /v1/devices/good HTTP/1.1\r\nHost: hub\r\n",
];

fn settings(dir: &Path, ids: &[&str]) -> Devices {
    let registry = dir.join("devices.toml");
    let mut text = String::new();
    for id in ids {
        let hash = token_hash(&format!("token-{id}"));
        let hex: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
        writeln!(text, "[[device]]\nid = \"{id}\"\ntoken_sha256 = \"{hex}\"").unwrap();
    }
    std::fs::write(&registry, text).unwrap();
    Devices {
        auth: Auth::Token,
        registry,
        handshake_timeout: Duration::from_secs(60),
        ..devices()
    }
}

/// Adds a certificate. Returns what a device needs to trust it.
fn with_tls(dir: &Path, settings: &mut Devices) -> CertificateDer<'static> {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(["localhost".to_owned()]).unwrap();
    let certificate = params.self_signed(&key).unwrap();
    let tls = DeviceTls {
        cert: dir.join("cert.pem"),
        key: dir.join("key.pem"),
        client_ca: None,
        crl_expiry: telehub::config::CrlExpiry::Warn,
    };
    std::fs::write(&tls.cert, certificate.pem()).unwrap();
    std::fs::write(&tls.key, key.serialize_pem()).unwrap();
    settings.tls = Some(tls);
    certificate.der().clone()
}

async fn dial(from: IpAddr, to: SocketAddr) -> TcpStream {
    let socket = match from {
        IpAddr::V4(_) => TcpSocket::new_v4().unwrap(),
        IpAddr::V6(_) => TcpSocket::new_v6().unwrap(),
    };
    socket.bind((from, 0).into()).unwrap();
    soon(socket.connect(to)).await.unwrap()
}

/// Opens connections of these addresses, as many as asked for, and leaves them at this stage.
async fn squat(addresses: &[IpAddr], count: usize, to: SocketAddr, said: &[u8]) -> Vec<TcpStream> {
    let mut held = Vec::new();
    for from in addresses.iter().cycle().take(count) {
        let mut tcp = dial(*from, to).await;
        // One that was pushed out meanwhile has been closed.
        let _ = tcp.write_all(said).await;
        held.push(tcp);
    }
    held
}

async fn request(mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    let request = handshake("good", TOKEN);
    stream.write_all(request.as_bytes()).await.unwrap();
    let head = head(&mut stream).await;
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
}

async fn gets_in(from: IpAddr, port: &Port, ca: Option<&CertificateDer<'static>>) {
    let tcp = dial(from, port.addr).await;
    match ca {
        None => request(tcp).await,
        Some(ca) => request(soon(over_tls(tcp, ca)).await.unwrap()).await,
    }
}

async fn over_tls(
    tcp: TcpStream,
    ca: &CertificateDer<'static>,
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(ca.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("localhost").unwrap();
    TlsConnector::from(Arc::new(config))
        .connect(name, tcp)
        .await
}

/// A device gets in from its address, at every stage, plain and with TLS, however many squatters
/// sit at these addresses.
async fn gets_in_among(squatters: &[IpAddr], count: usize, from: IpAddr, listen: SocketAddr) {
    for tls in [false, true] {
        for said in STAGES {
            let dir = tempfile::tempdir().unwrap();
            let mut settings = settings(dir.path(), &["good"]);
            settings.listen = listen;
            let ca = tls.then(|| with_tls(dir.path(), &mut settings));
            let port = Port::start(settings).await;
            let held = squat(squatters, count, port.addr, said).await;
            gets_in(from, &port, ca.as_ref()).await;
            drop(held);
        }
    }
}

const LOOPBACK: SocketAddr = SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

#[tokio::test]
async fn a_device_gets_in_behind_the_same_address_as_squatters() {
    let address = IpAddr::from([127, 0, 0, 9]);
    // At the address's limit, and far above it.
    for count in [64, 200] {
        gets_in_among(&[address], count, address, LOOPBACK).await;
    }
}

#[tokio::test]
async fn a_device_gets_in_among_squatters_of_250_addresses() {
    let squatters: Vec<IpAddr> = (1..=250).map(|n| [127, 0, 1, n].into()).collect();
    for count in [256, 600] {
        gets_in_among(&squatters, count, [127, 0, 0, 9].into(), LOOPBACK).await;
    }
}

/// Set for the test inside of a network namespace.
const INSIDE: &str = "TELEHUB_TEST_NAMESPACE";

/// Not with `eprintln!`, which the test runner keeps to itself.
fn say(text: &str) {
    let text = format!("\n{text}\n");
    std::io::stderr().write_all(text.as_bytes()).unwrap();
}

#[test]
fn a_device_gets_in_among_squatters_of_its_own_ipv6_network() {
    // All addresses of a /64 are this machine's own inside.
    let setup = "ip link set lo up && ip -6 route add local fd77::/64 dev lo && \
                 echo 1 > /proc/sys/net/ipv6/ip_nonlocal_bind";
    let allowed = Command::new("unshare")
        .args(["--net", "sh", "-c", setup])
        .output();
    match allowed {
        Ok(output) if output.status.success() => {}
        hindrance => return say(&format!("SKIPPED: no network namespace: {hindrance:?}")),
    }
    let output = Command::new("unshare")
        .args(["--net", "sh", "-c"])
        .arg(format!("{setup} && exec \"$0\" \"$@\""))
        .arg(std::env::current_exe().unwrap())
        .env(INSIDE, "yes")
        .args(["--exact", "inside_an_ipv6_network", "--ignored"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{text}"
    );
}

#[tokio::test]
#[ignore = "inside of a network namespace, by the test above"]
async fn inside_an_ipv6_network() {
    assert!(std::env::var_os(INSIDE).is_some(), "not in a namespace");
    let host = |n: u16| IpAddr::V6(Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, n));
    let squatters: Vec<_> = (1..=200).map(host).collect();
    let listen = SocketAddr::new(host(0x1000), 0);
    for count in [128, 400] {
        gets_in_among(&squatters, count, host(201), listen).await;
    }
    // And behind the very address of one of them.
    gets_in_among(&squatters[..1], 100, host(1), listen).await;
}

#[tokio::test]
async fn squatters_hold_no_more_than_their_share_and_a_talking_handshake_outlives_silent_ones() {
    let dir = tempfile::tempdir().unwrap();
    let port = Port::start(settings(dir.path(), &["good"])).await;
    let address = IpAddr::from([127, 0, 0, 9]);
    let mut half_way = dial(address, port.addr).await;
    let whole = handshake("good", TOKEN);
    let (first, second) = whole.split_at(60);
    half_way.write_all(first.as_bytes()).await.unwrap();
    // It has been heard once this one, which came later, is through.
    gets_in([127, 0, 0, 8].into(), &port, None).await;
    let held = squat(&[address], 500, port.addr, b"").await;
    until(|| held.iter().filter(|tcp| !closed(tcp)).count() <= 64).await;
    half_way.write_all(second.as_bytes()).await.unwrap();
    assert!(head(&mut half_way).await.starts_with("HTTP/1.1 101 "));
}

/// Whether the other end has closed a connection on which it never sends.
fn closed(tcp: &TcpStream) -> bool {
    match tcp.try_read(&mut [0]) {
        Ok(_) => true,
        Err(error) => error.kind() != std::io::ErrorKind::WouldBlock,
    }
}

#[tokio::test]
async fn a_full_hub_makes_room_for_a_device_by_ending_a_silent_session() {
    let dir = tempfile::tempdir().unwrap();
    let ids = ["a", "b", "c", "good"];
    let settings = Devices {
        max_connections: 3,
        ..settings(dir.path(), &ids)
    };
    let port = Port::start(settings).await;
    let connect = async |id: &str| {
        let mut tcp = dial([127, 0, 0, 1].into(), port.addr).await;
        let token = format!("Authorization: Bearer token-{id}\r\n");
        let request = handshake(id, &token);
        tcp.write_all(request.as_bytes()).await.unwrap();
        let head = head(&mut tcp).await;
        (tcp, head)
    };
    let (mut a, _) = connect("a").await;
    let (mut b, _) = connect("b").await;
    let (mut c, _) = connect("c").await;
    a.write_all(&frame(0x81, br#"[{"n":"t","v":1}]"#))
        .await
        .unwrap();
    until(|| port.report("a").batches == 1).await;
    // The oldest that has said nothing goes, and is told why.
    let (mut good, head) = connect("good").await;
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    assert_eq!(raw_close(&mut b).await, 1013);
    assert_eq!(port.offline("b").await, "made room");
    // When all have said something, nobody is pushed out.
    for tcp in [&mut c, &mut good] {
        tcp.write_all(&frame(0x81, br#"[{"n":"t","v":1}]"#))
            .await
            .unwrap();
    }
    until(|| port.report("c").batches == 1 && port.report("good").batches == 1).await;
    let (_, head) = connect("b").await;
    assert!(head.starts_with("HTTP/1.1 503 "), "{head}");
    assert_eq!(port.board.devices.connected.get(), 3);
}

/// Of the crowd that shakes hands.
const CROWD: u8 = 200;

#[tokio::test]
async fn an_address_that_has_got_in_shakes_hands_before_a_crowd_that_has_not() {
    let dir = tempfile::tempdir().unwrap();
    let mut settings = settings(dir.path(), &["good"]);
    let made = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/certificates");
    // The dearest key that there is.
    settings.tls = Some(DeviceTls {
        cert: made.join("rsa4096.pem"),
        key: made.join("rsa4096.key"),
        client_ca: None,
        crl_expiry: telehub::config::CrlExpiry::Warn,
    });
    let ca = CertificateDer::from_pem_file(made.join("rsa4096.pem")).unwrap();
    let port = Port::start(settings).await;
    let known = IpAddr::from([127, 0, 0, 9]);
    gets_in(known, &port, Some(&ca)).await;
    let through = Arc::new(AtomicU8::new(0));
    let crowd: Vec<_> = (1..=CROWD)
        .map(|n| {
            let (through, ca, to) = (through.clone(), ca.clone(), port.addr);
            tokio::spawn(async move {
                let tcp = dial([127, 0, 1, n].into(), to).await;
                let stream = over_tls(tcp, &ca).await;
                through.fetch_add(1, Relaxed);
                stream
            })
        })
        .collect();
    until(|| through.load(Relaxed) > 0).await;
    gets_in(known, &port, Some(&ca)).await;
    let before = through.load(Relaxed);
    assert!(before < CROWD, "all {before} came first");
    // Who waits gets in as well.
    until(|| through.load(Relaxed) > before).await;
    for task in crowd {
        task.abort();
    }
}
