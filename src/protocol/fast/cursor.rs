//! The items of CBOR that ordinary frames are made of (RFC 8949 §3), of definite length and without
//! tags. Every function gives `None` for anything else, and the caller stops there.

use super::super::number::Number;

/// Major types of what has a length.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    Bytes = 2,
    Text = 3,
    Array = 4,
    Map = 5,
}

/// A place in a frame.
#[derive(Debug)]
pub(super) struct Cursor<'a> {
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    pub(super) fn new(frame: &'a [u8]) -> Self {
        Self { rest: frame }
    }

    pub(super) fn is_at_end(&self) -> bool {
        self.rest.is_empty()
    }

    /// Goes past these bytes if they come next.
    pub(super) fn skip(&mut self, bytes: &[u8]) -> bool {
        let rest = self.rest.strip_prefix(bytes);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    #[inline]
    pub(super) fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(*first)
    }

    #[inline]
    pub(super) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.rest.split_first_chunk::<N>()?;
        self.rest = rest;
        Some(*first)
    }

    /// The argument of a head, of which `info` is the low five bits.
    #[inline]
    fn argument(&mut self, info: u8) -> Option<u64> {
        Some(match info {
            0..=23 => u64::from(info),
            24 => u64::from(self.byte()?),
            25 => u64::from(u16::from_be_bytes(self.array()?)),
            26 => u64::from(u32::from_be_bytes(self.array()?)),
            27 => u64::from_be_bytes(self.array()?),
            _ => return None,
        })
    }

    /// The length of an item of this kind. It is only claimed.
    #[inline]
    pub(super) fn length(&mut self, kind: Kind) -> Option<usize> {
        let head = self.byte()?;
        if head >> 5 != kind as u8 {
            return None;
        }
        usize::try_from(self.argument(head & 31)?).ok()
    }

    #[inline]
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(length)?;
        self.rest = rest;
        Some(taken)
    }

    #[inline]
    fn string(&mut self, kind: Kind) -> Option<&'a [u8]> {
        let length = self.length(kind)?;
        self.take(length)
    }

    /// The text of a head that was read already and holds the length itself.
    pub(super) fn short_text(&mut self, head: u8) -> Option<&'a str> {
        std::str::from_utf8(self.take(usize::from(head & 31))?).ok()
    }

    #[inline]
    pub(super) fn bytes(&mut self) -> Option<&'a [u8]> {
        self.string(Kind::Bytes)
    }

    /// A text that is not known to be UTF-8.
    #[inline]
    pub(super) fn text_bytes(&mut self) -> Option<&'a [u8]> {
        self.string(Kind::Text)
    }

    #[inline]
    pub(super) fn text(&mut self) -> Option<&'a str> {
        std::str::from_utf8(self.text_bytes()?).ok()
    }

    #[inline]
    pub(super) fn unsigned(&mut self) -> Option<u64> {
        let head = self.byte()?;
        (head < 0x20).then(|| self.argument(head))?
    }

    #[inline]
    pub(super) fn bool(&mut self) -> Option<bool> {
        match self.byte()? {
            0xf4 => Some(false),
            0xf5 => Some(true),
            _ => None,
        }
    }

    /// A number of 64 bits that is finite.
    #[inline]
    pub(super) fn number(&mut self) -> Option<Number> {
        let head = self.byte()?;
        match head {
            0x00..=0x1b => {
                let value = self.argument(head)?;
                Some(i64::try_from(value).map_or(Number::UInt(value), Number::Int))
            }
            0x20..=0x3b => {
                let value = i64::try_from(self.argument(head & 31)?).ok()?;
                Some(Number::Int(-1 - value))
            }
            0xf9 => Number::from_float(half(u16::from_be_bytes(self.array()?))),
            0xfa => Number::from_float(f64::from(f32::from_be_bytes(self.array()?))),
            0xfb => Number::from_float(f64::from_be_bytes(self.array()?)),
            _ => None,
        }
    }
}

/// A half-precision float (RFC 8949 appendix D); what is not finite becomes NaN.
fn half(bits: u16) -> f64 {
    let (exponent, mantissa) = (i32::from(bits >> 10 & 31), f64::from(bits & 1023));
    let value = match exponent {
        0 => mantissa * 2_f64.powi(-24),
        31 => return f64::NAN,
        _ => (mantissa + 1024.0) * 2_f64.powi(exponent - 25),
    };
    if bits & 0x8000 == 0 { value } else { -value }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_half_is_what_the_long_way_reads() {
        for bits in 0..=u16::MAX {
            let [high, low] = bits.to_be_bytes();
            let expected: f64 = serde_cbor::from_slice(&[0xf9, high, low]).unwrap();
            let read = half(bits);
            let same = read.to_bits() == expected.to_bits();
            assert!(
                same || !(read.is_finite() || expected.is_finite()),
                "{bits:04x}"
            );
        }
    }

    #[test]
    fn integers_are_exact_to_64_bits_and_then_nobodys() {
        let number = |bytes: &[u8]| Cursor::new(bytes).number();
        assert_eq!(number(&[0x17]), Some(Number::Int(23)));
        assert_eq!(
            number(b"\x1b\x7f\xff\xff\xff\xff\xff\xff\xff"),
            Some(Number::Int(i64::MAX))
        );
        assert_eq!(
            number(b"\x1b\xff\xff\xff\xff\xff\xff\xff\xff"),
            Some(Number::UInt(u64::MAX))
        );
        assert_eq!(
            number(b"\x3b\x7f\xff\xff\xff\xff\xff\xff\xff"),
            Some(Number::Int(i64::MIN))
        );
        assert_eq!(number(b"\x3b\x80\x00\x00\x00\x00\x00\x00\x00"), None);
        for reserved in [0x1c, 0x1f, 0x3c, 0x3f, 0xf6, 0xc4] {
            assert_eq!(number(&[reserved, 0, 0]), None);
        }
        assert_eq!(Cursor::new(&[0x20]).unsigned(), None);
        assert_eq!(Cursor::new(&[0x18, 0xff]).unsigned(), Some(255));
    }
}
