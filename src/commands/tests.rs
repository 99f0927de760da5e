//! The decider beside a model of the world: devices that crash, come back, remember or do not,
//! answer twice, late, or for others, and senders that repeat themselves. Every message has
//! Correlation Data of its own, so that each answer can be told from every other.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::reading::{Encoding, Moment, Reply};

const DEVICES: usize = 3;

#[derive(Debug, Clone)]
struct Wish {
    device: usize,
    /// Of a few, so that they repeat; `None`: the hub makes one.
    id: Option<usize>,
    args: bool,
    idempotent: bool,
    ttl: u64,
    wait: u64,
    timeout: u64,
    name: usize,
    retain: bool,
}

#[derive(Debug, Clone)]
enum Op {
    Ask(Wish),
    Connect(usize, bool),
    Drop(usize),
    /// The device answers what it has taken up.
    Answer(usize, bool),
    /// It says again what it holds.
    Repeat(usize),
    More(usize),
    /// It answers what it was never asked.
    Invent(usize, usize),
    /// It loses everything but what it wrote down.
    Crash(usize),
    Safe(usize),
    Wait(u64),
    Forbid(bool),
}

fn wish() -> impl Strategy<Value = Wish> {
    let times = (0..20_000u64, 0..20_000u64, 1..20_000u64);
    let id = proptest::option::of(0..12usize);
    (
        0..DEVICES,
        id,
        any::<bool>(),
        any::<bool>(),
        times,
        0..20usize,
    )
        .prop_map(
            |(device, id, args, idempotent, (ttl, wait, timeout), odd)| Wish {
                device,
                id,
                args,
                idempotent,
                ttl,
                wait: if wait < 10_000 { 0 } else { wait },
                timeout,
                name: odd,
                retain: odd == 7,
            },
        )
}

fn op() -> impl Strategy<Value = Op> {
    let device = 0..DEVICES;
    prop_oneof![
        10 => wish().prop_map(Op::Ask),
        4 => (device.clone(), any::<bool>()).prop_map(|(d, r)| Op::Connect(d, r)),
        2 => device.clone().prop_map(Op::Drop),
        8 => (device.clone(), any::<bool>()).prop_map(|(d, ok)| Op::Answer(d, ok)),
        3 => device.clone().prop_map(Op::Repeat),
        2 => device.clone().prop_map(Op::More),
        1 => (device.clone(), 0..12usize).prop_map(|(d, n)| Op::Invent(d, n)),
        1 => device.prop_map(Op::Crash),
        6 => (0..4usize).prop_map(Op::Safe),
        6 => (1..8_000u64).prop_map(Op::Wait),
        1 => any::<bool>().prop_map(Op::Forbid),
    ]
}

/// A device, which carries a command out as soon as it has it.
#[derive(Default)]
struct Device {
    conn: Option<u64>,
    remembers: bool,
    written_down: Option<Arc<str>>,
    /// What it is at.
    taken: Option<Arc<str>>,
    /// Results that have no ack.
    held: BTreeMap<Arc<str>, bool>,
    executed: BTreeMap<Arc<str>, usize>,
    /// Sent by the hub and not ended, as far as the answers tell.
    open: Option<Arc<str>>,
}

struct World {
    commands: Commands,
    now: Now,
    devices: Vec<Device>,
    last_conn: u64,
    asked: u64,
    /// Final answers, by Correlation Data: state and id.
    finals: BTreeMap<u64, (String, Option<String>)>,
    wishes: BTreeMap<u64, Wish>,
    unsafe_tokens: Vec<u64>,
    safe_results: BTreeSet<(usize, Arc<str>)>,
    token_of: BTreeMap<u64, (usize, Arc<str>)>,
    idempotent: BTreeSet<(usize, Arc<str>)>,
    late: BTreeMap<(usize, Arc<str>), usize>,
    out: Vec<Action>,
}

fn name_of(d: usize) -> Arc<str> {
    format!("d{d}").into()
}

