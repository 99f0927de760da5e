//! Reading groups back, and deleting them once they are over.

use std::sync::Arc;

use super::codec;
use super::salvage::Salvage;
use super::segment_log::SegmentLog;
use super::store::Error;
use super::{Group, GroupId};
use crate::clock;
use crate::reading::Item;

/// Databases open at a time beside those that take groups: the oldest, which is drained, and the
/// one that the drain has reached.
const OPEN_READERS: usize = 2;

/// How often the device may fail to read from a segment before what it does not give counts
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

impl SegmentLog {
    /// Reads groups after a position until their items weigh `max_bytes`, at least one. Sets
    /// `unreadable` when it stopped because the disk cannot be read at this time.
    pub(super) fn load(&mut self, after: Option<GroupId>, max_bytes: usize) -> Vec<Group> {
        self.read_groups(after, max_bytes, false)
    }

    /// The same, of the groups with final answers to commands in them alone. Segments without
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
        while index < self.segments.len() && (groups.is_empty() || bytes < max_bytes) {
            let segment = &self.segments[index];
            let nothing = segment.groups == 0 || replies && segment.replies == 0;
            if segment.last < position || nothing {
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

    /// The first group of a segment from a position on; `None`: there is none any more.
    ///
    /// # Errors
    /// It cannot be read at this time. A group that is damaged, or that the device has refused
    /// [`READ_ATTEMPTS`] times, has been replaced by what could be saved of it.
    fn next_group(&mut self, index: usize, position: u64) -> Result<Option<Group>, Error> {
        let mut repaired = false;
        loop {
            let read = self.open(index).and_then(|()| {
                let Some(open) = &mut self.segments[index].open else {
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
            self.segments[index].used = self.commands;
        }
    }

    /// Notes that the device did not read from this segment. Returns whether that has
    /// happened often enough.
    pub(super) fn refuses(&mut self, index: usize) -> bool {
        let first = self.segments[index].first;
        let attempts = match self.refused {
            Some((known, attempts)) if known == first => attempts + 1,
            _ => 1,
        };
        self.refused = Some((first, attempts));
        attempts >= READ_ATTEMPTS
    }

    /// Has the database opened afresh for the next attempt, in case it was the handle.
    fn reopen(&mut self, index: usize) {
        if self.segments[index].taking.is_some() {
            self.segments[index].seal();
        } else {
            self.segments[index].open = None;
        }
    }

    /// Opens a segment, replacing it by gap records if it is damaged.
    pub(super) fn open(&mut self, index: usize) -> Result<(), Error> {
        self.segments[index].used = self.commands;
        match self.segments[index].open(&*self.engine) {
            Ok(_) => Ok(()),
            Err(Error::Broken(why)) => {
                self.replace(index, &why)?;
                self.segments[index].used = self.commands;
                self.segments[index].open(&*self.engine).map(|_| ())
            }
            Err(Error::Full) => {
                if self.give_up_ballast() && self.segments[index].open(&*self.engine).is_ok() {
                    return Ok(());
                }
                let found = self.segments[index].open(&Salvage);
                found.map(|_| ()).map_err(|_| Error::Full)
            }
            Err(error) => Err(error),
        }
    }

    /// Closes the databases that were not used lately.
    pub(super) fn close_unused(&mut self) {
        let mut readers: Vec<(u64, usize)> = self
            .segments
            .iter()
            .enumerate()
            .filter(|(_, one)| one.open.is_some() && one.taking.is_none())
            .map(|(index, one)| (one.used, index))
            .collect();
        readers.sort_unstable();
        let surplus = readers.len().saturating_sub(OPEN_READERS);
        for (_, index) in readers.into_iter().take(surplus) {
            self.segments[index].close();
        }
    }

    /// Removes groups. Returns whether space came back.
    pub(super) fn delete(&mut self, groups: &[GroupId]) -> bool {
        self.commands += 1;
        let mut ids: Vec<u64> = groups.iter().map(|id| id.0).collect();
        ids.sort_unstable();
        ids.dedup();
        let mut freed = false;
        for index in (0..self.segments.len()).rev() {
            let segment = &mut self.segments[index];
            let begin = ids.partition_point(|id| *id < segment.first);
            let end = ids.partition_point(|id| *id <= segment.last);
            let here = &ids[begin..end.max(begin)];
            if here.is_empty() {
                continue;
            }
            let all = here.len() as u64 >= segment.groups && !segment.compacted;
            // Before it is opened, and perhaps found damaged and replaced.
            segment.gone.extend(here);
            if segment.open.is_none() && all {
                segment.groups = 0;
            } else if let Err(error) = self
                .open(index)
                .and_then(|()| self.segments[index].remove(here, &*self.engine))
            {
                tracing::debug!(%error, "groups are not removed yet");
                self.segments[index].owe(here);
            }
            let segment = &mut self.segments[index];
            segment.used = self.commands;
            if segment.groups == 0 && segment.taking.is_none() {
                self.discard(index);
                freed = true;
            }
        }
        self.close_unused();
        freed
    }
}
