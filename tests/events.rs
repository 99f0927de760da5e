//! `/api/events` and `/api/devices/{id}` as a client on a raw socket sees them.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "support/admin_rig.rs"]
mod admin_rig;

use std::sync::Arc;
use std::time::{Duration, Instant};

use admin_rig::{Admin, body, status, test};
use bytes::Bytes;
use serde_json::{Value, json};
use telehub::reading::{Batch, Encoding};
use telehub::status::board::UplinkState;
use telehub::status::feed::READERS;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

/// A client of events; without chunks, as HTTP/1.0 has it.
struct Client {
    stream: BufReader<TcpStream>,
    head: String,
}

impl Client {
    async fn open(admin: &Admin, path: &str) -> Self {
        let mut stream = admin.connect().await;
        let request = format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut client = Self {
            stream: BufReader::new(stream),
            head: String::new(),
        };
        loop {
            let line = client.line().await.expect("an answer");
            if line.is_empty() {
                return client;
            }
            client.head += &(line + "\n");
        }
    }

    async fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        let read = self.stream.read_line(&mut line).await.unwrap_or(0);
        (read > 0).then(|| line.trim_end_matches(['\r', '\n']).to_owned())
    }

    /// The next event; `None`: the stream has ended.
    async fn next(&mut self) -> Option<(String, Value)> {
        let mut name = String::new();
        loop {
            let line = self.line().await?;
            if let Some(event) = line.strip_prefix("event: ") {
                name = event.to_owned();
            } else if let Some(data) = line.strip_prefix("data: ") {
                return Some((name, serde_json::from_str(data).unwrap()));
            }
        }
    }

    /// The next event of this name.
    async fn next_of(&mut self, wanted: &str) -> Value {
        loop {
            let (name, data) = self.next().await.expect("the stream goes on");
            if name == wanted {
                return data;
            }
        }
    }
}

fn batch(device: &str, seq: u64, readings: usize) -> Batch {
    let pack: Vec<_> = (0..readings)
        .map(|n| json!({"n": format!("{device}/t{n}"), "u": "Cel", "v": seq}))
        .collect();
    Batch {
        device: device.into(),
        stream: "s".into(),
        seq: Some(seq),
        received: telehub::reading::Moment::at(1_700_000_000.0),
        readings: u32::try_from(readings).unwrap(),
        encoding: Encoding::Json,
        frame: Bytes::from(json!({"data": {"seq": seq, "pack": pack}}).to_string()),
    }
}

#[test]
fn a_reader_gets_everything_at_once_and_then_what_changes() {
    test(async |admin| {
        let devices = &admin.board.devices;
        let cow = devices.online(&"cow".into(), 1, "10.0.0.1:5".into());
        let mut client = Client::open(&admin, "/api/events").await;
        assert!(
            client.head.contains("content-type: text/event-stream"),
            "{}",
            client.head
        );
        assert!(
            client.head.contains("cache-control: no-store"),
            "{}",
            client.head
        );
        // A proxy that gathers what it hands on has something to hand on at once.
        assert!(client.head.contains("x-accel-buffering: no"));
        assert!(client.line().await.unwrap().starts_with(':'));
        assert_eq!(client.line().await.unwrap(), "");
        assert_eq!(client.line().await.unwrap(), "retry: 2000");
        let (name, hello) = client.next().await.unwrap();
        assert_eq!((&*name, &hello["hub"]), ("hello", &json!("barn")));
        assert!(hello["started"].as_f64().unwrap() > 1e9 && hello["version"].is_string());
        let (name, status) = client.next().await.unwrap();
        assert_eq!(
            (&*name, &status["uplink"]["state"]),
            ("status", &json!("connecting"))
        );
        let (name, device) = client.next().await.unwrap();
        assert_eq!((&*name, &device["id"]), ("device", &json!("cow")));

        devices.online(&"hen".into(), 2, String::new());
        let change = client.next_of("change").await;
        assert_eq!(
            (&change["device"], &change["state"]),
            (&json!("hen"), &json!("online"))
        );
        devices.offline("hen", 2, "ping timeout");
        let change = client.next_of("change").await;
        assert_eq!(
            (&change["state"], &change["reason"]),
            (&json!("offline"), &json!("ping timeout"))
        );
        assert!(change["time"].as_f64().unwrap() > 1e9);

        admin.board.uplink.set(UplinkState::Connected, None);
        while client.next_of("status").await["uplink"]["state"] != "connected" {}
        cow.took(&batch("cow", 7, 2), Instant::now());
        let reading = client.next_of("reading").await;
        let expected = json!({
            "device": "cow", "received": 1_700_000_000.0, "time": 1_700_000_000.0,
            "name": "cow/t0", "unit": "Cel", "value": 7
        });
        assert_eq!(reading, expected);
        assert_eq!(client.next_of("reading").await["name"], "cow/t1");
        while client.next_of("device").await["seq"] != 7 {}
    });
}

