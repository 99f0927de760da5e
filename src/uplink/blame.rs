//! What makes the broker hang up? Pure: no IO, no clock.
//!
//! MQTT 3.1.1 has no other way to refuse than to close the connection, and then everything that
//! was out looks guilty. Some go on answering pings and acknowledge nothing any more, which counts
//! as the same. So nothing is blamed for having been there. After two hang-ups in a row
//! with something out, one thing is on the wire at a time. What is hung up on while it is alone
//! becomes a suspect, and the oldest suspect stands trial. It is convicted only when
//!
//! - it was hung up on alone at least four times,
//! - once as the first publish of a connection, or after clearly more publishes than another time,
//!   which rules out brokers that hang up after so many publishes or bytes, and
//! - once right after another publish had been taken on the same connection, which rules out
//!   brokers that hang up on everything, crash in a loop, or are behind a link that breaks;
//! - and nothing else that had been taken before was hung up on alone meanwhile, which rules out
//!   quotas and rates. Each time that this happens a proof needs one hang-up more.
//!
//! Where nothing has ever been taken on its topic, another content is tried there before the verdict:
//! if that is taken, it is the content, and else the topic.
//!
//! A suspect that is taken is innocent, at whatever point. A convict is remembered: when it is
//! tried again it goes alone, and one more hang-up refuses it at once.

use std::cell::Cell;
use std::collections::{HashSet, VecDeque};
use std::fmt;
use std::sync::Arc;

/// Where something is published, or what is subscribed to: what a broker's rules are about.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Thing {
    /// The hub's own status.
    Hub,
    /// A device's status.
    Status(Arc<str>),
    /// A device's fresh batches.
    Data(Arc<str>),
    /// Its stored ones.
    History(Arc<str>),
    /// Its gap records.
    Gap(Arc<str>),
    /// The newest values of a device.
    Value(Arc<str>),
    /// Answers to commands for a device.
    Result(Arc<str>),
    /// What a device reports of its state.
    Reported(Arc<str>),
    /// The empty batch whose echo is waited for.
    Probe,
    /// A subscription, by its filter.
    Subscription(Arc<str>),
}

impl fmt::Display for Thing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hub => f.write_str("the hub's status"),
            Self::Status(device) => write!(f, "the status of {device}"),
            Self::Data(device) => write!(f, "data of {device}"),
            Self::History(device) => write!(f, "stored data of {device}"),
            Self::Gap(device) => write!(f, "a gap record of {device}"),
            Self::Value(device) => write!(f, "the values of {device}"),
            Self::Result(device) => write!(f, "the result of a command of {device}"),
            Self::Reported(device) => write!(f, "the reported state of {device}"),
            Self::Probe => f.write_str("the probe"),
            Self::Subscription(filter) => write!(f, "the subscription to {filter}"),
        }
    }
}

/// Hang-ups in a row, with something out, after which one thing goes at a time. One is what every
/// restart of a broker looks like.
const QUICK: u32 = 2;

/// Excuses in a row that are believed: a broker that restarts, or is over its quota for a while, has
/// fewer of them before it takes something again.
const EXCUSES: u32 = 3;

/// Times that a convict was hung up on alone.
const PROOF: u8 = 4;

/// A broker that hangs up on half of all publishes, whatever they are, does so this often in a row
/// once in 65,536 times.
const NOISE: u8 = 12;

/// Publishes that pass one at a time, with no suspect left, before the whole window is used again.
const CALM: u32 = 16;

/// Publishes that pass while a suspect is not offered again before it is let go: it may have
/// expired, or gone to the broker by another topic.
const ABSENT: u32 = 64;

/// Connections that wait for a suspect to come first. One that does not come may be gone, and the
/// others must not wait for it where connections are short.
const WAITS: u8 = 2;

/// Suspects at a time. More are found when these are dealt with.
const SUSPECTS: usize = 64;

/// Convicts that are remembered; the oldest is forgotten, and proven anew if it still matters.
const CONVICTS: usize = 1_024;

/// Bytes that no broker refuses for being many.
const SMALL: usize = 4 << 10;

