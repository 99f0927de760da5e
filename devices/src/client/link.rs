//! The life of one device: connect, converse, lose the connection, wait, connect again.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::Poll;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::{FutureExt, SinkExt, StreamExt};
use tokio::sync::Semaphore;
use tokio::time::{Instant, Sleep, sleep, sleep_until};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Bytes, Error, Message, Utf8Bytes};

use super::backoff::{Backoff, Rng};
use super::connect::{Refused, Socket, connect, request};
use super::unacked::{Entry, NeverSent, Unacked};
use super::{Full, Options, Outcome, Source, Stats, Stop};
use crate::wire::Encoding;
use crate::wire::message::{self, FromHub, Hello};
use crate::wire::senml::Pack;

/// A hub that does not answer `hello` within this time is not one.
const WELCOME_TIMEOUT: Duration = Duration::from_secs(10);
/// A hub that has sent nothing, not even a ping, for this many of its ping intervals is gone.
const SILENT_INTERVALS: f64 = 3.0;
/// A connection that held this long was of use, even if nothing was acked over it.
const HELD: Duration = Duration::from_secs(20);
/// Time for the hub to answer our close.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// How a connection ended.
enum End {
    /// Nothing left to do, or no time left to do it.
    Done,
    /// Try again.
    Lost,
    /// Trying again would do harm or nothing.
    Fatal(String),
}

/// Runs one device until its source is exhausted and everything is acked, or until `stop` and
/// then at most `options.drain` longer. `gate` bounds how many connect at the same time.
pub async fn run<S: Source>(
    options: Options,
    source: S,
    stats: Arc<Stats>,
    stop: Stop,
    gate: Option<Arc<Semaphore>>,
) -> Outcome {
    let mut rng = Rng::fresh();
    let started = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let stream = format!("{:x}-{:08x}", started.as_secs(), rng.bits() as u32);
    let mut device = Device {
        unacked: Unacked::new(options.keep),
        input: Input {
            source,
            stop,
            deadline: None,
            drain: options.drain,
        },
        max_message: usize::MAX,
        stream,
        stats,
        options,
    };
    let fatal = device.live(Backoff::new(rng), gate).await;
    Outcome {
        unacked: device.unacked.seqs().collect(),
        stream: device.stream,
        fatal,
    }
}

struct Device<S> {
    options: Options,
    unacked: Unacked<Bytes>,
    input: Input<S>,
    stats: Arc<Stats>,
    stream: String,
    max_message: usize,
}

/// What comes from the device's own side.
struct Input<S> {
    source: S,
    stop: Stop,
    /// Set once the source has ended: when to give up waiting for acks.
    deadline: Option<Instant>,
    drain: Duration,
}

enum Own {
    Batch(Pack),
    SourceEnded,
    TimeUp,
}

impl<S: Source> Input<S> {
    /// The next event. `room`: a batch is welcome. Cancel safe.
    async fn next(&mut self, room: bool) -> Own {
        if let Some(deadline) = self.deadline {
            sleep_until(deadline).await;
            return Own::TimeUp;
        }
        tokio::select! {
            () = self.stop.wait() => Own::SourceEnded,
            pack = self.source.next(), if room => match pack {
                Some(pack) => Own::Batch(pack),
                None => Own::SourceEnded,
            },
        }
    }
}

impl<S: Source> Device<S> {
    async fn live(&mut self, mut backoff: Backoff, gate: Option<Arc<Semaphore>>) -> Option<String> {
        let options = &self.options;
        let request = match request(&options.hub, &options.id, options.token.as_deref()) {
            Ok(request) => request,
            Err(error) => return Some(error),
        };
        loop {
            let permit = match &gate {
                None => None,
                Some(gate) => match self.meanwhile(gate.clone().acquire_owned()).await {
                    Some(permit) => permit.ok(),
                    None => return None,
                },
            };
            let attempt = self.meanwhile(connect(request.clone())).await?;
            let since = Instant::now();
            let mut wish = None;
            match attempt {
                Ok(socket) => {
                    let acked = self.stats.acked.load(Relaxed);
                    let end = self.converse(socket, permit).await;
                    self.unacked.disconnected();
                    match end {
                        End::Done => return None,
                        End::Fatal(text) => return Some(text),
                        End::Lost => {}
                    }
                    if since.elapsed() > HELD || self.stats.acked.load(Relaxed) > acked {
                        backoff.reset();
                    }
                }
                Err(Refused::Never(text)) => return Some(text),
                Err(Refused::Later(retry_after, text)) => {
                    drop(permit);
                    self.stats.failed_connects.fetch_add(1, Relaxed);
                    self.note("connect", &text);
                    wish = retry_after;
                }
            }
            self.meanwhile(sleep(backoff.next(wish))).await?;
        }
    }

