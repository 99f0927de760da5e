//! From a message of the hub to a frame.

use std::io::Write as _;

use serde::Serialize;
use serde_json::Value;

use super::message::ToDevice;
use crate::reading::Encoding;

/// Writes one message to a device: a map with one key.
#[must_use]
pub fn encode(encoding: Encoding, message: &ToDevice) -> Vec<u8> {
    match (encoding, message) {
        // An ack goes out for every batch or few: written by hand, in one allocation.
        (Encoding::Cbor, ToDevice::Ack { seq }) => ack_cbor(*seq),
        (Encoding::Json, ToDevice::Ack { seq }) => ack_json(*seq),
        (Encoding::Cbor, message) => serde_cbor::to_vec(&Body::of(message))
            .expect("invariant: texts, numbers and JSON values always serialize"),
        (Encoding::Json, message) => serde_json::to_vec(&Body::of(message))
            .expect("invariant: texts, numbers and JSON values always serialize"),
    }
}

fn ack_cbor(seq: u64) -> Vec<u8> {
    let mut frame = Vec::with_capacity(19);
    frame.extend_from_slice(b"\xa1\x63ack\xa1\x63seq");
    // Shortest form of an unsigned integer (RFC 8949 §4.2.1).
    match seq {
        0..24 => frame.push(seq.to_be_bytes()[7]),
        24..0x100 => frame.extend_from_slice(&[0x18, seq.to_be_bytes()[7]]),
        0x100..0x1_0000 => {
            frame.push(0x19);
            frame.extend_from_slice(&seq.to_be_bytes()[6..]);
        }
        0x1_0000..0x1_0000_0000 => {
            frame.push(0x1a);
            frame.extend_from_slice(&seq.to_be_bytes()[4..]);
        }
        _ => {
            frame.push(0x1b);
            frame.extend_from_slice(&seq.to_be_bytes());
        }
    }
    frame
}

fn ack_json(seq: u64) -> Vec<u8> {
    let mut frame = Vec::with_capacity(40);
    write!(frame, "{{\"ack\":{{\"seq\":{seq}}}}}").expect("invariant: a Vec takes every write");
    frame
}

/// A message as it stands in the frame.
#[derive(Serialize)]
#[serde(rename_all = "lowercase")]
enum Body<'a> {
    Welcome {
        stream: &'a str,
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
        seq: u64,
    },
    Reject {
        #[serde(skip_serializing_if = "Option::is_none")]
        seq: Option<u64>,
        code: &'static str,
        detail: &'a str,
    },
    Note {
        code: &'static str,
        detail: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        seq: Option<u64>,
    },
    Command {
        id: &'a str,
        name: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        args: Option<&'a Value>,
        timeout: f64,
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        again: bool,
    },
    Desired(&'a Value),
    #[serde(rename = "ack")]
    ResultAck {
        result: &'a str,
    },
    #[serde(rename = "reject")]
    ResultReject {
        result: &'a str,
        code: &'static str,
        detail: &'a str,
    },
}

impl<'a> Body<'a> {
    fn of(message: &'a ToDevice) -> Self {
        match message {
            ToDevice::Welcome(welcome) => Self::Welcome {
                stream: &welcome.stream,
                seq: welcome.seq,
                known: welcome.known,
                time: welcome.time,
                time_s: welcome.time_s,
                ping_interval: welcome.ping_interval,
                ping_timeout: welcome.ping_timeout,
                max_message: welcome.max_message,
                max_rate: welcome.max_rate,
                window: welcome.window,
            },
            ToDevice::Ack { seq } => Self::Ack { seq: *seq },
            ToDevice::Reject(reject) => Self::Reject {
                seq: reject.seq,
                code: reject.code.as_str(),
                detail: &reject.detail,
            },
            ToDevice::Note(note) => Self::Note {
                code: note.code.as_str(),
                detail: &note.detail,
                seq: note.seq,
            },
            ToDevice::Command {
                id,
                name,
                args,
                timeout,
                again,
            } => Self::Command {
                id,
                name,
                args: args.as_ref(),
                timeout: *timeout,
                again: *again,
            },
            ToDevice::Desired { map } => Self::Desired(map),
            ToDevice::ResultAck { id } => Self::ResultAck { result: id },
            ToDevice::ResultReject { id, code, detail } => Self::ResultReject {
                result: id,
                code: code.as_str(),
                detail,
            },
        }
    }
}
