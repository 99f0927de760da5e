//! The whole daemon on a spool whose files were damaged while it was stopped: it starts, takes
//! devices, publishes what can be read and records of what cannot; `telehub spool` says the same
//! before.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "support/daemon.rs"]
mod daemon;
#[path = "support/preload.rs"]
mod preload;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use daemon::{Consumer, Device, Hub, Mosquitto, config, until};
use serde_json::Value;

const DEVICES: [&str; 2] = ["a", "b"];
const BATCHES: u64 = 60;

/// What is left of a spool for whoever reads it.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Left {
    /// Every batch.
    All,
    /// Every batch, or a record that covers it.
    Accounted,
    /// It is set aside as a whole, for a person or a newer telehub.
    Aside,
}

struct Damage {
    name: &'static str,
    left: Left,
    inflict: fn(&Path),
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    let mut entries: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    entries.sort();
    entries
}

/// The databases, oldest first.
fn segments(spool: &Path) -> Vec<PathBuf> {
    let name = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().into_owned();
    let mut found = entries(spool);
    found.retain(|path| name(path).starts_with("gen-") && !name(path).contains('.'));
    found
}

/// Changes the content of a file of the oldest database.
fn edit(spool: &Path, file: &str, edit: impl FnOnce(&mut Vec<u8>)) {
    let path = segments(spool)[0].join(file);
    let mut bytes = fs::read(&path).unwrap();
    edit(&mut bytes);
    fs::write(path, bytes).unwrap();
}

/// Where the first group begins in a database.
fn first_group(bytes: &[u8]) -> usize {
    let magic = |window: &[u8]| window == b"thg2";
    bytes.windows(4).position(magic).unwrap()
}

const DAMAGES: [Damage; 15] = [
    Damage {
        name: "nothing",
        left: Left::All,
        inflict: |_| {},
    },
    Damage {
        name: "a flipped bit in a group",
        left: Left::Accounted,
        inflict: |spool| {
            edit(spool, "db", |db| {
                let at = first_group(db) + 900;
                db[at] ^= 1;
            });
        },
    },
    Damage {
        name: "a flipped bit at the beginning",
        left: Left::Accounted,
        inflict: |spool| edit(spool, "db", |db| db[3] ^= 0x80),
    },
    Damage {
        name: "a database cut in half",
        left: Left::Accounted,
        inflict: |spool| edit(spool, "db", |db| db.truncate(first_group(db) + 3_000)),
    },
    Damage {
        name: "an empty database",
        left: Left::Accounted,
        inflict: |spool| edit(spool, "db", Vec::clear),
    },
    Damage {
        name: "a zeroed block",
        left: Left::Accounted,
        inflict: |spool| {
            edit(spool, "db", |db| {
                let at = first_group(db) / 4096 * 4096;
                db[at..at + 4096].fill(0);
            });
        },
    },
    Damage {
        name: "a database full of zeros",
        left: Left::Accounted,
        inflict: |spool| edit(spool, "db", |db| db.fill(0)),
    },
    Damage {
        name: "no database",
        left: Left::Accounted,
        inflict: |spool| fs::remove_file(segments(spool)[0].join("db")).unwrap(),
    },
    Damage {
        name: "the engine's other file gone",
        left: Left::All,
        inflict: |spool| fs::remove_file(segments(spool)[0].join("conf")).unwrap(),
    },
    Damage {
        name: "a summary of nonsense",
        left: Left::All,
        inflict: |spool| edit(spool, "summary", |summary| summary.fill(7)),
    },
    Damage {
        name: "marks of nonsense",
        left: Left::All,
        inflict: |spool| fs::write(spool.join("marks"), "nonsense").unwrap(),
    },
    Damage {
        name: "a file where a database was",
        left: Left::Accounted,
        inflict: |spool| {
            let oldest = segments(spool)[0].clone();
            fs::remove_dir_all(&oldest).unwrap();
            fs::write(oldest, "nonsense").unwrap();
        },
    },
    Damage {
        name: "files of others",
        left: Left::All,
        inflict: |spool| {
            fs::create_dir(spool.join("photos")).unwrap();
            fs::write(spool.join("photos/1.jpg"), "x").unwrap();
            fs::write(spool.join("notes.txt"), "x").unwrap();
            fs::write(segments(spool)[0].join("core"), "x").unwrap();
        },
    },
    Damage {
        name: "a newer version",
        left: Left::Aside,
        inflict: |spool| fs::write(spool.join("format"), "telehub spool 9\n").unwrap(),
    },
    Damage {
        name: "a file in place of the spool",
        left: Left::Aside,
        inflict: |spool| {
            fs::remove_dir_all(spool).unwrap();
            fs::write(spool, "nonsense").unwrap();
        },
    },
];

fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-a").args([from, to]).status();
    assert!(copied.unwrap().success());
}