/// Refusals for size that are remembered.
const LARGE: usize = 64;

/// Things that have been taken that are remembered.
const TAKEN: usize = 16_384;

#[derive(Debug)]
struct Suspect {
    thing: Thing,
    /// Hang-ups while it was alone.
    alone: u8,
    /// One of them as the first publish of its connection.
    first: bool,
    /// Publishes that had been taken on its connection: the fewest and the most.
    before: (u32, u32),
    /// One of them right after something else had been taken there.
    after: bool,
    /// Publishes that passed since it was offered last.
    absent: u32,
    /// What it was, if it was the same each time.
    content: Option<u64>,
    /// It is proven, and another content has to show whether it is the topic.
    rival: bool,
    /// Connections that have waited for it to come first, since it was offered last.
    waited: u8,
    /// It was there in this round and wanted to go: whoever asks whether it may is noted here, so that
    /// no list has to name every kind of thing that can be held back.
    there: Cell<bool>,
}

impl Suspect {
    fn is_proven(&self, noise: u8) -> bool {
        let (fewest, most) = self.before;
        let varied = self.first || most >= 2 * (fewest + 1);
        self.alone >= PROOF.saturating_add(noise) && varied && self.after
    }
}

/// Whether something may go on the wire now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Go {
    /// Yes.
    Now,
    /// Once nothing else is out, and then alone.
    Alone,
    /// Not before something else has.
    Later,
}

/// What was out alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Alone {
    /// Tells one content from another.
    pub(super) content: u64,
    /// Of its packet.
    pub(super) bytes: usize,
}

/// What is proven.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The broker hangs up on whatever is published there.
    Topic(Thing),
    /// It hangs up on this one, each time that it is tried, and has taken others there.
    Item {
        thing: Thing,
        /// And none that was so large.
        for_size: bool,
    },
}

impl Verdict {
    pub(super) fn thing(&self) -> &Thing {
        match self {
            Self::Topic(thing) | Self::Item { thing, .. } => thing,
        }
    }
}

/// How a connection ended.
#[derive(Debug)]
pub(super) enum Ending {
    /// The broker hung up, or fell silent.
    HungUp,
    /// It said why, and that has nothing to do with what was out: it stops, another client has
    /// the same id.
    Explained,
    /// It said why, with words that have nothing to do with what was out and that some say about that all the
    /// same: it is busy, a quota is used up.
    Excused,
    /// Anything else: the network, the hub itself.
    Other,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Blame {
    /// Hang-ups with something out, since a window of publishes has passed.
    quick: u32,
    careful: bool,
    /// Publishes that passed one at a time since the last hang-up.
    calm: u32,
    /// The first stands trial.
    suspects: VecDeque<Suspect>,
    convicts: VecDeque<Thing>,
    /// What the broker has taken, of what could be suspected.
    taken: HashSet<Thing>,
    /// Publishes taken on this connection.
    here: u32,
    /// How often something that had been taken before was hung up on alone: so many more hang-ups
    /// a proof needs.
    noise: u8,
    /// Bytes of the largest packet that was taken.
    largest: usize,
    /// Contents that are proven guilty. They are given up whenever they are offered.
    condemned: VecDeque<(Thing, u64)>,
    /// Things that were refused for their size, and how large they were.
    large: Vec<(Thing, usize)>,
    /// Excuses in a row, on connections on which next to nothing was taken.
    excuses: u32,
    /// What was not acknowledged while later publishes were, and has not been taken since.
    overtaken: VecDeque<Thing>,
}

impl Blame {
    /// One thing on the wire at a time.
    pub(super) fn is_careful(&self) -> bool {
        self.careful
    }

    /// Nothing has to be asked before something goes out.
    pub(super) fn is_idle(&self) -> bool {
        !self.careful && self.convicts.is_empty() && self.condemned.is_empty()
    }

    /// A connection begins.
    pub(super) fn begin(&mut self) {
        self.here = 0;
        if let Some(suspect) = self.suspects.front_mut() {
            suspect.waited = suspect.waited.saturating_add(1);
            // One that does not come must not keep the other suspects from their trials.
            if suspect.waited > 2 * WAITS
                && let Some(mut absent) = self.suspects.pop_front()
            {
                absent.waited = 0;
                self.suspects.push_back(absent);
            }
        }
    }

