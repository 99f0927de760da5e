//! One reading as a value topic shows it.

use std::sync::Arc;

use serde::Serialize;

use crate::protocol::base64url;
use crate::protocol::number::Number;
use crate::protocol::pack::resolved::{Resolved, ResolvedValue};

/// Bytes of a text or of binary data in base64 that are shown. A value topic is for what stands on a
/// dashboard; all of it is in `…/data`.
pub(in crate::uplink) const MAX_TEXT: usize = 1_024;

/// What kind of value it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::uplink) enum Kind {
    Number,
    Bool,
    Text,
}

/// `v`, `vs`, `vb`, or `vd` in base64.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub(in crate::uplink) enum Value {
    Number(Number),
    Bool(bool),
    Text(Box<str>),
}

impl Value {
    pub(in crate::uplink) fn kind(&self) -> Kind {
        match self {
            Self::Number(_) => Kind::Number,
            Self::Bool(_) => Kind::Bool,
            Self::Text(_) => Kind::Text,
        }
    }

    /// Of a record. `None`: it has none, or one that is too long.
    pub(super) fn of(record: &Resolved<'_>) -> Option<Self> {
        let text = |text: &str| (text.len() <= MAX_TEXT).then(|| Self::Text(text.into()));
        match record.value? {
            ResolvedValue::Number(number) => Some(Self::Number(number)),
            ResolvedValue::Bool(truth) => Some(Self::Bool(truth)),
            ResolvedValue::Text(value) => text(value),
            // Base64 is a third longer, so that what is too long is not even written.
            ResolvedValue::Data(data) if data.len() > MAX_TEXT => None,
            ResolvedValue::Data(data) => text(&base64url(data)),
        }
    }

    /// Bytes beside the value itself.
    pub(super) fn weight(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            _ => 0,
        }
    }

    /// The value and nothing else: a number as in JSON, `true` or `false`, or the text itself.
    fn plain(&self) -> Vec<u8> {
        match self {
            Self::Text(text) => text.as_bytes().to_vec(),
            other => serde_json::to_vec(other).unwrap_or_default(),
        }
    }
}

/// A reading.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(in crate::uplink) struct Shown {
    #[serde(rename = "v")]
    pub(super) value: Value,
    #[serde(rename = "u", skip_serializing_if = "Option::is_none")]
    pub(super) unit: Option<Arc<str>>,
    /// Unix seconds.
    #[serde(rename = "t")]
    pub(super) time: Number,
    /// Of its batch.
    pub(super) seq: Option<u64>,
}

impl Shown {
    pub(super) fn payload(&self, plain: bool) -> Vec<u8> {
        match plain {
            true => self.value.plain(),
            false => serde_json::to_vec(self).unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_one_flat_map_or_the_bare_value() {
        let shown = |value, unit: Option<&str>, seq| Shown {
            value,
            unit: unit.map(Into::into),
            time: Number::Float(1_700_000_000.5),
            seq,
        };
        let said =
            |shown: &Shown, plain| String::from_utf8(shown.payload(plain)).unwrap_or_default();
        let number = shown(Value::Number(Number::Float(21.5)), Some("Cel"), Some(7));
        assert_eq!(
            said(&number, false),
            r#"{"v":21.5,"u":"Cel","t":1700000000.5,"seq":7}"#
        );
        assert_eq!(said(&number, true), "21.5");
        let truth = shown(Value::Bool(true), None, None);
        assert_eq!(
            said(&truth, false),
            r#"{"v":true,"t":1700000000.5,"seq":null}"#
        );
        assert_eq!(said(&truth, true), "true");
        let text = shown(Value::Text("a \"b\"".into()), None, None);
        assert_eq!(
            said(&text, false),
            r#"{"v":"a \"b\"","t":1700000000.5,"seq":null}"#
        );
        assert_eq!(said(&text, true), "a \"b\"");
    }
}
