//! Device states that the broker refuses: each is tried again with growing pauses, the newest
//! state then. Pure: no IO, no clock.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::status::presence::Presence;

/// Pause after the first refusal; doubles with each further one. A rule of the broker's is put
/// right by a person, and they will look whether it helped.
const FIRST: Duration = Duration::from_secs(60);

/// No pause is longer.
const LONGEST: Duration = Duration::from_secs(3600);

#[derive(Debug)]
struct Entry {
    until: Instant,
    pause: Duration,
    /// The newest state that the broker has not been told.
    presence: Option<Presence>,
    /// It is being tried.
    out: bool,
}

/// See the module. As many as the outbox remembers at most.
#[derive(Debug, Default)]
pub(super) struct Parked {
    devices: HashMap<Arc<str>, Entry>,
}

impl Parked {
    /// A state that is to be told: `None` while the device is parked, which keeps it.
    pub(super) fn pass(
        &mut self,
        device: &Arc<str>,
        presence: Presence,
        now: Instant,
    ) -> Option<Presence> {
        match self.devices.get_mut(device) {
            None => Some(presence),
            Some(entry) if entry.until <= now && !entry.out => {
                entry.out = true;
                entry.presence = None;
                Some(presence)
            }
            Some(entry) => {
                entry.presence = Some(presence);
                None
            }
        }
    }

    /// The broker has refused this state. `true`: for the first time.
    pub(super) fn refuse(&mut self, device: &Arc<str>, presence: Presence, now: Instant) -> bool {
        let first = !self.devices.contains_key(device);
        let entry = self.devices.entry(device.clone()).or_insert(Entry {
            until: now,
            pause: FIRST,
            presence: None,
            out: false,
        });
        if !first {
            entry.pause = (entry.pause * 2).min(LONGEST);
        }
        entry.until = now + entry.pause;
        entry.out = false;
        // A newer one may have come while this was out.
        entry.presence.get_or_insert(presence);
        first
    }

    /// The broker has taken a state of this device.
    pub(super) fn taken(&mut self, device: &str) {
        self.devices.remove(device);
    }

    /// A connection has ended: what was out on it will not be answered.
    pub(super) fn ended(&mut self) {
        for entry in self.devices.values_mut() {
            entry.out = false;
        }
    }

    /// A state whose pause is over.
    pub(super) fn due(&mut self, now: Instant) -> Option<(Arc<str>, Presence)> {
        let ready = |entry: &Entry| entry.until <= now && !entry.out;
        let waiting = self
            .devices
            .iter_mut()
            .filter(|(_, entry)| entry.presence.is_some());
        // Always the same one, whatever order the map has.
        let (device, entry) = waiting
            .filter(|(_, entry)| ready(entry))
            .min_by(|one, other| (one.1.until, one.0).cmp(&(other.1.until, other.0)))?;
        Some((device.clone(), entry.presence.take()?))
    }

    /// When the next pause is over.
    pub(super) fn next(&self) -> Option<Instant> {
        let waiting = |entry: &&Entry| entry.presence.is_some() && !entry.out;
        self.devices
            .values()
            .filter(waiting)
            .map(|entry| entry.until)
            .min()
    }

    /// Devices that are parked.
    pub(super) fn len(&self) -> usize {
        self.devices.len()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::reading::Moment;

    fn state(reason: &str) -> Presence {
        Presence {
            state: "online",
            since: Moment::at(1.0),
            reason: reason.into(),
            model: None,
            firmware: None,
        }
    }

    #[tokio::test]
    async fn a_refused_state_is_tried_again_with_growing_pauses_and_the_newest_wins() {
        let (mut parked, mut now, cow) = (Parked::default(), Instant::now(), Arc::from("cow"));
        assert!(parked.pass(&cow, state("a"), now).is_some());
        assert!(parked.refuse(&cow, state("a"), now));
        assert!(parked.pass(&cow, state("b"), now).is_none());
        let mut pauses = Vec::new();
        for _ in 0..8 {
            let next = parked.next().unwrap();
            pauses.push((next - now).as_secs());
            assert!(parked.due(next - Duration::from_millis(1)).is_none());
            now = next;
            let (device, presence) = parked.due(now).unwrap();
            assert_eq!(presence.reason, "b");
            assert!(parked.pass(&device, presence.clone(), now).is_some());
            assert!(
                parked.pass(&device, presence.clone(), now).is_none(),
                "one at a time"
            );
            assert!(!parked.refuse(&device, presence, now), "told once");
        }
        assert_eq!(pauses, [60, 120, 240, 480, 960, 1920, 3600, 3600]);
        parked.taken("cow");
        assert_eq!((parked.len(), parked.next()), (0, None));
        assert!(parked.pass(&cow, state("c"), now).is_some());
    }

    #[tokio::test]
    async fn a_connection_that_ends_meanwhile_answers_nothing() {
        let (mut parked, now, cow) = (Parked::default(), Instant::now(), Arc::from("cow"));
        parked.refuse(&cow, state("a"), now);
        let later = now + FIRST;
        let (_, presence) = parked.due(later).unwrap();
        assert!(parked.pass(&cow, presence, later).is_some());
        parked.ended();
        assert!(parked.pass(&cow, state("b"), later).is_some());
    }
}
