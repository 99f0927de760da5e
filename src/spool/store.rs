//! What the spool asks of a storage engine: one small database per segment, in a directory
//! of its own, that keeps byte strings under growing ids.

use std::collections::BTreeSet;
use std::path::Path;

use rustix::io::Errno;

/// Why an engine failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// No space left on the device.
    #[error("no space left on the device")]
    Full,
    /// Not now: locked, or out of memory or file descriptors. The data is not to blame.
    #[error("{0}")]
    Busy(String),
    /// The device does not do it, or is gone. What it holds may be sound.
    #[error("{0}")]
    Device(String),
    /// The data cannot be read or written; the database has to be given up.
    #[error("{0}")]
    Broken(String),
}

/// What the kernel answers when the device beneath a file system fails: nothing of this says
/// that the data is not what was written.
const OF_THE_DEVICE: [Errno; 8] = [
    Errno::IO,
    Errno::NXIO,
    Errno::NODEV,
    Errno::TIMEDOUT,
    Errno::STALE,
    Errno::REMOTEIO,
    Errno::NOMEDIUM,
    Errno::UCLEAN,
];

impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Self {
        use std::io::ErrorKind;
        /// ENFILE and EMFILE, the same number on every Linux.
        const TOO_MANY_FILES: [i32; 2] = [23, 24];
        match error.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Self::Full,
            ErrorKind::OutOfMemory
            | ErrorKind::ResourceBusy
            | ErrorKind::WouldBlock
            | ErrorKind::PermissionDenied
            | ErrorKind::ReadOnlyFilesystem => Self::Busy(error.to_string()),
            _ if OF_THE_DEVICE
                .iter()
                .any(|errno| error.raw_os_error() == Some(errno.raw_os_error())) =>
            {
                Self::Device(error.to_string())
            }
            _ if error
                .raw_os_error()
                .is_some_and(|errno| TOO_MANY_FILES.contains(&errno)) =>
            {
                Self::Busy(error.to_string())
            }
            _ => Self::Broken(error.to_string()),
        }
    }
}

/// What is in a database.
#[derive(Debug, Default)]
pub(super) struct Ids {
    /// Every value that was appended and is still known of, removed or not.
    pub(super) present: BTreeSet<u64>,
    /// The removed ones.
    pub(super) removed: BTreeSet<u64>,
}

/// One open database. After an error of `append` or `sync` it must not be written again.
pub(super) trait Store: Send {
    /// Adds a value. Ids grow from call to call. Durable only after [`Store::sync`].
    fn append(&mut self, id: u64, value: &[u8]) -> Result<(), Error>;

    /// Everything appended so far survives a power cut once this returns.
    fn sync(&mut self) -> Result<(), Error>;

    /// From now on a sync may take so many bytes of the disk ahead of what is written; 0: none. An
    /// engine that does not do it needs no word of it.
    fn take_ahead(&mut self, step: u64) {
        let _ = step;
    }

    /// The ids of all values, and which of them were removed.
    fn ids(&mut self) -> Result<Ids, Error>;

    /// A value as far as it can be read; empty when nothing is there. The caller checks it.
    fn read(&mut self, id: u64) -> Result<Vec<u8>, Error>;

    /// Hides values. Not durable before the next [`Store::sync`] or an orderly end.
    fn remove(&mut self, ids: &[u64]) -> Result<(), Error>;
}

/// Opens databases. Implementations never panic, whatever is in the directory.
pub(super) trait Engine: Send {
    /// A new database in `dir`, which does not exist yet. Durable, with its directory, when
    /// this returns.
    fn create(&self, dir: &Path) -> Result<Box<dyn Store>, Error>;

    /// The database that is in `dir`.
    fn open(&self, dir: &Path) -> Result<Box<dyn Store>, Error>;
}
