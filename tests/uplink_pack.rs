//! Packs between the intake and brokers that like them, refuse them or hang up on something in them.
#![allow(clippy::unwrap_used, missing_docs, unreachable_pub)]

#[allow(dead_code)]
#[path = "support/broker.rs"]
mod broker;
#[path = "support/broker5.rs"]
mod broker5;
#[path = "support/packs.rs"]
mod packs;
#[allow(dead_code)]
#[path = "support/uplink_rig.rs"]
mod uplink_rig;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use broker::{Broker, soon};
use broker5::Broker5;
use bytes::Bytes;
use rumqttc::Packet;
use rumqttc::v5::mqttbytes::v5;
use telehub::config::{DrainOrder, MqttVersion};
use telehub::reading::{Batch, Encoding, Gap, GapReason, Item, Lane, Moment};
use telehub::uplink::{Cause, Event, Settings, Submission};
use uplink_rig::{Rig, settings};

const PACKED: &str = "telehub/barn/packed";
const REFUSED: u8 = 0x87;
const TOO_LARGE: u8 = 0x95;

fn batch(device: &str, seq: u64, bytes: usize) -> Item {
    // Different enough not to be compressed away.
    let mut state = seq + 7;
    let text: String = (0..bytes)
        .map(|_| {
            state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            char::from(b'a' + (state >> 33) as u8 % 26)
        })
        .collect();
    Item::Batch(Batch {
        device: device.into(),
        stream: "s".into(),
        seq: Some(seq),
        received: Moment::at(1_700_000_000.0),
        readings: 1,
        encoding: Encoding::Json,
        frame: Bytes::from(format!(
            r#"[{{"n":"t","v":{seq}}},{{"n":"x","vs":"{text}"}}]"#
        )),
    })
}

fn gap(device: &str) -> Item {
    match batch(device, 1, 1) {
        Item::Batch(batch) => Item::Gap(Gap::of(&batch, GapReason::Expired, 1.0)),
        Item::Gap(_) | Item::Reply(_) => unreachable!(),
    }
}

fn packing(port: u16, version: MqttVersion) -> Settings {
    let mut settings = settings(port);
    settings.broker.version = version;
    settings.broker.pack = 16 << 10;
    settings.broker.pack_delay = Duration::from_millis(50);
    settings
}

/// An item of a pack, and its number.
type Content = (String, String, u64);

fn contents(payload: &[u8]) -> Vec<Content> {
    let items = packs::unpack(payload).into_iter();
    items
        .map(|(kind, device, payload)| {
            let json: serde_json::Value = serde_json::from_slice(&payload).unwrap();
            assert_eq!(json["device"], device);
            let key = if kind == "gap" { "from" } else { "seq" };
            (kind, device, json[key].as_u64().unwrap())
        })
        .collect()
}

/// What a broker has taken, pack by pack.
type Taken = Arc<Mutex<Vec<Vec<Content>>>>;

/// What a broker does with a publish.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Answer {
    Takes,
    Refuses(u8),
    HangsUp,
}

type Judge = Box<dyn FnMut(&[u8], &[Content]) -> Answer + Send>;

/// A broker of MQTT 5 that judges packs.
async fn serve5(properties: &'static [u8], mut judge: Judge) -> (u16, Taken) {
    let broker = Broker5::start().await;
    let (port, taken) = (broker.port, Taken::default());
    let into = taken.clone();
    tokio::spawn(async move {
        loop {
            let mut peer = broker.accept().await;
            assert!(matches!(peer.read().await, Some(v5::Packet::Connect(..))));
            peer.connack(0, properties).await;
            while let Some(packet) = peer.read().await {
                let v5::Packet::Publish(publish) = packet else {
                    continue;
                };
                if &publish.topic[..] != PACKED.as_bytes() {
                    peer.puback(publish.pkid, 0).await;
                    continue;
                }
                let said = publish.properties.unwrap().content_type;
                assert_eq!(said.as_deref(), Some("application/x-telehub-packed"));
                let contents = contents(&publish.payload);
                match judge(&publish.payload, &contents) {
                    Answer::Takes => {
                        into.lock().unwrap().push(contents);
                        peer.puback(publish.pkid, 0).await;
                    }
                    Answer::Refuses(reason) => peer.puback(publish.pkid, reason).await,
                    Answer::HangsUp => break,
                }
            }
        }
    });
    (port, taken)
}

