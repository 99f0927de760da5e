//! CBOR (RFC 8949): a writer for what devices send, a reader for what hubs answer.

use std::fmt;

use serde_json::{Map, Number, Value};

/// Nesting that a hub's answer may have. Commands carry arguments of the sender's choosing; no
/// device needs them deeper.
const MAX_DEPTH: usize = 32;

/// Largest integer below which every integer is exact as a double (RFC 8949 §4.2.2).
const EXACT: f64 = 9_007_199_254_740_992.0;

/// Appends CBOR items to a buffer, each in its shortest form (RFC 8949 §4.1).
#[derive(Debug, Default)]
pub struct Writer {
    buf: Vec<u8>,
}

impl Writer {
    /// An empty buffer with room for `capacity` bytes.
    #[must_use]
    pub fn with_capacity(capacity: usize) -> Self {
        Self {
            buf: Vec::with_capacity(capacity),
        }
    }

    /// What has been written.
    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        self.buf
    }

    fn head(&mut self, major: u8, value: u64) {
        let major = major << 5;
        match value {
            0..=23 => self.buf.push(major | value as u8),
            24..=0xff => self.buf.extend_from_slice(&[major | 24, value as u8]),
            0x100..=0xffff => {
                self.buf.push(major | 25);
                self.buf.extend_from_slice(&(value as u16).to_be_bytes());
            }
            0x1_0000..=0xffff_ffff => {
                self.buf.push(major | 26);
                self.buf.extend_from_slice(&(value as u32).to_be_bytes());
            }
            _ => {
                self.buf.push(major | 27);
                self.buf.extend_from_slice(&value.to_be_bytes());
            }
        }
    }

    /// An unsigned integer.
    pub fn uint(&mut self, value: u64) {
        self.head(0, value);
    }

    /// A signed integer.
    pub fn int(&mut self, value: i64) {
        match u64::try_from(value) {
            Ok(value) => self.head(0, value),
            Err(_) => self.head(1, !value as u64),
        }
    }

    /// A number: as an integer where that is exact, else in the shortest of the three floating
    /// point forms that is exact.
    pub fn number(&mut self, value: f64) {
        let negative_zero = value == 0.0 && value.is_sign_negative();
        if value.fract() == 0.0 && value.abs() < EXACT && !negative_zero {
            self.int(value as i64);
        } else if let Some(half) = half_of(value) {
            self.buf.push(0xf9);
            self.buf.extend_from_slice(&half.to_be_bytes());
        } else if f64::from(value as f32) == value {
            self.buf.push(0xfa);
            self.buf.extend_from_slice(&(value as f32).to_be_bytes());
        } else {
            self.buf.push(0xfb);
            self.buf.extend_from_slice(&value.to_be_bytes());
        }
    }

    /// A text string.
    pub fn text(&mut self, value: &str) {
        self.head(3, value.len() as u64);
        self.buf.extend_from_slice(value.as_bytes());
    }

    /// `true` or `false`.
    pub fn bool(&mut self, value: bool) {
        self.buf.push(if value { 0xf5 } else { 0xf4 });
    }

    /// The head of an array; `len` items follow.
    pub fn array(&mut self, len: usize) {
        self.head(4, len as u64);
    }

    /// The head of a map; `len` pairs follow.
    pub fn map(&mut self, len: usize) {
        self.head(5, len as u64);
    }

    /// A JSON value (RFC 8949 §6.2).
    pub fn json(&mut self, value: &Value) {
        match value {
            Value::Null => self.buf.push(0xf6),
            Value::Bool(value) => self.bool(*value),
            Value::Number(value) => match (value.as_u64(), value.as_i64()) {
                (Some(value), _) => self.uint(value),
                (None, Some(value)) => self.int(value),
                (None, None) => self.number(value.as_f64().unwrap_or(f64::NAN)),
            },
            Value::String(value) => self.text(value),
            Value::Array(items) => {
                self.array(items.len());
                for item in items {
                    self.json(item);
                }
            }
            Value::Object(map) => {
                self.map(map.len());
                for (key, value) in map {
                    self.text(key);
                    self.json(value);
                }
            }
        }
    }
}

/// Why bytes are not one CBOR item that a device understands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadCbor {
    /// What is wrong.
    pub what: &'static str,
    /// Where, in bytes from the start.
    pub at: usize,
}

impl fmt::Display for BadCbor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at byte {}", self.what, self.at)
    }
}

impl std::error::Error for BadCbor {}

/// Reads exactly one item as a JSON value (RFC 8949 §6.1). Byte strings, non-finite numbers,
/// duplicate keys and keys that are not text are errors: no hub has reason to send them.
///
/// # Errors
/// Anything but one well-formed item of these kinds.
pub fn read(bytes: &[u8]) -> Result<Value, BadCbor> {
    Reader::new(bytes).only_item()
}

