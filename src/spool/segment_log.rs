//! All segments on disk: where groups go, where they are found, and what must be true before
//! one is given up.
//!
//! ```text
//! <spool.path>/
//!   format               "telehub spool 2"
//!   marks                high-water marks of all streams and the next group id
//!   ballast              space for gap records when there is none left (overflow.rs)
//!   gen-<first id>/      segments, oldest first (segment.rs)
//!   gen-….corrupt-TIME   damaged ones, the last three
//! ```
//!
//! Ids grow for ever; they begin at the clock's microseconds and are remembered in `marks`. A
//! segment takes groups only in the run that created it.

use std::collections::{BTreeSet, HashSet};
use std::path::PathBuf;
use std::sync::Arc;

use super::deletions::Deletions;
use super::files::{self, Lock};
use super::fs;
use super::segment::Segment;
use super::space::{self, Limits};
use super::store::Engine;
use super::watermarks::Watermarks;
use super::{Depth, Event, Usage};
use crate::clock::unix_now;
use crate::config;
use crate::reading::Mark;

/// The spool on disk.
pub(super) struct SegmentLog {
    pub(super) path: PathBuf,
    pub(super) limits: Limits,
    pub(super) engine: Box<dyn Engine>,
    /// `Some`: the directory is there, ours, and has been read.
    pub(super) lock: Option<Lock>,
    /// The version of the format that the directory says it is of.
    pub(super) format: Option<u32>,
    pub(super) segments: Vec<Segment>,
    /// Directories that could not be removed yet.
    pub(super) deletions: Deletions,
    pub(super) marks: Watermarks,
    pub(super) next_id: u64,
    /// The next id as the marks file has it.
    pub(super) saved_id: u64,
    /// Bytes of everything in the directory but the segments.
    pub(super) other_bytes: u64,
    /// Bytes that the next commit may take ahead of what it writes: there is room for them.
    pub(super) ahead: u64,
    /// Commands served, for what was used least lately.
    pub(super) commands: u64,
    /// The segment (by its first group) that the device last failed to read from, and how
    /// often in a row.
    pub(super) refused: Option<(u64, u32)>,
    /// Segments (by their first group) of which a sync has failed while they were found.
    pub(super) in_doubt: BTreeSet<u64>,
    /// The last read stopped because the disk could not be read.
    pub(super) unreadable: bool,
    /// The directory could not be used so far.
    pub(super) unusable: bool,
    /// The directory belongs to somebody else, or somebody else may write to it.
    pub(super) foreign: bool,
    /// Watermarks and depth have been told: what is found later is news.
    pub(super) announced: bool,
    /// Devices whose stored batches the broker refuses.
    pub(super) unwanted: HashSet<Arc<str>>,
    /// Devices that shares are kept of.
    pub(super) names: HashSet<Arc<str>>,
    /// What happened beside the answer to a command.
    pub(super) news: Vec<Event>,
}

impl SegmentLog {
    pub(super) fn new(config: &config::Spool, engine: Box<dyn Engine>) -> Self {
        let limits = Limits {
            max_size: config.max_size,
            min_free: config.min_free,
            overflow: config.overflow,
        };
        Self::bare(config.path.clone(), limits, engine)
    }

    /// One that nothing is known of yet.
    pub(super) fn bare(path: PathBuf, limits: Limits, engine: Box<dyn Engine>) -> Self {
        Self {
            path,
            limits,
            engine,
            lock: None,
            format: None,
            segments: Vec::new(),
            deletions: Deletions::default(),
            marks: Watermarks::default(),
            next_id: first_id(),
            saved_id: 0,
            other_bytes: 0,
            ahead: 0,
            commands: 0,
            refused: None,
            in_doubt: BTreeSet::new(),
            unreadable: false,
            announced: false,
            unusable: false,
            unwanted: HashSet::new(),
            foreign: false,
            names: HashSet::new(),
            news: Vec::new(),
        }
    }

