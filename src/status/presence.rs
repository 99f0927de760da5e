//! Who is online, as the broker's retained `…/{device}/status` topics say it.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::lru::Lru;
use crate::reading::Moment;

/// The state of one device, as `{prefix}/{hub}/{device}/status` says it.
#[derive(Debug, Clone, PartialEq)]
pub struct Presence {
    /// `online`, `asleep` or `offline`.
    pub state: &'static str,
    /// Since when.
    pub since: Moment,
    /// Why, for example `connected`, `ping timeout`, `closed`, `replaced`, `hub stopping`.
    pub reason: String,
    /// From `hello`.
    pub model: Option<String>,
    /// From `hello`.
    pub firmware: Option<String>,
}

/// Device states that are remembered for the broker, unless fewer are asked for. 16,384 entries
/// are about 3 MB.
pub const REMEMBERED: usize = 16_384;

/// The broker hears of one device at most once in this time: a device that comes and goes all the
/// time costs one publish a second, and the last state wins.
pub const PACE: Duration = Duration::from_secs(1);

/// How long `online` waits for the device's first message: `hello` may bring model and firmware, and
/// the broker is to hear of a connection once. A link of 1 kB/s brings a `hello` in this time.
pub const HELLO: Duration = Duration::from_secs(1);

/// Which states are forgotten first, of devices that are not online.
mod rank {
    /// Untold and of a device that has sent nothing: the broker knows nothing that would be wrong.
    pub(super) const EMPTY: u8 = 0;
    /// Told: only a broker that is new would miss it.
    pub(super) const TOLD: u8 = 1;
    /// Untold, and the broker has not been told anything else either.
    pub(super) const UNTOLD: u8 = 2;
    /// Untold, and the broker believes something else; or asleep, and expected back.
    pub(super) const OUTDATED: u8 = 3;
}

#[derive(Debug)]
struct Entry {
    presence: Presence,
    /// The device has sent nothing since it connected.
    empty: bool,
    /// The broker has not been told.
    dirty: bool,
    /// When the broker was told last.
    told: Option<Instant>,
    /// Its place in `later`.
    waits: Option<Instant>,
}

impl Entry {
    /// `None`: it is not forgotten at all. Online ones are bounded by `max_connections`.
    fn rank(&self) -> Option<u8> {
        Some(match (self.dirty, self.told) {
            _ if self.presence.state == "online" => return None,
            // Asleep: it is expected back.
            _ if self.presence.state != "offline" => rank::OUTDATED,
            (false, _) => rank::TOLD,
            (true, Some(_)) => rank::OUTDATED,
            (true, None) if self.empty => rank::EMPTY,
            (true, None) => rank::UNTOLD,
        })
    }
}

#[derive(Debug)]
struct State {
    devices: HashMap<Arc<str>, Entry>,
    limit: usize,
    /// Those that may be forgotten.
    gone: Lru<Arc<str>>,
    /// Dirty and due, in order.
    due: Lru<Arc<str>>,
    /// Dirty and told a moment ago, or held, by the time at which they become due.
    later: BTreeSet<(Instant, Arc<str>)>,
}

impl Default for State {
    fn default() -> Self {
        Self {
            devices: HashMap::new(),
            limit: REMEMBERED,
            gone: Lru::default(),
            due: Lru::default(),
            later: BTreeSet::new(),
        }
    }
}

impl State {
    fn ripen(&mut self, now: Instant) {
        while self.later.first().is_some_and(|(at, _)| *at <= now)
            && let Some((_, device)) = self.later.pop_first()
        {
            if let Some(entry) = self.devices.get_mut(&device) {
                entry.waits = None;
            }
            self.due.touch(&device, 0);
        }
    }

    fn tell(&mut self, device: Arc<str>, now: Instant) -> Option<(Arc<str>, Presence)> {
        let entry = self.devices.get_mut(&device)?;
        entry.dirty = false;
        entry.told = Some(now);
        entry.waits = None;
        let presence = entry.presence.clone();
        self.rank(&device);
        Some((device, presence))
    }

    fn rank(&mut self, device: &Arc<str>) {
        match self.devices.get(device).and_then(Entry::rank) {
            Some(rank) => self.gone.touch(device, rank),
            None => _ = self.gone.remove(device),
        }
    }

