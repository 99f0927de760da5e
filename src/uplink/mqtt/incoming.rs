//! What a packet of the broker says. The heads are read here, because the library refuses what
//! MQTT allows (a PUBACK 0x95 of mosquitto, a DISCONNECT without properties); the properties are
//! the library's. Nothing that a broker sends makes this panic.

use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::{Buf, Bytes};
use rumqttc::v5::mqttbytes::Error as PacketError;
use rumqttc::v5::mqttbytes::v5::{
    ConnAckProperties, DisconnectProperties, PubAckProperties, PublishProperties, SubAckProperties,
};

use crate::uplink::reasons::{ERRORS, SUCCESS, of_return_code};
use crate::uplink::terms::Version;
use crate::uplink::transport::Message;

const CONNACK: u8 = 2;
const PUBLISH: u8 = 3;
const PUBACK: u8 = 4;
const SUBACK: u8 = 9;
const UNSUBACK: u8 = 11;
const PINGRESP: u8 = 13;
const DISCONNECT: u8 = 14;

/// A packet of the broker.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Incoming {
    PubAck {
        id: u16,
        reason: u8,
        words: String,
    },
    SubAck {
        id: u16,
        reason: u8,
    },
    /// A message; its id, if it asks for a PUBACK.
    Message(Message, Option<u16>),
    /// One that cannot be read, or has QoS 2; its id, if it asks for a PUBACK.
    Unreadable(Option<u16>),
    /// Nothing but a sign of life.
    Alive,
    Disconnect {
        reason: u8,
        words: String,
        reference: String,
    },
}

/// A CONNACK.
#[derive(Debug)]
pub(super) struct Answer {
    /// By MQTT 5.
    pub(super) reason: u8,
    /// In the form of 3.1.1, which has two bytes.
    pub(super) old_form: bool,
    pub(super) properties: Option<ConnAckProperties>,
}

/// Reads a CONNACK (MQTT 3.1.1 §3.2, MQTT 5 §3.2). A broker that knows 3.1.1 alone answers in that
/// form whatever it was sent.
pub(super) fn connack(first: u8, mut body: Bytes, version: Version) -> Result<Answer, String> {
    if first != CONNACK << 4 {
        return Err("it did not answer CONNECT with CONNACK".to_owned());
    }
    let (Some(_flags), Some(code)) = (byte(&mut body), byte(&mut body)) else {
        return Err("its CONNACK is too short".to_owned());
    };
    if body.is_empty() {
        let old = version == Version::V311 || code < ERRORS;
        return Ok(Answer {
            reason: if old { of_return_code(code) } else { code },
            old_form: true,
            properties: None,
        });
    }
    if version == Version::V311 {
        return Err("its CONNACK is too long".to_owned());
    }
    let properties = guarded(&mut body, ConnAckProperties::read)?;
    Ok(Answer {
        reason: code,
        old_form: false,
        properties,
    })
}

/// Reads any other packet.
pub(super) fn read(version: Version, first: u8, mut body: Bytes) -> Result<Incoming, String> {
    match first >> 4 {
        PUBACK => puback(body, version),
        PUBLISH => Ok(message(version, first, body)),
        SUBACK => suback(body, version),
        UNSUBACK => match word(&mut body) {
            Some(_) => Ok(Incoming::Alive),
            None => Err("an UNSUBACK has no packet id".to_owned()),
        },
        PINGRESP if body.is_empty() => Ok(Incoming::Alive),
        DISCONNECT if version == Version::V5 => disconnect(body),
        kind => Err(format!(
            "it sent a packet of type {kind} that answers nothing"
        )),
    }
}

fn puback(mut body: Bytes, version: Version) -> Result<Incoming, String> {
    let id = word(&mut body).ok_or("a PUBACK has no packet id")?;
    if version == Version::V311 && !body.is_empty() {
        return Err("a PUBACK is too long".to_owned());
    }
    let reason = byte(&mut body).unwrap_or(SUCCESS);
    let mut words = String::new();
    if !body.is_empty() {
        let properties = guarded(&mut body, PubAckProperties::read)?;
        words = properties
            .and_then(|read| read.reason_string)
            .unwrap_or_default();
    }
    Ok(Incoming::PubAck { id, reason, words })
}

fn suback(mut body: Bytes, version: Version) -> Result<Incoming, String> {
    let id = word(&mut body).ok_or("a SUBACK has no packet id")?;
    if version == Version::V5 {
        guarded(&mut body, SubAckProperties::read)?;
    }
    // One filter was asked for.
    let reason = byte(&mut body).ok_or("a SUBACK has no reason")?;
    Ok(Incoming::SubAck { id, reason })
}