    /// Whether this may go out. In careful mode the caller keeps one thing on the wire; `Later`
    /// means that another one should be offered, and `Now` beside a suspect that is waiting never
    /// keeps that one from its turn for long: see [`Self::wanted`]. Ask only for what is there to go.
    pub(super) fn may_go(&self, thing: &Thing) -> Go {
        if self.convicts.contains(thing) {
            return Go::Alone;
        }
        if !self.careful {
            return Go::Now;
        }
        let mut suspects = self.suspects.iter().enumerate();
        let Some((place, suspect)) = suspects.find(|(_, suspect)| suspect.thing == *thing) else {
            return Go::Now;
        };
        suspect.there.set(true);
        if place == 0 && self.is_its_turn() {
            Go::Now
        } else {
            Go::Later
        }
    }

    /// What is there is looked for anew.
    pub(super) fn begin_round(&self) {
        for suspect in &self.suspects {
            suspect.there.set(false);
        }
    }

    /// The suspect on trial goes first on a connection until it has done so, and then after
    /// something else has passed.
    fn is_its_turn(&self) -> bool {
        self.suspects
            .front()
            .is_some_and(|suspect| match (suspect.first, self.here) {
                (false, 0) => true,
                (_, passed) => passed > 0,
            })
    }

    /// What should go out next if it can be had.
    pub(super) fn wanted(&self) -> Option<&Thing> {
        let suspect = self
            .suspects
            .front()
            .filter(|_| self.careful && self.is_its_turn())?;
        Some(&suspect.thing)
    }

    /// The content that should not go when its topic is wanted, if there is another.
    pub(super) fn unwanted(&self) -> Option<u64> {
        let suspect = self.suspects.front().filter(|suspect| suspect.rival)?;
        suspect.content
    }

    /// Whether this content is proven guilty. It stays so: the intake may offer it again on a later
    /// connection, when the news of it was lost with the one on which it was proven.
    pub(super) fn is_condemned(&self, thing: &Thing, content: impl Fn() -> u64) -> bool {
        let mut of_thing = self.condemned.iter().filter(|one| one.0 == *thing);
        of_thing.any(|one| one.1 == content())
    }

    fn condemn(&mut self, thing: &Thing, content: u64) {
        if self.condemned.len() >= LARGE {
            self.condemned.pop_front();
        }
        self.condemned.push_back((thing.clone(), content));
    }

    /// The suspect on trial should be the first on this connection, and may still come.
    pub(super) fn awaits_first(&self) -> bool {
        let may_come = |one: &Suspect| !one.first && one.waited <= WAITS;
        self.careful && self.here == 0 && self.suspects.front().is_some_and(may_come)
    }

    /// A witness is needed, something that the broker is known to take, before the suspect goes, and the
    /// hub's own status can be it.
    pub(super) fn needs_hub_as_witness(&self) -> bool {
        let needed = self.careful && !self.suspects.is_empty() && !self.is_its_turn();
        let is_hub = |suspect: &Suspect| suspect.thing == Thing::Hub;
        needed && !self.convicts.contains(&Thing::Hub) && !self.suspects.iter().any(is_hub)
    }

    /// The suspect on trial waits for a witness or is not there, and everybody who has asked in this
    /// round is a suspect too, as after a broker that hung up on whatever came first: one of them has
    /// to be believed, or nothing would ever go again.
    pub(super) fn believe(&mut self) -> Option<Thing> {
        let trial = self.suspects.front().filter(|_| self.careful)?;
        let waits = trial.there.get();
        if waits && self.is_its_turn() {
            return None;
        }
        let mut others = self.suspects.iter().skip(1);
        // Of the hub's own status there is nobody else to bear witness, if nothing else is there.
        let own = Some(trial).filter(|trial| waits && trial.thing == Thing::Hub);
        let believed = others.find(|one| one.there.get()).or(own)?.thing.clone();
        self.suspects.retain(|suspect| suspect.thing != believed);
        Some(believed)
    }

