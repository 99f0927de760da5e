//! The spool as a whole, over real databases in temporary directories.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use proptest::prelude::*;
use tempfile::TempDir;
use tokio::sync::mpsc::Receiver;

use super::disk::Disk;
use super::segment_log::SegmentLog;
use super::testing::{batch, reply};
use super::*;
use crate::config::{Overflow, Spool, SpoolWrite};
use crate::reading::{GapReason, Item, Mark};

pub(super) fn config(path: &Path, max_size: u64) -> Spool {
    Spool {
        path: path.to_owned(),
        write: SpoolWrite::Outage,
        max_size,
        min_free: 0,
        max_age: Duration::from_secs(3600),
        commit_interval: Duration::ZERO,
        overflow: Overflow::DropOldest,
    }
}

pub(super) const BIG: u64 = 1 << 30;

fn disk() -> Box<Disk> {
    Box::new(Disk { own_sync: true })
}

fn log(dir: &TempDir) -> SegmentLog {
    shelf_of(&config(&dir.path().join("spool"), BIG))
}

pub(super) fn shelf_of(config: &Spool) -> SegmentLog {
    let mut log = SegmentLog::new(config, disk());
    log.attach(false).unwrap();
    log
}

pub(super) fn items(range: std::ops::Range<u64>, size: usize) -> Vec<Arc<Item>> {
    range.map(|seq| batch("d", "s", seq, size)).collect()
}

pub(super) fn load_all(log: &mut SegmentLog) -> Vec<Group> {
    let mut all: Vec<Group> = Vec::new();
    loop {
        let next = log.load(all.last().map(|group| group.id), 100_000);
        if next.is_empty() {
            return all;
        }
        all.extend(next);
    }
}

fn flat(groups: &[Group]) -> Vec<Arc<Item>> {
    groups
        .iter()
        .flat_map(|group| group.items.clone())
        .collect()
}

pub(super) fn seqs(groups: &[Group]) -> Vec<u64> {
    flat(groups)
        .iter()
        .filter_map(|item| match &**item {
            Item::Batch(batch) => batch.seq,
            Item::Gap(_) | Item::Reply(_) => None,
        })
        .collect()
}

pub(super) fn gaps(groups: &[Group]) -> Vec<crate::reading::Gap> {
    flat(groups)
        .iter()
        .filter_map(|item| match &**item {
            Item::Batch(_) | Item::Reply(_) => None,
            Item::Gap(gap) => Some(gap.clone()),
        })
        .collect()
}

fn entries(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn an_idle_spool_writes_nothing_and_has_no_directory() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = log(&dir);
    assert!(log.load(None, 1000).is_empty());
    log.stop(Vec::new());
    assert_eq!(entries(dir.path()), Vec::<String>::new());
}

#[test]
fn items_come_back_in_order_where_they_were_placed() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = log(&dir);
    let sent = items(1..200, 700);
    let placed = log.commit(&sent, &[]).unwrap();
    let groups = load_all(&mut log);
    assert_eq!(flat(&groups), sent);
    assert!(groups.len() > 3);
    for (item, loc) in sent.iter().zip(placed) {
        let group = groups.iter().find(|group| group.id == loc.group).unwrap();
        assert_eq!(&group.items[loc.index as usize], item);
    }
}

#[test]
fn an_item_of_the_largest_frame_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = log(&dir);
    let mut sent = items(1..4, 256 * 1024);
    sent.extend(items(4..8, 10));
    log.commit(&sent, &[]).unwrap();
    assert_eq!(flat(&load_all(&mut log)), sent);
    drop(log);
    assert_eq!(flat(&load_all(&mut self::log(&dir))), sent);
    for name in entries(&dir.path().join("spool")) {
        let blobs = dir.path().join("spool").join(name).join("blobs");
        if blobs.exists() {
            assert_eq!(entries(&blobs), Vec::<String>::new());
        }
    }
}

