//! Commands through the whole daemon and a real mosquitto, in both versions of MQTT, with devices
//! that go away and come back, and with everything killed in between.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "support/daemon.rs"]
mod daemon;
#[path = "support/metrics.rs"]
mod metrics;
#[path = "support/registry.rs"]
mod registry;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use daemon::{Consumer, Device, Hub, Mosquitto, config, until};
use metrics::Scrape;
use registry::registry;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::PublishProperties;
use rumqttc::v5::{AsyncClient, Event, Incoming, MqttOptions};
use serde_json::{Value, json};

/// Devices of the registry, and what their entries allow.
const DEVICES: [(&str, &str); 3] = [
    ("lamp", "commands = [\"set-*\", \"blink\"]"),
    ("pump", "commands = [\"*\"]"),
    ("mute", ""),
];

struct Rig {
    dir: tempfile::TempDir,
    broker: Mosquitto,
    consumer: Consumer,
    asker: Asker,
    hub: Hub,
    version: &'static str,
}

/// What an asker got on a topic of its own.
#[derive(Debug, Clone)]
struct Answer {
    topic: String,
    correlation: Option<Vec<u8>>,
    said: Value,
}

/// Somebody who speaks MQTT 5, whatever the hub speaks.
struct Asker {
    client: AsyncClient,
    got: Arc<Mutex<Vec<Answer>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Asker {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Asker {
    async fn start(port: u16) -> Self {
        let mut options = MqttOptions::new("asker", "127.0.0.1", port);
        options.set_clean_start(true);
        let (client, mut events) = AsyncClient::new(options, 64);
        client.subscribe("app/#", QoS::AtLeastOnce).await.unwrap();
        let got = Arc::new(Mutex::new(Vec::new()));
        let ready = Arc::new(Mutex::new(false));
        let (into, subscribed, again) = (got.clone(), ready.clone(), client.clone());
        let task = tokio::spawn(async move {
            loop {
                match events.poll().await {
                    Ok(Event::Incoming(Incoming::Publish(publish))) => {
                        let properties = publish.properties.unwrap_or_default();
                        into.lock().unwrap().push(Answer {
                            topic: String::from_utf8(publish.topic.to_vec()).unwrap(),
                            correlation: properties.correlation_data.map(|data| data.to_vec()),
                            said: serde_json::from_slice(&publish.payload).unwrap(),
                        });
                    }
                    Ok(Event::Incoming(Incoming::SubAck(_))) => *subscribed.lock().unwrap() = true,
                    Ok(_) => {}
                    Err(_) => {
                        let _ = again.try_subscribe("app/#", QoS::AtLeastOnce);
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                }
            }
        });
        until("the asker's subscription", || *ready.lock().unwrap()).await;
        Self { client, got, task }
    }

    /// What is published below `app/` arrives here (again).
    async fn listens(&self) {
        self.got.lock().unwrap().clear();
        let seen = || {
            let got = self.got.lock().unwrap();
            got.iter().any(|answer| answer.topic == "app/here")
        };
        while !seen() {
            let client = &self.client;
            let _ = client.try_publish("app/here", QoS::AtLeastOnce, false, "{}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn ask(&self, device: &str, name: &str, payload: impl Into<Vec<u8>>) {
        self.publish(device, name, payload, false, PublishProperties::default())
            .await;
    }

    async fn publish(
        &self,
        device: &str,
        name: &str,
        payload: impl Into<Vec<u8>>,
        retain: bool,
        properties: PublishProperties,
    ) {
        let topic = format!("telehub/barn/{device}/command/{name}");
        let payload = payload.into();
        self.client
            .publish_with_properties(topic, QoS::AtLeastOnce, retain, payload, properties)
            .await
            .unwrap();
    }
}

fn text(dir: &std::path::Path, broker: u16, version: &str, enabled: bool) -> String {
    let registry = dir.join("devices.toml");
    let extra = format!(
        "version = \"{version}\"\n[commands]\nenabled = {enabled}\n\
         response_prefixes = [\"app/answers\"]\n"
    );
    let auth = format!("auth = \"token\"\nregistry = {registry:?}");
    let text = config(dir, broker, &extra).replace("auth = \"open\"", &auth);
    if enabled {
        text
    } else {
        text.replace("response_prefixes = [\"app/answers\"]\n", "")
    }
}

impl Rig {
    async fn start(version: &'static str) -> Self {
        Self::with(version, true).await
    }

    async fn with(version: &'static str, enabled: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("devices.toml"), registry(&DEVICES)).unwrap();
        let broker = Mosquitto::start(dir.path());
        let consumer = Consumer::start(broker.port).await;
        let asker = Asker::start(broker.port).await;
        let hub = Hub::start(dir.path(), &text(dir.path(), broker.port, version, enabled)).await;
        let rig = Self {
            dir,
            broker,
            consumer,
            asker,
            hub,
            version,
        };
        rig.hub.until_uplink("connected").await;
        if enabled {
            rig.listens(1).await;
        }
        rig
    }

    /// The hub has subscribed to commands for the n-th time.
    async fn listens(&self, times: usize) {
        let listens = || {
            let log = self.hub.log();
            log.iter()
                .filter(|line| line.contains("subscribed to commands"))
                .count()
                >= times
        };
        until("the hub's subscription", listens).await;
    }

    /// The hub's status has it whether it takes commands.
    async fn says_of_commands(&self, takes: bool) {
        let says = || {
            let status = self.consumer.last("telehub/barn/status");
            status.is_some_and(|status| status["commands"] == takes)
        };
        until("the hub's status", says).await;
    }

    async fn start_again(&mut self) {
        let text = text(self.dir.path(), self.broker.port, self.version, true);
        self.hub = Hub::start(self.dir.path(), &text).await;
        self.hub.until_uplink("connected").await;
        self.listens(1).await;
    }

    /// A device that has said hello.
    async fn device(&self, id: &str, hello: Value) -> Device {
        let mut device = Device::with_token(self.hub.address, id, id).await;
        device.send(json!({ "hello": hello })).await;
        assert!(device.receive().await.unwrap()["welcome"].is_object());
        device
    }

    /// Answers on the topics of results, the states that these name.
    fn results(&self, device: &str, states: &[&str]) -> Vec<Value> {
        let prefix = format!("telehub/barn/{device}/result/");
        let got = self.consumer.got();
        let own = got.iter().filter(|got| got.topic.starts_with(&prefix));
        own.map(daemon::Received::json)
            .filter(|said| states.iter().any(|state| said["state"] == *state))
            .collect()
    }

    fn metric(&self, series: &str) -> f64 {
        Scrape::of(&self.hub.get("/metrics").1).value(series)
    }

    async fn result(&self, device: &str, state: &str) -> Value {
        until(&format!("{state} of {device}"), || {
            !self.results(device, &[state]).is_empty()
        })
        .await;
        let results = self.results(device, &[state]);
        assert_eq!(results.len(), 1, "{results:#?}");
        results[0].clone()
    }
}

const FINAL: [&str; 6] = ["done", "failed", "refused", "expired", "timeout", "unknown"];

async fn command(device: &mut Device) -> Value {
    let message = device.receive().await.expect("a command");
    assert!(message["command"].is_object(), "{message}");
    message["command"].clone()
}

async fn answer(device: &mut Device, id: &Value, value: Value) {
    device
        .send(json!({"result": {"id": id, "name": "set-level", "ok": true, "value": value}}))
        .await;
}

/// The hub says that the result of this command is safe.
async fn is_safe(device: &mut Device, id: &Value) {
    let message = device.receive().await.expect("an ack");
    assert_eq!(message, json!({ "ack": { "result": id } }));
}

async fn goes_the_whole_way(version: &'static str) {
    let rig = Rig::start(version).await;
    rig.says_of_commands(true).await;
    let mut lamp = rig.device("lamp", json!({})).await;
    rig.asker
        .ask("lamp", "set-level", r#"{"id": "a1", "args": {"level": 3}}"#)
        .await;
    let asked = command(&mut lamp).await;
    assert_eq!(
        (&asked["id"], &asked["name"]),
        (&json!("a1"), &json!("set-level"))
    );
    assert_eq!(asked["args"], json!({"level": 3}));
    assert!(asked["timeout"].as_f64().unwrap() <= 30.0 && asked.get("again").is_none());
    let part = json!({"id": "a1", "ok": true, "value": 1, "more": true});
    lamp.send(json!({ "result": part })).await;
    answer(&mut lamp, &asked["id"], json!({"level": 3})).await;
    is_safe(&mut lamp, &asked["id"]).await;
    let done = rig.result("lamp", "done").await;
    assert_eq!(
        (&done["ok"], &done["executed"]),
        (&json!(true), &json!("yes"))
    );
    assert_eq!(
        (&done["value"], &done["attempt"]),
        (&json!({"level": 3}), &json!(1))
    );
    assert!(done["time"].as_f64() >= done["received"].as_f64());
    rig.result("lamp", "accepted").await;
    assert_eq!(rig.result("lamp", "progress").await["value"], 1);
    // Again the same: the same answer, and the device is not asked.
    rig.asker
        .ask("lamp", "set-level", r#"{"id": "a1", "args": {"level": 3}}"#)
        .await;
    until("the answer again", || {
        rig.results("lamp", &["done"]).len() == 2
    })
    .await;
    rig.asker.ask("lamp", "set-level", r#"{"id": "a1"}"#).await;
    assert_eq!(rig.result("lamp", "refused").await["error"], "conflict");
    // In CBOR, without an id.
    let payload = serde_cbor::to_vec(&json!({"args": [1.5]})).unwrap();
    rig.asker.ask("lamp", "blink", payload).await;
    let asked = command(&mut lamp).await;
    assert_eq!(asked["args"], json!([1.5]));
    assert!(asked["id"].as_str().unwrap().ends_with("-1"), "{asked}");
    assert_eq!(rig.hub.complaints(), Vec::<String>::new());
    let log = rig.hub.log().join("\n");
    let audit = log
        .lines()
        .find(|line| line.contains("command ended") && line.contains("a1"));
    let audit = audit.unwrap_or_else(|| panic!("no audit line: {log}"));
    for part in [
        "device=lamp",
        "name=set-level",
        "outcome=\"done\"",
        "command/set-level",
    ] {
        assert!(audit.contains(part), "{part}: {audit}");
    }
    assert!(
        !log.contains("level\": 3") && !log.contains("level\":3"),
        "{log}"
    );
}

#[tokio::test]
async fn a_command_goes_the_whole_way_by_mqtt_5() {
    goes_the_whole_way("5").await;
}

#[tokio::test]
async fn a_command_goes_the_whole_way_by_mqtt_3_1_1() {
    goes_the_whole_way("3.1.1").await;
}

#[tokio::test]
async fn an_asker_of_mqtt_5_gets_its_answer_where_it_wants_it_and_its_data_back() {
    let rig = Rig::start("5").await;
    let mut lamp = rig.device("lamp", json!({})).await;
    for (topic, there) in [
        ("app/answers/17", true),
        ("app/answersX", false),
        ("app/other", false),
    ] {
        let properties = PublishProperties {
            response_topic: Some(topic.to_owned()),
            correlation_data: Some(topic.as_bytes().to_vec().into()),
            ..PublishProperties::default()
        };
        rig.asker
            .publish("lamp", "set-level", "{}", false, properties)
            .await;
        let asked = command(&mut lamp).await;
        answer(&mut lamp, &asked["id"], json!(topic)).await;
        is_safe(&mut lamp, &asked["id"]).await;
        let here = || {
            let got = rig.asker.got.lock().unwrap();
            let done = got.iter().filter(|answer| answer.said["state"] == "done");
            done.filter(|answer| answer.topic == topic)
                .cloned()
                .collect::<Vec<_>>()
        };
        if there {
            until("the answer", || here().len() == 1).await;
            assert_eq!(here()[0].correlation.as_deref(), Some(topic.as_bytes()));
            assert!(rig.results("lamp", &FINAL).is_empty());
        } else {
            let own = || {
                rig.results("lamp", &["done"])
                    .iter()
                    .any(|said| said["value"] == topic)
            };
            until("the answer at the device's own topic", own).await;
            assert!(here().is_empty());
        }
    }
}

#[tokio::test]
async fn bad_input_has_its_answer_and_costs_nobody_anything() {
    for version in ["5", "3.1.1"] {
        let rig = Rig::start(version).await;
        let mut lamp = rig.device("lamp", json!({"stream": "s"})).await;
        let _mute = rig.device("mute", json!({})).await;
        let refused = |device: &'static str, id: Value| {
            let rig = &rig;
            async move {
                let own = || {
                    let results = rig.results(device, &["refused"]);
                    results.into_iter().find(|said| said["id"] == id)
                };
                until(&format!("the refusal of {id}"), || own().is_some()).await;
                own().unwrap()["error"].as_str().unwrap().to_owned()
            }
        };
        let large = json!({"id": "big", "args": "x".repeat(20_000)}).to_string();
        rig.asker.ask("lamp", "set-level", large).await;
        assert_eq!(refused("lamp", Value::Null).await, "too-large");
        // So large that it is not read at all.
        let huge = json!({"id": "huge", "args": "x".repeat(200_000)}).to_string();
        rig.asker.ask("lamp", "set-level", huge).await;
        rig.asker.ask("nobody", "set-level", r#"{"id": "1"}"#).await;
        assert_eq!(refused("nobody", json!("1")).await, "forbidden");
        rig.asker.ask("mute", "set-level", r#"{"id": "2"}"#).await;
        assert_eq!(refused("mute", json!("2")).await, "forbidden");
        rig.asker.ask("lamp", "reboot", r#"{"id": "3"}"#).await;
        assert_eq!(refused("lamp", json!("3")).await, "forbidden");
        rig.asker.ask("lamp", "set-level/x", r#"{"id": "4"}"#).await;
        assert_eq!(refused("lamp", json!("4")).await, "malformed");
        rig.asker.ask("pump", "on", r#"{"id": "5"}"#).await;
        assert_eq!(refused("pump", json!("5")).await, "offline");
        rig.asker
            .ask("lamp", "set-level", r#"{"id": "6", "timeout": 86400}"#)
            .await;
        assert_eq!(refused("lamp", json!("6")).await, "malformed");
        if version == "5" {
            let retained = r#"{"id": "7"}"#;
            let none = PublishProperties::default();
            rig.asker
                .publish("lamp", "set-level", retained, true, none)
                .await;
            assert_eq!(refused("lamp", json!("7")).await, "retained");
        }
        // Nobody was asked anything, data goes on, and so do commands.
        lamp.data(1).await;
        lamp.acked(1).await;
        rig.asker.ask("lamp", "set-level", r#"{"id": "8"}"#).await;
        assert_eq!(command(&mut lamp).await["id"], "8");
        assert_eq!(rig.hub.status("/uplink/state"), "connected");
        assert_eq!(rig.metric("telehub_commands_listening"), 1.0);
        for (outcome, times) in [("too-large", 1.0), ("forbidden", 3.0), ("offline", 1.0)] {
            let series = format!("telehub_commands_ended_total{{outcome=\"{outcome}\"}}");
            assert_eq!(rig.metric(&series), times, "{outcome}");
        }
        // What has no place for an answer, and a million of what has one.
        let nowhere = format!("x/{}", "y".repeat(300));
        rig.asker.ask("lamp", &nowhere, "{}").await;
        for n in 0..400 {
            rig.asker
                .ask("nobody", "on", format!(r#"{{"id": "{n}"}}"#))
                .await;
        }
        let all = "telehub_commands_received_total";
        until("all of them", || rig.metric(all) >= 400.0).await;
        assert_eq!(rig.metric("telehub_commands_unanswerable_total"), 1.0);
        assert!(rig.metric("telehub_commands_untold_total") > 0.0);
    }
}

#[tokio::test]
async fn a_retained_command_is_never_carried_out() {
    for version in ["5", "3.1.1"] {
        let mut rig = Rig::start(version).await;
        rig.hub.signal("TERM");
        rig.hub.ended().await;
        let none = PublishProperties::default();
        rig.asker
            .publish("lamp", "set-level", r#"{"id": "old"}"#, true, none)
            .await;
        rig.start_again().await;
        let mut lamp = rig.device("lamp", json!({})).await;
        rig.asker.ask("lamp", "set-level", r#"{"id": "new"}"#).await;
        assert_eq!(command(&mut lamp).await["id"], "new");
    }
}

#[tokio::test]
async fn a_device_that_goes_away_in_the_middle_tells_when_it_is_back_or_nobody_knows() {
    let rig = Rig::start("5").await;
    // It has done it, and says so later.
    let mut lamp = rig.device("lamp", json!({})).await;
    rig.asker.ask("lamp", "set-level", r#"{"id": "1"}"#).await;
    let asked = command(&mut lamp).await;
    drop(lamp);
    let mut lamp = rig.device("lamp", json!({})).await;
    answer(&mut lamp, &asked["id"], json!("back")).await;
    is_safe(&mut lamp, &asked["id"]).await;
    assert_eq!(rig.result("lamp", "done").await["value"], "back");
    // It has forgotten, and must not be asked a second time.
    rig.asker.ask("lamp", "set-level", r#"{"id": "2"}"#).await;
    command(&mut lamp).await;
    drop(lamp);
    let mut lamp = rig.device("lamp", json!({})).await;
    let unknown = rig.result("lamp", "unknown").await;
    assert_eq!(
        (&unknown["error"], &unknown["executed"]),
        (&json!("disconnected"), &json!("unknown"))
    );
    // What comes after that is told once, as late.
    for _ in 0..2 {
        answer(&mut lamp, &json!("2"), json!("late")).await;
        is_safe(&mut lamp, &json!("2")).await;
    }
    let late = || {
        let done = rig.results("lamp", &["done"]);
        done.iter().filter(|said| said["late"] == true).count()
    };
    until("the late result", || late() == 1).await;
    // It writes ids down, so that it may be asked again.
    let mut pump = rig.device("pump", json!({"remembers": 8})).await;
    rig.asker.ask("pump", "run", r#"{"id": "3"}"#).await;
    assert!(command(&mut pump).await.get("again").is_none());
    drop(pump);
    let mut pump = rig.device("pump", json!({"remembers": 8})).await;
    let again = command(&mut pump).await;
    assert_eq!((&again["id"], &again["again"]), (&json!("3"), &json!(true)));
    answer(&mut pump, &json!("3"), Value::Null).await;
    is_safe(&mut pump, &json!("3")).await;
    assert_eq!(rig.result("pump", "done").await["attempt"], 2);
    assert_eq!(rig.metric("telehub_commands_late_results_total"), 1.0);
    assert_eq!(rig.metric("telehub_commands_stray_results_total"), 1.0);
    assert_eq!(late(), 1);
}

/// Two devices have answered while the broker was away, and have been told that it is safe; then
/// the hub is killed. Whoever asked hears of it all the same, before the backlog.
async fn results_on_disk_outlive_the_hub(version: &'static str) {
    let mut rig = Rig::start(version).await;
    let mut lamp = rig.device("lamp", json!({"stream": "s"})).await;
    let mut pump = rig.device("pump", json!({})).await;
    rig.asker.ask("lamp", "set-level", r#"{"id": "1"}"#).await;
    let properties = PublishProperties {
        response_topic: Some("app/answers/17".to_owned()),
        correlation_data: Some(b"\x00mine".to_vec().into()),
        ..PublishProperties::default()
    };
    rig.asker
        .publish("pump", "run", r#"{"id": "2"}"#, false, properties)
        .await;
    let asked = [command(&mut lamp).await, command(&mut pump).await];
    rig.broker.stop();
    rig.hub.until_uplink("down").await;
    for seq in 1..=40 {
        lamp.data(seq).await;
    }
    lamp.acked(40).await;
    answer(&mut lamp, &asked[0]["id"], json!(7)).await;
    is_safe(&mut lamp, &asked[0]["id"]).await;
    answer(&mut pump, &asked[1]["id"], json!(8)).await;
    is_safe(&mut pump, &asked[1]["id"]).await;
    rig.hub.signal("KILL");
    rig.hub.ended().await;
    assert_eq!(spool(&rig, "stat")["results"], 2);
    let lines = spool_says(&rig, &["export"]);
    let exported = lines.lines().filter(|line| line.contains("\"result\""));
    assert_eq!(exported.count(), 2, "{lines}");
    assert!(spool_says(&rig, &["verify"]).contains("2 results of commands"));
    rig.broker.start_again();
    rig.asker.listens().await;
    rig.start_again().await;
    let done = rig.result("lamp", "done").await;
    assert_eq!((&done["id"], &done["value"]), (&json!("1"), &json!(7)));
    assert!(done.get("late").is_none());
    if version == "5" {
        let there = || {
            let got = rig.asker.got.lock().unwrap();
            let mut there = got.iter().filter(|one| one.topic == "app/answers/17");
            there.find(|one| one.said["state"] == "done").cloned()
        };
        until("the answer where it was wanted", || there().is_some()).await;
        let answer = there().unwrap();
        assert_eq!(answer.correlation.as_deref(), Some(&b"\x00mine"[..]));
        assert_eq!(answer.said["value"], 8);
    } else {
        assert_eq!(rig.result("pump", "done").await["value"], 8);
    }
    rig.hub.until_drained().await;
    let got = rig.consumer.got();
    let at = |kind: &str| got.iter().position(|one| one.topic.contains(kind));
    assert!(
        at("lamp/result/") < at("/history"),
        "not before the backlog"
    );
    // Nothing of it is left, and it does not come again.
    rig.hub.signal("TERM");
    rig.hub.ended().await;
    assert_eq!(spool(&rig, "stat")["results"], 0);
}

fn spool_says(rig: &Rig, what: &[&str]) -> String {
    let out = daemon::command()
        .arg("spool")
        .args(what)
        .arg("--config")
        .arg(rig.dir.path().join("telehub.toml"))
        .output()
        .unwrap();
    assert!(out.status.success(), "{out:?}");
    String::from_utf8(out.stdout).unwrap()
}

fn spool(rig: &Rig, what: &str) -> Value {
    serde_json::from_str(&spool_says(rig, &[what, "--json"])).unwrap()
}

#[tokio::test]
async fn a_result_is_acked_from_disk_while_the_broker_is_away_and_outlives_the_hub_by_mqtt_5() {
    results_on_disk_outlive_the_hub("5").await;
}

#[tokio::test]
async fn a_result_is_acked_from_disk_while_the_broker_is_away_and_outlives_the_hub_by_mqtt_3_1_1() {
    results_on_disk_outlive_the_hub("3.1.1").await;
}

#[tokio::test]
async fn what_the_hub_decides_at_its_stop_without_a_broker_is_told_by_the_next_run() {
    for version in ["5", "3.1.1"] {
        let mut rig = Rig::start(version).await;
        let mut lamp = rig.device("lamp", json!({})).await;
        rig.asker.ask("lamp", "set-level", r#"{"id": "1"}"#).await;
        command(&mut lamp).await;
        rig.broker.stop();
        rig.hub.until_uplink("down").await;
        rig.hub.signal("TERM");
        assert!(rig.hub.ended().await.success());
        rig.broker.start_again();
        rig.start_again().await;
        let unknown = rig.result("lamp", "unknown").await;
        assert_eq!(unknown["error"], "hub stopping");
    }
}

#[tokio::test]
async fn a_hub_killed_before_the_puback_gets_the_result_from_its_device_again() {
    for version in ["5", "3.1.1"] {
        let mut rig = Rig::start(version).await;
        let mut lamp = rig.device("lamp", json!({})).await;
        rig.asker.ask("lamp", "set-level", r#"{"id": "1"}"#).await;
        let asked = command(&mut lamp).await;
        rig.broker.signal("STOP");
        answer(&mut lamp, &asked["id"], json!(7)).await;
        // It is out once the hub has nothing else to publish.
        until("the result to be published", || {
            rig.hub.status("/uplink/in_flight").as_u64() > Some(0)
        })
        .await;
        rig.hub.signal("KILL");
        rig.hub.ended().await;
        rig.broker.signal("CONT");
        rig.start_again().await;
        let mut lamp = rig.device("lamp", json!({})).await;
        answer(&mut lamp, &asked["id"], json!(7)).await;
        is_safe(&mut lamp, &asked["id"]).await;
        let late = || {
            let done = rig.results("lamp", &["done"]);
            assert!(
                done.iter()
                    .all(|said| said["id"] == "1" && said["value"] == 7)
            );
            assert!(done.len() <= 2, "{done:?}");
            done.iter().any(|said| said["late"] == true)
        };
        until("the result", late).await;
    }
}

#[tokio::test]
async fn what_waits_in_a_hub_that_is_killed_is_never_carried_out() {
    let mut rig = Rig::start("5").await;
    rig.asker
        .ask("lamp", "set-level", r#"{"id": "1", "wait": 300}"#)
        .await;
    rig.result("lamp", "accepted").await;
    rig.hub.signal("KILL");
    rig.hub.ended().await;
    rig.start_again().await;
    let mut lamp = rig.device("lamp", json!({})).await;
    rig.asker.ask("lamp", "set-level", r#"{"id": "2"}"#).await;
    assert_eq!(command(&mut lamp).await["id"], "2");
    assert!(rig.results("lamp", &FINAL).is_empty());
}

#[tokio::test]
async fn a_hub_that_was_killed_takes_the_result_that_the_device_still_has() {
    let mut rig = Rig::start("5").await;
    let mut lamp = rig.device("lamp", json!({})).await;
    rig.asker.ask("lamp", "set-level", r#"{"id": "1"}"#).await;
    let asked = command(&mut lamp).await;
    rig.hub.signal("KILL");
    rig.hub.ended().await;
    rig.start_again().await;
    let mut lamp = rig.device("lamp", json!({})).await;
    answer(&mut lamp, &asked["id"], json!(7)).await;
    is_safe(&mut lamp, &asked["id"]).await;
    let done = rig.result("lamp", "done").await;
    assert_eq!((&done["late"], &done["value"]), (&json!(true), &json!(7)));
    // What nobody can publish is acked and counted.
    lamp.send(json!({"result": {"id": "x", "ok": true}})).await;
    is_safe(&mut lamp, &json!("x")).await;
    // And what is no result is refused by its id, or it would come for ever.
    lamp.send(json!({"result": {"id": "y", "ok": 1}})).await;
    let reject = lamp.receive().await.unwrap();
    assert_eq!(reject["reject"]["result"], "y", "{reject}");
}

#[tokio::test]
async fn a_hub_that_stops_says_what_was_not_done_and_what_nobody_knows() {
    let mut rig = Rig::start("5").await;
    let mut lamp = rig.device("lamp", json!({})).await;
    rig.asker.ask("lamp", "set-level", r#"{"id": "1"}"#).await;
    command(&mut lamp).await;
    rig.asker.ask("lamp", "set-level", r#"{"id": "2"}"#).await;
    until("the second to wait", || {
        rig.results("lamp", &["accepted"]).len() == 2
    })
    .await;
    rig.hub.signal("TERM");
    assert!(rig.hub.ended().await.success());
    let unknown = rig.result("lamp", "unknown").await;
    assert_eq!(
        (&unknown["id"], &unknown["error"]),
        (&json!("1"), &json!("hub stopping"))
    );
    let refused = rig.result("lamp", "refused").await;
    assert_eq!(
        (&refused["id"], &refused["executed"]),
        (&json!("2"), &json!("no"))
    );
    let status = rig.consumer.last("telehub/barn/status").unwrap();
    assert_eq!(status["state"], "offline");
}

#[tokio::test]
async fn rights_that_are_withdrawn_count_at_once() {
    let rig = Rig::start("5").await;
    let mut lamp = rig.device("lamp", json!({})).await;
    let registry = rig.dir.path().join("devices.toml");
    let text = std::fs::read_to_string(&registry).unwrap();
    let new = registry.with_extension("new");
    std::fs::write(&new, text.replace("commands = [\"set-*\", \"blink\"]", "")).unwrap();
    std::fs::rename(new, &registry).unwrap();
    let refused = || {
        rig.results("lamp", &["refused"])
            .iter()
            .any(|said| said["error"] == "forbidden")
    };
    for n in 0..100 {
        if refused() {
            break;
        }
        rig.asker
            .ask(
                "lamp",
                "set-level",
                format!(r#"{{"id": "{n}", "idempotent": true}}"#),
            )
            .await;
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    until("the refusal", refused).await;
    // Its connection stays: it has not lost its token.
    lamp.send(json!({"data": {"seq": 1, "pack": [{"n": "x", "v": 1}]}}))
        .await;
    loop {
        let message = lamp.receive().await.expect("still connected");
        if message["ack"]["seq"] == 1 {
            break;
        }
    }
}

#[tokio::test]
async fn a_hub_without_commands_hears_none() {
    let rig = Rig::with("5", false).await;
    rig.says_of_commands(false).await;
    let mut lamp = rig.device("lamp", json!({"stream": "s"})).await;
    rig.asker.ask("lamp", "set-level", r#"{"id": "1"}"#).await;
    answer(&mut lamp, &json!("1"), Value::Null).await;
    // The first thing that the device hears is that its answer is unasked.
    let message = lamp.receive().await.expect("connected");
    assert_eq!(message["reject"]["code"], "unknown-kind");
    assert_eq!(message["reject"]["result"], "1");
    lamp.data(1).await;
    lamp.acked(1).await;
    assert!(rig.results("lamp", &FINAL).is_empty());
    assert_eq!(rig.hub.complaints(), Vec::<String>::new());
}
