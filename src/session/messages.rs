//! What the session does with each message, and what it answers.

use std::hash::{BuildHasher, RandomState};
use std::sync::LazyLock;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tracing::info;

use super::Session;
use super::ending::Ending;
use super::handover::Stream;
use super::inbound::{self, Candidate, Inbound};
use super::rate::Cost;
use super::wire::Incoming;
use crate::clock;
use crate::intake::port::{ConnId, Refused};
use crate::protocol;
use crate::protocol::message::ToDevice;
use crate::protocol::reject::{Reject, RejectCode};

/// Words of the protocol that a detail may quote. Anything else between quotes is the device's.
const WORDS: [&str; 39] = [
    "age",
    "bn",
    "bs",
    "bt",
    "bu",
    "bv",
    "bver",
    "bye",
    "clock",
    "data",
    "error",
    "firmware",
    "hello",
    "id",
    "max_message",
    "model",
    "more",
    "n",
    "name",
    "next",
    "ok",
    "pack",
    "remembers",
    "reported",
    "result",
    "s",
    "seq",
    "sleep",
    "stream",
    "sum",
    "t",
    "u",
    "unit",
    "ut",
    "v",
    "value",
    "vb",
    "vd",
    "vs",
];

/// A reject's detail for the log, which holds nothing of what devices send. The device itself is told
/// all of it.
fn without_its_words(detail: &str) -> String {
    let mut kept = String::new();
    let mut rest = detail;
    while let Some((before, quoted)) = rest.split_once('"') {
        kept.push_str(before);
        match quoted.split_once('"') {
            Some((word, after)) if WORDS.contains(&word) => {
                kept.push('"');
                kept.push_str(word);
                kept.push('"');
                rest = after;
            }
            // It may have quotes itself: up to the last one it may all be the device's.
            _ => {
                kept.push_str("\"…\"");
                return kept + quoted.rsplit_once('"').map_or("", |(_, after)| after);
            }
        }
    }
    kept + rest
}

/// Rejects in a row after which the hub hangs up: a firmware that gets ten wrong does not learn.
const REJECTS_IN_A_ROW: u32 = 10;

