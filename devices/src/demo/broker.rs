//! The embedded broker, and the subscriber that hears what it gets.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::Context;
use rumqttc::{AsyncClient, Event, MqttOptions, Packet, QoS};
use rumqttd::{Broker, Config, ConnectionSettings, RouterConfig, ServerSettings};

use super::ledger::Ledger;

/// Largest message that broker and subscriber take: a burst of the vibration sensor has 40 KB.
const MAX_PACKET: usize = 1024 * 1024;
/// Messages that the broker may have unacknowledged with one client.
const INFLIGHT: u16 = 200;

/// Starts a broker. It cannot be stopped; it ends with the process.
///
/// # Errors
/// When there is no thread for it.
pub fn start(port: u16) -> anyhow::Result<SocketAddr> {
    let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let settings = ServerSettings {
        name: "demo".into(),
        listen,
        tls: None,
        next_connection_delay_ms: 1,
        connections: ConnectionSettings {
            connection_timeout_ms: 5000,
            max_payload_size: MAX_PACKET,
            max_inflight_count: usize::from(INFLIGHT),
            auth: None,
            external_auth: None,
            dynamic_filters: true,
        },
    };
    let config = Config {
        id: 0,
        router: RouterConfig {
            max_connections: 32,
            max_outgoing_packet_count: 200,
            max_segment_size: 16 * MAX_PACKET,
            max_segment_count: 4,
            ..RouterConfig::default()
        },
        v4: Some(HashMap::from([("1".to_owned(), settings)])),
        ..Config::default()
    };
    thread::Builder::new()
        .name("broker".into())
        .spawn(move || {
            if let Err(error) = Broker::new(config).start() {
                eprintln!("the broker has ended: {error}");
            }
        })
        .context("cannot start the broker")?;
    Ok(listen)
}

/// Enters everything that the broker gets into the ledger, for ever.
pub async fn listen(broker: SocketAddr, ledger: Arc<Mutex<Ledger>>) {
    /// Pause before another attempt to reach a broker that is still starting.
    const RETRY: Duration = Duration::from_millis(100);
    let mut options = MqttOptions::new("demo-view", broker.ip().to_string(), broker.port());
    options.set_max_packet_size(MAX_PACKET, MAX_PACKET);
    options.set_keep_alive(Duration::from_secs(60));
    let (client, mut events) = AsyncClient::new(options, 16);
    loop {
        match events.poll().await {
            Ok(Event::Incoming(Packet::ConnAck(_))) => {
                // The queue holds sixteen and is empty after a connect.
                let _ = client.try_subscribe("telehub/#", QoS::AtLeastOnce);
            }
            Ok(Event::Incoming(Packet::SubAck(_))) => {
                ledger
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .listening = true;
            }
            Ok(Event::Incoming(Packet::Publish(publish))) => {
                let mut ledger = ledger.lock().unwrap_or_else(PoisonError::into_inner);
                ledger.received(&publish.topic, &publish.payload);
            }
            Ok(_) => {}
            Err(_) => tokio::time::sleep(RETRY).await,
        }
    }
}
