//! The states of the hub and its devices: told, and parked where the broker refuses them.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tracing::warn;

use super::{Connection, Phase, Record};
use crate::clock;
use crate::status::presence::Presence;
use crate::uplink::blame::{Go, Thing};
use crate::uplink::failure::Failure;
use crate::uplink::transport::Wire;

/// Pauses of the hub's own status, when the broker refuses it.
const HUB_PAUSE: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(3600));

impl<W: Wire> Connection<'_, W> {
    /// `false`: it is refused, and not tried now.
    pub(super) fn say_online(&mut self) -> bool {
        let now = Instant::now();
        let paused = |(until, _): (Instant, Duration)| until > now;
        if self.ports.hub_pause.is_some_and(paused)
            || self.ledger.span() >= usize::from(self.window.whole)
        {
            return false;
        }
        self.untold_hub = false;
        let online = self.publisher.hub_online(self.since, !self.deaf);
        self.publish_state(&online, Record::Hub)
    }

    /// The clock was set: what the broker has been told of times is told anew.
    pub(super) fn tell_times(&mut self) {
        self.ports.outbox.retell();
        self.untold = true;
        self.untold_hub = true;
        if let Some(values) = &mut self.ports.values {
            values.clock_was_set();
        }
    }

    /// As many states as fit.
    pub(super) fn feed_states(&mut self) {
        let whole = usize::from(self.window.whole);
        while self.statuses < self.window.states && self.ledger.span() < whole {
            let Some((device, presence)) = self.states.pop_front().or_else(|| self.take_state())
            else {
                break;
            };
            if !self.ports.blame.is_idle() && self.phase == Phase::Serving {
                let thing = Thing::Status(device.clone());
                if self.ports.blame.may_go(&thing) == Go::Alone {
                    if !self.nothing_is_out() {
                        self.states.push_front((device, presence));
                        break;
                    }
                    self.alone = true;
                }
            }
            self.tell_state(device, presence);
            if self.alone {
                break;
            }
        }
    }

    /// The next state that the broker should be told, and that is not parked.
    pub(super) fn take_state(&mut self) -> Option<(Arc<str>, Presence)> {
        while self.untold {
            // On the way out there is no later.
            let serving = self.phase == Phase::Serving;
            let now = Instant::now();
            let next = if serving {
                let due = self.ports.parked.due(now);
                due.or_else(|| self.ports.outbox.try_next())
            } else {
                self.ports.outbox.try_last()
            };
            let Some((device, presence)) = next else {
                self.untold = false;
                break;
            };
            if let Some(presence) = self.ports.parked.pass(&device, presence, now) {
                return Some((device, presence));
            }
        }
        None
    }

    pub(super) fn tell_state(&mut self, device: Arc<str>, presence: Presence) {
        self.described(&device);
        let status = self.publisher.device_status(&device, &presence);
        if self.publish_state(&status, Record::Device(device, Box::new(presence))) {
            self.statuses += 1;
        }
    }

    /// When a pause is over, if that is to come.
    pub(super) fn next_state(&self) -> Option<Instant> {
        if self.phase != Phase::Serving {
            return None;
        }
        let now = Instant::now();
        let hub = self
            .ports
            .hub_pause
            .filter(|(until, _)| self.untold_hub && *until > now);
        let devices = self.ports.parked.next().filter(|_| !self.untold);
        hub.map(|(until, _)| until).into_iter().chain(devices).min()
    }

    /// The broker does not take a state, for this reason.
    pub(super) fn park(&mut self, record: Record, why: &str) {
        match record {
            Record::Device(device, presence) => {
                if self.ports.parked.refuse(&device, *presence, Instant::now()) {
                    warn!(
                        %device,
                        why,
                        "the broker does not take a device's status; it is tried again with \
                         growing pauses"
                    );
                }
            }
            Record::Hub => {
                let (first, longest) = HUB_PAUSE;
                let pause = match self.ports.hub_pause {
                    None => {
                        warn!(
                            why,
                            "the broker does not take the hub's status; it is tried again with \
                             growing pauses"
                        );
                        first
                    }
                    Some((_, pause)) => (pause * 2).min(longest),
                };
                self.ports.hub_pause = Some((Instant::now() + pause, pause));
                self.untold_hub = true;
            }
            Record::Farewell => self.wire.disconnect(),
            Record::Reply(_) => return self.reply_refused(),
            Record::Reported(device, version) => {
                return self.report_refused(&device, version, why);
            }
            Record::Data(_)
            | Record::Pack(_)
            | Record::Value(..)
            | Record::Document(_)
            | Record::Probe => {}
        }
        self.ports.board.uplink.refused_statuses.add(1);
        self.show_refused();
    }

    pub(super) fn show_refused(&self) {
        let devices = self.ports.parked.len() as u64;
        self.ports.board.uplink.parked_statuses.set(devices);
    }

    /// The hub's last words. Its PUBACK is followed by DISCONNECT, and that by the broker's
    /// closing of the connection.
    pub(super) fn say_offline(&mut self) -> Result<(), Failure> {
        self.phase = Phase::Leaving;
        self.release();
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
