//! Intake, spool and uplink together, as the hub wires them, against a broker that misbehaves on
//! purpose: whatever it does, every batch arrives or is accounted for, and nothing stands behind
//! one bad payload.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "support/broker.rs"]
#[allow(dead_code)]
mod broker;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use broker::{Broker, Peer, soon};
use bytes::Bytes;
use rumqttc::ConnectReturnCode;
use rumqttc::mqttbytes::v4::{Packet, Publish};
use telehub::config::{self, DrainOrder, Format, Overflow, SpoolWrite};
use telehub::intake::lanes::Settings;
use telehub::intake::port::{Arrival, Attached, Control, IntakePort, Mailbox};
use telehub::intake::{self, Wiring};
use telehub::pulse::Pulse;
use telehub::reading::{Batch, Content, Encoding};
use telehub::status::board::Board;
use telehub::status::presence::Outbox;
use telehub::{spool, stop, uplink};
use tokio::sync::{mpsc, oneshot, watch};

const ACK_TIMEOUT: Duration = Duration::from_millis(300);

/// The lanes of a hub, and one device's connection to them.
struct Rig {
    port: IntakePort,
    mailbox: Arc<Mailbox>,
    attached: Attached,
    acked: u64,
    _dir: tempfile::TempDir,
    _stop: stop::Stopper,
}

impl Rig {
    async fn start(broker: u16) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let spool_config = config::Spool {
            path: dir.path().join("spool"),
            write: SpoolWrite::Outage,
            max_size: 1 << 30,
            min_free: 0,
            max_age: Duration::from_secs(86_400),
            commit_interval: Duration::ZERO,
            overflow: Overflow::DropOldest,
        };
        let uplink_config = config::Uplink {
            brokers: vec![config::Broker {
                host: "127.0.0.1".into(),
                port: broker,
                tls: None,
            }],
            version: config::MqttVersion::V311,
            return_after: Duration::from_secs(300),
            max_payload: 1 << 20,
            client_id: "telehub-barn".into(),
            username: None,
            password_file: None,
            prefix: "telehub".into(),
            format: Format::Json,
            drain: DrainOrder::LiveFirst,
            inflight: 10,
            ack_timeout: ACK_TIMEOUT,
            keep_alive: Duration::from_secs(30),
            pack: 0,
            pack_delay: Duration::from_secs(1),
            topic_dots: config::TopicDots::Keep,
        };
        let settings = Settings {
            write_always: false,
            in_order: false,
            refuse: false,
            window: 10,
            pack: 0,
            pack_delay: Duration::ZERO,
            device_window: 32,
            ack_timeout: ACK_TIMEOUT,
            max_age: spool_config.max_age,
            live_batches: 1_000,
            live_bytes: 1 << 20,
            held_bytes: 1 << 20,
            hold_back: Duration::from_millis(5),
            commit_interval: Duration::ZERO,
        };
        let pace = uplink::Pace {
            first_retry: Duration::from_millis(5),
            longest_retry: Duration::from_millis(20),
            ..uplink::Pace::default()
        };
        let uplink_settings = uplink::Settings {
            pace,
            ..uplink::Settings::new(uplink_config, "barn")
        };
        let board = Board::new("barn");
        let (spool_sender, spool_events, _) = spool::start(&spool_config).unwrap();
        let (control, control_rx) = mpsc::channel(16);
        let (data, data_rx) = mpsc::channel(16);
        let (submit, submissions) = mpsc::channel(21);
        let (news, uplink_events) = mpsc::channel(64);
        let (reconnect, given_up) = watch::channel(0);
        let (stopper, stop) = stop::channel();
        let (outbox, shown) = (Arc::new(Outbox::default()), board.clone());
        tokio::spawn(uplink::run(
            uplink_settings,
            submissions,
            outbox,
            news,
            shown,
            given_up,
            stop,
            None,
        ));
        let wiring = Wiring {
            rules: telehub::reduce::Rules::default(),
            topics: "t/h".into(),
            settings,
            control: control_rx,
            data: data_rx,
            answers: None,
            spool: spool_sender,
            spool_events,
            uplink: submit,
            uplink_events,
            reconnect,
            board,
            pulse: Pulse::default(),
        };
        tokio::spawn(intake::run(wiring, || {}));
        let mailbox = Arc::new(Mailbox::default());
        let (reply, answer) = oneshot::channel();
        let attach = Control::Attach {
            conn: 1,
            device: "cow".into(),
            stream: Some("s".into()),
            mailbox: mailbox.clone(),
            reply,
        };
        control.send(attach).await.unwrap();
        let attached = soon("the attach", answer).await.unwrap();
        let port = IntakePort { control, data };
        Self {
            port,
            mailbox,
            attached,
            acked: 0,
            _dir: dir,
            _stop: stopper,
        }
    }

    async fn send(&self, seq: u64, name: &str) {
        let frame = format!(r#"{{"data":{{"seq":{seq},"pack":[{{"n":"{name}","v":{seq}}}]}}}}"#);
        let batch = Batch {
            device: "cow".into(),
            stream: self.attached.name.clone(),
            seq: Some(seq),
            received: telehub::reading::Moment::at(telehub::clock::unix_now()),
            readings: 1,
            encoding: Encoding::Json,
            frame: Bytes::from(frame),
        };
        let arrival = Arrival {
            conn: 1,
            stream: self.attached.stream,
            resolved: batch.frame.len(),
            batch,
            content: Content(seq),
        };
        soon("room for a batch", self.port.data.send(arrival))
            .await
            .unwrap();
    }

    async fn acked(&mut self, seq: u64) {
        while self.acked < seq {
            let mail = soon("an ack", self.mailbox.take()).await;
            self.acked = self.acked.max(mail.ack.unwrap_or(0));
        }
    }
}

