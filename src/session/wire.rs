//! The WebSocket of one connection. The one file that names the WebSocket crate.
//!
//! Nothing here waits for a write: what cannot be sent at once stays in a bounded buffer, and
//! [`Wire::poll`] goes on with it beside reading.

use std::io;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::error::{CapacityError, Error, ProtocolError};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{CloseCode, Data, OpCode};
use tokio_tungstenite::tungstenite::protocol::frame::{CloseFrame, Frame, Utf8Bytes};
use tokio_tungstenite::tungstenite::protocol::{Message, Role, WebSocketConfig};

use super::counted::{Counted, READ, Surplus};
use super::ending::Ending;
use crate::reading::Encoding;

/// The library's read buffer of a connection, which it keeps while that is idle: 10,000 take 5 MB,
/// and an ordinary batch fits. How much one read brings is [`READ`].
const READ_BUFFER: usize = 512;

/// What may wait for a device that does not read; more if one message may be larger. Acks are merged and reading stops while output
/// is blocked, so that one answer to each message of one read and a few pings are all there is.
const WRITE_BUFFER: usize = 256 * 1024;

/// Bytes of the longest head of a frame (RFC 6455 §5.2) that a server sends.
const FRAME_HEAD: usize = 10;

/// How long ending a connection politely may take: the close frame, and what the device still
/// sends before it has seen it. Dropping the socket earlier would reset it, and a reset makes the
/// device's TCP throw the close frame away.
const CLOSE_TIME: Duration = Duration::from_secs(1);

/// `Sec-WebSocket-Accept` for a `Sec-WebSocket-Key` (RFC 6455 §4.2.2).
#[must_use]
pub fn accept_key(key: &[u8]) -> String {
    derive_accept_key(key)
}

/// What came from the device. Payloads are slices of the read buffer and pin it: copy or drop.
#[derive(Debug)]
pub enum Incoming {
    /// A whole message and how it is encoded.
    Message(Encoding, Bytes),
    /// A ping; the pong is on its way.
    Ping,
    /// A pong and its payload.
    Pong(Bytes),
    /// Many bytes, and nothing whole yet.
    Part,
    /// The connection is over.
    End(Ending),
}

