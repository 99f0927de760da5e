//! From the array of maps in a frame to records. The first violation ends it.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::super::decode::fault::{Context, RECORD, shown};
use super::super::decode::scalar::{
    DataSeed, Measured, MeasuredSeed, NumberSeed, OptionalBoolSeed, OptionalTextSeed, UnsignedSeed,
};
use super::super::limits::MAX_RECORDS;
use super::super::reject::RejectCode::{BadPack, Malformed, TooLarge};
use super::label::Label;
use super::{Pack, Record, Value};

/// The shortest record that carries a reading takes this many bytes: a map of one integer label
/// with a short value. Bounds what is reserved for a length that is only claimed.
const SHORTEST_RECORD: usize = 3;

/// Reads a pack.
pub(crate) struct PackSeed<'c>(pub(crate) &'c Context);

impl<'de> DeserializeSeed<'de> for PackSeed<'_> {
    type Value = Pack<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Pack<'de>, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for PackSeed<'_> {
    type Value = Pack<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of records")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<Pack<'de>, A::Error> {
        let ctx = self.0;
        let room = (ctx.frame_len() / SHORTEST_RECORD).min(MAX_RECORDS);
        let mut records = Vec::with_capacity(array.size_hint().unwrap_or(0).min(room));
        loop {
            ctx.enter_record(records.len());
            if records.len() == MAX_RECORDS {
                if array.next_element::<IgnoredAny>()?.is_none() {
                    break;
                }
                ctx.leave_records();
                let detail = format!("the pack has more than {MAX_RECORDS} records");
                return Err(ctx.refuse(TooLarge, detail));
            }
            // Filled in its place, because a record is long to move.
            let record = {
                records.push(Record::default());
                records.last_mut().expect("invariant: just pushed")
            };
            if array
                .next_element_seed(RecordSeed { ctx, record })?
                .is_none()
            {
                records.pop();
                break;
            }
        }
        ctx.leave_records();
        Ok(Pack { records })
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, tagged: D) -> Result<Pack<'de>, D::Error> {
        tagged.deserialize_any(self)
    }
}

struct RecordSeed<'c, 'r, 'de> {
    ctx: &'c Context,
    record: &'r mut Record<'de>,
}

impl<'de> DeserializeSeed<'de> for RecordSeed<'_, '_, 'de> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for RecordSeed<'_, '_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a record, which is a map")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let ctx = self.ctx;
        let mut seen = 0_u16;
        while let Some(label) = map.next_key_seed(LabelSeed(ctx))? {
            let Some(label) = label else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            ctx.enter_field(label.field());
            if seen & label.bit() != 0 {
                let detail = format!("the label \"{}\" comes twice", label.field().name);
                return Err(ctx.refuse(Malformed, detail));
            }
            seen |= label.bit();
            read_field(ctx, self.record, label, &mut map)?;
            ctx.enter_field(&RECORD);
        }
        Ok(())
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, tagged: D) -> Result<(), D::Error> {
        tagged.deserialize_any(self)
    }
}

/// Reads the value of one label into its place.
fn read_field<'de, A: MapAccess<'de>>(
    ctx: &Context,
    record: &mut Record<'de>,
    label: Label,
    map: &mut A,
) -> Result<(), A::Error> {
    macro_rules! read {
        ($seed:expr) => {
            map.next_value_seed($seed)?
        };
    }
    // A base field of null is left out, like any other optional field.
    macro_rules! base {
        ($field:ident, $seed:expr) => {
            if let Some(value) = read!($seed) {
                record.base().$field = Some(value);
            }
        };
    }
    match label {
        Label::Name => record.name = read!(OptionalTextSeed),
        Label::Unit => record.unit = read!(OptionalTextSeed),
        Label::Time => record.time = read!(NumberSeed(ctx)),
        Label::UpdateTime => record.update_time = read!(NumberSeed(ctx)),
        Label::Sum => match read!(MeasuredSeed(ctx)) {
            Measured::Number(sum) => record.sum = Some(sum),
            Measured::NotFinite => record.not_finite = true,
            Measured::Nothing => {}
        },
        Label::Value => match read!(MeasuredSeed(ctx)) {
            Measured::Number(value) => return put_value(ctx, record, Some(Value::Number(value))),
            Measured::NotFinite => record.not_finite = true,
            Measured::Nothing => record.null_value = true,
        },
        Label::TextValue => {
            let text = read!(OptionalTextSeed);
            return put_value(ctx, record, text.map(Value::Text));
        }
        Label::BoolValue => {
            let value = read!(OptionalBoolSeed);
            return put_value(ctx, record, value.map(Value::Bool));
        }
        Label::DataValue => {
            let data = read!(DataSeed(ctx));
            return put_value(ctx, record, data.map(Value::Data));
        }
        Label::BaseName => base!(name, OptionalTextSeed),
        Label::BaseUnit => base!(unit, OptionalTextSeed),
        Label::BaseTime => base!(time, NumberSeed(ctx)),
        Label::BaseValue => base!(value, NumberSeed(ctx)),
        Label::BaseSum => base!(sum, NumberSeed(ctx)),
        Label::BaseVersion => base!(version, UnsignedSeed),
    }
    Ok(())
}

/// A record has at most one value (RFC 8428 §4.2); one of null is none.
fn put_value<'de, E: Error>(
    ctx: &Context,
    record: &mut Record<'de>,
    value: Option<Value<'de>>,
) -> Result<(), E> {
    if value.is_none() {
        record.null_value = true;
        return Ok(());
    }
    if record.value.is_some() {
        return Err(ctx.refuse(BadPack, "there is more than one of v, vs, vb, vd".into()));
    }
    record.value = value;
    Ok(())
}

/// Reads a label; `None`: one that is not known and may be ignored.
struct LabelSeed<'c>(&'c Context);

impl<'de> DeserializeSeed<'de> for LabelSeed<'_> {
    type Value = Option<Label>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for LabelSeed<'_> {
    type Value = Option<Label>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a label")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
        let label = Label::from_text(text);
        if label.is_none() && text.ends_with('_') {
            let detail = format!(
                "the field \"{}\" must be understood and is not",
                shown(text)
            );
            return Err(self.0.refuse(BadPack, detail));
        }
        Ok(label)
    }

    fn visit_i64<E: Error>(self, integer: i64) -> Result<Self::Value, E> {
        Ok(Label::from_integer(integer))
    }

    fn visit_u64<E: Error>(self, integer: u64) -> Result<Self::Value, E> {
        Ok(i64::try_from(integer).ok().and_then(Label::from_integer))
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(
        self,
        tagged: D,
    ) -> Result<Self::Value, D::Error> {
        tagged.deserialize_any(self)
    }
}
