//! The `value` of a result: whatever the device gives, within bounds.

use std::cell::Cell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::super::limits::{MAP_PARTS, MAX_VALUE_DEPTH, MAX_VALUE_PARTS};
use super::super::reject::RejectCode::{Malformed, TooLarge};
use super::fault::Context;
use super::scalar::{TextSeed, base64url};

/// Reads any value that JSON can hold. CBOR byte strings become base64url text (RFC 8949 §6.1).
pub(crate) struct AnySeed<'c> {
    ctx: &'c Context,
    depth: usize,
    parts: &'c Cell<usize>,
}

impl<'c> AnySeed<'c> {
    /// `parts` counts from 0 over the whole value.
    pub(crate) fn new(ctx: &'c Context, parts: &'c Cell<usize>) -> Self {
        Self {
            ctx,
            depth: 0,
            parts,
        }
    }

    fn inner<E: Error>(&self) -> Result<Self, E> {
        if self.depth == MAX_VALUE_DEPTH {
            let detail = format!("\"value\" is nested deeper than {MAX_VALUE_DEPTH}");
            return Err(self.ctx.refuse(Malformed, detail));
        }
        Ok(Self {
            ctx: self.ctx,
            depth: self.depth + 1,
            parts: self.parts,
        })
    }

    fn count<E: Error>(&self, more: usize) -> Result<(), E> {
        let parts = self.parts.get() + more;
        self.parts.set(parts);
        if parts > MAX_VALUE_PARTS {
            let detail = format!("\"value\" has more than {MAX_VALUE_PARTS} parts");
            return Err(self.ctx.refuse(TooLarge, detail));
        }
        Ok(())
    }

    fn again(&self) -> Self {
        Self {
            ctx: self.ctx,
            depth: self.depth,
            parts: self.parts,
        }
    }
}

impl<'de> DeserializeSeed<'de> for AnySeed<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, input: D) -> Result<Value, D::Error> {
        self.count(1)?;
        input.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for AnySeed<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value that JSON can hold")
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| {
            self.ctx.refuse(
                Malformed,
                "\"value\" has a number that is not finite".into(),
            )
        })
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Value, E> {
        Ok(Value::String(text.to_owned()))
    }

    fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Value, E> {
        Ok(Value::String(base64url(bytes)))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<Value, A::Error> {
        let inner = self.inner()?;
        let mut values = Vec::new();
        while let Some(value) = array.next_element_seed(inner.again())? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let inner = self.inner()?;
        self.count(MAP_PARTS - 1)?;
        let mut values = Map::new();
        while let Some(key) = map.next_key_seed(TextSeed)? {
            let value = map.next_value_seed(inner.again())?;
            if values.insert(key.into_owned(), value).is_some() {
                return Err(self
                    .ctx
                    .refuse(Malformed, "\"value\" has a key twice".into()));
            }
        }
        Ok(Value::Object(values))
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, tagged: D) -> Result<Value, D::Error> {
        tagged.deserialize_any(self)
    }
}