#[test]
fn everything_survives_a_restart_with_and_without_an_orderly_end() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = log(&dir);
    let mark = Mark {
        device: "live".into(),
        stream: "s".into(),
        seq: 44,
    };
    log.commit(&items(1..50, 700), std::slice::from_ref(&mark))
        .unwrap();
    drop(log);
    let mut log = self::log(&dir);
    let depth = log.depth();
    assert_eq!(
        (depth.batches, depth.readings, depth.oldest),
        (49, 490, Some(1000.0))
    );
    log.commit(&items(50..60, 700), &[]).unwrap();
    log.stop(Vec::new());
    let mut log = self::log(&dir);
    assert!(
        !log.is_open(),
        "summaries tell all that is asked at the start"
    );
    assert_eq!(log.depth().batches, 59);
    assert_eq!(seqs(&load_all(&mut log)), (1..60).collect::<Vec<_>>());
    let marks = log.marks.all();
    assert!(marks.contains(&mark));
    assert!(marks.contains(&Mark {
        device: "d".into(),
        stream: "s".into(),
        seq: 59
    }));
}

#[test]
fn what_was_deleted_stays_deleted_after_an_orderly_end() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = log(&dir);
    log.commit(&items(1..100, 2000), &[]).unwrap();
    let groups = load_all(&mut log);
    let gone: Vec<_> = groups[..2].iter().map(|group| group.id).collect();
    log.delete(&gone);
    log.stop(Vec::new());
    let mut log = self::log(&dir);
    assert_eq!(log.depth().groups, groups.len() as u64 - 2);
    assert_eq!(load_all(&mut log)[0].id, groups[2].id);
}

#[test]
fn a_drained_spool_gives_its_space_back_keeps_its_marks_and_never_reuses_an_id() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = log(&dir);
    log.commit(&items(1..100, 2000), &[]).unwrap();
    let ids: Vec<_> = load_all(&mut log).iter().map(|group| group.id).collect();
    log.delete(&ids);
    assert!(log.idle());
    assert!(!log.is_open());
    assert_eq!(
        entries(&dir.path().join("spool")),
        ["ballast", "format", "marks"]
    );
    assert!(log.usage().disk_bytes < 600_000);
    log.stop(Vec::new());
    let mut log = self::log(&dir);
    assert_eq!(log.depth(), Depth::default());
    assert_eq!(log.marks.all()[0].seq, 99);
    log.next_id = log.next_id.min(ids.last().unwrap().0 + 1);
    let placed = log.commit(&items(1..2, 10), &[]).unwrap();
    assert!(placed[0].group > *ids.last().unwrap());
}

#[test]
fn segments_are_sealed_drained_and_removed_one_by_one() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(&dir.path().join("spool"), 4 << 20);
    let mut log = shelf_of(&config);
    for at in 0..10 {
        log.commit(&items(at * 50 + 1..at * 50 + 51, 2000), &[])
            .unwrap();
    }
    let before = log.segments.len();
    assert!(before >= 3, "{before}");
    let groups = load_all(&mut log);
    assert_eq!(seqs(&groups), (1..501).collect::<Vec<_>>());
    assert!(log.segments.iter().filter(|one| one.open.is_some()).count() <= 3);
    let ids: Vec<_> = groups.iter().map(|group| group.id).collect();
    for part in ids[..ids.len() * 3 / 4].chunks(3) {
        log.delete(part);
    }
    assert!(log.segments.len() < before);
    assert_eq!(
        seqs(&load_all(&mut log)),
        seqs(&groups[ids.len() * 3 / 4..])
    );
}

