//! What a device may say, what it may not, and what it is told.
#![allow(clippy::unwrap_used, missing_docs)]

use bytes::Bytes;
use serde_json::{Value, json};
use telehub::protocol::message::{FromDevice, Note, NoteCode, ToDevice, Welcome};
use telehub::protocol::payload::{Format, encode_batch, encode_batch_after};
use telehub::protocol::reject::{Reject, RejectCode};
use telehub::protocol::{decode, decode_to_device, encode};
use telehub::reading::{Batch, Encoding, Moment};

const RECEIVED: f64 = 1_700_000_000.5;

/// Decodes a JSON frame, resolves its pack and gives the records that the broker gets.
fn resolved(frame: &str) -> Result<Value, Reject> {
    let message = decode(Encoding::Json, frame.as_bytes())?;
    let FromDevice::Data(data) = message else {
        panic!("no batch: {message:?}");
    };
    let summary = data
        .pack
        .check(RECEIVED)
        .map_err(|error| error.into_reject(data.seq))?;
    let payload = encode_batch(
        &Batch {
            device: "d".into(),
            stream: "s".into(),
            seq: data.seq,
            received: Moment::at(RECEIVED),
            readings: summary.readings,
            encoding: Encoding::Json,
            frame: Bytes::copy_from_slice(frame.as_bytes()),
        },
        Format::SenmlJson,
    )
    .unwrap();
    assert!(
        payload.len() <= summary.resolved_bytes + 2,
        "estimate too low for {frame}"
    );
    let pack: Value = serde_json::from_slice(&payload).unwrap();
    assert_eq!(pack.as_array().unwrap().len(), summary.readings as usize);
    Ok(pack)
}

fn rejected(frame: &str) -> (RejectCode, Option<u64>, String) {
    let reject = resolved(frame).expect_err(frame);
    (reject.code, reject.seq, reject.detail)
}

fn code(frame: &str) -> RejectCode {
    rejected(frame).0
}

#[test]
fn base_fields_hold_until_they_are_replaced() {
    assert_eq!(
        resolved(
            r#"[{"bn":"a/","bt":1600000000,"bu":"Cel","bv":20,"bs":100,"n":"t","v":1,"s":5},
                {"n":"t","t":1,"v":1.5},
                {"bn":"b/","bv":0.5,"n":"x","u":"%RH","v":2,"t":-3}]"#
        )
        .unwrap(),
        json!([
            {"n": "a/t", "u": "Cel", "v": 21, "s": 105, "t": 1_600_000_000},
            {"n": "a/t", "u": "Cel", "v": 21.5, "s": 100, "t": 1_600_000_001},
            {"n": "b/x", "u": "%RH", "v": 2.5, "s": 100, "t": 1_599_999_997},
        ])
    );
}

#[test]
fn times_below_2_to_the_28_are_relative_to_the_arrival() {
    assert_eq!(
        resolved(
            r#"[{"n":"a","v":1},{"n":"a","v":1,"t":-10},{"n":"a","v":1,"t":268435455},
                {"n":"a","v":1,"t":268435456}]"#
        )
        .unwrap(),
        json!([
            {"n": "a", "v": 1, "t": 1_700_000_000.5},
            {"n": "a", "v": 1, "t": 1_699_999_990.5},
            {"n": "a", "v": 1, "t": 1_968_435_455.5},
            {"n": "a", "v": 1, "t": 268_435_456},
        ])
    );
}

#[test]
fn integers_of_64_bits_and_floats_come_out_as_they_were_taken() {
    let frame = r#"[{"n":"a","v":18446744073709551615},{"n":"a","v":-9223372036854775808},
        {"n":"a","v":9007199254740993},{"n":"a","v":23.1},{"n":"a","v":2.2250738585072014e-308},
        {"n":"a","v":31.245270191439438},{"n":"a","v":122.416294033786585}]"#;
    let values: Vec<String> = resolved(frame)
        .unwrap()
        .as_array()
        .unwrap()
        .iter()
        .map(|r| r["v"].to_string())
        .collect();
    assert_eq!(
        values,
        [
            "18446744073709551615",
            "-9223372036854775808",
            "9007199254740993",
            "23.1",
            "2.2250738585072014e-308",
            "31.245270191439438",
            "122.41629403378658",
        ]
    );
}

