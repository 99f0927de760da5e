//! Which device is to be in which state, and what devices say that they are. Pure.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::Value;
use serde_json::value::{RawValue, to_raw_value};

use super::super::size_of;
use crate::protocol;
use crate::reading::Encoding;

/// Bytes of a desired state, and of a reported one: what a device can keep in its memory as well.
pub const MAX_STATE: usize = 4 * 1024;

/// Devices whose desired state is followed. Each is a subscription of its own at the broker and up
/// to twice [`MAX_STATE`] here: 8 MiB.
pub const FOLLOWED: usize = 1_024;

/// Between two publishes of what one device reports; of what comes between them the last counts.
/// As for statuses.
const PAUSE: Duration = Duration::from_secs(1);

/// Why a desired state was passed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Skip {
    /// The device's entry does not have `desired = true`, or there is none.
    Forbidden,
    /// It is no JSON map.
    Malformed,
    /// It is larger than [`MAX_STATE`], or than the device can take.
    TooLarge,
}

impl Skip {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Forbidden => "forbidden",
            Self::Malformed => "malformed",
            Self::TooLarge => "too-large",
        }
    }
}

/// A desired state for a connection.
#[derive(Debug, Clone)]
pub(super) struct Give {
    pub(super) conn: u64,
    pub(super) map: Arc<RawValue>,
}

/// What is to be published of a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The device.
    pub device: Arc<str>,
    /// A JSON map.
    pub payload: Bytes,
    /// Tells it from later ones of the device.
    pub version: u64,
}

/// The last that a device has reported, until the broker has it.
#[derive(Debug)]
struct Reported {
    payload: Bytes,
    version: u64,
    /// The version that is on its way.
    out: Option<u64>,
}

/// One device whose entry has `desired = true`.
#[derive(Debug)]
struct Entry {
    desired: Option<Arc<RawValue>>,
    reported: Option<Reported>,
    /// Nothing is published of it before.
    not_before: Option<Instant>,
    /// When it is to be published; as it stands in the set of all of them.
    due: Option<Instant>,
    /// The log has been told that something is wrong with its desired state.
    complained: bool,
}

/// A connection.
#[derive(Debug)]
struct Link {
    conn: u64,
    max_message: usize,
    given: Option<Arc<RawValue>>,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Core {
    entries: HashMap<Arc<str>, Entry>,
    /// Every connected device: its entry may change while it is here.
    links: HashMap<Arc<str>, Link>,
    /// There is a connection to the broker.
    up: bool,
    to_subscribe: VecDeque<Arc<str>>,
    to_unsubscribe: VecDeque<Arc<str>>,
    due: BTreeSet<(Instant, Arc<str>)>,
    /// Reports that are on their way.
    out: usize,
    versions: u64,
}

impl Core {
    /// The registry says which devices have `desired = true`. Returns how many of them are too
    /// many and are not followed.
    pub(super) fn allow(&mut self, mut devices: BTreeSet<Arc<str>>) -> usize {
        let all = devices.len();
        while devices.len() > FOLLOWED {
            devices.pop_last();
        }
        let gone = self.entries.keys().filter(|one| !devices.contains(*one));
        let gone: Vec<_> = gone.cloned().collect();
        for device in gone {
            self.leave(&device);
        }
        let followed = devices.len();
        for device in devices {
            if !self.entries.contains_key(&device) {
                let entry = Entry {
                    desired: None,
                    reported: None,
                    not_before: None,
                    due: None,
                    complained: false,
                };
                self.entries.insert(device.clone(), entry);
                self.to_unsubscribe.retain(|one| *one != device);
                if self.up {
                    self.to_subscribe.push_back(device);
                }
            }
        }
        all - followed
    }

    fn leave(&mut self, device: &Arc<str>) {
        let Some(entry) = self.entries.remove(device) else {
            return;
        };
        if let Some(at) = entry.due {
            self.due.remove(&(at, device.clone()));
        }
        if entry
            .reported
            .is_some_and(|reported| reported.out.is_some())
        {
            self.out -= 1;
        }
        if let Some(link) = self.links.get_mut(device) {
            link.given = None;
        }
        let waiting = self.to_subscribe.iter().position(|one| one == device);
        match waiting {
            Some(place) => _ = self.to_subscribe.remove(place),
            None if self.up => self.to_unsubscribe.push_back(device.clone()),
            None => {}
        }
    }

    /// A connection to the broker begins. What stands there comes again; what has been taken away
    /// meanwhile does not.
    pub(super) fn begin(&mut self, now: Instant) {
        self.up = true;
        self.to_unsubscribe.clear();
        let mut devices: Vec<_> = self.entries.keys().cloned().collect();
        devices.sort();
        self.out = 0;
        for device in &devices {
            if let Some(entry) = self.entries.get_mut(device) {
                entry.desired = None;
                if let Some(reported) = &mut entry.reported {
                    reported.out = None;
                }
            }
            self.schedule(device, now);
        }
        self.to_subscribe = devices.into();
    }

    /// The next device whose topic is to be subscribed to.
    pub(super) fn next_subscription(&mut self) -> Option<Arc<str>> {
        self.to_subscribe.pop_front()
    }

    /// The next device of which nothing is wanted any more.
    pub(super) fn next_unsubscription(&mut self) -> Option<Arc<str>> {
        self.to_unsubscribe.pop_front()
    }

