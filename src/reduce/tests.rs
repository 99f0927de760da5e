#![allow(clippy::unwrap_used)]
use std::collections::BTreeMap;
use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::reading::{Encoding, GapReason};

/// Unix seconds when the tests begin.
const WALL: f64 = 1_700_000_000.0;

fn rule(deadband: Option<Deadband>) -> ReduceRule {
    ReduceRule {
        device: "*".to_owned(),
        name: "*".to_owned(),
        min_interval: Duration::ZERO,
        deadband,
        max_interval: Duration::from_secs(3_600),
    }
}

fn at_least(seconds: u64) -> ReduceRule {
    ReduceRule {
        min_interval: Duration::from_secs(seconds),
        ..rule(None)
    }
}

struct Hub {
    reducer: Reducer,
    began: Instant,
    seq: u64,
}

impl Hub {
    fn new(rules: Vec<ReduceRule>) -> Self {
        Self {
            reducer: Reducer::new(Rules::new(rules)).unwrap(),
            began: Instant::now(),
            seq: 0,
        }
    }

    /// A batch that arrives so many seconds after the beginning.
    fn batch(&mut self, device: &str, after: f64, pack: &Value) -> Batch {
        self.seq += 1;
        let frame = json!({"data": {"seq": self.seq, "pack": pack}});
        Batch {
            device: device.into(),
            stream: "s".into(),
            seq: Some(self.seq),
            received: Moment {
                uptime: 100.0 + after,
                ..Moment::at(WALL + after)
            },
            readings: u32::try_from(pack.as_array().unwrap().len()).unwrap(),
            encoding: Encoding::Json,
            frame: frame.to_string().into_bytes().into(),
        }
    }

    fn at(&self, after: f64) -> Instant {
        self.began + Duration::from_secs_f64(after)
    }

    /// How many of the readings are kept.
    fn send(&mut self, device: &str, after: f64, pack: &Value) -> u32 {
        let batch = self.batch(device, after, pack);
        match self.reducer.reduce(&batch, self.at(after)) {
            Selected::All => batch.readings,
            Selected::Nothing => 0,
            Selected::Some(less) => less.readings,
        }
    }

    /// Whether a single value is kept.
    fn keeps(&mut self, after: f64, value: &Value) -> bool {
        let label = match value {
            Value::String(_) => "vs",
            Value::Bool(_) => "vb",
            _ => "v",
        };
        self.send("d", after, &json!([{"n": "a", label: value}])) == 1
    }
}

#[test]
fn a_number_is_kept_when_it_is_away_from_the_last_kept_one_by_more_than_the_deadband() {
    let mut hub = Hub::new(vec![rule(Some(Deadband::Absolute(0.5)))]);
    // What creeps is compared with what was told, not with the one before it.
    for (after, value, kept) in [
        (0.0, 20.0, true),
        (1.0, 20.4, false),
        (2.0, 20.5, false),
        (3.0, 20.6, true),
        (4.0, 20.2, false),
        (5.0, 20.0, true),
    ] {
        assert_eq!(hub.keeps(after, &json!(value)), kept, "{value}");
    }
    let mut hub = Hub::new(vec![rule(Some(Deadband::Percent(10.0)))]);
    for (after, value, kept) in [
        (0.0, -100, true),
        (1.0, -109, false),
        (2.0, -111, true),
        (3.0, 0, true),
        (4.0, 1, true),
        (5.0, 1, false),
    ] {
        assert_eq!(hub.keeps(after, &json!(value)), kept, "{value}");
    }
    let mut hub = Hub::new(vec![rule(Some(Deadband::Absolute(0.0)))]);
    let counter = 1_u64 << 62;
    for (after, value, kept) in [
        (0.0, counter, true),
        (1.0, counter, false),
        (2.0, counter + 1, true),
    ] {
        assert_eq!(hub.keeps(after, &json!(value)), kept, "{value}");
    }
}

