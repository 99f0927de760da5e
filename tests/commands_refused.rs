//! Brokers that do not let the hub subscribe to commands and desired states, or that do not take what
//! devices report: it is said, and costs the data nothing.
#![allow(clippy::unwrap_used, missing_docs)]

#[allow(dead_code)]
#[path = "support/broker.rs"]
mod broker;
#[path = "support/broker5.rs"]
mod broker5;
#[path = "support/daemon.rs"]
mod daemon;
#[path = "support/metrics.rs"]
mod metrics;
#[path = "support/registry.rs"]
mod registry;

use std::sync::{Arc, Mutex};

use broker::Broker;
use broker5::Broker5;
use daemon::{Device, Hub, config, until};
use metrics::Scrape;
use registry::registry;
use rumqttc::v5::mqttbytes::v5::Packet as Packet5;
use serde_json::json;

const DEVICES: [(&str, &str); 2] = [
    ("lamp", "desired = true\ncommands = [\"*\"]"),
    ("pump", "desired = true"),
];

/// What a broker was sent: topics, and the number of the connection.
type Book = Arc<Mutex<Vec<(u32, String)>>>;

/// What a broker does not like.
#[derive(Clone, Copy)]
struct Dislikes {
    filters: fn(&str) -> bool,
    topics: fn(&str) -> bool,
}

/// In MQTT 5 what it does not like is refused; in 3.1.1 a filter is refused, and for a topic the broker
/// hangs up, because it cannot say more.
fn serve_311(broker: Broker, dislikes: Dislikes, book: Book) {
    tokio::spawn(async move {
        for connection in 1.. {
            let (mut peer, _) = broker.welcome().await;
            peer.refuses = dislikes.filters;
            while let Some(packet) = peer.read().await {
                if let rumqttc::Packet::Publish(publish) = packet {
                    book.lock()
                        .unwrap()
                        .push((connection, publish.topic.clone()));
                    if (dislikes.topics)(&publish.topic) {
                        break;
                    }
                    peer.puback(publish.pkid).await;
                }
            }
        }
    });
}

fn serve_5(broker: Broker5, dislikes: Dislikes, book: Book) {
    tokio::spawn(async move {
        for connection in 1.. {
            let (mut peer, ..) = broker.welcome(&[]).await;
            peer.refuses = dislikes.filters;
            while let Some(packet) = peer.read().await {
                if let Packet5::Publish(publish) = packet {
                    let topic = String::from_utf8(publish.topic.to_vec()).unwrap();
                    let refused = (dislikes.topics)(&topic);
                    book.lock().unwrap().push((connection, topic));
                    peer.puback(publish.pkid, if refused { 0x87 } else { 0 })
                        .await;
                }
            }
        }
    });
}

struct Rig {
    _dir: tempfile::TempDir,
    hub: Hub,
    book: Book,
}

impl Rig {
    async fn start(version: &str, dislikes: Dislikes) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let book = Book::default();
        let port = match version {
            "5" => {
                let broker = Broker5::start().await;
                let port = broker.port;
                serve_5(broker, dislikes, book.clone());
                port
            }
            _ => {
                let broker = Broker::start().await;
                let port = broker.port;
                serve_311(broker, dislikes, book.clone());
                port
            }
        };
        let file = dir.path().join("devices.toml");
        std::fs::write(&file, registry(&DEVICES)).unwrap();
        let extra = format!("version = \"{version}\"\n[commands]\nenabled = true\n");
        let auth = format!("auth = \"token\"\nregistry = {file:?}");
        let text = config(dir.path(), port, &extra).replace("auth = \"open\"", &auth);
        let hub = Hub::start(dir.path(), &text).await;
        hub.until_uplink("connected").await;
        Self {
            _dir: dir,
            hub,
            book,
        }
    }

    fn metric(&self, series: &str) -> f64 {
        Scrape::of(&self.hub.get("/metrics").1).value(series)
    }

    fn says(&self, words: &[&str]) -> usize {
        let complaints = self.hub.complaints();
        let says = |line: &&String| words.iter().all(|word| line.contains(word));
        complaints.iter().filter(says).count()
    }

    fn times(&self, topic: &str) -> usize {
        let book = self.book.lock().unwrap();
        book.iter().filter(|(_, one)| one == topic).count()
    }

    /// Batches of a device, none of which goes by the disk or another connection.
    async fn data_goes_on(&self, device: &mut Device, seqs: std::ops::RangeInclusive<u64>) {
        for seq in seqs {
            device.data(seq).await;
            device.acked(seq).await;
        }
        assert_eq!(self.hub.status("/uplink/state"), "connected");
        let book = self.book.lock().unwrap();
        let alive = |one: &(u32, String)| one.0 == 1 && !one.1.ends_with("/history");
        assert!(book.iter().all(alive), "{book:?}");
    }

    async fn device(&self, id: &str) -> Device {
        let mut device = Device::with_token(self.hub.address, id, id).await;
        device.send(json!({"hello": {"stream": "s"}})).await;
        assert!(device.receive().await.unwrap()["welcome"].is_object());
        device
    }
}

