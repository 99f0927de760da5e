//! What the broker says changes the ledger, and nothing else does.

use tokio::time::Instant;
use tracing::debug;

use super::{Connection, Data, Record};
use crate::reading::Item;
use crate::uplink::door::{Signal, Wire};
use crate::uplink::failure::Failure;
use crate::uplink::{Cause, Event, Refusal, reasons};

impl<W: Wire> Connection<'_, W> {
    /// Everything that one read has brought.
    pub(super) fn signals(&mut self) -> Result<(), Failure> {
        let now = Instant::now();
        while let Some(signal) = self.wire.take() {
            self.hear(signal, now)?;
        }
        let in_flight = self.ledger.len() as u64;
        self.ports.board.uplink.in_flight.set(in_flight);
        Ok(())
    }

    pub(super) fn hear(&mut self, signal: Signal, now: Instant) -> Result<(), Failure> {
        match signal {
            Signal::Acked(id) => self.acked(id, now)?,
            Signal::Unheard(id) => {
                self.ports.board.uplink.unheard.add(1);
                self.acked(id, now)?;
            }
            Signal::Refused { id, reason, words } => self.refused(id, reason, &words)?,
            Signal::Subscribed { id, reason } if self.command_subscription == Some(id) => {
                self.listens(reason);
            }
            Signal::Subscribed { reason, .. } => {
                if reason >= reasons::ERRORS {
                    debug!("the broker does not let the hub read its devices' states");
                }
                self.put_off_stale();
            }
            Signal::Message(message) if self.publisher.is_command(&message.topic) => {
                self.command(&message);
            }
            Signal::Message(message) => self.message(&message),
            Signal::Skipped => self.ports.board.uplink.skipped.add(1),
            Signal::Alive | Signal::SaidGoodbye => {}
        }
        Ok(())
    }

    fn acked(&mut self, id: u16, now: Instant) -> Result<(), Failure> {
        let record = self.ledger.acked(id)?;
        self.ports.board.uplink.acknowledged.add(1);
        match record {
            Record::Data(data) => {
                self.out_bytes -= data.bytes;
                self.acked_data = true;
                self.count(&data, now);
                let (epoch, token) = (self.epoch, data.token);
                self.ports.outlet.push(Event::Acked { epoch, token });
            }
            Record::Device(device, _) => {
                self.statuses -= 1;
                self.ports.parked.taken(&device);
            }
            Record::Hub => {}
            Record::Reply(number) => self.replied(number),
            Record::Farewell => self.wire.disconnect(),
        }
        Ok(())
    }

    /// PUBACK of 0x80 and above: it is not safe by it.
    fn refused(&mut self, id: u16, reason: u8, words: &str) -> Result<(), Failure> {
        let record = self.ledger.acked(id)?;
        let why = reasons::sentence(reason, words, "");
        match record {
            Record::Data(data) => {
                self.out_bytes -= data.bytes;
                self.ports.board.uplink.refused.add(1);
                let topic = self.publisher.head(&data.item, data.lane).topic.concat();
                self.ports.outlet.push(Event::Refused {
                    epoch: self.epoch,
                    token: data.token,
                    refusal: Refusal {
                        cause: Cause::Reason(reason),
                        detail: format!("the broker does not take {topic}: {why}"),
                    },
                });
            }
            Record::Reply(number) => {
                self.replies -= 1;
                self.reply_refused(number, why);
            }
            state => self.state_refused(state, &why),
        }
        Ok(())
    }

    /// The broker has taken it.
    fn count(&self, data: &Data, now: Instant) {
        let board = &self.ports.board.uplink;
        let waited = now.saturating_duration_since(data.since);
        board.puback_latency.observe(waited, 1);
        if let Item::Gap(gap) = &*data.item {
            let reason = gap.reason.as_str();
            board.gaps.add(reason, 1);
            board.gap_batches.add(reason, gap.batches);
        }
    }
}
