//! What a reading costs on the wire: bytes of MQTT that the hub sends and receives, by its own account
//! (`uplink.sent_bytes`), on a mosquitto with MQTT 5; in each format, live and from the spool, in batches
//! of one and of ten, packed and not. docs/benchmark.md has a table of it.
//!
//! `cargo test --test wire_cost -- --ignored --nocapture`; what `[[reduce]]` rules save:
//! `cargo test --test wire_cost rules -- --ignored --nocapture`; the same readings through a bridge of mosquitto:
//! `cargo test --test wire_cost bridge -- --ignored --nocapture`
#![allow(clippy::unwrap_used, missing_docs, clippy::print_stdout)]

#[path = "support/daemon.rs"]
mod daemon;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use daemon::{Consumer, Device, Hub, Mosquitto, config, until};
use rumqttc::{AsyncClient, MqttOptions, QoS};
use serde_json::{Value, json};

/// As in the sentence that is measured: a reading every ten seconds of each, and a pack a minute.
const DEVICES: usize = 20;
const A_MINUTE: usize = 6;

/// Packs that are filled.
const MINUTES: usize = 5;

const NAMES: [&str; 10] = [
    "temperature",
    "humidity",
    "pressure",
    "co2",
    "battery",
    "light",
    "noise",
    "soil",
    "wind",
    "rain",
];

/// The next readings of a device.
fn wander(state: &mut u64, values: &mut [f64]) -> Vec<Value> {
    let next = NAMES.iter().zip(values).map(|(name, value)| {
        *state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        *value += (*state >> 40) as f64 / f64::from(1 << 24) * 0.4 - 0.2;
        let rounded = (*value * 100.0).round() / 100.0;
        json!({"n": name, "u": "Cel", "v": rounded})
    });
    next.collect()
}

/// Sensors whose values wander as those of sensors do.
struct Site {
    devices: Vec<(Device, u64, Vec<f64>)>,
    state: u64,
    readings: usize,
}

impl Site {
    async fn new(hub: &Hub, readings: usize) -> Self {
        let mut devices = Vec::new();
        for n in 0..DEVICES {
            let mut device = Device::connect(hub.address, &format!("sensor-{n:02}")).await;
            // As random as the simulators and kits make them.
            device
                .hello(&format!(
                    "{:016x}",
                    0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(n as u64 + 1)
                ))
                .await;
            devices.push((device, 0, vec![20.0 + n as f64; readings]));
        }
        Self {
            devices,
            state: 1,
            readings,
        }
    }

    /// As many batches of each device as it sends in a minute, a reading each at its own moment.
    async fn minute(&mut self) {
        for _ in 0..A_MINUTE {
            for (device, seq, values) in &mut self.devices {
                *seq += 1;
                let pack = wander(&mut self.state, values);
                device
                    .send(json!({"data": {"seq": *seq, "pack": pack}}))
                    .await;
                tokio::time::sleep(Duration::from_millis(3)).await;
            }
        }
    }

    async fn acked(&mut self) {
        for (device, seq, _) in &mut self.devices {
            device.acked(*seq).await;
        }
    }

    fn count(&self, minutes: usize) -> f64 {
        (DEVICES * A_MINUTE * minutes * self.readings) as f64
    }
}

/// Bytes sent and received.
fn bytes(hub: &Hub) -> [f64; 2] {
    ["sent", "received"].map(|way| {
        let counted = hub.status(&format!("/uplink/{way}_bytes"));
        counted.as_f64().unwrap()
    })
}

