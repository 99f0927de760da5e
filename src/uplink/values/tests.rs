#![allow(clippy::unwrap_used)]
use bytes::Bytes;
use proptest::prelude::*;
use serde_json::{Value as Json, json};

use super::*;
use crate::reading::{Encoding, Moment};

const SECOND: Duration = Duration::from_secs(1);

fn values() -> Values {
    Values::new(
        &config::Values {
            enabled: true,
            ..config::Values::default()
        },
        false,
        &Rules::default(),
    )
    .unwrap()
}

fn batch(device: &str, seq: u64, received: f64, pack: &Json) -> Batch {
    Batch {
        device: device.into(),
        stream: "s".into(),
        seq: Some(seq),
        received: Moment::at(received),
        readings: 1,
        encoding: Encoding::Json,
        frame: Bytes::from(pack.to_string()),
    }
}

fn one(device: &str, name: &str, seq: u64, time: f64) -> Batch {
    let pack = json!([{"n": name, "u": "Cel", "v": seq, "t": time}]);
    batch(device, seq, time, &pack)
}

/// Sends what may go, and has the broker take it.
fn told(values: &mut Values, now: Instant) -> Vec<(String, Json)> {
    let mut told = Vec::new();
    while let Some((id, sending)) = values.next(now) {
        values.answered(id, Answer::Taken, now);
        let payload = serde_json::from_slice(&sending.payload).unwrap();
        told.push((format!("{}/{}", sending.device, sending.name), payload));
    }
    told
}

fn shown(seq: u64, time: f64) -> Json {
    json!({"v": seq, "u": "Cel", "t": time, "seq": seq})
}

const T: f64 = 1_700_000_000.5;

#[test]
fn they_are_off_unless_they_are_asked_for() {
    assert!(Values::new(&config::Values::default(), false, &Rules::default()).is_none());
}

#[tokio::test]
async fn the_newest_wins_once_a_second_and_the_last_one_does_come_out() {
    let (mut values, mut now) = (values(), Instant::now());
    values.learn(&one("cow", "t", 1, T), now);
    assert_eq!(told(&mut values, now), [("cow/t".into(), shown(1, T))]);
    for seq in 2..100 {
        now += Duration::from_millis(5);
        values.learn(&one("cow", "t", seq, T + 1.0), now);
        assert_eq!(told(&mut values, now), []);
    }
    // Another name does not wait for it.
    values.learn(&one("cow", "h", 100, T), now);
    assert_eq!(told(&mut values, now).len(), 1);
    let next = values.wakes(now).unwrap();
    assert!(told(&mut values, next - Duration::from_millis(1)).is_empty());
    let last = shown(99, T + 1.0);
    assert_eq!(told(&mut values, next), [("cow/t".into(), last)]);
    assert_eq!(values.wakes(next), None);
}

#[tokio::test]
async fn nothing_older_is_shown_than_what_was() {
    let (mut values, mut now) = (values(), Instant::now());
    values.learn(&one("cow", "t", 1, T), now);
    told(&mut values, now);
    now += SECOND;
    values.learn(&one("cow", "t", 2, T - 5.0), now);
    assert_eq!(told(&mut values, now), []);
    // Within a batch as well, whatever the order of its records.
    let pack = json!([{"n": "t", "v": 4, "t": T + 9.0}, {"n": "t", "v": 3, "t": T + 8.0}]);
    values.learn(&batch("cow", 3, T + 9.0, &pack), now);
    assert_eq!(told(&mut values, now)[0].1["v"], 4);
}

#[tokio::test]
async fn a_device_or_a_hub_whose_clock_is_put_right_is_not_silent_until_then() {
    let (mut values, mut now) = (values(), Instant::now());
    let ahead = json!([{"n": "t", "v": 1, "t": T + 3_600.0}]);
    values.learn(&batch("cow", 1, T, &ahead), now);
    assert_eq!(told(&mut values, now).len(), 1);
    now += 61 * SECOND;
    values.learn(&one("cow", "t", 2, T + 61.0), now);
    assert_eq!(told(&mut values, now).len(), 1, "the device's");
    now += SECOND;
    values.clock_was_set();
    values.learn(&one("cow", "t", 3, T - 7_200.0), now);
    assert_eq!(told(&mut values, now).len(), 1, "the hub's");
}

