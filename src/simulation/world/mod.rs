//! One history: the hub, its devices, its disk and its broker, in simulated time. Whatever takes
//! time is an event in one queue; between two events the hub works until it waits.

pub(super) mod broker;
pub(super) mod commands;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashSet, VecDeque};
use std::path::Path;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::device::{Conn, Device, frame};
use super::hub::Hub;
use super::plan::{Fault, Plan, SPOOL};
use super::trace::{Note, Trace, Uid};
use super::truth::shares::Lost;
use super::truth::{Broken, Truth};
use super::{Mutation, Outcome, Stats};
use crate::clock::{self, Sample};
use crate::intake::port::{Arrival, Close, Control};
use crate::reading::{Batch, Content, Encoding, Item};
use crate::spool::simulated::chance::Chance;
use crate::spool::simulated::disk::{Disk, Mood};
use crate::spool::simulated::medium::{install, with_disk};
use crate::spool::simulated::{Manner, take_synced};
use crate::spool::{Command, Event};
use crate::status::spool::SpoolState;
use broker::Broker;
use commands::Desk;

/// Unix seconds at the beginning.
const BEGIN: f64 = 1.8e9;

/// What the broker refuses is drawn apart, so that older seeds keep the rest of their histories.
const REFUSALS: u64 = 0x7265_6675_7361_6c73;

/// And so are commands.
const COMMANDS: u64 = 0x636f_6d6d_616e_6473;

/// The world is well again and devices are quiet: everything has to be out after this long. A
/// payload that kills the connection takes seven connects with growing pauses until it is found.
const PATIENCE: u64 = 900_000;

/// What is refused for ever has had its end by age after this long, but for what has no age that
/// can be trusted.
const FOR_EVER: u64 = 200_000;

/// A spool that could not be opened, or read, is tried again every 5 s.
pub(super) const SETTLING: u64 = 6_000;

/// An orderly stop takes no longer; the hub would be killed.
const STOP: u64 = 10_000;

/// What may happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Ev {
    Start,
    Fault(usize),
    /// Everything that was bad for a while may be well again.
    Better,
    Healed,
    Quiet,
    /// Whether everything is out, and what is overdue.
    Look,
    Sends(usize),
    Connects(usize),
    Welcome(usize, u64, u64),
    Arrives(usize, u64),
    Mail(usize, u64, Option<u64>, bool),
    SpoolWorks(u64),
    SpoolTells(u64),
    SpoolWaits(u64, u64),
    /// The crash that was to come in the middle of something.
    CrashNow(u64),
    StopIsOver(u64),
    Answer(u64, u64),
    Write(u64, u64),
    Process(u64, u64),
    Puback(u64, u64),
    Suback(u64, u64, u16),
    /// NTP has answered.
    ClockRight,
    /// Somebody has a command for a device.
    Asks,
    CommandTick(u64),
    /// A command reaches a device, by its connection.
    Order(usize, u64, usize),
    /// A device, in its present life, has carried a command out.
    Carried(usize, u64, usize),
    /// A result reaches the hub.
    Result(usize, u64, usize),
    /// Its ack reaches the device.
    ResultAck(usize, u64, usize),
}

pub(super) struct World {
    pub(super) plan: Plan,
    pub(super) mutation: Option<Mutation>,
    pub(super) chance: Chance,
    begin: Instant,
    queue: BinaryHeap<Reverse<(u64, u64, Ev)>>,
    queued: u64,
    pub(super) hub: Option<Hub>,
    pub(super) runs: u64,
    pub(super) devices: Vec<Device>,
    conns: u64,
    pub(super) broker: Broker,
    /// `None`: no commands.
    pub(super) desk: Option<Desk>,
    pub(super) truth: Truth,
    pub(super) trace: Trace,
    pub(super) stats: Stats,
    pub(super) clock_offset: f64,
    /// Whether the kernel calls it right.
    pub(super) clock_right: bool,
    /// When the machine started, and how often it has.
    booted: u64,
    boots: u64,
    pub(super) mood_until: u64,
    pub(super) full_until: u64,
    /// The next command to the disk takes so much longer.
    pub(super) stall: u64,
    command: Option<Command>,
    told: VecDeque<Event>,
    /// How the process ends once the disk has stopped.
    pub(super) crash: Option<bool>,
    pub(super) poisoned: HashSet<Uid>,
    pub(super) poison_next: HashSet<usize>,
    /// Since when nothing was wrong: for P5.
    pub(super) calm_since: u64,
    due: Vec<(u64, Uid)>,
    quiet: bool,
    healed: bool,
    /// Until some time after the last publish.
    pub(super) busy_until: u64,
    /// Everything was out at this time, and the hub was stopped in order.
    drained: bool,
    finished: bool,
    restart: bool,
}

