//! Whatever happens to the files, the spool opens, and what was stored comes back or is
//! accounted for.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::salvage;
use super::segment_log::SegmentLog;
use super::testing::copy;
use super::tests::{BIG, config, gaps, items, load_all, seqs, shelf_of};
use crate::reading::Gap;

/// Batches in the spool that is damaged.
const BATCHES: u64 = 260;

fn files_below(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files_below(&path, found);
        } else {
            found.push(path);
        }
    }
}

/// A spool of two sealed segments and one that a crash left open.
fn spool() -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let live = dir.path().join("live");
    let mut config = config(&live, BIG);
    config.max_size = 3 << 20;
    let mut log = shelf_of(&config);
    for at in 0..BATCHES / 20 {
        log.attach(true).unwrap();
        log.write(&items(at * 20 + 1..at * 20 + 21, 2000), &[])
            .unwrap();
    }
    assert!(log.segments.len() >= 3, "{}", log.segments.len());
    let pristine = dir.path().join("pristine");
    copy(&live, &pristine);
    drop(log);
    (dir, pristine)
}

/// What is neither loaded nor in a gap.
fn missing(log: &mut SegmentLog) -> Vec<u64> {
    let groups = load_all(log);
    let (loaded, gaps) = (seqs(&groups), gaps(&groups));
    if gaps.iter().any(|gap| *gap.device == *Gap::UNKNOWN) {
        return Vec::new();
    }
    (1..=BATCHES)
        .filter(|seq| !loaded.contains(seq))
        .filter(|seq| {
            !gaps
                .iter()
                .any(|gap| gap.from <= Some(*seq) && gap.to >= Some(*seq))
        })
        .collect()
}

/// Applies `damage` to every file of the spool in turn; returns what was lost without a word.
fn for_every_file(damage: impl Fn(&mut Vec<u8>, usize) -> bool) -> Vec<String> {
    let (dir, pristine) = spool();
    let mut files = Vec::new();
    files_below(&pristine, &mut files);
    let mut lost = Vec::new();
    for file in files {
        let content = fs::read(&file).unwrap();
        for round in 0.. {
            let mut damaged = content.clone();
            if !damage(&mut damaged, round) {
                break;
            }
            let tried = dir.path().join("tried");
            copy(&pristine, &tried);
            let name = file.strip_prefix(&pristine).unwrap();
            fs::write(tried.join(name), &damaged).unwrap();
            let mut log = shelf_of(&config(&tried, BIG));
            let missing = missing(&mut log);
            if !missing.is_empty() {
                lost.push(format!("{} {round}: {missing:?}", name.display()));
            }
            // Work goes on.
            log.commit(&items(9_001..9_002, 10), &[]).unwrap();
            assert!(seqs(&load_all(&mut log)).contains(&9_001));
            drop(log);
            fs::remove_dir_all(&tried).unwrap();
        }
    }
    lost
}

#[test]
fn a_flipped_bit_anywhere_loses_nothing_silently() {
    const PLACES: usize = 12;
    let lost = for_every_file(|bytes, round| {
        let at = bytes.len() * round / PLACES + round;
        let hit = round < PLACES && at < bytes.len();
        if hit {
            bytes[at] ^= 0x10;
        }
        hit
    });
    assert_eq!(lost, Vec::<String>::new());
}

#[test]
fn a_zeroed_block_anywhere_loses_nothing_silently() {
    const BLOCK: usize = 4096;
    const PLACES: usize = 8;
    let lost = for_every_file(|bytes, round| {
        let blocks = bytes.len().div_ceil(BLOCK);
        let begin = blocks * round / PLACES * BLOCK;
        let hit = round < PLACES.min(blocks);
        if hit {
            let end = bytes.len().min(begin + BLOCK);
            bytes[begin..end].fill(0);
        }
        hit
    });
    assert_eq!(lost, Vec::<String>::new());
}

#[test]
fn a_file_cut_short_anywhere_loses_nothing_silently() {
    const PLACES: usize = 6;
    let lost = for_every_file(|bytes, round| {
        bytes.truncate(bytes.len() * round / PLACES);
        round < PLACES
    });
    assert_eq!(lost, Vec::<String>::new());
}

#[test]
fn a_missing_file_loses_nothing_silently() {
    let (dir, pristine) = spool();
    let mut files = Vec::new();
    files_below(&pristine, &mut files);
    for file in files {
        let tried = dir.path().join("tried");
        copy(&pristine, &tried);
        fs::remove_file(tried.join(file.strip_prefix(&pristine).unwrap())).unwrap();
        let mut log = shelf_of(&config(&tried, BIG));
        assert_eq!(missing(&mut log), Vec::<u64>::new(), "{}", file.display());
        drop(log);
        fs::remove_dir_all(&tried).unwrap();
    }
}

