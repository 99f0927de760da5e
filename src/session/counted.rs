//! The bytes of a connection: how many came, and how many of them were none of a message's.
//!
//! RFC 6455 sets no bound to the fragments of a message, and an empty one is allowed: without
//! this count a device could keep the hub busy with frames that never make a message.
//!
//! The WebSocket library keeps its read buffer for as long as the connection lives, idle or not. So
//! it gets a small one, and a read of the socket that brings more is kept here until it is taken.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::opening::Opening;

/// One read of the socket takes so much: twenty batches of ten readings.
pub(super) const READ: usize = 4 * 1024;

/// Bytes after which reading pauses for a moment when they have not made anything whole: so that
/// the session gets its turn.
const TURN: u64 = 64 * 1024;

/// So many bytes that were not of a message's content count as one message: about what they cost,
/// with six bytes to an empty frame. The eight bytes of an ordinary message's head make one in
/// five hundred.
const BYTES_A_MESSAGE: u64 = 4 * 1024;

/// A stream that counts the bytes read from it, so that a long frame on a slow link counts as
/// life before it is complete.
#[derive(Debug)]
pub(super) struct Counted<S> {
    pub(super) stream: S,
    pub(super) read: u64,
    /// `read` at the last turn of the session.
    turn: u64,
    /// Reading paused, though there may be more.
    pub(super) paused: bool,
    /// How the message that is being received begins.
    pub(super) opening: Opening,
    /// What was read and is not taken yet, from `taken` on. Without memory while there is nothing.
    ahead: Vec<u8>,
    taken: usize,
}

impl<S> Counted<S> {
    /// `max_message`: bytes of one message.
    pub(super) fn new(stream: S, max_message: usize) -> Self {
        Self {
            stream,
            read: 0,
            turn: 0,
            paused: false,
            opening: Opening::new(max_message),
            ahead: Vec::new(),
            taken: 0,
        }
    }

    fn take_ahead(&mut self, buf: &mut ReadBuf<'_>) {
        let rest = &self.ahead[self.taken..];
        let n = rest.len().min(buf.remaining());
        buf.put_slice(&rest[..n]);
        self.taken += n;
        if self.taken == self.ahead.len() {
            (self.ahead, self.taken) = (Vec::new(), 0);
        }
    }

    /// The session has its turn, because something whole has come or reading has paused.
    pub(super) fn turn(&mut self) {
        self.turn = self.read;
        self.paused = false;
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
    /// Pending without a waker once reading has paused: whoever polls looks at that.
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.ahead.is_empty() {
            self.take_ahead(buf);
            return Poll::Ready(Ok(()));
        }
        if self.read - self.turn >= TURN {
            self.paused = true;
            return Poll::Pending;
        }
        let mut room = [MaybeUninit::uninit(); READ];
        let mut read = ReadBuf::uninit(&mut room);
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut read))?;
        let read = read.filled();
        self.read += read.len() as u64;
        self.opening.feed(read);
        let (now, later) = read.split_at(read.len().min(buf.remaining()));
        buf.put_slice(now);
        self.ahead.extend_from_slice(later);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// What the bytes cost beyond the messages that they made. Pure.
#[derive(Debug)]
pub(super) struct Surplus {
    /// What may have been read and not yet be part of something whole: one message in pieces, and
    /// the read buffer.
    allowance: u64,
    /// Content of messages, pings and pongs, and what was charged for.
    accounted: u64,
}

impl Surplus {
    pub(super) fn new(max_message: usize, read_buffer: usize) -> Self {
        Self {
            allowance: max_message as u64 + 2 * read_buffer as u64,
            accounted: 0,
        }
    }

    /// Something whole came, with so many bytes of content.
    pub(super) fn content(&mut self, bytes: usize) {
        self.accounted += bytes as u64;
    }

    /// Of so many bytes read in all: how many messages' worth have become a surplus since the
    /// last time.
    pub(super) fn take(&mut self, read: u64) -> u32 {
        let surplus = read.saturating_sub(self.accounted + self.allowance) / BYTES_A_MESSAGE;
        self.accounted += surplus * BYTES_A_MESSAGE;
        u32::try_from(surplus).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn what_one_read_brings_too_much_comes_next_and_takes_no_memory_afterwards() {
        let (mut device, hub) = tokio::io::duplex(2 * READ);
        let sent: Vec<u8> = (0..=250).cycle().take(READ + 100).collect();
        device.write_all(&sent).await.unwrap();
        let mut hub = Counted::new(hub, 1 << 20);
        let mut came = Vec::new();
        let mut part = [0; 300];
        while came.len() < sent.len() {
            let n = hub.read(&mut part).await.unwrap();
            came.extend_from_slice(&part[..n]);
            let reads = if came.len() <= READ { READ } else { sent.len() };
            assert_eq!(hub.read, reads as u64, "after {} bytes", came.len());
        }
        assert_eq!(came, sent);
        assert_eq!(hub.ahead.capacity(), 0);
        drop(device);
        assert_eq!(hub.read(&mut part).await.unwrap(), 0);
    }

    #[test]
    fn ordinary_messages_cost_next_to_nothing_more() {
        let mut surplus = Surplus::new(65_536, 4_096);
        let (mut read, mut charged) = (0, 0);
        for _ in 0..100_000 {
            read += 108;
            surplus.content(100);
            charged += surplus.take(read);
        }
        assert!(charged <= 100_000 / 500, "{charged}");
    }

    #[test]
    fn frames_that_make_no_message_are_charged_for() {
        let mut surplus = Surplus::new(65_536, 4_096);
        let mut charged = 0;
        for read in (0..=10_000_000).step_by(65_536) {
            charged += surplus.take(read);
        }
        assert!((2_400..=2_442).contains(&charged), "{charged}");
    }
}
