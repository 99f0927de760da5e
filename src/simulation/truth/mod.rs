//! What really happened to every batch, seen from outside, and whether the promises were kept.

pub(super) mod answers;
pub(super) mod shares;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bytes::Bytes;

use super::trace::Uid;
use crate::reading::{Gap, GapReason, Item};
use crate::spool::simulated::{Stored, is_unknown};
use answers::Answers;
use shares::{Held, for_room};

/// A promise that was broken, in words.
pub(super) type Broken = String;

/// A connection of the uplink: run and number.
pub(super) type Link = (u64, u64);

/// One batch.
#[derive(Debug, Clone, Default)]
pub(super) struct Fact {
    pub(super) stream: usize,
    pub(super) seq: u64,
    pub(super) readings: u64,
    pub(super) taken: bool,
    /// The run that took it first.
    pub(super) taken_by: u64,
    pub(super) acked: bool,
    /// Whether the broker has it.
    arrived: bool,
    /// Whether the broker has said so.
    pubacked: bool,
    /// In which run the hub has heard that.
    heard: Option<u64>,
    /// Where it was published last.
    published: Option<Link>,
    synced: bool,
    /// A group with it was damaged by the world.
    hit: bool,
    /// It was in the newest segment.
    newest: bool,
    /// And the power went after that: nobody knows any more that it was there.
    forgotten: bool,
}

/// One stream of one device.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) device: usize,
    pub(super) name: Arc<str>,
    /// Ascending.
    batches: Vec<(u64, Uid)>,
    acked_to: u64,
    /// The same since the last crash.
    acked_since: u64,
    /// The newest that came first by each lane.
    newest: [u64; 2],
    /// Something of its device was refused: what is tried first after that may be any.
    refused: bool,
}

/// What a gap record says, for comparing; not its time, which may be corrected later.
type Words = (
    Arc<str>,
    Arc<str>,
    Option<u64>,
    Option<u64>,
    u64,
    u64,
    GapReason,
);

fn words(gap: &Gap) -> Words {
    (
        gap.device.clone(),
        gap.stream.clone(),
        gap.from,
        gap.to,
        gap.batches,
        gap.readings,
        gap.reason,
    )
}

#[derive(Debug, Clone, Default)]
struct GapFact {
    arrived: bool,
    pubacked: bool,
    /// A group with it was damaged by the world.
    hit: bool,
}

/// How far the numbers of gap records can be trusted to the last.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Disturbed {
    /// Something was damaged, or crashed, or a commit failed: the same batch may be stored twice.
    pub(super) disk: bool,
    /// A disk hung or failed: batches went past it.
    pub(super) order: bool,
    /// Reads failed for a while: what had to make way then may have been unknown.
    pub(super) unreadable: bool,
    /// The disk failed: marks may not have been written.
    pub(super) marks: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Truth {
    pub(super) facts: Vec<Fact>,
    pub(super) streams: Vec<Stream>,
    names: HashMap<(usize, Arc<str>), usize>,
    gaps: HashMap<Words, GapFact>,
    /// In the order in which they were first seen.
    gap_list: Vec<(Gap, Words)>,
    /// What is in each group that was stored.
    groups: HashMap<u64, Vec<Arc<Item>>>,
    pub(super) held: Held,
    pub(super) answers: Answers,
    /// There is room to be fair: see `spool::space`.
    pub(super) fair: bool,
    /// Batches in gap records for lack of room that were stored.
    pub(super) in_gaps: u64,
    pub(super) disturbed: Disturbed,
    pub(super) arrived: u64,
    pub(super) again: u64,
    pub(super) stored_groups: u64,
    /// Broken where it could not be said at once.
    pub(super) broken: Option<Broken>,
    /// The last run ended in order: devices must not be asked for what was acked.
    in_order: bool,
    /// The power went, and no hub has looked at the disk since.
    cut_off: bool,
    /// As it was before the present hub had its look.
    was_cut_off: bool,
    /// Everything was out, and the hub was stopped in order: nothing may come again.
    drained: bool,
}

/// The number of a batch, which is also its value.
pub(super) fn uid_of(json: &[u8]) -> Option<Uid> {
    let at = json.windows(4).position(|part| part == b"\"v\":")? + 4;
    let digits = json[at..].iter().take_while(|byte| byte.is_ascii_digit());
    let text: String = digits.map(|byte| char::from(*byte)).collect();
    text.parse().ok()
}

