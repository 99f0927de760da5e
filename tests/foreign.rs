//! Devices and consumers that nobody here wrote the libraries of: `tests/foreign/client.py` and
//! `lamp.py` with websockets and cbor2, `ask.py` with paho-mqtt, all from PyPI, in virtual environments
//! under the build directory.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "support/daemon.rs"]
mod daemon;
#[path = "support/python.rs"]
mod python;
#[path = "support/registry.rs"]
mod registry;

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use daemon::{Consumer, Hub, Mosquitto, config, until};
use serde_json::json;

const PACKAGES: [&str; 2] = ["websockets>=14", "cbor2>=5"];

const COMMAND_PACKAGES: [&str; 3] = ["websockets>=14", "cbor2>=5", "paho-mqtt>=2.1"];

#[tokio::test]
async fn a_foreign_client_holds_the_whole_conversation() {
    let python = match python::python("foreign-venv", &PACKAGES, "websockets, cbor2") {
        Ok(python) => python,
        Err(why) => return python::not_tested("the foreign client", &why),
    };
    let dir = tempfile::tempdir().unwrap();
    let broker = Mosquitto::start(dir.path());
    let consumer = Consumer::start(broker.port).await;
    let hub = Hub::start(dir.path(), &config(dir.path(), broker.port, "")).await;
    hub.until_uplink("connected").await;
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/foreign/client.py");
    let base = format!("ws://{}", hub.address);
    let client = tokio::task::spawn_blocking(move || {
        Command::new(python)
            .args([script, &base, "py-1"])
            .output()
            .unwrap()
    });
    let output = client.await.unwrap();
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "{out}{err}\n{:#?}", hub.log());

    let numbers = [1, 2, 5, 7, 8];
    until("every numbered batch", || {
        consumer.batches().len() == numbers.len()
    })
    .await;
    for seq in numbers {
        assert_eq!(
            consumer.batches()[&("py-1".into(), "boot-1".into(), seq)],
            1
        );
    }
    let got = consumer.got();
    let of = |seq: Option<u64>| {
        let all = got
            .iter()
            .filter(|got| got.kind() == "data")
            .map(daemon::Received::json);
        all.into_iter()
            .find(|json| json["seq"].as_u64() == seq)
            .unwrap()
    };
    let expected = json!([
        {"n": "py:temp", "u": "Cel", "v": 21.5, "t": 1.7e9},
        {"n": "py:hum", "u": "%RH", "v": 40, "t": 1_700_000_001.0},
        {"n": "py:label", "u": "Cel", "vs": "kitchen \u{2603}", "t": 1.7e9},
        {"n": "py:door", "u": "Cel", "vb": true, "t": 1.7e9},
        {"n": "py:raw", "u": "Cel", "vd": "AP8", "t": 1.7e9},
    ]);
    assert_eq!(of(Some(1))["pack"], expected);
    assert_eq!(of(None)["pack"][0]["n"], "py:unnumbered");
}

/// A consumer asks by MQTT 5, a device answers, and neither of them is of this project.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn foreign_clients_at_both_ends_of_a_command_understand_each_other() {
    let modules = "websockets, cbor2, paho.mqtt.client";
    let python = match python::python("foreign-command-venv", &COMMAND_PACKAGES, modules) {
        Ok(python) => python,
        Err(why) => return python::not_tested("foreign clients of commands", &why),
    };
    let dir = tempfile::tempdir().unwrap();
    let registry = dir.path().join("devices.toml");
    let rights = "commands = [\"set-*\", \"fail\", \"cut\", \"leave\"]";
    std::fs::write(&registry, registry::registry(&[("py-lamp", rights)])).unwrap();
    let broker = Mosquitto::start(dir.path());
    let extra =
        "version = \"5\"\n[commands]\nenabled = true\nresponse_prefixes = [\"app/answers\"]\n";
    let auth = format!("auth = \"token\"\nregistry = {registry:?}");
    let text = config(dir.path(), broker.port, extra).replace("auth = \"open\"", &auth);
    let hub = Hub::start(dir.path(), &text).await;
    let listens = || {
        hub.log()
            .iter()
            .any(|line| line.contains("subscribed to commands"))
    };
    until("the hub's subscription", listens).await;

    let scripts = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/foreign");
    let mut lamp = Command::new(&python)
        .arg(format!("{scripts}/lamp.py"))
        .args([&format!("ws://{}", hub.address), "py-lamp", "py-lamp"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut ready = String::new();
    let mut lines = BufReader::new(lamp.stdout.take().unwrap());
    tokio::task::block_in_place(|| lines.read_line(&mut ready)).unwrap();
    assert_eq!(ready.trim(), "ready");
    let port = broker.port.to_string();
    let asked = tokio::task::block_in_place(|| {
        let mut ask = Command::new(&python);
        ask.arg(format!("{scripts}/ask.py"))
            .args([&port, "py-lamp"]);
        ask.output().unwrap()
    });
    if !asked.status.success() {
        let _ = lamp.kill();
    }
    let lamp = tokio::task::block_in_place(|| lamp.wait_with_output()).unwrap();
    let said = |output: &std::process::Output| String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        asked.status.success() && lamp.status.success(),
        "{}{}\n{:#?}",
        said(&asked),
        said(&lamp),
        hub.log()
    );
    let mut carried_out = String::new();
    lines.read_line(&mut carried_out).unwrap();
    assert_eq!(
        carried_out.trim(),
        "carried out: set-level set-level fail cut leave"
    );
}