#[test]
fn a_record_of_base_fields_only_is_no_reading() {
    assert_eq!(
        resolved(r#"[{"bn":"a","bver":10},{"v":1,"t":1e9},{"bn":"b"},{"s":1,"t":1e9}]"#).unwrap(),
        json!([{"n": "a", "v": 1, "t": 1e9}, {"n": "b", "s": 1, "t": 1e9}])
    );
    assert_eq!(code(r#"[{"bn":"a"}]"#), RejectCode::BadPack);
    assert_eq!(code("[]"), RejectCode::BadPack);
}

#[test]
fn every_kind_of_value_is_kept() {
    assert_eq!(
        resolved(
            r#"[{"n":"a","vs":"\u0001\"é","t":1e9,"ut":5},{"n":"a","vb":false,"t":1e9},
                {"n":"a","vd":"aGVsbG8_","t":1e9}]"#
        )
        .unwrap(),
        json!([
            {"n": "a", "vs": "\u{1}\"é", "t": 1e9, "ut": 5},
            {"n": "a", "vb": false, "t": 1e9},
            {"n": "a", "vd": "aGVsbG8_", "t": 1e9},
        ])
    );
}

#[test]
fn packs_that_break_rfc_8428_are_bad_packs() {
    for frame in [
        r#"[{"n":"a"}]"#,
        "[{}]",
        r#"[{"v":1}]"#,
        r#"[{"bn":"","n":"","v":1}]"#,
        r#"[{"n":"-a","v":1}]"#,
        r#"[{"bn":"/","n":"a","v":1}]"#,
        r#"[{"n":"a b","v":1}]"#,
        r#"[{"n":"é","v":1}]"#,
        r#"[{"bn":"a b"},{"n":"a","v":1}]"#,
        r#"[{"n":"a","v":1,"vs":"x"}]"#,
        r#"[{"n":"a","v":1,"new_":1}]"#,
        r#"[{"n":"a","vd":"a"}]"#,
        r#"[{"n":"a","vd":"+/+/"}]"#,
        r#"[{"bver":11,"n":"a","v":1}]"#,
        r#"[{"bver":0,"n":"a","v":1}]"#,
        r#"[{"bver":5,"n":"a","v":1},{"bver":6,"n":"a","v":1}]"#,
        r#"[{"n":"a","v":1},{"bver":5,"n":"a","v":1}]"#,
        r#"[{"bv":1.7e308,"n":"a","v":1.7e308}]"#,
        r#"[{"bs":1.7e308,"n":"a","s":1.7e308}]"#,
        r#"[{"bt":1.7e308,"n":"a","v":1,"t":1.7e308}]"#,
    ] {
        assert_eq!(code(frame), RejectCode::BadPack, "{frame}");
    }
}

#[test]
fn a_record_without_a_usable_value_costs_itself_and_its_base_fields_stay() {
    let message = r#"[{"bn":"a/","bt":1600000000,"n":"x","v":null},{"n":"y","v":1},
        {"n":"z","vs":null,"vb":null},{"n":"w","v":null,"vs":"text"}]"#;
    assert_eq!(
        resolved(message).unwrap(),
        json!([
            {"n": "a/y", "v": 1, "t": 1_600_000_000},
            {"n": "a/w", "vs": "text", "t": 1_600_000_000},
        ])
    );
    let FromDevice::Data(data) = decode(Encoding::Json, message.as_bytes()).unwrap() else {
        panic!("no batch");
    };
    let summary = data.pack.check(RECEIVED).unwrap();
    assert_eq!(
        (summary.readings, summary.dropped, summary.first_dropped),
        (2, 2, 1)
    );
    let (code, seq, detail) = rejected(r#"{"data":{"seq":5,"pack":[{"n":"a","v":null}]}}"#);
    assert_eq!((code, seq), (RejectCode::BadPack, Some(5)));
    assert!(detail.contains("finite number"), "{detail}");
}

#[test]
fn a_value_that_only_its_base_makes_infinite_costs_its_record_in_every_format() {
    let message = r#"[{"bn":"a/","bt":1600000000,"bv":1.7e308,"bs":-1.7e308,"n":"x","v":1.7e308},
        {"n":"y","v":-1.7e308},{"n":"z","s":-1.7e308},{"bv":0,"n":"w","v":1,"s":0}]"#;
    let FromDevice::Data(data) = decode(Encoding::Json, message.as_bytes()).unwrap() else {
        panic!("no batch");
    };
    let summary = data.pack.check(RECEIVED).unwrap();
    assert_eq!(
        (summary.readings, summary.dropped, summary.first_dropped),
        (2, 2, 1)
    );
    assert_eq!(data.pack.readings(), 2);
    let batch = Batch {
        device: "d".into(),
        stream: "s".into(),
        seq: None,
        received: Moment::at(RECEIVED),
        readings: 2,
        encoding: Encoding::Json,
        frame: Bytes::copy_from_slice(message.as_bytes()),
    };
    // The array's length stands before its records in CBOR.
    for format in [Format::Cbor, Format::SenmlCbor] {
        let payload = encode_batch_after(&batch, format, 0.0).unwrap();
        serde_cbor::from_slice::<serde_cbor::Value>(&payload).unwrap();
    }
    let json = encode_batch_after(&batch, Format::SenmlJson, 0.0).unwrap();
    let json: Value = serde_json::from_slice(&json).unwrap();
    assert_eq!([&json[0]["n"], &json[1]["n"]], ["a/y", "a/w"]);
    assert_eq!(json.as_array().unwrap().len(), 2);
}

fn payload(received: Moment, frame: &str, format: Format, waited: f64) -> Value {
    let batch = Batch {
        device: "d".into(),
        stream: "s".into(),
        seq: None,
        received,
        readings: 1,
        encoding: Encoding::Json,
        frame: Bytes::copy_from_slice(frame.as_bytes()),
    };
    let payload = encode_batch_after(&batch, format, waited).unwrap();
    serde_json::from_slice(&payload).unwrap()
}

#[test]
fn times_that_cannot_be_true_are_marked_and_those_of_a_hub_in_doubt_are_not_called_so() {
    let synced = Moment::at(RECEIVED);
    let unsynced = Moment {
        synced: false,
        ..synced
    };
    let day = 86_400.0;
    for (time, by_synced, by_unsynced) in [
        (json!(null), json!(null), json!("unsynced")),
        (json!(-10), json!(null), json!("unsynced")),
        (json!(1_577_836_800), json!(null), json!("unsynced")),
        (
            json!(1_577_836_799),
            json!("implausible"),
            json!("implausible"),
        ),
        (
            json!(946_684_800),
            json!("implausible"),
            json!("implausible"),
        ),
        (json!(RECEIVED + day - 1.0), json!(null), json!("unsynced")),
        (
            json!(RECEIVED + day + 1.0),
            json!("implausible"),
            json!("unsynced"),
        ),
        (json!(1.8e12), json!("implausible"), json!("unsynced")),
        (json!(100_000), json!("implausible"), json!("unsynced")),
        (json!(-200_000_000), json!("implausible"), json!("unsynced")),
    ] {
        let frame = json!([{"n": "a", "v": 1, "t": time}]).to_string();
        for (received, expected) in [(synced, &by_synced), (unsynced, &by_unsynced)] {
            let told = payload(received, &frame, Format::Json, 0.0);
            assert_eq!(&told["clock"], expected, "{time} {}", received.synced);
        }
    }
    // An age that the batch has as a whole counts.
    let frame = r#"{"data":{"age":200000000,"pack":[{"n":"a","v":1}]}}"#;
    assert_eq!(
        payload(synced, frame, Format::Json, 0.0)["clock"],
        "implausible"
    );
}

#[test]
fn a_hub_whose_clock_stands_before_1978_writes_senml_times_relative_to_now() {
    let early = Moment {
        synced: false,
        ..Moment::at(1_000.0)
    };
    let frame = r#"{"data":{"age":5,"pack":[{"n":"a","v":1},{"n":"b","v":2,"t":-7.5},
        {"n":"c","v":3,"t":1700000000}]}}"#;
    let expected = json!([
        {"n": "a", "v": 1, "t": -5.0},
        {"n": "b", "v": 2, "t": -12.5},
        {"n": "c", "v": 3, "t": 1_700_000_000},
    ]);
    assert_eq!(payload(early, frame, Format::SenmlJson, 0.0), expected);
    let waited = payload(early, frame, Format::SenmlJson, 60.0);
    assert_eq!(waited[0]["t"], -65.0);
    assert_eq!(waited[2]["t"], 1_700_000_000);
    // The others say what the clock said, and mark it.
    let whole = payload(early, frame, Format::Json, 60.0);
    assert_eq!(whole["pack"][0]["t"], 995.0);
    assert_eq!(whole["clock"], "unsynced");
}

