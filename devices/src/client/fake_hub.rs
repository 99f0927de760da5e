//! A hub for tests that does as it is told, on a loopback port of its own.

#![allow(clippy::unwrap_used, clippy::result_large_err)]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{Bytes, Message};

use crate::wire::cbor;

/// What the hub does on one connection. The last of the script goes on for ever.
#[derive(Debug, Clone, Default)]
pub struct Act {
    /// Answer the upgrade with this status and these headers.
    pub refuse: Option<(u16, Vec<(&'static str, &'static str)>)>,
    /// Take this many batches, then end the connection.
    pub take: Option<usize>,
    /// Ack the batches taken; otherwise they are known as safe to the next welcome only.
    pub silent: bool,
    /// Take batches, but forget them: they are not safe.
    pub forget: bool,
    /// Reject this sequence number.
    pub reject: Option<u64>,
    /// The code of that reject; `bad-pack` unless it is given.
    pub code: Option<&'static str>,
    /// Call this number safe at first, as if an earlier life of the device had used it.
    pub ahead: u64,
    /// End with this close code; otherwise the TCP connection just drops.
    pub close: Option<u16>,
    /// Ping after the welcome and count the pong.
    pub ping: bool,
    /// Send this after the welcome.
    pub say: Option<Value>,
}

/// What the hub saw.
#[derive(Debug, Default)]
pub struct Seen {
    /// Upgrade requests.
    pub connects: usize,
    /// The highest safe number by device and stream.
    pub safe: BTreeMap<(String, String), u64>,
    /// What each hello said.
    pub hellos: Vec<Value>,
    /// The age of each batch.
    pub ages: Vec<Option<u64>>,
    /// Sequence numbers and packs, by connection, in order.
    pub batches: Vec<Vec<(u64, Value)>>,
    /// Headers of the last request.
    pub authorization: Option<String>,
    /// Pongs.
    pub pongs: usize,
    /// Results of commands.
    pub results: Vec<Value>,
    /// Close codes that devices sent.
    pub closes: Vec<u16>,
    /// More than the window allowed at any time.
    pub overruns: usize,
}

pub struct FakeHub {
    pub url: String,
    pub seen: Arc<Mutex<Seen>>,
}

/// `window` of the welcome.
pub const WINDOW: usize = 4;
/// `max_message` of the welcome.
pub const MAX_MESSAGE: usize = 4096;

impl FakeHub {
    /// Plays the acts, one connection each.
    pub async fn start(script: Vec<Act>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("ws://{}", listener.local_addr().unwrap());
        let seen = Arc::new(Mutex::new(Seen::default()));
        let shared = seen.clone();
        tokio::spawn(async move {
            let mut script = script.into_iter().peekable();
            let mut act = Act::default();
            while let Ok((stream, _)) = listener.accept().await {
                act = script.next().unwrap_or(act);
                let connection = {
                    let mut seen = shared.lock().unwrap();
                    seen.connects += 1;
                    seen.batches.push(Vec::new());
                    seen.batches.len() - 1
                };
                tokio::spawn(play(act.clone(), stream, shared.clone(), connection));
            }
        });
        Self { url, seen }
    }

    /// All batches of all connections, in order.
    pub fn batches(&self) -> Vec<(u64, Value)> {
        self.seen.lock().unwrap().batches.concat()
    }

    /// The sequence numbers of one connection.
    pub fn seqs(&self, connection: usize) -> Vec<u64> {
        let seen = self.seen.lock().unwrap();
        seen.batches[connection]
            .iter()
            .map(|(seq, _)| *seq)
            .collect()
    }
}

fn encode(binary: bool, value: &Value) -> Message {
    if binary {
        let mut out = cbor::Writer::default();
        out.json(value);
        Message::Binary(out.into_bytes().into())
    } else {
        Message::Text(value.to_string().into())
    }
}