/// The process was killed, or the power went, in the middle of making a database. Nothing had been
/// put in, so nothing is lost and nobody is told that something is.
#[test]
fn a_database_that_was_never_made_to_the_end_is_no_loss() {
    let unfinished: [&[(&str, &[u8])]; 5] = [
        &[],
        &[("conf", b"")],
        &[("db", b"")],
        &[("conf", b"half of it")],
        &[("conf", b"nonsense"), ("db", b"nonsense")],
    ];
    for files in unfinished {
        let dir = tempfile::tempdir().unwrap();
        let config = config(&dir.path().join("spool"), BIG);
        let mut log = shelf_of(&config);
        log.commit(&items(1..20, 2000), &[]).unwrap();
        log.stop(Vec::new());
        let half = config.path.join(super::space::name(u64::MAX / 2));
        fs::create_dir(&half).unwrap();
        for (name, content) in files {
            fs::write(half.join(name), content).unwrap();
        }
        let scratch = tempfile::tempdir().unwrap();
        let found = super::inspect(&config.path, scratch.path(), Some(&mut |_| Ok(()))).unwrap();
        assert_eq!(found.faults, Vec::<String>::new(), "{files:?}");
        let mut log = shelf_of(&config);
        let groups = load_all(&mut log);
        assert_eq!(seqs(&groups), (1..20).collect::<Vec<_>>());
        assert!(gaps(&groups).is_empty(), "{files:?}");
        assert!(!half.exists(), "{files:?}");
    }
}

/// The engine takes a damaged place for the end of its log, and cuts off what came after. The note
/// of how far that went is not synced: after a power cut nothing but the bytes tells of it.
#[test]
fn a_damaged_place_hides_nothing_that_was_acknowledged_after_it() {
    let (dir, pristine) = spool();
    let mut segments: Vec<_> = fs::read_dir(&pristine)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.join("db").exists())
        .collect();
    segments.sort();
    let newest = segments.pop().unwrap();
    fs::remove_file(newest.join("reached")).unwrap();
    let content = fs::read(newest.join("db")).unwrap();
    let groups = salvage::groups(&content);
    let places = groups.values().map(|group| {
        let at = content.windows(group.len()).position(|part| part == group);
        at.unwrap() + group.len() / 2
    });
    // What is cut short at the very end was never acknowledged.
    let places = places.take(groups.len() - 1);
    for place in places {
        let tried = dir.path().join("tried");
        copy(&pristine, &tried);
        let mut damaged = content.clone();
        damaged[place] ^= 0x10;
        fs::write(tried.join(newest.file_name().unwrap()).join("db"), damaged).unwrap();
        let mut log = shelf_of(&config(&tried, BIG));
        assert_eq!(missing(&mut log), Vec::<u64>::new(), "{place}");
        let groups = load_all(&mut log);
        let gaps = gaps(&groups);
        assert_eq!(gaps.len(), 1, "{place}: {gaps:?}");
        // One group, and not the batches behind it.
        assert!((1..20).contains(&gaps[0].batches), "{place}: {gaps:?}");
        assert_eq!(seqs(&groups).len() as u64 + gaps[0].batches, BATCHES);
        assert_eq!(log.marks.all()[0].seq, BATCHES, "{place}");
        drop(log);
        fs::remove_dir_all(&tried).unwrap();
    }
}

/// A start after a kill sums up what it finds. What is deleted is part of that: otherwise as much
/// again could get lost later, and nobody would notice.
#[test]
fn what_is_deleted_hides_nothing_that_gets_lost_after_the_next_start() {
    let dir = tempfile::tempdir().unwrap();
    let live = dir.path().join("live");
    let config = config(&live, BIG);
    let mut log = shelf_of(&config);
    for at in 0..5 {
        let places = log.commit(&items(at * 10 + 1..at * 10 + 11, 2000), &[]);
        let group = places.unwrap()[0].group;
        if at < 3 {
            log.delete(&[group]);
        }
    }
    let killed = dir.path().join("killed");
    copy(&live, &killed);
    let config = self::config(&killed, BIG);
    drop(shelf_of(&config));
    let db = killed.join(super::space::name(log.segments[0].first));
    let db = db.join("db");
    let mut content = fs::read(&db).unwrap();
    let groups = salvage::groups(&content);
    assert_eq!(groups.len(), 5);
    let fourth = groups.values().nth(3).unwrap();
    let at = content
        .windows(fourth.len())
        .position(|part| part == fourth);
    // The engine finds nothing from there on, and neither does anybody.
    content[at.unwrap()..].fill(0);
    fs::write(&db, content).unwrap();
    let mut log = shelf_of(&config);
    let groups = load_all(&mut log);
    // That some were deleted may have been written behind it.
    assert!(seqs(&groups).iter().all(|seq| *seq <= 30));
    let gaps = gaps(&groups);
    assert_eq!(gaps.len(), 1, "{gaps:?}");
    let told = (gaps[0].from, gaps[0].to, gaps[0].batches);
    assert_eq!(told, (Some(31), Some(50), 20));
}
