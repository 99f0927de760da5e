//! The door to the file system: what the spool does with plain files and directories.
//!
//! In tests a thread may put a simulated disk in its place (`simulated`).

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{FallocateFlags, FlockOperation, OFlags, fallocate, flock, statvfs};

use super::stat::Stat;

/// Answers from the simulated disk, if this thread has one.
macro_rules! simulated {
    ($call:expr) => {
        #[cfg(test)]
        if let Some(answer) = super::simulated::medium::with_disk($call) {
            return answer;
        }
    };
}

/// Of the entry itself, not of what a symbolic link points to.
pub(super) fn stat(path: &Path) -> io::Result<Stat> {
    simulated!(|disk| disk.stat(path));
    Ok(path.symlink_metadata()?.into())
}

/// Whether there is a directory; follows symbolic links.
///
/// # Errors
/// `NotFound` when there is nothing.
pub(super) fn is_dir(path: &Path) -> io::Result<bool> {
    simulated!(|disk| disk.stat(path).map(|stat| stat.is_dir));
    Ok(fs::metadata(path)?.is_dir())
}

/// Whose a directory is.
pub(super) struct Owner {
    /// User id.
    pub(super) user: u32,
    /// Permissions.
    pub(super) mode: u32,
}

/// Whose a directory is; follows symbolic links, as everything does that is done in it.
pub(super) fn owner(dir: &Path) -> io::Result<Owner> {
    simulated!(|disk| disk.stat(dir).map(|_| Owner {
        user: user(),
        mode: 0o700,
    }));
    let meta = fs::metadata(dir)?;
    Ok(Owner {
        user: meta.uid(),
        mode: meta.mode(),
    })
}

/// As which user this process acts.
pub(super) fn user() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// Whether there is an entry, as far as that can be seen.
pub(super) fn exists(path: &Path) -> bool {
    simulated!(|disk| disk.stat(path).is_ok());
    path.exists()
}

/// The names in a directory.
pub(super) fn names(dir: &Path) -> io::Result<Vec<OsString>> {
    simulated!(|disk| disk.names(dir));
    fs::read_dir(dir)?
        .map(|entry| Ok(entry?.file_name()))
        .collect()
}

/// The content of a file.
pub(super) fn read(path: &Path) -> io::Result<Vec<u8>> {
    simulated!(|disk| disk.read(path));
    fs::read(path)
}

/// Makes a directory in one that is there.
pub(super) fn create_dir(dir: &Path) -> io::Result<()> {
    simulated!(|disk| disk.create_dir(dir));
    fs::create_dir(dir)
}

/// Renames an entry, over whatever has the new name.
pub(super) fn rename(from: &Path, to: &Path) -> io::Result<()> {
    simulated!(|disk| disk.rename(from, to));
    fs::rename(from, to)
}

/// Removes a file or a directory with all that is in it.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    simulated!(|disk| disk.remove(path));
    if path.symlink_metadata()?.is_dir() {
        fs::remove_dir_all(path)
    } else {
        fs::remove_file(path)
    }
}

/// Makes an empty file, or empties one.
pub(super) fn create(path: &Path) -> io::Result<()> {
    simulated!(|disk| disk.write(path, &[], true));
    open_new(path).map(drop)
}

/// Writes a file anew and syncs it. Its entry in the directory is not synced.
pub(super) fn write_synced(path: &Path, content: &[u8]) -> io::Result<()> {
    simulated!(|disk| disk
        .write(path, content, true)
        .and_then(|()| disk.sync(path)));
    let mut file = open_new(path)?;
    file.write_all(content)?;
    file.sync_all()
}

/// Writes over the beginning of a file, which is made if it is not there. Nothing is synced.
/// Truncating first would make ext4 write it out at once.
pub(super) fn write_in_place(path: &Path, content: &[u8]) -> io::Result<()> {
    simulated!(|disk| disk.write(path, content, false));
    OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .custom_flags(NO_FOLLOW)
        .open(path)?
        .write_all(content)
}

/// A link that somebody has put where the hub writes leads nowhere.
#[expect(
    clippy::cast_possible_wrap,
    reason = "a flag of the kernel's, as an int"
)]
const NO_FOLLOW: i32 = OFlags::NOFOLLOW.bits() as i32;

/// A new file in place of whatever has the name. What is there is removed and never opened, so that
/// nothing is written through a link, or into a file that somebody else holds open.
fn open_new(path: &Path) -> io::Result<File> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .custom_flags(NO_FOLLOW)
        .open(path)
}

/// Makes a file, or the entries of a directory, durable.
pub(super) fn sync(path: &Path) -> io::Result<()> {
    simulated!(|disk| disk.sync(path));
    File::open(path)?.sync_all()
}

/// Makes a file that takes this much space, without writing it.
pub(super) fn reserve(path: &Path, bytes: u64) -> io::Result<()> {
    simulated!(|disk| disk.reserve(path, bytes));
    let file = open_new(path)?;
    Ok(fallocate(file, FallocateFlags::empty(), 0, bytes)?)
}

/// Bytes of the file system that holds `dir` which this process may still write.
pub(super) fn free_bytes(dir: &Path) -> io::Result<u64> {
    simulated!(|disk| disk.free_bytes(dir));
    let stat = statvfs(dir)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// A lock on a directory that two processes cannot hold; ends with the value or the process.
/// The directory itself is locked: no file has to be written for it.
#[derive(Debug)]
pub(super) struct Lock(#[expect(dead_code, reason = "held, not used")] Option<File>);

/// Takes the lock.
///
/// # Errors
/// `ResourceBusy` when another process has it.
pub(super) fn lock(dir: &Path) -> io::Result<Lock> {
    simulated!(|disk| disk.stat(dir).map(|_| Lock(None)));
    let file = File::open(dir)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Lock(Some(file))),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(io::Error::new(
            io::ErrorKind::ResourceBusy,
            format!("{} is in use by another process", dir.display()),
        )),
        Err(error) => Err(error.into()),
    }
}
