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

pub mod acks;
mod commands;
mod counted;
pub mod ending;
mod handover;
mod inbound;
pub mod liveness;
mod messages;
mod notes;
mod opening;
mod parting;
pub mod post;
pub mod rate;
mod rates;
pub mod roster;
mod seats;
mod sleepers;
mod unacked;
pub mod wire;

use std::future::poll_fn;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc::OwnedPermit;
use tracing::info;

use self::acks::Acks;
use self::ending::Ending;
use self::handover::{Handover, Stream, Waiting};
use self::liveness::{Action, Liveness};
use self::notes::Notes;
use self::parting::Parting;
use self::rate::Limits;
use self::roster::Present;
use self::unacked::Unacked;
use self::wire::{Incoming, Wire};
use crate::commands::desired::Desired;
use crate::commands::port::{CommandPort, FromSession};
use crate::commands::tray::{self, Tray};
use crate::intake::port::{Arrival, Attached, Control, IntakePort, Mail};
use crate::protocol::message::Hello;
use crate::reading::Encoding;

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
    /// Bytes a second.
    pub max_bytes: u64,
    /// Readings a second.
    pub max_readings: u32,
    /// Batches that may be unsettled.
    pub window: u32,
    /// How long a device may stay at one of its limits without a pause before it is disconnected.
    /// Long, because one that sends its backlog after an outage does no wrong.
    pub rate_patience: Duration,
    /// The way to the commands; `None`: they are off.
    pub commands: Option<CommandPort>,
    /// Desired and reported states, where commands are on.
    pub desired: Option<Arc<Desired>>,
}

impl From<&crate::config::Devices> for Settings {
    fn from(devices: &crate::config::Devices) -> Self {
        Self {
            ping_interval: devices.ping_interval,
            ping_timeout: devices.ping_timeout,
            max_message: devices.max_message,
            max_rate: devices.max_rate,
            max_bytes: devices.max_bytes,
            max_readings: devices.max_readings,
            window: devices.window,
            rate_patience: Duration::from_secs(300),
            commands: None,
            desired: None,
        }
    }
}

impl Settings {
    pub(crate) fn limits(&self) -> Limits {
        Limits {
            messages: self.max_rate,
            bytes: self.max_bytes,
            readings: self.max_readings,
        }
    }
}

struct Session<'a, S> {
    wire: Wire<S>,
    settings: &'a Settings,
    port: &'a IntakePort,
    present: &'a Present,
    encoding: Encoding,
    stream: Stream,
    /// What `hello` said, as far as it holds on.
    hello: Hello,
    /// There was a `hello`.
    greeted: bool,
    notes: Notes,
    /// Where commands come from, if they are on.
    commands: Option<commands::Link>,
    /// A batch that cannot go on yet.
    handover: Option<Handover>,
    /// Room in the intake for the batch in hand.
    room: Option<Waiting<Option<OwnedPermit<Arrival>>>>,
    /// Batches handed over and not settled.
    unsettled: u32,
    acks: Acks,
    unacked: Unacked,
    rejects_in_a_row: u32,
    liveness: Liveness,
    /// Bytes read that were spent.
    bytes_spent: u64,
    /// Reading goes on at this time.
    throttled: Option<Instant>,
    bytes_seen: u64,
    /// When the task woke up. Read once for each event: at thousands of frames a second the
    /// clock would be one of the larger costs.
    now: Instant,
}

/// What the task woke up for.
enum Event {
    Mail(Mail),
    Attached(Option<Attached>),
    Room(Option<OwnedPermit<Arrival>>),
    /// There is something for the device.
    Commands(tray::Waiting),
    /// There is room for what the device said of a command.
    CommandRoom(Option<OwnedPermit<FromSession>>),
    Wire(Option<Incoming>),
    Time,
}

/// Runs a session to its end, and the closing of its connection.
///
/// Ten thousand of these wait at a time, so nothing is part of it twice: what an `async fn` is given
/// it keeps beside what it makes of it, and what only the end needs is on the heap from then on.
#[expect(
    clippy::manual_async_fn,
    reason = "an async fn keeps its arguments twice"
)]
pub fn run<S>(
    wire: Wire<S>,
    settings: &Settings,
    port: IntakePort,
    present: Present,
) -> impl Future<Output = ()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    async move {
        let mut session = Session::new(wire, settings, &port, &present);
        info!(device = %present.device, conn = present.conn, remote = present.remote, "device connected");
        let ending = session.live().await;
        info!(device = %present.device, conn = present.conn, reason = ending.reason(), "device disconnected");
        let attached = !matches!(session.stream, Stream::None);
        let commands = session.commands.take();
        // The rest goes now: a place in the intake's queue must not be held through the closing.
        let parting = session.part();
        Box::pin(part(parting, ending, commands, attached, port, present)).await;
    }
}

/// After its last message: whoever knows of the session hears of its end, and the connection is
/// closed.
async fn part<S: AsyncRead + AsyncWrite + Unpin>(
    parting: Parting<S>,
    ending: Ending,
    commands: Option<commands::Link>,
    attached: bool,
    port: IntakePort,
    present: Present,
) {
    let (device, conn) = (present.device.clone(), present.conn);
    // Before the closing handshake, which may take its time.
    present.leave(ending);
    // The way for batches is closed once the last session has left, not when the last device has
    // hung up: a hub that stops waits for it.
    let IntakePort { control, data } = port;
    drop(data);
    let no_more_commands = async {
        if let Some(commands) = commands {
            commands.end(device, conn).await;
        }
    };
    tokio::join!(no_more_commands, parting.end(ending));
    if attached {
        // An error means that the intake is gone, and with it the stream.
        let _ = control.send(Control::Detach { conn }).await;
    }
}

