//! Brokers that hang up on one thing, or on everything now and then: the innocent arrive, and
//! nothing is given up for what something else did.
#![allow(clippy::unwrap_used, missing_docs, unreachable_pub)]

#[allow(dead_code)]
#[path = "support/broker.rs"]
mod broker;
#[allow(dead_code)]
#[path = "support/uplink_rig.rs"]
mod uplink_rig;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use broker::{Broker, soon};
use bytes::Bytes;
use rumqttc::{Packet, Publish};
use telehub::commands::desired::Desired;
use telehub::commands::port::UplinkWays;
use telehub::reading::{Batch, Encoding, Gap, GapReason, Item, Lane, Moment, Reply};
use telehub::status::board::Board;
use telehub::uplink::{Cause, Event, Submission};
use tokio::sync::{mpsc, watch};
use uplink_rig::{Rig, presence, settings};

fn batch(device: &str, seq: u64, bytes: usize) -> Item {
    let text = "x".repeat(bytes);
    Item::Batch(Batch {
        device: device.into(),
        stream: "s".into(),
        seq: Some(seq),
        received: Moment::at(1_700_000_000.0),
        readings: 1,
        encoding: Encoding::Json,
        frame: Bytes::from(format!(r#"[{{"n":"t","vs":"{text}"}}]"#)),
    })
}

fn gap(device: &str) -> Item {
    match batch(device, 1, 1) {
        Item::Batch(batch) => Item::Gap(Gap::of(&batch, GapReason::Expired, 1.0)),
        Item::Gap(_) | Item::Reply(_) => unreachable!(),
    }
}

/// When the intake gives up a connection on which nothing happens.
const GIVES_UP: Duration = Duration::from_secs(2);

/// What became of each item.
#[derive(Default, Debug)]
struct Fate {
    acked: BTreeSet<usize>,
    refused: BTreeMap<usize, String>,
    given_up: BTreeMap<usize, String>,
}

/// Plays the intake: everything that is not acknowledged is submitted again on each connection, in
/// order, until each item has come to an end.
async fn play(rig: &mut Rig, items: &[Item]) -> Fate {
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
            for (place, item) in items.iter().enumerate() {
                if out.len() >= 20 || !open(&fate, place) || !out.insert(place) {
                    continue;
                }
                let submission = Submission {
                    epoch,
                    token: place as u64,
                    lane: Lane::History,
                    item: Arc::new(item.clone()),
                };
                assert!(rig.submissions().send(submission).await.is_ok());
            }
        }
        let event = tokio::select! {
            event = rig.event() => event,
            // As the intake does when nothing is acknowledged any more.
            () = tokio::time::sleep(GIVES_UP), if epoch.is_some() => {
                rig.reconnect.send_replace(epoch.unwrap());
                continue;
            }
        };
        match event {
            Event::Up { epoch: up } => epoch = Some(up),
            Event::Down { .. } => {
                epoch = None;
                out.clear();
            }
            Event::Acked { token, .. } => {
                out.remove(&(token as usize));
                fate.acked.insert(token as usize);
            }
            Event::Refused { token, refusal, .. } => {
                assert_eq!(refusal.cause, Cause::HungUp);
                out.remove(&(token as usize));
                fate.refused.insert(token as usize, refusal.detail);
            }
            Event::Unpublishable { token, error, .. } => {
                out.remove(&(token as usize));
                fate.given_up.insert(token as usize, error);
            }
        }
    }
    fate
}

/// A broker that hangs up on what it does not like.
fn serve(broker: Broker, mut likes: impl FnMut(&Publish) -> bool + Send + 'static) {
    tokio::spawn(async move {
        loop {
            let (mut peer, _) = broker.welcome().await;
            while let Some(packet) = peer.read().await {
                if let Packet::Publish(publish) = packet {
                    if !likes(&publish) {
                        break;
                    }
                    peer.puback(publish.pkid).await;
                }
            }
        }
    });
}

/// A broker that says nothing more but to pings after what it does not like.
fn serve_in_silence(broker: Broker, mut likes: impl FnMut(&Publish) -> bool + Send + 'static) {
    tokio::spawn(async move {
        loop {
            let (mut peer, _) = broker.welcome().await;
            let mut silent = false;
            while let Some(packet) = peer.read().await {
                if let Packet::Publish(publish) = packet {
                    silent |= !likes(&publish);
                    if !silent {
                        peer.puback(publish.pkid).await;
                    }
                }
            }
        }
    });
}

