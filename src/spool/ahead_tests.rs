//! Room taken ahead of the database: what a start makes of it, what it costs, and what it spares.
//!
//! The ignored ones need root, loop devices and mkfs.ext4, and say so:
//! `cargo test --lib ahead_tests -- --ignored --nocapture`.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

#[allow(
    clippy::duplicate_mod,
    reason = "each of the two sets of tests can be built without the other"
)]
#[path = "../../tests/support/disc.rs"]
mod disc;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use disc::Disc;

use super::segment_log::SegmentLog;
use super::tests::{BIG, config, gaps, items, load_all, seqs, shelf_of};
use crate::config::Overflow;

/// The step of a spool of this size.
const STEP: u64 = 512 * 1024;

fn shelf_at(path: &Path) -> SegmentLog {
    shelf_of(&config(path, BIG))
}

/// One commit after the other, each of one batch.
fn lone_commits(log: &mut SegmentLog, range: std::ops::Range<u64>) {
    for seq in range {
        log.commit(&items(seq..seq + 1, 200), &[]).unwrap();
    }
}

/// The file of the newest database.
fn newest(path: &Path) -> PathBuf {
    let names = fs::read_dir(path).unwrap().map(|entry| entry.unwrap());
    let segments = names.filter(|entry| entry.file_name().to_string_lossy().starts_with("gen-"));
    let newest = segments.map(|entry| entry.path()).max().unwrap();
    newest.join("db")
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// The bytes before the zeros at the end of a file.
fn content(db: &Path) -> u64 {
    let bytes = fs::read(db).unwrap();
    bytes.iter().rposition(|byte| *byte != 0).unwrap() as u64 + 1
}

#[test]
fn after_a_kill_the_room_ahead_is_no_damage_and_no_loss() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("spool");
    let mut log = shelf_at(&path);
    lone_commits(&mut log, 1..40);
    let db = newest(&path);
    let room = fs::metadata(&db).unwrap().len() - content(&db);
    assert!(room > STEP / 2, "{room}");
    // As a kill leaves it; and again, with what the first start has made of it.
    let killed = dir.path().join("killed");
    copy(&path, &killed);
    for _ in 0..2 {
        let mut log = shelf_at(&killed);
        let groups = load_all(&mut log);
        assert_eq!(seqs(&groups), (1..40).collect::<Vec<_>>());
        assert!(gaps(&groups).is_empty());
    }
    let copies = fs::read_dir(&killed).unwrap();
    let mut names = copies.map(|entry| entry.unwrap().file_name());
    assert!(!names.any(|name| name.to_string_lossy().contains("corrupt")));
}

#[test]
fn wherever_the_file_is_cut_or_hit_what_is_not_found_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("spool");
    let mut log = shelf_at(&path);
    lone_commits(&mut log, 1..30);
    let db = newest(&path);
    let (end, len) = (content(&db), fs::metadata(&db).unwrap().len());
    let all: BTreeSet<u64> = (1..30).collect();
    // Cuts in the room ahead, at its edge, and in what is written; then blocks of garbage.
    let cuts = [
        len - 1,
        len - 4096,
        end + 4096,
        end,
        end - 1,
        end - 700,
        end / 2,
    ];
    let hits = [len - 4096, end + 8192, end - 4096, end / 2];
    let cuts = cuts.map(|at| (at, false));
    for (n, (at, hit)) in cuts
        .into_iter()
        .chain(hits.map(|at| (at, true)))
        .enumerate()
    {
        let hurt = dir.path().join(format!("hurt-{n}"));
        copy(&path, &hurt);
        let file = fs::OpenOptions::new()
            .write(true)
            .open(newest(&hurt))
            .unwrap();
        if hit {
            std::os::unix::fs::FileExt::write_all_at(&file, &[0xa5; 4096], at).unwrap();
        } else {
            file.set_len(at).unwrap();
        }
        drop(file);
        let mut log = shelf_at(&hurt);
        let groups = load_all(&mut log);
        let mut found: BTreeSet<u64> = seqs(&groups).into_iter().collect();
        if at >= end {
            assert!(gaps(&groups).is_empty(), "nothing was hit at {at} of {end}");
            assert_eq!(found, all);
        }
        for gap in gaps(&groups) {
            match (gap.from, gap.to) {
                (Some(from), Some(to)) => found.extend(from..=to),
                // Not even whose it was.
                _ => found.extend(&all),
            }
        }
        assert_eq!(found, all, "cut or hit at {at} of {end}");
    }
}

