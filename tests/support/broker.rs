//! An MQTT broker that does exactly what a test tells it, right or wrong: the test accepts the
//! connection, reads each packet and decides what to answer. On rumqttc's own codec.

#![allow(clippy::unwrap_used, missing_docs, unreachable_pub)]

use std::fmt::Debug;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use rumqttc::{
    ConnAck, Connect, ConnectReturnCode, Packet, PubAck, PubRec, Publish, QoS, SubAck,
    SubscribeReasonCode, UnsubAck, mqttbytes,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket};
use tokio_rustls::TlsAcceptor;

/// A test that waits this long waits for ever.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Waits for what must come.
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future)
        .await
        .unwrap_or_else(|_| panic!("{what} did not happen within {PATIENCE:?}"))
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A listening broker.
pub struct Broker {
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    pub port: u16,
}

impl Broker {
    /// On a free port of 127.0.0.1.
    pub async fn start() -> Self {
        Self::on("127.0.0.1:0").await
    }

    /// On the given address.
    pub async fn on(address: &str) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        Self::of(listener, None)
    }

    /// With small socket buffers, so that a broker that does not read is noticed soon.
    pub fn with_small_buffers() -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        Self::of(socket.listen(16).unwrap(), None)
    }

    /// Speaks TLS.
    pub async fn start_tls(config: Arc<rustls::ServerConfig>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self::of(listener, Some(config.into()))
    }

    fn of(listener: TcpListener, tls: Option<TlsAcceptor>) -> Self {
        let port = listener.local_addr().unwrap().port();
        Self {
            listener,
            tls,
            port,
        }
    }

    /// The next TCP connection; with TLS, its handshake, which may fail.
    pub async fn try_accept(&self) -> Result<Peer, std::io::Error> {
        let (stream, _) = soon("a connection", self.listener.accept()).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let stream: Box<dyn Stream> = match &self.tls {
            None => Box::new(stream),
            Some(tls) => Box::new(tls.accept(stream).await?),
        };
        Ok(Peer {
            stream,
            buffer: BytesMut::new(),
            subscriptions: Vec::new(),
            deaf: false,
            refuses: |_| false,
        })
    }

    /// The next connection, before anything is read from it.
    pub async fn accept(&self) -> Peer {
        self.try_accept().await.unwrap()
    }

    /// The next connection, its CONNECT accepted; and the CONNECT.
    pub async fn welcome(&self) -> (Peer, Connect) {
        let mut peer = self.accept().await;
        let connect = peer.connect().await;
        peer.connack(ConnectReturnCode::Success, false).await;
        (peer, connect)
    }

    /// Like [`Self::welcome`], and the hub's own status is acknowledged too.
    pub async fn welcome_hub(&self) -> Peer {
        let (mut peer, _) = self.welcome().await;
        let online = peer.publish().await;
        assert!(online.topic.ends_with("/status"), "{}", online.topic);
        peer.puback(online.pkid).await;
        peer
    }
}

/// One connection, as the broker sees it. Dropping it closes it.
pub struct Peer {
    stream: Box<dyn Stream>,
    buffer: BytesMut,
    /// Topic filters that the client is subscribed to, by what has been read of it.
    pub subscriptions: Vec<String>,
    /// It delivers nothing.
    deaf: bool,
    /// Filters that the client may not subscribe to.
    pub refuses: fn(&str) -> bool,
}

impl Peer {
    /// The next packet; `None` once the client has closed. Pings and subscriptions are answered
    /// on the way.
    pub async fn read(&mut self) -> Option<Packet> {
        loop {
            match Packet::read(&mut self.buffer, usize::MAX) {
                Ok(Packet::PingReq) => self.write(&Packet::PingResp).await,
                Ok(Packet::Subscribe(subscribe)) => {
                    let refused = subscribe
                        .filters
                        .iter()
                        .any(|one| (self.refuses)(&one.path));
                    let agreed = vec![match refused {
                        true => SubscribeReasonCode::Failure,
                        false => SubscribeReasonCode::Success(QoS::AtLeastOnce),
                    }];
                    self.write(&Packet::SubAck(SubAck::new(subscribe.pkid, agreed)))
                        .await;
                    // The hub's own status and its probe are there on every connection.
                    let filters = subscribe.filters.into_iter().map(|filter| filter.path);
                    let states = |filter: &String| {
                        filter.ends_with("/status") && filter.matches('/').count() == 3
                    };
                    self.subscriptions.extend(filters.filter(states));
                }
                Ok(Packet::Unsubscribe(unsubscribe)) => {
                    self.write(&Packet::UnsubAck(UnsubAck::new(unsubscribe.pkid)))
                        .await;
                    self.subscriptions
                        .retain(|filter| !unsubscribe.topics.contains(filter));
                }
                // As a broker does that keeps what it promises.
                Ok(Packet::Publish(probe)) if probe.topic.ends_with("/_probe/data") => {
                    self.puback(probe.pkid).await;
                    if self.deaf {
                        continue;
                    }
                    let mut echo = probe;
                    (echo.qos, echo.pkid) = (QoS::AtMostOnce, 0);
                    self.write(&Packet::Publish(echo)).await;
                }
                Ok(packet) => return Some(packet),
                Err(mqttbytes::Error::InsufficientBytes(_)) => {
                    let read = soon("a packet", self.stream.read_buf(&mut self.buffer)).await;
                    if read.unwrap_or(0) == 0 {
                        return None;
                    }
                }
                Err(error) => panic!("the client sent something that is no packet: {error}"),
            }
        }
    }

