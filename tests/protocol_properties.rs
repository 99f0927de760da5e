//! Generated messages and generated garbage. The encoder of device messages here is of its own,
//! so that it can write every form that CBOR has for one thing.
#![allow(clippy::unwrap_used, missing_docs)]

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use serde_json::{Map, Value, json};
use telehub::protocol::message::{DeviceClock, FromDevice, Note, NoteCode, ToDevice, Welcome};
use telehub::protocol::payload::{Format, encode_batch};
use telehub::protocol::reject::{Reject, RejectCode};
use telehub::protocol::{decode, decode_to_device, encode};
use telehub::reading::{Batch, Content, Encoding, Moment};

const RECEIVED: f64 = 1_700_000_000.25;

/// Which of the forms that CBOR allows is taken; each choice uses up some of the number.
struct Form(u64);

impl Form {
    fn choose(&mut self, of: u64) -> u64 {
        // A linear congruential step: any spread will do.
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % of
    }

    fn head(&mut self, out: &mut Vec<u8>, major: u8, value: u64) {
        let least = match value {
            0..24 => 0,
            24..0x100 => 1,
            0x100..0x1_0000 => 2,
            0x1_0000..0x1_0000_0000 => 3,
            _ => 4,
        };
        let bytes = value.to_be_bytes();
        match least.max(self.choose(10).saturating_sub(5)) {
            0 => out.push(major << 5 | bytes[7]),
            1 => out.extend([major << 5 | 24, bytes[7]]),
            2 => out.extend([&[major << 5 | 25], &bytes[6..]].concat()),
            3 => out.extend([&[major << 5 | 26], &bytes[4..]].concat()),
            _ => out.extend([&[major << 5 | 27], &bytes[..]].concat()),
        }
    }

    fn string(&mut self, out: &mut Vec<u8>, major: u8, bytes: &[u8], cut: usize) {
        if self.choose(4) == 0 {
            out.push(major << 5 | 31);
            for chunk in [&bytes[..cut], &bytes[cut..]] {
                self.head(out, major, chunk.len() as u64);
                out.extend(chunk);
            }
            out.push(0xff);
        } else {
            self.head(out, major, bytes.len() as u64);
            out.extend(bytes);
        }
    }

    fn text(&mut self, out: &mut Vec<u8>, text: &str) {
        let cut = (0..=text.len() / 2)
            .rev()
            .find(|cut| text.is_char_boundary(*cut))
            .unwrap();
        self.string(out, 3, text.as_bytes(), cut);
    }

    fn number(&mut self, out: &mut Vec<u8>, number: &Value) {
        if let Some(value) = number.as_u64() {
            self.head(out, 0, value);
        } else if let Some(value) = number.as_i64() {
            self.head(out, 1, !value.cast_unsigned());
        } else {
            let value = number.as_f64().unwrap();
            #[expect(clippy::cast_possible_truncation, reason = "checked right there")]
            let single = value as f32;
            if f64::from(single) == value && self.choose(2) == 0 {
                out.push(0xfa);
                out.extend(single.to_be_bytes());
            } else {
                out.push(0xfb);
                out.extend(value.to_be_bytes());
            }
        }
    }

    fn open(&mut self, out: &mut Vec<u8>, major: u8, len: usize) -> bool {
        let endless = self.choose(4) == 0;
        if endless {
            out.push(major << 5 | 31);
        } else {
            self.head(out, major, len as u64);
        }
        endless
    }

    /// Writes a message or a part of one. Maps within a pack are records.
    fn item(&mut self, out: &mut Vec<u8>, value: &Value, in_pack: bool) {
        if self.choose(16) == 0 && !value.is_number() {
            // A tag that says nothing: "this is CBOR".
            out.extend([0xd9, 0xd9, 0xf7]);
        }
        let endless = match value {
            Value::Null => return out.push(0xf6),
            Value::Bool(value) => return out.push(0xf4 + u8::from(*value)),
            Value::Number(_) => return self.number(out, value),
            Value::String(text) => return self.text(out, text),
            Value::Array(items) => {
                let endless = self.open(out, 4, items.len());
                for item in items {
                    self.item(out, item, in_pack);
                }
                endless
            }
            Value::Object(map) => {
                let endless = self.open(out, 5, map.len());
                for (key, value) in map {
                    self.entry(out, key, value, in_pack);
                }
                endless
            }
        };
        if endless {
            out.push(0xff);
        }
    }

