//! Home Assistant's discovery, among what goes after everything that matters more.

use std::sync::Arc;

use tokio::sync::watch;
use tokio::time::{Duration, Instant};
use tracing::warn;

use super::{Connection, Phase, Record};
use crate::clock;
use crate::commands::authority::Authority;
use crate::protocol::number::Number;
use crate::uplink::homeassistant::{Discovery, Facts, HUB};
use crate::uplink::publication::Head;
use crate::uplink::terms::Version;
use crate::uplink::transport::{Message, Wire};
use crate::uplink::values::Values;

/// How often the hub's own health is told, and looked whether a device was forgotten.
const HEALTH: Duration = Duration::from_secs(30);

/// Returns when devices may be asked something else; never, without commands. Cancel safe.
pub(super) async fn rights_change(authority: &mut Option<watch::Receiver<Arc<Authority>>>) {
    let changed = match authority {
        Some(authority) => authority.changed().await.is_ok(),
        None => false,
    };
    if !changed {
        std::future::pending().await
    }
}

impl<W: Wire> Connection<'_, W> {
    /// A connection begins.
    pub(super) fn begin_discovery(&mut self) {
        let now = Instant::now();
        if let Some(discovery) = &mut self.ports.discovery {
            // The broker may be another one, or have forgotten.
            discovery.retell(now);
            self.health = Some(now);
        }
        self.follow_rights();
    }

    /// What devices may be asked by exact name are their buttons.
    pub(super) fn follow_rights(&mut self) {
        if let (Some(authority), Some(discovery)) =
            (&mut self.ports.authority, &mut self.ports.discovery)
        {
            let buttons = authority.borrow_and_update().exact_names();
            discovery.offer(buttons, Instant::now());
        }
        self.ask_for_documents(Instant::now());
    }

    /// What has been learned of values is news for discovery.
    pub(super) fn pass_on_news(&mut self, now: Instant) {
        let (Some(values), Some(discovery)) = (&mut self.ports.values, &mut self.ports.discovery)
        else {
            return;
        };
        for device in values.take_news() {
            discovery.news(&device, now);
        }
        self.ask_for_documents(now);
    }

    /// What the broker holds of an earlier run has to be known before anything is written over it.
    fn ask_for_documents(&mut self, now: Instant) {
        let Some(discovery) = &mut self.ports.discovery else {
            return;
        };
        while self.subscriptions.documents() < super::messages::DOCUMENTS
            && let Some(device) = discovery.unasked(now)
        {
            let topic = discovery.topic(&device);
            self.subscriptions.ask_for_document(topic);
        }
    }

    /// What a device says of itself may have changed.
    pub(super) fn described(&mut self, device: &Arc<str>) {
        if let Some(discovery) = &mut self.ports.discovery
            && discovery.knows(device)
        {
            discovery.news(device, Instant::now());
        }
    }

    /// A message about discovery. `false`: it is none.
    pub(super) fn is_discovery(&mut self, message: &Message) -> bool {
        let Some(discovery) = &mut self.ports.discovery else {
            return false;
        };
        if message.topic == Discovery::BIRTH {
            if &message.payload[..] == b"online" {
                discovery.retell(Instant::now());
            }
            return true;
        }
        discovery.recall(&message.topic, &message.payload)
    }

    fn tend_health(&mut self, now: Instant) {
        if self.health.is_none_or(|at| at > now) {
            return;
        }
        self.health = Some(now + HEALTH);
        let (Some(values), Some(discovery)) = (&mut self.ports.values, &mut self.ports.discovery)
        else {
            return;
        };
        let board = &self.ports.board;
        for device in board.devices.take_forgotten() {
            values.forget(&device);
            discovery.forget(&device, now);
        }
        let spool = &board.spool;
        let fill = 100 * spool.disk_bytes.get() / spool.max_size.get().max(1);
        let gaps = board
            .uplink
            .gap_batches
            .iter()
            .map(|(_, count)| count)
            .sum();
        let (hub, time) = (HUB.into(), Number::Float(clock::now().wall));
        for (name, unit, number) in [
            ("backlog", None, spool.batches.get()),
            ("spool-fill", Some("%"), fill),
            ("gap-batches", None, gaps),
        ] {
            values.tell(&hub, name, Number::UInt(number), unit, time, now);
        }
        self.pass_on_news(now);
    }

    /// As many documents as fit.
    pub(super) fn feed_discovery(&mut self) {
        if self.ports.discovery.is_none() || self.phase != Phase::Serving {
            return;
        }
        let now = Instant::now();
        self.tend_health(now);
        while self.has_room_for_value()
            && !self.alone
            && let Some(discovery) = &mut self.ports.discovery
        {
            if let Some(device) = discovery.removal() {
                let topic = discovery.topic(&device);
                self.publish_document(&device, &topic, &[]);
                continue;
            }
            let Some(device) = discovery.next(now) else {
                return;
            };
            let topic = discovery.topic(&device);
            self.forget_document_subscription(&topic);
            let facts = self.facts(&device);
            let discovery = self.ports.discovery.as_mut();
            if let Some(document) = discovery.and_then(|one| one.send(&device, &facts)) {
                self.publish_document(&device, &topic, &document);
            }
        }
    }

    fn facts(&self, device: &str) -> Facts {
        let values = self.ports.values.as_ref().map(|all| all.names(device));
        let with_topic = |known: crate::uplink::values::Known| {
            let topic = self.publisher.value_topic(device, &known.name);
            (known, topic)
        };
        let discovery = self.ports.discovery.as_ref();
        let buttons = discovery.map_or(&[][..], |discovery| discovery.buttons(device));
        let with_command = |name: &String| {
            let topic = self.publisher.command_topic(device, name);
            (name.clone(), topic)
        };
        let about = self.ports.board.devices.get(device);
        let (model, firmware) = about.map(|about| about.description()).unwrap_or_default();
        Facts {
            model,
            firmware,
            hub_status: self.publisher.hub_topic(),
            device_status: self.publisher.status_topic(device),
            expires: self.wire.terms().version == Version::V5,
            values: values.into_iter().flatten().map(with_topic).collect(),
            buttons: buttons.iter().map(with_command).collect(),
        }
    }

    fn publish_document(&mut self, device: &Arc<str>, topic: &str, document: &[u8]) {
        let head = Head {
            topic: [topic, "", "", ""],
            retain: true,
            properties: None,
        };
        let packet = self.ledger.next_id();
        let written = self.wire.publish(packet, &head, |out| {
            out.extend_from_slice(document);
            Ok(())
        });
        match written {
            Ok(_) => {
                self.ports.board.uplink.published.add(1);
                self.values += 1;
                self.ledger.enter(Record::Document(device.clone()));
            }
            Err(why) => self.document_refused(device, &why),
        }
    }

    /// The broker has taken a document.
    pub(super) fn document_taken(&mut self, device: &Arc<str>) {
        if let Some(discovery) = &mut self.ports.discovery {
            discovery.answered(device, true, Instant::now());
        }
    }

    /// It does not take it, for this reason.
    pub(super) fn document_refused(&mut self, device: &Arc<str>, why: &str) {
        self.ports.board.uplink.refused_values.add(1);
        let values = self.ports.values.as_mut();
        if values.is_some_and(Values::is_first_refusal) {
            warn!(
                %device,
                why,
                "the broker does not take what Home Assistant would find devices by; it is tried \
                 again with growing pauses: look at its ACL for homeassistant/#, or write \
                 homeassistant.discovery = false"
            );
        }
        if let Some(discovery) = &mut self.ports.discovery {
            discovery.answered(device, false, Instant::now());
        }
    }
}
