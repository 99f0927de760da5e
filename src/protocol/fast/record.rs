//! One record of a pack (RFC 8428 §4): labels to fields.

use super::super::pack::label::Label;
use super::super::pack::resolve::Fields;
use super::super::pack::resolved::ResolvedValue;
use super::cursor::{Cursor, Kind};

/// Labels that hold for the records after this one.
const BASE: u16 = Label::BaseVersion.bit()
    | Label::BaseName.bit()
    | Label::BaseTime.bit()
    | Label::BaseUnit.bit()
    | Label::BaseValue.bit()
    | Label::BaseSum.bit();

/// Labels of which a record has at most one.
const VALUES: u16 =
    Label::Value.bit() | Label::TextValue.bit() | Label::BoolValue.bit() | Label::DataValue.bit();

/// The next record, and whether it has base fields and nothing else.
#[inline(always)]
pub(super) fn read<'a>(cursor: &mut Cursor<'a>) -> Option<(Fields<'a>, bool)> {
    let mut fields = Fields::default();
    let (base, own) = (&mut fields.base, &mut fields.own);
    let mut seen = 0_u16;
    for _ in 0..cursor.length(Kind::Map)? {
        let label = label(cursor)?;
        let bit = label.bit();
        if seen & bit != 0 || (bit & VALUES != 0 && seen & VALUES != 0) {
            return None;
        }
        seen |= bit;
        match label {
            Label::Name => own.name = Some(cursor.text()?),
            Label::Unit => own.unit = Some(cursor.text()?),
            Label::Value => own.value = Some(ResolvedValue::Number(cursor.number()?)),
            Label::TextValue => own.value = Some(ResolvedValue::Text(cursor.text()?)),
            Label::BoolValue => own.value = Some(ResolvedValue::Bool(cursor.bool()?)),
            Label::DataValue => own.value = Some(ResolvedValue::Data(cursor.bytes()?)),
            Label::Sum => own.sum = Some(cursor.number()?),
            Label::Time => own.time = Some(cursor.number()?),
            Label::UpdateTime => own.update_time = Some(cursor.number()?),
            Label::BaseName => base.name = Some(cursor.text()?),
            Label::BaseTime => base.time = Some(cursor.number()?),
            Label::BaseUnit => base.unit = Some(cursor.text()?),
            Label::BaseValue => base.value = Some(cursor.number()?),
            Label::BaseSum => base.sum = Some(cursor.number()?),
            Label::BaseVersion => base.version = Some(cursor.unsigned()?),
        }
    }
    Some((fields, seen != 0 && seen & !BASE == 0))
}

/// An integer of one byte, or one of the known texts.
#[inline]
fn label(cursor: &mut Cursor<'_>) -> Option<Label> {
    let head = cursor.byte()?;
    match head {
        0x00..=0x17 => Label::from_integer(head.into()),
        0x20..=0x37 => Label::from_integer(-1 - i64::from(head - 0x20)),
        0x61..=0x64 => Label::from_text(cursor.short_text(head)?),
        _ => None,
    }
}
