//! Home Assistant finds the devices by itself: what it is told, and when. Pure: no IO, no clock.
//!
//! A device's document lists all of its values, and Home Assistant takes out what a new document does
//! not list. So a document goes out only after its device has been quiet for a while, and the first one
//! of a run after what the broker still holds of an earlier run has been asked for: values that have not
//! come yet stay.
//!
//! A command that a device takes by its exact name is a button. All of them are known from the
//! registry, so that of buttons of an earlier run none stays that is not allowed any more.

mod document;
mod units;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value};
use tokio::time::Instant;

use self::document::{About, id};
use super::values::{Known, longer};

/// No document before nothing new has been learned of the device for so long: the readings of one
/// device come in several messages.
const QUIET: Duration = Duration::from_secs(5);

/// But not later than so long after the first news.
const PATIENCE: Duration = Duration::from_secs(30);

/// Documents that are taken back and wait for it.
const REMOVALS: usize = 1_024;

/// Bytes of a document of an earlier run: 256 values with the longest names and topics take 200 KiB.
pub(super) const MAX_DOCUMENT: usize = 256 << 10;

/// Buttons of one device at most, the first by name: with the longest names and topics they take 100
/// KiB of a document.
const BUTTONS: usize = 128;

/// Stands for the hub itself where devices are meant. No device can have this id.
pub(super) const HUB: &str = "_hub";

#[derive(Debug)]
struct Entry {
    /// The first news that has not been told, and the last.
    news: Option<(Instant, Instant)>,
    /// When the broker was asked for the document of an earlier run.
    asked: Option<Instant>,
    /// Components of that, which this run has not seen.
    recalled: Map<String, Value>,
    /// The document that the broker has, or is being sent; empty: none.
    told: Option<Vec<u8>>,
    /// The broker has a document, of this run or of an earlier one.
    stands: bool,
    out: bool,
    pause: Option<(Instant, Duration)>,
}

/// What a document says beside the values.
#[derive(Debug, Default)]
pub(super) struct Facts {
    pub(super) model: Option<String>,
    pub(super) firmware: Option<String>,
    /// Topics of the states of hub and device.
    pub(super) hub_status: String,
    pub(super) device_status: String,
    /// MQTT 5.
    pub(super) expires: bool,
    /// Values with their topics.
    pub(super) values: Vec<(Known, String)>,
    /// Commands with theirs.
    pub(super) buttons: Vec<(String, String)>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Discovery {
    prefix: String,
    hub: String,
    version: String,
    plain: bool,
    devices: HashMap<Arc<str>, Entry>,
    /// What devices take by exact name.
    buttons: HashMap<Arc<str>, Vec<String>>,
    removals: VecDeque<Arc<str>>,
}

impl Discovery {
    /// Where Home Assistant says that it has started.
    pub(super) const BIRTH: &'static str = "homeassistant/status";

    pub(super) fn new(prefix: &str, hub: &str, version: &str, plain: bool) -> Self {
        Self {
            prefix: prefix.to_owned(),
            hub: hub.to_owned(),
            version: version.to_owned(),
            plain,
            devices: HashMap::new(),
            buttons: HashMap::new(),
            removals: VecDeque::new(),
        }
    }

    fn object(&self, device: &str) -> String {
        let exact = format!("{}/{}/{device}", self.prefix, self.hub);
        match device {
            HUB => id(&["telehub", &self.hub], &exact),
            _ => id(&["telehub", &self.hub, device], &exact),
        }
    }

    /// Where the document of a device stands.
    pub(super) fn topic(&self, device: &str) -> String {
        format!("homeassistant/device/{}/config", self.object(device))
    }

    /// Something is new about a device.
    pub(super) fn news(&mut self, device: &Arc<str>, now: Instant) {
        let entry = self.devices.entry(device.clone()).or_insert_with(|| Entry {
            news: None,
            asked: None,
            recalled: Map::new(),
            told: None,
            stands: false,
            out: false,
            pause: None,
        });
        let first = entry.news.map_or(now, |(first, _)| first);
        entry.news = Some((first, now));
    }

    /// What devices take by exact name, as of now.
    pub(super) fn offer(&mut self, buttons: HashMap<Arc<str>, Vec<String>>, now: Instant) {
        let before = std::mem::replace(&mut self.buttons, buttons);
        let devices: BTreeSet<_> = before.keys().chain(self.buttons.keys()).cloned().collect();
        for device in devices {
            if before.get(&device) != self.buttons.get(&device) {
                self.news(&device, now);
            }
        }
    }

    /// The commands that are buttons of a device.
    pub(super) fn buttons(&self, device: &str) -> &[String] {
        let buttons = self.buttons.get(device).map_or(&[][..], Vec::as_slice);
        &buttons[..buttons.len().min(BUTTONS)]
    }

    /// Home Assistant has started, or the broker is another one: everything is told again.
    pub(super) fn retell(&mut self, now: Instant) {
        for entry in self.devices.values_mut() {
            entry.told = None;
            entry.news.get_or_insert((now, now));
        }
    }