impl World {
    pub(super) fn new(seed: u64, mutation: Option<Mutation>) -> Self {
        let mut chance = Chance::new(seed);
        let mut plan = Plan::new(&mut chance);
        plan.add_refusals(&mut Chance::new(seed ^ REFUSALS));
        if mutation == Some(Mutation::BacklogFirst) {
            plan.lanes.in_order = true;
        }
        let mut disk = Disk::new(chance.split());
        disk.capacity = plan.capacity;
        disk.strict = plan.strict_entries;
        disk.omit.dir_sync = mutation == Some(Mutation::NoDirSync);
        install(Some(disk));
        let service = plan.service;
        let mut world = Self {
            mutation,
            chance,
            begin: Instant::now(),
            queue: BinaryHeap::new(),
            queued: 0,
            hub: None,
            runs: 0,
            devices: Vec::new(),
            conns: 0,
            broker: Broker::new(service),
            desk: Desk::new(Chance::new(seed ^ COMMANDS), plan.intervals.len()),
            truth: Truth::default(),
            trace: Trace::default(),
            stats: Stats::default(),
            clock_offset: 0.0,
            clock_right: true,
            booted: 0,
            boots: 0,
            mood_until: 0,
            full_until: 0,
            stall: 0,
            command: None,
            told: VecDeque::new(),
            crash: None,
            poisoned: HashSet::new(),
            poison_next: HashSet::new(),
            calm_since: 0,
            due: Vec::new(),
            quiet: false,
            healed: false,
            busy_until: 0,
            drained: false,
            finished: false,
            restart: false,
            plan,
        };
        world.truth.fair = world.plan.unequal;
        world.truth.answers.may_expire = world.plan.lanes.max_age < Duration::from_secs(3_600);
        world.set_clock();
        clock::simulated::begin(0);
        for n in 0..world.plan.intervals.len() {
            let device = Device {
                name: format!("d{n}").into(),
                boots: 0,
                stream_name: "".into(),
                stream: 0,
                last_seq: 0,
                kept: VecDeque::new(),
                conn: None,
            };
            world.devices.push(device);
            world.reset_device(n);
            world.at(100 * n as u64, Ev::Sends(n));
            world.at(50 + n as u64, Ev::Connects(n));
        }
        for (index, (at, _)) in world.plan.faults.clone().into_iter().enumerate() {
            world.push(at, Ev::Fault(index));
        }
        world.at(0, Ev::Start);
        world.push(world.plan.healed, Ev::Healed);
        world.push(world.plan.quiet, Ev::Quiet);
        world.at(1_000, Ev::Look);
        if world.desk.is_some() {
            world.at(1_500, Ev::Asks);
        }
        world
    }

    /// ms since the beginning.
    pub(super) fn now(&self) -> u64 {
        self.begin.elapsed().as_millis() as u64
    }

    fn push(&mut self, at: u64, event: Ev) {
        self.queued += 1;
        self.queue.push(Reverse((at, self.queued, event)));
    }

    /// In so many ms.
    pub(super) fn at(&mut self, ms: u64, event: Ev) {
        self.push(self.now() + ms, event);
    }

    /// In about so many ms.
    pub(super) fn about(&mut self, ms: u64, event: Ev) {
        let ms = self.chance.range(ms / 2, ms + ms / 2 + 2);
        self.at(ms, event);
    }

    pub(super) fn note(&mut self, note: Note) {
        self.trace.note(self.now(), note);
    }

    fn set_clock(&self) {
        clock::simulated::set(Some(Sample {
            wall: BEGIN + self.now() as f64 / 1000.0 + self.clock_offset,
            uptime: 10.0 + (self.now() - self.booted) as f64 / 1000.0,
            flag: Some(self.clock_right),
            vouched: false,
        }));
    }

