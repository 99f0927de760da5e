//! What is wrong with a TLS handshake, in sentences that name the file to look at. For both sides:
//! the broker, to which the hub is the client, and the devices, to which it is the server.

use rustls::{AlertDescription, CertificateError, Error, InvalidMessage, PeerIncompatible};

/// Who is at the other end, and where this side keeps what it goes by.
#[derive(Debug, Clone, Copy)]
pub struct Peer<'a> {
    /// Such as "the broker".
    pub who: &'a str,
    /// The file with the authorities that its certificate is held against.
    pub trust: &'a str,
    /// Where the name is that its certificate has to have.
    pub name: &'a str,
    /// The files of this side's own certificate and key.
    pub own: &'a str,
    /// Whether this side shows a certificate.
    pub shows_own: bool,
}

/// What to do about a failure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// One sentence, without an end: what is wrong, and where to look.
    pub sentence: String,
    /// It may be gone by itself: a clock that is still wrong, a list that is about to be renewed.
    pub passing: bool,
}

/// Key types that work, for sentences.
const KEYS: &str = "RSA of 2,048 bits and more, ECDSA P-256 or P-384, or Ed25519";

/// Says what happened in a handshake.
#[must_use]
pub fn tell(error: &Error, peer: Peer<'_>) -> Told {
    let Peer { who, own, .. } = peer;
    let sentence = match error {
        Error::InvalidCertificate(error) => return certificate(error, peer),
        Error::AlertReceived(alert) => alert_received(*alert, peer),
        Error::NoCertificatesPresented => {
            format!("{who} showed no certificate, and has to: give it one and its key")
        }
        Error::PeerIncompatible(why) => incompatible(why, who),
        Error::InvalidMessage(
            InvalidMessage::InvalidContentType | InvalidMessage::MessageTooLarge,
        ) => {
            format!(
                "{who} does not speak TLS here: check the port, and whether TLS is on at both ends"
            )
        }
        Error::InvalidMessage(_)
        | Error::InappropriateMessage { .. }
        | Error::InappropriateHandshakeMessage { .. }
        | Error::PeerMisbehaved(_) => format!("{who} breaks the rules of TLS ({error})"),
        Error::DecryptError => format!("what {who} sent cannot be decrypted"),
        Error::InvalidCertRevocationList(_) => {
            format!(
                "a revocation list in {} cannot be used ({error})",
                peer.trust
            )
        }
        Error::InconsistentKeys(_) => {
            format!(
                "key and certificate in {own} do not belong together: name the two that were made together"
            )
        }
        Error::General(why) => format!("TLS with {who} failed ({why})"),
        other => format!("TLS with {who} failed ({other})"),
    };
    Told {
        sentence,
        passing: false,
    }
}

fn incompatible(why: &PeerIncompatible, who: &str) -> String {
    use PeerIncompatible as P;
    match why {
        P::NoSignatureSchemesInCommon | P::NoCertificateRequestSignatureSchemesInCommon => {
            format!("{who} and this side know no common kind of key: use {KEYS}, not P-521")
        }
        P::NoCipherSuitesInCommon | P::NoKxGroupsInCommon => format!(
            "{who} and this side know no common cipher: it needs TLS 1.2 with ECDHE and AES-GCM or \
             ChaCha20, or TLS 1.3"
        ),
        P::Tls12NotOffered
        | P::Tls12NotOfferedOrEnabled
        | P::Tls13RequiredForQuic
        | P::SupportedVersionsExtensionRequired
        | P::ServerDoesNotSupportTls12Or13 => {
            format!("{who} speaks neither TLS 1.2 nor TLS 1.3: update it")
        }
        other => format!("{who} and this side have no TLS in common ({other:?})"),
    }
}

