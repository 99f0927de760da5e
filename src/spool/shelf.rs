//! All generations on disk: where groups go, where they are found, and what must be true before
//! one is given up.
//!
//! ```text
//! <spool.path>/
//!   format               "telehub spool 2"
//!   marks                high-water marks of all streams and the next group id
//!   ballast              space for gap records when there is none left (overflow.rs)
//!   gen-<first id>/      generations, oldest first (generation.rs)
//!   gen-….corrupt-TIME   damaged ones, the last three
//! ```
//!
//! Ids grow for ever; they begin at the clock's microseconds and are remembered in `marks`. A
//! generation takes groups only in the run that created it.

use std::collections::{BTreeSet, HashSet};
use std::path::PathBuf;
use std::sync::Arc;

use super::files::{self, Lock};
use super::fs;
use super::generation::Generation;
use super::generations::{self, Limits};
use super::marks::Marks;
use super::remains::Remains;
use super::store::Engine;
use super::{Depth, Event, Usage};
use crate::clock::unix_now;
use crate::config;
use crate::reading::Mark;

/// The spool on disk.
pub(super) struct Shelf {
    pub(super) path: PathBuf,
    pub(super) limits: Limits,
    pub(super) engine: Box<dyn Engine>,
    /// `Some`: the directory is there, ours, and has been read.
    pub(super) lock: Option<Lock>,
    /// The version of the format that the directory says it is of.
    pub(super) format: Option<u32>,
    pub(super) generations: Vec<Generation>,
    /// Directories that could not be removed yet.
    pub(super) remains: Vec<Remains>,
    pub(super) marks: Marks,
    pub(super) next_id: u64,
    /// The next id as the marks file has it.
    pub(super) saved_id: u64,
    /// Bytes of everything in the directory but the generations.
    pub(super) other_bytes: u64,
    /// Bytes that the next commit may take ahead of what it writes: there is room for them.
    pub(super) ahead: u64,
    /// Commands served, for what was used least lately.
    pub(super) commands: u64,
    /// The generation (by its first group) that the device last failed to read from, and how
    /// often in a row.
    pub(super) refused: Option<(u64, u32)>,
    /// Generations (by their first group) of which a sync has failed while they were found.
    pub(super) in_doubt: BTreeSet<u64>,
    /// The last read stopped because the disk could not be read.
    pub(super) unreadable: bool,
    /// The directory could not be used so far.
    pub(super) unusable: bool,
    /// The directory belongs to somebody else, or somebody else may write to it.
    pub(super) foreign: bool,
    /// Marks and depth have been told: what is found later is news.
    pub(super) announced: bool,
    /// Devices whose stored batches the broker refuses.
    pub(super) unwanted: HashSet<Arc<str>>,
    /// Devices that shares are kept of.
    pub(super) names: HashSet<Arc<str>>,
    /// What happened beside the answer to a command.
    pub(super) news: Vec<Event>,
}

impl Shelf {
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
            generations: Vec::new(),
            remains: Vec::new(),
            marks: Marks::default(),
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
        for generation in &self.generations {
            depth.groups += generation.groups;
            depth.batches += generation.batches;
            depth.readings += generation.readings;
            depth.replies += generation.replies;
            depth.oldest = match (depth.oldest, generation.oldest) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            };
        }
        depth
    }

    /// Bytes on disk.
    pub(super) fn usage(&self) -> Usage {
        let generations: u64 = self.generations.iter().map(|one| one.disk).sum();
        Usage {
            disk_bytes: generations + self.other_bytes + self.remaining_bytes(),
        }
    }

    /// Whether any database is open.
    pub(super) fn is_open(&self) -> bool {
        self.generations.iter().any(|one| one.open.is_some())
    }

    /// Nothing was asked for a while: gives back what is drained, and closes what is only read.
    /// Returns whether space came back.
    pub(super) fn idle(&mut self) -> bool {
        let mut freed = self.make_up();
        for index in (0..self.generations.len()).rev() {
            let generation = &mut self.generations[index];
            if generation.groups == 0 {
                self.discard(index);
                freed = true;
            } else if generation.taking.is_none() && generation.open.is_some() {
                generation.close();
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
        self.make_up();
        for index in (0..self.generations.len()).rev() {
            let generation = &mut self.generations[index];
            if let Some(open) = &mut generation.open
                && let Err(error) = open.store.sync()
            {
                tracing::debug!(%error, "cannot sync at the end");
            }
            if generation.taking.is_some() {
                self.finish(index);
            }
        }
        self.bury_remains();
        self.generations.clear();
        self.remains.clear();
        self.lock = None;
    }

    /// Looks at the sizes of everything but the generations and what remains of some.
    pub(super) fn measure_others(&mut self) {
        let Ok(names) = fs::names(&self.path) else {
            return;
        };
        self.other_bytes = names
            .iter()
            .filter(|name| generations::parse_name(&name.to_string_lossy()).is_none())
            .map(|name| self.path.join(name))
            .filter(|path| !self.is_remains(path))
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