/// The same in 3.1.1, where it can only hang up.
async fn serve4(mut judge: Judge) -> (u16, Taken) {
    let broker = Broker::start().await;
    let (port, taken) = (broker.port, Taken::default());
    let into = taken.clone();
    tokio::spawn(async move {
        loop {
            let (mut peer, _) = broker.welcome().await;
            while let Some(packet) = peer.read().await {
                let Packet::Publish(publish) = packet else {
                    continue;
                };
                if publish.topic == PACKED {
                    let contents = contents(&publish.payload);
                    if judge(&publish.payload, &contents) != Answer::Takes {
                        break;
                    }
                    into.lock().unwrap().push(contents);
                }
                peer.puback(publish.pkid).await;
            }
        }
    });
    (port, taken)
}

/// What became of each item.
#[derive(Default, Debug)]
struct Fate {
    acked: BTreeSet<usize>,
    refused: BTreeMap<usize, (Cause, String)>,
    given_up: BTreeMap<usize, String>,
}

/// Plays the intake: what is not acknowledged is submitted again on each connection, in order, until
/// each item has come to an end.
async fn play(rig: &mut Rig, items: &[(Lane, Item)]) -> Fate {
    let mut fate = Fate::default();
    let mut epoch = None;
    let mut out: BTreeSet<usize> = BTreeSet::new();
    let open = |fate: &Fate, place: usize| {
        !fate.acked.contains(&place)
            && !fate.refused.contains_key(&place)
            && !fate.given_up.contains_key(&place)
    };
    while (0..items.len()).any(|place| open(&fate, place)) {
        if let Some(epoch) = epoch {
            for (place, (lane, item)) in items.iter().enumerate() {
                if out.len() >= 500 || !open(&fate, place) || !out.insert(place) {
                    continue;
                }
                let submission = Submission {
                    epoch,
                    token: place as u64,
                    lane: *lane,
                    item: Arc::new(item.clone()),
                };
                assert!(rig.submissions().send(submission).await.is_ok());
            }
        }
        match rig.event().await {
            Event::Up { epoch: up } => epoch = Some(up),
            Event::Down { .. } => {
                epoch = None;
                out.clear();
            }
            Event::Acked { token, .. } => {
                assert!(fate.acked.insert(token as usize), "acked twice");
            }
            Event::Refused { token, refusal, .. } => {
                let told = (refusal.cause, refusal.detail);
                fate.refused.insert(token as usize, told);
            }
            Event::Unpublishable { token, error, .. } => {
                fate.given_up.insert(token as usize, error);
            }
        }
    }
    fate
}

/// Batches of ten devices, as many in each lane, and some gap records.
fn mixed() -> Vec<(Lane, Item)> {
    let mut items = Vec::new();
    for seq in 1..=20 {
        for n in 0..10 {
            let device = format!("d{n}");
            items.push((Lane::Live, batch(&device, 1_000 + seq, 40)));
            items.push((Lane::History, batch(&device, seq, 40)));
        }
    }
    items.push((Lane::History, gap("d2")));
    items.push((Lane::Live, gap("d3")));
    items
}

/// Within a lane the numbers of a device only grow, and none comes twice.
fn in_order(taken: &Taken, again: bool) -> usize {
    let mut last: BTreeMap<(String, String), u64> = BTreeMap::new();
    let mut all = BTreeSet::new();
    for (kind, device, number) in taken.lock().unwrap().iter().flatten() {
        let new = all.insert((kind.clone(), device.clone(), *number));
        assert!(new || again, "{kind} {number} of {device} twice");
        if kind != "gap" && !again {
            let before = last.insert((kind.clone(), device.clone()), *number);
            assert!(
                before < Some(*number),
                "{number} of {device} after {before:?}"
            );
        }
    }
    all.len()
}

#[tokio::test]
async fn one_puback_takes_all_that_is_in_a_pack_in_both_versions() {
    for five in [true, false] {
        let judge: Judge = Box::new(|_, _| Answer::Takes);
        let (port, taken) = match five {
            true => serve5(&[], judge).await,
            false => serve4(judge).await,
        };
        let version = [MqttVersion::V311, MqttVersion::V5][usize::from(five)];
        let mut rig = Rig::start(packing(port, version));
        let items = mixed();
        let fate = play(&mut rig, &items).await;
        assert_eq!(fate.acked.len(), items.len());
        assert_eq!(in_order(&taken, false), items.len());
        let packs = taken.lock().unwrap().len();
        assert!(packs < 30, "{packs} packs for {} items", items.len());
        let board = rig.board.clone();
        assert_eq!(board.uplink.packs.get(), packs as u64);
        assert_eq!(
            board
                .uplink
                .gaps
                .iter()
                .find(|(word, _)| *word == "expired")
                .unwrap()
                .1,
            2
        );
        rig.finish().await;
    }
}