    fn note(&self, kind: &str, text: &str) {
        self.stats
            .note(kind, format!("{}: {text}", self.options.id));
    }

    /// Waits for something while the source goes on. `None`: there is nothing left to wait for.
    async fn meanwhile<T>(&mut self, wait: impl Future<Output = T>) -> Option<T> {
        let mut wait = pin!(wait);
        loop {
            if self.finished() {
                return None;
            }
            let room = match self.options.full {
                Full::Wait => !self.unacked.is_full(),
                Full::DropOldest => true,
                Full::Window => false,
            };
            tokio::select! {
                result = &mut wait => return Some(result),
                own = self.input.next(room) => self.own(own)?,
            }
        }
    }

    fn finished(&self) -> bool {
        self.input.deadline.is_some() && self.unacked.is_empty()
    }

    /// `None`: time is up.
    fn own(&mut self, own: Own) -> Option<()> {
        match own {
            Own::Batch(pack) => self.take(&pack),
            Own::SourceEnded => self.input.deadline = Some(Instant::now() + self.input.drain),
            Own::TimeUp => return None,
        }
        Some(())
    }

    fn take(&mut self, pack: &Pack) {
        let frame = message::data(self.options.encoding, self.unacked.next_seq(), pack);
        let readings = u32::try_from(pack.records.len()).unwrap_or(u32::MAX);
        self.stats.made.fetch_add(1, Relaxed);
        let made = std::time::Instant::now();
        if let Some(old) = self.unacked.push(readings, made, frame.into()) {
            self.stats.dropped.fetch_add(1, Relaxed);
            let text = format!(
                "batch {} given up: as many as may be kept are unacked",
                old.seq
            );
            self.note("given up", &text);
        }
    }

    fn room(&self) -> bool {
        match self.options.full {
            Full::Wait => !self.unacked.is_full(),
            Full::DropOldest => true,
            Full::Window => self.unacked.has_room_in_window() && !self.unacked.is_full(),
        }
    }

    /// One connection, from `hello` to its end. `permit` is given back with the welcome.
    async fn converse<P>(&mut self, mut socket: Socket, permit: P) -> End {
        let mut permit = Some(permit);
        let hello = Hello {
            stream: self.stream.clone(),
            model: self.options.model,
            firmware: env!("CARGO_PKG_VERSION"),
        };
        let hello = self.frame(hello.encode(self.options.encoding).into());
        if let Err(error) = socket.send(hello).await {
            self.note("lost", &format!("connection lost: {error}"));
            return End::Lost;
        }
        let mut silence = Silence::new(WELCOME_TIMEOUT);
        let mut unflushed = false;
        let end = loop {
            if self.finished() {
                break End::Done;
            }
            let room = self.room();
            let event = tokio::select! {
                frame = turn(&mut socket, &mut self.unacked, &mut unflushed, Limits {
                    encoding: self.options.encoding,
                    max_message: self.max_message,
                    stats: &self.stats,
                }) => Event::Frame(frame),
                own = self.input.next(room) => Event::Own(own),
                () = silence.over() => Event::Silence,
            };
            match event {
                Event::Own(own) => {
                    if self.own(own).is_none() {
                        break End::Done;
                    }
                    // Whatever else is due goes out with the same write.
                    while self.input.deadline.is_none() && self.room() {
                        match self.input.source.next().now_or_never() {
                            Some(Some(pack)) => self.take(&pack),
                            Some(None) => {
                                let _ = self.own(Own::SourceEnded);
                            }
                            None => break,
                        }
                    }
                }
                Event::Silence => {
                    self.note("silent", "the hub is silent, not even a ping");
                    break End::Lost;
                }
                Event::Frame(Ok(None)) => {}
                Event::Frame(Ok(Some(frame))) => {
                    silence.heard();
                    match self.frame_in(frame, &mut socket, &mut silence) {
                        Ok(Heard::Nothing) => {}
                        Ok(Heard::Welcome) => drop(permit.take()),
                        Ok(Heard::ToFlush) => unflushed = true,
                        Err(end) => break end,
                    }
                }
                Event::Frame(Err(error)) => {
                    self.note("lost", &format!("connection lost: {error}"));
                    break End::Lost;
                }
            }
        };
        if permit.is_none() {
            self.stats.connected.fetch_sub(1, Relaxed);
            if matches!(end, End::Lost) {
                self.stats.lost.fetch_add(1, Relaxed);
            }
        }
        if matches!(end, End::Done) {
            close(&mut socket).await;
        }
        end
    }

