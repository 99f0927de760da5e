//! Who pays when the spool is full.
//!
//! Pure: how many bytes of each device are in each segment goes in, which segments are to be
//! rewritten without whose batches comes out. The rule, in this order:
//!
//! 1. The devices with the largest shares pay. As few of them as there must be for one segment
//!    to be found in which they make up a third: rewriting it then frees at least half as much as
//!    it writes.
//! 2. A device with at least half the share of the smallest of these, and nothing older, pays as
//!    well: nobody is spared for being a few bytes smaller. When all devices have about the same
//!    share, all pay, and the oldest segment goes as a whole, which costs no writing at all.
//! 3. Of the segments in which they make up a third, the oldest pays.
//!
//! From this follow the two bounds that the tests hold. *Writing*: at most two bytes are written
//! for each byte that is freed, whatever the devices do. *Unfairness*: a device loses something
//! only while the devices with more than twice its share hold less than a third of the spool
//! together; had they more, some segment would be a third theirs, and it would have paid. A
//! device loses its oldest first, but for what lies so thinly among the batches of others that
//! taking it out does not pay.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;

/// Bytes that a rewrite may write for each byte that it frees. One would ask for segments that
/// are half one device's, and let two devices with a quarter each push out everyone else.
const KEPT_PER_FREED: u64 = 2;

/// Devices whose shares differ by less than this factor are equally to blame.
const ALIKE: u64 = 2;

/// What a segment holds.
#[derive(Debug, Clone, Default)]
pub(super) struct Part {
    /// Bytes of batches, each device once.
    pub(super) shares: Vec<(Arc<str>, u64)>,
    /// Bytes that stay in any case: gap records.
    pub(super) rest: u64,
}

impl Part {
    fn bytes(&self) -> u64 {
        self.shares.iter().map(|(_, bytes)| bytes).sum()
    }

    fn without(&self, victims: &HashSet<Arc<str>>) -> u64 {
        let others = self.shares.iter().filter(|(id, _)| !victims.contains(id));
        others.map(|(_, bytes)| bytes).sum()
    }
}

/// What has to go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Cut {
    /// The segment that pays.
    pub(super) at: usize,
    /// It, and smaller ones before it that become one with it.
    pub(super) run: Range<usize>,
    /// The devices whose batches are left out.
    pub(super) victims: HashSet<Arc<str>>,
    /// Bytes of batches that go.
    pub(super) freed: u64,
    /// Bytes of batches that stay, to be written again.
    pub(super) kept: u64,
    /// Bytes of gap records, which stay as well.
    pub(super) rest: u64,
}

/// Decides. `parts`: oldest first. `largest`: bytes of one segment at most. `overhead`: what a
/// segment costs beside its content; rewriting so much to have one less is worth it.
///
/// `None`: there are no batches in any of them.
pub(super) fn cut(parts: &[Part], largest: u64, overhead: u64) -> Option<Cut> {
    let mut totals: HashMap<&Arc<str>, u64> = HashMap::new();
    for (device, bytes) in parts.iter().flat_map(|part| &part.shares) {
        *totals.entry(device).or_default() += bytes;
    }
    let mut devices: Vec<(&Arc<str>, u64)> = totals.into_iter().collect();
    devices.sort_unstable_by_key(|(device, bytes)| (Reverse(*bytes), *device));
    let ranks: HashMap<&Arc<str>, usize> =
        (0..).zip(&devices).map(|(at, (id, _))| (*id, at)).collect();
    // The first of equals is the oldest.
    let (needed, at) = (0..parts.len())
        .filter_map(|at| Some((needed(&parts[at], &ranks)?, at)))
        .min()?;
    let least = devices[needed].1.div_ceil(ALIKE);
    let older = parts[..at].iter().flat_map(|part| &part.shares);
    let older: HashSet<&Arc<str>> = older
        .filter(|(_, bytes)| *bytes > 0)
        .map(|(id, _)| id)
        .collect();
    let victims: HashSet<Arc<str>> = (0..)
        .zip(&devices)
        .take_while(|(_, (_, bytes))| *bytes >= least)
        .filter(|(rank, (device, _))| *rank <= needed || !older.contains(device))
        .map(|(_, (device, _))| (*device).clone())
        .collect();
    let mut cut = Cut {
        at,
        run: at..at + 1,
        freed: 0,
        kept: 0,
        rest: 0,
        victims,
    };
    cut.take(&parts[at]);
    while cut.kept > 0 && cut.run.start > 0 {
        let mut more = cut.clone();
        more.run.start -= 1;
        more.take(&parts[more.run.start]);
        let added = more.kept - cut.kept;
        // Only what is not much larger than what is written anyway, or it would be written time
        // and again.
        let worth = added <= cut.kept + overhead;
        let fits = more.kept + more.rest <= largest;
        if !worth || !fits || more.kept > KEPT_PER_FREED * more.freed {
            break;
        }
        cut = more;
    }
    Some(cut)
}

impl Cut {
    fn take(&mut self, part: &Part) {
        let kept = part.without(&self.victims);
        self.kept += kept;
        self.freed += part.bytes() - kept;
        self.rest += part.rest;
    }
}

/// The rank up to which devices have to pay for this segment to be worth a rewrite.
fn needed(part: &Part, ranks: &HashMap<&Arc<str>, usize>) -> Option<usize> {
    let enough = part.bytes().div_ceil(KEPT_PER_FREED + 1);
    let mut shares: Vec<(usize, u64)> = part
        .shares
        .iter()
        .map(|(device, bytes)| (ranks[device], *bytes))
        .collect();
    shares.sort_unstable();
    let mut sum = 0;
    shares.into_iter().find_map(|(rank, bytes)| {
        sum += bytes;
        (sum > 0 && sum >= enough).then_some(rank)
    })
}

#[cfg(test)]
#[path = "fairness_tests.rs"]
mod tests;