/// Ten outages, each drained: nothing of an outage stays but what is reserved, and what the next
/// one is remembered by.
#[test]
fn ten_outages_leave_no_more_on_disk_than_one() {
    /// The reserve for gap records, and the small files.
    const BOUND: u64 = 512 * 1024 + 64 * 1024;
    let dir = tempfile::tempdir().unwrap();
    let (commands, mut events, _thread) = run(&config(&dir.path().join("spool"), 64 << 20));
    let mut sizes = Vec::new();
    for outage in 0..10 {
        let mut stored = BTreeSet::new();
        for part in 0..6 {
            let begin = (outage * 6 + part) * 500;
            commands
                .send(Command::Commit {
                    ticket: part,
                    items: items(begin + 1..begin + 501, 2000),
                    marks: Vec::new(),
                })
                .unwrap();
            loop {
                match next(&mut events) {
                    Event::Committed { placed, .. } => {
                        stored.extend(placed.iter().map(|loc| loc.group));
                        break;
                    }
                    Event::Opened { .. } => {}
                    other => panic!("{other:?}"),
                }
            }
        }
        let full = files::disk_bytes(&dir.path().join("spool"));
        assert!(full > 5 << 20, "{full}");
        let groups = stored.into_iter().collect();
        commands.send(Command::Delete { groups }).unwrap();
        // After the idle time nothing is open any more.
        loop {
            let Event::Usage(usage) = events.blocking_recv().unwrap() else {
                panic!()
            };
            if usage.disk_bytes <= BOUND {
                let measured = files::disk_bytes(&dir.path().join("spool"));
                assert!(measured <= BOUND, "{measured}");
                sizes.push(measured);
                break;
            }
        }
    }
    assert!(sizes[9] <= sizes[0], "{sizes:?}");
}

fn run(config: &Spool) -> (CommandSender, Receiver<Event>, JoinHandle<()>) {
    worker::start(
        SegmentLog::new(config, disk()),
        Duration::from_millis(50),
        None,
    )
    .unwrap()
}

fn next(events: &mut Receiver<Event>) -> Event {
    loop {
        match events.blocking_recv().unwrap() {
            Event::Usage(_) => {}
            event => return event,
        }
    }
}

#[test]
fn the_thread_answers_in_order_and_ends() {
    let dir = tempfile::tempdir().unwrap();
    let (commands, mut events, thread) = run(&config(&dir.path().join("spool"), BIG));
    assert!(matches!(next(&mut events), Event::Opened { .. }));
    commands
        .send(Command::Commit {
            ticket: 7,
            items: items(1..3, 10),
            marks: Vec::new(),
        })
        .unwrap();
    let Event::Committed { ticket: 7, placed } = next(&mut events) else {
        panic!()
    };
    commands
        .send(Command::Load {
            after: None,
            max_bytes: 1,
            replies: false,
        })
        .unwrap();
    let Event::Loaded { groups, .. } = next(&mut events) else {
        panic!()
    };
    assert_eq!(groups[0].id, placed[0].group);
    commands
        .send(Command::Delete {
            groups: vec![placed[0].group],
        })
        .unwrap();
    let mark = Mark {
        device: "x".into(),
        stream: "y".into(),
        seq: 1,
    };
    commands
        .send(Command::Stop {
            marks: vec![mark.clone()],
        })
        .unwrap();
    assert!(matches!(next(&mut events), Event::Stopped));
    thread.join().unwrap();
    let (commands, mut events, thread) = run(&config(&dir.path().join("spool"), BIG));
    let Event::Opened { marks, depth } = next(&mut events) else {
        panic!()
    };
    assert!(marks.contains(&mark));
    assert_eq!(depth, Depth::default());
    drop(commands);
    assert!(matches!(next(&mut events), Event::Stopped));
    thread.join().unwrap();
}

#[test]
fn a_drained_spool_is_given_back_when_nothing_happens() {
    let dir = tempfile::tempdir().unwrap();
    let (commands, mut events, _thread) = run(&config(&dir.path().join("spool"), BIG));
    commands
        .send(Command::Commit {
            ticket: 7,
            items: items(1..3, 10),
            marks: Vec::new(),
        })
        .unwrap();
    next(&mut events);
    let Event::Committed { placed, .. } = next(&mut events) else {
        panic!()
    };
    commands
        .send(Command::Delete {
            groups: vec![placed[0].group],
        })
        .unwrap();
    // A usage report follows each change; the one after the idle time finds nothing left.
    while entries(&dir.path().join("spool")) != ["ballast", "format", "marks"] {
        assert!(matches!(events.blocking_recv().unwrap(), Event::Usage(_)));
    }
}