    /// Lives through all of it.
    pub(super) async fn live(&mut self) -> Result<(), Broken> {
        while !self.finished {
            let Some(Reverse((at, _, _))) = self.queue.peek() else {
                return Err("nothing is left to happen".into());
            };
            let at = *at;
            if at > self.now() || self.hub.is_some() {
                self.wait(at).await?;
            }
            if self.queue.peek().is_some_and(|next| next.0.0 <= self.now())
                && let Some(Reverse((_, _, event))) = self.queue.pop()
            {
                self.set_clock();
                self.happens(event)?;
            }
        }
        self.truth.verdict()
    }

    /// Until this time, or until the hub has something for the world.
    async fn wait(&mut self, at: u64) -> Result<(), Broken> {
        let mut sleep = std::pin::pin!(tokio::time::sleep_until(
            self.begin + Duration::from_millis(at)
        ));
        std::future::poll_fn(|cx| {
            self.set_clock();
            if let Some(hub) = &mut self.hub {
                hub.work(cx.waker());
                match self.collect() {
                    Ok(true) => return Poll::Ready(Ok(())),
                    Ok(false) => {}
                    Err(broken) => return Poll::Ready(Err(broken)),
                }
            }
            sleep.as_mut().poll(cx).map(Ok)
        })
        .await
    }

    /// Takes what the hub has for the world. Returns whether there was anything.
    fn collect(&mut self) -> Result<bool, Broken> {
        let mut any = self.collect_from_uplink();
        any |= self.collect_for_disk()?;
        any |= self.collect_mail()?;
        any |= self.collect_answers();
        let Some(hub) = &mut self.hub else {
            return Ok(any);
        };
        hub.caught_up |= hub.board.live_batches.get() == 0;
        // Batches go past a disk that does not answer in time.
        self.truth.disturbed.order |= hub.board.spool.state().0 == SpoolState::Failed;
        if let Some(ended) = &hub.ended
            && hub.ways_in.is_some()
        {
            return Err(format!("the intake ended by itself: {ended:?}"));
        }
        if hub.is_over() {
            let hub = self.hub.take().expect("looked at above");
            let well = hub.ended == Some(Ok(()));
            if !well && self.drained {
                return Err(format!(
                    "an idle hub does not stop in order: {:?}",
                    hub.ended
                ));
            }
            self.stopped(well);
            any = true;
        }
        Ok(any)
    }

    fn collect_for_disk(&mut self) -> Result<bool, Broken> {
        let Some(hub) = self.hub.as_mut().filter(|hub| !hub.busy) else {
            return Ok(false);
        };
        let Some(command) = hub.spool.next() else {
            return Ok(false);
        };
        hub.busy = true;
        hub.turn += 1;
        let run = hub.run;
        let note = match &command {
            Command::Commit { items, .. } => {
                self.stats.commits += 1;
                let bytes = items.iter().map(|item| item.weight()).sum();
                Note::Commit(items.len(), bytes)
            }
            Command::Load { after, .. } => Note::Load(after.map_or(0, |id| id.0)),
            Command::Delete { groups } => {
                for group in groups {
                    self.truth.deletes(group.0)?;
                }
                Note::Delete(groups.len())
            }
            Command::Unwanted { .. } => Note::OtherSpoolCommand,
            Command::Stop { .. } => Note::StopSpool,
        };
        self.note(note);
        self.command = Some(command);
        let stall = std::mem::take(&mut self.stall);
        let takes = self.chance.pick(&[1, 5, 30, 200]) + stall;
        self.at(takes, Ev::SpoolWorks(run));
        Ok(true)
    }

    fn collect_mail(&mut self) -> Result<bool, Broken> {
        let mut any = false;
        for n in 0..self.devices.len() {
            let stream = self.devices[n].stream;
            let Some(conn) = &mut self.devices[n].conn else {
                continue;
            };
            let id = conn.id;
            if let Some(reply) = &mut conn.reply
                && let Ok(attached) = reply.try_recv()
            {
                conn.reply = None;
                conn.attached = Some(attached.stream);
                self.truth.resumes(stream, attached.safe)?;
                self.truth.told_safe(stream, attached.safe)?;
                self.note(Note::Welcome(n, id, attached.safe));
                self.about(10, Ev::Welcome(n, id, attached.safe));
                self.device_comes(n, id);
                any = true;
                continue;
            }
            let mail = conn.mailbox.try_take();
            if let Some(refused) = mail.refused.first() {
                return Err(format!(
                    "device {n} counts rightly, and {} was refused: {refused:?}",
                    refused.seq
                ));
            }
            if mail.ack.is_some() || mail.close.is_some() {
                if let Some(ack) = mail.ack {
                    self.truth.told_safe(stream, ack)?;
                    self.note(Note::Ack(n, id, ack));
                }
                let refused = mail.close == Some(Close::Refused);
                self.about(10, Ev::Mail(n, id, mail.ack, refused));
                any = true;
            }
        }
        Ok(any)
    }

