//! The whole daemon as a process, a real mosquitto, devices before it and a consumer behind it.
//!
//! Everything is on loopback, on ports that were free a moment ago, in a directory that goes with
//! the test. Only processes started here are ended, by pid.
#![allow(dead_code, clippy::unwrap_used, missing_docs, unreachable_pub)]

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use rumqttc::{AsyncClient, Event, Incoming, MqttOptions, QoS};
use serde_json::{Value, json};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{self, Message};

/// Nothing that is waited for takes longer on a machine that is busy with other things.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// [`PATIENCE`], or as many seconds as the environment variable of that name says: for long runs
/// at a low priority.
pub fn patience() -> Duration {
    let seconds = std::env::var("PATIENCE").ok();
    seconds.map_or(PATIENCE, |text| Duration::from_secs(text.parse().unwrap()))
}

/// Waits for a condition; panics with what was awaited when it does not come.
pub async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + patience();
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain for: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

/// A process that does not outlive the test.
struct Process(Child);

impl Process {
    fn signal(&self, name: &str) {
        let pid = self.0.id().to_string();
        let sent = Command::new("kill")
            .args([&format!("-{name}"), &pid])
            .status()
            .unwrap();
        assert!(sent.success(), "cannot send SIG{name} to {pid}");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

// ---- broker ----------------------------------------------------------------------------------

/// A real mosquitto (Debian package). It keeps sessions and messages over a stop and start.
pub struct Mosquitto {
    dir: PathBuf,
    pub port: u16,
    /// More lines of its configuration.
    lines: String,
    process: Option<Process>,
}

/// The broker's program: Debian keeps it where not every PATH leads.
pub fn mosquitto() -> &'static str {
    let path = [
        "/usr/sbin/mosquitto",
        "/usr/local/sbin/mosquitto",
        "mosquitto",
    ];
    path.into_iter()
        .find(|path| Path::new(path).exists())
        .unwrap_or(path[2])
}

impl Mosquitto {
    /// Ready to accept.
    pub fn start(dir: &Path) -> Self {
        Self::start_with(dir, "")
    }

    /// The same with these lines in its configuration as well.
    pub fn start_with(dir: &Path, lines: &str) -> Self {
        let mut mosquitto = Self {
            dir: dir.to_owned(),
            port: free_port(),
            lines: lines.to_owned(),
            process: None,
        };
        mosquitto.start_again();
        mosquitto
    }

    pub fn start_again(&mut self) {
        let config = self.dir.join("mosquitto.conf");
        // `user root` is only read when started as root; it keeps the files in our directory.
        let text = format!(
            "listener {} 127.0.0.1\nallow_anonymous true\npersistence true\n\
             persistence_location {}/\nmax_queued_messages 0\nuser root\n{}\n",
            self.port,
            self.dir.display(),
            self.lines
        );
        std::fs::write(&config, text).unwrap();
        let child = Command::new(mosquitto())
            .arg("-c")
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| {
                panic!("cannot start mosquitto ({error}); apt-get install mosquitto")
            });
        self.process = Some(Process(child));
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            assert!(Instant::now() < deadline, "mosquitto does not listen");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub fn runs(&self) -> bool {
        self.process.is_some()
    }

    pub fn signal(&self, name: &str) {
        self.process.as_ref().expect("runs").signal(name);
    }

    /// SIGKILL: it forgets what it has not delivered.
    pub fn kill(&mut self) {
        drop(self.process.take().expect("runs"));
    }

