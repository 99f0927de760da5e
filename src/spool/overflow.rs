//! Making room: the oldest generation becomes gap records, and those are safe before it goes.

use std::sync::Arc;

use super::codec;
use super::files;
use super::generations::{self, Room};
use super::shelf::{Failure, Shelf};
use super::{Event, GroupId};
use crate::clock::unix_now;
use crate::reading::{GapReason, Item};

impl Shelf {
    /// Sees to it that items of this weight may be written.
    ///
    /// # Errors
    /// There is no room, and none may be made.
    pub(super) fn make_room(&mut self, bytes: u64) -> Result<(), Failure> {
        // What is older than this call may go; the gap records that it leaves may not, or a
        // spool full of nothing else would be turned over for ever.
        let end = self.next_id;
        loop {
            let free = files::free_bytes(&self.path)?;
            let droppable = self.generations.first().is_some_and(|one| one.first < end);
            match generations::room(
                self.limits,
                self.estimate(bytes),
                self.usage().disk_bytes,
                free,
                droppable,
            ) {
                Room::Enough => return Ok(()),
                Room::Full(error) => return Err(Failure { full: true, error }),
                Room::DropOldest => self.drop_oldest()?,
            }
        }
    }

    fn drop_oldest(&mut self) -> Result<(), Failure> {
        if self.generations[0].groups == 0 {
            self.discard(0);
            return Ok(());
        }
        // If it still takes groups, the records go into a new one.
        self.generations[0].seal();
        let oldest = &mut self.generations[0];
        let now = unix_now();
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
        self.write(&items, &[])?;
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
}
