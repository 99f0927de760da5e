//! A storage engine on the simulated disk: a log of values in `db`, the ids of what was removed
//! in `removed`. What was appended waits in memory, as in sled, until it is synced or the log is
//! closed in order.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::medium::{self, with_disk};
use crate::spool::files;
use crate::spool::fs;
use crate::spool::store::{Engine, Error, Ids, Store};

const MAGIC: &[u8] = b"simulated log 1\n";
const DB: &str = "db";
const REMOVED: &str = "removed";

/// Id, length, checksum.
const HEADER: usize = 16;

/// Less than this free, and a log cannot be opened, as with sled.
const OPEN_NEEDS: u64 = 16 * 1024;

/// See the module.
#[derive(Debug, Clone, Copy)]
pub(super) struct Log {
    /// Values that are damaged or cut short are taken for the end of the log, as by sled.
    /// Otherwise they are handed out as they are.
    pub(super) checked: bool,
    /// A commit is not synced: what the simulation must find.
    pub(super) lazy: bool,
}

impl Engine for Log {
    fn create(&self, dir: &Path) -> Result<Box<dyn Store>, Error> {
        fs::create_dir(dir)?;
        fs::write_synced(&dir.join(DB), MAGIC)?;
        files::sync_tree(dir)?;
        Ok(Box::new(Opened::new(dir, *self)))
    }

    fn open(&self, dir: &Path) -> Result<Box<dyn Store>, Error> {
        if !fs::exists(&dir.join(DB)) {
            return Err(Error::Broken("the log is missing".into()));
        }
        let bytes = fs::read(&dir.join(DB))?;
        if fs::free_bytes(dir)? < OPEN_NEEDS {
            return Err(Error::Full);
        }
        let mut store = Opened::new(dir, *self);
        store.parse(&bytes)?;
        // An earlier process may not have come to its sync.
        store.unsynced = store.values.keys().copied().collect();
        if fs::exists(&dir.join(REMOVED)) {
            let removed = fs::read(&dir.join(REMOVED))?;
            let ids = removed.chunks_exact(8);
            store.removed = ids
                .map(|id| u64::from_le_bytes(id.try_into().expect("eight bytes")))
                .collect();
        }
        Ok(Box::new(store))
    }
}

struct Opened {
    dir: PathBuf,
    log: Log,
    values: BTreeMap<u64, Vec<u8>>,
    removed: BTreeSet<u64>,
    /// Appended, and not written.
    buffer: Vec<u8>,
    /// Removed, and not written.
    hidden: Vec<u8>,
    /// Not known to be synced.
    unsynced: Vec<u64>,
    broken: bool,
}

impl Opened {
    fn new(dir: &Path, log: Log) -> Self {
        Self {
            dir: dir.to_owned(),
            log,
            values: BTreeMap::new(),
            removed: BTreeSet::new(),
            buffer: Vec::new(),
            hidden: Vec::new(),
            unsynced: Vec::new(),
            broken: false,
        }
    }

    fn parse(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let Some(mut rest) = bytes.strip_prefix(MAGIC) else {
            return Err(Error::Broken("this is no log".into()));
        };
        while let Some((head, after)) = rest.split_at_checked(HEADER) {
            let number = |at: usize| u32::from_le_bytes(head[at..at + 4].try_into().expect("four"));
            let id = u64::from_le_bytes(head[..8].try_into().expect("eight"));
            let len = number(8) as usize;
            if id == 0 || len == 0 {
                break;
            }
            let value = &after[..len.min(after.len())];
            let sound = value.len() == len && crc32fast::hash(value) == number(12);
            if !sound && self.log.checked {
                break;
            }
            self.values.insert(id, value.to_vec());
            rest = &after[value.len()..];
        }
        Ok(())
    }

    fn write_out(&mut self) -> Result<(), Error> {
        let buffer = std::mem::take(&mut self.buffer);
        if !buffer.is_empty() {
            with_disk(|disk| disk.append(&self.dir.join(DB), &buffer)).unwrap_or(Ok(()))?;
        }
        let hidden = std::mem::take(&mut self.hidden);
        if !hidden.is_empty() {
            let path = self.dir.join(REMOVED);
            if !fs::exists(&path) {
                fs::create(&path)?;
            }
            with_disk(|disk| disk.append(&path, &hidden)).unwrap_or(Ok(()))?;
        }
        Ok(())
    }
}

impl Store for Opened {
    fn append(&mut self, id: u64, value: &[u8]) -> Result<(), Error> {
        assert!(!self.broken, "written again after an error");
        let newest = self.values.last_key_value().map_or(0, |(id, _)| *id);
        assert!(id > newest, "ids grow");
        self.buffer.extend_from_slice(&id.to_le_bytes());
        let len = u32::try_from(value.len()).expect("small");
        self.buffer.extend_from_slice(&len.to_le_bytes());
        self.buffer
            .extend_from_slice(&crc32fast::hash(value).to_le_bytes());
        self.buffer.extend_from_slice(value);
        self.values.insert(id, value.to_vec());
        self.unsynced.push(id);
        // Now and then the engine writes by itself.
        if self.buffer.len() > 64 * 1024 {
            let written = self.write_out();
            self.broken |= written.is_err();
            written?;
        }
        Ok(())
    }

    fn sync(&mut self) -> Result<(), Error> {
        assert!(!self.broken, "written again after an error");
        self.broken = true;
        self.write_out()?;
        if !self.log.lazy {
            fs::sync(&self.dir.join(DB))?;
            // What is removed is not stored, though its bytes are.
            let stored = self.unsynced.iter().filter(|id| !self.removed.contains(id));
            medium::synced(stored.map(|id| (*id, &self.values[id][..])));
        }
        self.unsynced.clear();
        self.broken = false;
        Ok(())
    }

    fn ids(&mut self) -> Result<Ids, Error> {
        with_disk(|disk| disk.touch()).unwrap_or(Ok(()))?;
        Ok(Ids {
            present: self.values.keys().copied().collect(),
            removed: self.removed.clone(),
        })
    }

    fn read(&mut self, id: u64) -> Result<Vec<u8>, Error> {
        with_disk(|disk| disk.touch()).unwrap_or(Ok(()))?;
        Ok(self.values.get(&id).cloned().unwrap_or_default())
    }

    fn remove(&mut self, ids: &[u64]) -> Result<(), Error> {
        for id in ids {
            self.removed.insert(*id);
            self.hidden.extend_from_slice(&id.to_le_bytes());
        }
        Ok(())
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        // The end of a process leaves what was in memory behind; a disk that has stopped takes
        // nothing anyway.
        let _ = self.write_out();
    }
}

/// Every item in a log, sound or not for the engine.
pub(super) fn items(bytes: &[u8]) -> Vec<std::sync::Arc<crate::reading::Item>> {
    let mut log = Opened::new(
        Path::new("/"),
        Log {
            checked: false,
            lazy: false,
        },
    );
    if log.parse(bytes).is_err() {
        return Vec::new();
    }
    let decoded = log
        .values
        .values()
        .map(|value| crate::spool::codec::decode(value, 0.0).unwrap_or_default());
    decoded.flatten().collect()
}
