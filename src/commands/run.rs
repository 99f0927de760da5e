//! The room's task: what comes in is told the decider, and what it decides is done.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tracing::{info, warn};

use super::answer::{Fault, State};
use super::authority::Authority;
use super::desired::Desired;
use super::local::{Asking, Callers, Told};
use super::port::{FromSession, News};
use super::tray::Tray;
use super::{Action, Commands, Event, Incoming, Now, Record, Said, Settings};
use crate::clock;
use crate::pulse::Pulse;
use crate::reading::{Final, Reply};
use crate::status::board::Board;
use crate::status::commands::CommandEnd;
use crate::stop::Stop;

/// How long the stop waits for the intake to take the last answers.
const LAST_ANSWERS: Duration = Duration::from_secs(2);

/// All ends of the room's ways.
#[derive(Debug)]
pub struct Wiring {
    /// What can be set.
    pub settings: Settings,
    /// Closed once the last session has ended, which ends the room.
    pub sessions: mpsc::Receiver<FromSession>,
    /// Messages on the topics of commands.
    pub broker: mpsc::Receiver<Incoming>,
    /// Requests of the operator; nobody is at its other end where he may not send commands.
    pub asked: mpsc::Receiver<Asking>,
    /// Desired and reported states, which are told who may have them.
    pub desired: Arc<Desired>,
    /// Which device takes what.
    pub authority: watch::Receiver<Arc<Authority>>,
    /// To the uplink: what is told if that is possible now.
    pub replies: mpsc::Sender<Reply>,
    /// To the intake: what has to be made safe.
    pub finals: mpsc::Sender<Final>,
    /// From the intake: what is safe, by its token.
    pub safe: mpsc::UnboundedReceiver<u64>,
    /// From the uplink.
    pub news: mpsc::UnboundedReceiver<News>,
    /// Where it is counted.
    pub board: Arc<Board>,
    /// Answers the watchdog.
    pub pulse: Pulse,
    /// Ends everything that waits.
    pub stop: Stop,
}

/// Where a device is.
struct Place {
    conn: u64,
    tray: Arc<Tray>,
    /// The log has heard of a result that was passed over.
    complained: bool,
}

struct Room {
    commands: Commands,
    places: HashMap<Arc<str>, Place>,
    callers: Callers,
    /// Final answers that the intake has not taken yet.
    finals: VecDeque<Final>,
    /// The broker is there.
    is_up: bool,
    replies: mpsc::Sender<Reply>,
    board: Arc<Board>,
    out: Vec<Action>,
    desired: Arc<Desired>,
}

/// Runs until the sessions have ended and the intake has taken the last answers.
pub async fn run(wiring: Wiring) {
    let Wiring {
        settings,
        mut sessions,
        mut broker,
        mut asked,
        desired,
        mut authority,
        replies,
        finals,
        mut safe,
        mut news,
        board,
        mut pulse,
        mut stop,
    } = wiring;
    let mut room = Room {
        commands: Commands::new(settings, Instant::now()),
        places: HashMap::new(),
        callers: Callers::default(),
        finals: VecDeque::new(),
        is_up: false,
        replies,
        board,
        out: Vec::new(),
        desired,
    };
    room.allow(authority.borrow_and_update().clone());
    let mut stopping = false;
    let mut sessions_left = true;
    let mut patience = None;
    while sessions_left || !room.finals.is_empty() {
        let deadline = room.commands.next_deadline(Instant::now());
        tokio::select! {
            // What ends something comes before what begins something.
            biased;
            () = stop.requested(), if !stopping => {
                stopping = true;
                room.apply(Event::Stop);
            }
            () = pulse.asked() => pulse.answer().await,
            Some(news) = news.recv() => room.is_up = news == News::Up,
            Some(token) = safe.recv() => room.apply(Event::Safe { token }),
            Ok(permit) = finals.reserve(), if !room.finals.is_empty() => {
                if let Some(answer) = room.finals.pop_front() {
                    permit.send(answer);
                }
            }
            event = sessions.recv(), if sessions_left => match event {
                Some(event) => room.session(event),
                None => {
                    sessions_left = false;
                    room.apply(Event::Stop);
                    patience = Some(Instant::now() + LAST_ANSWERS);
                }
            },
            Ok(()) = authority.changed() => {
                room.allow(authority.borrow_and_update().clone());
            }
            Some(asking) = asked.recv() => room.ask(asking),
            Some(incoming) = broker.recv() => room.apply(Event::Arrived(incoming)),
            () = reached(deadline) => room.apply(Event::Tick),
            () = reached(patience) => break,
        }
    }
}

async fn reached(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}