impl Truth {
    pub(super) fn stream(&mut self, device: usize, name: &Arc<str>) -> usize {
        let next = self.streams.len();
        let index = *self.names.entry((device, name.clone())).or_insert(next);
        if index == next {
            self.streams.push(Stream {
                device,
                name: name.clone(),
                batches: Vec::new(),
                acked_to: 0,
                acked_since: 0,
                newest: [0; 2],
                refused: false,
            });
        }
        index
    }

    /// A device has made a batch.
    pub(super) fn made(&mut self, stream: usize, seq: u64, readings: u64) -> Uid {
        let uid = self.facts.len() as u64;
        self.facts.push(Fact {
            stream,
            seq,
            readings,
            ..Fact::default()
        });
        self.streams[stream].batches.push((seq, uid));
        uid
    }

    pub(super) fn fact(&mut self, uid: Uid) -> &mut Fact {
        &mut self.facts[uid as usize]
    }

    /// Whose it is.
    pub(super) fn device(&self, uid: Uid) -> usize {
        self.streams[self.facts[uid as usize].stream].device
    }

    fn covers(&self, gap: &Gap, fact: &Fact) -> bool {
        let stream = &self.streams[fact.stream];
        device_of(&gap.device) == Some(stream.device)
            && *gap.stream == *stream.name
            && gap.from.is_some_and(|from| from <= fact.seq)
            && gap.to.is_some_and(|to| to >= fact.seq)
    }

    /// Whether a gap record that is safe itself says that this batch is gone.
    pub(super) fn gone(&self, fact: &Fact, arrived: bool) -> bool {
        self.gap_list.iter().any(|(gap, words)| {
            let state = &self.gaps[words];
            (state.arrived || !arrived) && self.covers(gap, fact)
        })
    }

    fn is_safe(&self, fact: &Fact) -> bool {
        fact.pubacked || fact.synced || self.gone(fact, false) || (fact.hit && self.unknown(false))
    }

    fn unknown(&self, arrived: bool) -> bool {
        let mut unknown = self.gap_list.iter().filter(|(gap, _)| is_unknown(gap));
        unknown.any(|(_, words)| !arrived || self.gaps[words].arrived)
    }

    /// P1: the hub says that everything up to `seq` is safe.
    pub(super) fn told_safe(&mut self, stream: usize, seq: u64) -> Result<(), Broken> {
        let since = &mut self.streams[stream].acked_since;
        *since = seq.max(*since);
        let from = self.streams[stream].acked_to;
        if seq <= from {
            return Ok(());
        }
        let batches = &self.streams[stream].batches;
        let begin = batches.partition_point(|(known, _)| *known <= from);
        let end = batches.partition_point(|(known, _)| *known <= seq);
        if batches.last().is_none_or(|(last, _)| *last < seq) {
            return Err(format!("P1: {seq} is acked, which was never sent"));
        }
        for at in begin..end {
            let uid = self.streams[stream].batches[at].1;
            let fact = &self.facts[uid as usize];
            if !self.is_safe(fact) {
                return Err(format!(
                    "P1: batch {uid} (number {} of stream {stream}) is acked with {seq}, and is \
                     neither PUBACKed nor synced: {fact:?}",
                    fact.seq
                ));
            }
            self.fact(uid).acked = true;
        }
        self.streams[stream].acked_to = seq;
        Ok(())
    }

    /// The run of the hub ended in order.
    pub(super) fn stopped(&mut self) {
        self.in_order = true;
    }

    /// It ended in any other way.
    pub(super) fn crashed(&mut self, power: bool) {
        (self.in_order, self.drained) = (false, false);
        self.cut_off |= power;
        if power && self.facts.iter().any(|fact| fact.newest) {
            for fact in &mut self.facts {
                fact.forgotten |= fact.newest;
            }
        }
        for stream in &mut self.streams {
            stream.acked_since = 0;
        }
    }

    /// Another run begins.
    pub(super) fn starts(&mut self) {
        if !self.in_order {
            for stream in &mut self.streams {
                // What was on its way to the disk comes again as live data, behind newer ones.
                stream.newest[1] = 0;
            }
        }
    }

