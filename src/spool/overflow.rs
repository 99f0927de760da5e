//! Making room: old data becomes gap records, and those are safe before it goes.

use std::collections::HashSet;
use std::sync::Arc;

use super::codec;
use super::commit::Failure;
use super::fairness::{self, Part};
use super::files;
use super::fs;
use super::segment_log::SegmentLog;
use super::space::{self, Room, SEGMENT_COST, Space};
use super::store::Error;
use super::tally::Tally;
use super::{Event, GroupId};
use crate::clock;
use crate::config::Overflow;
use crate::reading::{Gap, GapReason, Item};

/// A new segment with some groups of gap records.
const BALLAST_BYTES: u64 = 512 * 1024;

/// A spool with a smaller `max_size` has no space to spare for it.
const BALLAST_FROM: u64 = 32 * BALLAST_BYTES;

impl SegmentLog {
    /// The records of what makes way for want of room. What the broker refuses would have gone
    /// out otherwise.
    pub(super) fn gaps_for_room(&self, lost: &Tally) -> Vec<Gap> {
        let reason = |device: &str| match self.unwanted.contains(device) {
            true => GapReason::Refused,
            false => GapReason::Overflow,
        };
        lost.as_gaps_by(reason, clock::now())
    }

    /// Sees to it that items of this weight may be written.
    ///
    /// # Errors
    /// There is no room, and none may be made.
    pub(super) fn make_room(&mut self, bytes: u64) -> Result<(), Failure> {
        // What is older than this call may go; the gap records that it leaves may not, or a
        // spool full of nothing else would be turned over for ever.
        let end = self.next_id;
        let before = self.usage().disk_bytes;
        self.ahead = 0;
        loop {
            let used = self.usage().disk_bytes;
            let space = Space {
                needed: self.estimate(bytes),
                used,
                free: files::free_bytes(&self.path)?,
                freed: before.saturating_sub(used),
                workroom: self.workroom(),
                droppable: self.older_than(end) > 0,
            };
            match space::room(self.limits, space) {
                Room::Enough => {
                    self.ahead = space::ahead(self.limits, space);
                    return Ok(());
                }
                // Copies of damaged data go before any sound data does.
                _ if self.drop_copies() || self.give_back() => {}
                Room::Full(_) if self.lend_ballast() => {}
                Room::Full(error) => return Err(Failure { full: true, error }),
                // Or everything would be dropped for nothing.
                Room::Drop if self.deletions.are_hopeful() => {
                    return Err(Failure {
                        full: false,
                        error: "a drained part of the spool cannot be removed".into(),
                    });
                }
                Room::Drop => self.give_up_some(end)?,
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
            workroom: 0,
            droppable: !self.segments.is_empty(),
        };
        match space::room(self.limits, space) {
            Room::Enough | Room::Drop => Ok(()),
            Room::Full(error) => Err(Failure { full: true, error }),
        }
    }

    /// How many segments began before this id. They are in order.
    fn older_than(&self, end: u64) -> usize {
        self.segments.partition_point(|one| one.first < end)
    }

    /// Room for the segment that is written before others are removed.
    fn workroom(&self) -> u64 {
        match self.limits.overflow {
            Overflow::DropOldest => space::workroom(self.limits.max_size),
            Overflow::Refuse => 0,
        }
    }

    /// Gives back what is drained, and what could not be removed so far, which otherwise waits for
    /// the spool to be idle. Returns whether there was anything.
    pub(super) fn give_back(&mut self) -> bool {
        let freed = self.retry_deletions();
        let before = self.segments.len();
        for index in (0..before).rev() {
            if self.segments[index].groups == 0 {
                self.discard(index);
            }
        }
        freed || self.segments.len() < before
    }

    /// Removes what was set aside earlier. Returns whether there was anything.
    fn drop_copies(&mut self) -> bool {
        let before = self.other_bytes;
        files::prune_copies(&self.path, "gen-", files::CORRUPT, 0);
        self.measure_others();
        self.other_bytes < before
    }

    /// Gives up some of what is in segments that began before `end`: see `fairness`.
    fn give_up_some(&mut self, end: u64) -> Result<(), Failure> {
        if self.segments[0].groups == 0 {
            self.discard(0);
            return Ok(());
        }
        let parts: Vec<Part> = (0..self.older_than(end)).map(|at| self.part(at)).collect();
        let largest = space::segment_bytes(self.limits.max_size);
        let Some(cut) = fairness::cut(&parts, largest, SEGMENT_COST) else {
            return self.drop_whole(0);
        };
        if cut.kept == 0 || !self.has_workroom(cut.kept + cut.rest)? {
            return self.drop_whole(cut.at);
        }
        match self.compact(&cut) {
            // By a quota, say. What is dropped as a whole needs no room but for its records.
            Err(failure) if failure.full => self.drop_whole(cut.at),
            compacted => compacted,
        }
    }

    /// Whether so much may be written before anything is removed.
    fn has_workroom(&self, bytes: u64) -> Result<bool, Failure> {
        let needed = space::size_of(bytes);
        let free = files::free_bytes(&self.path)?;
        Ok(
            self.usage().disk_bytes.saturating_add(needed) <= self.limits.max_size
                && free >= self.limits.min_free.saturating_add(needed),
        )
    }

    /// What is in a segment, by device. Looked up once; what is deleted later is taken off
    /// evenly.
    fn part(&mut self, index: usize) -> Part {
        let segment = &mut self.segments[index];
        if segment.taking.is_none() && segment.shares.is_none() {
            let Some(tally) = segment.tally(&*self.engine) else {
                return Part::default();
            };
            let part = part_of(&tally, &mut self.names);
            segment.shares = Some((segment.groups, part));
        }
        let (put_in, part) = match (&segment.taking, &segment.shares) {
            (Some(tally), _) => (tally.groups, part_of(tally, &mut self.names)),
            (None, Some((groups, part))) => (*groups, part.clone()),
            (None, None) => return Part::default(),
        };
        if segment.groups >= put_in {
            return part;
        }
        let left = |bytes: u64| bytes.saturating_mul(segment.groups) / put_in;
        let shares = part.shares.into_iter();
        Part {
            shares: shares.map(|(id, bytes)| (id, left(bytes))).collect(),
            rest: left(part.rest),
        }
    }

    /// Turns a segment into gap records.
    fn drop_whole(&mut self, index: usize) -> Result<(), Failure> {
        // If it still takes groups, the records go into a new one.
        self.segments[index].seal();
        let segment = &mut self.segments[index];
        let now = clock::now();
        let tally = segment.tally(&*self.engine);
        if tally.is_none() {
            // The next attempt may find out what is in it.
            let broken = matches!(segment.open(&*self.engine), Err(Error::Broken(_)));
            if !broken && !self.refuses(index) {
                return Err(Failure {
                    full: false,
                    error: "what has to make way cannot be read now".into(),
                });
            }
        }
        let known = tally.is_some();
        let tally = tally.unwrap_or_else(|| self.segments[index].salvaged());
        let mut gaps = self.gaps_for_room(&tally);
        if !known || gaps.is_empty() && tally.replies == 0 {
            gaps.push(codec::unknown_gap(now));
        }
        let gaps = self.record(gaps)?;
        let segment = &self.segments[index];
        let (from, upto) = (GroupId(segment.first), GroupId(segment.last));
        let (batches, readings) = (tally.batches(), tally.readings());
        self.discard(index);
        self.news.push(Event::Dropped {
            from,
            upto,
            batches,
            readings,
            replies: tally.replies,
            gaps,
        });
        Ok(())
    }

    /// Stores gap records. Returns how many.
    ///
    /// # Errors
    /// The engine's. A full disk only when the reserve is used up.
    pub(super) fn record(&mut self, gaps: Vec<Gap>) -> Result<u64, Error> {
        let items: Vec<_> = gaps
            .into_iter()
            .map(|gap| Arc::new(Item::Gap(gap)))
            .collect();
        if items.is_empty() {
            return Ok(0);
        }
        match self.write(&items, &[]) {
            Err(Error::Full) if self.give_up_ballast() => self.write(&items, &[])?,
            written => written?,
        };
        Ok(items.len() as u64)
    }

    /// Reserves the space in which gap records can be stored when there is none left, so that
    /// old data can make way. Best effort; costs no writing, only blocks.
    pub(super) fn take_ballast(&mut self) {
        let path = self.path.join(files::BALLAST);
        if self.limits.max_size < BALLAST_FROM || fs::exists(&path) {
            return;
        }
        if let Err(error) = fs::reserve(&path, BALLAST_BYTES) {
            tracing::debug!(%error, "no space set aside for gap records");
            let _ = files::remove(&path);
        }
        self.measure_others();
    }

    /// Frees the reserved space when nothing is stored: an empty spool must not be full of it.
    /// Returns whether there was any.
    pub(super) fn lend_ballast(&mut self) -> bool {
        self.segments.is_empty() && self.give_up_ballast()
    }

    /// Frees the reserved space. Returns whether there was any.
    pub(super) fn give_up_ballast(&mut self) -> bool {
        let given = files::remove(&self.path.join(files::BALLAST))
            // The blocks are free once this is on disk.
            .and_then(|()| files::sync_dir(&self.path));
        self.measure_others();
        given.is_ok()
    }
}

/// What each device has in this tally. Names are shared by all segments: there may be 256 of
/// them, with a thousand devices in each.
fn part_of(tally: &Tally, names: &mut HashSet<Arc<str>>) -> Part {
    let mut part = Part {
        shares: Vec::new(),
        rest: (tally.gaps.len() * Item::OVERHEAD) as u64 + tally.reply_bytes,
    };
    let mut lines: Vec<(&Arc<str>, u64)> = tally
        .lines
        .iter()
        .map(|line| (&line.device, line.bytes))
        .collect();
    lines.sort_unstable();
    for (device, bytes) in lines {
        match part.shares.last_mut() {
            Some((last, sum)) if last == device => *sum += bytes,
            _ => {
                let name = names.get(device).cloned().unwrap_or_else(|| {
                    names.insert(device.clone());
                    device.clone()
                });
                part.shares.push((name, bytes));
            }
        }
    }
    part
}
