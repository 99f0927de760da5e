//! A device that takes commands and lives badly: its connection breaks, another takes its place, its
//! power fails, its answers come late or never.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use crate::dice::Dice;

type Socket = WebSocketStream<TcpStream>;

/// What all of them did.
#[derive(Debug, Default)]
pub struct Deeds {
    /// How often each command was carried out, by its id.
    pub ran: HashMap<String, u32>,
    pub connects: u64,
    pub takeovers: u64,
    pub power_cuts: u64,
    /// Commands that came once more, as `again`.
    pub again: u64,
    /// A command came once more and did not say so.
    pub unmarked: u64,
    /// Results that the hub refused.
    pub rejected: u64,
}

/// One of them.
pub struct Actuator {
    pub id: String,
    pub address: SocketAddr,
    /// It writes ids down before it carries a command out, so that no power cut makes it forget them.
    pub remembers: bool,
    pub dice: Dice,
    pub deeds: Arc<Mutex<Deeds>>,
    pub over: watch::Receiver<bool>,
    begun: HashSet<String>,
    unacked: BTreeMap<String, Value>,
    /// Results that are not ready yet.
    work: Vec<(Instant, String, Value)>,
}

impl Actuator {
    pub fn new(
        number: usize,
        address: SocketAddr,
        deeds: Arc<Mutex<Deeds>>,
        over: watch::Receiver<bool>,
    ) -> Self {
        Self {
            id: format!("lamp-{number}"),
            address,
            remembers: number.is_multiple_of(2),
            dice: Dice::of(number as u64 + 1),
            deeds,
            over,
            begun: HashSet::new(),
            unacked: BTreeMap::new(),
            work: Vec::new(),
        }
    }

    /// Until it is over, and then on until nothing is left to say.
    pub async fn live(mut self) {
        let mut before: Option<Socket> = None;
        loop {
            let Some(socket) = self.connect().await else {
                sleep(Duration::from_millis(200)).await;
                continue;
            };
            if let Some(before) = before.take() {
                // The hub closes it; if it does not, it is not for want of time.
                tokio::spawn(async move {
                    sleep(Duration::from_secs(1)).await;
                    drop(before);
                });
            }
            let Some(socket) = self.converse(socket).await else {
                if *self.over.borrow() && self.work.is_empty() && self.unacked.is_empty() {
                    return;
                }
                self.pause().await;
                continue;
            };
            if self.dice.below(3) == 0 {
                self.deeds.lock().unwrap().takeovers += 1;
                before = Some(socket);
                continue;
            }
            drop(socket);
            self.pause().await;
        }
    }

    /// Between two connections; sometimes its power fails.
    async fn pause(&mut self) {
        if !self.remembers && self.dice.below(2) == 0 {
            self.deeds.lock().unwrap().power_cuts += 1;
            self.begun.clear();
            self.unacked.clear();
            self.work.clear();
        }
        sleep(Duration::from_millis(self.dice.below(1_500))).await;
    }

    async fn connect(&self) -> Option<Socket> {
        let url = format!("ws://{}/v1/devices/{}", self.address, self.id);
        let mut request = url.into_client_request().unwrap();
        let token = format!("Bearer {}", self.id).parse().unwrap();
        request.headers_mut().insert("authorization", token);
        let tcp = TcpStream::connect(self.address).await.ok()?;
        let (mut socket, _) = tokio_tungstenite::client_async(request, tcp).await.ok()?;
        let remembers = if self.remembers { 64 } else { 0 };
        let hello = json!({"hello": {"stream": "s", "remembers": remembers}});
        socket.send(Message::text(hello.to_string())).await.ok()?;
        self.deeds.lock().unwrap().connects += 1;
        Some(socket)
    }

    /// One connection. `None`: it broke, or everything is over; else it is still there.
    async fn converse(&mut self, mut socket: Socket) -> Option<Socket> {
        let end = Instant::now() + Duration::from_millis(2_000 + self.dice.below(6_000));
        let mut welcomed = false;
        loop {
            let over = *self.over.borrow();
            if over && welcomed && self.work.is_empty() && self.unacked.is_empty() {
                let _ = socket.close(None).await;
                return None;
            }
            let due = self.work.iter().map(|(at, ..)| *at).min();
            let said = tokio::select! {
                message = socket.next() => match message {
                    Some(Ok(Message::Text(text))) => {
                        let message: Value = serde_json::from_str(&text).unwrap();
                        if !message["welcome"].is_null() {
                            welcomed = true;
                            self.unacked.values().cloned().collect()
                        } else {
                            self.heard(&message)
                        }
                    }
                    Some(Ok(Message::Close(_)) | Err(_)) | None => return None,
                    Some(Ok(_)) => Vec::new(),
                },
                () = sleep_until(due.unwrap_or(end)), if due.is_some() => self.finish_work(),
                () = sleep_until(end), if !over => return Some(socket),
                _ = self.over.changed(), if !over => Vec::new(),
            };
            for result in said {
                let message = json!({ "result": result });
                socket.send(Message::text(message.to_string())).await.ok()?;
            }
        }
    }

    fn finish_work(&mut self) -> Vec<Value> {
        let now = Instant::now();
        let (done, later) = std::mem::take(&mut self.work)
            .into_iter()
            .partition(|(at, ..)| *at <= now);
        self.work = later;
        let done: Vec<(Instant, String, Value)> = done;
        for (_, id, result) in &done {
            self.unacked.insert(id.clone(), result.clone());
        }
        done.into_iter().map(|(_, _, result)| result).collect()
    }

    fn heard(&mut self, message: &Value) -> Vec<Value> {
        if let Some(id) = message["ack"]["result"].as_str() {
            self.unacked.remove(id);
        } else if let Some(id) = message["reject"]["result"].as_str() {
            self.unacked.remove(id);
            self.deeds.lock().unwrap().rejected += 1;
        } else if let Some(id) = message["command"]["id"].as_str() {
            let again = message["command"]["again"] == true;
            return self.command(id, message["command"]["name"].as_str().unwrap(), again);
        }
        Vec::new()
    }

    fn command(&mut self, id: &str, name: &str, again: bool) -> Vec<Value> {
        let mut deeds = self.deeds.lock().unwrap();
        deeds.again += u64::from(again);
        let idempotent = name == "set";
        if self.begun.contains(id) && !idempotent {
            deeds.unmarked += u64::from(!again);
            return self.unacked.get(id).cloned().into_iter().collect();
        }
        self.begun.insert(id.to_owned());
        *deeds.ran.entry(id.to_owned()).or_default() += 1;
        let result = json!({"id": id, "name": name, "ok": true, "value": deeds.ran[id]});
        let millis = match name {
            "mute" => return Vec::new(),
            // The timeout is 2 s.
            "slow" => 2_300 + self.dice.below(500),
            _ => self.dice.below(300),
        };
        let at = Instant::now() + Duration::from_millis(millis);
        self.work.push((at, id.to_owned(), result));
        Vec::new()
    }
}