    fn entry(&mut self, out: &mut Vec<u8>, key: &str, value: &Value, in_pack: bool) {
        const BASE: [&str; 6] = ["bver", "bn", "bt", "bu", "bv", "bs"];
        const OWN: [&str; 9] = ["n", "u", "v", "vs", "vb", "s", "t", "ut", "vd"];
        let integer = in_pack && self.choose(3) != 0;
        if let Some(at) = BASE.iter().position(|label| integer && *label == key) {
            self.head(out, 1, at as u64);
        } else if let Some(at) = OWN.iter().position(|label| integer && *label == key) {
            self.head(out, 0, at as u64);
        } else {
            self.text(out, key);
        }
        match (in_pack, key, value) {
            (true, "vd", Value::String(text)) => {
                use base64::Engine as _;
                let bytes = base64::engine::general_purpose::URL_SAFE_NO_PAD
                    .decode(text)
                    .unwrap();
                self.string(out, 2, &bytes, bytes.len() / 2);
            }
            _ => self.item(out, value, in_pack || key == "pack"),
        }
    }
}

fn cbor(message: &Value, form: u64) -> Vec<u8> {
    let mut out = Vec::new();
    Form(form).item(&mut out, message, message.is_array());
    out
}

fn any_text(longest: usize) -> impl Strategy<Value = String> {
    vec(any::<char>(), 0..=longest).prop_map(String::from_iter)
}

fn plain_text() -> impl Strategy<Value = String> {
    vec(
        any::<char>().prop_map(|c| if c.is_control() { 'c' } else { c }),
        1..=64,
    )
    .prop_map(String::from_iter)
}

fn float() -> impl Strategy<Value = f64> {
    any::<f64>().prop_map(|value| if value.is_finite() { value } else { 0.5 })
}

fn number() -> impl Strategy<Value = Value> {
    prop_oneof![
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        (-50..50_i64).prop_map(Value::from),
        float().prop_map(Value::from),
        any::<f32>().prop_map(|value| if value.is_finite() {
            f64::from(value)
        } else {
            0.5
        }
        .into()),
    ]
}

fn value() -> impl Strategy<Value = (&'static str, Value)> {
    prop_oneof![
        number().prop_map(|value| ("v", value)),
        any_text(20).prop_map(|text| ("vs", text.into())),
        any::<bool>().prop_map(|value| ("vb", value.into())),
        vec(any::<u8>(), 0..20).prop_map(|bytes| {
            use base64::Engine as _;
            (
                "vd",
                base64::engine::general_purpose::URL_SAFE_NO_PAD
                    .encode(bytes)
                    .into(),
            )
        }),
    ]
}

/// A record without base fields and with an absolute time: it is resolved already.
fn resolved_record() -> impl Strategy<Value = Value> {
    (
        "[A-Za-z0-9][-A-Za-z0-9:./_]{0,30}",
        option::of("[a-zA-Z%/]{1,8}"),
        value(),
        option::of(number()),
        268_435_456.0..4e9_f64,
        option::of(0..100_000_u32),
    )
        .prop_map(|(name, unit, (label, value), sum, time, update_time)| {
            let mut record = Map::new();
            record.insert("n".into(), name.into());
            record.insert(label.into(), value);
            record.insert("t".into(), time.into());
            let unit = unit.map(Value::from);
            let update_time = update_time.map(Value::from);
            for (label, value) in [("u", unit), ("s", sum), ("ut", update_time)] {
                record.extend(value.map(|value| (label.to_owned(), value)));
            }
            record.into()
        })
}

fn any_json() -> impl Strategy<Value = Value> {
    let scalar = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        number(),
        any_text(10).prop_map(Value::from),
    ];
    scalar.prop_recursive(4, 24, 5, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..5).prop_map(Value::from),
            vec(("[a-z]{0,4}", inner), 0..5)
                .prop_map(|entries| entries.into_iter().collect::<Map<_, _>>().into()),
        ]
    })
}