/// One WebSocket connection, server side.
#[derive(Debug)]
pub struct Wire<S> {
    /// Boxed: it is moved through several futures, each of which would keep room for it for as
    /// long as the session lives.
    ws: Box<WebSocketStream<Counted<S>>>,
    max_message: usize,
    surplus: Surplus,
    unflushed: bool,
    blocked: bool,
    /// The device has sent its close frame, and may be told some last things before the answer.
    closed_by_device: Option<Option<CloseFrame>>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    /// Takes over a stream after the answer 101. `already_read`: what came behind the request.
    /// `max_message`: bytes of one message, over all its fragments.
    pub async fn new(stream: S, already_read: Bytes, max_message: usize) -> Self {
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER)
            .write_buffer_size(0)
            .max_write_buffer_size(WRITE_BUFFER.max(max_message + FRAME_HEAD))
            .max_message_size(Some(max_message))
            .max_frame_size(Some(max_message));
        let mut stream = Counted::new(stream, max_message);
        stream.opening.feed(&already_read);
        let ws = if already_read.is_empty() {
            WebSocketStream::from_raw_socket(stream, Role::Server, Some(config)).await
        } else {
            let part = already_read.to_vec();
            WebSocketStream::from_partially_read(stream, part, Role::Server, Some(config)).await
        };
        Self {
            ws: Box::new(ws),
            max_message,
            surplus: Surplus::new(max_message, READ),
            unflushed: false,
            blocked: false,
            closed_by_device: None,
        }
    }

    /// Bytes read so far.
    pub fn bytes_read(&self) -> u64 {
        self.ws.get_ref().read
    }

    /// How many messages' worth of bytes came since the last call that were no content of
    /// messages: heads of tiny fragments above all.
    pub fn surplus(&mut self) -> u32 {
        self.surplus.take(self.ws.get_ref().read)
    }

    /// How the message that began last is encoded, whether or not it has come to its end.
    pub fn began_in(&self) -> Encoding {
        self.ws.get_ref().opening.encoding()
    }

    /// Whether output waits for the device to read. Send nothing meanwhile that can wait.
    pub fn is_blocked(&self) -> bool {
        self.blocked
    }

    /// Sends a message, or keeps it for [`Wire::poll`] to send.
    pub fn message(&mut self, encoding: Encoding, message: Vec<u8>) -> Result<(), Ending> {
        let message = match encoding {
            Encoding::Cbor => Message::Binary(message.into()),
            Encoding::Json => {
                let text = Utf8Bytes::try_from(message).map_err(|_| Ending::ProtocolError)?;
                Message::Text(text)
            }
        };
        self.send(message)
    }

    /// Sends a ping, unless output is blocked: then the device has enough to read.
    pub fn ping(&mut self, payload: [u8; 8]) -> Result<(), Ending> {
        if self.blocked {
            return Ok(());
        }
        self.send(Message::Ping(Bytes::copy_from_slice(&payload)))
    }

    fn send(&mut self, message: Message) -> Result<(), Ending> {
        self.unflushed = true;
        self.ws
            .start_send_unpin(message)
            .map_err(|error| self.ending(&error))
    }

    /// Sends what waits, and, if `read`, waits for the next thing from the device. Without
    /// `read` it ends with `None` as soon as output that was blocked is so no longer.
    pub fn poll(&mut self, cx: &mut Context<'_>, read: bool) -> Poll<Option<Incoming>> {
        if self.unflushed {
            match self.ws.poll_flush_unpin(cx) {
                Poll::Ready(Ok(())) => {
                    self.unflushed = false;
                    if std::mem::take(&mut self.blocked) {
                        return Poll::Ready(None);
                    }
                }
                Poll::Ready(Err(error)) => {
                    return Poll::Ready(Some(Incoming::End(self.ending(&error))));
                }
                Poll::Pending => {
                    if !std::mem::replace(&mut self.blocked, true) {
                        return Poll::Ready(None);
                    }
                }
            }
        }
        if !read {
            return Poll::Pending;
        }
        loop {
            let next = self.ws.poll_next_unpin(cx);
            let paused = self.ws.get_ref().paused;
            if next.is_ready() || paused {
                self.ws.get_mut().turn();
            }
            if next.is_pending() && paused {
                return Poll::Ready(Some(Incoming::Part));
            }
            if let Poll::Ready(Some(Ok(message))) = &next {
                self.surplus.content(message.len());
            }
            let incoming = match ready!(next) {
                Some(Ok(Message::Binary(payload))) => Incoming::Message(Encoding::Cbor, payload),
                Some(Ok(Message::Text(text))) => Incoming::Message(Encoding::Json, text.into()),
                Some(Ok(Message::Ping(_))) => {
                    self.unflushed = true;
                    Incoming::Ping
                }
                Some(Ok(Message::Pong(payload))) => Incoming::Pong(payload),
                // Comes only from a raw read, which this is not.
                Some(Ok(Message::Frame(_))) => continue,
                Some(Ok(Message::Close(close))) => {
                    self.closed_by_device = Some(close);
                    Incoming::End(Ending::Closed)
                }
                None => Incoming::End(Ending::Closed),
                Some(Err(error)) => Incoming::End(self.ending(&error)),
            };
            return Poll::Ready(Some(incoming));
        }
    }

    fn ending(&self, error: &Error) -> Ending {
        match error {
            Error::ConnectionClosed | Error::AlreadyClosed => Ending::Closed,
            Error::Capacity(CapacityError::MessageTooLong { .. }) => Ending::TooLarge {
                limit: self.max_message,
                seq: self.ws.get_ref().opening.seq(),
            },
            Error::Utf8(_) => Ending::NotUtf8,
            // The device's TCP did not acknowledge our pings: the kernel came to the same
            // conclusion as the ping timeout, from the same silence. When nobody even answers
            // for the device's address it names that as the reason.
            Error::Io(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::TimedOut
                        | io::ErrorKind::HostUnreachable
                        | io::ErrorKind::NetworkUnreachable
                ) =>
            {
                Ending::PingTimeout
            }
            Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) | Error::Io(_) => {
                Ending::Lost
            }
            // A device that lets so much wait does not read.
            Error::WriteBufferFull(_) => Ending::PingTimeout,
            _ => Ending::ProtocolError,
        }
    }

    /// Sends a message and waits until it has gone. Also after the device's close frame, which
    /// RFC 6455 §5.5.1 allows: the library does not, and would answer the close before anything
    /// else. All output before has gone by then, because nothing is read while it waits.
    pub async fn last_words(&mut self, encoding: Encoding, message: Vec<u8>) -> io::Result<()> {
        if self.closed_by_device.is_none() {
            if self.message(encoding, message).is_err() {
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
            return self.ws.flush().await.map_err(io::Error::other);
        }
        let kind = match encoding {
            Encoding::Cbor => Data::Binary,
            Encoding::Json => Data::Text,
        };
        self.raw(Frame::message(message, OpCode::Data(kind), true))
            .await
    }

    /// Past the library, once that has nothing more to send.
    async fn raw(&mut self, frame: Frame) -> io::Result<()> {
        let mut bytes = Vec::with_capacity(frame.len());
        frame.format(&mut bytes).map_err(io::Error::other)?;
        let stream = self.ws.get_mut();
        stream.write_all(&bytes).await?;
        stream.flush().await
    }

    /// Ends the connection: close frame if there is one to send, end of output, and then
    /// whatever the device still sends is thrown away until it hangs up as well. Takes a second
    /// at most, whatever the device does.
    pub async fn close(mut self, close: Option<(u16, String)>) {
        let goodbye = async {
            if let Some(theirs) = self.closed_by_device.take() {
                // The same code back (RFC 6455 §5.5.1).
                let reply = theirs.map(|CloseFrame { code, .. }| CloseFrame {
                    code: if code.is_allowed() {
                        code
                    } else {
                        CloseCode::Protocol
                    },
                    reason: Utf8Bytes::default(),
                });
                self.raw(Frame::close(reply)).await?;
            } else if let Some((code, reason)) = close {
                let frame = CloseFrame {
                    code: code.into(),
                    reason: reason.into(),
                };
                let _ = self.ws.send(Message::Close(Some(frame))).await;
            } else {
                let _ = self.ws.flush().await;
            }
            let stream = self.ws.get_mut();
            stream.shutdown().await?;
            // On the heap: an array would be part of every session's task from its start.
            let mut sink = vec![0; 1024];
            while stream.read(&mut sink).await? > 0 {}
            io::Result::Ok(())
        };
        let _ = tokio::time::timeout(CLOSE_TIME, goodbye).await;
    }
}
