//! From a frame to a message. Strict: one item, no trailing bytes, no duplicate fields, bounded.
//!
//! A message is a map with exactly one key, its kind; a bare array is a pack without a sequence
//! number. Fields that a later version may add are passed over, except in packs, where SenML has
//! rules of its own.

mod any;
pub(super) mod fault;
mod fields;
pub(super) mod scalar;

use std::cell::{Cell, RefCell};
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use serde_json::Value;

use super::message::{Data, FromDevice};
use super::pack::parse::PackSeed;
use super::reject::{Reject, RejectCode};
use crate::reading::Encoding;
use any::AnySeed;
use fault::{Context, Ended, MESSAGE, reject, shown};
use fields::{ByeSeed, DataSeed, HelloSeed, ReportedSeed, ResultSeed};
use scalar::TextSeed;

/// Reads one message from a device. The pack of a batch is not resolved yet: see
/// [`Pack::check`](super::pack::Pack::check).
///
/// # Errors
/// The answer to the device, with the sequence number when it could be read.
pub fn decode(encoding: Encoding, frame: &[u8]) -> Result<FromDevice<'_>, Reject> {
    let ctx = Context::new(frame.len());
    match read(encoding, frame, MessageSeed(&ctx)) {
        Ok(Message::Known(message)) => Ok(message),
        Ok(Message::Unknown(kind)) => Err(reject(
            None,
            RejectCode::UnknownKind,
            format!(
                "\"{kind}\" is no kind of message from a device: hello, data, result, reported, bye"
            ),
        )),
        Err(_) if encoding == Encoding::Cbor && looks_like_json(frame) => {
            recover_seq(Encoding::Json, frame, &ctx);
            let detail = "this looks like JSON: send it in a text frame";
            Err(reject(ctx.seq(), RejectCode::Malformed, detail.into()))
        }
        Err(ended) => {
            if ctx.seq().is_none() {
                recover_seq(encoding, frame, &ctx);
            }
            Err(ctx.into_reject(&ended))
        }
    }
}

/// Reads one value of any kind, bounded in depth and in the number of its parts as the `value` of
/// a result is; a key may not come twice, and every number is finite. `None`: it is none.
#[must_use]
pub fn decode_value(encoding: Encoding, bytes: &[u8]) -> Option<Value> {
    let (ctx, parts) = (Context::new(bytes.len()), Cell::new(0));
    read(encoding, bytes, AnySeed::new(&ctx, &parts)).ok()
}

/// The id of the result in a frame that was refused, so that its device does not send it for ever.
/// `None`: it is no result, or its id cannot be read.
#[must_use]
pub fn result_id(encoding: Encoding, frame: &[u8]) -> Option<String> {
    let id = RefCell::new(None);
    let _ = read(encoding, frame, fields::ResultIdOnly(&id, false));
    id.into_inner()
}

/// The sequence number of a batch of which only the beginning is there. `None`: it does not stand
/// there, or not all of it.
#[must_use]
pub fn seq_of_beginning(encoding: Encoding, bytes: &[u8]) -> Option<u64> {
    // A JSON number ends where something else begins: at the end of the bytes it may go on.
    let is_number = |byte: &u8| byte.is_ascii_digit() || b"+-.eE".contains(byte);
    let cut = match encoding {
        Encoding::Cbor => 0,
        Encoding::Json => bytes
            .iter()
            .rev()
            .take_while(|byte| is_number(byte))
            .count(),
    };
    let whole = &bytes[..bytes.len() - cut];
    let ctx = Context::new(whole.len());
    let _ = read(encoding, whole, fields::SeqOnly(&ctx));
    ctx.seq()
}

/// Whether a frame that is no CBOR message begins like a JSON one. No CBOR message begins so: `{`
/// and `[` would be texts and byte strings of absurd length.
fn looks_like_json(frame: &[u8]) -> bool {
    let mut visible = frame.iter().filter(|byte| !byte.is_ascii_whitespace());
    match visible.next() {
        Some(b'{') => matches!(visible.next(), Some(b'"' | b'}')),
        Some(b'[') => matches!(visible.next(), Some(b'{' | b']')),
        _ => false,
    }
}

/// Looks for the sequence number of a batch that did not decode, so that the device learns which
/// one it was. The pack may come before the number.
fn recover_seq(encoding: Encoding, frame: &[u8], ctx: &Context) {
    let second = Context::new(frame.len());
    let _ = read(encoding, frame, fields::SeqOnly(&second));
    if let Some(seq) = second.seq() {
        ctx.set_seq(seq);
    }
}

