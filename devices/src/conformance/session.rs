//! One connection after the upgrade, as the hub sees it: frames in and out, and everything that
//! comes checked against the contract.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout};

use super::arrival::Io;
use super::frame::{self, BINARY, CLOSE, CONTINUATION, FIN, Frame, PING, PONG, TEXT};
use super::ledger::{Batch, Ledger};
use crate::wire::cbor;

/// What a device on a machine under load may take, in real time, for what takes it a moment.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// A message of a device, over all its fragments.
const MAX_MESSAGE: usize = 1 << 20;

/// What came.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// `hello`
    Hello(Value),
    /// `data` with a number.
    Data(Batch),
    /// `result`
    Result(Value),
    /// `bye`
    Bye(Value),
    /// Another message.
    Other(String),
    /// The payload of a ping; its pong is sent already.
    Ping(Vec<u8>),
    /// The payload of a pong.
    Pong(Vec<u8>),
    /// A close frame and its code.
    Close(Option<u16>),
    /// The connection ended without one.
    Ended(String),
}

/// What a welcome says, for a scenario to change.
#[derive(Debug, Clone)]
pub struct Terms {
    /// `welcome.window`
    pub window: u64,
    /// `welcome.max_message`
    pub max_message: u64,
    /// `welcome.max_rate`
    pub max_rate: u64,
    /// `welcome.ping_interval`
    pub ping_interval: f64,
    /// `welcome.ping_timeout`
    pub ping_timeout: f64,
}

impl Default for Terms {
    fn default() -> Self {
        Self {
            window: 8,
            max_message: 65536,
            max_rate: 1000,
            // Long enough that a machine under load, at a tenth, is not taken for a dead hub.
            ping_interval: 100.0,
            ping_timeout: 50.0,
        }
    }
}

/// One connection.
pub struct Session {
    io: Box<dyn Io>,
    received: Vec<u8>,
    partial: Option<(u8, Vec<u8>)>,
    ledger: Arc<Mutex<Ledger>>,
    /// The stream of its hello.
    pub stream: String,
    /// The hello.
    pub hello: Value,
    /// Whether the device speaks JSON.
    pub json: bool,
    terms: Terms,
    welcomed: bool,
    /// Numbers received here and not acked.
    pub unacked: Vec<u64>,
    highest: u64,
    /// When the device last sent anything.
    pub last: Instant,
}