#[test]
fn numbers_come_no_sooner_than_the_shortest_interval_by_their_own_times() {
    let mut hub = Hub::new(vec![at_least(60)]);
    // A device that was away tells its last ten minutes at once.
    let pack: Vec<_> = (0..61)
        .map(|n| json!({"n": "a", "v": n, "t": -600 + 10 * n}))
        .collect();
    assert_eq!(hub.send("d", 0.0, &json!(pack)), 11);
    let given = |n: f64| json!([{"n": "b", "v": 1, "t": WALL + n}]);
    assert_eq!(hub.send("d", 1.0, &given(-600.0)), 1);
    assert_eq!(hub.send("d", 2.0, &given(-541.0)), 0);
    assert_eq!(hub.send("d", 3.0, &given(-540.0)), 1);
}

#[test]
fn after_the_longest_interval_the_next_one_is_kept_also_when_a_clock_stands_still() {
    let mut hub = Hub::new(vec![rule(Some(Deadband::Absolute(5.0)))]);
    assert!(hub.keeps(0.0, &json!(1)));
    assert!(!hub.keeps(3_599.0, &json!(1)));
    assert!(hub.keeps(3_600.0, &json!(1)));
    assert!(!hub.keeps(3_601.0, &json!(1)));
    let stands = json!([{"n": "clock", "v": 1, "t": WALL}]);
    let kept = [0.0, 1_800.0, 3_600.0, 5_400.0].map(|after| hub.send("d", after, &stands));
    assert_eq!(kept, [1, 0, 1, 0]);
}

#[test]
fn what_is_no_number_is_kept_whenever_it_changes() {
    for rules in [rule(Some(Deadband::Absolute(9.0))), at_least(60)] {
        let mut hub = Hub::new(vec![rules]);
        for (after, value, kept) in [
            (0.0, json!(false), true),
            (1.0, json!(false), false),
            (2.0, json!(true), true),
            (3.0, json!("open"), true),
            (4.0, json!("open"), false),
            (5.0, json!("shut"), true),
            (6.0, json!(1), true),
            (7.0, json!(1), false),
            (8.0, json!(true), true),
        ] {
            assert_eq!(hub.keeps(after, &value), kept, "{value} after {after}");
        }
    }
    // At the pace that was asked for a state is told again; with a deadband only when it changes.
    let mut hub = Hub::new(vec![at_least(60)]);
    assert!(hub.keeps(0.0, &json!(true)) && hub.keeps(60.0, &json!(true)));
    let mut hub = Hub::new(vec![rule(Some(Deadband::Absolute(9.0)))]);
    assert!(hub.keeps(0.0, &json!(true)) && !hub.keeps(60.0, &json!(true)));
}

#[test]
fn what_cannot_be_compared_is_kept() {
    let mut hub = Hub::new(vec![rule(Some(Deadband::Absolute(9.0)))]);
    for (after, record, kept) in [
        (0.0, json!({"n": "a", "u": "Cel", "v": 20}), 1),
        (1.0, json!({"n": "a", "u": "Cel", "v": 20}), 0),
        // Another unit, a sum, a time of the device's own, an older one, the hub's clock again.
        (2.0, json!({"n": "a", "u": "K", "v": 20}), 1),
        (3.0, json!({"n": "a", "u": "K", "v": 20, "s": 1}), 1),
        (4.0, json!({"n": "a", "u": "K", "v": 20}), 1),
        (
            5.0,
            json!({"n": "a", "u": "K", "v": 20, "t": WALL + 5.0}),
            1,
        ),
        (
            6.0,
            json!({"n": "a", "u": "K", "v": 20, "t": WALL + 4.0}),
            1,
        ),
        (
            7.0,
            json!({"n": "a", "u": "K", "v": 20, "t": WALL + 7.0}),
            0,
        ),
        (8.0, json!({"n": "a", "u": "K", "v": 20}), 1),
        (9.0, json!({"n": "a", "u": "K", "v": 20}), 0),
    ] {
        assert_eq!(hub.send("d", after, &json!([record])), kept, "{record}");
    }
}

