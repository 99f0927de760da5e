//! What the broker says changes the ledger, and nothing else does.

use tokio::time::Instant;

use super::{Connection, Data, Record, thing_of};
use crate::reading::{GapReason, Item};
use crate::uplink::failure::Failure;
use crate::uplink::transport::{Signal, Wire};
use crate::uplink::{Cause, Event, Refusal, reasons};

impl<W: Wire> Connection<'_, W> {
    /// Everything that one read has brought.
    pub(super) fn signals(&mut self) -> Result<(), Failure> {
        let now = Instant::now();
        while let Some(signal) = self.wire.take() {
            self.hear(signal, now)?;
        }
        Ok(())
    }

    pub(super) fn hear(&mut self, signal: Signal, now: Instant) -> Result<(), Failure> {
        if signal != Signal::SaidGoodbye {
            self.release();
        }
        self.hear_silence(&signal)?;
        match signal {
            Signal::Acked(id) => self.acked(id, now)?,
            Signal::Unheard(id) => {
                self.ports.board.uplink.unheard.add(1);
                self.acked(id, now)?;
            }
            Signal::Refused { id, reason, words } => self.refused(id, reason, &words)?,
            Signal::Subscribed { id, reason } => self.subscribed(id, reason),
            Signal::Message(message) => self.message(&message),
            Signal::Skipped => self.ports.board.uplink.skipped.add(1),
            Signal::Alive | Signal::SaidGoodbye => {}
        }
        Ok(())
    }

    fn acked(&mut self, id: u16, now: Instant) -> Result<(), Failure> {
        let record = self.ledger.acked(id)?;
        let count = match &record {
            Record::Pack(pack) => pack.pieces.len() as u64,
            _ => 1,
        };
        self.ports.board.uplink.acknowledged.add(count);
        match &record {
            Record::Pack(pack) => {
                pack.data().for_each(|data| self.count(data, now));
                self.pack_answered(pack);
            }
            Record::Data(data) => {
                self.out_bytes -= data.bytes;
                self.count(data, now);
            }
            Record::Device(..) => self.statuses -= 1,
            Record::Reply(..) => self.replies -= 1,
            Record::Reported(..) => self.reports -= 1,
            Record::Value(..) | Record::Document(_) => self.values -= 1,
            Record::Hub | Record::Farewell | Record::Probe => {}
        }
        self.keep(record);
        Ok(())
    }

    /// PUBACK of 0x80 and above: it is not safe by it.
    fn refused(&mut self, id: u16, reason: u8, words: &str) -> Result<(), Failure> {
        let record = self.ledger.acked(id)?;
        let why = reasons::sentence(reason, words, "");
        match record {
            Record::Data(data) => {
                self.out_bytes -= data.bytes;
                self.data_refused(&data, reason, &why);
            }
            Record::Pack(pack) => self.pack_refused(pack, reason, &why),
            Record::Document(device) => {
                self.values -= 1;
                self.document_refused(&device, &why);
            }
            Record::Value(device, id) => self.value_refused(&device, id, &why),
            state => {
                match &state {
                    Record::Device(..) => self.statuses -= 1,
                    Record::Reply(..) => self.replies -= 1,
                    Record::Reported(..) => self.reports -= 1,
                    _ => {}
                }
                self.park(state, &why);
            }
        }
        Ok(())
    }

    pub(super) fn data_refused(&mut self, data: &Data, reason: u8, why: &str) {
        let topic = self.place_of(data);
        let detail = format!("the broker does not take what is published to {topic}: {why}");
        let (epoch, token) = (self.epoch, data.token);
        let thing = thing_of(&data.item, data.lane);
        let blame = &mut self.ports.blame;
        // The broker's own word for this one packet, and it was said before.
        if reason == reasons::PACKET_TOO_LARGE
            && blame.is_for_size(&thing, data.bytes)
            && blame.refused_for_size(&thing, data.bytes)
        {
            if let Some(bytes) = blame.too_large() {
                self.wire.limit(bytes);
            }
            self.ports.board.uplink.refused.add(1);
            self.ports.events.push(Event::Unpublishable {
                epoch,
                token,
                error: detail,
            });
            return;
        }
        self.refuse(data, Cause::Reason(reason), detail);
    }

    /// The broker does not take it: it is the intake's again.
    pub(super) fn refuse(&mut self, data: &Data, cause: Cause, detail: String) {
        self.ports.board.uplink.refused.add(1);
        self.ports.events.push(Event::Refused {
            epoch: self.epoch,
            token: data.token,
            refusal: Refusal { cause, detail },
        });
    }

    /// The broker has acknowledged it.
    fn count(&self, data: &Data, now: Instant) {
        let board = &self.ports.board.uplink;
        let waited = now.saturating_duration_since(data.since);
        board.puback_latency.observe(waited, 1);
        // A total of what was left out on purpose tells of no loss.
        if let Item::Gap(gap) = &*data.item
            && gap.reason != GapReason::Reduced
        {
            let reason = gap.reason.as_str();
            board.gaps.add(reason, 1);
            board.gap_batches.add(reason, gap.batches);
        }
    }
}