impl Room {
    fn apply(&mut self, event: Event) {
        let now = Now {
            mono: Instant::now(),
            moment: clock::now(),
        };
        self.commands.apply(now, event, &mut self.out);
        for action in std::mem::take(&mut self.out) {
            self.act(action);
        }
        let (waiting, flying) = self.commands.open();
        let board = &self.board.commands;
        board.waiting.set(waiting as u64);
        board.under_way.set(flying as u64);
        let counts = self.commands.counts();
        board.received.set(counts.received);
        board.sent.set(counts.sent);
        board.unanswerable.set(counts.unanswerable);
        board.untold.set(counts.untold + board.dropped.get());
        board.stray.set(counts.stray);
    }

    /// The registry was read.
    fn allow(&mut self, authority: Arc<Authority>) {
        self.desired.allow(authority.desired().clone());
        self.apply(Event::Allowed(authority));
    }

    /// A request of the operator. Those who have hung up are looked for here and nowhere else: they
    /// take up room that only the next one can miss.
    fn ask(&mut self, asking: Asking) {
        for caller in self.callers.take_gone() {
            self.apply(Event::Hung { caller });
        }
        let Asking {
            device,
            name,
            request,
            end,
        } = asking;
        let caller = self.callers.enter(end);
        self.apply(Event::Asked {
            caller,
            device,
            name,
            request,
        });
    }

    fn session(&mut self, event: FromSession) {
        match event {
            FromSession::Online {
                device,
                conn,
                remembers,
                max_message,
                tray,
            } => {
                let place = Place {
                    conn,
                    tray,
                    complained: false,
                };
                self.places.insert(device.clone(), place);
                self.apply(Event::Online {
                    device,
                    conn,
                    remembers,
                    max_message,
                });
            }
            FromSession::Offline { device, conn } => {
                if self
                    .places
                    .get(&device)
                    .is_some_and(|place| place.conn == conn)
                {
                    self.places.remove(&device);
                }
                self.apply(Event::Offline { device, conn });
            }
            FromSession::Result { device, said } => self.result(device, said),
        }
    }

    /// The log hears once a connection that there was an answer which nobody waits for; a device that
    /// says its results again after a reconnect does no wrong.
    fn result(&mut self, device: Arc<str>, said: Said) {
        let before = self.commands.counts().stray;
        self.apply(Event::Result {
            device: device.clone(),
            said,
        });
        let passed_over = self.commands.counts().stray > before;
        if let Some(place) = self.places.get_mut(&device)
            && passed_over
            && !std::mem::replace(&mut place.complained, true)
        {
            info!(%device, "a result is passed over: it was said before, or answers nothing that can be told to anybody");
        }
    }

    fn tray(&self, device: &Arc<str>, conn: u64) -> Option<&Tray> {
        let place = self.places.get(device)?;
        (place.conn == conn).then_some(&*place.tray)
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Send {
                device,
                conn,
                order,
            } => {
                if let Some(tray) = self.tray(&device, conn) {
                    tray.order(order);
                }
            }
            Action::Ack { device, conn, id } => {
                if let Some(tray) = self.tray(&device, conn) {
                    tray.ack(id);
                }
            }
            Action::Keep { token, reply } => self.finals.push_back(Final { token, reply }),
            Action::Tell(reply) => {
                if !self.is_up || self.replies.try_send(reply).is_err() {
                    self.board.commands.dropped.add(1);
                }
            }
            Action::Respond {
                caller,
                state,
                answer,
            } => self.callers.tell(caller, Told { state, answer }),
            Action::Ended(record) => self.ended(&record),
        }
    }

    /// The audit: what was asked of whom, by whom, and what became of it. Never arguments or
    /// values, which may be secrets.
    fn ended(&self, record: &Record) {
        let Record {
            device,
            name,
            id,
            who,
            state,
            fault,
            attempt,
            took,
            late,
        } = record;
        let outcome = match (state, fault) {
            (State::Refused, Some(fault)) => fault.as_str(),
            (state, _) => state.as_str(),
        };
        let board = &self.board.commands;
        if *late {
            board.late.add(1);
        } else {
            board.ended.add(outcome, 1);
            if *attempt > 0 {
                board.latency.observe(*took, 1);
            }
        }
        if let Some(board) = self.board.devices.get(device) {
            board.commands.ended(CommandEnd {
                time: clock::uptime(),
                id: id.clone(),
                name: name.clone(),
                who: who.clone(),
                state: state.as_str(),
                outcome,
                attempt: *attempt,
                took: *took,
                late: *late,
            });
        }
        let id = id.as_deref().unwrap_or_default();
        let why = fault.map_or("", Fault::as_str);
        let ms = took.as_millis();
        if *fault == Some(Fault::Forbidden) {
            warn!(%device, %name, id, %who, outcome, "a command was refused: the device's entry in the registry does not allow it");
        } else {
            info!(%device, %name, id, %who, outcome, why, attempt, late, ms, "command ended");
        }
    }
}