fn disconnect(mut body: Bytes) -> Result<Incoming, String> {
    let reason = byte(&mut body).unwrap_or(SUCCESS);
    let (mut words, mut reference) = Default::default();
    if !body.is_empty()
        && let Some(read) = guarded(&mut body, DisconnectProperties::extract)?
    {
        words = read.reason_string.unwrap_or_default();
        reference = read.server_reference.unwrap_or_default();
    }
    Ok(Incoming::Disconnect {
        reason,
        words,
        reference,
    })
}

/// A message (MQTT 3.1.1 §3.3, MQTT 5 §3.3). What is wrong with it costs nobody the connection.
fn message(version: Version, first: u8, mut body: Bytes) -> Incoming {
    let (retain, dup, quality) = (first & 1 != 0, first & 8 != 0, first >> 1 & 3);
    let Some(topic) = word(&mut body)
        .map(usize::from)
        .filter(|length| *length <= body.len())
    else {
        return Incoming::Unreadable(None);
    };
    let topic = body.split_to(topic);
    let id = match quality {
        0 => None,
        _ => word(&mut body).filter(|id| *id != 0),
    };
    let answer = id.filter(|_| quality == 1);
    // The hub never asks for QoS 2, and a message without an id cannot be acknowledged.
    if quality > 1 || quality == 1 && id.is_none() {
        return Incoming::Unreadable(answer);
    }
    let mut read = None;
    if version == Version::V5 {
        match guarded(&mut body, PublishProperties::read) {
            Ok(properties) => read = properties,
            Err(_) => return Incoming::Unreadable(answer),
        }
    }
    let Ok(topic) = String::from_utf8(topic.to_vec()) else {
        return Incoming::Unreadable(answer);
    };
    let read = read.unwrap_or_default();
    // The hub allows no topic aliases, so a topic cannot be missing.
    if topic.is_empty() || read.topic_alias.is_some() {
        return Incoming::Unreadable(answer);
    }
    let message = Message {
        topic,
        payload: body,
        retain,
        dup,
        id: None,
        response_topic: read.response_topic,
        correlation: read.correlation_data,
        expiry: read.message_expiry_interval,
    };
    Incoming::Message(message, answer)
}

fn byte(body: &mut Bytes) -> Option<u8> {
    (!body.is_empty()).then(|| body.get_u8())
}

fn word(body: &mut Bytes) -> Option<u16> {
    (body.len() >= 2).then(|| body.get_u16())
}

/// Has the library read properties, and only them: what lies behind is left in `body`.
fn guarded<T>(
    body: &mut Bytes,
    read: impl FnOnce(&mut Bytes) -> Result<T, PacketError>,
) -> Result<T, String> {
    let whole = properties_length(body).filter(|whole| *whole <= body.len());
    let mut properties = match whole {
        Some(whole) => body.split_to(whole),
        None => return Err("a packet has properties of no valid length".to_owned()),
    };
    match catch_unwind(AssertUnwindSafe(|| read(&mut properties))) {
        Ok(Ok(read)) => Ok(read),
        Ok(Err(error)) => Err(format!("a packet's properties are malformed: {error}")),
        Err(_) => Err("a packet's properties are malformed".to_owned()),
    }
}

