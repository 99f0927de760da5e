//! A plain rumqttc publisher: what the hub's drain is measured against.

use std::time::Duration;

use anyhow::Context;
use rumqttc::{AsyncClient, Event, EventLoop, MqttOptions, NetworkOptions, Packet, QoS};
use tokio::time::{Instant, timeout};

/// Longer than any of these runs.
const PATIENCE: Duration = Duration::from_secs(60);

/// What is pushed.
#[derive(Debug, Clone)]
pub struct Messages {
    /// Topics, used in turn.
    pub topics: Vec<String>,
    /// Bytes of one payload.
    pub size: usize,
    /// How many messages.
    pub count: usize,
    /// How many may be unacknowledged.
    pub window: u16,
}

/// Publishes with QoS 1 as fast as the window allows; the time from the first publish to the
/// last PUBACK.
///
/// # Errors
/// When the broker fails.
pub async fn push(port: u16, messages: &Messages) -> anyhow::Result<Duration> {
    let mut options = MqttOptions::new("plain", "127.0.0.1", port);
    options.set_inflight(messages.window);
    options.set_max_packet_size(1 << 20, 1 << 20);
    let (client, mut events) = AsyncClient::new(options, usize::from(messages.window));
    let mut network = NetworkOptions::new();
    network.set_tcp_nodelay(true);
    events.set_network_options(network);
    events
        .poll()
        .await
        .context("the publisher cannot connect")?;
    let since = Instant::now();
    let publisher = async {
        for index in 0..messages.count {
            let topic = &messages.topics[index % messages.topics.len()];
            let payload = vec![b'x'; messages.size];
            client
                .publish(topic, QoS::AtLeastOnce, false, payload)
                .await
                .context("the publisher's queue is closed")?;
        }
        anyhow::Ok(())
    };
    let both = async { tokio::try_join!(publisher, pubacks(&mut events, messages.count)) };
    timeout(PATIENCE, both)
        .await
        .context("the publisher was not done within 60 s")??;
    Ok(since.elapsed())
}

async fn pubacks(events: &mut EventLoop, count: usize) -> anyhow::Result<()> {
    let mut acked = 0;
    while acked < count {
        let event = events
            .poll()
            .await
            .context("the publisher lost the broker")?;
        acked += usize::from(matches!(event, Event::Incoming(Packet::PubAck(_))));
    }
    Ok(())
}
