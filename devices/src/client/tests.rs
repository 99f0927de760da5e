//! The client against a hub that misbehaves on purpose.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use serde_json::json;
use tokio::time::timeout;

use super::connect::Refused;
use super::fake_hub::{Act, FakeHub, MAX_MESSAGE};
use super::{Full, Options, Outcome, Source, Stats, Stopper, run};
use crate::conformance::tls::{Certificates, Shows};
use crate::wire::Encoding;
use crate::wire::senml::{Pack, Record, Value};

/// Gives `left` batches, each with its own number as the reading, as fast as they are taken.
struct Count {
    given: u64,
    until: u64,
    pad: usize,
}

impl Source for Count {
    async fn next(&mut self) -> Option<Pack> {
        if self.given == self.until {
            return None;
        }
        self.given += 1;
        let mut pack = Pack::new("t/".into(), Some(1_700_000_000.0));
        pack.records
            .push(Record::number("n", None, self.given as f64));
        if self.pad > 0 {
            let mut record = Record::number("pad", None, 0.0);
            record.value = Value::Text("x".repeat(self.pad));
            pack.records.push(record);
        }
        Some(pack)
    }
}

fn count(until: u64) -> Count {
    Count {
        given: 0,
        until,
        pad: 0,
    }
}

fn options(hub: &FakeHub) -> Options {
    Options {
        hub: hub.url.clone(),
        others: Vec::new(),
        tls: None,
        id: "tester".into(),
        token: None,
        encoding: Encoding::Cbor,
        keep: 8,
        full: Full::Wait,
        window: None,
        model: "test",
        drain: Duration::from_secs(20),
        no_clock: false,
    }
}

async fn play(options: Options, source: impl Source) -> (Outcome, Arc<Stats>) {
    let stats = Arc::new(Stats::default());
    let (_stopper, stop) = Stopper::new();
    let run = run(options, source, stats.clone(), stop, None);
    let outcome = timeout(Duration::from_secs(30), run)
        .await
        .expect("it hangs");
    (outcome, stats)
}

fn lost(take: usize) -> Act {
    Act {
        take: Some(take),
        ..Act::default()
    }
}

#[tokio::test]
async fn every_batch_is_acked_and_the_end_is_orderly() {
    for encoding in [Encoding::Cbor, Encoding::Json] {
        let hub = FakeHub::start(vec![Act::default()]).await;
        let mut options = options(&hub);
        options.encoding = encoding;
        options.token = Some("secret".into());
        let (outcome, stats) = play(options, count(50)).await;
        assert!(outcome.fatal.is_none() && outcome.unacked.is_empty());
        assert_eq!(stats.acked.load(Relaxed), 50);
        assert_eq!(stats.violations.load(Relaxed), 0);
        assert!(hub.seqs(0).into_iter().eq(1..=50));
        let seen = hub.seen.lock().unwrap();
        assert_eq!(seen.closes, [1000]);
        assert_eq!(seen.authorization.as_deref(), Some("Bearer secret"));
        assert_eq!(seen.overruns, 0);
    }
}

#[tokio::test]
async fn after_lost_connections_it_resumes_behind_what_is_safe() {
    let silent = Act {
        silent: true,
        ..lost(3)
    };
    let forgetful = Act {
        forget: true,
        ..lost(2)
    };
    let hub = FakeHub::start(vec![silent, forgetful, Act::default()]).await;
    let (outcome, stats) = play(options(&hub), count(20)).await;
    assert!(outcome.fatal.is_none() && outcome.unacked.is_empty());
    assert_eq!(hub.seqs(0), [1, 2, 3]);
    assert_eq!(hub.seqs(1), [4, 5], "1 to 3 were safe without an ack");
    assert_eq!(hub.seqs(2)[0], 4, "4 and 5 were not safe");
    assert_eq!(stats.acked.load(Relaxed), 20);
    assert_eq!(stats.lost.load(Relaxed), 2);
    // What was sent twice is the same reading under the same number.
    for (seq, pack) in hub.batches() {
        assert_eq!(pack[0]["2"], json!(seq));
    }
}