#[test]
fn the_readings_of_one_device_come_alone() {
    test(async |admin| {
        let devices = &admin.board.devices;
        let cow = devices.online(&"cow".into(), 1, String::new());
        let hen = devices.online(&"hen".into(), 2, String::new());
        let mut client = Client::open(&admin, "/api/events?device=hen").await;
        client.next_of("hello").await;
        for seq in 1..=100 {
            cow.took(&batch("cow", seq, 1), Instant::now());
            hen.took(&batch("hen", seq, 1), Instant::now());
        }
        for seq in 1..=100 {
            let reading = client.next_of("reading").await;
            assert_eq!(
                (&reading["device"], &reading["value"]),
                (&json!("hen"), &json!(seq))
            );
        }
    });
}

#[test]
fn a_client_that_does_not_read_is_dropped_and_nobody_waits_for_it() {
    test(async |admin| {
        let cow = admin.board.devices.online(&"cow".into(), 1, String::new());
        let deaf = Client::open(&admin, "/api/events").await;
        assert_eq!(admin.board.feed().readers(), 1);
        // More than any socket buffers hold. The news are put without waiting for anything but
        // the turn of the other tasks.
        let mut conn = 1;
        while admin.board.feed().readers() > 0 {
            for _ in 0..1_000 {
                conn += 1;
                admin
                    .board
                    .devices
                    .online(&"cow".into(), conn, String::new());
            }
            tokio::task::yield_now().await;
        }
        assert_eq!(admin.board.feed().dropped(), 1);
        let metrics = admin.get("/metrics").await;
        assert!(
            metrics.contains("\ntelehub_event_readers_dropped_total 1\n"),
            "{metrics}"
        );
        cow.took(&batch("cow", 1, 1), Instant::now());
        assert_eq!(status(&admin.get("/healthz").await), 200);
        drop(deaf);
    });
}

#[test]
fn readers_are_bounded_and_a_place_is_free_once_one_goes() {
    test(async |admin| {
        let mut readers = Vec::new();
        for _ in 0..READERS {
            readers.push(Client::open(&admin, "/api/events").await);
        }
        let full = admin.get("/api/events").await;
        assert_eq!(status(&full), 503);
        assert!(
            full.contains("application/problem+json") && full.contains("retry-after: 10"),
            "{full}"
        );
        assert_eq!(status(&admin.get("/api/status").await), 200);
        readers.pop();
        while admin.board.feed().readers() == READERS {
            sleep(Duration::from_millis(5)).await;
        }
        let mut again = Client::open(&admin, "/api/events").await;
        again.next_of("hello").await;
    });
}

#[test]
fn the_stop_ends_the_events() {
    test(async |admin| {
        let mut client = Client::open(&admin, "/api/events").await;
        client.next_of("hello").await;
        admin.stopper.stop();
        while client.next().await.is_some() {}
        admin.task.await.unwrap();
    });
}

#[test]
fn nobody_is_told_anything_once_the_last_reader_has_gone() {
    test(async |admin| {
        let client = Client::open(&admin, "/api/events").await;
        drop(client);
        while admin.board.feed().is_watched() {
            sleep(Duration::from_millis(5)).await;
        }
        let again = timeout(Duration::from_millis(50), admin.board.feed().watched()).await;
        assert!(again.is_err(), "what waits for a reader goes on waiting");
    });
}

#[test]
fn a_devices_page_has_its_past_and_its_last_words() {
    test(async |admin| {
        let cow: Arc<str> = "cow".into();
        let device = admin.board.devices.online(&cow, 1, "10.0.0.1:5".into());
        device.took(&batch("cow", 1, 3), Instant::now());
        device.took(&batch("cow", 2, 2), Instant::now());
        admin.board.devices.offline("cow", 1, "ping timeout");
        let answer = admin.get("/api/devices/cow").await;
        assert_eq!(status(&answer), 200);
        let page: Value = serde_json::from_str(body(&answer)).unwrap();
        assert_eq!(page["device"]["id"], "cow");
        assert_eq!(page["device"]["batches"], 2);
        let reasons: Vec<_> = page["history"]
            .as_array()
            .unwrap()
            .iter()
            .map(|past| &past["reason"])
            .collect();
        assert_eq!(reasons, ["connected", "ping timeout"]);
        let values: Vec<_> = page["last"]
            .as_array()
            .unwrap()
            .iter()
            .map(|last| &last["value"])
            .collect();
        assert_eq!(values, [2, 2]);
        for unknown in ["/api/devices/hen", "/api/devices/", "/api/devices/cow/x"] {
            let answer = admin.get(unknown).await;
            assert_eq!(status(&answer), 404, "{unknown}");
            assert!(answer.contains("application/problem+json"), "{answer}");
        }
    });
}
