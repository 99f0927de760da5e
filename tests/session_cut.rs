//! Devices that vanish without a word: the network between them and the hub drops packets, and
//! nobody sends a FIN.
//!
//! Each test runs in network and mount namespaces of its own (`unshare`), with the hub in another
//! one and a cable between the two. That takes root, CAP_SYS_ADMIN and CAP_NET_ADMIN; without
//! them the tests say on stderr that they were skipped, and why.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "support/daemon.rs"]
mod daemon;

use std::collections::BTreeMap;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use daemon::{Hub, config, data, until};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use telehub::reading::Item;
use telehub::spool::{self, Group};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

/// Between two pings; the timeout of a ping is the same.
const INTERVAL: Duration = Duration::from_secs(1);

/// Set for the tests inside. They change routes, which must not be this machine's own.
const INSIDE: &str = "TELEHUB_TEST_NAMESPACE";

const HUB: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);

/// Runs one of the ignored tests below in namespaces of its own.
fn in_namespaces(test: &str) {
    let allowed = Command::new("unshare")
        .args(["--net", "--mount", "ip", "link", "add", "x", "type", "veth"])
        .output();
    let hindrance = match allowed {
        Ok(output) if output.status.success() => None,
        Ok(output) => Some(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        Err(error) => Some(error.to_string()),
    };
    if let Some(hindrance) = hindrance {
        say(&format!(
            "SKIPPED {test}: no network namespaces here: {hindrance}"
        ));
        return;
    }
    let output = Command::new("unshare")
        .args(["--net", "--mount", "--"])
        .arg(std::env::current_exe().unwrap())
        .env(INSIDE, "yes")
        .args(["--exact", test, "--ignored", "--nocapture"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    assert!(text.contains("1 passed"), "{text}");
    for line in text.lines().filter(|line| line.starts_with("SKIPPED")) {
        say(line);
    }
}

/// Not with `eprintln!`, which the test runner keeps to itself.
fn say(text: &str) {
    let text = format!("\n{text}\n");
    std::io::stderr().write_all(text.as_bytes()).unwrap();
}

fn run(command: &str) {
    let mut words = command.split_whitespace();
    let output = Command::new(words.next().unwrap())
        .args(words)
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command}: {error}");
}

/// The hub at the other end of a cable.
struct Net {
    hub: Hub,
}

impl Net {
    async fn start(dir: &Path, spool: &Path) -> Self {
        assert!(std::env::var_os(INSIDE).is_some(), "not in a namespace");
        let settings = config(dir, 1, "")
            .replace("127.0.0.1:0\"\nauth", "0.0.0.0:0\"\nauth")
            .replace(
                "max_rate",
                "ping_interval = \"1s\"\nping_timeout = \"1s\"\nmax_rate",
            )
            .replace(
                &format!("{}/spool", dir.display()),
                &spool.display().to_string(),
            );
        run("ip link set lo up");
        // Routes may be put before those to this machine's own addresses.
        run("ip rule add pref 10 lookup local");
        run("ip rule del pref 0");
        run("ip link add here type veth peer name there");
        run("ip addr add 10.77.0.2/24 dev here");
        run("ip link set here up");
        let command = daemon::command();
        let mut process = Command::new("unshare");
        process
            .args(["--net", "sh", "-c", "read go; exec \"$0\" \"$@\""])
            .arg(command.get_program())
            .args(command.get_args())
            .stdin(Stdio::piped());
        let hub = Hub::start_by(&mut process, dir, &settings, |child| {
            let pid = child.id();
            let own = std::fs::read_link("/proc/self/ns/net").unwrap();
            let other = format!("/proc/{pid}/ns/net");
            while std::fs::read_link(&other).unwrap() == own {
                std::thread::sleep(Duration::from_millis(5));
            }
            run(&format!("ip link set there netns {pid}"));
            let inside = format!("nsenter --net={other} ip");
            run(&format!("{inside} link set lo up"));
            run(&format!("{inside} addr add {HUB}/24 dev there"));
            run(&format!("{inside} link set there up"));
            // A send buffer that is soon full.
            let small = "net.ipv4.tcp_wmem=4096 8192 8192";
            let inside = Command::new("nsenter")
                .args([&format!("--net={other}"), "sysctl", "-qw", small])
                .status();
            assert!(inside.unwrap().success());
            child.stdin.take().unwrap().write_all(b"go\n").unwrap();
        })
        .await;
        Self { hub }
    }

    /// A connection from an address of its own, with a small receive buffer.
    async fn dial(&self, last: u8) -> TcpStream {
        let own = Ipv4Addr::new(10, 77, 0, last);
        run(&format!("ip addr replace {own}/32 dev here"));
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4_096).unwrap();
        socket.bind(SocketAddr::from((own, 0))).unwrap();
        let hub = SocketAddr::from((HUB, self.hub.address.port()));
        tokio::time::timeout(daemon::PATIENCE, socket.connect(hub))
            .await
            .unwrap()
            .unwrap()
    }

    async fn connect(&self, last: u8, id: &str) -> WebSocketStream<TcpStream> {
        let tcp = self.dial(last).await;
        let url = format!("ws://{HUB}/v1/devices/{id}");
        tokio_tungstenite::client_async(url, tcp).await.unwrap().0
    }

    /// The power of the device is gone: nobody answers at its address any more.
    fn pull(&self, last: u8) {
        run(&format!("ip addr del 10.77.0.{last}/32 dev here"));
    }

    /// What goes to the device is dropped on the way, without a word to the sender. What it sends
    /// still arrives.
    fn deafen(&self, last: u8) {
        let mac = std::fs::read_to_string("/sys/class/net/here/address");
        // The namespace has no /sys of its own: ask by another way.
        let mac = mac.unwrap_or_else(|_| {
            let output = Command::new("ip")
                .args(["-br", "link", "show", "here"])
                .output();
            let text = String::from_utf8(output.unwrap().stdout).unwrap();
            text.split_whitespace().nth(2).unwrap().to_owned()
        });
        let (pid, mac) = (self.hub.pid(), mac.trim());
        run(&format!(
            "nsenter --net=/proc/{pid}/ns/net ip neigh replace 10.77.0.{last} lladdr {mac} \
             nud permanent dev there"
        ));
        run(&format!("ip rule add pref 1 to 10.77.0.{last} blackhole"));
    }

    fn silence(&self, last: u8) {
        self.deafen(last);
        run(&format!("ip rule add pref 1 from 10.77.0.{last} blackhole"));
    }

    fn reason(&self, id: &str) -> Option<String> {
        let device = format!("device={id} ");
        let log = self.hub.log();
        let line = log
            .iter()
            .find(|line| line.contains("device disconnected") && line.contains(&device))?;
        Some(line.split("reason=").nth(1)?.trim_matches('"').to_owned())
    }

    /// Waits for the end of the device's session, and returns its reason. How soon it has to come
    /// is told by the tests of `session::liveness`, whose clock no busy machine slows down.
    async fn ended(&self, id: &str) -> String {
        until("the end of the session", || self.reason(id).is_some()).await;
        self.reason(id).unwrap()
    }

    fn sockets(&self) -> usize {
        let files = std::fs::read_dir(format!("/proc/{}/fd", self.hub.pid())).unwrap();
        files
            .filter_map(|file| std::fs::read_link(file.ok()?.path()).ok())
            .filter(|target| target.to_string_lossy().starts_with("socket:"))
            .count()
    }
}

/// Reads, and so answers pings, for as long as the connection lives.
fn live(socket: WebSocketStream<TcpStream>) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move {
        let (_sink, mut stream) = socket.split();
        while let Some(Ok(_)) = stream.next().await {}
    })
}

