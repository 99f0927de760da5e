//! The lanes beside a model of the world: a broker, a disk and devices that do anything in any
//! order, and crash. What is checked at every step is what product and users were promised.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet, HashMap};

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::intake::group_commit::{HOLD_BACK, HOLD_BACK_MOST};
use crate::intake::moved::Moved;
use crate::intake::refusals::Key;
use crate::reading::{Batch, Boot, Content, Encoding, Gap, GapReason, Moment, Reply, Topic};
use crate::spool::{Compacted, Depth, Group, GroupId};
use crate::uplink::{Cause, Refusal};

mod interval;
mod reduced;

const DEVICES: usize = 3;
const WINDOW: usize = 4;

type BatchId = (usize, u64);

#[derive(Debug, Clone)]
enum Op {
    Send(usize),
    Skip(usize),
    Resend(usize, usize),
    /// A command of the device has ended; whether whoever asked has a topic of its own.
    Answer(usize, bool),
    Up,
    Down(bool),
    /// The broker refuses a kind of topic of a device from now on, or takes it again.
    Refuses(usize, Topic, bool),
    /// It hangs up on the oldest publish, which is proven.
    HangsUpOn,
    Puback,
    PubackAt(usize),
    CommitDone,
    CommitFails(bool),
    LoadReads,
    Load,
    LoadFails,
    Wait(u64),
    Crash,
    /// The spool is full: a device's batches are taken out of so many of the oldest groups.
    Thin(usize, usize),
    /// Or a group goes as a whole.
    GiveUp(usize),
}

fn topic() -> impl Strategy<Value = Topic> {
    prop::sample::select(vec![
        Topic::Data,
        Topic::History,
        Topic::Gap,
        Topic::Result,
        Topic::Response,
    ])
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        12 => (0..DEVICES).prop_map(Op::Send),
        1 => (0..DEVICES).prop_map(Op::Skip),
        2 => (0..DEVICES, 0..8usize).prop_map(|(d, n)| Op::Resend(d, n)),
        2 => (0..DEVICES, any::<bool>()).prop_map(|(d, own)| Op::Answer(d, own)),
        3 => Just(Op::Up),
        2 => any::<bool>().prop_map(Op::Down),
        2 => (0..DEVICES, topic(), any::<bool>()).prop_map(|(d, t, r)| Op::Refuses(d, t, r)),
        1 => Just(Op::HangsUpOn),
        12 => Just(Op::Puback),
        4 => (0..WINDOW).prop_map(Op::PubackAt),
        6 => Just(Op::CommitDone),
        1 => any::<bool>().prop_map(Op::CommitFails),
        3 => Just(Op::LoadReads),
        6 => Just(Op::Load),
        1 => Just(Op::LoadFails),
        4 => (1..15_000u64).prop_map(Op::Wait),
        1 => Just(Op::Crash),
        1 => (0..DEVICES, 1..4usize).prop_map(|(d, n)| Op::Thin(d, n)),
        1 => (0..4usize).prop_map(Op::GiveUp),
    ]
}

struct World {
    settings: Settings,
    lanes: Lanes,
    now: Now,
    epoch: u64,
    up: bool,
    /// Publishes that the broker has and has not acknowledged.
    unacked: Vec<(u64, Arc<Item>, Lane)>,
    /// What it refuses, and what it has refused.
    refuses: BTreeSet<(usize, Topic)>,
    refused: BTreeSet<BatchId>,
    /// Keys of which the lanes have said that they are refused.
    said: BTreeSet<Key>,
    unwanted: BTreeSet<Arc<str>>,
    published: Vec<(BatchId, Lane)>,
    pubacked: BTreeSet<BatchId>,
    commit: Option<(u64, Vec<Arc<Item>>, Vec<Mark>)>,
    /// A read under way, whether it is for answers alone, and what it has read if it has.
    load: Option<(Option<GroupId>, bool, Option<Vec<Group>>)>,
    disk: BTreeMap<GroupId, Vec<Arc<Item>>>,
    marks: HashMap<Arc<str>, u64>,
    next_group: u64,
    streams: Vec<StreamId>,
    last_seq: [u64; DEVICES],
    sent: [u64; DEVICES],
    settled: [u64; DEVICES],
    acked: [u64; DEVICES],
    /// Sent and not acked, to be sent again after a crash.
    kept: [Vec<u64>; DEVICES],
    taken: BTreeSet<BatchId>,
    /// Batches that were given up, by the gap record that says so.
    given_up: BTreeMap<BatchId, Vec<BatchId>>,
    disturbed: bool,
    /// The one payload that the broker refuses.
    bad: Option<BatchId>,
    /// Reasons of the gap records that were published.
    reasons: BTreeSet<&'static str>,
    /// Batches that these stand for, but for those that made room.
    reported: BTreeSet<BatchId>,
    /// A device was turned away.
    turned_away: bool,
    /// What devices send.
    frame: Bytes,
    /// Answers that were given to the lanes in this run, by their tokens, and those that the lanes
    /// have called safe.
    answers: BTreeMap<u64, BatchId>,
    safe: BTreeSet<u64>,
    last_answer: u64,
}

/// Gap records are told from batches by a device number that no device has.
const GAPS: usize = 100;

/// And answers.
const ANSWERS: usize = 1_000;

fn refusal(cause: Cause) -> Refusal {
    Refusal {
        cause,
        detail: "not authorized".into(),
    }
}

fn device(d: usize) -> Arc<str> {
    format!("d{d}").into()
}

fn id_of(item: &Item) -> BatchId {
    let number = |device: &str| device[1..].parse::<usize>().unwrap();
    match item {
        Item::Batch(batch) => (number(&batch.device), batch.seq.unwrap()),
        Item::Gap(gap) => (GAPS + number(&gap.device), gap.from.unwrap()),
        Item::Reply(reply) => {
            let which = std::str::from_utf8(&reply.payload).unwrap();
            (ANSWERS + number(&reply.device), which.parse().unwrap())
        }
    }
}

/// The number that an item on disk settles.
fn mark_of(item: &Item) -> Option<(usize, u64)> {
    match item {
        Item::Batch(_) => Some(id_of(item)),
        Item::Gap(gap) => Some((id_of(item).0 - GAPS, gap.to.unwrap())),
        Item::Reply(_) => None,
    }
}

impl World {
    fn new(settings: Settings) -> Self {
        let mut world = Self {
            settings,
            lanes: Lanes::new(settings),
            now: Now {
                mono: Instant::now(),
                moment: Moment::at(1e9),
            },
            epoch: 0,
            up: false,
            unacked: Vec::new(),
            refuses: BTreeSet::new(),
            refused: BTreeSet::new(),
            said: BTreeSet::new(),
            unwanted: BTreeSet::new(),
            published: Vec::new(),
            pubacked: BTreeSet::new(),
            commit: None,
            load: None,
            disk: BTreeMap::new(),
            marks: HashMap::new(),
            next_group: 1,
            streams: Vec::new(),
            last_seq: [0; DEVICES],
            sent: [0; DEVICES],
            settled: [0; DEVICES],
            acked: [0; DEVICES],
            kept: Default::default(),
            taken: BTreeSet::new(),
            given_up: BTreeMap::new(),
            disturbed: false,
            bad: None,
            reasons: BTreeSet::new(),
            reported: BTreeSet::new(),
            turned_away: false,
            frame: Bytes::from_static(b"x"),
            answers: BTreeMap::new(),
            safe: BTreeSet::new(),
            last_answer: 0,
        };
        world.start();
        world
    }