    /// SIGTERM: it saves what it holds.
    pub fn stop(&mut self) {
        let mut process = self.process.take().expect("runs");
        process.signal("TERM");
        process.0.wait().unwrap();
    }
}

// ---- hub -------------------------------------------------------------------------------------

/// The command that starts the daemon's binary. With `TELEHUB_BIN` it is that one, and with
/// `TELEHUB_RUNNER` (a program and its arguments) it is started by another program: the way in
/// which a binary for another processor is tested, see `tests/arm.sh`. The runner must be the
/// process that the signals are meant for.
pub fn command() -> Command {
    let program = std::env::var_os("TELEHUB_BIN").map_or_else(program, PathBuf::from);
    let runner = std::env::var("TELEHUB_RUNNER").unwrap_or_default();
    let mut words = runner.split_whitespace();
    let Some(first) = words.next() else {
        return Command::new(program);
    };
    let mut command = Command::new(first);
    command.args(words).arg(program);
    command
}

/// The daemon's binary. Tests of other packages of the workspace find it beside themselves.
pub fn program() -> PathBuf {
    if let Some(program) = option_env!("CARGO_BIN_EXE_telehub") {
        return program.into();
    }
    let test = std::env::current_exe().unwrap();
    let program = test
        .parent()
        .and_then(Path::parent)
        .unwrap()
        .join("telehub");
    assert!(
        program.exists(),
        "{} is not there: run the tests with --workspace, or cargo build --bin telehub before",
        program.display()
    );
    program
}

/// The daemon.
pub struct Hub {
    process: Process,
    pub address: SocketAddr,
    pub admin: SocketAddr,
    log: Arc<Mutex<Vec<String>>>,
}

/// A configuration for tests; `extra` is TOML with further tables or keys of `[uplink]`, which
/// stands last.
pub fn config(dir: &Path, broker: u16, extra: &str) -> String {
    let dir = dir.display();
    format!(
        r#"
[hub]
id = "barn"
[devices]
listen = "127.0.0.1:0"
auth = "open"
max_rate = 100000
max_bytes = "1GiB"
max_readings = 10000000
[spool]
path = "{dir}/spool"
min_free = "1MiB"
[admin]
listen = "127.0.0.1:0"
[uplink]
url = "mqtt://127.0.0.1:{broker}"
{extra}
"#
    )
}

impl Hub {
    /// Starts it and waits until it accepts devices.
    pub async fn start(dir: &Path, config: &str) -> Self {
        Self::start_by(&mut command(), dir, config, |_| {}).await
    }

    /// Starts it by a command that takes the daemon's arguments; `begun` is called when the
    /// process is there.
    pub async fn start_by(
        command: &mut Command,
        dir: &Path,
        config: &str,
        begun: impl FnOnce(&mut Child),
    ) -> Self {
        let file = dir.join("telehub.toml");
        std::fs::write(&file, config).unwrap();
        let mut child = command
            .args(["run", "--config"])
            .arg(&file)
            .stderr(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        begun(&mut child);
        let log = Arc::new(Mutex::new(Vec::new()));
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let lines = log.clone();
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                lines.lock().unwrap().push(line);
            }
        });
        let process = Process(child);
        let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
        let mut hub = Self {
            process,
            address: nowhere,
            admin: nowhere,
            log,
        };
        hub.admin = hub.logged_address("admin listening").await;
        hub.address = hub.logged_address(" listening").await;
        hub
    }

    async fn logged_address(&mut self, what: &str) -> SocketAddr {
        let deadline = Instant::now() + patience();
        loop {
            let other = if what.starts_with(' ') { "admin" } else { "\0" };
            let line = self
                .log()
                .into_iter()
                .find(|l| l.contains(what) && !l.contains(other));
            if let Some(line) = line {
                return line
                    .split("address=")
                    .nth(1)
                    .unwrap()
                    .trim()
                    .parse()
                    .unwrap();
            }
            let ended = self.process.0.try_wait().unwrap();
            assert!(
                ended.is_none(),
                "the hub ended: {ended:?} {:#?}",
                self.log()
            );
            assert!(
                Instant::now() < deadline,
                "the hub does not listen: {:#?}",
                self.log()
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub fn log(&self) -> Vec<String> {
        self.log.lock().unwrap().clone()
    }

    /// Lines at WARN or ERROR.
    pub fn complaints(&self) -> Vec<String> {
        let loud = |line: &String| line.contains(" WARN ") || line.contains("ERROR ");
        self.log().into_iter().filter(loud).collect()
    }

    pub fn pid(&self) -> u32 {
        self.process.0.id()
    }

    pub fn signal(&self, name: &str) {
        self.process.signal(name);
    }

    /// SIGKILL.
    pub fn kill(mut self) {
        self.process.0.kill().unwrap();
        self.process.0.wait().unwrap();
    }

    /// Waits until it has ended.
    pub async fn ended(&mut self) -> ExitStatus {
        let mut status = None;
        until("the hub's end", || {
            status = self.process.0.try_wait().unwrap();
            status.is_some()
        })
        .await;
        status.unwrap()
    }

    /// SIGTERM, and the status with which it ends.
    pub async fn stop(mut self) -> ExitStatus {
        self.signal("TERM");
        self.ended().await
    }

    /// After a signal was sent: whether it ended with status 0 and without a complaint of its own
    /// (an uplink that was never there complains).
    pub async fn stop_was_clean(mut self) -> bool {
        let ended = self.ended().await.success();
        ended
            && !self
                .complaints()
                .iter()
                .any(|line| !line.contains("uplink"))
    }

    /// GET on the admin listener: status code and body.
    pub fn get(&self, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.admin).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let request = format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (
            head.split(' ').nth(1).unwrap().parse().unwrap(),
            body.to_owned(),
        )
    }

    /// `/api/status`, a value in it by JSON pointer.
    pub fn status(&self, pointer: &str) -> Value {
        let (code, body) = self.get("/api/status");
        assert_eq!(code, 200);
        let status: Value = serde_json::from_str(&body).unwrap();
        status
            .pointer(pointer)
            .unwrap_or_else(|| panic!("no {pointer} in {status}"))
            .clone()
    }

    pub async fn until_uplink(&self, state: &str) {
        until(&format!("uplink {state}"), || {
            self.status("/uplink/state") == state
        })
        .await;
    }

    /// The backlog is published, and nothing waits any more that came before.
    pub async fn until_drained(&self) {
        until("the spool's drain", || self.status("/spool/batches") == 0).await;
    }

    /// Bytes that the hub has caused to be written to disk, by the kernel's account.
    pub fn bytes_written(&self) -> u64 {
        let io = std::fs::read_to_string(format!("/proc/{}/io", self.pid())).unwrap();
        let line = io
            .lines()
            .find_map(|line| line.strip_prefix("write_bytes: "))
            .unwrap();
        line.parse().unwrap()
    }
}

// ---- consumer --------------------------------------------------------------------------------

/// What a consumer got.
#[derive(Debug, Clone)]
pub struct Received {
    pub topic: String,
    pub payload: Vec<u8>,
    pub retained: bool,
}

impl Received {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.payload)
            .unwrap_or_else(|error| panic!("{}: {error}", self.topic))
    }

    /// `data`, `history`, `gap`, `status` …
    pub fn kind(&self) -> &str {
        self.topic.rsplit('/').next().unwrap()
    }

    /// Device, stream and number of a batch.
    pub fn batch(&self) -> Option<(String, String, u64)> {
        if !matches!(self.kind(), "data" | "history") {
            return None;
        }
        let json = self.json();
        let text = |key: &str| json[key].as_str().unwrap().to_owned();
        Some((text("device"), text("stream"), json["seq"].as_u64()?))
    }
}