async fn send(socket: &mut WebSocketStream<TcpStream>, message: Value) {
    socket
        .send(Message::text(message.to_string()))
        .await
        .unwrap();
}

async fn receive(socket: &mut WebSocketStream<TcpStream>) -> Value {
    let next = async {
        loop {
            if let Message::Text(text) = socket.next().await.unwrap().unwrap() {
                return serde_json::from_str(&text).unwrap();
            }
        }
    };
    tokio::time::timeout(daemon::PATIENCE, next).await.unwrap()
}

#[test]
fn a_device_that_vanishes_without_a_word_is_noticed_in_time() {
    in_namespaces("vanishes");
}

#[tokio::test]
#[ignore = "runs in a namespace of its own"]
async fn vanishes() {
    let dir = tempfile::tempdir().unwrap();
    let net = Net::start(dir.path(), &dir.path().join("spool")).await;
    let before = net.sockets();
    let (pulled, silenced) = (
        net.connect(11, "pulled").await,
        net.connect(12, "cut").await,
    );
    let alive = live(net.connect(13, "alive").await);
    let others = [live(pulled), live(silenced)];
    tokio::time::sleep(2 * INTERVAL).await;
    assert!(net.reason("pulled").is_none() && net.reason("cut").is_none());
    net.pull(11);
    net.silence(12);
    assert_eq!(net.ended("pulled").await, "ping timeout");
    assert_eq!(net.ended("cut").await, "ping timeout");
    assert_eq!(net.reason("alive"), None);
    assert!(!alive.is_finished());
    // The sockets go too, though nobody answers the goodbye.
    until("the sockets", || net.sockets() == before + 1).await;
    drop(others);
}

