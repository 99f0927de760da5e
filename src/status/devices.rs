//! All devices.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use super::counts::{CODES, Counts, ENDINGS, EVICTIONS};
use super::device::DeviceBoard;
use super::feed::{Feed, News};
use super::histogram::Histogram;
use super::kept::KeptTable;
use super::number::{Number, lock};
use crate::clock;
use crate::lru::Lru;

/// Devices that are remembered, unless fewer are asked for. An entry is a few hundred bytes, and
/// more for those that come and go.
pub const KNOWN_DEVICES: usize = 16_384;

/// What the devices' parts of the board have in common: sums over all devices, those that are no
/// longer remembered too.
#[derive(Debug)]
pub struct Shared {
    pub(super) feed: Arc<Feed>,
    /// The last batches.
    pub(super) kept: Mutex<KeptTable>,
    /// Batches taken.
    pub batches: Number,
    /// Readings in these.
    pub readings: Number,
    /// Messages rejected, by code.
    pub rejected: Counts<{ CODES.len() }>,
    /// Batches whose device was told that they are safe.
    pub acked: Number,
    /// From the arrival of a batch to its ack.
    pub ack_latency: Histogram,
}

impl Default for Shared {
    fn default() -> Self {
        Self {
            feed: Arc::default(),
            kept: Mutex::default(),
            batches: Number::default(),
            readings: Number::default(),
            rejected: Counts::new(CODES),
            acked: Number::default(),
            ack_latency: Histogram::default(),
        }
    }
}

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
}

/// All devices.
#[derive(Debug)]
pub struct DeviceTable {
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
}

impl Default for DeviceTable {
    fn default() -> Self {
        Self {
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
            .or_insert_with(|| Arc::new(DeviceBoard::new(id.clone(), self.shared.clone())))
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
        known.gone.touch(&device.id, device.worth());
        drop(known);
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
