//! All generations on disk: where groups go, where they are found, and what must be true before
//! one is given up.
//!
//! ```text
//! <spool.path>/
//!   format               "telehub spool 1"
//!   marks                high-water marks of all streams and the next group id
//!   ballast              space for gap records when there is none left (overflow.rs)
//!   gen-<first id>/      generations, oldest first (generation.rs)
//!   gen-….corrupt-TIME   damaged ones, the last three
//! ```
//!
//! Ids grow for ever; they begin at the clock's microseconds and are remembered in `marks`. A
//! generation takes groups only in the run that created it.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use super::codec;
use super::files::{self, Lock};
use super::generation::Generation;
use super::generations::{self, GENERATION_COST, Limits};
use super::marks::Marks;
use super::salvage::Salvage;
use super::store::{Engine, Error};
use super::tally::Tally;
use super::{Depth, Event, Group, GroupId, Loc, Usage};
use crate::clock::unix_now;
use crate::config;
use crate::reading::{Item, Mark};

/// Databases open at a time beside those that take groups: the oldest, which is drained, and the
/// one that the drain has reached.
const OPEN_READERS: usize = 2;

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

/// The spool on disk.
pub(super) struct Shelf {
    pub(super) path: PathBuf,
    pub(super) limits: Limits,
    pub(super) engine: Box<dyn Engine>,
    /// `Some`: the directory is there, ours, and has been read.
    pub(super) lock: Option<Lock>,
    pub(super) generations: Vec<Generation>,
    pub(super) marks: Marks,
    pub(super) next_id: u64,
    /// The next id as the marks file has it.
    pub(super) saved_id: u64,
    /// Bytes of everything in the directory but the generations.
    pub(super) other_bytes: u64,
    commands: u64,
    /// The last read stopped because the disk could not be read.
    pub(super) unreadable: bool,
    /// What happened beside the answer to a command.
    pub(super) news: Vec<Event>,
}

impl Shelf {
    pub(super) fn new(config: &config::Spool, engine: Box<dyn Engine>) -> Self {
        Self {
            path: config.path.clone(),
            limits: Limits {
                max_size: config.max_size,
                min_free: config.min_free,
                overflow: config.overflow,
            },
            engine,
            lock: None,
            generations: Vec::new(),
            marks: Marks::default(),
            next_id: first_id(),
            saved_id: 0,
            other_bytes: 0,
            commands: 0,
            unreadable: false,
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
            disk_bytes: generations + self.other_bytes,
        }
    }