#[test]
fn a_device_that_vanishes_is_noticed_while_the_send_buffer_to_it_is_full() {
    in_namespaces("vanishes_with_a_full_buffer");
}

#[tokio::test]
#[ignore = "runs in a namespace of its own"]
async fn vanishes_with_a_full_buffer() {
    let dir = tempfile::tempdir().unwrap();
    let net = Net::start(dir.path(), &dir.path().join("spool")).await;
    let before = net.sockets();
    let alive = live(net.connect(13, "alive").await);
    // Wrong and right in turn: a reject for each wrong one, and nobody reads them.
    let mut device = net.connect(14, "deaf").await.into_inner();
    let mut pair = Vec::new();
    for message in [json!({"what": 1}), json!([{"n": "x", "v": 1}])] {
        let text = message.to_string();
        pair.extend([0x81, 0x80 | u8::try_from(text.len()).unwrap(), 0, 0, 0, 0]);
        pair.extend(text.as_bytes());
    }
    let flood = pair.repeat(100);
    let stuck = Duration::from_millis(200);
    while tokio::time::timeout(stuck, device.write_all(&flood))
        .await
        .is_ok()
    {}
    let full = net.reason("deaf");
    assert_eq!(full, None, "too early for this test");
    net.silence(14);
    assert_eq!(net.ended("deaf").await, "ping timeout");
    until("the socket", || net.sockets() == before + 1).await;
    assert!(!alive.is_finished());
    assert_eq!(net.reason("alive"), None);
    drop(device);
}

#[test]
fn a_takeover_of_a_half_open_connection_loses_and_doubles_nothing() {
    in_namespaces("takeover");
}

#[tokio::test]
#[ignore = "runs in a namespace of its own"]
async fn takeover() {
    const LAST: u64 = 30;
    let dir = tempfile::tempdir().unwrap();
    let net = Net::start(dir.path(), &dir.path().join("spool")).await;
    let mut first = net.connect(15, "twin").await;
    send(&mut first, json!({"hello": {"stream": "s"}})).await;
    assert_eq!(receive(&mut first).await["welcome"]["seq"], 0);
    net.deafen(15);
    // They arrive, and no ack ever comes back.
    for seq in 1..=8 {
        send(&mut first, data(seq)).await;
    }
    let mut second = net.connect(16, "twin").await;
    assert_eq!(net.ended("twin").await, "replaced");
    send(&mut second, json!({"hello": {"stream": "s"}})).await;
    let safe = receive(&mut second).await["welcome"]["seq"]
        .as_u64()
        .unwrap();
    assert!(safe <= 8, "{safe}");
    // What was never acked to it, it sends again; the hub says what is new.
    for seq in 1..=LAST {
        send(&mut second, data(seq)).await;
    }
    while receive(&mut second).await["ack"]["seq"] != LAST {}
    assert!(net.hub.stop().await.success());
    let mut found = BTreeMap::<u64, u32>::new();
    let scratch = tempfile::tempdir().unwrap();
    let mut count = |group: Group| {
        for item in &group.items {
            if let Item::Batch(batch) = &**item {
                *found.entry(batch.seq.unwrap()).or_default() += 1;
            }
        }
        Ok(())
    };
    spool::inspect(&dir.path().join("spool"), scratch.path(), Some(&mut count)).unwrap();
    assert_eq!(found, (1..=LAST).map(|seq| (seq, 1)).collect());
}

