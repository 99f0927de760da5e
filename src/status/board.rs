//! The read model of the whole hub: what `/api/status` and `/api/devices` answer from.
//!
//! Rooms write their own part, nobody decides anything by reading it. Hot counters are atomics
//! with relaxed order: each is exact, two of them read together may be a moment apart.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::clock::{self, ClockState};

/// Devices that are remembered after they went; the one longest gone is forgotten first.
/// 16,384 entries are about 8 MB.
pub const KNOWN_DEVICES: usize = 16_384;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A counter or gauge.
#[derive(Debug, Default)]
pub struct Number(AtomicU64);

impl Number {
    /// Adds to a counter.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Relaxed);
    }

    /// Sets a gauge.
    pub fn set(&self, n: u64) {
        self.0.store(n, Relaxed);
    }

    /// The present value.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// State of the connection to the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UplinkState {
    /// Publishing.
    Connected,
    /// Trying.
    Connecting,
    /// Waiting for the next try.
    Down,
}

/// State of the spool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SpoolState {
    /// Can be written.
    Ok,
    /// No room for more.
    Full,
    /// Cannot be written.
    Failed,
}

/// The uplink's part of the board.
#[derive(Debug)]
pub struct UplinkBoard {
    /// State, since which uptime, last error.
    state: Mutex<(UplinkState, f64, Option<String>)>,
    /// Gauge: publishes without PUBACK.
    pub in_flight: Number,
    /// Publishes handed to the network.
    pub published: Number,
    /// PUBACKs that matched one.
    pub acknowledged: Number,
}

impl UplinkBoard {
    /// Records a change of state. An error stays as `last_error` until the next one.
    pub fn set(&self, state: UplinkState, error: Option<String>) {
        let mut current = lock(&self.state);
        if current.0 != state {
            (current.0, current.1) = (state, clock::uptime());
        }
        if error.is_some() {
            current.2 = error;
        }
    }

    /// The present state.
    #[must_use]
    pub fn state(&self) -> UplinkState {
        lock(&self.state).0
    }
}

/// The spool's part of the board.
#[derive(Debug)]
pub struct SpoolBoard {
    state: Mutex<(SpoolState, Option<String>, Option<f64>)>,
    /// Gauge: batches on disk that are not PUBACKed.
    pub batches: Number,
    /// Gauge: readings in these.
    pub readings: Number,
    /// Gauge: bytes that the spool's files take.
    pub disk_bytes: Number,
    /// Batches that became gap records.
    pub dropped_batches: Number,
    /// Gauge: batches a second that leave the spool, times 1,000, averaged over some seconds.
    pub drain_millirate: Number,
}

impl SpoolBoard {
    /// Records the state and, unless it is `Ok`, one sentence why.
    pub fn set(&self, state: SpoolState, error: Option<String>) {
        let mut current = lock(&self.state);
        (current.0, current.1) = (state, error);
    }

    /// The present state and the reason for it.
    #[must_use]
    pub fn state(&self) -> (SpoolState, Option<String>) {
        let current = lock(&self.state);
        (current.0, current.1.clone())
    }

    /// Arrival of the oldest batch, Unix seconds.
    pub fn set_oldest(&self, oldest: Option<f64>) {
        lock(&self.state).2 = oldest;
    }
}

#[derive(Debug, Clone)]
struct DeviceText {
    conn: u64,
    online: bool,
    /// Uptime: the wall clock may be set.
    since: f64,
    reason: String,
    remote: String,
    stream: Option<Arc<str>>,
    model: Option<String>,
    firmware: Option<String>,
}

/// One device's part of the board. Counters are its totals since the hub started.
#[derive(Debug)]
pub struct DeviceBoard {
    id: Arc<str>,
    text: Mutex<DeviceText>,
    /// Uptime.
    last_seen: AtomicU64,
    rtt_micros: AtomicU64,
    /// Highest sequence number taken in the present stream.
    pub seq: Number,
    /// Batches taken.
    pub batches: Number,
    /// Readings in these.
    pub readings: Number,
    /// Messages rejected.
    pub rejected: Number,
    /// Pongs that came after `ping_timeout`, when something else had kept the device alive.
    pub late_pongs: Number,
}

impl DeviceBoard {
    /// A frame came from the device. `now`: [`clock::uptime`].
    pub fn seen(&self, now: f64) {
        self.last_seen.store(now.to_bits(), Relaxed);
    }

    /// A pong came back.
    pub fn rtt(&self, rtt: std::time::Duration) {
        let micros = u64::try_from(rtt.as_micros()).unwrap_or(u64::MAX);
        self.rtt_micros.store(micros.max(1), Relaxed);
    }

    /// What `hello` said, or the name of the stream that the hub made up.
    pub fn stream(&self, stream: Arc<str>) {
        lock(&self.text).stream = Some(stream);
    }

    /// What `hello` said of the device itself.
    pub fn describe(&self, model: Option<String>, firmware: Option<String>) {
        let mut text = lock(&self.text);
        (text.model, text.firmware) = (model, firmware);
    }
}