#[tokio::test]
async fn every_kind_of_value_is_shown_and_a_sum_alone_is_none() {
    let (mut values, now) = (values(), Instant::now());
    let pack = json!([
        {"bn": "a/", "bt": T, "n": "v", "v": 1.5}, {"n": "vs", "vs": "on"}, {"n": "vb", "vb": true},
        {"n": "vd", "vd": "aGk"}, {"n": "s", "s": 7}, {"n": "long", "vs": "x".repeat(1_025)},
    ]);
    values.learn(&batch("cow", 1, T, &pack), now);
    let values_told: Vec<_> = told(&mut values, now)
        .into_iter()
        .map(|(name, payload)| (name, payload["v"].clone()))
        .collect();
    let expected = [
        ("cow/a/v".into(), json!(1.5)),
        ("cow/a/vs".into(), json!("on")),
        ("cow/a/vb".into(), json!(true)),
        ("cow/a/vd".into(), json!("aGk")),
    ];
    assert_eq!(values_told, expected);
    assert_eq!(values.take_dropped(), 1);
}

#[tokio::test]
async fn what_was_out_when_the_connection_was_lost_goes_again_unless_there_is_a_newer_one() {
    let (mut values, mut now) = (values(), Instant::now());
    for name in ["a", "b"] {
        values.learn(&one("cow", name, 1, T), now);
        values.next(now).unwrap();
    }
    values.learn(&one("cow", "b", 2, T + 1.0), now);
    assert_eq!(values.next(now), None, "one of a name at a time");
    values.lost(false, now);
    now += SECOND;
    let told: Vec<_> = told(&mut values, now).into_iter().map(|(_, v)| v).collect();
    assert_eq!(told, [shown(1, T), shown(2, T + 1.0)]);
}

#[tokio::test]
async fn a_refused_value_is_tried_again_with_growing_pauses_and_the_newest_then() {
    let (mut values, mut now) = (values(), Instant::now());
    values.learn(&one("cow", "t", 1, T), now);
    let mut pauses = Vec::new();
    for seq in 2..10 {
        let (id, _) = values.next(now).unwrap();
        values.answered(id, Answer::Refused, now);
        values.learn(&one("cow", "t", seq, T + 1.0), now);
        let next = values.wakes(now).unwrap();
        pauses.push((next - now).as_secs());
        now = next;
    }
    assert_eq!(pauses, [60, 120, 240, 480, 960, 1_920, 3_600, 3_600]);
    assert_eq!(told(&mut values, now)[0].1["v"], 9);
    now += SECOND;
    values.learn(&one("cow", "t", 10, T + 2.0), now);
    assert_eq!(told(&mut values, now).len(), 1, "forgiven");
}

#[tokio::test]
async fn a_broker_that_hangs_up_on_values_is_not_tried_with_each_name() {
    let (mut values, mut now) = (values(), Instant::now());
    for name in ["a", "b", "c", "d"] {
        values.learn(&one("cow", name, 1, T), now);
    }
    let mut pauses = Vec::new();
    for n in 0..9 {
        assert!(values.next(now).is_some());
        let paused = values.lost(true, now) == 4;
        assert_eq!(paused, n >= 2, "a broker may hang up for something else");
        if paused {
            assert_eq!(values.next(now), None);
            let next = values.wakes(now).unwrap();
            pauses.push((next - now).as_secs());
            now = next;
        } else {
            now += SECOND;
        }
    }
    assert_eq!(pauses, [60, 120, 240, 480, 960, 1_920, 3_600]);
    now += 3_600 * SECOND;
    assert_eq!(told(&mut values, now).len(), 4);
    now += SECOND;
    values.learn(&one("cow", "a", 2, T), now);
    values.next(now).unwrap();
    assert_eq!(values.lost(true, now), 0, "forgiven");
    assert_eq!(
        values.lost(true, now),
        0,
        "with none out it is something else"
    );
}

