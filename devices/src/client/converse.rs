//! One connection: what device and hub say to each other.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use futures_util::{FutureExt, SinkExt};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{Bytes, Error, Message};

use super::connect::Socket;
use super::link::{Device, End, Own};
use super::pump::{Limits, Silence, as_message, close, turn};
use super::unacked::{Entry, NeverSent};
use super::{Source, Stats};
use crate::wire::Encoding;
use crate::wire::message::{self, FromHub, Hello};

/// A hub that does not answer `hello` within this time is not one.
const WELCOME_TIMEOUT: Duration = Duration::from_secs(10);
/// A hub that has sent nothing, not even a ping, for this many of its ping intervals is gone.
const SILENT_INTERVALS: f64 = 3.0;

impl<S: Source> Device<S> {
    /// One connection, from `hello` to its end. `permit` is given back with the welcome.
    pub async fn converse<P>(&mut self, mut socket: Socket, permit: P) -> End {
        let mut permit = Some(permit);
        let hello = Hello {
            stream: self.stream.clone(),
            next: self.unacked.next_unused(),
            clock: if self.options.no_clock {
                "none"
            } else {
                // That of the computer that this runs on; nobody asks whether it is right.
                "unsure"
            },
            model: self.options.model,
            firmware: env!("CARGO_PKG_VERSION"),
        };
        let hello = self.frame(hello.encode(self.options.encoding).into());
        if let Err(error) = socket.send(hello).await {
            self.note("lost", &format!("connection lost: {error}"));
            return End::Lost;
        }
        let mut silence = Silence::new(WELCOME_TIMEOUT);
        let mut unflushed = false;
        let end = loop {
            if self.finished() {
                break End::Done;
            }
            let room = self.room();
            let event = tokio::select! {
                frame = turn(&mut socket, &mut self.unacked, &mut unflushed, Limits {
                    encoding: self.options.encoding,
                    max_message: self.max_message,
                    stats: &self.stats,
                    no_clock: self.options.no_clock,
                }) => Event::Frame(frame),
                own = self.input.next(room) => Event::Own(own),
                () = silence.over() => Event::Silence,
            };
            match event {
                Event::Own(own) => {
                    if self.own(own).is_none() {
                        break End::Done;
                    }
                    // Whatever else is due goes out with the same write.
                    while self.input.deadline.is_none() && self.room() {
                        match self.input.source.next().now_or_never() {
                            Some(Some(pack)) => self.take(&pack),
                            Some(None) => {
                                let _ = self.own(Own::SourceEnded);
                            }
                            None => break,
                        }
                    }
                }
                Event::Silence => {
                    self.note("silent", "the hub is silent, not even a ping");
                    break End::Lost;
                }
                Event::Frame(Ok(None)) => {}
                Event::Frame(Ok(Some(frame))) => {
                    silence.heard();
                    match self.frame_in(frame, &mut socket, &mut silence) {
                        Ok(Heard::Nothing) => {}
                        Ok(Heard::Welcome) => drop(permit.take()),
                        Ok(Heard::ToFlush) => unflushed = true,
                        Err(end) => break end,
                    }
                }
                Event::Frame(Err(error)) => {
                    self.note("lost", &format!("connection lost: {error}"));
                    break End::Lost;
                }
            }
        };
        if permit.is_none() {
            self.stats.connected.fetch_sub(1, Relaxed);
            if matches!(end, End::Lost) {
                self.stats.lost.fetch_add(1, Relaxed);
            }
        }
        if matches!(end, End::Done) {
            close(&mut socket).await;
        }
        end
    }

    fn frame(&self, bytes: Bytes) -> Message {
        as_message(self.options.encoding, bytes)
    }

