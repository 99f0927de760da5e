//! Who pays when the spool is full, over real databases; and what a power cut can leave behind.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::disk::Disk;
use super::fault_tests::{Faults, Faulty};
use super::segment_log::SegmentLog;
use super::testing::{batch, copy};
use super::tests::{config, gaps, load_all, shelf_of};
use super::{Event, Group, GroupId, Loc};
use crate::config::Spool;
use crate::reading::{GapReason, Item};

const SIZE: u64 = 8 << 20;

/// What a round of one chatty and three quiet devices brings.
fn round(number: u64) -> Vec<Arc<Item>> {
    let chatty = (number * 20 + 1..=number * 20 + 20).map(|seq| batch("chatty", "s", seq, 2_000));
    let quiet = (0..3).map(|n| batch(&format!("quiet-{n}"), "s", number + 1, 300));
    chatty.chain(quiet).collect()
}

/// What the spool must hold, told by its answers alone.
#[derive(Default)]
struct Told {
    groups: BTreeMap<GroupId, Vec<Arc<Item>>>,
    compacted: u64,
    dropped: u64,
    batches: u64,
}

impl Told {
    fn commit(&mut self, log: &mut SegmentLog, items: &[Arc<Item>]) {
        let placed = log.commit(items, &[]).unwrap();
        self.hear(log);
        self.stored(items, placed);
    }

    fn stored(&mut self, items: &[Arc<Item>], placed: Vec<Loc>) {
        for (item, loc) in items.iter().zip(placed) {
            let group = self.groups.entry(loc.group).or_default();
            assert_eq!(group.len(), loc.index as usize);
            group.push(item.clone());
        }
    }

    fn hear(&mut self, log: &mut SegmentLog) {
        for event in std::mem::take(&mut log.news) {
            match event {
                Event::Dropped {
                    from,
                    upto,
                    batches,
                    ..
                } => {
                    self.dropped += 1;
                    self.batches += batches;
                    self.groups.retain(|id, _| !(from..=upto).contains(id));
                }
                Event::Compacted {
                    groups, batches, ..
                } => {
                    self.compacted += 1;
                    self.batches += batches;
                    for compacted in groups {
                        let items = self.groups.get_mut(&compacted.group).unwrap();
                        let mut at = 0;
                        items.retain(|_| {
                            at += 1;
                            !compacted.gone.contains(&(at - 1))
                        });
                    }
                    self.groups.retain(|_, items| !items.is_empty());
                }
                other => panic!("{other:?}"),
            }
        }
    }
}

/// Numbers of each device's batches, in the order in which they are read.
fn batches(groups: &[Group]) -> BTreeMap<String, Vec<u64>> {
    let mut found: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for item in groups.iter().flat_map(|group| &group.items) {
        if let Item::Batch(batch) = &**item {
            let numbers = found.entry(batch.device.to_string()).or_default();
            numbers.push(batch.seq.unwrap());
        }
    }
    found
}

/// Of so many rounds the quiet devices have everything, and the chatty one its newest; everything
/// else of it is in gap records, nothing twice. `twice`: but for records that a power cut made
/// before their time.
fn assert_fair(groups: &[Group], rounds: u64, twice: bool) -> u64 {
    let found = batches(groups);
    for n in 0..3 {
        let all: Vec<u64> = (1..=rounds).collect();
        assert_eq!(found[&format!("quiet-{n}")], all);
    }
    let kept = &found["chatty"];
    assert!(kept.is_sorted(), "in order");
    let mut known: BTreeSet<u64> = kept.iter().copied().collect();
    assert_eq!(known.len(), kept.len());
    let mut lost = 0;
    for gap in gaps(groups) {
        assert_eq!((&*gap.device, &*gap.stream), ("chatty", "s"));
        assert_eq!(gap.reason, GapReason::Overflow);
        let range = gap.from.unwrap()..=gap.to.unwrap();
        assert_eq!(range.clone().count() as u64, gap.batches);
        assert_eq!(gap.readings, gap.batches * 10);
        for seq in range {
            assert!(known.insert(seq) || twice, "{seq} twice");
        }
        lost += gap.batches;
    }
    assert_eq!(known, (1..=rounds * 20).collect());
    lost
}