    fn make_room(&mut self) {
        if self.devices.len() >= self.limit
            && let Some(device) = self.gone.pop()
            && let Some(entry) = self.devices.remove(&device)
        {
            self.due.remove(&device);
            if let Some(at) = entry.waits {
                self.later.remove(&(at, device));
            }
        }
    }

    /// `held`: not before so long, unless something else is due already.
    fn put(&mut self, device: &Arc<str>, presence: Presence, empty: bool, held: Option<Duration>) {
        let now = Instant::now();
        if !self.devices.contains_key(device) {
            self.make_room();
        }
        let entry = self.devices.entry(device.clone()).or_insert(Entry {
            presence: presence.clone(),
            empty,
            dirty: false,
            told: None,
            waits: None,
        });
        entry.presence = presence;
        entry.empty = empty;
        let at = entry
            .told
            .map(|told| told + PACE)
            .max(held.map(|held| now + held));
        if entry.dirty {
            self.hasten(device, at, now);
        } else {
            entry.dirty = true;
            match at {
                Some(at) if at > now => {
                    entry.waits = Some(at);
                    self.later.insert((at, device.clone()));
                }
                _ => self.due.touch(device, 0),
            }
        }
        self.rank(device);
    }

    /// What waits for longer than until then waits no longer than that.
    fn hasten(&mut self, device: &Arc<str>, until: Option<Instant>, now: Instant) {
        let Some(entry) = self.devices.get_mut(device) else {
            return;
        };
        let until = until.unwrap_or(now);
        let Some(at) = entry.waits.filter(|at| *at > until) else {
            return;
        };
        self.later.remove(&(at, device.clone()));
        if until > now {
            entry.waits = Some(until);
            self.later.insert((until, device.clone()));
        } else {
            entry.waits = None;
            self.due.touch(device, 0);
        }
    }
}

/// The latest state of every device, and which of them the broker has not been told.
/// States overwrite each other, so that a long outage costs no more than one entry a device.
#[derive(Debug, Default)]
pub struct Outbox {
    state: Mutex<State>,
    notify: Notify,
}

