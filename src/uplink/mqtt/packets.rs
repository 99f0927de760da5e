//! The packets to the broker that are not publishes, by rumqttc's codec.

use bytes::BytesMut;
use rumqttc::QoS;
use rumqttc::mqttbytes::v4;
use rumqttc::v5::mqttbytes::{QoS as QoS5, v5};

use crate::uplink::publication::Publication;
use crate::uplink::terms::Version;
use crate::uplink::transport::{Retained, Subscription};

/// Messages with QoS 1 that the broker may send before the first is acknowledged (Receive Maximum,
/// MQTT 5 §3.1.2.11.3). The hub acknowledges them as it reads; this bounds what a burst piles up.
const RECEIVE_MAXIMUM: u16 = 64;

/// What stands in a CONNECT.
#[derive(Debug)]
pub(super) struct Hello<'a> {
    pub(super) client_id: &'a str,
    /// Seconds.
    pub(super) keep_alive: u16,
    pub(super) login: Option<(&'a str, String)>,
    pub(super) will: Option<&'a Publication>,
    /// The session outlives the connection.
    pub(super) keeps: bool,
    /// Bytes of the largest packet that is taken, in MQTT 5.
    pub(super) max_packet: usize,
}

/// Seconds that a broker keeps a session that outlives its connection.
const KEPT_FOR: u32 = 7 * 24 * 3600;

/// CONNECT: a session that ends with the connection or does not, and the last will.
pub(super) fn connect(version: Version, hello: Hello<'_>) -> Result<BytesMut, String> {
    let will = hello
        .will
        .map(|will| (will.topic.clone(), will.payload.clone(), will.retain));
    let mut out = BytesMut::with_capacity(512);
    let written = match version {
        Version::V311 => {
            let mut connect = v4::Connect::new(hello.client_id);
            connect.keep_alive = hello.keep_alive;
            connect.clean_session = !hello.keeps;
            connect.last_will = will.map(|(topic, payload, retain)| {
                v4::LastWill::new(topic, payload, QoS::AtLeastOnce, retain)
            });
            connect.login = hello.login.map(|(name, word)| v4::Login::new(name, word));
            let packet = v4::Packet::Connect(connect);
            packet
                .write(&mut out, usize::MAX)
                .map_err(|error| error.to_string())
        }
        Version::V5 => {
            let properties = v5::ConnectProperties {
                session_expiry_interval: Some(if hello.keeps { KEPT_FOR } else { 0 }),
                receive_maximum: Some(RECEIVE_MAXIMUM),
                max_packet_size: u32::try_from(hello.max_packet).ok(),
                ..v5::ConnectProperties::new()
            };
            let connect = v5::Connect {
                keep_alive: hello.keep_alive,
                client_id: hello.client_id.to_owned(),
                clean_start: !hello.keeps,
                properties: Some(properties),
            };
            let will = will.map(|(topic, payload, retain)| {
                v5::LastWill::new(topic, payload, QoS5::AtLeastOnce, retain, None)
            });
            let login = hello.login.map(|(name, word)| v5::Login::new(name, word));
            let packet = v5::Packet::Connect(connect, will, login);
            packet
                .write(&mut out, None)
                .map_err(|error| error.to_string())
        }
    };
    written.map(|_| out)
}

/// Writes small packets to the end of a buffer.
#[derive(Debug)]
pub(super) struct Packets {
    version: Version,
    scratch: BytesMut,
}

impl Packets {
    pub(super) fn new(version: Version) -> Self {
        Self {
            version,
            scratch: BytesMut::with_capacity(256),
        }
    }

    fn put(&mut self, out: &mut Vec<u8>, v4: &v4::Packet, v5: &v5::Packet) {
        self.scratch.clear();
        // Neither has a limit here, and none of these packets can be too long.
        let written = match self.version {
            Version::V311 => v4.write(&mut self.scratch, usize::MAX).is_ok(),
            Version::V5 => v5.write(&mut self.scratch, None).is_ok(),
        };
        if written {
            out.extend_from_slice(&self.scratch);
        }
    }

    pub(super) fn subscribe(&mut self, out: &mut Vec<u8>, id: u16, subscription: &Subscription) {
        let (quality, quality5) = if subscription.at_least_once {
            (QoS::AtLeastOnce, QoS5::AtLeastOnce)
        } else {
            (QoS::AtMostOnce, QoS5::AtMostOnce)
        };
        let mut old = v4::Subscribe::new(&subscription.filter, quality);
        old.pkid = id;
        let mut filter = v5::Filter::new(&subscription.filter, quality5);
        filter.preserve_retain = subscription.as_published;
        filter.retain_forward_rule = match subscription.retained {
            Retained::Sent => v5::RetainForwardRule::OnEverySubscribe,
            Retained::NotSent => v5::RetainForwardRule::Never,
        };
        let mut new = v5::Subscribe::new(filter, None);
        new.pkid = id;
        self.put(
            out,
            &v4::Packet::Subscribe(old),
            &v5::Packet::Subscribe(new),
        );
    }

    pub(super) fn unsubscribe(&mut self, out: &mut Vec<u8>, id: u16, filter: &str) {
        let mut old = v4::Unsubscribe::new(filter);
        old.pkid = id;
        let mut new = v5::Unsubscribe::new(filter, None);
        new.pkid = id;
        self.put(
            out,
            &v4::Packet::Unsubscribe(old),
            &v5::Packet::Unsubscribe(new),
        );
    }

    pub(super) fn puback(&mut self, out: &mut Vec<u8>, id: u16) {
        let (old, new) = (v4::PubAck::new(id), v5::PubAck::new(id, None));
        self.put(out, &v4::Packet::PubAck(old), &v5::Packet::PubAck(new));
    }

    pub(super) fn ping(&mut self, out: &mut Vec<u8>) {
        self.put(out, &v4::Packet::PingReq, &v5::Packet::PingReq(v5::PingReq));
    }

    pub(super) fn disconnect(&mut self, out: &mut Vec<u8>) {
        let new = v5::Disconnect::new(v5::DisconnectReasonCode::NormalDisconnection);
        self.put(out, &v4::Packet::Disconnect, &v5::Packet::Disconnect(new));
    }
}
