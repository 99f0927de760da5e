//! A look into the spool of a stopped hub that changes nothing in it: every segment is copied
//! (a few megabytes at a time) and the copy is opened, because opening a database writes to it.
//! A damaged copy is repaired as the hub would do it, so that what is shown is what the hub will
//! publish.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::attach;
use super::codec::{self, Left};
use super::disk::{self, Disk};
use super::files;
use super::segment::Segment;
use super::segment_log::{self, SegmentLog};
use super::space::{self, Limits};
use super::store::Error;
use super::tally::Tally;
use super::watermarks::Watermarks;
use super::{Depth, Group, GroupId, Usage};
use crate::clock;
use crate::config::Overflow;
use crate::reading::{Item, Mark};

/// The batches of one stream that are stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamDepth {
    /// The device's id.
    pub device: Arc<str>,
    /// The stream.
    pub stream: Arc<str>,
    /// Lowest sequence number; `None` when the batches have none.
    pub from: Option<u64>,
    /// Highest sequence number.
    pub to: Option<u64>,
    /// Number of batches.
    pub batches: u64,
    /// Number of readings in them.
    pub readings: u64,
}

/// What was found.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Inspection {
    /// What is stored and can be read.
    pub depth: Depth,
    /// The same by device and stream, sorted.
    pub streams: Vec<StreamDepth>,
    /// Gap records that wait to be published, those included that take the place of damaged data.
    pub gaps: u64,
    /// Final answers to commands that wait to be published.
    pub replies: u64,
    /// Segments, each a directory of its own.
    pub segments: u64,
    /// Sizes on disk.
    pub usage: Usage,
    /// Highest safe number of every stream, as of the last time it was written down; higher ones
    /// may follow from the stored groups.
    pub marks: Vec<Mark>,
    /// What is wrong, one sentence each. Empty: every checksum that was looked at holds.
    pub faults: Vec<String>,
    /// Directories of damaged data that were set aside earlier.
    pub set_aside: Vec<PathBuf>,
    /// Entries of the directory that no hub has made; the hub leaves them alone.
    pub foreign: Vec<PathBuf>,
}

/// Takes a group, or says that no more are wanted.
pub type Each<'a> = &'a mut dyn FnMut(Group) -> io::Result<()>;

/// Looks through the spool in `path`, oldest group first. An absent spool is an empty one.
///
/// With `each`, every group is read, its checksums are compared, and it is handed over; a damaged
/// one comes as gap records, as the hub would publish them. Without, segments that have a
/// sound summary are not opened.
///
/// `scratch`: an existing directory with room for two of the largest segment (some 10 MB).
///
/// # Errors
/// `ResourceBusy`: a running hub has the spool. `Unsupported`: a newer telehub has written it.
/// `NotADirectory`: it is something else. Others: it or `scratch` cannot be used at all, or what
/// `each` returned.
pub fn inspect(path: &Path, scratch: &Path, each: Option<Each<'_>>) -> io::Result<Inspection> {
    match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Inspection::default()),
        Err(error) => return Err(error),
        Ok(meta) if !meta.is_dir() => return Err(io::ErrorKind::NotADirectory.into()),
        Ok(_) => {}
    }
    let _lock = files::lock(path)?;
    if let Some(version) = attach::newer_format(path) {
        return Err(io::Error::new(
            io::ErrorKind::Unsupported,
            format!("it is of version {version}"),
        ));
    }
    disk::hush_panics();
    let mut look = Look {
        found: Inspection::default(),
        sum: Tally::default(),
        scratch,
        each,
    };
    let directory = look.list(path)?;
    look.found.usage.disk_bytes = files::disk_bytes(path);
    look.format(path);
    let next_id = look.marks(path);
    for (at, (first, dir)) in directory.iter().enumerate() {
        let following = directory.get(at + 1).map(|(first, _)| *first);
        let last = attach::last_id(*first, following, next_id);
        look.segment(*first, last, dir)?;
    }
    Ok(look.finish())
}

struct Look<'a, 'e> {
    found: Inspection,
    sum: Tally,
    scratch: &'a Path,
    each: Option<Each<'e>>,
}

