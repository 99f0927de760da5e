//! A damaged segment: what can be saved of it, and the records of the rest.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Event;
use super::codec;
use super::files;
use super::fs;
use super::segment::Segment;
use super::segment_log::SegmentLog;
use super::store::Error;
use super::tally::Tally;
use crate::clock;
use crate::reading::{Gap, GapReason, Item};

impl SegmentLog {
    /// Sets a damaged segment aside. Another takes its place, with every group that could be
    /// saved under its old id, and one group of gap records, under an id that is free, for what
    /// could not: whoever reads in order comes across both.
    ///
    /// # Errors
    /// The replacement cannot be stored now; everything stays as it is.
    pub(super) fn replace(&mut self, index: usize, why: &str) -> Result<(), Error> {
        let now = clock::now();
        let segment = &mut self.segments[index];
        segment.open = None;
        let known = segment.put_in();
        segment.taking = None;
        let (first, dir) = (segment.first, segment.dir.clone());
        let mut groups = segment.salvage();
        groups.retain(|id, _| segment.counts(*id));
        let mut removed = self.read_what_is_left(index, &mut groups);
        // In case that could not be written down, or not be read.
        removed.extend(&self.segments[index].gone);

        let (mut found, mut sound) = (Tally::default(), Tally::default());
        for bytes in groups.values() {
            if let Ok(header) = codec::header(bytes) {
                found.add(&header.tally);
                if header.damage().is_none() {
                    sound.add(&header.tally);
                }
            }
        }
        let segment = &self.segments[index];
        let there = |id: &u64| groups.contains_key(id) || removed.contains(id);
        let gaps = match &known {
            // What cannot be found was deleted.
            Some(known) if (first..=known.last).all(|id| there(&id)) => Vec::new(),
            Some(known) => known.lacking(&found, GapReason::Corrupt, now),
            None if segment.nothing_acknowledged() => Vec::new(),
            None if groups.is_empty() || (groups.len() as u64) < segment.expected => {
                vec![codec::unknown_gap(now)]
            }
            None => Vec::new(),
        };
        let replies = match &known {
            Some(known) if (first..=known.last).all(|id| there(&id)) => 0,
            // What was found may have been counted in after the last summary was written.
            Some(known) if known.replies > found.replies => known.replies - found.replies,
            _ => 0,
        };
        // The id for the records: one that no group has had, behind all of them, which every
        // segment keeps for this. Of any other, the end may be on its way already. Spools of
        // before have none to spare.
        let newest = groups.keys().chain(&removed).max().copied();
        let newest = newest.max(known.as_ref().map(|known| known.last));
        let end = newest.map_or(first, |id| id.saturating_add(1));
        let bound = segment.bound;
        let free = (first..=bound.min(end)).rev().find(|id| !there(id));
        let id = free.unwrap_or(bound);
        groups.retain(|id, _| !removed.contains(id));
        let saved = groups.len();
        if !gaps.is_empty() {
            let items: Vec<_> = gaps.iter().cloned().map(Item::Gap).map(Arc::new).collect();
            let marks: Vec<_> = known.iter().flat_map(Tally::implied_marks).collect();
            groups.insert(id, codec::encode(id, &items, &marks).bytes);
        }
        for mark in known.iter().flat_map(Tally::implied_marks) {
            self.marks.raise(mark);
        }
        let (copy, put_in) = self.build(&dir, &groups)?;
        for mark in sound.implied_marks() {
            self.marks.raise(mark);
        }
        self.in_doubt.remove(&first);
        report(why, saved, &gaps, &copy);
        if replies > 0 {
            self.news.push(Event::RepliesLost { replies });
        }
        self.segments[index] = Segment::sealed(first, bound, dir, &put_in);
        self.next_id = self.next_id.max(self.segments[index].last + 1);
        self.measure_others();
        Ok(())
    }

    /// Groups that the engine can still read and the search did not find whole. Returns the ids
    /// that were removed, as far as they are known.
    fn read_what_is_left(
        &self,
        index: usize,
        groups: &mut BTreeMap<u64, Vec<u8>>,
    ) -> BTreeSet<u64> {
        let segment = &self.segments[index];
        let Ok(mut store) = self.engine.open(&segment.dir) else {
            return BTreeSet::new();
        };
        let Ok(ids) = store.ids() else {
            return BTreeSet::new();
        };
        for id in ids.present.into_iter().filter(|id| segment.counts(*id)) {
            let whole =
                |bytes: &[u8]| codec::header(bytes).is_ok_and(|header| header.damage().is_none());
            if groups.get(&id).is_some_and(|bytes| whole(bytes)) {
                continue;
            }
            if let Ok(bytes) = store.read(id)
                && whole(&bytes)
            {
                groups.insert(id, bytes);
            }
        }
        ids.removed
    }

    /// Makes a segment of these groups beside the damaged one, then puts it in its place. Returns
    /// where the damaged one is now, and what is in the new one.
    fn build(
        &self,
        dir: &Path,
        groups: &BTreeMap<u64, Vec<u8>>,
    ) -> Result<(PathBuf, Tally), Error> {
        let new = dir.with_extension("new");
        if fs::exists(&new) {
            files::remove(&new)?;
        }
        let mut store = self.engine.create(&new)?;
        let mut tally = Tally::default();
        for (id, bytes) in groups {
            store.append(*id, bytes)?;
            if let Ok(header) = codec::header(bytes) {
                tally.add(&header.tally);
            }
        }
        store.sync()?;
        drop(store);
        Segment::write_summary(&new, &tally)?;
        let copy = swap(dir, &new)?;
        if let Err(error) = files::sync_dir(&self.path) {
            tracing::warn!(%error, "cannot sync the spool's directory");
        }
        files::prune_copies(&self.path, "gen-", files::CORRUPT, files::KEPT_COPIES);
        Ok((copy, tally))
    }
}

/// Puts the new segment in the place of the damaged one, which is set aside. Returns where. A
/// power cut may undo it or leave it half done, until the directory is synced: then the next start
/// finds the damaged one again, or takes the new one.
fn swap(dir: &Path, new: &Path) -> std::io::Result<PathBuf> {
    let copy = files::name_aside(dir, files::CORRUPT);
    // An earlier attempt may have come that far.
    let there = fs::exists(dir);
    if there {
        fs::rename(dir, &copy)?;
    }
    if let Err(error) = fs::rename(new, dir) {
        if there {
            fs::rename(&copy, dir)?;
        }
        return Err(error);
    }
    Ok(copy)
}

fn report(why: &str, saved: usize, gaps: &[Gap], copy: &Path) {
    let copy = copy.display();
    if gaps.is_empty() {
        tracing::warn!(error = why, saved, %copy, "a part of the spool was damaged: set aside, every group saved");
    } else {
        let batches: u64 = gaps.iter().map(|gap| gap.batches).sum();
        tracing::error!(
            error = why, saved, batches, gaps = gaps.len(), %copy,
            "a part of the spool is damaged: set aside, gap records take the place of what is lost"
        );
    }
}