fn five_devices() -> Vec<Item> {
    (0..50)
        .map(|n| batch(&format!("d{}", n % 5), n, 10))
        .collect()
}

async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let wait = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    soon(what, wait).await;
}

#[tokio::test]
async fn a_hang_up_on_one_devices_status_costs_that_status_alone() {
    let broker = Broker::start().await;
    let mut rig = Rig::start(settings(broker.port));
    for device in ["d0", "d1", "d2"] {
        rig.outbox
            .put(&device.into(), presence("online", "connected"));
    }
    serve(broker, |publish| publish.topic != "telehub/barn/d1/status");
    let fate = play(&mut rig, &five_devices()).await;
    assert_eq!(fate.acked.len(), 50, "{fate:?}");
    let board = rig.board.clone();
    // The events of further connections are of no interest.
    let drain = tokio::spawn(async move { while rig.events.recv().await.is_some() {} });
    until("the verdict", || {
        board.status().uplink.refused_statuses == 1
    })
    .await;
    drain.abort();
}

#[tokio::test]
async fn a_hang_up_on_a_devices_data_and_its_gap_costs_that_device_alone() {
    let broker = Broker::start().await;
    let mut rig = Rig::start(settings(broker.port));
    serve(broker, |publish| {
        !publish.topic.starts_with("telehub/barn/d2/")
    });
    let mut items = five_devices();
    items.push(gap("d2"));
    items.push(gap("d3"));
    let fate = play(&mut rig, &items).await;
    let guilty = |place: &usize| place % 5 == 2 && *place < 50 || *place == 50;
    assert!(fate.refused.keys().all(guilty), "{fate:?}");
    assert_eq!((fate.refused.len(), fate.acked.len()), (11, 41));
    assert!(fate.given_up.is_empty());
    assert!(
        fate.refused[&50].contains("telehub/barn/d2/gap"),
        "{:?}",
        fate.refused[&50]
    );
}

#[tokio::test]
async fn a_broker_that_hangs_up_on_retain_gets_the_data_all_the_same() {
    let broker = Broker::start().await;
    let mut rig = Rig::start(settings(broker.port));
    rig.outbox
        .put(&"d0".into(), presence("online", "connected"));
    serve(broker, |publish| !publish.retain);
    let fate = play(&mut rig, &five_devices()).await;
    assert_eq!(fate.acked.len(), 50, "{fate:?}");
}

#[tokio::test]
async fn only_what_is_too_large_is_given_up_and_what_is_larger_is_not_tried_any_more() {
    let broker = Broker::start().await;
    let mut rig = Rig::start(settings(broker.port));
    serve(broker, |publish| publish.payload.len() < 30_000);
    let mut items = Vec::new();
    for n in 0..60 {
        let large = n > 10 && n % 10 == 5;
        items.push(batch(
            if large { "d0" } else { "d1" },
            n,
            if large { 40_000 } else { 10 },
        ));
        items.push(batch("d0", 1_000 + n, 10));
    }
    let fate = play(&mut rig, &items).await;
    assert!(fate.refused.is_empty(), "{:?}", fate.refused);
    assert_eq!(
        (fate.given_up.len(), fate.acked.len()),
        (5, 115),
        "{:?}",
        fate.given_up
    );
}

#[tokio::test]
async fn what_makes_a_broker_fall_silent_is_given_up_alone_as_what_it_hangs_up_on() {
    let broker = Broker::start().await;
    let mut settings = settings(broker.port);
    settings.broker.ack_timeout = Duration::from_millis(300);
    let mut rig = Rig::start(settings);
    serve_in_silence(broker, |publish| publish.payload.len() < 30_000);
    let mut items = five_devices();
    items.insert(20, batch("d0", 1_000, 40_000));
    let fate = play(&mut rig, &items).await;
    assert_eq!(fate.given_up.keys().collect::<Vec<_>>(), [&20]);
    assert_eq!((fate.refused.len(), fate.acked.len()), (0, 50));
}

#[tokio::test]
async fn a_broker_that_acknowledges_nothing_for_a_while_costs_nobody_anything() {
    let broker = Broker::start().await;
    let mut settings = settings(broker.port);
    settings.broker.ack_timeout = Duration::from_millis(100);
    let mut rig = Rig::start(settings);
    let mut seen = 0;
    serve_in_silence(broker, move |_| {
        seen += 1;
        seen > 40
    });
    let fate = play(&mut rig, &five_devices()).await;
    assert_eq!((fate.refused.len(), fate.given_up.len()), (0, 0));
}

