//! Directories that could not be removed at once. They stay on the books, count against `max_size`,
//! and are tried again; otherwise what was in them would be published again after a restart.

use std::io;
use std::path::{Path, PathBuf};

use super::files;
use super::fs;

/// So many attempts to remove a directory, and it counts as lost space: more is dropped for new
/// data then. Commits that find no room are some seconds apart, and a disk that is in trouble for
/// a moment must not cost more than one segment.
const ATTEMPTS: u32 = 5;

/// A directory that is to go.
#[derive(Debug)]
struct Deletion {
    dir: PathBuf,
    /// Bytes on disk, as of the last look.
    bytes: u64,
    /// Its name is that of a segment no more.
    renamed: bool,
    attempts: u32,
}

impl Deletion {
    /// Renames it, so that half a directory is never taken for a whole one, then removes it. A
    /// part that is done already is no error.
    fn carry_out(&mut self, spool: &Path) -> io::Result<()> {
        let there = |result: io::Result<()>| match result {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result,
        };
        if !self.renamed {
            // What an attempt to replace it has left would take its place at the next start.
            there(files::remove(&self.dir.with_extension("new")))?;
            let dead = self.dir.with_extension("dead");
            there(fs::rename(&self.dir, &dead))?;
            self.dir = dead;
            self.renamed = true;
        }
        files::sync_dir(spool)?;
        there(files::remove(&self.dir))?;
        // Only then does the file system count its blocks as free.
        files::sync_dir(spool)
    }
}

/// Those that are still due.
#[derive(Debug, Default)]
pub(super) struct Deletions {
    due: Vec<Deletion>,
}

impl Deletions {
    /// One more. `renamed`: its name is that of a segment no more.
    pub(super) fn add(&mut self, dir: PathBuf, bytes: u64, renamed: bool) {
        self.due.push(Deletion {
            dir,
            bytes,
            renamed,
            attempts: 0,
        });
    }

    /// Tries to carry them out. Returns whether any of them was.
    pub(super) fn carry_out(&mut self, spool: &Path) -> bool {
        let before = self.due.len();
        self.due.retain_mut(|deletion| {
            let Err(error) = deletion.carry_out(spool) else {
                return false;
            };
            deletion.attempts += 1;
            if deletion.attempts == 1 {
                let dir = deletion.dir.display();
                tracing::warn!(%dir, %error, "cannot remove a drained part of the spool; trying again");
            }
            true
        });
        self.due.len() < before
    }

    /// Forgets them: whatever is in the directory is looked at anew.
    pub(super) fn clear(&mut self) {
        self.due.clear();
    }

    pub(super) fn is_empty(&self) -> bool {
        self.due.is_empty()
    }

    /// Bytes on disk of all of them.
    pub(super) fn bytes(&self) -> u64 {
        self.due.iter().map(|one| one.bytes).sum()
    }

    /// Whether this entry of the directory is one.
    pub(super) fn contains(&self, path: &Path) -> bool {
        self.due.iter().any(|one| one.dir == path)
    }

    /// Whether one has not failed often enough to be given up: dropping more would free nothing
    /// either, as far as can be told.
    pub(super) fn are_hopeful(&self) -> bool {
        self.due.iter().any(|one| one.attempts < ATTEMPTS)
    }
}
