//! What a batch says, as one number: by it the hub knows a batch that is sent again from another
//! batch under the same number.
//!
//! Names, units, values and sums of the resolved records count, in order. Times do not, because
//! they may be relative to the moment of sending. Neither does the encoding: a name that is cut
//! elsewhere into base name and name, or 20 for 20.0, is the same content.

use super::super::number::Number;
use super::resolved::{Resolved, ResolvedValue};
use crate::reading::Content;

/// What comes next, so that no two packs make the same row of words: a text that ends and another
/// that begins, a missing unit and an empty one.
#[derive(Clone, Copy)]
enum Part {
    Record = 1,
    Unit,
    Integer,
    Float,
    Text,
    True,
    False,
    Data,
    Sum,
}

/// Builds a [`Content`], record by record.
#[derive(Debug)]
pub(in crate::protocol) struct Builder(u64);

impl Builder {
    pub(super) fn new() -> Self {
        Self(0x7465_6c65_6875_6221)
    }

    /// One step of SplitMix64: every bit of the word reaches every bit of the state.
    fn word(&mut self, word: u64) {
        let mut z = (self.0 ^ word).wrapping_add(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        self.0 = z ^ (z >> 31);
    }

    /// What comes next, and how long it is or another word of up to 56 bits about it.
    fn part(&mut self, part: Part, more: u64) {
        self.word(more << 8 | part as u64);
    }

    fn text(&mut self, part: Part, text: &[u8]) {
        self.part(part, text.len() as u64);
        let (words, rest) = text.as_chunks();
        for word in words {
            self.word(u64::from_be_bytes(*word));
        }
        self.last_word(rest);
    }

    /// Up to eight bytes, if there are any.
    fn last_word(&mut self, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.word(
                bytes
                    .iter()
                    .fold(0, |word, byte| word << 8 | u64::from(*byte)),
            );
        }
    }

    /// Two pieces that are one row of bytes.
    fn pieces(&mut self, part: Part, first: &[u8], second: &[u8]) {
        if first.is_empty() || second.is_empty() {
            let whole = if first.is_empty() { second } else { first };
            return self.text(part, whole);
        }
        self.part(part, (first.len() + second.len()) as u64);
        let (mut word, mut filled) = ([0; 8], 0);
        for byte in first.iter().chain(second) {
            word[filled] = *byte;
            filled += 1;
            if filled == word.len() {
                self.word(u64::from_be_bytes(word));
                filled = 0;
            }
        }
        self.last_word(&word[..filled]);
    }

    fn number(&mut self, number: Number) {
        match integer(number) {
            Some(integer) => {
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "the two halves of it; the upper one is 0 or -1"
                )]
                let [high, low] = [(integer >> 64) as u64, integer as u64];
                self.part(Part::Integer, high);
                self.word(low);
            }
            None => {
                self.part(Part::Float, 0);
                self.word(number.as_f64().to_bits());
            }
        }
    }

    pub(super) fn record(&mut self, record: &Resolved<'_>) {
        let [base, name] = [record.base_name, record.name].map(str::as_bytes);
        self.pieces(Part::Record, base, name);
        if let Some(unit) = record.unit {
            self.text(Part::Unit, unit.as_bytes());
        }
        match record.value {
            None => {}
            Some(ResolvedValue::Number(number)) => self.number(number),
            Some(ResolvedValue::Text(text)) => self.text(Part::Text, text.as_bytes()),
            Some(ResolvedValue::Bool(true)) => self.part(Part::True, 0),
            Some(ResolvedValue::Bool(false)) => self.part(Part::False, 0),
            Some(ResolvedValue::Data(data)) => self.text(Part::Data, data),
        }
        if let Some(sum) = record.sum {
            self.part(Part::Sum, 0);
            self.number(sum);
        }
    }

    pub(super) fn finish(self) -> Content {
        Content(self.0)
    }
}

/// The number as an integer, if it is one that some integer type of the protocol holds: what is
/// larger is always a float.
fn integer(number: Number) -> Option<i128> {
    match number {
        Number::Int(value) => Some(value.into()),
        Number::UInt(value) => Some(value.into()),
        Number::Float(value) => {
            /// 2^63 and 2^64. Floats between them are whole.
            const LARGE: f64 = 9_223_372_036_854_775_808.0;
            const BEYOND: f64 = 18_446_744_073_709_551_616.0;
            if (LARGE..BEYOND).contains(&value) {
                #[expect(clippy::cast_possible_truncation, reason = "checked right there")]
                return Some(value as i128);
            }
            #[expect(clippy::cast_possible_truncation, reason = "compared right there")]
            let whole = value as i64;
            #[expect(clippy::cast_precision_loss, reason = "compared right there")]
            let same = whole as f64 == value && value < LARGE;
            same.then(|| whole.into())
        }
    }
}
