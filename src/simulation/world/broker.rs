//! The broker in the simulation and the network before it.

use std::collections::{HashSet, VecDeque};

use super::super::Mutation;
use super::super::trace::Note;
use super::super::truth::{Broken, Link, Publish, Told, device_of, uid_of};
use super::commands::which_of;
use super::{Ev, SETTLING, World};
use crate::reading::{Gap, Topic};
use crate::uplink::simulated::Written;

/// A publish on its way to the broker.
#[derive(Debug)]
struct Coming {
    id: u16,
    what: Publish,
    live: bool,
    payload: Vec<u8>,
}

/// What it refuses.
#[derive(Debug, Clone, Copy)]
pub(in crate::simulation) struct Refused {
    /// `None`: of all devices.
    pub(in crate::simulation) device: Option<usize>,
    pub(in crate::simulation) topic: Topic,
    pub(in crate::simulation) code: u8,
    pub(in crate::simulation) until: u64,
}

/// See the module.
#[derive(Debug)]
pub(in crate::simulation) struct Broker {
    /// ms that one publish takes.
    pub(in crate::simulation) service: u64,
    pub(in crate::simulation) away_until: u64,
    pub(in crate::simulation) hangs_until: u64,
    pub(in crate::simulation) slow_until: u64,
    /// How often it has hung up on this run of the hub.
    pub(in crate::simulation) hung_ups: u64,
    pub(in crate::simulation) refuses: Vec<Refused>,
    /// Devices that something was refused of.
    pub(in crate::simulation) ever_refused: HashSet<usize>,
    coming: VecDeque<Coming>,
    /// PUBACKs on their way back; with a reason code: refusals.
    going: VecDeque<(u16, Result<Publish, u8>)>,
    /// The connection on whose publishes it is at work.
    busy: Option<Link>,
}

impl Broker {
    pub(in crate::simulation) fn new(service: u64) -> Self {
        Self {
            service,
            away_until: 0,
            hangs_until: 0,
            slow_until: 0,
            hung_ups: 0,
            refuses: Vec::new(),
            ever_refused: HashSet::new(),
            coming: VecDeque::new(),
            going: VecDeque::new(),
            busy: None,
        }
    }

    /// Another run of the hub begins.
    pub(in crate::simulation) fn forget(&mut self) {
        self.hung_ups = 0;
        self.coming.clear();
        self.going.clear();
    }

    pub(in crate::simulation) fn better(&mut self, now: u64, healed: bool, service: u64) {
        if healed {
            (self.away_until, self.hangs_until, self.slow_until) = (0, 0, 0);
        }
        if now >= self.slow_until {
            self.service = service;
        }
        if healed {
            self.refuses.retain(|refused| refused.until == u64::MAX);
        }
    }
}

impl World {
    /// The connection that is there: run and number.
    pub(in crate::simulation) fn link(&self) -> Option<Link> {
        let hub = self.hub.as_ref()?;
        Some((hub.run, hub.net.given()?.0))
    }

    pub(in crate::simulation) fn collect_from_uplink(&mut self) -> bool {
        let Some(hub) = &mut self.hub else {
            return false;
        };
        let run = hub.run;
        let dialing = hub.net.dialing();
        if let Some(serial) = dialing.filter(|serial| *serial != hub.seen_dial) {
            hub.seen_dial = serial;
            hub.writes = 0;
            hub.up_since = None;
            self.broker.coming.clear();
            self.broker.going.clear();
            self.about(30, Ev::Answer(run, serial));
            return true;
        }
        let Some((serial, given)) = hub.net.given() else {
            return false;
        };
        let new = given.saturating_sub(hub.writes);
        hub.writes += new;
        for _ in 0..new {
            let takes = self.chance.range(0, 4);
            self.at(takes, Ev::Write(run, serial));
        }
        new > 0
    }

    pub(in crate::simulation) fn broker_answers(&mut self, run: u64, serial: u64) {
        let now = self.now();
        let Some(hub) = self.hub.as_mut().filter(|hub| hub.run == run) else {
            return;
        };
        if hub.net.dialing() != Some(serial) {
            return;
        }
        let agrees = now >= self.broker.away_until;
        if agrees {
            hub.up_since = Some(now);
            hub.caught_up = false;
            self.stats.connects += 1;
        }
        hub.net.answer(agrees);
        self.broker.busy = None;
        self.note(Note::Connects(serial, agrees));
    }

