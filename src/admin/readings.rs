//! A kept frame as readings that can be shown.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;

use crate::protocol;
use crate::protocol::message::FromDevice;
use crate::protocol::number::Number;
use crate::protocol::pack::resolve::{Resolved, ResolvedValue};
use crate::status::kept::Last;
use crate::status::report::ReadingReport;

/// The first `limit` readings of a batch. None when the frame is not what was taken, which the
/// way to the broker tells of.
pub(super) fn readings(batch: &Last, limit: usize) -> Vec<ReadingReport> {
    let Ok(FromDevice::Data(data)) = protocol::decode(batch.encoding, &batch.frame) else {
        return Vec::new();
    };
    data.pack
        .resolve(batch.received)
        .map_while(Result::ok)
        .take(limit)
        .map(|resolved| report(&resolved, batch.received))
        .collect()
}

fn report(resolved: &Resolved<'_>, received: f64) -> ReadingReport {
    ReadingReport {
        received,
        time: resolved.time.as_f64(),
        name: [resolved.base_name, resolved.name].concat(),
        unit: resolved.unit.map(str::to_owned),
        value: match resolved.value {
            Some(ResolvedValue::Number(Number::Int(value))) => value.into(),
            Some(ResolvedValue::Number(Number::UInt(value))) => value.into(),
            Some(ResolvedValue::Number(Number::Float(value))) => value.into(),
            Some(ResolvedValue::Text(text)) => text.into(),
            Some(ResolvedValue::Bool(value)) => value.into(),
            Some(ResolvedValue::Data(data)) => URL_SAFE_NO_PAD.encode(data).into(),
            None => Value::Null,
        },
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
    fn what_is_no_batch_shows_nothing() {
        let batch = Last {
            received: 5.0,
            encoding: Encoding::Cbor,
            frame: Bytes::from_static(b"\xff"),
        };
        assert!(readings(&batch, 100).is_empty());
    }
}