/// Bytes of the properties, their length included.
fn properties_length(body: &[u8]) -> Option<usize> {
    let mut length = 0;
    for (at, byte) in body.iter().take(4).enumerate() {
        length |= usize::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            return Some(length + at + 1);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    fn body(bytes: &[u8]) -> Bytes {
        Bytes::copy_from_slice(bytes)
    }

    #[test]
    fn acknowledgements_have_their_reasons_in_every_form_that_mqtt_allows() {
        let ack = |version, bytes: &[u8]| read(version, 0x40, body(bytes));
        let plain = |reason, words: &str| {
            Ok(Incoming::PubAck {
                id: 7,
                reason,
                words: words.to_owned(),
            })
        };
        assert_eq!(ack(Version::V311, &[0, 7]), plain(0, ""));
        assert_eq!(ack(Version::V5, &[0, 7]), plain(0, ""));
        assert_eq!(ack(Version::V5, &[0, 7, 0x10]), plain(0x10, ""));
        // The library does not know this one, and mosquitto sends it.
        assert_eq!(ack(Version::V5, &[0, 7, 0x95]), plain(0x95, ""));
        assert_eq!(ack(Version::V5, &[0, 7, 0x87, 0]), plain(0x87, ""));
        let text = [0, 7, 0x97, 5, 0x1f, 0, 2, b'n', b'o'];
        assert_eq!(ack(Version::V5, &text), plain(0x97, "no"));
        for bad in [
            &[][..],
            &[0],
            &[0, 7, 0x87, 9, 0x1f],
            &[0, 7, 0x87, 2, 0x63, 0],
        ] {
            assert!(ack(Version::V5, bad).is_err(), "{bad:?}");
        }
        assert!(ack(Version::V311, &[0, 7, 0]).is_err());
    }

    #[test]
    fn a_disconnect_of_the_broker_says_why() {
        let end = |bytes: &[u8]| match read(Version::V5, 0xe0, body(bytes)).unwrap() {
            Incoming::Disconnect {
                reason,
                words,
                reference,
            } => (reason, words, reference),
            other => panic!("{other:?}"),
        };
        assert_eq!(end(&[]), (0, String::new(), String::new()));
        // As mosquitto sends it.
        assert_eq!(end(&[0x8e]).0, 0x8e);
        let moved = [0x9c, 8, 0x1c, 0, 5, b'o', b't', b'h', b'e', b'r'];
        assert_eq!(end(&moved), (0x9c, String::new(), "other".into()));
        assert!(read(Version::V311, 0xe0, body(&[])).is_err());
    }

    #[test]
    fn a_message_that_cannot_be_read_is_told_from_a_broken_connection() {
        let message = |version, first, bytes: &[u8]| read(version, first, body(bytes)).unwrap();
        let good = message(Version::V311, 0x3b, &[0, 1, b't', 0, 9, b'p']);
        let Incoming::Message(good, Some(9)) = good else {
            panic!("{good:?}");
        };
        assert_eq!((good.topic.as_str(), &good.payload[..]), ("t", &b"p"[..]));
        assert!(good.retain && good.dup);
        for (first, bytes, id) in [
            (0x30, &[0, 9, b't'][..], None),
            (0x30, &[0, 0], None),
            (0x30, &[0, 1, 0xff], None),
            (0x32, &[0, 1, b't', 0, 0], None),
            (0x32, &[0, 1, 0xff, 0, 9], Some(9)),
            (0x34, &[0, 1, b't', 0, 9], None),
            (0x36, &[0, 1, b't', 0, 9], None),
        ] {
            let read = message(Version::V311, first, bytes);
            assert_eq!(read, Incoming::Unreadable(id), "{bytes:?}");
        }
        // A property that reaches into the payload, and one that is none.
        for bytes in [
            &[0, 1, b't', 0, 9, 2, 2, 0, 0, 0, 1][..],
            &[0, 1, b't', 0, 9, 1, 0x7f],
        ] {
            let read = message(Version::V5, 0x32, bytes);
            assert_eq!(read, Incoming::Unreadable(Some(9)), "{bytes:?}");
        }
    }

    #[test]
    fn a_connack_of_the_old_form_is_understood_whatever_was_asked() {
        let old = connack(0x20, body(&[0, 1]), Version::V5).unwrap();
        assert_eq!((old.reason, old.old_form), (0x84, true));
        let new = connack(0x20, body(&[0, 0, 3, 0x21, 0, 10]), Version::V5).unwrap();
        assert_eq!((new.reason, new.old_form), (0, false));
        assert_eq!(new.properties.unwrap().receive_max, Some(10));
        for bad in [&[][..], &[0], &[0, 0, 9]] {
            assert!(connack(0x20, body(bad), Version::V5).is_err());
        }
        assert!(connack(0x40, body(&[0, 0]), Version::V5).is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]

        /// It is read in the uplink's own task: a panic there would end the uplink.
        #[test]
        fn no_bytes_of_a_broker_make_it_panic(
            first in any::<u8>(),
            bytes in prop::collection::vec(any::<u8>(), 0..60),
            id in prop::sample::select(vec![0_u8, 1, 2, 3, 8, 9, 11, 17, 18, 21, 22, 28, 31, 33, 35, 38, 39]),
        ) {
            for version in [Version::V311, Version::V5] {
                let _ = read(version, first, body(&bytes));
                let _ = connack(0x20, body(&bytes), version);
                // With a property where there may be one.
                let mut with = vec![0, 1, 0, bytes.len().min(100) as u8, id];
                with.extend_from_slice(&bytes);
                for first in [0x30, 0x40, 0x90, 0xb0, 0xe0] {
                    let _ = read(version, first, body(&with));
                    let _ = read(version, first, body(&with[2..]));
                }
                let _ = connack(0x20, body(&with[1..]), version);
            }
        }
    }
}
