//! The groups in a segment: summed up, deleted, annulled.

use std::ops::RangeInclusive;

use super::codec;
use super::fs;
use super::salvage::Salvage;
use super::segment::{Segment, TOUCHED};
use super::store::{Engine, Error};
use super::tally::Tally;
use super::wire::Damage;
use crate::clock;

/// What is in a segment.
pub(super) struct Scanned {
    /// All that is not deleted, damaged or not.
    pub(super) tally: Tally,
    /// All of it, deleted or not.
    pub(super) put_in: Tally,
    /// What can be read, and the marks of what is deleted.
    pub(super) sound: Tally,
}

impl Segment {
    /// Reads every group and sums up what is there; of deleted ones, the marks.
    ///
    /// `newest`: a last group that is cut short was being written when the power went; it was
    /// never acknowledged and is taken out.
    ///
    /// # Errors
    /// The engine's.
    pub(super) fn scan(&mut self, engine: &dyn Engine, newest: bool) -> Result<Scanned, Error> {
        let open = self.open(engine)?;
        let (mut tally, mut sound) = (Tally::default(), Tally::default());
        let mut torn = None;
        let last = open.live.last().copied();
        for id in open.live.iter().copied() {
            let bytes = open.store.read(id)?;
            let damage = match codec::header(&bytes) {
                Ok(header) => {
                    let damage = header.damage();
                    if damage != Some(Damage::Short) || !newest || Some(id) != last {
                        tally.add(&header.tally);
                    }
                    if damage.is_none() {
                        sound.add(&header.tally);
                    }
                    damage
                }
                Err(damage) => {
                    if damage != Damage::Short || !newest || Some(id) != last {
                        tally.groups += 1;
                        tally.gaps.push(codec::unknown_gap(clock::now()));
                    }
                    Some(damage)
                }
            };
            if damage == Some(Damage::Short) && newest && Some(id) == last {
                torn = Some(id);
            }
        }
        let mut deleted = Tally::default();
        for id in &open.removed {
            if let Ok(header) = codec::header(&open.store.read(*id)?) {
                sound.marks.extend(header.tally.implied_marks());
                deleted.add(&header.tally);
            }
        }
        deleted.groups = open.removed.len() as u64;
        deleted.last = open.removed.last().copied().unwrap_or_default();
        if let Some(id) = torn {
            tracing::debug!(
                group = id,
                "discarding a group that was cut short while it was written"
            );
            open.live.remove(&id);
            self.uncounted.push(id..=id);
        }
        tally.last = self
            .open
            .as_ref()
            .and_then(|open| open.live.last().copied())
            .unwrap_or(self.first);
        self.count(&tally);
        let mut put_in = deleted;
        put_in.add(&tally);
        Ok(Scanned {
            tally,
            put_in,
            sound,
        })
    }

    /// Hides groups.
    ///
    /// # Errors
    /// The engine's, when the database has to be opened and cannot. Failing to write the removal
    /// down is no error: it is made up for later, and where that does not come about either, the
    /// groups come back after a restart and are published again.
    pub(super) fn remove(&mut self, ids: &[u64], engine: &dyn Engine) -> Result<(), Error> {
        self.touch();
        let taking = self.taking.is_some();
        self.open(engine)?;
        let deletions_due = std::mem::take(&mut self.deletions_due);
        let Some(open) = &mut self.open else {
            return Ok(());
        };
        let gone: Vec<u64> = ids
            .iter()
            .chain(&deletions_due)
            .copied()
            .filter(|id| open.live.remove(id) || open.removed.contains(id))
            .collect();
        let left = open.live.len() as u64;
        // A drained one that takes no more is about to go as a whole.
        let written = if left > 0 || taking {
            open.store.remove(&gone)
        } else {
            Ok(())
        };
        self.groups = left;
        self.gone.extend(&gone);
        if let Err(error) = written {
            tracing::debug!(dir = %self.dir.display(), %error, "a removal was not written down");
            if !taking {
                // By one that was opened without the engine, on a full disk: made up for later.
                self.open = None;
                self.deletions_due.extend(gone);
            }
        }
        Ok(())
    }

    /// Hides groups that cannot be removed from the database now; that is made up for later.
    pub(super) fn owe(&mut self, ids: &[u64]) {
        self.touch();
        self.gone.extend(ids);
        self.deletions_due.extend(ids);
    }

    /// Notes that something in it is deleted, so that its summary says too much.
    pub(super) fn touch(&mut self) {
        if self.touched {
            return;
        }
        self.touched = true;
        // Not synced: after a power cut the removal itself may be gone, too.
        if let Err(error) = fs::create(&self.dir.join(TOUCHED)) {
            tracing::debug!(dir = %self.dir.display(), %error, "cannot mark a segment");
        }
    }

    /// What was put in under these ids does not count.
    pub(super) fn annul(&mut self, ids: RangeInclusive<u64>) {
        if let Some(open) = &mut self.open {
            open.live.retain(|id| !ids.contains(id));
            self.groups = open.live.len() as u64;
        }
        if let Some(tally) = &self.taking {
            self.last = tally.last.max(self.first);
        }
        self.uncounted.push(ids);
    }

    /// Sums up what is not deleted; if that cannot be read, at least what was put in. `None`:
    /// nothing is known.
    pub(super) fn tally(&mut self, engine: &dyn Engine) -> Option<Tally> {
        if !self.touched
            && let Some(known) = self.put_in()
        {
            return Some(known);
        }
        let uncounted = self.uncounted.clone();
        let scanned = match self.scan(engine, false) {
            // The engine needs room to open; the data is there all the same.
            Err(Error::Full) => self.scan(&Salvage, false),
            scanned => scanned,
        };
        match scanned {
            Ok(scanned) => Some(scanned.tally),
            Err(error) => {
                tracing::debug!(dir = %self.dir.display(), %error, "cannot be read through");
                self.uncounted = uncounted;
                self.put_in()
            }
        }
    }

    /// What the file of one that cannot be read still says of what is in it: perhaps not all.
    pub(super) fn salvaged(&mut self) -> Tally {
        let mut tally = Tally::default();
        for (id, bytes) in self.salvage() {
            if self.counts(id)
                && !self.gone.contains(&id)
                && let Ok(header) = codec::header(&bytes)
            {
                tally.add(&header.tally);
            }
        }
        tally
    }
}