    /// The hub has looked at its spool, or tried to.
    pub(super) fn looks(&mut self, could: bool) {
        if could {
            self.was_cut_off = std::mem::take(&mut self.cut_off);
        } else {
            self.cut_off = self.was_cut_off;
        }
    }

    /// Everything is out.
    pub(super) fn drained(&mut self) {
        self.drained = true;
    }

    pub(super) fn remember(&mut self, broken: Broken) {
        self.broken.get_or_insert(broken);
    }

    /// P4: a stream is resumed. After a stop in order nothing acked is asked for again.
    pub(super) fn resumes(&self, stream: usize, safe: u64) -> Result<(), Broken> {
        let acked = self.streams[stream].acked_since;
        if self.in_order && safe < acked && !self.disturbed.marks {
            return Err(format!(
                "P4: after a stop in order stream {stream} resumes at {safe}, it was acked to {acked}"
            ));
        }
        Ok(())
    }

    pub(super) fn has_arrived(&self, uid: Uid) -> bool {
        self.facts[uid as usize].arrived
    }

    /// The world has damaged a group with these items.
    pub(super) fn damaged(&mut self, items: &[Arc<Item>], newest: bool) {
        self.disturbed.disk = true;
        let cut_off = self.cut_off;
        for item in items {
            let hit: Vec<Uid> = match &**item {
                Item::Batch(batch) => uid_of(&batch.frame).into_iter().collect(),
                // Those whose loss it tells of.
                Item::Gap(gap) => {
                    self.gap(gap).hit = true;
                    let covered = |uid: &Uid| self.covers(gap, &self.facts[*uid as usize]);
                    (0..self.facts.len() as u64).filter(covered).collect()
                }
                Item::Reply(reply) => {
                    self.answers.excuse(&reply.payload);
                    Vec::new()
                }
            };
            for uid in hit {
                let fact = self.fact(uid);
                fact.hit = true;
                fact.newest |= newest;
                fact.forgotten |= newest && cut_off;
            }
        }
    }

    /// A group has reached the medium.
    pub(super) fn stored(&mut self, stored: Stored) {
        self.stored_groups += 1;
        let new = !self.groups.contains_key(&stored.id);
        for item in &stored.items {
            match &**item {
                Item::Batch(batch) => {
                    if let Some(uid) = uid_of(&batch.frame) {
                        let fact = self.fact(uid);
                        fact.synced = true;
                    }
                }
                Item::Gap(gap) => {
                    self.gap(gap);
                    if new && for_room(gap) {
                        self.in_gaps += gap.batches;
                    }
                }
                Item::Reply(reply) => self.answers.synced(&reply.payload),
            }
        }
        self.held.stored(stored.id, &stored.items);
        if !stored.items.is_empty() {
            self.groups.insert(stored.id, stored.items);
        }
    }

    fn gap(&mut self, gap: &Gap) -> &mut GapFact {
        let words = words(gap);
        if !self.gaps.contains_key(&words) {
            self.gap_list.push((gap.clone(), words.clone()));
        }
        self.gaps.entry(words).or_default()
    }

    /// P2: the hub deletes a group.
    pub(super) fn deletes(&mut self, id: u64) -> Result<(), Broken> {
        self.held.deleted(id);
        let Some(items) = self.groups.get(&id) else {
            return Ok(());
        };
        for item in items {
            match &**item {
                Item::Batch(batch) => {
                    let Some(uid) = uid_of(&batch.frame) else {
                        continue;
                    };
                    let fact = &self.facts[uid as usize];
                    let replaced = self
                        .gap_list
                        .iter()
                        .any(|(gap, words)| self.gaps[words].pubacked && self.covers(gap, fact));
                    if !fact.pubacked && !replaced && !fact.hit {
                        return Err(format!(
                            "P2: group {id} is deleted, but batch {uid} in it was not PUBACKed: \
                             {fact:?}"
                        ));
                    }
                }
                Item::Gap(gap) => {
                    let state = self.gaps.get(&words(gap));
                    if !state.is_some_and(|state| state.pubacked || state.hit) {
                        return Err(format!(
                            "P2: group {id} is deleted, but its gap record was not PUBACKed: \
                             {gap:?}"
                        ));
                    }
                }
                Item::Reply(reply) => self.answers.deleted(&reply.payload)?,
            }
        }
        Ok(())
    }

