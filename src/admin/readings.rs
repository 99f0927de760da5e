//! A kept frame as readings that can be shown.

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;

use crate::protocol::number::Number;
use crate::protocol::pack::resolved::{Resolved, ResolvedValue};
use crate::protocol::visit::visit;
use crate::status::last_batches::Last;
use crate::status::report::ReadingReport;

/// The first `limit` readings of a batch. None when the frame is not what was taken, which the
/// way to the broker tells of.
pub(super) fn readings(batch: &Last, limit: usize) -> Vec<ReadingReport> {
    let mut all = Vec::new();
    each(batch, limit, |resolved| {
        all.push(ReadingReport {
            received: batch.received,
            time: resolved.time.as_f64(),
            name: name(resolved).into_owned(),
            unit: resolved.unit.map(str::to_owned),
            value: value(resolved),
        });
    });
    all
}

/// Gives the first `limit` of them to `see`.
pub(super) fn each(batch: &Last, limit: usize, mut see: impl FnMut(&Resolved<'_>)) {
    let mut left = limit;
    visit(batch.encoding, &batch.frame, batch.received, |resolved| {
        if let Some(less) = left.checked_sub(1) {
            left = less;
            see(resolved);
        }
    });
}

/// Both parts of its name.
pub(super) fn name<'a>(resolved: &Resolved<'a>) -> Cow<'a, str> {
    match (resolved.base_name, resolved.name) {
        ("", name) | (name, "") => Cow::Borrowed(name),
        (base, name) => Cow::Owned([base, name].concat()),
    }
}

/// Its value as JSON; null when there is only a sum.
pub(super) fn value(resolved: &Resolved<'_>) -> Value {
    match resolved.value {
        Some(ResolvedValue::Number(Number::Int(value))) => value.into(),
        Some(ResolvedValue::Number(Number::UInt(value))) => value.into(),
        Some(ResolvedValue::Number(Number::Float(value))) => value.into(),
        Some(ResolvedValue::Text(text)) => text.into(),
        Some(ResolvedValue::Bool(value)) => value.into(),
        Some(ResolvedValue::Data(data)) => URL_SAFE_NO_PAD.encode(data).into(),
        None => Value::Null,
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use serde_json::json;

    use super::*;
    use crate::reading::Encoding;

    #[test]
    fn a_reading_is_shown_resolved_whatever_its_value() {
        let pack = json!([
            {"bn": "barn/", "n": "temp", "u": "Cel", "v": 21.5, "t": -2},
            {"n": "count", "v": 7},
            {"n": "door", "vb": true},
            {"n": "note", "vs": "<b>"},
            {"n": "raw", "vd": "AQI"},
            {"n": "energy", "s": 5}
        ]);
        let batch = Last {
            received: 1_700_000_000.0,
            encoding: Encoding::Json,
            frame: Bytes::from(json!({"data": {"seq": 1, "pack": pack}}).to_string()),
        };
        let shown = readings(&batch, 100);
        let values: Vec<_> = shown.iter().map(|reading| reading.value.clone()).collect();
        let expected = [
            json!(21.5),
            json!(7),
            json!(true),
            json!("<b>"),
            json!("AQI"),
            Value::Null,
        ];
        assert_eq!(values, expected);
        assert_eq!(shown[0].name, "barn/temp");
        assert_eq!(shown[0].time, 1_699_999_998.0);
        assert_eq!(shown[0].unit.as_deref(), Some("Cel"));
        assert_eq!(readings(&batch, 2).len(), 2);
    }

    #[test]
    fn the_age_of_a_batch_counts() {
        let batch = Last {
            received: 1_700_000_000.0,
            encoding: Encoding::Json,
            frame: Bytes::from_static(br#"{"data":{"age":60,"pack":[{"n":"a","v":1,"t":-1}]}}"#),
        };
        let times: Vec<_> = readings(&batch, 9).iter().map(|one| one.time).collect();
        assert_eq!(times, [1_699_999_939.0]);
    }

    #[test]
    fn what_is_no_batch_shows_nothing() {
        let batch = Last {
            received: 5.0,
            encoding: Encoding::Cbor,
            frame: Bytes::from_static(b"\xff"),
        };
        assert!(readings(&batch, 100).is_empty());
    }
}
