//! The golden frames, in both directions. Their format: `tests/golden/README.md`.
#![allow(clippy::unwrap_used, missing_docs)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use telehub::protocol::message::FromDevice;
use telehub::protocol::payload::{Format, encode_batch, encode_gap};
use telehub::protocol::reject::Reject;
use telehub::protocol::{decode, decode_to_device, encode};
use telehub::reading::{Batch, Encoding, Gap};

const FORMATS: [(&str, Format); 4] = [
    ("json", Format::Json),
    ("cbor", Format::Cbor),
    ("senml-json", Format::SenmlJson),
    ("senml-cbor", Format::SenmlCbor),
];

struct Golden {
    name: String,
    frame: Option<Vec<u8>>,
    meaning: Value,
}

fn golden(directory: &str, at_least: usize) -> Vec<Golden> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(directory);
    let mut paths: Vec<PathBuf> = fs::read_dir(&root)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "json")
        })
        .collect();
    paths.sort();
    assert!(
        paths.len() >= at_least,
        "only {} files in {}",
        paths.len(),
        root.display()
    );
    paths
        .into_iter()
        .map(|path| Golden {
            name: path.file_stem().unwrap().to_str().unwrap().to_owned(),
            frame: fs::read_to_string(path.with_extension("cbor.hex"))
                .ok()
                .map(|hex| bytes(&hex)),
            meaning: serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap(),
        })
        .collect()
}

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex
        .lines()
        .flat_map(|line| line.split('#').next().unwrap().chars())
        .filter(|c| !c.is_whitespace())
        .map(|c| u8::try_from(c.to_digit(16).unwrap()).unwrap())
        .collect();
    digits
        .chunks(2)
        .map(|pair| pair[0] << 4 | pair[1])
        .collect()
}

fn take(encoding: Encoding, frame: &[u8], received: f64) -> Result<FromDevice<'_>, Reject> {
    let message = decode(encoding, frame)?;
    if let FromDevice::Data(data) = &message {
        data.pack
            .check(received)
            .map_err(|error| error.into_reject(data.seq))?;
    }
    Ok(message)
}

fn batch(encoding: Encoding, frame: &[u8], received: f64) -> Batch {
    let FromDevice::Data(data) = decode(encoding, frame).unwrap() else {
        panic!("no batch");
    };
    Batch {
        device: "cow-7".into(),
        stream: "boot-1".into(),
        seq: data.seq,
        received: telehub::reading::Moment::at(received),
        readings: data.pack.check(received - data.age).unwrap().readings,
        encoding,
        frame: frame.to_vec().into(),
    }
}

/// CBOR as JSON: integer labels as text labels, byte strings as base64url.
fn as_json(value: serde_cbor::Value) -> Value {
    use base64::Engine as _;
    use serde_cbor::Value as Cbor;
    match value {
        Cbor::Null => Value::Null,
        Cbor::Bool(value) => value.into(),
        Cbor::Integer(value) => i64::try_from(value)
            .map(Value::from)
            .unwrap_or_else(|_| u64::try_from(value).unwrap().into()),
        Cbor::Float(value) => value.into(),
        Cbor::Text(value) => value.into(),
        Cbor::Bytes(value) => base64::engine::general_purpose::URL_SAFE_NO_PAD
            .encode(value)
            .into(),
        Cbor::Array(values) => values.into_iter().map(as_json).collect(),
        Cbor::Map(map) => Value::Object(map.into_iter().map(label).collect::<Map<_, _>>()),
        other => panic!("{other:?}"),
    }
}

fn label((key, value): (serde_cbor::Value, serde_cbor::Value)) -> (String, Value) {
    let key = match key {
        serde_cbor::Value::Text(text) => text,
        serde_cbor::Value::Integer(-1) => "bver".into(),
        serde_cbor::Value::Integer(integer) => ["n", "u", "v", "vs", "vb", "s", "t", "ut", "vd"]
            [usize::try_from(integer).unwrap()]
        .into(),
        other => panic!("{other:?}"),
    };
    (key, as_json(value))
}

/// 20 and 20.0 are the same number, whichever way it was written.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => {
            a == b || ((a.is_f64() || b.is_f64()) && a.as_f64() == b.as_f64())
        }
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b))
        }
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len()
                && a.iter()
                    .all(|(key, a)| b.get(key).is_some_and(|b| same(a, b)))
        }
        (a, b) => a == b,
    }
}

#[test]
fn cbor_and_json_frames_from_devices_mean_the_same() {
    for Golden {
        name,
        frame,
        meaning,
    } in golden("from_device", 30)
    {
        let frame = frame.unwrap();
        let text = meaning["message"].to_string();
        let received = meaning["received"].as_f64().unwrap_or(0.0);
        let cbor =
            take(Encoding::Cbor, &frame, received).unwrap_or_else(|r| panic!("{name}: {r:?}"));
        let json = take(Encoding::Json, text.as_bytes(), received)
            .unwrap_or_else(|r| panic!("{name} as JSON: {r:?}"));
        match (cbor, json) {
            (FromDevice::Data(cbor), FromDevice::Data(json)) => {
                assert_eq!(cbor.seq, json.seq, "{name}");
                assert_eq!(
                    cbor.seq,
                    meaning["message"]["data"]["seq"].as_u64(),
                    "{name}"
                );
            }
            (cbor, json) => assert_eq!(cbor, json, "{name}"),
        }
    }
}

