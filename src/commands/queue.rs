//! One device's commands: what waits, and the one that is under way. Pure.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::value::RawValue;

use super::address::Asker;
use super::answer::Fault;
use super::bucket::Bucket;
use super::request::Fingerprint;
use crate::reading::Moment;

/// Commands of one device that wait for their turn.
pub(super) const WAITING: usize = 8;

/// Commands of one device at once, and then one a second: a relay has a life of its own.
const BURST: u32 = 10;
const A_SECOND: u32 = 1;

/// How often a command is sent again after reconnects.
const AGAIN: u32 = 3;

/// Senders of one and the same command that all hear how it ends: whoever repeats it may ask for
/// the answer elsewhere.
const ASKERS: usize = 4;

/// How long a device that has come back has for the result that it may still hold, before the
/// command, which must not be sent twice, is given up as not known.
pub(super) const GRACE: Duration = Duration::from_secs(2);

/// A progress report of one command is passed on at most once in this time.
const PROGRESS: Duration = Duration::from_secs(1);

/// The connection of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) conn: u64,
    /// It writes down ids before it carries commands out.
    pub(super) remembers: bool,
    /// Bytes of one message that it can take.
    pub(super) max_message: usize,
}

/// A command that was accepted.
#[derive(Debug)]
pub(super) struct Command {
    pub(super) id: Arc<str>,
    pub(super) name: Arc<str>,
    pub(super) args: Option<Arc<RawValue>>,
    pub(super) fingerprint: Fingerprint,
    pub(super) idempotent: bool,
    pub(super) timeout: Duration,
    /// For the answer.
    pub(super) received: Moment,
    /// For deadlines.
    pub(super) since: Instant,
    /// After this it is not sent any more.
    pub(super) expires: Instant,
    /// Until then it waits for a device that is away.
    pub(super) patience: Instant,
    /// At least one.
    pub(super) askers: Vec<Asker>,
    /// For the audit: the topic that it came by, or `admin`.
    pub(super) who: Arc<str>,
}

impl Command {
    /// The same command came again. `false`: too many want the answer.
    pub(super) fn join(&mut self, asker: Asker) -> bool {
        if self.askers.contains(&asker) {
            return true;
        }
        let room = self.askers.len() < ASKERS;
        if room {
            self.askers.push(asker);
        }
        room
    }
}

/// The command that is under way.
#[derive(Debug)]
pub(super) struct Flying {
    pub(super) command: Command,
    pub(super) attempt: u32,
    conn: u64,
    /// The device has always said that it remembers ids while this was under way.
    remembers: bool,
    deadline: Instant,
    /// The device came back and it must not be sent again: until then its result is waited for.
    grace: Option<Instant>,
    progress: Option<Instant>,
}

/// How a wait came to its end.
#[derive(Debug)]
pub(super) enum Overdue {
    /// The `ttl` of one that waits.
    Expired(Command),
    /// One that waits did not want to wait longer for a device that is away.
    Away(Command),
    /// The device is there and has not answered.
    Timeout(Flying),
    /// The device is, or was, away.
    Lost(Flying),
}

/// What is to be done when a device has connected.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Reunion {
    /// Nothing is under way, or it is on this connection already.
    Nothing,
    /// Send what is under way again, with so many seconds left.
    Again(Duration),
    /// Its result may still come.
    Hope,
}

/// The commands of one device.
#[derive(Debug)]
pub(super) struct Queue {
    pub(super) link: Option<Link>,
    pub(super) flying: Option<Flying>,
    pub(super) waiting: VecDeque<Command>,
    bucket: Bucket,
    /// The deadline that this queue is entered under.
    pub(super) armed: Option<Instant>,
}

