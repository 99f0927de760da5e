//! The ids of what was sent, and how it ended. Pure.
//!
//! While an id is remembered, the same command under it gets the same answer and is not carried
//! out again.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::answer::End;
use super::request::Fingerprint;

/// Ids of each device.
const IDS: usize = 256;

/// How long each is remembered at least, unless [`IDS`] newer ones have come.
const KEPT: Duration = Duration::from_secs(3_600);

/// Bytes of all values and error texts together. Beyond it the oldest are forgotten, and their
/// answers then have the state alone.
const VALUES: usize = 8 << 20;

/// Results of ids that were never sent, each device: as many as a device resends at most before
/// it has read the acks of the first.
const STRAYS: usize = 32;

/// A command that was sent.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) id: Arc<str>,
    pub(super) name: Arc<str>,
    pub(super) fingerprint: Fingerprint,
    sent: Instant,
    /// `None`: it has not ended.
    pub(super) end: Option<End>,
    /// The device's own last word, by its hash, to tell a repeated result from another.
    pub(super) said: Option<Fingerprint>,
    /// A late result has been published.
    pub(super) late: bool,
}

#[derive(Debug, Default)]
struct Device {
    known: VecDeque<Known>,
    strays: VecDeque<(Arc<str>, Instant)>,
}

/// What is remembered of all devices.
#[derive(Debug, Default)]
pub(super) struct Memory {
    devices: HashMap<Arc<str>, Device>,
    /// Whose ends have values, oldest first; some may be gone already.
    valued: VecDeque<(Arc<str>, Arc<str>)>,
    bytes: usize,
}

impl Memory {
    /// A command goes to its device for the first time.
    pub(super) fn sent(
        &mut self,
        now: Instant,
        device: &Arc<str>,
        id: &Arc<str>,
        name: &Arc<str>,
        fingerprint: Fingerprint,
    ) {
        let known = &mut self.devices.entry(device.clone()).or_default().known;
        if known.len() == IDS
            && let Some(oldest) = known.pop_front()
        {
            self.bytes -= oldest.end.map_or(0, |end| end.weight());
        }
        known.push_back(Known {
            id: id.clone(),
            name: name.clone(),
            fingerprint,
            sent: now,
            end: None,
            said: None,
            late: false,
        });
    }

    /// The command of this id, if it was sent and is remembered.
    pub(super) fn get(&self, device: &str, id: &str) -> Option<&Known> {
        let known = &self.devices.get(device)?.known;
        known.iter().rev().find(|known| &*known.id == id)
    }

    fn get_mut(&mut self, device: &str, id: &str) -> Option<&mut Known> {
        let known = &mut self.devices.get_mut(device)?.known;
        known.iter_mut().rev().find(|known| &*known.id == id)
    }

    /// It has ended, or a late result has replaced an end that the hub had decided.
    pub(super) fn ended(
        &mut self,
        device: &Arc<str>,
        id: &Arc<str>,
        end: End,
        said: Option<Fingerprint>,
        late: bool,
    ) {
        let weight = end.weight();
        let Some(known) = self.get_mut(device, id) else {
            return;
        };
        let before = known.end.replace(end).map_or(0, |end| end.weight());
        known.said = said.or(known.said);
        known.late |= late;
        self.bytes = self.bytes - before + weight;
        if weight > 0 {
            self.valued.push_back((device.clone(), id.clone()));
        }
        while self.bytes > VALUES
            && let Some((device, id)) = self.valued.pop_front()
        {
            let Some(end) = self
                .get_mut(&device, &id)
                .and_then(|known| known.end.as_mut())
            else {
                continue;
            };
            let weight = end.weight();
            (end.value, end.error) = (None, None);
            self.bytes -= weight;
        }
        // Entries whose command is gone would else gather here: more than one a command never
        // helps.
        if self.valued.len() > 2 * self.devices.len() * IDS {
            let devices = &self.devices;
            self.valued.retain(|(device, id)| {
                let known = devices.get(device).map(|device| &device.known);
                known.is_some_and(|known| known.iter().any(|known| known.id == *id))
            });
        }
    }

    /// A late result was published beside the device's own first word, which stands.
    pub(super) fn late(&mut self, device: &str, id: &str) {
        if let Some(known) = self.get_mut(device, id) {
            known.late = true;
        }
    }

    /// A result of an id that was never sent, or not by this run of the hub. Returns whether there was
    /// one of this id before: a device that answers otherwise the second time is not believed.
    pub(super) fn stray(&mut self, now: Instant, device: &Arc<str>, id: &Arc<str>) -> bool {
        let strays = &mut self.devices.entry(device.clone()).or_default().strays;
        if strays.iter().any(|(known, _)| known == id) {
            return true;
        }
        if strays.len() == STRAYS {
            strays.pop_front();
        }
        strays.push_back((id.clone(), now));
        false
    }

