//! A reading as the pack means it.

use super::super::number::Number;

/// A record without base fields and relative times.
#[derive(Debug, Clone, PartialEq)]
pub struct Resolved<'p> {
    /// First part of the name.
    pub base_name: &'p str,
    /// Second part of the name. Together they are 1 to [`MAX_NAME`](super::super::limits::MAX_NAME) bytes of
    /// `A-Z a-z 0-9 - : . / _`, the first one alphanumeric.
    pub name: &'p str,
    /// Unit, if any.
    pub unit: Option<&'p str>,
    /// Value. `None` only when there is a sum.
    pub value: Option<ResolvedValue<'p>>,
    /// Sum, if any.
    pub sum: Option<Number>,
    /// Unix seconds.
    pub time: Number,
    /// Seconds until the next reading at the latest.
    pub update_time: Option<Number>,
    /// Version of the pack when it is not the default of 10.
    pub version: Option<u64>,
}

/// The value of a resolved record.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ResolvedValue<'p> {
    /// `v`
    Number(Number),
    /// `vs`
    Text(&'p str),
    /// `vb`
    Bool(bool),
    /// `vd`
    Data(&'p [u8]),
}
