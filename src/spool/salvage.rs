//! Groups found in a database file without the engine's help.
//!
//! sled cuts its log at the first damaged place and forgets what came after, without a word. The
//! bytes are still there, in one piece as they were written, and every group carries its own
//! checksums: so the file is searched for them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::codec;
use super::fs;
use super::store::{Engine, Error, Ids, Store};

/// Searches the content of a database file for groups. Those whose body is damaged are among them:
/// their header says what they were. A group of several pieces (one that holds a very large frame)
/// is found as damaged.
pub(super) fn groups(bytes: &[u8]) -> BTreeMap<u64, Vec<u8>> {
    let mut found: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
    let mut at = 0;
    while let Some(begin) = find(&bytes[at..]).map(|offset| at + offset) {
        at = begin + 1;
        let Some(len) = codec::announced_len(&bytes[begin..]) else {
            continue;
        };
        let group = &bytes[begin..bytes.len().min(begin.saturating_add(len))];
        let Ok(header) = codec::header(group) else {
            continue;
        };
        let whole = header.damage().is_none();
        if whole || !found.contains_key(&header.tally.last) {
            found.insert(header.tally.last, group.to_vec());
        }
        if whole {
            at = begin + len;
        }
    }
    found
}

/// Reads databases without the engine, which cannot open one on a full disk: a spool has to
/// drain just then.
pub(super) struct Salvage;

/// The groups, and the file that they are in.
struct Found(BTreeMap<u64, Vec<u8>>, PathBuf);

impl Engine for Salvage {
    fn create(&self, _dir: &Path) -> Result<Box<dyn Store>, Error> {
        Err(Error::Full)
    }

    fn open(&self, dir: &Path) -> Result<Box<dyn Store>, Error> {
        let mut groups = groups(&fs::read(&dir.join("db"))?);
        // What looks damaged may be whole for the engine.
        groups
            .retain(|_, bytes| codec::header(bytes).is_ok_and(|header| header.damage().is_none()));
        Ok(Box::new(Found(groups, dir.join("db"))))
    }
}

impl Store for Found {
    fn append(&mut self, _id: u64, _value: &[u8]) -> Result<(), Error> {
        Err(Error::Full)
    }

    fn sync(&mut self) -> Result<(), Error> {
        fs::sync(&self.1)?;
        #[cfg(test)]
        super::simulated::medium::synced(self.0.iter().map(|(id, bytes)| (*id, &bytes[..])));
        Ok(())
    }

    fn ids(&mut self) -> Result<Ids, Error> {
        Ok(Ids {
            present: self.0.keys().copied().collect(),
            removed: BTreeSet::new(),
        })
    }

    fn read(&mut self, id: u64) -> Result<Vec<u8>, Error> {
        Ok(self.0.get(&id).cloned().unwrap_or_default())
    }

    fn remove(&mut self, _ids: &[u64]) -> Result<(), Error> {
        Err(Error::Full)
    }
}

fn find(bytes: &[u8]) -> Option<usize> {
    bytes.windows(codec::MAGIC.len()).position(codec::begins)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::testing::batch;
    use super::*;

    #[test]
    fn groups_are_found_between_anything_else() {
        let mut file = vec![7; 100];
        let mut expected = BTreeMap::new();
        for id in 1..5 {
            let bytes = codec::encode(id, &[batch("d", "s", id, 100)], &[]).bytes;
            file.extend_from_slice(&bytes);
            file.extend_from_slice(b"thg1thg2");
            expected.insert(id, bytes);
        }
        assert_eq!(groups(&file), expected);
    }
}
