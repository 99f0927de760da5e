//! The answer to a command, on its way to whoever sent it.

use std::sync::Arc;

use bytes::Bytes;

use super::{Encoding, Moment};

/// An answer, ready to be published.
#[derive(Debug, Clone, PartialEq)]
pub struct Reply {
    /// The device that the command was for; of a refusal, whatever stood in its place in the topic.
    pub device: Arc<str>,
    /// What stood behind `command/`.
    pub name: Arc<str>,
    /// Where it goes; `None`: `…/{device}/result/{name}`.
    pub topic: Option<Arc<str>>,
    /// MQTT 5 Correlation Data, given back as it came.
    pub correlation: Option<Bytes>,
    /// How `payload` is encoded.
    pub encoding: Encoding,
    /// What is published.
    pub payload: Bytes,
    /// When it was made: what has waited in the spool for longer than `max_age` is given up.
    pub made: Moment,
}

impl Reply {
    /// Fixed parts and bookkeeping of one reply, in bytes.
    const OVERHEAD: usize = 128;

    /// About how many bytes it holds in memory and on disk.
    #[must_use]
    pub fn weight(&self) -> usize {
        let topic = self.topic.as_ref().map_or(0, |topic| topic.len());
        let correlation = self.correlation.as_ref().map_or(0, Bytes::len);
        let names = self.device.len() + self.name.len();
        self.payload.len() + topic + correlation + names + Self::OVERHEAD
    }

    /// What says how the command ended where its value makes it larger than the broker takes:
    /// the same map with `"error": "too-large"` and no `value`. `None`: there is no value to leave
    /// out.
    #[must_use]
    pub fn without_value(&self) -> Option<Self> {
        const VALUE: &str = "value";
        const ERROR: &str = "error";
        const WHY: &str = "too-large";
        let payload = match self.encoding {
            Encoding::Json => {
                let mut map: serde_json::Map<String, serde_json::Value> =
                    serde_json::from_slice(&self.payload).ok()?;
                map.remove(VALUE)?;
                map.insert(ERROR.into(), WHY.into());
                serde_json::to_vec(&map).ok()?
            }
            Encoding::Cbor => {
                let key = |key: &str| serde_cbor::Value::Text(key.to_owned());
                let mut map: std::collections::BTreeMap<serde_cbor::Value, serde_cbor::Value> =
                    serde_cbor::from_slice(&self.payload).ok()?;
                map.remove(&key(VALUE))?;
                map.insert(key(ERROR), key(WHY));
                serde_cbor::to_vec(&map).ok()?
            }
        };
        Some(Self {
            payload: payload.into(),
            ..self.clone()
        })
    }
}

/// A final answer on its way to safety (P1).
#[derive(Debug, Clone)]
pub struct Final {
    /// Named when it is safe; `None`: nobody waits for that.
    pub token: Option<u64>,
    /// What is to be published.
    pub reply: Reply,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::{Value, json};

    use super::*;

    fn reply(encoding: Encoding, body: &Value) -> Reply {
        let payload = match encoding {
            Encoding::Json => serde_json::to_vec(body).unwrap(),
            Encoding::Cbor => serde_cbor::to_vec(body).unwrap(),
        };
        Reply {
            device: "lamp".into(),
            name: "on".into(),
            topic: None,
            correlation: None,
            encoding,
            payload: payload.into(),
            made: Moment::at(1.0),
        }
    }

    #[test]
    fn an_answer_that_is_too_large_still_says_how_it_ended() {
        let body = json!({"id": "a", "state": "done", "ok": true, "value": [1, 2, 3]});
        let expected = json!({"id": "a", "state": "done", "ok": true, "error": "too-large"});
        for encoding in [Encoding::Json, Encoding::Cbor] {
            let less = reply(encoding, &body).without_value().unwrap();
            let said: Value = match encoding {
                Encoding::Json => serde_json::from_slice(&less.payload).unwrap(),
                Encoding::Cbor => serde_cbor::from_slice(&less.payload).unwrap(),
            };
            assert_eq!(said, expected);
            assert_eq!(less.without_value(), None);
        }
    }
}
