//! Numbers as they were taken: 64-bit integers stay exact, everything else is a finite double.

use serde::{Serialize, Serializer};

/// A finite number.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Number {
    /// An integer that fits in 64 bits with sign.
    Int(i64),
    /// An integer above [`i64::MAX`].
    UInt(u64),
    /// Any other number; never NaN or infinite.
    Float(f64),
}

impl Number {
    /// An integer, when it fits in 64 bits with or without sign.
    #[must_use]
    pub fn from_integer(value: i128) -> Option<Self> {
        if let Ok(value) = i64::try_from(value) {
            return Some(Self::Int(value));
        }
        u64::try_from(value).ok().map(Self::UInt)
    }

    /// A float, when it is finite.
    #[must_use]
    pub fn from_float(value: f64) -> Option<Self> {
        value.is_finite().then_some(Self::Float(value))
    }

    /// `mantissa` times ten to the `exponent` (CBOR tag 4, RFC 8949 §3.4.4): an integer where it
    /// is one of 64 bits, else the nearest double; `None` when that is infinite.
    #[must_use]
    pub fn from_decimal(exponent: i64, mantissa: i128) -> Option<Self> {
        if let Ok(exponent @ 0..=19) = u32::try_from(exponent) {
            let exact = 10_i128
                .checked_pow(exponent)
                .and_then(|power| mantissa.checked_mul(power))
                .and_then(Self::from_integer);
            if exact.is_some() {
                return exact;
            }
        }
        // Through text, because that rounds once; a power of ten is not exact in a double.
        format!("{mantissa}e{exponent}")
            .parse()
            .ok()
            .and_then(Self::from_float)
    }

    /// The nearest double.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "the nearest one is asked for")]
    pub fn as_f64(self) -> f64 {
        match self {
            Self::Int(value) => value as f64,
            Self::UInt(value) => value as f64,
            Self::Float(value) => value,
        }
    }

    /// The value as an unsigned integer, when it is one exactly, whichever way it is held.
    #[must_use]
    pub fn as_unsigned(self) -> Option<u64> {
        match self {
            Self::Int(value) => u64::try_from(value).ok(),
            Self::UInt(value) => Some(value),
            Self::Float(value) => {
                /// 2^64.
                const BEYOND: f64 = 18_446_744_073_709_551_616.0;
                let whole = value.fract() == 0.0 && (0.0..BEYOND).contains(&value);
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "checked right there"
                )]
                whole.then_some(value as u64)
            }
        }
    }

    /// The integer, where it is held as one.
    #[must_use]
    pub fn as_integer(self) -> Option<i128> {
        match self {
            Self::Int(value) => Some(value.into()),
            Self::UInt(value) => Some(value.into()),
            Self::Float(_) => None,
        }
    }

    /// The sum: exact for integers as long as it fits in 64 bits, else in doubles; `None` when
    /// that is infinite.
    #[must_use]
    pub fn plus(self, other: Self) -> Option<Self> {
        if let (Some(a), Some(b)) = (self.as_integer(), other.as_integer()) {
            // Two 64-bit integers cannot overflow 128 bits.
            if let Some(sum) = Self::from_integer(a + b) {
                return Some(sum);
            }
        }
        Self::from_float(self.as_f64() + other.as_f64())
    }
}

impl Serialize for Number {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match *self {
            Self::Int(value) => serializer.serialize_i64(value),
            Self::UInt(value) => serializer.serialize_u64(value),
            Self::Float(value) => serializer.serialize_f64(value),
        }
    }
}
