//! `telehub spool` on a spool that a real hub has left behind.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "support/daemon.rs"]
mod daemon;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use daemon::{Device, Hub, config, free_port};
use serde_json::{Value, json};

const BATCHES: u64 = 60;

fn telehub(dir: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_telehub"))
        .arg("spool")
        .args(arguments)
        .arg("--config")
        .arg(dir.join("telehub.toml"))
        .env("TMPDIR", dir)
        .output()
        .unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// The one sentence on stderr.
fn complaint(output: &Output) -> String {
    let text = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(text.trim_end().lines().count(), 1, "{text}");
    text.trim_end().to_owned()
}

fn lines(output: &Output) -> Vec<Value> {
    let text = stdout(output);
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// Devices `a` and `b` have sent `BATCHES` each to a hub without a broker.
async fn filled(dir: &Path) -> Hub {
    let hub = Hub::start(dir, &config(dir, free_port(), "")).await;
    for id in ["a", "b"] {
        let mut device = Device::connect(hub.address, id).await;
        device.hello("s").await;
        for seq in 1..=BATCHES {
            let pack = json!([{"bn": "x", "bt": 1.7e9, "v": seq}, {"n": "/y", "vs": "z", "t": 1}]);
            device
                .send(json!({"data": {"seq": seq, "pack": pack}}))
                .await;
            if seq % 16 == 0 {
                device.acked(seq).await;
            }
        }
        device.acked(BATCHES).await;
    }
    hub
}

/// Every file below a directory with what is in it.
fn content(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(content(&path));
        } else {
            files.insert(path.clone(), fs::read(path).unwrap());
        }
    }
    files
}

#[tokio::test]
async fn what_a_stopped_hub_has_stored_is_shown_exported_and_verified_unchanged() {
    let dir = tempfile::tempdir().unwrap();
    let hub = filled(dir.path()).await;
    for command in ["stat", "export", "verify"] {
        let busy = telehub(dir.path(), &[command]);
        assert_eq!(busy.status.code(), Some(1));
        assert!(complaint(&busy).ends_with("stop the hub first: systemctl stop telehub"));
        assert!(busy.stdout.is_empty());
    }
    assert!(hub.stop().await.success());
    let before = content(&dir.path().join("spool"));

    let stat = telehub(dir.path(), &["stat"]);
    assert_eq!(stat.status.code(), Some(0), "{stat:?}");
    let page = stdout(&stat);
    assert!(
        page.contains("stored   120 batches, 240 readings, 0 gap records\n"),
        "{page}"
    );
    assert!(
        page.contains("\na       s            60       120     1  60\n"),
        "{page}"
    );
    let stat: Value =
        serde_json::from_str(&stdout(&telehub(dir.path(), &["stat", "--json"]))).unwrap();
    assert_eq!(
        (&stat["state"], &stat["batches"]),
        (&json!("ok"), &json!(120))
    );
    assert_eq!(stat["devices"][1]["id"], "b");
    assert!(stat["oldest"].as_f64().unwrap() > 1.7e9);

    let export = telehub(dir.path(), &["export"]);
    assert_eq!(export.status.code(), Some(0));
    let batches = lines(&export);
    assert_eq!(batches.len(), 120);
    let numbers = |device: &str| -> Vec<u64> {
        let of_device = batches.iter().filter(|batch| batch["device"] == device);
        of_device
            .map(|batch| batch["seq"].as_u64().unwrap())
            .collect()
    };
    for device in ["a", "b"] {
        assert_eq!(numbers(device), (1..=BATCHES).collect::<Vec<_>>());
    }
    for batch in &batches {
        let pack = json!([
            {"n": "x", "t": 1.7e9, "v": batch["seq"]},
            {"n": "x/y", "t": 1_700_000_001.0, "vs": "z"},
        ]);
        assert_eq!(batch["pack"], pack);
        assert_eq!(
            (&batch["stream"], &batch["readings"]),
            (&json!("s"), &json!(2))
        );
        assert!(batch["group"].is_u64() && batch["received"].is_f64());
    }

    let verify = telehub(dir.path(), &["verify"]);
    assert_eq!(verify.status.code(), Some(0));
    assert!(stdout(&verify).starts_with("every checksum holds: 120 batches, 240 readings"));
    assert_eq!(content(&dir.path().join("spool")), before);
    let names: Vec<_> = fs::read_dir(dir.path()).unwrap().collect();
    assert_eq!(names.len(), 2, "copies are removed: {names:?}");
}

#[tokio::test]
async fn a_killed_hub_leaves_everything_that_it_acked() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path()).await.kill();
    let export = telehub(dir.path(), &["export"]);
    assert_eq!(export.status.code(), Some(0), "{export:?}");
    assert_eq!(lines(&export).len(), 120);
}

