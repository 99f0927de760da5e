//! What the session does with each message, and what it answers.

use tokio::io::{AsyncRead, AsyncWrite};
use tracing::{debug, info};

use super::Session;
use super::ending::Ending;
use super::handover::Stream;
use super::inbound::{self, Inbound};
use super::rate::Cost;
use super::wire::Incoming;
use crate::clock;
use crate::protocol;
use crate::protocol::message::{Reject, RejectCode, ToDevice};

/// Rejects in a row after which the hub hangs up: a firmware that gets ten wrong does not learn.
const REJECTS_IN_A_ROW: u32 = 10;

impl<S: AsyncRead + AsyncWrite + Unpin> Session<'_, S> {
    /// What came from the device.
    pub(super) fn incoming(&mut self, incoming: Incoming) -> Result<(), Ending> {
        match incoming {
            Incoming::End(ending) => Err(ending),
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
                match inbound::read(encoding, &frame, received) {
                    Ok(inbound) => self.message(inbound),
                    Err(reject) => self.reject(reject),
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
                self.present.describe(hello.model, hello.firmware);
                self.attach(Some(hello.stream));
                Ok(())
            }
            Inbound::Hello(_) => self.reject(Reject {
                seq: None,
                code: RejectCode::Malformed,
                detail: "hello must be the first message of a connection".to_owned(),
            }),
            Inbound::Data(candidate) => {
                self.pay(Cost {
                    readings: candidate.readings,
                    ..Cost::default()
                })?;
                if matches!(self.stream, Stream::None) {
                    self.attach(None);
                }
                self.take(candidate)
            }
            Inbound::Result(result) => {
                self.rejects_in_a_row = 0;
                debug!(device = %self.present.device, ok = result.ok, "result of no known command");
                Ok(())
            }
        }
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
        self.present.board.reject(reject.code.as_str());
        self.rejects_in_a_row += 1;
        info!(device = %self.present.device, code = reject.code.as_str(), "message rejected");
        self.send(&ToDevice::Reject(reject))?;
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