fn number_of(device: &str) -> usize {
    device[1..].parse().unwrap()
}

fn authority() -> Arc<Authority> {
    let entries = (0..DEVICES).map(|d| (name_of(d), vec!["do-*".to_owned()]));
    Arc::new(entries.collect())
}

fn settings() -> Settings {
    Settings {
        prefix: "telehub".to_owned(),
        hub: "barn".to_owned(),
        max_size: 16 * 1024,
        response_prefixes: vec!["app".to_owned()],
        run: "run".to_owned(),
    }
}

impl World {
    fn new() -> Self {
        let now = Now {
            mono: Instant::now(),
            moment: Moment::at(1e9),
        };
        let mut world = Self {
            commands: Commands::new(settings(), now.mono),
            now,
            devices: (0..DEVICES).map(|_| Device::default()).collect(),
            last_conn: 0,
            asked: 0,
            finals: BTreeMap::new(),
            wishes: BTreeMap::new(),
            unsafe_tokens: Vec::new(),
            safe_results: BTreeSet::new(),
            token_of: BTreeMap::new(),
            idempotent: BTreeSet::new(),
            late: BTreeMap::new(),
            out: Vec::new(),
        };
        world.apply(Event::Allowed(authority()));
        world
    }

    fn apply(&mut self, event: Event) {
        self.commands.apply(self.now, event, &mut self.out);
        self.commands.check();
        for action in std::mem::take(&mut self.out) {
            self.act(action);
        }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Send {
                device,
                conn,
                order,
            } => self.sent(&device, conn, order),
            Action::Ack { device, conn, id } => {
                let d = number_of(&device);
                assert_eq!(self.devices[d].conn, Some(conn));
                self.devices[d].held.remove(&id);
            }
            Action::Keep {
                token,
                reply: letter,
            } => {
                self.letter(&letter, true);
                if let Some(token) = token {
                    let said: Value = serde_json::from_slice(&letter.payload).unwrap();
                    let id: Arc<str> = said["id"].as_str().unwrap().into();
                    self.token_of.insert(token, (number_of(&letter.device), id));
                    self.unsafe_tokens.push(token);
                }
            }
            Action::Tell(letter) => self.letter(&letter, false),
            Action::Respond { .. } => unreachable!("nobody asks here"),
            Action::Ended(record) => assert!(record.state.is_final()),
        }
    }

    fn sent(&mut self, device: &Arc<str>, conn: u64, order: Order) {
        let d = number_of(device);
        let hw = &mut self.devices[d];
        assert_eq!(hw.conn, Some(conn), "sent to a connection that is no more");
        match &hw.open {
            Some(open) => assert!(*open == order.id && order.again, "two at once"),
            None => assert!(!order.again),
        }
        hw.open = Some(order.id.clone());
        if hw.remembers && hw.written_down.as_ref() == Some(&order.id) {
            return;
        }
        if hw.remembers {
            hw.written_down = Some(order.id.clone());
        }
        *hw.executed.entry(order.id.clone()).or_default() += 1;
        hw.taken = Some(order.id);
    }

    fn letter(&mut self, letter: &Reply, kept: bool) {
        let said: Value = serde_json::from_slice(&letter.payload).unwrap();
        let id = said["id"].as_str().map(str::to_owned);
        let d = number_of(&letter.device);
        if said["late"] == true {
            let id: Arc<str> = id.unwrap().into();
            assert!(kept && letter.correlation.is_none());
            *self.late.entry((d, id)).or_default() += 1;
            return;
        }
        let state = said["state"].as_str().unwrap();
        if matches!(state, "accepted" | "progress") {
            assert!(!kept);
            return;
        }
        if said["attempt"] != 0 && said["state"] != "refused" {
            let hw = &mut self.devices[d];
            let same = |open: &Arc<str>| Some(&**open) == id.as_deref();
            hw.open.take_if(|open| same(open));
        }
        let correlation = letter.correlation.as_ref().unwrap();
        let n = u64::from_be_bytes(correlation[..].try_into().unwrap());
        let first = self.finals.insert(n, (state.to_owned(), id));
        assert!(
            first.is_none(),
            "two final answers to {n}: {first:?} and {said}"
        );
        let sent = said["attempt"].as_u64().unwrap() > 0;
        assert_eq!(said["executed"] == "no", !sent, "{said}");
    }

    fn ask(&mut self, wish: Wish) {
        self.asked += 1;
        let name = match wish.name {
            3 => "other",
            5 => "do/it",
            _ => "do-it",
        };
        let mut map = json!({
            "args": wish.args, "idempotent": wish.idempotent, "ttl": wish.ttl as f64 / 1e3,
            "wait": wish.wait as f64 / 1e3, "timeout": wish.timeout as f64 / 1e3,
        });
        if let Some(id) = wish.id {
            map["id"] = json!(format!("{id}"));
            if wish.idempotent {
                self.idempotent.insert((wish.device, id.to_string().into()));
            }
        } else if wish.idempotent {
            // Ids that the hub makes are told apart by what it says of them.
            map["idempotent"] = json!(false);
        }
        let incoming = Incoming {
            topic: format!("telehub/barn/d{}/command/{name}", wish.device).into(),
            payload: map.to_string().into(),
            retain: wish.retain,
            dup: false,
            response_topic: None,
            correlation: Some(Bytes::copy_from_slice(&self.asked.to_be_bytes())),
            expiry: None,
        };
        self.wishes.insert(self.asked, wish);
        self.apply(Event::Arrived(incoming));
    }

    fn say(&mut self, d: usize, id: &Arc<str>, ok: bool, more: bool) {
        if self.devices[d].conn.is_none() {
            return;
        }
        let said = Said {
            id: id.clone(),
            name: Some("do-it".into()),
            ok,
            value: None,
            error: None,
            more,
        };
        let device = name_of(d);
        self.apply(Event::Result { device, said });
    }

    fn connect(&mut self, d: usize, remembers: bool) {
        self.last_conn += 1;
        let before = self.devices[d].conn.replace(self.last_conn);
        self.devices[d].remembers = remembers;
        if !remembers {
            self.devices[d].written_down = None;
        }
        let device = name_of(d);
        self.apply(Event::Online {
            device: device.clone(),
            conn: self.last_conn,
            remembers,
            max_message: 65_536,
        });
        if let Some(conn) = before {
            self.apply(Event::Offline { device, conn });
        }
    }

    fn drop(&mut self, d: usize) {
        if let Some(conn) = self.devices[d].conn.take() {
            let device = name_of(d);
            self.apply(Event::Offline { device, conn });
        }
    }

    fn wait(&mut self, millis: u64) {
        let until = self.now.mono + Duration::from_millis(millis);
        while let Some(at) = self.commands.next_deadline(self.now.mono)
            && at <= until
        {
            self.pass(at);
            self.apply(Event::Tick);
        }
        self.pass(until);
    }

    fn pass(&mut self, until: Instant) {
        let passed = until.saturating_duration_since(self.now.mono);
        self.now.mono += passed;
        self.now.moment.wall += passed.as_secs_f64();
    }

    fn step(&mut self, op: Op) {
        match op {
            Op::Ask(wish) => self.ask(wish),
            Op::Connect(d, remembers) => self.connect(d, remembers),
            Op::Drop(d) => self.drop(d),
            Op::Answer(d, ok) => {
                if let Some(id) = self.devices[d].taken.take() {
                    self.devices[d].held.insert(id.clone(), ok);
                    self.say(d, &id, ok, false);
                }
            }
            Op::Repeat(d) => {
                for (id, ok) in self.devices[d].held.clone() {
                    self.say(d, &id, ok, false);
                }
            }
            Op::More(d) => {
                if let Some(id) = self.devices[d].taken.clone() {
                    self.say(d, &id, true, true);
                }
            }
            Op::Invent(d, n) => self.say(d, &format!("{n}").into(), true, false),
            Op::Crash(d) => {
                self.drop(d);
                self.devices[d].taken = None;
                self.devices[d].held.clear();
            }
            Op::Safe(at) => {
                if at < self.unsafe_tokens.len() {
                    let token = self.unsafe_tokens.remove(at);
                    self.safe_results.insert(self.token_of[&token].clone());
                    self.apply(Event::Safe { token });
                }
            }
            Op::Wait(millis) => self.wait(millis),
            Op::Forbid(forbid) => {
                let allowed = if forbid { Arc::default() } else { authority() };
                self.apply(Event::Allowed(allowed));
            }
        }
    }

    fn finish(&mut self, stop: bool) {
        if stop {
            self.apply(Event::Stop);
        }
        self.wait(400_000);
        assert_eq!(self.commands.open(), (0, 0), "something has no end");
        for n in 1..=self.asked {
            assert!(
                self.finals.contains_key(&n),
                "no answer to {n}: {:?}",
                self.wishes[&n]
            );
        }
        for (d, device) in self.devices.iter().enumerate() {
            for (id, times) in &device.executed {
                let may = self.idempotent.contains(&(d, id.clone()));
                assert!(
                    *times == 1 || may,
                    "{id} was carried out {times} times by d{d}"
                );
                let told = self.finals.iter().any(|(n, (state, told))| {
                    let own = self.wishes[n].device == d && told.as_deref() == Some(id);
                    own && !matches!(&**state, "refused" | "expired")
                });
                assert!(
                    told,
                    "{id} was carried out and everybody was told that it was not"
                );
            }
        }
        assert!(
            self.late.values().all(|times| *times <= 2),
            "{:?}",
            self.late
        );
        self.commands.check();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn every_message_has_one_final_answer_and_nothing_is_carried_out_twice(
        ops in proptest::collection::vec(op(), 1..150),
        stop in any::<bool>(),
    ) {
        let mut world = World::new();
        for op in ops {
            world.step(op);
        }
        world.finish(stop);
    }
}

