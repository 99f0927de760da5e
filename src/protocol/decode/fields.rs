//! The bodies of the messages: maps of named fields.

use std::borrow::Cow;
use std::cell::Cell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, Visitor};

use super::super::limits::{MAX_COMMAND_ID, MAX_ERROR_TEXT, MAX_TEXT};
use super::super::message::RejectCode::{self, BadSeq, Malformed};
use super::super::message::{CommandResult, Data, Hello};
use super::super::pack::parse::PackSeed;
use super::any::AnySeed;
use super::fault::{Context, Field};
use super::scalar::{BoolSeed, OptionalTextSeed, TextSeed, UnsignedSeed};

const fn field(name: &'static str, expected: &'static str, code: RejectCode) -> Field {
    Field {
        name,
        expected,
        code,
    }
}

static DATA: Field = field("data", "a map with the key \"pack\"", Malformed);
static SEQ: Field = field("seq", "an integer of at least 1", BadSeq);
static PACK: Field = field("pack", "an array of SenML records", Malformed);
static HELLO: Field = field("hello", "a map with the key \"stream\"", Malformed);
static STREAM: Field = field("stream", "a text of 1 to 64 characters", Malformed);
static MODEL: Field = field("model", "a text of at most 64 characters", Malformed);
static FIRMWARE: Field = field("firmware", "a text of at most 64 characters", Malformed);
static RESULT: Field = field("result", "a map with the keys \"id\" and \"ok\"", Malformed);
static ID: Field = field("id", "a text of 1 to 128 bytes", Malformed);
static OK: Field = field("ok", "true or false", Malformed);
static VALUE: Field = field("value", "a value that JSON can hold", Malformed);
static ERROR: Field = field("error", "a text of at most 1,024 bytes", Malformed);

/// The value just read is not what its field asks for.
fn wrong<E: Error>(ctx: &Context, field: &'static Field) -> E {
    ctx.refuse(
        field.code,
        format!("\"{}\" must be {}", field.name, field.expected),
    )
}

/// A field that has to be there is not.
fn missing<E: Error>(ctx: &Context, message: &'static Field) -> E {
    wrong(ctx, message)
}

/// Takes note of the field that comes next, and refuses it when it has been there.
fn once<T, E: Error>(ctx: &Context, slot: &Option<T>, field: &'static Field) -> Result<(), E> {
    ctx.enter_field(field);
    if slot.is_some() {
        return Err(ctx.refuse(Malformed, format!("\"{}\" comes twice", field.name)));
    }
    Ok(())
}

macro_rules! map_seed {
    ($seed:ident => $value:ty, $field:ident) => {
        impl<'de> DeserializeSeed<'de> for $seed<'_> {
            type Value = $value;

            fn deserialize<D: Deserializer<'de>>(self, input: D) -> Result<$value, D::Error> {
                self.0.enter_field(&$field);
                input.deserialize_any(self)
            }
        }
    };
}

macro_rules! map_visitor {
    ($value:ty) => {
        type Value = $value;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a map of fields")
        }

        fn visit_newtype_struct<D: Deserializer<'de>>(self, tagged: D) -> Result<$value, D::Error> {
            tagged.deserialize_any(self)
        }
    };
}

fn read_seq<'de, A: MapAccess<'de>>(ctx: &Context, map: &mut A) -> Result<u64, A::Error> {
    match map.next_value_seed(UnsignedSeed)? {
        0 => Err(wrong(ctx, &SEQ)),
        seq => {
            ctx.set_seq(seq);
            Ok(seq)
        }
    }
}

pub(super) struct DataSeed<'c>(pub(super) &'c Context);

map_seed!(DataSeed => Data<'de>, DATA);

impl<'de> Visitor<'de> for DataSeed<'_> {
    map_visitor!(Data<'de>);

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Data<'de>, A::Error> {
        let ctx = self.0;
        let (mut seq, mut pack) = (None, None);
        while let Some(key) = map.next_key_seed(TextSeed)? {
            match &*key {
                "seq" => {
                    once(ctx, &seq, &SEQ)?;
                    seq = Some(read_seq(ctx, &mut map)?);
                }
                "pack" => {
                    once(ctx, &pack, &PACK)?;
                    pack = Some(map.next_value_seed(PackSeed(ctx))?);
                }
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
            ctx.enter_field(&DATA);
        }
        let pack = pack.ok_or_else(|| missing(ctx, &DATA))?;
        Ok(Data { seq, pack })
    }
}

pub(super) struct HelloSeed<'c>(pub(super) &'c Context);

