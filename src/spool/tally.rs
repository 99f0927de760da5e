//! What some stored items are, without the items: enough to say exactly what is missing when
//! they cannot be read, and to count them without reading them.

use std::collections::HashMap;
use std::sync::Arc;

use super::wire::{Damage, Reader, Writer, seal, unseal};
use crate::reading::{Batch, Doubt, Gap, GapReason, Item, Mark, Moment, Reply, is_unnamed};

/// Of a segment's summary file. The last character is the version.
pub(super) const SUMMARY_MAGIC: [u8; 4] = *b"ths1";

/// Beside a gap's reason: its time is in doubt.
const IN_DOUBT: u8 = 0x80;

/// The batches of one stream.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Line {
    pub(super) device: Arc<str>,
    pub(super) stream: Arc<str>,
    pub(super) from: Option<u64>,
    pub(super) to: Option<u64>,
    pub(super) batches: u64,
    pub(super) readings: u64,
    /// What they weigh ([`Item::weight`]). A group's header does not have it: its body tells.
    pub(super) bytes: u64,
}

/// The content of a group or a segment, summed up.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Tally {
    /// Groups summed up.
    pub(super) groups: u64,
    /// Id of the last of them.
    pub(super) last: u64,
    /// Arrival of the oldest batch whose stamp can be trusted.
    pub(super) oldest: Option<f64>,
    /// One per stream, in the order of appearance.
    pub(super) lines: Vec<Line>,
    /// Gap records, whole, merged where they can be.
    pub(super) gaps: Vec<Gap>,
    /// Watermarks that were stored along.
    pub(super) marks: Vec<Mark>,
    /// Final answers to commands, and what they weigh. A group's header holds them whole.
    pub(super) replies: u64,
    pub(super) reply_bytes: u64,
    lookup: HashMap<(Arc<str>, Arc<str>), usize>,
}

impl Tally {
    /// Of a group that nothing is in yet but marks.
    pub(super) fn of_group(id: u64, marks: &[Mark]) -> Self {
        Self {
            groups: 1,
            last: id,
            marks: marks.to_vec(),
            ..Self::default()
        }
    }

    /// Counts an item in.
    pub(super) fn add_item(&mut self, item: &Item) {
        match item {
            Item::Batch(batch) => {
                self.add_batch(batch);
            }
            Item::Gap(gap) => merge_into(&mut self.gaps, gap),
            Item::Reply(reply) => self.add_reply(reply),
        }
    }

    /// Counts a final answer in.
    pub(super) fn add_reply(&mut self, reply: &Reply) {
        self.replies = self.replies.saturating_add(1);
        self.reply_bytes = self.reply_bytes.saturating_add(reply.weight() as u64);
    }

    /// Counts a batch in and says which line it is in.
    pub(super) fn add_batch(&mut self, batch: &Batch) -> usize {
        let received = &batch.received;
        if received.synced && self.oldest.is_none_or(|oldest| received.wall < oldest) {
            self.oldest = Some(received.wall);
        }
        self.add_line(&Line {
            device: batch.device.clone(),
            stream: batch.stream.clone(),
            from: batch.seq,
            to: batch.seq,
            batches: 1,
            readings: batch.readings.into(),
            bytes: weight_of(batch),
        })
    }

    fn add_line(&mut self, line: &Line) -> usize {
        let key = (line.device.clone(), line.stream.clone());
        let next = self.lines.len();
        let index = *self.lookup.entry(key).or_insert(next);
        if index == next {
            self.lines.push(line.clone());
            return index;
        }
        let sum = &mut self.lines[index];
        sum.from = match (sum.from, line.from) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        sum.to = sum.to.max(line.to);
        sum.batches = sum.batches.saturating_add(line.batches);
        sum.readings = sum.readings.saturating_add(line.readings);
        sum.bytes = sum.bytes.saturating_add(line.bytes);
        index
    }

    /// Counts another tally in.
    pub(super) fn add(&mut self, other: &Self) {
        self.groups = self.groups.saturating_add(other.groups);
        self.last = self.last.max(other.last);
        self.oldest = match (self.oldest, other.oldest) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        for line in &other.lines {
            self.add_line(line);
        }
        for gap in &other.gaps {
            merge_into(&mut self.gaps, gap);
        }
        self.marks.extend_from_slice(&other.marks);
        self.replies = self.replies.saturating_add(other.replies);
        self.reply_bytes = self.reply_bytes.saturating_add(other.reply_bytes);
    }

    /// Batches counted.
    pub(super) fn batches(&self) -> u64 {
        self.lines
            .iter()
            .fold(0, |sum, line| sum.saturating_add(line.batches))
    }

    /// Readings counted.
    pub(super) fn readings(&self) -> u64 {
        self.lines
            .iter()
            .fold(0, |sum, line| sum.saturating_add(line.readings))
    }

    /// The records that remain if all this is dropped: one per stream, and the gap records that
    /// were in it as they are.
    pub(super) fn as_gaps(&self, reason: GapReason, at: impl Into<Moment>) -> Vec<Gap> {
        self.as_gaps_by(|_| reason, at)
    }