/// Bytes sent and received for each reading: live, and from the spool.
async fn cost(format: &str, readings: usize, packed: bool) -> [[f64; 2]; 2] {
    let dir = tempfile::tempdir().unwrap();
    let mut broker = Mosquitto::start(dir.path());
    let mut lines = format!("version = \"5\"\nformat = \"{format}\"\nack_timeout = \"60s\"\n");
    if packed {
        // What fills it is sent within the delay.
        lines.push_str("pack = \"256KiB\"\npack_delay = \"2s\"\n");
    }
    let hub = Hub::start(dir.path(), &config(dir.path(), broker.port, &lines)).await;
    hub.until_uplink("connected").await;
    let mut site = Site::new(&hub, readings).await;
    // States of the devices are none of the readings' costs.
    until("quiet", || hub.status("/uplink/in_flight") == 0).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let before = bytes(&hub);
    for _ in 0..MINUTES {
        site.minute().await;
        site.acked().await;
    }
    let after = bytes(&hub);
    let each = |before: [f64; 2], after: [f64; 2], minutes: usize| {
        let count = site.count(minutes);
        [0, 1].map(|way| (after[way] - before[way]) / count)
    };
    let live = each(before, after, MINUTES);
    broker.stop();
    hub.until_uplink("down").await;
    for _ in 0..MINUTES {
        site.minute().await;
        site.acked().await;
    }
    let before = bytes(&hub);
    broker.start_again();
    hub.until_uplink("connected").await;
    hub.until_drained().await;
    until("quiet", || hub.status("/uplink/in_flight") == 0).await;
    let count = site.count(MINUTES);
    let after = bytes(&hub);
    let drain = [0, 1].map(|way| (after[way] - before[way]) / count);
    assert!(hub.stop().await.success());
    [live, drain]
}

#[tokio::test]
#[ignore = "a measurement of several minutes"]
async fn what_a_reading_costs_on_the_wire() {
    println!(
        "| format | readings in a batch | packs | live: sent, received | from the spool: sent, received |"
    );
    println!("|---|---|---|---|---|");
    for format in ["json", "cbor", "senml-json", "senml-cbor", "influx"] {
        for readings in [1, 10] {
            for packed in [false, true] {
                let cost = cost(format, readings, packed).await;
                let [live, drain] =
                    cost.map(|[sent, received]| format!("{sent:.1}, {received:.2}"));
                let packs = if packed { "yes" } else { "no" };
                println!("| {format} | {readings} | {packs} | {live} | {drain} |");
                if format == "json" && readings == 1 {
                    // 20 sensors, a reading every ten seconds, 30 days; and a ping each 30 s.
                    let readings = 20.0 * 6.0 * 60.0 * 24.0 * 30.0;
                    let pings = 2.0 * 2.0 * 2.0 * 60.0 * 24.0 * 30.0;
                    let month = (cost[0].iter().sum::<f64>() * readings + pings) / 1e6;
                    println!("a month of {readings} readings: {month:.1} MB sent and received");
                }
            }
        }
    }
}

/// Bytes sent and received for each reading that the sensors took, and the part of them that was kept.
async fn cost_with(rules: &str, readings: usize, packed: bool) -> ([f64; 2], f64) {
    /// Long enough for a series of steps of a hundredth to leave a deadband several times.
    const MINUTES: usize = 20;
    let dir = tempfile::tempdir().unwrap();
    let broker = Mosquitto::start(dir.path());
    let mut lines = String::from("version = \"5\"\nack_timeout = \"60s\"\n");
    if packed {
        lines.push_str("pack = \"256KiB\"\npack_delay = \"2s\"\n");
    }
    lines.push_str(rules);
    let hub = Hub::start(dir.path(), &config(dir.path(), broker.port, &lines)).await;
    hub.until_uplink("connected").await;
    let mut site = Site::new(&hub, readings).await;
    until("quiet", || hub.status("/uplink/in_flight") == 0).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let before = bytes(&hub);
    for _ in 0..MINUTES {
        site.minute().await;
        site.acked().await;
    }
    let (after, count) = (bytes(&hub), site.count(MINUTES));
    let cost = [0, 1].map(|way| (after[way] - before[way]) / count);
    let kept = match rules {
        "" => count,
        _ => hub.status("/reduce/kept_readings").as_f64().unwrap(),
    };
    assert!(hub.stop().await.success());
    (cost, kept / count)
}

#[tokio::test]
#[ignore = "a measurement of minutes"]
async fn what_rules_save_on_the_wire() {
    println!("| rule | readings in a batch | packs | kept | sent, received |");
    println!("|---|---|---|---|---|");
    for (name, rules) in [
        ("none", ""),
        (
            "deadband = 0.5",
            "[[reduce]]\ndevice = \"*\"\ndeadband = 0.5\n",
        ),
    ] {
        for readings in [1, 10] {
            for packed in [false, true] {
                let ([sent, received], kept) = cost_with(rules, readings, packed).await;
                let packs = if packed { "yes" } else { "no" };
                let kept = 100.0 * kept;
                println!(
                    "| {name} | {readings} | {packs} | {kept:.1} % | {sent:.1}, {received:.2} |"
                );
            }
        }
    }
}

