//! The bodies of the messages: maps of named fields.

use std::borrow::Cow;
use std::cell::Cell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, Visitor};

use serde_json::{Map, Value};

use super::super::limits::{MAX_COMMAND_ID, MAX_COMMAND_NAME, MAX_ERROR_TEXT, MAX_TEXT};
use super::super::message::{Bye, CommandResult, Data, DeviceClock, Hello};
use super::super::pack::parse::PackSeed;
use super::super::pack::times::RELATIVE_BELOW;
use super::super::reject::RejectCode::{self, BadSeq, Malformed};
use super::any::AnySeed;
use super::fault::{Context, Field};
use super::scalar::{BoolSeed, Measured, MeasuredSeed, OptionalTextSeed, TextSeed, UnsignedSeed};

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
static AGE: Field = field("age", "seconds, 0 to 2^28", Malformed);
static BYE: Field = field("bye", "a map", Malformed);
static SLEEP: Field = field("sleep", "seconds, 0 to 2^28", Malformed);
static HELLO: Field = field("hello", "a map", Malformed);
static NEXT: Field = field("next", "an unsigned integer", Malformed);
static CLOCK: Field = field("clock", "\"none\", \"unsure\" or \"synced\"", Malformed);
static REMEMBERS: Field = field("remembers", "an unsigned integer", Malformed);
static MAX_MESSAGE: Field = field("max_message", "an unsigned integer", Malformed);
static STREAM: Field = field("stream", "a text of 1 to 64 characters", Malformed);
static MODEL: Field = field("model", "a text of at most 64 characters", Malformed);
static FIRMWARE: Field = field("firmware", "a text of at most 64 characters", Malformed);
static RESULT: Field = field("result", "a map with the keys \"id\" and \"ok\"", Malformed);
static REPORTED: Field = field("reported", "a map that JSON can hold", Malformed);
static ID: Field = field("id", "a text of 1 to 64 characters", Malformed);
static NAME: Field = field("name", "a text", Malformed);
static MORE: Field = field("more", "true or false", Malformed);
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

/// Reads a sequence number; null counts as left out.
fn read_seq<'de, A: MapAccess<'de>>(ctx: &Context, map: &mut A) -> Result<Option<u64>, A::Error> {
    let seq = map.next_value_seed(UnsignedSeed)?;
    match seq {
        Some(0) => return Err(wrong(ctx, &SEQ)),
        Some(seq) => ctx.set_seq(seq),
        None => {}
    }
    Ok(seq)
}

/// Reads a length of time; null counts as left out. What is longer than 2^28 seconds, eight
/// years, would mean another thing as a relative time (RFC 8428 §4.5.3).
fn read_seconds<'de, A: MapAccess<'de>>(
    ctx: &Context,
    map: &mut A,
    field: &'static Field,
) -> Result<Option<f64>, A::Error> {
    match map.next_value_seed(MeasuredSeed(ctx))? {
        Measured::Nothing => Ok(None),
        Measured::Number(number) if (0.0..RELATIVE_BELOW).contains(&number.as_f64()) => {
            Ok(Some(number.as_f64()))
        }
        Measured::Number(_) | Measured::NotFinite => Err(wrong(ctx, field)),
    }
}

pub(super) struct DataSeed<'c>(pub(super) &'c Context);

