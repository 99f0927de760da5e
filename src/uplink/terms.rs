//! What a broker has agreed to in its CONNACK, for one connection: nothing is carried over to the
//! next one, where what is absent means its default again.

use std::time::Duration;

use super::publication::MAX_PACKET;

/// Version of MQTT on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Version {
    /// 3.1.1: a broker cannot refuse a publish.
    V311,
    /// 5: it can.
    V5,
}

impl Version {
    /// As people write it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::V311 => "3.1.1",
            Self::V5 => "5",
        }
    }
}

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Terms {
    pub(super) version: Version,
    /// QoS 1 publishes that may be unacknowledged (Receive Maximum, MQTT 5 §3.2.2.3.3).
    pub(super) window: u16,
    /// Bytes of one packet to the broker (Maximum Packet Size, §3.2.2.3.6).
    pub(super) max_packet: usize,
    /// Retained messages are taken (Retain Available, §3.2.2.3.5).
    pub(super) retain: bool,
    /// Filters may have wildcards (Wildcard Subscription Available, §3.2.2.3.11).
    pub(super) wildcards: bool,
    /// Topic aliases that the broker takes (Topic Alias Maximum, §3.2.2.3.8).
    pub(super) aliases: u16,
    /// The highest QoS of a publish (Maximum QoS, §3.2.2.3.4); `None`: any.
    pub(super) max_qos: Option<u8>,
    /// The client id that the broker gave (Assigned Client Identifier, §3.2.2.3.7).
    pub(super) client_id: Option<String>,
    /// The longest silence (Server Keep Alive, §3.2.2.3.14); `None`: what the hub asked for.
    pub(super) keep_alive: Option<Duration>,
}

impl Terms {
    /// What holds when CONNACK says nothing.
    pub(super) fn of(version: Version) -> Self {
        Self {
            version,
            window: u16::MAX,
            max_packet: MAX_PACKET,
            retain: true,
            wildcards: true,
            aliases: 0,
            max_qos: None,
            client_id: None,
            keep_alive: None,
        }
    }
}

/// What a failed attempt says about the version of MQTT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing.
    Open,
    /// CONNACK says that the broker does not speak it.
    Unsupported,
    /// The broker hung up on CONNECT.
    HungUp,
}