/// What a broker does with a publish.
enum Does {
    Acks,
    /// Neither acknowledges nor closes.
    Waits,
    HangsUp,
}

/// How often each topic and number was acknowledged; gap records count under their first number.
#[derive(Debug, Clone, Default)]
struct Book(Arc<Mutex<BTreeMap<(String, u64), u32>>>);

impl Book {
    fn enter(&self, publish: &Publish) {
        let json: serde_json::Value = serde_json::from_slice(&publish.payload).unwrap();
        let kind = publish.topic.rsplit('/').next().unwrap().to_owned();
        if let Some(seq) = json["seq"].as_u64().or(json["from"].as_u64()) {
            *self.0.lock().unwrap().entry((kind, seq)).or_default() += 1;
        }
    }

    fn of(&self, kinds: &[&str]) -> BTreeMap<u64, u32> {
        let mut of = BTreeMap::new();
        for ((kind, seq), times) in &*self.0.lock().unwrap() {
            if kinds.contains(&kind.as_str()) {
                *of.entry(*seq).or_default() += times;
            }
        }
        of
    }

    async fn until(&self, what: &str, condition: impl Fn(&Self) -> bool) {
        let wait = async {
            while !condition(self) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        soon(what, wait).await;
    }
}

/// Serves one connection until the broker hangs up or the hub goes.
async fn serve(peer: &mut Peer, book: &Book, mut does: impl FnMut(&Publish) -> Does) {
    while let Some(packet) = peer.read().await {
        let Packet::Publish(publish) = packet else {
            continue;
        };
        match does(&publish) {
            Does::Acks => {
                book.enter(&publish);
                peer.puback(publish.pkid).await;
            }
            Does::Waits => {}
            Does::HangsUp => return,
        }
    }
}

fn contains(publish: &Publish, text: &str) -> bool {
    publish
        .payload
        .windows(text.len())
        .any(|window| window == text.as_bytes())
}

#[tokio::test]
async fn a_payload_that_makes_the_broker_hang_up_becomes_a_gap_and_blocks_nothing() {
    let broker = Broker::start().await;
    let mut rig = Rig::start(broker.port).await;
    for seq in 1..=30 {
        rig.send(seq, if seq == 7 { "poison" } else { "t" }).await;
    }
    rig.acked(30).await;
    let book = Book::default();
    let entries = book.clone();
    let task = tokio::spawn(async move {
        loop {
            let (mut peer, _) = broker.welcome().await;
            serve(&mut peer, &entries, |publish| {
                if contains(publish, "poison") {
                    Does::HangsUp
                } else {
                    Does::Acks
                }
            })
            .await;
        }
    });
    book.until("the gap record", |book| !book.of(&["gap"]).is_empty())
        .await;
    book.until("all others", |book| {
        book.of(&["data", "history"]).len() == 29
    })
    .await;
    assert_eq!(book.of(&["gap"]).into_keys().collect::<Vec<_>>(), [7]);
    // And the lanes are as before.
    rig.send(31, "t").await;
    rig.acked(31).await;
    book.until("a live batch", |book| book.of(&["data"]).contains_key(&31))
        .await;
    task.abort();
}

#[tokio::test]
async fn a_broker_that_hangs_up_mid_flight_gets_everything_again_with_session_present_0_and_1() {
    let broker = Broker::start().await;
    let mut rig = Rig::start(broker.port).await;
    let book = Book::default();
    let entries = book.clone();
    let task = tokio::spawn(async move {
        for round in 0.. {
            let mut peer = broker.accept().await;
            peer.connect().await;
            peer.connack(ConnectReturnCode::Success, round % 2 == 1)
                .await;
            let mut left = 12;
            serve(&mut peer, &entries, |publish| {
                left -= i32::from(contains(publish, "seq") && round < 8);
                if left <= 0 { Does::HangsUp } else { Does::Acks }
            })
            .await;
        }
    });
    for seq in 1..=100 {
        rig.send(seq, "t").await;
    }
    rig.acked(100).await;
    book.until("every batch", |book| {
        book.of(&["data", "history"]).len() == 100
    })
    .await;
    assert!(book.of(&["gap"]).is_empty());
    task.abort();
}

#[tokio::test]
async fn a_broker_that_never_acknowledges_costs_an_ack_timeout_and_then_the_disk_acks() {
    let broker = Broker::start().await;
    let mut rig = Rig::start(broker.port).await;
    let book = Book::default();
    let entries = book.clone();
    let task = tokio::spawn(async move {
        // The first connection swallows everything; the hub gives it up by itself.
        let mut peer = broker.welcome_hub().await;
        serve(&mut peer, &entries, |_| Does::Waits).await;
        loop {
            let (mut peer, _) = broker.welcome().await;
            serve(&mut peer, &entries, |_| Does::Acks).await;
        }
    });
    for seq in 1..=25 {
        rig.send(seq, "t").await;
    }
    rig.acked(25).await;
    assert!(
        book.of(&["data", "history"]).is_empty(),
        "acked from disk alone"
    );
    book.until("every batch", |book| {
        book.of(&["data", "history"]).len() == 25
    })
    .await;
    task.abort();
}

#[tokio::test]
async fn late_and_reordered_pubacks_are_credited_and_nothing_is_published_twice() {
    let broker = Broker::start().await;
    let mut rig = Rig::start(broker.port).await;
    let book = Book::default();
    let entries = book.clone();
    // Nothing is acknowledged before all are on disk as well; then whatever is out, newest first.
    let (on_disk, stored) = oneshot::channel::<()>();
    let task = tokio::spawn(async move {
        let mut peer = broker.welcome_hub().await;
        let mut held: Vec<u16> = Vec::new();
        let mut stored = Some(stored);
        loop {
            let more = tokio::time::timeout(Duration::from_millis(50), peer.read()).await;
            match more {
                Ok(Some(Packet::Publish(publish))) => {
                    entries.enter(&publish);
                    held.push(publish.pkid);
                }
                Ok(Some(_)) => {}
                Ok(None) => return,
                // The window is full, or everything is out.
                Err(_) => {
                    if let Some(stored) = stored.take() {
                        stored.await.unwrap();
                        continue;
                    }
                    held.reverse();
                    peer.pubacks(held.drain(..)).await;
                }
            }
        }
    });
    for seq in 1..=40 {
        rig.send(seq, "t").await;
    }
    rig.acked(40).await;
    on_disk.send(()).unwrap();
    book.until("every batch", |book| {
        book.of(&["data", "history"]).len() == 40
    })
    .await;
    assert!(
        book.of(&["data", "history"])
            .values()
            .all(|times| *times == 1),
        "{book:?}"
    );
    assert!(
        !book.of(&["history"]).is_empty(),
        "some had to wait on disk"
    );
    task.abort();
}
