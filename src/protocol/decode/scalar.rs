//! Texts, numbers, booleans and bytes out of a frame, borrowed where it holds them in one piece.
//!
//! CBOR tags are passed over (RFC 8949 §3.4 allows that) except on numbers, where they change the
//! value.

use std::borrow::Cow;
use std::fmt;

use base64::Engine as _;
use base64::alphabet::URL_SAFE;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::de::{DeserializeSeed, Deserializer, Error, SeqAccess, Unexpected, Visitor};

use super::super::number::Number;
use super::super::reject::RejectCode::{BadPack, Malformed};
use super::fault::Context;

/// base64url; written without padding (RFC 8428 §5), read with or without.
const BASE64URL: GeneralPurpose = GeneralPurpose::new(
    &URL_SAFE,
    GeneralPurposeConfig::new()
        .with_encode_padding(false)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Writes bytes as base64url text.
pub(crate) fn base64url(bytes: &[u8]) -> String {
    BASE64URL.encode(bytes)
}

macro_rules! seed {
    ($seed:ty => $value:ty) => {
        impl<'de> DeserializeSeed<'de> for $seed {
            type Value = $value;

            fn deserialize<D: Deserializer<'de>>(self, input: D) -> Result<$value, D::Error> {
                input.deserialize_any(self)
            }
        }
    };
}

macro_rules! pass_over_tags {
    () => {
        fn visit_newtype_struct<D: Deserializer<'de>>(
            self,
            tagged: D,
        ) -> Result<Self::Value, D::Error> {
            tagged.deserialize_any(self)
        }
    };
}

/// Reads a text.
pub(crate) struct TextSeed;

seed!(TextSeed => Cow<'de, str>);

impl<'de> Visitor<'de> for TextSeed {
    type Value = Cow<'de, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text")
    }

    fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(text))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Cow::Owned(text.to_owned()))
    }

    pass_over_tags!();
}

/// Reads a text that may be left out: null, as encoders write an empty option, counts as left out.
pub(crate) struct OptionalTextSeed;

seed!(OptionalTextSeed => Option<Cow<'de, str>>);

impl<'de> Visitor<'de> for OptionalTextSeed {
    type Value = Option<Cow<'de, str>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text or null")
    }

    fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Some(Cow::Borrowed(text)))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Some(Cow::Owned(text.to_owned())))
    }

    fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    pass_over_tags!();
}

/// Reads a boolean.
pub(crate) struct BoolSeed;

seed!(BoolSeed => bool);

impl<'de> Visitor<'de> for BoolSeed {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("true or false")
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<bool, E> {
        Ok(value)
    }

    pass_over_tags!();
}

/// Reads a boolean; null counts as left out.
pub(crate) struct OptionalBoolSeed;

seed!(OptionalBoolSeed => Option<bool>);

impl<'de> Visitor<'de> for OptionalBoolSeed {
    type Value = Option<bool>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("true or false")
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Self::Value, E> {
        Ok(Some(value))
    }

    fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    pass_over_tags!();
}

/// Reads an unsigned integer; null counts as left out. A float that is exactly an integer is
/// one: some CBOR libraries write every number above 2^32 so.
pub(crate) struct UnsignedSeed;

seed!(UnsignedSeed => Option<u64>);

impl<'de> Visitor<'de> for UnsignedSeed {
    type Value = Option<u64>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an unsigned integer")
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Self::Value, E> {
        Ok(Some(value))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Self::Value, E> {
        match Number::from_float(value).and_then(Number::as_unsigned) {
            Some(value) => Ok(Some(value)),
            None => Err(E::invalid_type(Unexpected::Float(value), &self)),
        }
    }

    fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    pass_over_tags!();
}

/// A field that holds a number.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Measured {
    /// A finite one.
    Number(Number),
    /// NaN or infinite: what an unplugged sensor reads.
    NotFinite,
    /// Null.
    Nothing,
}

/// Reads a number: integer, float, or in CBOR a decimal fraction (RFC 8428 §6).
pub(crate) struct MeasuredSeed<'c>(pub(crate) &'c Context);

