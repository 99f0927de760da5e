//! What `[[reduce]]` leaves out is safe by decision, and nothing else becomes safe by it.

use std::collections::VecDeque;

use serde_json::json;

use super::*;
use crate::reduce::{Deadband, ReduceRule, Rules};

const CONN: u64 = 1;

fn lanes(settings: Settings) -> Lanes {
    let rules = Rules::new(vec![ReduceRule {
        device: "*".to_owned(),
        name: "*".to_owned(),
        min_interval: Duration::ZERO,
        deadband: Some(Deadband::Absolute(0.0)),
        max_interval: Duration::from_secs(30 * 86_400),
    }]);
    Lanes::new(settings).with_reducer(Reducer::new(rules))
}

/// One device, a broker, and a disk that takes what it is given.
struct Run {
    lanes: Lanes,
    now: Now,
    stream: StreamId,
    epoch: u64,
    seq: u64,
    acked: u64,
    settled: u64,
    conflicts: Vec<u64>,
    flying: VecDeque<(u64, Arc<Item>)>,
    commit: Option<(u64, Vec<Arc<Item>>)>,
    published: Vec<Arc<Item>>,
    stored: Vec<Arc<Item>>,
    group: u64,
}

impl Run {
    fn new(settings: Settings) -> Self {
        let mut lanes = lanes(settings);
        let attached = lanes
            .streams
            .attach(CONN, &device(0), Some("s".into()), || unreachable!());
        let mut run = Self {
            lanes,
            now: Now {
                mono: Instant::now(),
                moment: Moment::at(1.7e9),
            },
            stream: attached.stream,
            epoch: 0,
            seq: 0,
            acked: 0,
            settled: 0,
            conflicts: Vec::new(),
            flying: VecDeque::new(),
            commit: None,
            published: Vec::new(),
            stored: Vec::new(),
            group: 0,
        };
        run.apply(Event::Opened {
            depth: Depth::default(),
        });
        run
    }

    fn apply(&mut self, event: Event) {
        let mut out = Vec::new();
        self.lanes.apply(self.now, event, &mut out);
        for action in out {
            match action {
                Action::Publish { token, item, .. } => {
                    self.published.push(item.clone());
                    self.flying.push_back((token, item));
                }
                Action::Commit { ticket, items, .. } => self.commit = Some((ticket, items)),
                Action::Settle { settled, ack, .. } => {
                    self.settled += u64::from(settled);
                    self.acked = self.acked.max(ack.unwrap_or(0));
                }
                Action::Conflict { refused, .. } => self.conflicts.push(refused.seq),
                _ => {}
            }
        }
    }

    fn up(&mut self) {
        self.epoch += 1;
        self.apply(Event::Up { epoch: self.epoch });
    }

    fn down(&mut self) {
        self.flying.clear();
        self.apply(Event::Down);
    }

    fn send_as(&mut self, seq: u64, values: &[i64]) {
        let records = values.iter().enumerate();
        let records = records.map(|(at, value)| json!({"n": format!("n{at}"), "v": value}));
        let pack: Vec<_> = records.collect();
        let frame = json!({"data": {"seq": seq, "pack": pack}}).to_string();
        let content = values.iter().fold(7, |sum, value| sum * 31 + *value as u64);
        self.apply(Event::Arrived(Arrival {
            resolved: 60 * values.len(),
            conn: CONN,
            stream: self.stream,
            batch: Batch {
                device: device(0),
                stream: "s".into(),
                seq: Some(seq),
                received: self.now.moment,
                readings: u32::try_from(values.len()).unwrap(),
                encoding: Encoding::Json,
                frame: frame.into_bytes().into(),
            },
            content: Content(content),
        }));
    }

    fn send(&mut self, values: &[i64]) {
        self.seq += 1;
        self.send_as(self.seq, values);
    }

    fn puback(&mut self) -> Option<Arc<Item>> {
        let (token, item) = self.flying.pop_front()?;
        let epoch = self.epoch;
        self.apply(Event::Acked { epoch, token });
        Some(item)
    }

