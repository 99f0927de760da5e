//! What the fuzz targets reach of this room. Not part of the program.
//!
//! A checksum keeps random bytes from ever reaching what stands behind it, so most of these
//! put right checksums around wrong content.

use std::sync::Arc;

use bytes::Bytes;

use super::codec;
use super::tally::{SUMMARY_MAGIC, Tally};
use super::watermarks::Watermarks;
use super::wire::{Writer, seal};
use crate::reading::{Batch, Boot, Encoding, Gap, GapReason, Item, Mark, Moment};

/// A group as it might lie on a worn flash card.
pub fn group(bytes: &[u8]) {
    let _ = codec::announced_len(bytes);
    let _ = codec::decode(bytes, 1.0);
}

/// A group of this content whose checksums are right.
///
/// # Panics
/// When it is taken, and says something else when it is written again.
pub fn forged_group(header: &[u8], body: &[u8]) {
    forged(codec::sealed(codec::MAGIC, header, body));
    forged(codec::sealed(codec::MAGIC_3, header, body));
}

fn forged(bytes: Vec<u8>) {
    assert_eq!(codec::announced_len(&bytes), Some(bytes.len()));
    if let Ok(items) = codec::decode(&bytes, 1.0) {
        let again = codec::encode(1, &items, &[]).bytes;
        // NaN as a time is not equal to itself; bytes are.
        let items = codec::decode(&again, 1.0).expect("what was just written");
        assert_eq!(codec::encode(1, &items, &[]).bytes, again);
    }
}

/// The small files, with their checksums right.
///
/// # Panics
/// When one is taken, and says something else when it is written again.
pub fn forged_files(content: &[u8]) {
    if let Ok((next, marks)) = Watermarks::read(&seal(super::watermarks::MAGIC, content)) {
        let mut table = Watermarks::default();
        for mark in &marks {
            table.raise(mark.clone());
        }
        let file = table.to_file(next);
        let (again, kept) = Watermarks::read(&file).expect("what was just written");
        assert!(again == next && kept.len() <= marks.len());
    }
    if let Ok(tally) = Tally::from_file(&seal(SUMMARY_MAGIC, content)) {
        let again = Tally::from_file(&tally.to_file()).expect("what was just written");
        assert_eq!(again.to_file(), tally.to_file());
        let mut sum = Tally::default();
        sum.add(&tally);
        let _ = sum.lacking(&tally, GapReason::Corrupt, 1.0);
        let _ = sum.as_gaps(GapReason::Expired, 1.0);
        let _ = sum.implied_marks().count();
        let _ = (sum.batches(), sum.readings());
    }
}

/// A whole group made of these bytes, which then comes back as it was, and with one byte changed
/// (`damage`: where, and what is added) comes back as gap records.
///
/// # Panics
/// When it does not.
pub fn whole_group(bytes: &[u8], damage: (u16, u8)) {
    let items: Vec<Arc<Item>> = bytes
        .chunks(24)
        .map(|chunk| Arc::new(item(chunk)))
        .collect();
    let mark = Mark {
        device: "d".into(),
        stream: "s".into(),
        seq: 3,
    };
    let mut stored = codec::encode(7, &items, &[mark]).bytes;
    assert_eq!(codec::announced_len(&stored), Some(stored.len()));
    assert_eq!(codec::decode(&stored, 1.0), Ok(items));
    if damage.1 != 0 {
        let at = usize::from(damage.0) % stored.len();
        stored[at] = stored[at].wrapping_add(damage.1);
        assert!(codec::decode(&stored, 1.0).is_err());
        // The same damage behind right checksums.
        if let Some((header, body)) = codec::unsealed(&stored) {
            forged_group(header, body);
        }
        let mut summary = Writer::default();
        if let Ok(header) = codec::header(&stored) {
            header.tally.encode(&mut summary);
            let at = usize::from(damage.0) % summary.0.len();
            summary.0[at] = summary.0[at].wrapping_add(damage.1);
            forged_files(&summary.0);
        }
    }
}

fn moment(wall: u8, boot: u8) -> Moment {
    Moment {
        wall: wall.into(),
        uptime: boot.into(),
        boot: Boot::from_bytes([boot % 3; 16]),
        synced: wall % 2 == 0,
    }
}

fn item(bytes: &[u8]) -> Item {
    let name = |at: usize| -> Arc<str> {
        let byte = bytes.get(at).copied().unwrap_or_default();
        format!("{:x}", byte % 4).into()
    };
    let number = |at: usize| bytes.get(at).copied().unwrap_or_default();
    let seq = (number(2) % 3 > 0).then_some(u64::from(number(3)));
    if number(0) % 5 == 0 {
        return Item::Gap(Gap {
            device: name(1),
            stream: name(4),
            from: seq,
            to: seq,
            batches: number(5).into(),
            readings: number(6).into(),
            reason: GapReason::Expired,
            time: number(7).into(),
            clock: None,
        });
    }
    Item::Batch(Batch {
        device: name(1),
        stream: name(4),
        seq,
        received: moment(number(5), number(6)),
        readings: number(6).into(),
        encoding: if number(7) % 2 == 0 {
            Encoding::Cbor
        } else {
            Encoding::Json
        },
        frame: Bytes::copy_from_slice(bytes.get(8..).unwrap_or_default()),
    })
}
