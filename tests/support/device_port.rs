//! A device port with a fake intake behind it, and devices to put before it.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use std::collections::HashMap;
use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use telehub::config::{Auth, Devices};
use telehub::intake::port::{Arrival, Attached, Control, IntakePort, Mailbox, StreamId};
use telehub::listen::Server;
use telehub::protocol::decode_to_device;
use telehub::protocol::message::{Note, ToDevice, Welcome};
use telehub::protocol::reject::{Reject, RejectCode};
use telehub::reading::Encoding;
use telehub::session::roster::Roster;
use telehub::status::board::{Board, DeviceReport};
use telehub::status::presence::Outbox;
use telehub::stop::{self, Stopper};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

/// Longer than anything here takes on a busy machine; a test that waits this long has failed.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Long enough that what should not happen would have happened.
pub const A_WHILE: Duration = Duration::from_millis(300);

pub async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future)
        .await
        .expect("did not happen in time")
}

pub async fn until(mut condition: impl FnMut() -> bool) {
    soon(async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

/// Settings under which nothing happens by itself.
pub fn devices() -> Devices {
    Devices {
        listen: ([127, 0, 0, 1], 0).into(),
        auth: Auth::Open,
        registry: "/nonexistent".into(),
        ping_interval: Duration::from_secs(60),
        ping_timeout: Duration::from_secs(60),
        handshake_timeout: Duration::from_secs(10),
        max_connections: 100,
        max_ids: 10_000,
        origins: Vec::new(),
        forget_after: Duration::from_secs(30 * 86_400),
        max_message: 64 * 1024,
        max_rate: 1_000_000,
        max_bytes: 1 << 40,
        max_readings: u32::MAX,
        window: 32,
        tls: None,
    }
}

/// What the fake intake answers to an attach.
#[derive(Debug, Clone, Copy, Default)]
pub struct Known {
    pub safe: u64,
    pub taken: u64,
    /// Becomes safe before the session has even heard of its stream.
    pub safe_soon: Option<u64>,
}

#[derive(Default)]
pub struct Seen {
    pub mailboxes: HashMap<u64, Arc<Mailbox>>,
    pub attached: Vec<(u64, Option<String>)>,
    pub detached: Vec<u64>,
}

/// The intake's outer side: control is answered by a task, data waits for the test to receive.
pub struct FakeIntake {
    pub port: IntakePort,
    pub data: mpsc::Receiver<Arrival>,
    pub seen: Arc<Mutex<Seen>>,
    pub known: Arc<Mutex<Known>>,
    task: JoinHandle<()>,
}

impl FakeIntake {
    pub fn new(capacity: usize) -> Self {
        let (control, mut commands) = mpsc::channel(8);
        let (data_in, data) = mpsc::channel(capacity);
        let (seen, known) = (Arc::new(Mutex::new(Seen::default())), Arc::default());
        let (saw, knows): (_, Arc<Mutex<Known>>) = (seen.clone(), Arc::clone(&known));
        let task = tokio::spawn(async move {
            let mut last = 0;
            while let Some(command) = commands.recv().await {
                let mut seen = saw.lock().unwrap();
                match command {
                    Control::Attach {
                        conn,
                        stream,
                        mailbox,
                        reply,
                        ..
                    } => {
                        last += 1;
                        seen.mailboxes.insert(conn, mailbox);
                        seen.attached
                            .push((conn, stream.as_deref().map(str::to_owned)));
                        let Known {
                            safe,
                            taken,
                            safe_soon,
                        } = *knows.lock().unwrap();
                        seen.mailboxes[&conn].settle(0, safe_soon);
                        let _ = reply.send(Attached {
                            stream: StreamId(NonZeroU64::new(last).unwrap()),
                            name: stream.unwrap_or_else(|| format!("unnamed-{last}").into()),
                            known: taken > 0,
                            safe,
                            taken,
                        });
                    }
                    Control::Detach { conn } => seen.detached.push(conn),
                }
            }
        });
        Self {
            port: IntakePort {
                control,
                data: data_in,
            },
            data,
            seen,
            known,
            task,
        }
    }

    pub async fn arrival(&mut self) -> Arrival {
        soon(self.data.recv()).await.expect("the port is open")
    }

    pub async fn nothing_arrives(&mut self) {
        let arrival = tokio::time::timeout(A_WHILE, self.data.recv()).await;
        assert!(arrival.is_err(), "{arrival:?}");
    }

    pub fn mailbox(&self, conn: u64) -> Arc<Mailbox> {
        self.seen.lock().unwrap().mailboxes[&conn].clone()
    }

    pub fn settle(&self, arrival: &Arrival) {
        self.mailbox(arrival.conn).settle(1, arrival.batch.seq);
    }
}

impl Drop for FakeIntake {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub struct Port {
    pub addr: SocketAddr,
    pub intake: FakeIntake,
    pub board: Arc<Board>,
    pub outbox: Arc<Outbox>,
    pub roster: Arc<Roster>,
    pub stopper: Stopper,
    pub task: JoinHandle<()>,
}

impl Port {
    pub async fn start(devices: Devices) -> Self {
        Self::with_capacity(devices, 1_000).await
    }

    /// `ack_timeout`: for batches by POST.
    pub async fn patient(devices: Devices, ack_timeout: Duration) -> Self {
        Self::with(devices, 1_000, ack_timeout).await
    }

    /// `capacity`: batches that fit in the way into the intake.
    pub async fn with_capacity(devices: Devices, capacity: usize) -> Self {
        Self::with(devices, capacity, PATIENCE).await
    }

    async fn with(devices: Devices, capacity: usize, ack_timeout: Duration) -> Self {
        let intake = FakeIntake::new(capacity);
        let (board, outbox) = (Board::new("barn"), Arc::new(Outbox::default()));
        let roster = Roster::new(devices.max_connections, board.clone(), outbox.clone());
        let (stopper, stop) = stop::channel();
        let server = Server::new(&devices, intake.port.clone(), roster.clone(), stop)
            .unwrap()
            .with_ack_timeout(ack_timeout);
        let listener = TcpListener::bind(devices.listen).await.unwrap();
        let addr = listener.local_addr().unwrap();
        Self {
            addr,
            intake,
            board,
            outbox,
            roster,
            stopper,
            task: tokio::spawn(server.run(listener)),
        }
    }

    pub async fn connect(&self, device: &str) -> Device<TcpStream> {
        let tcp = TcpStream::connect(self.addr).await.unwrap();
        let request = format!("ws://{}/v1/devices/{device}", self.addr);
        let (ws, _) = soon(tokio_tungstenite::client_async(request, tcp))
            .await
            .unwrap();
        Device { ws }
    }

    /// A connection that has been upgraded, without a WebSocket library on it.
    pub async fn raw(&self, device: &str) -> TcpStream {
        let mut tcp = TcpStream::connect(self.addr).await.unwrap();
        tcp.write_all(handshake(device, "").as_bytes())
            .await
            .unwrap();
        let head = head(&mut tcp).await;
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        tcp
    }

    pub fn report(&self, device: &str) -> DeviceReport {
        let mut reports = self.board.device_reports();
        reports.retain(|report| report.id == device);
        reports.pop().expect("the device is on the board")
    }

    pub async fn offline(&self, device: &str) -> String {
        until(|| self.report(device).state == "offline").await;
        self.report(device).reason
    }

    /// The last state of the device that the broker would be told.
    pub fn presence(&self) -> (&'static str, String) {
        let states = std::iter::from_fn(|| self.outbox.try_last());
        let (_, presence) = states.last().expect("a state to tell");
        (presence.state, presence.reason)
    }
}

pub fn handshake(device: &str, extra: &str) -> String {
    format!(
        "GET /v1/devices/{device} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\n\
         Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{extra}\r\n"
    )
}

/// Reads an HTTP head, and not a byte more.
pub async fn head(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match soon(stream.read_u8()).await {
            Ok(byte) => head.push(byte),
            Err(error) => panic!("{error} after {:?}", String::from_utf8_lossy(&head)),
        }
    }
    String::from_utf8(head).unwrap()
}

/// A frame as a client sends it, masked with zeros.
pub fn frame(first_byte: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first_byte];
    match payload.len() {
        length @ 0..126 => frame.push(0x80 | u8::try_from(length).unwrap()),
        length => {
            frame.push(0x80 | 126);
            frame.extend(u16::try_from(length).unwrap().to_be_bytes());
        }
    }
    frame.extend([0; 4]);
    frame.extend(payload);
    frame
}

/// All that a sleeper says when it wakes, in one piece: request, hello, a batch, goodbye.
pub fn one_flight(device: &str, stream: &str, seq: u64) -> Vec<u8> {
    let mut flight = handshake(device, "").into_bytes();
    for message in [
        json!({"hello": {"stream": stream, "next": seq, "clock": "none"}}),
        data(Some(seq)),
        json!({"bye": {"sleep": 600}}),
    ] {
        flight.extend(frame(0x81, message.to_string().as_bytes()));
    }
    flight
}

/// Reads frames of the hub until a close frame, returns its code, and waits for the end of the
/// connection.
pub async fn raw_close(stream: &mut (impl AsyncRead + Unpin)) -> u16 {
    soon(async {
        loop {
            let first = stream.read_u8().await.expect("a frame");
            let mut length = u64::from(stream.read_u8().await.unwrap());
            if length == 126 {
                length = u64::from(stream.read_u16().await.unwrap());
            }
            let mut payload = vec![0; usize::try_from(length).unwrap()];
            stream.read_exact(&mut payload).await.unwrap();
            if first == 0x88 {
                let mut rest = Vec::new();
                stream.read_to_end(&mut rest).await.unwrap();
                assert!(rest.is_empty());
                return u16::from_be_bytes([payload[0], payload[1]]);
            }
        }
    })
    .await
}

pub struct Device<S> {
    pub ws: WebSocketStream<S>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Device<S> {
    pub async fn json(&mut self, message: Value) {
        self.ws
            .send(Message::text(message.to_string()))
            .await
            .unwrap();
    }

    pub async fn cbor(&mut self, message: Value) {
        let bytes = serde_cbor::to_vec(&message).unwrap();
        self.ws.send(Message::binary(bytes)).await.unwrap();
    }

    pub async fn hello(&mut self, stream: &str) -> Welcome {
        self.json(json!({"hello": {"stream": stream}})).await;
        match self.answer().await.1 {
            ToDevice::Welcome(welcome) => welcome,
            other => panic!("{other:?}"),
        }
    }

    pub async fn data(&mut self, seq: u64) {
        self.json(data(Some(seq))).await;
    }

    /// The next message of the hub.
    pub async fn answer(&mut self) -> (Encoding, ToDevice) {
        loop {
            let (encoding, bytes) = match soon(self.ws.next()).await {
                Some(Ok(Message::Text(text))) => (Encoding::Json, text.as_bytes().to_vec()),
                Some(Ok(Message::Binary(bytes))) => (Encoding::Cbor, bytes.to_vec()),
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => continue,
                other => panic!("{other:?}"),
            };
            return (encoding, decode_to_device(encoding, &bytes).unwrap());
        }
    }

    pub async fn ack(&mut self) -> u64 {
        match self.answer().await.1 {
            ToDevice::Ack { seq } => seq,
            other => panic!("{other:?}"),
        }
    }

    pub async fn note(&mut self) -> Note {
        match self.answer().await.1 {
            ToDevice::Note(note) => note,
            other => panic!("{other:?}"),
        }
    }

    pub async fn reject(&mut self) -> (RejectCode, Option<u64>) {
        match self.answer().await.1 {
            ToDevice::Reject(Reject { code, seq, .. }) => (code, seq),
            other => panic!("{other:?}"),
        }
    }

    /// Waits for the close frame and the end of the connection; returns the code.
    pub async fn closed(&mut self) -> u16 {
        let mut code = None;
        soon(async {
            while let Some(message) = self.ws.next().await {
                match message {
                    Ok(Message::Close(Some(frame))) => code = Some(frame.code.into()),
                    Ok(_) => {}
                    Err(error) => panic!("{error} instead of a close frame"),
                }
            }
        })
        .await;
        code.expect("a close frame")
    }
}

pub fn data(seq: Option<u64>) -> Value {
    let pack = json!([{"n": "t", "v": 21.5}, {"n": "h", "v": 40}]);
    match seq {
        Some(seq) => json!({"data": {"seq": seq, "pack": pack}}),
        None => json!({"data": {"pack": pack}}),
    }
}

/// A client request with one more header.
pub fn request_with(
    addr: SocketAddr,
    device: &str,
    header: (&'static str, &str),
) -> tokio_tungstenite::tungstenite::http::Request<()> {
    let mut request = format!("ws://{addr}/v1/devices/{device}")
        .into_client_request()
        .unwrap();
    request
        .headers_mut()
        .insert(header.0, header.1.parse().unwrap());
    request
}
