//! Final answers to commands as bytes: whole, one after the other.
//!
//! ```text
//! count u32, then each: device · name · flags u8 · [topic] · [Correlation Data] · made: wall f64 ·
//! uptime f64 · boot id 16 · payload          (texts and bytes with their length before them)
//! ```

use bytes::Bytes;

use super::wire::{Damage, Reader, Writer};
use crate::reading::{Boot, Encoding, Moment, Reply};

const HAS_TOPIC: u8 = 1;
const HAS_CORRELATION: u8 = 2;
const IS_JSON: u8 = 4;
const SYNCED: u8 = 8;

pub(super) fn encode(replies: &[&Reply], writer: &mut Writer) {
    writer.len(replies.len());
    for reply in replies {
        writer.bytes(reply.device.as_bytes());
        writer.bytes(reply.name.as_bytes());
        let flags = [
            (HAS_TOPIC, reply.topic.is_some()),
            (HAS_CORRELATION, reply.correlation.is_some()),
            (IS_JSON, reply.encoding == Encoding::Json),
            (SYNCED, reply.made.synced),
        ];
        let set = flags.iter().filter(|(_, set)| *set);
        writer.u8(set.fold(0, |flags, (flag, _)| flags | flag));
        if let Some(topic) = &reply.topic {
            writer.bytes(topic.as_bytes());
        }
        if let Some(correlation) = &reply.correlation {
            writer.bytes(correlation);
        }
        writer.f64(reply.made.wall);
        writer.f64(reply.made.uptime);
        writer.0.extend_from_slice(&reply.made.boot.bytes());
        writer.bytes(&reply.payload);
    }
}

pub(super) fn decode(reader: &mut Reader<'_>) -> Result<Vec<Reply>, Damage> {
    let mut replies = Vec::new();
    for _ in 0..reader.len()? {
        let (device, name) = (reader.text()?, reader.text()?);
        let flags = reader.u8()?;
        let has = |flag| flags & flag != 0;
        replies.push(Reply {
            device,
            name,
            topic: has(HAS_TOPIC).then(|| reader.text()).transpose()?,
            correlation: has(HAS_CORRELATION)
                .then(|| reader.bytes().map(Bytes::copy_from_slice))
                .transpose()?,
            encoding: if has(IS_JSON) {
                Encoding::Json
            } else {
                Encoding::Cbor
            },
            made: Moment {
                wall: reader.f64()?,
                uptime: reader.f64()?,
                boot: Boot::from_bytes(reader.array()?),
                synced: has(SYNCED),
            },
            payload: Bytes::copy_from_slice(reader.bytes()?),
        });
    }
    Ok(replies)
}
