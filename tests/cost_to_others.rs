//! What the greedy and the hostile cost an honest device: how long its acks take beside them. The figures
//! of docs/benchmark.md, "Beside others", and of ARCHITECTURE.md, "What a hostile peer can cost".
//!
//! ```sh
//! cargo test --test cost_to_others -- --ignored --nocapture --test-threads 1
//! ```
//!
//! With `TELEHUB_BIN=…` it is that binary which is measured. The slow link is a veth pair into a network
//! namespace, 1 Mbit/s each way (tc tbf), which needs root. Nothing fails here: what decides whose turn it is
//! (`intake::fair`, `listen::turns`) has tests of its own.
#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs)]

#[path = "support/daemon.rs"]
mod daemon;

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use daemon::{Device, Hub, Mosquitto, config};
use futures_util::{SinkExt, StreamExt};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpSocket, TcpStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

/// How long each figure is measured.
const WHILE: Duration = Duration::from_secs(20);

/// Between two batches of the honest device. On the slow link a greedy payload takes six seconds, and
/// whoever sends more than its window (32) in that time waits for itself.
const PACE: Duration = Duration::from_millis(100);
const SLOW_PACE: Duration = Duration::from_millis(500);

/// Else mosquitto's PUBACKs wait for the kernel's delayed acknowledgement, 40 ms now and then.
const NODELAY: &str = "set_tcp_nodelay true\n";

/// Devices that send as much as they may.
const GREEDY: usize = 7;

/// Records of a greedy pack, and bytes of each one's name: with the defaults it is the readings that are
/// at their limit then, and a pack resolves to the better part of a megabyte.
const RECORDS: usize = 3_900;
const NAME: usize = 150;

/// The defaults of `[devices]`, beside what tests need.
fn defaults(dir: &Path, broker: &str) -> String {
    let text = config(dir, 1, "").replace("mqtt://127.0.0.1:1\"", &format!("mqtt://{broker}\""));
    let lines = text.lines().filter(|line| !line.starts_with("max_"));
    lines.map(|line| format!("{line}\n")).collect()
}

/// How long the acks of one device took, in order.
struct Latency(Vec<Duration>);

impl Latency {
    fn quantile(&self, q: f64) -> Duration {
        let place = (self.0.len() as f64 * q) as usize;
        self.0[place.min(self.0.len() - 1)]
    }

    fn show(&self, what: &str) {
        let [p50, p99, most] = [0.5, 0.99, 1.0].map(|q| self.quantile(q).as_secs_f64() * 1e3);
        println!(
            "| {what} | {} | {p50:.1} ms | {p99:.1} ms | {most:.1} ms |",
            self.0.len()
        );
    }
}

/// A batch of one reading at its pace, whether or not the one before is acked: the time from the moment it
/// was due to its ack.
async fn honest<S>(socket: &mut WebSocketStream<S>, pace: Duration, time: Duration) -> Latency
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let hello = json!({"hello": {"stream": "s"}});
    socket.send(Message::text(hello.to_string())).await.unwrap();
    let (start, mut due) = (tokio::time::Instant::now(), Vec::new());
    let mut tick = tokio::time::interval_at(start, pace);
    let (mut took, mut acked) = (Vec::new(), 0);
    while start.elapsed() < time || acked < due.len() {
        tokio::select! {
            at = tick.tick(), if start.elapsed() < time => {
                due.push(at);
                let seq = due.len();
                let data = json!({"data": {"seq": seq, "pack": [{"n": "t", "v": seq}]}});
                socket.send(Message::text(data.to_string())).await.unwrap();
            }
            message = socket.next() => {
                let Message::Text(text) = message.unwrap().unwrap() else { continue };
                let message: Value = serde_json::from_str(&text).unwrap();
                if let Some(seq) = message["ack"]["seq"].as_u64() {
                    let seq = usize::try_from(seq).unwrap();
                    took.extend(due[acked..seq].iter().map(tokio::time::Instant::elapsed));
                    acked = seq;
                }
            }
        }
    }
    took.sort();
    Latency(took)
}

/// From an address of its own: whoever is behind the same address as a flood shares its limits.
async fn dial(hub: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.9:0".parse().unwrap()).unwrap();
    let tcp = socket.connect(hub).await.unwrap();
    tcp.set_nodelay(true).unwrap();
    tcp
}

async fn plain(hub: SocketAddr) -> WebSocketStream<TcpStream> {
    let url = format!("ws://{hub}/v1/devices/honest");
    let connected = tokio_tungstenite::client_async(url, dial(hub).await).await;
    connected.unwrap().0
}

fn greedy_pack() -> Value {
    let mut pack = vec![json!({"bn": "n".repeat(NAME), "v": 0})];
    pack.extend((1..RECORDS).map(|n| json!({"v": n})));
    json!(pack)
}

