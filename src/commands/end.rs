//! A command's way to its end: reconnects, results, deadlines, the stop.

use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest, Sha256};

use super::address::{Asker, ReplyTo};
use super::answer::{Answer, End, Fault, State};
use super::event::{Action, Now, Order, Record, Said};
use super::queue::{Command, Link, Overdue, Reunion};
use super::request::Fingerprint;
use super::{Commands, UNSAFE, UNSAFE_BYTES, Unsafe};
use crate::reading::{Encoding, Reply};

impl Said {
    fn end(&self, attempt: u32) -> End {
        End {
            state: if self.ok { State::Done } else { State::Failed },
            value: self.value.clone(),
            error: self.error.clone(),
            attempt,
        }
    }

    /// Tells one result from another.
    fn hash(&self) -> Fingerprint {
        let mut hash = Sha256::new();
        hash.update([u8::from(self.ok)]);
        hash.update(self.value.as_ref().map_or("", |value| value.get()));
        hash.update([0]);
        hash.update(self.error.as_deref().unwrap_or_default());
        let digest: [u8; 32] = hash.finalize().into();
        let mut half = Fingerprint::default();
        half.copy_from_slice(&digest[..16]);
        half
    }
}

impl Commands {
    pub(super) fn online(
        &mut self,
        now: Now,
        device: &Arc<str>,
        link: Link,
        out: &mut Vec<Action>,
    ) {
        let authority = self.authority.clone();
        let queue = self.queue(now.mono, device);
        let allowed = |name: &str| authority.allows(device, name);
        let allowed = queue
            .flying
            .as_ref()
            .is_some_and(|flying| allowed(&flying.command.name));
        let reunion = queue.online(now.mono, link, allowed);
        if let (Reunion::Again(timeout), Some(flying)) = (reunion, &queue.flying) {
            let order = Order {
                id: flying.command.id.clone(),
                name: flying.command.name.clone(),
                args: flying.command.args.clone(),
                timeout,
                again: true,
            };
            self.counts.sent += 1;
            out.push(Action::Send {
                device: device.clone(),
                conn: link.conn,
                order,
            });
        }
        self.go_on(now, device, out);
    }

    pub(super) fn offline(
        &mut self,
        now: Now,
        device: &Arc<str>,
        conn: u64,
        out: &mut Vec<Action>,
    ) {
        let Some(queue) = self.queues.get_mut(device) else {
            return;
        };
        let gone = queue.offline(now.mono, conn);
        self.waiting -= gone.len();
        for command in gone {
            self.refuse_accepted(now, device, command, Fault::Disconnected, out);
        }
        self.go_on(now, device, out);
    }

    /// A device has answered.
    pub(super) fn result(
        &mut self,
        now: Now,
        device: &Arc<str>,
        said: Said,
        out: &mut Vec<Action>,
    ) {
        let queue = self.queue(now.mono, device);
        if said.more {
            let Some(flying) = queue.progress(now.mono, &said.id) else {
                self.counts.stray += 1;
                return;
            };
            let end = End {
                state: State::Progress,
                ..said.end(flying.attempt)
            };
            for reply in replies(now, device, &flying.command, &end) {
                self.notices.push(reply);
            }
            return;
        }
        match queue.answered(&said.id) {
            Some(flying) => {
                let end = said.end(flying.attempt);
                self.end(now, device, flying.command, &end, Some(said.hash()), out);
                self.go_on(now, device, out);
            }
            None => self.late(now, device, &said, out),
        }
    }

