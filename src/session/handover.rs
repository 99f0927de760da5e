//! The way of a batch from the session into the intake: stream, sequence, window, room.

use std::future::Future;
use std::pin::Pin;
use std::time::Instant;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::oneshot;
use tracing::info;

use super::Session;
use super::ending::Ending;
use super::inbound::Candidate;
use crate::clock::unix_now;
use crate::intake::port::{Arrival, Attached, Control};
use crate::protocol::message::{ToDevice, Welcome};
use crate::reading::Batch;

/// Something that the session waits for beside everything else.
pub(super) type Waiting<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Where the connection's stream of sequence numbers stands.
pub(super) enum Stream {
    /// Neither `hello` nor data has come.
    None,
    /// The intake has been asked.
    Attaching {
        answer: Waiting<Option<Attached>>,
        /// The device said `hello` and waits for `welcome`.
        greeted: bool,
    },
    /// Batches can be handed over.
    Attached {
        attached: Attached,
        /// The highest number so far, over this connection or taken before it.
        highest: u64,
    },
}

/// A batch on its way through the session.
pub(super) struct Handover {
    candidate: Candidate,
    /// When it came.
    since: Instant,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Session<'_, S> {
    /// Asks the intake for a stream; `None`: a fresh one without a name.
    pub(super) fn attach(&mut self, stream: Option<String>) {
        let greeted = stream.is_some();
        let control = self.port.control.clone();
        let (reply, answer) = oneshot::channel();
        let attach = Control::Attach {
            conn: self.present.conn,
            device: self.present.device.clone(),
            stream: stream.map(Into::into),
            mailbox: self.present.mailbox.clone(),
            reply,
        };
        let answer = Box::pin(async move {
            control.send(attach).await.ok()?;
            answer.await.ok()
        });
        self.stream = Stream::Attaching { answer, greeted };
    }

    /// The intake has answered.
    pub(super) fn attached(&mut self, attached: Attached) -> Result<(), Ending> {
        let board = &self.present.board;
        board.stream(attached.name.clone());
        board.seq.set(attached.taken);
        let greeted = matches!(self.stream, Stream::Attaching { greeted: true, .. });
        let welcome = greeted.then(|| self.welcome(&attached));
        self.stream = Stream::Attached {
            highest: attached.taken,
            attached,
        };
        if let Some(welcome) = welcome {
            self.send(&ToDevice::Welcome(welcome))?;
        }
        self.tell_ack()?;
        // After the welcome, so that a device knows where it stands before it is told what to do.
        self.announce();
        self.hand_over()
    }

    fn welcome(&self, attached: &Attached) -> Welcome {
        if self
            .hello
            .next
            .is_some_and(|next| next > 0 && next <= attached.safe)
        {
            info!(
                device = %self.present.device, seq = attached.safe,
                "the device has lost its counter, and numbers anew from there"
            );
        }
        let (settings, time) = (self.settings, unix_now());
        Welcome {
            stream: attached.name.to_string(),
            seq: attached.safe,
            known: attached.known,
            time,
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "whole seconds; a clock before 1970 says 0"
            )]
            time_s: time as u64,
            ping_interval: settings.ping_interval.as_secs_f64(),
            ping_timeout: settings.ping_timeout.as_secs_f64(),
            max_message: settings.max_message as u64,
            max_rate: settings.max_rate,
            window: settings.window,
        }
    }

    /// Takes a batch in hand and moves it on. There is none in hand before, because nothing is
    /// read while there is.
    pub(super) fn take(&mut self, candidate: Candidate) -> Result<(), Ending> {
        self.handover = Some(Handover {
            candidate,
            since: self.now,
        });
        self.hand_over()
    }

    /// Moves the batch in hand on, as far as it can go now.
    pub(super) fn hand_over(&mut self) -> Result<(), Ending> {
        if self.handover.is_none() || !matches!(self.stream, Stream::Attached { .. }) {
            return Ok(());
        }
        if self.unsettled >= self.settings.window || self.room.is_some() {
            return Ok(());
        }
        let port = self.port;
        match port.data.try_reserve() {
            Ok(permit) => {
                if let Some(arrival) = self.arrival() {
                    permit.send(arrival);
                }
                Ok(())
            }
            Err(TrySendError::Full(())) => {
                let data = port.data.clone();
                self.room = Some(Box::pin(async move { data.reserve_owned().await.ok() }));
                Ok(())
            }
            Err(TrySendError::Closed(())) => Err(Ending::Stopping),
        }
    }

    /// The batch in hand, on its way: from here on it counts, on the board and in the window.
    pub(super) fn arrival(&mut self) -> Option<Arrival> {
        let Stream::Attached { attached, highest } = &mut self.stream else {
            return None;
        };
        let Handover { candidate, since } = self.handover.take()?;
        // What is not above it is a resend, or is refused.
        let new = candidate.seq.is_none_or(|seq| seq > *highest);
        *highest = candidate.seq.unwrap_or(0).max(*highest);
        self.unsettled += 1;
        if let Some(seq) = candidate.seq {
            self.unacked.push(seq, since);
        }
        let batch = Batch {
            device: self.present.device.clone(),
            stream: attached.name.clone(),
            seq: candidate.seq,
            received: candidate.received,
            readings: candidate.readings,
            encoding: candidate.encoding,
            frame: candidate.frame,
        };
        if new {
            self.present.board.took(&batch, self.now);
        }
        Some(Arrival {
            conn: self.present.conn,
            stream: attached.stream,
            batch,
            resolved: candidate.resolved,
            content: candidate.content,
        })
    }
}
