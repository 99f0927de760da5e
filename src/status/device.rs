//! One device's part of the board.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::commands::DeviceCommands;
use super::counts::ENDINGS;
use super::history::{ASLEEP, History, state};
use super::last_batches::{Last, Slot};
use super::memory::Remembered;
use super::number::{Number, lock};
use super::report::{DeviceReport, Past, RefusedReport};
use super::rhythm::Rhythm;
use super::sampling::Budget;
use super::shared::Shared;
use super::tap::OF_ONE;
use crate::clock;
use crate::reading::Batch;

/// Batches that show that a device works: more than one who only tries the port out sends, and soon
/// reached by a real one.
const WORKING: u64 = 16;

/// Endings that nobody has to look after: the device said goodbye, or the hub or its operator
/// ended the connection. After any other one the device is lost.
const LEFT: [&str; 6] = [
    ASLEEP,
    "closed",
    "hub stopping",
    "refused",
    "replaced",
    "revoked",
];

/// Seconds that a device has for coming back after a start of the hub before it counts as lost:
/// devices come back within a minute, with their own pauses between two tries.
const COMING_BACK: f64 = 120.0;

/// An attempt to connect that was refused.
#[derive(Debug)]
struct Refused {
    /// Uptime.
    at: f64,
    why: &'static str,
    remote: String,
}

/// What is expected of a device that has an entry in the registry.
#[derive(Debug, Clone, PartialEq)]
pub struct Expected {
    /// Its id.
    pub id: Arc<str>,
    /// A reading at least this often.
    pub every: Option<Duration>,
}

#[derive(Debug)]
pub(super) struct DeviceText {
    pub(super) conn: u64,
    pub(super) online: bool,
    /// It has not been connected since the hub started.
    pub(super) unseen: bool,
    /// It sends without a connection.
    pub(super) posts: bool,
    acknowledged: bool,
    /// Its entry in the registry.
    pub(super) expected: Option<Expected>,
    refused: Option<Refused>,
    /// Uptime: the wall clock may be set.
    pub(super) since: f64,
    reason: &'static str,
    remote: String,
    stream: Option<Arc<str>>,
    model: Option<String>,
    firmware: Option<String>,
    history: History,
}

/// An uptime that never was. The all-zero bits would be the boot itself.
const NEVER: u64 = f64::NAN.to_bits();

/// The uptime in a cell, if there was such a moment.
fn at(cell: &AtomicU64) -> Option<f64> {
    let uptime = f64::from_bits(cell.load(Relaxed));
    (!uptime.is_nan()).then_some(uptime)
}

/// The same as Unix seconds.
fn wall(cell: &AtomicU64) -> Option<f64> {
    at(cell).map(clock::wall_at)
}

/// How a device stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Standing {
    pub(super) online: bool,
    pub(super) unseen: bool,
    /// Gone without a word, and nobody has said that it is known.
    pub(super) lost: bool,
    pub(super) silent: bool,
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
    /// Uptime.
    last_reading: AtomicU64,
    rtt_micros: AtomicU64,
    kept: Slot,
    rhythm: Mutex<Rhythm>,
    /// Batches that whoever keeps readings may be offered.
    offers: Mutex<Budget>,
    /// What the readers of events were told: a digest, and when, in rounds.
    told: Number,
    pub(super) told_in: Number,
    /// Highest sequence number taken in the present stream.
    pub seq: Number,
    /// Commands that ended.
    pub commands: DeviceCommands,
    /// Batches taken.
    pub batches: Number,
    /// Readings in these.
    pub readings: Number,
    /// Messages rejected.
    pub rejected: Number,
    /// Records left out because they had no usable value.
    pub dropped_records: Number,
    /// Pongs that came after `ping_timeout`, when something else had kept the device alive.
    pub late_pongs: Number,
}

impl Drop for DeviceBoard {
    fn drop(&mut self) {
        lock(&self.shared.kept).give_back(&self.kept);
    }
}

