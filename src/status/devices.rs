//! All devices.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex};

use super::counts::{CODES, Counts, ENDINGS, EVICTIONS};
use super::device::{DeviceBoard, Expected};
use super::feed::{Feed, News};
use super::histogram::Histogram;
use super::memory::{Memory, Remembered};
use super::number::{Number, lock};
use super::refused::RefusedBoard;
use super::tap::Tap;
use crate::clock;

/// Devices that are remembered after they went; the one longest gone is forgotten first.
/// An entry is a few hundred bytes, and more for those that come and go.
pub const KNOWN_DEVICES: usize = 16_384;

/// What the devices' parts of the board have in common: sums over all devices, those that are no
/// longer remembered too.
#[derive(Debug)]
pub struct Shared {
    pub(super) feed: Arc<Feed>,
    /// For whoever keeps readings.
    pub tap: Tap,
    /// Bytes of last batches.
    pub(super) kept_bytes: Arc<AtomicUsize>,
    /// What the broker refuses of them.
    pub(super) refused: Arc<RefusedBoard>,
    /// Batches taken.
    pub batches: Number,
    /// Readings in these.
    pub readings: Number,
    /// Messages rejected, by code.
    pub rejected: Counts<{ CODES.len() }>,
    /// Records left out because they had no usable value.
    pub dropped_records: Number,
    /// Batches whose device was told that they are safe.
    pub acked: Number,
    /// From the arrival of a batch to its ack.
    pub ack_latency: Histogram,
}

impl Default for Shared {
    fn default() -> Self {
        Self {
            feed: Arc::default(),
            tap: Tap::default(),
            kept_bytes: Arc::default(),
            refused: Arc::default(),
            batches: Number::default(),
            readings: Number::default(),
            rejected: Counts::new(CODES),
            dropped_records: Number::default(),
            acked: Number::default(),
            ack_latency: Histogram::default(),
        }
    }
}

/// How many devices stand how.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Census {
    /// Remembered.
    pub known: u64,
    /// Not here since the hub started.
    pub unseen: u64,
    /// Gone without a word, and nobody has said that it is known.
    pub lost: u64,
    /// Connected, and without readings for unusually long.
    pub silent: u64,
}

/// Seconds for which a census holds while nobody comes or goes: it looks at every device.
const CENSUS_HOLDS: f64 = 1.0;

/// Why a device cannot be forgotten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unforgettable {
    /// It is connected.
    Here,
    /// Nobody knows it.
    Unknown,
}

/// All devices.
#[derive(Debug)]
pub struct DeviceTable {
    started: f64,
    /// When it was taken, after how many changes, and what it said.
    census: Mutex<Option<(f64, u64, Census)>>,
    devices: Mutex<HashMap<Arc<str>, Arc<DeviceBoard>>>,
    /// Sums over all of them.
    pub shared: Arc<Shared>,
    /// How often the readers of events were told what changed.
    rounds: Number,
    /// Gauge: open device connections.
    pub connected: Number,
    /// Connections that were opened or closed, in all.
    pub changes: Number,
    /// Connections that began.
    pub begun: Number,
    /// Connections that ended, by reason.
    pub ended: Counts<{ ENDINGS.len() }>,
    /// Connections that the hub ended because the device did not answer or misbehaved.
    pub evicted: Number,
    /// The same, by reason.
    pub evictions: Counts<{ EVICTIONS.len() }>,
}

impl Default for DeviceTable {
    fn default() -> Self {
        Self {
            started: clock::uptime(),
            census: Mutex::default(),
            devices: Mutex::default(),
            shared: Arc::default(),
            rounds: Number::default(),
            connected: Number::default(),
            changes: Number::default(),
            begun: Number::default(),
            ended: Counts::new(ENDINGS),
            evicted: Number::default(),
            evictions: Counts::new(EVICTIONS),
        }
    }
}

impl DeviceTable {
    /// A device is connected by the connection `conn`. Returns its entry for the session.
    pub fn online(&self, id: &Arc<str>, conn: u64, remote: String) -> Arc<DeviceBoard> {
        self.changes.add(1);
        self.begun.add(1);
        let now = clock::uptime();
        let mut devices = lock(&self.devices);
        let forgotten = if devices.len() >= KNOWN_DEVICES && !devices.contains_key(id) {
            let longest_gone = devices
                .values()
                .filter(|device| !lock(&device.text).online)
                .min_by(|a, b| lock(&a.text).since.total_cmp(&lock(&b.text).since))
                .map(|device| device.id.clone());
            longest_gone.inspect(|gone| _ = devices.remove(gone))
        } else {
            None
        };
        let entry = devices
            .entry(id.clone())
            .or_insert_with(|| self.unseen(id.clone()))
            .clone();
        let replaces = entry.begin(conn, remote, now);
        drop(devices);
        if let Some(id) = forgotten {
            self.shared.feed.put(&News::Forgotten { id });
        }
        if replaces {
            self.tell_change(now, id, false, "replaced");
        }
        self.tell_change(now, id, true, "connected");
        entry
    }

