//! The messages of the device protocol, version 1.

use serde_json::{Map, Value, json};

use super::Encoding;
use super::cbor::{self, Writer};
use super::senml::Pack;

/// What a device says first.
#[derive(Debug, Clone)]
pub struct Hello {
    /// Names this run of sequence numbers.
    pub stream: String,
    /// The last number that was used, plus one.
    pub next: u64,
    /// What its clock is worth: `none`, `unsure` or `synced`.
    pub clock: &'static str,
    /// What kind of device this is.
    pub model: &'static str,
    /// Its version.
    pub firmware: &'static str,
}

impl Hello {
    /// `{"hello": …}`
    #[must_use]
    pub fn encode(&self, encoding: Encoding) -> Vec<u8> {
        value(
            encoding,
            &json!({"hello": {
                "stream": self.stream, "next": self.next,
                "clock": self.clock,
                "model": self.model, "firmware": self.firmware
            }}),
        )
    }
}

/// `{"data": {"seq": seq, "pack": pack}}`
#[must_use]
pub fn data(encoding: Encoding, seq: u64, pack: &Pack) -> Vec<u8> {
    // About what a record takes: a short name, a unit and a double.
    let room = 64 + 24 * pack.records.len();
    match encoding {
        Encoding::Cbor => {
            let mut out = Writer::with_capacity(room);
            out.map(1);
            out.text("data");
            out.map(2);
            out.text("seq");
            out.uint(seq);
            out.text("pack");
            pack.write_cbor(&mut out);
            out.into_bytes()
        }
        Encoding::Json => {
            let mut out = String::with_capacity(2 * room);
            out.push_str("{\"data\":{\"seq\":");
            out.push_str(&seq.to_string());
            out.push_str(",\"pack\":");
            pack.write_json(&mut out);
            out.push_str("}}");
            out.into_bytes()
        }
    }
}

/// A frame of [`data`] anew, with another number, or with the age of the whole batch in seconds.
/// The pack stays as it is. `None`: the frame is not one of [`data`].
#[must_use]
pub fn renew(encoding: Encoding, frame: &[u8], seq: u64, age: Option<u64>) -> Option<Vec<u8>> {
    match encoding {
        Encoding::Cbor => {
            let rest = frame.strip_prefix(b"\xa1\x64data\xa2\x63seq")?;
            let number = match rest.first()? {
                0..=0x17 => 1,
                0x18 => 2,
                0x19 => 3,
                0x1a => 5,
                _ => 9,
            };
            let pack = rest.get(number..)?.strip_prefix(b"\x64pack")?;
            let mut out = Writer::with_capacity(frame.len() + 16);
            out.map(1);
            out.text("data");
            out.map(2 + usize::from(age.is_some()));
            out.text("seq");
            out.uint(seq);
            if let Some(age) = age {
                out.text("age");
                out.uint(age);
            }
            out.text("pack");
            let mut bytes = out.into_bytes();
            bytes.extend_from_slice(pack);
            Some(bytes)
        }
        Encoding::Json => {
            let rest = frame.strip_prefix(b"{\"data\":{\"seq\":")?;
            let at = rest.iter().position(|byte| *byte == b',')?;
            let age = age.map_or(String::new(), |age| format!(",\"age\":{age}"));
            let mut bytes = format!("{{\"data\":{{\"seq\":{seq}{age}").into_bytes();
            bytes.extend_from_slice(&rest[at..]);
            Some(bytes)
        }
    }
}

/// `{"result": …}`: the answer to a command.
#[must_use]
pub fn result(encoding: Encoding, id: &str, outcome: Result<Value, &str>) -> Vec<u8> {
    let body = match outcome {
        Ok(value) => json!({"id": id, "ok": true, "value": value}),
        Err(error) => json!({"id": id, "ok": false, "error": error}),
    };
    value(encoding, &json!({ "result": body }))
}

fn value(encoding: Encoding, value: &Value) -> Vec<u8> {
    match encoding {
        Encoding::Cbor => {
            let mut out = Writer::default();
            out.json(value);
            out.into_bytes()
        }
        Encoding::Json => value.to_string().into_bytes(),
    }
}

