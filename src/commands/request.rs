//! What a command says: the payload of `…/command/{name}`, checked.

use std::sync::Arc;
use std::time::Duration;

use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::authority::is_name;
use crate::protocol;
use crate::reading::Encoding;

/// Bytes of an id.
pub const MAX_ID: usize = 64;

/// How long a command is worth sending when it does not say: a minute. Who has more patience
/// says so.
const TTL: Duration = Duration::from_secs(60);

/// No command can wait longer than this: nine times the longest timeout and the longest `wait`
/// are less. So larger numbers mean the same, and fit every clock.
const LONGEST_TTL: Duration = Duration::from_secs(86_400);

/// How long the device has for its answer when the command does not say.
const TIMEOUT: Duration = Duration::from_secs(30);

/// The longest of such times: a device is not kept from its next command for more than an hour.
const LONGEST_TIMEOUT: f64 = 3_600.0;

/// The longest `wait`: what has to arrive some day is a desired state and no command.
const LONGEST_WAIT: f64 = 300.0;

/// What two commands with one id have in common when they are one command: a hash of name and
/// arguments. Half of SHA-256, since collisions would have to be made on purpose by someone who
/// may send commands anyway.
pub type Fingerprint = [u8; 16];

/// A command as its sender wants it.
#[derive(Debug, Clone)]
pub struct Request {
    /// `None`: the hub makes one.
    pub id: Option<String>,
    /// As JSON, keys sorted.
    pub args: Option<Arc<RawValue>>,
    /// How long after receipt it may still be sent.
    pub ttl: Duration,
    /// How long the device has for its answer.
    pub timeout: Duration,
    /// How long after receipt a device that is away is waited for.
    pub wait: Duration,
    /// May be carried out more than once.
    pub idempotent: bool,
}

/// A payload that is no command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Malformed {
    /// Its id, where at least that could be read.
    pub id: Option<String>,
}

/// How the sender encodes: JSON text cannot begin with the first byte of a CBOR map or tag.
#[must_use]
pub fn encoding_of(payload: &[u8]) -> Encoding {
    match payload.first() {
        Some(0xa0..=0xdb) => Encoding::Cbor,
        _ => Encoding::Json,
    }
}

/// Reads a command. Keys that a later version may add are passed over; null is as if absent.
///
/// # Errors
/// Not one map of bounded depth and size, a key twice, a number that is not finite, a field of
/// the wrong type or out of range.
pub fn read(payload: &[u8]) -> Result<Request, Malformed> {
    let Some(Value::Object(mut map)) = protocol::decode_value(encoding_of(payload), payload) else {
        return Err(Malformed { id: None });
    };
    let id = match map.remove("id") {
        None | Some(Value::Null) => None,
        Some(Value::String(id)) if is_id(&id) => Some(id),
        Some(_) => return Err(Malformed { id: None }),
    };
    fields(id.clone(), map).ok_or(Malformed { id })
}

/// 1 to 64 characters of one byte or more, none of them a control character: ids stand in logs.
fn is_id(id: &str) -> bool {
    let count = id.chars().count();
    (1..=MAX_ID).contains(&count) && !id.chars().any(char::is_control)
}

fn fields(id: Option<String>, mut map: Map<String, Value>) -> Option<Request> {
    let wait = seconds(&mut map, "wait", 0.0, LONGEST_WAIT)?.unwrap_or_default();
    let ttl = seconds(&mut map, "ttl", 0.0, f64::MAX)?;
    let timeout = seconds(&mut map, "timeout", f64::MIN_POSITIVE, LONGEST_TIMEOUT)?;
    let idempotent = match map.remove("idempotent") {
        None | Some(Value::Null) => false,
        Some(Value::Bool(idempotent)) => idempotent,
        Some(_) => return None,
    };
    Some(Request {
        id,
        args: raw(map.remove("args"))?,
        // Who waits for longer than the default wants the command to live as long.
        ttl: ttl.unwrap_or(TTL.max(wait)),
        timeout: timeout.unwrap_or(TIMEOUT),
        wait,
        idempotent,
    })
}

fn raw(args: Option<Value>) -> Option<Option<Arc<RawValue>>> {
    match args {
        None | Some(Value::Null) => Some(None),
        Some(args) => to_raw_value(&args).ok().map(|raw| Some(raw.into())),
    }
}

/// `None`: not a number of seconds in this range.
fn seconds(
    map: &mut Map<String, Value>,
    key: &str,
    least: f64,
    most: f64,
) -> Option<Option<Duration>> {
    match map.remove(key) {
        None | Some(Value::Null) => Some(None),
        Some(Value::Number(number)) => {
            let seconds = number.as_f64()?;
            (least..=most).contains(&seconds).then(|| {
                Some(Duration::from_secs_f64(
                    seconds.min(LONGEST_TTL.as_secs_f64()),
                ))
            })
        }
        Some(_) => None,
    }
}

