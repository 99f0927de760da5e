//! One device's life: from the upgraded connection to its end.
//!
//! One task owns everything of a connection. It waits for four things at once: frames from the
//! device, mail from the intake, the moment of the next ping, and room in the intake for the
//! batch it holds in its hand. It never waits for a write.
//!
//! Backpressure: a batch that cannot go on (window full, lanes full, stream not attached yet)
//! stays in hand, and while it does, nothing more is read. What the device sends then stays in
//! its own TCP buffers. A device that keeps to its window is never held up by it, so its pings
//! are answered and its pongs are seen.

pub mod ending;
mod inbound;
pub mod liveness;
pub mod rate;
pub mod roster;
pub mod sequence;
pub mod wire;

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc::{OwnedPermit, error::TrySendError};
use tokio::sync::oneshot;
use tracing::{debug, info};

use self::ending::Ending;
use self::inbound::{Candidate, Inbound};
use self::liveness::{Action, Liveness};
use self::rate::Rate;
use self::roster::Present;
use self::sequence::{Sequence, Verdict};
use self::wire::{Incoming, Wire};
use crate::clock::unix_now;
use crate::intake::port::{Arrival, Attached, Control, IntakePort, Mail};
use crate::protocol;
use crate::protocol::message::{Hello, Reject, RejectCode, ToDevice, Welcome};
use crate::reading::{Batch, Encoding};

/// Rejects in a row after which the hub hangs up: a firmware that gets ten wrong does not learn.
const REJECTS_IN_A_ROW: u32 = 10;

/// What a session needs to know of `[devices]`.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Time between pings.
    pub ping_interval: Duration,
    /// How long after a ping a sign of life is awaited.
    pub ping_timeout: Duration,
    /// Bytes of one message.
    pub max_message: usize,
    /// Messages a second.
    pub max_rate: u32,
    /// Batches that may be unsettled.
    pub window: u32,
    /// How long a device may stay at its `max_rate` without a pause before it is disconnected.
    /// Long, because one that sends its backlog after an outage does no wrong.
    pub rate_patience: Duration,
}

impl From<&crate::config::Devices> for Settings {
    fn from(devices: &crate::config::Devices) -> Self {
        Self {
            ping_interval: devices.ping_interval,
            ping_timeout: devices.ping_timeout,
            max_message: devices.max_message,
            max_rate: devices.max_rate,
            window: devices.window,
            rate_patience: Duration::from_secs(300),
        }
    }
}

type Waiting<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Where the connection's stream of sequence numbers stands.
enum Stream {
    /// Neither `hello` nor data has come.
    None,
    /// The intake has been asked.
    Attaching {
        answer: Waiting<Option<Attached>>,
        /// The device said `hello` and waits for `welcome`.
        greeted: bool,
    },
    /// Batches can be handed over.
    Attached {
        attached: Attached,
        sequence: Sequence,
    },
}

struct Session<'a, S> {
    wire: Wire<S>,
    settings: &'a Settings,
    port: &'a IntakePort,
    present: &'a Present,
    encoding: Encoding,
    stream: Stream,
    /// A batch that cannot go on yet.
    hand: Option<Candidate>,
    /// Whether `hand` was judged by the sequence already.
    judged: bool,
    /// Room in the intake for the batch in hand.
    room: Option<Waiting<Option<OwnedPermit<Arrival>>>>,
    /// Batches handed over and not settled.
    unsettled: u32,
    /// The newest ack that the device has not been told.
    ack: Option<u64>,
    rejects_in_a_row: u32,
    liveness: Liveness,
    rate: Rate,
    /// Reading goes on at this time.
    throttled: Option<Instant>,
    bytes_seen: u64,
}

/// What the task woke up for.
enum Event {
    Mail(Mail),
    Attached(Option<Attached>),
    Room(Option<OwnedPermit<Arrival>>),
    Wire(Option<Incoming>),
    Time,
}

/// Runs a session to its end, and the closing of its connection.
pub async fn run<S>(wire: Wire<S>, settings: &Settings, port: IntakePort, present: Present)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let now = Instant::now();
    let mut session = Session {
        settings,
        port: &port,
        present: &present,
        encoding: Encoding::Cbor,
        stream: Stream::None,
        hand: None,
        judged: false,
        room: None,
        unsettled: 0,
        ack: None,
        rejects_in_a_row: 0,
        liveness: Liveness::new(settings.ping_interval, settings.ping_timeout, now),
        rate: Rate::new(settings.max_rate, now),
        throttled: None,
        bytes_seen: 0,
        wire,
    };
    info!(device = %present.device, conn = present.conn, "device connected");
    let ending = session.live().await;
    info!(device = %present.device, conn = present.conn, reason = ending.reason(), "device disconnected");
    let Session { wire, stream, .. } = session;
    let conn = present.conn;
    // Before the closing handshake, which may take its time.
    present.leave(ending);
    if !matches!(stream, Stream::None) {
        // An error means that the intake is gone, and with it the stream.
        let _ = port.control.send(Control::Detach { conn }).await;
    }
    wire.close(ending.close()).await;
}