    /// The same, with a reason for each device.
    pub(super) fn as_gaps_by(
        &self,
        reason: impl Fn(&str) -> GapReason,
        at: impl Into<Moment>,
    ) -> Vec<Gap> {
        let at = at.into();
        let mut gaps = self.gaps.clone();
        for line in &self.lines {
            let gap = Gap {
                device: line.device.clone(),
                stream: line.stream.clone(),
                from: line.from,
                to: line.to,
                batches: line.batches,
                readings: line.readings,
                reason: reason(&line.device),
                time: at.wall,
                clock: at.doubt(),
            };
            // Lines differ in device or stream, so only the older records can take it in.
            if !gaps[..self.gaps.len()]
                .iter_mut()
                .any(|known| known.adjoins(&gap) && known.merge(&gap))
            {
                gaps.push(gap);
            }
        }
        gaps
    }

    /// The records of what is in this tally and not in `found`, which is a part of it.
    pub(super) fn lacking(
        &self,
        found: &Self,
        reason: GapReason,
        at: impl Into<Moment>,
    ) -> Vec<Gap> {
        let at = at.into();
        let mut gaps = Vec::new();
        for line in &self.lines {
            let key = (line.device.clone(), line.stream.clone());
            let rest = found.lookup.get(&key).map(|at| &found.lines[*at]);
            let (batches, readings) = rest.map_or((0, 0), |rest| (rest.batches, rest.readings));
            if batches >= line.batches {
                continue;
            }
            let (mut from, mut to) = (line.from, line.to);
            // What is there at one end of the range is not missing.
            if let Some(rest) = rest {
                if rest.from > line.from && rest.to == line.to {
                    to = rest.from.map(|seq| seq.saturating_sub(1));
                } else if rest.to < line.to && rest.from == line.from {
                    from = rest.to.map(|seq| seq.saturating_add(1));
                }
            }
            gaps.push(Gap {
                device: line.device.clone(),
                stream: line.stream.clone(),
                from,
                to,
                batches: line.batches - batches,
                readings: line.readings.saturating_sub(readings),
                reason,
                time: at.wall,
                clock: at.doubt(),
            });
        }
        for gap in &self.gaps {
            let part = |other: &&Gap| {
                (&other.device, &other.stream, other.reason)
                    == (&gap.device, &gap.stream, gap.reason)
                    && other.from >= gap.from
                    && other.to <= gap.to
            };
            let mut rest: Option<Gap> = None;
            for found in found.gaps.iter().filter(part) {
                match &mut rest {
                    Some(rest) => _ = rest.merge(found),
                    None => rest = Some(found.clone()),
                }
            }
            let (batches, readings) = rest
                .as_ref()
                .map_or((0, 0), |rest| (rest.batches, rest.readings));
            if rest.is_none() || batches < gap.batches {
                gaps.push(Gap {
                    batches: gap.batches - batches,
                    readings: gap.readings.saturating_sub(readings),
                    ..gap.clone()
                });
            }
        }
        gaps
    }

    /// The marks that all this implies: what is stored, or recorded as a gap, is settled. Streams
    /// that the hub named are left out: nobody can resume them.
    pub(super) fn implied_marks(&self) -> impl Iterator<Item = Mark> {
        let lines = self
            .lines
            .iter()
            .map(|line| (&line.device, &line.stream, line.to));
        let gaps = self
            .gaps
            .iter()
            .filter(|gap| *gap.device != *Gap::UNKNOWN && *gap.stream != *Gap::UNKNOWN)
            .map(|gap| (&gap.device, &gap.stream, gap.to));
        lines
            .chain(gaps)
            .filter(|(_, stream, _)| !is_unnamed(stream))
            .filter_map(|(device, stream, to)| {
                Some(Mark {
                    device: device.clone(),
                    stream: stream.clone(),
                    seq: to?,
                })
            })
            .chain(self.marks.iter().cloned())
    }

    pub(super) fn encode(&self, writer: &mut Writer) {
        writer.u64(self.groups);
        writer.u64(self.last);
        writer.option(self.oldest.map(f64::to_bits));
        writer.len(self.lines.len());
        for line in &self.lines {
            writer.bytes(line.device.as_bytes());
            writer.bytes(line.stream.as_bytes());
            writer.option(line.from);
            writer.option(line.to);
            writer.u64(line.batches);
            writer.u64(line.readings);
        }
        encode_gaps(&self.gaps, writer);
        encode_marks(&self.marks, writer);
    }

    pub(super) fn decode(reader: &mut Reader<'_>) -> Result<Self, Damage> {
        let mut tally = Self {
            groups: reader.u64()?,
            last: reader.u64()?,
            oldest: reader.option()?.map(f64::from_bits),
            ..Self::default()
        };
        for _ in 0..reader.len()? {
            let line = Line {
                device: reader.text()?,
                stream: reader.text()?,
                from: reader.option()?,
                to: reader.option()?,
                batches: reader.u64()?,
                readings: reader.u64()?,
                bytes: 0,
            };
            let key = (line.device.clone(), line.stream.clone());
            tally.lookup.insert(key, tally.lines.len());
            tally.lines.push(line);
        }
        tally.gaps = decode_gaps(reader)?;
        tally.marks = decode_marks(reader)?;
        Ok(tally)
    }

