//! The backlog: which stored batches still have to be published, and which groups can go.
//!
//! Pure. The spool holds groups; this tracks, for those groups that something is known of, what
//! became of each item. A group is deleted when every item of it is done. A group that nothing is
//! known of is wholly to be done; it is found by reading on from `cursor`.

use std::collections::{BTreeMap, VecDeque};
use std::ops::RangeInclusive;
use std::sync::Arc;

use super::moved::Moved;
use crate::reading::{Gap, GapReason, Item, Moment};
use crate::spool::{Depth, Group, GroupId, Loc};

/// Bytes of items read ahead of the drain: what a fast broker takes while the store opens its next
/// database, some 30 ms. More would only be memory.
pub const READ_AHEAD: usize = 1 << 20;

/// What became of a stored item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Still to be published.
    Idle,
    /// Being published, or about to be, from memory.
    Busy,
    /// Expired: in the gap record that is published in the place of this item of the group.
    Covered(u32),
    /// Refused by the broker: to be published, but not now.
    Parked,
    /// PUBACKed.
    Done,
}

/// Which stored batches are too old: those of a known age, see [`Moment::age`].
#[derive(Debug, Clone, Copy)]
pub struct Expiry {
    /// Now.
    pub now: Moment,
    /// Seconds.
    pub max_age: f64,
}

#[derive(Debug, Clone, Copy)]
struct Slot {
    fate: Fate,
    batch: bool,
    readings: u32,
}

#[derive(Debug, Default)]
struct Tracked {
    slots: Vec<Slot>,
    done: usize,
}

/// Batches that were done among those that were given up.
#[derive(Debug, Default)]
struct Done {
    batches: u64,
    readings: u64,
}

impl Done {
    fn count(&mut self, slot: &Slot) {
        if slot.fate == Fate::Done && slot.batch {
            self.batches += 1;
            self.readings += u64::from(slot.readings);
        }
    }
}

/// See the module.
#[derive(Debug, Default)]
pub struct Backlog {
    groups: BTreeMap<GroupId, Tracked>,
    ready: VecDeque<(Loc, Arc<Item>)>,
    ready_bytes: usize,
    cursor: Option<GroupId>,
    /// Whether there may be groups after the cursor.
    more: bool,
    loading: bool,
    /// The read under way started before a reset; its answer is not for us.
    stale: bool,
    batches: u64,
    readings: u64,
    oldest: Option<Moment>,
    drained: u64,
    deletable: Vec<GroupId>,
    /// Something was stored while a read was under way, which may not have seen it.
    grew: bool,
    /// Groups that were finished while a read was under way, which may still bring them.
    finished: Vec<GroupId>,
    /// Groups are read once more, and some of what they bring is at hand.
    rereading: bool,
}

impl Backlog {
    /// What the store held when it was opened, which may be after commits have failed.
    pub fn opened(&mut self, depth: Depth) {
        self.batches += depth.batches;
        self.readings += depth.readings;
        // What was there before this run is older than what this run has stored.
        self.oldest = depth.oldest.map(Moment::at).or(self.oldest);
        self.more |= depth.groups > 0;
        self.grew |= depth.groups > 0;
    }

    /// An item has been stored. Items of a group come in the order of their index.
    pub fn stored(&mut self, loc: Loc, item: &Item, fate: Fate) {
        let tracked = self.groups.entry(loc.group).or_default();
        let batch = matches!(item, Item::Batch(_));
        tracked.slots.push(Slot {
            fate,
            batch,
            readings: item.readings(),
        });
        if fate == Fate::Done {
            tracked.done += 1;
        } else if let Item::Batch(batch) = item {
            self.batches += 1;
            self.readings += u64::from(batch.readings);
            self.oldest.get_or_insert(batch.received);
        }
    }

    /// All items of a commit have been told to [`Backlog::stored`].
    pub fn commit_ends(&mut self, groups: impl IntoIterator<Item = GroupId>) {
        for id in groups {
            let Some(tracked) = self.groups.get(&id) else {
                continue;
            };
            if tracked.slots.iter().all(|slot| slot.fate == Fate::Idle) {
                self.groups.remove(&id);
                self.more = true;
                self.grew = true;
            } else {
                self.grew = true;
                self.more |= tracked.slots.iter().any(|slot| slot.fate == Fate::Idle);
                self.collect(id);
            }
        }
    }

    /// Whether to read on, and from where. Notes that the read is under way.
    pub fn want_load(&mut self) -> Option<Option<GroupId>> {
        if self.loading || !self.more || self.ready_bytes >= READ_AHEAD {
            return None;
        }
        self.loading = true;
        self.grew = false;
        Some(self.cursor)
    }

