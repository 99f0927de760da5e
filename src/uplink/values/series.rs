//! One name of one device: its newest value, and when that may be published.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::Known;
use super::shown::{Kind, Shown};

/// How far ahead of the hub's clock a time is believed for the order of values. A device whose clock
/// is an hour ahead and is put right must not be silent for an hour.
const AHEAD: f64 = 60.0;

/// A value goes out of date after so many usual intervals: a device may be late, and lose one.
const INTERVALS: u32 = 3;

/// No value goes out of date sooner: MQTT counts seconds, and links have their moments.
const SHORTEST: Duration = Duration::from_secs(60);

/// Nor later: what is told once a month is a matter for a database.
const LONGEST: Duration = Duration::from_secs(30 * 86_400);

/// The first value of a series, whose interval nobody knows yet. What comes once a day or more often
/// is never out of date by it.
const UNKNOWN: Duration = Duration::from_secs(7 * 86_400);

/// Pause after the broker refused a value; doubles with each further one. As for statuses: a rule of
/// the broker's is put right by a person, who will look whether it helped.
const PAUSES: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(3_600));

/// Hang-ups in a row with its value out after which a series pauses. The broker may have hung up on
/// anything else the first time.
const HANG_UPS: u32 = 2;

/// The next pause after the one before, and until when it lasts.
pub(in crate::uplink) fn longer(
    before: Option<(Instant, Duration)>,
    now: Instant,
) -> (Instant, Duration) {
    let (first, longest) = PAUSES;
    let pause = before.map_or(first, |(_, pause)| (pause * 2).min(longest));
    (now + pause, pause)
}

/// Where a series is on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// Nothing is to be told.
    Idle,
    /// Its value may go.
    Due,
    /// Its value may go then.
    Later(Instant),
    /// A value is out and not answered.
    Out,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Series {
    pub(super) device: Arc<str>,
    pub(super) name: Arc<str>,
    pub(super) place: Place,
    /// The newest value, if the broker has not been sent it.
    pub(super) pending: Option<Shown>,
    /// The value that is out.
    sent: Option<Shown>,
    /// Nothing older is shown: Unix seconds.
    floor: f64,
    /// When the last value came.
    pub(super) heard: Instant,
    /// When the last value was sent.
    told: Option<Instant>,
    /// The longest time between two values, of late.
    usual: Option<Duration>,
    /// The broker refuses its values: until when nothing is tried, and how long that is.
    refused: Option<(Instant, Duration)>,
    /// Hang-ups with its value out, since one was taken.
    hang_ups: u32,
    pub(super) unit: Option<Arc<str>>,
    kind: Kind,
    /// It may be silent so long and be well: unchanged values are left out (`[[reduce]]`).
    silence: Duration,
    /// [`Series::expiry`] as others are told, in steps, so that they are not told all the time.
    step: Option<u64>,
}

impl Series {
    pub(super) fn new(device: Arc<str>, name: Arc<str>, kind: Kind, now: Instant) -> Self {
        Self {
            device,
            name,
            place: Place::Idle,
            pending: None,
            sent: None,
            floor: f64::NEG_INFINITY,
            heard: now,
            told: None,
            usual: None,
            refused: None,
            hang_ups: 0,
            unit: None,
            kind,
            silence: Duration::ZERO,
            step: None,
        }
    }

    /// The same, of which unchanged values may be left out for so long.
    pub(super) fn with_silence(self, silence: Option<Duration>) -> Self {
        Self {
            silence: silence.unwrap_or_default(),
            ..self
        }
    }

    /// Whether a value of this time may be shown after those before it.
    pub(super) fn takes(&self, time: f64) -> bool {
        time >= self.floor
    }