#[tokio::test]
async fn when_its_hub_does_not_answer_it_goes_on_with_the_next_under_the_same_numbers() {
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let nobody = format!("ws://{}", gone.local_addr().unwrap());
    drop(gone);
    // The first takes three batches, acks none, and answers no more.
    let ends = Act {
        forget: true,
        silent: true,
        ..lost(3)
    };
    let full = Act {
        refuse: Some((503, vec![("Retry-After", "60")])),
        ..Act::default()
    };
    let first = FakeHub::start(vec![ends, full]).await;
    let second = FakeHub::start(vec![Act::default()]).await;
    let options = Options {
        others: vec![nobody, second.url.clone()],
        ..options(&first)
    };
    let (outcome, stats) = play(options, count(20)).await;
    assert!(outcome.fatal.is_none() && outcome.unacked.is_empty());
    assert_eq!(first.seqs(0), [1, 2, 3]);
    assert!(second.seqs(0).into_iter().eq(1..=20));
    assert_eq!(stats.acked.load(Relaxed), 20);
    // Of the same stream: a consumer knows the second copy of the first three.
    let stream = |hub: &FakeHub| hub.seen.lock().unwrap().safe.keys().next().cloned();
    assert_eq!(stream(&second).unwrap().1, outcome.stream);
}

#[tokio::test]
async fn a_rejected_batch_is_not_sent_again_and_does_not_hold_up_others() {
    let rejecting = Act {
        reject: Some(3),
        ..lost(5)
    };
    let hub = FakeHub::start(vec![rejecting, Act::default()]).await;
    let (outcome, stats) = play(options(&hub), count(10)).await;
    assert!(outcome.unacked.is_empty());
    assert_eq!(stats.rejected.load(Relaxed), 1);
    assert_eq!(stats.acked.load(Relaxed), 9);
    assert!(!hub.seqs(1).contains(&3));
    assert_eq!(stats.reasons()["reject bad-pack"], 1);
}

#[tokio::test]
async fn a_replaced_or_revoked_device_does_not_come_back() {
    for (code, word) in [(4001, "replaced"), (4002, "credentials")] {
        let closing = Act {
            close: Some(code),
            ..lost(1)
        };
        let hub = FakeHub::start(vec![closing, Act::default()]).await;
        let (outcome, _) = play(options(&hub), count(1000)).await;
        assert!(outcome.fatal.unwrap().contains(word));
        assert_eq!(hub.seen.lock().unwrap().connects, 1);
    }
}

#[tokio::test]
async fn a_hub_that_stops_is_tried_again() {
    let stopping = Act {
        close: Some(1001),
        ..lost(2)
    };
    let hub = FakeHub::start(vec![stopping, Act::default()]).await;
    let (outcome, stats) = play(options(&hub), count(10)).await;
    assert!(outcome.fatal.is_none() && outcome.unacked.is_empty());
    assert_eq!(stats.reasons()["close 1001"], 1);
}

#[tokio::test]
async fn a_refusal_for_good_ends_it_and_its_detail_is_told() {
    let refusing = Act {
        refuse: Some((401, vec![])),
        ..Act::default()
    };
    let hub = FakeHub::start(vec![refusing]).await;
    let (outcome, _) = play(options(&hub), count(1)).await;
    let fatal = outcome.fatal.unwrap();
    assert!(
        fatal.contains("401") && fatal.contains("not today"),
        "{fatal}"
    );
    assert_eq!(
        outcome.unacked.len() + hub.batches().len(),
        outcome.unacked.len()
    );
}

#[tokio::test]
async fn a_full_hub_is_tried_again_after_the_time_it_asked_for() {
    let full = Act {
        refuse: Some((503, vec![("retry-after", "2")])),
        ..Act::default()
    };
    let hub = FakeHub::start(vec![full, Act::default()]).await;
    let started = tokio::time::Instant::now();
    let (outcome, stats) = play(options(&hub), count(1)).await;
    assert!(outcome.fatal.is_none() && outcome.unacked.is_empty());
    assert!(started.elapsed() >= Duration::from_secs(2));
    assert_eq!(stats.failed_connects.load(Relaxed), 1);
}

