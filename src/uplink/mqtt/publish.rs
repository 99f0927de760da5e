//! A PUBLISH written in its place: header, topic, id and properties, then the payload right behind
//! them, and last the length, which is known only then (MQTT 3.1.1 §3.3, MQTT 5 §3.3).

use crate::uplink::publication::{Head, Properties};
use crate::uplink::terms::{Terms, Version};

/// PUBLISH with QoS 1.
const PUBLISH: u8 = 0x32;
const RETAIN: u8 = 1;

/// Bytes that are kept free for the length. Nearly all packets need two.
const LENGTH: usize = 2;

const MESSAGE_EXPIRY: u8 = 2;
const CONTENT_TYPE: u8 = 3;
const CORRELATION_DATA: u8 = 9;
const USER_PROPERTY: u8 = 38;

/// Appends a packet to `out` and tells its size. An error says why it cannot be published, and
/// leaves `out` as it was.
pub(super) fn append(
    out: &mut Vec<u8>,
    terms: &Terms,
    id: u16,
    head: &Head<'_>,
    write: impl FnOnce(&mut Vec<u8>) -> Result<(), String>,
) -> Result<usize, String> {
    let start = out.len();
    let done = assemble(out, terms, id, head, write, start);
    if done.is_err() {
        out.truncate(start);
    }
    done
}

fn assemble(
    out: &mut Vec<u8>,
    terms: &Terms,
    id: u16,
    head: &Head<'_>,
    write: impl FnOnce(&mut Vec<u8>) -> Result<(), String>,
    start: usize,
) -> Result<usize, String> {
    let topic: usize = head.topic.iter().map(|part| part.len()).sum();
    let topic = u16::try_from(topic)
        .ok()
        .filter(|_| {
            !head
                .topic
                .iter()
                .any(|part| part.contains(['+', '#', '\0']))
        })
        .ok_or("its topic is not one that MQTT allows")?;
    let retain = head.retain && terms.retain;
    out.extend_from_slice(&[PUBLISH | if retain { RETAIN } else { 0 }, 0, 0]);
    out.extend_from_slice(&topic.to_be_bytes());
    for part in head.topic {
        out.extend_from_slice(part.as_bytes());
    }
    out.extend_from_slice(&id.to_be_bytes());
    if terms.version == Version::V5 {
        properties(out, head.properties)?;
    }
    write(out)?;
    close(out, start);
    let size = out.len() - start;
    if size > terms.max_packet {
        return Err(format!(
            "it makes a packet of {size} bytes, the limit is {}",
            terms.max_packet
        ));
    }
    Ok(size)
}

/// Writes the length of what follows the fixed header.
fn close(out: &mut Vec<u8>, start: usize) {
    let rest = out.len() - start - 1 - LENGTH;
    let (bytes, count) = variable(rest);
    if count == LENGTH {
        out[start + 1..=start + LENGTH].copy_from_slice(&bytes[..LENGTH]);
    } else {
        out.splice(start + 1..=start + LENGTH, bytes[..count].iter().copied());
    }
}

/// A variable byte integer, and how many bytes it has.
fn variable(mut value: usize) -> ([u8; 4], usize) {
    let mut bytes = [0; 4];
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = (value & 0x7f) as u8;
        value >>= 7;
        if value == 0 {
            return (bytes, at + 1);
        }
        *byte |= 0x80;
    }
    (bytes, bytes.len())
}

fn properties(out: &mut Vec<u8>, properties: Option<&Properties>) -> Result<(), String> {
    let Some(properties) = properties else {
        out.push(0);
        return Ok(());
    };
    let mut list = Vec::new();
    if let Some(seconds) = properties.expiry {
        list.push(MESSAGE_EXPIRY);
        list.extend_from_slice(&seconds.to_be_bytes());
    }
    if let Some(kind) = properties.content_type {
        list.push(CONTENT_TYPE);
        text(&mut list, kind.as_bytes())?;
    }
    if let Some(data) = &properties.correlation {
        list.push(CORRELATION_DATA);
        text(&mut list, data)?;
    }
    for (name, value) in &properties.user {
        list.push(USER_PROPERTY);
        text(&mut list, name.as_bytes())?;
        text(&mut list, value.as_bytes())?;
    }
    let (bytes, count) = variable(list.len());
    out.extend_from_slice(&bytes[..count]);
    out.extend_from_slice(&list);
    Ok(())
}

