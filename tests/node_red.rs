//! examples/consumers/node-red: the flow, run by Node-RED beside a real broker and hub; what was sent while
//! Node-RED was away comes too. Installs Node-RED with npm; where that is not possible it is not tested.
//! `TELEHUB_NODE_RED=DIR`: where it is installed already (`DIR/node_modules/node-red`).
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "support/daemon.rs"]
mod daemon;
#[path = "support/python.rs"]
mod python;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use daemon::{Device, Hub, Mosquitto, config, free_port, until};
use serde_json::{Value, json};

/// The one that this was written with; it takes Node 18 and later.
const NODE_RED: &str = "node-red@4.1.14";

/// The program, installed.
fn node_red() -> Result<PathBuf, String> {
    let home = std::env::var_os("TELEHUB_NODE_RED").map_or_else(
        || Path::new(env!("CARGO_TARGET_TMPDIR")).join("node-red"),
        PathBuf::from,
    );
    let program = home.join("node_modules/node-red/red.js");
    if !program.exists() {
        let mut npm = Command::new("npm");
        npm.args([
            "install",
            "--no-audit",
            "--no-fund",
            "--loglevel=error",
            NODE_RED,
        ]);
        python::run(npm.arg("--prefix").arg(&home))?;
    }
    Ok(program)
}

struct NodeRed {
    process: Child,
    port: u16,
}

impl NodeRed {
    fn start(program: &Path, dir: &Path, broker: u16) -> Self {
        let flow = include_str!("../examples/consumers/node-red/readings.json");
        let here = flow.replace("\"localhost\"", "\"127.0.0.1\"");
        let here = here.replace("\"port\": \"1883\"", &format!("\"port\": \"{broker}\""));
        assert!(here.contains(&format!("\"{broker}\"")));
        std::fs::create_dir_all(dir).unwrap();
        std::fs::write(dir.join("readings.json"), here).unwrap();
        let settings = "module.exports = { flowFile: 'readings.json', uiHost: '127.0.0.1', credentialSecret: false, \
                        telemetry: { enabled: false }, disableEditor: true };";
        std::fs::write(dir.join("settings.js"), settings).unwrap();
        let port = free_port();
        let process = Command::new("node")
            .arg(program)
            .args([
                "--settings",
                "settings.js",
                "--userDir",
                ".",
                "--port",
                &port.to_string(),
            ])
            .current_dir(dir)
            .env("HOME", dir)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self { process, port }
    }

    /// The body of an answer, if there is one.
    fn get(&self, path: &str) -> Option<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).ok()?;
        stream
            .set_read_timeout(Some(Duration::from_secs(10)))
            .ok()?;
        write!(stream, "GET {path} HTTP/1.0\r\nConnection: close\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        head.contains(" 200 ").then(|| body.to_owned())
    }

    fn shown(&self) -> Option<Value> {
        serde_json::from_str(&self.get("/telehub/readings.json")?).ok()
    }

    /// The number of the batch that the newest temperature came in.
    fn newest(&self) -> u64 {
        let shown = self.shown().unwrap_or_default();
        shown["readings"]["barn/cow/temp"]["seq"]
            .as_u64()
            .unwrap_or(0)
    }

    fn count(&self, name: &str) -> u64 {
        let shown = self.shown().unwrap_or_default();
        shown["readings"][name]["count"].as_u64().unwrap_or(0)
    }
}

impl Drop for NodeRed {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

async fn send(device: &mut Device, seq: u64, value: f64) {
    let pack = json!([{"n": "temp", "u": "Cel", "v": value, "t": 1_700_000_000 + seq}, {"n": "on", "vb": true}]);
    device
        .send(json!({"data": {"seq": seq, "pack": pack}}))
        .await;
    device.acked(seq).await;
}

#[tokio::test]
async fn the_flow_shows_each_reading_once_and_what_came_while_it_was_away() {
    let program = match node_red() {
        Ok(program) => program,
        Err(why) => return python::not_tested("examples/consumers/node-red", &why),
    };
    let dir = tempfile::tempdir().unwrap();
    let mut broker = Mosquitto::start(dir.path());
    let hub = Hub::start(dir.path(), &config(dir.path(), broker.port, "")).await;
    hub.until_uplink("connected").await;
    let mut device = Device::connect(hub.address, "cow").await;
    device.hello("s").await;
    let home = dir.path().join("node-red");
    let flow = NodeRed::start(&program, &home, broker.port);
    // Until it has its session at the broker, nothing is kept for it.
    let mut seq = 0;
    while flow.count("barn/cow/temp") == 0 {
        seq += 1;
        send(&mut device, seq, 20.0).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    until("what was sent so far", || flow.newest() == seq).await;
    let missed = seq - flow.count("barn/cow/temp");

    // History and live data, and then some while nobody reads.
    broker.stop();
    hub.until_uplink("down").await;
    for _ in 0..10 {
        seq += 1;
        send(&mut device, seq, 21.0).await;
    }
    broker.start_again();
    hub.until_uplink("connected").await;
    hub.until_drained().await;
    until("history", || flow.count("barn/cow/temp") == seq - missed).await;
    drop(flow);
    let away = seq;
    for _ in 0..10 {
        seq += 1;
        send(&mut device, seq, 22.5).await;
    }
    let flow = NodeRed::start(&program, &home, broker.port);
    until("what came while it was away", || {
        flow.count("barn/cow/temp") == seq - away
    })
    .await;
    let shown = flow.shown().unwrap();
    let temp = &shown["readings"]["barn/cow/temp"];
    assert_eq!(
        (&temp["value"], &temp["unit"]),
        (&json!(22.5), &json!("Cel"))
    );
    assert_eq!(
        (&temp["time"], &temp["seq"]),
        (&json!((1_700_000_000 + seq) * 1_000), &json!(seq))
    );
    assert_eq!(shown["readings"]["barn/cow/on"]["value"], json!(true));
    let page = flow.get("/telehub").unwrap();
    assert!(
        page.contains("<td>barn&#x2F;cow&#x2F;temp<td>22.5<td>Cel<td>2023-11-14T"),
        "{page}"
    );
    assert!(hub.stop().await.success());
}
