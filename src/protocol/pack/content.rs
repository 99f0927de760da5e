//! What a batch says, as one number: by it the hub knows a batch that is sent again from another
//! batch under the same number.
//!
//! Names, units, values and sums of the resolved records count, in order. Times do not, because
//! they may be relative to the moment of sending. Neither does the encoding: a name that is cut
//! elsewhere into base name and name, or 20 for 20.0, is the same content.

use super::super::number::Number;
use super::resolve::{Resolved, ResolvedValue};
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

    fn part(&mut self, part: Part) {
        self.word(part as u64);
    }

    /// Two pieces that are one row of bytes.
    fn bytes(&mut self, first: &[u8], second: &[u8]) {
        self.word((first.len() + second.len()) as u64);
        let (mut word, mut filled) = (0_u64, 0_u32);
        for piece in [first, second] {
            for byte in piece {
                word = word << 8 | u64::from(*byte);
                filled += 1;
                if filled == 8 {
                    self.word(word);
                    (word, filled) = (0, 0);
                }
            }
        }
        if filled > 0 {
            self.word(word);
        }
    }

    fn number(&mut self, number: Number) {
        let integer = match number {
            Number::Int(value) => Some(i128::from(value)),
            Number::UInt(value) => Some(i128::from(value)),
            Number::Float(value) => {
                /// 2^64: beyond it no integer type holds the number, so it is always a float.
                const BEYOND: f64 = 18_446_744_073_709_551_616.0;
                let whole = value.fract() == 0.0 && value.abs() < BEYOND;
                #[expect(clippy::cast_possible_truncation, reason = "checked right there")]
                whole.then_some(value as i128)
            }
        };
        match integer {
            Some(integer) => {
                self.part(Part::Integer);
                let [high, low] = [integer >> 64, integer];
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "the two halves of it"
                )]
                for half in [high as u64, low as u64] {
                    self.word(half);
                }
            }
            None => {
                self.part(Part::Float);
                self.word(number.as_f64().to_bits());
            }
        }
    }

    pub(super) fn record(&mut self, record: &Resolved<'_>) {
        self.part(Part::Record);
        self.bytes(record.base_name.as_bytes(), record.name.as_bytes());
        if let Some(unit) = record.unit {
            self.part(Part::Unit);
            self.bytes(unit.as_bytes(), &[]);
        }
        match record.value {
            None => {}
            Some(ResolvedValue::Number(number)) => self.number(number),
            Some(ResolvedValue::Text(text)) => {
                self.part(Part::Text);
                self.bytes(text.as_bytes(), &[]);
            }
            Some(ResolvedValue::Bool(true)) => self.part(Part::True),
            Some(ResolvedValue::Bool(false)) => self.part(Part::False),
            Some(ResolvedValue::Data(data)) => {
                self.part(Part::Data);
                self.bytes(data, &[]);
            }
        }
        if let Some(sum) = record.sum {
            self.part(Part::Sum);
            self.number(sum);
        }
    }

    pub(super) fn finish(self) -> Content {
        Content(self.0)
    }
}