fn code() -> impl Strategy<Value = RejectCode> {
    prop_oneof![
        Just(RejectCode::Malformed),
        Just(RejectCode::BadPack),
        Just(RejectCode::BadSeq),
        Just(RejectCode::TooLarge),
        Just(RejectCode::UnknownKind),
    ]
}

fn to_device() -> impl Strategy<Value = ToDevice> {
    prop_oneof![
        any::<u64>().prop_map(|seq| ToDevice::Ack { seq }),
        (
            plain_text(),
            any::<[u64; 3]>(),
            [float(), float(), float()],
            any::<bool>(),
            any::<[u32; 2]>()
        )
            .prop_map(|(stream, integers, floats, known, [max_rate, window])| {
                let [seq, time_s, max_message] = integers;
                let [time, ping_interval, ping_timeout] = floats;
                ToDevice::Welcome(Welcome {
                    stream,
                    seq,
                    known,
                    time,
                    time_s,
                    ping_interval,
                    ping_timeout,
                    max_message,
                    max_rate,
                    window,
                })
            }),
        (option::of(any::<u64>()), any::<bool>(), any_text(40)).prop_map(|(seq, early, detail)| {
            let code = match early {
                true => NoteCode::ImplausibleTime,
                false => NoteCode::RecordDropped,
            };
            ToDevice::Note(Note { code, detail, seq })
        }),
        (option::of(any::<u64>()), code(), any_text(40))
            .prop_map(|(seq, code, detail)| ToDevice::Reject(Reject { seq, code, detail })),
        (any_text(10), any_text(10), any_json()).prop_map(|(id, name, args)| ToDevice::Command {
            id,
            name,
            // `null` is as if it were absent.
            args: Some(args).filter(|args| !args.is_null()),
            timeout: 30.0,
            again: false,
        }),
    ]
}

fn content(encoding: Encoding, frame: &[u8]) -> Result<Content, TestCaseError> {
    match decode(encoding, frame) {
        Ok(FromDevice::Data(data)) => Ok(data.pack.check(RECEIVED).unwrap().content),
        other => Err(TestCaseError::fail(format!("{other:?}"))),
    }
}

