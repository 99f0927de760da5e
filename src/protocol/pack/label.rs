//! Labels of SenML fields: text in JSON, integers in CBOR (RFC 8428 §4.3 and §6).

use super::super::decode::fault::Field;
use super::super::reject::RejectCode::Malformed;

/// A field of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Label {
    BaseVersion,
    BaseName,
    BaseTime,
    BaseUnit,
    BaseValue,
    BaseSum,
    Name,
    Unit,
    Value,
    TextValue,
    BoolValue,
    Sum,
    Time,
    UpdateTime,
    DataValue,
}

impl Label {
    /// By the text label.
    pub(crate) fn from_text(text: &str) -> Option<Self> {
        Some(match text {
            "bver" => Self::BaseVersion,
            "bn" => Self::BaseName,
            "bt" => Self::BaseTime,
            "bu" => Self::BaseUnit,
            "bv" => Self::BaseValue,
            "bs" => Self::BaseSum,
            "n" => Self::Name,
            "u" => Self::Unit,
            "v" => Self::Value,
            "vs" => Self::TextValue,
            "vb" => Self::BoolValue,
            "s" => Self::Sum,
            "t" => Self::Time,
            "ut" => Self::UpdateTime,
            "vd" => Self::DataValue,
            _ => return None,
        })
    }

    /// By the integer label of CBOR.
    pub(crate) fn from_integer(integer: i64) -> Option<Self> {
        Some(match integer {
            -1 => Self::BaseVersion,
            -2 => Self::BaseName,
            -3 => Self::BaseTime,
            -4 => Self::BaseUnit,
            -5 => Self::BaseValue,
            -6 => Self::BaseSum,
            0 => Self::Name,
            1 => Self::Unit,
            2 => Self::Value,
            3 => Self::TextValue,
            4 => Self::BoolValue,
            5 => Self::Sum,
            6 => Self::Time,
            7 => Self::UpdateTime,
            8 => Self::DataValue,
            _ => return None,
        })
    }

    /// One bit of its own, for finding a label that comes twice.
    pub(crate) const fn bit(self) -> u16 {
        1 << self as u16
    }

    /// Its name and type, for error texts.
    pub(crate) fn field(self) -> &'static Field {
        const NUMBER: &str = "a number";
        const TEXT: &str = "a text";
        macro_rules! field {
            ($name:literal, $expected:expr) => {
                &Field {
                    name: $name,
                    expected: $expected,
                    code: Malformed,
                }
            };
        }
        match self {
            Self::BaseVersion => field!("bver", "an unsigned integer"),
            Self::BaseName => field!("bn", TEXT),
            Self::BaseTime => field!("bt", NUMBER),
            Self::BaseUnit => field!("bu", TEXT),
            Self::BaseValue => field!("bv", NUMBER),
            Self::BaseSum => field!("bs", NUMBER),
            Self::Name => field!("n", TEXT),
            Self::Unit => field!("u", TEXT),
            Self::Value => field!("v", NUMBER),
            Self::TextValue => field!("vs", TEXT),
            Self::BoolValue => field!("vb", "true or false"),
            Self::Sum => field!("s", NUMBER),
            Self::Time => field!("t", NUMBER),
            Self::UpdateTime => field!("ut", NUMBER),
            Self::DataValue => field!("vd", "a byte string, or base64url text in JSON"),
        }
    }
}