/// Why a body of the operator is no command, in one sentence.
pub type Unfit = String;

/// Reads what the operator sends: `{"name","args"?,"timeout"?,"idempotent"?}`, in JSON. He is told
/// what is wrong with it, and so a key that is none is, too: it is a slip of the hand.
///
/// # Errors
/// Not one JSON map of bounded depth and size, a key that is none, a value out of range.
pub fn read_local(body: &[u8]) -> Result<(String, Request), Unfit> {
    let Some(Value::Object(mut map)) = protocol::decode_value(Encoding::Json, body) else {
        return Err(
            "the body is no JSON map, has a key twice, is nested too deep, or has a number \
                    that is not finite; write one such as {\"name\": \"on\"}"
                .to_owned(),
        );
    };
    let name = match map.remove("name") {
        Some(Value::String(name)) if is_name(&name) => name,
        _ => {
            return Err(
                "name is missing or is no name of a command: 1 to 64 of A-Z a-z 0-9 . _ -"
                    .to_owned(),
            );
        }
    };
    let timeout = match map.remove("timeout") {
        None | Some(Value::Null) => None,
        Some(timeout) => Some(timeout.as_f64().ok_or("timeout is no number of seconds")?),
    };
    let idempotent = match map.remove("idempotent") {
        None | Some(Value::Null) => false,
        Some(Value::Bool(idempotent)) => idempotent,
        Some(_) => return Err("idempotent is neither true nor false".to_owned()),
    };
    let args = map.remove("args");
    if let Some(key) = map.keys().next() {
        let key: String = key.chars().take(MAX_ID).collect();
        return Err(format!(
            "{key:?} is no key here; there are name, args, timeout and idempotent"
        ));
    }
    let request = Request::local(args, timeout, idempotent)
        .map_err(|_| format!("timeout is out of range: above 0 and at most {LONGEST_TIMEOUT} s"))?;
    Ok((name, request))
}

impl Request {
    /// A request by the operator, who waits for the answer himself.
    ///
    /// # Errors
    /// The timeout is out of range, or the arguments are more than a command can have.
    pub fn local(
        args: Option<Value>,
        timeout: Option<f64>,
        idempotent: bool,
    ) -> Result<Self, Malformed> {
        let mut map = Map::new();
        map.insert("args".to_owned(), args.unwrap_or_default());
        map.insert("timeout".to_owned(), timeout.into());
        map.insert("idempotent".to_owned(), idempotent.into());
        // The same way as what comes from the broker, so that the same limits hold.
        read(&serde_json::to_vec(&map).unwrap_or_default())
    }