#[tokio::test]
async fn a_refused_subscribe_is_loud_once_and_costs_the_data_nothing() {
    for version in ["5", "3.1.1"] {
        let dislikes = Dislikes {
            filters: |filter| filter.contains("/command/") || filter.ends_with("/lamp/desired"),
            topics: |_| false,
        };
        let rig = Rig::start(version, dislikes).await;
        let commands = ["does not let the hub subscribe to commands", "ERROR"];
        let desired = ["does not let the hub follow", "lamp/desired", "ERROR"];
        until("the complaints", || {
            rig.says(&commands) == 1 && rig.says(&desired) == 1
        })
        .await;
        // Whoever may be followed is.
        until("the other device is followed", || {
            let log = rig.hub.log();
            let follows = |line: &&String| {
                line.contains("follows a desired state") && line.contains("pump/desired")
            };
            log.iter().any(|line| follows(&line))
        })
        .await;
        assert_eq!(rig.metric("telehub_commands_listening"), 0.0);
        let mut lamp = rig.device("lamp").await;
        rig.data_goes_on(&mut lamp, 1..=20).await;
        lamp.send(json!({"reported": {"on": true}})).await;
        until("its report", || {
            rig.times("telehub/barn/lamp/reported") == 1
        })
        .await;
        assert_eq!(rig.says(&commands), 1, "said once");
        assert_eq!(rig.says(&desired), 1, "said once");
        assert_eq!(rig.hub.complaints().len(), 2, "{:#?}", rig.hub.complaints());
    }
}

#[tokio::test]
async fn a_refused_report_is_given_up_and_the_next_one_is_tried() {
    let dislikes = Dislikes {
        filters: |_| false,
        topics: |topic| topic.ends_with("/lamp/reported"),
    };
    let rig = Rig::start("5", dislikes).await;
    let mut lamp = rig.device("lamp").await;
    let mut pump = rig.device("pump").await;
    for times in 1..=2 {
        lamp.send(json!({"reported": {"times": times}})).await;
        until("the refusal", || {
            rig.metric("telehub_reported_refused_total") == f64::from(times)
        })
        .await;
        assert_eq!(rig.times("telehub/barn/lamp/reported"), times as usize);
    }
    let words = ["does not take what a device reports", "device=lamp"];
    assert_eq!(rig.says(&words), 2);
    // Nobody else pays.
    pump.send(json!({"reported": {"on": true}})).await;
    until("another's report", || {
        rig.metric("telehub_reported_published_total") == 1.0
    })
    .await;
    rig.data_goes_on(&mut lamp, 1..=20).await;
    rig.data_goes_on(&mut pump, 1..=20).await;
}

#[tokio::test]
async fn a_report_that_a_broker_of_mqtt_3_1_1_hangs_up_on_is_given_up_and_others_go_on() {
    let dislikes = Dislikes {
        filters: |_| false,
        topics: |topic| topic.ends_with("/lamp/reported"),
    };
    let rig = Rig::start("3.1.1", dislikes).await;
    let mut lamp = rig.device("lamp").await;
    let mut pump = rig.device("pump").await;
    lamp.send(json!({"reported": {"on": true}})).await;
    until("the proof", || {
        rig.metric("telehub_reported_refused_total") == 1.0
    })
    .await;
    pump.send(json!({"reported": {"on": true}})).await;
    for seq in 1..=20 {
        lamp.data(seq).await;
        lamp.acked(seq).await;
    }
    until("the other's report and all data", || {
        rig.times("telehub/barn/pump/reported") > 0
            && rig.hub.status("/spool/batches") == json!(0)
            && rig.hub.status("/uplink/state") == "connected"
    })
    .await;
    assert_eq!(
        rig.says(&["the broker hangs up on it", "the reported state of lamp"]),
        1
    );
}
