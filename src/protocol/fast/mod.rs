//! A batch in CBOR as nearly all of them are, read in one pass: each record is resolved as soon as
//! it is read and given to a [`Sink`], and nothing is built. On arrival the sink is [`Count`], so
//! that the pass is only a check; when the batch is published, it is [`Json`], which writes.
//!
//! What is uncommon in any way goes the long way of [`decode()`](super::decode()): tags, indefinite
//! lengths, fields that are not known, null, numbers that are not finite, and every fault, because
//! only the long way can say what is wrong. So this reader never refuses: it reads, or it passes.
//! Where it reads, number, readings and output are those of the long way to the byte; the resolver
//! is the same one, and `tests/protocol_fast.rs` compares the rest on generated frames.

mod cursor;
mod json;
mod record;

use super::limits::MAX_RECORDS;
use super::pack::Summary;
use super::pack::resolve::Resolver;
use super::pack::resolved::Resolved;
use super::pack::times::RELATIVE_BELOW;
use cursor::{Cursor, Kind};
pub use json::Json;

/// What a batch is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Walked {
    /// Sequence number, if it has one.
    pub seq: Option<u64>,
    /// Seconds before the arrival to which relative times refer.
    pub age: f64,
    /// What [`Pack::check`](super::pack::Pack::check) finds.
    pub pack: Summary,
}

/// Takes the resolved records of a batch in their order. When the walk ends with `None`, what a
/// sink was given before is void.
pub trait Sink {
    /// Whether [`Summary::content`] is wanted.
    const CONTENT: bool;

    /// The next one.
    fn record(&mut self, record: &Resolved<'_>);
}

/// Takes nothing: the walk is a check that counts the readings.
#[derive(Debug, Clone, Copy)]
pub struct Count;

impl Sink for Count {
    const CONTENT: bool = true;

    // Inlined, what is built here for nobody is not built.
    #[inline(always)]
    fn record(&mut self, _: &Resolved<'_>) {}
}

/// Reads a `data` message or a bare pack. `received`: the hub's clock when it arrived, Unix
/// seconds. `None`: it has to go the long way.
pub fn walk<S: Sink>(frame: &[u8], received: f64, sink: &mut S) -> Option<Walked> {
    let mut cursor = Cursor::new(frame);
    let (mut seq, mut age, mut found) = (None, None, None);
    if cursor.skip(b"\xa1\x64data") {
        for _ in 0..cursor.length(Kind::Map)? {
            match cursor.text_bytes()? {
                b"seq" if seq.is_none() => seq = Some(cursor.unsigned().filter(|seq| *seq > 0)?),
                // Behind the pack it would come too late.
                b"age" if age.is_none() && found.is_none() => {
                    let seconds = cursor.number()?.as_f64();
                    age = Some(seconds).filter(|age| (0.0..RELATIVE_BELOW).contains(age));
                    age?;
                }
                b"pack" if found.is_none() => {
                    let received = received - age.unwrap_or(0.0);
                    found = Some(pack(&mut cursor, received, sink)?);
                }
                _ => return None,
            }
        }
    } else {
        found = Some(pack(&mut cursor, received, sink)?);
    }
    let pack = found.filter(|_| cursor.is_at_end())?;
    let age = age.unwrap_or(0.0);
    Some(Walked { seq, age, pack })
}

fn pack<S: Sink>(cursor: &mut Cursor<'_>, received: f64, sink: &mut S) -> Option<Summary> {
    let records = cursor.length(Kind::Array)?;
    if records > MAX_RECORDS {
        return None;
    }
    let mut resolver = Resolver::new(received);
    if S::CONTENT {
        resolver = resolver.with_content();
    }
    for _ in 0..records {
        let (fields, base_only) = record::read(cursor)?;
        if let Some(resolved) = resolver.step(&fields, base_only).ok()? {
            sink.record(&resolved);
        }
    }
    resolver.finish().ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const RECEIVED: f64 = 1_700_000_000.25;

    fn walked(frame: &[u8]) -> Option<(Option<u64>, u32)> {
        walk(frame, RECEIVED, &mut Count).map(|walked| (walked.seq, walked.pack.readings))
    }

    #[test]
    fn a_message_and_a_bare_pack_are_read_with_labels_of_both_kinds() {
        assert_eq!(
            walked(b"\xa1\x64data\xa2\x63seq\x07\x64pack\x81\xa2\x00\x61a\x02\x01"),
            Some((Some(7), 1))
        );
        assert_eq!(
            walked(b"\xa1\x64data\xa1\x64pack\x81\xa2\x61n\x61a\x61v\x01"),
            Some((None, 1))
        );
        assert_eq!(
            walked(b"\x82\xa1\x21\x61a\xa1\x02\xf9\x3c\x00"),
            Some((None, 1))
        );
    }

    #[test]
    fn what_is_uncommon_or_wrong_goes_the_long_way() {
        for frame in [
            &b""[..],
            b"\x80",
            // No number, number 0, a number twice, a pack twice, bytes behind.
            b"\xa1\x64data\xa1\x63seq\x07",
            b"\xa1\x64data\xa2\x63seq\x00\x64pack\x81\xa2\x00\x61a\x02\x01",
            b"\xa1\x64data\xa3\x63seq\x07\x63seq\x08\x64pack\x81\xa2\x00\x61a\x02\x01",
            b"\xa1\x64data\xa2\x64pack\x81\xa2\x00\x61a\x02\x01\x64pack\x81\xa2\x00\x61a\x02\x01",
            b"\x81\xa2\x00\x61a\x02\x01\x00",
            // A tag, an indefinite length, null, NaN, a label twice, an unknown one, no value.
            b"\x81\xa2\x00\x61a\x02\xc1\x01",
            b"\x9f\xa2\x00\x61a\x02\x01\xff",
            b"\x81\xa2\x00\x61a\x02\xf6",
            b"\x81\xa2\x00\x61a\x02\xf9\x7e\x00",
            b"\x81\xa3\x00\x61a\x61n\x61a\x02\x01",
            b"\x81\xa3\x00\x61a\x02\x01\x18\x63\x00",
            b"\x81\xa1\x00\x61a",
            // A length that is only claimed.
            b"\x81\xa2\x00\x7b\xff\xff\xff\xff\xff\xff\xff\xff\x02\x01",
            b"\x9b\xff\xff\xff\xff\xff\xff\xff\xff\xa2\x00\x61a\x02\x01",
        ] {
            assert_eq!(walked(frame), None, "{frame:02x?}");
        }
    }
}
