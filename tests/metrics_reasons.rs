//! The metrics that tell reasons apart: whatever ends a connection or costs a batch moves the
//! series of its own reason, and no other.
//!
//! Not here: `rate exceeded`, for which a device has to be too fast for five minutes (in
//! session_endings.rs), and of the reasons of gaps `overflow` (in metrics.rs) and `too-large`, which
//! takes a broker that hangs up seven times (in hostile_broker.rs).
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "support/daemon.rs"]
mod daemon;
#[path = "support/metrics.rs"]
mod metrics;
#[path = "support/registry.rs"]
mod registry;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use daemon::{Device, Hub, Mosquitto, config, free_port, until};
use futures_util::{SinkExt, StreamExt};
use metrics::Scrape;
use registry::entry;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

const ENDS: &str = "telehub_device_disconnects_total";
const EVICTIONS: &str = "telehub_device_evictions_total";
const GAPS: &str = "telehub_gaps_total";
const GAP_BATCHES: &str = "telehub_gap_batches_total";

/// How often each reason of a family has counted, without those that never have.
fn counted(hub: &Hub, family: &str) -> BTreeMap<String, f64> {
    let start = format!("{family}{{reason=\"");
    Scrape::of(&hub.get("/metrics").1)
        .0
        .into_iter()
        .filter(|(_, count)| *count > 0.0)
        .filter_map(|(series, count)| {
            let reason = series.strip_prefix(&start)?.strip_suffix("\"}")?;
            Some((reason.to_owned(), count))
        })
        .collect()
}

/// Why a connection ends, and whether the hub evicts the device by it.
const REASONS: [(&str, bool); 9] = [
    ("asleep", false),
    ("closed", false),
    ("connection lost", false),
    ("message too large", true),
    ("ping timeout", true),
    ("protocol error", true),
    ("replaced", false),
    ("revoked", false),
    ("too many rejects", true),
];

type Socket = WebSocketStream<TcpStream>;

/// The device of a case.
fn name(reason: &str) -> String {
    reason.replace(' ', "-")
}

/// A registry of these devices, each with its name as token.
fn register<'a>(file: &Path, devices: impl Iterator<Item = &'a str>) {
    let entry = |reason: &str| entry(&name(reason), "");
    let new = file.with_extension("new");
    fs::write(&new, devices.map(entry).collect::<String>()).unwrap();
    fs::rename(new, file).unwrap();
}

async fn connect(hub: &Hub, reason: &str) -> Socket {
    let id = name(reason);
    let url = format!("ws://{}/v1/devices/{id}", hub.address);
    let mut request = url.into_client_request().unwrap();
    let token = format!("Bearer {id}").parse().unwrap();
    request.headers_mut().insert("authorization", token);
    let tcp = TcpStream::connect(hub.address).await.unwrap();
    let (socket, _) = tokio_tungstenite::client_async(request, tcp).await.unwrap();
    socket
}

/// Makes a connection end for this reason. Returns what stays open for it.
async fn provoke(reason: &str, hub: &Hub, registry: &Path) -> Vec<Socket> {
    let mut socket = connect(hub, reason).await;
    match reason {
        "asleep" => {
            let bye = "{\"bye\": {\"sleep\": 60}}";
            socket.send(Message::text(bye)).await.unwrap();
        }
        "closed" => socket.close(None).await.unwrap(),
        "connection lost" => return Vec::new(),
        "message too large" => socket.send(Message::text("x".repeat(2_000))).await.unwrap(),
        // Nothing is read, and so no ping answered.
        "ping timeout" => {}
        // Devices have to mask what they send.
        "protocol error" => {
            let unmasked = [0x81, 0x02, b'{', b'}'];
            socket.get_mut().write_all(&unmasked).await.unwrap();
        }
        "replaced" => return vec![socket, connect(hub, reason).await],
        "revoked" => {
            let others = REASONS.iter().map(|(other, _)| *other);
            register(registry, others.filter(|other| *other != reason));
        }
        "too many rejects" => {
            for _ in 0..10 {
                socket.send(Message::text("{\"data\": 7}")).await.unwrap();
            }
        }
        other => panic!("nothing provokes {other:?}"),
    }
    vec![socket]
}