#[test]
fn a_database_that_is_closed_takes_no_more_than_what_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("spool");
    let mut log = shelf_at(&path);
    lone_commits(&mut log, 1..20);
    let db = newest(&path);
    let open = (fs::metadata(&db).unwrap(), log.usage().disk_bytes);
    assert!(open.0.blocks() * 512 >= STEP);
    assert!(open.1 >= open.0.blocks() * 512, "what is taken counts");
    log.stop(Vec::new());
    let closed = fs::metadata(&db).unwrap();
    let end = content(&db);
    assert!(closed.len() < end + 64 * 1024, "{} {end}", closed.len());
    assert!(closed.blocks() * 512 < end + 128 * 1024);
    let groups = load_all(&mut shelf_at(&path));
    assert_eq!(seqs(&groups), (1..20).collect::<Vec<_>>());
}

#[test]
fn what_is_taken_ahead_never_takes_the_spool_over_its_limit() {
    let dir = tempfile::tempdir().unwrap();
    let mut small = config(&dir.path().join("spool"), 8 << 20);
    small.overflow = Overflow::Refuse;
    let mut log = shelf_of(&small);
    let (mut taken, mut refrained) = (0, 0);
    for seq in 1.. {
        if let Err(failure) = log.commit(&items(seq..seq + 1, 60_000), &[]) {
            assert!(failure.full, "{failure:?}");
            break;
        }
        taken += u64::from(log.ahead > 0);
        refrained += u64::from(log.ahead == 0);
        let used = log.usage().disk_bytes;
        assert!(used <= small.max_size, "{used} after {seq}");
    }
    assert!(taken > 50 && refrained > 0, "{taken} {refrained}");
}

/// Bytes that the device under a file system has been told to write so far.
fn device_bytes(path: &Path) -> u64 {
    let dev = fs::metadata(path).unwrap().dev();
    let (major, minor) = (rustix::fs::major(dev), rustix::fs::minor(dev));
    let stat = fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/stat")).unwrap();
    stat.split_whitespace()
        .nth(6)
        .unwrap()
        .parse::<u64>()
        .unwrap()
        * 512
}

fn settle(path: &Path) {
    rustix::fs::syncfs(fs::File::open(path).unwrap()).unwrap();
}

#[test]
#[ignore = "needs root and a loop device; takes two minutes"]
fn a_lone_commit_makes_the_device_write_less_than_half() {
    if disc::ran_alone(&|| ()) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    // The blocks of every card; a file system as small as this would get smaller ones.
    let Some(disc) = Disc::with(dir.path(), 256, &["-b", "4096"]) else {
        return;
    };
    const COMMITS: u64 = 60;
    // Commits in quick succession share what the file system writes of itself.
    const APART: Duration = Duration::from_secs(1);
    let each = [false, true].map(|ahead| {
        let mut log = shelf_at(&disc.path.join(format!("spool-{ahead}")));
        let mut commit = |seq: u64| {
            let items = items(seq..seq + 1, 250);
            if ahead {
                log.commit(&items, &[]).unwrap();
            } else {
                // By the way inside, to which nobody has allowed any room.
                log.write(&items, &[]).unwrap();
            }
        };
        commit(1);
        settle(&disc.path);
        let before = device_bytes(&disc.path);
        for seq in 2..2 + COMMITS {
            std::thread::sleep(APART);
            commit(seq);
        }
        let each = (device_bytes(&disc.path) - before) / COMMITS;
        println!("device bytes for a lone commit, room ahead {ahead}: {each}");
        each
    });
    assert!(each[1] * 2 < each[0], "{each:?}");
}

#[test]
#[ignore = "needs root and a loop device"]
fn a_file_system_that_allocates_nothing_ahead_is_used_without_it() {
    if disc::ran_alone(&|| ()) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    // Without extents ext4 answers EOPNOTSUPP.
    let Some(disc) = Disc::with(dir.path(), 64, &["-O", "^extent,^64bit"]) else {
        return;
    };
    let path = disc.path.join("spool");
    let mut log = shelf_at(&path);
    lone_commits(&mut log, 1..40);
    let db = newest(&path);
    assert!(fs::metadata(&db).unwrap().len() < content(&db) + STEP / 2);
    drop(log);
    let groups = load_all(&mut shelf_at(&path));
    assert_eq!(seqs(&groups), (1..40).collect::<Vec<_>>());
}
