//! Subscriptions: what the hub asks its broker for, and what comes of it.
//!
//! Each has a purpose, and a filter and options of its own. One that the broker refuses is not
//! made again on this connection; one that it hangs up on, not after it was proven.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tracing::{debug, error, info};

use super::{Connection, Phase, Record};
use crate::clock;
use crate::status::board::ProbeState;
use crate::uplink::blame::{Alone, Go, Thing};
use crate::uplink::homeassistant::{Discovery, MAX_DOCUMENT};
use crate::uplink::terms::Version;
use crate::uplink::transport::{Message, Retained, Subscription, Wire};
use crate::uplink::{reasons, retained_states};

/// Packet ids of subscriptions, far above those of publishes.
const FIRST_ID: u16 = 60_000;

/// The echo of the probe must come within this. A broker on a slow link needs two round trips.
const ECHO: Duration = Duration::from_secs(10);

/// The echo of an empty batch is as long as the batch.
const MAX_ECHO: usize = 1 << 10;

/// What a subscription is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    /// The hub's own status: another's word may stand there after a takeover.
    Own,
    /// The states that an earlier run left behind.
    Stale,
    /// The same of one device, by its exact topic.
    StaleOne,
    /// The probe's echo.
    Echo,
    /// Commands for devices.
    Commands,
    /// That Home Assistant has started.
    Birth,
    /// What Home Assistant was told of a device by an earlier run.
    Document,
    /// The state that one device is to be in.
    Desired,
}

/// Documents of earlier runs that are asked for at a time.
pub(super) const DOCUMENTS: usize = 64;

#[derive(Debug)]
struct Made {
    id: u16,
    filter: Arc<str>,
    purpose: Purpose,
    answered: bool,
}

/// Exact topics that are subscribed to at a time, when a broker has sent nothing for the wildcard.
const EXACT: usize = 256;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Subscriptions {
    /// To be made.
    wanted: VecDeque<(Purpose, Subscription)>,
    made: Vec<Made>,
    count: u16,
    /// Retained states have come.
    retained: bool,
    /// Devices whose states are to be asked for by exact topic; `None`: it is not known yet
    /// whether that is needed.
    exact: Option<Vec<Arc<str>>>,
}

impl Subscriptions {
    /// Documents that are being asked for.
    pub(super) fn documents(&self) -> usize {
        let wanted = self.wanted.iter().map(|(purpose, _)| *purpose);
        let all = wanted.chain(self.made.iter().map(|one| one.purpose));
        all.filter(|purpose| *purpose == Purpose::Document).count()
    }

    /// The document that stands at this topic is to be asked for.
    pub(super) fn ask_for_document(&mut self, topic: String) {
        let wanted = plain(topic, MAX_DOCUMENT);
        self.wanted.push_back((Purpose::Document, wanted));
    }

    /// One more desired state to follow.
    pub(super) fn follow(&mut self, subscription: Subscription) {
        self.wanted.push_back((Purpose::Desired, subscription));
    }

    /// Those to desired states that wait, or that the broker has not answered.
    pub(super) fn following(&self) -> usize {
        let waiting = self.wanted.iter().map(|(purpose, _)| *purpose);
        let made = self.made.iter().map(|one| one.purpose);
        let all = waiting.chain(made);
        all.filter(|purpose| *purpose == Purpose::Desired).count()
    }

    /// A desired state is not followed any more. Returns the id of an UNSUBSCRIBE.
    pub(super) fn unfollow(&mut self, filter: &str) -> u16 {
        self.wanted.retain(|(_, one)| one.filter != filter);
        self.next_id()
    }

    fn next_id(&mut self) -> u16 {
        let id = FIRST_ID + self.count % (u16::MAX - FIRST_ID);
        self.count = self.count.wrapping_add(1);
        id
    }

    /// The broker has answered every SUBSCRIBE.
    pub(super) fn are_answered(&self) -> bool {
        self.made.iter().all(|one| one.answered)
    }

    /// Those that it has not.
    pub(super) fn unanswered(&self) -> impl Iterator<Item = Thing> {
        let open = self.made.iter().filter(|one| !one.answered);
        open.map(|one| Thing::Subscription(one.filter.clone()))
    }
}

/// Where the probe is: an empty batch that must come back, because a broker of MQTT 3.1.1 cannot
/// say that it throws away what it acknowledges (see `docs/reliability.md`).
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) enum Probe {
    /// Not on this connection, or over.
    #[default]
    Off,
    /// The subscription is not agreed to yet.
    Subscribing,
    /// To be published.
    Ready,
    /// The echo must come until then.
    Waiting(Instant),
}

impl Probe {
    pub(super) fn deadline(&self) -> Option<Instant> {
        match self {
            Self::Waiting(until) => Some(*until),
            _ => None,
        }
    }
}

fn plain(filter: String, limit: usize) -> Subscription {
    Subscription {
        filter,
        // With QoS 1 some brokers count the hub as a consumer, and keep or lose for it.
        at_least_once: false,
        retained: Retained::Sent,
        as_published: false,
        limit,
    }
}

