//! From an address to the broker's consent: TCP, TLS, CONNECT, CONNACK.

use std::io;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use rumqttc::v5::mqttbytes::v5::ConnAckProperties;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::Prepared;
use super::frames::{self, Frames, Next};
use super::incoming::{self, Answer};
use super::packets::{self, Hello};
use super::stream::Stream;
use super::wire::Wire;
use crate::uplink::Settings;
use crate::uplink::failure::Failure;
use crate::uplink::publication::MAX_PACKET;
use crate::uplink::reasons::{SUCCESS, UNSUPPORTED_VERSION};
use crate::uplink::route::Target;
use crate::uplink::terms::{Terms, Verdict, Version};
use crate::uplink::transport::{Attempt, Missed};

/// Bytes of a packet that a broker has to take: a gap record with the longest ids has some 900.
const LEAST_PACKET: usize = 1_024;

/// Seconds. Keep-alive is two bytes of whole seconds on the wire; 0 would switch it off.
const KEEP_ALIVE: RangeInclusive<u64> = 1..=65_535;

/// Bytes of the largest packet that one takes who reads what hubs publish.
const KEPT_PACKET: usize = 8 << 20;

impl From<Failure> for Missed {
    fn from(failure: Failure) -> Self {
        Self {
            failure,
            version: Verdict::Open,
        }
    }
}

/// TCP and TLS.
pub(super) async fn open(
    tls: Option<Arc<rustls::ClientConfig>>,
    target: &Target,
) -> Result<Stream, Failure> {
    let name = target.name();
    let unanswered = |error: &io::Error| Failure::unanswered(&name, error, target.is_anonymous());
    let tcp = match target.address {
        Some(address) => TcpStream::connect(address).await,
        None => TcpStream::connect((target.host.as_str(), target.port)).await,
    };
    let tcp = tcp.map_err(|error| unanswered(&error))?;
    tcp.set_nodelay(true).map_err(|error| unanswered(&error))?;
    let Some(config) = tls else {
        return Ok(Stream::Tcp(tcp));
    };
    let host = ServerName::try_from(target.host.clone()).map_err(|_| {
        Failure::standing(format!(
            "{name}: the host is not a name that a certificate can have: check uplink.url"
        ))
    })?;
    let tls = TlsConnector::from(config).connect(host, tcp).await;
    let tls = tls.map_err(|error| Failure::handshake(&name, &error))?;
    Ok(Stream::Tls(Box::new(tls)))
}

/// Connects, says CONNECT and reads the CONNACK.
pub(super) async fn connect(
    settings: &Settings,
    prepared: Prepared,
    attempt: &Attempt,
) -> Result<Wire, Missed> {
    let (broker, target, version) = (&settings.broker, &attempt.target, attempt.version);
    let name = target.name();
    let mut stream = open(prepared.tls, target).await?;
    // What the broker is told and what the pings keep to must be the same: whole seconds.
    let seconds = broker.keep_alive.as_secs();
    let seconds = seconds.clamp(*KEEP_ALIVE.start(), *KEEP_ALIVE.end());
    let password = prepared.password.unwrap_or_default();
    let hello = Hello {
        client_id: &broker.client_id,
        keep_alive: u16::try_from(seconds).unwrap_or(u16::MAX),
        login: broker.username.as_deref().map(|name| (name, password)),
        will: attempt.will.as_ref(),
        keeps: attempt.keeps,
        max_packet: if attempt.keeps {
            KEPT_PACKET
        } else {
            frames::MAX_PACKET
        },
    };
    let hello = packets::connect(version, hello)
        .map_err(|error| Failure::standing(format!("CONNECT cannot be written: {error}")))?;
    let hung_up = |error: Option<io::Error>| {
        let failure = match error {
            Some(error) => Failure::unanswered(&name, &error, target.is_anonymous()),
            None => Failure::mute(&name),
        };
        Missed {
            version: if failure.closed {
                Verdict::HungUp
            } else {
                Verdict::Open
            },
            failure,
        }
    };
    let wrote = async {
        stream.write_all(&hello).await?;
        stream.flush().await
    };
    // A broker that refuses the version may have answered and closed before all was written.
    let wrote = wrote.await;
    let mut input = BytesMut::with_capacity(1024);
    let mut frames = Frames::new(0);
    let mut received = 0;
    let (first, body) = loop {
        match frames.next(&mut input) {
            Ok(Next::Packet(first, body)) => break (first, body),
            Ok(Next::Skipped(_)) => {
                return Err(foreign(
                    &name,
                    version,
                    "it did not answer CONNECT with CONNACK",
                ));
            }
            Ok(Next::More) => {}
            Err(bad) => return Err(foreign(&name, version, &bad.to_string())),
        }
        match stream.read_buf(&mut input).await {
            Ok(0) => return Err(hung_up(wrote.err())),
            Ok(read) => received += read,
            Err(error) => return Err(hung_up(Some(error))),
        }
    };
    let answer =
        incoming::connack(first, body, version).map_err(|error| foreign(&name, version, &error))?;
    let mut terms = accepted(&name, version, answer)?;
    let asked = Duration::from_secs(seconds);
    // Sooner than the broker wants is allowed, and finds a dead link as soon as was asked for.
    let keep_alive = terms.keep_alive.map_or(asked, |theirs| theirs.min(asked));
    terms.keep_alive = Some(keep_alive);
    let wire = Wire::new(stream, input, terms, keep_alive, settings, name);
    let wire = wire.with_traffic(hello.len(), received);
    Ok(if attempt.keeps {
        wire.waiting_for_acks()
    } else {
        wire
    })
}

