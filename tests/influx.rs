//! `uplink.format = "influx"`, read by a parser that was written from InfluxDB's description of line
//! protocol alone, and compared with what the same batch says in JSON.
#![allow(clippy::unwrap_used, missing_docs)]

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::{Value, json};
use telehub::protocol::payload::{Format, append_lines, encode_batch, gap_line};
use telehub::reading::{Batch, Encoding, Gap, GapReason, Moment};

/// A field's value by its type.
#[derive(Debug, Clone, PartialEq)]
enum Field {
    Float(f64),
    Integer(i64),
    Unsigned(u64),
    Text(String),
    Bool(bool),
}

/// One point.
#[derive(Debug, PartialEq)]
struct Point {
    measurement: String,
    tags: BTreeMap<String, String>,
    fields: BTreeMap<String, Field>,
    time: i64,
}

/// Reads points by the rules of "Line protocol reference": measurements and tags end at an
/// unescaped comma, equals sign or space; strings are in double quotes, within which a backslash
/// escapes quotes and backslashes and a line break is a line break; `i` and `u` end integers.
struct Reader<'t> {
    rest: std::iter::Peekable<std::str::Chars<'t>>,
}

impl Reader<'_> {
    fn points(text: &str) -> Vec<Point> {
        let mut reader = Reader {
            rest: text.chars().peekable(),
        };
        let mut points = Vec::new();
        while reader.rest.peek().is_some() {
            points.push(reader.point());
        }
        points
    }

    /// Up to one of `ends`, which stays.
    fn key(&mut self, ends: &[char]) -> String {
        let mut key = String::new();
        while let Some(next) = self.rest.next_if(|next| !ends.contains(next)) {
            assert!(!next.is_control(), "a line break or worse in {key:?}");
            if next == '\\' && self.rest.peek().is_some_and(|next| ", =".contains(*next)) {
                key.push(self.rest.next().unwrap());
            } else {
                key.push(next);
            }
        }
        assert!(!key.is_empty(), "an empty key or tag");
        assert!(!key.ends_with('\\'), "a backslash at the end of {key:?}");
        key
    }

    fn expect(&mut self, what: char) {
        assert_eq!(self.rest.next(), Some(what));
    }

    fn point(&mut self) -> Point {
        let measurement = self.key(&[',', ' ']);
        let mut tags = BTreeMap::new();
        while self.rest.next_if_eq(&',').is_some() {
            let key = self.key(&['=']);
            self.expect('=');
            let value = self.key(&[',', ' ']);
            assert_eq!(tags.insert(key, value), None);
        }
        self.expect(' ');
        let mut fields = BTreeMap::new();
        loop {
            let key = self.key(&['=']);
            self.expect('=');
            let value = self.field();
            assert_eq!(fields.insert(key, value), None);
            if self.rest.next_if_eq(&',').is_none() {
                break;
            }
        }
        self.expect(' ');
        let mut time = String::new();
        while let Some(digit) = self.rest.next_if(|next| *next != '\n') {
            time.push(digit);
        }
        self.rest.next();
        Point {
            measurement,
            tags,
            fields,
            time: time.parse().unwrap(),
        }
    }

    fn field(&mut self) -> Field {
        if self.rest.next_if_eq(&'"').is_some() {
            let mut text = String::new();
            loop {
                match self.rest.next().unwrap() {
                    '"' => return Field::Text(text),
                    '\\' if self.rest.peek().is_some_and(|next| "\"\\".contains(*next)) => {
                        text.push(self.rest.next().unwrap());
                    }
                    other => text.push(other),
                }
            }
        }
        let mut text = String::new();
        while let Some(next) = self.rest.next_if(|next| !", \n".contains(*next)) {
            text.push(next);
        }
        match (
            text.as_str(),
            text.strip_suffix('i'),
            text.strip_suffix('u'),
        ) {
            ("true", ..) => Field::Bool(true),
            ("false", ..) => Field::Bool(false),
            (_, Some(integer), _) => Field::Integer(integer.parse().unwrap()),
            (_, _, Some(integer)) => Field::Unsigned(integer.parse().unwrap()),
            _ => Field::Float(text.parse().unwrap()),
        }
    }
}

fn batch(stream: &str, seq: Option<u64>, pack: &Value) -> Batch {
    Batch {
        device: "cow.1".into(),
        stream: stream.into(),
        seq,
        received: Moment::at(1_700_000_000.25),
        readings: 1,
        encoding: Encoding::Json,
        frame: pack.to_string().into_bytes().into(),
    }
}

fn lines(batch: &Batch) -> String {
    let mut out = Vec::new();
    append_lines(&mut out, batch, Some("barn")).unwrap();
    String::from_utf8(out).unwrap()
}

