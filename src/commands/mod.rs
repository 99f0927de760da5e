//! Commands on their way from the broker or the operator to a device, and what became of them.
//!
//! Pure: events go in, actions come out, `now` is given. One command, step by step:
//!
//! 1. It *arrives*. What is no command, is not allowed, or finds no room is refused at once:
//!    it was not carried out, and its sender may try again.
//! 2. It is *accepted* and waits for its turn, at most for its `ttl`. One command of a device is
//!    under way at a time.
//! 3. It is *sent*. From then on its id is remembered: the same command under it is answered and
//!    not sent again, whoever repeats it.
//! 4. The device's result, its timeout, a reconnect after which it must not be sent again, or the
//!    stop of the hub ends it. The end is told once, and kept until it is safe (P1).
//!
//! Two things hold at any time (P13). A command that was accepted has exactly one final answer;
//! what the device says after it is marked late. And a command is not sent a second time unless
//! its sender or its device has said that this does no harm.

pub mod address;
pub mod answer;
pub mod authority;
mod bucket;
pub mod desired;
mod end;
mod event;
pub mod local;
mod memory;
mod notices;
pub mod port;
mod queue;
mod receive;
pub mod request;
pub mod run;
pub mod tray;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use self::answer::Fault;
use self::authority::Authority;
use self::memory::Memory;
use self::notices::Notices;
use self::queue::{Command, Link, Overdue, Queue};
pub use event::{Action, Counts, Event, Incoming, Now, Order, Record, Said};

/// Commands that wait, of all devices together. With arguments of the largest size 4 MiB.
pub const WAITING: usize = 256;

/// Results of devices that are not safe yet. While there are as many, as in an outage in which
/// devices go on to say what nobody waits for, no late ones are taken: their devices keep them.
const UNSAFE: usize = 1_024;

/// And their bytes.
const UNSAFE_BYTES: usize = 4 << 20;

/// How often what is old is looked for.
const UPKEEP: Duration = Duration::from_secs(60);

/// What can be set.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `{prefix}`.
    pub prefix: String,
    /// The hub's id.
    pub hub: String,
    /// Bytes of one command.
    pub max_size: usize,
    /// Where Response Topics may lie.
    pub response_prefixes: Vec<String>,
    /// Begins the ids that the hub makes; another one in each run.
    pub run: String,
}

/// A final answer of a device that is not safe yet.
#[derive(Debug)]
struct Unsafe {
    device: Arc<str>,
    id: Arc<str>,
    weight: usize,
}

/// All commands of the hub.
#[derive(Debug)]
pub struct Commands {
    settings: Settings,
    /// `{prefix}/{hub}/`
    root: String,
    authority: Arc<Authority>,
    queues: HashMap<Arc<str>, Queue>,
    /// The queues that have a deadline, by it.
    timers: BTreeSet<(Instant, Arc<str>)>,
    /// Commands that wait, in all queues.
    waiting: usize,
    memory: Memory,
    notices: Notices,
    results: HashMap<u64, Unsafe>,
    unsafe_bytes: usize,
    last_token: u64,
    last_id: u64,
    stopping: bool,
    upkeep: Instant,
    counts: Counts,
}

impl Commands {
    /// No commands yet, and no device that takes any.
    #[must_use]
    pub fn new(settings: Settings, now: Instant) -> Self {
        Self {
            root: format!("{}/{}/", settings.prefix, settings.hub),
            settings,
            authority: Arc::default(),
            queues: HashMap::new(),
            timers: BTreeSet::new(),
            waiting: 0,
            memory: Memory::default(),
            notices: Notices::new(now),
            results: HashMap::new(),
            unsafe_bytes: 0,
            last_token: 0,
            last_id: 0,
            stopping: false,
            upkeep: now + UPKEEP,
            counts: Counts::default(),
        }
    }

    /// One thing has happened: decides what follows.
    pub fn apply(&mut self, now: Now, event: Event, out: &mut Vec<Action>) {
        match event {
            Event::Arrived(incoming) => self.arrived(now, incoming, out),
            Event::Asked {
                caller,
                device,
                name,
                request,
            } => self.asked(now, caller, device, name, request, out),
            Event::Hung { caller } => self.hung(caller),
            Event::Allowed(authority) => self.authority = authority,
            Event::Online {
                device,
                conn,
                remembers,
                max_message,
            } => {
                let link = Link {
                    conn,
                    remembers,
                    max_message,
                };
                self.online(now, &device, link, out);
            }
            Event::Offline { device, conn } => self.offline(now, &device, conn, out),
            Event::Result { device, said } => self.result(now, &device, said, out),
            Event::Safe { token } => self.safe(token, out),
            Event::Tick => {}
            Event::Stop => self.stop(now, out),
        }
        self.check_deadlines(now, out);
        while let Some(reply) = self.notices.take(now.mono) {
            out.push(Action::Tell(reply));
        }
    }

    /// When [`Event::Tick`] is due, if nothing else happens before.
    #[must_use]
    pub fn next_deadline(&mut self, now: Instant) -> Option<Instant> {
        let timer = self.timers.first().map(|(at, _)| *at);
        let upkeep = !(self.memory.is_empty() && self.queues.is_empty());
        let upkeep = upkeep.then_some(self.upkeep);
        [timer, self.notices.due(now), upkeep]
            .into_iter()
            .flatten()
            .min()
    }

