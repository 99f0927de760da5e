//! The golden frames that stand between devices and the hub (`tests/golden`).

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value as Json;

use super::Encoding;
use super::cbor::{self, Writer};
use super::message::{self, FromHub};
use super::senml::{Pack, Record, Value};

/// 2^53: doubles tell integers apart up to here.
const EXACT: f64 = 9_007_199_254_740_992.0;

struct Golden {
    name: String,
    frame: Vec<u8>,
    meaning: Json,
}

fn golden(directory: &str) -> Vec<Golden> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../tests/golden")
        .join(directory);
    let mut files: Vec<PathBuf> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.retain(|file| {
        file.extension()
            .is_some_and(|extension| extension == "json")
    });
    files.sort();
    files
        .into_iter()
        .map(|file| {
            let text = fs::read_to_string(file.with_extension("cbor.hex")).unwrap_or_default();
            let digits: String = text
                .lines()
                .flat_map(|line| line.split('#').next().unwrap().chars())
                .filter(|c| !c.is_whitespace())
                .collect();
            let frame = (0..digits.len())
                .step_by(2)
                .map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap())
                .collect();
            Golden {
                name: file.file_stem().unwrap().to_str().unwrap().to_owned(),
                frame,
                meaning: serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap(),
            }
        })
        .collect()
}

/// The pack, if it has no fields but those that these devices send.
fn pack(records: &Json) -> Option<Pack> {
    let mut pack: Option<Pack> = None;
    for (index, record) in records.as_array()?.iter().enumerate() {
        let record = record.as_object()?;
        let text = |key: &str| record.get(key).and_then(Json::as_str);
        let unit = |key: &str| text(key).map(|unit| -> &'static str { unit.to_owned().leak() });
        let number = |key: &str| record.get(key).and_then(Json::as_f64);
        let base = ["bn", "bt", "bu"]
            .iter()
            .filter(|key| record.contains_key(**key))
            .count();
        let own = ["n", "u", "v", "vs", "vb", "t"];
        let own = own.iter().filter(|key| record.contains_key(**key)).count();
        if base + own != record.len() || (index > 0 && base > 0) {
            return None;
        }
        let pack = pack.get_or_insert_with(|| {
            let mut pack = Pack::new(text("bn").unwrap_or_default().into(), number("bt"));
            pack.base_unit = unit("bu");
            pack
        });
        // These devices measure in doubles; integers beyond them are for others to send.
        if let Some(Json::Number(value)) = record.get("v")
            && value
                .as_f64()
                .is_some_and(|double| double.abs() > EXACT && !value.is_f64())
        {
            return None;
        }
        let value = match (number("v"), text("vs"), record.get("vb")) {
            (Some(value), None, None) => Value::Number(value),
            (None, Some(value), None) => Value::Text(value.to_owned()),
            (None, None, Some(value)) => Value::Bool(value.as_bool()?),
            _ => return None,
        };
        pack.records.push(Record {
            name: text("n").unwrap_or_default().to_owned().into(),
            unit: unit("u"),
            value,
            time: number("t").unwrap_or(0.0),
        });
    }
    pack
}

#[test]
fn every_golden_answer_of_a_hub_is_understood() {
    let answers = golden("to_device");
    assert!(answers.len() >= 15, "only {} answers", answers.len());
    for answer in answers {
        let text = answer.meaning["message"].to_string();
        let meant = FromHub::decode(Encoding::Json, text.as_bytes()).unwrap();
        let read = FromHub::decode(Encoding::Cbor, &answer.frame);
        assert_eq!(read.as_ref(), Ok(&meant), "{}", answer.name);
    }
}

#[test]
fn packs_and_batches_are_written_as_the_golden_frames_have_them() {
    let mut checked = 0;
    for golden in golden("from_device") {
        if golden.meaning["canonical"] != true {
            continue;
        }
        let message = &golden.meaning["message"];
        let (seq, records) = match message.get("data") {
            Some(data) => (data["seq"].as_u64(), &data["pack"]),
            None => (None, message),
        };
        let Some(pack) = pack(records) else {
            continue;
        };
        let bytes = match (seq, message.is_array()) {
            (Some(seq), _) => message::data(Encoding::Cbor, seq, &pack),
            (None, true) => {
                let mut out = Writer::default();
                pack.write_cbor(&mut out);
                out.into_bytes()
            }
            (None, false) => continue,
        };
        if bytes == golden.frame {
            checked += 1;
        } else {
            // The same in another order of keys, which JSON does not keep.
            let (ours, theirs) = (labelled(&bytes), labelled(&golden.frame));
            assert_eq!(ours, theirs, "{}", golden.name);
            assert_eq!(bytes.len(), golden.frame.len(), "{}", golden.name);
        }
        let Some(seq) = seq else { continue };
        let json = message::data(Encoding::Json, seq, &pack);
        let json: Json = serde_json::from_slice(&json).unwrap();
        assert!(same(&json, message), "{}: {json}", golden.name);
    }
    assert!(checked >= 10, "only {checked} frames could be compared");
}

/// Equal as SenML has it: `1` and `1.0` are one number.
fn same(one: &Json, other: &Json) -> bool {
    match (one, other) {
        (Json::Number(one), Json::Number(other)) => one == other || one.as_f64() == other.as_f64(),
        (Json::Array(one), Json::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| same(one, other))
        }
        (Json::Object(one), Json::Object(other)) => {
            one.len() == other.len()
                && one
                    .iter()
                    .all(|(key, one)| other.get(key).is_some_and(|other| same(one, other)))
        }
        _ => one == other,
    }
}

#[test]
fn results_of_commands_mean_what_the_golden_frames_mean() {
    for golden in golden("from_device") {
        let Some(result) = golden.meaning["message"].get("result") else {
            continue;
        };
        let id = result["id"].as_str().unwrap();
        let outcome = match result["ok"].as_bool().unwrap() {
            true => Ok(result["value"].clone()),
            false => Err(result["error"].as_str().unwrap()),
        };
        let ours = message::result(Encoding::Cbor, id, outcome);
        let (ours, theirs) = (
            cbor::read(&ours).unwrap(),
            cbor::read(&golden.frame).unwrap(),
        );
        assert!(same(&ours, &theirs), "{}: {ours} for {theirs}", golden.name);
    }
}

fn labelled(bytes: &[u8]) -> Json {
    cbor::read_with_labels(bytes).unwrap()
}
