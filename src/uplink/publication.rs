//! What is published, and where: topic and payload of items and states.

use serde::Serialize;

use crate::clock;
use crate::config::{Format, is_id};
use crate::protocol::limits::MAX_RESOLVED;
use crate::protocol::payload::{self, PayloadError};
use crate::reading::{Batch, Doubt, Item, Lane, Moment};
use crate::status::presence::Presence;

/// Bytes of one MQTT packet. Twice what a pack may resolve to in its longest encoding
/// ([`MAX_RESOLVED`]): envelope and topic, at most 64 KiB, come on top.
pub(super) const MAX_PACKET: usize = 2 * MAX_RESOLVED;

/// Bytes of a PUBLISH beside topic and payload: type, length (4), length of the topic, packet id.
const PACKET_OVERHEAD: usize = 9;

/// Topic and payload, ready to go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Publication {
    pub(super) topic: String,
    pub(super) payload: Vec<u8>,
    pub(super) retain: bool,
}

/// Payload of `{prefix}/{hub}/status`.
#[derive(Debug, Serialize)]
struct HubStatus<'a> {
    state: &'a str,
    since: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    clock: Option<Doubt>,
    version: &'a str,
}

/// Payload of `{prefix}/{hub}/{device}/status`.
#[derive(Debug, Serialize)]
struct DeviceStatus<'a> {
    state: &'a str,
    since: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    clock: Option<Doubt>,
    reason: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    firmware: Option<&'a str>,
}

/// The moment as it is known now, and the word for it if that is not well.
fn known(then: Moment) -> (f64, Option<Doubt>) {
    let then = clock::corrected(then);
    (then.wall, then.doubt())
}

/// Makes publications for one hub.
#[derive(Debug)]
pub(super) struct Publisher {
    /// `{prefix}/{hub}/`
    root: String,
    format: Format,
    version: String,
}

/// Why a batch cannot be published, without the details: they may repeat what the device sent.
fn why(error: &PayloadError) -> &'static str {
    match error {
        PayloadError::Frame(_) => "the frame does not decode",
        PayloadError::NoPack => "the frame holds no pack",
        PayloadError::NoReading => "the pack has no record with a value",
        PayloadError::Pack(_) => "the pack does not resolve",
    }
}

impl Publisher {
    pub(super) fn new(prefix: &str, hub: &str, format: Format, version: &str) -> Self {
        Self {
            root: format!("{prefix}/{hub}/"),
            format,
            version: version.to_owned(),
        }
    }

    /// An item. The error is one sentence that says why it can never be published.
    pub(super) fn item(&self, item: &Item, lane: Lane) -> Result<Publication, String> {
        let (device, level, payload) = match item {
            Item::Batch(batch) => {
                let level = match lane {
                    Lane::Live => "data",
                    Lane::History => "history",
                };
                let payload = if batch.received.synced {
                    payload::encode_batch(batch, self.format)
                } else {
                    // It may have become known meanwhile what the time was.
                    let received = clock::corrected(batch.received);
                    let batch = Batch {
                        received,
                        ..batch.clone()
                    };
                    // Of an earlier boot nobody knows how long ago it was.
                    let waited = received.age(&clock::now()).unwrap_or(0.0);
                    payload::encode_batch_after(&batch, self.format, waited)
                };
                (
                    &batch.device,
                    level,
                    payload.map_err(|error| why(&error).to_owned())?,
                )
            }
            Item::Gap(gap) => (&gap.device, "gap", payload::encode_gap(gap, self.format)),
        };
        let topic = self.topic(device, level);
        check(&topic, payload.len())?;
        Ok(Publication {
            topic,
            payload,
            retain: false,
        })
    }

    /// A device's state.
    pub(super) fn device_status(&self, device: &str, presence: &Presence) -> Publication {
        let (since, clock) = known(presence.since);
        let status = DeviceStatus {
            state: presence.state,
            since,
            clock,
            reason: &presence.reason,
            model: presence.model.as_deref(),
            firmware: presence.firmware.as_deref(),
        };
        self.retained(self.topic(device, "status"), &status)
    }

    /// Matches the states of all devices, and not the hub's own.
    pub(super) fn status_filter(&self) -> String {
        self.topic("+", "status")
    }

    /// The device whose state stands at this topic.
    pub(super) fn device_of<'a>(&self, status_topic: &'a str) -> Option<&'a str> {
        status_topic
            .strip_prefix(&self.root)?
            .strip_suffix("/status")
            .filter(|device| is_id(device))
    }

    /// The hub's own state.
    pub(super) fn hub_status(&self, state: &str, since: Moment) -> Publication {
        let (since, clock) = known(since);
        let status = HubStatus {
            state,
            since,
            clock,
            version: &self.version,
        };
        self.retained(format!("{}status", self.root), &status)
    }

    fn topic(&self, device: &str, level: &str) -> String {
        let mut topic = String::with_capacity(self.root.len() + device.len() + 1 + level.len());
        for part in [&self.root, device, "/", level] {
            topic.push_str(part);
        }
        topic
    }

    fn retained(&self, topic: String, status: &impl Serialize) -> Publication {
        let payload = serde_json::to_vec(status).expect("a struct of texts and numbers is JSON");
        Publication {
            topic,
            payload,
            retain: true,
        }
    }
}

