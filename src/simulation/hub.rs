//! A hub in the simulation: the real intake, uplink and spool, driven by hand in one thread.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use tokio::sync::{mpsc, watch};

use super::plan::Plan;
use crate::intake::port::{Answers, Arrival, Control};
use crate::intake::{self, Wiring};
use crate::pulse::Pulse;
use crate::reading::Final;
use crate::spool::simulated::{Manner, Spool};
use crate::spool::{self};
use crate::status::board::Board;
use crate::status::presence::Outbox;
use crate::stop::{self, Stopper};
use crate::uplink;
use crate::uplink::simulated::Net;

type Task<T> = Pin<Box<dyn Future<Output = T>>>;

/// Tells whether a task has something to do.
#[derive(Debug)]
struct Flag {
    set: AtomicBool,
    outer: Mutex<Option<Waker>>,
}

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.set.store(true, Relaxed);
        let outer = self.outer.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(waker) = &*outer {
            waker.wake_by_ref();
        }
    }
}

/// A task that is polled by hand, and only when it was woken.
struct ByHand<T> {
    /// `None`: it has ended.
    task: Option<Task<T>>,
    flag: Arc<Flag>,
    waker: Waker,
}

impl<T> ByHand<T> {
    fn new(task: impl Future<Output = T> + 'static) -> Self {
        let flag = Arc::new(Flag {
            set: AtomicBool::new(true),
            outer: Mutex::default(),
        });
        Self {
            task: Some(Box::pin(tokio::task::unconstrained(task))),
            waker: Waker::from(flag.clone()),
            flag,
        }
    }

    /// Whom to wake when the task is woken.
    fn tells(&self, outer: &Waker) {
        let mut known = self
            .flag
            .outer
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if known.as_ref().is_none_or(|known| !known.will_wake(outer)) {
            *known = Some(outer.clone());
        }
    }

    fn is_woken(&self) -> bool {
        self.task.is_some() && self.flag.set.load(Relaxed)
    }

    /// Polls it; returns what it ended with.
    fn works(&mut self) -> Option<T> {
        self.flag.set.store(false, Relaxed);
        let mut cx = Context::from_waker(&self.waker);
        let Poll::Ready(result) = self.task.as_mut()?.as_mut().poll(&mut cx) else {
            return None;
        };
        self.task = None;
        Some(result)
    }
}

/// One run of the hub.
pub(super) struct Hub {
    pub(super) run: u64,
    intake: ByHand<anyhow::Result<()>>,
    uplink: ByHand<()>,
    pub(super) spool: Spool,
    pub(super) spool_events: mpsc::Sender<spool::Event>,
    /// `None`: no more answers will come, or there are no commands.
    pub(super) answers: Option<mpsc::Sender<Final>>,
    pub(super) safe: mpsc::UnboundedReceiver<u64>,
    /// `None`: stopping.
    pub(super) ways_in: Option<(mpsc::Sender<Control>, mpsc::Sender<Arrival>)>,
    pub(super) net: Net,
    pub(super) board: Arc<Board>,
    opened: Arc<AtomicBool>,
    stop: Stopper,
    /// How the intake ended.
    pub(super) ended: Option<Result<(), String>>,
    /// The spool's thread is at work.
    pub(super) busy: bool,
    /// Counts what the spool's thread did, so that an old timeout is known as such.
    pub(super) turn: u64,
    /// The attempt to connect, and how many writes of the connection, that the world has seen.
    pub(super) seen_dial: u64,
    pub(super) writes: usize,
    /// Since when there is a connection.
    pub(super) up_since: Option<u64>,
    /// Since then the live lane has been empty: what had gathered before is through.
    pub(super) caught_up: bool,
}

impl Hub {
    pub(super) fn start(
        run: u64,
        plan: &Plan,
        manner: Manner,
        chance: u64,
        commands: bool,
    ) -> Self {
        /// Small, so that it runs full.
        const ARRIVALS: usize = 16;
        let board = Board::new("h");
        let (stop, uplink_stop) = stop::channel();
        let (control, control_rx) = mpsc::channel(64);
        let (data, data_rx) = mpsc::channel(ARRIVALS);
        let (answers, come) = mpsc::channel(ARRIVALS);
        let (safe_into, safe) = mpsc::unbounded_channel();
        let to_intake = Answers {
            come,
            safe: safe_into,
        };
        let (submit, submissions) = mpsc::channel(2 * usize::from(plan.uplink.inflight) + 1);
        let (news, uplink_events) = mpsc::channel(1_024);
        let (reconnect, given_up) = watch::channel(0);
        let (spool_sender, spool) = Spool::new(&plan.spool, manner);
        let (spool_events, spool_events_rx) = mpsc::channel(64);
        let opened = Arc::new(AtomicBool::new(false));
        let net = Net::default();
        let wiring = Wiring {
            rules: crate::reduce::Rules::default(),
            topics: "t/h".into(),
            settings: plan.lanes,
            control: control_rx,
            data: data_rx,
            answers: commands.then_some(to_intake),
            spool: spool_sender,
            spool_events: spool_events_rx,
            uplink: submit,
            uplink_events,
            reconnect,
            board: board.clone(),
            pulse: Pulse::default(),
        };
        let is_open = opened.clone();
        let intake = intake::run(wiring, move || is_open.store(true, Relaxed));
        let uplink = uplink::simulated::run(
            net.clone(),
            chance,
            uplink::Settings::new(plan.uplink.clone(), "h"),
            submissions,
            Arc::new(Outbox::default()),
            news,
            board.clone(),
            given_up,
            uplink_stop,
        );
        Self {
            run,
            intake: ByHand::new(intake),
            uplink: ByHand::new(uplink),
            spool,
            spool_events,
            answers: commands.then_some(answers),
            safe,
            ways_in: Some((control, data)),
            net,
            board,
            opened,
            stop,
            ended: None,
            busy: false,
            turn: 0,
            seen_dial: 0,
            writes: 0,
            up_since: None,
            caught_up: false,
        }
    }

    /// Whether devices are accepted.
    pub(super) fn is_open(&self) -> bool {
        self.opened.load(Relaxed) && self.ways_in.is_some()
    }

    /// An orderly stop begins. What the devices had is closed.
    pub(super) fn stop(&mut self) {
        self.ways_in = None;
        self.stop.stop();
    }

    /// Whether nothing of it runs any more.
    pub(super) fn is_over(&self) -> bool {
        self.intake.task.is_none() && self.uplink.task.is_none() && self.spool.stopped()
    }

    /// Lets the tasks work until they wait for something.
    pub(super) fn work(&mut self, outer: &Waker) {
        self.intake.tells(outer);
        self.uplink.tells(outer);
        while self.intake.is_woken() || self.uplink.is_woken() {
            if self.intake.is_woken()
                && let Some(result) = self.intake.works()
            {
                self.ended = Some(result.map_err(|error| format!("{error:#}")));
            }
            if self.uplink.is_woken() {
                self.uplink.works();
            }
        }
    }
}