    fn frame(&self, bytes: Bytes) -> Message {
        as_message(self.options.encoding, bytes)
    }

    /// Deals with one frame from the hub.
    fn frame_in(
        &mut self,
        frame: Message,
        socket: &mut Socket,
        silence: &mut Silence,
    ) -> Result<Heard, End> {
        let (encoding, bytes) = match &frame {
            Message::Binary(bytes) => (Encoding::Cbor, &bytes[..]),
            Message::Text(text) => (Encoding::Json, text.as_bytes()),
            Message::Close(close) => return Err(self.closed(close.as_ref())),
            // Its pong is queued already.
            Message::Ping(_) => return Ok(Heard::ToFlush),
            Message::Pong(_) | Message::Frame(_) => return Ok(Heard::Nothing),
        };
        if encoding != self.options.encoding {
            self.violation("answered in the other encoding");
        }
        match FromHub::decode(encoding, bytes) {
            Ok(FromHub::Ack { seq }) => {
                let stats = &self.stats;
                let settled = self.unacked.ack(seq, |entry| settle(stats, &entry));
                settled.map_err(|wrong| self.never_sent(wrong))?;
            }
            Ok(FromHub::Welcome {
                stream,
                seq,
                ping_interval,
                max_message,
                window,
                ..
            }) => {
                if stream != self.stream {
                    self.violation("welcomed another stream");
                    return Err(End::Lost);
                }
                let window = usize::try_from(window).unwrap_or(usize::MAX).max(1);
                let window = window.min(self.options.window.unwrap_or(usize::MAX));
                self.max_message = usize::try_from(max_message).unwrap_or(usize::MAX);
                let stats = &self.stats;
                let settled = self
                    .unacked
                    .welcome(seq, window, |entry| settle(stats, &entry));
                settled.map_err(|wrong| self.never_sent(wrong))?;
                self.stats.welcomes.fetch_add(1, Relaxed);
                self.stats.connected.fetch_add(1, Relaxed);
                let limit = Duration::try_from_secs_f64(ping_interval * SILENT_INTERVALS);
                silence.limit = limit.unwrap_or(WELCOME_TIMEOUT).max(Duration::from_secs(5));
                return Ok(Heard::Welcome);
            }
            Ok(FromHub::Reject { seq, code, detail }) => {
                let known = seq.and_then(|seq| self.unacked.reject(seq));
                self.stats.rejected.fetch_add(1, Relaxed);
                let which = match (seq, known.is_some()) {
                    (Some(seq), true) => format!("batch {seq}"),
                    (Some(seq), false) => format!("batch {seq} (not kept)"),
                    (None, _) => "a message".to_owned(),
                };
                let text = format!("{which} rejected, {code}: {detail}");
                self.note(&format!("reject {code}"), &text);
            }
            Ok(FromHub::Command { id, name, args }) => {
                let outcome = match name.as_str() {
                    "echo" => Ok(args),
                    _ => Err("this device knows the command `echo` only"),
                };
                let answer = message::result(self.options.encoding, &id, outcome);
                let answer = self.frame(answer.into());
                socket.start_send_unpin(answer).map_err(|error| {
                    self.note("lost", &format!("connection lost: {error}"));
                    End::Lost
                })?;
                return Ok(Heard::ToFlush);
            }
            Err(error) => self.violation(&error),
        }
        Ok(Heard::Nothing)
    }

    fn violation(&self, what: &str) {
        self.stats.violations.fetch_add(1, Relaxed);
        self.note("violation", &format!("the hub broke the contract: {what}"));
    }

    fn never_sent(&self, wrong: NeverSent) -> End {
        let NeverSent { claimed, sent } = wrong;
        self.violation(&format!("{claimed} is safe, but only {sent} was ever sent"));
        End::Fatal("the hub acked what was never sent".into())
    }

    /// What a close frame means.
    fn closed(&self, close: Option<&CloseFrame>) -> End {
        let Some(close) = close else {
            self.note("close", "the hub closed the connection");
            return End::Lost;
        };
        let code = u16::from(close.code);
        let reason = close.reason.as_str();
        match code {
            4001 => End::Fatal("replaced: another device has connected with this id".into()),
            4002 => End::Fatal("the hub has withdrawn this device's credentials".into()),
            _ => {
                let text = format!("the hub closed the connection: {code} {reason}");
                self.note(&format!("close {code}"), text.trim_end());
                End::Lost
            }
        }
    }
}