fn text(list: &mut Vec<u8>, text: &[u8]) -> Result<(), String> {
    let length = u16::try_from(text.len()).map_err(|_| "a property of it is too long")?;
    list.extend_from_slice(&length.to_be_bytes());
    list.extend_from_slice(text);
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use bytes::{Bytes, BytesMut};
    use proptest::prelude::*;
    use rumqttc::QoS;
    use rumqttc::v5::mqttbytes::v5;

    use super::*;

    fn head(retain: bool, properties: Option<&Properties>) -> Head<'_> {
        Head {
            topic: ["farm/barn/", "cow", "/data", ""],
            retain,
            properties,
        }
    }

    fn written(terms: &Terms, head: &Head<'_>, payload: &[u8]) -> Result<BytesMut, String> {
        // Something is in the buffer already.
        let mut out = vec![0xc0, 0];
        let size = append(&mut out, terms, 7, head, |out| {
            out.extend_from_slice(payload);
            Ok(())
        });
        if size.is_err() {
            assert_eq!(out, [0xc0, 0]);
        }
        assert_eq!(size.as_ref().map_or(2, |size| size + 2), out.len());
        size.map(|_| BytesMut::from(&out[2..]))
    }

    proptest! {
        /// The library reads what is written here, in both versions, at every length of length.
        #[test]
        fn what_is_written_in_place_is_what_the_library_reads(
            length in prop::sample::select(vec![0_usize, 1, 90, 110, 16_000, 16_400, 70_000, 2_097_200]),
            retain in any::<bool>(),
            user in prop::collection::vec(("[a-z]{1,9}", "\\PC{0,20}"), 0..3),
            expiry in prop::option::of(any::<u32>()),
        ) {
            let payload = vec![b'x'; length];
            let mut terms = Terms::of(Version::V311);
            terms.max_packet = usize::MAX;
            let mut bytes = written(&terms, &head(retain, None), &payload).unwrap();
            match rumqttc::Packet::read(&mut bytes, usize::MAX).unwrap() {
                rumqttc::Packet::Publish(publish) => {
                    prop_assert_eq!(&publish.topic, "farm/barn/cow/data");
                    prop_assert_eq!((publish.pkid, publish.retain, publish.qos), (7, retain, QoS::AtLeastOnce));
                    prop_assert_eq!(&publish.payload[..], &payload[..]);
                }
                other => prop_assert!(false, "{other:?}"),
            }
            prop_assert!(bytes.is_empty());
            terms.version = Version::V5;
            let properties = Properties {
                content_type: Some("application/senml+json"),
                expiry,
                correlation: Some(Bytes::from_static(b"\0\xff")),
                user: user.iter().map(|(name, value)| (name.clone().into(), value.clone())).collect(),
            };
            let mut bytes = written(&terms, &head(retain, Some(&properties)), &payload).unwrap();
            match v5::Packet::read(&mut bytes, None).unwrap() {
                v5::Packet::Publish(publish) => {
                    prop_assert_eq!(&publish.topic[..], b"farm/barn/cow/data");
                    prop_assert_eq!(&publish.payload[..], &payload[..]);
                    let read = publish.properties.unwrap();
                    prop_assert_eq!(read.message_expiry_interval, expiry);
                    prop_assert_eq!(read.content_type.as_deref(), properties.content_type);
                    prop_assert_eq!(read.user_properties, user);
                    prop_assert_eq!(read.correlation_data, properties.correlation);
                }
                other => prop_assert!(false, "{other:?}"),
            }
            prop_assert!(bytes.is_empty());
        }
    }

    #[test]
    fn what_is_larger_than_the_broker_takes_is_not_written() {
        let mut terms = Terms::of(Version::V5);
        terms.max_packet = 100;
        let error = written(&terms, &head(false, None), &[b'x'; 100]).unwrap_err();
        assert!(error.contains("the limit is 100"), "{error}");
        assert!(written(&terms, &head(false, None), &[b'x'; 50]).is_ok());
    }

    #[test]
    fn statuses_are_not_retained_where_the_broker_cannot() {
        let mut terms = Terms::of(Version::V5);
        terms.retain = false;
        assert_eq!(written(&terms, &head(true, None), b"x").unwrap()[0], 0x32);
        terms.retain = true;
        assert_eq!(written(&terms, &head(true, None), b"x").unwrap()[0], 0x33);
    }

    #[test]
    fn what_cannot_be_written_leaves_nothing_behind() {
        let mut out = Vec::new();
        let failed = append(
            &mut out,
            &Terms::of(Version::V311),
            1,
            &head(false, None),
            |out| {
                out.extend_from_slice(b"half");
                Err("the frame does not decode".to_owned())
            },
        );
        assert_eq!(
            (failed.unwrap_err().as_str(), out.len()),
            ("the frame does not decode", 0)
        );
        for part in ["a/+", "#", "\0"] {
            let head = Head {
                topic: ["x", part, "y", ""],
                retain: false,
                properties: None,
            };
            assert!(append(&mut out, &Terms::of(Version::V5), 1, &head, |_| Ok(())).is_err());
        }
    }
}