fn plain(device: usize, id: usize) -> Wish {
    Wish {
        device,
        id: Some(id),
        args: true,
        idempotent: false,
        ttl: 60_000,
        wait: 0,
        timeout: 30_000,
        name: 0,
        retain: false,
    }
}

fn state(world: &World, n: u64) -> &str {
    &world.finals[&n].0
}

#[test]
fn a_device_that_comes_back_without_a_memory_is_not_sent_it_again() {
    let mut world = World::new();
    world.connect(0, false);
    world.ask(plain(0, 1));
    world.step(Op::Crash(0));
    world.connect(0, false);
    world.wait(1_000);
    assert!(world.finals.is_empty(), "its result may still come");
    world.wait(1_500);
    assert_eq!(state(&world, 1), "unknown");
    world.finish(false);
}

#[test]
fn a_device_that_comes_back_with_the_result_has_done_it() {
    let mut world = World::new();
    world.connect(0, false);
    world.ask(plain(0, 1));
    world.drop(0);
    world.step(Op::Answer(0, true));
    world.connect(0, false);
    world.step(Op::Repeat(0));
    assert_eq!(state(&world, 1), "done");
    assert!(
        world.devices[0].held.contains_key("1"),
        "acked before it is safe"
    );
    world.step(Op::Safe(0));
    assert!(world.devices[0].held.is_empty());
    world.finish(false);
}

