//! One device's part of the board.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::devices::Shared;
use super::history::{History, state};
use super::kept::{Kept, Last};
use super::number::{Number, lock};
use super::report::{DeviceReport, Past};
use crate::clock;
use crate::reading::Batch;

#[derive(Debug)]
pub(super) struct DeviceText {
    pub(super) conn: u64,
    pub(super) online: bool,
    /// Uptime: the wall clock may be set.
    pub(super) since: f64,
    reason: &'static str,
    remote: String,
    stream: Option<Arc<str>>,
    model: Option<String>,
    firmware: Option<String>,
    history: History,
}

/// One device's part of the board. Counters are its totals since the hub started.
#[derive(Debug)]
pub struct DeviceBoard {
    pub(super) id: Arc<str>,
    shared: Arc<Shared>,
    pub(super) text: Mutex<DeviceText>,
    /// Counts the changes of `text`.
    changes: Number,
    /// Uptime.
    last_seen: AtomicU64,
    rtt_micros: AtomicU64,
    kept: Mutex<Kept>,
    /// What the readers of events were told: a digest, and when, in rounds.
    told: Number,
    pub(super) told_in: Number,
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
    /// Never connected yet; [`DeviceBoard::begin`] comes next.
    pub(super) fn new(id: Arc<str>, shared: Arc<Shared>) -> Self {
        Self {
            id,
            text: Mutex::new(DeviceText {
                conn: 0,
                online: false,
                since: 0.0,
                reason: "",
                remote: String::new(),
                stream: None,
                model: None,
                firmware: None,
                history: History::default(),
            }),
            changes: Number::default(),
            last_seen: AtomicU64::new(0),
            rtt_micros: AtomicU64::new(0),
            kept: Mutex::new(Kept::new(shared.kept_bytes.clone())),
            told: Number::default(),
            told_in: Number::default(),
            seq: Number::default(),
            batches: Number::default(),
            readings: Number::default(),
            rejected: Number::default(),
            late_pongs: Number::default(),
            shared,
        }
    }

    /// The connection `conn` begins. Returns whether there was an older one, which it replaces.
    pub(super) fn begin(&self, conn: u64, remote: String, now: f64) -> bool {
        let mut text = lock(&self.text);
        let replaces = text.online;
        if replaces {
            text.history.push(now, false, "replaced");
        }
        text.history.push(now, true, "connected");
        *text = DeviceText {
            conn,
            online: true,
            since: now,
            reason: "connected",
            remote,
            stream: None,
            model: None,
            firmware: None,
            history: std::mem::take(&mut text.history),
        };
        drop(text);
        self.changes.add(1);
        self.rtt_micros.store(0, Relaxed);
        self.seq.set(0);
        self.seen(now);
        replaces
    }

    /// The connection `conn` has ended; `false` when it is not the present one.
    pub(super) fn end(&self, conn: u64, reason: &'static str, now: f64) -> bool {
        let mut text = lock(&self.text);
        if text.conn != conn || !text.online {
            return false;
        }
        text.online = false;
        text.since = now;
        text.reason = reason;
        text.history.push(now, false, reason);
        self.changes.add(1);
        true
    }

    /// A frame came from the device. `now`: [`clock::uptime`].
    pub fn seen(&self, now: f64) {
        self.last_seen.store(now.to_bits(), Relaxed);
    }

    /// A pong came back.
    pub fn rtt(&self, rtt: Duration) {
        let micros = u64::try_from(rtt.as_micros()).unwrap_or(u64::MAX);
        self.rtt_micros.store(micros.max(1), Relaxed);
    }

    /// What `hello` said, or the name of the stream that the hub made up.
    pub fn stream(&self, stream: Arc<str>) {
        lock(&self.text).stream = Some(stream);
        self.changes.add(1);
    }

    /// What `hello` said of the device itself.
    pub fn describe(&self, model: Option<String>, firmware: Option<String>) {
        let mut text = lock(&self.text);
        (text.model, text.firmware) = (model, firmware);
        self.changes.add(1);
    }

    /// A batch was taken that is new to the hub.
    pub fn took(&self, batch: &Batch, now: Instant) {
        self.batches.add(1);
        self.readings.add(u64::from(batch.readings));
        if let Some(seq) = batch.seq {
            self.seq.set(seq);
        }
        self.shared.batches.add(1);
        self.shared.readings.add(u64::from(batch.readings));
        lock(&self.kept).put(batch);
        self.shared.feed.offer(batch, now);
    }

    /// A message was rejected with this code.
    pub fn reject(&self, code: &str) {
        self.rejected.add(1);
        self.shared.rejected.add(code, 1);
    }

    /// The device was told that `batches` are safe, so long after they came.
    pub fn acked(&self, batches: u64, after: Duration) {
        self.shared.acked.add(batches);
        self.shared.ack_latency.observe(after, batches);
    }

    /// The last batch that was taken.
    #[must_use]
    pub fn last(&self) -> Option<Last> {
        lock(&self.kept).get()
    }

    /// Its connects and ends, newest last.
    #[must_use]
    pub fn history(&self) -> Vec<Past> {
        lock(&self.text).history.report()
    }

    /// Whether anything differs from what the readers of events were told.
    pub(super) fn is_untold(&self) -> bool {
        self.told.get() != self.digest()
    }

    /// The readers of events are told now.
    pub(super) fn tell(&self, round: u64) {
        self.told.set(self.digest());
        self.told_in.set(round);
    }

    fn digest(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        for number in [
            self.changes.get(),
            self.last_seen.load(Relaxed),
            self.rtt_micros.load(Relaxed),
            self.seq.get(),
            self.batches.get(),
            self.readings.get(),
            self.rejected.get(),
        ] {
            number.hash(&mut hasher);
        }
        self.shared.refused.of(&self.id).hash(&mut hasher);
        hasher.finish()
    }

    /// What `/api/devices` says of it.
    #[must_use]
    pub fn report(&self) -> DeviceReport {
        let refused = self.shared.refused.of(&self.id);
        let text = lock(&self.text);
        let rtt = self.rtt_micros.load(Relaxed);
        DeviceReport {
            id: self.id.to_string(),
            state: state(text.online).to_owned(),
            since: clock::wall_at(text.since),
            reason: text.reason.to_owned(),
            last_seen: clock::wall_at(f64::from_bits(self.last_seen.load(Relaxed))),
            remote: text.remote.clone(),
            #[expect(clippy::cast_precision_loss, reason = "microseconds of a ping fit")]
            rtt_ms: (rtt > 0).then(|| rtt as f64 / 1000.0),
            stream: text.stream.as_ref().map(ToString::to_string),
            seq: self.seq.get(),
            batches: self.batches.get(),
            readings: self.readings.get(),
            rejected: self.rejected.get(),
            model: text.model.clone(),
            firmware: text.firmware.clone(),
            refused: refused.into_iter().map(str::to_owned).collect(),
        }
    }
}