/// What a hub says.
#[derive(Debug, Clone, PartialEq)]
pub enum FromHub {
    /// Answer to `hello`.
    Welcome {
        /// The stream of `hello`.
        stream: String,
        /// The highest safe sequence number of it; 0: none.
        seq: u64,
        /// The hub's clock: Unix seconds.
        time: f64,
        /// Seconds between pings.
        ping_interval: f64,
        /// Bytes of one message.
        max_message: u64,
        /// Batches that may be unacked.
        window: u64,
    },
    /// Every batch up to and including `seq` is safe.
    Ack {
        /// At least 1.
        seq: u64,
    },
    /// The last result of a command is safe.
    ResultAck {
        /// The command's id.
        id: String,
    },
    /// A message was not taken and never will be.
    Reject {
        /// Which, if that could be read.
        seq: Option<u64>,
        /// What kind of fault.
        code: String,
        /// One sentence.
        detail: String,
    },
    /// The device's author should know something.
    Note {
        /// What kind of thing.
        code: String,
        /// One sentence.
        detail: String,
        /// Of which batch.
        seq: Option<u64>,
    },
    /// The state that the device is to be in.
    Desired(serde_json::Map<String, Value>),
    /// Somebody wants something of the device.
    Command {
        /// Comes back in the result.
        id: String,
        /// What is wanted.
        name: String,
        /// With these arguments.
        args: Value,
        /// Seconds that are left for the answer.
        timeout: f64,
    },
}

impl FromHub {
    /// Reads one frame.
    ///
    /// # Errors
    /// One sentence: what makes it no message of the contract.
    pub fn decode(encoding: Encoding, frame: &[u8]) -> Result<Self, String> {
        let value = match encoding {
            Encoding::Cbor => cbor::read(frame).map_err(|error| error.to_string())?,
            Encoding::Json => serde_json::from_slice(frame).map_err(|error| error.to_string())?,
        };
        let Value::Object(message) = value else {
            return Err("the message is not a map".into());
        };
        let mut members = message.into_iter();
        let (Some((kind, body)), None) = (members.next(), members.next()) else {
            return Err("the message has not exactly one key".into());
        };
        let Value::Object(body) = body else {
            return Err(format!("the body of `{kind}` is not a map"));
        };
        let mut body = Body { kind: &kind, body };
        match kind.as_str() {
            "welcome" => Ok(Self::Welcome {
                stream: body.text("stream")?,
                seq: body.uint("seq")?,
                time: body.float("time")?,
                ping_interval: body.float("ping_interval")?,
                max_message: body.uint("max_message")?,
                window: body.uint("window")?,
            }),
            "ack" if body.body.contains_key("result") => Ok(Self::ResultAck {
                id: body.text("result")?,
            }),
            "ack" => Ok(Self::Ack {
                seq: body.uint("seq")?,
            }),
            "reject" => Ok(Self::Reject {
                seq: body.optional_uint("seq")?,
                code: body.text("code")?,
                detail: body.text("detail")?,
            }),
            "note" => Ok(Self::Note {
                seq: body.optional_uint("seq")?,
                code: body.text("code")?,
                detail: body.text("detail")?,
            }),
            "desired" => Ok(Self::Desired(body.body)),
            "command" => Ok(Self::Command {
                id: body.text("id")?,
                name: body.text("name")?,
                args: body.body.remove("args").unwrap_or(Value::Null),
                timeout: body.float("timeout")?,
            }),
            _ => Err(format!("unknown kind of message `{kind}`")),
        }
    }
}

struct Body<'a> {
    kind: &'a str,
    body: Map<String, Value>,
}