    /// What the read brought; `again`: it was cut short, and there may be more. Expired batches
    /// are replaced by gap records, one for each stream of a group.
    pub fn loaded(&mut self, groups: Vec<Group>, again: bool, expiry: Expiry) {
        self.loading = false;
        let finished = std::mem::take(&mut self.finished);
        if std::mem::take(&mut self.stale) {
            return;
        }
        if groups.is_empty() && !again {
            self.more = self.grew;
            self.rereading = false;
            if !self.more {
                self.heal();
            }
        }
        for group in groups {
            self.cursor = self.cursor.max(Some(group.id));
            if finished.contains(&group.id) {
                continue;
            }
            let fresh = || Slot {
                fate: Fate::Idle,
                batch: false,
                readings: 0,
            };
            let tracked = self.groups.entry(group.id).or_default();
            if tracked.slots.len() != group.items.len() {
                tracked.done = 0;
                tracked.slots = group.items.iter().map(|_| fresh()).collect();
            }
            let mut wanted: Vec<(u32, Arc<Item>)> = Vec::with_capacity(group.items.len());
            for ((index, slot), item) in (0..).zip(&mut tracked.slots).zip(group.items) {
                slot.batch = matches!(*item, Item::Batch(_));
                slot.readings = item.readings();
                let loc = Loc {
                    group: group.id,
                    index,
                };
                if slot.fate == Fate::Idle && !(self.rereading && is_in(&self.ready, loc)) {
                    wanted.push((index, item));
                }
            }
            for (index, what) in expire(wanted, &expiry) {
                match what {
                    Expired::Published(item) => {
                        let loc = Loc {
                            group: group.id,
                            index,
                        };
                        self.ready_bytes += item.weight();
                        self.ready.push_back((loc, item));
                    }
                    Expired::Within(by) => {
                        tracked.slots[index as usize].fate = Fate::Covered(by);
                    }
                }
            }
            self.collect(group.id);
        }
        self.refresh_oldest();
    }

    /// The next item to publish; it counts as busy from now on.
    pub fn take_next(&mut self) -> Option<(Loc, Arc<Item>)> {
        let (loc, item) = self.ready.pop_front()?;
        self.ready_bytes = self.ready_bytes.saturating_sub(item.weight());
        self.set(loc, Fate::Busy);
        Some((loc, item))
    }

    /// Whether an item is at hand.
    #[must_use]
    pub fn has_next(&self) -> bool {
        !self.ready.is_empty()
    }

    /// The broker refuses it: it stays, and is published again on the next connection.
    pub fn park(&mut self, loc: Loc) {
        self.set(loc, Fate::Parked);
    }

    /// Publishes this instead of what is stored there, and before anything else.
    pub fn substitute(&mut self, loc: Loc, item: Arc<Item>) {
        self.set(loc, Fate::Idle);
        self.ready_bytes += item.weight();
        self.ready.push_front((loc, item));
    }

    /// The item is PUBACKed, and with a gap record whatever is in it.
    pub fn done(&mut self, loc: Loc) {
        let Some(tracked) = self.groups.get_mut(&loc.group) else {
            return;
        };
        let covered = Fate::Covered(loc.index);
        for (index, slot) in (0..).zip(&mut tracked.slots) {
            let this = index == loc.index && slot.fate != Fate::Done;
            if !this && slot.fate != covered {
                continue;
            }
            slot.fate = Fate::Done;
            tracked.done += 1;
            if slot.batch {
                self.drained += 1;
                self.batches = self.batches.saturating_sub(1);
                self.readings = self.readings.saturating_sub(u64::from(slot.readings));
            }
        }
        self.collect(loc.group);
    }

    /// The connection ended: whatever was busy is to be done again, from the first group on.
    pub fn reset(&mut self) {
        self.ready.clear();
        self.ready_bytes = 0;
        self.cursor = None;
        self.stale = self.loading;
        self.rereading = false;
        self.groups.retain(|_, tracked| {
            self.more |= tracked.slots.iter().any(|slot| slot.fate != Fate::Done);
            for slot in &mut tracked.slots {
                if slot.fate != Fate::Done {
                    slot.fate = Fate::Idle;
                }
            }
            tracked.done > 0
        });
        self.more |= self.batches > 0;
    }

    /// The store gave up these groups, with so many batches and readings in them.
    pub fn dropped(&mut self, range: RangeInclusive<GroupId>, batches: u64, readings: u64) {
        let mut done = Done::default();
        self.groups.retain(|id, tracked| {
            let gone = range.contains(id);
            if gone {
                tracked.slots.iter().for_each(|slot| done.count(slot));
            }
            !gone
        });
        self.ready.retain(|(loc, _)| !range.contains(&loc.group));
        self.deletable.retain(|id| !range.contains(id));
        self.given_up(batches, readings, &done);
    }

    /// The store took items out of groups, so many batches and readings in all.
    pub fn thinned(&mut self, moved: &Moved, batches: u64, readings: u64) {
        let mut done = Done::default();
        for (id, gone) in moved.groups() {
            let Some(tracked) = self.groups.get_mut(&id) else {
                continue;
            };
            let mut at = 0;
            tracked.slots.retain(|slot| {
                let kept = gone.binary_search(&at).is_err();
                at += 1;
                if !kept {
                    done.count(slot);
                    tracked.done -= usize::from(slot.fate == Fate::Done);
                }
                kept
            });
            for slot in &mut tracked.slots {
                let Fate::Covered(index) = slot.fate else {
                    continue;
                };
                let record = moved.to(Loc { group: id, index });
                slot.fate = record.map_or(Fate::Idle, |to| Fate::Covered(to.index));
                // Its record is about what is gone, and another one is needed.
                self.rereading |= record.is_none();
            }
            if tracked.slots.is_empty() {
                self.groups.remove(&id);
            } else {
                self.collect(id);
            }
        }
        self.ready.retain_mut(|(loc, _)| match moved.to(*loc) {
            Some(to) => {
                *loc = to;
                true
            }
            None => false,
        });
        if self.rereading {
            self.cursor = None;
            self.stale |= self.loading;
        }
        self.given_up(batches, readings, &done);
    }

