//! Power cuts under the whole daemon: real devices before it, ext4 beneath it, and what was acked
//! looked for with `telehub spool export`. `POWER_CUTS=500` for more than the usual 20.
#![allow(clippy::unwrap_used, missing_docs, clippy::print_stdout)]

#[path = "support/daemon.rs"]
mod daemon;
#[path = "support/disc.rs"]
mod disc;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use daemon::{Hub, Sensor, config, free_port, until};
use disc::Disc;
use serde_json::Value;

fn cuts() -> u64 {
    std::env::var("POWER_CUTS").map_or(20, |cuts| cuts.parse().unwrap())
}

/// What the spool holds: batches by device and number. Gap records would be losses.
fn stored(dir: &Path) -> BTreeSet<(String, u64)> {
    let export = Command::new(env!("CARGO_BIN_EXE_telehub"))
        .args(["spool", "export", "--config"])
        .arg(dir.join("telehub.toml"))
        .output()
        .unwrap();
    let text = String::from_utf8(export.stdout).unwrap();
    let complaint = String::from_utf8_lossy(&export.stderr).into_owned();
    assert!(export.status.success(), "{complaint}");
    text.lines()
        .map(|line| {
            let batch: Value = serde_json::from_str(line).unwrap();
            let seq = batch["seq"].as_u64().unwrap_or_else(|| panic!("{line}"));
            assert_eq!(batch["pack"][0]["v"], seq, "exactly as taken");
            (batch["device"].as_str().unwrap().to_owned(), seq)
        })
        .collect()
}

#[tokio::test]
async fn what_was_acked_is_in_the_spool_after_every_power_cut() {
    let dir = tempfile::tempdir().unwrap();
    let Some(disc) = Disc::new(dir.path(), 96) else {
        return;
    };
    let text = config(&disc.path, free_port(), "");
    let (mut acked, mut lost, mut last_round) = (0, BTreeSet::new(), 0);
    let rounds = cuts();
    let mut sensors: Vec<Sensor> = Vec::new();
    for round in 0..rounds {
        // Every tenth round begins with an empty spool, the others go on with what is there.
        if round % 10 == 0 {
            sensors.clear();
            let _ = std::fs::remove_dir_all(disc.path.join("spool"));
            last_round = 0;
        }
        let hub = Hub::start(dir.path(), &text).await;
        if sensors.is_empty() {
            let start = |n| Sensor::start(hub.address, &format!("s-{n}"), Duration::from_millis(1));
            sensors = (0..4).map(start).collect();
        }
        sensors.iter().for_each(|sensor| sensor.moved(hub.address));
        let safe = || sensors.iter().map(Sensor::acked).sum::<u64>();
        until("acks", || safe() > last_round).await;
        tokio::time::sleep(Duration::from_millis(round * 7_919 % 257)).await;
        hub.kill();
        disc.cut_power();
        acked += safe() - last_round;
        last_round = safe();
        let found = stored(dir.path());
        for sensor in &sensors {
            for (device, _, seq) in sensor.acked_batches() {
                if !found.contains(&(device.clone(), seq)) {
                    lost.insert((round, device, seq));
                }
            }
        }
    }
    println!(
        "{rounds} power cuts: {acked} batches acked, {} lost",
        lost.len()
    );
    assert!(lost.is_empty(), "{lost:?}");
    assert!(acked > rounds);
}
