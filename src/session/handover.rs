//! The way of a batch from the session into the intake: stream, sequence, window, room.

use std::future::Future;
use std::pin::Pin;
use std::time::Instant;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::oneshot;

use super::Session;
use super::ending::Ending;
use super::inbound::Candidate;
use super::sequence::{Sequence, Verdict};
use crate::clock::unix_now;
use crate::intake::port::{Arrival, Attached, Control};
use crate::protocol::message::{Reject, RejectCode, ToDevice, Welcome};
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
        sequence: Sequence,
    },
}

/// A batch on its way through the session.
pub(super) struct Hand {
    candidate: Candidate,
    /// Whether it is new to the hub, once the sequence has said so.
    new: Option<bool>,
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
        let welcome = greeted.then(|| Welcome {
            stream: attached.name.to_string(),
            seq: attached.safe,
            time: unix_now(),
            ping_interval: self.settings.ping_interval.as_secs_f64(),
            max_message: self.settings.max_message as u64,
            window: self.settings.window,
        });
        self.stream = Stream::Attached {
            sequence: Sequence::new(attached.taken),
            attached,
        };
        if let Some(welcome) = welcome {
            self.send(&ToDevice::Welcome(welcome))?;
        }
        self.tell_ack()?;
        self.hand_over()
    }

    /// Takes a batch in hand and moves it on. There is none in hand before, because nothing is
    /// read while there is.
    pub(super) fn take(&mut self, candidate: Candidate) -> Result<(), Ending> {
        self.hand = Some(Hand {
            candidate,
            new: None,
            since: self.now,
        });
        self.hand_over()
    }

    /// Moves the batch in hand on, as far as it can go now.
    pub(super) fn hand_over(&mut self) -> Result<(), Ending> {
        let (Stream::Attached { sequence, .. }, Some(hand)) = (&mut self.stream, &mut self.hand)
        else {
            return Ok(());
        };
        if hand.new.is_none() {
            let before = sequence.highest();
            match hand.candidate.seq.map(|seq| (seq, sequence.judge(seq))) {
                Some((seq, Verdict::Backwards)) => {
                    self.hand = None;
                    return self.reject(Reject {
                        seq: Some(seq),
                        code: RejectCode::BadSeq,
                        detail: format!(
                            "{seq} was skipped on the way to {before} and cannot come later"
                        ),
                    });
                }
                Some((_, Verdict::Resend)) => hand.new = Some(false),
                Some((_, Verdict::New)) | None => hand.new = Some(true),
            }
            self.rejects_in_a_row = 0;
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
        let Stream::Attached { attached, .. } = &self.stream else {
            return None;
        };
        let Hand {
            candidate,
            new,
            since,
        } = self.hand.take()?;
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
        if new == Some(true) {
            self.present.board.took(&batch, self.now);
        }
        Some(Arrival {
            conn: self.present.conn,
            stream: attached.stream,
            batch,
            resolved: candidate.resolved,
        })
    }
}
