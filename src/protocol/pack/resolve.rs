//! Resolution (RFC 8428 §4.6): base fields applied, relative times made absolute.

use super::super::limits::MAX_RESOLVED;
use super::super::number::Number;
use super::super::reject::RejectCode::{BadPack, TooLarge};
use super::content::Builder;
use super::resolved::{Resolved, ResolvedValue};
use super::rules::{
    Violation, bad, check_base_name, check_length, check_name, check_unit, json_bytes,
};
use super::times::{RELATIVE_BELOW, Times};
use super::{PackError, Record, Summary, Value};
use crate::reading::Content;

/// The version of SenML that is understood (RFC 8428 §4.4).
const VERSION: u64 = 10;

/// Bytes of a JSON record with every field present, without what the fields hold:
/// `{"bver":10,"n":"","u":"","vd":"","s":,"t":,"ut":},`.
const RECORD_OVERHEAD: usize = 52;

/// Bytes of the longest number in JSON: `-2.2250738585072014e-308`.
const NUMBER_BYTES: usize = 24;

/// The fields of one record as they were read. Both readers of frames hand this to the resolver,
/// so that they cannot differ in what a record means.
#[derive(Debug, Clone, Copy, Default)]
pub(in crate::protocol) struct Fields<'p> {
    pub(in crate::protocol) base: BaseFields<'p>,
    pub(in crate::protocol) own: OwnFields<'p>,
}

/// `None`: not there.
#[derive(Debug, Clone, Copy, Default)]
pub(in crate::protocol) struct BaseFields<'p> {
    pub(in crate::protocol) name: Option<&'p str>,
    pub(in crate::protocol) time: Option<Number>,
    pub(in crate::protocol) unit: Option<&'p str>,
    pub(in crate::protocol) value: Option<Number>,
    pub(in crate::protocol) sum: Option<Number>,
    pub(in crate::protocol) version: Option<u64>,
}

/// `None`: not there.
#[derive(Debug, Clone, Copy, Default)]
pub(in crate::protocol) struct OwnFields<'p> {
    pub(in crate::protocol) name: Option<&'p str>,
    pub(in crate::protocol) unit: Option<&'p str>,
    pub(in crate::protocol) value: Option<ResolvedValue<'p>>,
    pub(in crate::protocol) sum: Option<Number>,
    pub(in crate::protocol) time: Option<Number>,
    pub(in crate::protocol) update_time: Option<Number>,
}

impl<'p> Fields<'p> {
    fn of(record: &'p Record<'_>) -> Self {
        let base = record
            .base
            .as_ref()
            .map_or_else(BaseFields::default, |base| BaseFields {
                name: base.name.as_deref(),
                time: base.time,
                unit: base.unit.as_deref(),
                value: base.value,
                sum: base.sum,
                version: base.version,
            });
        let own = OwnFields {
            name: record.name.as_deref(),
            unit: record.unit.as_deref(),
            value: record.value.as_ref().map(|value| match value {
                Value::Number(value) => ResolvedValue::Number(*value),
                Value::Text(text) => ResolvedValue::Text(text),
                Value::Bool(value) => ResolvedValue::Bool(*value),
                Value::Data(data) => ResolvedValue::Data(data),
            }),
            sum: record.sum,
            time: record.time,
            update_time: record.update_time,
        };
        Self { base, own }
    }
}

/// Iterates over the resolved records of a pack; records of base fields only are passed over.
#[derive(Debug)]
pub struct Resolve<'p, 'a> {
    records: &'p [Record<'a>],
    resolver: Resolver<'p>,
}

/// Resolves the records of one pack, handed to it in their order.
#[derive(Debug)]
pub(in crate::protocol) struct Resolver<'p> {
    /// Of the record that comes next, from 0.
    index: usize,
    received: f64,
    /// Of the records so far.
    readings: u32,
    bytes: usize,
    /// `None`: nobody asks.
    content: Option<Builder>,
    times: Times,
    dropped: u32,
    first_dropped: usize,
    name: &'p str,
    unit: Option<&'p str>,
    time: Option<Number>,
    value: Option<Number>,
    sum: Option<Number>,
    version: u64,
}

impl<'p, 'a> Resolve<'p, 'a> {
    pub(super) fn new(records: &'p [Record<'a>], received: f64) -> Self {
        Self {
            records,
            resolver: Resolver::new(received),
        }
    }

    /// Goes through all records without giving them out.
    pub(super) fn check(mut self) -> Result<Summary, PackError> {
        self.resolver = self.resolver.with_content();
        for (index, record) in self.records.iter().enumerate() {
            if let Err(violation) = self.step(record) {
                return Err(violation.at(index));
            }
        }
        self.resolver.finish()
    }

    // Inlined into `check`, what is built here for nobody is not built.
    #[inline(always)]
    fn step(&mut self, record: &'p Record<'a>) -> Result<Option<Resolved<'p>>, Violation> {
        let fields = Fields::of(record);
        if record.is_dropped() {
            self.resolver.pass_over(&fields)?;
            return Ok(None);
        }
        self.resolver.step(&fields, record.is_base_only())
    }
}

