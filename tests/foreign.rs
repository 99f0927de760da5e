//! A device that nobody here wrote the library of: `tests/foreign/client.py` with websockets and
//! cbor2 from PyPI, in a virtual environment under the build directory.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "support/daemon.rs"]
mod daemon;
#[path = "support/python.rs"]
mod python;

use std::process::Command;

use daemon::{Consumer, Hub, Mosquitto, config, until};
use serde_json::json;

const PACKAGES: [&str; 2] = ["websockets>=14", "cbor2>=5"];

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