    pub(in crate::simulation) fn writes(&mut self, run: u64, serial: u64) {
        if self.link() != Some((run, serial)) {
            return;
        }
        let hub = self.hub.as_mut().expect("it has a link");
        hub.writes = hub.writes.saturating_sub(1);
        match hub.net.write() {
            Some(Written::Publish {
                id,
                topic,
                payload,
                retain,
            }) => {
                let what = match (retain, topic.ends_with("/gap")) {
                    (true, _) => Publish::Status,
                    (false, true) => {
                        let mut gap: Gap =
                            serde_json::from_slice(&payload).expect("a gap record is JSON");
                        if self.mutation == Some(Mutation::WrongGap) {
                            gap.batches = gap.batches.saturating_sub(1);
                        }
                        Publish::Gap(gap)
                    }
                    (false, false) if !topic.ends_with("/data") && !topic.ends_with("/history") => {
                        let which = which_of(&payload).map(|(which, _)| which);
                        let mut levels = topic.split('/');
                        let device = levels.find_map(device_of).unwrap_or_default();
                        Publish::Answer {
                            payload: payload.clone().into(),
                            which: which.expect("an answer has its number"),
                            device,
                            elsewhere: topic.starts_with("app/"),
                        }
                    }
                    (false, false) => {
                        Publish::Batch(uid_of(&payload).expect("a batch has its number"))
                    }
                };
                if self.mutation == Some(Mutation::PubackOnSend) {
                    hub.net.puback(id, false);
                }
                let live = topic.ends_with("/data");
                self.broker.coming.push_back(Coming {
                    id,
                    what,
                    live,
                    payload,
                });
                let latency = self.chance.range(1, 10);
                if self.broker.busy != Some((run, serial)) {
                    self.broker.busy = Some((run, serial));
                    let takes = latency + self.broker.service;
                    self.at(takes, Ev::Process(run, serial));
                }
            }
            Some(Written::Subscribe(id)) => self.about(20, Ev::Suback(run, serial, id)),
            Some(Written::Disconnect) => hub.net.cut(true),
            Some(Written::Other) | None => {}
        }
    }

    pub(in crate::simulation) fn processes(&mut self, run: u64, serial: u64) -> Result<(), Broken> {
        if self.link() != Some((run, serial)) {
            return Ok(());
        }
        let now = self.now();
        if now < self.broker.hangs_until {
            let rest = self.broker.hangs_until - now;
            self.at(rest, Ev::Process(run, serial));
            return Ok(());
        }
        let Some(coming) = self.broker.coming.pop_front() else {
            self.broker.busy = None;
            return Ok(());
        };
        if let Publish::Batch(uid) = coming.what
            && self.poisoned.contains(&uid)
        {
            self.stats.poison_hang_ups += 1;
            // That is a refusal as well, once it is proven.
            let device = self.truth.device(uid);
            self.broker.ever_refused.insert(device);
            self.truth.refused(device);
            self.cut_now(true, 0);
            return Ok(());
        }
        self.busy_until = now + SETTLING;
        self.takes(coming, (run, serial))?;
        if self.broker.coming.is_empty() {
            self.broker.busy = None;
        } else {
            self.at(self.broker.service, Ev::Process(run, serial));
        }
        self.about(10, Ev::Puback(run, serial));
        Ok(())
    }

    /// The reason code with which it refuses this publish now, and whose it is.
    fn refuses(&self, coming: &Coming) -> Option<(u8, usize)> {
        let (device, topic) = match &coming.what {
            Publish::Batch(uid) => {
                let stream = self.truth.facts.get(*uid as usize)?.stream;
                let topic = if coming.live {
                    Topic::Data
                } else {
                    Topic::History
                };
                (self.truth.streams[stream].device, topic)
            }
            Publish::Gap(gap) => (device_of(&gap.device)?, Topic::Gap),
            Publish::Answer {
                device, elsewhere, ..
            } => match elsewhere {
                true => (*device, Topic::Response),
                false => (*device, Topic::Result),
            },
            Publish::Status => return None,
        };
        let now = self.now();
        let refuses = self.broker.refuses.iter().find(|refused| {
            refused.topic == topic
                && now < refused.until
                && refused.device.is_none_or(|one| one == device)
        });
        refuses.map(|refused| (refused.code, device))
    }

