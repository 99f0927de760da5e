//! One connection of a rogue: TCP, the handshake by hand, and listening to what the hub says.

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::mpsc::UnboundedSender;
use tokio::time::{Instant, sleep_until, timeout};

use super::frame::{self, BINARY, CLOSE, PING, TEXT};
use super::tally::{Tally, count};
use crate::client::Rng;
use crate::wire::Encoding;
use crate::wire::message::FromHub;

/// An answer to a handshake takes no longer; a hub has 5 s for it by default.
const ANSWER: Duration = Duration::from_secs(10);

/// One rogue device.
pub struct Rogue {
    pub hub: SocketAddr,
    /// Where its connections come from.
    pub from: Option<IpAddr>,
    pub id: String,
    pub token: Option<String>,
    pub rng: Rng,
    /// When to stop.
    pub until: Instant,
    pub tally: Arc<Mutex<Tally>>,
}

/// A command of the hub.
pub struct Asked {
    pub id: String,
    pub name: String,
    /// How long the hub waits for the answer.
    pub timeout: Duration,
}

/// What the hub says.
pub struct Ear {
    half: OwnedReadHalf,
    received: Vec<u8>,
    /// Who is told of commands.
    asked: Option<UnboundedSender<Asked>>,
}

impl Rogue {
    /// The counts.
    pub fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A random number below `limit`, which is at least 1.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.rng.bits() % limit
    }

    /// Some random bytes.
    pub fn noise(&mut self, len: usize) -> Vec<u8> {
        std::iter::repeat_with(|| self.rng.bits() as u8)
            .take(len)
            .collect()
    }

    /// Connects. `buffer`: what the kernel may receive before the rogue reads it, in bytes.
    pub async fn tcp(&self, buffer: Option<u32>) -> io::Result<TcpStream> {
        let connect = async {
            let socket = match self.hub {
                SocketAddr::V4(_) => TcpSocket::new_v4()?,
                SocketAddr::V6(_) => TcpSocket::new_v6()?,
            };
            if let Some(from) = self.from {
                socket.bind((from, 0).into())?;
            }
            if let Some(buffer) = buffer {
                socket.set_recv_buffer_size(buffer)?;
            }
            let stream = socket.connect(self.hub).await?;
            stream.set_nodelay(true)?;
            io::Result::Ok(stream)
        };
        match connect.await {
            Ok(stream) => {
                self.tally().connections += 1;
                Ok(stream)
            }
            Err(error) => {
                self.tally().unreachable += 1;
                Err(error)
            }
        }
    }

    /// The handshake as the contract has it.
    pub fn request(&self, token: Option<&str>) -> String {
        let authorization = token.map_or(String::new(), |token| {
            format!("Authorization: Bearer {token}\r\n")
        });
        format!(
            "GET /v1/devices/{} HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\n\
             Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{authorization}\r\n",
            self.id, self.hub
        )
    }

    /// Connects and shakes hands; `None` when the hub refuses.
    pub async fn upgrade(&self, buffer: Option<u32>) -> io::Result<Option<(OwnedWriteHalf, Ear)>> {
        let mut tcp = self.tcp(buffer).await?;
        let request = self.request(self.token.as_deref());
        tcp.write_all(request.as_bytes()).await?;
        let Some((101, rest)) = self.answer(&mut tcp).await? else {
            return Ok(None);
        };
        let (half, write) = tcp.into_split();
        let ear = Ear {
            half,
            received: rest,
            asked: None,
        };
        Ok(Some((write, ear)))
    }

    /// Reads an HTTP answer and counts it. What came after its head is returned with the status;
    /// `None`: the hub ended the connection without an answer.
    pub async fn answer(&self, tcp: &mut TcpStream) -> io::Result<Option<(u16, Vec<u8>)>> {
        let mut received = Vec::new();
        let read = async {
            loop {
                if let Some(end) = received.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                    let status = received.get(9..12).map(String::from_utf8_lossy);
                    let status = status.and_then(|status| status.parse().ok()).unwrap_or(0);
                    return Some((status, end + 4));
                }
                if !matches!(tcp.read_buf(&mut received).await, Ok(1..)) {
                    return None;
                }
            }
        };
        let answer = timeout(ANSWER, read)
            .await
            .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?;
        let Some((status, end)) = answer else {
            self.tally().cut += 1;
            return Ok(None);
        };
        count(&mut self.tally().answers, status.to_string());
        Ok(Some((status, received.split_off(end))))
    }

    /// Listens until the hub ends the connection or the time is up, and misbehaves meanwhile.
    /// A hub that does not read any more ends the misbehaviour but not the listening.
    pub async fn listen(&self, ear: Ear, misbehave: impl Future<Output = io::Result<()>>) {
        let misbehave = async {
            let _ = misbehave.await;
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = ear.hear(&self.tally) => {}
            () = misbehave => {}
            () = sleep_until(self.until) => self.tally().left_open += 1,
        }
    }
}

impl Ear {
    /// Commands go there.
    pub fn tell(&mut self, asked: UnboundedSender<Asked>) {
        self.asked = Some(asked);
    }

    /// Counts all that the hub says until it ends the connection.
    pub async fn hear(mut self, tally: &Mutex<Tally>) {
        let tally = || tally.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            while let Some(frame) = frame::take(&mut self.received) {
                if note(&frame, &mut tally(), self.asked.as_ref()) {
                    return;
                }
            }
            if !matches!(self.half.read_buf(&mut self.received).await, Ok(1..)) {
                tally().cut += 1;
                return;
            }
        }
    }
}

/// Counts a frame; says whether it is a goodbye.
fn note(frame: &frame::Frame, tally: &mut Tally, asked: Option<&UnboundedSender<Asked>>) -> bool {
    let encoding = match frame.opcode {
        BINARY => Encoding::Cbor,
        TEXT => Encoding::Json,
        CLOSE => {
            let (code, reason) = frame.payload.split_at_checked(2).unwrap_or_default();
            let code = code.try_into().map_or(1005, u16::from_be_bytes);
            let reason = String::from_utf8_lossy(reason);
            count(&mut tally.closes, format!("{code} {reason}").trim_end());
            return true;
        }
        PING => {
            tally.pings += 1;
            return false;
        }
        // Pongs.
        _ => return false,
    };
    match FromHub::decode(encoding, &frame.payload) {
        Ok(FromHub::Ack { .. }) => tally.acks += 1,
        Ok(FromHub::Reject { code, .. }) => count(&mut tally.rejects, code),
        Ok(FromHub::ResultAck { .. }) => tally.results += 1,
        Ok(FromHub::Command {
            id, name, timeout, ..
        }) => {
            tally.commands += 1;
            if let Some(asked) = asked {
                // An error means that the lies have come to their end.
                let _ = asked.send(Asked {
                    id,
                    name,
                    timeout: Duration::try_from_secs_f64(timeout).unwrap_or_default(),
                });
            }
        }
        Ok(_) => {}
        Err(error) => count(&mut tally.violations, error),
    }
    false
}
