//! The newest value of each name of each device, on its way to `…/{device}/value/{name}`. Pure: no
//! IO, no clock.
//!
//! Values are an extra: they are made of batches that the broker has taken on the live lane already,
//! they are not kept on disk, and one that the broker refuses costs nobody anything. Of one name one
//! value is out at a time, at most `values.max_rate` a second; what comes meanwhile replaces what
//! waits, so the last one always comes out.
//!
//! Memory is bounded by the number of names, of a device and in all, and by the bytes of texts. A
//! device with too many names loses the one that has rested longest, and what the broker retains of
//! that is taken back.

mod series;
mod shown;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

pub(super) use self::series::longer;
use self::series::{Place, Series};
pub(super) use self::shown::Kind;
use self::shown::{Shown, Value};
use crate::config;
use crate::lru::Lru;
use crate::protocol::number::Number;
use crate::protocol::pack::resolved::Resolved;
use crate::protocol::visit::visit;
use crate::reading::Batch;
use crate::reduce::{Rules, silence};

/// Names of one device. Who wants more on a dashboard wants a database.
const DEVICE_NAMES: usize = 256;

/// Names in all: 64 devices with all of theirs, or 1,000 with 16. About 400 bytes each, 6 MiB.
const NAMES: usize = 16_384;

/// Bytes of texts that wait or are out.
const TEXTS: usize = 4 << 20;

/// Retained values that are to be taken back. More than that stay until they expire.
const CLEARS: usize = 1_024;

/// Hang-ups in a row with a value out, and none taken between, after which no values are tried for a
/// while. They are an extra: that they could be the cause is enough.
const HANG_UPS: u32 = 3;

/// What is known of the values of a name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Known {
    pub(super) name: Arc<str>,
    pub(super) kind: Kind,
    pub(super) unit: Option<Arc<str>>,
    /// Seconds after which a value is out of date, in coarse steps.
    pub(super) expiry: Option<u64>,
}

/// What became of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    /// The broker has taken it.
    Taken,
    /// It does not take it.
    Refused,
    /// It cannot be published at all.
    Impossible,
}

/// A value that goes out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sending {
    pub(super) device: Arc<str>,
    pub(super) name: Arc<str>,
    /// Empty: what is retained is taken back.
    pub(super) payload: Vec<u8>,
    pub(super) expiry: Duration,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Values {
    plain: bool,
    retain: bool,
    interval: Duration,
    rules: Rules,
    devices: HashMap<Arc<str>, HashMap<Arc<str>, u64>>,
    series: HashMap<u64, Series>,
    /// Series by their last value.
    uses: Lru<u64>,
    due: Lru<u64>,
    later: BTreeSet<(Instant, u64)>,
    clears: VecDeque<(Arc<str>, Arc<str>)>,
    /// Devices of which there is news, if anybody wants it.
    news: Option<BTreeSet<Arc<str>>>,
    serial: u64,
    texts: usize,
    /// Values that nobody was shown, for lack of room.
    dropped: u64,
    /// Hang-ups with a value out since one was taken.
    hang_ups: u32,
    /// Until when no values are tried at all, and how long that is.
    paused: Option<(Instant, Duration)>,
    /// The log has been told of a refusal, by this broker.
    refusal_told: bool,
    /// The hub stops: nothing is held back.
    hurried: bool,
}

impl Values {
    /// `None`: they are off. `news`: somebody wants to know what there is.
    pub(super) fn new(settings: &config::Values, news: bool, rules: &Rules) -> Option<Self> {
        (settings.enabled || news).then(|| Self {
            news: news.then(BTreeSet::new),
            plain: settings.plain,
            retain: settings.retain,
            interval: Duration::from_secs(1) / settings.max_rate.max(1),
            rules: rules.clone(),
            devices: HashMap::new(),
            series: HashMap::new(),
            uses: Lru::default(),
            due: Lru::default(),
            later: BTreeSet::new(),
            clears: VecDeque::new(),
            serial: 0,
            texts: 0,
            dropped: 0,
            hang_ups: 0,
            paused: None,
            refusal_told: false,
            hurried: false,
        })
    }

