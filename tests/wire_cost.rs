//! What a reading costs on the wire: bytes of MQTT that the hub sends and receives, by its own account
//! (`uplink.sent_bytes`), on a mosquitto with MQTT 5; in each format, live and from the spool, in batches
//! of one and of ten, packed and not. docs/benchmark.md has a table of it.
//!
//! `cargo test --test wire_cost -- --ignored --nocapture`; what `[[reduce]]` rules save:
//! `cargo test --test wire_cost rules -- --ignored --nocapture`
#![allow(clippy::unwrap_used, missing_docs, clippy::print_stdout)]

#[path = "support/daemon.rs"]
mod daemon;

use std::time::Duration;

use daemon::{Device, Hub, Mosquitto, config, until};
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
                let mut pack: Vec<Value> = Vec::new();
                for (name, value) in NAMES.iter().zip(&mut *values) {
                    self.state = self
                        .state
                        .wrapping_mul(0x5851_f42d_4c95_7f2d)
                        .wrapping_add(1);
                    *value += (self.state >> 40) as f64 / f64::from(1 << 24) * 0.4 - 0.2;
                    let rounded = (*value * 100.0).round() / 100.0;
                    pack.push(json!({"n": name, "u": "Cel", "v": rounded}));
                }
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
    const MINUTES: usize = 30;
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
    let kept = hub.status("/reduce/kept_readings").as_f64();
    assert!(hub.stop().await.success());
    (cost, kept.map_or(1.0, |kept| kept / count))
}

#[tokio::test]
#[ignore = "a measurement of minutes"]
async fn what_rules_save_on_the_wire() {
    println!("| rule | readings in a batch | packs | kept | sent, received |");
    println!("|---|---|---|---|---|");
    for (name, rules) in [
        ("none", ""),
        (
            "deadband = 0.3",
            "[[reduce]]\ndevice = \"*\"\ndeadband = 0.3\n",
        ),
        (
            "deadband = 0.5",
            "[[reduce]]\ndevice = \"*\"\ndeadband = 0.5\n",
        ),
        (
            "deadband = \"2%\"",
            "[[reduce]]\ndevice = \"*\"\ndeadband = \"2%\"\n",
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