#[test]
fn a_device_that_remembers_is_sent_it_again_three_times_and_no_more() {
    let mut world = World::new();
    world.connect(0, true);
    world.ask(Wish {
        timeout: 600_000,
        ..plain(0, 1)
    });
    for _ in 0..5 {
        world.drop(0);
        world.connect(0, true);
    }
    assert_eq!(world.commands.counts().sent, 4);
    world.wait(3_000);
    assert_eq!(state(&world, 1), "unknown");
    world.finish(false);
}

#[test]
fn a_result_after_the_timeout_comes_once_and_late_and_the_id_then_answers_with_it() {
    let mut world = World::new();
    world.connect(0, false);
    world.ask(plain(0, 1));
    world.wait(31_000);
    assert_eq!(state(&world, 1), "timeout");
    world.step(Op::Answer(0, true));
    world.step(Op::Repeat(0));
    assert_eq!(world.late[&(0, "1".into())], 1);
    world.ask(plain(0, 1));
    assert_eq!(state(&world, 2), "done");
    world.finish(false);
}

#[test]
fn a_thousand_for_one_device_are_busy_and_cost_the_others_nothing() {
    let mut world = World::new();
    world.connect(0, false);
    world.connect(1, false);
    for n in 0..1_000 {
        world.ask(Wish {
            id: None,
            name: 0,
            ..plain(0, n)
        });
    }
    let (waiting, flying) = world.commands.open();
    assert_eq!((waiting, flying), (8, 1));
    world.ask(plain(1, 1));
    world.step(Op::Answer(1, true));
    assert_eq!(state(&world, 1_001), "done");
    assert!(world.commands.counts().untold > 700);
}