    /// Whether they are retained.
    pub(super) fn are_retained(&self) -> bool {
        self.retain
    }

    /// Takes the readings of a batch that the broker has taken. Its moment is the corrected one.
    pub(super) fn learn(&mut self, batch: &Batch, now: Instant) {
        let clock = batch.received.synced.then_some(batch.received.wall);
        let mut name = String::new();
        let (encoding, received) = (batch.encoding, batch.received.wall);
        visit(encoding, &batch.frame, received, |record| {
            name.clear();
            name.push_str(record.base_name);
            name.push_str(record.name);
            self.record(batch, &name, record, clock, now);
        });
        // It counts everything: with thousands of names that is for the tests to ask for.
        #[cfg(debug_assertions)]
        if self.series.len() <= DEVICE_NAMES {
            self.check();
        }
    }

    fn record(
        &mut self,
        batch: &Batch,
        name: &str,
        record: &Resolved<'_>,
        clock: Option<f64>,
        now: Instant,
    ) {
        let known = self
            .devices
            .get(&batch.device)
            .and_then(|names| names.get(name).copied());
        let old = known.and_then(|id| self.series.get(&id));
        if old.is_some_and(|series| !series.takes(record.time.as_f64())) {
            return;
        }
        let Some(value) = Value::of(record) else {
            // A sum alone is no value. Anything else is too long.
            self.dropped += u64::from(record.value.is_some());
            return;
        };
        if self.texts + value.weight() > TEXTS {
            self.dropped += 1;
            return;
        }
        let same = old.and_then(|series| series.unit.clone());
        let shown = Shown {
            unit: record.unit.map(|unit| {
                let same = same.filter(|same| **same == *unit);
                same.unwrap_or_else(|| unit.into())
            }),
            time: record.time,
            seq: batch.seq,
            value,
        };
        let id = match known {
            Some(id) => id,
            None => self.enter(&batch.device, name, shown.value.kind(), now),
        };
        self.uses.touch(&id, 0);
        self.put(id, shown, clock, now);
    }

    fn put(&mut self, id: u64, shown: Shown, clock: Option<f64>, now: Instant) {
        if let Some(series) = self.series.get_mut(&id) {
            self.texts -= series.weight();
            let news = series.put(shown, clock, now);
            self.texts += series.weight();
            if news && let Some(devices) = &mut self.news {
                devices.insert(series.device.clone());
            }
        }
        self.schedule(id, now);
    }

    /// A value of the hub's own.
    pub(super) fn tell(
        &mut self,
        device: &Arc<str>,
        name: &str,
        number: Number,
        unit: Option<&str>,
        time: Number,
        now: Instant,
    ) {
        let known = self.devices.get(device);
        let id = match known.and_then(|names| names.get(name)) {
            Some(id) => *id,
            None => self.enter(device, name, Kind::Number, now),
        };
        self.uses.touch(&id, 0);
        let shown = Shown {
            value: Value::Number(number),
            unit: unit.map(Into::into),
            time,
            seq: None,
        };
        self.put(id, shown, None, now);
    }

