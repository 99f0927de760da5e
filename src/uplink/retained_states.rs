//! States that an earlier run of the hub left behind: a hub that was killed could not say that its
//! devices are gone, so the broker still has them as retained `online`.
//!
//! Nothing is kept on disk for this: the broker knows what it was told. On a new connection the
//! hub subscribes to its own devices' states, before it publishes anything, and to whatever is
//! `online` there and not known to this run it says `offline`. What it publishes itself comes back
//! without the retain flag (MQTT 3.1.1 §3.3.1.3) and is not looked at. When nothing more has come
//! for a while it unsubscribes. Where nothing retained has come at all, it asks by exact topic for
//! the devices of the registry and those that it remembers: RabbitMQ has no retained messages for
//! wildcards.

use std::time::Duration;

use serde::Deserialize;

use crate::clock;
use crate::status::presence::Presence;

/// How often a run tries. A broker that forbids the subscription may answer with hanging up; the
/// hub's data must not wait for ever for that.
pub(super) const ATTEMPTS: u8 = 2;

/// Bytes of a status. The hub's own are below 1 KiB; larger ones are skipped.
pub(super) const MAX_STATUS: usize = 4 << 10;

/// Silence after which everything retained has come. Brokers send it right behind the SUBACK;
/// this is for slow links. MQTT has no sign for the end.
pub(super) const QUIET: Duration = Duration::from_secs(5);

/// Reason of the correction.
pub(super) const REASON: &str = "hub restarted";

/// Longest text that the hub takes from a device's `hello` and so says of a device.
const MAX_TEXT: usize = 64;

/// Whether a status says that the hub or device is offline.
pub(super) fn says_offline(payload: &[u8]) -> bool {
    serde_json::from_slice(payload).is_ok_and(|told: Told| told.state == "offline")
}

#[derive(Deserialize)]
struct Told {
    state: String,
    model: Option<String>,
    firmware: Option<String>,
}

/// The correction of a retained state that says `online`, or `asleep`: this run does not know when
/// the device wanted to be back. `None`: it says something else, or is nothing that the hub wrote.
pub(super) fn correction(payload: &[u8]) -> Option<Presence> {
    let told: Told = serde_json::from_slice(payload).ok()?;
    let short = |text: &String| text.chars().count() <= MAX_TEXT;
    matches!(told.state.as_str(), "online" | "asleep").then(|| Presence {
        state: "offline",
        // When it really went is not known; from now on it is known to be gone.
        since: clock::now(),
        reason: REASON.to_owned(),
        model: told.model.filter(short),
        firmware: told.firmware.filter(short),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn only_who_was_there_is_corrected_and_what_is_known_of_the_device_stays() {
        let online = br#"{"state":"online","since":1,"reason":"connected","model":"T1"}"#;
        let correction_of = correction(online).unwrap();
        assert_eq!(correction_of.state, "offline");
        assert_eq!(correction_of.reason, "hub restarted");
        assert_eq!(correction_of.model.as_deref(), Some("T1"));
        assert!(correction_of.since.wall > 1.7e9);
        let asleep = br#"{"state":"asleep","since":1,"reason":"asleep"}"#;
        assert_eq!(correction(asleep).unwrap().state, "offline");
        let offline = br#"{"state":"offline","since":1,"reason":"closed"}"#;
        for other in [&offline[..], b"", b"online", b"{}", b"\xff", b"[]"] {
            assert_eq!(correction(other), None);
        }
    }

    #[test]
    fn texts_that_the_hub_cannot_have_written_are_left_out() {
        let long = format!(r#"{{"state":"online","model":"{}"}}"#, "x".repeat(65));
        assert_eq!(correction(long.as_bytes()).unwrap().model, None);
    }
}
