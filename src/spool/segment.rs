//! One segment: a directory with a small database and, once it takes no more groups, a
//! summary of what was put in.
//!
//! ```text
//! gen-<first id in hex>/
//!   conf db snap.* blobs/   the engine's
//!   summary                 a sealed tally of every group; written when the segment is closed
//!   whole                   it was made to the end: groups may have been put in
//!   reached                 the last group that was acknowledged, and in which boot; not synced,
//!                           so never ahead of the database unless that has lost something
//!   touched                 something was deleted: the summary says too much, look inside
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use super::codec;
use super::fairness::Part;
use super::files;
use super::fs;
use super::salvage;
use super::store::{Engine, Error, Store};
use super::tally::Tally;
use super::wire::{seal, unseal};
use crate::clock;

const DB: &str = "db";
const SUMMARY: &str = "summary";
const REACHED: &str = "reached";
const WHOLE: &str = "whole";
pub(super) const TOUCHED: &str = "touched";

/// Of the `reached` file. The last character is the version.
const REACHED_MAGIC: [u8; 4] = *b"thr1";

/// An open database and what in it still counts.
pub(super) struct Open {
    pub(super) store: Box<dyn Store>,
    pub(super) live: BTreeSet<u64>,
    /// Deleted, and still to be read: their marks count.
    pub(super) removed: BTreeSet<u64>,
}

/// A segment. Ids of its groups lie in `first..=last`.
pub(super) struct Segment {
    pub(super) first: u64,
    pub(super) last: u64,
    /// No group of it may ever have a larger id than this.
    pub(super) bound: u64,
    pub(super) dir: PathBuf,
    /// Groups that are not deleted, and what is in them (the latter as of the last look).
    pub(super) groups: u64,
    pub(super) batches: u64,
    pub(super) readings: u64,
    pub(super) replies: u64,
    pub(super) oldest: Option<f64>,
    /// Groups that must be in the database, deleted or not.
    pub(super) expected: u64,
    /// Bytes of groups that were appended.
    pub(super) bytes: u64,
    /// Bytes on disk, as of the last look.
    pub(super) disk: u64,
    /// While it takes groups: what is committed in it.
    pub(super) taking: Option<Tally>,
    /// What was put in, when that could not be written into a summary.
    pub(super) unsaved: Option<Tally>,
    /// Ids of commits that failed: whatever is found under them does not count.
    pub(super) uncounted: Vec<RangeInclusive<u64>>,
    pub(super) open: Option<Open>,
    /// Found without a summary: how much is in it is not known.
    pub(super) unsure: bool,
    /// The database file as it was before an attempt to open it that showed damage.
    as_found: Option<Vec<u8>>,
    /// Deleted in this run, in case that could not be written down.
    pub(super) gone: BTreeSet<u64>,
    /// Of these, what could not be removed from the database because it could not be opened.
    pub(super) deletions_due: BTreeSet<u64>,
    /// When it was last used, in commands.
    pub(super) used: u64,
    pub(super) touched: bool,
    /// Groups may have gone from it that others still ask to have deleted.
    pub(super) compacted: bool,
    /// How much of it is whose, and how many groups there were then: once that was asked for.
    pub(super) shares: Option<(u64, Part)>,
}

impl Segment {
    fn empty(first: u64, last: u64, dir: PathBuf) -> Self {
        Self {
            first,
            last,
            bound: last,
            groups: 0,
            batches: 0,
            readings: 0,
            replies: 0,
            oldest: None,
            expected: 0,
            bytes: 0,
            disk: 0,
            taking: None,
            unsaved: None,
            uncounted: Vec::new(),
            open: None,
            unsure: false,
            as_found: None,
            gone: BTreeSet::new(),
            deletions_due: BTreeSet::new(),
            used: 0,
            touched: fs::exists(&dir.join(TOUCHED)),
            compacted: false,
            shares: None,
            dir,
        }
    }

    /// Creates a new one that takes groups from `first` on, durably.
    ///
    /// # Errors
    /// The engine's; nothing is left behind then.
    pub(super) fn create(dir: PathBuf, first: u64, engine: &dyn Engine) -> Result<Self, Error> {
        let made = engine.create(&dir).and_then(|store| {
            // Nothing so far: whatever is put in and not acknowledged is known as such.
            fs::write_in_place(&dir.join(REACHED), &reached_file(first - 1))?;
            fs::create(&dir.join(WHOLE))?;
            files::sync_dir(&dir)?;
            Ok(store)
        });
        match made {
            Ok(store) => {
                let mut segment = Self::empty(first, first, dir);
                segment.bound = u64::MAX;
                segment.taking = Some(Tally::default());
                segment.open = Some(Open {
                    store,
                    live: BTreeSet::new(),
                    removed: BTreeSet::new(),
                });
                segment.measure();
                Ok(segment)
            }
            Err(error) => {
                let _ = files::remove(&dir);
                Err(error)
            }
        }
    }