/// Whether MQTT and the library take it: an oversized or invalid publish would end the connection
/// each time that it is tried.
fn check(topic: &str, payload: usize) -> Result<(), String> {
    if topic.contains(['+', '#', '\0']) || topic.len() > usize::from(u16::MAX) {
        return Err("its topic is not one that MQTT allows".to_owned());
    }
    let size = PACKET_OVERHEAD + topic.len() + payload;
    if size > MAX_PACKET {
        return Err(format!(
            "it makes a packet of {size} bytes, the limit is {MAX_PACKET}"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Arc;

    use bytes::Bytes;
    use serde_json::{Value, json};

    use super::*;
    use crate::reading::{Encoding, Gap, GapReason};

    fn publisher(format: Format) -> Publisher {
        Publisher::new("farm/telehub", "barn", format, "1.2.3")
    }

    fn batch() -> Batch {
        Batch {
            device: Arc::from("cow"),
            stream: Arc::from("a"),
            seq: Some(3),
            received: Moment::at(1_700_000_000.0),
            readings: 1,
            encoding: Encoding::Json,
            frame: Bytes::from_static(br#"[{"n":"t","v":21.5}]"#),
        }
    }

    #[test]
    fn lane_and_kind_decide_the_topic() {
        let publisher = publisher(Format::Json);
        let batch = Item::Batch(batch());
        let live = publisher.item(&batch, Lane::Live).unwrap();
        let history = publisher.item(&batch, Lane::History).unwrap();
        assert_eq!(live.topic, "farm/telehub/barn/cow/data");
        assert_eq!(history.topic, "farm/telehub/barn/cow/history");
        assert_eq!(live.payload, history.payload);
        let Item::Batch(inner) = batch else {
            unreachable!()
        };
        let gap = Item::Gap(Gap::of(&inner, GapReason::TooLarge, 5.0));
        for lane in [Lane::Live, Lane::History] {
            let gap = publisher.item(&gap, lane).unwrap();
            assert_eq!(gap.topic, "farm/telehub/barn/cow/gap");
            let said: Value = serde_json::from_slice(&gap.payload).unwrap();
            assert_eq!(said["reason"], "too-large");
        }
    }

    #[test]
    fn only_states_are_retained() {
        let publisher = publisher(Format::Cbor);
        assert!(
            !publisher
                .item(&Item::Batch(batch()), Lane::Live)
                .unwrap()
                .retain
        );
        let hub = publisher.hub_status("online", Moment::at(7.5));
        assert!(hub.retain);
        assert_eq!(hub.topic, "farm/telehub/barn/status");
        let said: Value = serde_json::from_slice(&hub.payload).unwrap();
        assert_eq!(
            said,
            json!({"state": "online", "since": 7.5, "version": "1.2.3"})
        );
        let presence = Presence {
            state: "offline",
            since: Moment::at(2.0),
            reason: "ping timeout".into(),
            model: Some("T1".into()),
            firmware: None,
        };
        let device = publisher.device_status("cow", &presence);
        assert!(device.retain);
        assert_eq!(device.topic, "farm/telehub/barn/cow/status");
        let said: Value = serde_json::from_slice(&device.payload).unwrap();
        let expected = json!(
            {"state": "offline", "since": 2.0, "reason": "ping timeout", "model": "T1"});
        assert_eq!(said, expected);
    }

    #[test]
    fn a_status_topic_names_its_device() {
        let publisher = publisher(Format::Json);
        assert_eq!(publisher.status_filter(), "farm/telehub/barn/+/status");
        let of = |topic| publisher.device_of(topic);
        assert_eq!(of("farm/telehub/barn/cow/status"), Some("cow"));
        for other in [
            "farm/telehub/barn/status",
            "farm/telehub/barn/a/b/status",
            "x",
            "",
        ] {
            assert_eq!(of(other), None, "{other}");
        }
    }

    #[test]
    fn a_frame_that_no_longer_decodes_is_an_error_and_not_a_panic() {
        let broken = Batch {
            frame: Bytes::from_static(b"[{\"n\":"),
            ..batch()
        };
        let error = publisher(Format::Json).item(&Item::Batch(broken), Lane::History);
        assert!(error.unwrap_err().contains("does not decode"));
    }

    #[test]
    fn what_mqtt_or_the_library_would_choke_on_is_refused() {
        assert!(check("a/b", 1000).is_ok());
        assert!(check("a/b", MAX_PACKET - PACKET_OVERHEAD - 3).is_ok());
        assert!(check("a/b", MAX_PACKET - PACKET_OVERHEAD - 2).is_err());
        assert!(check(&"x".repeat(65_535), 0).is_ok());
        assert!(check(&"x".repeat(65_536), 0).is_err());
        for topic in ["a/+/b", "a/#", "a\0b"] {
            assert!(check(topic, 0).is_err(), "{topic}");
        }
    }
}
