//! Swarms against a hub of our own.

#![allow(clippy::unwrap_used)]

use clap::Parser;
use serde_json::Value;

use super::*;
use crate::client::fake_hub::{Act, FakeHub};

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    args: SwarmArgs,
}

async fn swarm(hub: &FakeHub, options: &str) -> (Report, Value) {
    let line = format!("swarm --quiet --hub {} {options}", hub.url);
    let args = Line::parse_from(line.split(' ')).args;
    let report = drive(args, HashMap::new()).await.unwrap();
    let json = serde_json::from_str(&report.json()).unwrap();
    (report, json)
}

#[tokio::test]
async fn every_batch_of_every_device_is_acked_and_counted() {
    let hub = FakeHub::start(vec![Act::default()]).await;
    let (report, json) = swarm(&hub, "--devices 50 --rate 0 --batch 3 --batches 20").await;
    assert!(report.is_well(), "{}", report.text());
    assert_eq!(json["acked"], 1000);
    assert_eq!(json["acked_readings"], 3000);
    assert_eq!(json["latency"]["count"], 1000);
    let seen = hub.seen.lock().unwrap();
    assert_eq!(seen.safe.len(), 50);
    assert!(seen.safe.values().all(|safe| *safe == 20));
    assert_eq!(seen.overruns, 0);
}

#[tokio::test]
async fn several_hubs_share_a_swarm_and_take_over_from_one_another() {
    let hub = FakeHub::start(vec![Act::default()]).await;
    let other = FakeHub::start(vec![Act::default()]).await;
    let both = format!("--hub {},{} ", hub.url, other.url);
    let line = format!("swarm --quiet {both}--devices 10 --rate 0 --batch 1 --batches 10");
    let report = drive(Line::parse_from(line.split(' ')).args, HashMap::new())
        .await
        .unwrap();
    assert!(report.is_well(), "{}", report.text());
    let devices = |hub: &FakeHub| hub.seen.lock().unwrap().safe.len();
    assert_eq!((devices(&hub), devices(&other)), (5, 5));
    let nobody = format!("--hub ws://127.0.0.1:1,{} ", other.url);
    let line = format!("swarm --quiet {nobody}--devices 4 --rate 0 --batch 1 --batches 10");
    let report = drive(Line::parse_from(line.split(' ')).args, HashMap::new())
        .await
        .unwrap();
    assert!(report.is_well(), "{}", report.text());
}

#[tokio::test]
async fn a_hub_that_drops_connections_costs_no_batch() {
    let dropping = Act {
        take: Some(2),
        forget: true,
        ..Act::default()
    };
    let mut script = vec![dropping; 10];
    script.push(Act::default());
    let hub = FakeHub::start(script).await;
    let (report, json) = swarm(&hub, "--devices 10 --rate 0 --batch 1 --batches 10").await;
    assert!(report.is_well(), "{}", report.text());
    assert_eq!(json["acked"], 100);
    assert_eq!(json["lost_connections"], 10);
    assert!(json["sent"].as_u64().unwrap() > 100);
}

#[tokio::test]
async fn what_was_never_acked_is_told_and_is_a_failure() {
    let forgetful = Act {
        forget: true,
        ..Act::default()
    };
    let hub = FakeHub::start(vec![forgetful]).await;
    let options = "--devices 3 --rate 0 --batch 1 --duration 300ms --drain-timeout 300ms";
    let (report, json) = swarm(&hub, options).await;
    assert!(!report.is_well());
    // As many as the window lets go.
    assert_eq!(json["never_acked"], 12);
    assert_eq!(json["unfinished_devices"], 3);
}

#[tokio::test]
async fn the_rate_is_kept_and_idle_devices_stay_connected() {
    let hub = FakeHub::start(vec![Act::default()]).await;
    let (report, json) = swarm(&hub, "--devices 20 --rate 10 --batch 1 --duration 2s").await;
    assert!(report.is_well(), "{}", report.text());
    let acked = json["acked"].as_u64().unwrap();
    assert!((300..=420).contains(&acked), "{acked}");
    let (report, json) = swarm(&hub, "--devices 200 --rate 0.001 --duration 200ms").await;
    assert!(report.is_well(), "{}", report.text());
    assert_eq!(json["welcomes"], 200);
    assert_eq!(json["lost_connections"], 0);
}