impl Body<'_> {
    fn text(&mut self, key: &str) -> Result<String, String> {
        match self.body.remove(key) {
            Some(Value::String(text)) => Ok(text),
            _ => Err(format!("`{}` has no text `{key}`", self.kind)),
        }
    }

    fn uint(&self, key: &str) -> Result<u64, String> {
        let value = self.body.get(key).and_then(Value::as_u64);
        value.ok_or_else(|| format!("`{}` has no unsigned integer `{key}`", self.kind))
    }

    fn optional_uint(&self, key: &str) -> Result<Option<u64>, String> {
        match self.body.contains_key(key) {
            true => self.uint(key).map(Some),
            false => Ok(None),
        }
    }

    fn float(&self, key: &str) -> Result<f64, String> {
        let value = self.body.get(key).and_then(Value::as_f64);
        value.ok_or_else(|| format!("`{}` has no number `{key}`", self.kind))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::wire::senml::Record;

    #[test]
    fn a_data_message_says_the_same_in_both_encodings() {
        let mut pack = Pack::new("cellar/".into(), Some(1_700_000_000.25));
        pack.records
            .push(Record::number("temperature", Some("Cel"), 21.5));
        let json = data(Encoding::Json, 300, &pack);
        let expected = json!({"data": {"seq": 300, "pack": [
            {"bn": "cellar/", "bt": 1_700_000_000.25, "n": "temperature", "u": "Cel", "v": 21.5}
        ]}});
        assert_eq!(serde_json::from_slice::<Value>(&json).unwrap(), expected);

        let cbor = data(Encoding::Cbor, 300, &pack);
        let mut head = vec![0xa1, 0x64];
        head.extend_from_slice(b"data\xa2\x63seq\x19\x01\x2c\x64pack\x81\xa5\x21\x67cellar/\x22");
        assert_eq!(&cbor[..head.len()], head);
    }

    #[test]
    fn a_frame_is_renewed_with_another_number_and_an_age_and_the_same_pack() {
        let mut pack = Pack::new("a/".into(), None);
        pack.records.push(Record::number("b", None, 1.5));
        for encoding in [Encoding::Cbor, Encoding::Json] {
            for from in [1, 23, 24, 300, 70_000, 1 << 40] {
                let frame = data(encoding, from, &pack);
                for to in [2, 255, 1 << 33] {
                    let renewed = renew(encoding, &frame, to, None).unwrap();
                    assert_eq!(renewed, data(encoding, to, &pack));
                }
                let aged = renew(encoding, &frame, from, Some(90)).unwrap();
                let read = match encoding {
                    Encoding::Cbor => cbor::read_with_labels(&aged).unwrap(),
                    Encoding::Json => serde_json::from_slice(&aged).unwrap(),
                };
                assert_eq!(read["data"]["age"], 90);
                assert_eq!(read["data"]["seq"], from);
                assert_eq!(read["data"]["pack"].as_array().unwrap().len(), 1);
            }
            assert_eq!(renew(encoding, b"x", 1, None), None);
        }
    }

    #[test]
    fn answers_are_read_in_both_encodings() {
        for (answer, expected) in [
            (json!({"ack": {"seq": 7}}), FromHub::Ack { seq: 7 }),
            (
                json!({"reject": {"code": "malformed", "detail": "no"}}),
                FromHub::Reject {
                    seq: None,
                    code: "malformed".into(),
                    detail: "no".into(),
                },
            ),
            (
                json!({"welcome": {"stream": "s", "seq": 0, "time": 1.5, "ping_interval": 20,
                    "max_message": 65536, "window": 32}}),
                FromHub::Welcome {
                    stream: "s".into(),
                    seq: 0,
                    time: 1.5,
                    ping_interval: 20.0,
                    max_message: 65536,
                    window: 32,
                },
            ),
            (
                json!({"note": {"code": "record-dropped", "detail": "why", "seq": 3}}),
                FromHub::Note {
                    code: "record-dropped".into(),
                    detail: "why".into(),
                    seq: Some(3),
                },
            ),
            (
                json!({"command": {"id": "1", "name": "echo", "args": [1, {"a": null}], "timeout": 1.5}}),
                FromHub::Command {
                    id: "1".into(),
                    name: "echo".into(),
                    args: json!([1, {"a": null}]),
                    timeout: 1.5,
                },
            ),
        ] {
            for encoding in [Encoding::Cbor, Encoding::Json] {
                let frame = value(encoding, &answer);
                assert_eq!(FromHub::decode(encoding, &frame), Ok(expected.clone()));
            }
        }
    }

    #[test]
    fn what_is_no_message_is_told_in_a_sentence() {
        for text in [
            "[]",
            "{}",
            "{\"ack\":{}}",
            "{\"ack\":{\"seq\":1.5}}",
            "{\"ack\":{\"seq\":-1}}",
            "{\"ack\":{\"seq\":1},\"b\":{}}",
            "{\"nack\":{\"seq\":1}}",
            "{\"ack\":1}",
            "x",
        ] {
            assert!(
                FromHub::decode(Encoding::Json, text.as_bytes()).is_err(),
                "{text}"
            );
        }
    }
}
