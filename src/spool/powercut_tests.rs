//! Power cuts on a real file system: ext4 in a file, shut down without flushing its journal,
//! mounted again. Needs root, loop devices, mkfs.ext4 and perl (for the ioctl); says so and
//! passes without them.
//!
//! `cargo test --lib powercut -- --ignored --nocapture`; `POWER_CUTS=200` for more rounds, `SEED=2`
//! for other moments, `KEEP=DIR` for a copy of what was on the disc in a round that fails.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

#[path = "../../tests/support/dice.rs"]
mod dice;
#[path = "../../tests/support/disc.rs"]
mod disc;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command as Process, Stdio};
use std::sync::Arc;
use std::time::Duration;

use dice::Dice;
use disc::Disc;

use super::Event;
use super::disk::Disk;
use super::segment_log::SegmentLog;
use super::testing::batch;
use super::tests::{config, gaps, items, load_all, seqs};
use crate::reading::Item;

const DIR: &str = "SPOOL_POWERCUT_DIR";
const UNSYNCED: &str = "SPOOL_POWERCUT_UNSYNCED";

fn log(path: &Path, own_sync: bool) -> SegmentLog {
    // Segments of a quarter of a megabyte, so that cuts meet every moment of their life.
    let config = config(&path.join("spool"), 4 << 20);
    let mut log = SegmentLog::new(&config, Box::new(Disk { own_sync }));
    log.limits.max_size = 4 << 20;
    // As a commit has it that finds room: the writer below does not ask.
    log.ahead = 32 * 1024;
    log
}

/// The process that is cut: commits, deletes the older half now and then, says what is safe.
#[test]
#[ignore = "run by the tests below as a process of its own"]
fn writer() {
    let Some(dir) = std::env::var_os(DIR) else {
        return;
    };
    let mut log = log(Path::new(&dir), std::env::var_os(UNSYNCED).is_none());
    log.attach(true).unwrap();
    let mut out = std::io::stdout();
    let mut seq = 1;
    let mut held = std::collections::VecDeque::new();
    loop {
        let count = 1 + seq * 7 % 40;
        let placed = log.write(&items(seq..seq + count, 900), &[]).unwrap();
        held.push_back((
            placed.iter().map(|loc| loc.group).collect::<BTreeSet<_>>(),
            seq + count,
        ));
        seq += count;
        writeln!(out, "safe {}", seq - 1).unwrap();
        out.flush().unwrap();
        if held.len() > 30 {
            for (groups, end) in held.drain(..15).collect::<Vec<_>>() {
                writeln!(out, "deleted {}", end - 1).unwrap();
                out.flush().unwrap();
                log.delete(&groups.into_iter().collect::<Vec<_>>());
            }
        }
    }
}

/// The batches of one commit of a spool that is full all the time: many of one device, one each
/// of two others. The number of the commit is the number of theirs.
fn crowd(commit: u64) -> Vec<Arc<Item>> {
    let chatty = (0..CROWD).map(|n| batch("chatty", "s", commit * CROWD + n + 1, 900));
    let quiet = ["quiet-0", "quiet-1"].map(|name| batch(name, "s", commit, 200));
    chatty.chain(quiet).collect()
}

const CROWD: u64 = 60;

/// Like `writer`, but nothing is ever deleted: room is made for each commit.
#[test]
#[ignore = "run by the tests below as a process of its own"]
fn full_writer() {
    let Some(dir) = std::env::var_os(DIR) else {
        return;
    };
    let mut log = log(Path::new(&dir), true);
    log.attach(true).unwrap();
    let mut out = std::io::stdout();
    let mut compacted = 0;
    for commit in 1.. {
        log.commit(&crowd(commit), &[]).unwrap();
        let news = std::mem::take(&mut log.news);
        let rewrites = news.iter();
        compacted += rewrites
            .filter(|event| matches!(event, Event::Compacted { .. }))
            .count();
        writeln!(out, "deleted {compacted}").unwrap();
        writeln!(out, "safe {commit}").unwrap();
        out.flush().unwrap();
    }
}