/// Like [`read`], but takes the integer labels of SenML too, as decimal text.
///
/// # Errors
/// As [`read`].
pub fn read_with_labels(bytes: &[u8]) -> Result<Value, BadCbor> {
    let mut reader = Reader::new(bytes);
    reader.labels = true;
    reader.only_item()
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    /// Whether keys may be integers.
    labels: bool,
}

impl<'a> Reader<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Self {
            bytes,
            at: 0,
            labels: false,
        }
    }

    fn only_item(mut self) -> Result<Value, BadCbor> {
        let value = self.item(0)?;
        if self.at != self.bytes.len() {
            return Err(self.bad("more bytes after the item"));
        }
        Ok(value)
    }

    fn bad(&self, what: &'static str) -> BadCbor {
        BadCbor { what, at: self.at }
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], BadCbor> {
        let taken = self.bytes[self.at..]
            .get(..len)
            .ok_or(self.bad("the item is cut short"))?;
        self.at += len;
        Ok(taken)
    }

    fn argument(&mut self, info: u8) -> Result<u64, BadCbor> {
        let len = match info {
            0..=23 => return Ok(u64::from(info)),
            24..=27 => 1_usize << (info - 24),
            _ => return Err(self.bad("indefinite or reserved length")),
        };
        let bytes = self.take(len)?;
        Ok(bytes
            .iter()
            .fold(0, |value, byte| (value << 8) | u64::from(*byte)))
    }

    fn text(&mut self, len: u64) -> Result<&'a str, BadCbor> {
        let len = usize::try_from(len).map_err(|_| self.bad("the item is cut short"))?;
        let bytes = self.take(len)?;
        std::str::from_utf8(bytes).map_err(|_| self.bad("text is not UTF-8"))
    }

    fn float(&self, value: f64) -> Result<Value, BadCbor> {
        Number::from_f64(value)
            .map(Value::Number)
            .ok_or(self.bad("a number is not finite"))
    }

    fn item(&mut self, depth: usize) -> Result<Value, BadCbor> {
        if depth > MAX_DEPTH {
            return Err(self.bad("nested too deeply"));
        }
        let first = self.take(1)?[0];
        let (major, info) = (first >> 5, first & 31);
        if major == 7 {
            return match info {
                20 | 21 => Ok(Value::Bool(info == 21)),
                22 => Ok(Value::Null),
                25 => {
                    let half = self.argument(info)? as u16;
                    self.float(half_to_double(half))
                }
                26 => {
                    let bits = self.argument(info)? as u32;
                    self.float(f64::from(f32::from_bits(bits)))
                }
                27 => {
                    let bits = self.argument(info)?;
                    self.float(f64::from_bits(bits))
                }
                _ => Err(self.bad("a simple value without meaning here")),
            };
        }
        let argument = self.argument(info)?;
        match major {
            0 => Ok(Value::from(argument)),
            1 => i64::try_from(argument)
                .map(|argument| Value::from(!argument))
                .map_err(|_| self.bad("a negative integer below -2^63")),
            3 => Ok(Value::from(self.text(argument)?)),
            4 => {
                // Grows with what is there, not with what the head claims.
                let mut items = Vec::new();
                for _ in 0..argument {
                    items.push(self.item(depth + 1)?);
                }
                Ok(Value::Array(items))
            }
            5 => {
                let mut map = Map::new();
                for _ in 0..argument {
                    let key = match self.item(depth + 1)? {
                        Value::String(key) => key,
                        Value::Number(key) if self.labels => key.to_string(),
                        _ => return Err(self.bad("a key is not text")),
                    };
                    let value = self.item(depth + 1)?;
                    if map.insert(key, value).is_some() {
                        return Err(self.bad("a key stands twice"));
                    }
                }
                Ok(Value::Object(map))
            }
            _ => Err(self.bad("a byte string or tag")),
        }
    }
}

/// The bits of a finite number in half precision, if that is exact.
fn half_of(value: f64) -> Option<u16> {
    /// Bits of a double's fraction that a half has no room for.
    const LOST: u32 = 52 - 10;
    let bits = value.to_bits();
    let sign = ((bits >> 48) & 0x8000) as u16;
    let fraction = bits & ((1 << 52) - 1);
    let exponent = ((bits >> 52) & 0x7ff) as i32 - 1023;
    match exponent {
        _ if value == 0.0 => Some(sign),
        -14..=15 if fraction.trailing_zeros() >= LOST => {
            Some(sign | (((exponent + 15) as u16) << 10) | (fraction >> LOST) as u16)
        }
        -24..-14 => {
            // Subnormal: the leading one becomes part of the fraction.
            let fraction = fraction | (1 << 52);
            let lost = LOST + (-14 - exponent) as u32;
            (fraction.trailing_zeros() >= lost).then(|| sign | (fraction >> lost) as u16)
        }
        _ => None,
    }
}

