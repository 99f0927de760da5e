//! The backlog: which stored batches still have to be published, and which groups can go.
//!
//! Pure. The spool holds groups; this tracks, for those groups that something is known of, what
//! became of each item. A group is deleted when every item of it is done. Groups that nothing is
//! known of are wholly to be done; they are found by reading on.
//!
//! Two readings go through the spool. The one goes *on* through all of it and takes what it finds,
//! but for what the broker refuses ([`Backlog::hold`]): that is passed over and stays where it is,
//! so it takes no memory and holds up nobody. The other one goes *back* for what was passed over,
//! when that may be tried again: for one item as a probe, or for all of it until it has caught up
//! with the first. In between, what is passed over stays passed over, so each key keeps its order.
//!
//! Final answers to commands go before all else that is stored: somebody waits for them. A third
//! reading goes ahead of the others, through the groups that hold some, and takes nothing else.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::ops::RangeInclusive;
use std::sync::Arc;

use super::elsewhere::Elsewhere;
use super::expiry::{Expired, expire};
use super::fair::Fair;
use super::moved::Moved;
use super::refusals::Key;
use super::tracked::{Slot, SlotState, Tracked};
use crate::reading::{Item, Lane, Moment, Topic};
use crate::spool::{Depth, Group, GroupId, Loc};
use crate::uplink::Cause;

pub use super::expiry::Expiry;

/// Bytes of items read ahead of the drain, by each of the two readings: what a fast broker takes
/// while the store opens its next database, some 30 ms. More would only be memory.
pub const READ_AHEAD: usize = 1 << 20;

/// Batches that were done among those that were given up.
#[derive(Debug, Default)]
struct Done {
    batches: u64,
    readings: u64,
}

impl Done {
    fn count(&mut self, slot: &Slot) {
        if slot.state == SlotState::Done && slot.batch {
            self.batches += 1;
            self.readings += u64::from(slot.readings);
        }
    }
}

/// Which reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reading {
    On,
    Back,
    Replies,
}

/// What the reading back does for a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wish {
    /// Nothing: it is refused.
    None,
    /// It takes one item.
    Probe,
    /// The probe is at hand or on its way.
    Probing,
    /// It takes all.
    All,
}

/// A key that something was passed over of.
#[derive(Debug)]
struct Behind {
    /// Nothing of it lies in earlier groups.
    from: GroupId,
    oldest: Option<Moment>,
    wish: Wish,
    /// What was refused last: the next probe is another item, if there is one, so that one bad
    /// payload does not stand for all.
    tried: Option<Loc>,
    /// The last group whose batches have been counted as passed over.
    counted: GroupId,
}

/// An item at hand.
#[derive(Debug)]
struct Ready {
    loc: Loc,
    item: Arc<Item>,
    by: Reading,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Backlog {
    groups: BTreeMap<GroupId, Tracked>,
    ready: Fair<Ready>,
    /// Final answers to commands, which go before.
    replies: Fair<Ready>,
    /// Before all others.
    first: VecDeque<(Loc, Arc<Item>)>,
    /// Bytes at hand by each reading.
    bytes_on: usize,
    bytes_back: usize,
    bytes_replies: usize,
    /// Where the reading on has got to.
    cursor: Option<GroupId>,
    /// Whether there may be groups after the cursor.
    more: bool,
    /// Where the reading back has got to; `None`: it has nothing to do.
    back: Option<Option<GroupId>>,
    /// Where the reading of final answers has got to; `None`: it has nothing to do.
    replies_from: Option<Option<GroupId>>,
    /// Some were stored while such a read was under way, which may not have seen them.
    more_replies: bool,
    /// There are some, or were.
    any_replies: bool,
    /// Those that were too old, since the last [`Backlog::take_lost`].
    lost: Vec<Arc<Item>>,
    /// Where answers are not taken.
    elsewhere: Elsewhere,
    /// The reading back had the last turn.
    back_had: bool,
    loading: Option<Reading>,
    /// Its answer is not for us: positions have changed since.
    stale: bool,
    /// Keys that are refused.
    held: HashSet<Key>,
    behind: HashMap<Key, Behind>,
    /// Batches that were passed over since the last [`Backlog::take_passed`].
    passed: Vec<(Key, u64)>,
    /// Keys that were to be probed and of which nothing is stored.
    nothing: Vec<Key>,
    /// No more than `fresh` lies after the cursor.
    near_end: bool,
    /// Groups that were stored after the cursor, and how many batches are in each.
    fresh: VecDeque<(GroupId, u64)>,
    batches: u64,
    readings: u64,
    oldest: Option<Moment>,
    drained: u64,
    deletable: Vec<GroupId>,
    /// Something was stored while a read was under way, which may not have seen it.
    grew: bool,
    /// Groups that were finished while a read was under way, which may still bring them.
    finished: Vec<GroupId>,
}

/// What is to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Load {
    /// Groups after this one,
    pub after: Option<GroupId>,
    /// and of these only those with final answers to commands.
    pub replies: bool,
}