#[test]
fn a_disk_that_cannot_be_used_does_not_stop_the_start_and_is_used_once_it_can() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("spool");
    fs::create_dir(&path).unwrap();
    let other = files::lock(&path).unwrap();
    let (commands, mut events, _thread) = run(&config(&path, BIG));
    let Event::Opened { marks, depth } = next(&mut events) else {
        panic!()
    };
    assert_eq!((marks.len(), depth), (0, Depth::default()));
    assert!(matches!(next(&mut events), Event::Unusable { .. }));
    let commit = |ticket| {
        let items = items(1..3, 10);
        commands
            .send(Command::Commit {
                ticket,
                items,
                marks: Vec::new(),
            })
            .unwrap();
    };
    commit(1);
    let Event::CommitFailed {
        ticket: 1,
        full: false,
        foreign: false,
        error,
    } = next(&mut events)
    else {
        panic!()
    };
    assert!(error.contains("another process"), "{error}");
    drop(other);
    commit(2);
    assert!(matches!(next(&mut events), Event::Reopened { .. }));
    assert!(matches!(
        next(&mut events),
        Event::Committed { ticket: 2, .. }
    ));
}

#[test]
fn a_full_spool_drops_the_oldest_and_records_exactly_what_went() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(&dir.path().join("spool"), 2 << 20);
    let mut log = shelf_of(&config);
    let mut dropped = 0;
    for at in 0..60 {
        log.commit(&items(at * 50 + 1..at * 50 + 51, 2000), &[])
            .unwrap();
        assert!(
            log.usage().disk_bytes <= config.max_size,
            "{:?}",
            log.usage()
        );
        for event in std::mem::take(&mut log.news) {
            let Event::Dropped { batches, .. } = event else {
                panic!()
            };
            dropped += batches;
        }
    }
    assert!(dropped > 0);
    let groups = load_all(&mut log);
    let kept = seqs(&groups);
    assert_eq!(kept, (dropped + 1..3001).collect::<Vec<_>>());
    let gaps = gaps(&groups);
    assert_eq!(gaps.iter().map(|gap| gap.batches).sum::<u64>(), dropped);
    assert!(gaps.iter().all(|gap| gap.reason == GapReason::Overflow));
    assert_eq!(gaps.iter().filter_map(|gap| gap.from).min(), Some(1));
    assert_eq!(gaps.iter().filter_map(|gap| gap.to).max(), Some(dropped));
}

#[test]
fn a_spool_with_next_to_no_room_still_takes_every_commit() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = shelf_of(&config(&dir.path().join("spool"), 1));
    for at in 0..10 {
        log.commit(&items(at * 5 + 1..at * 5 + 6, 2000), &[])
            .unwrap();
    }
    let groups = load_all(&mut log);
    assert_eq!(seqs(&groups), (46..51).collect::<Vec<_>>());
    assert_eq!(gaps(&groups).iter().map(|gap| gap.batches).sum::<u64>(), 45);
}

#[test]
fn a_full_spool_refuses_when_told_to() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(&dir.path().join("spool"), 1 << 20);
    config.overflow = Overflow::Refuse;
    let mut log = shelf_of(&config);
    let mut taken = 0;
    let failure = loop {
        match log.commit(&items(taken + 1..taken + 51, 2000), &[]) {
            Ok(_) => taken += 50,
            Err(failure) => break failure,
        }
    };
    assert!(failure.full, "{failure:?}");
    let groups = load_all(&mut log);
    assert_eq!(seqs(&groups), (1..taken + 1).collect::<Vec<_>>());
    let ids: Vec<_> = groups.iter().map(|group| group.id).collect();
    log.delete(&ids);
    log.commit(&items(1..50, 2000), &[]).unwrap();
}

#[test]
fn a_spool_of_a_newer_version_is_set_aside_and_kept() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("spool");
    fs::create_dir(&path).unwrap();
    fs::write(path.join("format"), "telehub spool 9\n").unwrap();
    let mut log = log(&dir);
    log.commit(&items(1..5, 10), &[]).unwrap();
    let names = entries(dir.path());
    assert_eq!(names.len(), 2, "{names:?}");
    assert!(names[1].starts_with("spool.version9-"));
}