    fn happens(&mut self, event: Ev) -> Result<(), Broken> {
        match event {
            Ev::Start => self.start(),
            Ev::Fault(index) => self.fault(self.plan.faults[index].1),
            Ev::Better => self.better(),
            Ev::Healed => {
                self.note(Note::Healed);
                self.healed = true;
                self.disturbs(0);
                self.broker.service = self.plan.service_in_the_end;
                self.stall = 0;
                self.better();
            }
            Ev::Quiet => {
                self.note(Note::Quiet);
                self.quiet = true;
            }
            Ev::Look => self.look()?,
            Ev::Sends(n) => {
                if !self.quiet {
                    self.make(n);
                    self.about(self.plan.intervals[n], Ev::Sends(n));
                }
            }
            Ev::Connects(n) => self.connects(n),
            Ev::Welcome(n, conn, seq) => {
                if let Some(open) = self.conn(n, conn) {
                    open.welcomed = true;
                    self.devices[n].hears(seq);
                    self.pump(n);
                    self.says_results(n, conn);
                }
            }
            Ev::Asks => self.asks(self.quiet),
            Ev::CommandTick(run) => {
                if run == self.runs && self.hub.is_some() {
                    self.command_tick();
                }
            }
            Ev::Order(n, conn, which) => self.order_comes(n, conn, which),
            Ev::Carried(n, life, which) => self.carried_out(n, life, which),
            Ev::Result(n, conn, which) => self.result_comes(n, conn, which),
            Ev::ResultAck(n, conn, which) => self.result_is_safe(n, conn, which),
            Ev::Arrives(n, conn) => self.arrives(n, conn)?,
            Ev::Mail(n, conn, ack, refused) => {
                if self.conn(n, conn).is_some() {
                    if let Some(ack) = ack {
                        self.devices[n].hears(ack);
                        self.pump(n);
                    }
                    if refused {
                        self.stats.refused += 1;
                        self.close(n);
                        self.about(2_000, Ev::Connects(n));
                    }
                }
            }
            Ev::SpoolWorks(run) => self.spool_works(run),
            Ev::SpoolTells(run) => self.spool_tells(run),
            Ev::SpoolWaits(run, turn) => {
                let waits = |hub: &&mut Hub| hub.run == run && !hub.busy && hub.turn == turn;
                if let Some(hub) = self.hub.as_mut().filter(waits) {
                    hub.busy = true;
                    let events = hub.spool.waited();
                    self.worked(events);
                }
            }
            Ev::CrashNow(run) => {
                if self.hub.as_ref().is_some_and(|hub| hub.run == run)
                    && let Some(power) = self.crash
                {
                    self.dies(power);
                }
            }
            Ev::StopIsOver(run) => {
                if self.hub.as_ref().is_some_and(|hub| hub.run == run) {
                    if self.drained {
                        return Err("the stop of an idle hub takes too long".into());
                    }
                    self.dies(false);
                }
            }
            Ev::Answer(run, serial) => self.broker_answers(run, serial),
            Ev::Write(run, serial) => self.writes(run, serial),
            Ev::Process(run, serial) => self.processes(run, serial)?,
            Ev::Puback(run, serial) => self.puback_comes(run, serial),
            Ev::ClockRight => {
                self.clock_offset = 0.0;
                self.clock_right = true;
            }
            Ev::Suback(run, serial, id) => {
                if self.link() == Some((run, serial))
                    && let Some(hub) = &self.hub
                {
                    hub.net.suback(id);
                }
            }
        }
        Ok(())
    }

    fn start(&mut self) {
        if self.hub.is_some() {
            return;
        }
        self.runs += 1;
        self.truth.starts();
        self.note(Note::Starts(self.runs));
        clock::simulated::begin(self.boots);
        let manner = Manner {
            checked: self.plan.checked_log,
            lazy: self.mutation == Some(Mutation::NoDataSync),
        };
        let chance = self.chance.next();
        let commands = self.desk.is_some();
        self.hub = Some(Hub::start(self.runs, &self.plan, manner, chance, commands));
        self.desk_opens();
        self.broker.forget();
        let hub = self.hub.as_mut().expect("just started");
        hub.busy = true;
        let events = hub.spool.begin();
        self.worked(events);
    }