    /// A hub starts on what is on disk, and the devices resume.
    fn start(&mut self) {
        self.lanes = Lanes::new(self.settings);
        let mut marks = self.marks.clone();
        for (d, seq) in self
            .disk
            .values()
            .flatten()
            .filter_map(|item| mark_of(item))
        {
            let mark = marks.entry(device(d)).or_default();
            *mark = (*mark).max(seq);
        }
        self.lanes
            .streams
            .restore(marks.into_iter().map(|(device, seq)| Mark {
                device,
                stream: "s".into(),
                seq,
            }));
        let items = || self.disk.values().flatten();
        let depth = Depth {
            groups: self.disk.len() as u64,
            batches: items()
                .filter(|item| matches!(***item, Item::Batch(_)))
                .count() as u64,
            readings: items().map(|item| u64::from(item.readings())).sum(),
            replies: items()
                .filter(|item| matches!(***item, Item::Reply(_)))
                .count() as u64,
            oldest: None,
        };
        self.apply(Event::Opened { depth });
        self.streams.clear();
        for d in 0..DEVICES {
            let attached = self.lanes.streams.attach(
                d as u64,
                &device(d),
                Some("s".into()),
                || unreachable!(),
            );
            self.streams.push(attached.stream);
            for seq in 1..=attached.safe {
                let known = !self.taken.contains(&(d, seq)) || self.is_safe((d, seq));
                assert!(known, "welcome.seq {} claims {seq} of {d}", attached.safe);
            }
            (self.sent[d], self.settled[d]) = (0, 0);
            self.kept[d].retain(|seq| *seq > attached.safe);
            for seq in self.kept[d].clone() {
                self.send(d, seq);
            }
        }
    }

    fn send(&mut self, d: usize, seq: u64) {
        self.taken.insert((d, seq));
        self.sent[d] += 1;
        self.send_raw(d, seq);
    }

    fn answer(&mut self, d: usize, own_topic: bool) {
        self.last_answer += 1;
        let token = self.last_answer;
        self.answers.insert(token, (ANSWERS + d, token));
        self.apply(Event::Answered(Final {
            token: Some(token),
            reply: Reply {
                device: device(d),
                name: "on".into(),
                topic: own_topic.then(|| format!("app/{d}").into()),
                correlation: None,
                encoding: Encoding::Json,
                payload: token.to_string().into(),
                made: self.now.moment,
            },
        }));
    }

    fn send_raw(&mut self, d: usize, seq: u64) {
        let batch = Batch {
            device: device(d),
            stream: "s".into(),
            seq: Some(seq),
            received: self.now.moment,
            readings: 1,
            encoding: Encoding::Cbor,
            frame: self.frame.clone(),
        };
        let arrival = Arrival {
            resolved: 100,
            conn: d as u64,
            stream: self.streams[d],
            batch,
            content: Content(seq),
        };
        self.apply(Event::Arrived(arrival));
    }

    fn is_safe(&self, id: BatchId) -> bool {
        self.pubacked.contains(&id)
            || self.disk.values().flatten().any(|item| id_of(item) == id)
            || self.given_up.values().flatten().any(|known| *known == id)
    }

    /// Stores gap records for these, as the spool does before it gives them up, and says how many
    /// batches and readings they are.
    fn record(&mut self, gone: &[Arc<Item>]) -> (u64, u64) {
        let mut batches = 0;
        for d in 0..DEVICES {
            let ids = gone.iter().map(|item| id_of(item));
            let ids: Vec<BatchId> = ids.filter(|id| id.0 == d).collect();
            let (Some(first), Some(last)) = (ids.first(), ids.last()) else {
                continue;
            };
            let gap = Arc::new(Item::Gap(Gap {
                device: device(d),
                stream: "s".into(),
                from: Some(first.1),
                to: Some(last.1),
                batches: ids.len() as u64,
                readings: ids.len() as u64,
                reason: GapReason::Overflow,
                time: self.now.moment.wall,
                clock: None,
            }));
            batches += ids.len() as u64;
            self.given_up.insert(id_of(&gap), ids);
            self.disk.insert(GroupId(self.next_group), vec![gap]);
            self.next_group += 1;
        }
        (batches, batches)
    }

    /// What the spool has answered before is heard before.
    fn hear_the_spool(&mut self) {
        if matches!(self.load, Some((_, _, Some(_)))) {
            self.step(&Op::Load);
        }
    }

    fn apply(&mut self, event: Event) {
        self.apply_alone(event);
        // A tick may be due at once, but must be all there is to do then.
        if self.is_due() {
            self.apply_alone(Event::Tick);
            assert!(!self.is_due(), "ticks would follow each other for ever");
        }
        self.check_holding_back();
    }

    /// Nothing is held back for longer than was promised, nor without a reason.
    fn check_holding_back(&self) {
        let lanes = &self.lanes;
        let Some(oldest) = lanes.to_commit.front().map(|pending| pending.entry.since) else {
            return;
        };
        if self.commit.is_some() || lanes.disk_retry.is_some() {
            return;
        }
        let interval = self.settings.commit_interval;
        let longest = match self.settings.hold_back.is_zero() {
            true => interval,
            false => interval.max(HOLD_BACK_MOST),
        };
        assert!(self.now.mono < oldest + longest, "held back for too long");
        assert_eq!(lanes.phase, Phase::Running);
        let of = |d: usize| {
            let origins = lanes.to_commit.iter().filter_map(|p| p.entry.origin);
            let conns = origins.filter_map(Origin::conn);
            conns.filter(|conn| *conn == d as u64).count()
        };
        let used_up = (0..DEVICES).any(|d| of(d) >= self.settings.device_window);
        let since = self.now.mono.duration_since(oldest);
        assert!(!used_up || since < HOLD_BACK_MOST, "a window is used up");
    }

    fn apply_alone(&mut self, event: Event) {
        let mut out = Vec::new();
        self.lanes.apply(self.now, event, &mut out);
        // What is over must not be brought again by a read that comes before its end.
        let place = |wanted: fn(&Action) -> bool| out.iter().position(wanted);
        let read = place(|action| matches!(action, Action::Load { .. }));
        let end = place(|action| matches!(action, Action::Delete { .. }));
        assert!(read.is_none() || end.is_none() || end < read, "{out:?}");
        for action in out {
            self.act(action);
        }
        assert!(self.lanes.in_flight() <= WINDOW);
    }

