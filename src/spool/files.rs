//! Files and directories that survive a power cut, and what the file system says of itself.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{FlockOperation, flock, statvfs};

/// Set-aside copies that are kept, the newest ones.
pub(super) const KEPT_COPIES: usize = 3;

/// Makes the entries of a directory durable.
pub(super) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// The directory that `path` is an entry of.
pub(super) fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}

/// Creates the directory with those above it and makes their entries durable.
pub(super) fn create_dir(dir: &Path) -> io::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    let above = parent(dir);
    create_dir(above)?;
    match fs::create_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => Ok(()),
        Err(error) => Err(error),
        Ok(()) => sync_dir(above),
    }
}

/// Replaces a file so that after a power cut either the old or the new content is there.
pub(super) fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let tmp = path.with_extension("tmp");
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .open(&tmp)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&tmp, path)?;
    sync_dir(parent(path))
}

/// Reads a file and forgets it.
pub(super) fn read_through(path: &Path) -> io::Result<()> {
    let mut file = File::open(path)?;
    let mut chunk = vec![0; 64 * 1024];
    while file.read(&mut chunk)? > 0 {}
    Ok(())
}

/// Reads a file with zeros in place of what the device does not give.
///
/// # Errors
/// It cannot be opened.
pub(super) fn read_around(path: &Path) -> io::Result<Vec<u8>> {
    let file = File::open(path)?;
    let len = usize::try_from(file.metadata()?.len()).unwrap_or(0);
    Ok(around(len, |chunk, at| file.read_exact_at(chunk, at)))
}

fn around(len: usize, read: impl Fn(&mut [u8], u64) -> io::Result<()>) -> Vec<u8> {
    /// What file systems and devices lose at a time.
    const BLOCK: usize = 4096;
    let mut bytes = vec![0; len];
    for (number, block) in bytes.chunks_mut(BLOCK).enumerate() {
        if read(block, (number * BLOCK) as u64).is_err() {
            block.fill(0);
        }
    }
    bytes
}

/// Renames an entry and makes that durable.
pub(super) fn rename(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)?;
    sync_dir(parent(to))
}

/// Syncs every file below a directory, the directories, and the entry of `dir` itself.
pub(super) fn sync_tree(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sync_tree(&entry.path())?;
        } else {
            File::open(entry.path())?.sync_all()?;
        }
    }
    sync_dir(dir)?;
    sync_dir(parent(dir))
}

/// Bytes that the files below `dir` take on the device (`st_blocks`), 0 when it is not there.
pub(super) fn disk_bytes(dir: &Path) -> u64 {
    /// The unit of `st_blocks`, whatever the file system's own block size is.
    const BLOCK: u64 = 512;
    let Ok(entries) = fs::read_dir(dir) else {
        return 0;
    };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(meta) if meta.is_dir() => meta.blocks() * BLOCK + disk_bytes(&entry.path()),
            Ok(meta) => meta.blocks() * BLOCK,
            Err(_) => 0,
        })
        .sum()
}

/// Bytes of the file system that holds `dir` which this process may still write.
pub(super) fn free_bytes(dir: &Path) -> io::Result<u64> {
    let stat = statvfs(dir)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// A lock on a directory that two processes cannot hold; ends with the value or the process.
/// The directory itself is locked: no file has to be written for it.
#[derive(Debug)]
pub(super) struct Lock(#[expect(dead_code, reason = "held, not used")] File);

/// Takes the lock.
///
/// # Errors
/// `ResourceBusy` when another process has it.
pub(super) fn lock(dir: &Path) -> io::Result<Lock> {
    let file = File::open(dir)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Lock(file)),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(io::Error::new(
            io::ErrorKind::ResourceBusy,
            format!("{} is in use by another process", dir.display()),
        )),
        Err(error) => Err(error.into()),
    }
}

/// Unix seconds for a file name.
pub(super) fn unix_seconds() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

/// Renames `path` to `into` with a `.TAG-UNIXTIME` that nothing has yet, durably. Returns the
/// new name. The time is later than that of any copy beside it, whatever the clock says: the
/// order of the copies is the order of their names.
pub(super) fn set_aside(path: &Path, tag: &str) -> io::Result<PathBuf> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    let newest = fs::read_dir(parent(path))
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| age(&entry.file_name().to_string_lossy(), tag))
        .max();
    let after = newest.map_or(0, |(time, _)| time.saturating_add(1));
    name.push(format!(".{tag}-{}", unix_seconds().max(after)));
    let mut target = parent(path).join(&name);
    let mut number = 1;
    while target.symlink_metadata().is_ok() {
        number += 1;
        let mut numbered = name.clone();
        numbered.push(format!("-{number}"));
        target = parent(path).join(numbered);
    }
    rename(path, &target)?;
    Ok(target)
}

