//! What a broker of MQTT 3.1.1 acknowledged last. It must PUBACK what it is going to hang up on, if
//! it does not hang up at once (3.1.1 §3.3.5-2), so a PUBACK is believed once something else has
//! come from the broker, or after a quarter of a second. A hang-up before that makes the intake
//! publish it again.

use std::time::Duration;

use tokio::time::Instant;

use super::{Connection, Data, Record};
use crate::uplink::Event;
use crate::uplink::blame::Alone;
use crate::uplink::terms::Version;
use crate::uplink::transport::Wire;

/// No broker hangs up for a publish after this.
const KEEP: Duration = Duration::from_millis(250);

/// When nothing else is out, a ping brings something else, and sooner than that.
const NUDGE: Duration = Duration::from_millis(20);

/// See the module.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) record: Record,
    since: Instant,
    nudged: bool,
}

impl Kept {
    /// When something has to be done.
    pub(super) fn next(&self) -> Instant {
        self.since + if self.nudged { KEEP } else { NUDGE }
    }
}

impl<W: Wire> Connection<'_, W> {
    /// The broker has acknowledged this.
    pub(super) fn keep(&mut self, record: Record) {
        if self.wire.terms().version == Version::V5 || matches!(record, Record::Farewell) {
            self.settle(record);
            return;
        }
        self.kept = Some(Kept {
            record,
            since: Instant::now(),
            nudged: false,
        });
    }

    /// Something else has come, or time has passed: it is safe.
    pub(super) fn release(&mut self) {
        if let Some(kept) = self.kept.take() {
            self.settle(kept.record);
        }
    }

    pub(super) fn tend_kept(&mut self) {
        let Some(kept) = &mut self.kept else {
            return;
        };
        if kept.since.elapsed() >= KEEP {
            self.release();
            return;
        }
        kept.nudged = true;
        if self.ledger.is_empty() {
            self.wire.ping();
        }
    }

    fn settle(&mut self, record: Record) {
        let careful = self.ports.blame.is_careful();
        if let Record::Pack(pack) = &record
            && (pack.single().is_none() || !careful)
        {
            let things = record.things();
            self.ports.blame.passed_together(&things, pack.bytes);
            return self.settled(record);
        }
        let alone = match &record {
            Record::Data(data) if careful => data.alone(),
            Record::Pack(pack) => pack.single().map(Data::alone).unwrap_or_default(),
            // Only its size matters then.
            Record::Data(data) => Alone {
                bytes: data.bytes,
                ..Alone::default()
            },
            _ => Alone::default(),
        };
        let thing = match &record {
            Record::Pack(pack) => pack.things().next(),
            one => one.thing(),
        };
        if let Some(thing) = thing {
            self.ports.blame.passed(&thing, alone);
        }
        self.settled(record);
    }

    fn data_settled(&mut self, data: &Data) {
        self.acked_data = true;
        self.learn_values(data);
        let (epoch, token) = (self.epoch, data.token);
        self.ports.events.push(Event::Acked { epoch, token });
    }

    fn settled(&mut self, record: Record) {
        match record {
            Record::Data(data) => self.data_settled(&data),
            Record::Pack(pack) => {
                self.pack_taken(&pack);
                pack.data().for_each(|data| self.data_settled(data));
            }
            Record::Device(device, _) => {
                self.ports.parked.taken(&device);
                self.show_refused();
            }
            Record::Hub => {
                self.told_hub = true;
                self.ports.hub_pause = None;
            }
            Record::Reported(device, version) => self.reported(&device, version),
            Record::Value(_, id) => self.value_taken(id),
            Record::Document(device) => self.document_taken(&device),
            Record::Farewell => self.wire.disconnect(),
            Record::Reply(_) | Record::Probe => {}
        }
    }
}