    fn is_due(&self) -> bool {
        let deadline = self.lanes.next_deadline();
        deadline.is_some_and(|at| at <= self.now.mono)
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Publish {
                epoch,
                token,
                lane,
                item,
            } => {
                assert!(self.up && epoch == self.epoch, "published on no connection");
                let id = id_of(&item);
                let again = self.published.iter().any(|(known, _)| *known == id);
                assert!(
                    !again || self.disturbed || self.refused.contains(&id),
                    "{id:?} is published twice without a cause"
                );
                // Of a device of which something was refused, the refused one comes last: see
                // `refusals`.
                let in_turn = !self.refused.iter().any(|(d, _)| d % GAPS == id.0);
                if self.settings.in_order && !again && id.0 < GAPS && in_turn {
                    let before = self.published.iter().filter(|((d, _), _)| *d == id.0);
                    let highest = before.map(|((_, seq), _)| *seq).max().unwrap_or(0);
                    assert!(highest < id.1, "{id:?} overtook, after {highest}");
                }
                if let Item::Gap(gap) = &*item {
                    self.reasons.insert(gap.reason.as_str());
                }
                self.published.push((id, lane));
                self.unacked.push((token, item, lane));
            }
            Action::Refused { key, .. } => assert!(self.said.insert(key), "said twice"),
            Action::RefusedAgain { .. } => {}
            Action::Accepted { key } => assert!(self.said.remove(&key), "was not refused"),
            Action::Unwanted { device, unwanted } => {
                let known = if unwanted {
                    self.unwanted.insert(device)
                } else {
                    self.unwanted.remove(&device)
                };
                assert!(known, "told twice");
            }
            Action::Commit {
                ticket,
                items,
                marks,
            } => {
                assert!(self.commit.is_none(), "two commits at a time");
                assert!(!items.is_empty());
                self.commit = Some((ticket, items, marks));
            }
            Action::Load { after, replies } => {
                assert!(self.load.is_none(), "two reads at a time");
                self.load = Some((after, replies, None));
            }
            Action::Delete { groups } => {
                for group in groups {
                    for item in self.disk.remove(&group).expect("deleted once") {
                        let id = id_of(&item);
                        assert!(
                            self.pubacked.contains(&id) || self.reported.contains(&id),
                            "{id:?} deleted before its PUBACK"
                        );
                    }
                }
            }
            Action::Settle { conn, settled, ack } => {
                let d = usize::try_from(conn).unwrap();
                self.settled[d] += u64::from(settled);
                if let Some(ack) = ack {
                    for seq in 1..=ack {
                        let id = (d, seq);
                        let safe = !self.taken.contains(&id) || self.is_safe(id);
                        assert!(safe, "ack {ack} of {d}, but {seq} is not safe");
                    }
                    self.acked[d] = self.acked[d].max(ack);
                    self.kept[d].retain(|seq| *seq > ack);
                }
            }
            Action::Safe { token } => {
                let id = self.answers[&token];
                assert!(self.is_safe(id), "{id:?} is not safe");
                assert!(self.safe.insert(token), "said twice");
            }
            Action::RefusedElsewhere { device, .. } => {
                let d: usize = device[1..].parse().unwrap();
                let refused = self.refused.iter().any(|(which, _)| *which == ANSWERS + d);
                assert!(refused, "nothing of {d} was refused");
            }
            Action::AnswerLost { .. } => panic!("nothing is too old here"),
            Action::Reconnect => self.step(&Op::Down(false)),
            Action::Refuse { .. } => self.turned_away = true,
            Action::Conflict { .. } | Action::Lost(_) => panic!("not in this model"),
        }
    }

    fn read(&self, after: Option<GroupId>, replies: bool) -> Vec<Group> {
        let is_reply = |item: &Arc<Item>| matches!(**item, Item::Reply(_));
        let groups = self
            .disk
            .iter()
            .filter(|(id, items)| Some(**id) > after && (!replies || items.iter().any(is_reply)))
            .take(2);
        groups
            .map(|(id, items)| Group {
                id: *id,
                items: items.clone(),
            })
            .collect()
    }

    fn puback(&mut self, at: usize) {
        if !self.up || at >= self.unacked.len() {
            return;
        }
        let (token, item, lane) = self.unacked.remove(at);
        let epoch = self.epoch;
        if self.is_refused(&item, lane) {
            self.refused.insert(id_of(&item));
            // Payload format invalid, or not authorized.
            let code = if self.bad == Some(id_of(&item)) {
                0x99
            } else {
                0x87
            };
            let refusal = refusal(Cause::Reason(code));
            self.apply(Event::Refused {
                epoch,
                token,
                refusal,
            });
            return;
        }
        self.pubacked.insert(id_of(&item));
        if let Item::Gap(gap) = &*item
            && gap.reason != GapReason::Overflow
        {
            let d = id_of(&item).0 - GAPS;
            let range = gap.from.unwrap()..=gap.to.unwrap();
            self.reported.extend(range.map(|seq| (d, seq)));
        }
        self.apply(Event::Acked { epoch, token });
    }

    fn is_refused(&self, item: &Item, lane: Lane) -> bool {
        if self.bad == Some(id_of(item)) {
            return true;
        }
        let d = item.device()[1..].parse().unwrap();
        self.refuses.contains(&(d, item.topic(lane)))
    }

    fn hangs_up_on_oldest(&mut self) {
        if self.unacked.is_empty() {
            return;
        }
        let (token, item, _) = self.unacked.remove(0);
        self.refused.insert(id_of(&item));
        let (epoch, refusal) = (self.epoch, refusal(Cause::HungUp));
        self.apply(Event::Refused {
            epoch,
            token,
            refusal,
        });
        self.step(&Op::Down(true));
    }

    fn step(&mut self, op: &Op) {
        match *op {
            Op::Send(d) => {
                self.last_seq[d] += 1;
                let seq = self.last_seq[d];
                self.kept[d].push(seq);
                self.send(d, seq);
            }
            Op::Skip(d) => self.last_seq[d] += 2,
            Op::Resend(d, n) => {
                if let Some(seq) = self.kept[d].get(n).copied() {
                    self.send(d, seq);
                }
            }
            Op::Answer(d, own_topic) => self.answer(d, own_topic),
            Op::Up if !self.up => {
                self.up = true;
                self.epoch += 1;
                self.apply(Event::Up { epoch: self.epoch });
            }
            Op::Up => {}
            Op::Down(_by_the_broker) => {
                self.disturbed |= !self.unacked.is_empty();
                self.up = false;
                self.unacked.clear();
                self.apply(Event::Down);
            }
            Op::Refuses(d, topic, refuses) => {
                if refuses {
                    self.refuses.insert((d, topic));
                } else {
                    self.refuses.remove(&(d, topic));
                }
            }
            Op::HangsUpOn => self.hangs_up_on_oldest(),
            Op::Puback => self.puback(0),
            Op::PubackAt(at) => self.puback(at),
            Op::CommitDone => {
                let Some((ticket, items, marks)) = self.commit.take() else {
                    return;
                };
                let mut placed = Vec::new();
                for group in items.chunks(3) {
                    let id = GroupId(self.next_group);
                    self.next_group += 1;
                    placed.extend((0..group.len()).map(|index| Loc {
                        group: id,
                        index: u32::try_from(index).unwrap(),
                    }));
                    for item in group {
                        let (d, seq) = id_of(item);
                        if d >= ANSWERS {
                            continue;
                        }
                        let mark = self.marks.entry(device(d)).or_default();
                        *mark = (*mark).max(seq);
                    }
                    self.disk.insert(id, group.to_vec());
                }
                for mark in marks {
                    let known = self.marks.entry(mark.device).or_default();
                    *known = (*known).max(mark.seq);
                }
                self.apply(Event::Committed { ticket, placed });
            }
            Op::CommitFails(full) => {
                let Some((ticket, ..)) = self.commit.take() else {
                    return;
                };
                self.apply(Event::CommitFailed { ticket, full });
            }
            Op::LoadReads => {
                let Some((after, replies, None)) = self.load else {
                    return;
                };
                self.load = Some((after, replies, Some(self.read(after, replies))));
            }
            Op::Load => {
                let Some((after, replies, read)) = self.load.take() else {
                    return;
                };
                let groups = read.unwrap_or_else(|| self.read(after, replies));
                self.apply(Event::Loaded {
                    groups,
                    again: false,
                });
            }
            Op::LoadFails => {
                if self.load.take().is_some() {
                    self.apply(Event::Loaded {
                        groups: Vec::new(),
                        again: true,
                    });
                }
            }
            Op::Wait(ms) => {
                self.now.mono += Duration::from_millis(ms);
                self.apply(Event::Tick);
            }
            Op::Thin(d, n) => {
                self.hear_the_spool();
                let mut gone = Vec::new();
                let mut compacted = Vec::new();
                for (group, items) in self.disk.iter_mut().take(n) {
                    let (out, kept) = items
                        .iter()
                        .cloned()
                        .enumerate()
                        .partition::<Vec<_>, _>(|(_, item)| id_of(item).0 == d);
                    if out.is_empty() {
                        continue;
                    }
                    *items = kept.into_iter().map(|(_, item)| item).collect();
                    let positions = out.iter().map(|(at, _)| u32::try_from(*at).unwrap());
                    compacted.push(Compacted {
                        group: *group,
                        gone: positions.collect(),
                    });
                    gone.extend(out.into_iter().map(|(_, item)| item));
                }
                self.disk.retain(|_, items| !items.is_empty());
                let (batches, readings) = self.record(&gone);
                if batches > 0 {
                    self.apply(Event::Compacted {
                        moved: Moved::new(compacted),
                        batches,
                        readings,
                    });
                }
            }
            Op::GiveUp(at) => {
                self.hear_the_spool();
                let Some(group) = self.disk.keys().nth(at).copied() else {
                    return;
                };
                if self.disk[&group].iter().any(|item| id_of(item).0 >= GAPS) {
                    return;
                }
                let gone = self.disk.remove(&group).unwrap();
                let (batches, readings) = self.record(&gone);
                self.apply(Event::Dropped {
                    groups: group..=group,
                    batches,
                    readings,
                });
            }
            Op::Crash => {
                self.disturbed = true;
                self.up = false;
                (self.commit, self.load) = (None, None);
                self.unacked.clear();
                self.said.clear();
                self.unwanted.clear();
                // What was not safe is gone with the run: whoever asked has a timeout of their own.
                let safe = &self.safe;
                self.answers.retain(|token, _| safe.contains(token));
                self.start();
            }
        }
    }

    /// The world is well again: everything that was taken has to arrive.
    fn heal(&mut self) {
        self.refuses.clear();
        for _ in 0..3_000 {
            self.step(&Op::Up);
            self.step(&Op::CommitDone);
            self.step(&Op::Load);
            self.step(&Op::Puback);
            if self.unacked.is_empty() {
                self.step(&Op::Wait(3_000));
            }
        }
        let reported: BTreeSet<BatchId> = self
            .given_up
            .iter()
            .filter(|(gap, _)| self.pubacked.contains(gap))
            .flat_map(|(_, batches)| batches.iter().copied())
            .collect();
        let missing = self.taken.difference(&self.pubacked);
        let missing: Vec<_> = missing.filter(|id| !reported.contains(id)).collect();
        assert!(
            missing.is_empty(),
            "neither published nor reported: {missing:?}"
        );
        for (token, id) in &self.answers {
            assert!(self.pubacked.contains(id), "{id:?} has not arrived");
            assert!(self.safe.contains(token), "{id:?} was not called safe");
        }
        assert!(self.lanes.all_safe());
        assert_eq!((self.disk.len(), self.lanes.backlog().batches()), (0, 0));
        assert_eq!(self.settled, self.sent);
        for d in 0..DEVICES {
            assert!(self.kept[d].is_empty(), "{d} keeps {:?}", self.kept[d]);
        }
    }
}