seed!(MeasuredSeed<'_> => Measured);

impl<'de> Visitor<'de> for MeasuredSeed<'_> {
    type Value = Measured;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number")
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Measured, E> {
        let number = i64::try_from(value).map_or(Number::UInt(value), Number::Int);
        Ok(Measured::Number(number))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Measured, E> {
        Ok(Measured::Number(Number::Int(value)))
    }

    fn visit_i128<E: Error>(self, value: i128) -> Result<Measured, E> {
        Number::from_integer(value)
            .map(Measured::Number)
            .ok_or_else(|| {
                let name = self.0.field().name;
                self.0.refuse(
                    BadPack,
                    format!("\"{name}\" is an integer of more than 64 bits"),
                )
            })
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Measured, E> {
        Ok(Number::from_float(value).map_or(Measured::NotFinite, Measured::Number))
    }

    fn visit_unit<E: Error>(self) -> Result<Measured, E> {
        Ok(Measured::Nothing)
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, tagged: D) -> Result<Measured, D::Error> {
        /// RFC 8949 §3.4.4.
        const DECIMAL_FRACTION: u64 = 4;
        if serde_cbor::tags::current_cbor_tag() != Some(DECIMAL_FRACTION) {
            let name = self.0.field().name;
            let detail = format!("\"{name}\" has a tag; of these only decimal fractions are known");
            return Err(self.0.refuse(Malformed, detail));
        }
        let (exponent, mantissa) = tagged.deserialize_any(DecimalVisitor)?;
        let number = Number::from_decimal(exponent, mantissa);
        Ok(number.map_or(Measured::NotFinite, Measured::Number))
    }
}

/// Reads a finite number; null counts as left out.
pub(crate) struct NumberSeed<'c>(pub(crate) &'c Context);

impl<'de> DeserializeSeed<'de> for NumberSeed<'_> {
    type Value = Option<Number>;

    fn deserialize<D: Deserializer<'de>>(self, input: D) -> Result<Option<Number>, D::Error> {
        match MeasuredSeed(self.0).deserialize(input)? {
            Measured::Number(number) => Ok(Some(number)),
            Measured::Nothing => Ok(None),
            Measured::NotFinite => {
                let name = self.0.field().name;
                let detail = format!("\"{name}\" is not a finite number");
                Err(self.0.refuse(BadPack, detail))
            }
        }
    }
}

/// Reads the two parts of a decimal fraction: exponent and mantissa.
struct DecimalVisitor;

impl<'de> Visitor<'de> for DecimalVisitor {
    type Value = (i64, i128);

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of exponent and mantissa")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut parts: A) -> Result<Self::Value, A::Error> {
        let exponent = parts
            .next_element()?
            .ok_or_else(|| A::Error::invalid_length(0, &self))?;
        let mantissa = parts
            .next_element_seed(MantissaSeed)?
            .ok_or_else(|| A::Error::invalid_length(1, &self))?;
        Ok((exponent, mantissa))
    }
}

/// Reads the mantissa of a decimal fraction: an integer, or a bignum (RFC 8949 §3.4.3) of at most
/// 127 bits, which is what encoders make of decimals with many digits.
struct MantissaSeed;

seed!(MantissaSeed => i128);

impl<'de> Visitor<'de> for MantissaSeed {
    type Value = i128;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an integer")
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<i128, E> {
        Ok(value.into())
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<i128, E> {
        Ok(value.into())
    }

    fn visit_i128<E: Error>(self, value: i128) -> Result<i128, E> {
        Ok(value)
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, tagged: D) -> Result<i128, D::Error> {
        const POSITIVE: u64 = 2;
        const NEGATIVE: u64 = 3;
        let tag = serde_cbor::tags::current_cbor_tag();
        let bytes = tagged.deserialize_any(BytesVisitor)?.unwrap_or_default();
        let magnitude = bytes.iter().try_fold(0_i128, |sum, byte| {
            sum.checked_mul(256)?.checked_add(i128::from(*byte))
        });
        match (tag, magnitude) {
            (Some(POSITIVE), Some(magnitude)) => Ok(magnitude),
            (Some(NEGATIVE), Some(magnitude)) => Ok(-1 - magnitude),
            _ => Err(D::Error::invalid_type(Unexpected::Bytes(&[]), &self)),
        }
    }
}

/// Reads bytes: a byte string in CBOR, base64url text in JSON; null counts as left out.
pub(crate) struct DataSeed<'c>(pub(crate) &'c Context);

impl<'de> DeserializeSeed<'de> for DataSeed<'_> {
    type Value = Option<Cow<'de, [u8]>>;

    fn deserialize<D: Deserializer<'de>>(self, input: D) -> Result<Self::Value, D::Error> {
        if !input.is_human_readable() {
            return input.deserialize_any(BytesVisitor);
        }
        let Some(text) = OptionalTextSeed.deserialize(input)? else {
            return Ok(None);
        };
        match BASE64URL.decode(text.as_bytes()) {
            Ok(bytes) => Ok(Some(Cow::Owned(bytes))),
            Err(_) => Err(self.0.refuse(BadPack, "\"vd\" is not base64url".into())),
        }
    }
}

struct BytesVisitor;

impl<'de> Visitor<'de> for BytesVisitor {
    type Value = Option<Cow<'de, [u8]>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a byte string")
    }

    fn visit_borrowed_bytes<E: Error>(self, bytes: &'de [u8]) -> Result<Self::Value, E> {
        Ok(Some(Cow::Borrowed(bytes)))
    }

    fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Self::Value, E> {
        Ok(Some(Cow::Owned(bytes.to_owned())))
    }

    fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    pass_over_tags!();
}