/// When it came, if the age of the backlog goes by it.
fn received(item: &Item) -> Option<Moment> {
    match item {
        Item::Batch(batch) => Some(batch.received),
        Item::Gap(_) | Item::Reply(_) => None,
    }
}

fn before(id: GroupId) -> Option<GroupId> {
    id.0.checked_sub(1).map(GroupId)
}

fn less(counter: &mut u64, by: u64) {
    // Counters follow what the spool announces, and a group that turns out damaged held other
    // numbers: see `settle_counters`.
    *counter = counter.saturating_sub(by);
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
        self.near_end &= depth.groups == 0;
        if depth.replies > 0 {
            self.any_replies = true;
            self.replies_from = Some(None);
        }
    }

    /// There may be final answers to publish in this group, or after it.
    fn look_for_replies(&mut self, from: GroupId) {
        self.any_replies = true;
        self.more_replies = true;
        let from = before(from);
        match &mut self.replies_from {
            Some(after) if *after <= from => {}
            after => {
                *after = Some(from);
                self.stale |= self.loading == Some(Reading::Replies);
            }
        }
    }

    /// An item has been stored. Items of a group come in the order of their index.
    pub fn stored(&mut self, loc: Loc, item: &Item, state: SlotState) {
        let tracked = self.groups.entry(loc.group).or_default();
        let batch = matches!(item, Item::Batch(_));
        tracked.slots.push(Slot {
            state,
            batch,
            readings: item.readings(),
        });
        if state == SlotState::Done {
            tracked.done += 1;
        } else if let Item::Batch(batch) = item {
            self.batches += 1;
            self.readings += u64::from(batch.readings);
            self.oldest.get_or_insert(batch.received);
        } else if matches!(item, Item::Reply(_)) && state == SlotState::Idle {
            self.look_for_replies(loc.group);
        }
    }

    /// All items of a commit have been told to [`Backlog::stored`].
    pub fn commit_ends(&mut self, groups: impl IntoIterator<Item = GroupId>) {
        for id in groups {
            let Some(tracked) = self.groups.get(&id) else {
                continue;
            };
            let idle = |slot: &&Slot| slot.state == SlotState::Idle;
            let waiting = tracked.slots.iter().filter(idle);
            let batches = waiting.filter(|slot| slot.batch).count() as u64;
            if self.near_end && batches > 0 {
                self.fresh.push_back((id, batches));
            }
            self.grew = true;
            if tracked
                .slots
                .iter()
                .all(|slot| slot.state == SlotState::Idle)
            {
                self.groups.remove(&id);
                self.more = true;
            } else {
                self.more |= tracked
                    .slots
                    .iter()
                    .any(|slot| slot.state == SlotState::Idle);
                self.collect(id);
            }
        }
    }

    /// Whether to read, and from where. Notes that the read is under way.
    pub fn want_load(&mut self) -> Option<Load> {
        if self.loading.is_some() {
            return None;
        }
        if let Some(after) = self.replies_from
            && self.bytes_replies < READ_AHEAD
        {
            self.loading = Some(Reading::Replies);
            self.more_replies = false;
            let replies = true;
            return Some(Load { after, replies });
        }
        if self.more && self.bytes_on >= READ_AHEAD {
            self.near_end = false;
            self.fresh.clear();
        }
        let on = self.more && self.bytes_on < READ_AHEAD;
        let wishes = |behind: &Behind| matches!(behind.wish, Wish::Probe | Wish::All);
        if self.back.is_some() && !self.behind.values().any(wishes) {
            self.back = None;
        }
        let back = self.back.filter(|_| self.bytes_back < READ_AHEAD);
        let reading = match (on, back) {
            (false, None) => return None,
            (true, Some(_)) if self.back_had => Reading::On,
            (_, Some(_)) => Reading::Back,
            (true, None) => Reading::On,
        };
        self.back_had = reading == Reading::Back;
        self.loading = Some(reading);
        let after = if reading == Reading::On {
            self.grew = false;
            self.cursor
        } else {
            back?
        };
        let replies = false;
        Some(Load { after, replies })
    }

    /// What the read brought; `again`: it was cut short, and there may be more. Expired batches
    /// are replaced by gap records, one for each stream of a group.
    pub fn loaded(&mut self, groups: Vec<Group>, again: bool, expiry: Expiry) {
        let Some(reading) = self.loading.take() else {
            return;
        };
        let finished = std::mem::take(&mut self.finished);
        if std::mem::take(&mut self.stale) {
            return;
        }
        let end = groups.is_empty() && !again;
        if end && reading == Reading::On {
            self.more = self.grew;
            if !self.more {
                self.near_end = true;
                self.fresh.clear();
            }
        }
        if reading == Reading::Replies {
            let looks_on = !end || self.more_replies;
            self.replies_from = self.replies_from.filter(|_| looks_on);
        }
        let mut caught_up = end;
        for group in groups {
            if reading == Reading::Replies {
                self.replies_from = Some(Some(group.id));
            } else if reading == Reading::On {
                self.cursor = self.cursor.max(Some(group.id));
                while self.fresh.front().is_some_and(|(id, _)| *id <= group.id) {
                    self.fresh.pop_front();
                }
            } else if self.back.is_none() {
                break;
            } else if Some(group.id) > self.cursor {
                caught_up = true;
                break;
            } else {
                self.back = Some(Some(group.id));
                caught_up = Some(group.id) == self.cursor;
            }
            if !finished.contains(&group.id) {
                self.take_in(group, reading, &expiry);
            }
        }
        if reading == Reading::Back && caught_up {
            self.caught_up();
        }
        self.settle_counters();
        self.refresh_oldest();
    }

    /// Takes what is wanted of a group.
    fn take_in(&mut self, group: Group, reading: Reading, expiry: &Expiry) {
        let id = group.id;
        let tracked = self.groups.entry(id).or_default();
        if !tracked.fit(&group.items) {
            self.keep_ready(|loc| (loc.group != id).then_some(*loc));
        }
        let Some(tracked) = self.groups.get(&id) else {
            return;
        };
        let wanted =
            |item: &Arc<Item>| reading != Reading::Replies || matches!(**item, Item::Reply(_));
        let idle: Vec<(u32, Arc<Item>)> = (0..)
            .zip(&tracked.slots)
            .zip(group.items)
            .filter(|((_, slot), item)| slot.state == SlotState::Idle && wanted(item))
            .map(|((index, _), item)| (index, self.elsewhere.redirect(item)))
            .collect();
        let held = &self.held;
        let refused =
            |device: &Arc<str>, topic| !held.is_empty() && held.contains(&Key::new(device, topic));
        for (index, what) in expire(idle, expiry, &refused) {
            let loc = Loc { group: id, index };
            match what {
                Expired::Within(by) => self.set(loc, SlotState::Covered(by)),
                Expired::Kept(device) => self.wait_for_gap(loc, &device),
                Expired::Over(item) => {
                    self.lost.push(item);
                    self.done(loc);
                }
                Expired::Told(item) => self.make_ready(loc, item, reading),
                Expired::Published(item) => {
                    if self.wants(loc, &item, reading) {
                        self.make_ready(loc, item, reading);
                    }
                }
            }
        }
        // What is passed over altogether is as good as never read.
        let at_rest = |slot: &Slot| slot.state == SlotState::Idle;
        let tracked = self.groups.get(&id);
        if tracked.is_some_and(|tracked| tracked.slots.iter().all(at_rest)) {
            self.groups.remove(&id);
        } else {
            self.collect(id);
        }
    }

    /// Whether a reading takes this item now. If not, it is passed over.
    fn wants(&mut self, loc: Loc, item: &Item, reading: Reading) -> bool {
        if self.held.is_empty() && self.behind.is_empty() {
            return true;
        }
        let key = Key::new(item.device(), item.topic(Lane::History));
        if key.topic == Topic::Response {
            // Refused there it goes elsewhere, so it is never held.
            return true;
        }
        match (reading, self.behind.get_mut(&key)) {
            (Reading::On | Reading::Replies, None) if !self.held.contains(&key) => true,
            (Reading::On | Reading::Replies, _) => {
                self.pass_over(&key, loc.group, received(item));
                false
            }
            (Reading::Back, None) => false,
            (Reading::Back, Some(behind)) => match behind.wish {
                // What was refused last comes last.
                Wish::All => behind.tried != Some(loc),
                Wish::Probe if behind.tried.is_none_or(|tried| loc > tried) => {
                    behind.wish = Wish::Probing;
                    true
                }
                _ => false,
            },
        }
    }

    fn pass_over(&mut self, key: &Key, group: GroupId, received: Option<Moment>) {
        let wish = if self.held.contains(key) {
            Wish::None
        } else {
            Wish::All
        };
        let behind = self.behind.entry(key.clone()).or_insert(Behind {
            from: group,
            oldest: received,
            wish,
            tried: None,
            counted: GroupId(0),
        });
        if group < behind.from {
            behind.from = group;
            behind.oldest = received.or(behind.oldest);
        }
        if group >= behind.counted {
            behind.counted = group;
            self.passed
                .push((key.clone(), u64::from(received.is_some())));
        }
    }

    fn make_ready(&mut self, loc: Loc, item: Arc<Item>, by: Reading) {
        self.set(loc, SlotState::Ready);
        *self.bytes(by) += item.weight();
        let (device, cost) = (item.device().clone(), item.payload_estimate());
        let queue = match *item {
            Item::Reply(_) => &mut self.replies,
            Item::Batch(_) | Item::Gap(_) => &mut self.ready,
        };
        queue.push(&device, cost, Ready { loc, item, by });
    }

    fn bytes(&mut self, by: Reading) -> &mut usize {
        match by {
            Reading::On => &mut self.bytes_on,
            Reading::Back => &mut self.bytes_back,
            Reading::Replies => &mut self.bytes_replies,
        }
    }

    /// The reading back is where the reading on is.
    fn caught_up(&mut self) {
        self.back = None;
        let mut again = false;
        let mut nothing = Vec::new();
        for (key, behind) in &mut self.behind {
            match behind.wish {
                // But for what was refused last; or nothing comes after that: once more.
                Wish::All | Wish::Probe if behind.tried.take().is_some() => again = true,
                Wish::All => nothing.push((key.clone(), false)),
                Wish::Probe => nothing.push((key.clone(), true)),
                Wish::None | Wish::Probing => {}
            }
        }
        for (key, probed) in nothing {
            self.behind.remove(&key);
            if probed {
                self.nothing.push(key);
            }
        }
        if again {
            self.go_back();
        }
    }

    /// Sets the reading back to the first group in which it has something to look for.
    fn go_back(&mut self) {
        let wishes = self.behind.values();
        let wishes = wishes.filter(|behind| matches!(behind.wish, Wish::Probe | Wish::All));
        let Some(from) = wishes.map(|behind| behind.from).min() else {
            self.back = None;
            return;
        };
        if Some(from) > self.cursor {
            // The reading on comes by it, also where it had seen nothing left: what was published
            // from memory and is refused was not left then.
            self.more = true;
            self.grew = true;
            self.near_end = false;
            self.fresh.clear();
            self.caught_up();
            return;
        }
        let from = before(from);
        if self.back.is_none_or(|back| back > from) {
            self.back = Some(from);
            self.stale |= self.loading == Some(Reading::Back);
        }
    }

    /// The broker refuses this key: what is at hand of it goes back, and what is stored is passed
    /// over from now on.
    pub fn hold(&mut self, key: &Key) {
        self.held.insert(key.clone());
        let of_it = |ready: &Ready| ready.item.topic(Lane::History) == key.topic;
        let mut of_key = self.replies.take_of(&key.device, of_it);
        of_key.extend(self.ready.take_of(&key.device, of_it));
        for ready in of_key {
            let weight = ready.item.weight();
            *self.bytes(ready.by) -= weight;
            self.put_aside(ready.loc, &ready.item, key);
        }
        let of_it =
            |item: &Item| item.topic(Lane::History) == key.topic && item.device() == &key.device;
        for (loc, item) in std::mem::take(&mut self.first) {
            if of_it(&item) {
                self.bytes_on -= item.weight();
                match *item {
                    Item::Reply(_) => self.put_aside(loc, &item, key),
                    Item::Batch(_) | Item::Gap(_) => self.wait_for_gap(loc, &key.device),
                }
            } else {
                self.first.push_back((loc, item));
            }
        }
        if let Some(behind) = self.behind.get_mut(key) {
            behind.wish = Wish::None;
        }
    }

    /// What was at hand is not any more. `key`: of what is in its place.
    fn put_aside(&mut self, loc: Loc, item: &Item, key: &Key) {
        let stands_for_itself = self.slot(loc).is_some_and(|slot| match item {
            Item::Batch(_) => slot.batch,
            Item::Gap(_) => !slot.batch,
            Item::Reply(_) => true,
        });
        if !stands_for_itself {
            // A gap record for what is stored there, and for others of its group.
            self.uncover(loc);
            self.wait_for_gap(loc, item.device());
            return;
        }
        self.set(loc, SlotState::Idle);
        self.pass_over(key, loc.group, received(item));
    }

    /// What is there needs a gap record, and the broker refuses those of its device.
    fn wait_for_gap(&mut self, loc: Loc, device: &Arc<str>) {
        self.set(loc, SlotState::Parked);
        self.passed.push((Key::new(device, Topic::Gap), 0));
    }

    /// The gap record at this place does not go out: those in it are for themselves again.
    fn uncover(&mut self, loc: Loc) {
        let covered = SlotState::Covered(loc.index);
        if let Some(tracked) = self.groups.get_mut(&loc.group) {
            let slots = tracked.slots.iter_mut();
            slots
                .filter(|slot| slot.state == covered)
                .for_each(|slot| slot.state = SlotState::Parked);
        }
    }

    /// The broker has refused what was published from there, and its key is held. Where it may be
    /// the payload that it dislikes, the next probe is another one; else the order is kept.
    pub fn park(&mut self, loc: Loc, item: &Item, cause: Cause) {
        let key = Key::new(item.device(), item.topic(Lane::History));
        self.put_aside(loc, item, &key);
        if let Some(behind) = self.behind.get_mut(&key) {
            behind.tried = (!cause.is_of_topic()).then_some(loc);
        }
    }

    /// What was to be published from memory, or was refused as live data, is the drain's.
    pub fn give_back(&mut self, loc: Loc, item: &Item) {
        self.set(loc, SlotState::Idle);
        if matches!(item, Item::Reply(_)) {
            self.look_for_replies(loc.group);
            return;
        }
        if Some(loc.group) > self.cursor {
            self.more = true;
            self.grew = true;
            return;
        }
        let batch = self.slot(loc).is_some_and(|slot| slot.batch);
        let topic = if batch { Topic::History } else { Topic::Gap };
        let key = Key::new(item.device(), topic);
        self.pass_over(&key, loc.group, received(item));
        self.go_back();
    }

    /// Looks for one item of a key that is held. Returns whether there may be one.
    pub fn probe(&mut self, key: &Key) -> bool {
        let Some(behind) = self.behind.get_mut(key) else {
            let parked = |slot: &Slot| slot.state == SlotState::Parked;
            let mut slots = self.groups.values().flat_map(|tracked| &tracked.slots);
            if key.topic != Topic::Gap || !slots.any(parked) {
                return false;
            }
            // The records are made anew from what waits for them, until one is refused.
            self.held.remove(key);
            self.unpark();
            return true;
        };
        behind.wish = Wish::Probe;
        self.go_back();
        self.behind.contains_key(key)
    }

    /// The broker takes this key again.
    pub fn release(&mut self, key: &Key) {
        self.held.remove(key);
        if let Some(behind) = self.behind.get_mut(key) {
            behind.wish = Wish::All;
            self.go_back();
        }
        if key.topic == Topic::Gap {
            self.unpark();
        }
    }

    /// What waits for a gap record is looked at again.
    fn unpark(&mut self) {
        let mut from: Option<GroupId> = None;
        for (id, tracked) in &mut self.groups {
            for slot in &mut tracked.slots {
                if slot.state == SlotState::Parked {
                    slot.state = SlotState::Idle;
                    from = from.or(Some(*id));
                }
            }
        }
        if let Some(from) = from {
            self.read_again_from(from);
        }
    }

    fn read_again_from(&mut self, from: GroupId) {
        self.more = true;
        self.grew = true;
        if Some(from) <= self.cursor {
            self.cursor = before(from);
            self.stale |= self.loading == Some(Reading::On);
            self.near_end = false;
            self.fresh.clear();
        }
    }

    /// Whether stored batches of this device are passed over, refused or not.
    #[must_use]
    pub fn is_behind(&self, device: &Arc<str>) -> bool {
        !self.behind.is_empty() && self.behind.contains_key(&Key::new(device, Topic::History))
    }

    /// How many batches of which key were passed over since the last call.
    pub fn take_passed(&mut self) -> Vec<(Key, u64)> {
        std::mem::take(&mut self.passed)
    }

    /// Keys whose probe found nothing stored, since the last call.
    pub fn take_nothing(&mut self) -> Vec<Key> {
        std::mem::take(&mut self.nothing)
    }

    /// The next item to publish; it counts as busy from now on.
    pub fn take_next(&mut self) -> Option<(Loc, Arc<Item>)> {
        let (loc, item) = match self.first.pop_front() {
            Some((loc, item)) => {
                self.bytes_on -= item.weight();
                (loc, item)
            }
            None => {
                let next = self.replies.pop().or_else(|| self.ready.pop());
                let (_, Ready { loc, item, by }) = next?;
                *self.bytes(by) -= item.weight();
                (loc, item)
            }
        };
        self.set(loc, SlotState::Busy);
        Some((loc, item))
    }

    /// Whether an item is at hand.
    #[must_use]
    pub fn has_next(&self) -> bool {
        self.has_reply() || !self.first.is_empty() || !self.ready.is_empty()
    }

    /// Whether a final answer to a command is at hand, which waits for nothing.
    #[must_use]
    pub fn has_reply(&self) -> bool {
        !self.replies.is_empty()
    }

    /// The broker does not take answers at this topic: what is for it goes to the device's own.
    pub fn goes_elsewhere(&mut self, topic: &Arc<str>) {
        self.elsewhere.add(topic);
    }

    /// The item as it is to be published: see [`Backlog::goes_elsewhere`].
    #[must_use]
    pub fn redirect(&self, item: Arc<Item>) -> Arc<Item> {
        self.elsewhere.redirect(item)
    }

    /// Final answers that were too old, since the last call.
    pub fn take_lost(&mut self) -> Vec<Arc<Item>> {
        std::mem::take(&mut self.lost)
    }

    /// Publishes this instead of what is stored there, and before anything else.
    pub fn substitute(&mut self, loc: Loc, item: Arc<Item>) {
        let key = Key::new(item.device(), item.topic(Lane::History));
        if self.held.contains(&key) {
            match *item {
                Item::Reply(_) => self.put_aside(loc, &item, &key),
                Item::Batch(_) | Item::Gap(_) => self.wait_for_gap(loc, item.device()),
            }
            return;
        }
        self.set(loc, SlotState::Ready);
        self.bytes_on += item.weight();
        self.first.push_front((loc, item));
    }

    /// The item is PUBACKed, and with a gap record whatever is in it.
    pub fn done(&mut self, loc: Loc) {
        let Some(tracked) = self.groups.get_mut(&loc.group) else {
            return;
        };
        let covered = SlotState::Covered(loc.index);
        for (index, slot) in (0..).zip(&mut tracked.slots) {
            let this = index == loc.index && slot.state != SlotState::Done;
            if !this && slot.state != covered {
                continue;
            }
            slot.state = SlotState::Done;
            tracked.done += 1;
            if slot.batch {
                self.drained += 1;
                less(&mut self.batches, 1);
                less(&mut self.readings, slot.readings.into());
            }
        }
        self.collect(loc.group);
    }

    /// The connection ended: whatever was at hand or on its way is to be done again.
    pub fn reset(&mut self) {
        self.ready.take_all();
        self.replies.take_all();
        self.first.clear();
        (self.bytes_on, self.bytes_back, self.bytes_replies) = (0, 0, 0);
        self.replies_from = self.any_replies.then_some(None);
        let mut from = None;
        self.groups.retain(|id, tracked| {
            for slot in &mut tracked.slots {
                if !matches!(slot.state, SlotState::Done | SlotState::Idle) {
                    slot.state = SlotState::Idle;
                    from = from.or(Some(*id));
                }
            }
            self.more |= tracked.done < tracked.slots.len();
            tracked.done > 0
        });
        if let Some(from) = from {
            self.read_again_from(from);
        }
        self.stale |= self.loading.is_some();
        for (key, behind) in &mut self.behind {
            behind.wish = if self.held.contains(key) {
                Wish::None
            } else {
                Wish::All
            };
        }
        self.back = None;
        self.go_back();
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
        let stays = |loc: &Loc| !range.contains(&loc.group);
        self.keep_ready(|loc| stays(loc).then_some(*loc));
        self.deletable.retain(|id| !range.contains(id));
        self.given_up(batches, readings, &done);
    }

    /// Keeps what is at hand of the places that there still are.
    fn keep_ready(&mut self, place: impl Fn(&Loc) -> Option<Loc>) {
        let keeps = |ready: &mut Ready| {
            let to = place(&ready.loc);
            ready.loc = to.unwrap_or(ready.loc);
            to.is_some()
        };
        let mut gone = self.replies.retain_mut(keeps);
        gone.extend(self.ready.retain_mut(keeps));
        for gone in gone {
            *self.bytes(gone.by) -= gone.item.weight();
        }
        for (loc, item) in std::mem::take(&mut self.first) {
            match place(&loc) {
                Some(to) => self.first.push_back((to, item)),
                None => self.bytes_on -= item.weight(),
            }
        }
    }

    /// The store took items out of groups, so many batches and readings in all.
    pub fn compacted(&mut self, moved: &Moved, batches: u64, readings: u64) {
        let mut done = Done::default();
        let mut again: Option<GroupId> = None;
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
                    tracked.done -= usize::from(slot.state == SlotState::Done);
                }
                kept
            });
            for slot in &mut tracked.slots {
                let SlotState::Covered(index) = slot.state else {
                    continue;
                };
                let record = moved.to(Loc { group: id, index });
                slot.state = record.map_or(SlotState::Idle, |to| SlotState::Covered(to.index));
                if record.is_none() {
                    // Its record is about what is gone, and another one is needed.
                    again = Some(again.map_or(id, |known| known.min(id)));
                }
            }
            if tracked.slots.is_empty() {
                self.groups.remove(&id);
            } else {
                self.collect(id);
            }
        }
        self.keep_ready(|loc| moved.to(*loc));
        if let Some(from) = again {
            self.read_again_from(from);
            self.stale |= self.loading.is_some();
        }
        self.given_up(batches, readings, &done);
    }

    /// So many were given up, of which some were done before and not counted any more.
    fn given_up(&mut self, batches: u64, readings: u64, done: &Done) {
        less(&mut self.batches, batches.saturating_sub(done.batches));
        less(&mut self.readings, readings.saturating_sub(done.readings));
        // The gap records, at least.
        self.more = true;
        self.grew = true;
        self.refresh_oldest();
    }

    /// Groups that are done, to be deleted; each is told once.
    pub fn take_deletable(&mut self) -> Vec<GroupId> {
        std::mem::take(&mut self.deletable)
    }

    /// Whether everything that is stored, but for what is passed over, is at hand in memory,
    /// published or done.
    #[must_use]
    pub fn all_at_hand(&self) -> bool {
        !self.more && self.loading != Some(Reading::On)
    }

    /// How many batches have to go out before a new one may, in order; not less, as far as is
    /// known. What the broker refuses is not waited for.
    #[must_use]
    pub fn ahead(&self) -> u64 {
        if !self.near_end {
            return self.batches;
        }
        let fresh: u64 = self.fresh.iter().map(|(_, batches)| batches).sum();
        (self.ready.len() as u64 + fresh).min(self.batches)
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

    fn slot(&self, loc: Loc) -> Option<&Slot> {
        let tracked = self.groups.get(&loc.group)?;
        tracked.slots.get(loc.index as usize)
    }

    fn set(&mut self, loc: Loc, state: SlotState) {
        if let Some(tracked) = self.groups.get_mut(&loc.group) {
            tracked.set(loc.index, state);
        }
    }

    fn collect(&mut self, id: GroupId) {
        let over = |tracked: &Tracked| tracked.done == tracked.slots.len();
        if self.groups.get(&id).is_some_and(over) {
            self.groups.remove(&id);
            self.deletable.push(id);
            if self.loading.is_some() {
                self.finished.push(id);
            }
            self.settle_counters();
        }
    }

    /// Counters follow what was announced; a group that turned out damaged held other numbers.
    /// Once nothing is left they are exact again.
    fn settle_counters(&mut self) {
        let nothing = self.all_at_hand()
            && self.loading.is_none()
            && self.groups.is_empty()
            && !self.has_next()
            && self.behind.is_empty();
        if nothing {
            (self.batches, self.readings, self.oldest) = (0, 0, None);
        }
    }

    fn refresh_oldest(&mut self) {
        let heads = self.ready.heads();
        let heads = heads.filter_map(|ready| Some((ready.loc.group, received(&ready.item)?)));
        let behind = self.behind.values();
        let behind = behind.filter_map(|behind| Some((behind.from, behind.oldest?)));
        let oldest = heads.chain(behind).min_by_key(|(group, _)| *group);
        if let Some((_, oldest)) = oldest {
            self.oldest = Some(oldest);
        }
    }

    /// Panics when a sum is not the sum of its parts.
    pub fn check(&self) {
        self.ready.check();
        self.replies.check();
        let bytes = |by| {
            let items = self.ready.iter().chain(self.replies.iter());
            let items = items.filter(|(_, ready)| ready.by == by);
            items.map(|(_, ready)| ready.item.weight()).sum::<usize>()
        };
        let first: usize = self.first.iter().map(|(_, item)| item.weight()).sum();
        assert_eq!(self.bytes_on, bytes(Reading::On) + first, "bytes read");
        assert_eq!(self.bytes_back, bytes(Reading::Back), "bytes read back");
        let replies = bytes(Reading::Replies);
        assert_eq!(self.bytes_replies, replies, "bytes of answers");
        let mut at_hand = 0;
        for (id, tracked) in &self.groups {
            let of = |state| {
                tracked
                    .slots
                    .iter()
                    .filter(|slot| slot.state == state)
                    .count()
            };
            assert_eq!(tracked.done, of(SlotState::Done), "done of group {id}");
            at_hand += of(SlotState::Ready);
        }
        let here = self.ready.len() + self.replies.len() + self.first.len();
        assert_eq!(at_hand, here, "at hand");
        for (key, behind) in &self.behind {
            let held = self.held.contains(key);
            assert_eq!(held, behind.wish != Wish::All, "{key:?} is {behind:?}");
        }
    }
}
