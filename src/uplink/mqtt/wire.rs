//! An established connection: one buffer out, one in, and the clock of the pings.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWrite};
use tokio::time::{Instant, Sleep, sleep_until};

use super::frames::{Frames, Next};
use super::incoming::{self, Incoming};
use super::packets::Packets;
use super::publish;
use super::stream::Stream;
use crate::uplink::Settings;
use crate::uplink::failure::Failure;
use crate::uplink::publication::Head;
use crate::uplink::reasons::{ERRORS, NO_SUBSCRIBERS};
use crate::uplink::terms::Terms;
use crate::uplink::transport::{self, Message, Signal, Subscription};

/// One read takes so much: two thousand acknowledgements.
const READ: usize = 8 << 10;

/// What the output buffer keeps of its memory once it is empty: a window of ordinary batches.
const KEEP: usize = 64 << 10;

/// Signals that may wait to be taken before no more is read. One read of acknowledgements makes
/// 2,048 of them.
const SIGNALS: usize = 4_096;

/// See the module.
#[derive(Debug)]
pub(in crate::uplink) struct Wire {
    stream: Stream,
    /// Packets on their way out, and how much of them is written. The window bounds it.
    out: Vec<u8>,
    written: usize,
    packets: Packets,
    input: BytesMut,
    frames: Frames,
    signals: VecDeque<Signal>,
    /// Filters of the hub's subscriptions, and how large their messages may be.
    expected: Vec<(String, usize)>,
    keep_alive: Duration,
    ping: Pin<Box<Sleep>>,
    awaiting_pong: bool,
    patience: Duration,
    /// Until when the network has to take something.
    stuck: Option<Pin<Box<Sleep>>>,
    leaving: bool,
    told_goodbye: bool,
    terms: Terms,
    broker: String,
    /// What came together with the CONNACK has not been looked at.
    unread: bool,
    /// The end, once it is known.
    end: Option<Failure>,
    /// Bytes sent and received that nobody has asked for.
    traffic: (u64, u64),
    /// Messages are acknowledged by whoever takes them.
    manual: bool,
}

impl Wire {
    pub(super) fn new(
        stream: Stream,
        input: BytesMut,
        terms: Terms,
        keep_alive: Duration,
        settings: &Settings,
        broker: String,
    ) -> Self {
        Self {
            stream,
            out: Vec::with_capacity(4 << 10),
            written: 0,
            packets: Packets::new(terms.version),
            input,
            frames: Frames::new(0),
            signals: VecDeque::new(),
            expected: Vec::new(),
            keep_alive,
            ping: Box::pin(sleep_until(Instant::now() + keep_alive)),
            awaiting_pong: false,
            patience: settings.pace.patience.max(Duration::from_secs(1)),
            stuck: None,
            leaving: false,
            told_goodbye: false,
            terms,
            broker,
            unread: true,
            end: None,
            traffic: (0, 0),
            manual: false,
        }
    }

    /// Messages are not acknowledged before whoever takes them says so.
    pub(super) fn waiting_for_acks(mut self) -> Self {
        self.manual = true;
        self
    }

    /// So many bytes were sent and received before.
    pub(super) fn with_traffic(mut self, sent: usize, received: usize) -> Self {
        self.traffic = (sent as u64, received as u64);
        self
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        while self.written < self.out.len() {
            match Pin::new(&mut self.stream).poll_write(cx, &self.out[self.written..]) {
                Poll::Ready(Ok(0)) => {
                    return Poll::Ready(Err(self.broken(&io::ErrorKind::WriteZero.into())));
                }
                Poll::Ready(Ok(n)) => {
                    self.written += n;
                    self.traffic.0 += n as u64;
                    self.stuck = None;
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(self.broken(&error))),
                Poll::Pending => return self.poll_stuck(cx),
            }
        }
        if self.written > 0 {
            self.out.clear();
            self.written = 0;
            if self.out.capacity() > KEEP {
                self.out.shrink_to(KEEP);
            }
        }
        if let Stream::Tls(tls) = &mut self.stream {
            match Pin::new(tls).poll_flush(cx) {
                Poll::Ready(Ok(())) => self.stuck = None,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(self.broken(&error))),
                Poll::Pending => return self.poll_stuck(cx),
            }
        }
        if self.leaving && !self.told_goodbye {
            self.told_goodbye = true;
            self.signals.push_back(Signal::SaidGoodbye);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_stuck(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        let until = Instant::now() + self.patience;
        let stuck = self
            .stuck
            .get_or_insert_with(|| Box::pin(sleep_until(until)));
        if stuck.as_mut().poll(cx).is_ready() {
            let (broker, seconds) = (&self.broker, self.patience.as_secs());
            return Poll::Ready(Err(Failure::passing(format!(
                "{broker} did not take any data for {seconds} s"
            ))));
        }
        Poll::Pending
    }

    /// Reads until there is something to take.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        loop {
            self.input.reserve(READ);
            let read = {
                let read = pin!(self.stream.read_buf(&mut self.input));
                ready!(read.poll(cx))
            };
            match read {
                Ok(0) => {
                    let sentence = format!("{} closed the connection", self.broker);
                    return Poll::Ready(Err(Failure::hung_up(sentence)));
                }
                Ok(read) => {
                    self.traffic.1 += read as u64;
                    // Whatever it sends, it lives: a slow broker answers a ping after all before it.
                    self.awaiting_pong = false;
                }
                Err(error) => return Poll::Ready(Err(self.broken(&error))),
            }
            self.understand()?;
            if !self.signals.is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
    }