    /// A result of what has ended, or was never asked.
    fn late(&mut self, now: Now, device: &Arc<str>, said: &Said, out: &mut Vec<Action>) {
        let hash = said.hash();
        // The device keeps it and says it again when it has reconnected.
        if self.results.len() >= UNSAFE || self.unsafe_bytes >= UNSAFE_BYTES {
            self.counts.stray += 1;
            return;
        }
        let waits = self
            .queues
            .get_mut(device)
            .is_some_and(|queue| queue.find(&said.id).is_some());
        let (name, attempt) = match self.memory.get(device, &said.id) {
            // Said before; or there was a late one already.
            Some(known) if known.said == Some(hash) || known.late => {
                return self.said_again(device, &said.id, out);
            }
            Some(known) => {
                let attempt = known.end.as_ref().map_or(0, |end| end.attempt);
                (known.name.clone(), attempt)
            }
            None => match said.name.clone().filter(|_| !waits) {
                Some(name) if !self.memory.stray(now.mono, device, &said.id) => (name, 0),
                _ => return self.said_again(device, &said.id, out),
            },
        };
        let end = said.end(attempt);
        // What the device itself has said first stands; what the hub had to guess is replaced.
        let guessed = self
            .memory
            .get(device, &said.id)
            .is_some_and(|known| known.said.is_none());
        if guessed {
            self.memory
                .ended(device, &said.id, end.clone(), Some(hash), true);
        } else {
            self.memory.late(device, &said.id);
        }
        let answer = Answer {
            id: Some(&said.id),
            name: &name,
            end: &end,
            received: now.moment,
            late: true,
        };
        let to = ReplyTo {
            topic: None,
            correlation: None,
            encoding: Encoding::Json,
        };
        let reply = reply_to(now, device, &name, &to, &answer);
        let token = self.token(device, &said.id, reply.weight());
        out.push(Action::Keep {
            token: Some(token),
            reply,
        });
        out.push(Action::Ended(Record {
            device: device.clone(),
            name,
            id: Some(said.id.clone()),
            who: "device".into(),
            state: end.state,
            fault: None,
            attempt,
            took: Duration::ZERO,
            late: true,
        }));
    }

    /// The device need not say it again, once it is safe.
    fn said_again(&mut self, device: &Arc<str>, id: &Arc<str>, out: &mut Vec<Action>) {
        self.counts.stray += 1;
        let same = |kept: &Unsafe| kept.device == *device && kept.id == *id;
        if !self.results.values().any(same) {
            self.ack(device, id, out);
        }
    }

    fn ack(&self, device: &Arc<str>, id: &Arc<str>, out: &mut Vec<Action>) {
        if let Some(link) = self.queues.get(device).and_then(|queue| queue.link) {
            out.push(Action::Ack {
                device: device.clone(),
                conn: link.conn,
                id: id.clone(),
            });
        }
    }

    pub(super) fn safe(&mut self, token: u64, out: &mut Vec<Action>) {
        let Some(Unsafe { device, id, weight }) = self.results.remove(&token) else {
            return;
        };
        self.unsafe_bytes -= weight;
        let same = |kept: &Unsafe| kept.device == device && kept.id == id;
        // Of several who asked, the last one's answer makes it safe.
        if !self.results.values().any(same) {
            self.ack(&device, &id, out);
        }
    }

    fn token(&mut self, device: &Arc<str>, id: &Arc<str>, weight: usize) -> u64 {
        self.last_token += 1;
        self.unsafe_bytes += weight;
        let kept = Unsafe {
            device: device.clone(),
            id: id.clone(),
            weight,
        };
        self.results.insert(self.last_token, kept);
        self.last_token
    }

    pub(super) fn overdue(
        &mut self,
        now: Now,
        device: &Arc<str>,
        overdue: Overdue,
        out: &mut Vec<Action>,
    ) {
        match overdue {
            Overdue::Expired(command) => {
                let end = End::of(State::Expired, None, 0);
                self.end(now, device, command, &end, None, out);
            }
            Overdue::Away(command) => {
                self.refuse_accepted(now, device, command, Fault::Offline, out);
            }
            Overdue::Timeout(flying) => {
                let end = End::of(State::Timeout, None, flying.attempt);
                self.end(now, device, flying.command, &end, None, out);
            }
            Overdue::Lost(flying) => {
                let end = End::of(State::Unknown, Some(Fault::Disconnected), flying.attempt);
                self.end(now, device, flying.command, &end, None, out);
            }
        }
    }