async fn play(act: Act, stream: TcpStream, seen: Arc<Mutex<Seen>>, connection: usize) {
    let mut id = String::new();
    let callback = |request: &Request, mut response: Response| {
        id = request
            .uri()
            .path()
            .trim_start_matches("/v1/devices/")
            .to_owned();
        let headers = request.headers();
        let authorization = headers
            .get("authorization")
            .map(|v| v.to_str().unwrap().to_owned());
        seen.lock().unwrap().authorization = authorization;
        match &act.refuse {
            None => {
                let protocol = headers["sec-websocket-protocol"].clone();
                response
                    .headers_mut()
                    .insert("sec-websocket-protocol", protocol);
                Ok(response)
            }
            Some((status, headers)) => {
                let body = json!({"title": "No", "detail": "not today"}).to_string();
                let mut refusal = ErrorResponse::new(Some(body));
                *refusal.status_mut() = (*status).try_into().unwrap();
                for (name, value) in headers {
                    refusal.headers_mut().insert(*name, value.parse().unwrap());
                }
                Err(refusal)
            }
        }
    };
    let Ok(mut socket) = tokio_tungstenite::accept_hdr_async(stream, callback).await else {
        return;
    };
    let mut stream = String::new();
    let mut taken = 0;
    let mut unacked = 0;
    while let Some(Ok(frame)) = socket.next().await {
        let (binary, value) = match &frame {
            Message::Binary(bytes) => (true, cbor::read_with_labels(bytes).unwrap()),
            Message::Text(text) => (false, serde_json::from_str(text).unwrap()),
            Message::Pong(_) => {
                seen.lock().unwrap().pongs += 1;
                continue;
            }
            Message::Close(Some(close)) => {
                seen.lock().unwrap().closes.push(close.code.into());
                continue;
            }
            _ => continue,
        };
        let mut answers = Vec::new();
        if let Some(hello) = value.get("hello") {
            stream = hello["stream"].as_str().unwrap().to_owned();
            let key = (id.clone(), stream.clone());
            seen.lock().unwrap().hellos.push(hello.clone());
            let safe = *seen.lock().unwrap().safe.entry(key).or_insert(act.ahead);
            answers.push(json!({"welcome": {
                "stream": stream, "seq": safe, "known": safe > 0, "time": 1.5, "time_s": 1,
                "ping_interval": 20.0, "ping_timeout": 10.0, "max_message": MAX_MESSAGE,
                "max_rate": 100, "window": WINDOW,
            }}));
            answers.extend(act.say.clone());
            if act.ping {
                let _ = socket.send(Message::Ping(Bytes::from_static(b"1"))).await;
            }
        } else if let Some(data) = value.get("data") {
            let seq = data["seq"].as_u64().unwrap();
            if act.take == Some(taken) {
                break;
            }
            taken += 1;
            unacked += 1;
            let mut seen = seen.lock().unwrap();
            seen.batches[connection].push((seq, data["pack"].clone()));
            seen.ages.push(data["age"].as_u64());
            if unacked > WINDOW {
                seen.overruns += 1;
            }
            if act.reject == Some(seq) {
                unacked -= 1;
                answers.push(json!({"reject": {
                    "seq": seq, "code": act.code.unwrap_or("bad-pack"), "detail": "for the test",
                }}));
            } else if !act.forget {
                *seen.safe.get_mut(&(id.clone(), stream.clone())).unwrap() = seq;
                if !act.silent {
                    unacked = 0;
                    answers.push(json!({"ack": {"seq": seq}}));
                }
            }
        } else if let Some(result) = value.get("result") {
            seen.lock().unwrap().results.push(result.clone());
        }
        for answer in answers {
            let _ = socket.send(encode(binary, &answer)).await;
        }
        if act.take == Some(taken) && act.close.is_some() {
            break;
        }
    }
    if let Some(code) = act.close {
        let close = CloseFrame {
            code: code.into(),
            reason: "for the test".into(),
        };
        let _ = socket.close(Some(close)).await;
        while let Some(Ok(_)) = socket.next().await {}
    }
}
