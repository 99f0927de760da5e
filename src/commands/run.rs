//! The room's task: what comes in is told the decider, and what it decides is done.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot, watch};
use tracing::{info, warn};

use super::answer::State;
use super::authority::Authority;
use super::port::{FromSession, Kept, Local, Tray};
use super::{Action, Commands, Event, Incoming, Now, Record, Settings};
use crate::clock;
use crate::pulse::Pulse;
use crate::reading::Reply;
use crate::status::board::Board;
use crate::stop::Stop;

/// Final answers that wait for the intake. While there are more, no results are taken.
const UNDELIVERED: usize = 256;

/// All ends of the room's ways.
#[derive(Debug)]
pub struct Wiring {
    /// What can be set.
    pub settings: Settings,
    /// Closed once the last session has ended, which ends the room.
    pub sessions: mpsc::Receiver<FromSession>,
    /// Messages on the topics of commands.
    pub broker: mpsc::Receiver<Incoming>,
    /// The operator's requests.
    pub local: mpsc::Receiver<Local>,
    /// Which device takes what.
    pub authority: watch::Receiver<Arc<Authority>>,
    /// To the intake.
    pub kept: mpsc::Sender<Kept>,
    /// From the intake: what is safe. At most as many as results are under way.
    pub safe: mpsc::UnboundedReceiver<u64>,
    /// To the uplink, which drops them while there is no broker.
    pub told: mpsc::Sender<Reply>,
    /// Where it is counted.
    pub board: Arc<Board>,
    /// Answers the watchdog.
    pub pulse: Pulse,
    /// Ends everything that waits.
    pub stop: Stop,
}

struct Room {
    commands: Commands,
    trays: HashMap<Arc<str>, (u64, Arc<Tray>)>,
    callers: HashMap<u64, oneshot::Sender<(State, Vec<u8>)>>,
    last_caller: u64,
    undelivered: VecDeque<Kept>,
    told: mpsc::Sender<Reply>,
    board: Arc<Board>,
    out: Vec<Action>,
}

/// Runs until the sessions have ended and all final answers are with the intake.
pub async fn run(wiring: Wiring) {
    let Wiring {
        settings,
        mut sessions,
        mut broker,
        mut local,
        mut authority,
        kept,
        mut safe,
        told,
        board,
        mut pulse,
        mut stop,
    } = wiring;
    let mut room = Room {
        commands: Commands::new(settings, Instant::now()),
        trays: HashMap::new(),
        callers: HashMap::new(),
        last_caller: 0,
        undelivered: VecDeque::new(),
        told,
        board,
        out: Vec::new(),
    };
    room.apply(Event::Allowed(authority.borrow_and_update().clone()));
    let mut stopping = false;
    loop {
        let deadline = room.commands.next_deadline(Instant::now());
        let has_room = room.commands.has_room() && room.undelivered.len() < UNDELIVERED;
        tokio::select! {
            // What ends something comes before what begins something.
            biased;
            () = stop.requested(), if !stopping => {
                stopping = true;
                room.apply(Event::Stop);
            }
            () = pulse.asked() => pulse.answer().await,
            Some(token) = safe.recv() => room.apply(Event::Safe { token }),
            Ok(permit) = kept.reserve(), if !room.undelivered.is_empty() => {
                if let Some(kept) = room.undelivered.pop_front() {
                    permit.send(kept);
                }
            }
            event = sessions.recv(), if has_room => match event {
                Some(event) => room.session(event),
                None => break,
            },
            Ok(()) = authority.changed() => {
                room.apply(Event::Allowed(authority.borrow_and_update().clone()));
            }
            Some(incoming) = broker.recv() => room.apply(Event::Arrived(incoming)),
            Some(request) = local.recv() => room.asked(request),
            () = reached(deadline) => room.apply(Event::Tick),
        }
    }
    // Devices that were connected are gone now, and whatever has not ended ends.
    room.apply(Event::Stop);
    for kept_last in room.undelivered {
        if kept.send(kept_last).await.is_err() {
            return;
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

    fn session(&mut self, event: FromSession) {
        match event {
            FromSession::Online {
                device,
                conn,
                remembers,
                max_message,
                tray,
            } => {
                self.trays.insert(device.clone(), (conn, tray));
                self.apply(Event::Online {
                    device,
                    conn,
                    remembers,
                    max_message,
                });
            }
            FromSession::Offline { device, conn } => {
                if self
                    .trays
                    .get(&device)
                    .is_some_and(|(known, _)| *known == conn)
                {
                    self.trays.remove(&device);
                }
                self.apply(Event::Offline { device, conn });
            }
            FromSession::Result { device, said } => self.apply(Event::Result { device, said }),
        }
    }

    fn asked(&mut self, request: Local) {
        // Those who have hung up since are told the decider, and forgotten.
        let gone = self.callers.iter().filter(|(_, reply)| reply.is_closed());
        for caller in gone.map(|(caller, _)| *caller).collect::<Vec<_>>() {
            self.callers.remove(&caller);
            self.apply(Event::Hung { caller });
        }
        self.last_caller += 1;
        let caller = self.last_caller;
        self.callers.insert(caller, request.reply);
        self.apply(Event::Asked {
            caller,
            device: request.device,
            name: request.name,
            request: request.request,
        });
    }

    fn tray(&self, device: &Arc<str>, conn: u64) -> Option<&Tray> {
        let (known, tray) = self.trays.get(device)?;
        (*known == conn).then_some(tray)
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
            Action::Keep { token, reply } => self.undelivered.push_back(Kept { token, reply }),
            Action::Tell(reply) => {
                if let Err(TrySendError::Full(_) | TrySendError::Closed(_)) =
                    self.told.try_send(reply)
                {
                    self.board.commands.dropped.add(1);
                }
            }
            Action::Respond {
                caller,
                state,
                answer,
            } => {
                if let Some(reply) = self.callers.remove(&caller) {
                    // An error means that nobody waits any more.
                    let _ = reply.send((state, answer));
                }
            }
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
        let outcome = fault.map_or(state.as_str(), |fault| fault.as_str());
        let board = &self.board.commands;
        if *late {
            board.late.add(1);
        } else {
            board.ended.add(outcome, 1);
            if *attempt > 0 {
                board.latency.observe(*took, 1);
            }
        }
        let id = id.as_deref().unwrap_or_default();
        let state = state.as_str();
        let ms = took.as_millis();
        if matches!(fault, Some(super::answer::Fault::Forbidden)) {
            warn!(%device, %name, id, %who, "a command was refused: the device's entry in the registry does not allow it");
        } else {
            info!(%device, %name, id, %who, state, outcome, attempt, late, ms, "command ended");
        }
    }
}
