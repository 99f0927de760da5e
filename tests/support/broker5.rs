//! A scripted broker of MQTT 5: it reads by rumqttc's codec and answers with bytes, so that a test
//! can say what no codec would.

#![allow(clippy::unwrap_used, missing_docs, unreachable_pub, dead_code)]

use bytes::{Buf, BytesMut};
use rumqttc::v5::mqttbytes::Error;
use rumqttc::v5::mqttbytes::v5::{Connect, LastWill, Packet, Publish};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::broker::soon;

pub struct Broker5 {
    listener: TcpListener,
    pub port: u16,
}

pub struct Peer5 {
    stream: TcpStream,
    buffer: BytesMut,
    pub pings: u32,
    pub filters: Vec<String>,
    /// Filters that the client may not subscribe to.
    pub refuses: fn(&str) -> bool,
}

impl Broker5 {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        Self { listener, port }
    }

    pub async fn accept(&self) -> Peer5 {
        let (stream, _) = soon("a connection", self.listener.accept()).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Peer5 {
            stream,
            buffer: BytesMut::new(),
            pings: 0,
            filters: Vec::new(),
            refuses: |_| false,
        }
    }

    /// The next connection, its CONNECT accepted with these properties.
    pub async fn welcome(&self, properties: &[u8]) -> (Peer5, Connect, LastWill) {
        let mut peer = self.accept().await;
        match peer.read().await {
            Some(Packet::Connect(connect, Some(will), _)) => {
                peer.connack(0, properties).await;
                (peer, connect, will)
            }
            other => panic!("not a CONNECT with a will: {other:?}"),
        }
    }

    /// The same, and the hub's own status is acknowledged too.
    pub async fn welcome_hub(&self, properties: &[u8]) -> Peer5 {
        let (mut peer, ..) = self.welcome(properties).await;
        let online = peer.publish().await;
        assert_eq!(&online.topic[..], b"telehub/barn/status");
        peer.puback(online.pkid, 0).await;
        peer
    }
}

impl Peer5 {
    /// The protocol level of the CONNECT, which must be next, whatever the version.
    pub async fn level(&mut self) -> u8 {
        loop {
            if let [0x10, length, rest @ ..] = &self.buffer[..]
                && (*length >= 0x80 || rest.len() >= usize::from(*length))
                && rest.len() > 8
            {
                // Two bytes of length where the CONNECT is longer than 127 bytes.
                let at = 2 + usize::from(*length >= 0x80) + 6;
                let level = self.buffer[at];
                self.buffer.advance(self.buffer.len());
                return level;
            }
            let read = soon("CONNECT", self.stream.read_buf(&mut self.buffer)).await;
            assert!(read.unwrap() > 0, "closed before CONNECT");
        }
    }

    /// The next packet; pings and subscriptions are answered on the way. `None`: closed.
    pub async fn read(&mut self) -> Option<Packet> {
        loop {
            match Packet::read(&mut self.buffer, None) {
                Ok(Packet::PingReq(_)) => {
                    self.pings += 1;
                    self.raw(&[0xd0, 0]).await;
                }
                Ok(Packet::Subscribe(subscribe)) => {
                    let [high, low] = subscribe.pkid.to_be_bytes();
                    let refused = subscribe
                        .filters
                        .iter()
                        .any(|one| (self.refuses)(&one.path));
                    let reason = if refused { 0x87 } else { 0 };
                    self.filters
                        .extend(subscribe.filters.into_iter().map(|filter| filter.path));
                    self.raw(&[0x90, 4, high, low, 0, reason]).await;
                }
                Ok(Packet::Unsubscribe(unsubscribe)) => {
                    let [high, low] = unsubscribe.pkid.to_be_bytes();
                    self.raw(&[0xb0, 4, high, low, 0, 0]).await;
                }
                Ok(packet) => return Some(packet),
                // The library does not read a DISCONNECT without a reason.
                Err(Error::PayloadRequired) => return None,
                Err(Error::InsufficientBytes(_)) => {
                    let read = soon("a packet", self.stream.read_buf(&mut self.buffer)).await;
                    if read.unwrap_or(0) == 0 {
                        return None;
                    }
                }
                Err(error) => panic!("the client sent something that is no packet: {error}"),
            }
        }
    }

    pub async fn publish(&mut self) -> Publish {
        match self.read().await {
            Some(Packet::Publish(publish)) => publish,
            other => panic!("not a PUBLISH: {other:?}"),
        }
    }

    pub async fn publishes(&mut self, count: usize) -> Vec<Publish> {
        let mut publishes = Vec::with_capacity(count);
        while publishes.len() < count {
            publishes.push(self.publish().await);
        }
        publishes
    }

    pub async fn connack(&mut self, reason: u8, properties: &[u8]) {
        let length = u8::try_from(properties.len()).unwrap();
        self.raw(&[0x20, length + 3, 0, reason, length]).await;
        self.raw(properties).await;
    }

    pub async fn puback(&mut self, id: u16, reason: u8) {
        let [high, low] = id.to_be_bytes();
        match reason {
            0 => self.raw(&[0x40, 2, high, low]).await,
            _ => self.raw(&[0x40, 3, high, low, reason]).await,
        }
    }

    pub async fn raw(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes).await;
        let _ = self.stream.flush().await;
    }

    pub async fn closed(&mut self) {
        while self.read().await.is_some() {}
    }

    pub async fn is_silent_for(&mut self, time: std::time::Duration) -> bool {
        tokio::time::timeout(time, self.read()).await.is_err()
    }
}