#[test]
fn a_batch_with_a_time_that_cannot_be_true_is_kept_and_compared_with_nothing() {
    let mut hub = Hub::new(vec![rule(Some(Deadband::Absolute(9.0)))]);
    assert!(hub.keeps(0.0, &json!(1)));
    let wrong =
        json!([{"n": "a", "v": 50, "t": 946_684_800}, {"n": "a", "v": 50, "t": 946_684_801}]);
    assert_eq!(hub.send("d", 1.0, &wrong), 2);
    assert!(!hub.keeps(2.0, &json!(1)));
}

#[test]
fn the_first_rule_that_fits_holds_and_without_one_all_is_kept() {
    let named = |device: &str, name: &str, deadband| ReduceRule {
        device: device.to_owned(),
        name: name.to_owned(),
        ..rule(Some(Deadband::Absolute(deadband)))
    };
    let mut hub = Hub::new(vec![
        named("barn-*", "*/temperature", 1.0),
        named("barn-*", "*", 100.0),
        named("*", "dust", 5.0),
    ]);
    let pack = |temperature: i32, other: i32| json!([{"bn": "in/", "n": "temperature", "v": temperature}, {"n": "dust", "v": other}]);
    assert_eq!(hub.send("barn-1", 0.0, &pack(20, 1)), 2);
    assert_eq!(hub.send("barn-1", 1.0, &pack(22, 99)), 1);
    assert_eq!(hub.send("stable", 0.0, &pack(20, 1)), 2);
    assert_eq!(hub.send("stable", 1.0, &pack(20, 1)), 2);
    let dust = |value: i32| json!([{"n": "dust", "v": value}]);
    let kept = [0, 1, 7].map(|value| hub.send("stable", 2.0, &dust(value)));
    assert_eq!(kept, [1, 0, 1]);
    assert_eq!(hub.reducer.counts().kept, 2 + 1 + 2);
    assert_eq!(hub.reducer.counts().left_out, 1 + 1);
}

#[test]
fn an_hour_after_the_first_reading_was_left_out_of_a_stream_a_record_says_how_many() {
    let mut hub = Hub::new(vec![rule(Some(Deadband::Absolute(9.0)))]);
    let both = json!([{"n": "a", "v": 1}, {"n": "b", "v": 1}]);
    let half = json!([{"n": "a", "v": 1}, {"n": "b", "v": 99}]);
    // Numbers 1 to 4: whole, nothing, a part, nothing.
    let kept = [
        (&both, 2),
        (&both, 0),
        (&half, 1),
        (&json!([{"n": "a", "v": 2}]), 0),
    ];
    for (after, (pack, expected)) in kept.into_iter().enumerate() {
        assert_eq!(hub.send("d", after as f64, pack), expected);
    }
    let due = hub.reducer.next_total().unwrap();
    assert_eq!(due, hub.at(1.0) + totals::HOUR);
    let moment = Moment::at(WALL + 9_999.0);
    assert_eq!(hub.reducer.totals(hub.at(3_600.0), moment, false), []);
    let gaps = hub.reducer.totals(due, moment, false);
    let [gap] = &gaps[..] else {
        panic!("{gaps:?}");
    };
    assert_eq!(
        (gap.from, gap.to, gap.batches, gap.readings),
        (Some(2), Some(4), 2, 4)
    );
    assert_eq!((gap.reason, gap.time), (GapReason::Reduced, WALL + 9_999.0));
    assert_eq!(
        (
            hub.reducer.next_total(),
            hub.reducer.totals(due, moment, true)
        ),
        (None, vec![])
    );
    let counts = Counts {
        kept: 3,
        left_out: 4,
        shortened: 1,
        dropped: 2,
    };
    assert_eq!(hub.reducer.counts(), counts);
}