/// What the lines say has to be what the JSON says.
fn is_the_same(batch: &Batch) -> Result<(), TestCaseError> {
    let json: Value = serde_json::from_slice(&encode_batch(batch, Format::Json).unwrap()).unwrap();
    let points = Reader::points(&lines(batch));
    let records = json["pack"].as_array().unwrap();
    prop_assert_eq!(points.len(), records.len());
    for (point, record) in points.iter().zip(records) {
        prop_assert_eq!(&point.measurement, "telehub");
        let mut tags = point.tags.clone();
        let mut fields = point.fields.clone();
        let mut tag = |name: &str| tags.remove(name).unwrap();
        prop_assert_eq!((tag("hub"), tag("device")), ("barn".into(), "cow.1".into()));
        prop_assert_eq!(tag("name"), record["n"].as_str().unwrap());
        let text = |text: &Value| Field::Text(text.as_str().unwrap().to_owned());
        let float = |number: &Value| Field::Float(number.as_f64().unwrap());
        if let Some(unit) = record.get("u") {
            let told = tags.remove("unit").map(Field::Text);
            prop_assert_eq!(told.or_else(|| fields.remove("unit")), Some(text(unit)));
        }
        for (key, read) in [
            ("v", &float as &dyn Fn(&Value) -> Field),
            ("vs", &text),
            ("vd", &text),
            ("vb", &|truth: &Value| Field::Bool(truth.as_bool().unwrap())),
            ("s", &float),
            ("ut", &float),
        ] {
            prop_assert_eq!(fields.remove(key), record.get(key).map(read), "{}", key);
        }
        prop_assert_eq!(fields.remove("stream"), Some(text(&json["stream"])));
        let seq = json["seq"].as_u64().map(|seq| match i64::try_from(seq) {
            Ok(seq) => Field::Integer(seq),
            Err(_) => Field::Unsigned(seq),
        });
        prop_assert_eq!(fields.remove("seq"), seq);
        prop_assert_eq!(fields.remove("clock"), json.get("clock").map(text));
        prop_assert!(tags.is_empty() && fields.is_empty(), "{:?}", point);
        let seconds = record["t"].as_f64().unwrap();
        #[expect(clippy::cast_precision_loss, reason = "to within a double's digits")]
        let told = point.time as f64 / 1e9;
        prop_assert!((told - seconds).abs() <= seconds.abs() * 1e-15 || seconds.abs() > 9.2e9);
    }
    Ok(())
}

#[test]
fn one_reading_is_one_line_as_the_documentation_shows() {
    let pack = json!([
        {"bn": "room/", "bt": 1_700_000_000.5, "n": "temp", "u": "Cel", "v": 21.5},
        {"n": "door", "vb": true}, {"n": "state", "vs": "say \"on\" \\ off", "u": "a, b=c"},
    ]);
    assert_eq!(
        lines(&batch("a", Some(7), &pack)),
        "telehub,hub=barn,device=cow.1,name=room/temp,unit=Cel v=21.5,stream=\"a\",seq=7i 1700000000500000000\n\
         telehub,hub=barn,device=cow.1,name=room/door vb=true,stream=\"a\",seq=7i 1700000000500000000\n\
         telehub,hub=barn,device=cow.1,name=room/state,unit=a\\,\\ b\\=c vs=\"say \\\"on\\\" \\\\ off\",stream=\"a\",seq=7i 1700000000500000000"
    );
}

#[test]
fn a_doubtful_time_and_a_gap_say_so() {
    let old = json!([{"n": "t", "v": 1, "t": 1_000_000_000}]);
    let batch = batch("a", None, &old);
    let points = Reader::points(&lines(&batch));
    assert_eq!(points[0].fields["clock"], Field::Text("implausible".into()));
    let gap = Gap::of(&batch, GapReason::Overflow, 1_700_000_000.5);
    let line = String::from_utf8(gap_line(&gap, Some("barn"))).unwrap();
    let points = Reader::points(&line);
    assert_eq!(points[0].measurement, "telehub_gap");
    assert_eq!(points[0].tags["reason"], "overflow");
    assert_eq!(points[0].fields["readings"], Field::Integer(1));
    assert_eq!(points[0].time, 1_700_000_000_500_000_000);
}

fn any_text() -> impl Strategy<Value = String> {
    "([ab ,=\"\\\\\n\té]|\\PC){0,12}"
}

prop_compose! {
    fn record()(
        name in "[A-Za-z0-9][-:./_a-z]{0,6}", unit in prop::option::of(any_text()), kind in 0..5,
        number in prop_oneof![any::<f64>().prop_filter("finite", |number| number.is_finite()), (-1000..1000).prop_map(f64::from)],
        text in any_text(), truth: bool, time in prop_oneof![1.5e9..2e9, -1e5..0.0, -1e12..1e12], more: bool,
    ) -> Value {
        let mut record = json!({"n": name, "t": time});
        let (key, value) = match kind {
            0 => ("v", json!(number)),
            1 => ("vs", json!(text)),
            2 => ("vb", json!(truth)),
            3 => ("vd", json!("aGk")),
            _ => ("s", json!(number)),
        };
        record[key] = value;
        if let Some(unit) = unit {
            record["u"] = json!(unit);
        }
        if more {
            record["ut"] = json!(60);
        }
        record
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_parser_of_another_make_reads_what_the_json_says(
        records in prop::collection::vec(record(), 1..8),
        stream in "([ab ,=\"\\\\\n]|\\PC){1,12}",
        seq in prop::option::of(prop_oneof![1..1000_u64, any::<u64>().prop_map(|seq| seq.max(1))]),
    ) {
        let batch = batch(&stream, seq, &Value::Array(records));
        // What the hub would not have taken, such as units of 65 bytes, is no batch.
        if encode_batch(&batch, Format::Json).is_ok() {
            is_the_same(&batch)?;
        }
    }
}