/// How long one of the largest payloads takes on this link, from a device that is alone.
async fn one_payload(broker: &str) -> Duration {
    let dir = tempfile::tempdir().unwrap();
    let hub = Hub::start(dir.path(), &defaults(dir.path(), broker)).await;
    hub.until_uplink("connected").await;
    let mut device = Device::connect(hub.address, "alone").await;
    device.hello("s").await;
    let mut took = Vec::new();
    for seq in 1..=3 {
        let began = Instant::now();
        device
            .send(json!({"data": {"seq": seq, "pack": greedy_pack()}}))
            .await;
        device.acked(seq).await;
        took.push(began.elapsed());
    }
    took.sort();
    hub.kill();
    took[1]
}

/// Sends as much as the hub reads, until the hub is gone: frames that are made once, on a thread, so that
/// it costs next to nothing but what it costs the hub.
fn greedy(hub: SocketAddr, number: usize) -> std::thread::JoinHandle<()> {
    use std::io::{Read, Write};
    let pack = greedy_pack().to_string();
    let length = u16::try_from(pack.len()).unwrap();
    let mut frame = vec![0x81, 0x80 | 126];
    frame.extend(length.to_be_bytes());
    frame.extend([0; 4]);
    frame.extend(pack.as_bytes());
    let request = format!(
        "GET /v1/devices/greedy-{number} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\n\
         Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    std::thread::spawn(move || {
        let mut tcp = std::net::TcpStream::connect(hub).unwrap();
        tcp.write_all(request.as_bytes()).unwrap();
        tcp.read_exact(&mut [0; 12]).unwrap();
        while tcp.write_all(&frame).is_ok() {}
    })
}

/// mosquitto behind a link of so many bits a second, in a namespace that goes with it.
struct Far {
    process: Child,
    broker: String,
}

impl Far {
    fn start(dir: &Path, rate: &str) -> Self {
        let own = format!("th{}", std::process::id());
        let conf = dir.join("far.conf");
        let text = "listener 1883 10.78.0.2\nallow_anonymous true\nuser root\nlog_type error\n";
        std::fs::write(&conf, text.to_owned() + NODELAY).unwrap();
        let mut process = Command::new("unshare")
            .args([
                "--net",
                "sh",
                "-c",
                "read go; exec \"$0\" -c \"$1\"",
                daemon::mosquitto(),
            ])
            .arg(&conf)
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let pid = process.id();
        let namespace = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/net")).unwrap();
        while namespace(&pid.to_string()) == namespace("self") {
            std::thread::sleep(Duration::from_millis(5));
        }
        let run = |line: String| {
            let mut words = line.split_whitespace();
            let status = Command::new(words.next().unwrap()).args(words).status();
            assert!(status.unwrap().success(), "{line}");
        };
        let inside = format!("nsenter --net=/proc/{pid}/ns/net");
        run(format!("ip link add {own} type veth peer name far"));
        run(format!("ip link set far netns {pid}"));
        run(format!("ip addr add 10.78.0.1/24 dev {own}"));
        run(format!("ip link set {own} up"));
        run(format!("{inside} ip addr add 10.78.0.2/24 dev far"));
        run(format!("{inside} ip link set far up"));
        // A queue of 400 ms, as mobile links have.
        let shape = format!("root tbf rate {rate} burst 4kb latency 400ms");
        run(format!("tc qdisc add dev {own} {shape}"));
        run(format!("{inside} tc qdisc add dev far {shape}"));
        use std::io::Write;
        process.stdin.take().unwrap().write_all(b"go\n").unwrap();
        Self {
            process,
            broker: "10.78.0.2:1883".to_owned(),
        }
    }
}

impl Drop for Far {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A way to a broker, and what the honest device does there.
struct Link<'a> {
    what: &'a str,
    broker: &'a str,
    pace: Duration,
    time: Duration,
}

/// The honest device, with so many greedy ones beside it.
async fn beside(greedy_ones: usize, link: &Link<'_>) -> Latency {
    let Link {
        what,
        broker,
        pace,
        time,
    } = *link;
    let dir = tempfile::tempdir().unwrap();
    let hub = Hub::start(dir.path(), &defaults(dir.path(), broker)).await;
    hub.until_uplink("connected").await;
    let threads: Vec<_> = (0..greedy_ones).map(|n| greedy(hub.address, n)).collect();
    if greedy_ones > 0 {
        // Until they are at their limit.
        tokio::time::sleep(Duration::from_secs(5)).await;
    }
    let latency = honest(&mut plain(hub.address).await, pace, time).await;
    latency.show(&format!("{what}, {greedy_ones} greedy"));
    hub.kill();
    for thread in threads {
        let _ = thread.join();
    }
    latency
}