#[test]
fn memory_is_bounded_and_whoever_makes_up_names_pushes_out_his_own() {
    let mut hub = Hub::new(vec![rule(Some(Deadband::Absolute(9.0)))]);
    let one = json!([{"n": "a", "v": 1}]);
    assert_eq!(hub.send("quiet", 0.0, &one), 1);
    for name in 0..2 * DEVICE_SERIES {
        assert_eq!(
            hub.send("loud", 1.0, &json!([{"n": format!("n{name}"), "v": 1}])),
            1
        );
    }
    assert_eq!(hub.reducer.series, 1 + DEVICE_SERIES);
    assert_eq!(hub.send("quiet", 2.0, &one), 0);
    let last = format!("n{}", 2 * DEVICE_SERIES - 1);
    assert_eq!(hub.send("loud", 2.0, &json!([{"n": last, "v": 1}])), 0);
    let pack: Vec<_> = (0..DEVICE_SERIES)
        .map(|n| json!({"n": format!("n{n}"), "v": 1}))
        .collect();
    for device in 0..SERIES / DEVICE_SERIES + 3 {
        hub.send(&format!("d{device}"), 3.0, &json!(pack));
        assert!(hub.reducer.series <= SERIES);
    }
    // Pushed out: told once more, and from then on as before.
    assert_eq!(
        [4.0, 5.0].map(|after| hub.send("quiet", after, &one)),
        [1, 0]
    );
    let counted: usize = hub
        .reducer
        .devices
        .values()
        .map(|device| device.series.len())
        .sum();
    assert_eq!(counted, hub.reducer.series);
    assert_eq!(hub.reducer.uses.len(), hub.reducer.devices.len());
}

#[test]
fn more_streams_than_can_be_kept_are_told_early() {
    let mut totals = Totals::default();
    let mut hub = Hub::new(vec![at_least(60)]);
    for stream in 0..5_000 {
        let batch = Batch {
            stream: format!("s{stream}").into(),
            ..hub.batch("d", 0.0, &json!([{"n": "a", "v": 1}]))
        };
        totals.add(&batch, 1, true, hub.at(0.0));
    }
    let early = totals.take(hub.at(1.0), Moment::at(WALL), false);
    assert_eq!((early.len(), &*early[0].stream), (5_000 - 4_096, "s0"));
}

proptest! {
    /// Whatever comes: a consumer never knows a number that is further from the newest than the
    /// deadband, is never left without a word for longer than `max_interval` and the interval of the
    /// sensor, and the account adds up.
    #[test]
    fn what_is_known_is_near_what_is_true_and_the_account_adds_up(
        steps in vec((1_u32..900, -30_i32..30, 0_usize..3), 1..80),
        width in 0_u32..20,
    ) {
        let deadband = f64::from(width);
        let mut hub = Hub::new(vec![rule(Some(Deadband::Absolute(deadband)))]);
        let (mut after, mut numbers) = (0.0, [0.0_f64; 3]);
        let mut known: BTreeMap<usize, (f64, f64)> = BTreeMap::new();
        let (mut sent, mut told, mut whole) = (0, 0, 0);
        for (seconds, step, name) in steps {
            after += f64::from(seconds);
            numbers[name] += f64::from(step);
            let pack = json!([{"n": format!("n{name}"), "v": numbers[name]}]);
            let kept = hub.send("d", after, &pack);
            sent += 1;
            told += u64::from(kept);
            whole += u64::from(kept == 0);
            if kept == 1 {
                known.insert(name, (numbers[name], after));
            }
            let (value, at) = known[&name];
            prop_assert!((value - numbers[name]).abs() <= deadband);
            prop_assert!(after - at < 3_600.0);
        }
        let counts = hub.reducer.counts();
        prop_assert_eq!((counts.kept, counts.left_out, counts.dropped), (told, sent - told, whole));
        let gaps = hub.reducer.totals(hub.at(after), Moment::at(WALL), true);
        let batches: u64 = gaps.iter().map(|gap| gap.batches).sum();
        prop_assert_eq!(batches, whole);
    }
}
