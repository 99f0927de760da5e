//! One thing on the wire at a time, while it is not known what makes the broker hang up.

use tokio::sync::mpsc::error::TryRecvError;
use tokio::time::Instant;
use tracing::warn;

use super::{Connection, Data, Phase, Record, content_of, thing_of};
use crate::uplink::blame::{Go, Thing, Verdict};
use crate::uplink::transport::Wire;
use crate::uplink::{Cause, Event, Submission};

impl<W: Wire> Connection<'_, W> {
    /// Sends the next thing, if nothing is out.
    pub(super) fn feed_one(&mut self) {
        if !self.nothing_is_out() {
            return;
        }
        self.gather();
        if self.phase != Phase::Serving {
            return;
        }
        self.ports.blame.begin_round();
        if let Some(wanted) = self.ports.blame.wanted().cloned()
            && self.offer(&wanted)
        {
            return;
        }
        if self.grace.is_some() && self.ports.blame.awaits_first() {
            return;
        }
        if self.ports.blame.needs_hub_as_witness() && self.offer(&Thing::Hub) {
            return;
        }
        self.offer_any();
        if self.nothing_is_out()
            && let Some(believed) = self.ports.blame.believe()
        {
            self.offer(&believed);
        }
    }

    /// Everything that could be sent is looked at.
    fn gather(&mut self) {
        while self.held.len() < self.inflight {
            match self.ports.submissions.try_recv() {
                Ok(submission) => self.receive(Some(submission)),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => {
                    self.begin_to_flush();
                    break;
                }
            }
        }
        self.take_reply();
        self.follow_desired();
        while let Some(state) = self.take_state() {
            self.states.push_back(state);
        }
    }

    /// Sends this, if it is there.
    fn offer(&mut self, thing: &Thing) -> bool {
        match thing {
            Thing::Hub => self.say_online(),
            Thing::Status(device) => {
                let place = self.states.iter().position(|(one, _)| one == device);
                place.is_some_and(|place| self.send_state(place))
            }
            Thing::Data(_) | Thing::History(_) | Thing::Gap(_) | Thing::Result(_) => {
                let mut held = self.held.iter();
                let unwanted = self.ports.blame.unwanted();
                let other = |one: &Submission| {
                    thing_of(&one.item, one.lane) == *thing
                        && unwanted.is_none_or(|content| content_of(&one.item) != content)
                };
                let place = held.position(other).or_else(|| {
                    let mut held = self.held.iter();
                    held.position(|one| thing_of(&one.item, one.lane) == *thing)
                });
                if place.is_some_and(|place| self.send_held(place)) {
                    return true;
                }
                match thing {
                    Thing::Result(device) => self.send_reply(Some(device)),
                    _ => false,
                }
            }
            // Never suspected: they pause by themselves.
            Thing::Value(_) => false,
            Thing::Reported(device) => self.send_report(Some(device)),
            Thing::Probe => self.send_probe(),
            Thing::Subscription(filter) => self.make_subscription(Some(filter)),
        }
    }

    /// Sends the first thing that may go, data and states by turns.
    fn offer_any(&mut self) {
        self.data_first = !self.data_first;
        // A connection may not live long enough for more than one.
        let mut turns: [fn(&mut Self) -> bool; 2] = [Self::offer_data, Self::offer_state];
        if !self.data_first {
            turns.reverse();
        }
        if !turns.into_iter().any(|offer| offer(self)) {
            self.send_probe();
        }
    }

    fn offer_data(&mut self) -> bool {
        let blame = &self.ports.blame;
        let mut held = self.held.iter();
        let place = held.position(|one| blame.may_go(&thing_of(&one.item, one.lane)) != Go::Later);
        place.is_some_and(|place| self.send_held(place))
    }

    /// The hub's state, a subscription, a command's result, or a device's state.
    fn offer_state(&mut self) -> bool {
        let hub = self.untold_hub && self.ports.blame.may_go(&Thing::Hub) != Go::Later;
        if hub && self.say_online()
            || self.make_subscription(None)
            || self.send_reply(None)
            || self.send_report(None)
        {
            return true;
        }
        let blame = &self.ports.blame;
        let mut states = self.states.iter();
        let place = states
            .position(|(device, _)| blame.may_go(&Thing::Status(device.clone())) != Go::Later);
        place.is_some_and(|place| self.send_state(place))
    }

    fn send_held(&mut self, place: usize) -> bool {
        let Some(submission) = self.held.remove(place) else {
            return false;
        };
        self.publish_data(submission, Instant::now());
        true
    }

    fn send_state(&mut self, place: usize) -> bool {
        let Some((device, presence)) = self.states.remove(place) else {
            return false;
        };
        self.tell_state(device, presence);
        true
    }

    /// It is proven that the broker hangs up on this and on nothing else.
    pub(super) fn condemn(&mut self, verdict: &Verdict, record: Option<Record>) {
        let guilty = verdict.thing();
        warn!(
            %guilty,
            "the broker hangs up on it, each time that it is alone on the wire, and takes everything \
             else; it is tried again with growing pauses: check the broker's rules (ACL) and limits"
        );
        match record {
            Some(Record::Data(data)) => self.give_back(verdict, &data),
            Some(Record::Pack(pack)) => {
                if let Some(data) = pack.single() {
                    self.give_back(verdict, data);
                }
            }
            Some(state) => self.park(state, "the broker hangs up on it"),
            // A subscription: it is not asked for again.
            None => {}
        }
    }

    fn give_back(&mut self, verdict: &Verdict, data: &Data) {
        let topic = self.place_of(data);
        let (thing, for_size) = match verdict {
            Verdict::Topic(_) => {
                let detail = format!(
                    "the broker hangs up on what is published to {topic}, and on nothing else: check \
                     its rules (ACL) for this topic, and its limits"
                );
                return self.refuse(data, Cause::HungUp, detail);
            }
            Verdict::Item { thing, for_size } => (thing, *for_size),
        };
        let bytes = data.bytes;
        let mut error = format!("the broker hangs up on it and takes others on {topic}");
        if for_size {
            self.ports.blame.refused_for_size(thing, bytes);
            error = format!(
                "the broker hangs up on its packet of {bytes} bytes and takes smaller ones on {topic}"
            );
        }
        self.ports.board.uplink.refused.add(1);
        self.ports.events.push(Event::Unpublishable {
            epoch: self.epoch,
            token: data.token,
            error,
        });
    }
}
