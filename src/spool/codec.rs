//! A group of items as bytes.
//!
//! ```text
//! magic "thg2" or "thg3" · header length u32 · body length u32 · body CRC32 · CRC32 of the above and the header
//! header: a tally of the content, and every gap record whole with its position
//!         · "thg3": then every reply whole, then their positions
//! body:   the batches
//! batch:  line u32 · flags u8 · seq u64 · wall f64 · uptime f64 · [boot id 16] · readings u32
//!         · length u32 · frame
//! ```
//!
//! The boot id stands where it differs from that of the batch before, which is once in a group.
//! Version 1 (`thg1`) has neither uptime nor boot id, and its stamps are taken for right.
//!
//! Version 3 is that of groups with replies in them, and of no others: a spool without any is read
//! by hubs that know none. Replies stand in the header, so that a body that is damaged costs none.
//!
//! Integers are little-endian. The header has its own checksum so that a group whose body is
//! damaged still says exactly what is missing.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;

use super::replies;
use super::tally::{Tally, decode_gaps, encode_gaps};
use super::wire::{Damage, Reader, Writer};
use crate::reading::{Batch, Boot, Encoding, Gap, GapReason, Item, Mark, Moment, Reply};

/// The last character is the version.
pub(super) const MAGIC: [u8; 4] = *b"thg2";

/// Of groups with replies.
pub(super) const MAGIC_3: [u8; 4] = *b"thg3";

/// Of the first version.
const MAGIC_1: [u8; 4] = *b"thg1";

/// Magic, two lengths, two checksums.
const PREFIX: usize = 20;

const HAS_SEQ: u8 = 1;
const IS_JSON: u8 = 2;
const SYNCED: u8 = 4;
const NEW_BOOT: u8 = 8;

/// An encoded group.
#[derive(Debug)]
pub(super) struct Encoded {
    /// What is stored.
    pub(super) bytes: Vec<u8>,
    /// What is in it.
    pub(super) tally: Tally,
}

/// Encodes items and the marks that go along.
pub(super) fn encode(id: u64, items: &[Arc<Item>], marks: &[Mark]) -> Encoded {
    let mut tally = Tally::of_group(id, marks);
    let mut body = Writer::default();
    let mut gaps = Vec::new();
    let mut positions = Writer::default();
    let mut answers = Vec::new();
    let mut places = Writer::default();
    let mut boot = Boot::UNKNOWN;
    for (index, item) in items.iter().enumerate() {
        match &**item {
            Item::Batch(batch) => {
                let line = tally.add_batch(batch);
                encode_batch(line, batch, &mut boot, &mut body);
            }
            Item::Gap(gap) => {
                tally.add_item(item);
                gaps.push(gap.clone());
                positions.len(index);
            }
            Item::Reply(reply) => {
                tally.add_item(item);
                answers.push(reply);
                places.len(index);
            }
        }
    }
    let mut header = Writer::default();
    tally.encode(&mut header);
    encode_gaps(&gaps, &mut header);
    header.0.extend_from_slice(&positions.0);
    let mut magic = MAGIC;
    if !answers.is_empty() {
        magic = MAGIC_3;
        replies::encode(&answers, &mut header);
        header.0.extend_from_slice(&places.0);
    }

    Encoded {
        bytes: sealed(magic, &header.0, &body.0),
        tally,
    }
}

/// Lengths and checksums before header and body.
pub(super) fn sealed(magic: [u8; 4], header: &[u8], body: &[u8]) -> Vec<u8> {
    let mut out = Writer(Vec::with_capacity(PREFIX + header.len() + body.len()));
    out.0.extend_from_slice(&magic);
    out.len(header.len());
    out.len(body.len());
    out.u32(crc32fast::hash(body));
    let mut crc = crc32fast::Hasher::new();
    crc.update(&out.0);
    crc.update(header);
    out.u32(crc.finalize());
    out.0.extend_from_slice(header);
    out.0.extend_from_slice(body);
    out.0
}

/// Header and body by their lengths alone, whatever the checksums say.
#[cfg(fuzzing)]
pub(super) fn unsealed(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut reader = Reader(bytes.get(MAGIC.len()..)?);
    let header = reader.len().ok()?;
    bytes.get(PREFIX..)?.split_at_checked(header)
}

/// Whether bytes begin as a group does, of any version that can be read.
pub(super) fn begins(bytes: &[u8]) -> bool {
    [MAGIC, MAGIC_3, MAGIC_1]
        .iter()
        .any(|magic| bytes.starts_with(magic))
}

