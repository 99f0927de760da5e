//! A command comes in: judged, refused, known again, or accepted.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::address::{self, Asker, MAX_CORRELATION, ReplyTo};
use super::answer::{Answer, End, Fault, State};
use super::authority::is_name;
use super::event::{Action, Incoming, Now, Record};
use super::queue::Command;
use super::request::{self, Malformed, Request};
use super::{Commands, WAITING, size_of};
use crate::reading::{Encoding, Moment, Reply};

/// For whom, for what, and who hears of it.
pub(super) struct Ask {
    pub(super) device: Arc<str>,
    pub(super) name: Arc<str>,
    pub(super) asker: Asker,
    pub(super) who: Arc<str>,
}

impl Commands {
    pub(super) fn arrived(&mut self, now: Now, incoming: Incoming, out: &mut Vec<Action>) {
        self.counts.received += 1;
        // Somebody takes a retained message away: nothing is asked.
        if incoming.retain && incoming.payload.is_empty() {
            return;
        }
        let Some((device, name)) = address::parse(&self.root, &incoming.topic) else {
            self.counts.unanswerable += 1;
            return;
        };
        let allowed = |topic: &Arc<str>| {
            address::may_answer_at(
                topic,
                &self.settings.response_prefixes,
                &self.settings.prefix,
            )
        };
        let fits = |data: &Bytes| data.len() <= MAX_CORRELATION;
        let ask = Ask {
            device: device.into(),
            name: name.into(),
            asker: Asker::Broker(ReplyTo {
                topic: incoming.response_topic.clone().filter(allowed),
                correlation: incoming.correlation.clone().filter(fits),
                encoding: request::encoding_of(&incoming.payload),
            }),
            who: incoming.topic.clone(),
        };
        match self.judge(&ask, &incoming) {
            Ok(mut request) => {
                if let Some(expiry) = incoming.expiry {
                    request.ttl = request.ttl.min(expiry);
                }
                self.request(now, ask, request, out);
            }
            Err((fault, id)) => self.refuse(now, &ask, id.as_deref(), fault, out),
        }
    }

    /// What can be said of a message by itself. With the fault comes the id, when there is a use
    /// for it: a flood of what is refused anyway is not even read.
    fn judge(&self, ask: &Ask, incoming: &Incoming) -> Result<Request, (Fault, Option<String>)> {
        let payload = &incoming.payload;
        let fault = if !is_name(&ask.name) {
            Fault::Malformed
        } else if incoming.retain {
            Fault::Retained
        } else if payload.len() > self.settings.max_size {
            return Err((Fault::TooLarge, None));
        } else if !self.authority.allows(&ask.device, &ask.name) {
            Fault::Forbidden
        } else if incoming
            .correlation
            .as_ref()
            .is_some_and(|data| data.len() > MAX_CORRELATION)
        {
            Fault::Malformed
        } else {
            let request = request::read(payload).map_err(|fault| (Fault::Malformed, fault.id))?;
            // It may have been carried out under the id that was made for it the first time.
            return if incoming.dup && request.id.is_none() {
                Err((Fault::Malformed, None))
            } else {
                Ok(request)
            };
        };
        let id = if self.notices.has_room() && payload.len() <= self.settings.max_size {
            match request::read(payload) {
                Ok(Request { id, .. }) | Err(Malformed { id }) => id,
            }
        } else {
            None
        };
        Err((fault, id))
    }

    pub(super) fn asked(
        &mut self,
        now: Now,
        caller: u64,
        device: Arc<str>,
        name: Arc<str>,
        request: Request,
        out: &mut Vec<Action>,
    ) {
        self.counts.received += 1;
        let ask = Ask {
            device,
            name,
            asker: Asker::Admin(caller),
            who: "admin".into(),
        };
        let args = request.args.as_deref().map_or(0, |args| args.get().len());
        let fault = if !is_name(&ask.name) {
            Fault::Malformed
        } else if args > self.settings.max_size {
            Fault::TooLarge
        } else if !self.authority.allows(&ask.device, &ask.name) {
            Fault::Forbidden
        } else {
            return self.request(now, ask, request, out);
        };
        self.refuse(now, &ask, request.id.as_deref(), fault, out);
    }

    /// The operator has hung up: the command goes on, and its end is told to nobody here.
    pub(super) fn hung(&mut self, caller: u64) {
        for queue in self.queues.values_mut() {
            let flying = queue.flying.iter_mut().map(|flying| &mut flying.command);
            for command in flying.chain(&mut queue.waiting) {
                command
                    .askers
                    .retain(|asker| *asker != Asker::Admin(caller));
            }
        }
    }