    /// A newer value. `clock`: the hub's, if it is right. `true`: it is of another kind or unit than the
    /// one before, or the first.
    pub(super) fn put(&mut self, shown: Shown, clock: Option<f64>, now: Instant) -> bool {
        let time = shown.time.as_f64();
        self.floor = clock.map_or(time, |clock| time.min(clock + AHEAD));
        self.heard = now;
        // What is of several kinds is only a text for all who want to know.
        let kind = match shown.value.kind() {
            kind if kind == self.kind => kind,
            _ => Kind::Text,
        };
        let first = self.told.is_none() && self.pending.is_none();
        let news = first || kind != self.kind || shown.unit != self.unit;
        self.unit.clone_from(&shown.unit);
        self.kind = kind;
        self.pending = Some(shown);
        news
    }

    /// The hub's clock was set: times before and after cannot be compared.
    pub(super) fn clock_was_set(&mut self) {
        self.floor = f64::NEG_INFINITY;
    }

    /// When the next value may go.
    pub(super) fn ready(&self, interval: Duration) -> Option<Instant> {
        let paced = self.told.map(|told| told + interval);
        paced.max(self.refused.map(|(until, _)| until))
    }

    /// Until when it pauses because of a refusal.
    pub(super) fn pause(&self) -> Option<Instant> {
        self.refused.map(|(until, _)| until)
    }

    /// The value that goes now.
    pub(super) fn send(&mut self, now: Instant) -> Option<&Shown> {
        self.sent = self.pending.take();
        if self.sent.is_some() {
            self.place = Place::Out;
            if let Some(told) = self.told.replace(now) {
                let gap = now.saturating_duration_since(told);
                // A burst after an outage says little of what is usual.
                self.usual = Some(match self.usual {
                    Some(usual) if usual > gap => usual - (usual - gap) / 8,
                    _ => gap,
                });
            }
        }
        self.sent.as_ref()
    }

    /// What others are told of it.
    pub(super) fn known(&self) -> Known {
        Known {
            name: self.name.clone(),
            kind: self.kind,
            unit: self.unit.clone(),
            expiry: self.step,
        }
    }

    /// Takes the expiry that others are told along, if it is far from what they were told: the next
    /// power of two minutes, until values come less often, or four times as often. `true`: it is another.
    pub(super) fn steps(&mut self) -> bool {
        if self.usual.is_none() {
            return false;
        }
        let expiry = self.expiry().as_secs();
        if self
            .step
            .is_some_and(|step| expiry <= step && expiry >= step / 4)
        {
            return false;
        }
        let minutes = expiry.div_ceil(60).max(1).next_power_of_two();
        let step = Some(60 * minutes);
        std::mem::replace(&mut self.step, step) != step
    }

    /// How long a value is up to date.
    pub(super) fn expiry(&self) -> Duration {
        let usual = self.usual.map(|usual| usual.saturating_mul(INTERVALS));
        let expiry = usual.map_or(UNKNOWN, |time| time.clamp(SHORTEST, LONGEST));
        expiry.max(self.silence)
    }

    /// The broker has taken the value that was out.
    pub(super) fn taken(&mut self) {
        self.sent = None;
        (self.refused, self.hang_ups) = (None, 0);
        self.place = Place::Idle;
    }

    /// Nobody knows what became of the value that was out: it goes again, unless there is a newer one.
    /// `true`: not before a pause.
    pub(super) fn lost(&mut self, hung_up: bool, now: Instant) -> bool {
        self.give_back();
        if !hung_up {
            return false;
        }
        self.hang_ups = self.hang_ups.saturating_add(1);
        let pauses = self.hang_ups >= HANG_UPS;
        if pauses {
            self.refused = Some(longer(self.refused, now));
        }
        pauses
    }

    fn give_back(&mut self) {
        let sent = self.sent.take();
        self.pending = self.pending.take().or(sent);
        self.place = Place::Idle;
    }

    /// The broker does not take it.
    pub(super) fn refuse(&mut self, now: Instant) {
        self.give_back();
        self.refused = Some(longer(self.refused, now));
    }

    /// Whether the broker was sent a value.
    pub(super) fn was_told(&self) -> bool {
        self.told.is_some()
    }

    pub(super) fn weight(&self) -> usize {
        let of = |shown: &Option<Shown>| shown.as_ref().map_or(0, |shown| shown.value.weight());
        of(&self.pending) + of(&self.sent)
    }
}
