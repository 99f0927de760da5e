//! What is published, and where: topic and payload of items and states.

use std::borrow::Cow;

use bytes::Bytes;
use serde::Serialize;

use super::topic::{escape, escape_dots, unescape_dots};
use crate::clock;
use crate::commands::desired::Report;
use crate::config::{Format, TopicDots, is_id};
use crate::packed;
use crate::protocol::limits::MAX_RESOLVED;
use crate::protocol::payload::{self, PayloadError};
use crate::reading::{Batch, Doubt, Encoding, Item, Lane, Moment, Reply};
use crate::status::presence::Presence;

/// Bytes of one MQTT packet. Twice what a pack may resolve to in its longest encoding
/// ([`MAX_RESOLVED`]): envelope and topic, at most 64 KiB, come on top.
pub(super) const MAX_PACKET: usize = 2 * MAX_RESOLVED;

/// Properties of a PUBLISH in MQTT 5 (§3.3.2.3). In 3.1.1 they are lost.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Properties {
    pub(super) content_type: Option<&'static str>,
    /// Seconds.
    pub(super) expiry: Option<u32>,
    pub(super) correlation: Option<Bytes>,
    pub(super) user: Vec<(Cow<'static, str>, String)>,
}

/// A PUBLISH without its payload.
#[derive(Debug, Clone, Copy)]
pub(super) struct Head<'a> {
    /// The topic in parts: most are put together of what stands elsewhere.
    pub(super) topic: [&'a str; 4],
    pub(super) retain: bool,
    pub(super) properties: Option<&'a Properties>,
}

/// Topic and payload, ready to go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Publication {
    pub(super) topic: String,
    pub(super) payload: Vec<u8>,
    pub(super) retain: bool,
}

impl Publication {
    pub(super) fn head(&self) -> Head<'_> {
        Head {
            topic: [&self.topic, "", "", ""],
            retain: self.retain,
            properties: None,
        }
    }
}

/// Payload of `{prefix}/{hub}/status`.
#[derive(Debug, Serialize)]
struct HubStatus<'a> {
    state: &'a str,
    since: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    clock: Option<Doubt>,
    version: &'a str,
    /// Whether the hub takes commands for devices.
    commands: bool,
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

/// The device of the probe.
const PROBE: &str = "_probe";

/// Payload of the probe.
#[derive(Debug, Serialize)]
struct Empty<'a> {
    device: &'a str,
    stream: &'a str,
    seq: Option<u64>,
    received: f64,
    pack: [u8; 0],
}

/// The moment as it is known now, and the word for it if that is not well.
fn known(then: Moment) -> (f64, Option<Doubt>) {
    let then = clock::corrected(then);
    (then.wall, then.doubt())
}

/// Makes publications for one hub.
#[derive(Debug)]
pub(super) struct Publisher {
    /// `{prefix}/{hub}/` as in topics.
    root: String,
    prefix: String,
    /// Dots are escaped.
    dots: bool,
    hub: String,
    format: Format,
    version: String,
    max_payload: usize,
    /// The hub takes commands.
    commands: bool,
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
    pub(super) fn new(
        prefix: &str,
        hub: &str,
        format: Format,
        version: &str,
        max_payload: usize,
        commands: bool,
    ) -> Self {
        Self {
            dots: false,
            prefix: prefix.to_owned(),
            max_payload,
            commands,
            root: format!("{prefix}/{hub}/"),
            hub: hub.to_owned(),
            format,
            version: version.to_owned(),
        }
    }

    /// The same with dots in ids and names escaped, or not.
    pub(super) fn with_dots(mut self, dots: TopicDots) -> Self {
        self.dots = dots == TopicDots::Escape;
        let hub = self.level(&self.hub);
        self.root = format!("{}/{hub}/", self.prefix);
        self
    }

