//! A real mosquitto with rules and limits: what it says in MQTT 5, and what it hides in 3.1.1.
#![allow(clippy::unwrap_used, missing_docs, unreachable_pub)]

#[allow(dead_code)]
#[path = "support/broker.rs"]
mod broker;
#[allow(dead_code)]
#[path = "support/uplink_rig.rs"]
mod uplink_rig;

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use broker::soon;
use bytes::Bytes;
use telehub::config::MqttVersion;
use telehub::reading::{Encoding, Item, Lane};
use telehub::status::board::ProbeState;
use telehub::uplink::{Cause, Event, Settings, Submission};
use uplink_rig::{Rig, batch, settings};

struct Mosquitto {
    child: Child,
    port: u16,
    _dir: tempfile::TempDir,
}

impl Mosquitto {
    /// With these lines in its configuration, and these rules for everybody.
    async fn start(lines: &str, rules: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        // Free a moment ago; mosquitto cannot be given a socket.
        let port = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let (config, acl) = (dir.path().join("mosquitto.conf"), dir.path().join("acl"));
        std::fs::write(&acl, rules.join("\n")).unwrap();
        let rules = if rules.is_empty() {
            String::new()
        } else {
            format!("acl_file {}\n", acl.display())
        };
        let text =
            format!("listener {port} 127.0.0.1\nallow_anonymous true\nuser root\n{rules}{lines}\n");
        std::fs::write(&config, text).unwrap();
        let paths = ["/usr/sbin/mosquitto", "/usr/local/sbin/mosquitto"];
        let program = paths.into_iter().find(|path| Path::new(path).exists());
        let child = Command::new(program.unwrap_or("mosquitto"))
            .arg("-c")
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("mosquitto must be installed: apt-get install mosquitto");
        let listens = async {
            while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        soon("mosquitto", listens).await;
        Self {
            child,
            port,
            _dir: dir,
        }
    }

    fn settings(&self, version: MqttVersion) -> Settings {
        let mut settings = settings(self.port);
        settings.broker.version = version;
        settings
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A batch of this device, so large.
fn item(device: &str, bytes: usize) -> Item {
    let Item::Batch(mut one) = batch(1) else {
        unreachable!()
    };
    one.device = device.into();
    one.encoding = Encoding::Json;
    one.frame = Bytes::from(format!(r#"[{{"n":"t","vs":"{}"}}]"#, "x".repeat(bytes)));
    Item::Batch(one)
}

async fn submit(rig: &Rig, epoch: u64, token: u64, lane: Lane, item: Item) {
    let submission = Submission {
        epoch,
        token,
        lane,
        item: Arc::new(item),
    };
    assert!(rig.submissions().send(submission).await.is_ok());
}

async fn probe_becomes(rig: &Rig, state: ProbeState) {
    let wait = async {
        while rig.board.status().uplink.probe != state {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    soon("the probe's verdict", wait).await;
}

#[tokio::test]
async fn a_rule_against_one_devices_data_is_a_refusal_in_5() {
    let rules = ["topic readwrite #", "topic deny telehub/barn/cow/data"];
    let mosquitto = Mosquitto::start("", &rules).await;
    let mut rig = Rig::start(mosquitto.settings(MqttVersion::Auto));
    let epoch = rig.up().await;
    assert_eq!(rig.board.status().uplink.mqtt.as_deref(), Some("5"));
    submit(&rig, epoch, 1, Lane::Live, item("cow", 10)).await;
    submit(&rig, epoch, 2, Lane::Live, item("hen", 10)).await;
    submit(&rig, epoch, 3, Lane::History, item("cow", 10)).await;
    match rig.event().await {
        Event::Refused {
            token: 1, refusal, ..
        } => {
            assert_eq!(refusal.cause, Cause::Reason(0x87));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!([rig.acked().await, rig.acked().await], [2, 3]);
    rig.finish().await;
}

#[tokio::test]
async fn a_limit_on_messages_is_a_refusal_in_5_and_an_end_only_the_second_time() {
    let mosquitto = Mosquitto::start("message_size_limit 20000", &[]).await;
    let mut rig = Rig::start(mosquitto.settings(MqttVersion::Auto));
    let epoch = rig.up().await;
    submit(&rig, epoch, 1, Lane::Live, item("cow", 10)).await;
    assert_eq!(rig.acked().await, 1);
    submit(&rig, epoch, 2, Lane::Live, item("cow", 30_000)).await;
    match rig.event().await {
        Event::Refused {
            token: 2, refusal, ..
        } => {
            assert_eq!(refusal.cause, Cause::Reason(0x95));
            assert!(
                refusal.detail.contains("message_size_limit"),
                "{}",
                refusal.detail
            );
        }
        other => panic!("{other:?}"),
    }
    submit(&rig, epoch, 3, Lane::Live, item("cow", 30_000)).await;
    let event = rig.event().await;
    assert!(
        matches!(event, Event::Unpublishable { token: 3, .. }),
        "{event:?}"
    );
    submit(&rig, epoch, 4, Lane::Live, item("cow", 10)).await;
    assert_eq!(rig.acked().await, 4);
    rig.finish().await;
}

#[tokio::test]
async fn a_maximum_packet_size_is_kept_to_in_5() {
    let mosquitto = Mosquitto::start("max_packet_size 20000", &[]).await;
    let mut rig = Rig::start(mosquitto.settings(MqttVersion::V5));
    let epoch = rig.up().await;
    submit(&rig, epoch, 1, Lane::Live, item("cow", 30_000)).await;
    let event = rig.event().await;
    assert!(
        matches!(event, Event::Unpublishable { token: 1, .. }),
        "{event:?}"
    );
    submit(&rig, epoch, 2, Lane::Live, item("cow", 10)).await;
    assert_eq!(rig.acked().await, 2);
    assert_eq!(rig.board.uplink.connects.get(), 1);
    rig.finish().await;
}

#[tokio::test]
async fn in_3_1_1_the_probe_shows_what_a_broker_throws_away() {
    let rules = ["topic readwrite #", "topic deny telehub/barn/+/data"];
    let mosquitto = Mosquitto::start("", &rules).await;
    let mut rig = Rig::start(mosquitto.settings(MqttVersion::V311));
    let epoch = rig.up().await;
    // It is acknowledged and gone.
    submit(&rig, epoch, 1, Lane::Live, item("cow", 10)).await;
    assert_eq!(rig.acked().await, 1);
    probe_becomes(&rig, ProbeState::Silent).await;
    rig.finish().await;

    let mosquitto = Mosquitto::start("", &[]).await;
    let mut rig = Rig::start(mosquitto.settings(MqttVersion::V311));
    rig.up().await;
    probe_becomes(&rig, ProbeState::Heard).await;
    rig.finish().await;
}
