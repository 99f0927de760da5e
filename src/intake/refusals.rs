//! What the broker refuses: a circuit breaker for each kind of topic of each device.
//!
//! Pure. A refusal opens the breaker. While it is open nothing of its key is published but one
//! probe after a pause; the pause doubles with each probe that is refused. A probe that is taken
//! closes it. Nothing is remembered across runs: after a start everything is tried once.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::reading::{Moment, Topic};
use crate::uplink::{Cause, Refusal};

/// Breakers that are remembered. What is refused again after it was forgotten opens another one,
/// at the cost of one more publish; each takes some 400 bytes.
pub const KEYS: usize = 4_096;

/// The first pause: an operator who mends the broker's rules sees the effect at once.
const FIRST: Duration = Duration::from_secs(10);

/// The first pause when the broker hangs up instead of refusing.
const FIRST_HANG_UP: Duration = Duration::from_secs(60);

/// No pause is longer: what was put right shows within the hour.
const LONGEST: Duration = Duration::from_secs(3_600);

/// Each probe that ends in a hang-up costs everybody a connect, so all keys together get one in
/// this time.
const HANG_UP_SPACING: Duration = Duration::from_secs(60);

/// A probe without an answer for so long has got lost: what it was may have been dropped from a
/// full spool meanwhile.
const LOST: Duration = Duration::from_secs(120);

/// Whose topic.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// The device's id.
    pub device: Arc<str>,
    /// Which of its topics.
    pub topic: Topic,
}

impl Key {
    /// The key of this topic of this device.
    #[must_use]
    pub fn new(device: &Arc<str>, topic: Topic) -> Self {
        Self {
            device: device.clone(),
            topic,
        }
    }
}

/// An open breaker, as it is shown.
#[derive(Debug, Clone, PartialEq)]
pub struct Shown {
    /// What is refused.
    pub key: Key,
    /// One sentence for people.
    pub detail: Arc<str>,
    /// Since when.
    pub since: Moment,
    /// Batches that were refused or put aside.
    pub batches: u64,
    /// When it is tried again; `None`: it is being tried, or is as soon as there is something.
    pub next_try: Option<Instant>,
}

#[derive(Debug)]
struct Breaker {
    cause: Cause,
    /// A refusal costs the connection: the broker hangs up instead, or right after it, as
    /// mosquitto 2.0 does with MQTT 5.
    costly: bool,
    detail: Arc<str>,
    since: Moment,
    pause: Duration,
    /// The next probe is due, or the one that is out counts as lost.
    until: Instant,
    probing: bool,
    batches: u64,
    /// Its place in `by_use`.
    used: u64,
    /// Something of it is stored, so that it can be probed without an arrival.
    stored: bool,
}

/// What a refusal has changed.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Opened {
    /// It is the first of its key.
    pub new: bool,
    /// The one that was forgotten for it.
    pub forgotten: Option<Key>,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Refusals {
    breakers: HashMap<Key, Breaker>,
    /// Those with something stored, by the time of their next probe.
    due: BTreeSet<(Instant, Key)>,
    by_use: BTreeMap<u64, Key>,
    uses: u64,
    /// The last refusal with a reason, while the broker has taken nothing after it.
    last: Option<Key>,
    /// No probe before that may end in a hang-up.
    hang_ups_from: Option<Instant>,
    /// Something is to be shown anew.
    changed: bool,
}

impl Refusals {
    /// Whether this key is refused: nothing of it may be published but a probe.
    #[must_use]
    pub fn is_open(&self, device: &Arc<str>, topic: Topic) -> bool {
        !self.breakers.is_empty() && self.breakers.contains_key(&Key::new(device, topic))
    }

    /// Number of keys that are refused.
    #[must_use]
    pub fn len(&self) -> usize {
        self.breakers.len()
    }

