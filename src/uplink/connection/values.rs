//! Value topics: the newest value of each name, after everything that matters more.

use std::sync::Arc;

use tokio::time::Instant;
use tracing::warn;

use super::{Connection, Data, Phase, Record};
use crate::clock;
use crate::reading::{Batch, Item, Lane};
use crate::uplink::publication::{Head, Properties};
use crate::uplink::transport::Wire;
use crate::uplink::values::{Answer, Sending, Values};

impl<W: Wire> Connection<'_, W> {
    /// The broker has taken a batch: its readings are news if it came on the live lane.
    pub(super) fn learn_values(&mut self, data: &Data) {
        let Some(values) = &mut self.ports.values else {
            return;
        };
        let (Lane::Live, Item::Batch(batch)) = (data.lane, &*data.item) else {
            return;
        };
        let now = Instant::now();
        if batch.received.synced {
            values.learn(batch, now);
        } else {
            let received = clock::corrected(batch.received);
            let batch = Batch {
                received,
                ..batch.clone()
            };
            values.learn(&batch, now);
        }
        let dropped = values.take_dropped();
        self.ports.board.uplink.dropped_values.add(dropped);
        self.pass_on_news(now);
    }

    /// Values that may be unacknowledged at a time: half of what states may have, so that they take
    /// neither their place nor much of the link.
    pub(super) fn has_room_for_value(&self) -> bool {
        let room = (self.window.states / 2).max(1);
        self.values < room && self.ledger.span() < usize::from(self.window.whole)
    }

    /// As many values as fit. Not while one thing goes at a time: they are no part of any proof.
    pub(super) fn feed_values(&mut self) {
        self.feed_discovery();
        while self.has_room_for_value() && !self.alone {
            let now = Instant::now();
            let Some(values) = &mut self.ports.values else {
                return;
            };
            if let Some(cleared) = values.clear() {
                self.publish_value(&cleared, None);
                continue;
            }
            let Some((id, sending)) = values.next(now) else {
                return;
            };
            self.publish_value(&sending, Some(id));
        }
    }

    /// Where a broker receives one publish at a time, data would never let a value through: they go
    /// by turns.
    pub(super) fn feed_values_between(&mut self) {
        if self.ports.values.is_none() || !self.has_room_for_value() {
            return;
        }
        if !std::mem::take(&mut self.value_went) {
            let before = self.values;
            self.feed_values();
            self.value_went = self.values > before;
        }
    }

    fn publish_value(&mut self, sending: &Sending, id: Option<u64>) {
        let Some(values) = &mut self.ports.values else {
            return;
        };
        let topic = self.publisher.value_topic(&sending.device, &sending.name);
        let seconds = u32::try_from(sending.expiry.as_secs()).ok();
        let properties = Properties {
            expiry: seconds.filter(|seconds| *seconds > 0),
            ..Properties::default()
        };
        let head = Head {
            topic: [&topic, "", "", ""],
            retain: values.are_retained(),
            properties: Some(&properties),
        };
        let packet = self.ledger.next_id();
        let written = self.wire.publish(packet, &head, |out| {
            out.extend_from_slice(&sending.payload);
            Ok(())
        });
        match written {
            Ok(_) => {
                self.ports.board.uplink.published.add(1);
                self.values += 1;
                self.ledger.enter(Record::Value(sending.device.clone(), id));
            }
            Err(error) => {
                tracing::debug!(topic, error, "a value cannot be published");
                self.ports.board.uplink.dropped_values.add(1);
                self.answer_value(id, Answer::Impossible);
            }
        }
    }

    fn answer_value(&mut self, id: Option<u64>, answer: Answer) {
        if let (Some(values), Some(id)) = (&mut self.ports.values, id) {
            values.answered(id, answer, Instant::now());
        }
    }

    /// The broker has taken a value.
    pub(super) fn value_taken(&mut self, id: Option<u64>) {
        self.ports.board.uplink.values.add(1);
        self.answer_value(id, Answer::Taken);
    }

    /// The broker does not take a value, for this reason.
    pub(super) fn value_refused(&mut self, device: &Arc<str>, id: Option<u64>, why: &str) {
        self.values -= 1;
        self.ports.board.uplink.refused_values.add(1);
        let values = self.ports.values.as_mut();
        if values.is_some_and(|values| values.is_first_refusal()) {
            warn!(
                %device,
                why,
                "the broker does not take values; each is tried again with growing pauses, and data \
                 goes on: look at its ACL for value/#, or write values.enabled = false"
            );
        }
        self.answer_value(id, Answer::Refused);
    }

    /// When the next value may go, if that is to come.
    pub(super) fn next_values(&self) -> Option<Instant> {
        let values = self.ports.values.as_ref()?;
        if self.phase != Phase::Serving {
            return None;
        }
        let now = Instant::now();
        let discovery = self.ports.discovery.as_ref();
        let document = discovery.and_then(|discovery| discovery.wakes(now));
        let health = self.health.filter(|at| *at > now);
        let next = [values.wakes(now), document, health];
        next.into_iter().flatten().min()
    }

    /// The hub stops: what is held back goes now.
    pub(super) fn hurry_values(&mut self) {
        if let Some(values) = &mut self.ports.values {
            values.hurry(Instant::now());
        }
    }

    /// No value is to be sent any more.
    pub(super) fn all_values_said(&self) -> bool {
        let values = self.ports.values.as_ref();
        values.is_none_or(Values::is_idle)
    }
}