    /// A desired state has come. An empty one takes away what was there: a device that is connected
    /// keeps what it was told.
    pub(super) fn arrived(&mut self, device: &str, payload: &[u8]) -> Result<Option<Give>, Skip> {
        let entry = self.entries.get_mut(device).ok_or(Skip::Forbidden)?;
        if payload.is_empty() {
            entry.desired = None;
            return Ok(None);
        }
        if payload.len() > MAX_STATE {
            return Err(Skip::TooLarge);
        }
        let map = protocol::decode_value(Encoding::Json, payload).filter(Value::is_object);
        let map = map.and_then(|map| to_raw_value(&map).ok());
        entry.desired = Some(map.ok_or(Skip::Malformed)?.into());
        entry.complained = false;
        self.give(device)
    }

    /// Whether to tell the log of something that is wrong with a device's desired state: once,
    /// until one has been good again. Of devices that are not followed nothing comes that was
    /// asked for.
    pub(super) fn complain(&mut self, device: &str) -> bool {
        let entry = self.entries.get_mut(device);
        entry.is_none_or(|entry| !std::mem::replace(&mut entry.complained, true))
    }

    /// What the device has not been given on its connection.
    fn give(&mut self, device: &str) -> Result<Option<Give>, Skip> {
        let desired = self
            .entries
            .get(device)
            .and_then(|entry| entry.desired.clone());
        let (Some(map), Some(link)) = (desired, self.links.get_mut(device)) else {
            return Ok(None);
        };
        let given = link.given.as_ref();
        if given.is_some_and(|given| given.get() == map.get()) {
            return Ok(None);
        }
        if size_of("", "", Some(&map)) > link.max_message {
            return Err(Skip::TooLarge);
        }
        link.given = Some(map.clone());
        let conn = link.conn;
        Ok(Some(Give { conn, map }))
    }

    /// A device has said hello, or has been quiet for long enough.
    pub(super) fn online(
        &mut self,
        device: &Arc<str>,
        conn: u64,
        max_message: usize,
    ) -> Result<Option<Give>, Skip> {
        let link = Link {
            conn,
            max_message,
            given: None,
        };
        self.links.insert(device.clone(), link);
        self.give(device)
    }

    /// A connection has ended.
    pub(super) fn offline(&mut self, device: &str, conn: u64) {
        if self.links.get(device).is_some_and(|link| link.conn == conn) {
            self.links.remove(device);
        }
    }

    /// A device says how it is. `false`: it may not.
    pub(super) fn reported(&mut self, now: Instant, device: &Arc<str>, payload: Bytes) -> bool {
        let Some(entry) = self.entries.get_mut(device) else {
            return false;
        };
        self.versions += 1;
        let version = self.versions;
        let out = entry.reported.as_ref().and_then(|reported| reported.out);
        entry.reported = Some(Reported {
            payload,
            version,
            out,
        });
        self.schedule(device, now);
        true
    }

    /// Sets when the device's report is to be published, if there is one that is not on its way.
    fn schedule(&mut self, device: &Arc<str>, now: Instant) {
        let Some(entry) = self.entries.get_mut(device) else {
            return;
        };
        let waits = entry.reported.as_ref().is_some_and(|one| one.out.is_none());
        let due = waits.then(|| entry.not_before.map_or(now, |at| at.max(now)));
        if let Some(before) = entry.due.take() {
            self.due.remove(&(before, device.clone()));
        }
        if let Some(at) = due {
            self.due.insert((at, device.clone()));
        }
        entry.due = due;
    }

    /// Takes the next report that may go: of a device that `may`, and whose time has come or, in a
    /// `hurry`, has not.
    pub(super) fn next_report(
        &mut self,
        now: Instant,
        hurry: bool,
        may: impl Fn(&Arc<str>) -> bool,
    ) -> Option<Report> {
        let mut due = self.due.iter().take_while(|(at, _)| hurry || *at <= now);
        let (at, device) = due.find(|(_, device)| may(device))?.clone();
        self.due.remove(&(at, device.clone()));
        let entry = self.entries.get_mut(&device)?;
        entry.due = None;
        entry.not_before = Some(now + PAUSE);
        let reported = entry.reported.as_mut()?;
        reported.out = Some(reported.version);
        self.out += 1;
        Some(Report {
            payload: reported.payload.clone(),
            version: reported.version,
            device,
        })
    }

    /// When the next report may go, if there is one.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| *at)
    }

    /// Whether every report is with the broker.
    pub(super) fn all_reported(&self) -> bool {
        self.due.is_empty() && self.out == 0
    }

    /// A report is no longer on its way: the broker has it, or will not have it.
    pub(super) fn settled(&mut self, now: Instant, device: &Arc<str>, version: u64) {
        let Some(entry) = self.entries.get_mut(device) else {
            return;
        };
        let Some(reported) = &mut entry.reported else {
            return;
        };
        if reported.out != Some(version) {
            return;
        }
        self.out -= 1;
        reported.out = None;
        if reported.version == version {
            entry.reported = None;
        } else {
            self.schedule(device, now);
        }
    }

    /// Derives a second time what is kept in numbers and sets.
    #[cfg(test)]
    pub(super) fn check(&self) {
        let out = self.entries.values().filter(|entry| {
            let reported = entry.reported.as_ref();
            reported.is_some_and(|reported| reported.out.is_some())
        });
        assert_eq!(self.out, out.count(), "reports on their way");
        let due = self.entries.iter().filter_map(|(device, entry)| {
            let reported = entry.reported.as_ref();
            let waits = reported.is_some_and(|reported| reported.out.is_none());
            assert_eq!(waits, entry.due.is_some(), "the alarm of {device}");
            entry.due.map(|at| (at, device.clone()))
        });
        assert_eq!(self.due, due.collect(), "due");
        assert!(self.entries.len() <= FOLLOWED);
        assert!(
            self.to_subscribe
                .iter()
                .all(|one| self.entries.contains_key(one))
        );
        assert!(
            !self
                .to_unsubscribe
                .iter()
                .any(|one| self.entries.contains_key(one))
        );
    }
}