    /// The broker has taken this.
    pub(super) fn passed(&mut self, thing: &Thing, alone: Alone) {
        let bytes = alone.bytes;
        // That a subscription is taken says nothing of publishes.
        if !matches!(thing, Thing::Subscription(_)) {
            self.here = self.here.saturating_add(1);
        }
        self.largest = self.largest.max(bytes);
        self.takes(thing);
        if !self.careful {
            if self.here >= CALM {
                self.quick = 0;
            }
            return;
        }
        if let Some(suspect) = self.suspects.iter().find(|suspect| suspect.thing == *thing)
            && suspect.rival
            && let Some(guilty) = suspect.content.filter(|content| *content != alone.content)
        {
            self.condemn(thing, guilty);
        }
        self.suspects.retain(|suspect| suspect.thing != *thing);
        for suspect in &mut self.suspects {
            suspect.absent += 1;
        }
        self.suspects.retain(|suspect| suspect.absent < ABSENT);
        self.calm += 1;
        if self.suspects.is_empty() && self.calm >= CALM {
            self.careful = false;
            self.quick = 0;
            self.noise /= 2;
        }
    }

    /// What was held against it does not count any more.
    fn takes(&mut self, thing: &Thing) {
        if !self.taken.contains(thing) && self.taken.len() < TAKEN {
            self.taken.insert(thing.clone());
        }
        if !self.convicts.is_empty() {
            self.convicts.retain(|convict| convict != thing);
        }
        if !self.overtaken.is_empty() {
            self.overtaken.retain(|overtaken| overtaken != thing);
        }
    }

    /// The broker has taken these, in one publish of so many bytes, while nothing was suspected.
    pub(super) fn passed_together(&mut self, things: &[Thing], bytes: usize) {
        self.here = self.here.saturating_add(1);
        self.largest = self.largest.max(bytes);
        things.iter().for_each(|thing| self.takes(thing));
        if !self.careful && self.here >= CALM {
            self.quick = 0;
        }
    }

    /// A connection has ended while this was out. Tells what is guilty, which was alone then.
    pub(super) fn ended(
        &mut self,
        ending: &Ending,
        out: &[Thing],
        alone: Alone,
    ) -> Option<Verdict> {
        let here = std::mem::take(&mut self.here);
        if out.is_empty() || !self.counts(ending, here) {
            return None;
        }
        let [thing] = out else {
            self.quick += 1;
            self.careful |= self.quick >= QUICK;
            self.calm = 0;
            return None;
        };
        if self.convicts.contains(thing) {
            return Some(Verdict::Topic(thing.clone()));
        }
        self.quick += 1;
        self.calm = 0;
        if !self.careful {
            // It was alone by chance. From now on it is on purpose.
            self.careful = self.quick >= QUICK;
            return None;
        }
        self.accuse(thing, here, alone)
    }

    /// Whether the end has to do with what was out. An excuse is believed, but not for ever.
    fn counts(&mut self, ending: &Ending, here: u32) -> bool {
        match ending {
            Ending::HungUp => true,
            Ending::Excused if here >= CALM => {
                self.excuses = 0;
                false
            }
            Ending::Excused => {
                self.excuses = self.excuses.saturating_add(1);
                self.excuses > EXCUSES
            }
            Ending::Explained | Ending::Other => false,
        }
    }

    /// This was not acknowledged, and what was published after it was. Whether it is refused for that: not
    /// the first time, which may have been an acknowledgement that got lost; and not where the broker
    /// has taken something on its topic before, because then it is this one or a new rule, which is
    /// found out with one thing on the wire at a time.
    pub(super) fn overtaken(&mut self, thing: &Thing) -> bool {
        if !self.overtaken.contains(thing) {
            if self.overtaken.len() >= LARGE {
                self.overtaken.pop_front();
            }
            self.overtaken.push_back(thing.clone());
            return false;
        }
        if self.taken.contains(thing) {
            self.careful = true;
            return false;
        }
        true
    }

