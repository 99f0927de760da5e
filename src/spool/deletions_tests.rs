//! A disk that refuses for a while, under a spool that has to give something back.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::time::Duration;

use super::files;
use super::simulated::chance::Chance;
use super::simulated::disk::{Disk, Mood};
use super::simulated::medium::{install, with_disk};
use super::simulated::{Manner, Spool};
use super::tests::items;
use super::{Command, Event, GroupId, Usage};
use crate::config::{self, Overflow, SpoolWrite};

const SPOOL: &str = "/spool";

/// The disk of this thread, until the end of the test.
struct Simulated;

impl Simulated {
    fn new() -> Self {
        install(Some(Disk::new(Chance::new(1))));
        Self
    }

    fn set(&self, mood: Mood) {
        with_disk(|disk| disk.mood = mood).unwrap();
    }

    /// What is in the spool's directory beside `format`, `marks` and the reserve.
    fn left(&self) -> Vec<String> {
        let names = with_disk(|disk| disk.names(Path::new(SPOOL)).unwrap()).unwrap();
        let names = names.into_iter().map(|name| name.into_string().unwrap());
        names.filter(|name| name.starts_with("gen-")).collect()
    }
}

impl Drop for Simulated {
    fn drop(&mut self) {
        install(None);
    }
}

fn spool(max_size: u64, overflow: Overflow) -> (Spool, u64) {
    let config = config::Spool {
        path: SPOOL.into(),
        write: SpoolWrite::Outage,
        max_size,
        min_free: 64 * 1024,
        max_age: Duration::from_secs(3600),
        commit_interval: Duration::ZERO,
        overflow,
    };
    let manner = Manner {
        checked: true,
        lazy: false,
    };
    let (_, mut spool) = Spool::new(&config, manner);
    let found = spool.begin().into_iter().find_map(|event| match event {
        Event::Opened { depth, .. } => Some(depth.groups),
        _ => None,
    });
    (spool, found.unwrap())
}

/// The groups of a commit; `None`: it failed for lack of room.
fn commit(spool: &mut Spool, batches: u64, size: usize) -> Option<Vec<GroupId>> {
    let command = Command::Commit {
        ticket: 1,
        items: items(1..batches + 1, size),
        marks: Vec::new(),
    };
    let events = spool.serve(command);
    let placed = events.into_iter().find_map(|event| match event {
        Event::Committed { placed, .. } => Some(Some(placed)),
        Event::CommitFailed { full, error, .. } => {
            assert!(full, "{error}");
            Some(None)
        }
        _ => None,
    });
    let mut groups: Vec<_> = placed.unwrap()?.iter().map(|loc| loc.group).collect();
    groups.dedup();
    Some(groups)
}

fn usage(events: &[Event]) -> Option<u64> {
    events.iter().rev().find_map(|event| match event {
        Event::Usage(Usage { disk_bytes }) => Some(*disk_bytes),
        _ => None,
    })
}

#[test]
fn a_drained_part_that_cannot_be_removed_counts_and_goes_once_the_disk_is_well() {
    let disk = Simulated::new();
    let (mut spool, _) = spool(8 << 20, Overflow::DropOldest);
    let groups = commit(&mut spool, 40, 10_000).unwrap();
    disk.set(Mood::Failing(1000));
    spool.serve(Command::Delete { groups });
    let told = usage(&spool.waited()).unwrap();
    assert!(told > 400_000, "{told}");
    assert_eq!(disk.left().len(), 1);
    // Nobody else asks for anything: it has to look by itself.
    assert!(spool.patience().is_some());
    disk.set(Mood::Well);
    let told = usage(&spool.waited()).unwrap();
    assert!(told < 100_000, "{told}");
    assert_eq!(disk.left(), [""; 0]);
    assert!(spool.patience().is_none());
}

#[test]
fn a_drained_part_that_could_not_be_removed_does_not_come_again_after_a_stop() {
    let disk = Simulated::new();
    let (mut first, _) = spool(8 << 20, Overflow::DropOldest);
    let groups = commit(&mut first, 40, 10_000).unwrap();
    disk.set(Mood::Failing(1000));
    first.serve(Command::Delete { groups });
    first.waited();
    disk.set(Mood::Well);
    first.serve(Command::Stop { marks: Vec::new() });
    assert_eq!(disk.left(), [""; 0]);
    assert_eq!(spool(8 << 20, Overflow::DropOldest).1, 0);
}

#[test]
fn a_group_deleted_while_the_disk_cannot_be_read_does_not_come_again_after_a_stop() {
    let disk = Simulated::new();
    // Small segments: the first of several is closed by now.
    let (mut first, _) = spool(4 << 20, Overflow::DropOldest);
    let groups = commit(&mut first, 60, 10_000).unwrap();
    disk.set(Mood::Unreadable(1000));
    first.serve(Command::Delete {
        groups: groups[..2].to_vec(),
    });
    disk.set(Mood::Well);
    let load = || Command::Load {
        after: None,
        max_bytes: 1,
        replies: false,
    };
    let next = |events: Vec<Event>| match &events[..] {
        [Event::Loaded { groups, .. }] => groups[0].id,
        other => panic!("{other:?}"),
    };
    assert_eq!(next(first.serve(load())), groups[2]);
    first.serve(Command::Stop { marks: Vec::new() });
    let (mut second, _) = spool(4 << 20, Overflow::DropOldest);
    assert_eq!(next(second.serve(load())), groups[2]);
}

#[test]
fn a_spool_that_refuses_takes_data_again_as_soon_as_it_is_drained() {
    for asks in [false, true] {
        let _disk = Simulated::new();
        let (mut spool, _) = spool(1 << 20, Overflow::Refuse);
        let mut groups = Vec::new();
        while let Some(more) = commit(&mut spool, 10, 10_000) {
            groups.extend(more);
        }
        assert!(groups.len() > 5);
        spool.serve(Command::Delete { groups });
        if asks {
            assert!(commit(&mut spool, 10, 10_000).is_some());
        } else {
            let events = spool.waited();
            let writable = |event: &Event| matches!(event, Event::Writable);
            assert!(events.iter().any(writable), "{events:?}");
        }
    }
}

#[test]
fn an_empty_spool_is_not_full_of_its_own_reserve() {
    for asks in [false, true] {
        let _disk = Simulated::new();
        let (mut spool, _) = spool(1 << 30, Overflow::Refuse);
        let groups = commit(&mut spool, 1, 100).unwrap();
        spool.serve(Command::Delete { groups });
        spool.waited();
        with_disk(|disk| disk.capacity = disk.used() + 200_000).unwrap();
        if asks {
            assert!(commit(&mut spool, 1, 100).is_some());
        } else {
            // As after a start, with another commit that found no room.
            assert!(commit(&mut spool, 100, 10_000).is_none());
            let events = spool.waited();
            let writable = |event: &Event| matches!(event, Event::Writable);
            assert!(events.iter().any(writable), "{events:?}");
        }
    }
}

#[test]
fn a_directory_is_not_made_on_a_disk_that_does_not_answer() {
    let _disk = Simulated::new();
    with_disk(|disk| disk.frozen = true).unwrap();
    let error = files::create_dir(Path::new("/a/b/c")).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(5));
    let error = files::create_dir(Path::new("a")).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(5));
}