#[test]
fn spools_of_newer_versions_are_not_gathered_without_end_and_none_is_removed() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(&dir.path().join("spool"), BIG);
    for copies in 1..6 {
        std::fs::create_dir_all(&config.path).unwrap();
        std::fs::write(config.path.join("format"), "telehub spool 9\n").unwrap();
        let mut log = SegmentLog::new(&config, disk());
        let attached = log.attach(false);
        assert_eq!(attached.is_ok(), copies <= 3);
        if let Err(failure) = attached {
            assert!(
                failure.error.contains("3 such are beside it"),
                "{failure:?}"
            );
        }
        let there = std::fs::read_dir(dir.path()).unwrap().count();
        assert_eq!(there, (copies + 1).min(4) - usize::from(copies <= 3));
    }
}

#[test]
fn a_spool_of_the_version_before_goes_on_and_says_so_before_it_is_written_to() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("spool");
    let config = config(&path, BIG);
    let mut before = shelf_of(&config);
    before.commit(&items(1..5, 10), &[]).unwrap();
    before.stop(Vec::new());
    fs::write(path.join("format"), "telehub spool 1\n").unwrap();

    let mut log = shelf_of(&config);
    log.attach(false).unwrap();
    let format = || fs::read_to_string(path.join("format")).unwrap();
    assert_eq!(format(), "telehub spool 2\n");
    assert_eq!(seqs(&load_all(&mut log)), [1, 2, 3, 4]);

    // A disk that could not take it then is asked again before anything is stored.
    fs::write(path.join("format"), "telehub spool 1\n").unwrap();
    log.format = None;
    log.commit(&items(5..7, 10), &[]).unwrap();
    assert_eq!(format(), "telehub spool 2\n");
    assert_eq!(entries(dir.path()), ["spool"]);
}

#[test]
fn the_version_is_raised_when_the_first_answer_is_stored_and_not_before() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("spool");
    let config = config(&path, BIG);
    let format = || fs::read_to_string(path.join("format")).unwrap();
    let mut log = shelf_of(&config);
    log.commit(&items(1..5, 10), &[]).unwrap();
    assert_eq!(format(), "telehub spool 2\n");
    log.commit(&[reply(1)], &[]).unwrap();
    assert_eq!(format(), "telehub spool 3\n");
    log.stop(Vec::new());
    let mut again = shelf_of(&config);
    again.commit(&items(5..7, 10), &[]).unwrap();
    assert_eq!(format(), "telehub spool 3\n");
    assert_eq!(again.depth().replies, 1);
    assert_eq!(entries(dir.path()), ["spool"]);
}

#[test]
fn answers_are_found_among_any_backlog_without_reading_what_holds_none() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(&dir.path().join("spool"), BIG);
    let mut log = shelf_of(&config);
    let mut begin = 1;
    // Several segments: one with answers at its end, others without any.
    for answers in [0, 0, 2, 0] {
        log.commit(&items(begin..begin + 600, 8_000), &[]).unwrap();
        begin += 600;
        for number in 0..answers {
            let with = [items(begin..begin + 1, 10).remove(0), reply(number)];
            log.commit(&with, &[]).unwrap();
            begin += 1;
        }
    }
    let check = |log: &mut SegmentLog| {
        let first = log.load_replies(None, 1);
        let next = log.load_replies(Some(first[0].id), 1);
        assert!(log.load_replies(Some(next[0].id), 1).is_empty());
        let answers = |groups: &[Group]| -> Vec<Arc<Item>> {
            let all = flat(groups).into_iter();
            all.filter(|item| matches!(**item, Item::Reply(_)))
                .collect()
        };
        assert_eq!(answers(&first), [reply(0)]);
        assert_eq!(answers(&next), [reply(1)]);
        let holds = log.segments.iter().filter(|one| one.replies > 0);
        let opened = log.segments.iter().filter(|one| one.open.is_some());
        (holds.count(), opened.count(), log.segments.len())
    };
    let (holds, _, segments) = check(&mut log);
    assert!(holds < segments);
    log.stop(Vec::new());
    let mut again = shelf_of(&config);
    let (holds, opened, _) = check(&mut again);
    assert_eq!(opened, holds, "only what holds answers is opened");
    assert_eq!(seqs(&load_all(&mut again)), (1..begin).collect::<Vec<_>>());
}

