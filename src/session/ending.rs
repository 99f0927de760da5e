//! How sessions end, and what the device and the operator are told of it.

use crate::intake::port::Close;

/// Why a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// The device closed the connection.
    Closed,
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
            Self::Closed => "closed",
            Self::PingTimeout => "ping timeout",
            Self::Replaced => "replaced",
            Self::Refused => "refused",
            Self::Revoked => "revoked",
            Self::RateExceeded => "rate exceeded",
            Self::MadeRoom => "made room",
            Self::Stopping => "hub stopping",
            Self::ProtocolError | Self::NotUtf8 => "protocol error",
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
            Self::NotUtf8 => (1007, "text message is not UTF-8"),
            Self::TooLarge { limit } => {
                return Some((1009, format!("message is larger than {limit} bytes")));
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
                | Self::TooLarge { .. }
                | Self::TooManyRejects
        )
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
    use crate::protocol::message::RejectCode;
    use crate::status::counts::{CODES, ENDINGS, EVICTIONS};

    #[test]
    fn every_ending_and_every_code_has_its_counter() {
        let endings = [
            Ending::Closed,
            Ending::PingTimeout,
            Ending::Replaced,
            Ending::Refused,
            Ending::Revoked,
            Ending::RateExceeded,
            Ending::MadeRoom,
            Ending::Stopping,
            Ending::ProtocolError,
            Ending::NotUtf8,
            Ending::TooLarge { limit: 1 },
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