impl Look<'_, '_> {
    /// The segments, oldest first.
    fn list(&mut self, path: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
        let mut directory = Vec::new();
        let mut replacements = Vec::new();
        for entry in fs::read_dir(path)? {
            let name = entry?.file_name();
            let text = name.to_string_lossy();
            let entry = path.join(&name);
            if let Some(first) = space::parse_name(&text) {
                directory.push((first, entry));
            } else if let Some(first) = text.strip_suffix(".new").and_then(space::parse_name) {
                replacements.push((first, entry));
            } else if text.contains(".corrupt-") {
                self.found.set_aside.push(entry);
            } else if !attach::is_ours(&text) {
                self.found.foreign.push(entry);
            }
        }
        for (first, dir) in replacements {
            // A repair was cut short after the damaged one was set aside: this one stands for it.
            let whole = Segment::found(first, first, dir.clone()).1.is_some();
            if whole && !directory.iter().any(|(other, _)| *other == first) {
                directory.push((first, dir));
            }
        }
        directory.sort_unstable();
        // One whose groups are in the one before it was about to be removed.
        let mut covered = None;
        directory.retain(|(first, dir)| {
            let replaced = covered.is_some_and(|last| *first <= last);
            if !replaced && let (known, Some(_)) = Segment::found(*first, *first, dir.clone()) {
                covered = Some(known.last);
            }
            !replaced
        });
        self.found.segments = directory.len() as u64;
        self.found.set_aside.sort();
        self.found.foreign.sort();
        Ok(directory)
    }

    fn format(&mut self, path: &Path) {
        if attach::format(path).is_none() && self.found.segments > 0 {
            self.fault("format: missing or unreadable");
        }
    }