    /// P4 and order: a batch reaches the broker.
    pub(super) fn arrives(
        &mut self,
        uid: Uid,
        link: Link,
        live: bool,
        payload: &Told,
    ) -> Result<(), Broken> {
        let Some(fact) = self.facts.get(uid as usize).cloned() else {
            return Err(format!("P3: batch {uid} was never made"));
        };
        let stream = &mut self.streams[fact.stream];
        let right = payload.device == Some(stream.device)
            && payload.stream == &*stream.name
            && payload.seq == Some(fact.seq);
        if !right {
            return Err(format!("batch {uid} does not arrive as taken: {payload:?}"));
        }
        if !fact.taken {
            return Err(format!("batch {uid} arrives, but was never taken"));
        }
        if self.drained {
            return Err(format!(
                "P4: batch {uid} comes again after a new start of an empty hub"
            ));
        }
        // What an earlier run had written may not have been readable when this one began.
        let unread = self.disturbed.marks && fact.taken_by < link.0;
        if fact.published == Some(link) && !unread {
            return Err(format!(
                "P4: batch {uid} is published twice on one connection"
            ));
        }
        if fact.heard == Some(link.0) && !unread {
            return Err(format!(
                "P4: batch {uid} is published again after its PUBACK, without a crash: {fact:?}"
            ));
        }
        if !fact.arrived {
            let newest = &mut stream.newest[usize::from(live)];
            if *newest > fact.seq && !self.disturbed.order && !stream.refused {
                return Err(format!(
                    "order: number {} of stream {} comes after {newest} (live: {live})",
                    fact.seq, fact.stream
                ));
            }
            *newest = fact.seq.max(*newest);
            self.arrived += 1;
        } else {
            self.again += 1;
        }
        let fact = self.fact(uid);
        fact.arrived = true;
        fact.published = Some(link);
        Ok(())
    }

    /// The broker has refused something of this device.
    pub(super) fn refused(&mut self, device: usize) {
        let streams = self.streams.iter_mut();
        streams
            .filter(|stream| stream.device == device)
            .for_each(|stream| stream.refused = true);
    }

    pub(super) fn gap_arrives(&mut self, gap: &Gap) {
        self.gap(gap).arrived = true;
    }

    /// The broker has sent a PUBACK.
    pub(super) fn pubacked(&mut self, what: &Publish) {
        match what {
            Publish::Batch(uid) => self.fact(*uid).pubacked = true,
            Publish::Gap(gap) => self.gap(gap).pubacked = true,
            Publish::Answer { payload, .. } => self.answers.pubacked(payload),
            Publish::Status => {}
        }
    }

    /// The hub has heard it.
    pub(super) fn heard(&mut self, what: &Publish, run: u64) {
        if let Publish::Batch(uid) = what {
            self.fact(*uid).heard = Some(run);
        }
    }

    /// Batches that were acked and have not arrived, by what a reader of the broker can tell.
    pub(super) fn missing(&self) -> Vec<Uid> {
        let facts = self.facts.iter().enumerate();
        facts
            .filter(|(_, fact)| fact.acked && !fact.arrived)
            .filter(|(_, fact)| !fact.forgotten && !self.gone(fact, true))
            .filter(|(_, fact)| !((fact.hit || self.disturbed.unreadable) && self.unknown(true)))
            .map(|(uid, _)| uid as u64)
            .collect()
    }

    /// Commands of which an answer was called safe that has not arrived.
    pub(super) fn missing_answers(&self) -> Vec<usize> {
        self.answers.missing()
    }

    /// P4: an answer reaches the broker.
    pub(super) fn answer_arrives(&mut self, payload: &Bytes, link: Link) -> Result<(), Broken> {
        if self.drained {
            return Err("P4: an answer comes after a new start of an empty hub".into());
        }
        self.answers.arrives(payload, link)
    }

