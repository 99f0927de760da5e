//! Stands between the hub and the broker, passes every byte on, and reads along: what was
//! published, what the broker acknowledged, how much was out at a time. It knows MQTT 3.1.1 by
//! itself.
#![allow(dead_code, clippy::unwrap_used, missing_docs, unreachable_pub)]

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

pub type Id = (String, u64);

#[derive(Default, Debug)]
pub struct Seen {
    /// How often each batch of a device was published, and whether the broker acknowledged it.
    pub batches: HashMap<Id, (u32, bool)>,
    /// Published twice on one connection, which nothing allows.
    pub twice: Vec<Id>,
    /// The most batches and gap records that were out at a time.
    pub most_out: usize,
    pub connections: u64,
    pub gaps: Vec<Value>,
}

impl Seen {
    /// Publishes beyond the first of each batch.
    pub fn doubled(&self) -> u64 {
        self.batches.values().map(|(n, _)| u64::from(n - 1)).sum()
    }

    pub fn acknowledged(&self, device: &str, seq: u64) -> bool {
        let batch = self.batches.get(&(device.to_owned(), seq));
        batch.is_some_and(|(_, acknowledged)| *acknowledged)
    }
}

pub struct Tap {
    pub port: u16,
    seen: Arc<Mutex<Seen>>,
    task: tokio::task::JoinHandle<()>,
}

impl Tap {
    /// A way to the broker on this port, whether it is there or not.
    pub async fn start(broker: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let seen = Arc::new(Mutex::new(Seen::default()));
        let into = seen.clone();
        let task = tokio::spawn(async move {
            loop {
                let (hub, _) = listener.accept().await.unwrap();
                tokio::spawn(connection(hub, broker, into.clone()));
            }
        });
        Self { port, seen, task }
    }

    pub fn look<T>(&self, look: impl FnOnce(&Seen) -> T) -> T {
        look(&self.seen.lock().unwrap())
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What flies on one connection.
#[derive(Default)]
struct Flight {
    /// By packet id; `None`: a gap record.
    out: BTreeMap<u16, Option<Id>>,
    published: BTreeSet<Id>,
}

async fn connection(mut hub: TcpStream, broker: u16, seen: Arc<Mutex<Seen>>) {
    let Ok(mut broker) = TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], broker))).await
    else {
        return;
    };
    seen.lock().unwrap().connections += 1;
    let _ = (hub.set_nodelay(true), broker.set_nodelay(true));
    let (mut up, mut down) = (Packets::default(), Packets::default());
    let mut flight = Flight::default();
    let (mut from_hub, mut from_broker) = (vec![0; 64 * 1024], vec![0; 64 * 1024]);
    loop {
        tokio::select! {
            read = hub.read(&mut from_hub) => {
                let Ok(n @ 1..) = read else { return };
                up.push(&from_hub[..n], |kind, body| published(kind, body, &mut flight, &seen));
                if broker.write_all(&from_hub[..n]).await.is_err() {
                    return;
                }
            }
            read = broker.read(&mut from_broker) => {
                let Ok(n @ 1..) = read else { return };
                down.push(&from_broker[..n], |kind, body| acknowledged(kind, body, &mut flight, &seen));
                if hub.write_all(&from_broker[..n]).await.is_err() {
                    return;
                }
            }
        }
    }
}

fn published(kind: u8, body: &[u8], flight: &mut Flight, seen: &Mutex<Seen>) {
    const PUBLISH: u8 = 3;
    if kind >> 4 != PUBLISH || kind & 0b0110 == 0 {
        return;
    }
    let len = usize::from(u16::from_be_bytes([body[0], body[1]]));
    let topic = std::str::from_utf8(&body[2..2 + len]).unwrap();
    let packet = u16::from_be_bytes([body[2 + len], body[3 + len]]);
    let payload = &body[4 + len..];
    let mut seen = seen.lock().unwrap();
    let json = || serde_json::from_slice::<Value>(payload).unwrap();
    let id = match topic.rsplit('/').next().unwrap() {
        "data" | "history" => {
            let json = json();
            let seq = json["seq"].as_u64().unwrap();
            assert_eq!(json["pack"][0]["v"], seq, "exactly as taken, every time");
            Some((json["device"].as_str().unwrap().to_owned(), seq))
        }
        "gap" => {
            seen.gaps.push(json());
            None
        }
        _ => None,
    };
    if let Some(id) = &id {
        seen.batches.entry(id.clone()).or_insert((0, false)).0 += 1;
        if !flight.published.insert(id.clone()) {
            seen.twice.push(id.clone());
        }
    }
    if id.is_none() && !topic.ends_with("/gap") {
        return;
    }
    flight.out.insert(packet, id);
    seen.most_out = seen.most_out.max(flight.out.len());
}

fn acknowledged(kind: u8, body: &[u8], flight: &mut Flight, seen: &Mutex<Seen>) {
    const PUBACK: u8 = 4;
    if kind >> 4 != PUBACK {
        return;
    }
    let packet = u16::from_be_bytes([body[0], body[1]]);
    if let Some(Some(id)) = flight.out.remove(&packet) {
        seen.lock().unwrap().batches.entry(id).or_default().1 = true;
    }
}

/// Bytes that become packets.
#[derive(Default)]
struct Packets(Vec<u8>);

impl Packets {
    fn push(&mut self, bytes: &[u8], mut each: impl FnMut(u8, &[u8])) {
        self.0.extend_from_slice(bytes);
        let mut at = 0;
        while let Some((head, len)) = Self::header(&self.0[at..]) {
            let Some(body) = self.0.get(at + head..at + head + len) else {
                break;
            };
            each(self.0[at], body);
            at += head + len;
        }
        self.0.drain(..at);
    }

    /// Lengths of the fixed header and of what follows it.
    fn header(bytes: &[u8]) -> Option<(usize, usize)> {
        let mut len = 0;
        for (n, byte) in bytes.iter().skip(1).take(4).enumerate() {
            len |= usize::from(byte & 0x7f) << (7 * n);
            if byte & 0x80 == 0 {
                return Some((n + 2, len));
            }
        }
        None
    }
}
