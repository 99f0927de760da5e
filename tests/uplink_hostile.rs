//! Hundreds of connections to a broker that does anything at any time, with an intake that
//! resends: nothing may be called acknowledged that the broker did not acknowledge.
#![allow(clippy::unwrap_used, missing_docs, unreachable_pub)]

#[allow(dead_code)]
#[path = "support/broker.rs"]
mod broker;
#[allow(dead_code)]
#[path = "support/uplink_rig.rs"]
mod uplink_rig;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use broker::{Broker, Peer};
use rumqttc::{ConnectReturnCode, Packet};
use telehub::status::presence::Outbox;
use telehub::uplink::Event;
use uplink_rig::{Rig, presence, settings};

/// Numbers that look random and are the same in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % bound
    }
}

/// Token of each publish that the broker has acknowledged.
type Acknowledged = Arc<Mutex<HashSet<u64>>>;

/// One connection, until either side ends it.
async fn misbehave(mut peer: Peer, acknowledged: &Acknowledged, random: &mut Random) {
    // Packet id, and the token unless it is a state.
    let mut out: Vec<(u16, Option<u64>)> = Vec::new();
    for _ in 0..random.below(60) {
        let act = random.below(20);
        if act < 10 {
            let read = tokio::time::timeout(Duration::from_millis(3), peer.read()).await;
            match read {
                Err(_) => {}
                Ok(None) => return,
                Ok(Some(Packet::Publish(publish))) => {
                    assert!(
                        out.iter().all(|(id, _)| *id != publish.pkid),
                        "id used twice"
                    );
                    let payload: serde_json::Value =
                        serde_json::from_slice(&publish.payload).unwrap();
                    let token = payload["pack"][0]["v"].as_f64().map(|token| token as u64);
                    out.push((publish.pkid, token));
                }
                Ok(Some(other)) => panic!("{other:?}"),
            }
            continue;
        }
        match act {
            10..=16 if !out.is_empty() => {
                // One, or several in one write, in any order.
                let mut ids = Vec::new();
                for _ in 0..=random.below(out.len()) {
                    let (id, token) = out.swap_remove(random.below(out.len()));
                    acknowledged.lock().unwrap().extend(token);
                    ids.push(id);
                }
                peer.pubacks(ids).await;
            }
            17 => {
                // Never an id of this connection: the window is far smaller.
                peer.puback(5_000 + random.below(1_000) as u16).await;
                peer.closed().await;
                return;
            }
            18 => {
                // Half a PUBACK, or garbage, then the end.
                let bytes: [&[u8]; 3] = [&[0x40, 0x02, 0x00], &[0xff, 0xff], &[0x50, 0x02, 0, 1]];
                peer.raw(bytes[random.below(3)]).await;
                return;
            }
            19 => return,
            _ => {}
        }
    }
}

async fn connections(broker: Broker, outbox: Arc<Outbox>, acknowledged: Acknowledged) {
    let mut random = Random(7);
    loop {
        let mut peer = broker.accept().await;
        let Some(Packet::Connect(connect)) = peer.read().await else {
            continue;
        };
        assert!(connect.clean_session);
        outbox.put(&"cow".into(), presence("online", "connected"));
        if random.below(6) == 0 {
            peer.connack(ConnectReturnCode::ServiceUnavailable, false)
                .await;
            continue;
        }
        let session_present = random.below(2) == 0;
        peer.connack(ConnectReturnCode::Success, session_present)
            .await;
        misbehave(peer, &acknowledged, &mut random).await;
    }
}

#[tokio::test]
async fn nothing_is_acked_that_a_hostile_broker_did_not_acknowledge() {
    // Most connections live too short for more than one of them.
    const ITEMS: u64 = 100;
    let broker = Broker::start().await;
    let mut settings = settings(broker.port);
    settings.broker.inflight = 12;
    settings.pace.first_retry = Duration::from_millis(1);
    settings.pace.longest_retry = Duration::from_millis(4);
    let mut rig = Rig::start(settings);
    let acknowledged = Acknowledged::default();
    let hostile = tokio::spawn(connections(
        broker,
        rig.outbox.clone(),
        acknowledged.clone(),
    ));

    // Every try of an item has a token of its own, which is also what its payload says.
    let mut waiting: BTreeSet<u64> = (0..ITEMS).collect();
    let mut in_flight: HashMap<u64, u64> = HashMap::new();
    let mut tokens = 0..;
    let mut current = None;
    let mut last_epoch = 0;
    while !waiting.is_empty() || !in_flight.is_empty() {
        if let Some(epoch) = current {
            while in_flight.len() < 12
                && let Some(item) = waiting.pop_first()
            {
                let token = tokens.next().unwrap();
                rig.submit(epoch, token).await;
                in_flight.insert(token, item);
            }
        }
        assert!(!hostile.is_finished(), "the broker has found a fault");
        match rig.event().await {
            Event::Up { epoch } => {
                assert!(current.is_none() && epoch == last_epoch + 1);
                (current, last_epoch) = (Some(epoch), epoch);
            }
            Event::Down { epoch, .. } => {
                assert_eq!(epoch, last_epoch);
                current = None;
                waiting.extend(in_flight.drain().map(|(_, item)| item));
            }
            Event::Acked { epoch, token } => {
                assert_eq!(Some(epoch), current, "an ack after the end");
                let acknowledged = acknowledged.lock().unwrap().contains(&token);
                assert!(acknowledged, "{token} was never acknowledged");
                assert!(in_flight.remove(&token).is_some(), "{token} twice");
            }
            Event::Unpublishable { error, .. } => panic!("{error}"),
            // It looks as if it were hung up on alone. That is no ack, and no end.
            Event::Refused { token, .. } => waiting.extend(in_flight.remove(&token)),
        }
    }
    assert!(last_epoch > 30, "only {last_epoch} connections");
    hostile.abort();
}