    /// What makes it the same command as another with its id.
    #[must_use]
    pub fn fingerprint(&self, name: &str) -> Fingerprint {
        let mut hash = Sha256::new();
        hash.update(name);
        hash.update([0]);
        hash.update(self.args.as_ref().map_or("", |args| args.get()));
        let digest: [u8; 32] = hash.finalize().into();
        let mut half = Fingerprint::default();
        half.copy_from_slice(&digest[..16]);
        half
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn json(value: &Value) -> Result<Request, Malformed> {
        read(value.to_string().as_bytes())
    }

    #[test]
    fn an_empty_map_is_a_command_with_every_default() {
        let request = json(&json!({})).unwrap();
        assert_eq!((request.ttl, request.timeout), (TTL, TIMEOUT));
        assert_eq!((request.wait, request.idempotent), (Duration::ZERO, false));
        assert!(request.id.is_none() && request.args.is_none());
        let nulls = json!({"id": null, "args": null, "ttl": null, "timeout": null, "wait": null,
            "idempotent": null});
        assert!(json(&nulls).unwrap().args.is_none());
    }

    #[test]
    fn json_and_cbor_are_told_apart_and_say_the_same() {
        let value = json!({"id": "a", "args": {"b": [1, 2.5, "x"], "a": true}, "ttl": 5,
            "timeout": 0.5, "wait": 300, "idempotent": true, "later": 1});
        let one = json(&value).unwrap();
        let other = read(&serde_cbor::to_vec(&value).unwrap()).unwrap();
        for request in [one, other] {
            assert_eq!(request.id.as_deref(), Some("a"));
            assert_eq!(request.args.unwrap().get(), r#"{"a":true,"b":[1,2.5,"x"]}"#);
            assert_eq!(request.ttl, Duration::from_secs(5));
            assert_eq!(request.timeout, Duration::from_millis(500));
            assert_eq!(request.wait, Duration::from_secs(300));
            assert!(request.idempotent);
        }
    }

    #[test]
    fn the_operator_is_told_what_is_wrong() {
        let (name, request) =
            read_local(br#"{"name": "set", "args": {"b": 1, "a": 2}, "timeout": 2.5}"#).unwrap();
        assert_eq!((name.as_str(), request.idempotent), ("set", false));
        assert_eq!(request.args.unwrap().get(), r#"{"a":2,"b":1}"#);
        assert_eq!(request.timeout, Duration::from_millis(2_500));
        assert_eq!(read_local(br#"{"name": "on"}"#).unwrap().1.timeout, TIMEOUT);
        let deep = format!(
            r#"{{"name": "on", "args": {}1{}}}"#,
            "[".repeat(200),
            "]".repeat(200)
        );
        for (body, word) in [
            ("", "no JSON map"),
            ("[]", "no JSON map"),
            (r#"{"name": "on", "name": "off"}"#, "key twice"),
            (r#"{"name": "on", "args": NaN}"#, "not finite"),
            (deep.as_str(), "too deep"),
            ("{}", "name"),
            (r#"{"name": "a/b"}"#, "name"),
            (r#"{"name": 1}"#, "name"),
            (r#"{"name": "on", "timeout": 0}"#, "timeout"),
            (r#"{"name": "on", "timeout": 86400}"#, "timeout"),
            (r#"{"name": "on", "timeout": "30s"}"#, "timeout"),
            (r#"{"name": "on", "idempotent": 1}"#, "idempotent"),
            (r#"{"name": "on", "timout": 3}"#, "\"timout\""),
        ] {
            let wrong = read_local(body.as_bytes()).unwrap_err();
            assert!(wrong.contains(word), "{body}: {wrong}");
        }
    }

    #[test]
    fn what_is_out_of_range_is_refused_and_its_id_is_told() {
        for (key, value) in [
            ("timeout", json!(0)),
            ("timeout", json!(86_400)),
            ("timeout", json!("30s")),
            ("wait", json!(301)),
            ("wait", json!(-1)),
            ("ttl", json!(-0.1)),
            ("idempotent", json!(1)),
        ] {
            let mut map = Map::new();
            map.insert("id".to_owned(), json!("x"));
            map.insert(key.to_owned(), value);
            let refused = json(&Value::Object(map)).unwrap_err();
            assert_eq!(refused.id.as_deref(), Some("x"), "{key}");
        }
        for id in [json!(""), json!("x".repeat(65)), json!(7), json!("a\nb")] {
            assert_eq!(
                json(&json!({ "id": id })).unwrap_err(),
                Malformed { id: None }
            );
        }
        assert!(json(&json!({"id": "ä".repeat(64)})).is_ok());
        assert!(json(&json!({"ttl": 1e300})).unwrap().ttl == LONGEST_TTL);
        assert!(json(&json!({"ttl": 0})).unwrap().ttl.is_zero());
    }

    #[test]
    fn what_is_no_bounded_map_is_refused() {
        let deep = format!("{{\"args\":{}{}}}", "[".repeat(200), "]".repeat(200));
        let twice = r#"{"args": 1, "args": 2}"#;
        let texts = [
            "",
            "on",
            "[]",
            "{",
            "{} {}",
            r#"{"args": NaN}"#,
            twice,
            &deep,
        ];
        for text in texts {
            assert!(read(text.as_bytes()).is_err(), "{text}");
        }
        // {"args": NaN}, {"args": [[[…, {1: 2}
        let mut deep = b"\xa1\x64args".to_vec();
        deep.extend(vec![0x81; 200]);
        deep.push(0);
        for bytes in [&b"\xa1\x64args\xf9\x7e\x00"[..], &deep, b"\xa1\x01\x02"] {
            assert!(read(bytes).is_err(), "{bytes:x?}");
        }
    }

    #[test]
    fn the_order_of_keys_does_not_make_another_command_and_the_name_does() {
        let one = read(br#"{"args": {"a": 1, "b": 2}}"#).unwrap();
        let other = read(br#"{"args": {"b": 2, "a": 1}}"#).unwrap();
        let more = read(br#"{"args": {"b": 2, "a": 2}}"#).unwrap();
        assert_eq!(one.fingerprint("on"), other.fingerprint("on"));
        assert_ne!(one.fingerprint("on"), one.fingerprint("off"));
        assert_ne!(one.fingerprint("on"), more.fingerprint("on"));
    }

    proptest! {
        #[test]
        fn no_bytes_do_harm(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(&bytes);
        }

        #[test]
        fn no_json_does_harm(text in r#"[{}\[\]":,0-9a-z \\.eE+-]{0,80}"#) {
            let _ = read(text.as_bytes());
        }
    }
}
