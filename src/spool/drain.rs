//! Reading groups back, and deleting them once they are over.

use std::sync::Arc;

use super::codec;
use super::salvage::Salvage;
use super::shelf::Shelf;
use super::store::Error;
use super::{Group, GroupId};
use crate::clock::unix_now;
use crate::reading::Item;

/// Databases open at a time beside those that take groups: the oldest, which is drained, and the
/// one that the drain has reached.
const OPEN_READERS: usize = 2;

impl Shelf {
    /// Reads groups after a position until their items weigh `max_bytes`, at least one. Sets
    /// `unreadable` when it stopped because the disk cannot be read at this time.
    pub(super) fn load(&mut self, after: Option<GroupId>, max_bytes: usize) -> Vec<Group> {
        self.commands += 1;
        self.unreadable = false;
        let mut groups = Vec::new();
        let mut position = after.map_or(0, |id| id.0.saturating_add(1));
        let mut bytes = 0;
        let mut index = 0;
        while index < self.generations.len() && (groups.is_empty() || bytes < max_bytes) {
            if self.generations[index].last < position || self.generations[index].groups == 0 {
                index += 1;
                continue;
            }
            if let Err(error) = self.open(index) {
                tracing::warn!(%error, "the spool cannot be read now");
                self.unreadable = true;
                break;
            }
            let next = self.generations[index]
                .open
                .as_ref()
                .and_then(|open| open.live.range(position..).next().copied());
            let Some(id) = next else {
                index += 1;
                continue;
            };
            let items = self.read(index, id);
            bytes += items.iter().map(|item| item.weight()).sum::<usize>();
            groups.push(Group {
                id: GroupId(id),
                items,
            });
            position = id + 1;
        }
        self.close_unused();
        groups
    }

    fn read(&mut self, index: usize, id: u64) -> Vec<Arc<Item>> {
        let generation = &mut self.generations[index];
        let open = generation.open.as_mut().expect("opened before it is read");
        let decoded = match open.store.read(id) {
            Ok(bytes) => codec::decode(&bytes, unix_now()),
            Err(error) => {
                tracing::debug!(group = id, %error, "cannot be read");
                // Opened afresh for the next group, in case it was the handle.
                if generation.taking.is_none() {
                    generation.open = None;
                }
                Err(vec![codec::unknown_gap(unix_now())])
            }
        };
        decoded.unwrap_or_else(|gaps| {
            tracing::error!(
                group = id,
                gaps = gaps.len(),
                "a stored group is damaged: gap records take its place"
            );
            gaps.into_iter()
                .map(|gap| Arc::new(Item::Gap(gap)))
                .collect()
        })
    }

    /// Opens a generation, replacing it by gap records if it is damaged.
    fn open(&mut self, index: usize) -> Result<(), Error> {
        self.generations[index].used = self.commands;
        match self.generations[index].open(&*self.engine) {
            Ok(_) => Ok(()),
            Err(Error::Broken(why)) => {
                self.replace(index, &why)?;
                self.generations[index].used = self.commands;
                self.generations[index].open(&*self.engine).map(|_| ())
            }
            Err(Error::Full) => {
                if self.give_up_ballast() && self.generations[index].open(&*self.engine).is_ok() {
                    return Ok(());
                }
                let found = self.generations[index].open(&Salvage);
                found.map(|_| ()).map_err(|_| Error::Full)
            }
            Err(error) => Err(error),
        }
    }

    /// Closes the databases that were not used lately.
    pub(super) fn close_unused(&mut self) {
        let mut readers: Vec<(u64, usize)> = self
            .generations
            .iter()
            .enumerate()
            .filter(|(_, one)| one.open.is_some() && one.taking.is_none())
            .map(|(index, one)| (one.used, index))
            .collect();
        readers.sort_unstable();
        let surplus = readers.len().saturating_sub(OPEN_READERS);
        for (_, index) in readers.into_iter().take(surplus) {
            self.generations[index].close();
        }
    }

    /// Removes groups. Returns whether space came back.
    pub(super) fn delete(&mut self, groups: &[GroupId]) -> bool {
        self.commands += 1;
        let mut ids: Vec<u64> = groups.iter().map(|id| id.0).collect();
        ids.sort_unstable();
        ids.dedup();
        let mut freed = false;
        for index in (0..self.generations.len()).rev() {
            let generation = &mut self.generations[index];
            let begin = ids.partition_point(|id| *id < generation.first);
            let end = ids.partition_point(|id| *id <= generation.last);
            let here = &ids[begin..end.max(begin)];
            if here.is_empty() {
                continue;
            }
            if generation.open.is_none() && here.len() as u64 >= generation.groups {
                generation.groups = 0;
            } else if let Err(error) = self
                .open(index)
                .and_then(|()| self.generations[index].remove(here, &*self.engine))
            {
                tracing::debug!(%error, "groups were not removed and will come again");
            }
            let generation = &mut self.generations[index];
            generation.used = self.commands;
            if generation.groups == 0 && generation.taking.is_none() {
                self.discard(index);
                freed = true;
            }
        }
        self.close_unused();
        freed
    }
}