    /// A device is forgotten, and its document with it. Its buttons are the registry's, and come again.
    pub(super) fn forget(&mut self, device: &Arc<str>, now: Instant) {
        self.devices.remove(device);
        if self.removals.len() < REMOVALS {
            self.removals.push_back(device.clone());
        }
        if self.buttons.contains_key(device) {
            self.news(device, now);
        }
    }

    /// A document to take back.
    pub(super) fn removal(&mut self) -> Option<Arc<str>> {
        self.removals.pop_front()
    }

    fn ready(entry: &Entry) -> Option<Instant> {
        let (first, last) = entry.news.filter(|_| !entry.out)?;
        let asked = entry.asked?;
        let ready = (last + QUIET).min(first + PATIENCE).max(asked + QUIET);
        Some(entry.pause.map_or(ready, |(until, _)| ready.max(until)))
    }

    /// Whether something was learned of this device.
    pub(super) fn knows(&self, device: &str) -> bool {
        self.devices.contains_key(device)
    }

    /// A device whose document of an earlier run has to be asked for.
    pub(super) fn unasked(&mut self, now: Instant) -> Option<Arc<str>> {
        let unasked = self.devices.iter().filter(|(_, one)| one.asked.is_none());
        let device = unasked.map(|(device, _)| device).min()?.clone();
        self.devices.get_mut(&device)?.asked = Some(now);
        Some(device)
    }

    /// What the broker holds of an earlier run, or of this one. `false`: it is no document of a device
    /// of this hub.
    pub(super) fn recall(&mut self, topic: &str, payload: &[u8]) -> bool {
        let own = |device: &&Arc<str>| self.topic(device) == topic;
        let Some(device) = self.devices.keys().find(own).cloned() else {
            return false;
        };
        if let Ok(Value::Object(mut document)) = serde_json::from_slice(payload)
            && let Some(Value::Object(mut components)) = document.remove("cmps")
            && let Some(entry) = self.devices.get_mut(&device)
        {
            entry.stands = true;
            if entry.recalled.is_empty() {
                components.retain(|_, component| component["p"] != document::BUTTON);
                entry.recalled = components;
            }
        }
        true
    }

    /// The device whose turn it is.
    pub(super) fn next(&self, now: Instant) -> Option<Arc<str>> {
        let ready = self.devices.iter();
        let ready = ready.filter_map(|(device, entry)| Some((Self::ready(entry)?, device)));
        let next = ready.filter(|(at, _)| *at <= now).min();
        next.map(|(_, device)| device.clone())
    }

    /// When there will be one.
    pub(super) fn wakes(&self, now: Instant) -> Option<Instant> {
        let ready = self.devices.values().filter_map(Self::ready);
        ready.filter(|at| *at > now).min()
    }

    /// The document that goes now, empty where nothing is left to be shown. `None`: the broker has it.
    pub(super) fn send(&mut self, device: &Arc<str>, facts: &Facts) -> Option<Vec<u8>> {
        let (object, hub_object) = (self.object(device), self.object(HUB));
        let about = About {
            object: &object,
            hub_object: &hub_object,
            hub_status: &facts.hub_status,
            device_status: &facts.device_status,
            hub: &self.hub,
            device,
            version: &self.version,
            model: facts.model.as_deref(),
            firmware: facts.firmware.as_deref(),
            plain: self.plain,
            expires: facts.expires,
        };
        let entry = self.devices.get_mut(device)?;
        entry.news = None;
        let shown = !facts.values.is_empty() || !facts.buttons.is_empty();
        let document = match &**device {
            HUB => about.hub_document(&facts.values),
            _ => about.device_document(facts, &entry.recalled),
        };
        let document = match shown || !entry.recalled.is_empty() || &**device == HUB {
            true => serde_json::to_vec(&document).ok()?,
            false => Vec::new(),
        };
        if entry.told.as_ref() == Some(&document) || document.is_empty() && !entry.stands {
            return None;
        }
        entry.told = Some(document.clone());
        entry.stands = !document.is_empty();
        entry.out = true;
        Some(document)
    }

    /// The broker has taken the document of a device, or has not.
    pub(super) fn answered(&mut self, device: &Arc<str>, taken: bool, now: Instant) {
        let Some(entry) = self.devices.get_mut(device) else {
            return;
        };
        entry.out = false;
        if taken {
            entry.pause = None;
            return;
        }
        entry.told = None;
        entry.pause = Some(longer(entry.pause, now));
        entry.news.get_or_insert((now, now));
    }

    /// The connection is lost. What was out goes again; after a hang-up not before a pause.
    pub(super) fn lost(&mut self, hung_up: bool, now: Instant) {
        for entry in self
            .devices
            .values_mut()
            .filter(|entry| entry.told.is_none())
        {
            // The answer may not have come.
            entry.asked = None;
        }
        for entry in self.devices.values_mut().filter(|entry| entry.out) {
            entry.out = false;
            entry.told = None;
            entry.news.get_or_insert((now, now));
            if hung_up {
                entry.pause = Some(longer(entry.pause, now));
            }
        }
    }
}

#[cfg(test)]
mod tests;
