//! Stands between the hub and the broker, passes every byte on, and reads along: what was
//! published, what the broker acknowledged, how much was out at a time. It knows MQTT 3.1.1 and 5
//! by itself.
#![allow(dead_code, clippy::unwrap_used, missing_docs, unreachable_pub)]

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// What a paced way may catch up after a timer that was late.
const SLACK: Duration = Duration::from_millis(100);

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
    ways: watch::Sender<Way>,
    task: tokio::task::JoinHandle<()>,
}

/// What the tap does with connections.
#[derive(Clone, Copy, PartialEq)]
enum Way {
    /// As fast as it goes, or so many packets a second upwards.
    Open(Option<u32>),
    Cut,
}

impl Tap {
    /// A way to the broker on this port, whether it is there or not.
    pub async fn start(broker: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let seen = Arc::new(Mutex::new(Seen::default()));
        let (ways, way) = watch::channel(Way::Open(None));
        let into = seen.clone();
        let task = tokio::spawn(async move {
            loop {
                let (hub, _) = listener.accept().await.unwrap();
                let (into, way) = (into.clone(), way.clone());
                tokio::spawn(connection(hub, broker, into, way));
            }
        });
        Self {
            port,
            seen,
            ways,
            task,
        }
    }

    /// Passes on no more packets a second than this, from the next connection on.
    pub fn pace(&self, packets: u32) {
        self.ways.send_replace(Way::Open(Some(packets)));
    }

    /// Ends what is connected, and everything that connects from now on.
    pub fn cut(&self) {
        self.ways.send_replace(Way::Cut);
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
    /// The client speaks MQTT 5.
    five: bool,
}

async fn connection(
    hub: TcpStream,
    broker: u16,
    seen: Arc<Mutex<Seen>>,
    mut way: watch::Receiver<Way>,
) {
    let Way::Open(pace) = *way.borrow_and_update() else {
        return;
    };
    let Ok(broker) = TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], broker))).await else {
        return;
    };
    seen.lock().unwrap().connections += 1;
    let _ = (hub.set_nodelay(true), broker.set_nodelay(true));
    let (from_hub, to_hub) = hub.into_split();
    let (from_broker, to_broker) = broker.into_split();
    let flight = Mutex::new(Flight::default());
    let up = pass(from_hub, to_broker, pace, |kind, body| {
        published(kind, body, &mut flight.lock().unwrap(), &seen);
    });
    let down = pass(from_broker, to_hub, None, |kind, body| {
        acknowledged(kind, body, &mut flight.lock().unwrap(), &seen);
    });
    let cut = way.wait_for(|way| *way == Way::Cut);
    tokio::select! {
        () = up => {}
        () = down => {}
        _ = cut => {}
    }
}

/// Until one side is gone. What has been read is passed on before more is.
async fn pass(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    pace: Option<u32>,
    mut each: impl FnMut(u8, &[u8]),
) {
    let mut packets = Packets::default();
    let mut chunk = vec![0; if pace.is_some() { 2 * 1024 } else { 64 * 1024 }];
    let mut due = Instant::now();
    while let Ok(n @ 1..) = from.read(&mut chunk).await {
        let mut whole = 0;
        packets.push(&chunk[..n], |kind, body| {
            whole += 1;
            each(kind, body);
        });
        if let Some(pace) = pace {
            due = due.max(Instant::now() - SLACK) + Duration::from_secs(1) / pace * whole;
            tokio::time::sleep_until(due.into()).await;
        }
        if to.write_all(&chunk[..n]).await.is_err() {
            return;
        }
    }
}

fn published(kind: u8, body: &[u8], flight: &mut Flight, seen: &Mutex<Seen>) {
    const CONNECT: u8 = 1;
    const PUBLISH: u8 = 3;
    if kind >> 4 == CONNECT {
        // Behind the name of the protocol.
        flight.five = body[6] == 5;
    }
    if kind >> 4 != PUBLISH || kind & 0b0110 == 0 {
        return;
    }
    let len = usize::from(u16::from_be_bytes([body[0], body[1]]));
    let topic = std::str::from_utf8(&body[2..2 + len]).unwrap();
    let packet = u16::from_be_bytes([body[2 + len], body[3 + len]]);
    let mut payload = &body[4 + len..];
    if flight.five {
        // Less than 128 bytes of properties.
        assert!(payload[0] < 128);
        payload = &payload[1 + usize::from(payload[0])..];
    }
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
