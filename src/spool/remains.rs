//! What could not be removed at once: drained generations, and groups in databases that could not
//! be opened. Both stay on the books, count against `max_size`, and are tried again; otherwise
//! they would be published again after a restart.

use std::io;
use std::path::{Path, PathBuf};

use super::files;
use super::fs;
use super::shelf::Shelf;

/// So many attempts to remove a directory, and it counts as lost space: more is dropped for new
/// data then. Commits that find no room are some seconds apart, and a disk that is in trouble for
/// a moment must not cost more than one generation.
const ATTEMPTS: u32 = 5;

/// A directory that is to go.
#[derive(Debug)]
pub(super) struct Remains {
    dir: PathBuf,
    /// Bytes on disk, as of the last look.
    bytes: u64,
    /// Its name is that of a generation no more.
    renamed: bool,
    attempts: u32,
}

impl Remains {
    /// Renames it, so that half a directory is never taken for a whole one, then removes it. A
    /// part that is done already is no error.
    fn remove(&mut self, spool: &Path) -> io::Result<()> {
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

impl Shelf {
    /// Gives a generation up: marks that only it knew are saved first.
    pub(super) fn discard(&mut self, index: usize) {
        self.save_marks();
        let mut generation = self.generations.remove(index);
        generation.open = None;
        self.bury(generation.dir, generation.disk, false);
    }

    /// Removes a directory, now or later. `renamed`: its name is that of a generation no more.
    pub(super) fn bury(&mut self, dir: PathBuf, bytes: u64, renamed: bool) {
        self.remains.push(Remains {
            dir,
            bytes,
            renamed,
            attempts: 0,
        });
        self.bury_remains();
    }

    /// Tries to remove what could not be removed so far. Returns whether any of it went.
    pub(super) fn bury_remains(&mut self) -> bool {
        let before = self.remains.len();
        let spool = &self.path;
        self.remains.retain_mut(|remains| {
            let Err(error) = remains.remove(spool) else {
                return false;
            };
            remains.attempts += 1;
            if remains.attempts == 1 {
                let dir = remains.dir.display();
                tracing::warn!(%dir, %error, "cannot remove a drained part of the spool; trying again");
            }
            true
        });
        self.remains.len() < before
    }

    /// Bytes of what could not be removed yet.
    pub(super) fn remaining_bytes(&self) -> u64 {
        self.remains.iter().map(|one| one.bytes).sum()
    }

    /// Whether this entry of the directory counts as such.
    pub(super) fn is_remains(&self, path: &Path) -> bool {
        self.remains.iter().any(|one| one.dir == path)
    }

    /// Whether dropping more would free nothing either, as far as can be told.
    pub(super) fn cannot_remove(&self) -> bool {
        self.remains.iter().any(|one| one.attempts < ATTEMPTS)
    }

    /// Whether anything is to be tried again.
    pub(super) fn owes(&self) -> bool {
        !self.remains.is_empty() || self.generations.iter().any(|one| !one.owed.is_empty())
    }

    /// Does what could not be done so far. Returns whether space came back.
    pub(super) fn make_up(&mut self) -> bool {
        let mut freed = self.bury_remains();
        for index in (0..self.generations.len()).rev() {
            if self.generations[index].owed.is_empty() {
                continue;
            }
            if self.generations[index].taking.is_none() {
                // It may have been opened without the engine.
                self.generations[index].open = None;
            }
            let removed = self
                .open(index)
                .and_then(|()| self.generations[index].remove(&[], &*self.engine));
            if let Err(error) = removed {
                tracing::debug!(%error, "groups are still not removed");
                continue;
            }
            let generation = &mut self.generations[index];
            if generation.groups == 0 && generation.taking.is_none() {
                self.discard(index);
                freed = true;
            }
        }
        self.close_unused();
        freed
    }
}
