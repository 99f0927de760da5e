//! Batches and gap records in InfluxDB's line protocol: one line a reading, times in nanoseconds.
//!
//! `telehub,hub=barn,device=cow,name=temp,unit=Cel v=21.5,stream="a",seq=7i 1700000000500000000`
//!
//! What names a series is a tag: hub, device, name and unit. The rest are fields. There is one field
//! for each kind of value, because a field has one type for ever: `v` is always a float, `vs` a
//! string, `vb` a boolean, `vd` a string in base64url, `s` (the sum) and `ut` floats. `stream`, `seq`
//! and `clock` are what duplicates and doubtful times are known by; as tags they would make a series
//! of each batch.

use std::fmt::Write as _;

use super::decode::scalar::base64url;
use super::number::Number;
use super::pack::resolved::{Resolved, ResolvedValue};
use crate::reading::{Batch, Doubt, Gap};

/// Times are 64 bits of nanoseconds; InfluxDB keeps the two lowest and the highest to itself. What
/// lies outside, before 1677 or after 2262, stands at the edge.
const EDGES: (i128, i128) = (-9_223_372_036_854_775_806, 9_223_372_036_854_775_806);

/// Writes the lines of one batch.
#[derive(Debug)]
pub(super) struct Lines<'a> {
    /// Tags that all lines have, and fields.
    tags: String,
    fields: String,
    out: String,
    batch: &'a Batch,
}

impl<'a> Lines<'a> {
    /// `hub`: its id, if it is known here.
    pub(super) fn new(batch: &'a Batch, hub: Option<&str>, doubt: Option<Doubt>) -> Self {
        let mut tags = String::from("telehub");
        if let Some(hub) = hub {
            tags.push_str(",hub=");
            tag(&mut tags, hub);
        }
        tags.push_str(",device=");
        tag(&mut tags, &batch.device);
        let mut fields = String::from(",stream=");
        string(&mut fields, &batch.stream);
        if let Some(seq) = batch.seq {
            fields.push_str(",seq=");
            integer(&mut fields, seq);
        }
        if let Some(doubt) = doubt {
            fields.push_str(",clock=");
            string(&mut fields, word(doubt));
        }
        Self {
            tags,
            fields,
            out: String::new(),
            batch,
        }
    }

    /// One reading.
    pub(super) fn record(&mut self, record: &Resolved<'_>) {
        if !self.out.is_empty() {
            self.out.push('\n');
        }
        let out = &mut self.out;
        out.push_str(&self.tags);
        out.push_str(",name=");
        // Names hold nothing that has to be escaped.
        out.push_str(record.base_name);
        out.push_str(record.name);
        let as_tag = record.unit.filter(|unit| is_tag(unit));
        if let Some(unit) = as_tag {
            out.push_str(",unit=");
            tag(out, unit);
        }
        out.push(' ');
        let start = out.len();
        match record.value {
            None => {}
            Some(ResolvedValue::Number(value)) => float(out, ",v=", value),
            Some(ResolvedValue::Text(value)) => {
                out.push_str(",vs=");
                string(out, value);
            }
            Some(ResolvedValue::Bool(value)) => {
                let _ = write!(out, ",vb={value}");
            }
            Some(ResolvedValue::Data(value)) => {
                out.push_str(",vd=");
                string(out, &base64url(value));
            }
        }
        if let Some(sum) = record.sum {
            float(out, ",s=", sum);
        }
        if let Some(update_time) = record.update_time {
            float(out, ",ut=", update_time);
        }
        if let Some(unit) = record.unit.filter(|_| as_tag.is_none()) {
            out.push_str(",unit=");
            string(out, unit);
        }
        // There is a value or a sum, and it has a comma before it.
        out.remove(start);
        out.push_str(&self.fields);
        out.push(' ');
        time(out, record.time);
    }

    /// All of it.
    pub(super) fn finish(self) -> String {
        debug_assert!(!self.out.is_empty() || self.batch.readings == 0);
        self.out
    }
}

