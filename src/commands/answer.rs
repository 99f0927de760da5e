//! What whoever sent a command is told: the payload of `…/result/{name}`.

use std::sync::Arc;

use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::reading::{Doubt, Encoding, Moment};

/// How far a command has got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It waits its turn, or is on its way.
    Accepted,
    /// The device is at it and says how far.
    Progress,
    /// The device has carried it out.
    Done,
    /// The device says that it did not work.
    Failed,
    /// It was never sent to the device, and why.
    Refused,
    /// It was never sent: its `ttl` ran out.
    Expired,
    /// It was sent, and the device, which is there, has not answered in time.
    Timeout,
    /// It was sent, and whether it was carried out is not known.
    Unknown,
}

impl State {
    /// As it stands in the answer.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Progress => "progress",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Refused => "refused",
            Self::Expired => "expired",
            Self::Timeout => "timeout",
            Self::Unknown => "unknown",
        }
    }

    /// Whether nothing more comes, a late result aside.
    #[must_use]
    pub fn is_final(self) -> bool {
        !matches!(self, Self::Accepted | Self::Progress)
    }

    /// Whether the device has carried it out.
    fn executed(self) -> &'static str {
        match self {
            // The device took it up and told how it went.
            Self::Done | Self::Failed => "yes",
            Self::Refused | Self::Expired => "no",
            Self::Accepted | Self::Progress | Self::Timeout | Self::Unknown => "unknown",
        }
    }
}

/// Why the hub did not have a command carried out, or does not know: `error` of the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fault {
    /// The device is not connected.
    Offline,
    /// Too many wait, for this device or in all, or it comes too fast.
    Busy,
    /// The device's entry in the registry does not allow it.
    Forbidden,
    /// No command: does not decode, out of range, or repeated without an id.
    Malformed,
    /// Larger than `commands.max_size`, or than the device can take.
    TooLarge,
    /// A retained message is no command.
    Retained,
    /// Its id is that of another command.
    Conflict,
    /// The device went away.
    Disconnected,
    /// The hub stops.
    HubStopping,
}

impl Fault {
    const ALL: [Self; 9] = [
        Self::Offline,
        Self::Busy,
        Self::Forbidden,
        Self::Malformed,
        Self::TooLarge,
        Self::Retained,
        Self::Conflict,
        Self::Disconnected,
        Self::HubStopping,
    ];

    /// The fault that stands so in an answer.
    #[must_use]
    pub fn from_text(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|fault| fault.as_str() == text)
    }

    /// As it stands in the answer.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Offline => "offline",
            Self::Busy => "busy",
            Self::Forbidden => "forbidden",
            Self::Malformed => "malformed",
            Self::TooLarge => "too-large",
            Self::Retained => "retained",
            Self::Conflict => "conflict",
            Self::Disconnected => "disconnected",
            Self::HubStopping => "hub stopping",
        }
    }
}

/// How a command ended, as it is remembered.
#[derive(Debug, Clone)]
pub struct End {
    /// A final one.
    pub state: State,
    /// What the device gave, as JSON.
    pub value: Option<Arc<RawValue>>,
    /// A [`Fault`], or the device's own words.
    pub error: Option<Arc<str>>,
    /// How often it was sent to the device.
    pub attempt: u32,
}

impl End {
    /// An end that the hub decides.
    #[must_use]
    pub fn of(state: State, fault: Option<Fault>, attempt: u32) -> Self {
        Self {
            state,
            value: None,
            error: fault.map(|fault| fault.as_str().into()),
            attempt,
        }
    }

    /// Bytes that remembering value and error costs.
    #[must_use]
    pub fn weight(&self) -> usize {
        let value = self.value.as_ref().map_or(0, |value| value.get().len());
        value + self.error.as_ref().map_or(0, |error| error.len())
    }
}

/// One answer, before it is encoded.
#[derive(Debug)]
pub struct Answer<'a> {
    /// `None`: it could not be read.
    pub id: Option<&'a str>,
    /// What stands behind `command/` in the topic.
    pub name: &'a str,
    /// How it stands.
    pub end: &'a End,
    /// When the command came in.
    pub received: Moment,
    /// A result that came after the end had been told, or to nothing that was asked.
    pub late: bool,
}

#[derive(Serialize)]
struct Body<'a, V> {
    id: Option<&'a str>,
    name: &'a str,
    state: State,
    ok: bool,
    executed: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<V>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
    attempt: u32,
    received: f64,
    time: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    clock: Option<Doubt>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    late: bool,
}

