//! A real mosquitto whose rules forbid one device's data: what the hub and the others make of it.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "support/daemon.rs"]
mod daemon;

use std::time::Duration;

use daemon::{Consumer, Hub, Mosquitto, Sensor, config, until};

const ALL: &str = "topic readwrite #\n";
const NOT_THE_BULL: &str = "topic readwrite #\ntopic deny telehub/barn/bull/data\n\
                            topic deny telehub/barn/bull/history\n";

/// The value of a metric without labels, or the sum over its labels.
fn metric(hub: &Hub, name: &str) -> f64 {
    let (status, text) = hub.get("/metrics");
    assert_eq!(status, 200);
    text.lines()
        .filter(|line| line.starts_with(name))
        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        .sum()
}

#[tokio::test]
async fn what_the_broker_refuses_waits_and_arrives_when_it_may_and_nobody_else_waits() {
    let dir = tempfile::tempdir().unwrap();
    let acl = dir.path().join("acl");
    std::fs::write(&acl, NOT_THE_BULL).unwrap();
    let broker = Mosquitto::start_with(dir.path(), &format!("acl_file {}", acl.display()));
    let consumer = Consumer::start(broker.port).await;
    let hub = Hub::start(dir.path(), &config(dir.path(), broker.port, "")).await;
    hub.until_uplink("connected").await;
    let every = Duration::from_millis(20);
    let bull = Sensor::start(hub.address, "bull", every);
    let cow = Sensor::start(hub.address, "cow", every);

    // Both are acked: the one because the broker has it, the other because the disk has.
    until("acks for both", || bull.acked() > 50 && cow.acked() > 50).await;
    until("the refusal in the metrics", || {
        metric(&hub, "telehub_refused_topics") > 0.0
    })
    .await;
    assert!(metric(&hub, "telehub_refused_publishes_total") > 0.0);
    let refused = hub.status("/uplink/refused/0");
    assert!(
        refused["topic"].as_str().unwrap().contains("/bull/"),
        "{refused}"
    );
    // This mosquitto (2.0.11) closes the connection after the PUBACK that refuses.
    hub.until_uplink("connected").await;
    bull.rest();
    cow.rest();
    until("all acks", || bull.unacked() + cow.unacked() == 0).await;
    let of = |device: &str| {
        let batches = consumer.batches();
        batches.keys().filter(|(one, _, _)| one == device).count() as u64
    };
    until("the cow's batches", || of("cow") == cow.acked()).await;
    assert_eq!(of("bull"), 0);

    std::fs::write(&acl, ALL).unwrap();
    broker.signal("HUP");
    until("the bull's batches", || of("bull") == bull.acked()).await;
    let got = consumer.got();
    let mut lanes = got.iter().filter(|one| one.topic.contains("/bull/"));
    assert!(lanes.all(|one| one.kind() != "gap"));
    // The bull rests: whether its fresh data would be taken is not known before it sends some.
    until("no refusal but of what was not tried again", || {
        metric(&hub, "telehub_refused_topics") <= 1.0
    })
    .await;
    hub.until_drained().await;
}