impl Queue {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            link: None,
            flying: None,
            waiting: VecDeque::new(),
            bucket: Bucket::new(BURST, A_SECOND, now),
            armed: None,
        }
    }

    /// Whether there is room, and the rate allows it.
    pub(super) fn admit(&mut self, now: Instant) -> Result<(), Fault> {
        if self.waiting.len() < WAITING && self.bucket.take(now) {
            Ok(())
        } else {
            Err(Fault::Busy)
        }
    }

    /// The command of this id, if it has not ended.
    pub(super) fn find(&mut self, id: &str) -> Option<&mut Command> {
        let flying = self.flying.as_mut().map(|flying| &mut flying.command);
        let mut all = flying.into_iter().chain(&mut self.waiting);
        all.find(|command| &*command.id == id)
    }

    /// The device has connected, or said more of itself.
    pub(super) fn online(&mut self, now: Instant, link: Link, allowed: bool) -> Reunion {
        self.link = Some(link);
        let Some(flying) = &mut self.flying else {
            return Reunion::Nothing;
        };
        if flying.conn == link.conn {
            return Reunion::Nothing;
        }
        flying.conn = link.conn;
        flying.remembers &= link.remembers;
        let left = flying.deadline.saturating_duration_since(now);
        let safe = flying.command.idempotent || flying.remembers;
        if safe && allowed && flying.attempt <= AGAIN && !left.is_zero() {
            flying.attempt += 1;
            flying.grace = None;
            Reunion::Again(left)
        } else {
            flying.grace = Some(now + GRACE.min(left));
            Reunion::Hope
        }
    }

    /// A connection has ended. Returns the commands that do not wait for the next.
    pub(super) fn offline(&mut self, now: Instant, conn: u64) -> Vec<Command> {
        if self.link.is_none_or(|link| link.conn != conn) {
            return Vec::new();
        }
        self.link = None;
        if let Some(flying) = &mut self.flying {
            flying.grace = None;
        }
        let (gone, stay) = self
            .waiting
            .drain(..)
            .partition(|command| command.patience <= now);
        self.waiting = stay;
        gone.into()
    }

    /// The next command for the device, if it can have one now.
    pub(super) fn next(&mut self) -> Option<(Link, Command)> {
        let link = self.link.filter(|_| self.flying.is_none())?;
        Some((link, self.waiting.pop_front()?))
    }

    /// It goes to the device.
    pub(super) fn fly(&mut self, now: Instant, link: Link, command: Command) {
        self.flying = Some(Flying {
            attempt: 1,
            conn: link.conn,
            remembers: link.remembers,
            deadline: now + command.timeout,
            grace: None,
            progress: None,
            command,
        });
    }

    /// The device has answered what is under way.
    pub(super) fn answered(&mut self, id: &str) -> Option<Flying> {
        self.flying.take_if(|flying| &*flying.command.id == id)
    }

    /// The device says how far it is. The command, if that is to be passed on.
    pub(super) fn progress(&mut self, now: Instant, id: &str) -> Option<&Flying> {
        let flying = self
            .flying
            .as_mut()
            .filter(|flying| &*flying.command.id == id)?;
        if flying
            .progress
            .is_some_and(|last| now.saturating_duration_since(last) < PROGRESS)
        {
            return None;
        }
        flying.progress = Some(now);
        Some(flying)
    }

    /// Takes one whose time is over.
    pub(super) fn overdue(&mut self, now: Instant) -> Option<Overdue> {
        let there = self.link.is_some();
        let over = |flying: &mut Flying| flying.until() <= now;
        if let Some(flying) = self.flying.take_if(over) {
            let lost = !there || flying.grace.is_some();
            return Some(if lost {
                Overdue::Lost(flying)
            } else {
                Overdue::Timeout(flying)
            });
        }
        let expired = |command: &Command| command.expires <= now;
        let away = |command: &Command| !there && command.patience <= now;
        let at = self
            .waiting
            .iter()
            .position(|command| expired(command) || away(command))?;
        let command = self.waiting.remove(at)?;
        Some(if expired(&command) {
            Overdue::Expired(command)
        } else {
            Overdue::Away(command)
        })
    }

    /// When [`Queue::overdue`] has one.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let there = self.link.is_some();
        let waiting = self.waiting.iter().map(|command| {
            if there {
                command.expires
            } else {
                command.expires.min(command.patience)
            }
        });
        waiting.chain(self.flying.as_ref().map(Flying::until)).min()
    }

    /// Whether it holds nothing that a new one would not.
    pub(super) fn is_idle(&self, now: Instant) -> bool {
        self.link.is_none()
            && self.flying.is_none()
            && self.waiting.is_empty()
            && self.bucket.is_full(now)
    }
}

impl Flying {
    fn until(&self) -> Instant {
        self.grace.unwrap_or(self.deadline)
    }
}