map_seed!(DataSeed => Data<'de>, DATA);

impl<'de> Visitor<'de> for DataSeed<'_> {
    map_visitor!(Data<'de>);

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Data<'de>, A::Error> {
        let ctx = self.0;
        let (mut seq, mut age, mut pack) = (None, None, None);
        while let Some(key) = map.next_key_seed(TextSeed)? {
            match &*key {
                "seq" => {
                    once(ctx, &seq, &SEQ)?;
                    seq = Some(read_seq(ctx, &mut map)?);
                }
                "age" => {
                    once(ctx, &age, &AGE)?;
                    age = Some(read_seconds(ctx, &mut map, &AGE)?);
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
        Ok(Data {
            seq: seq.flatten(),
            age: age.flatten().unwrap_or(0.0),
            pack,
        })
    }
}

pub(super) struct ByeSeed<'c>(pub(super) &'c Context);

map_seed!(ByeSeed => Bye, BYE);

impl<'de> Visitor<'de> for ByeSeed<'_> {
    map_visitor!(Bye);

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Bye, A::Error> {
        let ctx = self.0;
        let mut sleep = None;
        while let Some(key) = map.next_key_seed(TextSeed)? {
            if &*key == "sleep" {
                once(ctx, &sleep, &SLEEP)?;
                sleep = Some(read_seconds(ctx, &mut map, &SLEEP)?);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
            ctx.enter_field(&BYE);
        }
        Ok(Bye {
            sleep: sleep.flatten(),
        })
    }
}

pub(super) struct HelloSeed<'c>(pub(super) &'c Context);

map_seed!(HelloSeed => Hello, HELLO);

/// The fields of `hello`; the outer layer says whether one has been there, the inner whether it
/// was more than null.
#[derive(Default)]
struct HelloFields {
    stream: Option<Option<String>>,
    next: Option<Option<u64>>,
    clock: Option<Option<DeviceClock>>,
    remembers: Option<Option<u64>>,
    max_message: Option<Option<u64>>,
    model: Option<Option<String>>,
    firmware: Option<Option<String>>,
}

impl<'de> Visitor<'de> for HelloSeed<'_> {
    map_visitor!(Hello);

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Hello, A::Error> {
        let ctx = self.0;
        let mut fields = HelloFields::default();
        while let Some(key) = map.next_key_seed(TextSeed)? {
            match &*key {
                "stream" => read_text(ctx, &mut map, &mut fields.stream, &STREAM)?,
                "model" => read_text(ctx, &mut map, &mut fields.model, &MODEL)?,
                "firmware" => read_text(ctx, &mut map, &mut fields.firmware, &FIRMWARE)?,
                "next" => read_unsigned(ctx, &mut map, &mut fields.next, &NEXT)?,
                "remembers" => read_unsigned(ctx, &mut map, &mut fields.remembers, &REMEMBERS)?,
                "max_message" => {
                    read_unsigned(ctx, &mut map, &mut fields.max_message, &MAX_MESSAGE)?;
                }
                "clock" => {
                    once(ctx, &fields.clock, &CLOCK)?;
                    let text = map.next_value_seed(OptionalTextSeed)?;
                    let clock = text.map(|text| {
                        DeviceClock::from_text(&text).ok_or_else(|| wrong(ctx, &CLOCK))
                    });
                    fields.clock = Some(clock.transpose()?);
                }
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
            ctx.enter_field(&HELLO);
        }
        let stream = fields.stream.flatten();
        if stream.as_ref().is_some_and(String::is_empty) {
            return Err(wrong(ctx, &STREAM));
        }
        Ok(Hello {
            stream,
            next: fields.next.flatten(),
            clock: fields.clock.flatten(),
            remembers: fields.remembers.flatten(),
            max_message: fields.max_message.flatten(),
            model: fields.model.flatten(),
            firmware: fields.firmware.flatten(),
        })
    }
}

fn read_text<'de, A: MapAccess<'de>>(
    ctx: &Context,
    map: &mut A,
    slot: &mut Option<Option<String>>,
    field: &'static Field,
) -> Result<(), A::Error> {
    once(ctx, slot, field)?;
    let text = map.next_value_seed(OptionalTextSeed)?;
    *slot = Some(text.map(|text| short(ctx, field, text)).transpose()?);
    Ok(())
}

fn read_unsigned<'de, A: MapAccess<'de>>(
    ctx: &Context,
    map: &mut A,
    slot: &mut Option<Option<u64>>,
    field: &'static Field,
) -> Result<(), A::Error> {
    once(ctx, slot, field)?;
    *slot = Some(map.next_value_seed(UnsignedSeed)?);
    Ok(())
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
        let (mut name, mut more) = (None, None);
        while let Some(key) = map.next_key_seed(TextSeed)? {
            match &*key {
                "id" => {
                    once(ctx, &id, &ID)?;
                    let text = map.next_value_seed(TextSeed)?;
                    if !is_command_id(&text) {
                        return Err(wrong(ctx, &ID));
                    }
                    id = Some(text.into_owned());
                }
                "name" => {
                    once(ctx, &name, &NAME)?;
                    let text = map.next_value_seed(OptionalTextSeed)?;
                    name = Some(
                        text.filter(|text| is_command_name(text))
                            .map(Cow::into_owned),
                    );
                }
                "more" => {
                    once(ctx, &more, &MORE)?;
                    more = Some(map.next_value_seed(BoolSeed)?);
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
                name: name.flatten(),
                ok,
                value,
                error: error.flatten(),
                more: more.unwrap_or(false),
            }),
            _ => Err(missing(ctx, &RESULT)),
        }
    }
}

/// Whether a text can be the id of a command: it stands in logs.
fn is_command_id(text: &str) -> bool {
    let count = text.chars().count();
    (1..=MAX_COMMAND_ID).contains(&count) && !text.chars().any(char::is_control)
}

/// Whether a text is the name of a command: 1 to 64 of `A-Z a-z 0-9 . _ -`.
fn is_command_name(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    (1..=MAX_COMMAND_NAME).contains(&text.len()) && text.bytes().all(allowed)
}

/// Reads a map of whatever the device gives.
pub(super) struct ReportedSeed<'c>(pub(super) &'c Context);

impl<'de> DeserializeSeed<'de> for ReportedSeed<'_> {
    type Value = Map<String, Value>;

    fn deserialize<D: Deserializer<'de>>(self, input: D) -> Result<Self::Value, D::Error> {
        self.0.enter_field(&REPORTED);
        let parts = Cell::new(0);
        match AnySeed::new(self.0, &parts).deserialize(input)? {
            Value::Object(map) => Ok(map),
            _ => Err(wrong(self.0, &REPORTED)),
        }
    }
}

/// Reads nothing but `{"result": {"id": …}}`, wherever the id stands; what it reads is kept even if
/// the frame goes wrong behind it.
pub(super) struct ResultIdOnly<'c>(
    pub(super) &'c std::cell::RefCell<Option<String>>,
    pub(super) bool,
);

impl<'de> DeserializeSeed<'de> for ResultIdOnly<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, input: D) -> Result<(), D::Error> {
        input.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ResultIdOnly<'_> {
    map_visitor!(());

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key_seed(TextSeed)? {
            match (&*key, self.1) {
                ("result", false) => map.next_value_seed(Self(self.0, true))?,
                ("id", true) => {
                    let id = map.next_value_seed(TextSeed)?;
                    if is_command_id(&id) {
                        self.0.replace(Some(id.into_owned()));
                    }
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