/// A gap record as one line.
#[must_use]
pub(super) fn gap(gap: &Gap, hub: Option<&str>) -> String {
    let mut out = String::from("telehub_gap");
    if let Some(hub) = hub {
        out.push_str(",hub=");
        tag(&mut out, hub);
    }
    out.push_str(",device=");
    tag(&mut out, &gap.device);
    out.push_str(",reason=");
    out.push_str(gap.reason.as_str());
    out.push_str(" stream=");
    string(&mut out, &gap.stream);
    for (name, number) in [
        (",from=", gap.from),
        (",to=", gap.to),
        (",batches=", Some(gap.batches)),
        (",readings=", Some(gap.readings)),
    ] {
        if let Some(number) = number {
            out.push_str(name);
            integer(&mut out, number);
        }
    }
    if let Some(doubt) = gap.clock {
        out.push_str(",clock=");
        string(&mut out, word(doubt));
    }
    out.push(' ');
    time(&mut out, Number::Float(gap.time));
    out
}

fn word(doubt: Doubt) -> &'static str {
    match doubt {
        Doubt::Unsynced => "unsynced",
        Doubt::Implausible => "implausible",
    }
}

/// Whether a text can be a tag's value as it is: line protocol has no way to write a line break
/// there, a backslash may or may not escape what follows, and an empty one is no tag.
fn is_tag(text: &str) -> bool {
    !text.is_empty() && !text.contains('\\') && !text.chars().any(char::is_control)
}

fn tag(out: &mut String, text: &str) {
    for character in text.chars() {
        if matches!(character, ',' | '=' | ' ') {
            out.push('\\');
        }
        out.push(character);
    }
}

fn string(out: &mut String, text: &str) {
    out.push('"');
    for character in text.chars() {
        if matches!(character, '"' | '\\') {
            out.push('\\');
        }
        out.push(character);
    }
    out.push('"');
}

/// Integers are signed there. Numbers beyond are unsigned, which InfluxDB 1 does not take.
fn integer(out: &mut String, number: u64) {
    let sign = if i64::try_from(number).is_ok() {
        'i'
    } else {
        'u'
    };
    let _ = write!(out, "{number}{sign}");
}

/// A float field: a number without the `i` of integers.
fn float(out: &mut String, name: &str, number: Number) {
    out.push_str(name);
    let _ = match number {
        Number::Int(value) => write!(out, "{value}"),
        Number::UInt(value) => write!(out, "{value}"),
        // The shortest text that reads back to the same, with an exponent where it is long.
        Number::Float(value) => write!(out, "{value:?}"),
    };
}

/// Nanoseconds. A decimal time is taken as it is written, because a double of nanoseconds has not
/// enough digits: 0.1 s are 100,000,000 ns and not 99,999,904.
fn time(out: &mut String, seconds: Number) {
    let nanos = match seconds {
        Number::Int(value) => i128::from(value) * 1_000_000_000,
        Number::UInt(value) => i128::from(value) * 1_000_000_000,
        Number::Float(value) => nanoseconds(value),
    };
    let _ = write!(out, "{}", nanos.clamp(EDGES.0, EDGES.1));
}

fn nanoseconds(seconds: f64) -> i128 {
    // Without an exponent, whatever its size.
    let text = format!("{seconds}");
    let (sign, digits) = match text.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, &text[..]),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let fraction: String = fraction
        .chars()
        .chain("000000000".chars())
        .take(9)
        .collect();
    // What has more digits lies far beyond the edges.
    let beyond = i128::MAX / 2;
    let whole: i128 = whole.parse().unwrap_or(beyond);
    let nanos = whole.saturating_mul(1_000_000_000);
    sign * nanos.saturating_add(fraction.parse().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_exact_to_the_nanosecond_as_they_are_written() {
        let nanos = |seconds| {
            let mut out = String::new();
            time(&mut out, seconds);
            out
        };
        for (seconds, text) in [
            (Number::Int(1_700_000_000), "1700000000000000000"),
            (Number::Float(1_700_000_000.1), "1700000000100000000"),
            (Number::Float(1_700_000_000.123_456), "1700000000123456000"),
            (Number::Float(-0.5), "-500000000"),
            (Number::Float(1e-9), "1"),
            (Number::Float(0.0), "0"),
            (Number::Float(1e300), "9223372036854775806"),
            (Number::Float(-1e300), "-9223372036854775806"),
            (Number::UInt(u64::MAX), "9223372036854775806"),
            (Number::Int(i64::MIN), "-9223372036854775806"),
        ] {
            assert_eq!(nanos(seconds), text, "{seconds:?}");
        }
    }
}
