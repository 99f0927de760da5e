//! The one door to rumqttc: one connection, from CONNECT to its end.
//!
//! What must hold here: the future of [`door::Wire::next`] is polled to its end and never dropped
//! half-way, except together with the wire. The library writes and connects inside of it and
//! would lose packets.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use rumqttc::mqttbytes::Error as PacketError;
use rumqttc::{
    AsyncClient, ConnectReturnCode, ConnectionError, Event, EventLoop, Incoming, LastWill,
    MqttOptions, NetworkOptions, Outgoing, QoS, StateError, SubscribeReasonCode, TlsConfiguration,
    TlsError, Transport,
};

use super::door::{self, Signal};
use super::failure::Failure;
use super::publication::{MAX_PACKET, Publication};
use super::{Settings, credentials};

/// Bytes of one packet from the broker. The hub subscribes to nothing but its devices' states,
/// which are below 1 KiB; beside them it gets acknowledgements of a few bytes.
const MAX_INCOMING: usize = 4 << 10;

/// Seconds. Keep-alive is two bytes of whole seconds on the wire; 0 would switch it off.
const KEEP_ALIVE: RangeInclusive<u64> = 1..=65_535;

/// The library.
#[derive(Debug, Clone, Copy)]
pub(super) struct Library;

impl door::Dial for Library {
    type Link = Link;
    type Wire = Wire;

    async fn dial(
        &self,
        settings: &Arc<Settings>,
        will: Publication,
        capacity: u16,
    ) -> Result<(Link, Wire), Failure> {
        let settings = settings.clone();
        tokio::task::spawn_blocking(move || prepare(&settings, will, capacity))
            .await
            .map_err(|error| Failure::passing(format!("the connect was broken off: {error}")))?
    }

    fn chance(&self) -> u64 {
        // The keys of a hasher are random.
        RandomState::new().build_hasher().finish()
    }
}

/// The writing end.
#[derive(Debug)]
pub(super) struct Link(AsyncClient);

impl door::Link for Link {
    fn publish(&self, publication: Publication) -> Result<(), Failure> {
        let Publication {
            topic,
            payload,
            retain,
        } = publication;
        self.0
            .try_publish(topic, QoS::AtLeastOnce, retain, payload)
            .map_err(|_| Failure::passing("the queue to the MQTT library overflowed"))
    }

    fn subscribe(&self, filter: &str) -> Result<(), Failure> {
        self.0
            .try_subscribe(filter, QoS::AtLeastOnce)
            .map_err(|_| Failure::passing("the queue to the MQTT library overflowed"))
    }

    fn unsubscribe(&self, filter: &str) -> bool {
        self.0.try_unsubscribe(filter).is_ok()
    }

    fn disconnect(&self) {
        // A full queue means that the goodbye is not heard; the last will says the same.
        let _ = self.0.try_disconnect();
    }
}

/// The reading end, which also does the work.
pub(super) struct Wire {
    events: EventLoop,
    broker: String,
    patience: Duration,
    connected: bool,
    /// TLS without a client certificate. A broker that wants one says so after the handshake, and
    /// its word may be lost in the closing.
    anonymous: bool,
}

/// Reads the files and prepares a connection for `capacity` unacknowledged publishes. Blocks.
fn prepare(settings: &Settings, will: Publication, capacity: u16) -> Result<(Link, Wire), Failure> {
    let broker = &settings.broker;
    // What the broker is told and what the pings keep to must be the same: whole seconds.
    let keep_alive = broker
        .keep_alive
        .as_secs()
        .clamp(*KEEP_ALIVE.start(), *KEEP_ALIVE.end());
    let mut options = MqttOptions::new(&broker.client_id, &broker.host, broker.port);
    options
        .set_clean_session(true)
        .set_keep_alive(Duration::from_secs(keep_alive))
        .set_max_packet_size(MAX_INCOMING, MAX_PACKET)
        // One more than are ever out: see `ledger`.
        .set_inflight(capacity + 1)
        .set_last_will(LastWill::new(
            will.topic,
            will.payload,
            QoS::AtLeastOnce,
            will.retain,
        ));
    let password = match &broker.password_file {
        Some(file) => Some(credentials::password(file).map_err(Failure::standing)?),
        None => None,
    };
    if let Some(username) = &broker.username {
        options.set_credentials(username, password.unwrap_or_default());
    }
    let mut scheme = "mqtt";
    if let Some(tls) = &broker.tls {
        scheme = "mqtts";
        let config = credentials::tls(tls).map_err(Failure::standing)?;
        options.set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(config)));
    }
    // Room for every publish of the window, a subscription and its end, and the DISCONNECT.
    let (client, mut events) = AsyncClient::new(options, usize::from(capacity) + 3);
    let mut network = NetworkOptions::new();
    network.set_tcp_nodelay(true);
    network.set_connection_timeout(settings.pace.patience.as_secs().max(1));
    events.set_network_options(network);
    let wire = Wire {
        events,
        broker: format!("{scheme}://{}:{}", broker.host, broker.port),
        patience: settings.pace.patience,
        connected: false,
        anonymous: broker.tls.as_ref().is_some_and(|tls| tls.client.is_none()),
    };
    Ok((Link(client), wire))
}