/// A port that leads to another one, and counts the bytes there and back.
async fn counted(to: u16) -> (u16, Arc<[AtomicU64; 2]>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let counts = Arc::new([AtomicU64::new(0), AtomicU64::new(0)]);
    let shown = counts.clone();
    tokio::spawn(async move {
        while let Ok((near, _)) = listener.accept().await {
            let far = tokio::net::TcpStream::connect(("127.0.0.1", to))
                .await
                .unwrap();
            let (near, far) = (near.into_split(), far.into_split());
            for (way, mut from, mut into) in [(0, near.0, far.1), (1, far.0, near.1)] {
                let counts = counts.clone();
                tokio::spawn(async move {
                    use tokio::io::{AsyncReadExt, AsyncWriteExt};
                    let mut bytes = vec![0; 16 * 1_024];
                    while let Ok(n @ 1..) = from.read(&mut bytes).await {
                        counts[way].fetch_add(n as u64, Relaxed);
                        if into.write_all(&bytes[..n]).await.is_err() {
                            return;
                        }
                    }
                });
            }
        }
    });
    (port, shown)
}

/// Bytes sent and received for each reading by a mosquitto on the site that passes on to another one, QoS 1,
/// what devices publish there: the message that they would send the hub.
async fn cost_bridged(readings: usize) -> [f64; 2] {
    let dir = tempfile::tempdir().unwrap();
    let [near, far] = ["near", "far"].map(|name| dir.path().join(name));
    for dir in [&near, &far] {
        std::fs::create_dir(dir).unwrap();
    }
    let far = Mosquitto::start(&far);
    let (proxy, counts) = counted(far.port).await;
    let bridge = format!(
        "connection uplink\naddress 127.0.0.1:{proxy}\nbridge_protocol_version mqttv50\ntopic # out 1\n\
         cleansession false\nmax_queued_messages 100000\n"
    );
    let near = Mosquitto::start_with(&near, &bridge);
    let consumer = Consumer::start(far.port).await;
    let options = MqttOptions::new("devices", "127.0.0.1", near.port);
    let (client, mut events) = AsyncClient::new(options, 16);
    tokio::spawn(async move { while events.poll().await.is_ok() {} });
    let count = || {
        let got = consumer.got();
        got.iter()
            .filter(|one| one.topic.ends_with("/data"))
            .count()
    };
    // The bridge is there once something has come through.
    until("the bridge", || {
        let _ = client.try_publish("telehub/barn/first/data", QoS::AtLeastOnce, false, "{}");
        count() > 0
    })
    .await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let before = [0, 1].map(|way| counts[way].load(Relaxed));
    let (already, mut state) = (count(), 1);
    let mut values: Vec<_> = (0..DEVICES)
        .map(|n| vec![20.0 + n as f64; readings])
        .collect();
    let batches = DEVICES * A_MINUTE * MINUTES;
    for n in 0..batches {
        let device = n % DEVICES;
        let pack = wander(&mut state, &mut values[device]);
        let message = json!({"seq": n / DEVICES + 1, "pack": pack}).to_string();
        let topic = format!("telehub/barn/sensor-{device:02}/data");
        client
            .publish(topic, QoS::AtLeastOnce, false, message)
            .await
            .unwrap();
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
    until("all of it", || count() == already + batches).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    [0, 1].map(|way| (counts[way].load(Relaxed) - before[way]) as f64 / (batches * readings) as f64)
}

#[tokio::test]
#[ignore = "a measurement"]
async fn what_a_bridge_costs_on_the_wire() {
    println!("| mosquitto, bridge | readings in a batch | sent, received |");
    println!("|---|---|---|");
    for readings in [1, 10] {
        let [sent, received] = cost_bridged(readings).await;
        println!("| JSON, MQTT 5 | {readings} | {sent:.1}, {received:.2} |");
    }
}