    /// Refuses what was accepted and never sent.
    pub(super) fn refuse_accepted(
        &mut self,
        now: Now,
        device: &Arc<str>,
        command: Command,
        fault: Fault,
        out: &mut Vec<Action>,
    ) {
        let end = End::of(State::Refused, Some(fault), 0);
        self.end(now, device, command, &end, None, out);
    }

    pub(super) fn stop(&mut self, now: Now, out: &mut Vec<Action>) {
        self.stopping = true;
        let mut devices: Vec<_> = self.queues.keys().cloned().collect();
        // In one order, so that a simulated history can be told again.
        devices.sort_unstable();
        for device in devices {
            let queue = self.queue(now.mono, &device);
            let (flying, waiting) = (queue.flying.take(), std::mem::take(&mut queue.waiting));
            self.waiting -= waiting.len();
            if let Some(flying) = flying {
                let end = End::of(State::Unknown, Some(Fault::HubStopping), flying.attempt);
                self.end(now, &device, flying.command, &end, None, out);
            }
            for command in waiting {
                self.refuse_accepted(now, &device, command, Fault::HubStopping, out);
            }
            self.go_on(now, &device, out);
        }
        while let Some(reply) = self.notices.pop() {
            out.push(Action::Tell(reply));
        }
    }

    /// The end of what was accepted: told to all who asked, and kept until it is safe.
    fn end(
        &mut self,
        now: Now,
        device: &Arc<str>,
        command: Command,
        end: &End,
        said: Option<Fingerprint>,
        out: &mut Vec<Action>,
    ) {
        if end.attempt > 0 {
            self.memory
                .ended(device, &command.id, end.clone(), said, false);
        }
        let mut replies = replies(now, device, &command, end);
        for asker in &command.askers {
            if let Asker::Admin(caller) = asker {
                let answer = answer(&command, end);
                out.push(Action::Respond {
                    caller: *caller,
                    state: end.state,
                    answer: answer.encode(Encoding::Json, now.moment),
                });
            }
        }
        // What a device has done is told on the broker, whoever asked for it.
        if replies.is_empty() && end.attempt > 0 {
            let to = ReplyTo {
                topic: None,
                correlation: None,
                encoding: Encoding::Json,
            };
            replies.push(reply_to(
                now,
                device,
                &command.name,
                &to,
                &answer(&command, end),
            ));
        }
        for reply in replies {
            let token = said.map(|_| self.token(device, &command.id, reply.weight()));
            out.push(Action::Keep { token, reply });
        }
        let fault = match end.state {
            State::Refused | State::Unknown => end.error.as_deref().and_then(Fault::from_text),
            _ => None,
        };
        out.push(Action::Ended(Record {
            device: device.clone(),
            name: command.name,
            id: Some(command.id),
            who: command.who,
            state: end.state,
            fault,
            attempt: end.attempt,
            took: now.mono.saturating_duration_since(command.since),
            late: false,
        }));
    }
}

fn answer<'a>(command: &'a Command, end: &'a End) -> Answer<'a> {
    Answer {
        id: Some(&command.id),
        name: &command.name,
        end,
        received: command.received,
        late: false,
    }
}

fn reply_to(
    now: Now,
    device: &Arc<str>,
    name: &Arc<str>,
    to: &ReplyTo,
    answer: &Answer<'_>,
) -> Reply {
    Reply {
        device: device.clone(),
        name: name.clone(),
        topic: to.topic.clone(),
        correlation: to.correlation.clone(),
        encoding: to.encoding,
        payload: answer.encode(to.encoding, now.moment).into(),
        made: now.moment,
    }
}

/// The same answer for each who asked on the broker.
fn replies(now: Now, device: &Arc<str>, command: &Command, end: &End) -> Vec<Reply> {
    let answer = answer(command, end);
    let askers = command.askers.iter().filter_map(|asker| match asker {
        Asker::Broker(to) => Some(to),
        Asker::Admin(_) => None,
    });
    askers
        .map(|to| reply_to(now, device, &command.name, to, &answer))
        .collect()
}