/// All devices.
#[derive(Debug, Default)]
pub struct DeviceTable {
    devices: Mutex<HashMap<Arc<str>, Arc<DeviceBoard>>>,
    /// Gauge: open device connections.
    pub connected: Number,
    /// Connections that were opened or closed, in all.
    pub changes: Number,
    /// Connections that the hub ended because the device did not answer or misbehaved.
    pub evicted: Number,
}

impl DeviceTable {
    /// A device is connected by the connection `conn`. Returns its entry for the session.
    pub fn online(&self, id: &Arc<str>, conn: u64, remote: String) -> Arc<DeviceBoard> {
        self.changes.add(1);
        let now = clock::uptime();
        let mut devices = lock(&self.devices);
        if devices.len() >= KNOWN_DEVICES && !devices.contains_key(id) {
            let longest_gone = devices
                .values()
                .filter(|device| !lock(&device.text).online)
                .min_by(|a, b| lock(&a.text).since.total_cmp(&lock(&b.text).since))
                .map(|device| device.id.clone());
            if let Some(gone) = longest_gone {
                devices.remove(&gone);
            }
        }
        let text = DeviceText {
            conn,
            online: true,
            since: now,
            reason: "connected".into(),
            remote,
            stream: None,
            model: None,
            firmware: None,
        };
        let entry = devices.entry(id.clone()).or_insert_with(|| {
            Arc::new(DeviceBoard {
                id: id.clone(),
                text: Mutex::new(text.clone()),
                last_seen: AtomicU64::new(now.to_bits()),
                rtt_micros: AtomicU64::new(0),
                seq: Number::default(),
                batches: Number::default(),
                readings: Number::default(),
                rejected: Number::default(),
                late_pongs: Number::default(),
            })
        });
        *lock(&entry.text) = text;
        entry.rtt_micros.store(0, Relaxed);
        entry.seq.set(0);
        entry.seen(now);
        entry.clone()
    }

    /// The connection `conn` of a device has ended. Ignored when a newer one has taken over;
    /// returns whether it was the present one.
    pub fn offline(&self, id: &str, conn: u64, reason: &str) -> bool {
        self.changes.add(1);
        let devices = lock(&self.devices);
        let Some(device) = devices.get(id) else {
            return false;
        };
        let mut text = lock(&device.text);
        if text.conn != conn || !text.online {
            return false;
        }
        text.online = false;
        text.since = clock::uptime();
        reason.clone_into(&mut text.reason);
        true
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
}

/// The board.
#[derive(Debug)]
pub struct Board {
    hub: String,
    started: Instant,
    written_at_start: u64,
    ready: AtomicBool,
    /// The uplink's part.
    pub uplink: UplinkBoard,
    /// The spool's part.
    pub spool: SpoolBoard,
    /// The devices' part.
    pub devices: DeviceTable,
    /// Gauge: batches in the live lane, in flight included.
    pub live_batches: Number,
    /// Gauge: readings in these.
    pub live_readings: Number,
}

impl Board {
    /// An empty board of the hub with this id.
    #[must_use]
    pub fn new(hub: &str) -> Arc<Self> {
        Arc::new(Self {
            hub: hub.to_owned(),
            started: Instant::now(),
            written_at_start: bytes_written(),
            ready: AtomicBool::new(false),
            uplink: UplinkBoard {
                state: Mutex::new((UplinkState::Connecting, clock::uptime(), None)),
                in_flight: Number::default(),
                published: Number::default(),
                acknowledged: Number::default(),
            },
            spool: SpoolBoard {
                state: Mutex::new((SpoolState::Ok, None, None)),
                batches: Number::default(),
                readings: Number::default(),
                disk_bytes: Number::default(),
                dropped_batches: Number::default(),
                drain_millirate: Number::default(),
            },
            devices: DeviceTable::default(),
            live_batches: Number::default(),
            live_readings: Number::default(),
        })
    }

    /// Devices are accepted, or no longer.
    pub fn set_ready(&self, ready: bool) {
        self.ready.store(ready, Relaxed);
    }

    /// Whether devices are accepted.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.ready.load(Relaxed)
    }

    /// A number that grows with everything that takes memory for a while: batches that pass, and
    /// connections that come and go.
    #[must_use]
    pub fn activity(&self) -> u64 {
        let passed = self
            .uplink
            .published
            .get()
            .wrapping_add(self.spool.batches.get());
        passed.wrapping_add(self.devices.changes.get())
    }