    /// P3 at the end: everything acked has arrived or is in a gap record with the right numbers.
    pub(super) fn verdict(&self) -> Result<(), Broken> {
        if let Some(broken) = &self.broken {
            return Err(broken.clone());
        }
        if let Some(which) = self.missing_answers().first() {
            return Err(format!(
                "P1: the answer to command {which} was called safe, and has not arrived"
            ));
        }
        if let Some(uid) = self.missing().first() {
            return Err(format!(
                "P3: batch {uid} was acked, has not arrived, and no gap record says so: {:?}",
                self.facts[*uid as usize]
            ));
        }
        // What is missing of each stream, and what its gap records add up to.
        let mut missing: BTreeMap<usize, (u64, u64)> = BTreeMap::new();
        for fact in &self.facts {
            let unread = self.disturbed.unreadable && self.unknown(true);
            let unknown = fact.hit || fact.forgotten || unread;
            if fact.acked && !fact.arrived && !unknown {
                let sum = missing.entry(fact.stream).or_default();
                *sum = (sum.0 + 1, sum.1 + fact.readings);
            }
        }
        let mut told: BTreeMap<usize, (u64, u64)> = BTreeMap::new();
        for (gap, words) in &self.gap_list {
            if !self.gaps[words].arrived {
                continue;
            }
            let Some(stream) = self.stream_of(gap) else {
                if is_unknown(gap) && self.disturbed.disk {
                    continue;
                }
                return Err(format!("P3: a gap record of nobody: {gap:?}"));
            };
            let sum = told.entry(stream).or_default();
            *sum = (sum.0 + gap.batches, sum.1 + gap.readings);
            let (Some(from), Some(to)) = (gap.from, gap.to) else {
                return Err(format!("P3: a gap record without numbers: {gap:?}"));
            };
            let batches = &self.streams[stream].batches;
            let known = |seq| batches.binary_search_by_key(&seq, |(seq, _)| *seq).is_ok();
            // Of what is damaged, only the limits are known.
            let exact = gap.reason != GapReason::Corrupt;
            if exact && (!known(from) || !known(to)) || from > to {
                return Err(format!(
                    "P3: a gap record of batches that never were: {gap:?}"
                ));
            }
            let taken = self.facts.iter().filter(|fact| {
                fact.taken && fact.stream == stream && (from..=to).contains(&fact.seq)
            });
            let taken = taken.count() as u64;
            if gap.batches > taken && !self.disturbed.disk {
                return Err(format!(
                    "P3: a gap record of more than the {taken} batches there were: {gap:?}"
                ));
            }
        }
        for (stream, (batches, readings)) in missing {
            let sum = told.get(&stream).copied().unwrap_or_default();
            if sum.0 < batches || sum.1 < readings {
                return Err(format!(
                    "P3: {batches} batches and {readings} readings of stream {stream} are missing, \
                     its gap records say {sum:?}"
                ));
            }
        }
        Ok(())
    }

    fn stream_of(&self, gap: &Gap) -> Option<usize> {
        let device = device_of(&gap.device)?;
        self.names.get(&(device, gap.stream.clone())).copied()
    }
}

/// What a publish was.
#[derive(Debug, Clone)]
pub(super) enum Publish {
    Batch(Uid),
    Gap(Gap),
    /// Of a command, whose device it was for, and whether it goes to a Response Topic.
    Answer {
        payload: Bytes,
        which: usize,
        device: usize,
        elsewhere: bool,
    },
    Status,
}

/// What the envelope of a published batch says.
#[derive(Debug)]
pub(super) struct Told<'a> {
    pub(super) device: Option<usize>,
    pub(super) stream: &'a str,
    pub(super) seq: Option<u64>,
}

impl<'a> Told<'a> {
    /// Reads `{"device":"d1","stream":"s","seq":7,…`.
    pub(super) fn read(payload: &'a [u8]) -> Option<Self> {
        let head = &payload[..payload.len().min(400)];
        let text = std::str::from_utf8(head).ok()?;
        let after = |key: &str| text.split_once(key).map(|(_, rest)| rest);
        let device = after("\"device\":\"")?.split('"').next()?;
        let stream = after("\"stream\":\"")?.split('"').next()?;
        let seq = after("\"seq\":")?.split(',').next()?;
        Some(Self {
            device: device_of(device),
            stream,
            seq: seq.parse().ok(),
        })
    }
}

pub(super) fn device_of(name: &str) -> Option<usize> {
    name.strip_prefix('d')?.parse().ok()
}
