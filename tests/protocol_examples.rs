//! The examples of docs/protocol.md and README.md, run as they are pasted, against the daemon and
//! a broker.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "support/daemon.rs"]
mod daemon;
#[path = "support/python.rs"]
mod python;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use daemon::{Consumer, Device, Hub, Mosquitto, config, free_port, until};
use serde_json::{Value, json};

fn first(page: &str, language: &str, holds: &str) -> String {
    let fence = format!("```{language}\n");
    let mut blocks = page
        .split(&fence)
        .skip(1)
        .map(|part| part.split("```").next().unwrap());
    blocks
        .find(|block| block.contains(holds))
        .unwrap()
        .to_owned()
}

/// The environment of tests/foreign.rs; made once, whichever test comes first.
fn python() -> Result<PathBuf, String> {
    static PYTHON: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let packages = ["websockets>=14", "cbor2>=5"];
    let made = || python::python("foreign-venv", &packages, "websockets, cbor2");
    PYTHON.get_or_init(made).clone()
}

fn skip(why: &str) {
    python::not_tested("an example", why);
}

/// The values that the broker has, by stream and number.
fn values(consumer: &Consumer) -> BTreeMap<(String, u64), Vec<Value>> {
    let mut values: BTreeMap<_, Vec<Value>> = BTreeMap::new();
    for got in consumer.got() {
        let Some((_, stream, seq)) = got.batch() else {
            continue;
        };
        let value = got.json()["pack"][0]["v"].clone();
        let all = values.entry((stream, seq)).or_default();
        if !all.contains(&value) {
            all.push(value);
        }
    }
    values
}

#[tokio::test]
async fn the_smallest_correct_device_loses_nothing_over_kills_of_the_hub() {
    const COUNT: u64 = 1_000;
    let python = match python() {
        Ok(python) => python,
        Err(why) => return skip(&why),
    };
    let dir = tempfile::tempdir().unwrap();
    let broker = Mosquitto::start(dir.path());
    let consumer = Consumer::start(broker.port).await;
    let listen = format!("listen = \"127.0.0.1:{}\"\nauth", free_port());
    let settings = config(dir.path(), broker.port, "");
    let settings = settings.replacen("listen = \"127.0.0.1:0\"\nauth", &listen, 1);
    let mut hub = Hub::start(dir.path(), &settings).await;
    hub.until_uplink("connected").await;
    let script = dir.path().join("device.py");
    let page = include_str!("../docs/protocol.md");
    std::fs::write(&script, first(page, "python", "STREAM")).unwrap();
    let mut device = Command::new(python)
        .arg(&script)
        .arg(format!("ws://{}/v1/devices/py-2", hub.address))
        .arg(COUNT.to_string())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    for kill in 1..=3 {
        until("some batches", || values(&consumer).len() >= kill * 200).await;
        hub.kill();
        hub = Hub::start(dir.path(), &settings).await;
    }
    let mut status = None;
    until("the device's end", || {
        status = device.try_wait().unwrap();
        status.is_some()
    })
    .await;
    assert!(status.unwrap().success());
    until("every reading", || {
        values(&consumer).len() >= usize::try_from(COUNT).unwrap()
    })
    .await;
    let values = values(&consumer);
    assert!(
        values.values().all(|all| all.len() == 1),
        "a number stands for one content"
    );
    let mut all: Vec<u64> = values
        .values()
        .map(|all| all[0].as_f64().unwrap() as u64)
        .collect();
    all.sort_unstable();
    assert!(all.into_iter().eq(1..=COUNT));
}

#[tokio::test]
async fn the_readme_and_the_post_example_work_as_they_are_pasted() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Mosquitto::start(dir.path());
    let consumer = Consumer::start(broker.port).await;
    let hub = Hub::start(dir.path(), &config(dir.path(), broker.port, "")).await;
    hub.until_uplink("connected").await;
    let here = |text: String| text.replace("127.0.0.1:8787", &hub.address.to_string());
    match python() {
        Err(why) => skip(&why),
        Ok(python) => {
            let script = here(first(include_str!("../README.md"), "python", "hello"));
            let ran = tokio::task::spawn_blocking(move || {
                Command::new(python).args(["-c", &script]).output().unwrap()
            });
            let ran = ran.await.unwrap();
            assert!(
                ran.status.success(),
                "{}",
                String::from_utf8_lossy(&ran.stderr)
            );
            until("ten batches", || values(&consumer).len() == 10).await;
        }
    }
    let page = include_str!("../docs/protocol.md");
    let text = here(first(page, "console", "curl"));
    let (command, answer) = text
        .strip_prefix("$ ")
        .unwrap()
        .split_once("'\n204")
        .unwrap();
    assert_eq!(answer, "\n");
    let command = format!("{command}'");
    let ran = tokio::task::spawn_blocking(move || {
        Command::new("sh").args(["-c", &command]).output().unwrap()
    });
    let ran = ran.await.unwrap();
    if ran.status.code() == Some(127) {
        return skip("curl is not installed");
    }
    assert_eq!(String::from_utf8_lossy(&ran.stdout).trim(), "204");
    until("the posted batch", || {
        values(&consumer).contains_key(&("boot-17".to_owned(), 1))
    })
    .await;
}

fn reading(seq: u64, value: u64) -> Value {
    json!({"data": {"seq": seq, "pack": [{"n": "x", "v": value}]}})
}

#[tokio::test]
async fn a_counter_that_begins_again_under_its_old_stream_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Mosquitto::start(dir.path());
    let consumer = Consumer::start(broker.port).await;
    let settings = config(dir.path(), broker.port, "");
    let hub = Hub::start(dir.path(), &settings).await;
    hub.until_uplink("connected").await;
    let mut device = Device::connect(hub.address, "node").await;
    assert_eq!(device.hello("node").await, 0);
    for seq in 1..=5 {
        device.send(reading(seq, seq)).await;
    }
    device.acked(5).await;
    drop(device);
    // It does not look at welcome.seq, and counts from 1.
    let mut device = Device::connect(hub.address, "node").await;
    assert_eq!(device.hello("node").await, 5);
    for seq in 1..=5 {
        device.send(reading(seq, 100 + seq)).await;
        let answer = device.receive().await.unwrap();
        assert_eq!(answer["reject"]["code"], "bad-seq", "{answer}");
        assert_eq!(answer["reject"]["seq"], seq);
    }
    // The old ones, sent again, are known; the new ones have their place.
    device.send(reading(5, 5)).await;
    device.acked(5).await;
    for seq in 6..=10 {
        device.send(reading(seq, 95 + seq)).await;
    }
    device.acked(10).await;
    until("all ten", || values(&consumer).len() == 10).await;
    for ((_, seq), all) in values(&consumer) {
        let value = if seq <= 5 { seq } else { 95 + seq };
        assert_eq!(all, [json!(value)]);
    }
    drop(device);
    // A stop in order keeps the marks; nothing at or below them is acked unseen.
    assert!(hub.stop().await.success());
    let hub = Hub::start(dir.path(), &settings).await;
    let mut device = Device::connect(hub.address, "node").await;
    assert_eq!(device.hello("node").await, 10);
    device.send(reading(3, 777)).await;
    assert_eq!(device.receive().await.unwrap()["reject"]["code"], "bad-seq");
}
