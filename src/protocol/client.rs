//! The other end of the wire, for tests and tools written in Rust: reads what the hub sends.

use serde::Deserialize;
use serde_json::Value;

use super::message::{Reject, RejectCode, ToDevice, Welcome};
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
        time: f64,
        ping_interval: f64,
        max_message: u64,
        window: u32,
    },
    Ack {
        seq: u64,
    },
    Reject {
        #[serde(default)]
        seq: Option<u64>,
        code: String,
        detail: String,
    },
    Command {
        id: String,
        name: String,
        args: Value,
    },
}

impl TryFrom<Body> for ToDevice {
    type Error = NotAMessage;

    fn try_from(body: Body) -> Result<Self, NotAMessage> {
        Ok(match body {
            Body::Welcome {
                stream,
                seq,
                time,
                ping_interval,
                max_message,
                window,
            } => Self::Welcome(Welcome {
                stream,
                seq,
                time,
                ping_interval,
                max_message,
                window,
            }),
            Body::Ack { seq } => Self::Ack { seq },
            Body::Reject { seq, code, detail } => {
                let code = RejectCode::from_text(&code)
                    .ok_or_else(|| NotAMessage(format!("unknown code {code:?}")))?;
                Self::Reject(Reject { seq, code, detail })
            }
            Body::Command { id, name, args } => Self::Command { id, name, args },
        })
    }
}
