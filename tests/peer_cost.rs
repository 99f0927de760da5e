//! What one hostile peer can cost: the figures of ARCHITECTURE.md, "What a hostile peer can cost".
//!
//! ```sh
//! cargo test --test peer_cost -- --ignored --nocapture --test-threads 1
//! ```
//!
//! With `TELEHUB_BIN=…` it is that binary which is measured. Nothing is held against a limit here:
//! limits have tests of their own.
#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs)]

#[path = "support/daemon.rs"]
mod daemon;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use daemon::{Device, Hub, Mosquitto, config, free_port};
use rustls::pki_types::ServerName;
use serde_json::json;

/// Connections of which the memory is measured.
const PEERS: usize = 500;

/// Bytes of the largest message by default.
const LARGEST: u16 = u16::MAX;

fn request(device: &str) -> Vec<u8> {
    format!(
        "GET /v1/devices/{device} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\n\
         Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    .into_bytes()
}

fn upgraded(hub: SocketAddr, device: &str) -> TcpStream {
    let mut tcp = TcpStream::connect(hub).unwrap();
    tcp.write_all(&request(device)).unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        tcp.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    tcp
}

fn resident_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let words = line.unwrap().split_whitespace().nth(1);
    words.unwrap().parse().unwrap()
}

/// Processor time of the hub.
fn computed(pid: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<_> = stat
        .rsplit(')')
        .next()
        .unwrap()
        .split_whitespace()
        .collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 10)
}

/// The defaults of `[devices]`, beside what tests need.
fn defaults(dir: &Path, broker: u16) -> String {
    let text = config(dir, broker, "");
    let lines = text.lines().filter(|line| !line.starts_with("max_"));
    lines.map(|line| format!("{line}\n")).collect()
}

async fn memory(what: &str, act: impl Fn(&mut TcpStream)) {
    let dir = tempfile::tempdir().unwrap();
    let hub = Hub::start(dir.path(), &defaults(dir.path(), free_port())).await;
    // What the first connections cost once is not theirs.
    let warm: Vec<_> = (0..20)
        .map(|n| upgraded(hub.address, &format!("warm-{n}")))
        .collect();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before = resident_kib(hub.pid());
    let mut held = Vec::new();
    for n in 0..PEERS {
        let mut tcp = upgraded(hub.address, &format!("peer-{n}"));
        act(&mut tcp);
        held.push(tcp);
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    let each = (resident_kib(hub.pid()) - before) * 10 / PEERS as u64;
    println!("| {what} | {}.{} KiB |", each / 10, each % 10);
    drop((warm, held));
}

/// A masked frame's head, with this length.
fn head(first: u8, length: u16) -> Vec<u8> {
    let mut head = vec![first, 0x80 | 126];
    head.extend(length.to_be_bytes());
    head.extend([0; 4]);
    head
}

#[tokio::test]
#[ignore = "measures"]
async fn memory_of_each_connection() {
    println!("| what the connection does | each |\n|---|---|");
    memory("nothing, after the upgrade", |_| ()).await;
    memory("declares a frame of 64 KiB and sends none of it", |tcp| {
        tcp.write_all(&head(0x82, LARGEST)).unwrap();
    })
    .await;
    memory("sends all of it but the last byte", |tcp| {
        tcp.write_all(&head(0x82, LARGEST)).unwrap();
        tcp.write_all(&vec![0; usize::from(LARGEST) - 1]).unwrap();
    })
    .await;
    memory("sends a message in 63 fragments but the last", |tcp| {
        for n in 0..62 {
            tcp.write_all(&head(if n == 0 { 0x02 } else { 0 }, 1_024))
                .unwrap();
            tcp.write_all(&[0; 1_024]).unwrap();
        }
    })
    .await;
}

/// Has threads do something as often as they can for a while. Prints what it costs the hub.
async fn cost(hub: &Hub, what: &str, peers: usize, act: impl Fn(usize) + Send + Sync + 'static) {
    const WHILE: Duration = Duration::from_secs(10);
    let (over, times) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicU64::new(0)),
    );
    let act = Arc::new(act);
    let (before, start) = (computed(hub.pid()), Instant::now());
    let threads: Vec<_> = (0..peers)
        .map(|peer| {
            let (over, times, act) = (over.clone(), times.clone(), act.clone());
            std::thread::spawn(move || {
                while !over.load(Relaxed) {
                    act(peer);
                    times.fetch_add(1, Relaxed);
                }
            })
        })
        .collect();
    tokio::time::sleep(WHILE).await;
    let (took, times) = (computed(hub.pid()) - before, times.load(Relaxed).max(1));
    let share = 100.0 * took.as_secs_f64() / start.elapsed().as_secs_f64();
    let each = 1e3 * took.as_secs_f64() / times as f64;
    let rate = times as f64 / start.elapsed().as_secs_f64();
    println!("| {what} | {rate:.0}/s | {each:.2} ms | {share:.0} % |");
    over.store(true, Relaxed);
    for thread in threads {
        let _ = thread.join();
    }
}