#[test]
fn golden_packs_resolve_to_the_golden_records_in_every_format() {
    for Golden {
        name,
        frame,
        meaning,
    } in golden("from_device", 30)
    {
        let Some(resolved) = meaning.get("resolved") else {
            continue;
        };
        let received = meaning["received"].as_f64().unwrap();
        let text = meaning["message"].to_string();
        for (encoding, frame) in [
            (Encoding::Cbor, frame.unwrap()),
            (Encoding::Json, text.into_bytes()),
        ] {
            let batch = batch(encoding, &frame, received);
            assert_eq!(
                batch.readings as usize,
                resolved.as_array().unwrap().len(),
                "{name}"
            );
            for (format_name, format) in FORMATS {
                let payload = encode_batch(&batch, format).unwrap();
                let payload = match format {
                    Format::Json | Format::SenmlJson => serde_json::from_slice(&payload).unwrap(),
                    Format::Cbor | Format::SenmlCbor => {
                        as_json(serde_cbor::from_slice(&payload).unwrap())
                    }
                    Format::Influx => unreachable!(),
                };
                let expected = match format {
                    Format::SenmlJson | Format::SenmlCbor => resolved.clone(),
                    Format::Influx => unreachable!(),
                    Format::Json | Format::Cbor => {
                        let mut whole = json!({
                            "device": "cow-7", "stream": "boot-1", "seq": batch.seq,
                            "received": received, "pack": resolved,
                        });
                        let mut times = resolved
                            .as_array()
                            .unwrap()
                            .iter()
                            .map(|record| record["t"].as_f64().unwrap());
                        // Before 2020, or more than a day ahead: the examples of the RFC are.
                        if times.any(|t| t < 1_577_836_800.0 || t > received + 86_400.0) {
                            whole["clock"] = "implausible".into();
                        }
                        whole
                    }
                };
                assert!(
                    same(&payload, &expected),
                    "{name} from {encoding:?} as {format_name}:\n{payload}\n{expected}"
                );
            }
        }
    }
}

#[test]
fn golden_messages_of_the_hub_are_written_byte_for_byte() {
    for Golden {
        name,
        frame,
        meaning,
    } in golden("to_device", 10)
    {
        let frame = frame.unwrap();
        let text = meaning["message"].to_string();
        let message = decode_to_device(Encoding::Json, text.as_bytes()).unwrap();
        assert_eq!(
            decode_to_device(Encoding::Cbor, &frame).unwrap(),
            message,
            "{name}"
        );
        assert_eq!(encode(Encoding::Cbor, &message), frame, "{name}");
        let json: Value = serde_json::from_slice(&encode(Encoding::Json, &message)).unwrap();
        assert_eq!(json, meaning["message"], "{name}");
    }
}

#[test]
fn golden_faults_are_rejected_with_their_code_and_number() {
    for Golden {
        name,
        frame,
        meaning,
    } in golden("rejected", 50)
    {
        let (encoding, frame) = match frame {
            Some(frame) => (Encoding::Cbor, frame),
            None => (
                Encoding::Json,
                meaning["text"].as_str().unwrap().as_bytes().to_vec(),
            ),
        };
        let reject = match take(encoding, &frame, 1_700_000_000.0) {
            Err(reject) => reject,
            Ok(message) => panic!("{name} was taken: {message:?}"),
        };
        assert_eq!(
            reject.code.as_str(),
            meaning["reject"]["code"],
            "{name}: {}",
            reject.detail
        );
        assert_eq!(
            reject.seq,
            meaning["reject"]["seq"].as_u64(),
            "{name}: {}",
            reject.detail
        );
        assert!(
            !reject.detail.is_empty() && reject.detail.len() <= 200,
            "{name}"
        );
    }
}

#[test]
fn payloads_are_written_byte_for_byte() {
    for Golden {
        name,
        frame,
        meaning,
    } in golden("payload", 2)
    {
        let gap: Option<Gap> = meaning
            .get("gap")
            .map(|gap| serde_json::from_value(gap.clone()).unwrap());
        let payloads: BTreeMap<String, String> =
            serde_json::from_value(meaning["payload"].clone()).unwrap();
        assert_eq!(payloads.len(), FORMATS.len(), "{name}");
        for (format_name, format) in FORMATS {
            let payload = match (&gap, &frame) {
                (Some(gap), _) => encode_gap(gap, format),
                (None, Some(frame)) => {
                    let received = meaning["received"].as_f64().unwrap();
                    encode_batch(&batch(Encoding::Cbor, frame, received), format).unwrap()
                }
                (None, None) => panic!("{name} is neither a batch nor a gap"),
            };
            let expected = &payloads[format_name];
            match format {
                Format::Json | Format::SenmlJson => {
                    assert_eq!(str::from_utf8(&payload).unwrap(), expected, "{name}");
                }
                Format::Cbor | Format::SenmlCbor => {
                    assert_eq!(payload, bytes(expected), "{name} as {format_name}");
                }
                Format::Influx => unreachable!(),
            }
        }
    }
}