#[test]
fn an_older_version_is_kept_in_the_resolved_records() {
    assert_eq!(
        resolved(r#"[{"bver":5,"n":"a","v":1,"t":1e9},{"n":"a","v":1,"t":1e9,"bver":5}]"#).unwrap(),
        json!([
            {"bver": 5, "n": "a", "v": 1, "t": 1e9},
            {"bver": 5, "n": "a", "v": 1, "t": 1e9},
        ])
    );
}

#[test]
fn unknown_labels_without_underscore_are_passed_over() {
    assert_eq!(
        resolved(r#"[{"n":"a","v":1,"t":1e9,"new":{"deep":[1,{"n":2}]}}]"#).unwrap(),
        json!([{"n": "a", "v": 1, "t": 1e9}])
    );
}

#[test]
fn wrong_types_garbage_and_truncation_are_malformed() {
    for frame in [
        "",
        "{",
        "nonsense",
        "7",
        "null",
        "\"text\"",
        "{}",
        r#"{"data":{"seq":1,"pack":[{"n":"a","v":1}]},"hello":{"stream":"s"}}"#,
        r#"{"data":{"seq":1,"pack":[{"n":"a","v":1}]}} "#.trim_end().repeat(2).as_str(),
        r#"{"data":{"seq":1,"pack":[{"n":"a","v":1}]}"#,
        r#"{"data":{"seq":1,"pack":{}}}"#,
        r#"{"data":{"seq":1}}"#,
        r#"{"data":[]}"#,
        r#"{"data":{"seq":1,"seq":2,"pack":[]}}"#,
        r#"[{"n":"a","n":"b","v":1}]"#,
        r#"[{"n":"a","v":"1"}]"#,
        r#"[{"n":"a","vb":1}]"#,
        r#"[{"n":1,"v":1}]"#,
        r#"[{"n":"a","v":1,"bver":"10"}]"#,
        r#"[{"n":"a","v":1},7]"#,
        r#"[{"n":"a","v":1e999}]"#,
        r#"{"hello":[]}"#,
        r#"{"hello":{"stream":""}}"#,
        r#"{"hello":{"clock":"right"}}"#,
        r#"{"hello":{"next":1.5}}"#,
        r#"{"hello":{"next":1,"next":null}}"#,
        r#"{"data":{"age":-0.5,"pack":[{"n":"a","v":1}]}}"#,
        r#"{"data":{"age":"1","pack":[{"n":"a","v":1}]}}"#,
        r#"{"bye":{"sleep":1e9}}"#,
        r#"{"bye":1}"#,
        r#"{"hello":{"stream":"a\u0000"}}"#,
        r#"{"hello":{"stream":1}}"#,
        r#"{"hello":{"stream":"a","stream":"a"}}"#,
        r#"{"result":{"id":"1"}}"#,
        r#"{"result":{"ok":true}}"#,
        r#"{"result":{"id":"1","ok":1}}"#,
    ] {
        assert_eq!(code(frame), RejectCode::Malformed, "{frame}");
    }
}

#[test]
fn a_sequence_number_is_an_integer_of_at_least_1() {
    for seq in [
        "0",
        "-1",
        "1.5",
        "-1.0",
        "\"1\"",
        "true",
        "[]",
        "{}",
        "18446744073709551616",
    ] {
        let frame = format!(r#"{{"data":{{"seq":{seq},"pack":[{{"n":"a","v":1}}]}}}}"#);
        assert_eq!(code(&frame), RejectCode::BadSeq, "{frame}");
    }
    for (seq, meant) in [
        ("1.0", Some(1)),
        ("4.294967297e9", Some(4_294_967_297)),
        ("null", None),
    ] {
        let frame = format!(r#"{{"data":{{"seq":{seq},"pack":[{{"n":"a","v":1}}]}}}}"#);
        let FromDevice::Data(data) = decode(Encoding::Json, frame.as_bytes()).unwrap() else {
            panic!("no batch");
        };
        assert_eq!(data.seq, meant, "{frame}");
    }
}

#[test]
fn a_reject_names_the_batch_and_the_record() {
    for (frame, seq, detail) in [
        (
            r#"{"data":{"seq":7,"pack":[{"n":"a","v":1},{"n":"b","v":"x"}]}}"#,
            Some(7),
            "record 2: \"v\" must be a number",
        ),
        (
            r#"{"data":{"pack":[{"n":"a","v":1},{"n":"b","v":"x"}],"seq":8}}"#,
            Some(8),
            "record 2: \"v\" must be a number",
        ),
        (
            r#"{"data":{"seq":9,"pack":[{"n":"b"}]}}"#,
            Some(9),
            "record 1 has none of v, vs, vb, vd, s",
        ),
        (
            r#"{"data":{"seq":3,"pack":[{"n":"#,
            Some(3),
            "the message ends too early",
        ),
        (
            r#"{"data":{"seq":0,"pack":[]}}"#,
            None,
            "\"seq\" must be an integer of at least 1",
        ),
        (
            r#"{"data":{"seq":4,"pack":[{"n":"a","é<script>alert(1)</script>_":1}]}}"#,
            Some(4),
            "record 1: the field \"??script?alert?1…\" must be understood and is not",
        ),
        (
            r#"[{"n":"a","v":1,"v":1}]"#,
            None,
            "record 1: the label \"v\" comes twice",
        ),
    ] {
        let reject = rejected(frame);
        assert_eq!((reject.1, reject.2.as_str()), (seq, detail), "{frame}");
    }
}

#[test]
fn what_json_cannot_say_is_told_what_to_send_instead() {
    for (number, hint) in [
        ("NaN", true),
        ("-NaN", true),
        ("nan", true),
        ("Infinity", true),
        ("-Infinity", true),
        ("nil", false),
        ("+1", false),
    ] {
        for space in ["", "\n "] {
            let frame =
                format!(r#"{{"data":{{"seq":6,"pack":[{{"n":"a","v":{space}{number}}}]}}}}"#);
            let (code, seq, detail) = rejected(&frame);
            assert_eq!((code, seq), (RejectCode::Malformed, Some(6)), "{frame}");
            assert_eq!(detail.ends_with("send null"), hint, "{frame}: {detail}");
        }
    }
}

#[test]
fn a_map_with_another_key_is_an_unknown_kind() {
    for frame in [
        r#"{"ack":{"seq":1}}"#,
        r#"{"":1}"#,
        r#"{"DATA":[[[{"a":1}]]]}"#,
    ] {
        assert_eq!(code(frame), RejectCode::UnknownKind, "{frame}");
    }
}

#[test]
fn fields_of_later_versions_are_passed_over() {
    let hello = decode(
        Encoding::Json,
        br#"{"hello":{"stream":"s","colour":["red"]}}"#,
    )
    .unwrap();
    assert!(matches!(hello, FromDevice::Hello(hello) if hello.stream.as_deref() == Some("s")));
    assert!(resolved(r#"{"data":{"later":{"x":1},"pack":[{"n":"a","v":1}]}}"#).is_ok());
}

#[test]
fn a_text_that_may_be_left_out_may_be_null() {
    let frame = br#"{"hello":{"stream":"s","model":null,"firmware":"2"}}"#;
    let FromDevice::Hello(hello) = decode(Encoding::Json, frame).unwrap() else {
        panic!("no hello");
    };
    assert_eq!((hello.model, hello.firmware.as_deref()), (None, Some("2")));
    let frame = br#"{"result":{"id":"7","ok":true,"error":null}}"#;
    let FromDevice::Result(result) = decode(Encoding::Json, frame).unwrap() else {
        panic!("no result");
    };
    assert_eq!((result.error, result.value), (None, None));
    let FromDevice::Hello(hello) = decode(Encoding::Json, br#"{"hello":{"stream":null}}"#).unwrap()
    else {
        panic!("no hello");
    };
    assert_eq!(hello.stream, None);
    assert_eq!(
        code(r#"{"hello":{"stream":"s","model":null,"model":"x"}}"#),
        RejectCode::Malformed
    );
}

#[test]
fn results_are_read_whole() {
    let frame = br#"{"result":{"id":"7","ok":false,"value":{"a":[1,2.5,null,"x"]},"error":"no"}}"#;
    let FromDevice::Result(result) = decode(Encoding::Json, frame).unwrap() else {
        panic!("no result");
    };
    assert_eq!((result.id.as_str(), result.ok), ("7", false));
    assert_eq!(result.value, Some(json!({"a": [1, 2.5, null, "x"]})));
    assert_eq!(result.error.as_deref(), Some("no"));
}

#[test]
fn what_the_hub_says_is_understood_in_both_encodings() {
    for message in [
        ToDevice::Ack { seq: 1 },
        ToDevice::Ack { seq: u64::MAX },
        ToDevice::Welcome(Welcome {
            stream: "s".into(),
            seq: 0,
            known: false,
            time: RECEIVED,
            time_s: 1_700_000_000,
            ping_interval: 20.0,
            ping_timeout: 10.0,
            max_message: 65_536,
            max_rate: 100,
            window: 32,
        }),
        ToDevice::Note(Note {
            code: NoteCode::RecordDropped,
            detail: "why".into(),
            seq: Some(1),
        }),
        ToDevice::Reject(Reject {
            seq: None,
            code: RejectCode::BadSeq,
            detail: "why".into(),
        }),
        ToDevice::Reject(Reject {
            seq: Some(3),
            code: RejectCode::TooLarge,
            detail: "é".into(),
        }),
        ToDevice::Command {
            id: "1".into(),
            name: "blink".into(),
            args: Some(json!({"n": [1, null]})),
            timeout: 29.5,
            again: true,
        },
        ToDevice::Command {
            id: "1".into(),
            name: "blink".into(),
            args: None,
            timeout: 30.0,
            again: false,
        },
        ToDevice::ResultAck { id: "1".into() },
        ToDevice::ResultReject {
            id: "1".into(),
            code: RejectCode::Malformed,
            detail: "why".into(),
        },
    ] {
        for encoding in [Encoding::Cbor, Encoding::Json] {
            let frame = encode(encoding, &message);
            assert_eq!(decode_to_device(encoding, &frame).unwrap(), message);
        }
    }
}