#[test]
fn quiet_devices_keep_all_while_a_chatty_one_loses_its_oldest() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(&dir.path().join("spool"), SIZE);
    let mut log = shelf_of(&config);
    let mut told = Told::default();
    const ROUNDS: u64 = 500;
    for number in 0..ROUNDS {
        told.commit(&mut log, &round(number));
        let used = log.usage().disk_bytes;
        assert!(used <= SIZE, "{used}");
    }
    assert!(told.compacted > 3, "{}", told.compacted);
    let groups = load_all(&mut log);
    let lost = assert_fair(&groups, ROUNDS, false);
    assert_eq!(lost, told.batches);
    let kept = &batches(&groups)["chatty"];
    assert_eq!(*kept.last().unwrap() - kept[0] + 1, kept.len() as u64);
    assert!(kept.len() as u64 * 2_000 > SIZE / 2, "{}", kept.len());
    // Where the spool has said that items are is where they are.
    for group in &groups {
        if let Some(items) = told.groups.get(&group.id) {
            assert_eq!(&group.items, items);
        }
    }
    let ids: BTreeSet<GroupId> = groups.iter().map(|group| group.id).collect();
    assert!(told.groups.keys().all(|id| ids.contains(id)));
    // And all of it again after a restart.
    let depth = log.depth();
    drop(log);
    let mut log = shelf_of(&config);
    assert_eq!(log.depth(), depth);
    assert_eq!(assert_fair(&load_all(&mut log), ROUNDS, false), lost);
}

#[test]
fn equal_devices_lose_their_oldest_together() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = shelf_of(&config(&dir.path().join("spool"), SIZE));
    let mut told = Told::default();
    for seq in 1..=1_000 {
        let items: Vec<_> = (0..10)
            .map(|n| batch(&format!("d{n}"), "s", seq, 2_000))
            .collect();
        told.commit(&mut log, &items);
    }
    assert!(told.dropped > 0);
    assert_eq!(told.compacted, 0);
    let counts: Vec<_> = batches(&load_all(&mut log))
        .values()
        .map(Vec::len)
        .collect();
    assert_eq!(counts.len(), 10);
    assert!(counts.iter().max().unwrap() - counts.iter().min().unwrap() <= 20);
}

#[test]
fn what_others_ask_to_delete_of_a_thinned_segment_takes_nothing_else_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = shelf_of(&config(&dir.path().join("spool"), SIZE));
    let mut told = Told::default();
    let mut number = 0;
    // One device's groups are all its own, the other's as well.
    while told.compacted == 0 {
        let chatty: Vec<_> = (1..=30)
            .map(|n| batch("chatty", "s", number * 30 + n, 2_000))
            .collect();
        told.commit(&mut log, &chatty);
        told.commit(&mut log, &[batch("quiet", "s", number + 1, 300)]);
        number += 1;
    }
    let groups = load_all(&mut log);
    let first = log.segments[0].first;
    let last = log.segments[0].last;
    let kept: BTreeSet<u64> = groups.iter().map(|group| group.id.0).collect();
    log.segments[0].close();
    // The intake may have finished groups that it has not heard of as gone.
    let stale: Vec<GroupId> = (first..=last)
        .filter(|id| !kept.contains(id))
        .map(GroupId)
        .collect();
    assert!(stale.len() as u64 >= log.segments[0].groups);
    log.delete(&stale);
    assert_eq!(batches(&load_all(&mut log))["quiet"].len() as u64, number);
}

/// Whatever fails while room is made, and whenever: what is not stored is reported, and batches
/// are where the spool says.
#[test]
fn a_disk_that_fails_while_room_is_made_loses_nothing_without_a_record() {
    let dir = tempfile::tempdir().unwrap();
    let faults = Faults::none();
    let engine = Box::new(Faulty(faults.clone(), Disk { own_sync: true }));
    let mut log = SegmentLog::new(&config(&dir.path().join("spool"), SIZE), engine);
    let mut told = Told::default();
    let counters = [&faults.creates, &faults.appends, &faults.syncs];
    let (mut failed, mut rounds) = (0, 0);
    while rounds < 360 {
        let counter = counters[rounds as usize % counters.len()];
        counter.store(u32::try_from(rounds % 7).unwrap(), Relaxed);
        let items = round(rounds);
        let first = log.commit(&items, &[]);
        counter.store(u32::MAX, Relaxed);
        told.hear(&mut log);
        match first {
            Ok(placed) => told.stored(&items, placed),
            Err(failure) => {
                assert!(failure.full, "{failure:?}");
                failed += 1;
                told.commit(&mut log, &items);
            }
        }
        rounds += 1;
    }
    assert!(
        failed > 20 && told.compacted > 0,
        "{failed} {}",
        told.compacted
    );
    let groups = load_all(&mut log);
    for group in &groups {
        if let Some(items) = told.groups.get(&group.id) {
            assert_eq!(&group.items, items);
        }
    }
    let mut known = batches(&groups);
    assert!(known.values().all(|numbers| numbers.is_sorted()));
    for gap in gaps(&groups) {
        let numbers = known.entry(gap.device.to_string()).or_default();
        numbers.extend(gap.from.unwrap()..=gap.to.unwrap());
    }
    for (device, numbers) in known {
        let numbers: BTreeSet<u64> = numbers.into_iter().collect();
        let each = if device == "chatty" { 20 } else { 1 };
        assert_eq!(numbers, (1..=rounds * each).collect(), "{device}");
    }
}