    fn commit_done(&mut self) {
        let Some((ticket, items)) = self.commit.take() else {
            return;
        };
        self.group += 1;
        let group = GroupId(self.group);
        let placed = (0..).zip(&items).map(|(index, _)| Loc { group, index });
        let placed = placed.collect();
        self.stored.extend(items);
        self.apply(Event::Committed { ticket, placed });
    }

    fn wait(&mut self, time: Duration) {
        self.now.mono += time;
        self.now.moment.wall += time.as_secs_f64();
        self.apply(Event::Tick);
    }
}

fn gap(item: &Item) -> &Gap {
    match item {
        Item::Gap(gap) => gap,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_batch_of_which_nothing_is_left_is_acked_at_once_and_its_number_is_taken() {
    let mut run = Run::new(settings(false, false));
    run.up();
    run.send(&[5]);
    run.puback();
    run.send(&[5]);
    assert_eq!((run.published.len(), run.acked, run.settled), (1, 2, 2));
    assert_eq!(run.lanes.streams.marks()[0].seq, 2);
    assert!(run.lanes.all_safe());
    // The same again is acked again; the number is not free for anything else.
    run.acked = 0;
    run.send_as(2, &[5]);
    assert_eq!((run.acked, run.conflicts.len()), (2, 0));
    run.send_as(2, &[6]);
    assert_eq!((run.conflicts.clone(), run.published.len()), (vec![2], 1));
    // What came again was not counted again.
    assert_eq!(run.lanes.reduced().unwrap().dropped, 1);
}

#[test]
fn it_is_not_acked_before_what_came_before_it_is_safe() {
    let mut run = Run::new(settings(false, false));
    run.up();
    run.send(&[5]);
    run.send(&[5]);
    assert_eq!((run.acked, run.settled), (0, 1));
    run.puback();
    assert_eq!((run.acked, run.settled), (2, 2));
    // The same through the disk.
    run.down();
    run.send(&[6]);
    run.send(&[6]);
    assert_eq!(run.acked, 2);
    run.commit_done();
    assert_eq!((run.acked, run.stored.len()), (4, 1));
}

#[test]
fn only_what_is_left_of_a_batch_is_published_or_stored() {
    let mut run = Run::new(settings(false, false));
    run.up();
    run.send(&[1, 1, 1]);
    run.puback();
    run.send(&[1, 2, 1]);
    assert_eq!(run.published[1].readings(), 1);
    run.down();
    run.send(&[3, 2, 3]);
    run.commit_done();
    run.commit_done();
    let readings: Vec<_> = run.stored.iter().map(|item| item.readings()).collect();
    assert_eq!(readings, [1, 2]);
}

#[test]
fn the_total_comes_after_an_hour_behind_all_that_it_stands_beside_and_at_the_stop() {
    let mut run = Run::new(settings(false, false));
    run.up();
    run.send(&[1]);
    run.puback();
    run.send(&[1]);
    assert!(run.lanes.next_deadline().unwrap() <= run.now.mono + Duration::from_secs(3_600));
    run.wait(Duration::from_secs(3_599));
    assert!(run.flying.is_empty());
    run.wait(Duration::from_secs(1));
    let item = run.puback().unwrap();
    let total = gap(&item);
    assert_eq!(
        (total.from, total.to, total.batches, total.readings),
        (Some(2), Some(2), 1, 1)
    );
    assert_eq!(total.reason, GapReason::Reduced);
    run.send(&[1]);
    run.down();
    run.send(&[2]);
    run.apply(Event::Finish);
    run.commit_done();
    run.commit_done();
    assert_eq!(run.stored.len(), 2);
    assert_eq!(
        (run.stored[0].readings(), gap(&run.stored[1]).to),
        (1, Some(3))
    );
    assert!(run.lanes.all_safe());
}

#[test]
fn a_total_whose_topic_is_refused_does_not_overtake_batches_on_the_way_to_the_disk() {
    let mut run = Run::new(settings(false, false));
    run.up();
    let refuse_gap = |run: &mut Run| {
        let (token, item) = run.flying.pop_back().unwrap();
        assert_eq!(gap(&item).reason, GapReason::Reduced);
        let refusal = refusal(Cause::Reason(0x87));
        let epoch = run.epoch;
        run.apply(Event::Refused {
            epoch,
            token,
            refusal,
        });
    };
    run.send(&[1]);
    run.puback();
    run.send(&[1]);
    run.wait(Duration::from_secs(3_600));
    refuse_gap(&mut run);
    run.commit_done();
    run.send(&[1]);
    run.wait(Duration::from_secs(3_599));
    // In flight and not safe when the second total is due, which goes to the disk.
    run.send(&[2]);
    run.wait(Duration::from_secs(1));
    run.commit_done();
    run.commit_done();
    let stored = &run.stored[1..];
    assert_eq!(stored.len(), 2, "{stored:?}");
    assert_eq!((stored[0].readings(), gap(&stored[1]).to), (1, Some(3)));
}

#[derive(Debug, Clone)]
enum Step {
    Send(Vec<i64>),
    Puback,
    Up,
    Down,
    CommitDone,
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => prop::collection::vec(0..2_i64, 1..4).prop_map(Step::Send),
        6 => Just(Step::Puback),
        1 => Just(Step::Up),
        1 => Just(Step::Down),
        3 => Just(Step::CommitDone),
        1 => (1..4_000_u64).prop_map(Step::Wait),
    ]
}

proptest! {
    /// Whatever was acked has been taken by the broker, is on the disk, or has been left out: and what
    /// is left out of is known from the rule alone.
    #[test]
    fn an_ack_covers_what_is_safe_or_was_left_out_and_a_total_on_disk_no_batch_that_is_not(
        steps in prop::collection::vec(step(), 1..120),
        write_always: bool,
        in_order: bool,
    ) {
        let mut run = Run::new(settings(write_always, in_order));
        let mut last = std::collections::HashMap::new();
        // How many readings of each batch have to arrive.
        let mut kept: Vec<u32> = Vec::new();
        let mut safe = BTreeMap::new();
        for step in steps {
            match step {
                Step::Send(values) => {
                    let mut is_new = |(at, value): (usize, &i64)| last.insert(at, *value) != Some(*value);
                    let new = values.iter().enumerate().filter(|each| is_new(*each)).count();
                    kept.push(u32::try_from(new).unwrap());
                    run.send(&values);
                }
                Step::Puback => {
                    if let Some(item) = run.puback()
                        && let Item::Batch(batch) = &*item
                    {
                        safe.insert(batch.seq.unwrap(), batch.readings);
                    }
                }
                Step::Up if run.flying.is_empty() => run.up(),
                Step::Up => {}
                Step::Down => run.down(),
                Step::CommitDone => run.commit_done(),
                Step::Wait(seconds) => run.wait(Duration::from_secs(seconds)),
            }
            let mut on_disk = 0;
            for item in &run.stored {
                match &**item {
                    Item::Batch(batch) => {
                        safe.insert(batch.seq.unwrap(), batch.readings);
                    }
                    Item::Gap(gap) => on_disk = on_disk.max(gap.to.unwrap()),
                    Item::Reply(_) => {}
                }
            }
            for (seq, kept) in (1..).zip(&kept).filter(|(_, kept)| **kept > 0) {
                if seq <= run.acked || seq <= on_disk {
                    prop_assert_eq!(safe.get(&seq), Some(kept), "number {}", seq);
                }
            }
        }
        let counts = run.lanes.reduced().unwrap();
        prop_assert_eq!(counts.kept, kept.iter().map(|kept| u64::from(*kept)).sum::<u64>());
        prop_assert_eq!(counts.dropped, kept.iter().filter(|kept| **kept == 0).count() as u64);
    }
}