    /// Forgets what is old. Ids that have not ended stay.
    pub(super) fn forget(&mut self, now: Instant) {
        let old = |since: Instant| now.saturating_duration_since(since) > KEPT;
        let mut bytes = self.bytes;
        self.devices.retain(|_, device| {
            while let Some(first) = device.known.front()
                && first.end.is_some()
                && old(first.sent)
            {
                bytes -= first.end.as_ref().map_or(0, End::weight);
                device.known.pop_front();
            }
            while device.strays.front().is_some_and(|(.., at)| old(*at)) {
                device.strays.pop_front();
            }
            !(device.known.is_empty() && device.strays.is_empty())
        });
        self.bytes = bytes;
    }

    /// Whether anything is remembered at all.
    pub(super) fn is_empty(&self) -> bool {
        self.devices.is_empty()
    }

    /// Counts what is counted a second time.
    #[cfg(test)]
    pub(super) fn check(&self) {
        let known = self.devices.values().flat_map(|device| &device.known);
        let bytes: usize = known
            .map(|known| known.end.as_ref().map_or(0, End::weight))
            .sum();
        assert_eq!(self.bytes, bytes, "bytes of values");
        assert!(self.bytes <= VALUES);
        for device in self.devices.values() {
            assert!(device.known.len() <= IDS && device.strays.len() <= STRAYS);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::value::RawValue;

    use super::*;
    use crate::commands::answer::State;

    fn end(size: usize) -> End {
        let value = format!("\"{}\"", "x".repeat(size));
        End {
            value: Some(RawValue::from_string(value).unwrap().into()),
            ..End::of(State::Done, None, 1)
        }
    }

    fn send(memory: &mut Memory, now: Instant, device: &Arc<str>, n: usize) -> Arc<str> {
        let id: Arc<str> = n.to_string().into();
        memory.sent(now, device, &id, &"on".into(), [0; 16]);
        id
    }

    #[test]
    fn the_last_256_ids_of_a_device_are_remembered_for_an_hour() {
        let (start, lamp, pump) = (Instant::now(), "lamp".into(), "pump".into());
        let mut memory = Memory::default();
        for n in 0..300 {
            let id = send(&mut memory, start, &lamp, n);
            memory.ended(&lamp, &id, end(1), None, false);
        }
        let id = send(&mut memory, start, &pump, 0);
        memory.check();
        assert!(memory.get("lamp", "43").is_none() && memory.get("lamp", "44").is_some());
        memory.forget(start + KEPT);
        assert!(memory.get("lamp", "44").is_some());
        memory.forget(start + KEPT + Duration::from_secs(1));
        memory.check();
        assert!(memory.get("lamp", "299").is_none());
        assert!(memory.get("pump", &id).is_some(), "it has not ended");
        memory.ended(&pump, &id, end(1), None, false);
        memory.forget(start + 2 * KEPT);
        assert!(memory.is_empty());
        memory.check();
    }

    #[test]
    fn beyond_8_mib_of_values_the_oldest_keep_their_state_alone() {
        let now = Instant::now();
        let mut memory = Memory::default();
        for n in 0..400 {
            let device: Arc<str> = format!("d{}", n % 4).into();
            let id = send(&mut memory, now, &device, n);
            memory.ended(&device, &id, end(64 * 1024), None, false);
            memory.check();
        }
        let oldest = memory.get("d0", "0").unwrap().end.as_ref().unwrap();
        assert!(oldest.value.is_none() && oldest.state == State::Done);
        let newest = memory.get("d3", "399").unwrap().end.as_ref().unwrap();
        assert!(newest.value.is_some());
    }

    #[test]
    fn a_late_result_replaces_the_end_and_its_bytes() {
        let (now, lamp) = (Instant::now(), "lamp".into());
        let mut memory = Memory::default();
        let id = send(&mut memory, now, &lamp, 1);
        memory.ended(&lamp, &id, End::of(State::Timeout, None, 1), None, false);
        memory.ended(&lamp, &id, end(10), Some([1; 16]), true);
        memory.check();
        let known = memory.get("lamp", "1").unwrap();
        assert!(known.late && known.said == Some([1; 16]));
        assert_eq!(known.end.as_ref().unwrap().state, State::Done);
    }

    #[test]
    fn a_stray_result_is_known_again_when_it_says_the_same() {
        let (now, lamp) = (Instant::now(), "lamp".into());
        let mut memory = Memory::default();
        assert!(!memory.stray(now, &lamp, &"a".into()));
        assert!(memory.stray(now, &lamp, &"a".into()));
        assert!(!memory.stray(now, &lamp, &"b".into()));
        for n in 0..1_000 {
            memory.stray(now, &lamp, &n.to_string().into());
        }
        memory.check();
    }
}