    /// The CONNECT, which must be next.
    pub async fn connect(&mut self) -> Connect {
        match self.read().await {
            Some(Packet::Connect(connect)) => connect,
            other => panic!("not a CONNECT: {other:?}"),
        }
    }

    /// The PUBLISH, which must be next.
    pub async fn publish(&mut self) -> Publish {
        match self.read().await {
            Some(Packet::Publish(publish)) => publish,
            other => panic!("not a PUBLISH: {other:?}"),
        }
    }

    /// The next so many publishes.
    pub async fn publishes(&mut self, count: usize) -> Vec<Publish> {
        let mut publishes = Vec::with_capacity(count);
        while publishes.len() < count {
            publishes.push(self.publish().await);
        }
        publishes
    }

    /// Answers CONNECT.
    pub async fn connack(&mut self, code: ConnectReturnCode, session_present: bool) {
        self.write(&Packet::ConnAck(ConnAck::new(code, session_present)))
            .await;
    }

    /// Acknowledges a publish.
    pub async fn puback(&mut self, id: u16) {
        self.write(&Packet::PubAck(PubAck::new(id))).await;
    }

    /// Acknowledges several in one write.
    pub async fn pubacks(&mut self, ids: impl IntoIterator<Item = u16>) {
        let mut bytes = BytesMut::new();
        for id in ids {
            Packet::PubAck(PubAck::new(id))
                .write(&mut bytes, usize::MAX)
                .unwrap();
        }
        self.raw(&bytes).await;
    }

    /// Sends a message as a broker does for a new subscription, or, without `retain`, for what
    /// is published.
    pub async fn deliver(&mut self, topic: &str, payload: &str, retain: bool) {
        let mut publish = Publish::new(topic, QoS::AtMostOnce, payload);
        publish.retain = retain;
        self.write(&Packet::Publish(publish)).await;
    }

    /// Answers a publish as if it had QoS 2.
    pub async fn pubrec(&mut self, id: u16) {
        self.write(&Packet::PubRec(PubRec::new(id))).await;
    }

    /// Acknowledges everything as it comes, until the client is gone.
    pub async fn acknowledge_all(&mut self) {
        while let Some(packet) = self.read().await {
            if let Packet::Publish(publish) = packet {
                self.puback(publish.pkid).await;
            }
        }
    }

    /// Acknowledges everything, the hub's probe too, and delivers nothing.
    pub async fn acknowledge_deaf(&mut self) {
        self.deaf = true;
        self.acknowledge_all().await;
    }

    /// Acknowledges everything until the client says DISCONNECT; `false` if it never does.
    pub async fn acknowledge_until_disconnect(&mut self) -> bool {
        while let Some(packet) = self.read().await {
            match packet {
                Packet::Publish(publish) => self.puback(publish.pkid).await,
                Packet::Disconnect => return true,
                _ => {}
            }
        }
        false
    }

    /// Sends bytes as they are. A client that is gone does not mind.
    pub async fn raw(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes).await;
        let _ = self.stream.flush().await;
    }

    /// Waits until the client has closed; what it still sends is dropped.
    pub async fn closed(&mut self) {
        while self.read().await.is_some() {}
    }

    /// Whether nothing comes for this long. The connection must stay open meanwhile.
    pub async fn is_silent_for(&mut self, time: Duration) -> bool {
        tokio::time::timeout(time, self.read()).await.is_err()
    }

    async fn write(&mut self, packet: &Packet) {
        let mut bytes = BytesMut::new();
        packet.write(&mut bytes, usize::MAX).unwrap();
        self.raw(&bytes).await;
    }
}

impl Debug for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Peer").finish_non_exhaustive()
    }
}