impl<'a, S: AsyncRead + AsyncWrite + Unpin> Session<'a, S> {
    fn new(
        wire: Wire<S>,
        settings: &'a Settings,
        port: &'a IntakePort,
        present: &'a Present,
    ) -> Self {
        let now = Instant::now();
        let commands = settings
            .commands
            .clone()
            .map(|port| commands::Link::new(port, settings.desired.clone(), now));
        Self {
            wire,
            settings,
            port,
            present,
            encoding: Encoding::Cbor,
            stream: Stream::None,
            hello: Hello::default(),
            greeted: false,
            notes: Notes::default(),
            commands,
            handover: None,
            room: None,
            unsettled: 0,
            acks: Acks::new(settings.window),
            unacked: Unacked::default(),
            rejects_in_a_row: 0,
            liveness: Liveness::new(settings.ping_interval, settings.ping_timeout, now),
            bytes_spent: 0,
            throttled: None,
            bytes_seen: 0,
            now,
        }
    }

    fn part(self) -> Parting<S> {
        Parting {
            wire: self.wire,
            encoding: self.encoding,
            mailbox: self.present.mailbox.clone(),
            board: self.present.board.clone(),
            unsettled: self.unsettled,
            acks: self.acks,
            unacked: self.unacked,
        }
    }

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
            let (tray, command_room) = match &mut self.commands {
                Some(link) => (Some(&*link.tray), link.room.as_mut()),
                None => (None, None),
            };
            let wire = &mut self.wire;
            // In this order: the wire comes before the timer, so that a device is judged only
            // when everything that it sent has been looked at.
            let event = tokio::select! {
                biased;
                mail = self.present.mailbox.take() => Event::Mail(mail),
                attached = or_never(answer) => Event::Attached(attached),
                permit = or_never(room) => Event::Room(permit),
                waiting = for_device(tray) => Event::Commands(waiting),
                permit = or_never(command_room) => Event::CommandRoom(permit),
                incoming = poll_fn(|cx| wire.poll(cx, read)) => Event::Wire(incoming),
                () = &mut timer => Event::Time,
            };
            self.now = Instant::now();
            if let Err(ending) = self.apply(event) {
                return ending;
            }
        }
    }

    /// Whether the next message may be read, and if not, whose fault that is: the hub does not
    /// hold its own against the device's liveness.
    fn may_read(&mut self) -> bool {
        let attaching = matches!(self.stream, Stream::Attaching { .. });
        let untold = self.commands.as_ref().is_some_and(commands::Link::is_full);
        if self.handover.is_some() || attaching || untold || self.throttled.is_some() {
            self.liveness.pause();
            return false;
        }
        self.liveness.resume(self.now);
        // Output that the device does not read is the device's own fault.
        !self.wire.is_blocked()
    }

    fn wake_at(&self) -> Instant {
        let ping = self.liveness.wake_at();
        let quiet = self.commands.as_ref().and_then(|link| link.quiet_until);
        let others = [self.throttled, self.acks.due(), quiet];
        others.into_iter().flatten().fold(ping, Instant::min)
    }

    fn apply(&mut self, event: Event) -> Result<(), Ending> {
        match event {
            Event::Mail(mail) => {
                self.unsettled = self.unsettled.saturating_sub(mail.settled);
                for refused in mail.refused {
                    self.conflict(refused)?;
                }
                let left = self.unsettled;
                self.acks.add(self.now, mail.settled, mail.ack, left);
                if mail.close.is_some() || self.acks.due().is_some_and(|due| due <= self.now) {
                    self.tell_ack()?;
                }
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
            Event::Commands(waiting) => self.deliver(waiting),
            Event::CommandRoom(permit) => {
                if let Some(link) = &mut self.commands {
                    link.has_room(permit);
                }
                Ok(())
            }
            Event::Wire(incoming) => {
                self.note_life();
                match incoming {
                    Some(incoming) => {
                        let is_message = matches!(incoming, Incoming::Message(..));
                        let first = is_message && self.present.spoke();
                        self.incoming(incoming)?;
                        if first {
                            self.present.introduced();
                        }
                    }
                    // Output flows again, or has stopped to.
                    None => self.tell_ack()?,
                }
                // A device that always has something to say keeps the timer from its turn.
                if self.now >= self.wake_at() {
                    self.tick()?;
                }
                Ok(())
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
        if self.throttled.is_some_and(|until| self.now >= until) {
            self.throttled = None;
            self.liveness.resume(self.now);
        }
        if self.acks.due().is_some_and(|due| due <= self.now) {
            self.tell_ack()?;
        }
        let quiet = self.commands.as_ref().and_then(|link| link.quiet_until);
        if quiet.is_some_and(|until| self.now >= until) {
            self.quiet_is_over();
        }
        match self.liveness.tick(self.now) {
            Some(Action::Ping(payload)) => self.wire.ping(payload),
            Some(Action::Evict) => Err(Ending::PingTimeout),
            None => Ok(()),
        }
    }
}

async fn for_device(tray: Option<&Tray>) -> tray::Waiting {
    match tray {
        Some(tray) => tray.take().await,
        None => std::future::pending().await,
    }
}

async fn or_never<T>(future: Option<&mut Waiting<T>>) -> T {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}