    /// Deals with one frame from the hub.
    fn frame_in(
        &mut self,
        frame: Message,
        socket: &mut Socket,
        silence: &mut Silence,
    ) -> Result<Heard, End> {
        let (encoding, bytes) = match &frame {
            Message::Binary(bytes) => (Encoding::Cbor, &bytes[..]),
            Message::Text(text) => (Encoding::Json, text.as_bytes()),
            Message::Close(close) => return Err(self.closed(close.as_ref())),
            // Its pong is queued already.
            Message::Ping(_) => return Ok(Heard::ToFlush),
            Message::Pong(_) | Message::Frame(_) => return Ok(Heard::Nothing),
        };
        if encoding != self.options.encoding {
            self.violation("answered in the other encoding");
        }
        match FromHub::decode(encoding, bytes) {
            Ok(FromHub::Ack { seq }) => {
                let stats = &self.stats;
                let settled = self.unacked.ack(seq, |entry| settle(stats, &entry));
                settled.map_err(|wrong| self.never_sent(wrong))?;
            }
            Ok(FromHub::Welcome {
                stream,
                seq,
                ping_interval,
                max_message,
                window,
                ..
            }) => {
                if stream != self.stream {
                    self.violation("welcomed another stream");
                    return Err(End::Lost);
                }
                let window = usize::try_from(window).unwrap_or(usize::MAX).max(1);
                let window = window.min(self.options.window.unwrap_or(usize::MAX));
                self.max_message = usize::try_from(max_message).unwrap_or(usize::MAX);
                let (stats, encoding) = (&self.stats, self.options.encoding);
                self.unacked.welcome(
                    seq,
                    window,
                    |entry| settle(stats, &entry),
                    |entry| renumber(encoding, entry),
                );
                self.stats.welcomes.fetch_add(1, Relaxed);
                self.stats.connected.fetch_add(1, Relaxed);
                let limit = Duration::try_from_secs_f64(ping_interval * SILENT_INTERVALS);
                silence.limit = limit.unwrap_or(WELCOME_TIMEOUT).max(Duration::from_secs(5));
                return Ok(Heard::Welcome);
            }
            Ok(FromHub::Reject {
                seq: Some(seq),
                code,
                detail,
            }) if code == "bad-seq"
                && self
                    .unacked
                    .again(seq, |entry| renumber(self.options.encoding, entry)) =>
            {
                self.stats.rejected.fetch_add(1, Relaxed);
                let text = format!("batch {seq} goes again under a new number: {detail}");
                self.note(&format!("reject {code}"), &text);
            }
            Ok(FromHub::Note { seq, code, detail }) => {
                let which = seq.map_or(String::new(), |seq| format!(" about batch {seq}"));
                self.note(&format!("note {code}"), &format!("a note{which}: {detail}"));
            }
            Ok(FromHub::Reject { seq, code, detail }) => {
                let known = seq.and_then(|seq| self.unacked.reject(seq));
                self.stats.rejected.fetch_add(1, Relaxed);
                let which = match (seq, known.is_some()) {
                    (Some(seq), true) => format!("batch {seq}"),
                    (Some(seq), false) => format!("batch {seq} (not kept)"),
                    (None, _) => "a message".to_owned(),
                };
                let text = format!("{which} rejected, {code}: {detail}");
                self.note(&format!("reject {code}"), &text);
            }
            // It keeps no results: what is lost on the way is not known to its sender.
            Ok(FromHub::ResultAck { .. } | FromHub::Desired(_)) => {}
            Ok(FromHub::Command { id, name, args, .. }) => {
                let outcome = match name.as_str() {
                    "echo" => Ok(args),
                    _ => Err("this device knows the command `echo` only"),
                };
                let answer = message::result(self.options.encoding, &id, outcome);
                let answer = self.frame(answer.into());
                socket.start_send_unpin(answer).map_err(|error| {
                    self.note("lost", &format!("connection lost: {error}"));
                    End::Lost
                })?;
                return Ok(Heard::ToFlush);
            }
            Err(error) => self.violation(&error),
        }
        Ok(Heard::Nothing)
    }

    fn violation(&self, what: &str) {
        self.stats.violations.fetch_add(1, Relaxed);
        self.note("violation", &format!("the hub broke the contract: {what}"));
    }

    fn never_sent(&self, wrong: NeverSent) -> End {
        let NeverSent { claimed, sent } = wrong;
        self.violation(&format!("{claimed} is safe, but only {sent} was ever sent"));
        End::Fatal("the hub acked what was never sent".into())
    }

    /// What a close frame means.
    fn closed(&self, close: Option<&CloseFrame>) -> End {
        let Some(close) = close else {
            self.note("close", "the hub closed the connection");
            return End::Lost;
        };
        let code = u16::from(close.code);
        let reason = close.reason.as_str();
        match code {
            4001 => End::Fatal("replaced: another device has connected with this id".into()),
            4002 => End::Fatal("the hub has withdrawn this device's credentials".into()),
            _ => {
                let text = format!("the hub closed the connection: {code} {reason}");
                self.note(&format!("close {code}"), text.trim_end());
                End::Lost
            }
        }
    }
}

enum Event {
    Frame(Result<Option<Message>, Error>),
    Own(Own),
    Silence,
}

enum Heard {
    Nothing,
    Welcome,
    ToFlush,
}

fn renumber(encoding: Encoding, entry: &mut Entry<Bytes>) {
    if let Some(frame) = message::renew(encoding, &entry.frame, entry.seq, None) {
        entry.frame = frame.into();
    }
}

fn settle(stats: &Stats, entry: &Entry<Bytes>) {
    stats.acked(entry.made.elapsed(), entry.readings);
}