impl Outbox {
    /// Remembers so many states at most, from now on.
    pub fn limit(&self, devices: usize) {
        self.lock().limit = devices;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records a device's new state and wakes the uplink.
    pub fn put(&self, device: &Arc<str>, presence: Presence) {
        self.lock().put(device, presence, false, None);
        self.notify.notify_one();
    }

    /// Records that a device has connected. The broker hears of it after its first message, or
    /// after [`HELLO`].
    pub fn hold(&self, device: &Arc<str>, presence: Presence) {
        self.lock().put(device, presence, false, Some(HELLO));
        self.notify.notify_one();
    }

    /// The first message of a device has come: nothing more can be learned of it.
    pub fn release(&self, device: &Arc<str>) {
        let (mut state, now) = (self.lock(), Instant::now());
        let told = state.devices.get(device).and_then(|entry| entry.told);
        state.hasten(device, told.map(|told| told + PACE), now);
        drop(state);
        self.notify.notify_one();
    }

    /// As [`Outbox::put`] for a device that has sent nothing: if there are too many, it is forgotten first.
    pub fn put_empty(&self, device: &Arc<str>, presence: Presence) {
        self.lock().put(device, presence, true, None);
        self.notify.notify_one();
    }

    /// Changes the state of a device that has one, and keeps what is known of the device.
    pub fn amend(&self, device: &Arc<str>, state: &'static str, since: Moment, reason: &str) {
        let mut all = self.lock();
        let Some(entry) = all.devices.get(device) else {
            return;
        };
        let presence = Presence {
            state,
            since,
            reason: reason.to_owned(),
            ..entry.presence.clone()
        };
        let empty = entry.empty;
        all.put(device, presence, empty, None);
        drop(all);
        self.notify.notify_one();
    }

    /// Records the state of a device that has none yet. `false`: it has one, or too many are
    /// remembered already.
    pub fn put_unknown(&self, device: &str, presence: Presence) -> bool {
        let mut state = self.lock();
        if state.devices.len() >= state.limit || state.devices.contains_key(device) {
            return false;
        }
        state.put(&device.into(), presence, false, None);
        drop(state);
        self.notify.notify_one();
        true
    }

    /// What a broker is told that the hub leaves for another one: every device that is not offline
    /// is gone from there, for this reason. The states themselves stay as they are.
    pub fn gone(&self, reason: &str, now: Moment) -> Vec<(Arc<str>, Presence)> {
        let state = self.lock();
        let there = state
            .devices
            .iter()
            .filter(|(_, one)| one.presence.state != "offline");
        let gone = |(device, one): (&Arc<str>, &Entry)| {
            let presence = Presence {
                state: "offline",
                since: now,
                reason: reason.to_owned(),
                ..one.presence.clone()
            };
            (device.clone(), presence)
        };
        there.map(gone).collect()
    }

    /// Marks every remembered state as untold: a broker that is new has to hear all of them.
    pub fn retell(&self) {
        let mut state = self.lock();
        let state = &mut *state;
        state.due.clear();
        state.later.clear();
        // The order is a matter of chance in a map, and one run is to be like another.
        let mut names: Vec<_> = state.devices.keys().cloned().collect();
        names.sort();
        for device in &names {
            state.due.touch(device, 0);
        }
        for (device, entry) in &mut state.devices {
            entry.dirty = true;
            entry.waits = None;
            if let Some(rank) = entry.rank() {
                state.gone.touch(device, rank);
            }
        }
        self.notify.notify_one();
    }

    /// Takes one state that the broker has not been told, if there is any that is due: see
    /// [`PACE`].
    pub fn try_next(&self) -> Option<(Arc<str>, Presence)> {
        let (mut state, now) = (self.lock(), Instant::now());
        state.ripen(now);
        let device = state.due.pop()?;
        state.tell(device, now)
    }

    /// Takes one state that the broker has not been told, due or not.
    pub fn try_last(&self) -> Option<(Arc<str>, Presence)> {
        let mut state = self.lock();
        let device = match state.due.pop() {
            Some(device) => device,
            None => state.later.pop_first()?.1,
        };
        state.tell(device, Instant::now())
    }

    /// Waits until a state may be there to take. Cancel safe; for one reader.
    pub async fn changed(&self) {
        let next = self.lock().later.first().map(|(at, _)| *at);
        let due = async {
            match next {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = self.notify.notified() => {}
            () = due => {}
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn presence(state: &'static str, reason: &str) -> Presence {
        Presence {
            state,
            since: Moment::at(1.0),
            reason: reason.to_owned(),
            model: None,
            firmware: None,
        }
    }

    #[tokio::test]
    async fn a_flapping_device_is_told_once_a_second_and_the_last_state_wins() {
        let outbox = Outbox::default();
        let device: Arc<str> = "a".into();
        let start = Instant::now();
        let mut told = Vec::new();
        let mut flaps = 0;
        while told.len() < 3 {
            flaps += 1;
            let state = if flaps % 2 == 0 { "offline" } else { "online" };
            outbox.put(&device, presence(state, &flaps.to_string()));
            while let Some((_, presence)) = outbox.try_next() {
                assert_eq!(presence.reason, flaps.to_string());
                told.push(start.elapsed());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(told[2] >= 2 * PACE, "{told:?}");
        assert!(flaps > told.len());
    }

    #[tokio::test]
    async fn a_state_that_was_held_back_wakes_its_reader_when_it_is_due() {
        let outbox = Outbox::default();
        let device: Arc<str> = "a".into();
        outbox.put(&device, presence("online", "connected"));
        let told = Instant::now();
        assert!(outbox.try_next().is_some());
        outbox.put(&device, presence("offline", "closed"));
        while outbox.try_next().is_none() {
            outbox.changed().await;
        }
        assert!(told.elapsed() >= PACE - Duration::from_millis(10));
    }

    #[test]
    fn a_device_that_connects_is_told_once_with_what_its_first_message_says() {
        let outbox = Outbox::default();
        let device: Arc<str> = "a".into();
        outbox.hold(&device, presence("online", "connected"));
        assert!(outbox.try_next().is_none());
        let known = Presence {
            model: Some("TH-2".to_owned()),
            ..presence("online", "connected")
        };
        outbox.put(&device, known.clone());
        assert_eq!(outbox.try_next().unwrap().1, known);
        outbox.release(&device);
        assert!(outbox.try_next().is_none());
        // One that says nothing of itself is told with its first message, and one that is silent
        // after a while.
        let (brief, silent): (Arc<str>, Arc<str>) = ("b".into(), "c".into());
        outbox.hold(&brief, presence("online", "connected"));
        outbox.hold(&silent, presence("online", "connected"));
        outbox.release(&brief);
        assert_eq!(&*outbox.try_next().unwrap().0, "b");
        assert!(outbox.try_next().is_none());
        let mut state = outbox.lock();
        state.ripen(Instant::now() + HELLO);
        assert_eq!(state.due.pop().as_deref(), Some("c"));
    }

    #[test]
    fn another_device_is_not_held_back_and_the_end_holds_nothing_back() {
        let outbox = Outbox::default();
        outbox.put(&"a".into(), presence("online", "connected"));
        assert!(outbox.try_next().is_some());
        outbox.put(&"a".into(), presence("offline", "closed"));
        outbox.put(&"b".into(), presence("online", "connected"));
        assert_eq!(&*outbox.try_next().unwrap().0, "b");
        assert!(outbox.try_next().is_none());
        let (device, last) = outbox.try_last().unwrap();
        assert_eq!((&*device, &*last.reason), ("a", "closed"));
        assert!(outbox.try_last().is_none());
    }

    #[test]
    fn a_new_broker_hears_everything_once() {
        let outbox = Outbox::default();
        for device in ["a", "b", "c"] {
            outbox.put(&device.into(), presence("online", "connected"));
        }
        while outbox.try_next().is_some() {}
        outbox.put(&"a".into(), presence("offline", "closed"));
        outbox.retell();
        assert_eq!(std::iter::from_fn(|| outbox.try_next()).count(), 3);
        assert!(outbox.try_last().is_none());
    }

    #[test]
    fn ids_without_end_take_bounded_memory_and_leave_what_the_broker_must_hear() {
        let outbox = Outbox::default();
        outbox.limit(100);
        let put = |device: &str, state| outbox.put(&device.into(), presence(state, ""));
        put("outdated", "online");
        outbox.try_next().unwrap();
        put("outdated", "offline");
        put("there", "online");
        put("sent", "offline");
        // The broker is away and hears nothing of all this.
        for n in 0..10_000 {
            let device = format!("nobody-{n}").into();
            outbox.put(&device, presence("online", "connected"));
            outbox.put_empty(&device, presence("offline", "closed"));
            let state = outbox.lock();
            assert!(state.devices.len() <= 100 && state.gone.len() <= 100);
            assert!(state.due.len() + state.later.len() <= 100);
        }
        let told: Vec<_> = std::iter::from_fn(|| outbox.try_last()).collect();
        assert_eq!(told.len(), 100);
        for kept in ["outdated", "there", "sent", "nobody-9999"] {
            assert!(told.iter().any(|(device, _)| &**device == kept), "{kept}");
        }
    }

    #[test]
    fn devices_that_are_online_are_all_remembered() {
        let outbox = Outbox::default();
        outbox.limit(10);
        for n in 0..30 {
            outbox.put(&format!("d-{n}").into(), presence("online", "connected"));
        }
        assert_eq!(std::iter::from_fn(|| outbox.try_next()).count(), 30);
        outbox.put(&"d-0".into(), presence("offline", "closed"));
        outbox.put(&"new".into(), presence("online", "connected"));
        assert!(!outbox.lock().devices.contains_key("d-0"), "the only one");
        assert_eq!(outbox.try_last().unwrap().0.as_ref(), "new");
        assert!(outbox.try_last().is_none(), "nothing is left of it");
    }

    #[test]
    fn a_broker_that_is_left_hears_of_those_that_are_there_alone() {
        let outbox = Outbox::default();
        outbox.put(&"a".into(), presence("online", "connected"));
        outbox.put(&"b".into(), presence("offline", "closed"));
        let gone = outbox.gone("moved", Moment::at(7.0));
        assert_eq!(gone.len(), 1);
        assert_eq!(
            (&*gone[0].0, gone[0].1.state, &*gone[0].1.reason),
            ("a", "offline", "moved")
        );
        assert_eq!(outbox.try_next().unwrap().1.state, "online");
    }

    #[test]
    fn what_is_known_is_not_overwritten_by_what_was() {
        let outbox = Outbox::default();
        outbox.put(&"a".into(), presence("online", "connected"));
        assert!(!outbox.put_unknown("a", presence("offline", "hub restarted")));
        assert!(outbox.put_unknown("b", presence("offline", "hub restarted")));
        let first = outbox.try_next().unwrap();
        assert_eq!((&*first.0, first.1.state), ("a", "online"));
    }
}