    /// Devices of which something has been learned since this was asked last.
    pub(super) fn take_news(&mut self) -> BTreeSet<Arc<str>> {
        self.news.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// The names of a device.
    pub(super) fn names(&self, device: &str) -> Vec<Known> {
        let ids = self
            .devices
            .get(device)
            .into_iter()
            .flat_map(HashMap::values);
        let mut names: Vec<_> = ids
            .filter_map(|id| self.series.get(id).map(Series::known))
            .collect();
        names.sort();
        names
    }

    /// Forgets a device, and has the broker forget its values.
    pub(super) fn forget(&mut self, device: &str) {
        let ids = self
            .devices
            .get(device)
            .into_iter()
            .flat_map(HashMap::values);
        let mut ids: Vec<u64> = ids.copied().collect();
        ids.sort_unstable();
        for id in ids {
            self.evict(id);
        }
        if let Some(news) = &mut self.news {
            news.remove(device);
        }
    }

    fn enter(&mut self, device: &Arc<str>, name: &str, kind: Kind, now: Instant) -> u64 {
        if let Some(names) = self
            .devices
            .get(device)
            .filter(|names| names.len() >= DEVICE_NAMES)
        {
            let heard = |id: &u64| self.series.get(id).map(|series| (series.heard, *id));
            let oldest = names.values().filter_map(heard).min();
            if let Some((_, id)) = oldest {
                self.evict(id);
            }
        }
        if self.series.len() >= NAMES
            && let Some(id) = self.uses.first().copied()
        {
            self.evict(id);
        }
        self.serial += 1;
        let (id, name) = (self.serial, Arc::<str>::from(name));
        let names = self.devices.entry(device.clone()).or_default();
        names.insert(name.clone(), id);
        let silence = self.rules.of(device, &name).map(silence);
        let series = Series::new(device.clone(), name, kind, now).with_silence(silence);
        self.series.insert(id, series);
        id
    }

    /// Forgets a name, and has the broker forget it as well.
    fn evict(&mut self, id: u64) {
        let Some(series) = self.series.remove(&id) else {
            return;
        };
        self.texts -= series.weight();
        self.uses.remove(&id);
        self.due.remove(&id);
        if let Place::Later(at) = series.place {
            self.later.remove(&(at, id));
        }
        self.dropped += u64::from(series.pending.is_some());
        if let Some(news) = &mut self.news {
            news.insert(series.device.clone());
        }
        if let Some(names) = self.devices.get_mut(&series.device) {
            names.remove(&series.name);
            if names.is_empty() {
                self.devices.remove(&series.device);
            }
        }
        if self.retain && series.was_told() && self.clears.len() < CLEARS {
            self.clears.push_back((series.device, series.name));
        }
    }

    /// Puts a series with a value in its place, unless it has one.
    fn schedule(&mut self, id: u64, now: Instant) {
        let Some(series) = self.series.get_mut(&id) else {
            return;
        };
        if series.pending.is_none() || series.place != Place::Idle {
            return;
        }
        let ready = match self.hurried {
            true => series.pause(),
            false => series.ready(self.interval),
        };
        match ready {
            Some(at) if at > now => {
                series.place = Place::Later(at);
                self.later.insert((at, id));
            }
            _ => {
                series.place = Place::Due;
                self.due.touch(&id, 0);
            }
        }
    }

    fn ripen(&mut self, now: Instant) {
        while self.later.first().is_some_and(|(at, _)| *at <= now)
            && let Some((_, id)) = self.later.pop_first()
        {
            if let Some(series) = self.series.get_mut(&id) {
                series.place = Place::Idle;
            }
            self.schedule(id, now);
        }
    }

    /// Takes the value whose turn it is, and the number of its series.
    pub(super) fn next(&mut self, now: Instant) -> Option<(u64, Sending)> {
        if self.paused.is_some_and(|(until, _)| until > now) {
            return None;
        }
        self.ripen(now);
        let id = self.due.pop()?;
        let series = self.series.get_mut(&id)?;
        let payload = series.send(now)?.payload(self.plain);
        let sending = Sending {
            device: series.device.clone(),
            name: series.name.clone(),
            payload,
            expiry: series.expiry(),
        };
        if series.steps()
            && let Some(news) = &mut self.news
        {
            news.insert(series.device.clone());
        }
        Some((id, sending))
    }

    /// A retained value that is to be taken back.
    pub(super) fn clear(&mut self) -> Option<Sending> {
        let (device, name) = self.clears.pop_front()?;
        Some(Sending {
            device,
            name,
            payload: Vec::new(),
            expiry: Duration::ZERO,
        })
    }

    /// When there will be something to send; `None`: nothing is waited for but room.
    pub(super) fn wakes(&self, now: Instant) -> Option<Instant> {
        if let Some((until, _)) = self.paused.filter(|(until, _)| *until > now) {
            return Some(until);
        }
        let next = self.later.first().map(|(at, _)| *at);
        next.filter(|at| *at > now)
    }

    /// Nothing is to be sent.
    pub(super) fn is_idle(&self) -> bool {
        self.due.is_empty() && self.clears.is_empty()
    }

    /// What became of a value that was out.
    pub(super) fn answered(&mut self, id: u64, answer: Answer, now: Instant) {
        if answer == Answer::Taken {
            (self.hang_ups, self.paused) = (0, None);
        }
        let Some(series) = self.series.get_mut(&id) else {
            return;
        };
        self.texts -= series.weight();
        match answer {
            Answer::Taken | Answer::Impossible => series.taken(),
            Answer::Refused => series.refuse(now),
        }
        self.texts += series.weight();
        self.schedule(id, now);
    }

    /// Another broker: what the one before did not take says nothing of this one.
    pub(super) fn forgive(&mut self) {
        self.refusal_told = false;
        (self.hang_ups, self.paused) = (0, None);
    }

    /// The connection is lost: what was out goes again on the next one, if nothing newer has come.
    /// After the broker has hung up on the same one twice, not before a pause. Tells how many
    /// names pause from now on.
    pub(super) fn lost(&mut self, hung_up: bool, now: Instant) -> usize {
        let out = self.series.iter();
        let out = out.filter(|(_, series)| series.place == Place::Out);
        let mut out: Vec<u64> = out.map(|(id, _)| *id).collect();
        out.sort_unstable();
        let (any, mut paused) = (!out.is_empty(), 0);
        for id in out {
            if let Some(series) = self.series.get_mut(&id) {
                self.texts -= series.weight();
                paused += usize::from(series.lost(hung_up, now));
                self.texts += series.weight();
            }
            self.schedule(id, now);
        }
        if !hung_up || !any {
            return paused;
        }
        self.hang_ups = self.hang_ups.saturating_add(1);
        if self.hang_ups < HANG_UPS {
            return paused;
        }
        self.paused = Some(longer(self.paused, now));
        self.series.len()
    }

    /// The hub's clock was set.
    pub(super) fn clock_was_set(&mut self) {
        self.series.values_mut().for_each(Series::clock_was_set);
    }

    /// The hub stops: what is held back for its rate goes now.
    pub(super) fn hurry(&mut self, now: Instant) {
        self.hurried = true;
        for (_, id) in std::mem::take(&mut self.later) {
            if let Some(series) = self.series.get_mut(&id) {
                series.place = Place::Idle;
            }
            self.schedule(id, now);
        }
    }

    /// Whether nobody has been told yet that this broker refuses values.
    pub(super) fn is_first_refusal(&mut self) -> bool {
        !std::mem::replace(&mut self.refusal_told, true)
    }

    /// How many values nobody was shown for lack of room, since this was asked last.
    pub(super) fn take_dropped(&mut self) -> u64 {
        std::mem::take(&mut self.dropped)
    }

    /// Everything that is counted is counted again.
    #[cfg(debug_assertions)]
    fn check(&self) {
        let names: usize = self.devices.values().map(HashMap::len).sum();
        debug_assert_eq!(names, self.series.len());
        debug_assert_eq!(self.uses.len(), self.series.len());
        debug_assert!(self.series.len() <= NAMES && self.clears.len() <= CLEARS);
        let texts: usize = self.series.values().map(Series::weight).sum();
        debug_assert_eq!(texts, self.texts);
        let due = self.series.values().filter(|one| one.place == Place::Due);
        debug_assert_eq!(due.count(), self.due.len());
    }
}

#[cfg(test)]
mod tests;
