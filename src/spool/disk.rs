//! sled, and nothing else of it anywhere: one database per segment.
//!
//! What sled 0.34 needs to be told, and why:
//!
//! * `flush()` writes but does not fsync on Linux. Our own handle on the `db` file does; at
//!   creation everything is synced once, directories included.
//! * A leaf is rewritten whole after ten changes and when it splits, which costs three bytes per
//!   byte. Every [`TREE_BYTES`] a new tree begins, so that large values are written once.
//! * An item above a quarter of a segment goes to a blob file that is never synced. A leaf here
//!   holds at most `TREE_BYTES + CHUNK_BYTES`, which stays below that quarter.
//! * Removing rewrites leaves, too. What is removed is listed in a tree of its own instead; the
//!   space comes back with the whole segment.
//! * Its file grows with each commit, for which the file system writes its journal. It is made
//!   longer in steps instead (`ahead`); what reads as zeros is the end of the log.
//! * It panics on files it does not like, so every call is caught.

use std::collections::BTreeMap;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Once;
use std::time::{Duration, Instant};

use super::ahead::Ahead;
use super::files;
use super::store::{Engine, Error, Ids, Store};

/// sled's unit of allocation. Reopening fills up a begun segment, so small is good; a quarter
/// of it bounds an item (128 KiB).
const SEGMENT_BYTES: usize = 512 * 1024;

/// A value is cut into pieces of this size. A group of the usual 32 KiB is one piece.
const CHUNK_BYTES: usize = 40 * 1024;

/// A tree that has taken this much takes no more.
const TREE_BYTES: usize = 64 * 1024;

const _: () = assert!(TREE_BYTES + CHUNK_BYTES + 16 * 1024 <= SEGMENT_BYTES / 4);

/// sled's page cache. A segment is read once in order, so more is no use.
const CACHE_BYTES: u64 = 256 * 1024;

/// sled's own flusher: writes what removals left behind. Without it nothing is collected.
const FLUSH_EVERY_MS: u64 = 10_000;

/// sled's threads may hold its lock for a moment after a database was closed.
const LOCK_PATIENCE: Duration = Duration::from_secs(3);

/// With less than this free a failed open is taken for a full disk, not for damage: opening
/// completes the last segment.
const OPEN_NEEDS: u64 = 2 * SEGMENT_BYTES as u64;

/// The tree of removed ids.
const REMOVED: &[u8] = b"removed";

/// Chunk keys, and the names of the trees that hold them, are an id and a chunk number.
const KEY: usize = 10;

fn key(id: u64, chunk: u16) -> [u8; KEY] {
    let mut key = [0; KEY];
    key[..8].copy_from_slice(&id.to_be_bytes());
    key[8..].copy_from_slice(&chunk.to_be_bytes());
    key
}

fn id_of(key: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(key.get(..8)?.try_into().ok()?))
}

/// Frees what sled has let go of. Its memory reclaimer otherwise takes its time: some ten
/// databases that are closed already would stay in memory.
fn reclaim() {
    /// Each round frees up to eight bags of 62 objects, and needs the one before it.
    const ROUNDS: usize = 128;
    for _ in 0..ROUNDS {
        crossbeam_epoch::pin().flush();
    }
}

/// The kernel's error. sled tells the first caller of it, and all others its debug text:
/// `Os { code: 5, kind: …, message: … }`.
fn original(error: io::Error) -> io::Error {
    if error.raw_os_error().is_some() {
        return error;
    }
    let text = error.to_string();
    let code = text
        .strip_prefix("Os { code: ")
        .and_then(|rest| rest.split_once(',')?.0.parse().ok());
    code.map_or(error, io::Error::from_raw_os_error)
}

/// Runs sled code that may panic.
fn caught<T>(call: impl FnOnce() -> Result<T, sled::Error>) -> Result<T, Error> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(sled::Error::Io(error))) => Err(original(error).into()),
        Ok(Err(error)) => Err(Error::Broken(error.to_string())),
        Err(_) => Err(Error::Broken("the database engine panicked".into())),
    }
}

/// Keeps the engine's panics, which are all caught, off stderr: for a command whose stderr is one
/// sentence. Panics of anything else are told as before.
pub(super) fn hush_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let told = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            let engine = |file: &str| file.contains("/sled-");
            if !panic.location().is_some_and(|at| engine(at.file())) {
                told(panic);
            }
        }));
    });
}

/// The engine.
#[derive(Debug, Clone, Copy)]
pub(super) struct Disk {
    /// Whether the sync that sled lacks is added. Only a test that wants to see data lost in a
    /// power cut says no.
    pub(super) own_sync: bool,
}

impl Disk {
    fn open_store(self, dir: &Path) -> Result<DiskStore, Error> {
        let config = sled::Config::new()
            .path(dir)
            .segment_size(SEGMENT_BYTES)
            .cache_capacity(CACHE_BYTES)
            .flush_every_ms(Some(FLUSH_EVERY_MS));
        let begun = Instant::now();
        let db = loop {
            match caught(|| config.open()) {
                Err(Error::Broken(text)) if text.contains("could not acquire lock") => {
                    if begun.elapsed() > LOCK_PATIENCE {
                        return Err(Error::Busy(text));
                    }
                    std::thread::sleep(Duration::from_millis(5));
                }
                Err(Error::Broken(_))
                    if files::free_bytes(dir).is_ok_and(|free| free < OPEN_NEEDS) =>
                {
                    return Err(Error::Full);
                }
                other => break other?,
            }
        };
        let mut store = DiskStore {
            file: Ahead::open(&dir.join("db"))?,
            db: Some(db),
            trees: BTreeMap::new(),
            in_tree: usize::MAX,
            removed: None,
            own_sync: self.own_sync,
        };
        store.open_trees()?;
        Ok(store)
    }
}