/// Time and number in a name that [`set_aside`] made with this tag; they grow.
fn age(name: &str, tag: &str) -> Option<(u64, u64)> {
    let (_, end) = name.split_once(&format!(".{tag}-"))?;
    match end.split_once('-') {
        None => Some((end.parse().ok()?, 0)),
        Some((time, number)) => Some((time.parse().ok()?, number.parse().ok()?)),
    }
}

/// Removes all but the newest copies in `dir` that [`set_aside`] made with this tag of entries
/// whose name begins with `prefix`.
pub(super) fn prune_copies(dir: &Path, prefix: &str, tag: &str, keep: usize) {
    let Ok(entries) = fs::read_dir(dir) else {
        return;
    };
    let mut copies: Vec<((u64, u64), PathBuf)> = entries
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            let age = name.starts_with(prefix).then(|| age(&name, tag))?;
            Some((age?, entry.path()))
        })
        .collect();
    copies.sort();
    let surplus = copies.len().saturating_sub(keep);
    for (_, copy) in copies.into_iter().take(surplus) {
        if let Err(error) = remove(&copy) {
            tracing::debug!(path = %copy.display(), %error, "cannot remove an old copy");
        }
    }
}

/// Removes a file or a directory with all that is in it.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    if path.symlink_metadata()?.is_dir() {
        fs::remove_dir_all(path)
    } else {
        fs::remove_file(path)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn copies_are_bounded_and_nothing_else_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        for n in 0..5 {
            let path = dir.path().join("gen-1");
            fs::create_dir(&path).unwrap();
            fs::write(path.join("db"), n.to_string()).unwrap();
            set_aside(&path, "corrupt").unwrap();
        }
        fs::create_dir(dir.path().join("gen-2")).unwrap();
        prune_copies(dir.path(), "gen-", "corrupt", KEPT_COPIES);
        let names: Vec<_> = fs::read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        assert_eq!(names.len(), KEPT_COPIES + 1, "{names:?}");
        assert!(names.contains(&"gen-2".to_owned()));
    }

    #[test]
    fn the_newest_copies_are_kept_even_after_the_clock_went_back() {
        let dir = tempfile::tempdir().unwrap();
        for n in 0..4 {
            fs::create_dir(
                dir.path()
                    .join(format!("gen-1.corrupt-{}", 4_000_000_000_u64 + n)),
            )
            .unwrap();
        }
        let path = dir.path().join("gen-2");
        fs::create_dir(&path).unwrap();
        let copy = set_aside(&path, "corrupt").unwrap();
        assert!(
            copy.ends_with("gen-2.corrupt-4000000004"),
            "{}",
            copy.display()
        );
        prune_copies(dir.path(), "gen-", "corrupt", 1);
        let left: Vec<_> = fs::read_dir(dir.path()).unwrap().flatten().collect();
        assert_eq!(left.len(), 1);
        assert_eq!(left[0].path(), copy);
    }

    #[test]
    fn what_a_device_does_not_give_costs_no_more_than_its_blocks() {
        let bytes = around(10_000, |block, at| {
            block.fill(7);
            match at {
                4096 => Err(io::Error::from_raw_os_error(5)),
                _ => Ok(()),
            }
        });
        let lost: Vec<_> = (0..bytes.len()).filter(|at| bytes[*at] != 7).collect();
        assert_eq!(lost, (4096..8192).collect::<Vec<_>>());
    }

    #[test]
    fn a_directory_is_locked_once() {
        let dir = tempfile::tempdir().unwrap();
        let first = lock(dir.path()).unwrap();
        let second = lock(dir.path()).unwrap_err();
        assert_eq!(second.kind(), io::ErrorKind::ResourceBusy);
        drop(first);
        lock(dir.path()).unwrap();
    }

    #[test]
    fn a_replaced_file_has_the_new_content_and_leaves_nothing_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("marks");
        replace(&path, b"one").unwrap();
        replace(&path, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