    /// What `/api/status` answers.
    #[must_use]
    pub fn status(&self) -> StatusReport {
        let (uplink_state, since, last_error) = lock(&self.uplink.state).clone();
        let (spool_state, _, oldest) = lock(&self.spool.state).clone();
        let batches = self.spool.batches.get();
        let rate = self.spool.drain_millirate.get();
        StatusReport {
            hub: self.hub.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime: self.started.elapsed().as_secs_f64(),
            uplink: UplinkReport {
                state: uplink_state,
                since: clock::wall_at(since),
                in_flight: self.uplink.in_flight.get(),
                published: self.uplink.published.get(),
                acknowledged: self.uplink.acknowledged.get(),
                last_error,
            },
            spool: SpoolReport {
                state: spool_state,
                batches,
                readings: self.spool.readings.get(),
                disk_bytes: self.spool.disk_bytes.get(),
                oldest,
                written_bytes: bytes_written().saturating_sub(self.written_at_start),
                dropped_batches: self.spool.dropped_batches.get(),
                #[expect(clippy::cast_precision_loss, reason = "an estimate")]
                drain_eta: match (batches, rate) {
                    (0, _) => Some(0.0),
                    (_, 0) => None,
                    (batches, rate) => Some(batches as f64 * 1000.0 / rate as f64),
                },
            },
            devices: DevicesReport {
                connected: self.devices.connected.get(),
                known: self.devices.known() as u64,
                evicted: self.devices.evicted.get(),
            },
            live: LiveReport {
                batches: self.live_batches.get(),
                readings: self.live_readings.get(),
            },
            clock: ClockReport {
                state: clock::state(),
            },
        }
    }

    /// What `/api/devices` answers, sorted by id.
    #[must_use]
    pub fn device_reports(&self) -> Vec<DeviceReport> {
        let entries: Vec<_> = lock(&self.devices.devices).values().cloned().collect();
        let mut reports: Vec<_> = entries.iter().map(|device| report(device)).collect();
        reports.sort_by(|a, b| a.id.cmp(&b.id));
        reports
    }
}

fn report(device: &DeviceBoard) -> DeviceReport {
    let text = lock(&device.text).clone();
    let rtt = device.rtt_micros.load(Relaxed);
    DeviceReport {
        id: device.id.to_string(),
        state: if text.online { "online" } else { "offline" }.to_owned(),
        since: clock::wall_at(text.since),
        reason: text.reason,
        last_seen: clock::wall_at(f64::from_bits(device.last_seen.load(Relaxed))),
        remote: text.remote,
        #[expect(clippy::cast_precision_loss, reason = "microseconds of a ping fit")]
        rtt_ms: (rtt > 0).then(|| rtt as f64 / 1000.0),
        stream: text.stream.map(|stream| stream.to_string()),
        seq: device.seq.get(),
        batches: device.batches.get(),
        readings: device.readings.get(),
        rejected: device.rejected.get(),
        model: text.model,
        firmware: text.firmware,
    }
}

/// Bytes that this process has caused to be written to block devices, by the kernel's account
/// (`write_bytes` in proc_pid_io(5)); 0 where the kernel keeps none.
#[must_use]
pub fn bytes_written() -> u64 {
    let Ok(io) = std::fs::read_to_string("/proc/self/io") else {
        return 0;
    };
    io.lines()
        .find_map(|line| line.strip_prefix("write_bytes: "))
        .and_then(|bytes| bytes.trim().parse().ok())
        .unwrap_or(0)
}

/// `/api/status`. Times are Unix seconds, durations seconds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the field names are the documented contract")]
pub struct StatusReport {
    pub hub: String,
    pub version: String,
    pub uptime: f64,
    pub uplink: UplinkReport,
    pub spool: SpoolReport,
    pub devices: DevicesReport,
    pub live: LiveReport,
    pub clock: ClockReport,
}

/// `uplink` in `/api/status`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the field names are the documented contract")]
pub struct UplinkReport {
    pub state: UplinkState,
    pub since: f64,
    pub in_flight: u64,
    pub published: u64,
    pub acknowledged: u64,
    pub last_error: Option<String>,
}

/// `spool` in `/api/status`. `drain_eta`: `None` while nothing drains.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the field names are the documented contract")]
pub struct SpoolReport {
    pub state: SpoolState,
    pub batches: u64,
    pub readings: u64,
    pub disk_bytes: u64,
    pub oldest: Option<f64>,
    pub written_bytes: u64,
    pub dropped_batches: u64,
    pub drain_eta: Option<f64>,
}

/// `devices` in `/api/status`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the field names are the documented contract")]
pub struct DevicesReport {
    pub connected: u64,
    pub known: u64,
    pub evicted: u64,
}

/// `live` in `/api/status`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the field names are the documented contract")]
pub struct LiveReport {
    pub batches: u64,
    pub readings: u64,
}

/// `clock` in `/api/status`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the field names are the documented contract")]
pub struct ClockReport {
    pub state: ClockState,
}

/// One element of `/api/devices`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the field names are the documented contract")]
pub struct DeviceReport {
    pub id: String,
    pub state: String,
    pub since: f64,
    pub reason: String,
    pub last_seen: f64,
    pub remote: String,
    pub rtt_ms: Option<f64>,
    pub stream: Option<String>,
    pub seq: u64,
    pub batches: u64,
    pub readings: u64,
    pub rejected: u64,
    pub model: Option<String>,
    pub firmware: Option<String>,
}
