//! The states of the hub and its devices: told, parked where the broker refuses them, and
//! corrected where an earlier run left them.

use tokio::time::Instant;
use tracing::{info, warn};

use super::{Connection, Phase, Record};
use crate::clock;
use crate::uplink::door::{Message, Retained, Subscription, Wire};
use crate::uplink::failure::Failure;
use crate::uplink::stale;

impl<W: Wire> Connection<'_, W> {
    pub(super) fn say_online(&mut self) {
        let online = self.publisher.hub_status("online", self.since);
        self.publish_state(&online, Record::Hub);
    }

    /// The clock was set: what the broker has been told of times is told anew.
    pub(super) fn tell_times(&mut self) {
        self.ports.outbox.retell();
        self.untold = true;
        self.untold_hub = true;
    }

    /// As many states as fit.
    pub(super) fn feed_states(&mut self) {
        let whole = usize::from(self.window.whole);
        if self.untold_hub && self.phase == Phase::Serving && self.ledger.span() < whole {
            self.untold_hub = false;
            self.say_online();
        }
        while self.untold
            && self.phase != Phase::Leaving
            && self.statuses < self.window.states
            && self.ledger.span() < whole
        {
            // On the way out there is no later.
            let parked = match self.phase {
                Phase::Serving => self.ports.parked.due(Instant::now()),
                _ => None,
            };
            let next = parked.or_else(|| match self.phase {
                Phase::Serving => self.ports.outbox.try_next(),
                _ => self.ports.outbox.try_last(),
            });
            let Some((device, presence)) = next else {
                self.untold = false;
                break;
            };
            let Some(presence) = self.ports.parked.pass(&device, presence, Instant::now()) else {
                continue;
            };
            let status = self.publisher.device_status(&device, &presence);
            if self.publish_state(&status, Record::Device(device, Box::new(presence))) {
                self.statuses += 1;
            }
        }
    }

    /// The broker has refused a state, for this reason.
    pub(super) fn state_refused(&mut self, record: Record, why: &str) {
        match record {
            Record::Device(device, presence) => {
                self.statuses -= 1;
                if self.ports.parked.refuse(&device, *presence, Instant::now()) {
                    warn!(
                        %device,
                        why,
                        "the broker does not take a device's status; it is tried again with \
                         growing pauses"
                    );
                }
            }
            Record::Hub => warn!(why, "the broker does not take the hub's status"),
            Record::Farewell => self.wire.disconnect(),
            Record::Data(_) | Record::Reply(_) => {}
        }
        self.ports.board.uplink.refused_statuses.add(1);
    }

    /// Asks for the states that an earlier run left behind, before anything is published.
    pub(super) fn look_for_stale(&mut self) {
        if self.ports.stale_attempts == 0 {
            return;
        }
        self.ports.stale_attempts -= 1;
        self.subscribe(&Subscription {
            filter: self.publisher.status_filter(),
            // With QoS 1 some brokers count the hub as a consumer, and keep or lose for it.
            at_least_once: false,
            retained: Retained::Sent,
            as_published: false,
            limit: stale::MAX_STATUS,
        });
        self.stale = Some(None);
    }

    /// A message that was asked for.
    pub(super) fn message(&mut self, message: &Message) {
        if !message.retain {
            return;
        }
        if let Some(device) = self.publisher.device_of(&message.topic)
            && let Some(correction) = stale::correction(&message.payload)
            && self.ports.outbox.put_unknown(device, correction)
        {
            info!(device, "was online when an earlier run of the hub ended");
        }
        self.put_off_stale();
    }

    pub(super) fn put_off_stale(&mut self) {
        if let Some(quiet) = &mut self.stale {
            *quiet = Some(Instant::now() + stale::QUIET);
        }
    }

    pub(super) fn end_stale(&mut self) {
        self.unsubscribe(&self.publisher.status_filter());
        self.stale = None;
        self.ports.stale_attempts = 0;
    }

    /// The hub's last words. Its PUBACK is followed by DISCONNECT, and that by the broker's
    /// closing of the connection.
    pub(super) fn say_offline(&mut self) -> Result<(), Failure> {
        self.phase = Phase::Leaving;
        if self.ledger.span() >= usize::from(self.window.whole) {
            // A broker that acknowledges nothing: the last will says it.
            return Err(Failure::passing("no room for the last words"));
        }
        let offline = self.publisher.hub_status("offline", clock::now());
        if !self.publish_state(&offline, Record::Farewell) {
            self.wire.disconnect();
        }
        Ok(())
    }
}