fn settings(write_always: bool, in_order: bool) -> Settings {
    Settings {
        write_always,
        in_order,
        refuse: false,
        window: WINDOW,
        pack: 0,
        pack_delay: Duration::ZERO,
        device_window: 8,
        ack_timeout: Duration::from_secs(10),
        max_age: Duration::from_secs(1 << 30),
        live_batches: 8,
        live_bytes: 1 << 20,
        held_bytes: 1 << 20,
        hold_back: Duration::ZERO,
        commit_interval: Duration::ZERO,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_500, ..ProptestConfig::default() })]

    #[test]
    fn in_any_order_of_events_nothing_acked_is_lost_and_nothing_is_doubled_without_cause(
        ops in prop::collection::vec(op(), 1..200),
        write_always: bool,
        in_order: bool,
        hold_back in prop::sample::select(vec![Duration::ZERO, HOLD_BACK]),
        commit_interval in prop::sample::select(vec![0, 0, 1, 10]).prop_map(Duration::from_secs),
        device_window in prop::sample::select(vec![2, 32]),
    ) {
        let mut world = World::new(Settings {
            hold_back,
            commit_interval,
            device_window,
            ..settings(write_always, in_order)
        });
        for op in &ops {
            world.step(op);
        }
        world.heal();
    }
}

fn lanes_of(world: &World) -> Vec<usize> {
    let items = world.published.iter();
    items.map(|((which, _), _)| which / ANSWERS).collect()
}

#[test]
fn an_answer_that_was_stored_goes_before_the_backlog_after_a_restart_as_well() {
    for in_order in [false, true] {
        let mut world = World::new(settings(false, in_order));
        for round in 0..6 {
            world.step(&Op::Send(0));
            world.step(&Op::Send(1));
            if round % 3 == 1 {
                world.step(&Op::Answer(2, false));
            }
            world.step(&Op::CommitDone);
        }
        while world.commit.is_some() {
            world.step(&Op::CommitDone);
        }
        assert_eq!(world.safe.len(), 2, "safe once they are on disk");
        world.step(&Op::Crash);
        world.step(&Op::Up);
        for _ in 0..20 {
            world.step(&Op::Load);
            world.step(&Op::Puback);
        }
        assert_eq!(lanes_of(&world)[..3], [1, 1, 0]);
        world.heal();
    }
}

#[test]
fn an_answer_is_safe_with_its_puback_and_costs_no_disk_while_the_broker_is_there() {
    let mut world = World::new(settings(false, false));
    world.step(&Op::Up);
    world.step(&Op::Answer(0, true));
    assert!(world.safe.is_empty() && world.commit.is_none());
    world.step(&Op::Puback);
    assert_eq!(world.safe.len(), 1);
    assert!(world.commit.is_none());
}

#[test]
fn in_order_an_answer_does_not_wait_for_the_backlog() {
    let mut world = World::new(settings(false, true));
    for _ in 0..12 {
        world.step(&Op::Send(0));
        world.step(&Op::CommitDone);
    }
    world.step(&Op::Up);
    world.step(&Op::Load);
    world.step(&Op::Answer(1, false));
    world.step(&Op::CommitDone);
    for _ in 0..WINDOW + 2 {
        world.step(&Op::Load);
        world.step(&Op::Puback);
    }
    let at = lanes_of(&world).iter().position(|which| *which == 1);
    assert!(
        at.is_some_and(|at| at <= WINDOW + 2),
        "{:?}",
        world.published
    );
    world.heal();
}

#[test]
fn an_answer_refused_at_its_response_topic_goes_to_the_devices_own_and_the_device_goes_on() {
    for up_first in [true, false] {
        let mut world = World::new(settings(false, false));
        world.refuses.insert((0, Topic::Response));
        if up_first {
            world.step(&Op::Up);
        }
        world.step(&Op::Answer(0, true));
        world.step(&Op::CommitDone);
        world.step(&Op::Up);
        for _ in 0..6 {
            world.step(&Op::Load);
            world.step(&Op::Puback);
        }
        assert!(world.pubacked.contains(&(ANSWERS, 1)));
        assert!(world.said.is_empty(), "no topic of the device's is refused");
        // From now on at once.
        world.step(&Op::Answer(0, true));
        let (_, item, _) = world.unacked.last().unwrap();
        assert_eq!(item.topic(Lane::Live), Topic::Result);
        world.step(&Op::Send(0));
        assert!(world.commit.is_none(), "its data goes on as live data");
        world.heal();
    }
}

