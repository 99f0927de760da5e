//! Reads a pack. It may come from anybody who can publish on its topic, so nothing in it is believed:
//! neither the lengths that it declares nor what it decompresses to.

use std::io::Read;

use ruzstd::decoding::StreamingDecoder;

use super::{ARRAY, BYTES, FORM, Kind, TEXT};

/// Bytes of a sequence at most: the largest that a hub packs (`uplink.pack`), or one batch as large
/// as they come, and as much again.
pub const MOST: usize = 4 << 20;

/// Why a pack cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// It is another form than this program knows, or no pack at all.
    #[error("it is no pack of a form that is known: its first byte is not 1")]
    Form,
    /// What follows is not what the byte promises.
    #[error("its zstd frame cannot be read: {0}")]
    Frame(String),
    /// It holds, or says that it holds, more than is taken.
    #[error("it holds more than {most} bytes")]
    TooLarge {
        /// Bytes that are taken.
        most: usize,
    },
    /// The sequence is not one of `[kind, device, payload]`.
    #[error("item {0} of its sequence is not [kind, device, payload]")]
    Item(usize),
}

/// The sequence in a pack, of at most so many bytes.
///
/// # Errors
///
/// It is no pack, is damaged, or holds more.
pub fn open(packed: &[u8], most: usize) -> Result<Vec<u8>, Fault> {
    let frame = match packed {
        [FORM, frame @ ..] => frame,
        _ => return Err(Fault::Form),
    };
    if window(frame).is_some_and(|window| window > most as u64) {
        return Err(Fault::TooLarge { most });
    }
    let unreadable = |error: &dyn std::fmt::Display| Fault::Frame(error.to_string());
    let mut decoder = StreamingDecoder::new(frame).map_err(|error| unreadable(&error))?;
    let mut sequence = Vec::new();
    let limit = most as u64 + 1;
    let mut limited = Read::take(&mut decoder, limit);
    limited
        .read_to_end(&mut sequence)
        .map_err(|error| unreadable(&error))?;
    if sequence.len() > most {
        return Err(Fault::TooLarge { most });
    }
    Ok(sequence)
}

/// Bytes that a decoder has to keep for this frame, by its header (RFC 8878 §3.1.1.1).
fn window(frame: &[u8]) -> Option<u64> {
    let (descriptor, rest) = frame.get(4..)?.split_first()?;
    let single_segment = descriptor & 0x20 != 0;
    if !single_segment {
        let window = u64::from(*rest.first()?);
        let base = 1_u64 << (10 + (window >> 3));
        return Some(base + base / 8 * (window & 7));
    }
    let dictionary = [0, 1, 2, 4][usize::from(descriptor & 3)];
    let size = rest.get(dictionary..)?;
    match descriptor >> 6 {
        0 => size.first().map(|byte| u64::from(*byte)),
        1 => Some(u64::from(u16::from_le_bytes(size.get(..2)?.try_into().ok()?)) + 256),
        2 => Some(u32::from_le_bytes(size.get(..4)?.try_into().ok()?).into()),
        _ => Some(u64::from_le_bytes(size.get(..8)?.try_into().ok()?)),
    }
}

/// The items of a sequence, until its end or the first that is wrong.
#[derive(Debug)]
pub struct Items<'a> {
    rest: &'a [u8],
    count: usize,
}

impl<'a> Items<'a> {
    /// Of this sequence.
    #[must_use]
    pub fn of(sequence: &'a [u8]) -> Self {
        Self {
            rest: sequence,
            count: 0,
        }
    }

    /// Takes a head off and tells its length.
    fn head(&mut self, major: u8) -> Option<usize> {
        let (first, rest) = self.rest.split_first()?;
        if first >> 5 != major {
            return None;
        }
        let bytes = match first & 0x1f {
            direct @ 0..24 => {
                self.rest = rest;
                return Some(direct.into());
            }
            24 => 1,
            25 => 2,
            26 => 4,
            27 => 8,
            _ => return None,
        };
        let (value, rest) = rest.split_at_checked(bytes)?;
        self.rest = rest;
        let value = value
            .iter()
            .fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte));
        usize::try_from(value).ok()
    }

    fn string(&mut self, major: u8) -> Option<&'a [u8]> {
        let length = self.head(major)?;
        let (string, rest) = self.rest.split_at_checked(length)?;
        self.rest = rest;
        Some(string)
    }

    fn item(&mut self) -> Option<(Kind, &'a str, &'a [u8])> {
        if self.head(ARRAY)? != 3 {
            return None;
        }
        let kind = self.string(TEXT)?;
        let kind = Kind::ALL
            .into_iter()
            .find(|known| known.as_str().as_bytes() == kind)?;
        let device = std::str::from_utf8(self.string(TEXT)?).ok()?;
        Some((kind, device, self.string(BYTES)?))
    }
}

impl<'a> Iterator for Items<'a> {
    type Item = Result<(Kind, &'a str, &'a [u8]), Fault>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let item = self.item().ok_or(Fault::Item(self.count));
        self.count += 1;
        if item.is_err() {
            self.rest = &[];
        }
        Some(item)
    }
}
