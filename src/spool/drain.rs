//! Reading groups back, and deleting them once they are over.

use std::sync::Arc;

use super::codec;
use super::salvage::Salvage;
use super::shelf::Shelf;
use super::store::Error;
use super::{Group, GroupId};
use crate::clock;
use crate::reading::Item;

/// Databases open at a time beside those that take groups: the oldest, which is drained, and the
/// one that the drain has reached.
const OPEN_READERS: usize = 2;

/// How often the device may fail to read from a generation before what it does not give counts
/// as lost. The intake waits 5 s between attempts: a cable that comes loose for a moment, or a
/// controller that is reset, is back by then.
const READ_ATTEMPTS: u32 = 5;

/// A group as it was read, or the records of what is damaged.
fn group(id: u64, bytes: &[u8]) -> Group {
    let items = codec::decode(bytes, clock::now()).unwrap_or_else(|left| {
        tracing::error!(
            group = id,
            gaps = left.gaps.len(),
            "a stored group is damaged: gap records take its place"
        );
        left.into_items()
    });
    Group {
        id: GroupId(id),
        items,
    }
}

impl Shelf {
    /// Reads groups after a position until their items weigh `max_bytes`, at least one. Sets
    /// `unreadable` when it stopped because the disk cannot be read at this time.
    pub(super) fn load(&mut self, after: Option<GroupId>, max_bytes: usize) -> Vec<Group> {
        self.read_groups(after, max_bytes, false)
    }

    /// The same, of the groups with final answers to commands in them alone. Generations without
    /// any are not even opened.
    pub(super) fn load_replies(&mut self, after: Option<GroupId>, max_bytes: usize) -> Vec<Group> {
        self.read_groups(after, max_bytes, true)
    }

    fn read_groups(
        &mut self,
        after: Option<GroupId>,
        max_bytes: usize,
        replies: bool,
    ) -> Vec<Group> {
        self.commands += 1;
        self.unreadable = false;
        let mut groups = Vec::new();
        let mut position = after.map_or(0, |id| id.0.saturating_add(1));
        let mut bytes = 0;
        let mut index = 0;
        while index < self.generations.len() && (groups.is_empty() || bytes < max_bytes) {
            let generation = &self.generations[index];
            let nothing = generation.groups == 0 || replies && generation.replies == 0;
            if generation.last < position || nothing {
                index += 1;
                continue;
            }
            let next = match self.next_group(index, position) {
                Ok(Some(next)) => next,
                Ok(None) => {
                    index += 1;
                    continue;
                }
                Err(error) => {
                    tracing::warn!(%error, "the spool cannot be read now");
                    self.unreadable = true;
                    break;
                }
            };
            position = next.id.0 + 1;
            let is_reply = |item: &Arc<Item>| matches!(**item, Item::Reply(_));
            if replies && !next.items.iter().any(is_reply) {
                continue;
            }
            bytes += next.items.iter().map(|item| item.weight()).sum::<usize>();
            groups.push(next);
        }
        self.close_unused();
        groups
    }

    /// The first group of a generation from a position on; `None`: there is none any more.
    ///
    /// # Errors
    /// It cannot be read at this time. A group that is damaged, or that the device has refused
    /// [`READ_ATTEMPTS`] times, has been replaced by what could be saved of it.
    fn next_group(&mut self, index: usize, position: u64) -> Result<Option<Group>, Error> {
        let mut repaired = false;
        loop {
            let read = self.open(index).and_then(|()| {
                let Some(open) = &mut self.generations[index].open else {
                    return Ok(None);
                };
                let Some(id) = open.live.range(position..).next().copied() else {
                    return Ok(None);
                };
                Ok(Some((id, open.store.read(id)?)))
            });
            let why = match read {
                Ok(None) => return Ok(None),
                Ok(Some((id, bytes))) => {
                    self.refused = None;
                    return Ok(Some(group(id, &bytes)));
                }
                Err(Error::Device(why)) if self.refuses(index) => why,
                Err(Error::Broken(why)) => why,
                Err(error) => {
                    self.reopen(index);
                    return Err(error);
                }
            };
            if std::mem::replace(&mut repaired, true) {
                return Err(Error::Device(why));
            }
            self.replace(index, &why)?;
            self.generations[index].used = self.commands;
        }
    }

    /// Notes that the device did not read from this generation. Returns whether that has
    /// happened often enough.
    pub(super) fn refuses(&mut self, index: usize) -> bool {
        let first = self.generations[index].first;
        let attempts = match self.refused {
            Some((known, attempts)) if known == first => attempts + 1,
            _ => 1,
        };
        self.refused = Some((first, attempts));
        attempts >= READ_ATTEMPTS
    }

    /// Has the database opened afresh for the next attempt, in case it was the handle.
    fn reopen(&mut self, index: usize) {
        if self.generations[index].taking.is_some() {
            self.generations[index].seal();
        } else {
            self.generations[index].open = None;
        }
    }

    /// Opens a generation, replacing it by gap records if it is damaged.
    pub(super) fn open(&mut self, index: usize) -> Result<(), Error> {
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
            let all = here.len() as u64 >= generation.groups && !generation.thinned;
            // Before it is opened, and perhaps found damaged and replaced.
            generation.gone.extend(here);
            if generation.open.is_none() && all {
                generation.groups = 0;
            } else if let Err(error) = self
                .open(index)
                .and_then(|()| self.generations[index].remove(here, &*self.engine))
            {
                tracing::debug!(%error, "groups are not removed yet");
                self.generations[index].owe(here);
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
