//! Segments without the batches of some devices.
//!
//! Crash-safe in this order: the new segment is complete and synced beside the old ones (`.new`,
//! which a start clears up as long as the old one is there); the gap records are stored; the old
//! one goes aside (`.dead`), from which moment on a start puts the new one in its place; then the
//! others go whose groups it has as well. Whichever of those a power cut leaves behind is known by
//! its first group, which is within the range of the segment before it.
//!
//! A power cut between the gap records and the change reports batches as dropped that are still
//! there, and go out after all. Nothing is ever dropped without its record.

use std::collections::HashSet;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::codec;
use super::commit::Failure;
use super::fairness::Cut;
use super::files;
use super::fs;
use super::segment::Segment;
use super::segment_log::SegmentLog;
use super::store::{Error, Store};
use super::tally::Tally;
use super::{Compacted, Event, GroupId};
use crate::clock;
use crate::reading::Item;

/// The outcome of copying.
#[derive(Debug, Default)]
struct Copied {
    /// What the new segment holds.
    kept: Tally,
    /// What was left out.
    lost: Tally,
    /// Where that was.
    compacted: Vec<Compacted>,
}

impl SegmentLog {
    /// Rewrites segments without the batches of the victims. Gap records say what went.
    ///
    /// # Errors
    /// Nothing has changed, but for gap records that may be stored already.
    pub(super) fn compact(&mut self, cut: &Cut) -> Result<(), Failure> {
        // What only deleted groups knew goes with them.
        self.save_marks();
        let dir = self.segments[cut.run.start].dir.clone();
        let new = dir.with_extension("new");
        let copied = self.copy_without(cut, &new).and_then(|copied| {
            let gaps = self.gaps_for_room(&copied.lost);
            self.record(gaps).map(|gaps| (copied, gaps))
        });
        let swapped = copied.and_then(|(copied, gaps)| {
            self.swap(cut.run.clone(), &new, &copied.kept)?;
            Ok((copied, gaps))
        });
        let (copied, gaps) = match swapped {
            Ok(done) => done,
            Err(error) => {
                // Not when it has become the only copy.
                if fs::exists(&dir) {
                    let _ = files::remove(&new);
                }
                return Err(error.into());
            }
        };
        let (batches, readings) = (copied.lost.batches(), copied.lost.readings());
        tracing::debug!(
            batches,
            readings,
            written = cut.kept,
            "segments compacted: the devices with the largest share lose their oldest"
        );
        self.news.push(Event::Compacted {
            groups: copied.compacted,
            batches,
            readings,
            gaps,
        });
        Ok(())
    }

    /// Makes the new segment in `new`, durably.
    fn copy_without(&mut self, cut: &Cut, new: &Path) -> Result<Copied, Error> {
        let mut last = 0;
        for index in cut.run.clone() {
            if self.segments[index].taking.is_some() {
                self.segments[index].seal();
            }
            self.open(index)?;
            last = self.segments[index].last;
        }
        if fs::exists(new) {
            files::remove(new)?;
        }
        let mut store = self.engine.create(new)?;
        let mut copied = Copied::default();
        for index in cut.run.clone() {
            let Some(open) = &mut self.segments[index].open else {
                return Err(Error::Busy("a database was closed meanwhile".into()));
            };
            for id in open.live.iter().copied() {
                let bytes = open.store.read(id)?;
                copied.group(id, bytes, &cut.victims, &mut *store)?;
            }
        }
        store.sync()?;
        drop(store);
        // Of all that it stands for, whether any of the last groups is kept or not.
        copied.kept.last = last;
        Segment::write_summary(new, &copied.kept)?;
        Ok(copied)
    }

    /// Puts the new segment in the place of old ones.
    fn swap(&mut self, run: Range<usize>, new: &Path, kept: &Tally) -> Result<(), Error> {
        for segment in &mut self.segments[run.clone()] {
            segment.open = None;
        }
        let dead = |dir: &Path| dir.with_extension("dead");
        let (first, dir) = {
            let oldest = &self.segments[run.start];
            (oldest.first, oldest.dir.clone())
        };
        let aside = files::rename(&dir, &dead(&dir));
        if let Err(error) = aside.and_then(|()| fs::rename(new, &dir)) {
            if !fs::exists(&dir) {
                fs::rename(&dead(&dir), &dir)?;
            }
            return Err(error.into());
        }
        // From here on it has happened. Without this sync a power cut may undo it, which loses
        // nothing.
        if let Err(error) = files::sync_dir(&self.path) {
            tracing::warn!(%error, "cannot sync the spool's directory");
        }
        let bound = self.segments[run.end - 1].bound;
        let mut segment = Segment::sealed(first, bound, dir, kept);
        segment.compacted = true;
        segment.used = self.commands;
        let old: Vec<(PathBuf, u64)> = self
            .segments
            .splice(run, [segment])
            .map(|one| (one.dir, one.disk))
            .collect();
        for (at, (dir, bytes)) in old.into_iter().enumerate() {
            let first = at == 0;
            let dir = if first { dead(&dir) } else { dir };
            self.delete_dir(dir, bytes, first);
        }
        Ok(())
    }
}

impl Copied {
    /// Copies a group as far as it stays.
    fn group(
        &mut self,
        id: u64,
        bytes: Vec<u8>,
        victims: &HashSet<Arc<str>>,
        store: &mut dyn Store,
    ) -> Result<(), Error> {
        let Ok(header) = codec::header(&bytes) else {
            // Damaged: whoever reads it makes a record of it.
            self.kept.groups += 1;
            self.kept.gaps.push(codec::unknown_gap(clock::now()));
            return store.append(id, &bytes);
        };
        let concerned = header
            .tally
            .lines
            .iter()
            .any(|line| victims.contains(&line.device));
        let items = match header.items() {
            Ok(items) if concerned => items,
            _ => {
                self.kept.add(&header.tally);
                return store.append(id, &bytes);
            }
        };
        let mut kept = Vec::new();
        let mut gone = Vec::new();
        for (position, item) in (0..).zip(items) {
            match &*item {
                Item::Batch(batch) if victims.contains(&batch.device) => {
                    self.lost.add_batch(batch);
                    gone.push(position);
                }
                _ => kept.push(item),
            }
        }
        if !kept.is_empty() {
            let encoded = codec::encode(id, &kept, &header.tally.marks);
            store.append(id, &encoded.bytes)?;
            self.kept.add(&encoded.tally);
        }
        self.compacted.push(Compacted {
            group: GroupId(id),
            gone,
        });
        Ok(())
    }
}