fn telehub(dir: &Path, command: &str) -> Output {
    daemon::command()
        .args(["spool", command, "--config"])
        .arg(dir.join("telehub.toml"))
        .env("TMPDIR", dir)
        .output()
        .unwrap()
}

/// Batches, by device and number, and gap records.
type Found = (BTreeSet<(String, u64)>, Vec<Value>);

/// Of all batches, those that are neither among these nor covered by a record.
fn unaccounted(batches: &BTreeSet<(String, u64)>, gaps: &[Value]) -> Vec<(String, u64)> {
    let covers = |gap: &Value, device: &str, seq: u64| {
        let end = |key: &str| gap[key].as_u64().unwrap_or(0);
        gap["device"] == "_unknown"
            || gap["device"] == device && (end("from")..=end("to")).contains(&seq)
    };
    let all = DEVICES
        .iter()
        .flat_map(|id| (1..=BATCHES).map(move |seq| ((*id).to_owned(), seq)));
    all.filter(|id| !batches.contains(id))
        .filter(|(device, seq)| !gaps.iter().any(|gap| covers(gap, device, *seq)))
        .collect()
}

/// Batches, and gap records, of lines or payloads.
fn sorted(values: Vec<Value>) -> Found {
    let (batches, gaps): (Vec<_>, Vec<_>) = values
        .into_iter()
        .partition(|value| value["pack"].is_array());
    let id = |batch: Value| {
        assert_eq!(batch["pack"][0]["v"], batch["seq"], "exactly as taken");
        let device = batch["device"].as_str().unwrap().to_owned();
        (device, batch["seq"].as_u64().unwrap())
    };
    (batches.into_iter().map(id).collect(), gaps)
}

/// What the three commands say. Returns what `export` gives.
fn inspected(dir: &Path, damage: &Damage) -> Option<Found> {
    let name = damage.name;
    for command in ["verify", "stat", "export"] {
        let output = telehub(dir, command);
        let sentence = String::from_utf8(output.stderr).unwrap();
        let code = output.status.code();
        assert!(
            sentence.lines().count() <= 1,
            "{name}, {command}: {sentence}"
        );
        assert!(matches!(code, Some(0 | 1)), "{name}, {command}: {code:?}");
        assert_eq!(code == Some(0), sentence.is_empty(), "{name}: {sentence}");
    }
    let export = telehub(dir, "export");
    let text = String::from_utf8(export.stdout).unwrap();
    let values = text.lines().map(|line| serde_json::from_str(line).unwrap());
    let found = sorted(values.collect());
    if damage.left == Left::Aside {
        assert_eq!(export.status.code(), Some(1), "{name}");
        return None;
    }
    assert_eq!(unaccounted(&found.0, &found.1), [], "{name}, export");
    if damage.left == Left::All {
        assert_eq!(found.0.len() as u64, 2 * BATCHES, "{name}, export");
    }
    let untouched = found.0.iter().filter(|(device, _)| device == "b");
    assert_eq!(untouched.count() as u64, BATCHES, "{name}, export");
    Some(found)
}

/// The spool of a stopped hub: a database with the batches of `a` and a later one with those of
/// `b`.
async fn pristine(dir: &Path) {
    fs::create_dir(dir).unwrap();
    for id in DEVICES {
        let hub = Hub::start(dir, &config(dir, daemon::free_port(), "")).await;
        let mut device = Device::connect(hub.address, id).await;
        device.hello("s").await;
        for seq in 1..=BATCHES {
            device.data(seq).await;
            if seq % 16 == 0 {
                device.acked(seq).await;
            }
        }
        device.acked(BATCHES).await;
        assert!(hub.stop().await.success());
    }
    assert_eq!(segments(&dir.join("spool")).len(), 2);
}

