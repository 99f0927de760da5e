//! docs/schema/ describes what the hub takes and says: held against the golden frames.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "support/cddl.rs"]
mod cddl;
#[path = "support/json_schema.rs"]
mod json_schema;

use std::fs;
use std::path::Path;

use cddl::Cddl;
use json_schema::Schema;
use serde_cbor::Value as Cbor;
use serde_json::Value;
use telehub::protocol::decode;
use telehub::reading::Encoding;

fn cddl() -> Cddl {
    Cddl::parse(include_str!("../docs/schema/telehub-v1.cddl"))
}

fn schema() -> Schema {
    let text = include_str!("../docs/schema/telehub-v1.schema.json");
    Schema(serde_json::from_str(text).unwrap())
}

fn golden(directory: &str) -> Vec<(String, Option<Vec<u8>>, Value)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut all = Vec::new();
    for entry in fs::read_dir(root.join(directory)).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        let hex = fs::read_to_string(path.with_extension("cbor.hex")).ok();
        let meaning = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        all.push((name, hex.map(|hex| bytes(&hex)), meaning));
    }
    all
}

fn bytes(hex: &str) -> Vec<u8> {
    let lines = hex.lines().map(|line| line.split('#').next().unwrap());
    let digits: String = lines
        .flat_map(str::chars)
        .filter(|c| !c.is_whitespace())
        .collect();
    (0..digits.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap())
        .collect()
}

fn item(frame: &[u8]) -> Option<Cbor> {
    serde_cbor::from_slice(frame).ok()
}

#[test]
fn every_golden_message_is_what_the_schemas_say() {
    let (cddl, schema) = (cddl(), schema());
    for (directory, rule, definition, at_least) in [
        ("from_device", "from-device", "fromDevice", 40),
        ("to_device", "to-device", "toDevice", 17),
    ] {
        let all = golden(directory);
        assert!(all.len() >= at_least, "{}", all.len());
        for (name, frame, meaning) in all {
            let item = item(&frame.unwrap()).unwrap();
            assert!(cddl.matches(rule, &item), "{name} is no {rule}: {item:?}");
            let fault = schema.fault(definition, &meaning["message"]);
            assert_eq!(fault, None, "{name}");
        }
    }
}

#[test]
fn messages_of_the_wrong_shape_are_not_what_the_schemas_say() {
    let (cddl, schema) = (cddl(), schema());
    let mut refused = (0, 0);
    for (name, frame, meaning) in golden("rejected") {
        if let Some(item) = frame.and_then(|frame| item(&frame))
            && !cddl.matches("from-device", &item)
        {
            refused.0 += 1;
        }
        if let Some(text) = meaning["text"].as_str()
            && let Ok(document) = serde_json::from_str(text)
            && schema.fault("fromDevice", &document).is_some()
        {
            refused.1 += 1;
        }
        assert!(meaning["reject"]["code"].is_string(), "{name}");
    }
    // The rest breaks rules that a schema cannot have, like the names of SenML.
    assert!(refused.0 >= 20, "{refused:?}");
    for text in [
        r#"{"hello":{"stream":""}}"#,
        r#"{"hello":{"clock":"right"}}"#,
        r#"{"hello":{},"data":{}}"#,
        r#"{"data":{"seq":1}}"#,
        r#"{"data":{"seq":0,"pack":[{"n":"a","v":1}]}}"#,
        r#"{"data":{"seq":1,"age":-1,"pack":[{"n":"a","v":1}]}}"#,
        r#"{"data":{"seq":1,"pack":[]}}"#,
        r#"{"data":{"seq":1,"pack":[{"n":1,"v":1}]}}"#,
        r#"{"bye":{"sleep":"soon"}}"#,
        r#"{"result":{"id":"1"}}"#,
        r#"{"reported":[]}"#,
        r#"{"reported":null}"#,
        r#"{"desired":{}}"#,
        r#"{"ack":{"seq":1}}"#,
        "[]",
        "7",
    ] {
        let document: Value = serde_json::from_str(text).unwrap();
        assert!(schema.fault("fromDevice", &document).is_some(), "{text}");
        // What the schema refuses the hub refuses.
        let empty = text == "[]" || text.contains("[]");
        let taken = decode(Encoding::Json, text.as_bytes()).is_ok();
        assert!(!taken || empty, "{text}");
    }
}

#[test]
fn every_message_that_is_documented_has_its_place_in_both_schemas_and_on_the_page() {
    let page = include_str!("../docs/protocol.md");
    let (cddl, schema) = (cddl(), schema());
    let rules: Vec<_> = cddl.rules().map(str::to_owned).collect();
    for kind in [
        "hello", "data", "bye", "result", "reported", "welcome", "ack", "reject", "note",
        "command", "desired",
    ] {
        assert!(rules.iter().any(|rule| rule == kind), "{kind}");
        let fields = &schema.0["$defs"][kind]["properties"][kind]["properties"];
        assert!(page.contains(&format!("{{\"{kind}\": {{")), "{kind}");
        for field in fields.as_object().unwrap().keys() {
            assert!(
                page.contains(&format!("\"{field}\"")),
                "{kind}.{field} is not on the page"
            );
        }
    }
}