#[tokio::test]
async fn a_live_batch_goes_after_the_delay_and_the_stop_hurries_it() {
    let judge: Judge = Box::new(|_, _| Answer::Takes);
    let (port, taken) = serve5(&[], judge).await;
    let mut slow = packing(port, MqttVersion::V5);
    slow.broker.pack_delay = Duration::from_millis(300);
    let mut rig = Rig::start(slow.clone());
    let epoch = rig.up().await;
    let began = std::time::Instant::now();
    for number in 0..5 {
        rig.submit(epoch, number).await;
    }
    for number in 0..5 {
        assert_eq!(rig.acked().await, number);
    }
    assert!(began.elapsed() >= Duration::from_millis(300));
    assert_eq!(taken.lock().unwrap().len(), 1);
    rig.finish().await;
    slow.broker.pack_delay = Duration::from_secs(3_600);
    slow.broker.ack_timeout = Duration::from_secs(7_200);
    let mut rig = Rig::start(slow);
    let epoch = rig.up().await;
    rig.submit(epoch, 7).await;
    rig.stopper.stop();
    assert_eq!(rig.acked().await, 7);
    rig.finish().await;
}

#[tokio::test]
async fn a_batch_waits_no_longer_than_its_device_can_send_more() {
    let judge: Judge = Box::new(|_, _| Answer::Takes);
    let (port, taken) = serve5(&[], judge).await;
    let mut settings = packing(port, MqttVersion::V5);
    settings.broker.pack_delay = Duration::from_secs(3_600);
    settings.device_window = 4;
    let mut rig = Rig::start(settings);
    let epoch = rig.up().await;
    for number in 0..8 {
        rig.submit(epoch, number).await;
    }
    for number in 0..8 {
        assert_eq!(rig.acked().await, number);
    }
    assert!(taken.lock().unwrap().len() <= 2);
    rig.finish().await;
}

#[tokio::test]
async fn a_refused_pack_is_bisected_until_the_refused_device_is_alone() {
    for (bad, named) in [("d4", "d4"), ("d0", "d0")] {
        let refusals = Arc::new(Mutex::new(0));
        let count = refusals.clone();
        let judge: Judge = Box::new(move |_, contents| {
            match contents.iter().any(|(_, device, _)| device == bad) {
                true => {
                    *count.lock().unwrap() += 1;
                    Answer::Refuses(REFUSED)
                }
                false => Answer::Takes,
            }
        });
        let (port, taken) = serve5(&[], judge).await;
        let mut rig = Rig::start(packing(port, MqttVersion::V5));
        let items = mixed();
        let fate = play(&mut rig, &items).await;
        assert_eq!(fate.refused.len(), 40, "{:?}", fate.given_up);
        for (place, (cause, detail)) in &fate.refused {
            assert_eq!(&**items[*place].1.device(), bad);
            assert_eq!(*cause, Cause::Reason(REFUSED));
            assert!(
                detail.contains(PACKED) && detail.contains(named),
                "{detail}"
            );
        }
        assert_eq!(fate.acked.len(), items.len() - 40);
        let split = rig.board.uplink.refused_packs.get();
        assert!(split > 0 && rig.board.uplink.refused.get() == 40, "{split}");
        assert_eq!(in_order(&taken, false), items.len() - 40);
        rig.finish().await;
    }
}

#[tokio::test]
async fn what_was_refused_goes_by_itself_until_it_is_taken() {
    let lifted = Arc::new(Mutex::new(false));
    let (is_lifted, refused) = (lifted.clone(), Arc::new(Mutex::new(Vec::new())));
    let sizes = refused.clone();
    let judge: Judge = Box::new(move |_, contents| {
        let bad = contents.iter().any(|(_, device, _)| device == "d1");
        if bad && !*is_lifted.lock().unwrap() {
            sizes.lock().unwrap().push(contents.len());
            return Answer::Refuses(REFUSED);
        }
        Answer::Takes
    });
    let (port, taken) = serve5(&[], judge).await;
    let mut rig = Rig::start(packing(port, MqttVersion::V5));
    let items: Vec<_> = (0..40)
        .map(|n| (Lane::Live, batch(&format!("d{}", n % 4), n, 10)))
        .collect();
    play(&mut rig, &items).await;
    refused.lock().unwrap().clear();
    // The intake offers one as a probe, beside the others.
    let epoch = 1;
    for number in 0..40 {
        let item = batch(&format!("d{}", number % 40), 100 + number, 10);
        rig.submit_item(epoch, number, item).await;
    }
    for _ in 0..40 {
        rig.event().await;
    }
    assert_eq!(*refused.lock().unwrap(), [1]);
    *lifted.lock().unwrap() = true;
    taken.lock().unwrap().clear();
    for round in 0..2 {
        for number in 0..10 {
            let item = batch(&format!("d{number}"), 200 + 100 * round + number, 10);
            rig.submit_item(epoch, number, item).await;
        }
        for _ in 0..10 {
            rig.acked().await;
        }
    }
    let sizes: Vec<_> = taken.lock().unwrap().iter().map(Vec::len).collect();
    assert!(sizes.contains(&1) && sizes.last() == Some(&10), "{sizes:?}");
    rig.finish().await;
}

