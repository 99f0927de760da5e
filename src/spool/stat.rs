//! What is asked of an entry of a directory, real or simulated.

use std::fs;
use std::os::unix::fs::MetadataExt;

/// What the file system says of an entry.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stat {
    pub(crate) is_dir: bool,
    /// Bytes on the device (allocated blocks, not the length).
    pub(crate) bytes: u64,
}

impl From<fs::Metadata> for Stat {
    fn from(meta: fs::Metadata) -> Self {
        /// The unit of `st_blocks`, whatever the file system's own block size is.
        const BLOCK: u64 = 512;
        Self {
            is_dir: meta.is_dir(),
            bytes: meta.blocks() * BLOCK,
        }
    }
}