#[tokio::test]
async fn each_end_of_a_connection_counts_once_under_its_own_reason() {
    let dir = tempfile::tempdir().unwrap();
    let registry = dir.path().join("devices.toml");
    register(&registry, REASONS.iter().map(|(reason, _)| *reason));
    let broker = Mosquitto::start(dir.path());
    let keys = format!(
        "auth = \"token\"\nregistry = {registry:?}\nping_interval = \"1s\"\n\
         ping_timeout = \"1s\"\nmax_message = \"1KiB\""
    );
    let text = config(dir.path(), broker.port, "").replace("auth = \"open\"", &keys);
    let mut hub = Hub::start(dir.path(), &text).await;
    hub.until_uplink("connected").await;
    let (mut ends, mut evictions) = (BTreeMap::new(), BTreeMap::new());
    for (reason, evicts) in REASONS {
        let sockets = provoke(reason, &hub, &registry).await;
        let mut kept = Vec::new();
        let mut readers = tokio::task::JoinSet::new();
        for mut socket in sockets {
            if reason == "ping timeout" {
                kept.push(socket);
            } else {
                readers.spawn(async move { while let Some(Ok(_)) = socket.next().await {} });
            }
        }
        let once = |counts: &mut BTreeMap<String, f64>| {
            *counts.entry(reason.to_owned()).or_default() += 1.0;
        };
        once(&mut ends);
        if evicts {
            once(&mut evictions);
        }
        until(reason, || counted(&hub, ENDS) == ends).await;
        assert_eq!(counted(&hub, EVICTIONS), evictions, "{reason}");
        drop((kept, readers));
        until("the last connection's end", || {
            hub.status("/devices/connected") == 0
        })
        .await;
        // The newer connection of the one that was replaced.
        ends = counted(&hub, ENDS);
    }

    // A broker that does not answer holds up the stop for long enough to ask.
    let mut device = connect(&hub, "closed").await;
    let reader = tokio::spawn(async move { while let Some(Ok(_)) = device.next().await {} });
    until("the device", || hub.status("/devices/connected") == 1).await;
    broker.signal("STOP");
    hub.signal("TERM");
    until("hub stopping", || {
        counted(&hub, ENDS).get("hub stopping") == Some(&1.0)
    })
    .await;
    assert_eq!(counted(&hub, EVICTIONS), evictions);
    broker.signal("CONT");
    reader.await.unwrap();
    assert!(hub.ended().await.success());
}

#[tokio::test]
async fn a_refused_device_is_counted_and_not_evicted() {
    let dir = tempfile::tempdir().unwrap();
    let full = "min_free = \"15TiB\"\noverflow = \"refuse\"";
    let text = config(dir.path(), free_port(), "").replace("min_free = \"1MiB\"", full);
    let hub = Hub::start(dir.path(), &text).await;
    let mut device = Device::connect(hub.address, "cow").await;
    device.hello("s").await;
    device.data(1).await;
    until("a full spool", || hub.status("/spool/state") == "full").await;
    // The one that found it full waits for room.
    device.data(2).await;
    assert_eq!(device.close_code().await, 1013);
    let once = BTreeMap::from([("refused".to_owned(), 1.0)]);
    until("refused", || counted(&hub, ENDS) == once).await;
    assert!(counted(&hub, EVICTIONS).is_empty());
}

/// Waits until so many batches are told of in acknowledged gap records of this reason, and holds
/// that there are none of another.
async fn lost(hub: &Hub, reason: &str, batches: f64) {
    let told = BTreeMap::from([(reason.to_owned(), batches)]);
    until(reason, || counted(hub, GAP_BATCHES) == told).await;
    let records = counted(hub, GAPS);
    assert_eq!(records.keys().collect::<Vec<_>>(), [reason]);
    assert!((1.0..=batches).contains(&records[reason]), "{records:?}");
}

/// Batches of a new stream, up to their ack.
async fn send(hub: &Hub, batches: u64) {
    let mut device = Device::connect(hub.address, "cow").await;
    device.hello("s").await;
    for seq in 1..=batches {
        device.data(seq).await;
    }
    device.acked(batches).await;
}

#[tokio::test]
async fn what_is_too_old_counts_as_expired() {
    let dir = tempfile::tempdir().unwrap();
    let mut broker = Mosquitto::start(dir.path());
    broker.stop();
    let text = config(dir.path(), broker.port, "").replace("[spool]", "[spool]\nmax_age = \"1s\"");
    let hub = Hub::start(dir.path(), &text).await;
    send(&hub, 5).await;
    // Time has to pass for this.
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    broker.start_again();
    lost(&hub, "expired", 5.0).await;
}

#[tokio::test]
async fn what_the_disk_has_spoilt_counts_as_corrupt() {
    let dir = tempfile::tempdir().unwrap();
    let mut broker = Mosquitto::start(dir.path());
    broker.stop();
    let text = config(dir.path(), broker.port, "");
    let hub = Hub::start(dir.path(), &text).await;
    send(&hub, 5).await;
    assert!(hub.stop().await.success());
    let spool = fs::read_dir(dir.path().join("spool")).unwrap();
    let databases: Vec<_> = spool
        .map(|entry| entry.unwrap().path().join("db"))
        .filter(|file| file.exists())
        .collect();
    assert_eq!(databases.len(), 1);
    // The header of a group is whole, so that the record is exact; what it holds is not.
    let mut bytes = fs::read(&databases[0]).unwrap();
    let found = bytes.windows(3).enumerate();
    let frames: Vec<_> = found
        .filter(|(_, bytes)| bytes == b"\"x\"")
        .map(|(at, _)| at)
        .collect();
    assert!(!frames.is_empty());
    for at in frames {
        bytes[at] ^= 1;
    }
    fs::write(&databases[0], bytes).unwrap();
    broker.start_again();
    let hub = Hub::start(dir.path(), &text).await;
    lost(&hub, "corrupt", 5.0).await;
}