fn alert_received(alert: AlertDescription, peer: Peer<'_>) -> String {
    use AlertDescription as A;
    let Peer { who, own, .. } = peer;
    match alert {
        A::CertificateRequired | A::NoCertificate if !peer.shows_own => {
            format!("{who} wants a client certificate: set {own}")
        }
        A::HandshakeFailure if !peer.shows_own => format!(
            "{who} refused the handshake: it wants a client certificate (then set {own}), or has a \
             key or ciphers that this side does not know (it needs {KEYS})"
        ),
        A::HandshakeFailure => format!(
            "{who} refused the handshake: its key or ciphers are none that this side knows (it \
             needs {KEYS}), or it dislikes {own}"
        ),
        A::UnknownCA => format!(
            "{who} does not know the authority that signed {own}: give it that authority's \
             certificate, or use a certificate of one that it knows"
        ),
        A::CertificateExpired => {
            format!("{who} says that {own} has expired: renew it, or check the clock of {who}")
        }
        A::CertificateRevoked => format!("{who} says that {own} has been revoked: make a new one"),
        A::BadCertificate
        | A::CertificateUnknown
        | A::UnsupportedCertificate
        | A::AccessDenied
        | A::CertificateRequired
        | A::NoCertificate
        | A::DecryptError
        | A::DecodeError
        | A::IllegalParameter => format!(
            "{who} does not accept {own} ({alert:?}): check its names, its purpose, and the \
             authority that signed it"
        ),
        A::UnrecognisedName => {
            format!(
                "{who} has no certificate for the name that was asked for: check {}",
                peer.name
            )
        }
        A::ProtocolVersion | A::InsufficientSecurity | A::InappropriateFallback => {
            format!("{who} speaks no version or cipher of TLS that this side does ({alert:?})")
        }
        other => format!("{who} ended the handshake ({other:?})"),
    }
}

/// Says what is wrong with a certificate of the other side.
fn certificate(error: &CertificateError, peer: Peer<'_>) -> Told {
    use CertificateError as C;
    let Peer {
        who, trust, name, ..
    } = peer;
    let told = |passing: bool, sentence: String| Told { sentence, passing };
    match error {
        // A board without a clock of its own starts in the past, until the network sets it.
        C::Expired | C::ExpiredContext { .. } => told(
            true,
            format!(
                "the certificate of {who}, or one above it, has expired: renew it, or check this \
             machine's clock"
            ),
        ),
        C::NotValidYet | C::NotValidYetContext { .. } => told(
            true,
            format!(
                "the certificate of {who}, or one above it, is not valid yet: check this machine's \
             clock"
            ),
        ),
        C::ExpiredRevocationList | C::ExpiredRevocationListContext { .. } => told(
            true,
            format!("the revocation list in {trust} is out of date: put the newest one there"),
        ),
        C::UnknownRevocationStatus => told(
            false,
            format!("{trust} has no revocation list for the certificate of {who}"),
        ),
        C::Revoked => told(false, format!("the certificate of {who} has been revoked")),
        C::UnknownIssuer => told(
            false,
            format!(
                "the certificate of {who} is signed by an authority that is not in {trust}: put that \
             authority's certificate there, and see that {who} sends those between"
            ),
        ),
        C::NotValidForNameContext { presented, .. } if !presented.is_empty() => told(
            false,
            format!(
                "the certificate of {who} is for other names ({}): check {name}",
                names(presented)
            ),
        ),
        C::NotValidForName | C::NotValidForNameContext { .. } => told(
            false,
            format!(
                "the certificate of {who} is not for this name: check {name}; a common name does not \
             count, it has to be a subject alternative name"
            ),
        ),
        C::InvalidPurpose | C::InvalidPurposeContext { .. } => told(
            false,
            format!(
                "the certificate of {who} is made for another purpose: it needs the extended key usage \
             serverAuth at a server and clientAuth at a client"
            ),
        ),
        C::BadSignature => told(
            false,
            format!(
                "the certificate of {who} is signed by another authority of the same name as the one in \
                 {trust}: put the right one there"
            ),
        ),
        C::UnsupportedSignatureAlgorithmContext { .. }
        | C::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => told(
            false,
            format!(
                "the certificate of {who}, or one above it, has a key or a signature of a kind that is \
             not supported (P-521, SHA-1 or a short RSA key): use {KEYS}, with SHA-256 or more"
            ),
        ),
        other => told(false, unusual(other, peer)),
    }
}

/// What rustls has no word of its own for, and passes on from the library that judges certificates.
fn unusual(error: &CertificateError, peer: Peer<'_>) -> String {
    let Peer { who, trust, .. } = peer;
    let code = code(error);
    match code.as_str() {
        "UnsupportedCertVersion" => format!(
            "the certificate of {who}, or one above it, is of X.509 version 1: make it anew as \
             version 3, which \"openssl x509 -req\" does with -extfile"
        ),
        "CaUsedAsEndEntity" => format!(
            "the certificate of {who} is that of an authority, which may sign others and not stand \
             for itself: put it into {trust}, and give {who} one that it has signed (CA:FALSE)"
        ),
        "EndEntityUsedAsCa" => {
            format!("a certificate above that of {who} may not sign others: it needs CA:TRUE")
        }
        "NameConstraintViolation" => {
            format!("the authority that signed the certificate of {who} may not give such a name")
        }
        "PathLenConstraintViolated" => {
            format!("there are more authorities between {who} and {trust} than one of them allows")
        }
        "UnsupportedSignatureAlgorithm" => format!(
            "the certificate of {who} has a key or a signature of a kind that is not supported: use \
             {KEYS}, with SHA-256 or more"
        ),
        "BadEncoding" => format!("the certificate of {who} cannot be read: make it anew"),
        code => format!("the certificate of {who} cannot be used ({code})"),
    }
}