    fn unseen(&self, id: Arc<str>) -> Arc<DeviceBoard> {
        Arc::new(DeviceBoard::new(id, self.shared.clone(), self.started))
    }

    /// The devices of the registry, all of them. Those that have not come yet are `unseen`; those
    /// that are no longer among them and not here are forgotten.
    pub fn expect(&self, expected: Vec<Expected>) {
        let mut devices = lock(&self.devices);
        let mut gone: Vec<_> = devices
            .values()
            .filter(|device| lock(&device.text).expected.is_some())
            .cloned()
            .collect();
        let ids: HashSet<_> = expected.iter().map(|one| one.id.clone()).collect();
        gone.retain(|device| !ids.contains(&device.id));
        for one in expected {
            // A registry of more devices than are remembered is told of as far as they are.
            if devices.len() >= KNOWN_DEVICES && !devices.contains_key(&one.id) {
                continue;
            }
            let id = one.id.clone();
            let device = devices.entry(id.clone()).or_insert_with(|| self.unseen(id));
            device.expect(Some(one));
        }
        for device in &gone {
            device.expect(None);
            if !lock(&device.text).online {
                devices.remove(&device.id);
            }
        }
        drop(devices);
        self.changes.add(1);
        for device in gone {
            if self.get(&device.id).is_none() {
                let id = device.id.clone();
                self.shared.feed.put(&News::Forgotten { id });
            }
        }
    }

    /// What was remembered when the hub ran before. For the start, before any device comes.
    pub fn restore(&self, memory: &Memory, wall: f64) {
        let now = clock::uptime();
        let mut devices = lock(&self.devices);
        for before in memory.devices.iter().take(KNOWN_DEVICES) {
            let id: Arc<str> = before.id.as_str().into();
            let device = devices.entry(id.clone()).or_insert_with(|| self.unseen(id));
            device.restore(before, wall, now);
        }
        self.changes.add(1);
    }

    /// What is to be kept over a restart.
    #[must_use]
    pub fn remember(&self) -> Memory {
        let all = self.all();
        let devices: Vec<Remembered> = all.iter().filter_map(|one| one.remember()).collect();
        Memory::of(devices)
    }

    /// An attempt to connect as this device was refused. Told only of devices that are known, so
    /// that nobody fills the table by trying names.
    pub fn refused(&self, id: &str, why: &'static str, remote: String) {
        if let Some(device) = self.get(id) {
            device.refuse(why, remote, clock::uptime());
        }
    }

    /// Somebody knows that this device is gone: no alarm for it until it was back. `false`: it is
    /// here, or nobody knows it.
    pub fn acknowledge(&self, id: &str) -> bool {
        self.changes.add(1);
        self.get(id).is_some_and(|device| device.acknowledge())
    }

    /// Forgets a device that is not here. One of the registry is as if it had never come.
    ///
    /// # Errors
    /// It is here, or nobody knows it.
    pub fn forget(&self, id: &str) -> Result<(), Unforgettable> {
        let mut devices = lock(&self.devices);
        let device = devices.get(id).cloned().ok_or(Unforgettable::Unknown)?;
        let (online, expected) = {
            let text = lock(&device.text);
            (text.online, text.expected.clone())
        };
        if online {
            return Err(Unforgettable::Here);
        }
        devices.remove(id);
        if let Some(expected) = expected {
            let unseen = self.unseen(device.id.clone());
            unseen.expect(Some(expected));
            devices.insert(device.id.clone(), unseen);
        }
        let known = devices.contains_key(id);
        drop(devices);
        self.changes.add(1);
        if !known {
            let id = device.id.clone();
            self.shared.feed.put(&News::Forgotten { id });
        }
        Ok(())
    }

    /// Forgets the devices that have no entry in a registry and have not been here for `seconds`.
    pub fn forget_gone(&self, seconds: f64) {
        let before = clock::uptime() - seconds;
        let is_gone = |device: &DeviceBoard| {
            let text = lock(&device.text);
            !text.online
                && text.expected.is_none()
                && device.last_sign().unwrap_or(text.since) < before
        };
        let gone: Vec<_> = self.all().into_iter().filter(|one| is_gone(one)).collect();
        for device in gone {
            // It may have come meanwhile.
            let _ = self.forget(&device.id);
        }
    }

    /// How many devices stand how.
    #[must_use]
    pub fn census(&self) -> Census {
        let (now, changes) = (clock::uptime(), self.changes.get());
        let mut taken = lock(&self.census);
        if let Some((at, after, census)) = *taken
            && after == changes
            && now - at < CENSUS_HOLDS
        {
            return census;
        }
        let mut census = Census::default();
        for device in lock(&self.devices).values() {
            let standing = device.standing(now);
            census.known += 1;
            census.unseen += u64::from(standing.unseen);
            census.lost += u64::from(standing.lost);
            census.silent += u64::from(standing.silent);
        }
        *taken = Some((now, changes, census));
        census
    }