    /// One that takes no more groups, of which this is put in. Its summary was just written, and is
    /// not asked for: a disk that does not give it back now must not make an empty one of it.
    pub(super) fn sealed(first: u64, bound: u64, dir: PathBuf, tally: &Tally) -> Self {
        let mut segment = Self::empty(first, bound, dir);
        segment.measure();
        segment.last = tally.last.max(first);
        segment.expected = tally.groups;
        segment.count(tally);
        segment
    }

    /// One that is found on disk: closed, known by its summary if it has a sound one and nothing
    /// was deleted from it.
    pub(super) fn found(first: u64, last: u64, dir: PathBuf) -> (Self, Option<Tally>) {
        let mut segment = Self::empty(first, last, dir);
        let summary = segment.summary();
        if let Some(tally) = &summary {
            return (Self::sealed(first, last, segment.dir, tally), summary);
        }
        segment.measure();
        segment.unsure = true;
        if let Some((reached, this_boot)) = segment.reached() {
            if let Some(later) = reached.checked_sub(first) {
                segment.last = segment.last.max(reached);
                segment.expected = later + 1;
            }
            if this_boot {
                // Of a commit that failed or that a kill has cut short, and nobody was told of it.
                // The kernel may hold pages of it for written that are not: only a reboot would
                // show. After one, what is found is what is on the disk.
                segment.uncounted.push(reached + 1..=u64::MAX);
            }
        }
        (segment, None)
    }

    /// Of one without a summary: what is in its file must be found by the engine as well. The
    /// `reached` file, which is not synced, may not have survived a power cut.
    fn expect_what_is_in(&mut self, file: &[u8]) {
        let groups = salvage::groups(file);
        let whole = |bytes: &[u8]| codec::header(bytes).is_ok_and(|head| head.damage().is_none());
        let newest = groups
            .iter()
            .rfind(|(id, bytes)| self.counts(**id) && whole(bytes));
        if let Some((newest, _)) = newest {
            self.expected = self.expected.max(newest - self.first + 1);
        }
    }

    /// The groups in the file of one that cannot be opened, as it was before the engine touched it.
    /// They are found again at a later attempt, whatever has become of the file.
    pub(super) fn salvage(&mut self) -> BTreeMap<u64, Vec<u8>> {
        if self.as_found.is_none() {
            self.as_found = files::read_around(&self.dir.join(DB)).ok();
        }
        self.as_found
            .as_deref()
            .map(salvage::groups)
            .unwrap_or_default()
    }

    /// Whether a crash came while it was made, so that nothing was ever put in. Asked of one that
    /// cannot be opened.
    pub(super) fn was_never_whole(&mut self) -> bool {
        let noted = [WHOLE, SUMMARY]
            .iter()
            .any(|name| fs::exists(&self.dir.join(name)))
            || self.reached().is_some_and(|(last, _)| last >= self.first);
        // Spools of the first versions have no such note: whatever is found is looked at.
        fs::is_dir(&self.dir).unwrap_or(false) && !noted && self.salvage().is_empty()
    }

    /// The summary file, if it is there and sound.
    pub(super) fn summary(&self) -> Option<Tally> {
        let bytes = fs::read(&self.dir.join(SUMMARY)).ok()?;
        Tally::from_file(&bytes).ok()
    }

    /// Whether there is a summary file, sound or not.
    pub(super) fn has_summary(&self) -> bool {
        fs::exists(&self.dir.join(SUMMARY))
    }

    /// Writes the summary file of the segment in `dir`, durably.
    pub(super) fn write_summary(dir: &Path, tally: &Tally) -> std::io::Result<()> {
        files::replace(&dir.join(SUMMARY), &tally.to_file())
    }

    /// The last group that was acknowledged, and whether that was in the present boot.
    fn reached(&self) -> Option<(u64, bool)> {
        let bytes = fs::read(&self.dir.join(REACHED)).ok()?;
        let content = unseal(REACHED_MAGIC, &bytes).ok()?;
        let (id, boot) = content.split_at_checked(size_of::<u64>())?;
        Some((
            u64::from_le_bytes(id.try_into().ok()?),
            boot == clock::now().boot.bytes(),
        ))
    }