    fn accuse(&mut self, thing: &Thing, here: u32, alone: Alone) -> Option<Verdict> {
        let place = self
            .suspects
            .iter()
            .position(|suspect| suspect.thing == *thing);
        let Some(place) = place else {
            if self.taken.contains(thing) && !self.suspects.is_empty() {
                // What was good is not now: the broker hangs up on anything.
                self.noise = self.noise.saturating_add(1).min(NOISE);
                for suspect in &mut self.suspects {
                    (suspect.alone, suspect.first, suspect.after) = (0, false, false);
                    suspect.before = (u32::MAX / 4, 0);
                }
            }
            if self.suspects.len() < SUSPECTS {
                self.suspects.push_back(Suspect {
                    thing: thing.clone(),
                    alone: 1,
                    first: here == 0,
                    before: (here, here),
                    after: here > 0,
                    absent: 0,
                    content: Some(alone.content),
                    rival: false,
                    waited: 0,
                    there: Cell::new(false),
                });
            }
            return None;
        };
        let suspect = self.suspects.get_mut(place)?;
        suspect.alone = suspect.alone.saturating_add(1);
        suspect.first |= here == 0;
        suspect.before = (suspect.before.0.min(here), suspect.before.1.max(here));
        suspect.after |= here > 0;
        suspect.absent = 0;
        suspect.waited = 0;
        if !suspect.rival {
            suspect.content = suspect.content.filter(|content| *content == alone.content);
        }
        if !suspect.is_proven(self.noise) {
            return None;
        }
        if suspect.content.is_some() && !suspect.rival && !self.taken.contains(thing) {
            suspect.rival = true;
            return None;
        }
        let same = self
            .suspects
            .remove(place)
            .is_some_and(|one| one.content.is_some());
        let for_size = self.is_for_size(thing, alone.bytes);
        if self.convicts.len() >= CONVICTS {
            self.convicts.pop_front();
        }
        // Whether it is the topic after all shows with the next one, which goes alone.
        self.convicts.push_back(thing.clone());
        let thing = thing.clone();
        Some(if self.taken.remove(&thing) && same {
            self.condemn(&thing, alone.content);
            Verdict::Item { thing, for_size }
        } else {
            Verdict::Topic(thing)
        })
    }

    /// Whether it must be its size that made a convict one: it is larger than all that was ever
    /// taken, and smaller ones of the same kind were taken.
    pub(super) fn is_for_size(&self, thing: &Thing, bytes: usize) -> bool {
        bytes > SMALL && bytes > self.largest && self.taken.contains(thing)
    }

    /// Something was refused for its size. `true`: something of the same kind was before, so that
    /// it is given up.
    pub(super) fn refused_for_size(&mut self, thing: &Thing, bytes: usize) -> bool {
        let again = self.large.iter().any(|(large, _)| large == thing);
        if self.large.len() >= LARGE {
            self.large.remove(0);
        }
        self.large.push((thing.clone(), bytes));
        again
    }

    /// The size from which on nothing is tried here any more: two were refused for theirs.
    pub(super) fn too_large(&self) -> Option<usize> {
        if self.large.len() < 2 {
            return None;
        }
        let smallest = self.large.iter().map(|(_, bytes)| *bytes).min();
        smallest.filter(|bytes| *bytes > self.largest)
    }