    /// The entry of a device that sends a batch without a connection. When as many devices are
    /// remembered as may be, one that was never connected is not.
    pub fn posting(&self, id: &Arc<str>) -> Arc<DeviceBoard> {
        let mut devices = lock(&self.devices);
        if let Some(known) = devices.get(id) {
            known.posts();
            return known.clone();
        }
        let entry = self.unseen(id.clone());
        entry.posts();
        if devices.len() < KNOWN_DEVICES {
            devices.insert(id.clone(), entry.clone());
        }
        entry
    }

    /// The connection `conn` of a device has ended. Ignored when a newer one has taken over;
    /// returns whether it was the present one.
    pub fn offline(&self, id: &str, conn: u64, reason: &'static str) -> bool {
        self.changes.add(1);
        let now = clock::uptime();
        let Some(device) = self.get(id).filter(|device| device.end(conn, reason, now)) else {
            return false;
        };
        self.tell_change(now, &device.id, false, reason);
        true
    }

    /// A device that said when it would be back has not come. `false`: it is no sleeper.
    pub fn overdue(&self, id: &str, reason: &'static str) -> bool {
        let now = clock::uptime();
        let Some(device) = self.get(id).filter(|device| device.overdue(reason, now)) else {
            return false;
        };
        self.changes.add(1);
        self.tell_change(now, &device.id, false, reason);
        true
    }

    /// A connection has ended, whether or not it was its device's present one. `evicted`: because
    /// of what the device did or did not do.
    pub fn count_end(&self, reason: &str, evicted: bool) {
        self.ended.add(reason, 1);
        if evicted {
            self.evicted.add(1);
            self.evictions.add(reason, 1);
        }
    }

    fn tell_change(&self, at: f64, device: &Arc<str>, online: bool, reason: &'static str) {
        self.shared.feed.put(&News::Change {
            time: clock::wall_at(at),
            device: device.clone(),
            online,
            reason,
        });
    }

    /// The entry of a device that is remembered.
    #[must_use]
    pub fn get(&self, id: &str) -> Option<Arc<DeviceBoard>> {
        lock(&self.devices).get(id).cloned()
    }

    /// Number of devices remembered.
    #[must_use]
    pub fn known(&self) -> usize {
        lock(&self.devices).len()
    }

    /// All of them, sorted by id.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<DeviceBoard>> {
        let mut all: Vec<_> = lock(&self.devices).values().cloned().collect();
        all.sort_by(|a, b| a.id.cmp(&b.id));
        all
    }

    /// At most `limit` devices that differ from what the readers of events were told, those that
    /// were told longest ago; from now on they count as told.
    #[must_use]
    pub fn untold(&self, limit: usize) -> Vec<Arc<DeviceBoard>> {
        self.rounds.add(1);
        let mut untold: Vec<_> = lock(&self.devices)
            .values()
            .filter(|device| device.is_untold())
            .cloned()
            .collect();
        if untold.len() > limit {
            untold.select_nth_unstable_by_key(limit, |device| device.told_in.get());
            untold.truncate(limit);
        }
        for device in &untold {
            device.tell(self.rounds.get());
        }
        untold
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(devices: &[Arc<DeviceBoard>]) -> Vec<&str> {
        let mut ids: Vec<_> = devices.iter().map(|device| &*device.id).collect();
        ids.sort_unstable();
        ids
    }

    #[test]
    fn what_changed_is_told_once_and_everybody_gets_a_turn() {
        let table = DeviceTable::default();
        for (conn, id) in (1..).zip(["a", "b", "c"]) {
            table.online(&id.into(), conn, String::new());
        }
        assert_eq!(ids(&table.untold(10)), ["a", "b", "c"]);
        assert!(table.untold(10).is_empty());
        let mut turns = Vec::new();
        for _ in 0..3 {
            for device in table.all() {
                device.batches.add(1);
            }
            turns.extend(table.untold(1));
        }
        assert_eq!(ids(&turns), ["a", "b", "c"]);
    }

    #[test]
    fn a_replaced_connection_ends_in_the_history_before_the_new_one_begins() {
        let table = DeviceTable::default();
        let device = table.online(&"cow".into(), 1, String::new());
        table.online(&"cow".into(), 2, String::new());
        assert!(!table.offline("cow", 1, "replaced"));
        assert!(table.offline("cow", 2, "ping timeout"));
        let history = device.history();
        let told: Vec<_> = history
            .iter()
            .map(|past| (&*past.state, &*past.reason))
            .collect();
        assert_eq!(
            told,
            [
                ("online", "connected"),
                ("offline", "replaced"),
                ("online", "connected"),
                ("offline", "ping timeout"),
            ]
        );
    }
}