    /// Everything up to `last` is synced, and is about to be acknowledged.
    ///
    /// # Errors
    /// It could not be noted. After a crash nobody would know.
    pub(super) fn note_reached(&self, last: u64) -> std::io::Result<()> {
        fs::write_in_place(&self.dir.join(REACHED), &reached_file(last))
    }

    /// A commit is complete: what was put in so far must be found again.
    pub(super) fn reach(&mut self, tally: &Tally) {
        self.batches += tally.batches();
        self.readings += tally.readings();
        self.replies += tally.replies;
        if let Some(sum) = &mut self.taking {
            sum.add(tally);
            self.oldest = sum.oldest;
            self.expected = sum.groups;
        }
    }

    /// Whether it is known that no commit of it has ever succeeded.
    pub(super) fn nothing_acknowledged(&self) -> bool {
        let all =
            |range: &RangeInclusive<u64>| range.contains(&self.first) && *range.end() == u64::MAX;
        self.expected == 0 && self.uncounted.iter().any(all)
    }

    pub(super) fn count(&mut self, tally: &Tally) {
        self.groups = tally.groups;
        self.batches = tally.batches();
        self.readings = tally.readings();
        self.replies = tally.replies;
        self.oldest = tally.oldest;
    }

    /// Looks at the sizes of its files.
    pub(super) fn measure(&mut self) {
        self.disk = files::disk_bytes(&self.dir);
    }

    /// Takes no more groups; leaves a summary. Where that cannot be written, on a full disk, it is
    /// kept in memory: without it nobody could say what is dropped with this segment.
    pub(super) fn seal(&mut self) {
        if let Some(tally) = self.taking.take()
            && let Err(error) = Self::write_summary(&self.dir, &tally)
        {
            tracing::debug!(dir = %self.dir.display(), %error, "no summary written");
            self.unsaved = Some(tally);
        }
        self.close();
    }

    /// Everything that was put in, deleted or not, as far as it is known without looking.
    pub(super) fn put_in(&self) -> Option<Tally> {
        let in_memory = self.taking.as_ref().or(self.unsaved.as_ref());
        in_memory.cloned().or_else(|| self.summary())
    }

    /// Opens the database unless it is open.
    ///
    /// # Errors
    /// The engine's. `Broken`: the segment has to be replaced.
    pub(super) fn open(&mut self, engine: &dyn Engine) -> Result<&mut Open, Error> {
        if self.open.is_none() {
            if self.as_found.is_some() {
                return Err(Error::Broken("damage was found in it before".into()));
            }
            // sled takes a damaged place, or what it cannot read, for the end of its log, and cuts
            // off what comes after it, in the file as well. A device that does not read now must
            // not cost what a later attempt would find, nor damage more than it has hit.
            let file = fs::read(&self.dir.join(DB))?;
            if std::mem::take(&mut self.unsure) {
                self.expect_what_is_in(&file);
            }
            match self.open_database(engine) {
                Ok(open) => self.open = Some(open),
                Err(Error::Broken(why)) => {
                    self.as_found = Some(file);
                    return Err(Error::Broken(why));
                }
                Err(error) => return Err(error),
            }
            self.measure();
        }
        Ok(self.open.as_mut().expect("just opened"))
    }

    fn open_database(&mut self, engine: &dyn Engine) -> Result<Open, Error> {
        let mut store = engine.open(&self.dir)?;
        let mut ids = store.ids()?;
        ids.present.retain(|id| self.counts(*id));
        let present = ids.present.len() as u64;
        if present < self.expected {
            let lost = self.expected - present;
            return Err(Error::Broken(format!("{lost} groups have disappeared")));
        }
        ids.removed.extend(&self.gone);
        let live: BTreeSet<u64> = ids.present.difference(&ids.removed).copied().collect();
        self.groups = live.len() as u64;
        let removed = ids.present.intersection(&ids.removed).copied().collect();
        Ok(Open {
            store,
            live,
            removed,
        })
    }

    /// Whether what is found under this id may be a group of this segment.
    pub(super) fn counts(&self, id: u64) -> bool {
        (self.first..=self.last).contains(&id)
            && !self.uncounted.iter().any(|range| range.contains(&id))
    }

    /// Closes the database and ends its threads.
    pub(super) fn close(&mut self) {
        self.open = None;
        self.measure();
    }
}

fn reached_file(last: u64) -> Vec<u8> {
    let boot = clock::now().boot.bytes();
    seal(REACHED_MAGIC, &[&last.to_le_bytes()[..], &boot].concat())
}