    /// Reads the marks; returns the first id that no group has.
    fn marks(&mut self, path: &Path) -> u64 {
        let begin = segment_log::first_id();
        match fs::read(path.join("marks")).map(|bytes| Watermarks::read(&bytes)) {
            Ok(Ok((next_id, marks))) => {
                self.found.marks = marks;
                return begin.max(next_id);
            }
            Ok(Err(damage)) => self.fault(format!("marks: {damage}")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => self.fault(format!("marks: {error}")),
        }
        begin
    }

    fn segment(&mut self, first: u64, last: u64, dir: &Path) -> io::Result<()> {
        let name = space::name(first);
        let (mut segment, summary) = Segment::found(first, last, dir.to_owned());
        if summary.is_none() && segment.has_summary() {
            self.fault(format!("{name}: the checksum of its summary is wrong"));
        }
        if self.each.is_none()
            && !segment.touched
            && let Some(tally) = &summary
        {
            self.sum.add(tally);
            return Ok(());
        }
        let half_made = segment.was_never_whole();
        drop(segment);
        let copy = self.scratch.join(&name);
        copy_tree(dir, &copy)?;
        let copied = Segment::found(first, last, copy.clone());
        let read = self.read(&name, half_made, copied);
        // Also what a repair has set aside.
        for entry in fs::read_dir(self.scratch)?.flatten() {
            if entry.file_name().to_string_lossy().starts_with(&name) {
                fs::remove_dir_all(entry.path())?;
            }
        }
        read
    }

    /// Reads a copy. `half_made`: nothing was ever put in if it cannot be opened.
    fn read(
        &mut self,
        name: &str,
        half_made: bool,
        (segment, summary): (Segment, Option<Tally>),
    ) -> io::Result<()> {
        let engine = Disk { own_sync: false };
        let no_limits = Limits {
            max_size: u64::MAX,
            min_free: 0,
            overflow: Overflow::Refuse,
        };
        let mut log = SegmentLog::bare(self.scratch.to_owned(), no_limits, Box::new(engine));
        log.segments.push(segment);
        // Of the last segment that was not closed, an end that is cut short is no damage.
        match log.segments[0].scan(&engine, summary.is_none()) {
            Ok(_) => {}
            Err(Error::Broken(_)) if half_made => return Ok(()),
            Err(Error::Broken(why)) => {
                self.fault(format!("{name}: {why}"));
                let repaired = log
                    .replace(0, &why)
                    .and_then(|()| log.segments[0].open(&engine).map(|_| ()));
                if let Err(error) = repaired {
                    self.fault(format!("{name}: not readable at all: {error}"));
                    return Ok(());
                }
            }
            Err(error) => return Err(io::Error::other(error.to_string())),
        }
        let Some(open) = &mut log.segments[0].open else {
            return Ok(());
        };
        for id in open.live.iter().copied() {
            let decoded = match open.store.read(id) {
                Ok(bytes) => codec::decode(&bytes, clock::now()),
                Err(_) => Err(Left {
                    gaps: vec![codec::unknown_gap(clock::now())],
                    replies: Vec::new(),
                }),
            };
            let items = decoded.unwrap_or_else(|left| {
                self.fault(format!("{name}: the checksum of group {id} is wrong"));
                left.into_items()
            });
            let mut tally = Tally::of_group(id, &[]);
            for item in &items {
                tally.add_item(item);
                self.found.gaps += u64::from(matches!(**item, Item::Gap(_)));
            }
            tally.gaps.clear();
            self.sum.add(&tally);
            if let Some(each) = &mut self.each {
                each(Group {
                    id: GroupId(id),
                    items,
                })?;
            }
        }
        Ok(())
    }

    fn fault(&mut self, what: impl Into<String>) {
        self.found.faults.push(what.into());
    }

    fn finish(mut self) -> Inspection {
        let sum = self.sum;
        self.found.depth = Depth {
            groups: sum.groups,
            batches: sum.batches(),
            readings: sum.readings(),
            replies: sum.replies,
            oldest: sum.oldest,
        };
        self.found.replies = sum.replies;
        self.found.gaps += sum.gaps.len() as u64;
        self.found.streams = sum
            .lines
            .into_iter()
            .map(|line| StreamDepth {
                device: line.device,
                stream: line.stream,
                from: line.from,
                to: line.to,
                batches: line.batches,
                readings: line.readings,
            })
            .collect();
        self.found
            .streams
            .sort_by(|a, b| (&a.device, &a.stream).cmp(&(&b.device, &b.stream)));
        self.found
    }
}

/// Copies a directory as far as the device gives it. Something else in its place is an empty one:
/// nothing is in it.
fn copy_tree(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    if !from.is_dir() {
        return Ok(());
    }
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        if entry.file_type()?.is_dir() {
            copy_tree(&source, &target)?;
        } else if fs::copy(&source, &target).is_err() {
            // Either the device does not read, which costs the blocks that it does not give, or
            // there is no room for copies, which fails again here.
            fs::write(&target, files::read_around(&source)?)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::tests::{BIG, config, gaps, items, seqs, shelf_of};
    use super::*;

    fn look(path: &Path) -> (Inspection, Vec<Group>) {
        let scratch = tempfile::tempdir().unwrap();
        let mut groups = Vec::new();
        let found = inspect(
            path,
            scratch.path(),
            Some(&mut |group| {
                groups.push(group);
                Ok(())
            }),
        )
        .unwrap();
        assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 0);
        (found, groups)
    }

    #[test]
    fn a_look_finds_everything_and_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("spool");
        let mut log = shelf_of(&config(&path, BIG));
        log.commit(&items(1..100, 2000), &[]).unwrap();
        assert_eq!(
            inspect(&path, dir.path(), None).unwrap_err().kind(),
            io::ErrorKind::ResourceBusy
        );
        drop(log);
        let (found, groups) = look(&path);
        assert_eq!(found.faults, Vec::<String>::new());
        assert_eq!((found.depth.batches, found.depth.readings), (99, 990));
        assert_eq!(seqs(&groups), (1..100).collect::<Vec<_>>());
        assert_eq!(look(&path).0, found);
        let summed = inspect(&path, dir.path(), None).unwrap();
        assert_eq!(summed, found);
    }

    #[test]
    fn damage_is_told_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("spool");
        let mut log = shelf_of(&config(&path, BIG));
        log.commit(&items(1..100, 2000), &[]).unwrap();
        log.stop(Vec::new());
        let name = space::name(shelf_of(&config(&path, BIG)).segments[0].first);
        let db = path.join(name).join("db");
        let mut bytes = fs::read(&db).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&db, &bytes).unwrap();
        let (found, groups) = look(&path);
        // What the engine does not find any more, and where the damage is.
        assert_eq!(found.faults.len(), 2, "{:?}", found.faults);
        let lost: u64 = gaps(&groups).iter().map(|gap| gap.batches).sum();
        assert_eq!(
            found.depth.batches + lost,
            99,
            "{:?} {found:?}",
            gaps(&groups)
        );
        assert_eq!(fs::read(&db).unwrap(), bytes);
    }
}