/// `boot`: of the batch before, and then of this one.
fn encode_batch(line: usize, batch: &Batch, boot: &mut Boot, body: &mut Writer) {
    body.len(line);
    let received = &batch.received;
    let flags = [
        (HAS_SEQ, batch.seq.is_some()),
        (IS_JSON, batch.encoding == Encoding::Json),
        (SYNCED, received.synced),
        (NEW_BOOT, received.boot != *boot),
    ];
    let set = flags.iter().filter(|(_, set)| *set);
    body.u8(set.fold(0, |flags, (flag, _)| flags | flag));
    body.u64(batch.seq.unwrap_or(0));
    body.f64(received.wall);
    body.f64(received.uptime);
    if std::mem::replace(boot, received.boot) != received.boot {
        body.0.extend_from_slice(&received.boot.bytes());
    }
    body.u32(batch.readings);
    body.bytes(&batch.frame);
}

/// A header that could be read.
#[derive(Debug)]
pub(super) struct Header<'a> {
    /// What is in the group.
    pub(super) tally: Tally,
    gaps: Vec<(usize, Gap)>,
    replies: Vec<(usize, Reply)>,
    /// Whether its batches have uptime and boot.
    boots: bool,
    body: Result<&'a [u8], Damage>,
}

/// How long a group that begins here says it is; `None`: too few bytes to say.
pub(super) fn announced_len(bytes: &[u8]) -> Option<usize> {
    let mut reader = Reader(bytes.get(MAGIC.len()..)?);
    let (header, body) = (reader.len().ok()?, reader.len().ok()?);
    PREFIX.checked_add(header)?.checked_add(body)
}

/// Reads the header, and checks the body without reading it.
///
/// # Errors
/// [`Damage`] of the header.
pub(super) fn header(bytes: &[u8]) -> Result<Header<'_>, Damage> {
    let mut reader = Reader(bytes);
    let prefix = bytes.get(..PREFIX - 4).ok_or(Damage::Short)?;
    let magic = reader.u32()?.to_le_bytes();
    if !begins(&magic) {
        return Err(Damage::Wrong);
    }
    let (header_len, body_len) = (reader.len()?, reader.len()?);
    let (body_crc, header_crc) = (reader.u32()?, reader.u32()?);
    let header = reader.0.get(..header_len).ok_or(Damage::Short)?;
    let mut crc = crc32fast::Hasher::new();
    crc.update(prefix);
    crc.update(header);
    if crc.finalize() != header_crc {
        return Err(Damage::Wrong);
    }
    let rest = &reader.0[header_len..];
    let body = match rest.get(..body_len) {
        None => Err(Damage::Short),
        Some(body) if rest.len() > body_len || crc32fast::hash(body) != body_crc => {
            Err(Damage::Wrong)
        }
        Some(body) => Ok(body),
    };

    let mut reader = Reader(header);
    let mut tally = Tally::decode(&mut reader)?;
    if let Ok(body) = body {
        weigh(&mut tally, magic != MAGIC_1, body);
    }
    let mut gaps = Vec::new();
    for gap in decode_gaps(&mut reader)? {
        gaps.push((0, gap));
    }
    for (position, _) in &mut gaps {
        *position = reader.len()?;
    }
    let mut replies = Vec::new();
    if magic == MAGIC_3 {
        for reply in replies::decode(&mut reader)? {
            tally.add_reply(&reply);
            replies.push((0, reply));
        }
        for (position, _) in &mut replies {
            *position = reader.len()?;
        }
    }
    Ok(Header {
        tally,
        gaps,
        replies,
        boots: magic != MAGIC_1,
        body,
    })
}

impl Header<'_> {
    /// What is wrong with the body.
    pub(super) fn damage(&self) -> Option<Damage> {
        self.body.err()
    }

    /// The items.
    ///
    /// # Errors
    /// [`Damage`] of the body.
    pub(super) fn items(&self) -> Result<Vec<Arc<Item>>, Damage> {
        let mut reader = Reader(self.body?);
        let gaps = self.gaps.iter();
        let gaps = gaps.map(|(at, gap)| (*at, Item::Gap(gap.clone())));
        let replies = self.replies.iter();
        let replies = replies.map(|(at, reply)| (*at, Item::Reply(reply.clone())));
        let mut whole: HashMap<usize, Item> = gaps.chain(replies).collect();
        if whole.len() < self.gaps.len() + self.replies.len() {
            return Err(Damage::Wrong);
        }
        let mut items = Vec::new();
        let mut boot = self.boots.then_some(Boot::UNKNOWN);
        loop {
            if let Some(item) = whole.remove(&items.len()) {
                items.push(Arc::new(item));
            } else if reader.0.is_empty() {
                return if whole.is_empty() {
                    Ok(items)
                } else {
                    Err(Damage::Wrong)
                };
            } else {
                let batch = decode_batch(&self.tally, &mut boot, &mut reader)?;
                items.push(Arc::new(Item::Batch(batch)));
            }
        }
    }
}