impl Session {
    /// After the upgrade; `received` came right behind the request.
    pub fn new(io: Box<dyn Io>, received: Vec<u8>, ledger: Arc<Mutex<Ledger>>) -> Self {
        Self {
            io,
            received,
            partial: None,
            ledger,
            stream: String::new(),
            hello: Value::Null,
            json: false,
            terms: Terms::default(),
            welcomed: false,
            unacked: Vec::new(),
            highest: 0,
            last: Instant::now(),
        }
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes bytes as they are. A device that has gone shows when it is read from.
    pub async fn raw(&mut self, bytes: &[u8]) {
        let _ = timeout(PATIENCE, self.io.write_all(bytes)).await;
        let _ = timeout(PATIENCE, self.io.flush()).await;
    }

    /// A message in the device's encoding, framed.
    #[must_use]
    pub fn framed(&self, message: &Value) -> Vec<u8> {
        if self.json {
            return frame::frame(FIN | TEXT, message.to_string().as_bytes());
        }
        frame::frame(FIN | BINARY, &self.encoded(message))
    }

    /// A message in the device's encoding.
    #[must_use]
    pub fn encoded(&self, message: &Value) -> Vec<u8> {
        if self.json {
            return message.to_string().into_bytes();
        }
        let mut out = cbor::Writer::default();
        out.json(message);
        out.into_bytes()
    }

    /// Sends a message.
    pub async fn send(&mut self, message: &Value) {
        let bytes = self.framed(message);
        self.raw(&bytes).await;
    }

    /// Sends a close frame with a code and hangs up.
    pub async fn close(mut self, code: u16) {
        self.raw(&frame::close(code, "conformance test")).await;
        self.linger().await;
    }

    /// Ends its side and reads until the device ends its own, so that what was sent arrives:
    /// hanging up with bytes unread makes the kernel reset the connection.
    pub async fn linger(mut self) {
        let _ = self.io.shutdown().await;
        let rest = async {
            let mut sink = [0; 4096];
            while !matches!(self.io.read(&mut sink).await, Ok(0) | Err(_)) {}
        };
        let _ = timeout(Duration::from_secs(2), rest).await;
    }

    /// Waits for the next event; an error after [`PATIENCE`].
    ///
    /// # Errors
    /// One sentence: what did not come.
    pub async fn next(&mut self, waiting_for: &str) -> Result<Event, String> {
        match timeout(PATIENCE, self.event()).await {
            Ok(event) => Ok(event),
            Err(_) => Err(format!(
                "no {waiting_for} came within a minute of real time"
            )),
        }
    }

    /// The next event, whenever it comes. Cancel safe.
    pub async fn event(&mut self) -> Event {
        loop {
            match frame::take(&mut self.received) {
                Ok(Some(frame)) => {
                    self.last = Instant::now();
                    if let Some(event) = self.frame(frame).await {
                        return event;
                    }
                    continue;
                }
                Ok(None) => {}
                Err(fault) => {
                    self.ledger().fault(fault.clone());
                    return Event::Ended(fault);
                }
            }
            match self.io.read_buf(&mut self.received).await {
                Ok(0) => return Event::Ended("the device hung up".into()),
                Ok(_) => {}
                Err(error) => return Event::Ended(error.to_string()),
            }
        }
    }

    async fn frame(&mut self, frame: Frame) -> Option<Event> {
        match frame.opcode {
            PING => {
                // Queued behind nothing: a pong is due at once.
                let pong = frame::frame(FIN | PONG, &frame.payload);
                let _ = self.io.write_all(&pong).await;
                let _ = self.io.flush().await;
                Some(Event::Ping(frame.payload))
            }
            PONG => Some(Event::Pong(frame.payload)),
            CLOSE => {
                let code = frame
                    .payload
                    .get(..2)
                    .map(|two| u16::from_be_bytes([two[0], two[1]]));
                Some(Event::Close(code))
            }
            TEXT | BINARY | CONTINUATION => self.fragment(frame),
            other => {
                self.ledger()
                    .fault(format!("the device sent a frame with opcode {other}"));
                None
            }
        }
    }

    fn fragment(&mut self, frame: Frame) -> Option<Event> {
        let (opcode, mut bytes) = match (frame.opcode, self.partial.take()) {
            (CONTINUATION, Some(begun)) => begun,
            (CONTINUATION, None) | (_, Some(_)) => {
                self.ledger()
                    .fault("the device mixed up the fragments of its messages".into());
                return None;
            }
            (opcode, None) => (opcode, Vec::new()),
        };
        bytes.extend_from_slice(&frame.payload);
        if bytes.len() > MAX_MESSAGE {
            self.ledger()
                .fault("the device sent a message above 1 MiB".into());
            return None;
        }
        if !frame.fin {
            self.partial = Some((opcode, bytes));
            return None;
        }
        match self.message(opcode == TEXT, &bytes) {
            Ok(event) => Some(event),
            Err(fault) => {
                self.ledger().fault(fault);
                Some(Event::Other("malformed".into()))
            }
        }
    }

    fn message(&mut self, json: bool, bytes: &[u8]) -> Result<Event, String> {
        self.json = json;
        if self.welcomed && bytes.len() as u64 > self.terms.max_message {
            let (len, max) = (bytes.len(), self.terms.max_message);
            self.ledger().fault(format!(
                "a message of {len} bytes, although the welcome said max_message {max}"
            ));
        }
        let value = if json {
            serde_json::from_slice(bytes).map_err(|error| format!("a message in JSON: {error}"))?
        } else {
            cbor::read_with_labels(bytes).map_err(|error| format!("a message in CBOR: {error}"))?
        };
        let mut members = value.as_object().into_iter().flatten();
        let (Some((kind, body)), None) = (members.next(), members.next()) else {
            return Err("a message is not a map with one key".into());
        };
        match kind.as_str() {
            "hello" => self.hello(body),
            "data" => self.data(body),
            "result" => Ok(Event::Result(body.clone())),
            "bye" => Ok(Event::Bye(body.clone())),
            other => Ok(Event::Other(other.to_owned())),
        }
    }

    fn hello(&mut self, body: &Value) -> Result<Event, String> {
        if !self.hello.is_null() {
            return Err("a second `hello` on one connection".into());
        }
        let stream = body["stream"].as_str();
        let stream = stream.ok_or("`hello` has no text `stream`")?.to_owned();
        if !(1..=64).contains(&stream.chars().count()) {
            return Err(format!("a stream of {} characters", stream.chars().count()));
        }
        let next = body["next"]
            .as_u64()
            .ok_or("`hello` has no unsigned integer `next`")?;
        self.ledger().next(&stream, next);
        (self.stream, self.hello) = (stream, body.clone());
        Ok(Event::Hello(body.clone()))
    }

    fn data(&mut self, body: &Value) -> Result<Event, String> {
        if !self.welcomed {
            return Err("`data` before the welcome, which may renumber it".into());
        }
        let batch = Batch::read(body)?;
        if batch.seq <= self.highest {
            let (seq, highest) = (batch.seq, self.highest);
            self.ledger().fault(format!(
                "number {seq} after {highest} on one connection: numbers grow"
            ));
        }
        self.highest = self.highest.max(batch.seq);
        self.ledger().took(&self.stream, &batch);
        self.unacked.push(batch.seq);
        if self.unacked.len() as u64 > self.terms.window {
            let (out, window) = (self.unacked.len(), self.terms.window);
            self.ledger().fault(format!(
                "{out} batches unacked, although the window is {window}"
            ));
        }
        Ok(Event::Data(batch))
    }

    /// The body of a welcome on these terms.
    #[must_use]
    pub fn welcome_body(&mut self, seq: u64, known: bool, terms: &Terms) -> Value {
        self.terms = terms.clone();
        self.welcomed = true;
        self.highest = seq;
        let time = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let time = time.map_or(0.0, |time| time.as_secs_f64());
        json!({
            "stream": self.stream, "seq": seq, "known": known,
            "time": time, "time_s": time as u64,
            "ping_interval": terms.ping_interval, "ping_timeout": terms.ping_timeout,
            "max_message": terms.max_message, "max_rate": terms.max_rate,
            "window": terms.window,
        })
    }

    /// Sends the welcome.
    pub async fn welcome(&mut self, seq: u64, known: bool, terms: &Terms) {
        let body = self.welcome_body(seq, known, terms);
        self.send(&json!({ "welcome": body })).await;
    }

    /// Everything up to `seq` is safe from the moment this is sent.
    pub async fn ack(&mut self, seq: u64) {
        self.acked(seq);
        self.send(&json!({"ack": {"seq": seq}})).await;
    }

    /// Notes that everything up to `seq` is safe.
    pub fn acked(&mut self, seq: u64) {
        self.ledger().safe(&self.stream, seq);
        self.unacked.retain(|number| *number > seq);
    }

    /// Rejects a batch.
    pub async fn reject(&mut self, batch: &Batch, code: &str, with_seq: bool) {
        self.unacked.retain(|number| *number != batch.seq);
        let detail = "a reject of the conformance test";
        let body = if with_seq {
            json!({"seq": batch.seq, "code": code, "detail": detail})
        } else {
            json!({"code": code, "detail": detail})
        };
        self.send(&json!({ "reject": body })).await;
    }
}
