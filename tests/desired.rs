//! Desired and reported states through the whole daemon and a real mosquitto.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "support/daemon.rs"]
mod daemon;
#[path = "support/metrics.rs"]
mod metrics;
#[path = "support/registry.rs"]
mod registry;

use daemon::{Consumer, Device, Hub, Mosquitto, config, until};
use metrics::Scrape;
use registry::registry;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::{AsyncClient, MqttOptions};
use serde_json::{Value, json};

const DEVICES: [(&str, &str); 3] = [
    ("lamp", "desired = true"),
    ("pump", "desired = true"),
    ("mute", "commands = [\"*\"]"),
];

struct Rig {
    dir: tempfile::TempDir,
    broker: Mosquitto,
    consumer: Consumer,
    client: AsyncClient,
    polls: tokio::task::JoinHandle<()>,
    hub: Hub,
    text: String,
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.polls.abort();
    }
}

impl Rig {
    async fn start(version: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("devices.toml");
        std::fs::write(&file, registry(&DEVICES)).unwrap();
        let broker = Mosquitto::start(dir.path());
        let consumer = Consumer::start(broker.port).await;
        let mut options = MqttOptions::new("wisher", "127.0.0.1", broker.port);
        options.set_clean_start(true);
        let (client, mut events) = AsyncClient::new(options, 64);
        let polls = tokio::spawn(async move {
            loop {
                if events.poll().await.is_err() {
                    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                }
            }
        });
        let extra = format!("version = \"{version}\"\n[commands]\nenabled = true\n");
        let text = config(dir.path(), broker.port, &extra).replace(
            "auth = \"open\"",
            &format!("auth = \"token\"\nregistry = {file:?}"),
        );
        let hub = Hub::start(dir.path(), &text).await;
        let rig = Self {
            dir,
            broker,
            consumer,
            client,
            polls,
            hub,
            text,
        };
        rig.follows("lamp", 1).await;
        rig.follows("pump", 1).await;
        rig
    }

    /// The hub has subscribed to a device's desired state for the n-th time.
    async fn follows(&self, device: &str, times: usize) {
        let topic = format!("filter=telehub/barn/{device}/desired");
        let quoted = format!("filter=\"telehub/barn/{device}/desired\"");
        let follows = || {
            let log = self.hub.log();
            let lines = log.iter().filter(|line| {
                line.contains("follows a desired state")
                    && (line.contains(&topic) || line.contains(&quoted))
            });
            lines.count() >= times
        };
        until(&format!("following {device}"), follows).await;
    }

    async fn wish(&self, device: &str, payload: impl Into<Vec<u8>>) {
        let topic = format!("telehub/barn/{device}/desired");
        self.client
            .publish(topic, QoS::AtLeastOnce, true, payload.into())
            .await
            .unwrap();
    }

    async fn device(&self, id: &str) -> Device {
        let mut device = Device::with_token(self.hub.address, id, id).await;
        device.send(json!({"hello": {"stream": "s"}})).await;
        assert!(device.receive().await.unwrap()["welcome"].is_object());
        device
    }

    async fn says(&self, device: &str, state: Value) {
        let topic = format!("telehub/barn/{device}/reported");
        until(&format!("{state} of {device}"), || {
            self.consumer.last(&topic) == Some(state.clone())
        })
        .await;
    }

    fn metric(&self, series: &str) -> f64 {
        Scrape::of(&self.hub.get("/metrics").1).value(series)
    }

    fn warnings(&self, words: &str) -> usize {
        let complaints = self.hub.complaints();
        complaints
            .iter()
            .filter(|line| line.contains(words))
            .count()
    }
}

/// The next message, which is a desired state.
async fn desired(device: &mut Device) -> Value {
    let message = device.receive().await.expect("a desired state");
    assert!(message["desired"].is_object(), "{message}");
    message["desired"].clone()
}

/// Nothing came before the answer to this batch.
async fn heard_nothing(device: &mut Device, seq: u64) {
    device.data(seq).await;
    device.acked(seq).await;
}

