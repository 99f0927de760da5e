//! All devices.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex};

use super::counts::{Counts, ENDINGS, EVICTIONS};
use super::device::{DeviceBoard, Expected};
use super::feed::News;
use super::memory::{Memory, Remembered};
use super::number::{Number, lock};
use super::shared::Shared;
use crate::clock;
use crate::lru::Lru;

/// Devices that are remembered, unless fewer are asked for. An entry is a few hundred bytes, and
/// more for those that come and go.
pub const KNOWN_DEVICES: usize = 16_384;

#[derive(Debug)]
struct Known {
    devices: HashMap<Arc<str>, Arc<DeviceBoard>>,
    /// Those that are not connected, by what they have shown to be worth.
    gone: Lru<Arc<str>>,
    limit: usize,
}

impl Default for Known {
    fn default() -> Self {
        Self {
            devices: HashMap::new(),
            gone: Lru::default(),
            limit: KNOWN_DEVICES,
        }
    }
}

impl Known {
    /// Forgets one device for a new one if there are too many: of those that are not connected the
    /// one that has sent the least, and among equals the one longest gone. Connected ones are
    /// bounded by `max_connections`.
    fn make_room(&mut self) -> Option<Arc<str>> {
        if self.devices.len() < self.limit {
            return None;
        }
        let forgotten = self.gone.pop()?;
        self.devices.remove(&forgotten);
        Some(forgotten)
    }

    /// A device has come, gone or changed its worth. One that is here, or that the registry expects,
    /// makes room for nobody.
    fn settle(&mut self, device: &DeviceBoard) {
        let stays = {
            let text = lock(&device.text);
            text.online || text.expected.is_some()
        };
        if stays {
            self.gone.remove(&*device.id);
        } else {
            self.gone.touch(&device.id, device.worth());
        }
    }

    fn remove(&mut self, id: &str) {
        self.devices.remove(id);
        self.gone.remove(id);
    }
}

/// Forgotten devices that are remembered until somebody has told others of it.
const UNTOLD: usize = 1_024;

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
    known: Mutex<Known>,
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
    /// Gauge: revocation lists of device certificates that are older than they say they may be.
    pub old_revocation_lists: Number,
    /// Devices that were forgotten to make room for new ones.
    pub forgotten: Number,
    /// Devices that were forgotten on purpose or after a long time, for whoever told others of them.
    untold: Mutex<VecDeque<Arc<str>>>,
}

impl Default for DeviceTable {
    fn default() -> Self {
        Self {
            started: clock::uptime(),
            census: Mutex::default(),
            known: Mutex::default(),
            shared: Arc::default(),
            rounds: Number::default(),
            connected: Number::default(),
            changes: Number::default(),
            begun: Number::default(),
            ended: Counts::new(ENDINGS),
            evicted: Number::default(),
            evictions: Counts::new(EVICTIONS),
            old_revocation_lists: Number::default(),
            forgotten: Number::default(),
            untold: Mutex::default(),
        }
    }
}

impl DeviceTable {
    /// Remembers so many devices at most, from now on.
    pub fn limit(&self, devices: usize) {
        lock(&self.known).limit = devices;
    }