map_seed!(HelloSeed => Hello, HELLO);

impl<'de> Visitor<'de> for HelloSeed<'_> {
    map_visitor!(Hello);

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Hello, A::Error> {
        let ctx = self.0;
        let (mut stream, mut model, mut firmware) = (None, None, None);
        while let Some(key) = map.next_key_seed(TextSeed)? {
            let (slot, field) = match &*key {
                "stream" => (&mut stream, &STREAM),
                "model" => (&mut model, &MODEL),
                "firmware" => (&mut firmware, &FIRMWARE),
                _ => {
                    map.next_value::<IgnoredAny>()?;
                    continue;
                }
            };
            once(ctx, slot, field)?;
            let text = map.next_value_seed(OptionalTextSeed)?;
            *slot = Some(text.map(|text| short(ctx, field, text)).transpose()?);
            ctx.enter_field(&HELLO);
        }
        match stream {
            None => Err(missing(ctx, &HELLO)),
            Some(Some(stream)) if !stream.is_empty() => Ok(Hello {
                stream,
                model: model.flatten(),
                firmware: firmware.flatten(),
            }),
            Some(_) => Err(wrong(ctx, &STREAM)),
        }
    }
}

/// One of the texts that stand in lists and topics: short, no control characters.
fn short<E: Error>(ctx: &Context, field: &'static Field, text: Cow<'_, str>) -> Result<String, E> {
    if text.chars().count() > MAX_TEXT || text.chars().any(char::is_control) {
        return Err(wrong(ctx, field));
    }
    Ok(text.into_owned())
}

pub(super) struct ResultSeed<'c>(pub(super) &'c Context);

map_seed!(ResultSeed => CommandResult, RESULT);

impl<'de> Visitor<'de> for ResultSeed<'_> {
    map_visitor!(CommandResult);

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<CommandResult, A::Error> {
        let ctx = self.0;
        let (mut id, mut ok, mut value, mut error) = (None, None, None, None);
        while let Some(key) = map.next_key_seed(TextSeed)? {
            match &*key {
                "id" => {
                    once(ctx, &id, &ID)?;
                    let text = map.next_value_seed(TextSeed)?;
                    if text.is_empty() || text.len() > MAX_COMMAND_ID {
                        return Err(wrong(ctx, &ID));
                    }
                    id = Some(text.into_owned());
                }
                "ok" => {
                    once(ctx, &ok, &OK)?;
                    ok = Some(map.next_value_seed(BoolSeed)?);
                }
                "value" => {
                    once(ctx, &value, &VALUE)?;
                    let parts = Cell::new(0);
                    value = Some(map.next_value_seed(AnySeed::new(ctx, &parts))?);
                }
                "error" => {
                    once(ctx, &error, &ERROR)?;
                    let text = map.next_value_seed(OptionalTextSeed)?;
                    if text
                        .as_ref()
                        .is_some_and(|text| text.len() > MAX_ERROR_TEXT)
                    {
                        return Err(wrong(ctx, &ERROR));
                    }
                    error = Some(text.map(Cow::into_owned));
                }
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
            ctx.enter_field(&RESULT);
        }
        match (id, ok) {
            (Some(id), Some(ok)) => Ok(CommandResult {
                id,
                ok,
                value,
                error: error.flatten(),
            }),
            _ => Err(missing(ctx, &RESULT)),
        }
    }
}

/// Reads nothing but `{"data": {"seq": …}}`, wherever the number stands.
pub(super) struct SeqOnly<'c>(pub(super) &'c Context);

impl<'de> DeserializeSeed<'de> for SeqOnly<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, input: D) -> Result<(), D::Error> {
        input.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for SeqOnly<'_> {
    map_visitor!(());

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key_seed(TextSeed)? {
            match &*key {
                "data" => map.next_value_seed(Self(self.0))?,
                "seq" => {
                    read_seq(self.0, &mut map)?;
                    return Ok(());
                }
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(())
    }
}