#[test]
fn answers_that_go_with_the_oldest_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("spool");
    let mut log = shelf_of(&config(&path, 6 << 20));
    log.commit(&[reply(1), reply(2)], &[]).unwrap();
    let mut begin = 1;
    let lost = loop {
        log.commit(&items(begin..begin + 60, 8_000), &[]).unwrap();
        begin += 60;
        assert!(begin < 3_000, "it never runs full");
        let news = std::mem::take(&mut log.news);
        let lost: u64 = news
            .iter()
            .filter_map(|event| match event {
                Event::Dropped { replies, .. } => Some(*replies),
                _ => None,
            })
            .sum();
        if lost > 0 {
            break lost;
        }
    };
    assert_eq!((lost, log.depth().replies), (2, 0));
}

#[test]
fn ids_never_go_back_even_when_the_clock_does() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(&dir.path().join("spool"), BIG);
    let mut log = shelf_of(&config);
    // A year ahead, and nothing that would move a mark.
    log.next_id += 365 * 86_400 * 1_000_000;
    let Item::Batch(mut unnumbered) = (*batch("d", "s", 1, 10)).clone() else {
        unreachable!()
    };
    unnumbered.seq = None;
    let item = Arc::new(Item::Batch(unnumbered));
    let before = log.commit(std::slice::from_ref(&item), &[]).unwrap()[0].group;
    log.delete(&[before]);
    log.stop(Vec::new());
    let after = shelf_of(&config).commit(&[item], &[]).unwrap()[0].group;
    assert!(after > before);
}

#[test]
fn copies_of_damaged_data_make_room_before_sound_data_does() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("spool");
    let mut log = shelf_of(&config(&path, BIG));
    log.commit(&items(1..50, 2000), &[]).unwrap();
    let copy = path.join("gen-0000000000000001.corrupt-7");
    fs::create_dir(&copy).unwrap();
    fs::write(copy.join("db"), vec![1; 1 << 20]).unwrap();
    log.measure_others();
    log.limits.max_size = log.usage().disk_bytes;
    log.commit(&items(50..60, 2000), &[]).unwrap();
    assert!(!copy.exists());
    assert_eq!(seqs(&load_all(&mut log)), (1..60).collect::<Vec<_>>());
}