#[test]
#[ignore = "needs root and a loop device; takes half a minute"]
fn a_full_spool_keeps_what_is_not_reported_as_dropped_through_power_cuts() {
    if disc::ran_alone(&|| ()) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let Some(disc) = Disc::new(dir.path(), 64) else {
        return;
    };
    let mut dice = Dice::new();
    let (mut commits, mut reported, mut rewrites) = (0, 0, 0);
    for round in 0..cuts() {
        // Full after some fifty commits; then at any moment.
        let (commit, millis) = (60 + dice.below(60), dice.below(50));
        let (safe, compacted) = life_of("full_writer", &disc.path, (commit, millis), true);
        commits += safe;
        rewrites += compacted;
        disc.cut_power();
        let copy = disc.keep("full");
        let mut log = log(&disc.path, true);
        log.attach(true).unwrap();
        // On a busy machine the engine may keep its lock for a while after a database was closed.
        let mut groups = load_all(&mut log);
        for _ in 0..10 {
            if !log.unreadable {
                break;
            }
            std::thread::sleep(Duration::from_secs(1));
            groups = load_all(&mut log);
        }
        assert!(!log.unreadable, "round {round}: {:?}", log.depth());
        let mut found: BTreeMap<String, BTreeSet<u64>> = BTreeMap::new();
        let mut last: BTreeMap<String, u64> = BTreeMap::new();
        for item in groups.iter().flat_map(|group| &group.items) {
            let Item::Batch(batch) = &**item else {
                continue;
            };
            let (device, seq) = (batch.device.to_string(), batch.seq.unwrap());
            assert!(last.insert(device.clone(), seq) < Some(seq), "out of order");
            found.entry(device).or_default().insert(seq);
        }
        for gap in gaps(&groups) {
            assert_eq!(gap.reason, crate::reading::GapReason::Overflow, "{gap:?}");
            let range = gap.from.unwrap()..=gap.to.unwrap();
            reported += gap.batches;
            found
                .entry(gap.device.to_string())
                .or_default()
                .extend(range);
        }
        for name in ["quiet-0", "quiet-1", "chatty"] {
            let each = if name == "chatty" { CROWD } else { 1 };
            let found = found.remove(name).unwrap_or_default();
            // Numbers of the quiet ones begin with 1, as the commits do.
            let first = if name == "chatty" { CROWD + 1 } else { 1 };
            let missing: Vec<_> = (first..first + safe * each)
                .filter(|seq| !found.contains(seq))
                .collect();
            assert!(
                missing.is_empty(),
                "round {round}: {name} lacks {missing:?} of {:?}",
                log.depth()
            );
        }
        drop(log);
        std::fs::remove_dir_all(disc.path.join("spool")).unwrap();
        copy.map_or(Ok(()), std::fs::remove_dir_all).unwrap();
    }
    println!(
        "{} power cuts, {commits} commits, {rewrites} rewrites, {reported} batches reported as dropped, 0 lost",
        cuts()
    );
    assert!(reported > 0 && rewrites > 0, "the spool was never full");
}

/// One life: returns what was safe and what was deleted.
fn life(dir: &Path, millis: u64, own_sync: bool) -> (u64, u64) {
    life_of("writer", dir, (0, millis), own_sync)
}

/// It ends so many milliseconds after so much is safe.
fn life_of(writer: &str, dir: &Path, (least, millis): (u64, u64), own_sync: bool) -> (u64, u64) {
    let mut process = Process::new(std::env::current_exe().unwrap());
    process
        .args([
            "--exact",
            &format!("spool::powercut_tests::{writer}"),
            "--ignored",
            "--nocapture",
        ])
        .env(DIR, dir)
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    if !own_sync {
        process.env(UNSYNCED, "1");
    }
    let mut child = process.spawn().unwrap();
    let (begun, waiting) = std::sync::mpsc::channel::<()>();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let reader = std::thread::spawn(move || {
        let (mut safe, mut deleted) = (0, 0);
        let mut begun = Some(begun);
        for line in lines.map_while(Result::ok) {
            // The test harness talks on the same line.
            if let Some((_, number)) = line.rsplit_once("safe ") {
                safe = number.parse().unwrap_or(safe);
                if safe >= least {
                    drop(begun.take());
                }
            } else if let Some((_, number)) = line.rsplit_once("deleted ") {
                deleted = number.parse().unwrap_or(deleted);
            }
        }
        (safe, deleted)
    });
    // Until the sender is gone.
    let _ = waiting.recv_timeout(if least > 0 {
        Duration::from_secs(60)
    } else {
        Duration::ZERO
    });
    std::thread::sleep(Duration::from_millis(millis));
    child.kill().unwrap();
    child.wait().unwrap();
    reader.join().unwrap()
}

/// Rounds in which something safe was not there, and rounds with gap records, of all; and how
/// many batches were safe in total.
fn rounds(count: u64, own_sync: bool) -> Option<(u64, u64, u64)> {
    let dir = tempfile::tempdir().unwrap();
    let disc = Disc::new(dir.path(), 64)?;
    let mut dice = Dice::new();
    let (mut lost, mut damaged, mut total) = (0, 0, 0);
    for round in 0..count {
        let (safe, deleted) = life(&disc.path, 40 + dice.below(400), own_sync);
        total += safe;
        disc.cut_power();
        let copy = disc.keep(&format!("committed-{round}"));
        let mut log = log(&disc.path, true);
        log.attach(true).unwrap();
        let groups = load_all(&mut log);
        let found: BTreeSet<u64> = seqs(&groups).into_iter().collect();
        let missing: Vec<_> = (deleted + 1..=safe)
            .filter(|seq| !found.contains(seq))
            .collect();
        if !missing.is_empty() {
            lost += 1;
            if own_sync {
                println!("round {round}: {missing:?} of {safe}");
            }
        }
        let whole = gaps(&groups).is_empty();
        damaged += u64::from(!whole);
        if let Some(copy) = copy
            && whole
            && missing.is_empty()
        {
            std::fs::remove_dir_all(copy).unwrap();
        }
        drop(log);
        std::fs::remove_dir_all(disc.path.join("spool")).unwrap();
    }
    Some((lost, damaged, total))
}