#[test]
fn answers_that_the_broker_refuses_wait_on_disk_and_hold_up_nobody() {
    let mut world = World::new(settings(false, false));
    world.refuses.insert((0, Topic::Result));
    world.step(&Op::Up);
    world.step(&Op::Answer(0, false));
    world.step(&Op::Puback);
    assert!(world.safe.is_empty());
    world.step(&Op::CommitDone);
    assert_eq!(world.safe.len(), 1, "on disk it is safe");
    world.step(&Op::Load);
    assert!(world.unacked.is_empty(), "its topic rests");
    world.step(&Op::Send(0));
    assert_eq!(world.unacked.len(), 1, "data of the device goes on");
    world.heal();
}

#[test]
fn a_commit_is_held_back_while_others_come_and_not_for_long() {
    let mut world = World::new(Settings {
        hold_back: HOLD_BACK,
        ..settings(false, false)
    });
    world.step(&Op::Send(0));
    assert!(world.commit.is_some(), "alone: at once");
    world.step(&Op::Send(1));
    world.step(&Op::CommitDone);
    assert!(world.commit.is_none());
    world.step(&Op::Send(2));
    world.step(&Op::Wait(1));
    assert!(world.commit.is_none());
    let due = world.lanes.next_deadline().unwrap();
    assert!(due <= world.now.mono + HOLD_BACK);
    world.step(&Op::Wait(5));
    assert_eq!(world.commit.as_ref().unwrap().1.len(), 2);
    world.step(&Op::CommitDone);
    assert_eq!(world.acked, [1, 1, 1]);
}

#[test]
fn a_healthy_uplink_never_touches_the_disk() {
    let mut world = World::new(settings(false, false));
    world.step(&Op::Up);
    for n in 0..100 {
        world.step(&Op::Send(n % DEVICES));
        world.step(&Op::Puback);
        assert!(world.commit.is_none());
    }
    assert!(world.published.iter().all(|(_, lane)| *lane == Lane::Live));
    assert_eq!(world.acked.iter().sum::<u64>(), 100);
}

#[test]
fn what_is_unacked_at_a_disconnect_is_committed_in_the_order_of_arrival_and_then_acked() {
    let mut world = World::new(settings(false, false));
    world.step(&Op::Up);
    for _ in 0..6 {
        world.step(&Op::Send(0));
    }
    world.step(&Op::Down(false));
    world.step(&Op::Send(0));
    let first = world
        .commit
        .as_ref()
        .unwrap()
        .1
        .iter()
        .map(|item| id_of(item).1);
    assert_eq!(first.collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6]);
    assert_eq!(world.acked[0], 0);
    world.step(&Op::CommitDone);
    assert_eq!(world.acked[0], 6);
    world.step(&Op::CommitDone);
    assert_eq!(world.acked[0], 7);
}

#[test]
fn an_overdue_puback_sends_the_lane_to_disk_and_its_late_arrival_doubles_nothing() {
    let mut world = World::new(settings(false, false));
    world.step(&Op::Up);
    for _ in 0..6 {
        world.step(&Op::Send(0));
    }
    world.step(&Op::Wait(10_000));
    world.step(&Op::CommitDone);
    assert_eq!(world.acked[0], 6, "acked from disk");
    world.heal();
    assert_eq!(world.published.len(), 6);
}

#[test]
fn a_disk_that_hangs_holds_up_nothing_that_the_broker_takes_and_nothing_goes_twice() {
    let mut world = World::new(settings(false, false));
    world.step(&Op::Send(0));
    world.step(&Op::Up);
    world.step(&Op::Send(0));
    world.step(&Op::Puback);
    assert_eq!(world.acked[0], 0, "the first one waits for the disk");
    world.step(&Op::Wait(15_000));
    assert!(world.lanes.disk_hangs(world.now.mono));
    while !world.unacked.is_empty() {
        world.step(&Op::Puback);
    }
    assert_eq!(world.acked[0], 2);
    world.step(&Op::Send(0));
    world.step(&Op::Puback);
    assert_eq!(world.acked[0], 3);
    world.heal();
    assert_eq!(world.published.len(), 3);
}

#[test]
fn a_disk_that_hangs_after_it_failed_is_waited_for_without_a_tick_that_is_past() {
    let mut world = World::new(settings(false, false));
    world.step(&Op::Send(0));
    world.step(&Op::CommitFails(false));
    world.step(&Op::Wait(2_000));
    assert!(world.commit.is_some(), "tried again");
    world.step(&Op::Wait(15_000));
    assert!(world.lanes.disk_hangs(world.now.mono));
    assert_eq!(world.lanes.next_deadline(), None);
    world.heal();
}

#[test]
fn live_batches_go_out_at_once_while_a_backlog_drains() {
    let mut world = World::new(settings(false, false));
    for _ in 0..50 {
        world.step(&Op::Send(0));
        world.step(&Op::CommitDone);
    }
    world.step(&Op::Up);
    world.step(&Op::Load);
    world.step(&Op::Puback);
    world.step(&Op::Send(1));
    world.step(&Op::Puback);
    world.step(&Op::Send(1));
    let live: Vec<_> = world
        .published
        .iter()
        .filter(|(_, lane)| *lane == Lane::Live)
        .collect();
    assert_eq!(live.len(), 2, "{:?}", world.published);
    assert!(world.lanes.backlog().batches() > 40);
}

#[test]
fn with_the_disk_dead_and_the_uplink_up_live_data_still_flows() {
    let mut world = World::new(settings(false, false));
    world.step(&Op::Send(0));
    world.step(&Op::CommitFails(false));
    world.step(&Op::Up);
    world.step(&Op::Send(0));
    world.step(&Op::Puback);
    world.step(&Op::Puback);
    assert_eq!(world.acked[0], 2);
    assert!(world.commit.is_none());
}

#[test]
fn a_broker_that_forgets_pubacks_is_asked_for_a_new_connection() {
    let mut world = World::new(settings(false, false));
    world.step(&Op::Up);
    world.step(&Op::Send(0));
    for _ in 0..8 {
        world.step(&Op::CommitDone);
        world.step(&Op::Wait(10_000));
    }
    assert!(!world.up, "Reconnect was asked for");
    world.heal();
    assert_eq!(world.published.len(), 2);
}

#[test]
fn in_order_goes_back_to_memory_under_a_steady_stream() {
    let mut world = World::new(settings(false, true));
    for _ in 0..20 {
        world.step(&Op::Send(0));
    }
    world.step(&Op::CommitDone);
    world.step(&Op::Up);
    for _ in 0..200 {
        world.step(&Op::Send(0));
        world.step(&Op::CommitDone);
        world.step(&Op::Load);
        for _ in 0..2 {
            world.step(&Op::Puback);
        }
    }
    assert_eq!(world.published.last().unwrap().1, Lane::Live);
    world.heal();
}