#[derive(Debug, Clone)]
enum Step {
    Commit(Vec<usize>),
    Delete(Vec<prop::sample::Index>),
    Load(Option<prop::sample::Index>),
    Idle,
    Restart { orderly: bool },
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => proptest::collection::vec(prop_oneof![1..2000usize, 30_000..90_000usize], 1..30).prop_map(Step::Commit),
        3 => proptest::collection::vec(any::<prop::sample::Index>(), 1..20).prop_map(Step::Delete),
        2 => any::<Option<prop::sample::Index>>().prop_map(Step::Load),
        1 => Just(Step::Idle),
        2 => any::<bool>().prop_map(|orderly| Step::Restart { orderly }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 60, ..ProptestConfig::default() })]

    /// The spool beside a map of what it must hold. Small segments, so that they turn over.
    #[test]
    fn the_spool_does_what_a_sorted_map_does(steps in proptest::collection::vec(any_step(), 1..20)) {
        let dir = tempfile::tempdir().unwrap();
        // Segments of an eighth of a megabyte, and never full.
        let mut config = config(&dir.path().join("spool"), BIG);
        config.max_size = 2 << 20;
        let open = || {
            let mut log = shelf_of(&config);
            log.limits.max_size = 1;
            log.limits.overflow = Overflow::DropOldest;
            log
        };
        // `max_size` decides the size of segments only; room is never asked for.
        let commit = |log: &mut SegmentLog, items: &[Arc<Item>]| {
            log.attach(true).unwrap();
            log.write(items, &[]).unwrap()
        };
        let mut log = open();
        let mut model: BTreeMap<GroupId, Vec<Arc<Item>>> = BTreeMap::new();
        let mut seq = 0;
        let mut highest = GroupId(0);
        for step in steps {
            match step {
                Step::Commit(sizes) => {
                    let items: Vec<_> = sizes.into_iter().map(|size| {
                        seq += 1;
                        batch("d", "s", seq, size)
                    }).collect();
                    let placed = commit(&mut log, &items);
                    prop_assert!(placed[0].group > highest);
                    highest = placed.last().unwrap().group;
                    for (item, loc) in items.into_iter().zip(placed) {
                        let group = model.entry(loc.group).or_default();
                        prop_assert_eq!(group.len(), loc.index as usize);
                        group.push(item);
                    }
                }
                Step::Delete(which) => {
                    let ids: Vec<_> = model.keys().copied().collect();
                    if ids.is_empty() { continue; }
                    let mut which: Vec<_> = which.into_iter().map(|index| *index.get(&ids)).collect();
                    which.sort();
                    which.dedup();
                    log.delete(&which);
                    for id in which { model.remove(&id); }
                }
                Step::Load(after) => {
                    let ids: Vec<_> = model.keys().copied().collect();
                    let after = after.filter(|_| !ids.is_empty()).map(|index| *index.get(&ids));
                    let expected = model.iter().find(|(id, _)| after.is_none_or(|after| **id > after));
                    let loaded = log.load(after, 1);
                    prop_assert_eq!(loaded.first().map(|group| group.id), expected.map(|(id, _)| *id));
                }
                Step::Idle => { log.idle(); }
                Step::Restart { orderly } => {
                    if orderly { log.stop(Vec::new()); }
                    drop(log);
                    log = open();
                    prop_assert_eq!(log.depth().groups, model.len() as u64);
                    prop_assert_eq!(log.marks.all().first().map_or(0, |mark| mark.seq), seq);
                }
            }
            let loaded: BTreeMap<_, _> = load_all(&mut log).into_iter().map(|group| (group.id, group.items)).collect();
            prop_assert_eq!(&loaded, &model);
        }
    }
}

/// A board without a battery for its clock: after a power cut it stands before everything that is
/// stored.
#[test]
fn a_clock_that_stands_in_the_past_hides_nothing_that_is_stored() {
    use crate::clock::{Sample, simulated};
    let clock_at = |wall| {
        simulated::set(Some(Sample {
            wall,
            uptime: 10.0,
            flag: Some(false),
            vouched: false,
        }));
        simulated::begin(0);
    };
    let dir = tempfile::tempdir().unwrap();
    let config = config(&dir.path().join("spool"), BIG);
    clock_at(1.8e9);
    let mut log = SegmentLog::new(&config, disk());
    for seq in 1..10 {
        log.commit(&items(seq..seq + 1, 100), &[]).unwrap();
    }
    let segment = log.segments[0].dir.clone();
    drop(log);
    // Never synced, so it may be gone as well.
    std::fs::remove_file(segment.join("reached")).unwrap();
    clock_at(1.0e9);
    let mut shown = Vec::new();
    let found = inspect(
        &config.path,
        dir.path(),
        Some(&mut |group| {
            shown.push(group);
            Ok(())
        }),
    );
    assert_eq!(found.unwrap().faults, Vec::<String>::new());
    assert_eq!(seqs(&shown), (1..10).collect::<Vec<_>>(), "spool export");
    let mut log = SegmentLog::new(&config, disk());
    log.attach(false).unwrap();
    assert_eq!(seqs(&load_all(&mut log)), (1..10).collect::<Vec<_>>());
    simulated::set(None);
}

#[test]
fn what_an_attempt_at_a_repair_has_left_does_not_come_back_for_what_was_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(&dir.path().join("spool"), BIG);
    let mut log = shelf_of(&config);
    log.commit(&items(1..20, 2000), &[]).unwrap();
    log.stop(Vec::new());
    let mut log = shelf_of(&config);
    // It was complete, and an error came before it could take its place.
    let segment = log.segments[0].dir.clone();
    super::testing::copy(&segment, &segment.with_extension("new"));
    log.discard(0);
    drop(log);
    let mut log = shelf_of(&config);
    assert!(load_all(&mut log).is_empty());
}
