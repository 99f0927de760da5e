//! SenML packs (RFC 8428): records as they came, and what they resolve to.
//!
//! Where the RFC leaves room:
//! - A record of base fields only carries no reading; any other record needs a value or a sum. A
//!   pack without a reading is refused.
//! - A base value is added to a `v` that is there; it does not stand in for one that is not. A
//!   base sum does count as the sum of every reading after it (§4.5.4).
//! - Every resolved record has a time: none, or 0, is the moment of arrival. Records stay in the
//!   order given.
//! - Integers stay integers, exact to 64 bits, and so does their sum with an integer base.
//! - The first record decides the version: its `bver`, or 10. Another `bver` later is refused. A
//!   version below 10 stays in the resolved records as `bver`, 10 does not (§4.6).
//! - Labels that are not known are passed over, texts and integers, but for texts that end in
//!   `_` (§4.4). The text and the integer form of one label are the same label; twice is refused.
//! - In CBOR a number may be a decimal fraction (tag 4, §6); any other tag on a number is
//!   refused, because it would change the value. Elsewhere tags are passed over.
//! - `vd` in JSON is read with or without padding and written without.
//! - An optional field of null is left out. A record whose value is null, or whose value or sum is
//!   NaN or infinite, also when only its base field makes it so, is dropped and counted; its base
//!   fields stay.

pub(super) mod content;
pub(super) mod label;
pub(super) mod parse;
pub mod resolve;
pub mod resolved;
mod rules;
pub mod times;

use std::borrow::Cow;

use super::number::Number;
use super::reject::{Reject, RejectCode};
use crate::reading::Content;
use resolve::Resolve;
use times::Times;

/// A pack as the device sent it, its records borrowing from the frame. Types, labels and numbers
/// of each record have been checked; names, versions and sums are checked by resolving.
#[derive(Debug, Clone, PartialEq)]
pub struct Pack<'a> {
    records: Vec<Record<'a>>,
}

/// What [`Pack::check`] found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Summary {
    /// Number of resolved records, at least 1.
    pub readings: u32,
    /// Bytes that the resolved pack takes at most in any encoding.
    pub resolved_bytes: usize,
    /// What the pack says; nothing where it was not asked for.
    pub content: Content,
    /// Records that were left out because they have no usable value.
    pub dropped: u32,
    /// The number of the first of them in the pack, from 1; 0: there is none.
    pub first_dropped: usize,
    /// When.
    pub times: Times,
}

/// Why a pack does not resolve. The text names the record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct PackError {
    /// [`RejectCode::BadPack`] or [`RejectCode::TooLarge`].
    pub code: RejectCode,
    /// One sentence.
    pub detail: String,
}

impl PackError {
    /// The answer to the device.
    #[must_use]
    pub fn into_reject(self, seq: Option<u64>) -> Reject {
        Reject {
            seq,
            code: self.code,
            detail: self.detail,
        }
    }
}

impl<'a> Pack<'a> {
    /// Number of records, those that carry only base fields included.
    #[must_use]
    pub fn records(&self) -> usize {
        self.records.len()
    }

    /// Number of records that carry a reading.
    #[must_use]
    pub fn readings(&self) -> usize {
        let (mut value, mut sum) = (None, None);
        let counts = |record: &&Record<'_>| {
            if let Some(base) = &record.base {
                value = base.value.or(value);
                sum = base.sum.or(sum);
            }
            let own = match record.value {
                Some(Value::Number(own)) => Some(own),
                _ => None,
            };
            !record.is_base_only()
                && !record.is_dropped()
                && resolve::sum(value, own).is_some()
                && resolve::sum(sum, record.sum).is_some()
        };
        self.records.iter().filter(counts).count()
    }

    /// The times of its records. `received`: what relative ones refer to.
    #[must_use]
    pub fn times(&self, received: f64) -> Times {
        Times::of(&self.records, received)
    }

    /// Resolves every record and builds nothing. `received`: what relative times refer to, Unix
    /// seconds: the hub's clock when the frame arrived, less the age of the batch.
    ///
    /// # Errors
    /// When the pack breaks RFC 8428, has no reading, or grows beyond
    /// [`MAX_RESOLVED`](super::limits::MAX_RESOLVED).
    pub fn check(&self, received: f64) -> Result<Summary, PackError> {
        self.resolve(received).check()
    }

    /// The resolved records in the order given (RFC 8428 §4.6). Ends after the first error.
    #[must_use]
    pub fn resolve<'p>(&'p self, received: f64) -> Resolve<'p, 'a> {
        Resolve::new(&self.records, received)
    }
}

/// One record as it came.
#[derive(Debug, Clone, PartialEq, Default)]
struct Record<'a> {
    /// Boxed: most packs have base fields in their first record only.
    base: Option<Box<Base<'a>>>,
    name: Option<Cow<'a, str>>,
    unit: Option<Cow<'a, str>>,
    value: Option<Value<'a>>,
    sum: Option<Number>,
    time: Option<Number>,
    update_time: Option<Number>,
    /// A value is there and is null.
    null_value: bool,
    /// The value or the sum is NaN or infinite.
    not_finite: bool,
}

impl<'a> Record<'a> {
    fn base(&mut self) -> &mut Base<'a> {
        self.base.get_or_insert_default()
    }

    /// Whether the sensor had nothing to say: the record is left out, but for its base fields.
    fn is_dropped(&self) -> bool {
        self.not_finite || (self.null_value && self.value.is_none())
    }

    /// Whether the record says nothing but base fields for those after it.
    fn is_base_only(&self) -> bool {
        self.base.is_some()
            && !self.is_dropped()
            && self.name.is_none()
            && self.unit.is_none()
            && self.value.is_none()
            && self.sum.is_none()
            && self.time.is_none()
            && self.update_time.is_none()
    }
}

/// The base fields of one record (RFC 8428 §4.1).
#[derive(Debug, Clone, PartialEq, Default)]
struct Base<'a> {
    name: Option<Cow<'a, str>>,
    time: Option<Number>,
    unit: Option<Cow<'a, str>>,
    value: Option<Number>,
    sum: Option<Number>,
    version: Option<u64>,
}

/// `v`, `vs`, `vb` or `vd`.
#[derive(Debug, Clone, PartialEq)]
enum Value<'a> {
    Number(Number),
    Text(Cow<'a, str>),
    Bool(bool),
    Data(Cow<'a, [u8]>),
}