    /// Another broker, or the same one at another address: what was proven there does not count.
    pub(super) fn forget(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    fn sized(bytes: usize) -> Alone {
        Alone { content: 0, bytes }
    }

    fn data(device: usize) -> Thing {
        Thing::Data(device.to_string().into())
    }

    /// A broker, and the one who publishes to it as the uplink does.
    struct World {
        blame: Blame,
        /// What waits, in order.
        queue: VecDeque<Thing>,
        taken: Vec<Thing>,
        convicted: Vec<Thing>,
        ending: fn() -> Ending,
    }

    /// What the broker does with a publish: the number on this connection, and in all.
    type Broker<'a> = dyn FnMut(&Thing, u32, u32) -> bool + 'a;

    impl World {
        fn new(devices: usize) -> Self {
            Self {
                blame: Blame::default(),
                queue: (0..devices).map(data).collect(),
                taken: Vec::new(),
                convicted: Vec::new(),
                ending: || Ending::HungUp,
            }
        }

        /// One connection: until the broker hangs up, or `most` are taken.
        fn connection(&mut self, window: usize, most: u32, broker: &mut Broker<'_>) {
            self.blame.begin();
            let (mut passed, mut sent) = (0, 0);
            while passed < most {
                let careful = self.blame.is_careful();
                let mut out: Vec<Thing> = Vec::new();
                if careful {
                    self.blame.begin_round();
                    let wanted = self.blame.wanted().cloned();
                    let wanted =
                        wanted.filter(|thing| self.queue.contains(thing) || *thing == Thing::Hub);
                    let other = || {
                        self.queue
                            .iter()
                            .find(|thing| self.blame.may_go(thing) != Go::Later)
                            .cloned()
                    };
                    let witness = self.blame.needs_hub_as_witness().then_some(Thing::Hub);
                    let next = wanted.or(witness).or_else(other);
                    match next.or_else(|| self.blame.believe()) {
                        Some(thing) => out.push(thing),
                        None => return,
                    }
                } else {
                    for thing in self.queue.iter().take(window) {
                        match self.blame.may_go(thing) {
                            Go::Now => out.push(thing.clone()),
                            Go::Alone if out.is_empty() => {
                                out.push(thing.clone());
                                break;
                            }
                            _ => break,
                        }
                    }
                }
                if out.is_empty() {
                    return;
                }
                while let Some(thing) = out.first().cloned() {
                    sent += 1;
                    if !broker(&thing, passed + 1, sent) {
                        let alone = Alone::default();
                        if let Some(verdict) = self.blame.ended(&(self.ending)(), &out, alone) {
                            let guilty = verdict.thing();
                            self.queue.retain(|waiting| waiting != guilty);
                            self.convicted.push(guilty.clone());
                        }
                        return;
                    }
                    passed += 1;
                    let alone = Alone {
                        content: 0,
                        bytes: 100,
                    };
                    self.blame.passed(&thing, alone);
                    self.taken.push(thing.clone());
                    if let Some(at) = self.queue.iter().position(|waiting| *waiting == thing) {
                        // The next batch of this device waits behind the others.
                        let again = self.queue.remove(at).unwrap();
                        self.queue.push_back(again);
                    }
                    out.remove(0);
                }
            }
            self.blame.ended(&Ending::Other, &[], Alone::default());
        }
    }

    #[test]
    fn what_is_hung_up_on_is_convicted_and_the_others_pass() {
        let mut world = World::new(5);
        for _ in 0..40 {
            world.connection(4, 20, &mut |thing, _, _| *thing != data(2));
        }
        assert_eq!(world.convicted, [data(2)]);
        assert!(!world.blame.is_careful());
        for device in [0, 1, 3, 4] {
            assert!(world.taken.contains(&data(device)), "{device}");
        }
    }

    #[test]
    fn a_convict_that_is_tried_again_goes_alone_and_is_refused_at_once_or_free() {
        let mut world = World::new(3);
        for _ in 0..40 {
            world.connection(4, 20, &mut |thing, _, _| *thing != data(1));
        }
        assert_eq!(world.convicted, [data(1)]);
        world.queue.push_front(data(1));
        world.connection(4, 20, &mut |thing, _, _| *thing != data(1));
        assert_eq!(world.convicted, [data(1), data(1)]);
        assert!(!world.blame.is_careful(), "the others use the whole window");
        world.queue.push_front(data(1));
        world.connection(4, 20, &mut |_, _, _| true);
        assert_eq!(world.convicted.len(), 2);
        assert!(world.blame.is_idle());
    }

    #[test]
    fn a_broker_that_takes_nothing_at_all_convicts_nobody() {
        let mut world = World::new(3);
        for _ in 0..200 {
            world.connection(4, 20, &mut |_, _, _| false);
        }
        assert_eq!(world.convicted, []);
    }

    #[test]
    fn after_a_broker_that_hung_up_on_everything_everybody_passes_again() {
        for devices in 1..5 {
            for hang_ups in 1..60 {
                let mut world = World::new(devices);
                world.queue.push_front(Thing::Hub);
                for _ in 0..hang_ups {
                    world.connection(4, 20, &mut |_, _, _| false);
                }
                for _ in 0..3 {
                    world.connection(4, 40, &mut |_, _, _| true);
                }
                for device in 0..devices {
                    let passed = world.taken.contains(&data(device));
                    assert!(passed, "{device} of {devices} after {hang_ups}");
                }
                assert_eq!(world.convicted, []);
                assert!(!world.blame.is_careful());
            }
        }
    }

    #[test]
    fn a_suspect_that_never_comes_keeps_nobody_from_passing() {
        for hang_ups in 4..40 {
            let mut world = World::new(4);
            for _ in 0..hang_ups {
                world.connection(4, 20, &mut |_, _, _| false);
            }
            let trial = world.blame.suspects.front().unwrap().thing.clone();
            world.queue.retain(|thing| *thing != trial);
            // One long connection.
            world.connection(4, 200, &mut |_, _, _| true);
            let others = (0..4).map(data).filter(|thing| *thing != trial);
            for other in others {
                assert!(world.taken.contains(&other), "{other} after {hang_ups}");
            }
            assert!(!world.blame.is_careful());
        }
    }

    #[test]
    fn a_reason_that_is_said_and_a_network_that_breaks_accuse_nobody() {
        let mut blame = Blame::default();
        for _ in 0..20 {
            for ending in [Ending::Explained, Ending::Other] {
                assert_eq!(blame.ended(&ending, &[data(1)], Alone::default()), None);
            }
            assert_eq!(
                blame.ended(&Ending::HungUp, &[], Alone::default()),
                None,
                "nothing was out"
            );
        }
        assert!(!blame.is_careful());
    }

    #[test]
    fn an_excuse_is_believed_three_times_in_a_row_and_then_counts_as_a_hang_up() {
        let excuse = |blame: &mut Blame| {
            let out = [data(1), data(2)];
            blame.ended(&Ending::Excused, &out, Alone::default());
        };
        let mut blame = Blame::default();
        for _ in 0..20 {
            (0..EXCUSES).for_each(|_| excuse(&mut blame));
            // A connection on which something goes: a quota that is there again.
            blame.begin();
            for device in 0..CALM {
                blame.passed(&data(device as usize), sized(100));
            }
            excuse(&mut blame);
        }
        assert!(!blame.is_careful());
        for _ in 0..EXCUSES + QUICK {
            assert!(!blame.is_careful());
            blame.begin();
            excuse(&mut blame);
        }
        assert!(blame.is_careful());
    }

    #[test]
    fn a_topic_that_gets_excuses_is_convicted_and_the_others_pass() {
        let mut world = World::new(5);
        world.ending = || Ending::Excused;
        for _ in 0..60 {
            world.connection(4, 20, &mut |thing, _, _| *thing != data(2));
        }
        assert_eq!(world.convicted, [data(2)]);
        assert!(
            (0..5)
                .filter(|n| *n != 2)
                .all(|n| world.taken.contains(&data(n)))
        );
    }

    #[test]
    fn one_content_that_is_hung_up_on_is_told_from_its_topic() {
        // What the broker hangs up on each time: always the same, or another each time.
        for same in [true, false] {
            let mut blame = Blame::default();
            blame.begin();
            blame.passed(&data(1), Alone::default());
            let mut verdict = None;
            for n in 0..20 {
                blame.begin();
                if n % 2 == 0 {
                    blame.passed(&Thing::Hub, Alone::default());
                }
                let content = if same { 7 } else { n };
                let alone = Alone { content, bytes: 50 };
                verdict = verdict.or(blame.ended(&Ending::HungUp, &[data(1)], alone));
            }
            let thing = data(1);
            let item = Verdict::Item {
                thing: thing.clone(),
                for_size: false,
            };
            assert_eq!(
                verdict,
                Some(if same { item } else { Verdict::Topic(thing) })
            );
            // The next one shows whether it is the topic.
            let alone = Alone::default();
            let next = blame.ended(&Ending::HungUp, &[data(1)], alone);
            assert_eq!(next, Some(Verdict::Topic(data(1))));
        }
    }

    #[test]
    fn a_first_content_that_is_hung_up_on_is_told_from_its_topic_by_another() {
        for another_passes in [true, false] {
            let mut blame = Blame::default();
            let guilty = Alone {
                content: 7,
                bytes: 50,
            };
            let mut rounds = 0_u32;
            while blame.unwanted().is_none() {
                blame.begin();
                if rounds.is_multiple_of(2) {
                    blame.passed(&Thing::Hub, Alone::default());
                }
                assert_eq!(blame.ended(&Ending::HungUp, &[data(1)], guilty), None);
                rounds += 1;
                assert!(rounds < 20);
            }
            assert_eq!(blame.unwanted(), Some(7));
            let other = Alone {
                content: 8,
                bytes: 50,
            };
            if another_passes {
                blame.passed(&data(1), other);
                assert!(blame.is_condemned(&data(1), || 7));
                assert!(!blame.is_condemned(&data(1), || 8));
            } else {
                let verdict = blame.ended(&Ending::HungUp, &[data(1)], other);
                assert_eq!(verdict, Some(Verdict::Topic(data(1))));
                assert!(!blame.is_condemned(&data(1), || 7));
            }
        }
    }

    #[test]
    fn only_what_is_larger_than_all_that_passed_is_refused_for_its_size() {
        let mut blame = Blame::default();
        blame.passed(&data(1), sized(10_000));
        assert!(blame.is_for_size(&data(1), 10_001));
        assert!(!blame.is_for_size(&data(1), 10_000));
        assert!(
            !blame.is_for_size(&data(2), 50_000),
            "its topic may be forbidden"
        );
        assert!(!blame.refused_for_size(&data(1), 20_000));
        assert_eq!(blame.too_large(), None, "one may have been something else");
        assert!(blame.refused_for_size(&data(1), 15_000));
        assert_eq!(blame.too_large(), Some(15_000));
        blame.passed(&data(1), sized(16_000));
        assert_eq!(blame.too_large(), None, "it was not the size");
    }

    proptest! {
        /// Every broker that hangs up for a reason that no single topic is to blame for.
        #[test]
        fn the_innocent_never_pay(
            devices in 1_usize..6,
            window in 1_usize..8,
            kind in 0_u8..4,
            n in 1_u32..12,
            seed in any::<u64>(),
        ) {
            let mut world = World::new(devices);
            let mut random = seed | 1;
            let mut chance = move || {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                random
            };
            let mut in_all = 0_u32;
            for _ in 0..300 {
                world.connection(window, 30, &mut |_, here, _| {
                    in_all += 1;
                    match kind {
                        // After so many on a connection.
                        0 => here < n,
                        // Every so many, over connections.
                        1 => !in_all.is_multiple_of(n + 1),
                        // Nothing.
                        2 => false,
                        // Each publish is as likely as any other to meet a crash, which is rare.
                        _ => !chance().is_multiple_of(300),
                    }
                });
            }
            prop_assert_eq!(&world.convicted, &[]);
        }

        /// Forbidden topics are found, whatever else there is, and everybody else's data arrives.
        #[test]
        fn the_guilty_are_found_and_the_innocent_arrive(
            devices in 1_usize..8,
            window in 1_usize..8,
            guilty in prop::collection::btree_set(0_usize..8, 0..4),
        ) {
            let mut world = World::new(devices);
            for _ in 0..400 {
                world.connection(window, 20, &mut |thing, _, _| {
                    !guilty.iter().any(|device| *thing == data(*device))
                });
            }
            let mut convicted = world.convicted.clone();
            convicted.sort();
            let expected: Vec<_> = guilty.iter().filter(|one| **one < devices).map(|one| data(*one)).collect();
            prop_assert_eq!(convicted, expected);
            for device in (0..devices).filter(|device| !guilty.contains(device)) {
                prop_assert!(world.taken.contains(&data(device)));
            }
        }
    }
}