    fn spool_works(&mut self, run: u64) {
        let Some(hub) = self.hub.as_mut().filter(|hub| hub.run == run) else {
            return;
        };
        if let Some(command) = self.command.take() {
            let events = hub.spool.serve(command);
            self.worked(events);
        }
    }

    /// The disk has done something.
    fn worked(&mut self, events: Vec<Event>) {
        let synced = take_synced();
        // A record that was stored and taken in by another one, all in this command, was there.
        for stored in &synced {
            if stored
                .items
                .iter()
                .all(|item| matches!(**item, Item::Gap(_)))
            {
                self.truth.held.stored(stored.id, &stored.items);
            }
        }
        let mut lost = Lost::default();
        for event in &events {
            if let Err(broken) = self.truth.given_up(event, &mut lost) {
                self.truth.remember(broken);
            }
        }
        let told = self.truth.in_gaps;
        for stored in synced {
            self.truth.stored(stored);
        }
        self.truth.all_in_gaps(&lost, self.truth.in_gaps - told);
        if with_disk(|disk| disk.frozen) == Some(true) {
            let power = self.crash.unwrap_or(false);
            self.dies(power);
            return;
        }
        self.told.extend(events);
        let run = self.runs;
        let takes = self.chance.pick(&[1, 5, 30]);
        self.at(takes, Ev::SpoolTells(run));
    }

    fn spool_tells(&mut self, run: u64) {
        if self.hub.as_ref().is_none_or(|hub| hub.run != run) {
            return;
        }
        self.note(Note::Synced(self.truth.stored_groups));
        while let Some(mut event) = self.told.pop_front() {
            let note = match &mut event {
                Event::Opened { marks, .. } => {
                    if self.mutation == Some(Mutation::ForgetMarks) {
                        marks.clear();
                    }
                    self.truth.looks(true);
                    Note::Opened
                }
                Event::Committed { ticket, .. } => Note::Committed(*ticket),
                Event::CommitFailed { ticket, full, .. } => {
                    self.truth.disturbed.disk = true;
                    self.truth.disturbed.order = true;
                    self.stats.failed_commits += 1;
                    Note::CommitFailed(*ticket, *full)
                }
                Event::Loaded { groups, again } => Note::Loaded(groups.len(), *again),
                Event::Dropped { batches, gaps, .. } => {
                    self.stats.dropped += *batches;
                    Note::Dropped(*batches, *gaps)
                }
                Event::Compacted { batches, gaps, .. } => {
                    self.stats.dropped += *batches;
                    self.stats.thinnings += 1;
                    Note::Compacted(*batches, *gaps)
                }
                Event::Unusable { .. } => {
                    self.truth.looks(false);
                    Note::OtherSpoolEvent
                }
                Event::Reopened { .. } => {
                    self.truth.looks(true);
                    Note::OtherSpoolEvent
                }
                _ => Note::OtherSpoolEvent,
            };
            self.note(note);
            if let Some(hub) = &self.hub {
                let sent = hub.spool_events.try_send(event);
                assert!(
                    sent.is_ok() || hub.ended.is_some(),
                    "the intake takes all events"
                );
            }
        }
        let hub = self.hub.as_mut().expect("looked at above");
        hub.busy = false;
        hub.turn += 1;
        let (run, turn) = (hub.run, hub.turn);
        if let Some(patience) = hub.spool.patience() {
            self.at(patience.as_millis() as u64, Ev::SpoolWaits(run, turn));
        }
    }

    /// The process ends without a word.
    pub(super) fn dies(&mut self, power: bool) {
        self.note(if power { Note::PowerLost } else { Note::Killed });
        if power {
            self.stats.power_cuts += 1;
        } else {
            self.stats.kills += 1;
        }
        self.truth.disturbed.disk = true;
        self.truth.crashed(power);
        // A crash that was still to come, in the middle of the stop: what was deleted may be back.
        (self.drained, self.restart) = (false, false);
        with_disk(|disk| disk.frozen = true);
        self.desk_closes(false);
        self.leave_the_network();
        self.hub = None;
        with_disk(|disk| {
            if power {
                disk.power_cut();
            } else {
                disk.thaw();
            }
        });
        if power {
            // No battery: the clock stands where it stood at some time before.
            self.boots += 1;
            self.booted = self.now();
            if self.chance.permille(300) {
                self.clock_offset = -(self.chance.range(1, 1_000_000) as f64);
                self.clock_right = false;
                self.about(20_000, Ev::ClockRight);
            }
            self.set_clock();
        }
        take_synced();
        self.gone();
        self.about(2_000, Ev::Start);
    }