fn read<'de, S: DeserializeSeed<'de>>(
    encoding: Encoding,
    frame: &'de [u8],
    seed: S,
) -> Result<S::Value, Ended> {
    match encoding {
        Encoding::Cbor => read_cbor(frame, seed),
        Encoding::Json => read_json(frame, seed),
    }
}

fn read_cbor<'de, S: DeserializeSeed<'de>>(frame: &'de [u8], seed: S) -> Result<S::Value, Ended> {
    use serde_cbor::error::Category;
    // The "packed format" stays enabled: it is what lets integer labels through. Nothing here is
    // derived, so no field of another message can be meant by a number.
    let mut input = serde_cbor::Deserializer::from_slice(frame).disable_legacy_enums();
    let result = seed.deserialize(&mut input);
    let at = input.byte_offset();
    result
        .and_then(|value| input.end().map(|()| value))
        .map_err(|error| match error.classify() {
            Category::Eof => Ended::Early,
            Category::Data => Ended::WrongType,
            Category::Syntax | Category::Io => Ended::Syntax(format!("CBOR near byte {at}")),
        })
}

fn read_json<'de, S: DeserializeSeed<'de>>(frame: &'de [u8], seed: S) -> Result<S::Value, Ended> {
    use serde_json::error::Category;
    let mut input = serde_json::Deserializer::from_slice(frame);
    let result = seed.deserialize(&mut input);
    result
        .and_then(|value| input.end().map(|()| value))
        .map_err(|error| match error.classify() {
            Category::Eof => Ended::Early,
            Category::Data => Ended::WrongType,
            Category::Syntax | Category::Io => Ended::Syntax(format!(
                "JSON near line {}, column {}{}",
                error.line(),
                error.column(),
                match is_not_finite(frame, &error) {
                    true => ": JSON has no NaN and no Infinity, send null",
                    false => "",
                }
            )),
        })
}

/// Whether the reader stopped at what several encoders write for a number that is not finite.
fn is_not_finite(frame: &[u8], error: &serde_json::Error) -> bool {
    let line = frame
        .split(|byte| *byte == b'\n')
        .nth(error.line().saturating_sub(1));
    // The column is that of the byte that was read last: the first of the word, or a later one.
    let near = line.and_then(|line| line.get(error.column().saturating_sub(2)..));
    near.is_some_and(|near| {
        let near = &near[..near.len().min(10)];
        [&b"NaN"[..], b"nan", b"Infinity"]
            .iter()
            .any(|word| near.windows(word.len()).any(|found| found == *word))
    })
}

enum Message<'a> {
    Known(FromDevice<'a>),
    /// Its kind, fit for an error text. Known only once the whole frame is well-formed.
    Unknown(String),
}

struct MessageSeed<'c>(&'c Context);

impl<'de> DeserializeSeed<'de> for MessageSeed<'_> {
    type Value = Message<'de>;

    fn deserialize<D: Deserializer<'de>>(self, input: D) -> Result<Message<'de>, D::Error> {
        input.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for MessageSeed<'_> {
    type Value = Message<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a message")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, array: A) -> Result<Message<'de>, A::Error> {
        let pack = PackSeed(self.0).visit_seq(array)?;
        Ok(Message::Known(FromDevice::Data(Data {
            seq: None,
            age: 0.0,
            pack,
        })))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Message<'de>, A::Error> {
        let ctx = self.0;
        let one_key = || {
            let detail = "a message is a map with exactly one key, its kind";
            ctx.refuse(RejectCode::Malformed, detail.into())
        };
        let Some(kind) = map.next_key_seed(TextSeed)? else {
            return Err(one_key());
        };
        let message = match &*kind {
            "data" => FromDevice::Data(map.next_value_seed(DataSeed(ctx))?),
            "hello" => FromDevice::Hello(map.next_value_seed(HelloSeed(ctx))?),
            "bye" => FromDevice::Bye(map.next_value_seed(ByeSeed(ctx))?),
            "result" => FromDevice::Result(map.next_value_seed(ResultSeed(ctx))?),
            "reported" => FromDevice::Reported(map.next_value_seed(ReportedSeed(ctx))?),
            unknown => {
                map.next_value::<IgnoredAny>()?;
                if map.next_key::<IgnoredAny>()?.is_some() {
                    return Err(one_key());
                }
                return Ok(Message::Unknown(shown(unknown)));
            }
        };
        ctx.enter_field(&MESSAGE);
        if map.next_key::<IgnoredAny>()?.is_some() {
            return Err(one_key());
        }
        Ok(Message::Known(message))
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(
        self,
        tagged: D,
    ) -> Result<Self::Value, D::Error> {
        tagged.deserialize_any(self)
    }
}
