//! An engine that fails when told to: what the spool promises after a failed write.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use super::disk::Disk;
use super::salvage;
use super::segment_log::SegmentLog;
use super::store::{Engine, Error, Ids, Store};
use super::testing::copy;
use super::tests::{BIG, config, gaps, items, load_all, seqs};
use crate::reading::Gap;

/// Calls that succeed before one fails; counts down. `u32::MAX`: all succeed.
#[derive(Default)]
pub(super) struct Faults {
    pub(super) creates: AtomicU32,
    pub(super) appends: AtomicU32,
    pub(super) syncs: AtomicU32,
    /// Reads that fail from now on.
    bad_reads: AtomicU32,
    /// Appends since the last sync, and the most of them when a database was created.
    unsynced: AtomicU32,
    /// Syncs that were asked for.
    asked: AtomicU32,
    unsynced_at_create: AtomicU32,
}

impl Faults {
    pub(super) fn none() -> Arc<Self> {
        let faults = Self::default();
        for counter in [&faults.creates, &faults.appends, &faults.syncs] {
            counter.store(u32::MAX, Relaxed);
        }
        Arc::new(faults)
    }

    fn step(counter: &AtomicU32) -> Result<(), Error> {
        match counter.load(Relaxed) {
            u32::MAX => Ok(()),
            0 => Err(Error::Full),
            left => {
                counter.store(left - 1, Relaxed);
                Ok(())
            }
        }
    }
}

pub(super) struct Faulty(pub(super) Arc<Faults>, pub(super) Disk);

struct FaultyStore(Arc<Faults>, Box<dyn Store>);

impl Engine for Faulty {
    fn create(&self, dir: &Path) -> Result<Box<dyn Store>, Error> {
        Faults::step(&self.0.creates)?;
        let unsynced = self.0.unsynced.load(Relaxed);
        self.0.unsynced_at_create.fetch_max(unsynced, Relaxed);
        Ok(Box::new(FaultyStore(self.0.clone(), self.1.create(dir)?)))
    }

    fn open(&self, dir: &Path) -> Result<Box<dyn Store>, Error> {
        Ok(Box::new(FaultyStore(self.0.clone(), self.1.open(dir)?)))
    }
}

impl Store for FaultyStore {
    fn append(&mut self, id: u64, value: &[u8]) -> Result<(), Error> {
        Faults::step(&self.0.appends)?;
        self.0.unsynced.fetch_add(1, Relaxed);
        self.1.append(id, value)
    }

    fn sync(&mut self) -> Result<(), Error> {
        self.0.asked.fetch_add(1, Relaxed);
        // Written, but nobody knows whether it is durable: the worst moment to fail.
        self.1.sync()?;
        self.0.unsynced.store(0, Relaxed);
        Faults::step(&self.0.syncs)
    }

    fn take_ahead(&mut self, step: u64) {
        self.1.take_ahead(step);
    }

    fn ids(&mut self) -> Result<Ids, Error> {
        self.1.ids()
    }

    fn read(&mut self, id: u64) -> Result<Vec<u8>, Error> {
        let left = self.0.bad_reads.load(Relaxed);
        if left > 0 {
            self.0.bad_reads.store(left - 1, Relaxed);
            return Err(std::io::Error::from_raw_os_error(5).into());
        }
        self.1.read(id)
    }

    fn remove(&mut self, ids: &[u64]) -> Result<(), Error> {
        self.1.remove(ids)
    }
}

/// For each kind of call: one commit that works, one in which the n-th call fails, one that works.
#[test]
fn a_failed_commit_leaves_nothing_behind_in_this_run_and_the_next_one_works() {
    type Counter = fn(&Faults) -> &AtomicU32;
    let fails: [(Counter, u32); 6] = [
        (|faults| &faults.creates, 0),
        (|faults| &faults.creates, 1),
        (|faults| &faults.appends, 0),
        (|faults| &faults.appends, 7),
        (|faults| &faults.syncs, 0),
        (|faults| &faults.syncs, 1),
    ];
    for (counter, calls) in fails {
        let dir = tempfile::tempdir().unwrap();
        // Small segments: the failing commit spans several.
        let config = config(&dir.path().join("spool"), 3 << 20);
        let faults = Faults::none();
        let engine = Box::new(Faulty(faults.clone(), Disk { own_sync: true }));
        let mut log = SegmentLog::new(&config, engine);
        log.attach(true).unwrap();
        let first = log.write(&items(1..20, 2000), &[]).unwrap();
        counter(&faults).store(calls, Relaxed);
        assert!(matches!(
            log.write(&items(20..300, 2000), &[]),
            Err(Error::Full)
        ));
        assert_eq!(seqs(&load_all(&mut log)), (1..20).collect::<Vec<_>>());
        // The faults last: trying again is no worse.
        assert!(log.write(&items(20..300, 2000), &[]).is_err());
        counter(&faults).store(u32::MAX, Relaxed);
        let second = log.write(&items(20..300, 2000), &[]).unwrap();
        assert!(second[0].group > first.last().unwrap().group);
        assert_eq!(seqs(&load_all(&mut log)), (1..300).collect::<Vec<_>>());
        log.stop(Vec::new());
        let mut log = SegmentLog::new(&config, Box::new(Disk { own_sync: true }));
        log.attach(false).unwrap();
        assert_eq!(log.depth().batches, 299);
        assert_eq!(seqs(&load_all(&mut log)), (1..300).collect::<Vec<_>>());
    }
}