    /// An id as a topic level.
    fn level<'t>(&self, id: &'t str) -> Cow<'t, str> {
        match self.dots {
            true => escape_dots(id),
            false => Cow::Borrowed(id),
        }
    }

    /// A topic below the hub's as it would be without escapes.
    pub(super) fn unescaped<'t>(&self, topic: &'t str) -> Cow<'t, str> {
        match topic.strip_prefix(&self.root) {
            Some(rest) if self.dots => {
                let rest = unescape_dots(rest);
                Cow::Owned(format!("{}/{}/{rest}", self.prefix, self.hub))
            }
            _ => Cow::Borrowed(topic),
        }
    }

    /// Where an item is published. `room`: for an id that has to be escaped.
    pub(super) fn head<'a>(&'a self, item: &'a Item, lane: Lane, room: &'a mut String) -> Head<'a> {
        let (device, level) = match (item, lane) {
            (Item::Batch(batch), Lane::Live) => (&batch.device, "/data"),
            (Item::Batch(batch), Lane::History) => (&batch.device, "/history"),
            (Item::Gap(gap), _) => (&gap.device, "/gap"),
            (Item::Reply(reply), _) => return self.reply_head(reply, room),
        };
        let mut device: &str = device;
        if self.dots && device.contains('.') {
            *room = escape_dots(device).into_owned();
            device = room;
        }
        Head {
            topic: [&self.root, device, level, ""],
            retain: false,
            properties: None,
        }
    }

    /// The same as one text.
    pub(super) fn topic_of(&self, item: &Item, lane: Lane) -> String {
        self.head(item, lane, &mut String::new()).topic.concat()
    }

    /// What MQTT 5 carries beside the payload: in the SenML formats, which have no place of their
    /// own for it, everything that a duplicate is recognised by.
    pub(super) fn properties(&self, item: &Item) -> Option<Properties> {
        if let Item::Reply(reply) = item {
            return Some(Self::reply_properties(reply));
        }
        let content_type = match self.format {
            Format::Json | Format::Cbor | Format::Influx => return None,
            Format::SenmlJson => "application/senml+json",
            Format::SenmlCbor => "application/senml+cbor",
        };
        let Item::Batch(batch) = item else {
            return None;
        };
        let mut user = vec![("stream".into(), batch.stream.to_string())];
        if let Some(seq) = batch.seq {
            user.push(("seq".into(), seq.to_string()));
        }
        let corrected = Batch {
            received: clock::corrected(batch.received),
            ..batch.clone()
        };
        if let Ok(Some(doubt)) = payload::doubt(&corrected) {
            user.push(("clock".into(), word(doubt)));
        }
        Some(Properties {
            content_type: Some(content_type),
            user,
            ..Properties::default()
        })
    }

    /// Appends an item's payload. The error is one sentence that says why it can never be
    /// published.
    pub(super) fn append(&self, item: &Item, out: &mut Vec<u8>) -> Result<(), String> {
        let start = out.len();
        match item {
            Item::Batch(batch) if self.format == Format::Influx => {
                let batch = Batch {
                    received: clock::corrected(batch.received),
                    ..batch.clone()
                };
                payload::append_lines(out, &batch, Some(&self.hub))
            }
            Item::Batch(batch) if batch.received.synced => {
                payload::append_batch(out, batch, self.format)
            }
            Item::Batch(batch) => {
                // It may have become known meanwhile what the time was.
                let received = clock::corrected(batch.received);
                let batch = Batch {
                    received,
                    ..batch.clone()
                };
                // Of an earlier boot nobody knows how long ago it was.
                let waited = received.age(&clock::now()).unwrap_or(0.0);
                payload::append_batch_after(out, &batch, self.format, waited)
            }
            Item::Gap(gap) if self.format == Format::Influx => {
                out.extend_from_slice(&payload::gap_line(gap, Some(&self.hub)));
                Ok(())
            }
            Item::Gap(gap) => {
                out.extend_from_slice(&payload::encode_gap(gap, self.format));
                Ok(())
            }
            Item::Reply(reply) => {
                out.extend_from_slice(&reply.payload);
                Ok(())
            }
        }
        .map_err(|error| why(&error).to_owned())?;
        let length = out.len() - start;
        if length > self.max_payload {
            return Err(format!(
                "it makes a payload of {length} bytes, and uplink.max_payload is {}",
                self.max_payload
            ));
        }
        Ok(())
    }

    /// Where packs go.
    pub(super) fn packed_topic(&self) -> String {
        format!("{}{}", self.root, packed::LEVEL)
    }

    /// Appends the payload of a pack. The error is one sentence that says why it can never be
    /// published.
    pub(super) fn append_pack(&self, sequence: &[u8], out: &mut Vec<u8>) -> Result<(), String> {
        let start = out.len();
        packed::seal(sequence, out);
        let length = out.len() - start;
        match length > self.max_payload {
            true => Err(format!(
                "it makes a packed payload of {length} bytes, and uplink.max_payload is {}",
                self.max_payload
            )),
            false => Ok(()),
        }
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

    /// Where the newest value of a name stands.
    pub(super) fn value_topic(&self, device: &str, name: &str) -> String {
        let mut topic = self.topic(device, "value/");
        topic.push_str(&escape(name, self.dots));
        topic
    }

    /// Where a command for a device is sent.
    pub(super) fn command_topic(&self, device: &str, name: &str) -> String {
        let mut topic = self.topic(device, "command/");
        topic.push_str(&escape(name, self.dots));
        topic
    }

    /// Matches the commands for all devices, whatever stands behind.
    pub(super) fn command_filter(&self) -> String {
        self.topic("+", "command/#")
    }

    /// Whether this is a topic that [`Publisher::command_filter`] matches.
    pub(super) fn is_command(&self, topic: &str) -> bool {
        let rest = topic
            .strip_prefix(&self.root)
            .and_then(|rest| rest.split_once('/'));
        let rest = rest.and_then(|(_, rest)| rest.strip_prefix("command"));
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    /// Where the state stands that a device is to be in.
    pub(super) fn desired_topic(&self, device: &str) -> String {
        self.topic(device, "desired")
    }

    /// The device whose desired state stands at this topic.
    pub(super) fn desired_device<'a>(&self, topic: &'a str) -> Option<Cow<'a, str>> {
        self.device_at(topic, "/desired")
    }

    /// The device of a topic of the hub that ends like this.
    fn device_at<'a>(&self, topic: &'a str, end: &str) -> Option<Cow<'a, str>> {
        let level = topic.strip_prefix(&self.root)?.strip_suffix(end)?;
        let device = match self.dots {
            true => unescape_dots(level),
            false => Cow::Borrowed(level),
        };
        is_id(&device).then_some(device)
    }

    /// What a device reports of its state.
    pub(super) fn reported(&self, report: &Report) -> Publication {
        Publication {
            topic: self.topic(&report.device, "reported"),
            payload: report.payload.to_vec(),
            retain: true,
        }
    }

    /// Where the answer to a command goes.
    pub(super) fn reply_head<'a>(&'a self, reply: &'a Reply, room: &'a mut String) -> Head<'a> {
        let topic = match &reply.topic {
            Some(topic) => [&**topic, "", "", ""],
            None => {
                let device = self.level(&reply.device);
                *room = match &*reply.name {
                    "" => format!("{device}/result"),
                    name => format!("{device}/result/{}", self.level(name)),
                };
                [&*self.root, room, "", ""]
            }
        };
        Head {
            topic,
            retain: false,
            properties: None,
        }
    }

    /// What goes along with the answer to a command.
    pub(super) fn reply_properties(reply: &Reply) -> Properties {
        Properties {
            content_type: Some(match reply.encoding {
                Encoding::Json => "application/json",
                Encoding::Cbor => "application/cbor",
            }),
            correlation: reply.correlation.clone(),
            ..Properties::default()
        }
    }

    /// Matches the states of all devices, and not the hub's own.
    pub(super) fn status_filter(&self) -> String {
        self.topic("+", "status")
    }

    /// Where the state of a device stands.
    pub(super) fn status_topic(&self, device: &str) -> String {
        self.topic(device, "status")
    }

    /// The device whose state stands at this topic.
    pub(super) fn device_of<'a>(&self, status_topic: &'a str) -> Option<Cow<'a, str>> {
        self.device_at(status_topic, "/status")
    }

    /// Where the hub's own state stands.
    pub(super) fn hub_topic(&self) -> String {
        format!("{}status", self.root)
    }

    /// Where the probe goes. No device can have this id.
    pub(super) fn probe_topic(&self) -> String {
        self.probe_topic_of("data")
    }

    /// The same for another level of a device's topics.
    pub(super) fn probe_topic_of(&self, level: &str) -> String {
        self.topic(PROBE, level)
    }

    /// A batch without records, in the configured format.
    pub(super) fn probe(&self, now: Moment) -> Publication {
        let whole = Empty {
            device: PROBE,
            stream: "",
            seq: None,
            received: now.wall,
            pack: [],
        };
        let none: [u8; 0] = [];
        let payload = match self.format {
            Format::Json => serde_json::to_vec(&whole).ok(),
            Format::SenmlJson => serde_json::to_vec(&none).ok(),
            Format::Cbor => serde_cbor::to_vec(&whole).ok(),
            Format::SenmlCbor => serde_cbor::to_vec(&none).ok(),
            // A comment in line protocol.
            Format::Influx => Some(b"# probe".to_vec()),
        };
        Publication {
            topic: self.probe_topic(),
            payload: payload.expect("invariant: texts and numbers always serialize"),
            retain: false,
        }
    }

    /// The hub's own state.
    pub(super) fn hub_status(&self, state: &str, since: Moment) -> Publication {
        self.status_of_hub(state, since, self.commands)
    }

    /// `online`; `hears`: the broker lets the hub hear commands.
    pub(super) fn hub_online(&self, since: Moment, hears: bool) -> Publication {
        self.status_of_hub("online", since, self.commands && hears)
    }

    fn status_of_hub(&self, state: &str, since: Moment, commands: bool) -> Publication {
        let (since, clock) = known(since);
        let status = HubStatus {
            state,
            since,
            clock,
            version: &self.version,
            commands,
        };
        self.retained(self.hub_topic(), &status)
    }

    fn topic(&self, device: &str, level: &str) -> String {
        let mut topic = String::with_capacity(self.root.len() + device.len() + 1 + level.len());
        for part in [&self.root, &*self.level(device), "/", level] {
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

/// The mark as it stands in the payloads that have a place for it.
fn word(doubt: Doubt) -> String {
    let word = serde_json::to_value(doubt).ok();
    word.and_then(|word| word.as_str().map(str::to_owned))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Arc;

    use bytes::Bytes;
    use serde_json::{Value, json};

    use super::*;
    use crate::reading::{Gap, GapReason};

    fn publisher(format: Format) -> Publisher {
        Publisher::new("farm/telehub", "barn", format, "1.2.3", 1 << 20, false)
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

    fn topic(publisher: &Publisher, item: &Item, lane: Lane) -> String {
        publisher.topic_of(item, lane)
    }

    fn payload(publisher: &Publisher, item: &Item) -> Result<Vec<u8>, String> {
        let mut out = Vec::new();
        publisher.append(item, &mut out).map(|()| out)
    }

    #[test]
    fn lane_and_kind_decide_the_topic() {
        let publisher = publisher(Format::Json);
        let batch = Item::Batch(batch());
        assert_eq!(
            topic(&publisher, &batch, Lane::Live),
            "farm/telehub/barn/cow/data"
        );
        assert_eq!(
            topic(&publisher, &batch, Lane::History),
            "farm/telehub/barn/cow/history"
        );
        let Item::Batch(inner) = batch else {
            unreachable!()
        };
        let gap = Item::Gap(Gap::of(&inner, GapReason::TooLarge, 5.0));
        for lane in [Lane::Live, Lane::History] {
            assert_eq!(topic(&publisher, &gap, lane), "farm/telehub/barn/cow/gap");
        }
        let said: Value = serde_json::from_slice(&payload(&publisher, &gap).unwrap()).unwrap();
        assert_eq!(said["reason"], "too-large");
    }

    #[test]
    fn the_senml_formats_say_in_properties_what_they_have_no_place_for() {
        let mut batch = batch();
        let none = publisher(Format::Json).properties(&Item::Batch(batch.clone()));
        assert_eq!(none, None);
        batch.received.synced = false;
        let properties = publisher(Format::SenmlJson)
            .properties(&Item::Batch(batch))
            .unwrap();
        assert_eq!(properties.content_type, Some("application/senml+json"));
        let user: Vec<_> = properties
            .user
            .iter()
            .map(|(name, value)| (&**name, &**value))
            .collect();
        assert_eq!(user, [("stream", "a"), ("seq", "3"), ("clock", "unsynced")]);
    }

    #[test]
    fn a_payload_beyond_the_setting_is_refused() {
        let publisher = Publisher::new("t", "barn", Format::Json, "1", 20, false);
        let error = payload(&publisher, &Item::Batch(batch())).unwrap_err();
        assert!(error.contains("uplink.max_payload is 20"), "{error}");
    }

    #[test]
    fn only_states_are_retained() {
        let publisher = publisher(Format::Cbor);
        let item = Item::Batch(batch());
        assert!(!publisher.head(&item, Lane::Live, &mut String::new()).retain);
        let hub = publisher.hub_status("online", Moment::at(7.5));
        assert!(hub.retain);
        assert_eq!(hub.topic, "farm/telehub/barn/status");
        let said: Value = serde_json::from_slice(&hub.payload).unwrap();
        assert_eq!(
            said,
            json!({"state": "online", "since": 7.5, "version": "1.2.3", "commands": false})
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
        assert_eq!(of("farm/telehub/barn/cow/status"), Some("cow".into()));
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
    fn dots_are_escaped_in_every_topic_where_that_is_asked_for() {
        let publisher = Publisher::new("a.b", "ba.rn", Format::Json, "1", 1 << 20, true)
            .with_dots(TopicDots::Escape);
        let item = Item::Batch(Batch {
            device: "c.ow".into(),
            ..batch()
        });
        assert_eq!(
            topic(&publisher, &item, Lane::Live),
            "a.b/ba%2Ern/c%2Eow/data"
        );
        assert_eq!(publisher.hub_topic(), "a.b/ba%2Ern/status");
        assert_eq!(publisher.status_topic("c.ow"), "a.b/ba%2Ern/c%2Eow/status");
        assert_eq!(
            publisher.device_of("a.b/ba%2Ern/c%2Eow/status"),
            Some("c.ow".into())
        );
        assert_eq!(
            publisher.value_topic("c.ow", "t.x/y"),
            "a.b/ba%2Ern/c%2Eow/value/t%2Ex/y"
        );
        let command = "a.b/ba%2Ern/c%2Eow/command/set%2Ex";
        assert!(publisher.is_command(command));
        assert_eq!(publisher.unescaped(command), "a.b/ba.rn/c.ow/command/set.x");
        let keeps = Publisher::new("a.b", "ba.rn", Format::Json, "1", 1 << 20, true);
        assert_eq!(topic(&keeps, &item, Lane::Live), "a.b/ba.rn/c.ow/data");
        assert_eq!(keeps.unescaped(command), command);
    }

    #[test]
    fn line_protocol_names_the_hub_and_a_gap_is_a_line() {
        let publisher = publisher(Format::Influx);
        let item = Item::Batch(batch());
        assert_eq!(
            String::from_utf8(payload(&publisher, &item).unwrap()).unwrap(),
            "telehub,hub=barn,device=cow,name=t v=21.5,stream=\"a\",seq=3i 1700000000000000000"
        );
        let gap = Item::Gap(Gap::of(&batch(), GapReason::TooLarge, 5.0));
        assert_eq!(
            String::from_utf8(payload(&publisher, &gap).unwrap()).unwrap(),
            "telehub_gap,hub=barn,device=cow,reason=too-large \
             stream=\"a\",from=3i,to=3i,batches=1i,readings=1i 5000000000"
        );
        assert_eq!(publisher.properties(&item), None);
        assert_eq!(publisher.probe(Moment::at(1.0)).payload, b"# probe");
    }

    #[test]
    fn a_frame_that_no_longer_decodes_is_an_error_and_not_a_panic() {
        let broken = Batch {
            frame: Bytes::from_static(b"[{\"n\":"),
            ..batch()
        };
        let error = payload(&publisher(Format::Json), &Item::Batch(broken));
        assert!(error.unwrap_err().contains("does not decode"));
    }
}