    /// A sound request that its device's entry allows.
    fn request(&mut self, now: Now, ask: Ask, request: Request, out: &mut Vec<Action>) {
        let fingerprint = request.fingerprint(&ask.name);
        if let Some(id) = &request.id
            && self.known_already(now, &ask, id, fingerprint, out)
        {
            return;
        }
        if let Err(fault) = self.room_for(now, &ask, &request) {
            return self.refuse(now, &ask, request.id.as_deref(), fault, out);
        }
        if request.ttl.is_zero() {
            let end = End::of(State::Expired, None, 0);
            return self.tell_unsent(now, &ask, request.id.as_deref(), &end, None, out);
        }
        let id = request.id.unwrap_or_else(|| {
            self.last_id += 1;
            format!("{}-{}", self.settings.run, self.last_id)
        });
        let command = Command {
            id: id.into(),
            name: ask.name,
            args: request.args,
            fingerprint,
            idempotent: request.idempotent,
            timeout: request.timeout,
            received: now.moment,
            since: now.mono,
            expires: now.mono + request.ttl,
            patience: now.mono + request.wait,
            askers: vec![ask.asker],
            who: ask.who,
        };
        self.notify(
            now,
            &ask.device,
            &command,
            &End::of(State::Accepted, None, 0),
        );
        self.waiting += 1;
        self.queue(now.mono, &ask.device).waiting.push_back(command);
        self.go_on(now, &ask.device, out);
    }

    /// Whether something was done under this id already: then it is answered here.
    fn known_already(
        &mut self,
        now: Now,
        ask: &Ask,
        id: &str,
        fingerprint: request::Fingerprint,
        out: &mut Vec<Action>,
    ) -> bool {
        let open = self
            .queues
            .get_mut(&ask.device)
            .and_then(|queue| queue.find(id));
        if let Some(command) = open {
            let fault = if command.fingerprint != fingerprint {
                Some(Fault::Conflict)
            } else if !command.join(ask.asker.clone()) {
                Some(Fault::Busy)
            } else {
                None
            };
            match fault {
                Some(fault) => self.refuse(now, ask, Some(id), fault, out),
                None => {
                    let end = End::of(State::Accepted, None, 0);
                    self.notify_one(now, ask, Some(id), &end, now.moment);
                }
            }
            return true;
        }
        let Some(known) = self.memory.get(&ask.device, id) else {
            return false;
        };
        if known.fingerprint != fingerprint {
            self.refuse(now, ask, Some(id), Fault::Conflict, out);
        } else if let Some(end) = known.end.clone() {
            self.tell_unsent(now, ask, Some(id), &end, None, out);
        }
        true
    }

    /// Whether a command can be accepted now.
    fn room_for(&mut self, now: Now, ask: &Ask, request: &Request) -> Result<(), Fault> {
        if self.stopping {
            return Err(Fault::HubStopping);
        }
        let full = self.waiting >= WAITING;
        let link = self.queues.get(&ask.device).and_then(|queue| queue.link);
        match link {
            None if request.wait.is_zero() => return Err(Fault::Offline),
            Some(link) => {
                let id = request.id.as_deref().unwrap_or_default();
                if size_of(id, &ask.name, request.args.as_deref()) > link.max_message {
                    return Err(Fault::TooLarge);
                }
            }
            None => {}
        }
        if full {
            return Err(Fault::Busy);
        }
        self.queue(now.mono, &ask.device).admit(now.mono)
    }

    /// Refuses what was not accepted.
    pub(super) fn refuse(
        &mut self,
        now: Now,
        ask: &Ask,
        id: Option<&str>,
        fault: Fault,
        out: &mut Vec<Action>,
    ) {
        let end = End::of(State::Refused, Some(fault), 0);
        self.tell_unsent(now, ask, id, &end, Some(fault), out);
    }

    /// Answers what was not accepted, or what was answered before, at once and without more ado.
    fn tell_unsent(
        &mut self,
        now: Now,
        ask: &Ask,
        id: Option<&str>,
        end: &End,
        fault: Option<Fault>,
        out: &mut Vec<Action>,
    ) {
        if let Asker::Admin(caller) = ask.asker {
            let answer = Answer {
                id,
                name: &ask.name,
                end,
                received: now.moment,
                late: false,
            };
            out.push(Action::Respond {
                caller,
                state: end.state,
                answer: answer.encode(Encoding::Json, now.moment),
            });
        } else {
            self.notify_one(now, ask, id, end, now.moment);
        }
        out.push(Action::Ended(Record {
            device: ask.device.clone(),
            name: ask.name.clone(),
            id: id.map(Into::into),
            who: ask.who.clone(),
            state: end.state,
            fault,
            attempt: end.attempt,
            took: Duration::ZERO,
            late: false,
        }));
    }

    fn notify_one(&mut self, now: Now, ask: &Ask, id: Option<&str>, end: &End, received: Moment) {
        let Asker::Broker(to) = &ask.asker else {
            return;
        };
        if !self.notices.has_room() {
            self.notices.dropped += 1;
            return;
        }
        let answer = Answer {
            id,
            name: &ask.name,
            end,
            received,
            late: false,
        };
        self.notices.push(Reply {
            device: ask.device.clone(),
            name: ask.name.clone(),
            topic: to.topic.clone(),
            correlation: to.correlation.clone(),
            encoding: to.encoding,
            payload: answer.encode(to.encoding, now.moment).into(),
            made: now.moment,
        });
    }

    /// Tells all who asked for a command on the broker, best effort.
    pub(super) fn notify(&mut self, now: Now, device: &Arc<str>, command: &Command, end: &End) {
        for asker in &command.askers {
            let ask = Ask {
                device: device.clone(),
                name: command.name.clone(),
                asker: asker.clone(),
                who: command.who.clone(),
            };
            self.notify_one(now, &ask, Some(&command.id), end, command.received);
        }
    }
}