#[tokio::test]
async fn a_pack_that_is_too_large_is_halved_whoever_says_so() {
    // Maximum Packet Size 1,500 in CONNACK; a broker that refuses for size; one that hangs up.
    let limited: &[u8] = &[0x27, 0, 0, 0x05, 0xdc];
    let small = |answer: Answer| -> Judge {
        Box::new(move |payload, _| match payload.len() < 1_400 {
            true => Answer::Takes,
            false => answer,
        })
    };
    let items: Vec<_> = (0..120)
        .map(|n| (Lane::History, batch(&format!("d{}", n % 3), n, 200)))
        .collect();
    for case in 0..4 {
        let never = || Answer::Refuses(TOO_LARGE);
        let (port, taken) = match case {
            0 => serve5(limited, small(never())).await,
            1 => serve5(&[], small(never())).await,
            2 => serve5(&[], small(Answer::HangsUp)).await,
            _ => serve4(small(Answer::HangsUp)).await,
        };
        let version = [MqttVersion::V311, MqttVersion::V5][usize::from(case < 3)];
        let mut rig = Rig::start(packing(port, version));
        let fate = play(&mut rig, &items).await;
        assert_eq!(fate.acked.len(), items.len(), "case {case}: {fate:?}");
        assert_eq!(in_order(&taken, case > 1), items.len());
        let packs = taken.lock().unwrap().len();
        assert!(packs < items.len(), "case {case}: {packs}");
        rig.finish().await;
    }
}

#[tokio::test]
async fn only_what_cannot_go_alone_is_given_up_for_its_size() {
    let limited: &[u8] = &[0x27, 0, 0, 0x08, 0];
    let (port, taken) = serve5(limited, Box::new(|_, _| Answer::Takes)).await;
    let mut rig = Rig::start(packing(port, MqttVersion::V5));
    let mut items: Vec<_> = (0..30).map(|n| (Lane::Live, batch("d0", n, 100))).collect();
    items.insert(11, (Lane::Live, batch("d1", 1, 9_000)));
    let fate = play(&mut rig, &items).await;
    assert_eq!(fate.given_up.keys().copied().collect::<Vec<_>>(), [11]);
    assert!(fate.given_up[&11].contains("the limit is 2048"), "{fate:?}");
    assert_eq!(fate.acked.len(), 30);
    assert_eq!(in_order(&taken, false), 30);
    rig.finish().await;
}

#[tokio::test]
async fn a_hang_up_on_one_device_in_packs_costs_that_device_alone() {
    for five in [true, false] {
        let judge: Judge =
            Box::new(
                |_, contents| match contents.iter().any(|(_, device, _)| device == "d2") {
                    true => Answer::HangsUp,
                    false => Answer::Takes,
                },
            );
        let (port, taken) = match five {
            true => serve5(&[], judge).await,
            false => serve4(judge).await,
        };
        let version = [MqttVersion::V311, MqttVersion::V5][usize::from(five)];
        let mut rig = Rig::start(packing(port, version));
        let items: Vec<_> = (0..100)
            .map(|n| (Lane::History, batch(&format!("d{}", n % 5), n, 10)))
            .collect();
        let fate = play(&mut rig, &items).await;
        let guilty = |place: &usize| place % 5 == 2;
        assert!(fate.refused.keys().all(guilty), "{fate:?}");
        assert!(fate.given_up.is_empty(), "{fate:?}");
        assert_eq!((fate.refused.len(), fate.acked.len()), (20, 80));
        let detail = &fate.refused.values().next().unwrap().1;
        assert!(detail.contains(PACKED) && detail.contains("d2"), "{detail}");
        assert_eq!(in_order(&taken, true), 80);
        rig.finish().await;
    }
}

