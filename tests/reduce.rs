//! `[[reduce]]`: what a sensor says again and again is left out before the broker and the card, acked
//! all the same, and accounted for.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "support/daemon.rs"]
mod daemon;
#[path = "support/python.rs"]
mod python;

use std::path::Path;
use std::process::Command;

use daemon::{Consumer, Device, Hub, Mosquitto, config, post, until};
use serde_json::{Value, json};

const RULES: &str = "[[reduce]]\ndevice = \"cow\"\nname = \"temp\"\ndeadband = 0.5\n";

async fn start(dir: &Path, broker: u16) -> (Hub, Device) {
    let hub = Hub::start(dir, &config(dir, broker, RULES)).await;
    hub.until_uplink("connected").await;
    let mut device = Device::connect(hub.address, "cow").await;
    device.hello("s").await;
    (hub, device)
}

/// A batch of a temperature, for which there is a rule, and possibly of a door, for which there is
/// none.
fn batch(seq: u64, temp: f64, door: Option<bool>) -> Value {
    let mut pack = vec![json!({"n": "temp", "u": "Cel", "v": temp})];
    pack.extend(door.map(|open| json!({"n": "door", "vb": open})));
    json!({"data": {"seq": seq, "pack": pack}})
}

fn records(consumer: &Consumer) -> Vec<(String, u64, Vec<String>)> {
    let got = consumer.got();
    let batches = got.iter().filter_map(|message| {
        let (_, _, seq) = message.batch()?;
        let pack = message.json()["pack"].as_array().unwrap().clone();
        let names = pack
            .iter()
            .map(|record| record["n"].as_str().unwrap().to_owned());
        Some((message.kind().to_owned(), seq, names.collect()))
    });
    batches.collect()
}

fn row(kind: &str, seq: u64, names: &[&str]) -> (String, u64, Vec<String>) {
    let names = names.iter().map(|&name| name.to_owned());
    (kind.to_owned(), seq, names.collect())
}

#[tokio::test]
async fn what_is_not_worth_a_publish_is_acked_and_left_out_live_and_in_an_outage_and_told_at_the_stop()
 {
    let dir = tempfile::tempdir().unwrap();
    let mut broker = Mosquitto::start(dir.path());
    let consumer = Consumer::start(broker.port).await;
    let (hub, mut device) = start(dir.path(), broker.port).await;
    for (seq, temp, door) in [
        (1, 20.0, Some(false)),
        (2, 20.3, Some(false)),
        (3, 20.4, None),
        (4, 20.6, None),
        (5, 20.7, None),
    ] {
        device.send(batch(seq, temp, door)).await;
        device.acked(seq).await;
    }
    broker.stop();
    hub.until_uplink("down").await;
    for (seq, temp, door) in [
        (6, 20.8, None),
        (7, 22.0, Some(true)),
        (8, 22.1, Some(true)),
    ] {
        device.send(batch(seq, temp, door)).await;
        device.acked(seq).await;
    }
    // The same again is acked again, other content under its number is refused.
    device.send(batch(6, 20.8, None)).await;
    device.acked(8).await;
    device.send(batch(6, 20.9, None)).await;
    assert_eq!(device.rejected().await, (Some(6), "bad-seq".to_owned()));
    let path = "/v1/devices/cow/data?stream=posts&seq=";
    for seq in 1..=2 {
        let answer = post(
            hub.address,
            &format!("{path}{seq}"),
            None,
            "[{\"n\":\"temp\",\"u\":\"Cel\",\"v\":22}]",
        );
        assert!(answer.contains(" 204 "), "{answer}");
    }
    broker.start_again();
    hub.until_uplink("connected").await;
    hub.until_drained().await;
    let expected = [
        row("data", 1, &["temp", "door"]),
        row("data", 2, &["door"]),
        row("data", 4, &["temp"]),
        row("history", 7, &["temp", "door"]),
        row("history", 8, &["door"]),
    ];
    until("all that is kept", || {
        records(&consumer).len() == expected.len()
    })
    .await;
    assert_eq!(records(&consumer), expected);

    // A device that lost its connection is told what is safe, what was left out included.
    drop(device);
    let mut device = Device::connect(hub.address, "cow").await;
    assert_eq!(device.hello("s").await, 8);
    let reduce = hub.status("/reduce");
    let counted = json!({"kept_readings": 3, "left_out_readings": 7, "shortened_batches": 2, "left_out_batches": 5});
    assert_eq!(reduce, counted);
    let (_, metrics) = hub.get("/metrics");
    for line in [
        "telehub_reduce_readings_total{outcome=\"kept\"} 3",
        "telehub_reduce_readings_total{outcome=\"left-out\"} 7",
        "telehub_reduce_batches_total{outcome=\"left-out\"} 5",
        "telehub_reduce_batches_total{outcome=\"shortened\"} 2",
    ] {
        assert!(metrics.lines().any(|one| one == line), "no {line}");
    }
    assert!(hub.stop().await.success());
    let gaps = || -> Vec<Value> {
        let got = consumer.got();
        let gaps = got.iter().filter(|message| message.kind() == "gap");
        gaps.map(daemon::Received::json).collect()
    };
    until("the totals", || gaps().len() == 2).await;
    let mut totals = gaps();
    totals.sort_by_key(|gap| gap["stream"].as_str().unwrap().to_owned());
    let of = |gap: &Value| {
        ["stream", "from", "to", "batches", "readings", "reason"].map(|key| gap[key].clone())
    };
    assert_eq!(
        of(&totals[0]),
        [
            json!("posts"),
            json!(1),
            json!(2),
            json!(2),
            json!(2),
            json!("reduced")
        ]
    );
    assert_eq!(
        of(&totals[1]),
        [
            json!("s"),
            json!(2),
            json!(8),
            json!(3),
            json!(5),
            json!("reduced")
        ]
    );
    judge(&consumer);
}

