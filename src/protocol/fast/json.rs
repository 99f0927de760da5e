//! Resolved records as JSON (RFC 8428 §5), as the long way writes them.

use super::super::decode::scalar::base64url;
use super::super::number::Number;
use super::super::out::{Out, Writer};
use super::super::pack::resolved::{Resolved, ResolvedValue};
use super::Sink;

/// Bytes that a record is given room for beside its texts: labels and two or three numbers. Only
/// saves growing the buffer several times for one record.
const RECORD_ROOM: usize = 96;

/// Writes records with commas between them; the brackets around them are the caller's.
#[derive(Debug)]
pub struct Json<'o, O> {
    out: &'o mut O,
    any: bool,
    /// The last time that was written, and where: most records of a batch have the same one.
    time: Option<(Number, usize, usize)>,
}

impl<'o, O: Out> Json<'o, O> {
    /// Appends to `out`.
    pub fn new(out: &'o mut O) -> Self {
        Self {
            out,
            any: false,
            time: None,
        }
    }

    fn time(&mut self, time: Number) {
        match self.time {
            Some((known, from, to)) if is_same(known, time) => self.out.again(from, to),
            _ => {
                let from = self.out.len();
                number(self.out, time);
                self.time = Some((time, from, self.out.len()));
            }
        }
    }
}

impl<O: Out> Sink for Json<'_, O> {
    const CONTENT: bool = false;

    fn record(&mut self, record: &Resolved<'_>) {
        let out = &mut *self.out;
        out.reserve(RECORD_ROOM + record.base_name.len() + record.name.len());
        out.put(if self.any { b",{" } else { b"{" });
        self.any = true;
        if let Some(version) = record.version {
            out.put(b"\"bver\":");
            json(out, &version);
            out.put(b",");
        }
        // Names hold nothing that JSON escapes.
        out.put(b"\"n\":\"");
        out.put(record.base_name.as_bytes());
        out.put(record.name.as_bytes());
        out.put(b"\"");
        if let Some(unit) = record.unit {
            out.put(b",\"u\":");
            text(out, unit);
        }
        match record.value {
            None => {}
            Some(ResolvedValue::Number(value)) => {
                out.put(b",\"v\":");
                number(out, value);
            }
            Some(ResolvedValue::Text(value)) => {
                out.put(b",\"vs\":");
                text(out, value);
            }
            Some(ResolvedValue::Bool(true)) => out.put(b",\"vb\":true"),
            Some(ResolvedValue::Bool(false)) => out.put(b",\"vb\":false"),
            Some(ResolvedValue::Data(value)) => {
                out.put(b",\"vd\":\"");
                out.put(base64url(value).as_bytes());
                out.put(b"\"");
            }
        }
        if let Some(sum) = record.sum {
            out.put(b",\"s\":");
            number(out, sum);
        }
        out.put(b",\"t\":");
        self.time(record.time);
        let out = &mut *self.out;
        if let Some(update_time) = record.update_time {
            out.put(b",\"ut\":");
            number(out, update_time);
        }
        out.put(b"}");
    }
}

/// Whether the text is the same as well: 0.0 and -0.0 are equal and are not.
fn is_same(a: Number, b: Number) -> bool {
    match (a, b) {
        (Number::Float(a), Number::Float(b)) => a.to_bits() == b.to_bits(),
        _ => a == b,
    }
}

fn number(out: &mut impl Out, number: Number) {
    match number {
        Number::Int(value) => json(out, &value),
        Number::UInt(value) => json(out, &value),
        Number::Float(value) => json(out, &value),
    }
}

fn text(out: &mut impl Out, text: &str) {
    let plain = |byte: &u8| *byte >= 0x20 && *byte != b'"' && *byte != b'\\';
    if text.as_bytes().iter().all(plain) {
        out.put(b"\"");
        out.put(text.as_bytes());
        out.put(b"\"");
    } else {
        json(out, text);
    }
}

fn json<T: serde::Serialize + ?Sized>(out: &mut impl Out, value: &T) {
    serde_json::to_writer(Writer(out), value)
        .expect("invariant: numbers and texts are JSON, and a buffer takes every write");
}