/// RFC 8949, appendix D.
fn half_to_double(half: u16) -> f64 {
    let exponent = i32::from((half >> 10) & 0x1f);
    let mantissa = f64::from(half & 0x3ff);
    let value = match exponent {
        0 => mantissa * 2_f64.powi(-24),
        31 if mantissa == 0.0 => f64::INFINITY,
        31 => f64::NAN,
        _ => (mantissa + 1024.0) * 2_f64.powi(exponent - 25),
    };
    if half & 0x8000 == 0 { value } else { -value }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn unhex(text: &str) -> Vec<u8> {
        (0..text.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
            .collect()
    }

    fn written(write: impl FnOnce(&mut Writer)) -> Vec<u8> {
        let mut writer = Writer::default();
        write(&mut writer);
        writer.into_bytes()
    }

    #[test]
    fn the_examples_of_rfc_8949_appendix_a_are_written_as_they_stand_there() {
        for (value, hex) in [
            (0_i64, "00"),
            (10, "0a"),
            (23, "17"),
            (24, "1818"),
            (100, "1864"),
            (1000, "1903e8"),
            (1_000_000, "1a000f4240"),
            (1_000_000_000_000, "1b000000e8d4a51000"),
            (-1, "20"),
            (-10, "29"),
            (-100, "3863"),
            (-1000, "3903e7"),
        ] {
            assert_eq!(written(|w| w.int(value)), unhex(hex), "{value}");
            assert_eq!(written(|w| w.number(value as f64)), unhex(hex), "{value}");
        }
        assert_eq!(written(|w| w.uint(u64::MAX)), unhex("1bffffffffffffffff"));
        for (value, hex) in [
            (1.1, "fb3ff199999999999a"),
            (3.402_823_466_385_288_6e38, "fa7f7fffff"),
            (1.0e300, "fb7e37e43c8800759c"),
            (-4.1, "fbc010666666666666"),
            (1.5, "f93e00"),
            (-0.0, "f98000"),
            (5.960_464_477_539_063e-8, "f90001"),
            (0.000_061_035_156_25, "f90400"),
            (100_000.5, "fa47c35040"),
        ] {
            assert_eq!(written(|w| w.number(value)), unhex(hex), "{value}");
        }
        assert_eq!(written(|w| w.text("IETF")), unhex("6449455446"));
        assert_eq!(written(|w| w.text("ü")), unhex("62c3bc"));
        assert_eq!(written(|w| w.bool(true)), unhex("f5"));
    }

    #[test]
    fn the_examples_of_rfc_8949_appendix_a_are_read() {
        for (hex, value) in [
            ("1bffffffffffffffff", json!(u64::MAX)),
            ("3903e7", json!(-1000)),
            ("f93c00", json!(1.0)),
            ("f93e00", json!(1.5)),
            ("f97bff", json!(65504.0)),
            ("f90001", json!(5.960_464_477_539_063e-8)),
            ("f9c400", json!(-4.0)),
            ("fa47c35000", json!(100_000.0)),
            ("fb3ff199999999999a", json!(1.1)),
            ("f4", json!(false)),
            ("f6", json!(null)),
            ("826161a161626163", json!(["a", {"b": "c"}])),
            ("a26161016162820203", json!({"a": 1, "b": [2, 3]})),
        ] {
            assert_eq!(read(&unhex(hex)).unwrap(), value, "{hex}");
        }
    }

    #[test]
    fn what_a_hub_has_no_reason_to_send_is_an_error() {
        for hex in [
            "",
            "18",
            "0000",
            "f97c00",
            "f97e00",
            "9f01ff",
            "5f4101ff",
            "4101",
            "c101",
            "62c328",
            "a201020304",
            "a2616101616102",
            "9bffffffffffffffff",
            "7bffffffffffffffff",
            "f8ff",
            "3bffffffffffffffff",
        ] {
            assert!(read(&unhex(hex)).is_err(), "{hex}");
        }
        assert!(read(&vec![0x81; 100_000]).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_value_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(&bytes);
        }

        #[test]
        fn a_number_keeps_every_bit(value in any::<f64>().prop_filter("finite", |v| v.is_finite())) {
            let back = read(&written(|w| w.number(value))).unwrap().as_f64().unwrap();
            prop_assert_eq!(back.to_bits(), value.to_bits());
        }
    }
}