#[test]
fn a_stop_ends_what_waits_as_refused_and_what_was_sent_as_unknown() {
    let mut world = World::new();
    world.connect(0, false);
    world.ask(plain(0, 1));
    world.ask(plain(0, 2));
    world.apply(Event::Stop);
    world.ask(plain(0, 3));
    assert_eq!((state(&world, 1), state(&world, 2)), ("unknown", "refused"));
    world.finish(false);
    assert_eq!(state(&world, 3), "refused");
}

#[test]
fn revocation_between_receipt_and_sending_refuses() {
    let mut world = World::new();
    world.connect(0, false);
    world.ask(plain(0, 1));
    world.ask(plain(0, 2));
    world.apply(Event::Allowed(Arc::default()));
    world.step(Op::Answer(0, true));
    assert_eq!((state(&world, 1), state(&world, 2)), ("done", "refused"));
    world.finish(false);
}

#[test]
fn a_device_that_is_away_is_waited_for_as_long_as_the_command_says() {
    let mut world = World::new();
    world.ask(plain(0, 1));
    assert_eq!(state(&world, 1), "refused");
    world.ask(Wish {
        wait: 10_000,
        ..plain(0, 2)
    });
    world.wait(9_000);
    world.connect(0, false);
    world.step(Op::Answer(0, true));
    assert_eq!(state(&world, 2), "done");
    world.drop(0);
    world.ask(Wish {
        wait: 10_000,
        ..plain(0, 3)
    });
    world.wait(11_000);
    assert_eq!(state(&world, 3), "refused");
    world.finish(false);
}

#[test]
fn what_the_device_cannot_take_is_too_large() {
    let mut world = World::new();
    world.connect(0, false);
    let online = |conn| Event::Online {
        device: "d0".into(),
        conn,
        remembers: false,
        max_message: 200,
    };
    world.apply(online(world.last_conn));
    let incoming = Incoming {
        topic: "telehub/barn/d0/command/do-it".into(),
        payload: json!({"args": "x".repeat(300)}).to_string().into(),
        retain: false,
        dup: false,
        response_topic: Some("app/7".into()),
        correlation: Some(Bytes::copy_from_slice(&1u64.to_be_bytes())),
        expiry: None,
    };
    world
        .commands
        .apply(world.now, Event::Arrived(incoming), &mut world.out);
    let Action::Tell(letter) = world
        .out
        .iter()
        .find(|a| matches!(a, Action::Tell(_)))
        .unwrap()
    else {
        unreachable!()
    };
    assert_eq!(letter.topic.as_deref(), Some("app/7"));
    let said: Value = serde_json::from_slice(&letter.payload).unwrap();
    assert_eq!(said["error"], "too-large");
}