#[tokio::test]
async fn pings_and_commands_are_answered() {
    let talkative = Act {
        ping: true,
        say: Some(
            json!({"command": {"id": "7", "name": "echo", "args": {"a": [1, null]}, "timeout": 30}}),
        ),
        ..Act::default()
    };
    let hub = FakeHub::start(vec![talkative]).await;
    let (outcome, _) = play(options(&hub), count(5)).await;
    assert!(outcome.unacked.is_empty());
    let seen = hub.seen.lock().unwrap();
    assert_eq!(seen.pongs, 1);
    assert_eq!(
        seen.results,
        [json!({"id": "7", "ok": true, "value": {"a": [1, null]}})]
    );
}

#[tokio::test]
async fn an_ack_of_what_was_never_sent_is_a_fault_of_the_hub() {
    let lying = Act {
        say: Some(json!({"ack": {"seq": 1000}})),
        ..Act::default()
    };
    let hub = FakeHub::start(vec![lying]).await;
    let (outcome, stats) = play(options(&hub), count(5)).await;
    assert!(outcome.fatal.unwrap().contains("never sent"));
    assert_eq!(stats.violations.load(Relaxed), 1);
}

#[tokio::test]
async fn a_batch_beyond_the_hubs_limit_is_told_and_not_sent() {
    let hub = FakeHub::start(vec![Act::default()]).await;
    let mut source = count(3);
    source.pad = MAX_MESSAGE;
    let (outcome, stats) = play(options(&hub), source).await;
    assert!(outcome.unacked.is_empty());
    assert_eq!(stats.dropped.load(Relaxed), 3);
    assert!(hub.batches().is_empty());
}

#[tokio::test]
async fn a_sensor_without_a_hub_keeps_the_newest_and_tells_what_it_gave_up() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("ws://{}", listener.local_addr().unwrap());
    drop(listener);
    let stats = Arc::new(Stats::default());
    let (_stopper, stop) = Stopper::new();
    let options = Options {
        hub: url,
        others: Vec::new(),
        tls: None,
        id: "alone".into(),
        token: None,
        encoding: Encoding::Cbor,
        keep: 8,
        full: Full::DropOldest,
        window: None,
        model: "test",
        drain: Duration::from_millis(200),
        no_clock: false,
    };
    let outcome = run(options, count(20), stats.clone(), stop, None).await;
    assert!(outcome.unacked.into_iter().eq(13..=20));
    assert_eq!(stats.dropped.load(Relaxed), 12);
}

#[tokio::test]
async fn a_device_without_a_clock_says_so_and_sends_the_age_of_what_had_to_wait() {
    for encoding in [Encoding::Cbor, Encoding::Json] {
        let stopping = Act {
            forget: true,
            close: Some(1001),
            ..lost(1)
        };
        let full = Act {
            refuse: Some((503, vec![("retry-after", "2")])),
            ..Act::default()
        };
        let hub = FakeHub::start(vec![stopping, full, Act::default()]).await;
        let mut options = options(&hub);
        options.encoding = encoding;
        options.no_clock = true;
        let (outcome, _) = play(options, count(1)).await;
        assert!(outcome.unacked.is_empty());
        let seen = hub.seen.lock().unwrap();
        assert_eq!(seen.hellos[0]["clock"], "none");
        assert_eq!(
            (&seen.hellos[0]["next"], &seen.hellos[1]["next"]),
            (&json!(1), &json!(2))
        );
        assert_eq!(seen.ages[0], None);
        assert!(seen.ages[1].unwrap() >= 2, "{:?}", seen.ages);
        for (seq, pack) in seen.batches.concat() {
            assert_eq!(seq, 1);
            let record = pack[0].as_object().unwrap();
            assert!(!record.contains_key("-3") && !record.contains_key("bt"));
        }
    }
}