    /// Every whole packet of what was read.
    fn understand(&mut self) -> Result<(), Failure> {
        loop {
            // What nearly all of them are: a PUBACK without a reason.
            while let [0x40, 2, high, low, ..] = self.input[..] {
                let id = u16::from_be_bytes([high, low]);
                // A message that is being skipped may look like anything.
                if self.frames.is_skipping() {
                    break;
                }
                self.input.advance(4);
                self.signals.push_back(Signal::Acked(id));
            }
            match self.frames.next(&mut self.input) {
                Ok(Next::Packet(first, body)) => {
                    let read = incoming::read(self.terms.version, first, body);
                    let read = read.map_err(|error| self.foreign(&error))?;
                    self.hear(read)?;
                }
                Ok(Next::Skipped(id)) => self.skip(id),
                Ok(Next::More) => return Ok(()),
                Err(bad) => return Err(self.foreign(&bad.to_string())),
            }
        }
    }

    fn hear(&mut self, incoming: Incoming) -> Result<(), Failure> {
        match incoming {
            Incoming::PubAck { id, reason, words } => {
                self.signals.push_back(match reason {
                    NO_SUBSCRIBERS => Signal::Unheard(id),
                    ERRORS.. => Signal::Refused { id, reason, words },
                    _ => Signal::Acked(id),
                });
            }
            Incoming::SubAck { id, reason } => {
                self.signals.push_back(Signal::Subscribed { id, reason });
            }
            Incoming::Message(message, id) => self.message(message, id),
            Incoming::Unreadable(id) => self.skip(id),
            Incoming::Alive => {
                // An UNSUBACK shows as well that the broker lives.
                self.awaiting_pong = false;
                self.signals.push_back(Signal::Alive);
            }
            Incoming::Disconnect {
                reason,
                words,
                reference,
            } => {
                let broker = &self.broker;
                return Err(Failure::disconnected(broker, reason, &words, &reference));
            }
        }
        Ok(())
    }

    fn message(&mut self, message: Message, id: Option<u16>) {
        let limit = self
            .expected
            .iter()
            .filter(|(filter, _)| matches(filter, &message.topic));
        match limit.map(|(_, limit)| *limit).max() {
            Some(limit) if message.payload.len() <= limit => {
                match id {
                    Some(id) if !self.manual => self.packets.puback(&mut self.out, id),
                    _ => {}
                }
                let id = id.filter(|_| self.manual);
                self.signals
                    .push_back(Signal::Message(Message { id, ..message }));
            }
            // Unasked, or larger than was asked for.
            _ => self.skip(id),
        }
    }

    /// Lets a message go, and says so to a broker that would send it again.
    fn skip(&mut self, id: Option<u16>) {
        if let Some(id) = id {
            self.packets.puback(&mut self.out, id);
        }
        self.signals.push_back(Signal::Skipped);
    }

    fn poll_ping(&mut self, cx: &mut Context<'_>) -> Result<(), Failure> {
        while self.ping.as_mut().poll(cx).is_ready() {
            if self.awaiting_pong {
                let broker = &self.broker;
                return Err(Failure::passing(format!("{broker} does not answer pings")));
            }
            let next = Instant::now() + self.keep_alive;
            self.ping.as_mut().reset(next);
            transport::Wire::ping(self);
        }
        Ok(())
    }

