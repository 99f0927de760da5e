//! The read model of the whole hub: what `/api/status` and `/api/devices` answer from.
//!
//! Rooms write their own part, nobody decides anything by reading it. Hot counters are atomics
//! with relaxed order: each is exact, two of them read together may be a moment apart.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use tokio::sync::Notify;

pub use super::commands::CommandBoard;
pub use super::device::{DeviceBoard, Expected};
pub use super::devices::{DeviceTable, KNOWN_DEVICES, Unforgettable};
use super::feed::Feed;
pub use super::number::Number;
use super::number::lock;
use super::per_day::BytesPerDay;
pub use super::process::bytes_written;
pub use super::reduce::ReduceBoard;
pub use super::report::{
    ClockReport, DeviceReport, DevicesReport, LiveReport, RefusedTopic, SpoolReport, StatusReport,
    UplinkReport,
};
pub use super::spool::{SpoolBoard, SpoolState};
pub use super::uplink::{ProbeState, UplinkBoard, UplinkState};
use crate::clock;

/// The board.
#[derive(Debug)]
pub struct Board {
    hub: String,
    started: Instant,
    /// Uptime.
    started_at: f64,
    written_at_start: u64,
    flash: Mutex<BytesPerDay>,
    /// Sent to the broker and received from it.
    traffic: Mutex<[BytesPerDay; 2]>,
    ready: AtomicBool,
    /// The uplink's part.
    pub uplink: UplinkBoard,
    /// The spool's part.
    pub spool: SpoolBoard,
    /// The devices' part.
    pub devices: DeviceTable,
    /// The commands' part.
    pub commands: CommandBoard,
    /// What rules leave out.
    pub reduce: ReduceBoard,
    /// Gauge: batches in the live lane, in flight included.
    pub live_batches: Number,
    /// Gauge: readings in these.
    pub live_readings: Number,
    stirred: Notify,
}

impl Board {
    /// An empty board of the hub with this id.
    #[must_use]
    pub fn new(hub: &str) -> Arc<Self> {
        let devices = DeviceTable::default();
        let refused = devices.shared.refused.clone();
        Arc::new(Self {
            hub: hub.to_owned(),
            started: Instant::now(),
            started_at: clock::uptime(),
            written_at_start: bytes_written(),
            flash: Mutex::default(),
            traffic: Mutex::default(),
            ready: AtomicBool::new(false),
            uplink: UplinkBoard::new(refused),
            spool: SpoolBoard::new(),
            devices,
            commands: CommandBoard::default(),
            reduce: ReduceBoard::default(),
            live_batches: Number::default(),
            live_readings: Number::default(),
            stirred: Notify::new(),
        })
    }

    /// Something worth showing may have changed. Costs next to nothing.
    pub fn stir(&self) {
        self.stirred.notify_one();
    }

    /// Returns once the board was stirred since the last call. For one task: the status line's.
    pub async fn stirred(&self) {
        self.stirred.notified().await;
    }

    /// The hub's id.
    #[must_use]
    pub fn hub(&self) -> &str {
        &self.hub
    }

    /// When the hub started: Unix seconds.
    #[must_use]
    pub fn started(&self) -> f64 {
        clock::wall_at(self.started_at)
    }

    /// The readers of events.
    #[must_use]
    pub fn feed(&self) -> &Arc<Feed> {
        &self.devices.shared.feed
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

    /// Takes a reading of what is told by the day when one is due. To be called every few minutes.
    pub fn watch_days(&self) {
        self.spool.watch_fill(clock::uptime());
        let _ = self.traffic();
        if lock(&self.flash).is_due(self.started.elapsed()) {
            let _ = self.flash();
        }
    }

    /// Bytes that the hub has caused to be written to disk since its start, and what that is in a
    /// day.
    #[must_use]
    pub fn flash(&self) -> (u64, u64) {
        let written = bytes_written().saturating_sub(self.written_at_start);
        let per_day = lock(&self.flash).observe(self.started.elapsed(), written);
        (written, per_day)
    }

    /// Bytes to the broker and from it, in a day.
    #[must_use]
    pub fn traffic(&self) -> [u64; 2] {
        let age = self.started.elapsed();
        let counted = [&self.uplink.sent_bytes, &self.uplink.received_bytes];
        let mut days = lock(&self.traffic);
        let each = days.iter_mut().zip(counted);
        let mut rates = each.map(|(day, counted)| day.observe(age, counted.get()));
        [(); 2].map(|()| rates.next().unwrap_or_default())
    }

    /// What `/api/status` answers.
    #[must_use]
    pub fn status(&self) -> StatusReport {
        let uplink = self.uplink.whole();
        let (spool_state, spool_reason) = self.spool.state();
        self.spool.watch_fill(clock::uptime());
        let census = self.devices.census();
        let (written_bytes, flash_per_day) = self.flash();
        let broker = self.uplink.broker();
        let [sent_per_day, received_per_day] = self.traffic();
        StatusReport {
            hub: self.hub.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime: self.started.elapsed().as_secs_f64(),
            uplink: UplinkReport {
                state: uplink.state,
                since: clock::wall_at(uplink.since),
                in_flight: self.uplink.in_flight.get(),
                published: self.uplink.published.get(),
                acknowledged: self.uplink.acknowledged.get(),
                last_error_at: uplink.error.as_ref().map(|(_, at)| clock::wall_at(*at)),
                last_error: uplink.error.map(|(error, _)| error),
                broker: broker.as_ref().map(|(address, _)| address.clone()),
                mqtt: broker.map(|(_, version)| version.to_owned()),
                probe: self.uplink.probe(),
                twins: self.uplink.twins.get() > 0,
                refused: self.uplink.refused_topics.list(),
                refused_total: self.uplink.refused_topics.topics.get(),
                refused_publishes: self.uplink.refused.get(),
                refused_statuses: self.uplink.parked_statuses.get(),
                unheard: self.uplink.unheard.get(),
                skipped: self.uplink.skipped.get(),
                sent_bytes: self.uplink.sent_bytes.get(),
                received_bytes: self.uplink.received_bytes.get(),
                sent_per_day,
                received_per_day,
            },
            spool: SpoolReport {
                state: spool_state,
                reason: spool_reason,
                batches: self.spool.batches.get(),
                readings: self.spool.readings.get(),
                disk_bytes: self.spool.disk_bytes.get(),
                max_size: self.spool.max_size.get(),
                oldest: self.spool.oldest(),
                written_bytes,
                flash_per_day,
                dropped_batches: self.spool.dropped_batches.get(),
                drain_eta: self.spool.drain_eta(),
                full_in: self.spool.full_in(),
            },
            devices: DevicesReport {
                connected: self.devices.connected.get(),
                known: census.known,
                evicted: self.devices.evicted.get(),
                unseen: census.unseen,
                lost: census.lost,
                silent: census.silent,
            },
            reduce: self.reduce.report(),
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
        let all = self.devices.all();
        all.iter().map(|device| device.report()).collect()
    }
}