    /// The broker takes a publish, or refuses it; its PUBACK is on the way.
    fn takes(&mut self, coming: Coming, link: Link) -> Result<(), Broken> {
        if let Some((code, device)) = self.refuses(&coming) {
            self.stats.refusals += 1;
            // Nothing of a device's data is late because an answer was refused.
            if !matches!(coming.what, Publish::Answer { .. }) {
                self.broker.ever_refused.insert(device);
                self.truth.refused(device);
            }
            self.note(Note::Refuses(coming.id, code));
            self.broker.going.push_back((coming.id, Err(code)));
            return Ok(());
        }
        let Coming {
            id,
            what,
            live,
            payload,
        } = coming;
        match &what {
            Publish::Batch(uid) => {
                self.note(Note::Arrives(id, *uid, live));
                let told = Told::read(&payload).ok_or("a payload that cannot be read")?;
                self.truth.arrives(*uid, link, live, &told)?;
            }
            Publish::Gap(gap) => {
                self.stats.gaps += 1;
                self.note(Note::ArrivesGap(id, gap.batches));
                self.truth.gap_arrives(gap);
            }
            Publish::Answer { payload, which, .. } => {
                self.note(Note::ArrivesAnswer(id, *which));
                self.truth.answer_arrives(payload, link)?;
            }
            Publish::Status => {}
        }
        self.truth.pubacked(&what);
        self.broker.going.push_back((id, Ok(what)));
        Ok(())
    }

    pub(in crate::simulation) fn puback_comes(&mut self, run: u64, serial: u64) {
        if self.link() != Some((run, serial)) {
            return;
        }
        self.puback(false);
    }

    fn puback(&mut self, late: bool) {
        let Some((id, what)) = self.broker.going.pop_front() else {
            return;
        };
        let Some(hub) = &self.hub else { return };
        let run = hub.run;
        let what = match what {
            Ok(what) => what,
            Err(code) => {
                // What is read behind the end of the connection may be missed.
                if !late {
                    hub.net.refuse(id, code);
                }
                return;
            }
        };
        let ignored = self.mutation == Some(Mutation::PubackOnSend);
        if !ignored && hub.net.puback(id, late) {
            self.note(Note::Puback(id));
            self.truth.heard(&what, run);
        }
    }

    /// The connection ends, after some of what is on the way has arrived.
    pub(in crate::simulation) fn cut(&mut self, hung_up: bool) {
        let arrive = self.chance.below(self.broker.coming.len() + 1);
        self.cut_now(hung_up, arrive);
    }

    fn cut_now(&mut self, hung_up: bool, arrive: usize) {
        let Some(link) = self.link() else {
            return;
        };
        for _ in 0..arrive {
            let poison = |coming: &Coming| matches!(coming.what, Publish::Batch(uid) if self.poisoned.contains(&uid));
            if self.broker.coming.front().is_none_or(poison) {
                break;
            }
            let coming = self.broker.coming.pop_front().expect("looked at above");
            if let Err(broken) = self.takes(coming, link) {
                self.truth.remember(broken);
            }
        }
        let late = self.chance.below(self.broker.going.len() + 1);
        for _ in 0..late {
            self.puback(true);
        }
        self.note(Note::Cut(link.1, hung_up));
        self.stats.cuts += 1;
        self.disturbs(0);
        if hung_up {
            self.broker.hung_ups += 1;
        }
        if let Some(hub) = &mut self.hub {
            hub.up_since = None;
            hub.net.cut(hung_up);
        }
    }

    /// The hub is gone; some of what it had sent arrives all the same.
    pub(in crate::simulation) fn leave_the_network(&mut self) {
        if self.link().is_some() {
            self.cut(false);
        }
    }
}
