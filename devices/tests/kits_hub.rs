//! Every kit against the real hub, with a real broker behind it: each reading arrives once.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "../../tests/support/daemon.rs"]
mod daemon;
#[path = "support/kits.rs"]
mod support;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::process::Command;

use daemon::{Consumer, Hub, Mosquitto, config, until};
use support::{c_kit, kits, node_modules, not_tested, python};

/// Readings of each.
const COUNT: u64 = 50;

/// A device: its id, its program, and what that needs in its environment.
type Kit = (&'static str, Vec<OsString>, Vec<(&'static str, OsString)>);

fn all() -> Vec<Kit> {
    let mut all: Vec<Kit> = Vec::new();
    let probe = |path: &str| OsString::from(kits().join(path));
    match python() {
        Err(why) => not_tested("Python against the hub", &why),
        Ok(python) => {
            let path = vec![("PYTHONPATH", probe("python/src"))];
            let program = |path| vec![python.clone().into(), probe(path)];
            all.push(("python", program("python/tests/probe.py"), path));
            all.push(("websockets", program("foreign/websockets_cbor2.py"), vec![]));
            all.push(("micropython", program("micropython/tests/probe.py"), vec![]));
        }
    }
    match node_modules() {
        Err(why) => not_tested("JavaScript against the hub", &why),
        Ok(modules) => {
            let program = |path| vec!["node".into(), probe(path)];
            let ws = modules.join("node_modules/ws/wrapper.mjs").into();
            all.push((
                "javascript",
                program("javascript/tests/probe.js"),
                vec![("TELEHUB_WS", ws)],
            ));
            let modules = vec![("TELEHUB_MODULES", modules.into())];
            all.push(("ws", program("foreign/ws_cborx.mjs"), modules));
        }
    }
    match c_kit() {
        Err(why) => not_tested("C against the hub", &why),
        Ok(out) => {
            let out = out.unwrap();
            all.push(("c", vec![out.join("probe").into()], vec![]));
            all.push(("arduino", vec![out.join("probe-arduino").into()], vec![]));
        }
    }
    all
}

#[tokio::test]
async fn each_reading_of_every_kit_arrives_once() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Mosquitto::start(dir.path());
    let consumer = Consumer::start(broker.port).await;
    let hub = Hub::start(dir.path(), &config(dir.path(), broker.port, "")).await;
    hub.until_uplink("connected").await;
    let kits = tokio::task::spawn_blocking(all).await.unwrap();
    for (id, program, environment) in &kits {
        let (id, program, environment) = (*id, program.clone(), environment.clone());
        let url = format!("ws://{}", hub.address);
        let state = dir.path().join(id);
        std::fs::create_dir(&state).unwrap();
        let device = move || {
            Command::new(&program[0])
                .args(&program[1..])
                .envs(environment)
                .env("TELEHUB_URL", url)
                .env("TELEHUB_ID", id)
                .env("TELEHUB_TOKEN", "none")
                .env("TELEHUB_TIME_SCALE", "1")
                .env("TELEHUB_FIRST", "1")
                .env("TELEHUB_COUNT", COUNT.to_string())
                .env("TELEHUB_INTERVAL", "0")
                .env("TELEHUB_QUEUE", "20")
                .env("TELEHUB_STATE", state)
                .output()
                .unwrap()
        };
        let output = tokio::task::spawn_blocking(device).await.unwrap();
        let out = String::from_utf8_lossy(&output.stdout).into_owned();
        let err = String::from_utf8_lossy(&output.stderr);
        assert!(out.contains("done"), "{id}: {out}{err}\n{:#?}", hub.log());
        assert!(!out.contains("drop"), "{id}: {out}");
    }
    let readings = || {
        let mut readings: BTreeMap<(String, u64), usize> = BTreeMap::new();
        for got in consumer.got().iter().filter(|got| got.kind() == "data") {
            let json = got.json();
            for record in json["pack"].as_array().unwrap() {
                assert_eq!(record["n"], "count");
                let device = json["device"].as_str().unwrap().to_owned();
                let value = record["v"].as_f64().unwrap() as u64;
                *readings.entry((device, value)).or_default() += 1;
            }
        }
        readings
    };
    until("every reading", || {
        readings().len() == kits.len() * COUNT as usize
    })
    .await;
    assert!(
        readings().values().all(|times| *times == 1),
        "{:?}",
        readings()
    );
}
