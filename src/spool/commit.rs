//! Commits: where new groups go, and what is left when one fails.

use std::sync::Arc;

use super::codec;
use super::files;
use super::fs;
use super::segment::Segment;
use super::segment_log::SegmentLog;
use super::space::{self, SEGMENT_COST};
use super::store::Error;
use super::tally::Tally;
use super::{GroupId, Loc};
use crate::reading::{GapReason, Item, Mark};

/// A failed commit.
#[derive(Debug)]
pub(super) struct Failure {
    /// No room, as opposed to broken.
    pub(super) full: bool,
    /// One sentence.
    pub(super) error: String,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self {
            full: matches!(error, Error::Full),
            error: error.to_string(),
        }
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Error::from(error).into()
    }
}

impl SegmentLog {
    /// Stores items and marks; both are durable when this returns.
    ///
    /// # Errors
    /// Nothing of it counts then.
    pub(super) fn commit(
        &mut self,
        items: &[Arc<Item>],
        marks: &[Mark],
    ) -> Result<Vec<Loc>, Failure> {
        self.commands += 1;
        self.attach(true)?;
        if items.is_empty() {
            // Never asked for; the marks alone have a file of their own.
            for mark in marks {
                self.marks.raise(mark.clone());
            }
            self.save_marks();
            return Ok(Vec::new());
        }
        let is_more = |item: &Arc<Item>| match &**item {
            Item::Reply(_) => true,
            Item::Gap(gap) => gap.reason == GapReason::Reduced,
            Item::Batch(_) => false,
        };
        if items.iter().any(is_more) || self.depth().replies > 0 {
            self.expect_more()?;
        }
        let bytes: usize = items.iter().map(|item| item.weight()).sum();
        self.make_room(bytes as u64)?;
        let placed = self.write(items, marks)?;
        if self
            .taking()
            .is_some_and(|index| self.segments[index].expected <= placed.len() as u64)
        {
            // A segment has just begun, so this is not asked for with every commit.
            self.take_ballast();
        }
        for mark in marks {
            self.marks.raise(mark.clone());
        }
        Ok(placed)
    }

    /// Whether a small commit would go through now, found out without giving anything up for it.
    pub(super) fn probe(&mut self) -> bool {
        if self.attach(true).is_err() {
            return false;
        }
        // Under `refuse` nobody else would: no commit comes while the spool counts as full.
        if self.room_for(space::GROUP_BYTES as u64).is_err() && !self.give_back() {
            self.lend_ballast();
        }
        self.may_write().is_ok()
    }

    fn may_write(&self) -> Result<(), Failure> {
        self.room_for(space::GROUP_BYTES as u64)?;
        // Its name ends like that of whatever a crash has left behind, which is cleared up.
        let path = self.path.join("probe.tmp");
        fs::write_synced(&path, &[0; 4096])?;
        files::remove(&path)?;
        Ok(())
    }

    /// Appends groups and syncs. After a failure the databases that were written are closed, and
    /// what may have reached them is annulled: what was in doubt is never built on.
    pub(super) fn write(&mut self, items: &[Arc<Item>], marks: &[Mark]) -> Result<Vec<Loc>, Error> {
        let begin = self.next_id;
        let from = self.taking().unwrap_or(self.segments.len());
        let ahead = self.ahead;
        let written = self.append(items, marks);
        let synced = written.and_then(|(placed, tallies)| {
            for segment in &mut self.segments[from..] {
                if let Some(open) = &mut segment.open {
                    open.store.take_ahead(ahead);
                    open.store.sync()?;
                }
            }
            for (at, (index, tally)) in tallies.iter().enumerate() {
                let next = tallies.get(at + 1).map(|(next, _)| next);
                if next != Some(index) {
                    self.segments[*index].note_reached(tally.last)?;
                }
            }
            Ok((placed, tallies))
        });
        match synced {
            Ok((placed, tallies)) => {
                for (index, tally) in tallies {
                    for mark in tally.implied_marks() {
                        self.marks.raise(mark);
                    }
                    self.segments[index].reach(&tally);
                }
                let newest = self.segments.len() - 1;
                for index in (from..newest).rev() {
                    self.finish(index);
                }
                if let Some(newest) = self.segments.last_mut() {
                    newest.measure();
                }
                self.close_unused();
                Ok(placed)
            }
            Err(error) => {
                for index in (from..self.segments.len()).rev() {
                    let segment = &mut self.segments[index];
                    segment.annul(begin..=self.next_id);
                    segment.open = None;
                    self.finish(index);
                }
                // Never given to another group, not even after the clock went back.
                self.next_id += 1;
                Err(error)
            }
        }
    }

    /// The segment that takes groups, if there is one.
    pub(super) fn taking(&self) -> Option<usize> {
        let last = self.segments.len().checked_sub(1)?;
        self.segments[last].taking.is_some().then_some(last)
    }

    #[expect(clippy::type_complexity, reason = "places, and one tally per group")]
    fn append(
        &mut self,
        items: &[Arc<Item>],
        mut marks: &[Mark],
    ) -> Result<(Vec<Loc>, Vec<(usize, Tally)>), Error> {
        let limit = space::segment_bytes(self.limits.max_size);
        let mut placed = Vec::with_capacity(items.len());
        let mut tallies = Vec::new();
        let mut rest = items;
        for count in space::split(items.iter().map(|item| item.weight())) {
            let (group, after) = rest.split_at(count);
            rest = after;
            let index = match self.taking() {
                Some(index) if self.segments[index].bytes < limit => index,
                taking => {
                    // What the new one holds may become durable at any time. It must not be found
                    // after a power cut without the groups before it: its marks cover them.
                    if let Some(index) = taking
                        && !placed.is_empty()
                        && let Some(open) = &mut self.segments[index].open
                    {
                        open.store.sync()?;
                    }
                    if let Some(before) = self.segments.last_mut() {
                        // One is left out, for the records of what may get lost in that one.
                        before.bound = before.bound.min(self.next_id);
                        self.next_id += 1;
                    }
                    let dir = self.path.join(space::name(self.next_id));
                    let new = Segment::create(dir, self.next_id, &*self.engine)?;
                    self.segments.push(new);
                    self.segments.len() - 1
                }
            };
            let id = self.next_id;
            self.next_id += 1;
            let encoded = codec::encode(id, group, marks);
            marks = &[];
            let segment = &mut self.segments[index];
            segment.used = self.commands;
            let open = segment
                .open
                .as_mut()
                .expect("one that takes groups is open");
            open.store.append(id, &encoded.bytes)?;
            open.live.insert(id);
            segment.groups += 1;
            segment.last = id;
            segment.bytes += encoded.bytes.len() as u64;
            placed.extend((0..count).map(|index| Loc {
                group: GroupId(id),
                index: u32::try_from(index).expect("a group is small"),
            }));
            tallies.push((index, encoded.tally));
        }
        Ok((placed, tallies))
    }

    /// A segment takes no more groups: it is dropped if nothing is left in it, else sealed.
    pub(super) fn finish(&mut self, index: usize) {
        if self.segments[index].groups == 0 {
            self.discard(index);
        } else {
            self.segments[index].seal();
        }
    }

    /// Bytes that a commit of items of this weight may take on disk.
    pub(super) fn estimate(&self, bytes: u64) -> u64 {
        let limit = space::segment_bytes(self.limits.max_size);
        let room = self
            .taking()
            .map_or(0, |index| limit.saturating_sub(self.segments[index].bytes));
        let new_segments = if bytes > room {
            1 + (bytes - room) / limit
        } else {
            0
        };
        bytes + bytes / 8 + new_segments * SEGMENT_COST
    }
}
