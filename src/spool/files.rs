//! Files and directories that survive a power cut, and what the file system says of itself.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::fs;
pub(super) use super::fs::{Lock, free_bytes, lock, remove};
use crate::clock::unix_now;

/// The tag of copies that are damaged.
pub(super) const CORRUPT: &str = "corrupt";

/// The file that holds the reserved space.
pub(super) const BALLAST: &str = "ballast";

/// Set-aside copies that are kept, the newest ones.
pub(super) const KEPT_COPIES: usize = 3;

/// Makes the entries of a directory durable.
pub(super) fn sync_dir(dir: &Path) -> io::Result<()> {
    fs::sync(dir)
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
    match fs::is_dir(dir) {
        Ok(true) => return Ok(()),
        // A disk that does not answer says nothing of what is there.
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(false) | Err(_) => {}
    }
    let above = parent(dir);
    if above == dir {
        return Err(io::ErrorKind::NotFound.into());
    }
    create_dir(above)?;
    match fs::create_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && fs::is_dir(dir)? => Ok(()),
        Err(error) => Err(error),
        Ok(()) => sync_dir(above),
    }
}

/// Makes the entries of a directory and of those above it durable: an earlier attempt may have made
/// them and have failed to do so. Those that may not be read were not made by us.
pub(super) fn sync_above(dir: &Path) -> io::Result<()> {
    for above in dir.ancestors().skip(1).map(|path| path.join(".")) {
        match fs::sync(&above) {
            Err(error) if error.kind() != io::ErrorKind::PermissionDenied => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// Replaces a file so that after a power cut either the old or the new content is there.
pub(super) fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let tmp = path.with_extension("tmp");
    fs::write_synced(&tmp, content)?;
    fs::rename(&tmp, path)?;
    sync_dir(parent(path))
}

/// Reads a file and forgets it.
///
/// # Errors
/// The device does not give all of it.
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
    #[cfg(test)]
    if super::simulated::medium::is_on() {
        return fs::read(path);
    }
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
    for name in fs::names(dir)? {
        let path = dir.join(name);
        if fs::stat(&path)?.is_dir {
            sync_tree(&path)?;
        } else {
            fs::sync(&path)?;
        }
    }
    sync_dir(dir)?;
    sync_dir(parent(dir))
}

/// Bytes that the files below `dir` take on the device (`st_blocks`), 0 when it is not there.
pub(super) fn disk_bytes(dir: &Path) -> u64 {
    let names = fs::names(dir).unwrap_or_default();
    names.iter().map(|name| entry_bytes(&dir.join(name))).sum()
}

/// The same for one entry, itself included.
pub(super) fn entry_bytes(path: &Path) -> u64 {
    match fs::stat(path) {
        Ok(stat) if stat.is_dir => stat.bytes + disk_bytes(path),
        Ok(stat) => stat.bytes,
        Err(_) => 0,
    }
}

/// Unix seconds for a file name.
pub(super) fn unix_seconds() -> u64 {
    unix_now() as u64
}

/// Renames `path` to `into` with a `.TAG-UNIXTIME` that nothing has yet, durably. Returns the
/// new name. The time is later than that of any copy beside it, whatever the clock says: the
/// order of the copies is the order of their names.
pub(super) fn set_aside(path: &Path, tag: &str) -> io::Result<PathBuf> {
    let target = name_aside(path, tag);
    rename(path, &target)?;
    Ok(target)
}

/// The name under which [`set_aside`] would put an entry now.
pub(super) fn name_aside(path: &Path, tag: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    let newest = fs::names(parent(path))
        .unwrap_or_default()
        .iter()
        .filter_map(|name| age(&name.to_string_lossy(), tag))
        .max();
    let after = newest.map_or(0, |(time, _)| time.saturating_add(1));
    name.push(format!(".{tag}-{}", unix_seconds().max(after)));
    let mut target = parent(path).join(&name);
    let mut number = 1;
    while fs::stat(&target).is_ok() {
        number += 1;
        let mut numbered = name.clone();
        numbered.push(format!("-{number}"));
        target = parent(path).join(numbered);
    }
    target
}

/// Time and number in a name that [`set_aside`] made with this tag; they grow.
fn age(name: &str, tag: &str) -> Option<(u64, u64)> {
    let (_, end) = name.split_once(&format!(".{tag}-"))?;
    match end.split_once('-') {
        None => Some((end.parse().ok()?, 0)),
        Some((time, number)) => Some((time.parse().ok()?, number.parse().ok()?)),
    }
}

/// The copies in `dir` that [`set_aside`] made with this tag of entries whose name begins with
/// `prefix`, oldest first.
pub(super) fn copies(dir: &Path, prefix: &str, tag: &str) -> Vec<PathBuf> {
    let names = fs::names(dir).unwrap_or_default();
    let mut copies: Vec<((u64, u64), PathBuf)> = names
        .into_iter()
        .filter_map(|name| {
            let text = name.to_string_lossy();
            let age = text.starts_with(prefix).then(|| age(&text, tag))?;
            Some((age?, dir.join(&name)))
        })
        .collect();
    copies.sort();
    copies.into_iter().map(|(_, copy)| copy).collect()
}

/// Removes all but the newest of these [`copies`].
pub(super) fn prune_copies(dir: &Path, prefix: &str, tag: &str, keep: usize) {
    let copies = copies(dir, prefix, tag);
    let surplus = copies.len().saturating_sub(keep);
    for copy in copies.into_iter().take(surplus) {
        if let Err(error) = remove(&copy) {
            tracing::debug!(path = %copy.display(), %error, "cannot remove an old copy");
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::fs;

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