#[tokio::test]
async fn one_content_that_is_hung_up_on_is_given_up_and_its_device_goes_on() {
    let judge: Judge =
        Box::new(
            |_, contents| match contents.contains(&("history".into(), "d0".into(), 35)) {
                true => Answer::HangsUp,
                false => Answer::Takes,
            },
        );
    let (port, _) = serve4(judge).await;
    let mut rig = Rig::start(packing(port, MqttVersion::V311));
    let items: Vec<_> = (0..100)
        .map(|n| (Lane::History, batch(&format!("d{}", n % 5), n, 10)))
        .collect();
    let fate = play(&mut rig, &items).await;
    assert_eq!(fate.given_up.keys().copied().collect::<Vec<_>>(), [35]);
    assert_eq!((fate.refused.len(), fate.acked.len()), (0, 99));
    rig.finish().await;
}

#[tokio::test]
async fn a_broker_that_hangs_up_every_few_packs_costs_nobody_anything() {
    for every in [2_u32, 3, 7] {
        let mut count = 0;
        let judge: Judge = Box::new(move |_, _| {
            count += 1;
            match count % every {
                0 => Answer::HangsUp,
                _ => Answer::Takes,
            }
        });
        let (port, _) = serve4(judge).await;
        let mut rig = Rig::start(packing(port, MqttVersion::V311));
        let items: Vec<_> = (0..100)
            .map(|n| (Lane::History, batch(&format!("d{}", n % 5), n, 300)))
            .collect();
        let fate = play(&mut rig, &items).await;
        assert_eq!(fate.acked.len(), 100, "every {every}: {fate:?}");
        rig.finish().await;
    }
}

#[tokio::test]
async fn a_puback_in_3_1_1_counts_only_when_no_hang_up_follows_it() {
    let broker = Broker::start().await;
    let mut rig = Rig::start(packing(broker.port, MqttVersion::V311));
    let mut peer = broker.welcome_hub().await;
    let epoch = rig.up().await;
    for number in 0..3 {
        rig.submit(epoch, number).await;
    }
    let publish = loop {
        match soon("a pack", peer.read()).await.unwrap() {
            Packet::Publish(publish) if publish.topic == PACKED => break publish,
            Packet::Publish(publish) => peer.puback(publish.pkid).await,
            _ => {}
        }
    };
    assert_eq!(contents(&publish.payload).len(), 3);
    peer.puback(publish.pkid).await;
    drop(peer);
    rig.down().await;
    let _again = broker.welcome_hub().await;
    assert!(rig.up().await > epoch);
    rig.finish().await;
}

#[tokio::test]
async fn in_order_what_is_handed_over_first_arrives_first_over_both_lanes() {
    let (port, taken) = serve5(&[], Box::new(|_, _| Answer::Takes)).await;
    let mut settings = packing(port, MqttVersion::V5);
    settings.broker.drain = DrainOrder::InOrder;
    let mut rig = Rig::start(settings);
    let items: Vec<_> = (1..=300)
        .map(|n| {
            let lane = if n <= 200 { Lane::History } else { Lane::Live };
            (lane, batch("d0", n, 100))
        })
        .collect();
    play(&mut rig, &items).await;
    let taken: Vec<Content> = taken.lock().unwrap().concat();
    let numbers: Vec<_> = taken.iter().map(|(_, _, number)| *number).collect();
    assert_eq!(numbers, (1..=300).collect::<Vec<_>>());
    let stored = taken.iter().filter(|(kind, ..)| kind == "history");
    assert_eq!(stored.count(), 200);
    rig.finish().await;
}

#[tokio::test]
async fn answers_to_commands_are_not_packed_and_do_not_wait() {
    let broker = Broker5::start().await;
    let mut settings = packing(broker.port, MqttVersion::V5);
    settings.broker.pack_delay = Duration::from_secs(3_600);
    let mut rig = Rig::start(settings);
    let mut peer = broker.welcome_hub(&[]).await;
    let epoch = rig.up().await;
    rig.submit(epoch, 1).await;
    let reply = telehub::reading::Reply {
        device: "cow".into(),
        name: "reboot".into(),
        topic: None,
        correlation: None,
        encoding: Encoding::Json,
        payload: Bytes::from_static(b"{}"),
        made: Moment::at(1_700_000_000.0),
    };
    rig.submit_item(epoch, 2, Item::Reply(reply)).await;
    let publish = peer.publish().await;
    assert_eq!(&publish.topic[..], b"telehub/barn/cow/result/reboot");
    peer.puback(publish.pkid, 0).await;
    assert_eq!(rig.acked().await, 2);
    drop(peer);
    rig.finish().await;
}