#[tokio::test]
async fn a_changed_byte_in_any_file_is_found_and_costs_a_record_of_what_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    assert!(filled(dir.path()).await.stop().await.success());
    let spool = dir.path().join("spool");
    let files = content(&spool);
    let mut found = 0;
    for (path, bytes) in files.iter().filter(|(_, bytes)| !bytes.is_empty()) {
        let ours = path.file_name().unwrap().to_str().unwrap();
        // More of them near the beginning: the engine's file is full there.
        for at in [
            0,
            bytes.len() / 64,
            bytes.len() / 16,
            bytes.len() / 4,
            bytes.len() - 1,
        ] {
            let mut changed = bytes.clone();
            changed[at] ^= 0x55;
            fs::write(path, &changed).unwrap();
            let verify = telehub(dir.path(), &["verify", "--json"]);
            let verdict: Value = serde_json::from_str(&stdout(&verify)).unwrap();
            let export = telehub(dir.path(), &["export"]);
            let (batches, gaps): (Vec<_>, Vec<_>) = lines(&export)
                .into_iter()
                .partition(|line| line["pack"].is_array());
            match verify.status.code() {
                Some(0) => assert_eq!(
                    (verdict["state"].as_str(), batches.len()),
                    (Some("ok"), 120),
                    "{ours} {at}"
                ),
                Some(1) => {
                    found += 1;
                    assert!(complaint(&verify).contains("is damaged"), "{ours} {at}");
                    assert_eq!(verdict["state"], "damaged");
                    assert_eq!(export.status.code(), Some(1), "{ours} {at}");
                    let known: u64 = gaps
                        .iter()
                        .map(|gap| gap["batches"].as_u64().unwrap())
                        .sum();
                    assert_eq!(batches.len() as u64 + known, 120, "{ours} {at} {gaps:?}");
                    assert!(gaps.iter().all(|gap| gap["reason"] == "corrupt"));
                }
                other => panic!("{ours} {at}: {other:?} {verify:?}"),
            }
            for batch in batches {
                assert_eq!(batch["pack"][0]["v"], batch["seq"], "{ours} {at}");
            }
            assert_eq!(
                fs::read(path).unwrap(),
                changed,
                "{ours} {at}: left as it was"
            );
            fs::write(path, bytes).unwrap();
        }
    }
    assert!(found > 5, "only {found} changes were noticed");
    assert_eq!(telehub(dir.path(), &["verify"]).status.code(), Some(0));
}

#[test]
fn what_is_no_spool_of_ours_is_told_in_one_sentence_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let spool = dir.path().join("spool");
    fs::write(
        dir.path().join("telehub.toml"),
        config(dir.path(), 1883, ""),
    )
    .unwrap();

    // Nothing there: nothing stored.
    assert_eq!(telehub(dir.path(), &["stat"]).status.code(), Some(0));
    assert!(telehub(dir.path(), &["export"]).stdout.is_empty());
    assert_eq!(telehub(dir.path(), &["verify"]).status.code(), Some(0));
    assert!(!spool.exists());

    fs::create_dir(&spool).unwrap();
    assert_eq!(telehub(dir.path(), &["verify"]).status.code(), Some(0));

    // Files of others are named and no fault.
    fs::create_dir(spool.join("photos")).unwrap();
    fs::write(spool.join("notes.txt"), "x").unwrap();
    let stat = telehub(dir.path(), &["stat"]);
    assert_eq!(stat.status.code(), Some(0));
    assert!(stdout(&stat).contains("foreign  "), "{stat:?}");

    // A part of which nothing is left.
    let lost = spool.join("gen-0000000000000001");
    fs::create_dir(&lost).unwrap();
    fs::write(lost.join("whole"), "").unwrap();
    fs::write(spool.join("format"), "telehub spool 1\n").unwrap();
    let verify = telehub(dir.path(), &["verify"]);
    assert_eq!(verify.status.code(), Some(1), "{verify:?}");
    assert!(complaint(&verify).contains("is damaged"));
    let export = telehub(dir.path(), &["export"]);
    assert_eq!(lines(&export)[0]["device"], "_unknown");
    fs::remove_dir_all(&lost).unwrap();

    fs::write(spool.join("format"), "telehub spool 9\n").unwrap();
    for command in ["stat", "export", "verify"] {
        let newer = telehub(dir.path(), &[command]);
        assert_eq!(newer.status.code(), Some(1));
        assert!(complaint(&newer).contains("newer telehub"), "{newer:?}");
    }

    fs::remove_dir_all(&spool).unwrap();
    fs::write(&spool, "x").unwrap();
    let file = telehub(dir.path(), &["stat"]);
    assert_eq!(file.status.code(), Some(1));
    assert!(complaint(&file).contains("correct spool.path"));
}

#[test]
fn usage_and_configuration_have_their_own_exit_status() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(telehub(dir.path(), &["eat"]).status.code(), Some(2));
    assert_eq!(telehub(dir.path(), &[]).status.code(), Some(2));
    assert_eq!(telehub(dir.path(), &["stat"]).status.code(), Some(78));
    fs::write(dir.path().join("telehub.toml"), "[spool]\npaht = \"x\"\n").unwrap();
    let wrong = telehub(dir.path(), &["verify"]);
    assert_eq!(wrong.status.code(), Some(78));
    assert!(complaint(&wrong).contains("telehub.toml:2: "), "{wrong:?}");
}
