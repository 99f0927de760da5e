//! An encoder for Zstandard (RFC 8878) that is made for packs: everything is in memory, small and
//! full of repetition, and what matters is bytes on a metered link.
//!
//! One frame, its length in the header, no checksum: MQTT runs over TCP and mostly TLS. Blocks
//! as large as they may be, each with tables of its own where these pay.

mod bits;
mod fse;
mod literals;
mod matches;
mod sequences;

use matches::Finder;
use sequences::{Repeats, Sequence};

/// Bytes of a block at most (§3.1.1.2.4).
const BLOCK: usize = 128 << 10;

const MAGIC: [u8; 4] = 0xfd2f_b528_u32.to_le_bytes();

/// Appends a frame that holds `plain`, of less than 16 MiB.
pub(super) fn compress(plain: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&MAGIC);
    header(plain.len(), out);
    let mut finder = Finder::new(plain);
    let mut repeats = Repeats::default();
    let mut at = 0;
    loop {
        let end = plain.len().min(at + BLOCK);
        block(plain, at..end, &mut finder, &mut repeats, out);
        at = end;
        if at == plain.len() {
            return;
        }
    }
}

/// A single segment: whoever reads it knows from here how much memory it takes (§3.1.1.1).
fn header(length: usize, out: &mut Vec<u8>) {
    const SINGLE_SEGMENT: u8 = 1 << 5;
    match length {
        0..256 => out.extend_from_slice(&[SINGLE_SEGMENT, length as u8]),
        256..65_792 => {
            out.push(SINGLE_SEGMENT | 1 << 6);
            out.extend_from_slice(&((length - 256) as u16).to_le_bytes());
        }
        _ => {
            out.push(SINGLE_SEGMENT | 2 << 6);
            out.extend_from_slice(&(length as u32).to_le_bytes());
        }
    }
}

fn block(
    plain: &[u8],
    range: std::ops::Range<usize>,
    finder: &mut Finder<'_>,
    repeats: &mut Repeats,
    out: &mut Vec<u8>,
) {
    const RAW: u32 = 0;
    const COMPRESSED: u32 = 2;
    let last = u32::from(range.end == plain.len());
    let before = *repeats;
    let mut sequences: Vec<Sequence> = Vec::new();
    finder.parse(range.clone(), repeats, &mut sequences);
    *repeats = before;
    let mut literals = Vec::with_capacity(range.len() / 4);
    let mut at = range.start;
    for one in &sequences {
        literals.extend_from_slice(&plain[at..at + one.literals as usize]);
        at += (one.literals + one.length) as usize;
    }
    literals.extend_from_slice(&plain[at..range.end]);
    let start = out.len();
    out.extend_from_slice(&[0; 3]);
    literals::write(&literals, out);
    sequences::write(&sequences, repeats, out);
    let mut size = out.len() - start - 3;
    let mut kind = COMPRESSED;
    if size >= range.len() {
        *repeats = before;
        out.truncate(start + 3);
        out.extend_from_slice(&plain[range.clone()]);
        (size, kind) = (range.len(), RAW);
    }
    let header = (size as u32) << 3 | kind << 1 | last;
    out[start..start + 3].copy_from_slice(&header.to_le_bytes()[..3]);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::io::Read;

    use proptest::prelude::*;
    use ruzstd::decoding::StreamingDecoder;

    use super::*;

    fn holds(plain: &[u8]) -> usize {
        let mut frame = Vec::new();
        compress(plain, &mut frame);
        let mut read = Vec::new();
        StreamingDecoder::new(&frame[..])
            .unwrap()
            .read_to_end(&mut read)
            .unwrap();
        assert!(read == plain, "{} bytes came back as others", plain.len());
        frame.len()
    }

    /// Text of few or many letters with copies of what was there before, as it may come.
    fn repetitive(alphabet: u8, steps: &[(u16, u16, u8)]) -> Vec<u8> {
        let mut text: Vec<u8> = Vec::new();
        for (place, length, byte) in steps {
            if text.is_empty() || length % 3 == 0 {
                text.extend((0..length % 40).map(|n| {
                    let mixed = u32::from(*byte) * 31 + u32::from(n) * u32::from(*place);
                    (mixed % u32::from(alphabet.max(1))) as u8
                }));
            } else {
                let from = usize::from(*place) % text.len();
                for n in 0..usize::from(length % 700) {
                    text.push(text[from + n]);
                }
            }
        }
        text
    }

    #[test]
    fn every_length_of_header_and_block_can_be_read() {
        for length in [
            0, 1, 2, 3, 255, 256, 65_791, 65_792, 131_071, 131_072, 131_073, 300_000,
        ] {
            let same = holds(&vec![b'x'; length]);
            assert!(same < 80, "{same} bytes for {length} times the same");
            let text: Vec<u8> = (0..length).map(|n| (n * n / 7) as u8).collect();
            assert!(holds(&text) <= length + 16 + 3 * (length >> 17));
        }
    }

    #[test]
    fn what_cannot_be_compressed_is_hardly_longer() {
        let mut state = 1_u64;
        let noise: Vec<u8> = (0..200_000)
            .map(|_| {
                state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
                (state >> 56) as u8
            })
            .collect();
        assert!(holds(&noise) <= noise.len() + 20);
    }

    proptest! {
        /// The decoder is somebody else's.
        #[test]
        fn what_is_compressed_comes_back(
            alphabet: u8,
            steps in prop::collection::vec((any::<u16>(), any::<u16>(), any::<u8>()), 0..400),
        ) {
            holds(&repetitive(alphabet, &steps));
        }

        #[test]
        fn any_bytes_come_back(bytes in prop::collection::vec(any::<u8>(), 0..3_000)) {
            holds(&bytes);
        }
    }
}
