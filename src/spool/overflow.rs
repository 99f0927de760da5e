//! Making room: the oldest generation becomes gap records, and those are safe before it goes.

use std::sync::Arc;

use super::attach::CORRUPT;
use super::codec;
use super::commit::Failure;
use super::files;
use super::fs;
use super::generations::{self, Room, Space};
use super::shelf::Shelf;
use super::store::Error;
use super::{Event, GroupId};
use crate::clock;
use crate::reading::{GapReason, Item};

/// The file that holds the reserved space.
pub(super) const BALLAST: &str = "ballast";

/// A new generation with some groups of gap records.
const BALLAST_BYTES: u64 = 512 * 1024;

/// A spool with a smaller `max_size` has no space to spare for it.
const BALLAST_FROM: u64 = 32 * BALLAST_BYTES;

impl Shelf {
    /// Sees to it that items of this weight may be written.
    ///
    /// # Errors
    /// There is no room, and none may be made.
    pub(super) fn make_room(&mut self, bytes: u64) -> Result<(), Failure> {
        // What is older than this call may go; the gap records that it leaves may not, or a
        // spool full of nothing else would be turned over for ever.
        let end = self.next_id;
        let before = self.usage().disk_bytes;
        loop {
            let used = self.usage().disk_bytes;
            let space = Space {
                needed: self.estimate(bytes),
                used,
                free: files::free_bytes(&self.path)?,
                freed: before.saturating_sub(used),
                droppable: self.generations.first().is_some_and(|one| one.first < end),
            };
            match generations::room(self.limits, space) {
                Room::Enough => return Ok(()),
                // Copies of damaged data go before any sound data does.
                _ if self.drop_copies() || self.give_back() => {}
                Room::Full(error) => return Err(Failure { full: true, error }),
                Room::DropOldest => self.drop_oldest()?,
            }
        }
    }

    /// Whether items of this weight could be written, if necessary for the oldest data.
    ///
    /// # Errors
    /// There is no room, and none may be made.
    pub(super) fn room_for(&self, bytes: u64) -> Result<(), Failure> {
        let space = Space {
            needed: self.estimate(bytes),
            used: self.usage().disk_bytes,
            free: files::free_bytes(&self.path)?,
            freed: 0,
            droppable: !self.generations.is_empty(),
        };
        match generations::room(self.limits, space) {
            Room::Enough | Room::DropOldest => Ok(()),
            Room::Full(error) => Err(Failure { full: true, error }),
        }
    }

    /// Gives back what is drained, which otherwise waits for the spool to be idle. Returns whether
    /// there was anything.
    pub(super) fn give_back(&mut self) -> bool {
        let before = self.generations.len();
        for index in (0..before).rev() {
            if self.generations[index].groups == 0 {
                self.discard(index);
            }
        }
        self.generations.len() < before
    }

    /// Removes what was set aside earlier. Returns whether there was anything.
    fn drop_copies(&mut self) -> bool {
        let before = self.other_bytes;
        files::prune_copies(&self.path, "gen-", CORRUPT, 0);
        self.measure_others();
        self.other_bytes < before
    }

    fn drop_oldest(&mut self) -> Result<(), Failure> {
        if self.generations[0].groups == 0 {
            self.discard(0);
            return Ok(());
        }
        // If it still takes groups, the records go into a new one.
        self.generations[0].seal();
        let oldest = &mut self.generations[0];
        let now = clock::now();
        let tally = oldest.tally(&*self.engine);
        let mut gaps = tally
            .as_ref()
            .map(|tally| tally.as_gaps(GapReason::Overflow, now))
            .unwrap_or_default();
        if gaps.is_empty() {
            gaps.push(codec::unknown_gap(now));
        }
        let tally = tally.unwrap_or_default();
        let items: Vec<_> = gaps
            .into_iter()
            .map(|gap| Arc::new(Item::Gap(gap)))
            .collect();
        match self.write(&items, &[]) {
            Err(Error::Full) if self.give_up_ballast() => self.write(&items, &[])?,
            written => written?,
        };
        let upto = GroupId(self.generations[0].last);
        let (batches, readings) = (tally.batches(), tally.readings());
        self.discard(0);
        tracing::error!(
            batches,
            readings,
            gaps = items.len(),
            "the spool is full: the oldest data was dropped"
        );
        self.news.push(Event::Dropped {
            upto,
            batches,
            readings,
            gaps: items.len() as u64,
        });
        Ok(())
    }

    /// Reserves the space in which gap records can be stored when there is none left, so that
    /// old data can make way. Best effort; costs no writing, only blocks.
    pub(super) fn take_ballast(&mut self) {
        let path = self.path.join(BALLAST);
        if self.limits.max_size < BALLAST_FROM || fs::exists(&path) {
            return;
        }
        if let Err(error) = fs::reserve(&path, BALLAST_BYTES) {
            tracing::debug!(%error, "no space set aside for gap records");
            let _ = files::remove(&path);
        }
        self.measure_others();
    }

    /// Frees the reserved space. Returns whether there was any.
    pub(super) fn give_up_ballast(&mut self) -> bool {
        let given = files::remove(&self.path.join(BALLAST))
            // The blocks are free once this is on disk.
            .and_then(|()| files::sync_dir(&self.path));
        self.measure_others();
        given.is_ok()
    }
}
