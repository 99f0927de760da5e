//! Reason codes of MQTT 5 (§2.4) in words, with what to do. The return codes of 3.1.1 (§3.2.2.3)
//! are looked up by their equals.

/// What a code means and who has to act.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Meaning {
    /// A clause for the log: what it is; and, after a colon, what to do.
    pub(super) words: &'static str,
    /// It will not go away by itself.
    pub(super) needs_someone: bool,
}

/// Success.
pub(super) const SUCCESS: u8 = 0x00;
/// PUBACK: taken, but nobody subscribes.
pub(super) const NO_SUBSCRIBERS: u8 = 0x10;
/// From here on a code is an error.
pub(super) const ERRORS: u8 = 0x80;
/// CONNACK: the broker does not speak this version.
pub(super) const UNSUPPORTED_VERSION: u8 = 0x84;
/// What is published there is not for this client.
pub(super) const NOT_AUTHORIZED: u8 = 0x87;
/// DISCONNECT: another connection has the same client id.
pub(super) const TAKEN_OVER: u8 = 0x8E;
/// PUBACK: the broker takes no such topic.
pub(super) const TOPIC_NAME_INVALID: u8 = 0x90;
/// The packet is larger than the broker takes.
pub(super) const PACKET_TOO_LARGE: u8 = 0x95;
/// A limit of the broker's is reached.
pub(super) const QUOTA_EXCEEDED: u8 = 0x97;
/// CONNACK to a CONNECT whose will is retained.
pub(super) const RETAIN_NOT_SUPPORTED: u8 = 0x9A;

/// The reason code for a CONNACK return code of MQTT 3.1.1.
pub(super) fn of_return_code(code: u8) -> u8 {
    match code {
        0 => SUCCESS,
        1 => UNSUPPORTED_VERSION,
        2 => 0x85,
        3 => 0x88,
        4 => 0x86,
        5 => 0x87,
        _ => ERRORS,
    }
}

/// What a code of CONNACK, DISCONNECT, PUBACK or SUBACK means.
pub(super) fn meaning(code: u8) -> Meaning {
    let (needs_someone, words) = match code {
        SUCCESS => (false, "success"),
        NO_SUBSCRIBERS => (false, "nobody subscribes to this topic"),
        0x80 => (false, "unspecified error: look into the broker's log"),
        0x81 => (
            true,
            "it takes a packet of ours for malformed: report this with the broker's name and version",
        ),
        0x82 => (
            true,
            "protocol error: report this with the broker's name and version",
        ),
        0x83 => (
            false,
            "a rule of its own forbids it: look into the broker's log",
        ),
        UNSUPPORTED_VERSION => (
            true,
            "it does not speak this version of MQTT: set uplink.version to the one that it does, 3.1.1 or 5",
        ),
        0x85 => (
            true,
            "client identifier rejected: choose another uplink.client_id",
        ),
        0x86 => (
            true,
            "bad user name or password: check uplink.username and uplink.password_file",
        ),
        0x87 => (
            true,
            "not authorized: check uplink.username, uplink.password_file and the broker's rules (ACL)",
        ),
        0x88 => (false, "server unavailable; it is tried again"),
        0x89 => (false, "server busy; it is tried again"),
        0x8A => (true, "banned: ask who runs the broker"),
        0x8B => (false, "the server is shutting down; it is tried again"),
        0x8C => (
            true,
            "bad authentication method: the hub knows user name, password and certificates only",
        ),
        0x8D => (
            false,
            "it heard nothing from the hub for too long: look at the link, or lower uplink.keep_alive",
        ),
        TAKEN_OVER => (
            true,
            "another client has connected with the same client id: give each hub its own uplink.client_id",
        ),
        0x8F => (
            true,
            "it does not accept the topic filter: check the broker's rules (ACL)",
        ),
        0x90 => (
            true,
            "it does not accept the topic: check uplink.prefix, the ids of hub and device, and the broker's rules",
        ),
        0x91 => (false, "the packet id is in use; it is tried again"),
        0x93 => (
            true,
            "more publishes were out than it allows: lower uplink.inflight",
        ),
        0x94 => (
            true,
            "invalid topic alias: report this with the broker's name and version",
        ),
        PACKET_TOO_LARGE => (
            true,
            "the packet is larger than it takes: raise its limit (message_size_limit, max_packet_size), or lower uplink.max_payload",
        ),
        0x96 => (
            false,
            "messages come too fast for it: raise its limit, or lower devices.max_rate",
        ),
        0x97 => (false, "a quota is used up: raise it at the broker"),
        0x98 => (false, "an administrator closed the connection"),
        0x99 => (
            true,
            "it does not accept the payload's format: check uplink.format and the broker's rules",
        ),
        0x9A => (true, "it does not support retained messages"),
        0x9B => (
            true,
            "it does not support QoS 1, and without it nothing can be acknowledged: use another broker",
        ),
        0x9C => (false, "it asks to use another server for a while"),
        0x9D => (true, "the server has moved: change uplink.url"),
        0x9E => (true, "it does not support shared subscriptions"),
        0x9F => (false, "connections come too fast for it; it is tried again"),
        0xA0 => (
            false,
            "the longest time of a connection is over; it is tried again",
        ),
        0xA1 => (true, "it does not support subscription identifiers"),
        0xA2 => (true, "it does not support wildcard subscriptions"),
        _ => (
            false,
            "for a reason that MQTT does not know: look into the broker's log",
        ),
    };
    Meaning {
        words,
        needs_someone,
    }
}

/// Characters of a text of the broker's that are shown. It may say anything, at any length.
const SHOWN: usize = 120;

/// A code in words for a sentence, with the broker's own words and the server that it names.
pub(super) fn sentence(code: u8, own: &str, reference: &str) -> String {
    let mut text = format!("{} (0x{code:02X})", meaning(code).words);
    for (label, value) in [("it says", own), ("it names the server", reference)] {
        if !value.is_empty() {
            let shown: String = value
                .chars()
                .filter(|c| !c.is_control())
                .take(SHOWN)
                .collect();
            text.push_str(&format!("; {label} {shown:?}"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_of_the_standard_has_words_of_its_own() {
        let mut seen = Vec::new();
        for code in [0x00, 0x10].into_iter().chain(0x80..=0xA2) {
            // 0x92 is for QoS 2 alone, which the hub does not use.
            if code == 0x92 {
                continue;
            }
            let words = meaning(code).words;
            assert!(!words.starts_with("for a reason"), "0x{code:02X}");
            assert!(!seen.contains(&words), "0x{code:02X}: {words}");
            seen.push(words);
        }
        assert!(meaning(0xA3).words.starts_with("for a reason"));
    }

    #[test]
    fn a_text_of_the_broker_is_cut_and_has_no_control_characters() {
        let text = sentence(0x97, &format!("full\x1b[31m{}", "x".repeat(500)), "");
        assert!(text.contains("it says \"full[31mxxx"), "{text}");
        assert!(text.len() < 300 && !text.contains('\x1b'), "{text}");
        let moved = sentence(0x9D, "", "b.example:1883");
        assert!(
            moved.contains("it names the server \"b.example:1883\""),
            "{moved}"
        );
    }
}