    fn gone(&mut self) {
        self.command = None;
        self.told.clear();
        self.crash = None;
        self.disturbs(0);
        for n in 0..self.devices.len() {
            if self.devices[n].conn.take().is_some() {
                self.about(1_000, Ev::Connects(n));
            }
        }
    }

    fn stopped(&mut self, well: bool) {
        self.note(Note::Stopped(well));
        self.stats.stops += 1;
        self.desk_closes(well);
        if well {
            self.truth.stopped();
        } else {
            self.truth.crashed(false);
        }
        self.leave_the_network();
        self.gone();
        if self.drained && self.restart {
            // It was stopped for the second time, and nothing came out in between.
            self.finished = true;
        } else {
            self.restart |= self.drained;
            self.about(2_000, Ev::Start);
        }
    }

    /// An orderly stop begins.
    pub(super) fn stops(&mut self) {
        let Some(hub) = self.hub.as_mut().filter(|hub| hub.is_open()) else {
            return;
        };
        hub.stop();
        let run = hub.run;
        self.note(Note::Stopping);
        for n in 0..self.devices.len() {
            if let Some(conn) = self.devices[n].conn.take() {
                self.about(1_000, Ev::Connects(n));
                self.device_goes(n, conn.id);
            }
        }
        self.desk_stops();
        self.at(STOP, Ev::StopIsOver(run));
    }

    fn make(&mut self, n: usize) {
        /// A sensor has little memory.
        const MEMORY: usize = 150;
        if self.devices[n].kept.len() >= MEMORY {
            return;
        }
        let device = &mut self.devices[n];
        device.last_seq += 1 + u64::from(self.chance.permille(50));
        let seq = device.last_seq;
        let uid = self.truth.facts.len() as u64;
        let padding = self.plan.padding[n];
        let (readings, frame) = frame(&mut self.chance, seq, uid, padding);
        let made = self.truth.made(device.stream, seq, readings.into());
        assert_eq!(made, uid);
        if self.poison_next.remove(&n) {
            self.poisoned.insert(uid);
        }
        device.kept.push_back(super::device::Kept {
            seq,
            uid,
            readings,
            frame,
        });
        self.stats.batches += 1;
        self.pump(n);
    }

    pub(super) fn burst(&mut self, n: usize, batches: u64) {
        for _ in 0..batches {
            self.make(n);
        }
    }

    fn pump(&mut self, n: usize) {
        while let Some(kept) = self.devices[n].next(self.plan.window) {
            let again = self.chance.permille(10);
            let conn = self.devices[n].conn.as_mut().expect("it sends on one");
            conn.coming.push_back(kept.clone());
            let id = conn.id;
            if again {
                conn.coming.push_back(kept);
                self.about(20, Ev::Arrives(n, id));
            }
            self.about(20, Ev::Arrives(n, id));
        }
    }

    fn conn(&mut self, n: usize, id: u64) -> Option<&mut Conn> {
        self.devices[n].conn.as_mut().filter(|conn| conn.id == id)
    }

    fn connects(&mut self, n: usize) {
        let open = self.hub.as_ref().filter(|hub| hub.is_open());
        if self.devices[n].conn.is_some() {
            return;
        }
        let Some((control, _)) = open.and_then(|hub| hub.ways_in.as_ref()) else {
            self.about(500, Ev::Connects(n));
            return;
        };
        self.conns += 1;
        let (reply, answer) = oneshot::channel();
        let mailbox = Arc::default();
        let device = &mut self.devices[n];
        let attach = Control::Attach {
            conn: self.conns,
            device: device.name.clone(),
            stream: Some(device.stream_name.clone()),
            mailbox: Arc::clone(&mailbox),
            reply,
        };
        control.try_send(attach).expect("few at a time");
        device.conn = Some(Conn {
            id: self.conns,
            mailbox,
            reply: Some(answer),
            attached: None,
            welcomed: false,
            sent: 0,
            coming: VecDeque::new(),
        });
    }

