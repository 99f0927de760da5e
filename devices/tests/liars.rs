//! Devices that lie about commands, against a whole hub: they answer for others, late, twice, and with
//! what is no answer. Whoever asked gets what the contract names, and nobody else pays.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "../../tests/support/daemon.rs"]
mod daemon;

use std::collections::{BTreeMap, BTreeSet};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use daemon::{Consumer, Device, Hub, Mosquitto, config, program, until};
use rumqttc::{AsyncClient, MqttOptions, QoS};
use serde_json::{Value, json};

const FINAL: [&str; 6] = ["done", "failed", "refused", "expired", "timeout", "unknown"];

/// Liars, and how long they lie.
const LIARS: usize = 3;
const DURATION: &str = "14s";

struct Rig {
    dir: tempfile::TempDir,
    _broker: Mosquitto,
    consumer: Consumer,
    asker: AsyncClient,
    hub: Hub,
    tokens: BTreeMap<String, String>,
}

impl Rig {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let registry = dir.path().join("devices.toml");
        let liars = (0..LIARS).map(|n| format!("liar-{n}"));
        let mut tokens = BTreeMap::new();
        for id in liars.chain(["lamp".to_owned()]) {
            let added = Command::new(program())
                .args(["device", "add", &id, "--command", "on", "--registry"])
                .arg(&registry)
                .output()
                .unwrap();
            assert!(added.status.success(), "{added:?}");
            let token = String::from_utf8(added.stdout).unwrap();
            tokens.insert(id, token.trim().to_owned());
        }
        let lines: String = tokens
            .iter()
            .map(|(id, token)| format!("{id} {token}\n"))
            .collect();
        std::fs::write(dir.path().join("tokens"), lines).unwrap();
        let broker = Mosquitto::start(dir.path());
        let consumer = Consumer::start(broker.port).await;
        let (asker, mut events) =
            AsyncClient::new(MqttOptions::new("asker", "127.0.0.1", broker.port), 64);
        tokio::spawn(async move { while events.poll().await.is_ok() {} });
        let auth = format!("auth = \"token\"\nregistry = {registry:?}");
        let text = config(dir.path(), broker.port, "[commands]\nenabled = true\n")
            .replace("auth = \"open\"", &auth);
        let hub = Hub::start(dir.path(), &text).await;
        let rig = Self {
            dir,
            _broker: broker,
            consumer,
            asker,
            hub,
            tokens,
        };
        until("the hub's subscription", || {
            rig.hub
                .log()
                .iter()
                .any(|line| line.contains("subscribed to commands"))
        })
        .await;
        rig
    }

    fn lie(&self) -> Child {
        Command::new(env!("CARGO_BIN_EXE_devices"))
            .args([
                "rogue",
                "liar",
                "--duration",
                DURATION,
                "--seed",
                "7",
                "--report-json",
            ])
            .args(["--count", &LIARS.to_string()])
            .args(["--hub", &format!("ws://{}", self.hub.address)])
            .arg("--tokens")
            .arg(self.dir.path().join("tokens"))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap()
    }

    async fn ask(&self, device: &str, id: &str) {
        let payload = json!({"id": id, "timeout": 1}).to_string();
        let topic = format!("telehub/barn/{device}/command/on");
        self.asker
            .publish(topic, QoS::AtLeastOnce, false, payload)
            .await
            .unwrap();
    }

    /// What was said of commands for this device, by id.
    fn said(&self, device: &str) -> BTreeMap<String, Vec<Value>> {
        let prefix = format!("telehub/barn/{device}/result/");
        let mut said: BTreeMap<String, Vec<Value>> = BTreeMap::new();
        for got in self.consumer.got() {
            if got.topic.starts_with(&prefix) {
                let answer = got.json();
                said.entry(answer["id"].as_str().unwrap().to_owned())
                    .or_default()
                    .push(answer);
            }
        }
        said
    }

    fn metric(&self, name: &str) -> f64 {
        let (_, text) = self.hub.get("/metrics");
        let line = text
            .lines()
            .find(|line| line.starts_with(&format!("{name} ")));
        line.unwrap().rsplit_once(' ').unwrap().1.parse().unwrap()
    }
}