impl<S: AsyncRead + AsyncWrite + Unpin> Session<'_, S> {
    /// What came from the device.
    pub(super) fn incoming(&mut self, incoming: Incoming) -> Result<(), Ending> {
        match incoming {
            Incoming::End(ending) => {
                if matches!(ending, Ending::TooLarge { .. }) {
                    self.encoding = self.wire.began_in();
                }
                if let Some(reject) = ending.reject() {
                    self.reject(reject)?;
                }
                Err(ending)
            }
            Incoming::Part => self.spend(0),
            Incoming::Pong(payload) => {
                self.present.board.seen(clock::uptime());
                if let Some(rtt) = self.liveness.pong(&payload, self.now) {
                    self.present.board.rtt(rtt);
                    self.present
                        .board
                        .late_pongs
                        .add(u64::from(rtt > self.settings.ping_timeout));
                }
                self.spend(1)
            }
            Incoming::Ping => {
                self.present.board.seen(clock::uptime());
                self.spend(1)
            }
            Incoming::Message(encoding, frame) => {
                let received = clock::now();
                self.present.board.seen(received.uptime);
                self.spend(1)?;
                self.encoding = encoding;
                match inbound::read(encoding, &frame, received, self.hello.clock) {
                    Ok(inbound) => self.message(inbound),
                    Err(reject) => match protocol::result_id(encoding, &frame) {
                        Some(id) => self.reject_result(id, reject),
                        None => self.reject(reject),
                    },
                }
            }
        }
    }

    /// Counts messages, and the bytes that have come, against the limits. Pings and pongs count as
    /// well, and so do the frames that a message is cut into beyond all need: a flood of them costs
    /// the hub as much.
    fn spend(&mut self, messages: u32) -> Result<(), Ending> {
        let messages = messages + self.wire.surplus();
        let read = self.wire.bytes_read();
        let bytes = read - std::mem::replace(&mut self.bytes_spent, read);
        self.pay(Cost {
            messages,
            bytes,
            readings: 0,
        })
    }

    fn pay(&mut self, cost: Cost) -> Result<(), Ending> {
        let limits = self.settings.limits();
        let (wait, throttled_for) = self.present.purse.with(limits, self.now, |rate| {
            let wait = rate.spend(cost, self.now);
            (wait, rate.throttled_for(self.now))
        });
        self.throttled = self.throttled.max(wait);
        if throttled_for > self.settings.rate_patience {
            return Err(Ending::RateExceeded);
        }
        Ok(())
    }

    fn message(&mut self, inbound: Inbound) -> Result<(), Ending> {
        match inbound {
            Inbound::Hello(hello) if matches!(self.stream, Stream::None) => {
                self.rejects_in_a_row = 0;
                self.present
                    .describe(hello.model.clone(), hello.firmware.clone());
                let stream = match &hello.stream {
                    Some(stream) => stream.clone(),
                    None => made_stream(self.present.conn),
                };
                self.greeted = true;
                self.hello = hello;
                self.attach(Some(stream));
                Ok(())
            }
            Inbound::Hello(_) => {
                self.reject(Reject {
                    seq: None,
                    code: RejectCode::Malformed,
                    detail: "hello must be the first message of a connection".to_owned(),
                })?;
                if self.greeted {
                    return Ok(());
                }
                // Its data went into a stream without a name: had this gone on, none of it could
                // ever be resumed.
                Err(Ending::LateHello)
            }
            Inbound::Data(candidate) => {
                self.pay(Cost {
                    readings: candidate.readings,
                    ..Cost::default()
                })?;
                if matches!(self.stream, Stream::None) {
                    self.attach(None);
                }
                self.rejects_in_a_row = 0;
                self.look_at(&candidate)?;
                self.take(candidate)
            }
            Inbound::Result(result) => self.result(result),
            Inbound::Reported(map) => self.reported(map),
            Inbound::Bye(bye) => Err(match bye.sleep {
                Some(seconds) => Ending::Asleep {
                    sleep: Duration::from_secs_f64(seconds),
                },
                None => Ending::Bye,
            }),
        }
    }

    /// Tells operator and device what is odd about a batch that is taken all the same.
    fn look_at(&mut self, candidate: &Candidate) -> Result<(), Ending> {
        let device = &self.present.device;
        if candidate.dropped > 0 {
            self.present.board.dropped(candidate.dropped);
        }
        if candidate.implausible.is_none() && candidate.dropped == 0 {
            return Ok(());
        }
        for note in self.notes.about(candidate) {
            info!(device = %device, note = note.code.as_str(), detail = note.detail, "data is odd");
            if self.hello.takes_notes() {
                self.send(&ToDevice::Note(note))?;
            }
        }
        Ok(())
    }

    /// A batch was not taken, and the device hears of it before any ack that covers its number.
    /// It does not count towards the rejects in a row: the same content under a new number is
    /// good.
    pub(super) fn conflict(&mut self, refused: Refused) -> Result<(), Ending> {
        self.unacked.refused(refused.seq);
        let reject = bad_seq(refused);
        self.present.board.reject(reject.code.as_str());
        info!(
            device = %self.present.device, seq = refused.seq, highest = refused.highest,
            "a sequence number was used for other content"
        );
        self.send(&ToDevice::Reject(reject))
    }

    /// Tells the newest ack. While output is blocked acks wait and merge; and none comes before
    /// `welcome`, whose number may be older.
    pub(super) fn tell_ack(&mut self) -> Result<(), Ending> {
        if self.wire.is_blocked() || matches!(self.stream, Stream::Attaching { .. }) {
            self.acks.postpone();
            return Ok(());
        }
        match self.acks.take() {
            Some(seq) => {
                self.unacked.upto(seq, |batches, since| {
                    let after = self.now.saturating_duration_since(since);
                    self.present.board.acked(batches, after);
                });
                self.send(&ToDevice::Ack { seq })
            }
            None => Ok(()),
        }
    }

    pub(super) fn reject(&mut self, reject: Reject) -> Result<(), Ending> {
        self.refuse(reject, ToDevice::Reject)
    }

    /// A message was not taken; `answer` makes of the reject what the device hears.
    pub(super) fn refuse(
        &mut self,
        reject: Reject,
        answer: impl FnOnce(Reject) -> ToDevice,
    ) -> Result<(), Ending> {
        self.present.board.reject(reject.code.as_str());
        // A number can be wrong and the content good.
        self.rejects_in_a_row += u32::from(reject.code != RejectCode::BadSeq);
        info!(
            device = %self.present.device,
            code = reject.code.as_str(),
            detail = without_its_words(&reject.detail),
            "message rejected"
        );
        self.send(&answer(reject))?;
        if self.rejects_in_a_row >= REJECTS_IN_A_ROW {
            return Err(Ending::TooManyRejects);
        }
        Ok(())
    }

    pub(super) fn send(&mut self, message: &ToDevice) -> Result<(), Ending> {
        let bytes = protocol::encode(self.encoding, message);
        self.wire.message(self.encoding, bytes)
    }
}

/// The answer to a batch whose number is not free.
pub(super) fn bad_seq(refused: Refused) -> Reject {
    let Refused { seq, highest } = refused;
    Reject {
        seq: Some(seq),
        code: RejectCode::BadSeq,
        detail: format!(
            "{seq} is not free: it was used for other content or skipped; send this under a number above {highest}"
        ),
    }
}

/// A name for the stream of a device that has none: never the same again, whatever the clock says
/// after the next start.
fn made_stream(conn: ConnId) -> String {
    static RUN: LazyLock<u64> = LazyLock::new(|| RandomState::new().hash_one(0));
    format!("h{:016x}-{conn}", *RUN)
}
#[cfg(test)]
mod tests {
    use super::without_its_words;

    #[test]
    fn a_detail_in_the_log_has_the_words_of_the_protocol_and_none_of_the_devices() {
        for (detail, logged) in [
            ("\"seq\" must be an integer", "\"seq\" must be an integer"),
            ("record 1: \"v\" and \"vs\"", "record 1: \"v\" and \"vs\""),
            ("\"SECRET\" is no kind: hello", "\"…\" is no kind: hello"),
            ("\"a\"SECRET\" is no kind", "\"…\" is no kind"),
            ("\"v\" of \"SECRET\"x\" is", "\"v\" of \"…\" is"),
            ("\"SECRET", "\"…\""),
            ("nothing quoted", "nothing quoted"),
        ] {
            assert_eq!(without_its_words(detail), logged);
        }
    }
}