    /// What was counted so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        Counts {
            untold: self.notices.dropped,
            ..self.counts
        }
    }

    /// Commands that were accepted and have not ended: those that wait, and those under way.
    #[must_use]
    pub fn open(&self) -> (usize, usize) {
        let flying = self.queues.values().filter(|queue| queue.flying.is_some());
        (self.waiting, flying.count())
    }

    fn queue(&mut self, now: Instant, device: &Arc<str>) -> &mut Queue {
        let queues = &mut self.queues;
        queues
            .entry(device.clone())
            .or_insert_with(|| Queue::new(now))
    }

    fn check_deadlines(&mut self, now: Now, out: &mut Vec<Action>) {
        while let Some((at, device)) = self.timers.first().cloned()
            && at <= now.mono
        {
            while let Some(overdue) = self.queue(now.mono, &device).overdue(now.mono) {
                if matches!(overdue, Overdue::Expired(_) | Overdue::Away(_)) {
                    self.waiting -= 1;
                }
                self.overdue(now, &device, overdue, out);
            }
            self.go_on(now, &device, out);
        }
        if now.mono >= self.upkeep {
            self.upkeep = now.mono + UPKEEP;
            self.memory.forget(now.mono);
            self.queues.retain(|_, queue| !queue.is_idle(now.mono));
        }
    }

    /// Sends the device what it can have now, and sets its alarm anew. To be called for a device
    /// after every change of its queue.
    fn go_on(&mut self, now: Now, device: &Arc<str>, out: &mut Vec<Action>) {
        while let Some((link, command)) = self.queue(now.mono, device).next() {
            self.waiting -= 1;
            self.send(now, device, link, command, out);
        }
        let Some(queue) = self.queues.get_mut(device) else {
            return;
        };
        let deadline = queue.deadline();
        if deadline != queue.armed {
            let before = std::mem::replace(&mut queue.armed, deadline);
            if let Some(at) = before {
                self.timers.remove(&(at, device.clone()));
            }
            if let Some(at) = deadline {
                self.timers.insert((at, device.clone()));
            }
        }
    }

    /// Sends a command for the first time, unless that is out of the question by now.
    fn send(
        &mut self,
        now: Now,
        device: &Arc<str>,
        link: Link,
        command: Command,
        out: &mut Vec<Action>,
    ) {
        // Judged again: the registry may have changed since.
        let fault = if !self.authority.allows(device, &command.name) {
            Some(Fault::Forbidden)
        } else if size_of(&command.id, &command.name, command.args.as_deref()) > link.max_message {
            Some(Fault::TooLarge)
        } else {
            None
        };
        if let Some(fault) = fault {
            return self.refuse_accepted(now, device, command, fault, out);
        }
        let (id, name) = (&command.id, &command.name);
        self.memory
            .sent(now.mono, device, id, name, command.fingerprint);
        let order = Order {
            id: id.clone(),
            name: name.clone(),
            args: command.args.clone(),
            timeout: command.timeout,
            again: false,
        };
        self.queue(now.mono, device).fly(now.mono, link, command);
        self.counts.sent += 1;
        out.push(Action::Send {
            device: device.clone(),
            conn: link.conn,
            order,
        });
    }

    /// Derives a second time what is kept in numbers.
    #[cfg(test)]
    fn check(&self) {
        let waiting: usize = self.queues.values().map(|queue| queue.waiting.len()).sum();
        assert_eq!(self.waiting, waiting, "commands that wait");
        assert!(waiting <= WAITING);
        let armed = self.queues.iter().filter_map(|(device, queue)| {
            assert!(queue.waiting.len() <= queue::WAITING);
            assert_eq!(queue.armed, queue.deadline(), "the alarm of {device}");
            queue.armed.map(|at| (at, device.clone()))
        });
        assert_eq!(self.timers, armed.collect(), "timers");
        let weights = self.results.values().map(|result| result.weight);
        assert_eq!(
            self.unsafe_bytes,
            weights.sum::<usize>(),
            "bytes of results"
        );
        self.memory.check();
    }
}

/// Bytes of a `command` message beside id, name and arguments, in the longer encoding, JSON:
/// `{"command":{"id":"","name":"","args":,"timeout":3600.000,"again":true}}`, with room.
const MESSAGE_OVERHEAD: usize = 96;

/// Bytes of the message that a command makes, at most. A float may take nine bytes in CBOR and
/// two in JSON, so every number counts for more than it has.
fn size_of(id: &str, name: &str, args: Option<&serde_json::value::RawValue>) -> usize {
    let escaped = id.len() + id.matches(['"', '\\']).count();
    let args = args.map_or(0, |args| {
        let text = args.get();
        let numbers = text.split(|c: char| !matches!(c, '0'..='9' | '.' | 'e' | 'E' | '+' | '-'));
        let short = numbers.filter(|n| !n.is_empty() && n.len() < 9);
        text.len() + short.map(|n| 9 - n.len()).sum::<usize>()
    });
    MESSAGE_OVERHEAD + escaped + name.len() + args
}

#[cfg(test)]
mod tests;
