//! The other end of the wire, for tests and tools written in Rust: reads what the hub sends.

use serde::Deserialize;
use serde_json::Value;

use super::message::{Note, NoteCode, ToDevice, Welcome};
use super::reject::{Reject, RejectCode};
use crate::reading::Encoding;

/// A frame is not a message of the hub.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a message of the hub: {0}")]
pub struct NotAMessage(String);

/// Reads one message from the hub. For frames of a hub that is trusted: the error text may hold a
/// copy of the frame.
///
/// # Errors
/// When the frame is no message of the hub, complete and alone.
pub fn decode_to_device(encoding: Encoding, frame: &[u8]) -> Result<ToDevice, NotAMessage> {
    let body: Body = match encoding {
        Encoding::Cbor => serde_cbor::from_slice(frame).map_err(|e| NotAMessage(e.to_string()))?,
        Encoding::Json => serde_json::from_slice(frame).map_err(|e| NotAMessage(e.to_string()))?,
    };
    body.try_into()
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
enum Body {
    Welcome {
        stream: String,
        seq: u64,
        known: bool,
        time: f64,
        time_s: u64,
        ping_interval: f64,
        ping_timeout: f64,
        max_message: u64,
        max_rate: u32,
        window: u32,
    },
    Ack {
        #[serde(default)]
        seq: Option<u64>,
        #[serde(default)]
        result: Option<String>,
    },
    Reject {
        #[serde(default)]
        seq: Option<u64>,
        #[serde(default)]
        result: Option<String>,
        code: String,
        detail: String,
    },
    Note {
        code: String,
        detail: String,
        #[serde(default)]
        seq: Option<u64>,
    },
    Command {
        id: String,
        name: String,
        #[serde(default)]
        args: Option<Value>,
        timeout: f64,
        #[serde(default)]
        again: bool,
    },
    Desired(serde_json::Map<String, Value>),
}

impl TryFrom<Body> for ToDevice {
    type Error = NotAMessage;

    fn try_from(body: Body) -> Result<Self, NotAMessage> {
        let unknown = |code: &str| NotAMessage(format!("unknown code {code:?}"));
        Ok(match body {
            Body::Welcome {
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
            } => Self::Welcome(Welcome {
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
            }),
            Body::Ack { seq, result } => match (seq, result) {
                (Some(seq), None) => Self::Ack { seq },
                (None, Some(id)) => Self::ResultAck { id },
                _ => return Err(NotAMessage("an ack of both or of nothing".to_owned())),
            },
            Body::Reject {
                seq,
                result,
                code,
                detail,
            } => {
                let code = RejectCode::from_text(&code).ok_or_else(|| unknown(&code))?;
                match result {
                    Some(id) => Self::ResultReject { id, code, detail },
                    None => Self::Reject(Reject { seq, code, detail }),
                }
            }
            Body::Note { code, detail, seq } => {
                let code = NoteCode::from_text(&code).ok_or_else(|| unknown(&code))?;
                Self::Note(Note { code, detail, seq })
            }
            Body::Command {
                id,
                name,
                args,
                timeout,
                again,
            } => Self::Command {
                id,
                name,
                args,
                timeout,
                again,
            },
            Body::Desired(map) => Self::Desired {
                map: Value::Object(map),
            },
        })
    }
}