#[test]
fn a_commit_that_spans_databases_makes_each_durable_before_it_begins_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(&dir.path().join("spool"), 3 << 20);
    let faults = Faults::none();
    let engine = Box::new(Faulty(faults.clone(), Disk { own_sync: true }));
    let mut log = SegmentLog::new(&config, engine);
    log.attach(true).unwrap();
    log.write(&items(1..20, 2000), &[]).unwrap();
    log.write(&items(20..300, 2000), &[]).unwrap();
    assert!(log.segments.len() > 2);
    assert_eq!(faults.unsynced_at_create.load(Relaxed), 0);
}

/// A process that was killed may have written groups without the sync that makes them last. The
/// next one tells devices that they are safe.
#[test]
fn what_a_killed_process_has_written_is_synced_before_it_is_spoken_of() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(&dir.path().join("spool"), BIG);
    let mut killed = SegmentLog::new(&config, Box::new(Disk { own_sync: true }));
    killed.attach(true).unwrap();
    killed.write(&items(1..20, 2000), &[]).unwrap();
    killed.segments[0].open = None;
    drop(killed);

    let faults = Faults::none();
    let engine = || Box::new(Faulty(faults.clone(), Disk { own_sync: true }));
    faults.syncs.store(0, Relaxed);
    let mut log = SegmentLog::new(&config, engine());
    assert!(log.attach(false).is_err(), "believed without a sync");
    assert!(log.marks.all().is_empty());
    // A sync that failed once proves nothing when it succeeds: all of it is written anew.
    faults.syncs.store(u32::MAX, Relaxed);
    log.attach(false).unwrap();
    assert!(copies(&config.path) > 0);
    assert_eq!(log.marks.all()[0].seq, 19);
    assert_eq!(seqs(&load_all(&mut log)), (1..20).collect::<Vec<_>>());
    log.stop(Vec::new());

    faults.asked.store(0, Relaxed);
    let mut log = SegmentLog::new(&config, engine());
    log.attach(false).unwrap();
    assert_eq!(log.depth().batches, 19);
    let asked = faults.asked.load(Relaxed);
    assert_eq!(asked, 0, "what has a summary is known to last");
}

#[test]
fn a_directory_that_a_crash_left_without_its_format_gets_one_with_the_first_commit() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(&dir.path().join("spool"), BIG);
    std::fs::create_dir(&config.path).unwrap();
    let mut log = SegmentLog::new(&config, Box::new(Disk { own_sync: true }));
    log.attach(false).unwrap();
    assert!(
        !config.path.join("format").exists(),
        "a start writes nothing"
    );
    log.commit(&items(1..20, 2000), &[]).unwrap();
    assert!(config.path.join("format").exists());
}

/// How many parts of the spool were set aside.
fn copies(spool: &Path) -> usize {
    let entries = std::fs::read_dir(spool).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name());
    names
        .filter(|name| name.to_string_lossy().contains(".corrupt-"))
        .count()
}

#[test]
fn a_full_disk_while_room_is_made_drops_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let faults = Faults::none();
    let engine = Box::new(Faulty(faults.clone(), Disk { own_sync: true }));
    let mut log = SegmentLog::new(&config(&dir.path().join("spool"), BIG), engine);
    log.commit(&items(1..20, 2000), &[]).unwrap();
    log.limits.max_size = 1;
    faults.creates.store(0, Relaxed);
    let failure = log.commit(&items(20..30, 2000), &[]).unwrap_err();
    assert!(failure.full);
    assert!(log.news.is_empty());
    assert_eq!(seqs(&load_all(&mut log)), (1..20).collect::<Vec<_>>());
    faults.creates.store(u32::MAX, Relaxed);
    log.commit(&items(20..30, 2000), &[]).unwrap();
    assert_eq!(seqs(&load_all(&mut log)), (20..30).collect::<Vec<_>>());
}

/// A log with batches 1 to 99 in it, closed and opened again.
fn filled(path: &Path, faults: &Arc<Faults>) -> SegmentLog {
    let config = config(path, BIG);
    let engine = || Box::new(Faulty(faults.clone(), Disk { own_sync: true }));
    let mut log = SegmentLog::new(&config, engine());
    log.commit(&items(1..100, 2000), &[]).unwrap();
    log.stop(Vec::new());
    let mut log = SegmentLog::new(&config, engine());
    log.attach(false).unwrap();
    log
}