    /// Whether nothing is refused.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.breakers.is_empty()
    }

    /// Whether something has changed since the last [`Refusals::take_changed`].
    #[must_use]
    pub fn has_changed(&self) -> bool {
        self.changed
    }

    /// Whether something has changed since the last call.
    pub fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// The broker has refused something of this key.
    pub fn refused(&mut self, now: Instant, at: Moment, key: &Key, refusal: &Refusal) -> Opened {
        self.changed = true;
        self.uses += 1;
        let used = self.uses;
        let hung_up = refusal.cause == Cause::HungUp;
        self.last = (!hung_up).then(|| key.clone());
        let known = self.breakers.get(key).is_some_and(|known| known.costly);
        let costly = hung_up || known;
        let first = if costly { FIRST_HANG_UP } else { FIRST };
        if let Some(breaker) = self.breakers.get_mut(key) {
            self.due.remove(&(breaker.until, key.clone()));
            self.by_use.remove(&breaker.used);
            // Others that were out when the first was refused say nothing new.
            if breaker.probing {
                breaker.pause = (breaker.pause * 2).clamp(first, LONGEST);
                breaker.until = now + breaker.pause;
                breaker.probing = false;
            } else if breaker.cause != refusal.cause && breaker.pause < first {
                breaker.pause = first;
                breaker.until = now + first;
            }
            (breaker.cause, breaker.costly) = (refusal.cause, costly);
            if *breaker.detail != *refusal.detail {
                breaker.detail = refusal.detail.as_str().into();
            }
            breaker.used = used;
            if breaker.stored {
                self.due.insert((breaker.until, key.clone()));
            }
            self.by_use.insert(used, key.clone());
            return Opened::default();
        }
        let forgotten = if self.breakers.len() >= KEYS {
            let oldest = self.by_use.pop_first().map(|(_, key)| key);
            oldest.inspect(|key| _ = self.remove(key))
        } else {
            None
        };
        self.by_use.insert(used, key.clone());
        let breaker = Breaker {
            cause: refusal.cause,
            costly,
            detail: refusal.detail.as_str().into(),
            since: at,
            pause: first,
            until: now + first,
            probing: false,
            batches: 0,
            used,
            stored: false,
        };
        self.breakers.insert(key.clone(), breaker);
        Opened {
            new: true,
            forgotten,
        }
    }

    fn remove(&mut self, key: &Key) -> Option<Breaker> {
        let breaker = self.breakers.remove(key)?;
        self.due.remove(&(breaker.until, key.clone()));
        self.by_use.remove(&breaker.used);
        self.changed = true;
        Some(breaker)
    }

    /// So many more batches are put aside for it.
    pub fn count(&mut self, key: &Key, batches: u64) {
        if let Some(breaker) = self.breakers.get_mut(key) {
            breaker.batches += batches;
            self.changed = true;
        }
    }

    /// Something of this key is stored: it can be probed when its time has come.
    pub fn is_stored(&mut self, key: &Key) {
        if let Some(breaker) = self.breakers.get_mut(key)
            && !std::mem::replace(&mut breaker.stored, true)
        {
            self.due.insert((breaker.until, key.clone()));
        }
    }

    /// Nothing of it is stored any more: its probe has to wait for something.
    pub fn nothing_stored(&mut self, key: &Key) {
        if let Some(breaker) = self.breakers.get_mut(key) {
            self.due.remove(&(breaker.until, key.clone()));
            (breaker.stored, breaker.probing) = (false, false);
            self.changed = true;
        }
    }

    fn spaced(&self, now: Instant, costly: bool) -> bool {
        !costly || self.hang_ups_from.is_none_or(|from| from <= now)
    }

    /// Whether this key may be probed now.
    #[must_use]
    pub fn may_probe(&self, now: Instant, key: &Key) -> bool {
        self.breakers
            .get(key)
            .is_some_and(|breaker| breaker.until <= now && self.spaced(now, breaker.costly))
    }

    /// A key with something stored that may be probed now, the one that has waited longest.
    #[must_use]
    pub fn due(&self, now: Instant) -> Option<Key> {
        let due = self.due.iter().take_while(|(until, _)| *until <= now);
        due.map(|(_, key)| key)
            .find(|key| self.may_probe(now, key))
            .cloned()
    }

    /// When [`Refusals::due`] will name one.
    #[must_use]
    pub fn next_due(&self) -> Option<Instant> {
        let costs = |key| self.breakers.get(key).is_some_and(|known| known.costly);
        let mut due = self.due.iter();
        let cheap = due.find(|(_, key)| !costs(key)).map(|(until, _)| *until);
        let costly = self.due.first().filter(|(_, key)| costs(key));
        let costly =
            costly.map(|(until, _)| self.hang_ups_from.map_or(*until, |at| at.max(*until)));
        [cheap, costly].into_iter().flatten().min()
    }

    /// A probe of this key goes out.
    pub fn probe(&mut self, now: Instant, key: &Key) {
        let Some(breaker) = self.breakers.get_mut(key) else {
            return;
        };
        self.due.remove(&(breaker.until, key.clone()));
        breaker.probing = true;
        breaker.until = now + LOST;
        if breaker.costly {
            self.hang_ups_from = Some(now + HANG_UP_SPACING);
        }
        if breaker.stored {
            self.due.insert((breaker.until, key.clone()));
        }
        self.changed = true;
    }

    /// The broker has taken something of this key. Returns whether that ends it.
    pub fn taken(&mut self, key: &Key) -> bool {
        self.last = None;
        let probing = self.breakers.get(key).is_some_and(|known| known.probing);
        probing && self.remove(key).is_some()
    }

    /// The connection ended, maybe before the answer to some probes.
    pub fn disconnected(&mut self, now: Instant) {
        if let Some(key) = self.last.take() {
            self.hung_up_after(now, &key);
        }
        for (key, breaker) in &mut self.breakers {
            if !std::mem::take(&mut breaker.probing) {
                continue;
            }
            self.changed = true;
            let before = breaker.until;
            // It says nothing about what was on its way, and may have been its doing.
            breaker.until = now + if breaker.costly { breaker.pause } else { FIRST };
            if self.due.remove(&(before, key.clone())) {
                self.due.insert((breaker.until, key.clone()));
            }
        }
    }

    /// The refusal of this key was the last that was heard of the broker: the next one will cost
    /// everybody a connect as well.
    fn hung_up_after(&mut self, now: Instant, key: &Key) {
        let Some(breaker) = self.breakers.get_mut(key) else {
            return;
        };
        self.due.remove(&(breaker.until, key.clone()));
        breaker.costly = true;
        breaker.pause = breaker.pause.max(FIRST_HANG_UP);
        breaker.until = now + breaker.pause;
        if breaker.stored {
            self.due.insert((breaker.until, key.clone()));
        }
        self.hang_ups_from = Some(now + HANG_UP_SPACING);
        self.changed = true;
    }

    /// The open breakers, those of the last refusals first.
    pub fn shown(&self) -> impl Iterator<Item = Shown> {
        self.by_use.values().rev().filter_map(|key| {
            let breaker = self.breakers.get(key)?;
            Some(Shown {
                key: key.clone(),
                detail: breaker.detail.clone(),
                since: breaker.since,
                batches: breaker.batches,
                next_try: (!breaker.probing).then_some(breaker.until),
            })
        })
    }

    /// Panics when one table does not say what another says.
    pub fn check(&self) {
        assert_eq!(self.by_use.len(), self.breakers.len(), "uses");
        assert!(self.breakers.len() <= KEYS, "more than are remembered");
        let stored = self.breakers.values().filter(|known| known.stored);
        assert_eq!(self.due.len(), stored.count(), "probes to come");
        for (until, key) in &self.due {
            let breaker = self.breakers.get(key);
            assert!(breaker.is_some_and(|known| known.until == *until && known.stored));
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn key(n: usize) -> Key {
        Key::new(&format!("d{n}").into(), Topic::History)
    }

    fn refusal(cause: Cause) -> Refusal {
        Refusal {
            cause,
            detail: "not authorized".into(),
        }
    }

    fn refuse(refusals: &mut Refusals, now: Instant, n: usize, cause: Cause) -> Opened {
        refusals.refused(now, Moment::at(1e9), &key(n), &refusal(cause))
    }

    #[test]
    fn pauses_double_up_to_an_hour_and_a_taken_probe_ends_them() {
        for (cause, expected) in [
            (
                Cause::Reason(0x87),
                [10, 20, 40, 80, 160, 320, 640, 1280, 2560, 3600, 3600],
            ),
            (
                Cause::HungUp,
                [60, 120, 240, 480, 960, 1920, 3600, 3600, 3600, 3600, 3600],
            ),
        ] {
            let mut now = Instant::now();
            let mut refusals = Refusals::default();
            assert!(refuse(&mut refusals, now, 0, cause).new);
            refusals.is_stored(&key(0));
            for pause in expected {
                // What was out beside it.
                assert!(!refuse(&mut refusals, now, 0, cause).new);
                assert_eq!(refusals.next_due(), Some(now + SECOND * pause));
                assert_eq!(
                    refusals.due(now + SECOND * pause - Duration::from_millis(1)),
                    None
                );
                now += SECOND * pause;
                assert_eq!(refusals.due(now), Some(key(0)));
                refusals.probe(now, &key(0));
                assert_eq!(refusals.due(now), None);
                now += SECOND;
                refuse(&mut refusals, now, 0, cause);
            }
            refusals.probe(now + LONGEST, &key(0));
            assert!(refusals.taken(&key(0)));
            assert!(refusals.is_empty() && refusals.next_due().is_none());
        }
    }

    #[test]
    fn a_refusal_that_is_followed_by_a_hang_up_is_tried_again_as_seldom_as_a_hang_up() {
        let mut now = Instant::now();
        let mut refusals = Refusals::default();
        refuse(&mut refusals, now, 0, Cause::Reason(0x87));
        refusals.is_stored(&key(0));
        refusals.disconnected(now);
        for pause in [60, 120, 240] {
            refusals.check();
            assert_eq!(refusals.next_due(), Some(now + SECOND * pause));
            now += SECOND * pause;
            refusals.probe(now, &key(0));
            refuse(&mut refusals, now, 0, Cause::Reason(0x87));
            refusals.disconnected(now);
        }
        // Something else was taken in between: the connection ended for another reason.
        refuse(&mut refusals, now, 1, Cause::Reason(0x87));
        refusals.is_stored(&key(1));
        refusals.taken(&key(7));
        refusals.disconnected(now);
        assert_eq!(refusals.next_due(), Some(now + FIRST));
    }

    #[test]
    fn what_was_out_before_the_refusal_and_is_taken_after_it_ends_nothing() {
        let now = Instant::now();
        let mut refusals = Refusals::default();
        refuse(&mut refusals, now, 0, Cause::Reason(0x97));
        assert!(!refusals.taken(&key(0)));
        assert!(refusals.is_open(&key(0).device, Topic::History));
        assert!(!refusals.is_open(&key(0).device, Topic::Data));
    }

    #[test]
    fn hang_ups_of_many_keys_are_a_minute_apart() {
        let begin = Instant::now();
        let mut refusals = Refusals::default();
        for n in 0..50 {
            refuse(&mut refusals, begin, n, Cause::HungUp);
            refusals.is_stored(&key(n));
        }
        let mut probes: Vec<Instant> = Vec::new();
        let mut now = begin;
        while now < begin + SECOND * 7_200 {
            now = refusals.next_due().unwrap().max(now);
            let due = refusals.due(now).expect("at its time");
            refusals.probe(now, &due);
            refusals.disconnected(now + SECOND);
            probes.push(now);
            refusals.check();
        }
        assert!(probes.len() > 100, "{}", probes.len());
        assert!(
            probes
                .windows(2)
                .all(|two| two[1] - two[0] >= HANG_UP_SPACING)
        );
    }

    #[test]
    fn more_keys_than_are_remembered_push_out_the_one_refused_longest_ago() {
        let now = Instant::now();
        let mut refusals = Refusals::default();
        for n in 0..KEYS {
            assert_eq!(
                refuse(&mut refusals, now, n, Cause::Reason(0x87)).forgotten,
                None
            );
        }
        refuse(&mut refusals, now, 0, Cause::Reason(0x87));
        let opened = refuse(&mut refusals, now, KEYS, Cause::Reason(0x87));
        assert_eq!(opened.forgotten, Some(key(1)));
        assert_eq!(refusals.len(), KEYS);
        refusals.check();
    }

    proptest! {
        #[test]
        fn a_key_is_probed_only_after_a_pause_and_is_never_forgotten_while_it_is_refused(
            ops in prop::collection::vec((0..4usize, 0..8u8, 1..200u64), 1..300),
        ) {
            let mut now = Instant::now();
            let mut refusals = Refusals::default();
            let mut last: HashMap<usize, Instant> = HashMap::new();
            for (n, op, seconds) in ops {
                let cause = if n == 0 { Cause::HungUp } else { Cause::Reason(0x80) };
                match op {
                    0 | 1 => {
                        let probing = refusals.breakers.get(&key(n)).is_none_or(|b| b.probing);
                        refuse(&mut refusals, now, n, cause);
                        if probing {
                            last.insert(n, now);
                        }
                    }
                    2 => refusals.is_stored(&key(n)),
                    3 => refusals.nothing_stored(&key(n)),
                    4 => {
                        if refusals.taken(&key(n)) {
                            last.remove(&n);
                        }
                    }
                    5 => {
                        refusals.disconnected(now);
                    }
                    6 => {
                        if let Some(due) = refusals.due(now) {
                            refusals.probe(now, &due);
                            prop_assert!(refusals.due(now).as_ref() != Some(&due));
                            let n = due.device[1..].parse::<usize>().unwrap();
                            prop_assert!(last[&n] + FIRST <= now, "without a pause");
                        }
                    }
                    _ => now += SECOND * u32::try_from(seconds).unwrap(),
                }
                refusals.check();
                prop_assert_eq!(refusals.len(), last.len());
                if let Some(at) = refusals.next_due() {
                    prop_assert!(refusals.due(at.max(now)).is_some(), "due and nothing to do");
                }
            }
        }
    }
}