async fn reaches_the_device_and_is_reported(version: &str) {
    let mut rig = Rig::start(version).await;
    rig.wish("lamp", r#"{"level": 3, "ramp": 2.5}"#).await;
    let mut lamp = rig.device("lamp").await;
    assert_eq!(desired(&mut lamp).await, json!({"level": 3, "ramp": 2.5}));
    lamp.send(json!({"reported": {"level": 2}})).await;
    rig.says("lamp", json!({"level": 2})).await;
    // The same again is no change; another one is.
    rig.wish("lamp", r#"{"ramp":2.5,"level":3}"#).await;
    rig.wish("lamp", r#"{"level": 4}"#).await;
    assert_eq!(desired(&mut lamp).await, json!({"level": 4}));
    // It stands on the broker for whoever comes later, and what came last counts.
    for level in 0..50 {
        lamp.send(json!({"reported": {"level": level}})).await;
    }
    rig.says("lamp", json!({"level": 49})).await;
    let later = Consumer::start(rig.broker.port).await;
    until("what is retained", || {
        later.last("telehub/barn/lamp/reported") == Some(json!({"level": 49}))
    })
    .await;
    // A hub that was killed knows it from the broker, and so does a device that comes back.
    drop(lamp);
    rig.hub.signal("KILL");
    rig.hub.ended().await;
    rig.hub = Hub::start(rig.dir.path(), &rig.text).await;
    rig.follows("lamp", 1).await;
    let mut lamp = rig.device("lamp").await;
    assert_eq!(desired(&mut lamp).await, json!({"level": 4}));
    // Taken away: whoever is here keeps it, whoever comes is told nothing.
    rig.wish("lamp", "").await;
    rig.wish("pump", "{}").await;
    let mut pump = rig.device("pump").await;
    assert_eq!(desired(&mut pump).await, json!({}));
    heard_nothing(&mut lamp, 1).await;
    drop(lamp);
    let mut lamp = rig.device("lamp").await;
    heard_nothing(&mut lamp, 2).await;
    assert!(rig.metric("telehub_desired_given_total") >= 2.0);
    assert_eq!(rig.hub.complaints(), Vec::<String>::new());
}

#[tokio::test]
async fn a_desired_state_reaches_its_device_and_what_it_reports_stands_on_the_broker_by_mqtt_5() {
    reaches_the_device_and_is_reported("5").await;
}

#[tokio::test]
async fn a_desired_state_reaches_its_device_and_what_it_reports_stands_on_the_broker_by_mqtt_3_1_1()
{
    reaches_the_device_and_is_reported("3.1.1").await;
}

#[tokio::test]
async fn what_is_no_desired_state_is_passed_over_and_costs_nobody_else_anything() {
    for version in ["5", "3.1.1"] {
        let rig = Rig::start(version).await;
        let mut lamp = rig.device("lamp").await;
        let mut mute = rig.device("mute").await;
        rig.wish("lamp", r#"{"level": 1}"#).await;
        assert_eq!(desired(&mut lamp).await, json!({"level": 1}));
        let large = json!({"a": "x".repeat(5_000)}).to_string();
        let huge = json!({"a": "x".repeat(200_000)}).to_string();
        let deep = format!("{{\"a\":{}1{}}}", "[".repeat(200), "]".repeat(200));
        for payload in [
            "nonsense",
            "[1]",
            "null",
            "{\"a\":NaN}",
            "{\"a\":1,\"a\":2}",
            large.as_str(),
            huge.as_str(),
            deep.as_str(),
        ] {
            rig.wish("lamp", payload).await;
        }
        rig.wish("lamp", [0xff, 0xfe]).await;
        // Of nobody, and of one whose entry says nothing of it.
        rig.wish("nobody", r#"{"level": 1}"#).await;
        rig.wish("mute", r#"{"level": 1}"#).await;
        let skipped = |why: &str| {
            rig.metric(&format!(
                "telehub_desired_skipped_total{{reason=\"{why}\"}}"
            ))
        };
        until("the skips", || {
            skipped("malformed") >= 7.0 && skipped("too-large") >= 1.0
        })
        .await;
        assert_eq!(rig.warnings("a desired state is passed over"), 1);
        // The one before them stays, and the next good one goes through.
        rig.wish("lamp", r#"{"level": 2}"#).await;
        assert_eq!(desired(&mut lamp).await, json!({"level": 2}));
        heard_nothing(&mut lamp, 1).await;
        heard_nothing(&mut mute, 1).await;
        assert_eq!(rig.hub.status("/uplink/state"), "connected");
    }
}

#[tokio::test]
async fn what_is_no_report_or_not_allowed_is_refused_or_counted() {
    let rig = Rig::start("5").await;
    let mut lamp = rig.device("lamp").await;
    let reject = |message: Value| (message["reject"]["code"].clone(), message);
    for body in [json!([1]), json!(7), json!(null), json!("on")] {
        lamp.send(json!({ "reported": body })).await;
        let (code, message) = reject(lamp.receive().await.unwrap());
        assert_eq!(code, "malformed", "{message}");
    }
    lamp.send(json!({"reported": {"a": "x".repeat(5_000)}}))
        .await;
    let (code, message) = reject(lamp.receive().await.unwrap());
    assert_eq!(code, "too-large", "{message}");
    lamp.send(json!({"reported": {"ok": true}})).await;
    rig.says("lamp", json!({"ok": true})).await;
    // One whose entry says nothing of it is not sent away for it.
    let mut mute = rig.device("mute").await;
    for _ in 0..20 {
        mute.send(json!({"reported": {"ok": true}})).await;
    }
    heard_nothing(&mut mute, 1).await;
    assert_eq!(rig.metric("telehub_reported_skipped_total"), 20.0);
    assert_eq!(rig.consumer.last("telehub/barn/mute/reported"), None);
    assert_eq!(rig.metric("telehub_reported_published_total"), 1.0);
}

#[tokio::test]
async fn what_is_reported_while_the_broker_is_away_is_told_when_it_is_back_the_last_of_it() {
    for version in ["5", "3.1.1"] {
        let mut rig = Rig::start(version).await;
        let mut lamp = rig.device("lamp").await;
        rig.broker.stop();
        rig.hub.until_uplink("down").await;
        for level in 0..30 {
            lamp.send(json!({"reported": {"level": level}})).await;
        }
        heard_nothing(&mut lamp, 1).await;
        rig.consumer.take();
        rig.broker.start_again();
        rig.says("lamp", json!({"level": 29})).await;
        let told = rig.consumer.got();
        let told = told
            .iter()
            .filter(|got| got.topic.ends_with("/lamp/reported"));
        let told: Vec<_> = told.map(daemon::Received::json).collect();
        assert!(
            told.iter().all(|state| *state == json!({"level": 29})),
            "{told:?}"
        );
    }
}

#[tokio::test]
async fn a_change_in_the_registry_is_followed_while_everybody_is_there() {
    let rig = Rig::start("5").await;
    rig.wish("mute", r#"{"level": 1}"#).await;
    let mut mute = rig.device("mute").await;
    heard_nothing(&mut mute, 1).await;
    let registry = rig.dir.path().join("devices.toml");
    let set = |change: &str| {
        let output = daemon::command()
            .args(["device", "set", "mute", change, "--registry"])
            .arg(&registry)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
    };
    set("--desired");
    let listed = daemon::command()
        .args(["device", "list", "--registry"])
        .arg(&registry)
        .output()
        .unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    assert_eq!(listed.matches("  desired").count(), 3, "{listed}");
    assert_eq!(desired(&mut mute).await, json!({"level": 1}));
    set("--no-desired");
    // It may report no more, once that is known.
    let noticed = async {
        while rig.metric("telehub_reported_skipped_total") == 0.0 {
            mute.send(json!({"reported": {"on": true}})).await;
        }
    };
    tokio::time::timeout(daemon::PATIENCE, noticed)
        .await
        .expect("the change is followed");
    rig.wish("mute", r#"{"level": 2}"#).await;
    heard_nothing(&mut mute, 2).await;
}