#[test]
fn a_message_is_never_larger_than_it_was_taken_for() {
    let texts = [
        json!(null),
        json!([0.1, 1.5, 2.25, -3.0]),
        json!({"a": [1, 300, 70_000]}),
        json!("ä\"\\"),
        json!([[[[]]], {"x": {}}]),
        json!([1e300, true, false, null]),
    ];
    for args in texts {
        let raw = serde_json::value::to_raw_value(&args).unwrap();
        let id = "i\"\\d".repeat(16);
        let message = json!({"command": {"id": id, "name": "set-level", "args": args,
            "timeout": 29.123_456_789, "again": true}});
        let json = serde_json::to_vec(&message).unwrap().len();
        let cbor = serde_cbor::to_vec(&message).unwrap().len();
        let taken = size_of(&id, "set-level", Some(&raw));
        assert!(taken >= json && taken >= cbor, "{taken} {json} {cbor}");
    }
}

/// The one answer to a message that nothing else is known of.
fn refusal(payload: &[u8], change: impl FnOnce(&mut Incoming)) -> Value {
    let mut world = World::new();
    world.connect(0, false);
    let mut incoming = Incoming {
        topic: "telehub/barn/d0/command/do-it".into(),
        payload: Bytes::copy_from_slice(payload),
        retain: false,
        dup: false,
        response_topic: None,
        correlation: None,
        expiry: None,
    };
    change(&mut incoming);
    let event = Event::Arrived(incoming);
    world.commands.apply(world.now, event, &mut world.out);
    let told: Vec<Value> = world
        .out
        .iter()
        .filter_map(|action| match action {
            // As the sender encodes.
            Action::Tell(letter) => match letter.encoding {
                Encoding::Json => Some(serde_json::from_slice(&letter.payload).unwrap()),
                Encoding::Cbor => Some(serde_cbor::from_slice(&letter.payload).unwrap()),
            },
            Action::Ended(_) => None,
            other => unreachable!("{other:?}"),
        })
        .collect();
    let [answer] = &told[..] else {
        unreachable!("{told:?}")
    };
    assert_eq!(answer["attempt"], 0);
    answer.clone()
}

