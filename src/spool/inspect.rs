//! A look into the spool of a stopped hub that changes nothing in it: every generation is copied
//! (a few megabytes at a time) and the copy is opened, because opening a database writes to it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::codec;
use super::disk::Disk;
use super::files;
use super::generation::Generation;
use super::generations;
use super::marks::Marks;
use super::{Depth, Group, GroupId, Usage};
use crate::clock::unix_now;
use crate::reading::Mark;

/// What was found.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Inspection {
    /// Groups that can be read, and what is in them.
    pub depth: Depth,
    /// Sizes on disk.
    pub usage: Usage,
    /// Highest safe number of every stream, as of the last time it was written down; higher ones
    /// may follow from the stored groups.
    pub marks: Vec<Mark>,
    /// What is wrong, one sentence each. Empty: every checksum holds.
    pub faults: Vec<String>,
    /// Directories of damaged data that were set aside earlier.
    pub set_aside: Vec<PathBuf>,
}

/// Reads every group of the spool in `path`, oldest first, and hands it to `each`. A damaged
/// group comes as gap records, as the hub would publish them. An absent spool is an empty one.
///
/// `scratch`: an existing directory with room for the largest generation (some 5 MB).
///
/// # Errors
/// `ResourceBusy`: a running hub has the spool. Others: it or `scratch` cannot be used at all.
pub fn inspect(path: &Path, scratch: &Path, each: &mut dyn FnMut(Group)) -> io::Result<Inspection> {
    let mut found = Inspection::default();
    if !path.exists() {
        return Ok(found);
    }
    let _lock = files::lock(path)?;
    let mut firsts = Vec::new();
    for entry in fs::read_dir(path)? {
        let name = entry?.file_name();
        let text = name.to_string_lossy();
        if let Some(first) = generations::parse_name(&text) {
            firsts.push(first);
        } else if text.contains(".corrupt-") {
            found.set_aside.push(path.join(&name));
        }
    }
    firsts.sort_unstable();
    found.set_aside.sort();
    found.usage.disk_bytes = files::disk_bytes(path);
    match fs::read(path.join("marks")).map(|bytes| Marks::read(&bytes)) {
        Ok(Ok((_, marks))) => found.marks = marks,
        Ok(Err(damage)) => found.faults.push(format!("marks: {damage}")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => found.faults.push(format!("marks: {error}")),
    }
    for (at, first) in firsts.iter().copied().enumerate() {
        let last = firsts.get(at + 1).map_or(u64::MAX, |next| next - 1);
        let name = generations::name(first);
        let copy = scratch.join(&name);
        copy_tree(&path.join(&name), &copy)?;
        let faults = read_generation(first, last, &copy, &mut found.depth, each);
        found
            .faults
            .extend(faults.into_iter().map(|fault| format!("{name}: {fault}")));
        fs::remove_dir_all(&copy)?;
    }
    Ok(found)
}

fn read_generation(
    first: u64,
    last: u64,
    dir: &Path,
    depth: &mut Depth,
    each: &mut dyn FnMut(Group),
) -> Vec<String> {
    let engine = Disk { own_sync: false };
    let (mut generation, summary) = Generation::found(first, last, dir.to_owned());
    let tally = match generation.scan(&engine, summary.is_none()) {
        Ok(tally) => tally,
        Err(error) => return vec![error.to_string()],
    };
    depth.groups += tally.groups;
    depth.batches += tally.batches();
    depth.readings += tally.readings();
    depth.oldest = match (depth.oldest, tally.oldest) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    };
    let mut faults = Vec::new();
    let Some(open) = &mut generation.open else {
        return faults;
    };
    for id in open.live.iter().copied() {
        let read = open.store.read(id);
        let items = match read
            .as_deref()
            .map(|bytes| codec::decode(bytes, unix_now()))
        {
            Ok(Ok(items)) => items,
            Ok(Err(gaps)) => {
                faults.push(format!("group {id}: checksum wrong"));
                gaps.into_iter()
                    .map(crate::reading::Item::Gap)
                    .map(Into::into)
                    .collect()
            }
            Err(error) => {
                faults.push(format!("group {id}: {error}"));
                continue;
            }
        };
        each(Group {
            id: GroupId(id),
            items,
        });
    }
    faults
}

fn copy_tree(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_tree(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::tests::{BIG, config, items, seqs, shelf_of};
    use super::*;

    fn look(path: &Path) -> (Inspection, Vec<Group>) {
        let scratch = tempfile::tempdir().unwrap();
        let mut groups = Vec::new();
        let found = inspect(path, scratch.path(), &mut |group| groups.push(group)).unwrap();
        (found, groups)
    }

    #[test]
    fn a_look_finds_everything_and_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("spool");
        let mut shelf = shelf_of(&config(&path, BIG));
        shelf.commit(&items(1..100, 2000), &[]).unwrap();
        assert_eq!(
            inspect(&path, dir.path(), &mut |_| {}).unwrap_err().kind(),
            io::ErrorKind::ResourceBusy
        );
        drop(shelf);
        let (found, groups) = look(&path);
        assert_eq!(found.faults, Vec::<String>::new());
        assert_eq!((found.depth.batches, found.depth.readings), (99, 990));
        assert_eq!(seqs(&groups), (1..100).collect::<Vec<_>>());
        assert_eq!(look(&path).0, found);
    }

    #[test]
    fn damage_is_told_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("spool");
        let mut shelf = shelf_of(&config(&path, BIG));
        shelf.commit(&items(1..100, 2000), &[]).unwrap();
        shelf.stop(Vec::new());
        let name = generations::name(shelf_of(&config(&path, BIG)).generations[0].first);
        let db = path.join(name).join("db");
        let mut bytes = fs::read(&db).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&db, &bytes).unwrap();
        let (found, _) = look(&path);
        assert_eq!(found.faults.len(), 1, "{:?}", found.faults);
        assert_eq!(fs::read(&db).unwrap(), bytes);
    }
}
