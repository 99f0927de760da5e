//! The payload of `{prefix}/{hub}/packed`: byte 1, then one frame of Zstandard that holds a sequence
//! of CBOR arrays `[kind, device, payload]` (RFC 8742), one for each batch or gap record, in the
//! order in which they were published.
//!
//! The hub writes it and `telehub unpack` reads it. The encoder is our own, because the one in pure
//! Rust makes frames of one and a half times the size (it knows no repeated distances, and leaves
//! literals alone), and the original in C adds more to the program than all of the uplink; the
//! decoder is the library's.

mod open;
mod zstd;

pub use open::{Fault, Items, MOST, open};

/// Content type of a pack in MQTT 5.
pub const CONTENT_TYPE: &str = "application/x-telehub-packed";

/// Last level of its topic.
pub const LEVEL: &str = "packed";

/// The first byte: which form of pack this is.
const FORM: u8 = 1;

/// Which of a device's topics an item is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// A fresh batch.
    Data,
    /// One that had to wait in the spool.
    History,
    /// A gap record.
    Gap,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Data, Self::History, Self::Gap];

    /// The last level of its topic.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Data => "data",
            Self::History => "history",
            Self::Gap => "gap",
        }
    }
}

/// Bytes that an item adds to a pack, before compression.
#[must_use]
pub fn length(kind: Kind, device: &str, payload: usize) -> usize {
    const ARRAY: usize = 1;
    let text = |length: usize| head_length(length) + length;
    ARRAY + text(kind.as_str().len()) + text(device.len()) + text(payload)
}

fn head_length(value: usize) -> usize {
    match value {
        0..24 => 1,
        24..=0xff => 2,
        0x100..=0xffff => 3,
        _ => 5,
    }
}

/// Head of a CBOR item (RFC 8949 §3): its major type, and a length below 4 GiB.
fn head(major: u8, value: usize, out: &mut Vec<u8>) {
    let major = major << 5;
    match value {
        0..24 => out.push(major | value as u8),
        24..=0xff => out.extend_from_slice(&[major | 24, value as u8]),
        0x100..=0xffff => {
            out.push(major | 25);
            out.extend_from_slice(&(value as u16).to_be_bytes());
        }
        _ => {
            out.push(major | 26);
            out.extend_from_slice(&(value as u32).to_be_bytes());
        }
    }
}

/// Major types of CBOR.
const BYTES: u8 = 2;
const TEXT: u8 = 3;
const ARRAY: u8 = 4;

/// Appends an item to the sequence.
pub fn append(kind: Kind, device: &str, payload: &[u8], sequence: &mut Vec<u8>) {
    head(ARRAY, 3, sequence);
    for text in [kind.as_str(), device] {
        head(TEXT, text.len(), sequence);
        sequence.extend_from_slice(text.as_bytes());
    }
    head(BYTES, payload.len(), sequence);
    sequence.extend_from_slice(payload);
}

/// Appends the payload that holds this sequence.
pub fn seal(sequence: &[u8], out: &mut Vec<u8>) {
    out.push(FORM);
    zstd::compress(sequence, out);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    fn kind() -> impl Strategy<Value = Kind> {
        prop::sample::select(Kind::ALL.to_vec())
    }

    proptest! {
        #[test]
        fn what_is_packed_comes_out_in_its_order(
            items in prop::collection::vec(
                (kind(), "[a-z0-9][a-zA-Z0-9._-]{0,40}", prop::collection::vec(any::<u8>(), 0..600)),
                0..60,
            ),
        ) {
            let mut sequence = Vec::new();
            for (kind, device, payload) in &items {
                let before = sequence.len();
                append(*kind, device, payload, &mut sequence);
                prop_assert_eq!(sequence.len() - before, length(*kind, device, payload.len()));
            }
            let mut packed = Vec::new();
            seal(&sequence, &mut packed);
            let opened = open(&packed, sequence.len()).unwrap();
            prop_assert_eq!(&opened, &sequence);
            let read: Result<Vec<_>, Fault> = Items::of(&opened).collect();
            let read = read.unwrap();
            prop_assert_eq!(read.len(), items.len());
            for ((kind, device, payload), item) in items.iter().zip(read) {
                prop_assert_eq!((*kind, device.as_str(), payload.as_slice()), item);
            }
            // Other readers of CBOR see the same.
            let mut values = serde_cbor::Deserializer::from_slice(&sequence).into_iter::<serde_cbor::Value>();
            for (kind, device, payload) in &items {
                let expected = serde_cbor::Value::Array(vec![
                    serde_cbor::Value::Text(kind.as_str().into()),
                    serde_cbor::Value::Text(device.clone()),
                    serde_cbor::Value::Bytes(payload.clone()),
                ]);
                prop_assert_eq!(values.next().unwrap().unwrap(), expected);
            }
            prop_assert!(values.next().is_none());
        }

        #[test]
        fn nothing_that_comes_in_makes_the_reader_fall_over_or_take_more_than_it_may(
            damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
            cut in any::<prop::sample::Index>(),
            noise in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            const MAY: usize = 4_000;
            let mut sequence = Vec::new();
            for n in 0..20 {
                append(Kind::Data, "cow", format!("{{\"seq\":{n}}}").as_bytes(), &mut sequence);
            }
            let mut packed = Vec::new();
            seal(&sequence, &mut packed);
            for (place, byte) in damage {
                let place = place.index(packed.len());
                packed[place] = byte;
            }
            packed.truncate(cut.index(packed.len()) + 1);
            for bytes in [packed, noise.clone(), [&[1], &noise[..]].concat()] {
                if let Ok(sequence) = open(&bytes, MAY) {
                    prop_assert!(sequence.len() <= MAY);
                    let _ = Items::of(&sequence).count();
                }
            }
        }
    }

    #[test]
    fn a_small_message_that_holds_a_large_one_is_not_opened() {
        let mut packed = Vec::new();
        seal(&vec![0; 1 << 20], &mut packed);
        assert!(packed.len() < 200);
        assert_eq!(
            open(&packed, (1 << 20) - 1),
            Err(Fault::TooLarge {
                most: (1 << 20) - 1
            })
        );
        assert!(open(&packed, 1 << 20).is_ok());
    }

    #[test]
    fn each_fault_says_what_is_wrong() {
        for (bytes, said) in [
            (&b""[..], "first byte"),
            (b"\x02", "first byte"),
            (b"\x01abc", "zstd"),
        ] {
            let fault = open(bytes, 1_000).unwrap_err().to_string();
            assert!(fault.contains(said), "{fault}");
        }
        for sequence in [
            &b"\x83\x64data\x61a"[..],
            b"\x83\x64none\x61a\x40",
            b"\x82\x64data\x61a",
            b"\x83\x64data\x61a\x61x",
            b"\xff",
        ] {
            let read: Vec<_> = Items::of(sequence).collect();
            assert!(read.last().unwrap().is_err(), "{sequence:?}");
            assert!(read.len() == 1);
        }
    }
}
