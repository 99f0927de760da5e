//! Why there is no connection, in words for the log and the status.

use std::io;

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
}

impl Failure {
    /// It may be gone the next time.
    pub(super) fn passing(sentence: impl Into<String>) -> Self {
        Self {
            sentence: sentence.into(),
            needs_someone: false,
            hung_up: false,
        }
    }

    /// Someone has to do something.
    pub(super) fn standing(sentence: impl Into<String>) -> Self {
        Self {
            sentence: sentence.into(),
            needs_someone: true,
            hung_up: false,
        }
    }

    /// The broker closed an established connection.
    pub(super) fn hung_up(sentence: impl Into<String>) -> Self {
        Self {
            hung_up: true,
            ..Self::passing(sentence)
        }
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
        Self::passing(format!("cannot connect to {broker}: {error}{hint}"))
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
