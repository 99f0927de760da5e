//! Takes packs apart as a consumer would who has never seen the hub's code: by a zstd decoder and a
//! reader of CBOR that are not the hub's.
#![allow(dead_code, clippy::unwrap_used, missing_docs, unreachable_pub)]

use std::io::Read;

use serde::Deserialize;

/// Kind, device and payload of each item.
pub fn unpack(payload: &[u8]) -> Vec<(String, String, Vec<u8>)> {
    assert_eq!(payload[0], 1, "the form of a pack");
    let mut frame = &payload[1..];
    let mut sequence = Vec::new();
    ruzstd::decoding::StreamingDecoder::new(&mut frame)
        .unwrap()
        .read_to_end(&mut sequence)
        .unwrap();
    assert!(frame.is_empty(), "something stands behind the frame");
    let mut items = Vec::new();
    let mut reader = serde_cbor::Deserializer::from_slice(&sequence);
    let mut left = sequence.len();
    while left > 0 {
        let before = reader.byte_offset();
        let (kind, device, payload): (String, String, Bytes) =
            Deserialize::deserialize(&mut reader).unwrap();
        left -= reader.byte_offset() - before;
        items.push((kind, device, payload.0));
    }
    items
}

struct Bytes(Vec<u8>);

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match serde_cbor::Value::deserialize(deserializer)? {
            serde_cbor::Value::Bytes(bytes) => Ok(Self(bytes)),
            other => panic!("a payload that is no byte string: {other:?}"),
        }
    }
}