impl DeviceBoard {
    /// Has not connected since the hub started, at `since`.
    pub(super) fn new(id: Arc<str>, shared: Arc<Shared>, since: f64) -> Self {
        let kept = lock(&shared.kept).slot();
        Self {
            id,
            text: Mutex::new(DeviceText {
                conn: 0,
                online: false,
                unseen: true,
                posts: false,
                acknowledged: false,
                expected: None,
                refused: None,
                since,
                reason: "",
                remote: String::new(),
                stream: None,
                model: None,
                firmware: None,
                history: History::default(),
            }),
            changes: Number::default(),
            last_seen: AtomicU64::new(NEVER),
            last_reading: AtomicU64::new(NEVER),
            rtt_micros: AtomicU64::new(0),
            kept,
            rhythm: Mutex::default(),
            offers: Mutex::new(Budget::new(OF_ONE, Instant::now())),
            told: Number::default(),
            told_in: Number::default(),
            seq: Number::default(),
            commands: DeviceCommands::default(),
            batches: Number::default(),
            readings: Number::default(),
            rejected: Number::default(),
            dropped_records: Number::default(),
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
            unseen: false,
            posts: text.posts,
            acknowledged: false,
            expected: text.expected.take(),
            refused: None,
            since: now,
            reason: "connected",
            remote,
            stream: None,
            model: None,
            firmware: None,
            history: std::mem::take(&mut text.history),
        };
        drop(text);
        lock(&self.rhythm).interrupt();
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

    /// Its id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The device said that it would be back by now; `false` when it is no sleeper.
    pub(super) fn overdue(&self, reason: &'static str, now: f64) -> bool {
        let mut text = lock(&self.text);
        if text.online || text.reason != ASLEEP {
            return false;
        }
        text.since = now;
        text.reason = reason;
        text.history.push(now, false, reason);
        self.changes.add(1);
        true
    }

    /// Whether it is connected.
    #[must_use]
    pub fn is_online(&self) -> bool {
        lock(&self.text).online
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

    /// Model and firmware, as the device said.
    #[must_use]
    pub fn description(&self) -> (Option<String>, Option<String>) {
        let text = lock(&self.text);
        (text.model.clone(), text.firmware.clone())
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
        let uptime = batch.received.uptime;
        self.last_reading.store(uptime.to_bits(), Relaxed);
        lock(&self.rhythm).note(uptime);
        if let Some(seq) = batch.seq {
            self.seq.set(seq);
        }
        self.shared.batches.add(1);
        self.shared.readings.add(u64::from(batch.readings));
        lock(&self.shared.kept).put(&self.kept, batch, self.worth() > 1);
        self.shared.feed.offer(batch, now);
        let tap = &self.shared.tap;
        if tap.is_open() && lock(&self.offers).take(1, now) > 0 {
            tap.offer(batch, now);
        }
    }

    /// Records of a batch were left out because they had no usable value.
    pub fn dropped(&self, records: u32) {
        self.dropped_records.add(records.into());
        self.shared.dropped_records.add(records.into());
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

    /// What the device has shown so far to be worth: 0 for one that has sent nothing, 1 for a few
    /// batches, 2 for one that works. What is remembered of the least worthy is forgotten first.
    pub(super) fn worth(&self) -> u8 {
        match self.batches.get() {
            // What it sent before a restart of the hub counts as a few.
            0 if at(&self.last_reading).is_none() => 0,
            0..WORKING => 1,
            WORKING.. => 2,
        }
    }

    /// An attempt to connect by its name was refused. Of many only the last is kept.
    pub(super) fn refuse(&self, why: &'static str, remote: String, now: f64) {
        let at = now;
        lock(&self.text).refused = Some(Refused { at, why, remote });
        self.changes.add(1);
    }

    /// Its entry in the registry, or that it has none.
    pub(super) fn expect(&self, expected: Option<Expected>) {
        lock(&self.text).expected = expected;
        self.changes.add(1);
    }

    /// Somebody knows that it is gone. Holds until it comes back. `false`: it is here.
    pub(super) fn acknowledge(&self) -> bool {
        let mut text = lock(&self.text);
        if text.online {
            return false;
        }
        text.acknowledged = true;
        self.changes.add(1);
        true
    }

    /// How it was when the hub ran before. Times are made uptimes; they may be below 0.
    pub(super) fn restore(&self, before: &Remembered, wall: f64, now: f64) {
        let uptime = |time: f64| now - (wall - time).max(0.0);
        let store = |cell: &AtomicU64, time: Option<f64>| {
            if let Some(time) = time {
                cell.store(uptime(time).to_bits(), Relaxed);
            }
        };
        store(&self.last_seen, before.last_seen);
        store(&self.last_reading, before.last_reading);
        let mut text = lock(&self.text);
        text.acknowledged = before.acknowledged;
        text.posts = before.posts;
        let known = |reason: &&&str| **reason == before.reason;
        let reason = ENDINGS.iter().find(known).copied();
        match reason {
            Some(reason) if !before.online && reason != "hub stopping" => {
                (text.unseen, text.since, text.reason) = (false, uptime(before.since), reason);
            }
            // It was here to the end: it is expected back.
            _ => text.reason = "hub restarted",
        }
    }

    /// What is to be kept over a restart; `None`: nothing is known of it.
    pub(super) fn remember(&self) -> Option<Remembered> {
        let last_seen = wall(&self.last_seen)?;
        let text = lock(&self.text);
        Some(Remembered {
            id: self.id.to_string(),
            online: text.online || text.unseen,
            since: clock::wall_at(text.since),
            reason: text.reason.to_owned(),
            last_seen: Some(last_seen),
            last_reading: wall(&self.last_reading),
            acknowledged: text.acknowledged,
            posts: text.posts,
        })
    }

    /// It sends without a connection.
    pub(super) fn posts(&self) {
        lock(&self.text).posts = true;
    }

    /// When something last came from it; uptime.
    pub(super) fn last_sign(&self) -> Option<f64> {
        at(&self.last_seen)
    }

    /// Whether, and why, it is to be looked after.
    pub(super) fn standing(&self, now: f64) -> Standing {
        let text = lock(&self.text);
        Standing {
            online: text.online,
            unseen: text.unseen,
            lost: !text.acknowledged && self.is_lost(&text, now),
            silent: self.is_silent(&text, now),
        }
    }

    fn is_lost(&self, text: &DeviceText, now: f64) -> bool {
        if text.online {
            return false;
        }
        if text.unseen {
            // One that never came was made ready for later; one that posts is nowhere in between.
            return !text.posts && at(&self.last_seen).is_some() && now - text.since > COMING_BACK;
        }
        !LEFT.contains(&text.reason)
    }

    fn is_silent(&self, text: &DeviceText, now: f64) -> bool {
        let expect = text.expected.as_ref().and_then(|expected| expected.every);
        let after = match expect {
            Some(every) => Some(every.as_secs_f64()),
            None => lock(&self.rhythm).silent_after(),
        };
        let last = at(&self.last_reading).unwrap_or(text.since).max(text.since);
        let is_here = text.online || (text.unseen && text.posts);
        is_here && after.is_some_and(|after| now - last > after)
    }

    /// The last batch that was taken.
    #[must_use]
    pub fn last(&self) -> Option<Last> {
        lock(&self.shared.kept).get(&self.kept)
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
        let standing = self.standing(clock::uptime());
        (standing.lost, standing.silent).hash(&mut hasher);
        for number in [
            self.changes.get(),
            self.last_seen.load(Relaxed),
            self.rtt_micros.load(Relaxed),
            self.seq.get(),
            self.batches.get(),
            self.readings.get(),
            self.rejected.get(),
            self.dropped_records.get(),
        ] {
            number.hash(&mut hasher);
        }
        self.shared.refused.of(&self.id).hash(&mut hasher);
        hasher.finish()
    }

    /// What `/api/devices` says of it.
    #[must_use]
    pub fn report(&self) -> DeviceReport {
        let refused_topics = self.shared.refused.of(&self.id);
        let now = clock::uptime();
        let text = lock(&self.text);
        let rtt = self.rtt_micros.load(Relaxed);
        let word = if text.unseen {
            "unseen"
        } else {
            state(text.online, text.reason)
        };
        let expect = text.expected.as_ref().and_then(|expected| expected.every);
        // Before the report is put together, which looks into it again.
        let usual = lock(&self.rhythm).usual();
        DeviceReport {
            id: self.id.to_string(),
            state: word.to_owned(),
            since: clock::wall_at(text.since),
            reason: text.reason.to_owned(),
            last_seen: wall(&self.last_seen),
            last_reading: wall(&self.last_reading),
            usual,
            expect: expect.map(|every| every.as_secs_f64()),
            silent: self.is_silent(&text, now),
            lost: self.is_lost(&text, now),
            acknowledged: text.acknowledged,
            registered: text.expected.is_some(),
            refused: text.refused.as_ref().map(|refused| RefusedReport {
                time: clock::wall_at(refused.at),
                why: refused.why.to_owned(),
                remote: refused.remote.clone(),
            }),
            remote: text.remote.clone(),
            #[expect(clippy::cast_precision_loss, reason = "microseconds of a ping fit")]
            rtt_ms: (rtt > 0).then(|| rtt as f64 / 1000.0),
            stream: text.stream.as_ref().map(ToString::to_string),
            seq: self.seq.get(),
            batches: self.batches.get(),
            readings: self.readings.get(),
            rejected: self.rejected.get(),
            dropped_records: self.dropped_records.get(),
            model: text.model.clone(),
            firmware: text.firmware.clone(),
            refused_topics: refused_topics.into_iter().map(str::to_owned).collect(),
        }
    }
}