impl door::Wire for Wire {
    async fn next(&mut self) -> Result<Signal, Failure> {
        loop {
            match self.events.poll().await {
                Ok(event) => {
                    if let Some(signal) = signal(&event)? {
                        self.connected |= signal == Signal::Connected;
                        return Ok(signal);
                    }
                }
                Err(error) => return Err(self.explain(&error)),
            }
        }
    }

    fn leftovers(&mut self) -> Vec<Signal> {
        let events = std::mem::take(&mut self.events.state.events);
        events
            .iter()
            .map_while(|event| signal(event).ok())
            .flatten()
            .collect()
    }

    fn broker(&self) -> &str {
        &self.broker
    }
}

impl Wire {
    fn explain(&self, error: &ConnectionError) -> Failure {
        let broker = &self.broker;
        let patience = self.patience.as_secs();
        match error {
            ConnectionError::ConnectionRefused(code) => refused(broker, *code),
            ConnectionError::NetworkTimeout => {
                Failure::passing(format!("{broker} did not answer within {patience} s"))
            }
            ConnectionError::FlushTimeout => {
                Failure::passing(format!("{broker} did not take any data for {patience} s"))
            }
            ConnectionError::Tls(error) => tls(broker, error),
            ConnectionError::Io(error) => self.io(error),
            ConnectionError::MqttState(
                StateError::Io(error) | StateError::Deserialization(PacketError::Io(error)),
            ) => self.io(error),
            ConnectionError::MqttState(StateError::ConnectionAborted) if self.connected => {
                Failure::hung_up(format!("{broker} closed the connection"))
            }
            ConnectionError::MqttState(StateError::ConnectionAborted) => Failure::passing(format!(
                "{broker} closed the connection before answering CONNECT"
            )),
            ConnectionError::MqttState(StateError::AwaitPingResp) => {
                Failure::passing(format!("{broker} does not answer pings"))
            }
            ConnectionError::MqttState(StateError::Unsolicited(id)) => Failure::passing(format!(
                "{broker} acknowledged packet {id}, which it was not sent"
            )),
            error => Failure::passing(format!("{broker} does not keep to MQTT 3.1.1: {error}")),
        }
    }

    fn io(&self, error: &io::Error) -> Failure {
        if self.connected {
            Failure::broken(&self.broker, error)
        } else {
            Failure::unanswered(&self.broker, error, self.anonymous)
        }
    }
}

/// What an event of the library means to the hub; `None`: nothing.
fn signal(event: &Event) -> Result<Option<Signal>, Failure> {
    Ok(match event {
        Event::Incoming(Incoming::ConnAck(_)) => Some(Signal::Connected),
        Event::Incoming(Incoming::PubAck(ack)) => Some(Signal::Acked(ack.pkid)),
        Event::Outgoing(Outgoing::Publish(id)) if *id != 0 => Some(Signal::Sent(*id)),
        Event::Outgoing(Outgoing::Disconnect) => Some(Signal::SaidGoodbye),
        // A publish that meets its own id: the window was not kept.
        Event::Outgoing(Outgoing::AwaitAck(id)) => {
            return Err(Failure::passing(format!("packet id {id} is still in use")));
        }
        Event::Incoming(Incoming::SubAck(ack)) => Some(Signal::Subscribed(
            !ack.return_codes.contains(&SubscribeReasonCode::Failure),
        )),
        Event::Incoming(Incoming::Publish(publish)) if publish.retain => Some(Signal::Retained {
            topic: publish.topic.clone(),
            payload: publish.payload.clone(),
        }),
        // A broker may be set up to send things unasked.
        Event::Incoming(Incoming::PingResp | Incoming::UnsubAck(_) | Incoming::Publish(_))
        | Event::Outgoing(_) => None,
        Event::Incoming(_) => {
            return Err(Failure::passing(
                "the broker sent a packet that answers nothing",
            ));
        }
    })
}

fn refused(broker: &str, code: ConnectReturnCode) -> Failure {
    let because = match code {
        ConnectReturnCode::BadUserNamePassword => {
            "bad user name or password: check uplink.username and uplink.password_file"
        }
        ConnectReturnCode::NotAuthorized => {
            "not authorized: check uplink.username, uplink.password_file and the broker's rules"
        }
        ConnectReturnCode::BadClientId => {
            "client identifier rejected: choose another uplink.client_id"
        }
        ConnectReturnCode::RefusedProtocolVersion => {
            "it does not speak MQTT 3.1.1: use a broker that does"
        }
        ConnectReturnCode::ServiceUnavailable | ConnectReturnCode::Success => {
            return Failure::passing(format!(
                "{broker} refused the connection: server unavailable; it is tried again"
            ));
        }
    };
    Failure::standing(format!("{broker} refused the connection: {because}"))
}

fn tls(broker: &str, error: &TlsError) -> Failure {
    match error {
        TlsError::Io(error) => Failure::handshake(broker, error),
        TlsError::DNSName(_) => Failure::standing(format!(
            "{broker}: the host is not a name that a certificate can have: check uplink.url"
        )),
        error => Failure::standing(format!("TLS with {broker} failed: {error}")),
    }
}