    /// The connection is over, by whose doing ever.
    pub(super) fn close(&mut self, n: usize) {
        let Some(conn) = self.devices[n].conn.take() else {
            return;
        };
        self.device_goes(n, conn.id);
        if let Some((control, _)) = self.hub.as_ref().and_then(|hub| hub.ways_in.as_ref()) {
            let detach = Control::Detach { conn: conn.id };
            control.try_send(detach).expect("few at a time");
        }
    }

    /// A device begins a new life, with a new stream and nothing kept.
    pub(super) fn reset_device(&mut self, n: usize) {
        let device = &mut self.devices[n];
        device.boots += 1;
        device.stream_name = format!("s{}", device.boots).into();
        device.stream = self.truth.stream(n, &device.stream_name);
        device.last_seq = 0;
        device.kept.clear();
        self.actuator_resets(n);
    }

    fn arrives(&mut self, n: usize, id: u64) -> Result<(), Broken> {
        let now = self.now();
        let received = clock::now();
        let (name, stream_name) = {
            let device = &self.devices[n];
            (device.name.clone(), device.stream_name.clone())
        };
        let ways = self.hub.as_ref().and_then(|hub| hub.ways_in.as_ref());
        let Some((_, data)) = ways else {
            return Ok(());
        };
        let data = data.clone();
        let Some(conn) = self.conn(n, id) else {
            return Ok(());
        };
        let (Some(kept), Some(stream)) = (conn.coming.front().cloned(), conn.attached) else {
            return Ok(());
        };
        let arrival = Arrival {
            conn: id,
            stream,
            resolved: kept.frame.len(),
            content: Content(kept.uid),
            batch: Batch {
                device: name,
                stream: stream_name,
                seq: Some(kept.seq),
                received,
                readings: kept.readings,
                encoding: Encoding::Json,
                frame: kept.frame,
            },
        };
        if data.try_send(arrival).is_err() {
            self.stats.held_back += 1;
            self.at(50, Ev::Arrives(n, id));
            return Ok(());
        }
        conn.coming.pop_front();
        let mailbox = conn.mailbox.clone();
        self.note(Note::Taken(n, kept.uid));
        let run = self.runs;
        let fact = self.truth.fact(kept.uid);
        let fresh = !std::mem::replace(&mut fact.taken, true);
        if fresh {
            fact.taken_by = run;
        }
        let innocent = !self.broker.ever_refused.contains(&n);
        if fresh && innocent && self.is_calm() {
            let bound = now + self.live_bound();
            self.due.push((bound, kept.uid));
        }
        if self.mutation == Some(Mutation::AckOnQueue) {
            mailbox.settle(1, Some(kept.seq));
        }
        Ok(())
    }

    /// Something is wrong, or is over that was: nothing is measured for a while.
    pub(super) fn disturbs(&mut self, ms: u64) {
        /// After a trouble queues are long for a while.
        const AFTERMATH: u64 = 4_000;
        self.calm_since = self.calm_since.max(self.now() + ms + AFTERMATH);
        self.due.clear();
    }

    /// Whether a batch that comes now has to go out at once: P5.
    fn is_calm(&self) -> bool {
        let lanes = &self.plan.lanes;
        let service = self.broker.service;
        let per_second: f64 = self
            .plan
            .intervals
            .iter()
            .map(|ms| 1000.0 / *ms as f64)
            .sum();
        let kept: usize = self.devices.iter().map(|device| device.kept.len()).sum();
        let hub = self.hub.as_ref().filter(|hub| hub.caught_up);
        let up = hub.and_then(|hub| hub.up_since);
        !self.plan_in_order()
            && !lanes.write_always
            && lanes.live_batches > 100
            && per_second * (service as f64) < 300.0
            && self.live_bound() < lanes.ack_timeout.as_millis() as u64
            && kept <= 4
            && self.now() >= self.calm_since
            && self.broker.hung_ups == 0
            && up.is_some_and(|since| since + 1_000 <= self.now())
    }

    fn plan_in_order(&self) -> bool {
        self.plan.lanes.in_order && self.mutation != Some(Mutation::BacklogFirst)
    }

    /// ms that a live batch may take to the broker: a window of others before it.
    fn live_bound(&self) -> u64 {
        let window = self.plan.lanes.window as u64;
        200 + (window + 4) * self.broker.service * 3 / 2
    }