/// The yardstick for consumers finds everything explained.
fn judge(consumer: &Consumer) {
    let packages = [
        "paho-mqtt>=2",
        "cbor2>=5",
        "zstandard>=0.22",
        "jsonschema>=4",
        "psycopg[binary]>=3",
    ];
    let modules = "paho.mqtt, cbor2, zstandard, jsonschema, psycopg";
    let python = match python::python("consumers-venv", &packages, modules) {
        Ok(python) => python,
        Err(why) => return python::not_tested("verify.py on reduced batches", &why),
    };
    let got = consumer.got();
    let messages = got
        .iter()
        .filter(|message| matches!(message.kind(), "data" | "history" | "gap"));
    let messages: Vec<_> = messages
        .map(|message| json!([message.topic, String::from_utf8_lossy(&message.payload)]))
        .collect();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let program = "import json, sys; from telehub_consumer import address, decode; from verify import Report\n\
                   report = Report()\n\
                   for topic, payload in json.loads(sys.argv[1]):\n \
                   report.take([(address(topic, 'telehub'), decode(payload.encode()))])\n\
                   print(json.dumps(report.summary()))";
    let output = Command::new(python)
        .args(["-c", program, &Value::from(messages).to_string()])
        .env("PYTHONPATH", root.join("examples/consumers"))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let summary: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (&summary["holes"], &summary["left_out_by_rules"]),
        (&json!([]), &json!(7))
    );
    assert_eq!(
        (&summary["out_of_order"], &summary["duplicates"]),
        (&json!(0), &json!(0))
    );
}

#[tokio::test]
async fn a_total_that_the_broker_cannot_be_told_at_the_stop_is_told_by_the_next_run() {
    let dir = tempfile::tempdir().unwrap();
    let mut broker = Mosquitto::start(dir.path());
    let consumer = Consumer::start(broker.port).await;
    let (hub, mut device) = start(dir.path(), broker.port).await;
    for seq in 1..=3 {
        device.send(batch(seq, 20.0, None)).await;
        device.acked(seq).await;
    }
    broker.stop();
    hub.until_uplink("down").await;
    assert!(hub.stop().await.success());
    let format = std::fs::read_to_string(dir.path().join("spool/format")).unwrap();
    assert_eq!(format.trim(), "telehub spool 3");
    broker.start_again();
    let hub = Hub::start(dir.path(), &config(dir.path(), broker.port, RULES)).await;
    until("the total", || {
        consumer.last("telehub/barn/cow/gap").is_some()
    })
    .await;
    let total = consumer.last("telehub/barn/cow/gap").unwrap();
    assert_eq!(
        (&total["from"], &total["to"], &total["batches"]),
        (&json!(2), &json!(3), &json!(2))
    );
    let mut device = Device::connect(hub.address, "cow").await;
    assert_eq!(device.hello("s").await, 3);
    // After a start every series begins anew.
    device.send(batch(4, 20.0, None)).await;
    device.acked(4).await;
    until("the first one of this run", || {
        records(&consumer).len() == 2
    })
    .await;
    assert!(hub.stop().await.success());
}

#[tokio::test]
async fn without_a_rule_nothing_is_left_out_and_nothing_is_said_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Mosquitto::start(dir.path());
    let consumer = Consumer::start(broker.port).await;
    let hub = Hub::start(dir.path(), &config(dir.path(), broker.port, "")).await;
    hub.until_uplink("connected").await;
    let mut device = Device::connect(hub.address, "cow").await;
    device.hello("s").await;
    for seq in 1..=5 {
        device.send(batch(seq, 20.0, None)).await;
        device.acked(seq).await;
    }
    until("all of them", || records(&consumer).len() == 5).await;
    let (_, status) = hub.get("/api/status");
    assert!(!status.contains("reduce"), "{status}");
    assert!(hub.stop().await.success());
    assert!(consumer.got().iter().all(|message| message.kind() != "gap"));
}