fn cuts() -> u64 {
    std::env::var("POWER_CUTS").map_or(25, |cuts| cuts.parse().unwrap())
}

#[test]
#[ignore = "needs root and a loop device; takes half a minute"]
fn what_was_committed_survives_a_power_cut() {
    if disc::ran_alone(&|| ()) {
        return;
    }
    let Some((lost, damaged, total)) = rounds(cuts(), true) else {
        return;
    };
    println!(
        "{} power cuts, {total} batches, {lost} rounds with losses, {damaged} with damage",
        cuts()
    );
    assert_eq!((lost, damaged), (0, 0));
    assert!(total > 0);
}

#[test]
#[ignore = "needs root and a loop device; takes half a minute"]
fn without_our_own_sync_power_cuts_lose_data() {
    if disc::ran_alone(&|| ()) {
        return;
    }
    let Some((lost, _, total)) = rounds(cuts(), false) else {
        return;
    };
    println!(
        "control: {} power cuts, {total} batches, {lost} rounds with losses",
        cuts()
    );
    assert!(
        lost > 0,
        "the test does not see losses, so it proves nothing"
    );
}

#[test]
#[ignore = "needs root and a loop device"]
fn a_full_disk_fails_commits_and_recovers_without_loss() {
    if disc::ran_alone(&|| ()) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let Some(disc) = Disc::new(dir.path(), 24) else {
        return;
    };
    let mut config = config(&disc.path.join("spool"), 1 << 30);
    config.overflow = crate::config::Overflow::Refuse;
    let mut log = SegmentLog::new(&config, Box::new(Disk { own_sync: true }));
    // A foreign program takes most of the disk.
    std::fs::write(disc.path.join("foreign"), vec![1; 6 << 20]).unwrap();
    let mut seq = 1;
    let full = loop {
        match log.commit(&items(seq..seq + 50, 2000), &[]) {
            Ok(_) => seq += 50,
            Err(failure) => break failure,
        }
    };
    assert!(full.full, "{full:?}");
    assert!(log.commit(&items(seq..seq + 50, 2000), &[]).is_err());
    assert_eq!(seqs(&load_all(&mut log)), (1..seq).collect::<Vec<_>>());
    // Full to the last block, and started anew.
    let mut foreign = std::fs::File::create(disc.path.join("more")).unwrap();
    while foreign.write_all(&[1; 4096]).is_ok() {}
    drop(log);
    let mut log = SegmentLog::new(&config, Box::new(Disk { own_sync: true }));
    log.attach(false).unwrap();
    let groups = load_all(&mut log);
    assert_eq!(seqs(&groups), (1..seq).collect::<Vec<_>>());
    assert!(gaps(&groups).is_empty());
    std::fs::remove_file(disc.path.join("foreign")).unwrap();
    log.commit(&items(seq..seq + 50, 2000), &[]).unwrap();
    log.stop(Vec::new());
    let mut log = SegmentLog::new(&config, Box::new(Disk { own_sync: true }));
    log.attach(false).unwrap();
    let groups = load_all(&mut log);
    assert_eq!(seqs(&groups), (1..seq + 50).collect::<Vec<_>>());
    assert!(gaps(&groups).is_empty());
}

#[test]
#[ignore = "needs root and a loop device"]
fn old_data_makes_way_even_when_others_have_taken_the_last_block() {
    if disc::ran_alone(&|| ()) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let Some(disc) = Disc::new(dir.path(), 64) else {
        return;
    };
    let config = config(&disc.path.join("spool"), 1 << 30);
    let mut log = SegmentLog::new(&config, Box::new(Disk { own_sync: true }));
    let mut seq = 1;
    while log.segments.len() < 4 {
        log.commit(&items(seq..seq + 50, 2000), &[]).unwrap();
        seq += 50;
    }
    let mut foreign = std::fs::File::create(disc.path.join("foreign")).unwrap();
    while foreign.write_all(&[1; 4096]).is_ok() {}
    log.commit(&items(seq..seq + 500, 2000), &[]).unwrap();
    let groups = load_all(&mut log);
    let found: BTreeSet<u64> = seqs(&groups).into_iter().collect();
    assert!(found.contains(&(seq + 499)));
    let dropped: u64 = gaps(&groups).iter().map(|gap| gap.batches).sum();
    assert!(dropped > 0);
    assert_eq!(found.len() as u64 + dropped, seq + 499);
    assert!(
        dropped < seq / 2,
        "more is given up than is needed: {dropped} of {seq}"
    );
}