/// The lamp is honest: it carries out each command once, and sends data all the while.
async fn be_honest(
    mut lamp: Device,
    end: tokio::sync::oneshot::Receiver<()>,
) -> (u64, Vec<String>) {
    let (mut sent, mut acked, mut ids) = (0, 0, Vec::new());
    let mut end = std::pin::pin!(end);
    let mut tick = tokio::time::interval(Duration::from_millis(20));
    loop {
        tokio::select! {
            _ = &mut end, if acked == sent => return (acked, ids),
            _ = tick.tick(), if acked == sent => {
                sent += 1;
                lamp.data(sent).await;
            }
            message = lamp.receive() => {
                let message = message.expect("the lamp stays connected");
                if let Some(seq) = message["ack"]["seq"].as_u64() {
                    acked = seq;
                } else if let Some(id) = message["command"]["id"].as_str() {
                    ids.push(id.to_owned());
                    let result = json!({"id": id, "name": "on", "ok": true, "value": "the lamp's"});
                    lamp.send(json!({ "result": result })).await;
                } else {
                    assert!(message["ack"]["result"].is_string(), "{message}");
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_lies_about_commands_is_answered_by_the_contract_and_costs_nobody_else_anything() {
    let rig = Rig::start().await;
    let mut lamp = Device::with_token(rig.hub.address, "lamp", &rig.tokens["lamp"]).await;
    lamp.hello("s").await;
    let (stop, end) = tokio::sync::oneshot::channel();
    let honest = tokio::spawn(be_honest(lamp, end));
    let liars = rig.lie();
    // The same ids for all: what one is asked, another may answer. They are those that liars guess.
    let mut asked = 0;
    let mut report = None;
    let mut liars = Some(tokio::task::spawn_blocking(|| {
        liars.wait_with_output().unwrap()
    }));
    for round in 0.. {
        for device in ["lamp", "liar-0", "liar-1", "liar-2"] {
            let id = if round < 9 {
                format!("{}", round + 1)
            } else {
                format!("r{round}")
            };
            rig.ask(device, &id).await;
        }
        asked += 1;
        tokio::time::sleep(Duration::from_millis(700)).await;
        if liars.as_ref().unwrap().is_finished() {
            let output = liars.take().unwrap().await.unwrap();
            report = Some(serde_json::from_slice::<Value>(&output.stdout).unwrap());
            break;
        }
    }
    let report = report.unwrap();
    // Everything has come to its end: 1 s for the answer, 2 s for a device to come back.
    let is_final = |answer: &Value| {
        let state = answer["state"].as_str().unwrap();
        FINAL.contains(&state) && answer.get("late").is_none()
    };
    for device in ["lamp", "liar-0", "liar-1", "liar-2"] {
        until(
            &format!("the end of all that was asked of {device}"),
            || {
                let said = rig.said(device);
                let ended = said.values().filter(|all| all.iter().any(is_final));
                ended.count() >= asked
            },
        )
        .await;
    }
    let _ = stop.send(());
    let (acked, carried_out) = honest.await.unwrap();
    assert!(acked > 50, "{acked}");

    // The lamp answered for itself alone, and once.
    let lamp = rig.said("lamp");
    assert_eq!(lamp.len(), asked, "{lamp:#?}");
    for (id, answers) in &lamp {
        let finals: Vec<_> = answers.iter().filter(|one| is_final(one)).collect();
        assert_eq!(finals.len(), 1, "{id}: {answers:#?}");
        assert_eq!(
            (&finals[0]["state"], &finals[0]["value"]),
            (&json!("done"), &json!("the lamp's"))
        );
        assert!(
            answers.iter().all(|one| one.get("late").is_none()),
            "{answers:#?}"
        );
    }
    let once: BTreeSet<_> = carried_out.iter().collect();
    assert_eq!((once.len(), carried_out.len()), (asked, asked));

    // What a liar was asked ended once, and was corrected once at most; what nobody asked it was told
    // once, as late.
    let (mut lates, mut accepted) = (0, 0);
    for device in ["liar-0", "liar-1", "liar-2"] {
        for (id, answers) in rig.said(device) {
            let finals = answers.iter().filter(|one| is_final(one)).count();
            let late = answers.iter().filter(|one| one["late"] == true).count();
            let was_asked = id.len() < 4 && (id.starts_with('r') || id.len() == 1);
            assert_eq!(
                finals,
                usize::from(was_asked),
                "{device} {id}: {answers:#?}"
            );
            // A liar may have answered before it was asked, and again after the end.
            assert!(
                late <= 1 + usize::from(was_asked),
                "{device} {id}: {answers:#?}"
            );
            lates += late;
            accepted += usize::from(was_asked);
        }
    }
    assert_eq!(accepted, LIARS * asked);
    assert_eq!(
        rig.metric("telehub_commands_late_results_total"),
        lates as f64
    );
    assert!(lates > 0 && rig.metric("telehub_commands_stray_results_total") > 0.0);

    // And the liars heard what was wrong.
    let count = |what: &str, start: &str| -> u64 {
        let counts = report[what].as_object().unwrap();
        let fits = counts.iter().filter(|(key, _)| key.starts_with(start));
        fits.map(|(_, count)| count.as_u64().unwrap()).sum()
    };
    assert_eq!(report["violations"], json!({}), "{report}");
    assert!(count("rejects", "malformed") > 0, "{report}");
    assert!(
        count("rejects", "too-large") > 0 && count("closes", "1009") > 0,
        "{report}"
    );
    assert!(report["commands"].as_u64() > Some(0) && report["results"].as_u64() > Some(0));
    assert_eq!(rig.hub.status("/uplink/state"), "connected");
    assert_eq!(rig.hub.complaints(), Vec::<String>::new());
    // The log says it once a connection, and a device's rejects twenty times a minute at most.
    let log = rig.hub.log();
    let lines = |what: &str| log.iter().filter(|line| line.contains(what)).count() as u64;
    let passed_over = lines("a result is passed over");
    assert!(passed_over > 0 && passed_over <= report["connections"].as_u64().unwrap());
    assert!(
        lines("message rejected") <= 2 * 20 * LIARS as u64,
        "{}",
        lines("message rejected")
    );
    assert!(rig.hub.stop().await.success());
}