#[tokio::test]
async fn a_name_that_the_broker_hangs_up_on_pauses_and_the_others_go_on() {
    let (mut values, mut now) = (values(), Instant::now());
    let mut tries = 0;
    for seq in 1..1_000 {
        now += SECOND;
        for name in ["bad", "good"] {
            values.learn(&one("cow", name, seq, T), now);
        }
        while let Some((id, sending)) = values.next(now) {
            if &*sending.name == "bad" {
                tries += 1;
                assert!(values.lost(true, now) <= 1);
            } else {
                values.answered(id, Answer::Taken, now);
            }
        }
    }
    assert_eq!(tries, 6, "twice at once, then after 60, 120, 240 and 480 s");
}

#[tokio::test]
async fn a_value_is_out_of_date_after_some_usual_intervals() {
    let (mut values, mut now) = (values(), Instant::now());
    let mut expiry = |values: &mut Values, wait: u64, seq: u64| {
        now += Duration::from_secs(wait);
        values.learn(&one("cow", "t", seq, T), now);
        let (id, sending) = values.next(now).unwrap();
        values.answered(id, Answer::Taken, now);
        sending.expiry.as_secs()
    };
    assert_eq!(expiry(&mut values, 0, 1), 7 * 86_400);
    assert_eq!(expiry(&mut values, 600, 2), 1_800);
    assert_eq!(expiry(&mut values, 600, 3), 1_800);
    // After a burst it is still more than one interval.
    for seq in 4..10 {
        expiry(&mut values, 1, seq);
    }
    assert!(expiry(&mut values, 1, 10) > 600);
    for seq in 11..80 {
        expiry(&mut values, 5, seq);
    }
    assert_eq!(expiry(&mut values, 5, 80), 60);
    assert_eq!(expiry(&mut values, 100 * 86_400, 81), 30 * 86_400);
}

#[tokio::test]
async fn names_without_end_take_bounded_memory_and_are_taken_back_from_the_broker() {
    let (mut values, mut now) = (values(), Instant::now());
    for n in 0..2_000 {
        now += SECOND;
        values.learn(&one("cow", &format!("n-{n}"), 1, T), now);
        assert_eq!(told(&mut values, now).len(), 1);
        assert!(values.series.len() <= DEVICE_NAMES);
        let cleared = values.clear();
        assert_eq!(cleared.is_some(), n >= DEVICE_NAMES, "{n}");
    }
    // Those of others stay.
    values.learn(&one("pig", "t", 1, T), now);
    for n in 0..1_000 {
        values.learn(&one("cow", &format!("m-{n}"), 1, T), now + SECOND);
    }
    assert_eq!(values.devices["pig"].len(), 1);
    for n in 0..NAMES {
        let device = format!("d-{}", n / 16);
        values.learn(&one(&device, &format!("n-{}", n % 16), 1, T), now + SECOND);
    }
    assert_eq!(values.series.len(), NAMES);
    assert!(values.clears.len() <= CLEARS);
    values.check();
}

#[tokio::test]
async fn at_the_stop_nothing_is_held_back() {
    let (mut values, now) = (values(), Instant::now());
    values.learn(&one("cow", "t", 1, T), now);
    told(&mut values, now);
    values.learn(&one("cow", "t", 2, T), now);
    values.hurry(now);
    assert_eq!(told(&mut values, now).len(), 1);
    values.learn(&one("cow", "t", 3, T), now);
    assert_eq!(told(&mut values, now).len(), 1);
}

#[derive(Debug, Clone)]
enum Step {
    Value(u8, i8),
    Wait(u16),
    Send,
    Answer(Answer),
    Lost(bool),
}

fn step() -> impl Strategy<Value = Step> {
    let answer = prop::sample::select(vec![Answer::Taken, Answer::Taken, Answer::Refused]);
    prop_oneof![
        6 => (0..4_u8, -3..6_i8).prop_map(|(name, by)| Step::Value(name, by)),
        3 => (0..2_000_u16).prop_map(Step::Wait),
        6 => Just(Step::Send),
        6 => answer.prop_map(Step::Answer),
        2 => any::<bool>().prop_map(Step::Lost),
    ]
}