impl<'p> Resolver<'p> {
    /// `received`: what relative times refer to, Unix seconds.
    pub(in crate::protocol) fn new(received: f64) -> Self {
        Self {
            index: 0,
            received,
            readings: 0,
            bytes: 0,
            content: None,
            times: Times::none(),
            dropped: 0,
            first_dropped: 0,
            name: "",
            unit: None,
            time: None,
            value: None,
            sum: None,
            version: VERSION,
        }
    }

    /// The same, and it finds out what the pack says.
    pub(in crate::protocol) fn with_content(self) -> Self {
        Self {
            content: Some(Builder::new()),
            ..self
        }
    }

    /// The next record, which has no usable value: its base fields hold for those after it.
    pub(in crate::protocol) fn pass_over(&mut self, fields: &Fields<'p>) -> Result<(), Violation> {
        self.apply(&fields.base)?;
        self.index += 1;
        self.drop_record();
        Ok(())
    }

    /// The record that was just read has no usable value.
    fn drop_record(&mut self) {
        if self.dropped == 0 {
            self.first_dropped = self.index;
        }
        self.dropped += 1;
    }

    /// The next record; `None`: it holds base fields for those after it and nothing else, which
    /// `base_only` says, or with a base field its value or sum is infinite.
    #[inline(always)]
    pub(in crate::protocol) fn step(
        &mut self,
        fields: &Fields<'p>,
        base_only: bool,
    ) -> Result<Option<Resolved<'p>>, Violation> {
        self.apply(&fields.base)?;
        self.index += 1;
        if base_only {
            return Ok(None);
        }
        let own = &fields.own;
        let name = own.name.unwrap_or("");
        check_name(self.name, name)?;
        if own.value.is_none() && own.sum.is_none() {
            return Err(bad("has none of v, vs, vb, vd, s"));
        }
        let unit = match own.unit {
            Some(unit) => Some(check_unit(unit)?),
            None => self.unit,
        };
        let mut bytes = RECORD_OVERHEAD + self.name.len() + name.len() + NUMBER_BYTES;
        bytes += unit.map_or(0, json_bytes);
        let value = match own.value {
            None => None,
            Some(ResolvedValue::Number(value)) => {
                bytes += NUMBER_BYTES;
                let Some(value) = sum(self.value, Some(value)) else {
                    self.drop_record();
                    return Ok(None);
                };
                value.map(ResolvedValue::Number)
            }
            Some(ResolvedValue::Text(text)) => {
                check_length(text.len())?;
                bytes += json_bytes(text);
                own.value
            }
            Some(ResolvedValue::Bool(_)) => {
                bytes += 5;
                own.value
            }
            Some(ResolvedValue::Data(data)) => {
                check_length(data.len())?;
                bytes += data.len().div_ceil(3) * 4;
                own.value
            }
        };
        let Some(sum) = sum(self.sum, own.sum) else {
            self.drop_record();
            return Ok(None);
        };
        bytes +=
            NUMBER_BYTES * (usize::from(sum.is_some()) + usize::from(own.update_time.is_some()));
        self.readings += 1;
        self.bytes += bytes;
        if self.bytes > MAX_RESOLVED {
            return Err(Violation(
                TooLarge,
                "is where the resolved pack grows beyond 1 MiB",
            ));
        }
        let resolved = Resolved {
            base_name: self.name,
            name,
            unit,
            value,
            sum,
            time: self.absolute(own.time)?,
            update_time: own.update_time,
            version: (self.version != VERSION).then_some(self.version),
        };
        if let Some(content) = &mut self.content {
            content.record(&resolved);
        }
        Ok(Some(resolved))
    }

    /// After the last record.
    pub(in crate::protocol) fn finish(self) -> Result<Summary, PackError> {
        if self.readings == 0 {
            return Err(PackError {
                code: BadPack,
                detail: match self.dropped {
                    0 => "the pack has no record with a value".into(),
                    _ => "no record of the pack has a value that is a finite number".into(),
                },
            });
        }
        Ok(Summary {
            readings: self.readings,
            resolved_bytes: self.bytes,
            content: self.content.map_or(Content::default(), Builder::finish),
            dropped: self.dropped,
            first_dropped: self.first_dropped,
            times: self.times,
        })
    }

    /// Takes over the base fields of a record; they hold for it and those after it.
    #[inline(always)]
    fn apply(&mut self, base: &BaseFields<'p>) -> Result<(), Violation> {
        if let Some(name) = base.name {
            self.name = check_base_name(name)?;
        }
        if let Some(unit) = base.unit {
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

    #[inline(always)]
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
            let index = self.resolver.index;
            let (record, rest) = self.records.split_first()?;
            self.records = rest;
            match self.step(record) {
                Ok(None) => {}
                Ok(Some(resolved)) => return Some(Ok(resolved)),
                Err(violation) => {
                    self.records = &[];
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
pub(super) fn sum(base: Option<Number>, own: Option<Number>) -> Option<Option<Number>> {
    match (base, own) {
        (Some(base), Some(own)) => base.plus(own).map(Some),
        (base, own) => Some(base.or(own)),
    }
}