/// The bare name of what is wrong.
fn code(error: &CertificateError) -> String {
    let text = match error {
        CertificateError::Other(other) => format!("{:?}", other.0),
        other => format!("{other:?}"),
    };
    let end = text.find(|c: char| !c.is_ascii_alphanumeric());
    text[..end.unwrap_or(text.len())].to_owned()
}

fn names(presented: &[String]) -> String {
    /// Enough to see whose it is.
    const SHOWN: usize = 5;
    // As rustls gives them: DnsName("a").
    let bare = |name: &String| {
        let inside = name.split_once('(').map_or(name.as_str(), |(_, rest)| rest);
        let bare = inside.trim_matches(|c| "()\"".contains(c));
        bare.chars()
            .filter(|c| !c.is_control())
            .take(64)
            .collect::<String>()
    };
    let mut shown: Vec<_> = presented.iter().take(SHOWN).map(bare).collect();
    if presented.len() > SHOWN {
        shown.push("…".to_owned());
    }
    shown.join(", ")
}

/// Says what is wrong with a certificate in a file of this side's own, such as an authority's.
#[must_use]
pub fn in_file(error: &Error) -> String {
    match error {
        Error::InvalidCertificate(error) => match code(error).as_str() {
            "UnsupportedCertVersion" => {
                "it is of X.509 version 1: make it anew as version 3, which \"openssl x509 -req\" \
                 does with -extfile"
                    .to_owned()
            }
            "BadEncoding" => "it cannot be read: make it anew".to_owned(),
            "UnsupportedSignatureAlgorithm" => {
                format!("its key is of no kind that works: use {KEYS}")
            }
            other => format!("it cannot be used ({other})"),
        },
        Error::General(_) => format!("its key is of no kind that works: use {KEYS}"),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls::OtherError;

    use super::*;

    const BROKER: Peer<'static> = Peer {
        who: "the broker",
        trust: "uplink.ca",
        name: "the host in uplink.url",
        own: "uplink.cert and uplink.key",
        shows_own: false,
    };

    #[derive(Debug)]
    struct Unheard(#[allow(dead_code)] u8);

    impl std::fmt::Display for Unheard {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("unheard")
        }
    }

    impl std::error::Error for Unheard {}

    #[test]
    fn nothing_comes_out_as_the_library_prints_it() {
        let other = OtherError(Arc::new(Unheard(7)));
        for error in [
            Error::InvalidCertificate(CertificateError::Other(other)),
            Error::InvalidCertificate(CertificateError::UnhandledCriticalExtension),
            Error::AlertReceived(AlertDescription::Unknown(99)),
            Error::NoCertificatesPresented,
            Error::HandshakeNotComplete,
        ] {
            let sentence = tell(&error, BROKER).sentence;
            assert!(!sentence.contains("Other("), "{sentence}");
            assert!(sentence.contains("the broker"), "{sentence}");
        }
    }

    #[test]
    fn only_what_time_may_heal_is_passing() {
        let tell = |error| tell(&Error::InvalidCertificate(error), BROKER);
        assert!(tell(CertificateError::Expired).passing);
        assert!(tell(CertificateError::NotValidYet).passing);
        assert!(!tell(CertificateError::UnknownIssuer).passing);
    }

    #[test]
    fn a_wanted_certificate_and_a_disliked_one_are_told_apart() {
        let alert = Error::AlertReceived(AlertDescription::CertificateRequired);
        let wanted = tell(&alert, BROKER).sentence;
        assert!(
            wanted.contains("wants a client certificate: set uplink.cert"),
            "{wanted}"
        );
        let shown = Peer {
            shows_own: true,
            ..BROKER
        };
        for alert in [
            AlertDescription::BadCertificate,
            AlertDescription::UnknownCA,
        ] {
            let disliked = tell(&Error::AlertReceived(alert), shown).sentence;
            assert!(!disliked.contains("wants"), "{disliked}");
            assert!(
                disliked.contains("uplink.cert and uplink.key"),
                "{disliked}"
            );
        }
    }
}