#[test]
fn after_a_refused_batch_no_later_one_of_that_connection_is_taken() {
    let mut world = World::new(Settings {
        refuse: true,
        ..settings(false, false)
    });
    world.step(&Op::Send(0));
    world.step(&Op::CommitFails(true));
    let batch = |seq| Batch {
        device: device(0),
        stream: "s".into(),
        seq: Some(seq),
        received: Moment::at(1e9),
        readings: 1,
        encoding: Encoding::Cbor,
        frame: Bytes::from_static(b"x"),
    };
    let arrive = |world: &mut World, conn, stream, seq| {
        let mut out = Vec::new();
        let event = Event::Arrived(Arrival {
            resolved: 100,
            conn,
            stream,
            batch: batch(seq),
            content: Content(seq),
        });
        world.lanes.apply(world.now, event, &mut out);
        out
    };
    let stream = world.streams[0];
    // It was told when its batch found no room.
    assert!(world.turned_away);
    assert!(arrive(&mut world, 0, stream, 2).is_empty());
    world.lanes.detach(0);
    let other = world
        .lanes
        .streams
        .attach(8, &device(0), Some("s".into()), || unreachable!());
    let refused = arrive(&mut world, 8, other.stream, 2);
    assert!(
        matches!(refused[..], [Action::Refuse { conn: 8 }]),
        "{refused:?}"
    );
    world.step(&Op::Up);
    assert!(arrive(&mut world, 8, other.stream, 3).is_empty());
    world.lanes.detach(8);
    let again = world
        .lanes
        .streams
        .attach(9, &device(0), Some("s".into()), || unreachable!());
    assert_eq!(again.taken, 1, "neither 2 nor 3 was taken");
    let taken = arrive(&mut world, 9, again.stream, 2);
    assert!(matches!(taken[..], [Action::Publish { .. }]), "{taken:?}");
}

#[test]
fn a_batch_that_cannot_be_published_on_its_way_send_to_disk_leaves_no_weight_behind() {
    let mut world = World::new(settings(false, false));
    world.step(&Op::Up);
    world.step(&Op::Send(0));
    let (token, ..) = world.unacked[0];
    world.step(&Op::Wait(10_000));
    assert!(
        world.lanes.to_commit_bytes > 0,
        "overdue, so it goes to the disk"
    );
    let mut out = Vec::new();
    let event = Event::Unpublishable {
        epoch: world.epoch,
        token,
        reason: GapReason::TooLarge,
    };
    world.lanes.apply(world.now, event, &mut out);
    assert!(matches!(out[0], Action::Lost(_)), "{out:?}");
    let (ticket, ..) = world.commit.take().unwrap();
    let loc = Loc {
        group: GroupId(1),
        index: 0,
    };
    let placed = vec![loc];
    world
        .lanes
        .apply(world.now, Event::Committed { ticket, placed }, &mut out);
    assert_eq!(world.lanes.to_commit_bytes, 0);
}

/// Whether a batch that was stored at `then` is dropped for its age when it is read at `now`.
fn expires(then: Moment, now: Moment) -> bool {
    let mut world = World::new(Settings {
        max_age: Duration::from_secs(3_600),
        ..settings(false, false)
    });
    world.now.moment = then;
    world.step(&Op::Send(0));
    world.step(&Op::CommitDone);
    world.now.moment = now;
    world.step(&Op::Up);
    let (after, replies, _) = world.load.take().unwrap();
    let event = Event::Loaded {
        groups: world.read(after, replies),
        again: false,
    };
    let mut out = Vec::new();
    world.lanes.apply(world.now, event, &mut out);
    out.iter().any(
        |action| matches!(action, Action::Publish { item, .. } if matches!(**item, Item::Gap(_))),
    )
}

/// Two batches in one group, of which the broker has `had`; then both are read at an age of two
/// hours, an hour too old.
fn an_old_group(had: usize) -> World {
    let mut world = World::new(Settings {
        max_age: Duration::from_secs(3_600),
        ..settings(false, false)
    });
    world.apply(Event::Opened {
        depth: Depth::default(),
    });
    let boot = Boot::from_bytes([1; 16]);
    let moment = |uptime| Moment {
        wall: 1e9,
        uptime,
        boot,
        synced: true,
    };
    world.now.moment = moment(0.0);
    // The first commit is of a batch of another device, so that two wait for the second one.
    world.step(&Op::Send(1));
    world.step(&Op::Send(0));
    world.step(&Op::Send(0));
    world.step(&Op::CommitDone);
    world.step(&Op::Wait(1_000));
    world.step(&Op::CommitDone);
    world.step(&Op::Up);
    load_all(&mut world);
    world.step(&Op::Puback);
    (0..had).for_each(|_| world.step(&Op::Puback));
    world.step(&Op::Down(false));
    world.now.moment = moment(7_200.0);
    world.step(&Op::Up);
    load_all(&mut world);
    world
}

fn load_all(world: &mut World) {
    while world.load.is_some() {
        world.step(&Op::LoadReads);
        world.step(&Op::Load);
    }
}

/// First and last number and batches of the gap records in flight.
fn gaps_in_flight(world: &World) -> Vec<(Option<u64>, Option<u64>, u64)> {
    let items = world.unacked.iter().map(|(_, item, _)| &**item);
    items
        .filter_map(|item| match item {
            Item::Gap(gap) => Some((gap.from, gap.to, gap.batches)),
            Item::Batch(_) | Item::Reply(_) => None,
        })
        .collect()
}

#[test]
fn a_gap_record_for_age_is_of_what_the_broker_does_not_have() {
    assert_eq!(gaps_in_flight(&an_old_group(0)), [(Some(1), Some(2), 2)]);
    assert_eq!(gaps_in_flight(&an_old_group(1)), [(Some(2), Some(2), 1)]);
    assert_eq!(gaps_in_flight(&an_old_group(2)), []);
}

#[test]
fn batches_stay_in_the_backlog_until_the_gap_record_of_their_age_is_there() {
    let mut world = an_old_group(0);
    assert_eq!(world.lanes.backlog().batches(), 2);
    // It is lost on its way, and the clock has been set right meanwhile: they are not old.
    world.step(&Op::Down(false));
    world.now.moment.uptime = 60.0;
    world.step(&Op::Up);
    load_all(&mut world);
    assert_eq!(gaps_in_flight(&world), []);
    assert_eq!(world.unacked.len(), 2);
    (0..2).for_each(|_| world.step(&Op::Puback));
    assert!(world.disk.is_empty() && world.lanes.backlog().batches() == 0);
}

#[test]
fn a_batch_expires_by_what_is_known_of_its_age_and_by_nothing_else() {
    let boot = |n| Boot::from_bytes([n; 16]);
    let moment = |boot, uptime, wall, synced| Moment {
        wall,
        uptime,
        boot,
        synced,
    };
    // Within one boot the wall clock may do what it likes.
    for set_by in [-1e9, -1e4, 0.0, 1e4, 1e9] {
        for synced in [false, true] {
            let then = moment(boot(1), 100.0, 1.7e9, synced);
            let after = |age| moment(boot(1), 100.0 + age, 1.7e9 + age + set_by, true);
            assert!(!expires(then, after(3_500.0)), "{set_by}");
            assert!(expires(then, after(3_700.0)), "{set_by}");
        }
    }
    // Across boots it takes two stamps that can be trusted.
    for (then_synced, now_synced) in [(false, false), (false, true), (true, false), (true, true)] {
        let then = moment(boot(1), 1e6, 1.7e9, then_synced);
        let after = |age| moment(boot(2), 100.0, 1.7e9 + age, now_synced);
        assert!(!expires(then, after(3_500.0)));
        assert!(!expires(then, after(-1e9)));
        assert_eq!(expires(then, after(3_700.0)), then_synced && now_synced);
    }
}

#[test]
fn a_spool_that_was_full_takes_batches_in_the_next_outage_once_it_has_room() {
    let mut world = World::new(Settings {
        refuse: true,
        ..settings(false, false)
    });
    world.step(&Op::Send(0));
    world.step(&Op::CommitFails(true));
    // With the uplink there nothing is left to be stored, so no commit tells of the room.
    world.step(&Op::Up);
    world.step(&Op::Puback);
    assert_eq!(world.acked[0], 1);
    world.apply(Event::Writable);
    world.step(&Op::Down(false));
    // The device that was turned away is not back yet.
    world.step(&Op::Send(1));
    world.step(&Op::Wait(2_000));
    world.step(&Op::CommitDone);
    assert_eq!(world.acked[1], 1);
}