    fn poll_all(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        if std::mem::take(&mut self.unread) {
            self.understand()?;
        }
        self.poll_ping(cx)?;
        // A write that is stuck does not keep from reading, and one that fails neither: what the
        // broker said before it went may be there to be read, its reason for going as well.
        let wrote = self.poll_write(cx);
        if self.signals.len() < SIGNALS
            && let Poll::Ready(read) = self.poll_read(cx)
        {
            // A PUBACK for a message may have been written meanwhile.
            if read.is_ok() && wrote.is_ready() && self.written < self.out.len() {
                let _ = self.poll_write(cx)?;
            }
            return Poll::Ready(read);
        }
        if let Poll::Ready(Err(failure)) = wrote {
            return Poll::Ready(Err(failure));
        }
        if self.signals.is_empty() {
            Poll::Pending
        } else {
            Poll::Ready(Ok(()))
        }
    }

    fn foreign(&self, what: &str) -> Failure {
        let (broker, version) = (&self.broker, self.terms.version.name());
        Failure::passing(format!("{broker} does not keep to MQTT {version}: {what}"))
    }

    fn broken(&self, error: &io::Error) -> Failure {
        Failure::broken(&self.broker, error)
    }
}

/// Whether a topic filter of the hub's matches (MQTT 3.1.1 §4.7). None of them begins with a
/// wildcard, so the rule for `$` topics does not matter.
fn matches(filter: &str, topic: &str) -> bool {
    let mut levels = topic.split('/');
    for wanted in filter.split('/') {
        match (wanted, levels.next()) {
            ("#", _) => return true,
            (_, None) => return false,
            ("+", Some(_)) => {}
            (wanted, Some(level)) if wanted == level => {}
            _ => return false,
        }
    }
    levels.next().is_none()
}

impl transport::Wire for Wire {
    fn terms(&self) -> &Terms {
        &self.terms
    }

    fn limit(&mut self, bytes: usize) {
        self.terms.max_packet = self.terms.max_packet.min(bytes.saturating_sub(1));
    }

    fn publish(
        &mut self,
        id: u16,
        head: &Head<'_>,
        write: impl FnOnce(&mut Vec<u8>) -> Result<(), String>,
    ) -> Result<usize, String> {
        publish::append(&mut self.out, &self.terms, id, head, write)
    }

    fn subscribe(&mut self, id: u16, subscription: &Subscription) {
        /// Bytes of a message beside its payload: topic, id and properties.
        const AROUND: usize = 4 << 10;
        self.frames.allow(subscription.limit + AROUND);
        let filter = subscription.filter.clone();
        self.expected.push((filter, subscription.limit));
        self.packets.subscribe(&mut self.out, id, subscription);
    }

    fn unsubscribe(&mut self, id: u16, filter: &str) {
        self.expected.retain(|(expected, _)| expected != filter);
        self.packets.unsubscribe(&mut self.out, id, filter);
    }

    fn acknowledge(&mut self, id: u16) {
        self.packets.puback(&mut self.out, id);
    }

    fn ping(&mut self) {
        if !std::mem::replace(&mut self.awaiting_pong, true) {
            self.packets.ping(&mut self.out);
        }
    }

    fn disconnect(&mut self) {
        self.packets.disconnect(&mut self.out);
        self.leaving = true;
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        if let Some(end) = &self.end {
            return Poll::Ready(Err(end.clone()));
        }
        let done = self.poll_all(cx);
        if let Poll::Ready(Err(failure)) = &done {
            self.end = Some(failure.clone());
        }
        done
    }

    fn take(&mut self) -> Option<Signal> {
        self.signals.pop_front()
    }

    fn traffic(&mut self) -> (u64, u64) {
        std::mem::take(&mut self.traffic)
    }

    fn broker(&self) -> &str {
        &self.broker
    }
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn a_filter_matches_by_levels() {
        for (filter, topic, whether) in [
            ("a/+/status", "a/b/status", true),
            ("a/+/status", "a/status", false),
            ("a/+/status", "a/b/c/status", false),
            ("a/status", "a/status", true),
            ("a/status", "a/status/x", false),
            ("a/+/command/#", "a/b/command/x/y", true),
            ("a/+/command/#", "a/b/command", true),
            ("a/+/command/#", "a/b/other", false),
        ] {
            assert_eq!(matches(filter, topic), whether, "{filter} {topic}");
        }
    }
}