    /// What is stored.
    pub(super) fn depth(&self) -> Depth {
        let mut depth = Depth::default();
        for segment in &self.segments {
            depth.groups += segment.groups;
            depth.batches += segment.batches;
            depth.readings += segment.readings;
            depth.replies += segment.replies;
            depth.oldest = match (depth.oldest, segment.oldest) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            };
        }
        depth
    }

    /// Bytes on disk.
    pub(super) fn usage(&self) -> Usage {
        let segments: u64 = self.segments.iter().map(|one| one.disk).sum();
        Usage {
            disk_bytes: segments + self.other_bytes + self.deletions.bytes(),
        }
    }

    /// Whether any database is open.
    pub(super) fn is_open(&self) -> bool {
        self.segments.iter().any(|one| one.open.is_some())
    }

    /// Nothing was asked for a while: gives back what is drained, and closes what is only read.
    /// Returns whether space came back.
    pub(super) fn idle(&mut self) -> bool {
        let mut freed = self.retry_deletions();
        for index in (0..self.segments.len()).rev() {
            let segment = &mut self.segments[index];
            if segment.groups == 0 {
                self.discard(index);
                freed = true;
            } else if segment.taking.is_none() && segment.open.is_some() {
                segment.close();
            }
        }
        freed
    }

    /// Writes the marks file if anything in it has changed.
    pub(super) fn save_marks(&mut self) {
        if !self.marks.changed() && self.next_id <= self.saved_id {
            return;
        }
        match files::replace(&self.path.join("marks"), &self.marks.to_file(self.next_id)) {
            Ok(()) => {
                self.marks.saved();
                self.saved_id = self.next_id;
                self.measure_others();
            }
            // Tried again the next time. If that never works, devices may send again after a
            // restart what is known.
            Err(error) => tracing::debug!(%error, "cannot save the marks"),
        }
    }

    /// Stores these marks, closes everything.
    pub(super) fn stop(&mut self, marks: Vec<Mark>) {
        for mark in marks {
            self.marks.raise(mark);
        }
        if self.marks.changed() {
            match self.attach(true) {
                Ok(()) => self.save_marks(),
                Err(failure) => tracing::debug!(error = failure.error, "cannot save the marks"),
            }
            if self.marks.changed() {
                tracing::warn!("the marks are not saved: devices may send again what is known");
            }
        }
        self.retry_deletions();
        for index in (0..self.segments.len()).rev() {
            let segment = &mut self.segments[index];
            if let Some(open) = &mut segment.open
                && let Err(error) = open.store.sync()
            {
                tracing::debug!(%error, "cannot sync at the end");
            }
            if segment.taking.is_some() {
                self.finish(index);
            }
        }
        self.deletions.carry_out(&self.path);
        self.segments.clear();
        self.deletions.clear();
        self.lock = None;
    }

    /// Gives a segment up: marks that only it knew are saved first.
    pub(super) fn discard(&mut self, index: usize) {
        self.save_marks();
        let mut segment = self.segments.remove(index);
        segment.open = None;
        self.delete_dir(segment.dir, segment.disk, false);
    }

    /// Removes a directory, now or later. `renamed`: its name is that of a segment no more.
    pub(super) fn delete_dir(&mut self, dir: PathBuf, bytes: u64, renamed: bool) {
        self.deletions.add(dir, bytes, renamed);
        self.deletions.carry_out(&self.path);
    }

    /// Whether anything that is drained could not be removed yet: a directory, or groups in a
    /// database that could not be opened.
    pub(super) fn has_deletions_due(&self) -> bool {
        !self.deletions.is_empty()
            || self
                .segments
                .iter()
                .any(|one| !one.deletions_due.is_empty())
    }

    /// Tries that again. Returns whether space came back.
    pub(super) fn retry_deletions(&mut self) -> bool {
        let mut freed = self.deletions.carry_out(&self.path);
        for index in (0..self.segments.len()).rev() {
            if self.segments[index].deletions_due.is_empty() {
                continue;
            }
            if self.segments[index].taking.is_none() {
                // It may have been opened without the engine.
                self.segments[index].open = None;
            }
            let removed = self
                .open(index)
                .and_then(|()| self.segments[index].remove(&[], &*self.engine));
            if let Err(error) = removed {
                tracing::debug!(%error, "groups are still not removed");
                continue;
            }
            let segment = &mut self.segments[index];
            if segment.groups == 0 && segment.taking.is_none() {
                self.discard(index);
                freed = true;
            }
        }
        self.close_unused();
        freed
    }

    /// Looks at the sizes of everything but the segments and what remains of some.
    pub(super) fn measure_others(&mut self) {
        let Ok(names) = fs::names(&self.path) else {
            return;
        };
        self.other_bytes = names
            .iter()
            .filter(|name| space::parse_name(&name.to_string_lossy()).is_none())
            .map(|name| self.path.join(name))
            .filter(|path| !self.deletions.contains(path))
            .map(|path| files::entry_bytes(&path))
            .sum();
    }
}

/// Where ids begin when nothing is known of earlier ones.
pub(super) fn first_id() -> u64 {
    /// Microseconds, so that no run can have used up the ids of the time after it.
    const PER_SECOND: f64 = 1e6;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "not negative, and below 2^63 for 290,000 years"
    )]
    let micros = (unix_now() * PER_SECOND) as u64;
    micros.max(1)
}