#[test]
fn in_order_what_waits_for_a_hanging_disk_is_not_overtaken_when_its_device_is_refused() {
    let mut world = World::new(settings(false, true));
    (0..2).for_each(|_| world.step(&Op::Send(0)));
    world.step(&Op::CommitDone);
    world.step(&Op::Up);
    load_all(&mut world);
    world.step(&Op::Send(0));
    world.step(&Op::Wait(10_000));
    world.step(&Op::HangsUpOn);
    world.step(&Op::Up);
    world.step(&Op::Send(0));
    world.heal();
}

/// Batches of device 1 that are published before anything is acknowledged, while all of device 0
/// is refused.
fn refused_beside(write_always: bool, in_order: bool, topics: &[Topic]) -> World {
    let mut world = World::new(settings(write_always, in_order));
    for topic in topics {
        world.step(&Op::Refuses(0, *topic, true));
    }
    world.step(&Op::Up);
    world
}

fn settle_down(world: &mut World) {
    for _ in 0..50 {
        world.step(&Op::CommitDone);
        world.step(&Op::Load);
        world.step(&Op::Puback);
    }
}

const ALL: [Topic; 3] = [Topic::Data, Topic::History, Topic::Gap];

#[test]
fn a_refused_batch_is_acked_once_it_is_stored_and_arrives_when_the_refusal_ends() {
    for (write_always, in_order) in [(false, false), (true, false), (false, true), (true, true)] {
        let mut world = refused_beside(write_always, in_order, &ALL);
        world.step(&Op::Send(0));
        assert_eq!(world.acked[0], 0);
        world.step(&Op::Puback);
        assert_eq!(world.acked[0], 0, "a refusal is not safety");
        settle_down(&mut world);
        assert_eq!(world.acked[0], 1);
        assert!(world.pubacked.is_empty());
        assert!(!world.said.is_empty());
        world.heal();
        // Whether live data is taken again shows with the next batch.
        assert!(
            world.said.iter().all(|key| key.topic == Topic::Data),
            "{:?}",
            world.said
        );
        assert!(world.unwanted.is_empty());
    }
}

#[test]
fn beside_a_refused_device_the_others_go_out_live_and_never_touch_the_disk() {
    let mut world = refused_beside(false, false, &ALL);
    world.step(&Op::Send(0));
    settle_down(&mut world);
    let stored = |world: &World| {
        let items = world.disk.values().flatten();
        items.filter(|item| id_of(item).0 != 0).count()
    };
    for n in 1..40 {
        world.step(&Op::Send(0));
        world.step(&Op::Send(1));
        settle_down(&mut world);
        assert_eq!((world.acked[1], stored(&world)), (n, 0));
    }
    let published = |d| {
        world
            .published
            .iter()
            .filter(move |((of, _), _)| *of == d)
            .count()
    };
    assert!(
        published(0) <= 2,
        "one of each topic was tried: {}",
        published(0)
    );
    assert!(
        world
            .published
            .iter()
            .all(|((d, _), lane)| *d == 0 || *lane == Lane::Live)
    );
    world.heal();
}

#[test]
fn in_order_a_refused_device_holds_up_nobody_for_long() {
    let mut world = refused_beside(false, true, &ALL);
    for _ in 0..40 {
        world.step(&Op::Send(0));
        settle_down(&mut world);
    }
    for n in 1..20 {
        world.step(&Op::Send(1));
        assert!(
            world
                .unacked
                .iter()
                .any(|(_, item, _)| id_of(item) == (1, n)),
            "{n} waits"
        );
        settle_down(&mut world);
        assert_eq!(world.acked[1], n);
    }
    world.heal();
}

#[test]
fn where_only_live_data_is_refused_it_goes_out_as_history() {
    let mut world = refused_beside(false, false, &[Topic::Data]);
    for _ in 0..10 {
        world.step(&Op::Send(0));
        settle_down(&mut world);
    }
    assert_eq!(world.pubacked.len(), 10);
    assert_eq!(world.disk.len(), 0);
    let lives = world
        .published
        .iter()
        .filter(|(_, lane)| *lane == Lane::Live);
    assert_eq!(lives.count(), 1, "tried once");
    world.heal();
}

#[test]
fn where_only_history_is_refused_live_data_goes_out_at_once() {
    let mut world = World::new(settings(false, false));
    (0..5).for_each(|_| world.step(&Op::Send(0)));
    settle_down(&mut world);
    world.step(&Op::Refuses(0, Topic::History, true));
    world.step(&Op::Up);
    settle_down(&mut world);
    for n in 6..20 {
        world.step(&Op::Send(0));
        world.step(&Op::Puback);
        assert!(world.pubacked.contains(&(0, n)), "{n}");
    }
    assert_eq!(world.lanes.backlog().batches(), 5);
    world.heal();
}

#[test]
fn a_backlog_that_is_refused_is_not_kept_in_memory_and_is_probed_with_growing_pauses() {
    let mut world = World::new(settings(false, false));
    for _ in 0..200 {
        world.step(&Op::Send(0));
        world.step(&Op::CommitDone);
    }
    world.step(&Op::Refuses(0, Topic::History, true));
    world.step(&Op::Up);
    settle_down(&mut world);
    settle_down(&mut world);
    settle_down(&mut world);
    assert!(!world.lanes.backlog().has_next() && world.load.is_none());
    let before = world.published.len();
    // An hour: after 10 s, 20 s, 40 s and so on, eight at most.
    for _ in 0..3_600 {
        world.step(&Op::Wait(1_000));
        settle_down(&mut world);
    }
    let probes = world.published.len() - before;
    assert!((6..=9).contains(&probes), "{probes} probes in an hour");
    world.heal();
}

#[test]
fn when_a_topic_is_allowed_again_its_backlog_arrives_in_order() {
    for in_order in [false, true] {
        let mut world = refused_beside(false, in_order, &ALL);
        for n in 0..60 {
            world.step(&Op::Send(0));
            // Some probes are refused in between.
            world.step(&Op::Wait(n * 1_000));
            settle_down(&mut world);
        }
        for topic in ALL {
            world.step(&Op::Refuses(0, topic, false));
        }
        let before = world.published.len();
        for _ in 0..200 {
            world.step(&Op::Wait(60_000));
            settle_down(&mut world);
        }
        let arrived: Vec<_> = world.published[before..]
            .iter()
            .filter(|(_, lane)| *lane == Lane::History)
            .map(|(id, _)| id.1)
            .collect();
        assert_eq!(arrived, (1..=60).collect::<Vec<_>>());
        world.heal();
    }
}

#[test]
fn what_was_published_from_memory_and_is_refused_as_history_arrives_later() {
    // Nothing else is stored, so nothing makes the drain look again.
    let mut world = World::new(Settings {
        hold_back: Duration::from_millis(5),
        device_window: 2,
        ..settings(true, false)
    });
    for op in [
        Op::Up,
        Op::Send(0),
        Op::Send(0),
        Op::Wait(995),
        Op::Wait(10_000),
        Op::Refuses(0, Topic::History, true),
        Op::CommitDone,
        Op::Puback,
    ] {
        world.step(&op);
    }
    world.heal();
}

#[test]
fn one_payload_that_is_refused_does_not_stand_for_all_of_its_device() {
    let mut world = World::new(settings(false, false));
    (0..60).for_each(|_| world.step(&Op::Send(0)));
    settle_down(&mut world);
    world.bad = Some((0, 1));
    world.step(&Op::Up);
    for _ in 0..600 {
        world.step(&Op::Wait(1_000));
        settle_down(&mut world);
    }
    assert_eq!(world.pubacked.len(), 59, "all but the one");
    world.bad = None;
    world.heal();
}