    fn look(&mut self) -> Result<(), Broken> {
        let now = self.now();
        self.at(1_000, Ev::Look);
        for (bound, uid) in std::mem::take(&mut self.due) {
            if self.truth.has_arrived(uid) {
                self.stats.timely += 1;
            } else if self.broker.ever_refused.contains(&self.truth.device(uid)) {
                // It was not refused yet when that came.
            } else if bound < now {
                return Err(format!(
                    "P5: live batch {uid} has not reached the broker, {} ms after its time",
                    now - bound
                ));
            } else {
                self.due.push((bound, uid));
            }
        }
        if !self.quiet {
            return Ok(());
        }
        // What the broker hangs up on stays in the spool, and goes out when that is over.
        self.poisoned.clear();
        self.poison_next.clear();
        if now > self.plan.quiet + FOR_EVER {
            self.broker.refuses.clear();
        }
        if self.drained && !self.restart {
            return self.too_late(now);
        }
        let Some(hub) = self.hub.as_ref().filter(|hub| hub.is_open()) else {
            return self.too_late(now);
        };
        let empty = hub.board.spool.batches.get() == 0
            && hub.board.live_batches.get() == 0
            && hub.up_since.is_some()
            && !hub.busy;
        let kept = self.devices.iter().all(|device| device.kept.is_empty());
        let answered = self.desk.as_ref().is_none_or(Desk::is_idle)
            && (self.drained || self.truth.missing_answers().is_empty());
        // What could not be read at the start is not in the numbers.
        let idle = now >= self.busy_until && now >= self.plan.quiet + SETTLING;
        if empty && idle && kept && answered && (self.drained || self.truth.missing().is_empty()) {
            if !self.drained {
                self.truth.drained();
            }
            self.drained = true;
            self.stops();
        }
        self.too_late(now)
    }

    fn too_late(&self, now: u64) -> Result<(), Broken> {
        if now <= self.plan.quiet + PATIENCE {
            return Ok(());
        }
        let kept: Vec<_> = self
            .devices
            .iter()
            .map(|device| device.kept.len())
            .collect();
        let hub = self.hub.as_ref();
        Err(format!(
            "liveness: not drained {} s after the end of all faults; devices keep {kept:?}, stored \
             {:?}, live {:?}, missing {:?}, answers {:?}, up since {:?}; {}",
            (now - self.plan.quiet) / 1000,
            hub.map(|hub| hub.board.spool.batches.get()),
            hub.map(|hub| hub.board.live_batches.get()),
            self.truth.missing(),
            self.truth.missing_answers(),
            hub.map(|hub| hub.up_since),
            self.desk.as_ref().map(Desk::state).unwrap_or_default(),
        ))
    }

    fn better(&mut self) {
        let now = self.now();
        let healed = self.healed;
        if healed || now >= self.mood_until {
            with_disk(|disk| disk.mood = Mood::Well);
        }
        if healed || now >= self.full_until {
            let capacity = self.plan.capacity;
            with_disk(|disk| disk.capacity = capacity);
        }
        self.broker.better(now, healed, self.plan.service);
        if healed {
            self.broker.service = self.plan.service_in_the_end;
        }
    }

    fn fault(&mut self, fault: Fault) {
        self.note(Note::Fault(fault));
        self.strikes(fault);
    }

    /// How it ended.
    pub(super) fn told(mut self, result: Result<(), Broken>) -> Outcome {
        self.stats.seconds = self.now() / 1000;
        self.stats.events = self.trace.events;
        self.stats.arrived = self.truth.arrived;
        self.stats.again = self.truth.again;
        self.stats.answers = self.truth.answers.len();
        self.stats.disk_errors = with_disk(|disk| disk.errors).unwrap_or(0);
        let hash = self.trace.hash();
        let broken = result.err().map(|why| (why, self.trace.last()));
        let stats = self.stats;
        // What is left of the hub must not reach another disk.
        with_disk(|disk| disk.frozen = true);
        drop(self);
        Outcome {
            hash,
            stats,
            broken,
        }
    }

    /// Damages something stored.
    pub(super) fn damage(&mut self, which: u64, at: u64) {
        if let Some(hit) = crate::spool::simulated::damage(Path::new(SPOOL), which, at) {
            self.stats.damaged += 1;
            self.truth.damaged(&hit.items, hit.newest);
        }
    }
}
