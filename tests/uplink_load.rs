//! Full speed, slow peers on either side, and payloads that a broker or the hub cannot stand.
#![allow(clippy::unwrap_used, missing_docs, unreachable_pub)]

#[allow(dead_code)]
#[path = "support/broker.rs"]
mod broker;
#[allow(dead_code)]
#[path = "support/uplink_rig.rs"]
mod uplink_rig;

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use broker::{Broker, soon};
use telehub::reading::{Gap, GapReason, Item, Lane};
use telehub::uplink::{Event, Submission};
use uplink_rig::{Rig, batch, batch_of, settings};

/// A pack of so many strings of 60,000 bytes.
fn large(records: usize) -> Item {
    let text = "x".repeat(60_000);
    let records: Vec<_> = (0..records)
        .map(|number| format!(r#"{{"n":"r{number}","vs":"{text}"}}"#))
        .collect();
    batch_of(1, format!("[{}]", records.join(",")).into_bytes())
}

#[tokio::test]
async fn a_batch_near_the_limit_arrives_whole() {
    let broker = Broker::start().await;
    let mut rig = Rig::start(settings(broker.port));
    let mut peer = broker.welcome_hub().await;
    let epoch = rig.up().await;
    rig.submit_item(epoch, 1, large(16)).await;
    let publish = peer.publish().await;
    assert!(publish.payload.len() > 900_000, "{}", publish.payload.len());
    peer.puback(publish.pkid).await;
    assert_eq!(rig.acked().await, 1);
}

#[tokio::test]
async fn what_cannot_be_published_is_said_so_and_the_connection_is_unharmed() {
    let broker = Broker::start().await;
    let mut rig = Rig::start(settings(broker.port));
    let mut peer = broker.welcome_hub().await;
    let epoch = rig.up().await;
    // Too large once resolved; not a frame any more; between good ones.
    rig.submit(epoch, 1).await;
    rig.submit_item(epoch, 2, large(20)).await;
    rig.submit_item(epoch, 3, batch_of(3, b"[{\"n\":".to_vec()))
        .await;
    rig.submit(epoch, 4).await;
    for token in [2, 3] {
        match rig.event().await {
            Event::Unpublishable {
                epoch: of,
                token: which,
                error,
            } => {
                assert_eq!((of, which), (epoch, token));
                assert!(error.len() < 300, "{error}");
            }
            other => panic!("{other:?}"),
        }
    }
    let publishes = peer.publishes(2).await;
    peer.pubacks(publishes.iter().map(|publish| publish.pkid))
        .await;
    assert_eq!((rig.acked().await, rig.acked().await), (1, 4));
}

#[tokio::test]
async fn a_broker_that_hangs_up_on_one_payload_is_met_again_without_it() {
    let broker = Broker::start().await;
    let mut rig = Rig::start(settings(broker.port));
    // However often the intake tries, each try ends one connection and nothing more.
    for _ in 0..5 {
        let mut peer = broker.welcome_hub().await;
        let epoch = rig.up().await;
        rig.submit(epoch, 666).await;
        peer.publish().await;
        drop(peer);
        // The intake has to know that it was the broker, to suspect what was in flight.
        let event = rig.event().await;
        assert!(
            matches!(event, Event::Down { hung_up: true, .. }),
            "{event:?}"
        );
    }
    let mut peer = broker.welcome_hub().await;
    let epoch = rig.up().await;
    let batch = match batch(666) {
        Item::Batch(batch) => batch,
        Item::Gap(_) | Item::Reply(_) => unreachable!(),
    };
    let gap = Gap::of(&batch, GapReason::TooLarge, 1.0);
    rig.submit_item(epoch, 1, Item::Gap(gap)).await;
    let publish = peer.publish().await;
    assert_eq!(publish.topic, "telehub/barn/cow/gap");
    peer.puback(publish.pkid).await;
    assert_eq!(rig.acked().await, 1);
}

#[tokio::test]
async fn a_broker_that_stops_reading_is_left_and_memory_stays_bounded() {
    let broker = Broker::with_small_buffers();
    let mut rig = Rig::start(settings(broker.port));
    let peer = broker.welcome_hub().await;
    let epoch = rig.up().await;
    for token in 0..100 {
        rig.submit_item(epoch, token, large(10)).await;
    }
    let error = rig.down().await;
    assert!(error.contains("did not take any data"), "{error}");
    drop(peer);
    broker.welcome_hub().await;
    rig.up().await;
}

#[tokio::test]
async fn large_payloads_fill_the_window_by_their_bytes() {
    let broker = Broker::start().await;
    let mut rig = Rig::start(settings(broker.port));
    let mut peer = broker.welcome_hub().await;
    let epoch = rig.up().await;
    for token in 0..40 {
        rig.submit_item(epoch, token, large(16)).await;
    }
    // 960,000 bytes each, and one is taken while there are less than 8 MiB.
    let mut out = peer.publishes(9).await;
    assert!(peer.is_silent_for(Duration::from_millis(300)).await);
    for token in 0..40 {
        peer.puback(out.remove(0).pkid).await;
        assert_eq!(rig.acked().await, token);
        if token < 40 - 9 {
            out.push(peer.publish().await);
        }
    }
}

#[tokio::test]
async fn an_intake_that_reads_no_events_stops_the_flow_but_not_the_connection() {
    let broker = Broker::start().await;
    let mut settings = settings(broker.port);
    settings.broker.inflight = 10;
    settings.broker.keep_alive = Duration::from_secs(1);
    let mut rig = Rig::with_channels(settings, 1);
    let mut peer = broker.welcome_hub().await;
    let submissions = rig.submissions();
    let feeder = tokio::spawn(async move {
        for token in 0..1000 {
            let submission = Submission {
                epoch: 1,
                token,
                lane: Lane::Live,
                item: Arc::new(batch(token)),
            };
            if submissions.send(submission).await.is_err() {
                break;
            }
        }
    });
    let acks = tokio::spawn(async move {
        peer.acknowledge_all().await;
    });
    // The flow stands still, longer than two keep-alives.
    soon("a standstill", async {
        let mut last = u64::MAX;
        loop {
            let now = rig.board.status().uplink.acknowledged;
            if now == last && now > 0 {
                break;
            }
            last = now;
            tokio::time::sleep(Duration::from_millis(2500)).await;
        }
    })
    .await;
    assert!(rig.board.status().uplink.acknowledged < 100);
    assert!(!feeder.is_finished());
    assert_eq!(rig.up().await, 1);
    for token in 0..1000 {
        assert_eq!(rig.acked().await, token);
    }
    feeder.await.unwrap();
    drop(rig);
    acks.await.unwrap();
}

/// A mosquitto on a free port, ended with the test.
struct Mosquitto {
    child: Child,
    port: u16,
    _directory: tempfile::TempDir,
}

impl Mosquitto {
    fn start() -> Self {
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let directory = tempfile::tempdir().unwrap();
        let config = directory.path().join("mosquitto.conf");
        let text = format!("listener {port} 127.0.0.1\nallow_anonymous true\nlog_type error\n");
        std::fs::write(&config, text).unwrap();
        let path = std::env::var("PATH").unwrap_or_default();
        let child = Command::new("mosquitto")
            .env("PATH", format!("{path}:/usr/sbin"))
            .arg("-c")
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("mosquitto is not installed");
        Self {
            child,
            port,
            _directory: directory,
        }
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Keeps the window as the intake does: counted from the oldest unacknowledged.
#[tokio::test]
async fn at_full_speed_through_mosquitto_every_token_is_acked_exactly_once() {
    const COUNT: u64 = 200_000;
    const WINDOW: u64 = 100;
    let mosquitto = Mosquitto::start();
    let mut rig = Rig::with_channels(settings(mosquitto.port), WINDOW as usize);
    let epoch = loop {
        if let Event::Up { epoch } = rig.event().await {
            break epoch;
        }
    };
    let item = Arc::new(batch(1));
    let submissions = rig.submissions();
    let begun = Instant::now();
    let (mut submitted, mut oldest) = (0, 0);
    let mut acked = vec![false; COUNT as usize];
    let mut buffer = Vec::new();
    while oldest < COUNT {
        while submitted < COUNT && submitted - oldest < WINDOW {
            let submission = Submission {
                epoch,
                token: submitted,
                lane: Lane::Live,
                item: item.clone(),
            };
            // A channel of one window has always room for the window.
            submissions.try_send(submission).unwrap();
            submitted += 1;
        }
        soon("an ack", rig.events.recv_many(&mut buffer, WINDOW as usize)).await;
        for event in buffer.drain(..) {
            let Event::Acked { token, .. } = event else {
                panic!("{event:?}")
            };
            assert!(
                !std::mem::replace(&mut acked[token as usize], true),
                "{token} twice"
            );
        }
        while oldest < COUNT && acked[oldest as usize] {
            oldest += 1;
        }
    }
    let rate = COUNT as f64 / begun.elapsed().as_secs_f64();
    eprintln!("{rate:.0} acknowledged publishes a second");
    drop(submissions);
    rig.finish().await;
}