/// What a session does with a frame. Nothing of it may panic.
fn look_at(encoding: Encoding, frame: &[u8]) -> Result<(), TestCaseError> {
    let (seq, age, pack) = match decode(encoding, frame) {
        Ok(FromDevice::Data(data)) => (data.seq, data.age, data.pack),
        Ok(_) => return Ok(()),
        Err(reject) => {
            prop_assert!(!reject.detail.is_empty() && reject.detail.len() <= 200);
            return Ok(());
        }
    };
    let checked = pack.check(RECEIVED - age);
    let batch = Batch {
        device: "d".into(),
        stream: "s".into(),
        seq,
        received: Moment::at(RECEIVED),
        readings: 1,
        encoding,
        frame: frame.to_vec().into(),
    };
    for format in [
        Format::Json,
        Format::Cbor,
        Format::SenmlJson,
        Format::SenmlCbor,
        Format::Influx,
    ] {
        let payload = encode_batch(&batch, format);
        prop_assert_eq!(payload.is_ok(), checked.is_ok());
        if let (Ok(payload), Ok(summary), Format::SenmlJson | Format::SenmlCbor) =
            (payload, &checked, format)
        {
            prop_assert!(payload.len() <= summary.resolved_bytes + 10);
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_resolved_pack_comes_out_as_it_went_in(
        records in vec(resolved_record(), 1..8),
        seq in option::of(1..=u64::MAX),
        form: u64,
    ) {
        let mut data = json!({"pack": records});
        if let Some(seq) = seq {
            data["seq"] = seq.into();
        }
        let message = json!({"data": data});
        for (encoding, frame) in [
            (Encoding::Cbor, cbor(&message, form)),
            (Encoding::Json, message.to_string().into_bytes()),
        ] {
            let batch = Batch {
                device: "d".into(),
                stream: "s".into(),
                seq,
                received: Moment::at(RECEIVED),
                readings: u32::try_from(records.len()).unwrap(),
                encoding,
                frame: frame.into(),
            };
            let whole = encode_batch(&batch, Format::Json).unwrap();
            let whole: Value = serde_json::from_slice(&whole).unwrap();
            prop_assert_eq!(&whole["pack"], &Value::from(records.clone()));
            prop_assert_eq!(whole["seq"].as_u64(), seq);
            // A pack that is resolved resolves to itself, through every format.
            for (format, encoding) in
                [(Format::SenmlCbor, Encoding::Cbor), (Format::SenmlJson, Encoding::Json)]
            {
                let again = Batch {
                    encoding,
                    frame: encode_batch(&batch, format).unwrap().into(),
                    ..batch.clone()
                };
                let again = encode_batch(&again, Format::Json).unwrap();
                let again: Value = serde_json::from_slice(&again).unwrap();
                prop_assert_eq!(&again, &whole);
            }
        }
    }

    #[test]
    fn hello_is_read_as_it_was_written(
        texts in [option::of(plain_text()), option::of(plain_text()), option::of(plain_text())],
        numbers in [option::of(any::<u64>()), option::of(any::<u64>()), option::of(any::<u64>())],
        clock in option::of(prop::sample::select(vec!["none", "unsure", "synced"])),
        nulls: [bool; 7],
        form: u64,
    ) {
        let [stream, model, firmware] = texts;
        let [next, remembers, max_message] = numbers;
        let fields = [
            ("stream", stream.clone().map(Value::from)),
            ("model", model.clone().map(Value::from)),
            ("firmware", firmware.clone().map(Value::from)),
            ("next", next.map(Value::from)),
            ("remembers", remembers.map(Value::from)),
            ("max_message", max_message.map(Value::from)),
            ("clock", clock.map(Value::from)),
        ];
        let mut hello = Map::new();
        for ((key, value), null) in fields.into_iter().zip(nulls) {
            match value {
                Some(value) => _ = hello.insert(key.into(), value),
                None if null => _ = hello.insert(key.into(), Value::Null),
                None => {}
            }
        }
        let message = json!({"hello": hello});
        let frame = cbor(&message, form);
        let text = message.to_string();
        for (encoding, frame) in [(Encoding::Cbor, &frame[..]), (Encoding::Json, text.as_bytes())] {
            let Ok(FromDevice::Hello(read)) = decode(encoding, frame) else {
                return Err(TestCaseError::fail("no hello"));
            };
            prop_assert_eq!(&read.stream, &stream);
            prop_assert_eq!(&read.model, &model);
            prop_assert_eq!(&read.firmware, &firmware);
            prop_assert_eq!(read.next, next);
            prop_assert_eq!(read.remembers, remembers);
            prop_assert_eq!(read.max_message, max_message);
            prop_assert_eq!(read.clock, clock.and_then(DeviceClock::from_text));
        }
    }

    /// The same content whatever the encoding, the form and the times; other content for any
    /// other name, unit, value or order.
    #[test]
    fn content_is_what_is_said_and_not_how_or_when(
        records in vec(resolved_record(), 1..6),
        form: u64,
        base in 0..8_usize,
        times in vec(option::of(-1e5..0.0_f64), 6),
        age in option::of(0.0..1e5_f64),
        swap: prop::sample::Index,
        other in resolved_record(),
    ) {
        let said = content(Encoding::Json, json!({"data": {"pack": records}}).to_string().as_bytes())?;
        // Written otherwise: names cut elsewhere, other times, an age, floats for integers.
        let mut again = records.clone();
        let name = again[0]["n"].as_str().unwrap().to_owned();
        let base = base.min(name.len());
        if again.iter().all(|record| record["n"].as_str().unwrap().starts_with(&name[..base])) {
            for record in &mut again {
                let whole = record["n"].as_str().unwrap().to_owned();
                record["n"] = whole[base..].into();
            }
            again[0]["bn"] = name[..base].into();
        }
        for (record, time) in again.iter_mut().zip(times) {
            let record = record.as_object_mut().unwrap();
            record.remove("t");
            record.remove("ut");
            record.extend(time.map(|time| ("t".to_owned(), time.into())));
            if let Some(value) = record.get_mut("v")
                && let Some(small) = value.as_i64().filter(|value| value.abs() < 1 << 53)
            {
                *value = (small as f64).into();
            }
        }
        let mut data = json!({"seq": 1, "pack": again});
        if let Some(age) = age {
            data["age"] = age.into();
        }
        let frame = cbor(&json!({"data": data}), form);
        prop_assert_eq!(content(Encoding::Cbor, &frame)?, said);

        let at = swap.index(records.len());
        let mut changed = records.clone();
        changed[at] = other;
        let says = |records: &[Value]| -> Vec<Value> {
            let strip = |record: &Value| {
                let mut record = record.clone();
                let fields = record.as_object_mut().unwrap();
                fields.remove("t");
                fields.remove("ut");
                for value in ["v", "s"] {
                    if let Some(value) = fields.get_mut(value)
                        && let Some(float) = value.as_f64().filter(|float| float.fract() == 0.0)
                        && float.abs() < 1e15
                    {
                        *value = float.into();
                    }
                }
                record
            };
            records.iter().map(strip).collect()
        };
        if says(&changed) != says(&records) {
            let frame = json!({"data": {"pack": changed}}).to_string();
            prop_assert_ne!(content(Encoding::Json, frame.as_bytes())?, said);
        }
    }

    #[test]
    fn results_are_read_as_they_were_written(value in any_json(), ok: bool, form: u64) {
        let message = json!({"result": {"id": "c-1", "ok": ok, "value": value}});
        let frame = cbor(&message, form);
        let text = message.to_string();
        for (encoding, frame) in [(Encoding::Cbor, &frame[..]), (Encoding::Json, text.as_bytes())] {
            let Ok(FromDevice::Result(read)) = decode(encoding, frame) else {
                return Err(TestCaseError::fail("no result"));
            };
            prop_assert_eq!(read.ok, ok);
            prop_assert_eq!(read.value.as_ref(), Some(&value));
        }
    }

    #[test]
    fn messages_of_the_hub_are_read_as_they_were_written(message in to_device()) {
        for encoding in [Encoding::Cbor, Encoding::Json] {
            let frame = encode(encoding, &message);
            prop_assert_eq!(decode_to_device(encoding, &frame).unwrap(), message.clone());
        }
    }

    #[test]
    fn any_bytes_are_a_message_or_a_reject(bytes in vec(any::<u8>(), 0..200)) {
        look_at(Encoding::Cbor, &bytes)?;
        look_at(Encoding::Json, &bytes)?;
    }

    #[test]
    fn any_text_is_a_message_or_a_reject(text in "[\\[\\]{}\":,0-9a-z\\\\ue.+-]{0,100}") {
        look_at(Encoding::Json, text.as_bytes())?;
    }

    #[test]
    fn a_damaged_frame_is_a_message_or_a_reject(
        records in vec(resolved_record(), 1..4),
        form: u64,
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        length in option::of(any::<prop::sample::Index>()),
    ) {
        let message = json!({"data": {"seq": 7, "pack": records}});
        for (encoding, mut frame) in [
            (Encoding::Cbor, cbor(&message, form)),
            (Encoding::Json, message.to_string().into_bytes()),
        ] {
            for (at, byte) in &damage {
                let at = at.index(frame.len());
                frame[at] = *byte;
            }
            if let Some(length) = &length {
                frame.truncate(length.index(frame.len()));
            }
            look_at(encoding, &frame)?;
        }
    }

    #[test]
    fn a_truncated_frame_is_never_a_message(
        records in vec(resolved_record(), 1..4),
        form: u64,
        length: prop::sample::Index,
    ) {
        let message = json!({"data": {"seq": 7, "pack": records}});
        for (encoding, frame) in [
            (Encoding::Cbor, cbor(&message, form)),
            (Encoding::Json, message.to_string().into_bytes()),
        ] {
            let frame = &frame[..length.index(frame.len())];
            let code = decode(encoding, frame).map(drop).unwrap_err().code;
            prop_assert_eq!(code, RejectCode::Malformed);
        }
    }
}
