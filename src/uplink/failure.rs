//! Why there is no connection, in words for the log and the status.

use std::io;

use super::reasons;
use super::terms::Version;
use crate::tls_errors::{self, Peer, Told};

/// Why a connection ended or did not come about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failure {
    /// One sentence: what happened and, if someone can, what to do.
    pub(super) sentence: String,
    /// It will not go away by itself.
    pub(super) needs_someone: bool,
    /// The broker closed an established connection, as opposed to a network that went away.
    pub(super) hung_up: bool,
    /// The other end closed the connection, established or not.
    pub(super) closed: bool,
    /// The broker answers, but not what was published.
    pub(super) silent: bool,
    /// The reason code that came with it (CONNACK, DISCONNECT of MQTT 5).
    pub(super) code: Option<u8>,
}

impl Failure {
    /// It may be gone the next time.
    pub(super) fn passing(sentence: impl Into<String>) -> Self {
        Self {
            sentence: sentence.into(),
            needs_someone: false,
            hung_up: false,
            closed: false,
            silent: false,
            code: None,
        }
    }

    /// Someone has to do something.
    pub(super) fn standing(sentence: impl Into<String>) -> Self {
        Self {
            sentence: sentence.into(),
            needs_someone: true,
            ..Self::passing("")
        }
    }

    /// The broker answers pings and acknowledges nothing.
    pub(super) fn silent() -> Self {
        Self {
            silent: true,
            ..Self::passing(
                "the broker answers but acknowledges nothing; it may have closed the channel behind \
                 the connection, as RabbitMQ does for what is larger than its max_message_size",
            )
        }
    }

    /// The broker closed an established connection.
    pub(super) fn hung_up(sentence: impl Into<String>) -> Self {
        Self {
            hung_up: true,
            closed: true,
            ..Self::passing(sentence)
        }
    }

    /// The broker said why it closed the connection, and that has nothing to do with what was
    /// published: it stops, is busy, or another client has the same id.
    pub(super) fn is_explained(&self) -> bool {
        matches!(
            self.code,
            Some(
                0x00 | 0x88
                    | 0x89
                    | 0x8B
                    | 0x8D
                    | 0x8E
                    | 0x96
                    | 0x97
                    | 0x98
                    | 0x9C
                    | 0x9D
                    | 0x9F
                    | 0xA0
            )
        )
    }

    /// Among these reasons, one that a broker may give because of what was published all the same: it is
    /// busy or stops, a quota or a rate is used up.
    pub(super) fn is_excuse(&self) -> bool {
        matches!(self.code, Some(0x89 | 0x8B | 0x96 | 0x97))
    }

    /// An established connection broke.
    pub(super) fn broken(broker: &str, error: &io::Error) -> Self {
        if cause(error).is_some() {
            Self::handshake(broker, error)
        } else if closed(error) {
            Self::hung_up(format!("{broker} closed the connection: {error}"))
        } else {
            Self::passing(format!("the connection to {broker} broke: {error}"))
        }
    }

    /// The broker was not reached, or went without answering. `anonymous`: TLS without a client
    /// certificate; a broker that wants one says so after the handshake, and its word may be lost
    /// in the closing.
    pub(super) fn unanswered(broker: &str, error: &io::Error, anonymous: bool) -> Self {
        if cause(error).is_some() {
            return Self::handshake(broker, error);
        }
        let hint = if anonymous && closed(error) {
            "; if the broker asks for client certificates, set uplink.cert and uplink.key"
        } else {
            ""
        };
        Self {
            closed: closed(error),
            ..Self::passing(format!("cannot connect to {broker}: {error}{hint}"))
        }
    }

    /// The broker went without answering CONNECT.
    pub(super) fn mute(broker: &str) -> Self {
        Self {
            closed: true,
            ..Self::passing(format!(
                "{broker} closed the connection before answering CONNECT"
            ))
        }
    }

    /// CONNACK with a reason.
    pub(super) fn refused(
        broker: &str,
        version: Version,
        code: u8,
        own: &str,
        reference: &str,
    ) -> Self {
        let because = reasons::sentence(code, own, reference);
        let spoken = if code == reasons::UNSUPPORTED_VERSION {
            format!(" with MQTT {}", version.name())
        } else {
            String::new()
        };
        let sentence = format!("{broker} refused the connection{spoken}: {because}");
        Self {
            needs_someone: reasons::meaning(code).needs_someone,
            code: Some(code),
            ..Self::passing(sentence)
        }
    }

    /// DISCONNECT of the broker.
    pub(super) fn disconnected(broker: &str, code: u8, own: &str, reference: &str) -> Self {
        let because = reasons::sentence(code, own, reference);
        Self {
            needs_someone: reasons::meaning(code).needs_someone,
            code: Some(code),
            ..Self::hung_up(format!("{broker} closed the connection: {because}"))
        }
    }

    /// TLS failed.
    pub(super) fn handshake(broker: &str, error: &io::Error) -> Self {
        let Some(cause) = cause(error) else {
            return Self::passing(format!("TLS with {broker} failed: {error}"));
        };
        let peer = Peer {
            who: "the broker",
            trust: "uplink.ca",
            name: "the host in uplink.url",
            own: "uplink.cert and uplink.key",
            shows_own: false,
        };
        let Told { sentence, passing } = tls_errors::tell(cause, peer);
        let sentence = format!("TLS with {broker} failed: {sentence}");
        if passing {
            Self::passing(sentence)
        } else {
            Self::standing(sentence)
        }
    }
}

/// Whether the other end closed the connection.
fn closed(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(
        error.kind(),
        BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof
    )
}

/// What rustls found, when it is behind an IO error.
fn cause(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref::<rustls::Error>()
}