enum Event {
    Frame(Result<Option<Message>, Error>),
    Own(Own),
    Silence,
}

enum Heard {
    Nothing,
    Welcome,
    ToFlush,
}

fn settle(stats: &Stats, entry: &Entry<Bytes>) {
    stats.acked(entry.made.elapsed(), entry.readings);
}

fn as_message(encoding: Encoding, bytes: Bytes) -> Message {
    match encoding {
        Encoding::Cbor => Message::Binary(bytes),
        Encoding::Json => match Utf8Bytes::try_from(bytes) {
            Ok(text) => Message::Text(text),
            // The JSON writer writes nothing but UTF-8.
            Err(_) => Message::Text(Utf8Bytes::default()),
        },
    }
}

struct Limits<'a> {
    encoding: Encoding,
    max_message: usize,
    stats: &'a Stats,
}

impl Limits<'_> {
    fn too_large(&self, entry: &Entry<Bytes>) {
        let text = format!(
            "batch {} has {} bytes, the hub takes {}: send smaller batches",
            entry.seq,
            entry.frame.len(),
            self.max_message
        );
        self.stats.dropped.fetch_add(1, Relaxed);
        self.stats.note("too large", text);
    }
}

/// Sends what may be sent, flushes, and returns the next frame; `None` when a batch had to be
/// given up instead. Writing never keeps it from reading, so that a hub that is slow to read
/// still gets its pings answered and its acks heard, and one that has closed is heard out. Cancel
/// safe.
async fn turn(
    socket: &mut Socket,
    unacked: &mut Unacked<Bytes>,
    unflushed: &mut bool,
    limits: Limits<'_>,
) -> Result<Option<Message>, Error> {
    poll_fn(|cx| {
        let mut gave_up = false;
        let mut write = || -> Result<(), Error> {
            while let Some(entry) = unacked.to_send() {
                if entry.frame.len() > limits.max_message {
                    limits.too_large(entry);
                    unacked.give_up();
                    gave_up = true;
                    continue;
                }
                if socket.poll_ready_unpin(cx)?.is_pending() {
                    break;
                }
                let bytes = entry.frame.len() as u64;
                let frame = as_message(limits.encoding, entry.frame.clone());
                socket.start_send_unpin(frame)?;
                unacked.sent();
                limits.stats.sent_bytes.fetch_add(bytes, Relaxed);
                limits.stats.sent.fetch_add(1, Relaxed);
                *unflushed = true;
            }
            if *unflushed && socket.poll_flush_unpin(cx)?.is_ready() {
                *unflushed = false;
            }
            Ok(())
        };
        let written = write();
        if gave_up {
            return Poll::Ready(Ok(None));
        }
        match (socket.poll_next_unpin(cx), written) {
            (Poll::Ready(Some(Ok(frame))), _) => Poll::Ready(Ok(Some(frame))),
            (_, Err(error)) | (Poll::Ready(Some(Err(error))), Ok(())) => Poll::Ready(Err(error)),
            (Poll::Ready(None), Ok(())) => Poll::Ready(Err(Error::ConnectionClosed)),
            (Poll::Pending, Ok(())) => Poll::Pending,
        }
    })
    .await
}

async fn close(socket: &mut Socket) {
    let frame = CloseFrame {
        code: CloseCode::Normal,
        reason: Utf8Bytes::default(),
    };
    let _ = tokio::time::timeout(CLOSE_TIMEOUT, async {
        socket.close(Some(frame)).await?;
        while let Some(frame) = socket.next().await {
            frame?;
        }
        Ok::<(), Error>(())
    })
    .await;
}

/// Notices a hub that has gone without a word. The timer is moved only when it fires, because
/// moving it with every frame would cost more than reading the frame.
struct Silence {
    last: Instant,
    limit: Duration,
    timer: Pin<Box<Sleep>>,
}

impl Silence {
    fn new(limit: Duration) -> Self {
        let last = Instant::now();
        Self {
            last,
            limit,
            timer: Box::pin(sleep_until(last + limit)),
        }
    }

    fn heard(&mut self) {
        self.last = Instant::now();
    }

    /// Returns when nothing was heard for the limit. Cancel safe.
    async fn over(&mut self) {
        loop {
            self.timer.as_mut().await;
            let due = self.last + self.limit;
            if due <= Instant::now() {
                return;
            }
            self.timer.as_mut().reset(due);
        }
    }
}