#[test]
fn a_device_that_does_not_read_for_a_while_makes_no_gap() {
    let dir = tempfile::tempdir().unwrap();
    let faults = Faults::none();
    let mut log = filled(&dir.path().join("spool"), &faults);
    faults.bad_reads.store(4, Relaxed);
    for _ in 0..4 {
        assert!(log.load(None, 1000).is_empty());
        assert!(log.unreadable);
    }
    let groups = load_all(&mut log);
    assert!(!log.unreadable);
    assert_eq!(seqs(&groups), (1..100).collect::<Vec<_>>());
    assert!(gaps(&groups).is_empty());
}

#[test]
fn a_segment_that_is_still_written_is_read_again_as_well() {
    let dir = tempfile::tempdir().unwrap();
    let faults = Faults::none();
    let engine = Box::new(Faulty(faults.clone(), Disk { own_sync: true }));
    let mut log = SegmentLog::new(&config(&dir.path().join("spool"), BIG), engine);
    log.commit(&items(1..20, 2000), &[]).unwrap();
    faults.bad_reads.store(1, Relaxed);
    assert!(log.load(None, 1000).is_empty());
    assert_eq!(seqs(&load_all(&mut log)), (1..20).collect::<Vec<_>>());
    log.commit(&items(20..30, 2000), &[]).unwrap();
    assert_eq!(seqs(&load_all(&mut log)), (1..30).collect::<Vec<_>>());
}

#[test]
fn what_a_device_refuses_for_good_is_saved_without_the_engine_and_does_not_hold_up_the_rest() {
    let dir = tempfile::tempdir().unwrap();
    let faults = Faults::none();
    let mut log = filled(&dir.path().join("spool"), &faults);
    faults.bad_reads.store(u32::MAX, Relaxed);
    for _ in 0..5 {
        assert!(log.load(None, 1000).is_empty());
        assert!(log.unreadable);
    }
    // The copy is sound, but the engine still refuses: nothing is made up meanwhile.
    faults.bad_reads.store(0, Relaxed);
    let groups = load_all(&mut log);
    assert_eq!(seqs(&groups), (1..100).collect::<Vec<_>>());
    assert!(gaps(&groups).is_empty());
    assert_eq!(copies(&dir.path().join("spool")), 1);
}

/// Nine groups of ten batches, as a kill leaves them, of which the fifth is damaged; found when no
/// other database can be made.
fn damaged(dir: &Path, faults: &Arc<Faults>) -> SegmentLog {
    let (path, killed) = (dir.join("spool"), dir.join("killed"));
    let engine = || Box::new(Faulty(faults.clone(), Disk { own_sync: true }));
    let config = config(&path, BIG);
    let mut log = SegmentLog::new(&config, engine());
    for at in 0..9 {
        let batches = items(at * 10 + 1..at * 10 + 11, 2000);
        log.commit(&batches, &[]).unwrap();
    }
    copy(&path, &killed);
    drop(log);
    std::fs::remove_dir_all(&path).unwrap();
    copy(&killed, &path);
    let entries = std::fs::read_dir(&path).unwrap();
    let db = entries
        .map(|entry| entry.unwrap().path().join("db"))
        .find(|path| path.exists())
        .unwrap();
    let mut content = std::fs::read(&db).unwrap();
    let group = salvage::groups(&content).into_values().nth(4).unwrap();
    let at = content
        .windows(group.len())
        .position(|part| part == group)
        .unwrap();
    content[at + group.len() / 2] ^= 1;
    std::fs::write(&db, content).unwrap();

    faults.creates.store(0, Relaxed);
    let mut log = SegmentLog::new(&config, engine());
    log.attach(false).unwrap();
    log
}

#[test]
fn a_damaged_part_that_cannot_be_replaced_yet_is_not_taken_for_empty() {
    let dir = tempfile::tempdir().unwrap();
    let faults = Faults::none();
    let mut log = damaged(dir.path(), &faults);
    log.idle();
    assert!(log.load(None, usize::MAX).is_empty());
    assert!(log.unreadable);
    faults.creates.store(u32::MAX, Relaxed);
    let groups = load_all(&mut log);
    let lost = gaps(&groups);
    assert_eq!(
        (lost.len(), lost[0].from, lost[0].to),
        (1, Some(41), Some(50))
    );
    assert_eq!(seqs(&groups).len(), 80);
}

#[test]
fn of_a_damaged_part_that_has_to_make_way_everything_that_is_known_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let faults = Faults::none();
    let mut log = damaged(dir.path(), &faults);
    faults.creates.store(u32::MAX, Relaxed);
    log.limits.max_size = 1;
    log.commit(&items(91..95, 10), &[]).unwrap();
    let lost = gaps(&load_all(&mut log));
    let known = (lost[0].from, lost[0].to, lost[0].batches);
    assert_eq!(known, (Some(1), Some(90), 90), "{lost:?}");
    // There may have been more.
    assert_eq!((lost.len(), &*lost[1].device), (2, Gap::UNKNOWN));
}