#[tokio::test]
async fn a_counter_that_was_lost_is_renumbered_behind_the_hubs() {
    let ahead = Act {
        ahead: 100,
        ..Act::default()
    };
    let hub = FakeHub::start(vec![ahead]).await;
    let (outcome, stats) = play(options(&hub), count(5)).await;
    assert!(outcome.unacked.is_empty());
    assert!(hub.seqs(0).into_iter().eq(101..=105));
    assert_eq!(stats.acked.load(Relaxed), 5);
    assert_eq!(stats.violations.load(Relaxed), 0);
}

#[tokio::test]
async fn a_number_that_is_not_free_goes_again_under_a_new_one() {
    let refusing = Act {
        reject: Some(3),
        code: Some("bad-seq"),
        ..Act::default()
    };
    let hub = FakeHub::start(vec![refusing]).await;
    let (outcome, stats) = play(options(&hub), count(5)).await;
    assert!(outcome.unacked.is_empty());
    assert_eq!(stats.acked.load(Relaxed), 5);
    let (last, pack) = hub.batches().pop().unwrap();
    assert!(last > 5);
    assert_eq!(pack[0]["2"], 3.0);
}

#[tokio::test]
async fn unacked_batches_are_named_when_the_hub_never_acks() {
    let forgetful = Act {
        forget: true,
        ..Act::default()
    };
    let hub = FakeHub::start(vec![forgetful]).await;
    let mut options = options(&hub);
    options.drain = Duration::from_millis(300);
    let (outcome, _) = play(options, count(3)).await;
    assert_eq!(outcome.unacked, [1, 2, 3]);
}

#[tokio::test]
async fn streams_differ_between_runs() {
    let hub = FakeHub::start(vec![Act::default()]).await;
    let mut streams = BTreeSet::new();
    for _ in 0..3 {
        let (outcome, _) = play(options(&hub), count(2)).await;
        assert!(streams.insert(outcome.stream));
    }
}

/// Takes TLS off and hands on what is inside, for as long as the test runs.
async fn tls_before(hub: &FakeHub, acceptor: tokio_rustls::TlsAcceptor) -> String {
    let inside = hub.url.trim_start_matches("ws://").to_owned();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, inside) = (acceptor.clone(), inside.clone());
            tokio::spawn(async move {
                let mut outer = acceptor.accept(stream).await.ok()?;
                let mut inner = tokio::net::TcpStream::connect(inside).await.ok()?;
                tokio::io::copy_bidirectional(&mut outer, &mut inner)
                    .await
                    .ok()
            });
        }
    });
    format!("wss://localhost:{port}")
}

#[tokio::test]
async fn over_tls_a_device_trusts_the_authority_that_it_was_given_and_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let certificates = Certificates::make(dir.path()).unwrap();
    let trust = super::tls::trust(&certificates.ca).unwrap();
    let hub = FakeHub::start(vec![Act::default()]).await;

    let good = tls_before(&hub, certificates.acceptor(Shows::Good)).await;
    let told = Options {
        hub: good.clone(),
        tls: Some(trust.clone()),
        ..options(&hub)
    };
    let (outcome, _) = play(told, count(5)).await;
    assert_eq!((outcome.acked, outcome.fatal), (5, None));

    for shows in [Shows::OtherCa, Shows::OtherName, Shows::Expired] {
        let url = tls_before(&hub, certificates.acceptor(shows)).await;
        let request = super::connect::request(&url, "tester", None).unwrap();
        let refused = super::connect::connect(request, Some(trust.clone())).await;
        let Err(Refused::Later(_, text)) = refused else {
            panic!("{shows:?} was trusted");
        };
        assert!(text.starts_with("TLS with localhost: "), "{text}");
    }

    let untold = Options {
        hub: good,
        ..options(&hub)
    };
    let (outcome, _) = play(untold, count(1)).await;
    assert!(outcome.fatal.unwrap().contains("--ca FILE"));
}
