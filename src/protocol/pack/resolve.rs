//! Resolution (RFC 8428 §4.6): base fields applied, relative times made absolute.

use super::super::limits::MAX_RESOLVED;
use super::super::message::RejectCode::{BadPack, TooLarge};
use super::super::number::Number;
use super::content::Builder;
use super::rules::{
    Violation, bad, check_base_name, check_length, check_name, check_unit, json_bytes,
};
use super::times::Times;
use super::{Base, PackError, Record, Summary, Value};

/// The version of SenML that is understood (RFC 8428 §4.4).
const VERSION: u64 = 10;

/// Times below this many seconds are relative to the moment of arrival (RFC 8428 §4.5.3).
pub const RELATIVE_BELOW: f64 = 268_435_456.0;

/// Bytes of a JSON record with every field present, without what the fields hold:
/// `{"bver":10,"n":"","u":"","vd":"","s":,"t":,"ut":},`.
const RECORD_OVERHEAD: usize = 52;

/// Bytes of the longest number in JSON: `-2.2250738585072014e-308`.
const NUMBER_BYTES: usize = 24;

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

/// Iterates over the resolved records of a pack; records of base fields only are passed over.
#[derive(Debug)]
pub struct Resolve<'p, 'a> {
    records: &'p [Record<'a>],
    index: usize,
    received: f64,
    bytes: usize,
    name: &'p str,
    unit: Option<&'p str>,
    time: Option<Number>,
    value: Option<Number>,
    sum: Option<Number>,
    version: u64,
    times: Times,
}

impl<'p, 'a> Resolve<'p, 'a> {
    pub(super) fn new(records: &'p [Record<'a>], received: f64) -> Self {
        Self {
            records,
            index: 0,
            received,
            bytes: 0,
            name: "",
            unit: None,
            time: None,
            value: None,
            sum: None,
            version: VERSION,
            times: Times::none(),
        }
    }

    /// Goes through all records without giving them out.
    pub(super) fn check(mut self) -> Result<Summary, PackError> {
        let (mut readings, mut dropped, mut first_dropped) = (0, 0, 0);
        let mut content = Builder::new();
        for record in self.records {
            match self.step(record) {
                Ok(Some(resolved)) => {
                    readings += 1;
                    content.record(&resolved);
                }
                Ok(None) if record.is_dropped() => {
                    if dropped == 0 {
                        first_dropped = self.index + 1;
                    }
                    dropped += 1;
                }
                Ok(None) => {}
                Err(violation) => return Err(violation.at(self.index)),
            }
            self.index += 1;
        }
        if readings == 0 {
            return Err(PackError {
                code: BadPack,
                detail: match dropped {
                    0 => "the pack has no record with a value".into(),
                    _ => "no record of the pack has a value that is a finite number".into(),
                },
            });
        }
        Ok(Summary {
            readings,
            resolved_bytes: self.bytes,
            content: content.finish(),
            dropped,
            first_dropped,
            times: self.times,
        })
    }

    // Inlined into `check`, what is built here for nobody is not built.
    #[inline(always)]
    fn step(&mut self, record: &'p Record<'a>) -> Result<Option<Resolved<'p>>, Violation> {
        if let Some(base) = &record.base {
            self.apply(base)?;
        }
        if record.is_base_only() || record.is_dropped() {
            return Ok(None);
        }
        let name = record.name.as_deref().unwrap_or("");
        check_name(self.name, name)?;
        if record.value.is_none() && record.sum.is_none() {
            return Err(bad("has none of v, vs, vb, vd, s"));
        }
        let unit = match record.unit.as_deref() {
            Some(unit) => Some(check_unit(unit)?),
            None => self.unit,
        };
        let mut bytes = RECORD_OVERHEAD + self.name.len() + name.len() + NUMBER_BYTES;
        bytes += unit.map_or(0, json_bytes);
        let value = match &record.value {
            None => None,
            Some(Value::Number(value)) => {
                bytes += NUMBER_BYTES;
                let sum = match self.value {
                    None => Some(*value),
                    Some(base) => base.plus(*value),
                };
                let sum = sum.ok_or_else(|| bad("has a bv and a v that add up to infinity"))?;
                Some(ResolvedValue::Number(sum))
            }
            Some(Value::Text(text)) => {
                check_length(text.len())?;
                bytes += json_bytes(text);
                Some(ResolvedValue::Text(text))
            }
            Some(Value::Bool(value)) => {
                bytes += 5;
                Some(ResolvedValue::Bool(*value))
            }
            Some(Value::Data(data)) => {
                check_length(data.len())?;
                bytes += data.len().div_ceil(3) * 4;
                Some(ResolvedValue::Data(data))
            }
        };
        let sum = sum(self.sum, record.sum)
            .ok_or_else(|| bad("has a bs and an s that add up to infinity"))?;
        bytes +=
            NUMBER_BYTES * (usize::from(sum.is_some()) + usize::from(record.update_time.is_some()));
        self.bytes += bytes;
        if self.bytes > MAX_RESOLVED {
            return Err(Violation(
                TooLarge,
                "is where the resolved pack grows beyond 1 MiB",
            ));
        }
        Ok(Some(Resolved {
            base_name: self.name,
            name,
            unit,
            value,
            sum,
            time: self.absolute(record.time)?,
            update_time: record.update_time,
            version: (self.version != VERSION).then_some(self.version),
        }))
    }

    /// Takes over the base fields of a record; they hold for it and those after it.
    fn apply(&mut self, base: &'p Base<'a>) -> Result<(), Violation> {
        if let Some(name) = &base.name {
            self.name = check_base_name(name)?;
        }
        if let Some(unit) = &base.unit {
            self.unit = Some(check_unit(unit)?);
        }
        self.time = base.time.or(self.time);
        self.value = base.value.or(self.value);
        self.sum = base.sum.or(self.sum);
        match base.version {
            None => {}
            Some(0) => return Err(bad("has version 0; versions begin with 1")),
            Some(version) if version > VERSION => {
                return Err(bad(
                    "has a version above 10, which is the one understood here",
                ));
            }
            Some(version) if self.index == 0 => self.version = version,
            Some(version) if version == self.version => {}
            Some(_) => return Err(bad("has another version than the records before it")),
        }
        Ok(())
    }

    fn absolute(&mut self, time: Option<Number>) -> Result<Number, Violation> {
        let time = sum(self.time, time)
            .ok_or_else(|| bad("has a bt and a t that add up to infinity"))?
            .unwrap_or(Number::Int(0));
        self.times.add(time.as_f64(), self.received);
        if time.as_f64() >= RELATIVE_BELOW {
            return Ok(time);
        }
        Number::from_float(self.received + time.as_f64())
            .ok_or_else(|| bad("has a time before all times"))
    }
}

impl<'p> Iterator for Resolve<'p, '_> {
    type Item = Result<Resolved<'p>, PackError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let index = self.index;
            let record = self.records.get(index)?;
            let result = self.step(record);
            self.index += 1;
            match result {
                Ok(None) => {}
                Ok(Some(resolved)) => return Some(Ok(resolved)),
                Err(violation) => {
                    self.index = self.records.len();
                    return Some(Err(violation.at(index)));
                }
            }
        }
    }
}

/// `None`: infinite. `Some(None)`: neither is there. A missing one counts as zero.
#[expect(
    clippy::option_option,
    reason = "absent and infinite are different answers"
)]
fn sum(base: Option<Number>, own: Option<Number>) -> Option<Option<Number>> {
    match (base, own) {
        (Some(base), Some(own)) => base.plus(own).map(Some),
        (base, own) => Some(base.or(own)),
    }
}
