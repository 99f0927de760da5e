//! Whether the spool's directory could be used, found out before it is needed.
//!
//! An outage is no time to learn that the directory belongs to somebody else. While all is well
//! nothing is written for this (a healthy hub does not touch the flash card), with one exception: a
//! directory that is missing is made, because only making it shows that it can be made. For root
//! `access(2)` says yes where a write fails, so what the mount and the owner say counts as well.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::Path;

use rustix::fs::{Access, StatVfsMountFlags, access, statvfs};
use rustix::process::geteuid;

/// Only the hub reads what devices sent.
const MODE: u32 = 0o700;

/// What to do where there is no directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Make {
    /// Make it: the hub, which needs it.
    Yes,
    /// Look whether it could be made: who only asks, maybe as another user.
    No,
}

/// Looks whether a spool in `path` could be written now, with more than `min_free` bytes left on
/// its file system (`None`: however many).
///
/// # Errors
/// One sentence that names the path and says what to do.
pub fn look(path: &Path, min_free: Option<u64>, make: Make) -> Result<(), String> {
    let shown = path.display();
    let meta = match fs::metadata(path) {
        Ok(meta) => meta,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            if make == Make::No {
                return look_above(path, min_free);
            }
            let mut builder = DirBuilder::new();
            let made = builder.recursive(true).mode(MODE).create(path);
            made.and_then(|()| fs::metadata(path))
                .map_err(|error| format!("{shown} cannot be made ({error}); {REMEDY}"))?
        }
        Err(error) => return Err(format!("{shown} cannot be looked at ({error}); {REMEDY}")),
    };
    // What is no directory is set aside when the spool is opened, and a new one made beside it.
    if !meta.is_dir() {
        return look_above(path, min_free);
    }
    let us = geteuid().as_raw();
    // Who only asks may be root, and the hub somebody else.
    if meta.uid() != us && !(make == Make::No && us == 0) {
        return Err(format!(
            "{shown} belongs to user {}, and the hub runs as user {us}; give it to the hub with \
             chown, or name another directory as spool.path",
            meta.uid()
        ));
    }
    writable(path)?;
    room(path, min_free)
}

/// Whether the place belongs to a user of its own, who is neither this one nor root: the hub's,
/// probably. What this one may do there says nothing of the hub then.
#[must_use]
pub fn is_of_another(path: &Path) -> bool {
    let us = geteuid().as_raw();
    let nearest = path.ancestors().find_map(|above| fs::metadata(above).ok());
    us != 0 && nearest.is_some_and(|meta| meta.uid() != 0 && meta.uid() != us)
}

const REMEDY: &str = "let the hub's user write there, or name another directory as spool.path";

/// Of a directory that is not there: whether it could be made.
fn look_above(path: &Path, min_free: Option<u64>) -> Result<(), String> {
    let above = path.ancestors().skip(1).find(|above| above.exists());
    let Some(above) = above.filter(|above| above.is_dir()) else {
        return Err(format!(
            "{} cannot be made, because what is above it is no directory; {REMEDY}",
            path.display()
        ));
    };
    writable(above).map_err(|error| format!("{} cannot be made: {error}", path.display()))?;
    room(above, min_free)
}

fn writable(directory: &Path) -> Result<(), String> {
    let shown = directory.display();
    access(directory, Access::WRITE_OK | Access::EXEC_OK)
        .map_err(|error| format!("{shown} cannot be written ({error}); {REMEDY}"))?;
    let mounted = statvfs(directory).map_err(|error| format!("{shown}: {error}"))?;
    if mounted.f_flag.contains(StatVfsMountFlags::RDONLY) {
        return Err(format!(
            "{shown} is on a file system that is mounted read-only; mount it read-write, or name \
             another directory as spool.path"
        ));
    }
    Ok(())
}

/// Less than `min_free` is not enough for the first batch either.
fn room(directory: &Path, min_free: Option<u64>) -> Result<(), String> {
    let Some(min_free) = min_free else {
        return Ok(());
    };
    let shown = directory.display();
    let mounted = statvfs(directory).map_err(|error| format!("{shown}: {error}"))?;
    let free = mounted.f_bavail.saturating_mul(mounted.f_frsize);
    if free <= min_free {
        return Err(format!(
            "the file system of {shown} has {free} bytes free, and spool.min_free keeps \
             {min_free}; make room there, or lower spool.min_free"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_directory_that_is_missing_is_made_and_one_that_is_there_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a").join("spool");
        assert_eq!(look(&path, Some(0), Make::No), Ok(()));
        assert!(!path.exists());
        assert_eq!(look(&path, Some(0), Make::Yes), Ok(()));
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, MODE);
        let before = fs::metadata(dir.path()).unwrap().mtime_nsec();
        assert_eq!(look(&path, Some(0), Make::Yes), Ok(()));
        assert_eq!(fs::metadata(dir.path()).unwrap().mtime_nsec(), before);
        assert_eq!(fs::read_dir(&path).unwrap().count(), 0);
    }

    #[test]
    fn only_a_place_of_another_user_says_nothing_of_the_hub() {
        let dir = tempfile::tempdir().unwrap();
        assert!(!is_of_another(&dir.path().join("a/b")));
        assert!(!is_of_another(Path::new("/nowhere/spool")), "of root");
    }

    #[test]
    fn every_reason_names_the_path_and_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        // Where root, too, fails to make a directory.
        for (path, min_free, word) in [
            (file.join("spool"), 0, "spool.path"),
            ("/proc/telehub/spool".into(), 0, "spool.path"),
            (dir.path().join("spool"), u64::MAX, "spool.min_free"),
        ] {
            let error = look(&path, Some(min_free), Make::Yes).unwrap_err();
            assert!(error.contains(path.to_str().unwrap()), "{error}");
            assert!(error.contains(word), "{error}");
        }
        assert!(look(&file.join("spool"), None, Make::No).is_err());
    }

    #[test]
    fn a_directory_of_somebody_else_is_not_used() {
        if !geteuid().is_root() {
            eprintln!("SKIPPED: only root can give a directory away");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::chown(dir.path(), Some(65_534), None).unwrap();
        let error = look(dir.path(), None, Make::Yes).unwrap_err();
        assert!(error.contains("belongs to user 65534"), "{error}");
    }
}