/// `boot`: of the batch before, and then of this one; `None`: the group has none.
/// A batch as it lies in a body.
struct Raw<'a> {
    line: usize,
    seq: Option<u64>,
    received: Moment,
    readings: u32,
    encoding: Encoding,
    frame: &'a [u8],
}

impl<'a> Raw<'a> {
    /// `boot`: of the batch before it; `None`: batches of this group have none.
    fn read(boot: &mut Option<Boot>, reader: &mut Reader<'a>) -> Result<Self, Damage> {
        let line = reader.len()?;
        let flags = reader.u8()?;
        let seq = reader.u64()?;
        let wall = reader.f64()?;
        let received = match boot {
            None => Moment::at(wall),
            Some(boot) => {
                let uptime = reader.f64()?;
                if flags & NEW_BOOT != 0 {
                    *boot = Boot::from_bytes(reader.array()?);
                }
                Moment {
                    wall,
                    uptime,
                    boot: *boot,
                    synced: flags & SYNCED != 0,
                }
            }
        };
        Ok(Self {
            line,
            seq: (flags & HAS_SEQ != 0).then_some(seq),
            received,
            readings: reader.u32()?,
            encoding: if flags & IS_JSON == 0 {
                Encoding::Cbor
            } else {
                Encoding::Json
            },
            frame: reader.bytes()?,
        })
    }
}

fn decode_batch(
    tally: &Tally,
    boot: &mut Option<Boot>,
    reader: &mut Reader<'_>,
) -> Result<Batch, Damage> {
    let raw = Raw::read(boot, reader)?;
    let line = tally.lines.get(raw.line).ok_or(Damage::Wrong)?;
    Ok(Batch {
        device: line.device.clone(),
        stream: line.stream.clone(),
        seq: raw.seq,
        received: raw.received,
        readings: raw.readings,
        encoding: raw.encoding,
        // A copy of its own: a slice of the group would keep all of it in memory until the last
        // of its batches is gone.
        frame: Bytes::copy_from_slice(raw.frame),
    })
}

/// Adds up what the batches of each stream weigh, as far as the body can be read.
fn weigh(tally: &mut Tally, boots: bool, body: &[u8]) {
    let mut reader = Reader(body);
    let mut boot = boots.then_some(Boot::UNKNOWN);
    while !reader.0.is_empty()
        && let Ok(raw) = Raw::read(&mut boot, &mut reader)
        && let Some(line) = tally.lines.get_mut(raw.line)
    {
        let bytes = (raw.frame.len() + Item::OVERHEAD) as u64;
        line.bytes = line.bytes.saturating_add(bytes);
    }
}

/// The gap that stands for data of which nothing is known.
pub(super) fn unknown_gap(at: impl Into<Moment>) -> Gap {
    let at = at.into();
    Gap {
        device: Gap::UNKNOWN.into(),
        stream: Gap::UNKNOWN.into(),
        from: None,
        to: None,
        batches: 0,
        readings: 0,
        reason: GapReason::Corrupt,
        time: at.wall,
        clock: at.doubt(),
    }
}

/// What is left of a damaged group.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Left {
    /// What is known of its batches, and the gap records that were in it.
    pub(super) gaps: Vec<Gap>,
    /// The replies, all of them if the header was sound.
    pub(super) replies: Vec<Reply>,
}

impl Left {
    /// As it stands in the group's place.
    pub(super) fn into_items(self) -> Vec<Arc<Item>> {
        let replies = self.replies.into_iter().map(Item::Reply);
        let all = replies.chain(self.gaps.into_iter().map(Item::Gap));
        all.map(Arc::new).collect()
    }
}

/// The items of a group; or, when it is damaged, what is left of it, with `now` as the time of the
/// loss.
///
/// # Errors
/// What is left.
pub(super) fn decode(bytes: &[u8], now: impl Into<Moment>) -> Result<Vec<Arc<Item>>, Left> {
    let now = now.into();
    let header = header(bytes).map_err(|_| Left {
        gaps: vec![unknown_gap(now)],
        replies: Vec::new(),
    })?;
    header.items().map_err(|_| Left {
        gaps: header.tally.as_gaps(GapReason::Corrupt, now),
        replies: header.replies.into_iter().map(|(_, one)| one).collect(),
    })
}

#[cfg(test)]
#[path = "codec_tests.rs"]
mod tests;
