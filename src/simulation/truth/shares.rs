//! Who loses what when the spool is full, seen from outside.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use super::super::trace::Uid;
use super::{Broken, Truth, uid_of};
use crate::reading::{Gap, GapReason, Item};
use crate::spool::Event;

/// What the spool holds, as far as it was synced, and was not deleted or given up.
#[derive(Debug, Default)]
pub(in crate::simulation) struct Held {
    groups: BTreeMap<u64, Vec<Arc<Item>>>,
    /// Every group there has been.
    seen: HashSet<u64>,
}

impl Held {
    /// One that is stored again, in another place, is what it was or less: it may have been given
    /// up meanwhile.
    pub(in crate::simulation) fn stored(&mut self, group: u64, items: &[Arc<Item>]) {
        if self.seen.insert(group) {
            self.groups.insert(group, items.to_vec());
        }
    }

    pub(in crate::simulation) fn deleted(&mut self, group: u64) {
        self.groups.remove(&group);
    }

    fn items(&self) -> impl Iterator<Item = &Arc<Item>> {
        self.groups.values().flatten()
    }

    /// Takes out what was given up.
    fn give_up(&mut self, event: &Event) -> Vec<Arc<Item>> {
        let mut gone = Vec::new();
        match event {
            Event::Dropped { from, upto, .. } => {
                self.groups.retain(|id, items| {
                    let goes = (from.0..=upto.0).contains(id);
                    if goes {
                        gone.append(items);
                    }
                    !goes
                });
            }
            Event::Compacted { groups, .. } => {
                for compacted in groups {
                    let Some(items) = self.groups.get_mut(&compacted.group.0) else {
                        continue;
                    };
                    let mut at = 0;
                    items.retain(|item| {
                        let goes = compacted.gone.contains(&at);
                        at += 1;
                        if goes {
                            gone.push(item.clone());
                        }
                        !goes
                    });
                }
            }
            _ => {}
        }
        gone
    }
}

/// What one command to a disk in order has cost.
#[derive(Debug, Default)]
pub(in crate::simulation) struct Lost {
    uids: Vec<Uid>,
    /// Batches in gap records that went along, and are in new ones now.
    told_before: u64,
    /// The second time records of the first may go, into new ones.
    times: u64,
}

fn shares<'a>(items: impl Iterator<Item = &'a Arc<Item>>) -> HashMap<Arc<str>, u64> {
    let mut shares: HashMap<Arc<str>, u64> = HashMap::new();
    for item in items {
        if let Item::Batch(batch) = &**item {
            *shares.entry(batch.device.clone()).or_default() += item.weight() as u64;
        }
    }
    shares
}

impl Truth {
    /// The spool has given something up.
    pub(in crate::simulation) fn given_up(
        &mut self,
        event: &Event,
        lost: &mut Lost,
    ) -> Result<(), Broken> {
        let (Event::Dropped { batches, .. } | Event::Compacted { batches, .. }) = event else {
            return Ok(());
        };
        let before = shares(self.held.items());
        let gone = self.held.give_up(event);
        for item in &gone {
            if let Item::Reply(reply) = &**item {
                self.answers.excuse(&reply.payload);
            }
        }
        let uids: Vec<Uid> = gone
            .iter()
            .filter_map(|item| match &**item {
                Item::Batch(batch) => uid_of(&batch.frame),
                Item::Gap(_) | Item::Reply(_) => None,
            })
            .collect();
        if self.disturbed.disk || self.disturbed.marks {
            return Ok(());
        }
        lost.times += 1;
        lost.told_before += gone.iter().map(|item| told_before(item)).sum::<u64>();
        if uids.len() as u64 != *batches {
            return Err(format!(
                "P3: {} batches are given up, {batches} are told",
                uids.len()
            ));
        }
        lost.uids.extend(uids);
        if self.fair {
            fair(&before, &shares(gone.iter()))?;
        }
        Ok(())
    }

    /// P3: all of it is in gap records that were just stored, of so many batches in all.
    pub(in crate::simulation) fn all_in_gaps(&mut self, lost: &Lost, told: u64) {
        if lost.uids.is_empty() {
            return;
        }
        let uncovered = |uid: &&Uid| !self.gone(&self.facts[**uid as usize], false);
        let batches = lost.uids.len() as u64;
        if let Some(uid) = lost.uids.iter().find(uncovered) {
            self.remember(format!(
                "P3: batch {uid} is given up, and no gap record says so: {:?}",
                self.facts[*uid as usize]
            ));
        } else if told < batches + lost.told_before
            || lost.times == 1 && told > batches + lost.told_before
        {
            self.remember(format!(
                "P3: {batches} batches are given up, and records of {}; the new records say {told}",
                lost.told_before
            ));
        }
    }
}

/// Whether it was made for want of room, or for age after a refusal, which is not told apart.
pub(in crate::simulation) fn for_room(gap: &Gap) -> bool {
    matches!(gap.reason, GapReason::Overflow | GapReason::Refused)
}

/// Batches that this record says were given up earlier.
fn told_before(item: &Item) -> u64 {
    match item {
        Item::Gap(gap) if for_room(gap) => gap.batches,
        _ => 0,
    }
}

/// A device loses something only while the devices with more than twice its share hold less than
/// a third of the spool. The spool counts a little differently, so this leaves a tenth.
fn fair(before: &HashMap<Arc<str>, u64>, gone: &HashMap<Arc<str>, u64>) -> Result<(), Broken> {
    let all: u64 = before.values().sum();
    for device in gone.keys() {
        let share = before[device];
        let larger: u64 = before
            .values()
            .filter(|more| **more * 10 > share * 22)
            .sum();
        if larger * 10 > all * 4 {
            return Err(format!(
                "fairness: {device} with {share} bytes loses {} while others have {larger} of \
                 {all}: {before:?}",
                gone[device]
            ));
        }
    }
    Ok(())
}