impl<W: Wire> Connection<'_, W> {
    pub(super) fn plan_subscriptions(&mut self) {
        let commands = self.command_subscription();
        let wanted = &mut self.subscriptions.wanted;
        wanted.extend(commands.map(|one| (Purpose::Commands, one)));
        if self.ports.stale_attempts > 0 {
            self.ports.stale_attempts -= 1;
            let filter = self.publisher.status_filter();
            wanted.push_back((Purpose::Stale, plain(filter, retained_states::MAX_STATUS)));
            self.stale = Some(None);
        }
        let own = self.publisher.hub_topic();
        wanted.push_back((Purpose::Own, plain(own, retained_states::MAX_STATUS)));
        if self.ports.discovery.is_some() {
            let birth = Discovery::BIRTH.to_owned();
            wanted.push_back((Purpose::Birth, plain(birth, MAX_ECHO)));
        }
        if self.wire.terms().version == Version::V311 {
            let echo = Subscription {
                retained: Retained::NotSent,
                ..plain(self.publisher.probe_topic(), MAX_ECHO)
            };
            wanted.push_back((Purpose::Echo, echo));
            self.probe = Probe::Subscribing;
            self.ports.board.uplink.set_probe(ProbeState::Waiting);
        } else {
            self.ports.board.uplink.set_probe(ProbeState::Off);
        }
    }

    /// Makes one subscription that may be made, this one or any. `false`: there is none.
    pub(super) fn make_subscription(&mut self, filter: Option<&str>) -> bool {
        let blame = &self.ports.blame;
        let go =
            |one: &Subscription| blame.may_go(&Thing::Subscription(one.filter.as_str().into()));
        let commands = &self.ports.board.commands;
        // One that was proven to make the broker hang up is not worth another reconnect.
        self.subscriptions.wanted.retain(|(purpose, one)| {
            let forbidden = go(one) == Go::Alone;
            if forbidden && *purpose == Purpose::Commands {
                error!(
                    filter = one.filter,
                    "the broker hangs up when the hub subscribes to commands: none will come; look \
                     at its ACL"
                );
                commands.listening.set(0);
            }
            if forbidden && *purpose == Purpose::Desired {
                error!(
                    filter = one.filter,
                    "the broker hangs up when the hub subscribes to a device's desired state: it is \
                     not followed; look at its ACL"
                );
            }
            if forbidden && *purpose == Purpose::Echo {
                self.probe = Probe::Off;
                self.ports.board.uplink.set_probe(ProbeState::Unknown);
            }
            !forbidden
        });
        let place = self.subscriptions.wanted.iter().position(|(_, one)| {
            go(one) == Go::Now && filter.is_none_or(|filter| one.filter == filter)
        });
        let Some((purpose, subscription)) =
            place.and_then(|place| self.subscriptions.wanted.remove(place))
        else {
            return false;
        };
        let id = self.subscriptions.next_id();
        self.wire.subscribe(id, &subscription);
        self.subscriptions.made.push(Made {
            id,
            filter: subscription.filter.into(),
            purpose,
            answered: false,
        });
        true
    }

    /// Ends one of this purpose. `false`: there was none.
    fn unsubscribe(&mut self, purpose: Purpose) -> bool {
        let made = &mut self.subscriptions.made;
        let Some(place) = made.iter().position(|one| one.purpose == purpose) else {
            self.subscriptions.wanted.retain(|(one, _)| *one != purpose);
            return false;
        };
        let made = made.remove(place);
        let id = self.subscriptions.next_id();
        self.wire.unsubscribe(id, &made.filter);
        true
    }

    /// What an earlier run said has been waited for long enough.
    pub(super) fn forget_document_subscription(&mut self, topic: &str) {
        self.subscriptions
            .wanted
            .retain(|(purpose, one)| *purpose != Purpose::Document || one.filter != topic);
        let mut made = self.subscriptions.made.iter();
        let own = |one: &Made| one.purpose == Purpose::Document && &*one.filter == topic;
        if let Some(place) = made.position(own) {
            let made = self.subscriptions.made.remove(place);
            let id = self.subscriptions.next_id();
            self.wire.unsubscribe(id, &made.filter);
        }
    }

    /// SUBACK.
    pub(super) fn subscribed(&mut self, id: u16, reason: u8) {
        let Some(made) = self.subscriptions.made.iter_mut().find(|one| one.id == id) else {
            return;
        };
        made.answered = true;
        let (purpose, refused) = (made.purpose, reason >= reasons::ERRORS);
        self.ports
            .blame
            .passed(&Thing::Subscription(made.filter.clone()), Alone::default());
        if refused {
            let (filter, why) = (&made.filter, reasons::sentence(reason, "", ""));
            debug!(%filter, why, "the broker does not agree to a subscription");
        }
        match purpose {
            Purpose::Stale | Purpose::StaleOne => self.put_off_stale(),
            Purpose::Own | Purpose::Birth | Purpose::Document => {}
            Purpose::Commands => self.listens(reason),
            Purpose::Desired => {
                let filter = made.filter.clone();
                // Nothing more is to be known of it, and there may be a thousand.
                self.subscriptions.made.retain(|one| one.id != id);
                self.follows(&filter, reason);
            }
            Purpose::Echo if refused => {
                self.probe = Probe::Off;
                if self.ports.board.uplink.set_probe(ProbeState::Unknown) {
                    info!(
                        "the broker does not let the hub read its own probe, so it cannot be known \
                         whether MQTT 3.1.1 throws data away here: allow the hub to subscribe to \
                         {}, or use MQTT 5",
                        self.publisher.probe_topic()
                    );
                }
            }
            Purpose::Echo => self.probe = Probe::Ready,
        }
    }

    /// Publishes the probe, if it is its time.
    pub(super) fn send_probe(&mut self) -> bool {
        let free = self.ledger.span() < usize::from(self.window.whole);
        if self.probe != Probe::Ready || !free || self.phase != Phase::Serving {
            return false;
        }
        match self.ports.blame.may_go(&Thing::Probe) {
            Go::Now => {}
            Go::Later => return false,
            Go::Alone => {
                // Hung up on before: that it is forbidden says nothing of the devices' topics.
                self.probe = Probe::Off;
                self.ports.board.uplink.set_probe(ProbeState::Unknown);
                return false;
            }
        }
        let probe = self.publisher.probe(clock::now());
        if !self.publish_state(&probe, Record::Probe) {
            self.probe = Probe::Off;
            return false;
        }
        self.probe = Probe::Waiting(Instant::now() + ECHO);
        true
    }

    pub(super) fn probe_is_silent(&mut self) {
        self.probe = Probe::Off;
        self.unsubscribe(Purpose::Echo);
        if self.ports.board.uplink.set_probe(ProbeState::Silent) {
            error!(
                "the broker acknowledges what the hub publishes and does not deliver it: what \
                 was published to {} did not come back; check the broker's rules (ACL) for the \
                 topics of the hub and its message_size_limit, or use a broker with MQTT 5",
                self.publisher.probe_topic()
            );
        }
    }

    /// A message that was asked for.
    pub(super) fn message(&mut self, message: &Message) {
        if self.publisher.is_command(&message.topic) {
            self.command(message);
        } else if let Some(device) = self.publisher.desired_device(&message.topic) {
            self.desired(&device, message);
        } else if matches!(self.probe, Probe::Waiting(_))
            && message.topic == self.publisher.probe_topic()
        {
            self.probe = Probe::Off;
            self.unsubscribe(Purpose::Echo);
            if self.ports.board.uplink.set_probe(ProbeState::Heard) {
                info!("the broker delivers what the hub publishes");
            }
        } else if self.is_discovery(message) {
            self.pass_on_news(Instant::now());
        } else if message.topic == self.publisher.hub_topic() {
            self.own_status(&message.payload);
        } else if message.retain {
            self.subscriptions.retained = true;
            if let Some(device) = self.publisher.device_of(&message.topic)
                && let Some(correction) = retained_states::correction(&message.payload)
                && self.ports.outbox.put_unknown(&device, correction)
            {
                info!(%device, "was online when an earlier run of the hub ended");
            }
            self.put_off_stale();
        }
    }

    /// What stands at the hub's own status. A broker may publish the last will of the connection
    /// before this one after the takeover, when `online` has been said already.
    fn own_status(&mut self, payload: &[u8]) {
        /// Another hub with the same id would say `offline` again and again.
        const CORRECTIONS: u8 = 3;
        if self.told_hub
            && self.phase == Phase::Serving
            && self.corrections < CORRECTIONS
            && retained_states::says_offline(payload)
        {
            self.corrections += 1;
            self.untold_hub = true;
            info!("the broker had the hub as offline; it is told again that it is online");
        }
    }

    pub(super) fn put_off_stale(&mut self) {
        if let Some(quiet) = &mut self.stale {
            *quiet = Some(Instant::now() + retained_states::QUIET);
        }
    }

    /// Nothing more comes of what was asked for. A broker that has sent nothing at all may be one
    /// that sends nothing retained for wildcards (RabbitMQ): it is asked by exact topic for the
    /// devices that the hub knows of and that are not here.
    pub(super) fn end_stale(&mut self) {
        self.unsubscribe(Purpose::Stale);
        while self.unsubscribe(Purpose::StaleOne) {}
        self.stale = None;
        self.ports.stale_attempts = 0;
        let retained = self.subscriptions.retained;
        let devices = &self.ports.board.devices;
        let exact = self.subscriptions.exact.get_or_insert_with(|| {
            let known = if retained { Vec::new() } else { devices.all() };
            let away = known.iter().filter(|device| !device.is_online());
            away.map(|device| device.id().into()).collect()
        });
        let next = exact.split_off(exact.len().saturating_sub(EXACT));
        for device in &next {
            let filter = self.publisher.status_topic(device);
            let wanted = plain(filter, retained_states::MAX_STATUS);
            let wanted = (Purpose::StaleOne, wanted);
            self.subscriptions.wanted.push_back(wanted);
        }
        if !next.is_empty() {
            self.stale = Some(None);
        }
    }
}