#[test]
fn bad_input_has_the_answer_that_the_contract_names() {
    let deep = format!(
        "{{\"id\":\"x\",\"args\":{}{}}}",
        "[".repeat(200),
        "]".repeat(200)
    );
    let long = json!({ "id": "x".repeat(65) }).to_string();
    let day = json!({"id": "x", "timeout": 86_400}).to_string();
    let large = json!({ "args": "x".repeat(20_000) }).to_string();
    let malformed: [&[u8]; 6] = [
        b"",
        b"on",
        &b"\xa1\x64args\xf9\x7e\x00"[..],
        deep.as_bytes(),
        long.as_bytes(),
        day.as_bytes(),
    ];
    for payload in malformed {
        let answer = refusal(payload, |_| ());
        assert_eq!(
            (&answer["state"], &answer["error"]),
            (&json!("refused"), &json!("malformed"))
        );
    }
    assert_eq!(refusal(day.as_bytes(), |_| ())["id"], "x");
    assert_eq!(refusal(large.as_bytes(), |_| ())["error"], "too-large");
    let answer = refusal(br#"{"id": "x"}"#, |incoming| incoming.retain = true);
    assert_eq!(
        (&answer["error"], &answer["id"]),
        (&json!("retained"), &json!("x"))
    );
    let answer = refusal(b"{}", |incoming| incoming.dup = true);
    assert_eq!(answer["error"], "malformed");
    for (device, name, error) in [
        ("d0", "a/b", "malformed"),
        ("d0", "", "malformed"),
        ("d0", "reboot", "forbidden"),
        ("nobody", "do-it", "forbidden"),
        ("d1", "do-it", "offline"),
    ] {
        let topic = format!("telehub/barn/{device}/command/{name}");
        let answer = refusal(b"{}", |incoming| incoming.topic = topic.into());
        assert_eq!(
            (&answer["error"], &answer["name"]),
            (&json!(error), &json!(name))
        );
    }
    let answer = refusal(br#"{"ttl": 0}"#, |_| ());
    assert_eq!(
        (&answer["state"], &answer["executed"]),
        (&json!("expired"), &json!("no"))
    );
    let answer = refusal(b"{}", |incoming| incoming.expiry = Some(Duration::ZERO));
    assert_eq!(answer["state"], "expired");
    let long = Bytes::from(vec![0; 257]);
    let answer = refusal(b"{}", |incoming| incoming.correlation = Some(long));
    assert_eq!(answer["error"], "malformed");
}

#[test]
fn an_id_with_other_content_is_a_conflict_before_and_after_the_end() {
    let mut world = World::new();
    world.connect(0, false);
    world.ask(plain(0, 1));
    let other = Wish {
        args: false,
        ..plain(0, 1)
    };
    world.ask(other.clone());
    assert_eq!(state(&world, 2), "refused");
    world.step(Op::Answer(0, true));
    assert_eq!(
        state(&world, 1),
        "done",
        "a conflict speaks of the second message only"
    );
    world.ask(other);
    assert_eq!(state(&world, 3), "refused");
    assert_eq!(world.devices[0].executed[&Arc::from("1")], 1);
    // The same content again: the same answer, and no second time.
    world.ask(plain(0, 1));
    assert_eq!(state(&world, 4), "done");
    assert_eq!(world.devices[0].executed[&Arc::from("1")], 1);
    world.finish(false);
}

#[test]
fn whoever_repeats_a_command_that_is_under_way_hears_how_it_ends() {
    let mut world = World::new();
    world.connect(0, false);
    for _ in 0..5 {
        world.ask(plain(0, 1));
    }
    assert_eq!(state(&world, 5), "refused", "four may ask for one command");
    world.step(Op::Answer(0, false));
    for n in 1..=4 {
        assert_eq!(state(&world, n), "failed");
    }
    for _ in 0..4 {
        assert!(world.devices[0].held.contains_key("1"));
        world.step(Op::Safe(0));
    }
    assert!(
        world.devices[0].held.is_empty(),
        "safe once all answers are"
    );
    world.finish(false);
}

#[test]
fn a_retained_command_that_is_taken_away_asks_for_nothing() {
    let mut world = World::new();
    let incoming = Incoming {
        topic: "telehub/barn/d0/command/do-it".into(),
        payload: Bytes::new(),
        retain: true,
        dup: false,
        response_topic: None,
        correlation: None,
        expiry: None,
    };
    world
        .commands
        .apply(world.now, Event::Arrived(incoming), &mut world.out);
    assert!(world.out.is_empty(), "{:?}", world.out);
}

#[test]
fn the_operator_hears_the_end_and_so_does_the_broker() {
    let mut world = World::new();
    world.connect(0, false);
    let ask = |caller, name: &str| Event::Asked {
        caller,
        device: "d0".into(),
        name: name.into(),
        request: request::Request::local(Some(json!({"a": 1})), Some(5.0), false).unwrap(),
    };
    let mut out = Vec::new();
    world.commands.apply(world.now, ask(1, "reboot"), &mut out);
    world.commands.apply(world.now, ask(2, "do-it"), &mut out);
    let Some(Action::Send { order, .. }) = out.pop() else {
        unreachable!("{out:?}")
    };
    let said = Said {
        id: order.id,
        name: None,
        ok: true,
        value: None,
        error: None,
        more: false,
    };
    let device: Arc<str> = "d0".into();
    world
        .commands
        .apply(world.now, Event::Result { device, said }, &mut out);
    let replies = out.iter().filter_map(|action| match action {
        Action::Respond { caller, state, .. } => Some((*caller, *state)),
        _ => None,
    });
    assert!(replies.eq([(1, answer::State::Refused), (2, answer::State::Done)]));
    assert!(
        out.iter()
            .any(|action| matches!(action, Action::Keep { token: Some(_), .. }))
    );
    assert!(request::Request::local(None, Some(1e9), false).is_err());
}