#[tokio::test]
async fn a_broker_that_hangs_up_every_few_publishes_costs_nobody_anything() {
    for every in [2_u32, 3, 7] {
        let broker = Broker::start().await;
        let mut rig = Rig::start(settings(broker.port));
        let mut count = 0;
        serve(broker, move |_| {
            count += 1;
            count % every != 0
        });
        let fate = play(&mut rig, &five_devices()).await;
        assert_eq!(fate.acked.len(), 50, "every {every}: {fate:?}");
    }
}

#[tokio::test]
async fn a_probe_that_does_not_come_back_is_shown_for_as_long_as_that_lasts() {
    // Acknowledges everything and delivers nothing.
    let broker = Broker::start().await;
    let mut rig = Rig::start(settings(broker.port));
    let (mut peer, _) = broker.welcome().await;
    rig.up().await;
    let board = rig.board.clone();
    let deaf = tokio::spawn(async move { peer.acknowledge_deaf().await });
    until("the verdict", || {
        board.status().uplink.probe == telehub::status::board::ProbeState::Silent
    })
    .await;
    deaf.abort();
    let _ = deaf.await;
    rig.down().await;
    // The next broker is honest.
    let mut peer = broker.welcome_hub().await;
    rig.up().await;
    tokio::spawn(async move { while peer.read().await.is_some() {} });
    until("the echo", || {
        board.status().uplink.probe == telehub::status::board::ProbeState::Heard
    })
    .await;
}

#[tokio::test]
async fn one_payload_that_is_hung_up_on_is_given_up_and_its_device_goes_on() {
    let broker = Broker::start().await;
    let mut rig = Rig::start(settings(broker.port));
    let poison = |publish: &Publish| publish.payload.windows(6).any(|bytes| bytes == b"poison");
    serve(broker, move |publish| !poison(publish));
    let mut items = five_devices();
    if let Item::Batch(batch) = &mut items[7] {
        batch.frame = Bytes::from_static(br#"[{"n":"poison","v":1}]"#);
    }
    let fate = play(&mut rig, &items).await;
    assert_eq!(
        fate.given_up.keys().copied().collect::<Vec<_>>(),
        [7],
        "{fate:?}"
    );
    assert_eq!((fate.refused.len(), fate.acked.len()), (0, 49));
}

/// What a device reports, and answers to commands, wait for nobody else: while nothing else is there
/// and everything is suspected, one of them is believed.
#[tokio::test]
async fn reports_and_answers_pass_after_a_broker_that_hung_up_on_everything() {
    for hang_ups in [6, 7, 8, 9] {
        let broker = Broker::start().await;
        let port = broker.port;
        let (incoming, _from_broker) = mpsc::channel(1);
        let (replies, reply_receiver) = mpsc::channel(8);
        let (news, _news) = mpsc::unbounded_channel();
        let desired = Desired::new(Board::new("barn"));
        desired.allow(["lamp".into()].into());
        let (_authority, authority) = watch::channel(Arc::default());
        let ways = UplinkWays {
            incoming,
            replies: reply_receiver,
            news,
            desired: desired.clone(),
            authority,
            max_size: 1 << 10,
        };
        let mut rig = Rig::with_commands(settings(port), 100, Some(ways));
        let taken = Arc::new(Mutex::new(BTreeSet::new()));
        let seen = taken.clone();
        let (hung_up, so_far) = watch::channel(0);
        serve(broker, move |publish| {
            if *hung_up.borrow() < hang_ups {
                hung_up.send_modify(|count| *count += 1);
                return false;
            }
            seen.lock().unwrap().insert(publish.topic.clone());
            true
        });
        let reply = || Reply {
            device: "pump".into(),
            name: "on".into(),
            topic: None,
            correlation: None,
            encoding: Encoding::Json,
            payload: Bytes::from_static(b"{}"),
            made: Moment::at(1.0),
        };
        let report = || assert!(desired.reported(&"lamp".into(), Bytes::from_static(b"{}")));
        // Until the broker is good there is data of one device as well, and then never again.
        loop {
            if let Event::Up { epoch } = rig.event().await {
                report();
                let _ = replies.try_send(reply());
                if *so_far.borrow() == hang_ups {
                    break;
                }
                rig.submit_item(epoch, 1, batch("cow", 1, 1)).await;
            }
        }
        for topic in ["telehub/barn/lamp/reported", "telehub/barn/pump/result/on"] {
            let here = async {
                while !taken.lock().unwrap().contains(topic) {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            };
            soon(&format!("{topic} after {hang_ups}"), here).await;
        }
        drop(replies);
        rig.finish().await;
    }
}