impl Engine for Disk {
    fn create(&self, dir: &Path) -> Result<Box<dyn Store>, Error> {
        let mut store = self.open_store(dir)?;
        store.sync()?;
        if self.own_sync {
            files::sync_tree(dir)?;
        }
        Ok(Box::new(store))
    }

    fn open(&self, dir: &Path) -> Result<Box<dyn Store>, Error> {
        // sled would make a new database of nothing.
        if !dir.join("db").is_file() || !dir.join("conf").is_file() {
            return Err(Error::Broken("files of the database are missing".into()));
        }
        // It takes what it cannot read for the end of its log, and cuts it there. A device that
        // does not read now must not cost what a later attempt would find.
        files::read_through(&dir.join("db"))?;
        let store = self.open_store(dir)?;
        Ok(Box::new(store))
    }
}

struct DiskStore {
    /// `None` only while being dropped.
    db: Option<sled::Db>,
    /// sled's file, for the sync.
    file: Ahead,
    /// By the key of their first chunk.
    trees: BTreeMap<[u8; KEY], sled::Tree>,
    /// Bytes in the last tree.
    in_tree: usize,
    removed: Option<sled::Tree>,
    own_sync: bool,
}

impl DiskStore {
    fn db(&self) -> &sled::Db {
        self.db.as_ref().expect("the database is there until drop")
    }

    fn open_trees(&mut self) -> Result<(), Error> {
        let db = self.db().clone();
        let (trees, removed) = caught(|| {
            let mut trees = BTreeMap::new();
            let mut removed = None;
            for name in db.tree_names() {
                if let Ok(key) = <[u8; KEY]>::try_from(&*name) {
                    trees.insert(key, db.open_tree(&name)?);
                } else if &*name == REMOVED {
                    removed = Some(db.open_tree(&name)?);
                }
            }
            Ok((trees, removed))
        })?;
        (self.trees, self.removed) = (trees, removed);
        Ok(())
    }
}

impl Store for DiskStore {
    fn append(&mut self, id: u64, value: &[u8]) -> Result<(), Error> {
        for (number, chunk) in value.chunks(CHUNK_BYTES).enumerate() {
            let number = u16::try_from(number)
                .map_err(|_| Error::Broken("a group is larger than 2.6 GB".into()))?;
            let key = key(id, number);
            if self.in_tree >= TREE_BYTES {
                let tree = caught(|| self.db().open_tree(key))?;
                self.trees.insert(key, tree);
                self.in_tree = 0;
            }
            let (_, tree) = self
                .trees
                .last_key_value()
                .expect("just made if there was none");
            caught(|| tree.insert(key, chunk))?;
            self.in_tree += chunk.len();
        }
        Ok(())
    }

    fn sync(&mut self) -> Result<(), Error> {
        caught(|| self.db().flush())?;
        if self.own_sync {
            self.file.sync()?;
        }
        Ok(())
    }

    fn take_ahead(&mut self, step: u64) {
        self.file.set_step(step);
    }

    fn ids(&mut self) -> Result<Ids, Error> {
        caught(|| {
            let mut ids = Ids::default();
            for tree in self.trees.values() {
                for entry in tree {
                    ids.present.extend(id_of(&entry?.0));
                }
            }
            for entry in self.removed.iter().flatten() {
                ids.removed.extend(id_of(&entry?.0));
            }
            Ok(ids)
        })
    }

    fn read(&mut self, id: u64) -> Result<Vec<u8>, Error> {
        let first = key(id, 0);
        let begin = self
            .trees
            .range(..=first)
            .next_back()
            .map_or(first, |(name, _)| *name);
        caught(|| {
            let mut value = Vec::new();
            for (_, tree) in self.trees.range(begin..=key(id, u16::MAX)) {
                for entry in tree.range(first..=key(id, u16::MAX)) {
                    value.extend_from_slice(&entry?.1);
                }
            }
            Ok(value)
        })
    }

    fn remove(&mut self, ids: &[u64]) -> Result<(), Error> {
        if self.removed.is_none() {
            self.removed = Some(caught(|| self.db().open_tree(REMOVED))?);
        }
        let removed = self.removed.as_ref().expect("just made if there was none");
        caught(|| {
            for id in ids {
                removed.insert(id.to_be_bytes(), &[])?;
            }
            Ok(())
        })
    }
}

impl Drop for DiskStore {
    fn drop(&mut self) {
        let (db, trees, removed) = (
            self.db.take(),
            std::mem::take(&mut self.trees),
            self.removed.take(),
        );
        // Closing writes what is left, which can fail as anything else can.
        let closed = catch_unwind(AssertUnwindSafe(|| {
            drop((trees, removed));
            if let Some(db) = db {
                let _ = db.flush();
            }
        }));
        if closed.is_err() {
            tracing::debug!("the database engine panicked while closing");
        } else if let Err(error) = self.file.give_back() {
            tracing::debug!(%error, "room that was taken ahead is not given back");
        }
        reclaim();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn an_error_that_the_engine_repeats_is_still_the_kernels() {
        let first = io::Error::from_raw_os_error(5);
        let repeated = io::Error::new(first.kind(), format!("{first:?}"));
        assert_eq!(original(repeated).raw_os_error(), Some(5));
        let other = io::Error::other("something else, code: 5");
        assert_eq!(original(other).raw_os_error(), None);
    }
}