/// Something that speaks, but not MQTT.
fn foreign(name: &str, version: Version, what: &str) -> Missed {
    let version = version.name();
    Failure::passing(format!("{name} does not keep to MQTT {version}: {what}")).into()
}

fn accepted(name: &str, version: Version, answer: Answer) -> Result<Terms, Missed> {
    let read = answer.properties;
    if answer.reason == SUCCESS && !(answer.old_form && version == Version::V5) {
        let terms = read.map_or_else(|| Terms::of(version), |read| terms(version, read));
        return usable(name, terms);
    }
    let (words, reference) = read.map_or_else(Default::default, |read| {
        let words = read.reason_string.unwrap_or_default();
        (words, read.server_reference.unwrap_or_default())
    });
    // A broker that takes a CONNECT of MQTT 5 for one of 3.1.1 would misread what follows.
    let reason = if answer.reason == SUCCESS {
        UNSUPPORTED_VERSION
    } else {
        answer.reason
    };
    Err(Missed {
        failure: Failure::refused(name, version, reason, &words, &reference),
        version: if reason == UNSUPPORTED_VERSION {
            Verdict::Unsupported
        } else {
            Verdict::Open
        },
    })
}

fn terms(version: Version, read: ConnAckProperties) -> Terms {
    let default = Terms::of(version);
    Terms {
        version,
        window: read.receive_max.unwrap_or(default.window),
        max_packet: read.max_packet_size.map_or(MAX_PACKET, |bytes| {
            usize::try_from(bytes).unwrap_or(MAX_PACKET).min(MAX_PACKET)
        }),
        retain: read.retain_available != Some(0),
        wildcards: read.wildcard_subscription_available != Some(0),
        aliases: read.topic_alias_max.unwrap_or(default.aliases),
        max_qos: read.max_qos,
        client_id: read.assigned_client_identifier,
        keep_alive: read
            .server_keep_alive
            // 0 switches the broker's off; ours goes on, because it finds dead links.
            .filter(|seconds| *seconds > 0)
            .map(|seconds| Duration::from_secs(seconds.into())),
    }
}

/// Whether a hub can work under these terms.
fn usable(name: &str, terms: Terms) -> Result<Terms, Missed> {
    if terms.max_qos == Some(0) {
        return Err(Failure::standing(format!(
            "{name} takes QoS 0 alone (Maximum QoS 0), so it cannot acknowledge anything: allow \
             QoS 1 there, or use another broker"
        ))
        .into());
    }
    if terms.window == 0 {
        return Err(foreign(name, terms.version, "its Receive Maximum is 0"));
    }
    if terms.max_packet == 0 {
        return Err(foreign(name, terms.version, "its Maximum Packet Size is 0"));
    }
    if terms.max_packet < LEAST_PACKET {
        let bytes = terms.max_packet;
        return Err(Failure::standing(format!(
            "{name} takes packets of {bytes} bytes at most (Maximum Packet Size), and a gap record or a status \
             may have {LEAST_PACKET}: raise its limit (max_packet_size)"
        ))
        .into());
    }
    Ok(terms)
}