    /// So many were given up, of which some were done before and not counted any more.
    fn given_up(&mut self, batches: u64, readings: u64, done: &Done) {
        let batches = batches.saturating_sub(done.batches);
        self.batches = self.batches.saturating_sub(batches);
        let readings = readings.saturating_sub(done.readings);
        self.readings = self.readings.saturating_sub(readings);
        self.ready_bytes = self.ready.iter().map(|(_, item)| item.weight()).sum();
        // The gap records, at least.
        self.more = true;
        self.grew = true;
        self.refresh_oldest();
    }

    /// Groups that are done, to be deleted; each is told once.
    pub fn take_deletable(&mut self) -> Vec<GroupId> {
        std::mem::take(&mut self.deletable)
    }

    /// Whether everything that is stored is at hand in memory, published or done: nothing has to
    /// be read any more.
    #[must_use]
    pub fn all_at_hand(&self) -> bool {
        !self.more && !self.loading
    }

    /// Batches stored and not done.
    #[must_use]
    pub fn batches(&self) -> u64 {
        self.batches
    }

    /// Batches that were stored and have been PUBACKed, since the start.
    #[must_use]
    pub fn drained(&self) -> u64 {
        self.drained
    }

    /// Readings in these.
    #[must_use]
    pub fn readings(&self) -> u64 {
        self.readings
    }

    /// Arrival of about the oldest of them, as far as it is known.
    #[must_use]
    pub fn oldest(&self) -> Option<Moment> {
        self.oldest.filter(|_| self.batches > 0)
    }

    fn set(&mut self, loc: Loc, fate: Fate) {
        let slots = self
            .groups
            .get_mut(&loc.group)
            .map(|tracked| &mut tracked.slots);
        if let Some(slot) = slots.and_then(|slots| slots.get_mut(loc.index as usize))
            && slot.fate != Fate::Done
        {
            slot.fate = fate;
        }
    }

    fn collect(&mut self, id: GroupId) {
        if self
            .groups
            .get(&id)
            .is_some_and(|tracked| tracked.done == tracked.slots.len())
        {
            self.groups.remove(&id);
            self.deletable.push(id);
            if self.loading {
                self.finished.push(id);
            }
            self.heal();
        }
    }

    /// Counters follow what was announced; a group that turned out damaged held other numbers.
    /// Once nothing is left they are exact again.
    fn heal(&mut self) {
        if self.all_at_hand() && self.groups.is_empty() && self.ready.is_empty() {
            (self.batches, self.readings, self.oldest) = (0, 0, None);
        }
    }

    fn refresh_oldest(&mut self) {
        let first = self.ready.iter().find_map(|(_, item)| match &**item {
            Item::Batch(batch) => Some(batch.received),
            Item::Gap(_) => None,
        });
        if first.is_some() {
            self.oldest = first;
        }
    }
}

fn is_in(ready: &VecDeque<(Loc, Arc<Item>)>, loc: Loc) -> bool {
    ready.iter().any(|(known, _)| *known == loc)
}

/// What becomes of an item that is to be published.
enum Expired {
    /// It is published, or the gap record in its place.
    Published(Arc<Item>),
    /// It is in the gap record at this index.
    Within(u32),
}

/// Replaces expired batches: the first of each stream by the gap of all of them. The others are
/// within that, and done when it is.
fn expire(items: Vec<(u32, Arc<Item>)>, expiry: &Expiry) -> Vec<(u32, Expired)> {
    let too_old = |age: f64| age > expiry.max_age;
    let mut gaps: Vec<(usize, u32, Gap)> = Vec::new();
    let mut outcome: Vec<_> = Vec::with_capacity(items.len());
    for (index, item) in items {
        let what = match &*item {
            Item::Batch(batch) if batch.received.age(&expiry.now).is_some_and(too_old) => {
                let gap = Gap::of(batch, GapReason::Expired, expiry.now);
                match gaps
                    .iter_mut()
                    .find_map(|(_, by, known)| known.merge(&gap).then_some(*by))
                {
                    Some(by) => Expired::Within(by),
                    None => {
                        gaps.push((outcome.len(), index, gap));
                        Expired::Published(item)
                    }
                }
            }
            _ => Expired::Published(item),
        };
        outcome.push((index, what));
    }
    for (at, _, gap) in gaps {
        outcome[at].1 = Expired::Published(Arc::new(Item::Gap(gap)));
    }
    outcome
}