async fn suffer(damages: &[Damage]) {
    let dir = tempfile::tempdir().unwrap();
    let stored = dir.path().join("pristine");
    pristine(&stored).await;

    let broker = Mosquitto::start(dir.path());
    let consumer = Consumer::start(broker.port).await;
    for damage in damages {
        let name = damage.name;
        let here = dir.path().join("here");
        fs::create_dir(&here).unwrap();
        copy(&stored.join("spool"), &here);
        (damage.inflict)(&here.join("spool"));
        let text = config(&here, broker.port, "");
        fs::write(here.join("telehub.toml"), &text).unwrap();
        let exported = inspected(&here, damage);

        let hub = Hub::start(&here, &text).await;
        assert_eq!(hub.get("/readyz").0, 200, "{name}");
        let mut device = Device::connect(hub.address, "new").await;
        device.hello("s").await;
        device.data(1).await;
        device.acked(1).await;
        hub.until_uplink("connected").await;
        hub.until_drained().await;
        let mut payloads = Vec::new();
        // The last PUBACK is there; what it is for may still be on its way to the consumer.
        until(&format!("{name}: every batch or a record"), || {
            let new = consumer.take().into_iter();
            payloads.extend(
                new.filter(|got| matches!(got.kind(), "data" | "history" | "gap"))
                    .map(|got| got.json()),
            );
            let (batches, gaps) = sorted(payloads.clone());
            let whole = damage.left == Left::Aside || unaccounted(&batches, &gaps).is_empty();
            whole && batches.contains(&("new".to_owned(), 1))
        })
        .await;
        let (mut batches, gaps) = sorted(payloads);
        batches.remove(&("new".to_owned(), 1));
        if let Some((readable, _)) = exported {
            assert_eq!(batches, readable, "{name}: published is what export shows");
        }
        assert!(gaps.iter().all(|gap| gap["reason"] == "corrupt"), "{name}");
        assert_eq!(
            gaps.is_empty(),
            damage.left != Left::Accounted || batches.len() as u64 == 2 * BATCHES,
            "{name}: {gaps:?}"
        );
        let aside = entries(&here).iter().any(|path| {
            let path = path.to_string_lossy();
            path.contains("spool.corrupt-") || path.contains("spool.version9-")
        });
        assert_eq!(aside, damage.left == Left::Aside, "{name}");
        if damage.left != Left::All {
            let complaints = hub.complaints();
            let told = complaints.iter().any(|line| line.contains("set aside"));
            assert!(told, "{name}: {complaints:?}");
        }
        assert!(hub.stop().await.success(), "{name}");
        if name == "files of others" {
            assert!(
                here.join("spool/photos/1.jpg").exists() && here.join("spool/notes.txt").exists()
            );
        }
        fs::remove_dir_all(&here).unwrap();
    }
}

#[tokio::test]
async fn a_damaged_spool_costs_what_is_damaged_with_a_record_and_nothing_else() {
    suffer(&DAMAGES[..8]).await;
}

#[tokio::test]
async fn a_spool_with_strange_files_or_of_a_newer_version_stops_nothing() {
    suffer(&DAMAGES[8..]).await;
}

#[tokio::test]
async fn an_export_gives_what_a_dying_device_still_reads_and_records_of_the_rest() {
    let dir = tempfile::tempdir().unwrap();
    let Some(library) = preload::shim(dir.path(), "faulty") else {
        return;
    };
    let here = dir.path().canonicalize().unwrap().join("here");
    pristine(&here).await;
    let faults = dir.path().join("faults");
    fs::write(&faults, "read 5").unwrap();
    let deaf = |command: &str| {
        daemon::command()
            .args(["spool", command, "--config"])
            .arg(here.join("telehub.toml"))
            .env("TMPDIR", dir.path())
            .env("LD_PRELOAD", &library)
            .env("FAULTS", &faults)
            .env("FAULTS_BELOW", segments(&here.join("spool"))[0].join("db"))
            .output()
            .unwrap()
    };
    let export = deaf("export");
    assert_eq!(export.status.code(), Some(1), "{export:?}");
    let text = String::from_utf8(export.stdout).unwrap();
    let (batches, gaps) = sorted(
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect(),
    );
    assert_eq!(batches.len() as u64, BATCHES, "those of b");
    assert_eq!(gaps.len(), 1, "{gaps:?}");
    assert_eq!(
        (&gaps[0]["device"], &gaps[0]["to"]),
        (&"a".into(), &BATCHES.into())
    );
    assert_eq!(deaf("verify").status.code(), Some(1));
    // Nothing was changed: with a device that reads again all of it is there.
    fs::remove_file(&faults).unwrap();
    let verify = deaf("verify");
    assert!(verify.status.success(), "{verify:?}");
}

#[tokio::test]
async fn copies_of_damaged_data_are_few_however_often_it_happens() {
    let dir = tempfile::tempdir().unwrap();
    let text = config(dir.path(), daemon::free_port(), "");
    let spool = dir.path().join("spool");
    for round in 1..=6 {
        let hub = Hub::start(dir.path(), &text).await;
        let mut device = Device::connect(hub.address, "d").await;
        device.hello(&format!("s{round}")).await;
        device.data(1).await;
        device.acked(1).await;
        assert!(hub.stop().await.success());
        let newest = segments(&spool).pop().unwrap();
        fs::write(newest.join("db"), "nonsense").unwrap();
        // With a summary it would be looked into no earlier than it is drained.
        fs::remove_file(newest.join("summary")).unwrap();
    }
    let hub = Hub::start(dir.path(), &text).await;
    let names = entries(&spool);
    let copies = names
        .iter()
        .filter(|path| path.to_string_lossy().contains(".corrupt-"));
    assert_eq!(copies.count(), 3, "{names:?}");
    assert!(hub.stop().await.success());
}