#[test]
fn what_is_refused_until_it_is_too_old_ends_as_a_gap_with_that_reason() {
    let mut world = World::new(Settings {
        max_age: Duration::from_secs(3_600),
        ..settings(false, false)
    });
    let boot = Boot::from_bytes([1; 16]);
    let moment = |uptime| Moment {
        wall: 1e9,
        uptime,
        boot,
        synced: true,
    };
    world.now.moment = moment(0.0);
    (0..6).for_each(|_| world.step(&Op::Send(0)));
    settle_down(&mut world);
    world.step(&Op::Refuses(0, Topic::History, true));
    world.step(&Op::Refuses(0, Topic::Gap, true));
    world.step(&Op::Up);
    settle_down(&mut world);
    world.now.moment = moment(7_200.0);
    for _ in 0..20 {
        world.step(&Op::Wait(600_000));
        settle_down(&mut world);
    }
    assert_eq!(
        world.lanes.backlog().batches(),
        6,
        "the record is refused as well"
    );
    world.step(&Op::Refuses(0, Topic::Gap, false));
    for _ in 0..20 {
        world.step(&Op::Wait(600_000));
        settle_down(&mut world);
    }
    assert_eq!(world.lanes.backlog().batches(), 0);
    assert!(world.disk.is_empty());
    assert_eq!(world.reasons, BTreeSet::from(["refused"]));
}

#[test]
fn with_the_disk_dead_a_refused_device_is_turned_away_and_nobody_else() {
    let mut world = World::new(Settings {
        live_batches: Settings::LIVE_BATCHES,
        live_bytes: Settings::LIVE_BYTES,
        held_bytes: Settings::HELD_BYTES,
        ..settings(false, false)
    });
    world.frame = Bytes::from(vec![0; 60_000]);
    world.step(&Op::Refuses(0, Topic::Data, true));
    world.step(&Op::Up);
    world.step(&Op::Send(0));
    world.step(&Op::Puback);
    world.step(&Op::CommitFails(false));
    let mut turned_away = false;
    for n in 1..400 {
        world.step(&Op::Send(1));
        world.step(&Op::Puback);
        assert_eq!(world.acked[1], n);
        if !turned_away {
            world.send_raw(0, n + 1);
            turned_away = world.turned_away;
        }
        assert!(world.lanes.has_room(), "{n}");
    }
    assert!(turned_away);
}

/// A link that takes so many bytes a second, in the order of sending.
#[test]
fn beside_seven_greedy_devices_on_a_slow_link_one_batch_waits_for_one_largest_payload() {
    const LINK: f64 = 125_000.0;
    const BIG: usize = 800_000;
    const SMALL: usize = 1_000;
    let mut lanes = Lanes::new(Settings {
        window: 100,
        live_batches: Settings::LIVE_BATCHES,
        live_bytes: Settings::LIVE_BYTES,
        held_bytes: Settings::HELD_BYTES,
        ..settings(false, false)
    });
    let begin = Instant::now();
    let at = |ms: u64| Now {
        mono: begin + Duration::from_millis(ms),
        moment: Moment::at(1e9),
    };
    let streams: Vec<_> = (0..8)
        .map(|d| {
            lanes
                .streams
                .attach(d, &device(d as usize), Some("s".into()), || unreachable!())
        })
        .map(|attached| attached.stream)
        .collect();
    let mut out = Vec::new();
    lanes.apply(at(0), Event::Up { epoch: 1 }, &mut out);
    let mut link: VecDeque<(u64, u64)> = VecDeque::new();
    let (mut free, mut group) = (0.0_f64, 1);
    let mut seqs = [0u64; 8];
    let mut unsettled = [0u32; 8];
    let mut sent: BTreeMap<u64, u64> = BTreeMap::new();
    let mut waits = Vec::new();
    let mut commit = None;
    for now in 0..120_000_u64 {
        let mut events = Vec::new();
        for d in 0..8 {
            let greedy = d < 7;
            let due = if greedy {
                now % 100 == 0 && unsettled[d] < 4
            } else {
                now % 1_000 == 0
            };
            if !due {
                continue;
            }
            seqs[d] += 1;
            unsettled[d] += 1;
            if !greedy {
                sent.insert(seqs[d], now);
            }
            let frame = Bytes::from(vec![0; if greedy { 60_000 } else { 300 }]);
            events.push(Event::Arrived(Arrival {
                conn: d as u64,
                stream: streams[d],
                resolved: if greedy { BIG } else { SMALL },
                content: Content(seqs[d]),
                batch: Batch {
                    device: device(d),
                    stream: "s".into(),
                    seq: Some(seqs[d]),
                    received: Moment::at(1e9),
                    readings: 1,
                    encoding: Encoding::Cbor,
                    frame,
                },
            }));
        }
        while link.front().is_some_and(|(done, _)| *done <= now) {
            let (_, token) = link.pop_front().unwrap();
            events.push(Event::Acked { epoch: 1, token });
        }
        if let Some((ticket, len)) = commit.take() {
            let placed = (0..len)
                .map(|index| Loc {
                    group: GroupId(group),
                    index,
                })
                .collect();
            group += 1;
            events.push(Event::Committed { ticket, placed });
        }
        events.push(Event::Tick);
        for event in events {
            lanes.apply(at(now), event, &mut out);
            for action in out.drain(..) {
                match action {
                    Action::Publish { token, item, .. } => {
                        let bytes = if id_of(&item).0 < 7 { BIG } else { SMALL };
                        free = free.max(now as f64) + bytes as f64 / LINK * 1_000.0;
                        link.push_back((free as u64 + 50, token));
                    }
                    Action::Commit { ticket, items, .. } => {
                        let honest = items.iter().any(|item| id_of(item).0 == 7);
                        assert!(!honest, "the honest one's goes to the disk at {now} ms");
                        commit = Some((ticket, u32::try_from(items.len()).unwrap()));
                    }
                    Action::Settle { conn, settled, ack } => {
                        let d = usize::try_from(conn).unwrap();
                        unsettled[d] -= settled;
                        while d == 7
                            && let Some((seq, since)) = sent.pop_first()
                        {
                            if ack.is_none_or(|ack| ack < seq) {
                                sent.insert(seq, since);
                                break;
                            }
                            waits.push(now - since);
                        }
                    }
                    Action::Load { .. } => {}
                    other => panic!("{other:?}"),
                }
            }
        }
    }
    let longest = waits.iter().max().unwrap();
    assert!(waits.len() > 100, "{}", waits.len());
    // One largest payload, and a second for the round, the way there and back, and one of ours.
    let bound = (BIG as f64 / LINK * 1_000.0) as u64 + 1_000;
    assert!(*longest <= bound, "{longest} ms of {bound}");
}

#[test]
fn in_order_what_is_stored_and_waits_in_memory_goes_before_what_has_to_be_read() {
    use Op::{CommitDone, CommitFails, Load, Puback, Send, Up, Wait};
    let mut world = World::new(settings(true, true));
    let six = [
        Send(0),
        Send(0),
        Send(0),
        CommitFails(false),
        Send(0),
        Send(0),
        Send(0),
    ];
    six.iter().for_each(|op| world.step(op));
    let then = [
        Wait(1_000),
        Up,
        Send(0),
        CommitDone,
        Wait(10_000),
        CommitDone,
        Puback,
        Load,
    ];
    then.iter().for_each(|op| world.step(op));
    world.step(&Send(1));
    world.step(&CommitFails(false));
    world.heal();
}