    /// Whether any database is open.
    pub(super) fn is_open(&self) -> bool {
        self.generations.iter().any(|one| one.open.is_some())
    }

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
        let bytes: usize = items.iter().map(|item| item.weight()).sum();
        self.make_room(bytes as u64)?;
        let placed = self.write(items, marks)?;
        if self
            .taking()
            .is_some_and(|index| self.generations[index].expected <= placed.len() as u64)
        {
            // A generation has just begun, so this is not asked for with every commit.
            self.take_ballast();
        }
        for mark in marks {
            self.marks.raise(mark.clone());
        }
        Ok(placed)
    }

    /// Appends groups and syncs. After a failure the databases that were written are closed, and
    /// what may have reached them is annulled: what was in doubt is never built on.
    pub(super) fn write(&mut self, items: &[Arc<Item>], marks: &[Mark]) -> Result<Vec<Loc>, Error> {
        let begin = self.next_id;
        let from = self.taking().unwrap_or(self.generations.len());
        let written = self.append(items, marks);
        let synced = written.and_then(|(placed, tallies)| {
            for generation in &mut self.generations[from..] {
                if let Some(open) = &mut generation.open {
                    open.store.sync()?;
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
                    self.generations[index].reach(&tally);
                }
                let newest = self.generations.len() - 1;
                for index in (from..newest).rev() {
                    self.finish(index);
                }
                if let Some(newest) = self.generations.last_mut() {
                    newest.measure();
                }
                self.close_unused();
                Ok(placed)
            }
            Err(error) => {
                for index in (from..self.generations.len()).rev() {
                    let generation = &mut self.generations[index];
                    generation.annul(begin..=self.next_id);
                    generation.open = None;
                    self.finish(index);
                }
                // Never given to another group, not even after the clock went back.
                self.next_id += 1;
                Err(error)
            }
        }
    }

    /// The generation that takes groups, if there is one.
    fn taking(&self) -> Option<usize> {
        let last = self.generations.len().checked_sub(1)?;
        self.generations[last].taking.is_some().then_some(last)
    }

    #[expect(clippy::type_complexity, reason = "places, and one tally per group")]
    fn append(
        &mut self,
        items: &[Arc<Item>],
        mut marks: &[Mark],
    ) -> Result<(Vec<Loc>, Vec<(usize, Tally)>), Error> {
        let limit = generations::generation_bytes(self.limits.max_size);
        let mut placed = Vec::with_capacity(items.len());
        let mut tallies = Vec::new();
        let mut rest = items;
        for count in generations::split(items.iter().map(|item| item.weight())) {
            let (group, after) = rest.split_at(count);
            rest = after;
            let index = match self.taking() {
                Some(index) if self.generations[index].bytes < limit => index,
                _ => {
                    let dir = self.path.join(generations::name(self.next_id));
                    let new = Generation::create(dir, self.next_id, &*self.engine)?;
                    self.generations.push(new);
                    self.generations.len() - 1
                }
            };
            let id = self.next_id;
            self.next_id += 1;
            let encoded = codec::encode(id, group, marks);
            marks = &[];
            let generation = &mut self.generations[index];
            generation.used = self.commands;
            let open = generation
                .open
                .as_mut()
                .expect("one that takes groups is open");
            open.store.append(id, &encoded.bytes)?;
            open.live.insert(id);
            generation.groups += 1;
            generation.last = id;
            generation.bytes += encoded.bytes.len() as u64;
            placed.extend((0..count).map(|index| Loc {
                group: GroupId(id),
                index: u32::try_from(index).expect("a group is small"),
            }));
            tallies.push((index, encoded.tally));
        }
        Ok((placed, tallies))
    }

    /// A generation takes no more groups: it is dropped if nothing is left in it, else sealed.
    fn finish(&mut self, index: usize) {
        if self.generations[index].groups == 0 {
            self.discard(index);
        } else {
            self.generations[index].seal();
        }
    }

    /// Reads groups after a position until their items weigh `max_bytes`, at least one. Sets
    /// `unreadable` when it stopped because the disk cannot be read at this time.
    pub(super) fn load(&mut self, after: Option<GroupId>, max_bytes: usize) -> Vec<Group> {
        self.commands += 1;
        self.unreadable = false;
        let mut groups = Vec::new();
        let mut position = after.map_or(0, |id| id.0.saturating_add(1));
        let mut bytes = 0;
        let mut index = 0;
        while index < self.generations.len() && (groups.is_empty() || bytes < max_bytes) {
            if self.generations[index].last < position || self.generations[index].groups == 0 {
                index += 1;
                continue;
            }
            if let Err(error) = self.open(index) {
                tracing::warn!(%error, "the spool cannot be read now");
                self.unreadable = true;
                break;
            }
            let next = self.generations[index]
                .open
                .as_ref()
                .and_then(|open| open.live.range(position..).next().copied());
            let Some(id) = next else {
                index += 1;
                continue;
            };
            let items = self.read(index, id);
            bytes += items.iter().map(|item| item.weight()).sum::<usize>();
            groups.push(Group {
                id: GroupId(id),
                items,
            });
            position = id + 1;
        }
        self.close_unused();
        groups
    }

    fn read(&mut self, index: usize, id: u64) -> Vec<Arc<Item>> {
        let generation = &mut self.generations[index];
        let open = generation.open.as_mut().expect("opened before it is read");
        let decoded = match open.store.read(id) {
            Ok(bytes) => codec::decode(&bytes, unix_now()),
            Err(error) => {
                tracing::debug!(group = id, %error, "cannot be read");
                // Opened afresh for the next group, in case it was the handle.
                if generation.taking.is_none() {
                    generation.open = None;
                }
                Err(vec![codec::unknown_gap(unix_now())])
            }
        };
        decoded.unwrap_or_else(|gaps| {
            tracing::error!(
                group = id,
                gaps = gaps.len(),
                "a stored group is damaged: gap records take its place"
            );
            gaps.into_iter()
                .map(|gap| Arc::new(Item::Gap(gap)))
                .collect()
        })
    }

    /// Opens a generation, replacing it by gap records if it is damaged.
    fn open(&mut self, index: usize) -> Result<(), Error> {
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
    fn close_unused(&mut self) {
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
            if generation.open.is_none() && here.len() as u64 >= generation.groups {
                generation.groups = 0;
            } else if let Err(error) = self
                .open(index)
                .and_then(|()| self.generations[index].remove(here, &*self.engine))
            {
                tracing::debug!(%error, "groups were not removed and will come again");
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

    /// Nothing was asked for a while: gives back what is drained, and closes what is only read.
    /// Returns whether space came back.
    pub(super) fn idle(&mut self) -> bool {
        let mut freed = false;
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

    /// Gives a generation up: marks that only it knew are saved first, then it is renamed, so
    /// that half a directory is never taken for a whole one, then removed.
    pub(super) fn discard(&mut self, index: usize) {
        self.save_marks();
        let mut generation = self.generations.remove(index);
        generation.open = None;
        let dead = generation.dir.with_extension("dead");
        let removed = files::rename(&generation.dir, &dead)
            .and_then(|()| files::remove(&dead))
            // Only then does the file system count its blocks as free.
            .and_then(|()| files::sync_dir(&self.path));
        if let Err(error) = removed
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(dir = %generation.dir.display(), %error, "cannot remove a drained part of the spool");
        }
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
        self.generations.clear();
        self.lock = None;
    }

    /// Looks at the sizes of everything but the generations.
    pub(super) fn measure_others(&mut self) {
        use std::os::unix::fs::MetadataExt;
        let Ok(entries) = fs::read_dir(&self.path) else {
            return;
        };
        self.other_bytes = entries
            .flatten()
            .filter(|entry| generations::parse_name(&entry.file_name().to_string_lossy()).is_none())
            .map(|entry| match entry.metadata() {
                Ok(meta) if meta.is_dir() => files::disk_bytes(&entry.path()),
                Ok(meta) => meta.blocks() * 512,
                Err(_) => 0,
            })
            .sum();
    }

    /// Bytes that a commit of items of this weight may take on disk.
    pub(super) fn estimate(&self, bytes: u64) -> u64 {
        let limit = generations::generation_bytes(self.limits.max_size);
        let room = self.taking().map_or(0, |index| {
            limit.saturating_sub(self.generations[index].bytes)
        });
        let new_generations = if bytes > room {
            1 + (bytes - room) / limit
        } else {
            0
        };
        bytes + bytes / 8 + new_generations * GENERATION_COST
    }
}

/// Where ids begin when nothing is known of earlier ones.
fn first_id() -> u64 {
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