#[test]
fn with_the_disk_stalled_and_the_uplink_gone_the_living_stay_and_the_dead_go() {
    in_namespaces("stalled_disk");
}

/// A file system of its own; thawed when dropped, whatever happens.
struct Disk(std::path::PathBuf);

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("fsfreeze").arg("-u").arg(&self.0).output();
    }
}

#[tokio::test]
#[ignore = "runs in a namespace of its own"]
async fn stalled_disk() {
    /// Ten times what it takes to notice a dead device.
    const STALL: Duration = Duration::from_secs(60);
    assert!(std::env::var_os(INSIDE).is_some(), "not in a namespace");
    let dir = tempfile::tempdir().unwrap();
    let (image, mount) = (dir.path().join("image"), dir.path().join("disk"));
    std::fs::File::create(&image)
        .unwrap()
        .set_len(64 << 20)
        .unwrap();
    std::fs::create_dir(&mount).unwrap();
    let mounted = Command::new("sh")
        .args(["-c", "mkfs.ext4 -q \"$0\" && mount -o loop \"$0\" \"$1\""])
        .args([&image, &mount])
        .output()
        .unwrap();
    if !mounted.status.success() {
        let error = String::from_utf8_lossy(&mounted.stderr).into_owned();
        return say(&format!(
            "SKIPPED stalled_disk: no loop device here: {error}"
        ));
    }
    let net = Net::start(dir.path(), &mount.join("spool")).await;
    let disk = Disk(mount.clone());
    let dead = live(net.connect(11, "dead").await);
    let mut alive = Vec::new();
    for id in ["alive-1", "alive-2", "idle"] {
        let (mut sink, mut stream) = net.connect(20, id).await.split();
        let hello = Message::text(json!({"hello": {"stream": "s"}}).to_string());
        sink.send(hello).await.unwrap();
        alive.push(tokio::spawn(async move {
            let mut every = tokio::time::interval(Duration::from_millis(100));
            // Within the window, as a device has to be.
            let (mut seq, mut acked) = (0, 0);
            loop {
                tokio::select! {
                    message = stream.next() => match message {
                        Some(Ok(Message::Text(text))) => {
                            let message: Value = serde_json::from_str(&text).unwrap();
                            acked = message["ack"]["seq"].as_u64().unwrap_or(acked);
                        }
                        Some(Ok(_)) => {}
                        other => panic!("{other:?}"),
                    },
                    _ = every.tick(), if id != "idle" && seq < 30 => {
                        seq += 1;
                        sink.send(Message::text(data(seq).to_string())).await.unwrap();
                    }
                }
                if id != "idle" && acked == 30 {
                    return;
                }
            }
        }));
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    run(&format!("fsfreeze -f {}", mount.display()));
    let start = Instant::now();
    tokio::time::sleep(Duration::from_secs(5)).await;
    net.silence(11);
    assert_eq!(net.ended("dead").await, "ping timeout");
    while start.elapsed() < STALL {
        for id in ["alive-1", "alive-2", "idle"] {
            assert_eq!(net.reason(id), None, "{id} after {:?}", start.elapsed());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(alive.iter().all(|task| !task.is_finished()));
    drop(disk);
    for task in alive.drain(..2) {
        tokio::time::timeout(daemon::PATIENCE, task)
            .await
            .unwrap()
            .unwrap();
    }
    assert_eq!(net.reason("idle"), None);
    assert!(net.hub.stop().await.success());
    drop(dead);
    run(&format!("umount {}", mount.display()));
}
