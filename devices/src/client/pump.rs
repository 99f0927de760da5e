//! The socket side of a connection: what goes out, what comes in, and when it is over.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::atomic::Ordering::Relaxed;
use std::task::Poll;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Bytes, Error, Message, Utf8Bytes};

use super::Stats;
use super::connect::Socket;
use super::unacked::{Entry, Unacked};
use crate::wire::Encoding;
use crate::wire::message::renew;

/// Time for the hub to answer our close.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// An encoded message as a frame of its kind.
pub fn as_message(encoding: Encoding, bytes: Bytes) -> Message {
    match encoding {
        Encoding::Cbor => Message::Binary(bytes),
        Encoding::Json => match Utf8Bytes::try_from(bytes) {
            Ok(text) => Message::Text(text),
            // The JSON writer writes nothing but UTF-8.
            Err(_) => Message::Text(Utf8Bytes::default()),
        },
    }
}

/// What bounds sending.
pub struct Limits<'a> {
    /// How frames are encoded.
    pub encoding: Encoding,
    /// Of the hub, in bytes.
    pub max_message: usize,
    /// Counts what goes out.
    pub stats: &'a Stats,
    /// What had to wait is sent with its age.
    pub no_clock: bool,
}

impl Limits<'_> {
    /// The frame as it goes out now.
    fn frame(&self, entry: &Entry<Bytes>) -> Bytes {
        let age = entry.made.elapsed().as_secs();
        if self.no_clock
            && age > 0
            && let Some(frame) = renew(self.encoding, &entry.frame, entry.seq, Some(age))
        {
            return frame.into();
        }
        entry.frame.clone()
    }

    fn too_large(&self, entry: &Entry<Bytes>) {
        let text = format!(
            "batch {} has {} bytes, the hub takes {}: send smaller batches",
            entry.seq,
            entry.frame.len(),
            self.max_message
        );
        self.stats.dropped.fetch_add(1, Relaxed);
        self.stats.note("too large", text);
    }
}

/// Sends what may be sent, flushes, and returns the next frame; `None` when a batch had to be
/// given up instead. Writing never keeps it from reading, so that a hub that is slow to read
/// still gets its pings answered and its acks heard, and one that has closed is heard out. Cancel
/// safe.
pub async fn turn(
    socket: &mut Socket,
    unacked: &mut Unacked<Bytes>,
    unflushed: &mut bool,
    limits: Limits<'_>,
) -> Result<Option<Message>, Error> {
    poll_fn(|cx| {
        let mut gave_up = false;
        let mut write = || -> Result<(), Error> {
            while let Some(entry) = unacked.to_send() {
                if entry.frame.len() > limits.max_message {
                    limits.too_large(entry);
                    unacked.give_up();
                    gave_up = true;
                    continue;
                }
                if socket.poll_ready_unpin(cx)?.is_pending() {
                    break;
                }
                let frame = limits.frame(entry);
                let bytes = frame.len() as u64;
                let frame = as_message(limits.encoding, frame);
                socket.start_send_unpin(frame)?;
                unacked.sent();
                limits.stats.sent_bytes.fetch_add(bytes, Relaxed);
                limits.stats.sent.fetch_add(1, Relaxed);
                *unflushed = true;
            }
            if *unflushed && socket.poll_flush_unpin(cx)?.is_ready() {
                *unflushed = false;
            }
            Ok(())
        };
        let written = write();
        if gave_up {
            return Poll::Ready(Ok(None));
        }
        match (socket.poll_next_unpin(cx), written) {
            (Poll::Ready(Some(Ok(frame))), _) => Poll::Ready(Ok(Some(frame))),
            (_, Err(error)) | (Poll::Ready(Some(Err(error))), Ok(())) => Poll::Ready(Err(error)),
            (Poll::Ready(None), Ok(())) => Poll::Ready(Err(Error::ConnectionClosed)),
            (Poll::Pending, Ok(())) => Poll::Pending,
        }
    })
    .await
}

/// Ends a connection in order.
pub async fn close(socket: &mut Socket) {
    let frame = CloseFrame {
        code: CloseCode::Normal,
        reason: Utf8Bytes::default(),
    };
    let _ = tokio::time::timeout(CLOSE_TIMEOUT, async {
        socket.close(Some(frame)).await?;
        while let Some(frame) = socket.next().await {
            frame?;
        }
        Ok::<(), Error>(())
    })
    .await;
}

/// Notices a hub that has gone without a word. The timer is moved only when it fires, because
/// moving it with every frame would cost more than reading the frame.
pub struct Silence {
    last: Instant,
    /// How long the hub may be silent.
    pub limit: Duration,
    timer: Pin<Box<Sleep>>,
}

impl Silence {
    /// Counts from now.
    #[must_use]
    pub fn new(limit: Duration) -> Self {
        let last = Instant::now();
        Self {
            last,
            limit,
            timer: Box::pin(sleep_until(last + limit)),
        }
    }

    /// The hub has said something.
    pub fn heard(&mut self) {
        self.last = Instant::now();
    }

    /// Returns when nothing was heard for the limit. Cancel safe.
    pub async fn over(&mut self) {
        loop {
            self.timer.as_mut().await;
            let due = self.last + self.limit;
            if due <= Instant::now() {
                return;
            }
            self.timer.as_mut().reset(due);
        }
    }
}