proptest! {
    /// Whatever happens, the broker is never sent anything older than before, never more often than
    /// allowed, and in the end it has the newest value of each name.
    #[test]
    fn the_broker_ends_with_the_newest_of_each_name(steps in prop::collection::vec(step(), 1..200)) {
        let (mut values, mut now) = (values(), Instant::now());
        let mut time = [1.7e9_f64; 4];
        let mut newest = [None::<(f64, u64)>; 4];
        let mut sent: HashMap<String, (Instant, f64, u64)> = HashMap::new();
        let mut out: VecDeque<u64> = VecDeque::new();
        let mut seq = 0;
        let mut send = |values: &mut Values, now: Instant| -> Result<Option<u64>, TestCaseError> {
            let Some((id, sending)) = values.next(now) else {
                return Ok(None);
            };
            let said: Json = serde_json::from_slice(&sending.payload).unwrap();
            let (t, seq) = (said["t"].as_f64().unwrap(), said["seq"].as_u64().unwrap());
            if let Some((at, before, _)) = sent.insert(sending.name.to_string(), (now, t, seq)) {
                prop_assert!(t >= before, "{t} after {before}");
                prop_assert!(now >= at + SECOND, "too often");
            }
            Ok(Some(id))
        };
        for step in steps {
            match step {
                Step::Value(name, by) => {
                    let place = usize::from(name);
                    let t = time[place] + f64::from(by);
                    time[place] = t.max(time[place]);
                    seq += 1;
                    values.learn(&one("cow", &name.to_string(), seq, t), now);
                    if newest[place].is_none_or(|(newest, _)| t >= newest) {
                        newest[place] = Some((t, seq));
                    }
                }
                Step::Wait(millis) => now += Duration::from_millis(millis.into()),
                Step::Send => out.extend(send(&mut values, now)?),
                Step::Answer(answer) => {
                    if let Some(id) = out.pop_front() {
                        values.answered(id, answer, now);
                    }
                }
                Step::Lost(hung_up) => {
                    out.clear();
                    values.lost(hung_up, now);
                }
            }
            values.check();
        }
        while let Some(id) = out.pop_front() {
            values.answered(id, Answer::Taken, now);
        }
        for _ in 0..100 {
            now += Duration::from_secs(3_600);
            while let Some(id) = send(&mut values, now)? {
                values.answered(id, Answer::Taken, now);
            }
        }
        for (place, newest) in newest.iter().enumerate() {
            let last = sent.get(&place.to_string()).map(|(_, t, seq)| (*t, *seq));
            prop_assert_eq!(last, *newest);
        }
    }
}

#[test]
fn a_value_that_a_rule_may_leave_out_is_not_out_of_date_before_it_is_told_again() {
    let rules = Rules::new(vec![config::ReduceRule {
        device: "*".to_owned(),
        name: "temp".to_owned(),
        min_interval: Duration::ZERO,
        deadband: Some(config::Deadband::Absolute(1.0)),
        max_interval: Duration::from_secs(3_600),
    }]);
    let expiry = |name: &str| {
        let now = Instant::now();
        let settings = config::Values {
            enabled: true,
            ..config::Values::default()
        };
        let mut values = Values::new(&settings, false, &rules).unwrap();
        let device = "cow".into();
        let mut expiries = Vec::new();
        for n in 0..3 {
            let at = now + 10 * n * SECOND;
            let number = Number::UInt(n.into());
            values.tell(
                &device,
                name,
                number,
                None,
                Number::Float(1e9 + f64::from(n)),
                at,
            );
            let (id, sending) = values.next(at).unwrap();
            values.answered(id, Answer::Taken, at);
            expiries.push(sending.expiry);
        }
        *expiries.last().unwrap()
    };
    assert_eq!(expiry("other"), 60 * SECOND);
    assert_eq!(expiry("temp"), 7_200 * SECOND);
}
