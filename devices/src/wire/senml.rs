//! SenML packs (RFC 8428) as devices send them: base name and base time once, short records.

use std::borrow::Cow;
use std::sync::Arc;

use super::cbor::Writer;
use super::json;

/// The value of a record.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// `v`: finite.
    Number(f64),
    /// `v`: an integer that no double holds exactly.
    Integer(i64),
    /// `vs`
    Text(String),
    /// `vb`
    Bool(bool),
}

/// One reading.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// `n`: appended to the pack's base name.
    pub name: Cow<'static, str>,
    /// `u`: a unit of RFC 8428 §12.1 or RFC 8798.
    pub unit: Option<&'static str>,
    /// `v`, `vs` or `vb`.
    pub value: Value,
    /// `t`: seconds, added to the pack's base time.
    pub time: f64,
}

impl Record {
    /// A number taken at the pack's base time.
    pub fn number(
        name: impl Into<Cow<'static, str>>,
        unit: Option<&'static str>,
        value: f64,
    ) -> Self {
        Self {
            name: name.into(),
            unit,
            value: Value::Number(value),
            time: 0.0,
        }
    }
}

/// Readings that travel together.
#[derive(Debug, Clone, PartialEq)]
pub struct Pack {
    /// `bn`
    pub base_name: Arc<str>,
    /// `bt`: Unix seconds. `None`: the times of the records are relative to their arrival.
    pub base_time: Option<f64>,
    /// `bu`: of the records that name none.
    pub base_unit: Option<&'static str>,
    /// At least one.
    pub records: Vec<Record>,
}

impl Pack {
    /// A pack without readings yet.
    #[must_use]
    pub fn new(base_name: Arc<str>, base_time: Option<f64>) -> Self {
        Self {
            base_name,
            base_time,
            base_unit: None,
            records: Vec::new(),
        }
    }

    /// With the integer labels of RFC 8428 §6.
    pub fn write_cbor(&self, out: &mut Writer) {
        out.array(self.records.len());
        for (index, record) in self.records.iter().enumerate() {
            let base = index == 0;
            let base_name = base && !self.base_name.is_empty();
            let fields = usize::from(base_name)
                + usize::from(base && self.base_time.is_some())
                + usize::from(base && self.base_unit.is_some())
                + usize::from(!record.name.is_empty())
                + usize::from(record.unit.is_some())
                + usize::from(record.time != 0.0)
                + 1;
            out.map(fields);
            if base_name {
                out.int(-2);
                out.text(&self.base_name);
            }
            if base {
                if let Some(time) = self.base_time {
                    out.int(-3);
                    out.number(time);
                }
                if let Some(unit) = self.base_unit {
                    out.int(-4);
                    out.text(unit);
                }
            }
            if !record.name.is_empty() {
                out.uint(0);
                out.text(&record.name);
            }
            if let Some(unit) = record.unit {
                out.uint(1);
                out.text(unit);
            }
            match &record.value {
                Value::Number(value) => {
                    out.uint(2);
                    out.number(*value);
                }
                Value::Integer(value) => {
                    out.uint(2);
                    out.int(*value);
                }
                Value::Text(value) => {
                    out.uint(3);
                    out.text(value);
                }
                Value::Bool(value) => {
                    out.uint(4);
                    out.bool(*value);
                }
            }
            if record.time != 0.0 {
                out.uint(6);
                out.number(record.time);
            }
        }
    }

    /// With the text labels of RFC 8428 §5.
    pub fn write_json(&self, out: &mut String) {
        out.push('[');
        for (index, record) in self.records.iter().enumerate() {
            out.push_str(if index == 0 { "{" } else { ",{" });
            if index == 0 {
                if !self.base_name.is_empty() {
                    json::member(out, "bn");
                    json::text(out, &self.base_name);
                }
                if let Some(time) = self.base_time {
                    json::member(out, "bt");
                    json::number(out, time);
                }
                if let Some(unit) = self.base_unit {
                    json::member(out, "bu");
                    json::text(out, unit);
                }
            }
            if !record.name.is_empty() {
                json::member(out, "n");
                json::text(out, &record.name);
            }
            if let Some(unit) = record.unit {
                json::member(out, "u");
                json::text(out, unit);
            }
            match &record.value {
                Value::Number(value) => {
                    json::member(out, "v");
                    json::number(out, *value);
                }
                Value::Integer(value) => {
                    json::member(out, "v");
                    out.push_str(&value.to_string());
                }
                Value::Text(value) => {
                    json::member(out, "vs");
                    json::text(out, value);
                }
                Value::Bool(value) => {
                    json::member(out, "vb");
                    out.push_str(if *value { "true" } else { "false" });
                }
            }
            if record.time != 0.0 {
                json::member(out, "t");
                json::number(out, record.time);
            }
            out.push('}');
        }
        out.push(']');
    }
}

/// A SenML name (RFC 8428 §4.5.1) that resembles `text`: other characters become `_`, and a
/// first character that may not stand there is put behind an `x`.
#[must_use]
pub fn name_of(text: &str) -> String {
    let mut name: String = text
        .trim()
        .chars()
        .map(|c| match c {
            'A'..='Z' | 'a'..='z' | '0'..='9' | '-' | ':' | '.' | '/' | '_' => c,
            _ => '_',
        })
        .collect();
    if !name.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        name.insert(0, 'x');
    }
    name
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::json;

    use super::*;

    fn pack() -> Pack {
        let mut pack = Pack::new("urn:dev:ow:10e2073a01080063:".into(), Some(1_320_067_464.0));
        pack.base_unit = Some("%RH");
        pack.records.push(Record::number("", None, 21.2));
        let mut later = Record::number("lon", Some("lon"), 24.5);
        later.time = 10.0;
        pack.records.push(later);
        pack
    }

    #[test]
    fn a_pack_in_cbor_has_integer_labels_and_only_the_fields_it_needs() {
        let mut writer = Writer::default();
        pack().write_cbor(&mut writer);
        let mut expected = vec![0x82, 0xa4, 0x21, 0x78, 28];
        expected.extend_from_slice(b"urn:dev:ow:10e2073a01080063:");
        expected.extend_from_slice(&[0x22, 0x1a, 0x4e, 0xae, 0xa1, 0x88, 0x23, 0x63]);
        expected.extend_from_slice(b"%RH");
        expected.extend_from_slice(&[0x02, 0xfb, 0x40, 0x35, 0x33, 0x33, 0x33, 0x33, 0x33, 0x33]);
        expected.extend_from_slice(&[0xa4, 0x00, 0x63, b'l', b'o', b'n', 0x01, 0x63]);
        expected.extend_from_slice(b"lon");
        expected.extend_from_slice(&[0x02, 0xf9, 0x4e, 0x20, 0x06, 0x0a]);
        assert_eq!(writer.into_bytes(), expected);
    }

    #[test]
    fn a_pack_in_json_says_the_same() {
        let mut text = String::new();
        pack().write_json(&mut text);
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(
            value,
            json!([
                {"bn": "urn:dev:ow:10e2073a01080063:", "bt": 1_320_067_464, "bu": "%RH", "v": 21.2},
                {"n": "lon", "u": "lon", "v": 24.5, "t": 10}
            ])
        );
    }

    #[test]
    fn any_text_becomes_a_name_that_the_rfc_allows() {
        assert_eq!(name_of("Temp °C"), "Temp__C");
        assert_eq!(name_of("_x"), "x_x");
        assert_eq!(name_of(""), "x");
        assert_eq!(name_of(" a:b/c.d-e_f "), "a:b/c.d-e_f");
    }
}
