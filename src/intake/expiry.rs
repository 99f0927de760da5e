//! What becomes of batches that are too old. Pure.

use std::sync::Arc;

use crate::reading::{Gap, GapReason, Item, Moment, Topic};

/// Which stored batches are too old: those of a known age, see [`Moment::age`].
#[derive(Debug, Clone, Copy)]
pub struct Expiry {
    /// Now.
    pub now: Moment,
    /// Seconds.
    pub max_age: f64,
}

impl Expiry {
    fn is_over(&self, since: &Moment) -> bool {
        let age = since.age(&self.now);
        age.is_some_and(|age| age > self.max_age)
    }
}

/// What becomes of an item that is to be published.
pub(super) enum Expired {
    /// It is not too old.
    Published(Arc<Item>),
    /// This gap record goes in its place.
    Told(Arc<Item>),
    /// It is in the gap record at this index.
    Within(u32),
    /// It is too old, and the broker refuses the gap record: it stays.
    Kept(Arc<str>),
    /// It is too old, and no gap record speaks of its kind.
    Over(Arc<Item>),
}

/// Replaces expired batches: the first of each stream by the gap of all of them. The others are
/// within that, and done when it is. `refused`: whether the broker refuses this topic of a device.
/// What it refused until it was too old has that as its reason.
pub(super) fn expire(
    items: Vec<(u32, Arc<Item>)>,
    expiry: &Expiry,
    refused: &impl Fn(&Arc<str>, Topic) -> bool,
) -> Vec<(u32, Expired)> {
    let mut gaps: Vec<(usize, u32, Gap)> = Vec::new();
    let mut outcome: Vec<_> = Vec::with_capacity(items.len());
    for (index, item) in items {
        let what = match &*item {
            Item::Batch(batch) if expiry.is_over(&batch.received) => {
                let history = refused(&batch.device, Topic::History);
                if refused(&batch.device, Topic::Gap) {
                    // Refused altogether it is passed over like what is younger.
                    let what = if history {
                        Expired::Published(item.clone())
                    } else {
                        Expired::Kept(batch.device.clone())
                    };
                    outcome.push((index, what));
                    continue;
                }
                let reason = if history {
                    GapReason::Refused
                } else {
                    GapReason::Expired
                };
                let gap = Gap::of(batch, reason, expiry.now);
                let known = gaps
                    .iter_mut()
                    .find_map(|(_, by, known)| known.merge(&gap).then_some(*by));
                match known {
                    Some(by) => Expired::Within(by),
                    None => {
                        gaps.push((outcome.len(), index, gap));
                        Expired::Published(item.clone())
                    }
                }
            }
            Item::Reply(reply) if expiry.is_over(&reply.made) => Expired::Over(item),
            _ => Expired::Published(item),
        };
        outcome.push((index, what));
    }
    for (at, _, gap) in gaps {
        outcome[at].1 = Expired::Told(Arc::new(Item::Gap(gap)));
    }
    outcome
}