impl Answer<'_> {
    fn body<V>(&self, now: Moment, value: Option<V>) -> Body<'_, V> {
        // By the uptime where that is known: the clock may have been set since.
        let age = self.received.age(&now);
        Body {
            id: self.id,
            name: self.name,
            state: self.end.state,
            ok: self.end.state == State::Done,
            executed: self.end.state.executed(),
            value,
            error: self.end.error.as_deref(),
            attempt: self.end.attempt,
            received: age.map_or(self.received.wall, |age| now.wall - age),
            time: now.wall,
            clock: now.doubt(),
            late: self.late,
        }
    }

    /// The payload.
    #[must_use]
    pub fn encode(&self, encoding: Encoding, now: Moment) -> Vec<u8> {
        const SOUND: &str = "invariant: texts, numbers and JSON values always serialize";
        let value = self.end.value.as_deref();
        match encoding {
            Encoding::Json => serde_json::to_vec(&self.body(now, value)).expect(SOUND),
            Encoding::Cbor => {
                let value = value.and_then(|raw| serde_json::from_str::<Value>(raw.get()).ok());
                serde_cbor::to_vec(&self.body(now, value)).expect(SOUND)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    fn end(state: State) -> End {
        End {
            value: Some(
                RawValue::from_string(r#"{"lux": [1, 2.5]}"#.to_owned())
                    .unwrap()
                    .into(),
            ),
            ..End::of(state, None, 1)
        }
    }

    #[test]
    fn an_answer_is_the_same_map_in_json_and_in_cbor() {
        let end = end(State::Done);
        let answer = Answer {
            id: Some("a1"),
            name: "on",
            end: &end,
            received: Moment::at(100.0),
            late: true,
        };
        let now = Moment::at(102.5);
        let expected = json!({
            "id": "a1", "name": "on", "state": "done", "ok": true, "executed": "yes",
            "value": {"lux": [1, 2.5]}, "attempt": 1, "received": 100.0, "time": 102.5,
            "late": true,
        });
        let json: Value = serde_json::from_slice(&answer.encode(Encoding::Json, now)).unwrap();
        let cbor: Value = serde_cbor::from_slice(&answer.encode(Encoding::Cbor, now)).unwrap();
        assert_eq!(json, expected);
        assert_eq!(cbor, expected);
    }

    #[test]
    fn what_was_never_sent_was_not_carried_out_and_what_nobody_answered_is_not_known() {
        for (state, executed, ok) in [
            (State::Accepted, "unknown", false),
            (State::Progress, "unknown", false),
            (State::Done, "yes", true),
            (State::Failed, "yes", false),
            (State::Refused, "no", false),
            (State::Expired, "no", false),
            (State::Timeout, "unknown", false),
            (State::Unknown, "unknown", false),
        ] {
            let end = End::of(state, Some(Fault::Busy), 0);
            let answer = Answer {
                id: None,
                name: "on",
                end: &end,
                received: Moment::at(1.0),
                late: false,
            };
            let said = answer.encode(Encoding::Json, Moment::at(1.0));
            let said: Value = serde_json::from_slice(&said).unwrap();
            assert_eq!(said["executed"], executed, "{said}");
            assert_eq!(said["ok"], ok, "{said}");
            assert_eq!(said["state"], state.as_str());
            assert_eq!(said["error"], "busy");
            assert!(said["id"].is_null() && said.get("late").is_none());
        }
    }

    #[test]
    fn every_end_has_its_counter() {
        use crate::status::commands::OUTCOMES;
        let states = [
            State::Done,
            State::Failed,
            State::Expired,
            State::Timeout,
            State::Unknown,
        ];
        let states = states.into_iter().map(State::as_str);
        let faults = Fault::ALL.into_iter().map(Fault::as_str);
        for word in states.chain(faults) {
            assert!(OUTCOMES.contains(&word), "{word}");
        }
    }

    #[test]
    fn the_time_of_receipt_follows_a_clock_that_was_put_right_since() {
        let boot = crate::reading::Boot::from_bytes([7; 16]);
        let received = Moment {
            wall: 5.0,
            uptime: 10.0,
            boot,
            synced: false,
        };
        let now = Moment {
            wall: 1_700_000_000.0,
            uptime: 14.0,
            boot,
            synced: true,
        };
        let end = End::of(State::Done, None, 1);
        let answer = Answer {
            id: None,
            name: "on",
            end: &end,
            received,
            late: false,
        };
        let said: Value = serde_json::from_slice(&answer.encode(Encoding::Json, now)).unwrap();
        assert_eq!(said["received"], 1_699_999_996.0);
        assert!(said.get("clock").is_none());
    }
}