    /// The bytes of a summary file.
    pub(super) fn to_file(&self) -> Vec<u8> {
        let mut writer = Writer::default();
        self.encode(&mut writer);
        for line in &self.lines {
            writer.u64(line.bytes);
        }
        // Nothing without any, as in all summaries before there were some.
        if self.replies > 0 {
            writer.u64(self.replies);
            writer.u64(self.reply_bytes);
        }
        seal(SUMMARY_MAGIC, &writer.0)
    }

    /// Reads a summary file.
    ///
    /// # Errors
    /// [`Damage`] when it is not exactly what was written.
    pub(super) fn from_file(bytes: &[u8]) -> Result<Self, Damage> {
        let mut reader = Reader(unseal(SUMMARY_MAGIC, bytes)?);
        let mut tally = Self::decode(&mut reader)?;
        // Summaries of the first hubs end here.
        let known = !reader.0.is_empty();
        for line in &mut tally.lines {
            line.bytes = if known { reader.u64()? } else { guessed(line) };
        }
        if !reader.0.is_empty() {
            (tally.replies, tally.reply_bytes) = (reader.u64()?, reader.u64()?);
        }
        Ok(tally)
    }
}

/// What a batch weighs: [`Item::weight`] without the item.
pub(super) fn weight_of(batch: &Batch) -> u64 {
    (batch.frame.len() + Item::OVERHEAD) as u64
}

/// About what batches weigh of which only the numbers are known.
fn guessed(line: &Line) -> u64 {
    /// A reading in CBOR with a name of its own.
    const READING: u64 = 20;
    let fixed = line.batches.saturating_mul(Item::OVERHEAD as u64);
    fixed.saturating_add(line.readings.saturating_mul(READING))
}

/// Adds a gap to a list, into one of the same device, stream and reason if there is one right
/// beside it. Across a hole it would name what is not missing, or is in another record.
pub(super) fn merge_into(gaps: &mut Vec<Gap>, gap: &Gap) {
    let mut known = gaps.iter_mut();
    if !known.any(|known| known.adjoins(gap) && known.merge(gap)) {
        gaps.push(gap.clone());
    }
}

pub(super) fn encode_gaps(gaps: &[Gap], writer: &mut Writer) {
    writer.len(gaps.len());
    for gap in gaps {
        writer.bytes(gap.device.as_bytes());
        writer.bytes(gap.stream.as_bytes());
        writer.option(gap.from);
        writer.option(gap.to);
        writer.u64(gap.batches);
        writer.u64(gap.readings);
        let reason = match gap.reason {
            GapReason::Overflow => 0,
            GapReason::Expired => 1,
            GapReason::Corrupt => 2,
            GapReason::TooLarge => 3,
            GapReason::Refused => 4,
            // In spools of version 3 only.
            GapReason::Reduced => 5,
        };
        writer.u8(reason | if gap.clock.is_some() { IN_DOUBT } else { 0 });
        writer.f64(gap.time);
    }
}

pub(super) fn decode_gaps(reader: &mut Reader<'_>) -> Result<Vec<Gap>, Damage> {
    let mut gaps = Vec::new();
    for _ in 0..reader.len()? {
        let (device, stream) = (reader.text()?, reader.text()?);
        let (from, to) = (reader.option()?, reader.option()?);
        let (batches, readings) = (reader.u64()?, reader.u64()?);
        let reason = reader.u8()?;
        gaps.push(Gap {
            device,
            stream,
            from,
            to,
            batches,
            readings,
            reason: match reason & !IN_DOUBT {
                0 => GapReason::Overflow,
                1 => GapReason::Expired,
                2 => GapReason::Corrupt,
                3 => GapReason::TooLarge,
                4 => GapReason::Refused,
                5 => GapReason::Reduced,
                _ => return Err(Damage::Wrong),
            },
            time: reader.f64()?,
            clock: (reason & IN_DOUBT != 0).then_some(Doubt::Unsynced),
        });
    }
    Ok(gaps)
}

pub(super) fn encode_marks(marks: &[Mark], writer: &mut Writer) {
    writer.len(marks.len());
    for mark in marks {
        writer.bytes(mark.device.as_bytes());
        writer.bytes(mark.stream.as_bytes());
        writer.u64(mark.seq);
    }
}

pub(super) fn decode_marks(reader: &mut Reader<'_>) -> Result<Vec<Mark>, Damage> {
    let mut marks = Vec::new();
    for _ in 0..reader.len()? {
        marks.push(Mark {
            device: reader.text()?,
            stream: reader.text()?,
            seq: reader.u64()?,
        });
    }
    Ok(marks)
}