impl<S: AsyncRead + AsyncWrite + Unpin> Session<'_, S> {
    async fn live(&mut self) -> Ending {
        let timer = tokio::time::sleep_until(self.wake_at().into());
        tokio::pin!(timer);
        loop {
            let read = self.may_read();
            if timer.deadline() != self.wake_at().into() {
                timer.as_mut().reset(self.wake_at().into());
            }
            let (answer, room) = (
                match &mut self.stream {
                    Stream::Attaching { answer, .. } => Some(answer),
                    _ => None,
                },
                self.room.as_mut(),
            );
            let wire = &mut self.wire;
            // In this order: the wire comes before the timer, so that a device is judged only
            // when everything that it sent has been looked at.
            let event = tokio::select! {
                biased;
                mail = self.present.mailbox.take() => Event::Mail(mail),
                attached = or_never(answer) => Event::Attached(attached),
                permit = or_never(room) => Event::Room(permit),
                incoming = poll_fn(|cx| wire.poll(cx, read)) => Event::Wire(incoming),
                () = &mut timer => Event::Time,
            };
            if let Err(ending) = self.apply(event) {
                return ending;
            }
        }
    }

    /// Whether the next message may be read, and if not, whose fault that is: the hub does not
    /// hold its own against the device's liveness.
    fn may_read(&mut self) -> bool {
        let attaching = matches!(self.stream, Stream::Attaching { .. });
        if self.hand.is_some() || attaching || self.throttled.is_some() {
            self.liveness.pause();
            return false;
        }
        self.liveness.resume(Instant::now());
        // Output that the device does not read is the device's own fault.
        !self.wire.is_blocked()
    }

    fn wake_at(&self) -> Instant {
        let ping = self.liveness.wake_at();
        self.throttled.map_or(ping, |until| until.min(ping))
    }

    fn apply(&mut self, event: Event) -> Result<(), Ending> {
        match event {
            Event::Mail(mail) => {
                self.unsettled = self.unsettled.saturating_sub(mail.settled);
                self.ack = self.ack.max(mail.ack);
                self.tell_ack()?;
                if let Some(close) = mail.close {
                    return Err(close.into());
                }
                self.hand_over()
            }
            Event::Attached(attached) => self.attached(attached.ok_or(Ending::Stopping)?),
            Event::Room(permit) => {
                self.room = None;
                let permit = permit.ok_or(Ending::Stopping)?;
                if let Some(arrival) = self.arrival() {
                    permit.send(arrival);
                }
                Ok(())
            }
            Event::Wire(incoming) => {
                self.note_life();
                match incoming {
                    Some(incoming) => self.incoming(incoming),
                    // Output flows again, or has stopped to.
                    None => self.tell_ack(),
                }
            }
            Event::Time => self.tick(),
        }
    }

    fn note_life(&mut self) {
        let bytes = self.wire.bytes_read();
        if bytes != self.bytes_seen {
            self.bytes_seen = bytes;
            self.liveness.seen();
        }
    }

    fn tick(&mut self) -> Result<(), Ending> {
        self.note_life();
        let now = Instant::now();
        if self.throttled.is_some_and(|until| now >= until) {
            self.throttled = None;
            self.liveness.resume(now);
        }
        match self.liveness.tick(now) {
            Some(Action::Ping(payload)) => self.wire.ping(payload),
            Some(Action::Evict) => Err(Ending::PingTimeout),
            None => Ok(()),
        }
    }

    fn incoming(&mut self, incoming: Incoming) -> Result<(), Ending> {
        match incoming {
            Incoming::End(ending) => Err(ending),
            Incoming::Pong(payload) => {
                self.present.board.seen(unix_now());
                if let Some(rtt) = self.liveness.pong(&payload, Instant::now()) {
                    self.present.board.rtt(rtt);
                }
                Ok(())
            }
            Incoming::Ping => {
                self.present.board.seen(unix_now());
                self.spend()
            }
            Incoming::Message(encoding, frame) => {
                let received = unix_now();
                self.present.board.seen(received);
                self.spend()?;
                self.encoding = encoding;
                match inbound::read(encoding, &frame, received) {
                    Ok(inbound) => self.message(inbound),
                    Err(reject) => self.reject(reject),
                }
            }
        }
    }

    /// Counts a message against the rate.
    fn spend(&mut self) -> Result<(), Ending> {
        let now = Instant::now();
        self.throttled = self.rate.spend(now);
        if self.rate.throttled_for(now) > self.settings.rate_patience {
            return Err(Ending::RateExceeded);
        }
        Ok(())
    }

    fn message(&mut self, inbound: Inbound) -> Result<(), Ending> {
        match inbound {
            Inbound::Hello(hello) if matches!(self.stream, Stream::None) => {
                self.rejects_in_a_row = 0;
                self.hello(hello);
                Ok(())
            }
            Inbound::Hello(_) => self.reject(Reject {
                seq: None,
                code: RejectCode::Malformed,
                detail: "hello must be the first message of a connection".to_owned(),
            }),
            Inbound::Data(candidate) => {
                self.hand = Some(candidate);
                self.judged = false;
                if matches!(self.stream, Stream::None) {
                    self.attach(None);
                }
                self.hand_over()
            }
            Inbound::Result(result) => {
                self.rejects_in_a_row = 0;
                debug!(device = %self.present.device, command = result.id, "result of no known command");
                Ok(())
            }
        }
    }

    fn hello(&mut self, hello: Hello) {
        self.present.describe(hello.model, hello.firmware);
        self.attach(Some(hello.stream));
    }

    fn attach(&mut self, stream: Option<String>) {
        let greeted = stream.is_some();
        let control = self.port.control.clone();
        let (reply, answer) = oneshot::channel();
        let attach = Control::Attach {
            conn: self.present.conn,
            device: self.present.device.clone(),
            stream: stream.map(Into::into),
            mailbox: self.present.mailbox.clone(),
            reply,
        };
        let answer = Box::pin(async move {
            control.send(attach).await.ok()?;
            answer.await.ok()
        });
        self.stream = Stream::Attaching { answer, greeted };
    }

    fn attached(&mut self, attached: Attached) -> Result<(), Ending> {
        let board = &self.present.board;
        board.stream(attached.name.clone());
        board.seq.set(attached.taken);
        let greeted = matches!(self.stream, Stream::Attaching { greeted: true, .. });
        let welcome = greeted.then(|| Welcome {
            stream: attached.name.to_string(),
            seq: attached.safe,
            time: unix_now(),
            ping_interval: self.settings.ping_interval.as_secs_f64(),
            max_message: self.settings.max_message as u64,
            window: self.settings.window,
        });
        self.stream = Stream::Attached {
            sequence: Sequence::new(attached.taken),
            attached,
        };
        if let Some(welcome) = welcome {
            self.send(&ToDevice::Welcome(welcome))?;
        }
        self.hand_over()
    }

    /// Moves the batch in hand on, as far as it can go now.
    fn hand_over(&mut self) -> Result<(), Ending> {
        let Stream::Attached { sequence, .. } = &mut self.stream else {
            return Ok(());
        };
        let Some(batch) = &self.hand else {
            return Ok(());
        };
        if !self.judged {
            self.judged = true;
            let before = sequence.highest();
            match batch.seq.map(|seq| (seq, sequence.judge(seq))) {
                Some((seq, Verdict::Backwards)) => {
                    self.hand = None;
                    return self.reject(Reject {
                        seq: Some(seq),
                        code: RejectCode::BadSeq,
                        detail: format!(
                            "{seq} was skipped on the way to {before} and cannot come later"
                        ),
                    });
                }
                Some((_, Verdict::Resend)) => {}
                Some((seq, Verdict::New)) => {
                    self.present.board.seq.set(seq);
                    self.count(batch.readings);
                }
                None => self.count(batch.readings),
            }
            self.rejects_in_a_row = 0;
        }
        if self.unsettled >= self.settings.window || self.room.is_some() {
            return Ok(());
        }
        match self.port.data.clone().try_reserve_owned() {
            Ok(permit) => {
                if let Some(arrival) = self.arrival() {
                    permit.send(arrival);
                }
                Ok(())
            }
            Err(TrySendError::Full(data)) => {
                self.room = Some(Box::pin(async move { data.reserve_owned().await.ok() }));
                Ok(())
            }
            Err(TrySendError::Closed(_)) => Err(Ending::Stopping),
        }
    }

    fn count(&self, readings: u32) {
        self.present.board.batches.add(1);
        self.present.board.readings.add(u64::from(readings));
    }

    /// The batch in hand, on its way: from here on it counts against the window.
    fn arrival(&mut self) -> Option<Arrival> {
        let Stream::Attached { attached, .. } = &self.stream else {
            return None;
        };
        let candidate = self.hand.take()?;
        self.unsettled += 1;
        Some(Arrival {
            conn: self.present.conn,
            stream: attached.stream,
            batch: Batch {
                device: self.present.device.clone(),
                stream: attached.name.clone(),
                seq: candidate.seq,
                received: candidate.received,
                readings: candidate.readings,
                encoding: candidate.encoding,
                frame: candidate.frame,
            },
        })
    }

    /// Tells the newest ack. While output is blocked acks wait and merge.
    fn tell_ack(&mut self) -> Result<(), Ending> {
        if self.wire.is_blocked() {
            return Ok(());
        }
        match self.ack.take() {
            Some(seq) => self.send(&ToDevice::Ack { seq }),
            None => Ok(()),
        }
    }

    fn reject(&mut self, reject: Reject) -> Result<(), Ending> {
        self.present.board.rejected.add(1);
        self.rejects_in_a_row += 1;
        debug!(device = %self.present.device, code = reject.code.as_str(), "message rejected");
        self.send(&ToDevice::Reject(reject))?;
        if self.rejects_in_a_row >= REJECTS_IN_A_ROW {
            return Err(Ending::TooManyRejects);
        }
        Ok(())
    }

    fn send(&mut self, message: &ToDevice) -> Result<(), Ending> {
        let bytes = protocol::encode(self.encoding, message);
        self.wire.message(self.encoding, bytes)
    }
}

async fn or_never<T>(future: Option<&mut Waiting<T>>) -> T {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}
