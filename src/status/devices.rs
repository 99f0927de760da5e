//! All devices.

use std::collections::HashMap;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex};

use super::counts::{CODES, Counts, ENDINGS, EVICTIONS};
use super::device::DeviceBoard;
use super::feed::{Feed, News};
use super::histogram::Histogram;
use super::number::{Number, lock};
use super::refused::RefusedBoard;
use crate::clock;

/// Devices that are remembered after they went; the one longest gone is forgotten first.
/// An entry is a few hundred bytes, and more for those that come and go.
pub const KNOWN_DEVICES: usize = 16_384;

/// What the devices' parts of the board have in common: sums over all devices, those that are no
/// longer remembered too.
#[derive(Debug)]
pub struct Shared {
    pub(super) feed: Arc<Feed>,
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
    /// Batches whose device was told that they are safe.
    pub acked: Number,
    /// From the arrival of a batch to its ack.
    pub ack_latency: Histogram,
}

impl Default for Shared {
    fn default() -> Self {
        Self {
            feed: Arc::default(),
            kept_bytes: Arc::default(),
            refused: Arc::default(),
            batches: Number::default(),
            readings: Number::default(),
            rejected: Counts::new(CODES),
            acked: Number::default(),
            ack_latency: Histogram::default(),
        }
    }
}

/// All devices.
#[derive(Debug)]
pub struct DeviceTable {
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
            .or_insert_with(|| Arc::new(DeviceBoard::new(id.clone(), self.shared.clone())))
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