/// A subscriber with a session that survives the broker's restart.
pub struct Consumer {
    got: Arc<Mutex<Vec<Received>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Consumer {
    /// Subscribed to `telehub/#` when it returns.
    pub async fn start(port: u16) -> Self {
        let mut options = MqttOptions::new("consumer", "127.0.0.1", port);
        options
            .set_clean_session(false)
            .set_max_packet_size(8 << 20, 8 << 20);
        let (client, mut events) = AsyncClient::new(options, 16);
        client
            .subscribe("telehub/#", QoS::AtLeastOnce)
            .await
            .unwrap();
        let got = Arc::new(Mutex::new(Vec::new()));
        let subscribed = Arc::new(AtomicBool::new(false));
        let (into, ready) = (got.clone(), subscribed.clone());
        let task = tokio::spawn(async move {
            let _client = client;
            loop {
                match events.poll().await {
                    Ok(Event::Incoming(Incoming::Publish(publish))) => {
                        into.lock().unwrap().push(Received {
                            topic: publish.topic,
                            payload: publish.payload.to_vec(),
                            retained: publish.retain,
                        });
                    }
                    Ok(Event::Incoming(Incoming::SubAck(_))) => ready.store(true, Ordering::SeqCst),
                    Ok(_) => {}
                    Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
                }
            }
        });
        until("the consumer's subscription", || {
            subscribed.load(Ordering::SeqCst)
        })
        .await;
        Self { got, task }
    }

    pub fn got(&self) -> Vec<Received> {
        self.got.lock().unwrap().clone()
    }

    /// What came since the last call; [`Consumer::got`] and the others know no more of it.
    pub fn take(&self) -> Vec<Received> {
        std::mem::take(&mut self.got.lock().unwrap())
    }

    /// How often each batch came.
    pub fn batches(&self) -> BTreeMap<(String, String, u64), usize> {
        let mut batches = BTreeMap::new();
        for id in self.got().iter().filter_map(Received::batch) {
            *batches.entry(id).or_default() += 1;
        }
        batches
    }

    /// The newest payload on this topic.
    pub fn last(&self, topic: &str) -> Option<Value> {
        let got = self.got.lock().unwrap();
        got.iter()
            .rev()
            .find(|message| message.topic == topic)
            .map(Received::json)
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

// ---- devices ---------------------------------------------------------------------------------

/// A device that does only what it is told.
pub struct Device(WebSocketStream<tokio::net::TcpStream>);

impl Device {
    pub async fn try_connect(hub: SocketAddr, id: &str) -> Option<Self> {
        let tcp = tokio::net::TcpStream::connect(hub).await.ok()?;
        let url = format!("ws://{hub}/v1/devices/{id}");
        let (socket, _) = tokio_tungstenite::client_async(url, tcp).await.ok()?;
        Some(Self(socket))
    }

    /// One that has a token.
    pub async fn with_token(hub: SocketAddr, id: &str, token: &str) -> Self {
        use tokio_tungstenite::tungstenite::client::IntoClientRequest;
        let url = format!("ws://{hub}/v1/devices/{id}");
        let mut request = url.into_client_request().unwrap();
        let value = format!("Bearer {token}").parse().unwrap();
        request.headers_mut().insert("authorization", value);
        let tcp = tokio::net::TcpStream::connect(hub).await.unwrap();
        let (socket, _) = tokio_tungstenite::client_async(request, tcp).await.unwrap();
        Self(socket)
    }

    pub async fn connect(hub: SocketAddr, id: &str) -> Self {
        Self::try_connect(hub, id)
            .await
            .expect("the hub takes the device")
    }

    /// With a token. `Err`: the status of the refusal.
    pub async fn try_connect_with(hub: SocketAddr, id: &str, token: &str) -> Result<Self, u16> {
        let tcp = tokio::net::TcpStream::connect(hub).await.unwrap();
        let url = format!("ws://{hub}/v1/devices/{id}");
        let mut request = url.into_client_request().unwrap();
        let bearer = format!("Bearer {token}").parse().unwrap();
        request.headers_mut().insert("authorization", bearer);
        match tokio_tungstenite::client_async(request, tcp).await {
            Ok((socket, _)) => Ok(Self(socket)),
            Err(tungstenite::Error::Http(answer)) => Err(answer.status().as_u16()),
            Err(error) => panic!("{error}"),
        }
    }

    pub async fn connect_with(hub: SocketAddr, id: &str, token: &str) -> Self {
        let connected = Self::try_connect_with(hub, id, token).await;
        connected.unwrap_or_else(|status| panic!("{id} is refused with {status}"))
    }

    /// Says goodbye.
    pub async fn close(&mut self) {
        self.0.close(None).await.unwrap();
    }

    pub async fn send(&mut self, message: Value) {
        self.0
            .send(Message::text(message.to_string()))
            .await
            .unwrap();
    }

    pub async fn hello(&mut self, stream: &str) -> u64 {
        self.send(json!({"hello": {"stream": stream}})).await;
        let welcome = self.receive().await.expect("welcome");
        welcome["welcome"]["seq"]
            .as_u64()
            .unwrap_or_else(|| panic!("{welcome}"))
    }

    /// A second hello; the code with which it is rejected.
    pub async fn hello_again(&mut self, stream: &str) -> String {
        self.send(json!({"hello": {"stream": stream}})).await;
        let answer = self.receive().await.expect("a reject");
        answer["reject"]["code"]
            .as_str()
            .unwrap_or_else(|| panic!("{answer}"))
            .to_owned()
    }

    pub async fn send_text(&mut self, text: &str) {
        self.0.send(Message::text(text.to_owned())).await.unwrap();
    }

    pub async fn send_binary(&mut self, frame: Vec<u8>) {
        self.0.send(Message::binary(frame)).await.unwrap();
    }

    /// The next message of the hub when it speaks CBOR.
    pub async fn receive_cbor(&mut self) -> Option<Value> {
        loop {
            match tokio::time::timeout(PATIENCE, self.0.next())
                .await
                .expect("an answer")?
                .ok()?
            {
                Message::Binary(frame) => return Some(serde_cbor::from_slice(&frame).unwrap()),
                Message::Close(_) => return None,
                _ => {}
            }
        }
    }

    /// Reads on until the hub closes; the code that it gives.
    pub async fn close_code(&mut self) -> u16 {
        loop {
            let next = tokio::time::timeout(PATIENCE, self.0.next())
                .await
                .expect("a close");
            match next {
                Some(Ok(Message::Close(frame))) => return frame.expect("a code").code.into(),
                Some(Ok(_)) => {}
                other => panic!("no close frame but {other:?}"),
            }
        }
    }

    /// One batch whose reading's value is its number.
    pub async fn data(&mut self, seq: u64) {
        self.send(data(seq)).await;
    }

    /// The next ack of a batch, or the code with which the hub closes instead.
    pub async fn ack_or_code(&mut self) -> Result<u64, u16> {
        loop {
            let next = tokio::time::timeout(PATIENCE, self.0.next());
            match next.await.expect("an answer of the hub") {
                Some(Ok(Message::Text(text))) => {
                    let message: Value = serde_json::from_str(&text).unwrap();
                    return Ok(message["ack"]["seq"].as_u64().expect("an ack"));
                }
                Some(Ok(Message::Close(frame))) => return Err(frame.expect("a code").code.into()),
                Some(Ok(_)) => {}
                other => panic!("no close frame but {other:?}"),
            }
        }
    }

    /// The next message of the hub; `None` when the connection is closed.
    pub async fn receive(&mut self) -> Option<Value> {
        let next = async {
            while let Some(Ok(message)) = self.0.next().await {
                if let Message::Text(text) = message {
                    return Some(serde_json::from_str(&text).unwrap());
                }
                if message.is_close() {
                    return None;
                }
            }
            None
        };
        tokio::time::timeout(PATIENCE, next)
            .await
            .expect("an answer of the hub")
    }

    /// Takes one message, whatever it is; `false`: the connection is gone.
    pub async fn try_receive(&mut self) -> bool {
        matches!(self.0.next().await, Some(Ok(_)))
    }

    /// The next message, which is a reject: its number and code.
    pub async fn rejected(&mut self) -> (Option<u64>, String) {
        let message = self.receive().await.expect("a reject");
        let reject = &message["reject"];
        let code = reject["code"]
            .as_str()
            .unwrap_or_else(|| panic!("{message}"));
        (reject["seq"].as_u64(), code.to_owned())
    }

    /// Reads until everything up to this number is acked.
    pub async fn acked(&mut self, seq: u64) {
        loop {
            let message = self.receive().await.expect("an ack");
            let ack = message["ack"]["seq"]
                .as_u64()
                .unwrap_or_else(|| panic!("{message}"));
            assert!(ack <= seq, "ack {ack} of what was never sent");
            if ack == seq {
                return;
            }
        }
    }
}

/// The status line of the answer to a batch by `POST`, in SenML as JSON.
pub fn post(hub: SocketAddr, path: &str, token: Option<&str>, body: &str) -> String {
    let length = body.len();
    let credentials = token.map_or_else(String::new, |token| {
        format!("Authorization: Bearer {token}\r\n")
    });
    let mut stream = std::net::TcpStream::connect(hub).unwrap();
    write!(
        stream,
        "POST {path} HTTP/1.1\r\nHost: {hub}\r\nConnection: close\r\n{credentials}\
         Content-Type: application/senml+json\r\nContent-Length: {length}\r\n\r\n{body}"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.lines().next().unwrap_or_default().to_owned()
}

/// A data message whose reading's value is its number.
pub fn data(seq: u64) -> Value {
    json!({"data": {"seq": seq, "pack": [{"n": "x", "v": seq}]}})
}

/// One with a second reading of so many bytes.
fn heavy_data(seq: u64, bytes: usize) -> Value {
    let pack = json!([{"n": "x", "v": seq}, {"n": "y", "vs": "#".repeat(bytes)}]);
    json!({"data": {"seq": seq, "pack": pack}})
}

#[derive(Debug, Default)]
struct Kept {
    next: u64,
    unacked: VecDeque<u64>,
    acked: u64,
    connects: u64,
}

/// A device as the contract wants it: keeps what is unacked, reconnects, resumes.
pub struct Sensor {
    pub id: String,
    kept: Arc<Mutex<Kept>>,
    sending: Arc<AtomicBool>,
    hub: Arc<Mutex<SocketAddr>>,
    task: tokio::task::JoinHandle<()>,
}

impl Sensor {
    /// Sends a batch every `every`, at most 16 unacked, until told to rest.
    pub fn start(hub: SocketAddr, id: &str, every: Duration) -> Self {
        Self::heavy(hub, id, every, 0)
    }

    /// The same with so many bytes more in each batch.
    pub fn heavy(hub: SocketAddr, id: &str, every: Duration, bytes: usize) -> Self {
        let kept = Arc::new(Mutex::new(Kept {
            next: 1,
            ..Kept::default()
        }));
        let sending = Arc::new(AtomicBool::new(true));
        let hub = Arc::new(Mutex::new(hub));
        let (k, s, h, i) = (kept.clone(), sending.clone(), hub.clone(), id.to_owned());
        let task = tokio::spawn(async move {
            loop {
                let address = *h.lock().unwrap();
                if let Some(device) = Device::try_connect(address, &i).await {
                    let _ = converse(device, &k, &s, every, bytes).await;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        Self {
            id: id.to_owned(),
            kept,
            sending,
            hub,
            task,
        }
    }

    /// Where no hub is: its port may belong to another one soon.
    pub const NOWHERE: SocketAddr =
        SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), 0);

    /// The hub has been started anew elsewhere.
    pub fn moved(&self, hub: SocketAddr) {
        *self.hub.lock().unwrap() = hub;
    }

    /// No new batches; what is unacked is still sent again after a reconnect.
    pub fn rest(&self) {
        self.sending.store(false, Ordering::SeqCst);
    }

    pub fn acked(&self) -> u64 {
        self.kept.lock().unwrap().acked
    }

    /// How often the hub took the connection.
    pub fn connects(&self) -> u64 {
        self.kept.lock().unwrap().connects
    }

    pub fn unacked(&self) -> usize {
        self.kept.lock().unwrap().unacked.len()
    }

    /// Every number that the hub has acked.
    pub fn acked_batches(&self) -> BTreeSet<(String, String, u64)> {
        (1..=self.acked())
            .map(|seq| (self.id.clone(), "s".to_owned(), seq))
            .collect()
    }
}

impl Drop for Sensor {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Waits until the broker has as many batches as were acked, and checks that each of these is
/// among them.
pub async fn every_acked_batch_arrives(sensors: &[Sensor], consumer: &Consumer) -> usize {
    let acked: Vec<_> = sensors.iter().flat_map(Sensor::acked_batches).collect();
    until("every acked batch on the broker", || {
        consumer.batches().len() >= acked.len()
    })
    .await;
    let batches = consumer.batches();
    for id in &acked {
        assert!(
            batches.contains_key(id),
            "{id:?} was acked and never arrived"
        );
    }
    acked.len()
}

async fn converse(
    Device(socket): Device,
    kept: &Mutex<Kept>,
    sending: &AtomicBool,
    every: Duration,
    bytes: usize,
) -> Option<()> {
    let data = |seq| match bytes {
        0 => data(seq),
        _ => heavy_data(seq, bytes),
    };
    let (mut sink, mut stream) = socket.split();
    let text = |value: Value| Message::text(value.to_string());
    sink.send(text(json!({"hello": {"stream": "s"}})))
        .await
        .ok()?;
    let mut pace = tokio::time::interval(every);
    let mut welcome = false;
    loop {
        tokio::select! {
            message = stream.next() => {
                let Message::Text(message) = message?.ok()? else { continue };
                let message: Value = serde_json::from_str(&message).unwrap();
                let ack = message.pointer("/ack/seq").or(message.pointer("/welcome/seq"));
                let ack = ack.unwrap_or_else(|| panic!("{message}")).as_u64().unwrap();
                let again: Vec<u64> = {
                    let mut kept = kept.lock().unwrap();
                    assert!(ack < kept.next, "{ack} was never sent");
                    kept.acked = kept.acked.max(ack);
                    let acked = kept.acked;
                    kept.unacked.retain(|seq| *seq > acked);
                    if std::mem::replace(&mut welcome, true) {
                        Vec::new()
                    } else {
                        kept.connects += 1;
                        kept.unacked.iter().copied().collect()
                    }
                };
                for seq in again {
                    sink.send(text(data(seq))).await.ok()?;
                }
            }
            _ = pace.tick(), if welcome && sending.load(Ordering::SeqCst) => {
                let seq = {
                    let mut kept = kept.lock().unwrap();
                    if kept.unacked.len() >= 16 {
                        continue;
                    }
                    let seq = kept.next;
                    kept.next += 1;
                    kept.unacked.push_back(seq);
                    seq
                };
                sink.send(text(data(seq))).await.ok()?;
            }
        }
    }
}