/// Pairs without and with greedy ones. The machine is not equally fast for a minute: of each the median
/// p99 counts.
async fn pairs(rounds: usize, link: &Link<'_>) -> [Duration; 2] {
    let mut all = [Vec::new(), Vec::new()];
    for _ in 0..rounds {
        for (of, greedy_ones) in all.iter_mut().zip([0, GREEDY]) {
            of.push(beside(greedy_ones, link).await.quantile(0.99));
        }
    }
    all.map(|mut of| {
        of.sort();
        of[of.len() / 2]
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "measures, and needs root for a network namespace"]
async fn seven_greedy_devices_at_their_limit() {
    println!("| link | acks | p50 | p99 | most |\n|---|---|---|---|---|");
    let dir = tempfile::tempdir().unwrap();
    let near = Mosquitto::start_with(dir.path(), NODELAY);
    let near_broker = format!("127.0.0.1:{}", near.port);
    let fast = pairs(
        3,
        &Link {
            what: "fast",
            broker: &near_broker,
            pace: PACE,
            time: WHILE,
        },
    )
    .await;
    let on_fast = one_payload(&near_broker).await;
    drop(near);
    let far_dir = tempfile::tempdir().unwrap();
    let far = Far::start(far_dir.path(), "1mbit");
    let slow = pairs(
        1,
        &Link {
            what: "1 Mbit/s",
            broker: &far.broker,
            pace: SLOW_PACE,
            time: 3 * WHILE,
        },
    )
    .await;
    let on_slow = one_payload(&far.broker).await;
    for (what, [alone, beside], payload) in [("fast", fast, on_fast), ("slow", slow, on_slow)] {
        let bound = alone * 2 + payload;
        let reached = if beside <= bound { "yes" } else { "no" };
        println!(
            "{what}: p99 alone {alone:.1?}, one payload {payload:.1?}, beside {beside:.1?}, bound {bound:.1?}: {reached}"
        );
    }
}

fn with_tls(dir: &Path, broker: u16, cert: &str, key: &str) -> String {
    let made = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/certificates");
    let tls = format!(
        "[devices.tls]\ncert = {:?}\nkey = {:?}\n[spool]",
        made.join(cert),
        made.join(key)
    );
    defaults(dir, &format!("127.0.0.1:{broker}")).replace("[spool]", &tls)
}

fn tls_client() -> Arc<rustls::ClientConfig> {
    let made = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/certificates");
    let mut roots = rustls::RootCertStore::empty();
    for file in ["ca.pem", "rsa4096.pem"] {
        let certificate = CertificateDer::from_pem_file(made.join(file)).unwrap();
        roots.add(certificate).unwrap();
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    Arc::new(config)
}

/// Sends a hello and waits for the answer that the hub computes for.
fn hello(hub: SocketAddr, config: &Arc<rustls::ClientConfig>) -> bool {
    use std::io::{Read, Write};
    let name = ServerName::try_from("localhost").unwrap();
    let mut client = rustls::ClientConnection::new(config.clone(), name).unwrap();
    let Ok(mut tcp) = std::net::TcpStream::connect(hub) else {
        return false;
    };
    let mut hello = Vec::new();
    client.write_tls(&mut hello).unwrap();
    tcp.write_all(&hello).is_ok() && matches!(tcp.read(&mut [0; 16]), Ok(1..))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "measures"]
async fn a_flood_of_tls_hellos() {
    println!("| key | acks | p50 | p99 | most |\n|---|---|---|---|---|");
    let broker_dir = tempfile::tempdir().unwrap();
    let broker = Mosquitto::start_with(broker_dir.path(), NODELAY);
    for (cert, key, what) in [
        ("p256.pem", "leaf.key", "P-256"),
        ("rsa4096.pem", "rsa4096.key", "RSA-4096"),
    ] {
        for flooding in [false, true] {
            let dir = tempfile::tempdir().unwrap();
            let hub = Hub::start(dir.path(), &with_tls(dir.path(), broker.port, cert, key)).await;
            hub.until_uplink("connected").await;
            let client = tls_client();
            let (over, answered) = (
                Arc::new(AtomicBool::new(false)),
                Arc::new(AtomicU64::new(0)),
            );
            let threads: Vec<_> = (0..if flooding { 64 } else { 0 })
                .map(|_| {
                    let (over, answered) = (over.clone(), answered.clone());
                    let (client, to) = (client.clone(), hub.address);
                    std::thread::spawn(move || {
                        while !over.load(Relaxed) {
                            answered.fetch_add(u64::from(hello(to, &client)), Relaxed);
                        }
                    })
                })
                .collect();
            tokio::time::sleep(Duration::from_secs(2)).await;
            let began = Instant::now();
            let tcp = dial(hub.address).await;
            let name = ServerName::try_from("localhost").unwrap();
            let tls = tokio_rustls::TlsConnector::from(client.clone());
            let tls = tls.connect(name, tcp).await.unwrap();
            let url = "wss://localhost/v1/devices/honest";
            let (mut socket, _) = tokio_tungstenite::client_async(url, tls).await.unwrap();
            let connected = began.elapsed();
            let before = answered.load(Relaxed);
            let latency = honest(&mut socket, PACE, WHILE).await;
            let rate = (answered.load(Relaxed) - before) as f64 / WHILE.as_secs_f64();
            latency.show(&format!("{what}, {rate:.0} hellos/s answered"));
            println!(
                "  (connected after {:.0} ms)",
                connected.as_secs_f64() * 1e3
            );
            over.store(true, Relaxed);
            hub.kill();
            for thread in threads {
                let _ = thread.join();
            }
        }
    }
}