fn tls(dir: &Path, cert: &str, key: &str) -> String {
    let made = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/certificates");
    let file = |name: &str| made.join(name).display().to_string();
    let tls = format!(
        "[devices.tls]\ncert = {:?}\nkey = {:?}\n[spool]",
        file(cert),
        file(key)
    );
    defaults(dir, free_port()).replace("[spool]", &tls)
}

/// Sends a hello of TLS and waits for the hub's answer, which is what it computes for.
fn hello(hub: SocketAddr) {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    let name = ServerName::try_from("localhost").unwrap();
    let mut client = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
    let Ok(mut tcp) = TcpStream::connect(hub) else {
        return;
    };
    let mut hello = Vec::new();
    client.write_tls(&mut hello).unwrap();
    if tcp.write_all(&hello).is_ok() {
        let _ = tcp.read(&mut [0; 16]);
    }
}

#[tokio::test]
#[ignore = "measures"]
async fn processor_time() {
    println!("| what the peer does | how often | costs each | of one core |\n|---|---|---|---|");
    let dir = tempfile::tempdir().unwrap();
    let hub = Hub::start(dir.path(), &defaults(dir.path(), free_port())).await;
    let to = hub.address;
    cost(&hub, "connects, says nothing and goes", 8, move |_| {
        let _ = TcpStream::connect(to);
    })
    .await;
    cost(&hub, "asks for what is not there", 8, move |_| {
        if let Ok(mut tcp) = TcpStream::connect(to) {
            let _ = tcp.write_all(b"GET /x HTTP/1.1\r\nHost: localhost\r\n\r\n");
            let _ = tcp.read(&mut [0; 64]);
        }
    })
    .await;
    let counter = AtomicU64::new(0);
    cost(
        &hub,
        "opens a session under a new id and goes",
        8,
        move |_| {
            let n = counter.fetch_add(1, Relaxed);
            if let Ok(mut tcp) = TcpStream::connect(to) {
                let _ = tcp.write_all(&request(&format!("id-{n}")));
                let _ = tcp.read(&mut [0; 64]);
            }
        },
    )
    .await;
    println!("(devices known: {})", hub.status("/devices/known"));
    drop(hub);
    for (cert, key, what) in [
        ("p256.pem", "leaf.key", "sends hellos of TLS, key P-256"),
        (
            "rsa4096.pem",
            "rsa4096.key",
            "the same, key RSA of 4,096 bits",
        ),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let hub = Hub::start(dir.path(), &tls(dir.path(), cert, key)).await;
        let to = hub.address;
        cost(&hub, what, 64, move |_| hello(to)).await;
    }
    let broker_dir = tempfile::tempdir().unwrap();
    let broker = Mosquitto::start(broker_dir.path());
    for (what, readings, name) in [
        (
            "a device at its limit: packs of 10 readings",
            10,
            "t".to_owned(),
        ),
        (
            "a device at its limit: packs of 3,900 with long names",
            3_900,
            "n".repeat(150),
        ),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let hub = Hub::start(dir.path(), &defaults(dir.path(), broker.port)).await;
        hub.until_uplink("connected").await;
        let mut device = Device::connect(hub.address, "greedy").await;
        let mut pack = vec![json!({"bn": name, "v": 0})];
        pack.extend((1..readings).map(|n| json!({"v": n})));
        let pack = json!(pack);
        let (before, start) = (computed(hub.pid()), Instant::now());
        let mut sent = 0_u32;
        while start.elapsed() < Duration::from_secs(15) {
            device.send(pack.clone()).await;
            sent += 1;
        }
        let took = computed(hub.pid()) - before;
        let share = 100.0 * took.as_secs_f64() / start.elapsed().as_secs_f64();
        let rate = f64::from(sent) / start.elapsed().as_secs_f64();
        let each = 1e3 * took.as_secs_f64() / f64::from(sent);
        println!("| {what} | {rate:.1}/s | {each:.2} ms | {share:.0} % |");
    }
}