/// The spool before and after the first rewrite that joins two segments.
fn before_and_after(dir: &Path) -> (Spool, u64, Vec<String>) {
    let config = config(&dir.join("spool"), SIZE);
    let mut log = shelf_of(&config);
    let mut told = Told::default();
    for number in 0.. {
        if log.usage().disk_bytes < SIZE * 2 / 3 {
            told.commit(&mut log, &round(number));
            continue;
        }
        copy(&config.path, &dir.join("before"));
        let had: BTreeSet<_> = names(&config.path);
        let compacted = told.compacted;
        told.commit(&mut log, &round(number));
        let gone: Vec<String> = had.difference(&names(&config.path)).cloned().collect();
        if told.compacted > compacted + 1 {
            // Two in one commit tell nothing of the state between.
            fs::remove_dir_all(dir.join("before")).unwrap();
            continue;
        }
        if told.compacted > compacted && !gone.is_empty() {
            drop(log);
            return (config, number + 1, gone);
        }
        fs::remove_dir_all(dir.join("before")).unwrap();
    }
    unreachable!()
}

fn names(path: &Path) -> BTreeSet<String> {
    let Ok(entries) = fs::read_dir(path) else {
        return BTreeSet::new();
    };
    entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with("gen-"))
        .collect()
}

/// Opens a copy of the spool that was changed by hand, and looks at all that is in it.
fn open(config: &Spool, dir: &Path, rounds: u64, twice: bool, change: impl FnOnce(&Path)) {
    let path = dir.join("copy");
    copy(&config.path, &path);
    change(&path);
    let config = Spool {
        path: path.clone(),
        ..config.clone()
    };
    let mut log = shelf_of(&config);
    assert_fair(&load_all(&mut log), rounds, twice);
    let left = names(&path);
    assert!(
        left.iter().all(|name| name.len() == "gen-".len() + 16),
        "{left:?}"
    );
    drop(log);
    fs::remove_dir_all(path).unwrap();
}

#[test]
fn whatever_a_power_cut_leaves_of_a_rewrite_opens_with_all_that_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let (config, rounds, gone) = before_and_after(dir.path());
    let before = dir.path().join("before");
    let new = gone[0].clone();
    // The one that they became part of.
    let merged = names(&config.path)
        .range(..new.clone())
        .next_back()
        .unwrap()
        .clone();
    open(&config, dir.path(), rounds, false, |_| {});
    // The records are stored, the new segment is complete, nothing has been put in its place.
    open(&config, dir.path(), rounds, true, |path| {
        fs::rename(path.join(&merged), path.join(format!("{merged}.new"))).unwrap();
        for name in gone.iter().chain([&merged]) {
            copy(&before.join(name), &path.join(name));
        }
    });
    // It is not complete.
    open(&config, dir.path(), rounds, true, |path| {
        fs::rename(path.join(&merged), path.join(format!("{merged}.new"))).unwrap();
        fs::remove_file(path.join(format!("{merged}.new")).join("summary")).unwrap();
        for name in gone.iter().chain([&merged]) {
            copy(&before.join(name), &path.join(name));
        }
    });
    // The old one is aside, the new one not in its place.
    open(&config, dir.path(), rounds, false, |path| {
        fs::rename(path.join(&merged), path.join(format!("{merged}.new"))).unwrap();
        copy(&before.join(&merged), &path.join(format!("{merged}.dead")));
        for name in &gone {
            copy(&before.join(name), &path.join(name));
        }
    });
    // It is in its place, and the others are still there.
    open(&config, dir.path(), rounds, false, |path| {
        copy(&before.join(&merged), &path.join(format!("{merged}.dead")));
        for name in &gone {
            copy(&before.join(name), &path.join(name));
        }
    });
}
