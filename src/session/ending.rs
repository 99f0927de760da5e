//! How sessions end, and what the device and the operator are told of it.

use std::time::Duration;

use crate::intake::port::Close;
use crate::protocol::reject::{Reject, RejectCode};

/// The reason of a device that has said when it will be back; its state has the same name.
pub use crate::status::history::ASLEEP;

/// Why a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// The device closed the connection.
    Closed,
    /// It said goodbye, and when it will be back.
    Asleep {
        /// In so long.
        sleep: Duration,
    },
    /// It said goodbye, and not when it will be back.
    Bye,
    /// `hello` came after data.
    LateHello,
    /// No sign of life within the timeout of a ping.
    PingTimeout,
    /// A newer connection of the same device.
    Replaced,
    /// The spool is full and its rule is `refuse`.
    Refused,
    /// The device's credentials were withdrawn.
    Revoked,
    /// Above `max_rate` for minutes.
    RateExceeded,
    /// The hub was full, and the device had said nothing.
    MadeRoom,
    /// The hub stops.
    Stopping,
    /// Not WebSocket (RFC 6455).
    ProtocolError,
    /// A text message that is not UTF-8.
    NotUtf8,
    /// A message above `max_message`.
    TooLarge {
        /// The limit in bytes.
        limit: usize,
        /// The number of the batch, where it stood at its beginning.
        seq: Option<u64>,
    },
    /// Many rejects without a good message between them.
    TooManyRejects,
    /// The TCP connection broke.
    Lost,
}

impl Ending {
    /// For the log, the board and the device's `status` on the broker.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::Closed | Self::Bye => "closed",
            Self::Asleep { .. } => ASLEEP,
            Self::PingTimeout => "ping timeout",
            Self::Replaced => "replaced",
            Self::Refused => "refused",
            Self::Revoked => "revoked",
            Self::RateExceeded => "rate exceeded",
            Self::MadeRoom => "made room",
            Self::Stopping => "hub stopping",
            Self::ProtocolError | Self::NotUtf8 | Self::LateHello => "protocol error",
            Self::TooLarge { .. } => "message too large",
            Self::TooManyRejects => "too many rejects",
            Self::Lost => "connection lost",
        }
    }

    /// Close code and reason for the device; `None`: it said goodbye itself, or cannot hear.
    #[must_use]
    pub fn close(self) -> Option<(u16, String)> {
        let (code, reason) = match self {
            Self::Closed | Self::Lost => return None,
            Self::Asleep { .. } | Self::Bye => (1000, "goodbye"),
            Self::LateHello => (1002, "hello must be the first message"),
            Self::PingTimeout => (4000, "ping timeout"),
            Self::Replaced => (4001, "replaced by a newer connection of this device"),
            Self::Refused => (1013, "the hub cannot take data now"),
            Self::Revoked => (4002, "credentials revoked"),
            Self::RateExceeded => (4003, "rate exceeded"),
            Self::MadeRoom => (
                1013,
                "the hub is full, and this connection had said nothing",
            ),
            Self::Stopping => (1001, "hub stopping"),
            Self::ProtocolError => (1002, "protocol error"),
            Self::NotUtf8 => (
                1007,
                "a text frame must be UTF-8: CBOR goes in binary frames",
            ),
            Self::TooLarge { limit, seq } => {
                let which = seq.map_or(String::new(), |seq| format!("batch {seq}: "));
                return Some((1009, format!("{which}a message may have {limit} bytes")));
            }
            Self::TooManyRejects => (1007, "too many rejected messages in a row"),
        };
        Some((code, reason.to_owned()))
    }

    /// Whether the hub ended the session because of what the device did or did not do.
    #[must_use]
    pub fn is_eviction(self) -> bool {
        matches!(
            self,
            Self::PingTimeout
                | Self::RateExceeded
                | Self::MadeRoom
                | Self::ProtocolError
                | Self::NotUtf8
                | Self::LateHello
                | Self::TooLarge { .. }
                | Self::TooManyRejects
        )
    }
}

impl Ending {
    /// Whether what the device sent before is acked before the hub's close frame, as far as it
    /// becomes safe within a moment.
    #[must_use]
    pub fn owes_acks(self) -> bool {
        matches!(
            self,
            Self::Closed
                | Self::Asleep { .. }
                | Self::Bye
                | Self::LateHello
                | Self::TooLarge { .. }
        )
    }

    /// What the device is told of the message that ended the session.
    #[must_use]
    pub fn reject(self) -> Option<Reject> {
        let (seq, code, detail) = match self {
            Self::TooLarge { limit, seq } => (
                seq,
                RejectCode::TooLarge,
                format!(
                    "a message may have {limit} bytes (max_message of the welcome): send smaller packs"
                ),
            ),
            Self::NotUtf8 => (
                None,
                RejectCode::Malformed,
                "a text frame must be UTF-8; if this is CBOR, send it in a binary frame".to_owned(),
            ),
            _ => return None,
        };
        Some(Reject { seq, code, detail })
    }
}

impl From<Close> for Ending {
    fn from(close: Close) -> Self {
        match close {
            Close::Replaced => Self::Replaced,
            Close::Refused => Self::Refused,
            Close::Revoked => Self::Revoked,
            Close::MadeRoom => Self::MadeRoom,
            Close::Stopping => Self::Stopping,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::counts::{CODES, ENDINGS, EVICTIONS};

    #[test]
    fn every_ending_and_every_code_has_its_counter() {
        let endings = [
            Ending::Closed,
            Ending::Bye,
            Ending::LateHello,
            Ending::Asleep {
                sleep: Duration::ZERO,
            },
            Ending::PingTimeout,
            Ending::Replaced,
            Ending::Refused,
            Ending::Revoked,
            Ending::RateExceeded,
            Ending::MadeRoom,
            Ending::Stopping,
            Ending::ProtocolError,
            Ending::NotUtf8,
            Ending::TooLarge {
                limit: 1,
                seq: None,
            },
            Ending::TooManyRejects,
            Ending::Lost,
        ];
        for ending in endings {
            let reason = ending.reason();
            assert!(ENDINGS.contains(&reason), "{reason}");
            assert_eq!(
                EVICTIONS.contains(&reason),
                ending.is_eviction(),
                "{reason}"
            );
        }
        for code in CODES {
            assert!(RejectCode::from_text(code).is_some(), "{code}");
        }
    }
}