    /// A device is connected by the connection `conn`. Returns its entry for the session.
    pub fn online(&self, id: &Arc<str>, conn: u64, remote: String) -> Arc<DeviceBoard> {
        self.changes.add(1);
        self.begun.add(1);
        let now = clock::uptime();
        let mut known = lock(&self.known);
        known.gone.remove(id);
        let forgotten = if known.devices.contains_key(id) {
            None
        } else {
            known.make_room()
        };
        let entry = known
            .devices
            .entry(id.clone())
            .or_insert_with(|| self.unseen(id.clone()))
            .clone();
        let replaces = entry.begin(conn, remote, now);
        drop(known);
        if let Some(id) = forgotten {
            self.forgotten.add(1);
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
        let mut known = lock(&self.known);
        let mut gone: Vec<_> = known
            .devices
            .values()
            .filter(|device| lock(&device.text).expected.is_some())
            .cloned()
            .collect();
        let ids: HashSet<_> = expected.iter().map(|one| one.id.clone()).collect();
        gone.retain(|device| !ids.contains(&device.id));
        for one in expected {
            // A registry of more devices than are remembered is told of as far as they are.
            if known.devices.len() >= known.limit && !known.devices.contains_key(&one.id) {
                continue;
            }
            let id = one.id.clone();
            let entry = known.devices.entry(id.clone());
            let device = entry.or_insert_with(|| self.unseen(id)).clone();
            device.expect(Some(one));
            known.settle(&device);
        }
        for device in &gone {
            device.expect(None);
            if !lock(&device.text).online {
                known.remove(&device.id);
            }
        }
        drop(known);
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
        let mut known = lock(&self.known);
        for before in memory.devices.iter().take(known.limit) {
            let id: Arc<str> = before.id.as_str().into();
            let entry = known.devices.entry(id.clone());
            let device = entry.or_insert_with(|| self.unseen(id)).clone();
            device.restore(before, wall, now);
            known.settle(&device);
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
        let mut known = lock(&self.known);
        let device = known.devices.get(id).cloned();
        let device = device.ok_or(Unforgettable::Unknown)?;
        let (online, expected) = {
            let text = lock(&device.text);
            (text.online, text.expected.clone())
        };
        if online {
            return Err(Unforgettable::Here);
        }
        known.remove(id);
        let mut untold = lock(&self.untold);
        if untold.len() >= UNTOLD {
            untold.pop_front();
        }
        untold.push_back(device.id.clone());
        drop(untold);
        let stays = expected.is_some();
        if let Some(expected) = expected {
            let unseen = self.unseen(device.id.clone());
            unseen.expect(Some(expected));
            known.devices.insert(device.id.clone(), unseen);
        }
        drop(known);
        self.changes.add(1);
        if !stays {
            let id = device.id.clone();
            self.shared.feed.put(&News::Forgotten { id });
        }
        Ok(())
    }

    /// Those that were forgotten since this was asked last, the last thousand at most.
    pub fn take_forgotten(&self) -> VecDeque<Arc<str>> {
        std::mem::take(&mut *lock(&self.untold))
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
        for device in lock(&self.known).devices.values() {
            let standing = device.standing(now);
            census.known += 1;
            census.unseen += u64::from(standing.unseen);
            census.lost += u64::from(standing.lost);
            census.silent += u64::from(standing.silent);
        }
        *taken = Some((now, changes, census));
        census
    }

    /// The entry of a device that sends a batch without a connection.
    pub fn posting(&self, id: &Arc<str>) -> Arc<DeviceBoard> {
        let mut known = lock(&self.known);
        let forgotten = if known.devices.contains_key(id) {
            None
        } else {
            known.make_room()
        };
        let entry = known.devices.entry(id.clone());
        let entry = entry.or_insert_with(|| self.unseen(id.clone())).clone();
        entry.posts();
        known.settle(&entry);
        drop(known);
        if let Some(id) = forgotten {
            self.forgotten.add(1);
            self.shared.feed.put(&News::Forgotten { id });
        }
        entry
    }

    /// The connection `conn` of a device has ended. Ignored when a newer one has taken over;
    /// returns whether it was the present one.
    pub fn offline(&self, id: &str, conn: u64, reason: &'static str) -> bool {
        self.changes.add(1);
        let now = clock::uptime();
        let mut known = lock(&self.known);
        let device = known.devices.get(id).cloned();
        let Some(device) = device.filter(|device| device.end(conn, reason, now)) else {
            return false;
        };
        known.settle(&device);
        drop(known);
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
        lock(&self.known).devices.get(id).cloned()
    }

    /// Number of devices remembered.
    #[must_use]
    pub fn known(&self) -> usize {
        lock(&self.known).devices.len()
    }

    /// All of them, sorted by id.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<DeviceBoard>> {
        let mut all: Vec<_> = lock(&self.known).devices.values().cloned().collect();
        all.sort_by(|a, b| a.id.cmp(&b.id));
        all
    }

    /// At most `limit` devices that differ from what the readers of events were told, those that
    /// were told longest ago; from now on they count as told.
    #[must_use]
    pub fn untold(&self, limit: usize) -> Vec<Arc<DeviceBoard>> {
        self.rounds.add(1);
        let mut untold: Vec<_> = lock(&self.known)
            .devices
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
    use std::time::Instant;

    use super::*;
    use crate::reading::{Batch, Encoding, Moment};

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

    fn batch(device: &str) -> Batch {
        Batch {
            device: device.into(),
            stream: "s".into(),
            seq: None,
            received: Moment::at(5.0),
            readings: 1,
            encoding: Encoding::Json,
            frame: b"[]".as_slice().into(),
        }
    }

    /// Comes, sends so many batches, and goes.
    fn visit(table: &DeviceTable, id: &str, batches: u32) {
        let device = table.online(&id.into(), 1, String::new());
        for _ in 0..batches {
            device.took(&batch(id), Instant::now());
        }
        assert!(table.offline(id, 1, "closed"));
    }

    #[test]
    fn ids_without_end_push_out_each_other_and_no_device_that_has_sent_anything() {
        let table = DeviceTable::default();
        table.limit(100);
        visit(&table, "old-and-good", 20);
        visit(&table, "seldom", 1);
        table.online(&"connected".into(), 1, String::new());
        for n in 0..10_000 {
            visit(&table, &format!("nobody-{n}"), 0);
            assert!(table.known() <= 100);
        }
        for id in ["old-and-good", "seldom", "connected", "nobody-9999"] {
            assert!(table.get(id).is_some(), "{id}");
        }
        // Ids that send one batch each do not push out who has sent many, or is there.
        for n in 0..10_000 {
            visit(&table, &format!("once-{n}"), 1);
        }
        assert!(table.get("old-and-good").is_some() && table.get("connected").is_some());
        assert!(table.get("seldom").is_none(), "least recently used");
        assert_eq!(table.known(), 100);
        assert_eq!(table.forgotten.get(), 20_003 - 100);
    }

    #[test]
    fn devices_that_are_connected_are_never_forgotten() {
        let table = DeviceTable::default();
        table.limit(10);
        for (conn, n) in (1..).zip(0..20) {
            table.online(&format!("d-{n}").into(), conn, String::new());
        }
        assert_eq!(table.known(), 20);
        assert!(table.offline("d-3", 4, "closed"));
        table.online(&"new".into(), 21, String::new());
        assert!(table.get("d-3").is_none() && table.get("d-4").is_some());
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
