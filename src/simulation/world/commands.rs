//! Commands in the simulation: who asks, the room that decides, and what the devices do.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::super::Mutation;
use super::super::trace::Note;
use super::{Ev, World};
use crate::clock;
use crate::commands::authority::Authority;
use crate::commands::{Action, Commands, Event, Incoming, Now, Order, Said, Settings};
use crate::reading::Final;
use crate::spool::simulated::chance::Chance;

/// Names of answers that the room has given none are above this.
const UNASKED: u64 = 1 << 40;

/// One command.
#[derive(Debug, Clone, Default)]
struct Asked {
    payload: Bytes,
    device: usize,
    idempotent: bool,
    /// Whoever asks has a topic of its own.
    own_topic: bool,
    /// The run of the hub that got it.
    run: u64,
    /// How often whoever sent it has sent it.
    times: u64,
    /// How often it was sent to the device, was said to have ended, and got a final answer.
    sent: u64,
    ended: u64,
    finals: u64,
}

/// What a device does with commands.
#[derive(Debug, Default)]
struct Actuator {
    /// It writes down ids before it carries a command out.
    remembers: bool,
    known: HashSet<usize>,
    /// Results that are not acked.
    kept: VecDeque<usize>,
    /// Grows when it loses its memory.
    life: u64,
}

/// See the module.
pub(in crate::simulation) struct Desk {
    chance: Chance,
    authority: Arc<Authority>,
    /// `None`: the hub is away.
    room: Option<Commands>,
    tick: Option<u64>,
    asked: Vec<Asked>,
    actuators: Vec<Actuator>,
    /// Answers that the intake has not taken yet.
    answers: VecDeque<Final>,
    /// What the room waits for to be safe.
    tokens: HashMap<u64, Bytes>,
    unasked: u64,
    /// Commands that are on their way to a device, or that one is at.
    at_work: u64,
    stopping: bool,
}

impl Desk {
    /// `None`: no commands in this history.
    pub(in crate::simulation) fn new(mut chance: Chance, devices: usize) -> Option<Self> {
        if !chance.permille(600) {
            return None;
        }
        let names = (0..devices).map(|n| (format!("d{n}").into(), vec!["*".to_owned()]));
        let authority = Arc::new(names.collect());
        let actuators = (0..devices).map(|_| Actuator {
            remembers: chance.coin(),
            ..Actuator::default()
        });
        Some(Self {
            actuators: actuators.collect(),
            authority,
            chance,
            room: None,
            tick: None,
            asked: Vec::new(),
            answers: VecDeque::new(),
            tokens: HashMap::new(),
            unasked: 0,
            at_work: 0,
            stopping: false,
        })
    }

    /// Nothing is under way any more.
    pub(in crate::simulation) fn is_idle(&self) -> bool {
        let room = self.room.as_ref();
        self.answers.is_empty()
            && self.tokens.is_empty()
            && self.at_work == 0
            && room.is_none_or(|room| room.open() == (0, 0))
            && self.actuators.iter().all(|one| one.kept.is_empty())
    }

    /// For the report.
    pub(in crate::simulation) fn state(&self) -> String {
        let kept: Vec<_> = self.actuators.iter().map(|one| &one.kept).collect();
        let open = self.room.as_ref().map(Commands::open);
        let (answers, tokens) = (self.answers.len(), self.tokens.len());
        format!("{answers} answers, {tokens} not safe, {open:?} open, devices keep {kept:?}")
    }
}

fn id(which: usize) -> Arc<str> {
    format!("c{which}").into()
}

/// The command that an answer is of, and whether it is a late one.
pub(in crate::simulation) fn which_of(payload: &[u8]) -> Option<(usize, bool)> {
    let said: Value = serde_json::from_slice(payload).ok()?;
    let which = said["id"].as_str()?.strip_prefix('c')?.parse().ok()?;
    Some((which, said["late"] == true))
}

impl World {
    fn command(&mut self, event: Event) {
        let Some(mut desk) = self.desk.take() else {
            return;
        };
        let now = Now {
            mono: Instant::now().into_std(),
            moment: clock::now(),
        };
        let mut actions = Vec::new();
        if let Some(room) = &mut desk.room {
            room.apply(now, event, &mut actions);
            let next = room.next_deadline(now.mono);
            let ms = next.map(|at| at.saturating_duration_since(now.mono).as_millis() as u64 + 1);
            if let Some(ms) = ms
                && desk.tick.is_none_or(|at| at > self.now() + ms)
            {
                desk.tick = Some(self.now() + ms);
                self.at(ms, Ev::CommandTick(self.runs));
            }
        }
        for action in actions {
            if let Err(broken) = self.acts(&mut desk, action) {
                self.truth.remember(broken);
            }
        }
        self.desk = Some(desk);
    }

    fn acts(&mut self, desk: &mut Desk, action: Action) -> Result<(), String> {
        match action {
            Action::Send {
                device,
                conn,
                order,
            } => self.sends_order(desk, &device, conn, &order),
            Action::Ack { device, conn, id } => {
                let which = number(&id)?;
                self.truth.answers.result_acked(which)?;
                let n = number_of_device(&device)?;
                self.stats.results += 1;
                self.note(Note::ResultAcked(n, which));
                self.about(10, Ev::ResultAck(n, conn, which));
                Ok(())
            }
            Action::Keep { token, reply } => {
                let (which, late) = which_of(&reply.payload).ok_or("an answer without an id")?;
                self.note(Note::Ends(which, late));
                let asked = &mut desk.asked[which];
                asked.finals += u64::from(!late);
                if asked.finals > 1 && !late {
                    return Err(format!(
                        "P13: command {which} has two final answers: {asked:?}"
                    ));
                }
                self.truth.answers.made(&reply.payload, which);
                if self.mutation == Some(Mutation::AckResultOnQueue)
                    && token.is_some()
                    && let Err(broken) = self.truth.answers.result_acked(which)
                {
                    self.truth.remember(broken);
                }
                // Nobody waits for what the hub has decided itself; here somebody does.
                desk.unasked += 1;
                let token = token.unwrap_or(UNASKED + desk.unasked);
                desk.tokens.insert(token, reply.payload.clone());
                let token = Some(token);
                desk.answers.push_back(Final { token, reply });
                Ok(())
            }
            Action::Ended(record) if !record.late => {
                let Some(id) = &record.id else { return Ok(()) };
                let asked = &mut desk.asked[number(id)?];
                asked.ended += 1;
                if asked.ended > asked.times {
                    return Err(format!(
                        "P13: {id} ends more often than it was asked: {asked:?}"
                    ));
                }
                Ok(())
            }
            Action::Ended(_) | Action::Tell(_) | Action::Respond { .. } => Ok(()),
        }
    }

    fn sends_order(
        &mut self,
        desk: &mut Desk,
        device: &str,
        conn: u64,
        order: &Order,
    ) -> Result<(), String> {
        let (n, which) = (number_of_device(device)?, number(&order.id)?);
        let asked = &mut desk.asked[which];
        asked.sent += 1;
        let may = asked.idempotent || desk.actuators[n].remembers;
        if asked.sent > 1 && !(may && order.again) || asked.device != n {
            return Err(format!(
                "P13: command {which} is sent again, or elsewhere: {asked:?}"
            ));
        }
        desk.at_work += 1;
        self.note(Note::SendsCommand(n, which));
        self.about(20, Ev::Order(n, conn, which));
        Ok(())
    }

    /// A run of the hub begins.
    pub(in crate::simulation) fn desk_opens(&mut self) {
        let settings = Settings {
            prefix: "t".into(),
            hub: "h".into(),
            max_size: 16 * 1024,
            response_prefixes: vec!["app".into()],
            run: self.runs.to_string(),
        };
        let Some(desk) = &mut self.desk else { return };
        desk.room = Some(Commands::new(settings, Instant::now().into_std()));
        (desk.tick, desk.stopping) = (None, false);
        let authority = desk.authority.clone();
        self.command(Event::Allowed(authority));
    }

    /// The hub is gone.
    pub(in crate::simulation) fn desk_closes(&mut self, in_order: bool) {
        let run = self.runs;
        let Some(desk) = &mut self.desk else { return };
        desk.room = None;
        desk.answers.clear();
        desk.tokens.clear();
        if !in_order {
            return;
        }
        let of_run = desk.asked.iter().filter(|asked| asked.run == run);
        for asked in of_run {
            let answered = asked.sent == 0 || asked.finals == 1;
            if asked.ended == 0 || !answered {
                let why = format!("P13: a command has no end, or no answer: {asked:?}");
                self.truth.broken.get_or_insert(why);
            }
        }
    }

    /// An orderly stop begins.
    pub(in crate::simulation) fn desk_stops(&mut self) {
        self.command(Event::Stop);
        if let Some(desk) = &mut self.desk {
            desk.stopping = true;
        }
    }

    /// What goes between the room and the intake.
    pub(in crate::simulation) fn collect_answers(&mut self) -> bool {
        let (Some(hub), Some(desk)) = (&mut self.hub, &mut self.desk) else {
            return false;
        };
        let mut any = false;
        if let Some(answers) = &hub.answers {
            while let Some(answer) = desk.answers.front().cloned()
                && answers.try_send(answer).is_ok()
            {
                desk.answers.pop_front();
                any = true;
            }
        }
        if desk.stopping && desk.answers.is_empty() {
            any |= hub.answers.take().is_some();
        }
        let mut safe = Vec::new();
        while let Ok(token) = hub.safe.try_recv() {
            safe.push(token);
        }
        for token in safe {
            any = true;
            let payload = self
                .desk
                .as_mut()
                .and_then(|desk| desk.tokens.remove(&token));
            let told = match payload {
                Some(payload) => self.truth.answers.called_safe(&payload),
                None => Err("P1: what was not made is called safe".into()),
            };
            if let Err(broken) = told {
                self.truth.remember(broken);
            }
            if token < UNASKED {
                self.command(Event::Safe { token });
            }
        }
        any
    }

    pub(in crate::simulation) fn device_comes(&mut self, n: usize, conn: u64) {
        let Some(desk) = &self.desk else { return };
        let remembers = desk.actuators[n].remembers;
        self.command(Event::Online {
            device: self.devices[n].name.clone(),
            conn,
            remembers,
            max_message: 64 * 1024,
        });
    }

    pub(in crate::simulation) fn device_goes(&mut self, n: usize, conn: u64) {
        let device = self.devices[n].name.clone();
        self.command(Event::Offline { device, conn });
    }

    /// It loses what it has written down.
    pub(in crate::simulation) fn actuator_resets(&mut self, n: usize) {
        if let Some(desk) = &mut self.desk {
            let actuator = &mut desk.actuators[n];
            actuator.known.clear();
            actuator.kept.clear();
            actuator.life += 1;
        }
    }

    /// After a welcome: what is not acked is said again.
    pub(in crate::simulation) fn says_results(&mut self, n: usize, conn: u64) {
        let kept = match &self.desk {
            Some(desk) => desk.actuators[n].kept.clone(),
            None => return,
        };
        for which in kept {
            self.about(20, Ev::Result(n, conn, which));
        }
    }

    /// Somebody asks for something.
    pub(in crate::simulation) fn asks(&mut self, quiet: bool) {
        let (now, run) = (self.now(), self.runs);
        let up = self
            .hub
            .as_ref()
            .is_some_and(|hub| hub.is_open() && hub.up_since.is_some());
        let Some(desk) = &mut self.desk else { return };
        if quiet {
            return;
        }
        let pause = desk.chance.pick(&[100, 1_000, 3_000, 10_000]);
        let mut which = desk.asked.len();
        let again = desk.chance.permille(150);
        let own_topic = desk.chance.permille(300);
        if up {
            if again && desk.asked.last().is_some_and(|asked| asked.run == run) {
                which -= 1;
                let asked = &mut desk.asked[which];
                asked.times += 1;
                if asked.sent == 0 {
                    // What was never sent is not remembered: it is a new one.
                    asked.finals = 0;
                }
            } else {
                let device = desk.chance.below(desk.actuators.len());
                let idempotent = desk.chance.permille(300);
                let payload = json!({
                    "id": *id(which), "idempotent": idempotent, "args": now,
                    "wait": desk.chance.pick(&[0, 0, 5, 60]),
                    "ttl": desk.chance.pick(&[1, 60]),
                    "timeout": desk.chance.pick(&[1, 3, 10]),
                });
                desk.asked.push(Asked {
                    payload: payload.to_string().into(),
                    device,
                    idempotent,
                    own_topic,
                    run,
                    times: 1,
                    ..Asked::default()
                });
            }
            let asked = &desk.asked[which];
            let (device, payload) = (asked.device, asked.payload.clone());
            let own_topic = asked.own_topic;
            self.stats.asked += 1;
            self.note(Note::Asks(device, which));
            self.command(Event::Arrived(Incoming {
                topic: format!("t/h/d{device}/command/on").into(),
                payload,
                retain: false,
                dup: false,
                response_topic: own_topic.then(|| format!("app/d{device}").into()),
                correlation: own_topic.then(|| Bytes::from_static(b"mine")),
                expiry: None,
            }));
        }
        self.about(pause, Ev::Asks);
    }

    /// The room's time has come.
    pub(in crate::simulation) fn command_tick(&mut self) {
        if let Some(desk) = &mut self.desk {
            desk.tick = None;
            self.command(Event::Tick);
        }
    }

    /// A command reaches the device.
    pub(in crate::simulation) fn order_comes(&mut self, n: usize, conn: u64, which: usize) {
        let open = self.devices[n].conn.as_ref();
        let there = open.is_some_and(|open| open.id == conn);
        let Some(desk) = &mut self.desk else { return };
        if !there {
            desk.at_work -= 1;
            return;
        }
        let actuator = &mut desk.actuators[n];
        let life = actuator.life;
        if actuator.kept.contains(&which) {
            desk.at_work -= 1;
            self.about(20, Ev::Result(n, conn, which));
            return;
        }
        let new = actuator.known.insert(which);
        // What was begun before is not begun anew: it says that it was cut short.
        let takes = match actuator.remembers && !new {
            true => 10,
            false => desk.chance.pick(&[20, 200, 2_000, 8_000]),
        };
        self.about(takes, Ev::Carried(n, life, which));
    }

    /// A device has carried it out.
    pub(in crate::simulation) fn carried_out(&mut self, n: usize, life: u64, which: usize) {
        let Some(desk) = &mut self.desk else { return };
        desk.at_work -= 1;
        let actuator = &mut desk.actuators[n];
        if actuator.life != life || actuator.kept.contains(&which) {
            return;
        }
        actuator.kept.push_back(which);
        let open = self.devices[n].conn.as_ref().filter(|conn| conn.welcomed);
        if let Some(conn) = open.map(|conn| conn.id) {
            self.about(20, Ev::Result(n, conn, which));
        }
    }

    /// A result reaches the hub.
    pub(in crate::simulation) fn result_comes(&mut self, n: usize, conn: u64, which: usize) {
        let open = self.devices[n].conn.as_ref();
        if open.is_none_or(|open| open.id != conn) {
            return;
        }
        self.note(Note::Result(n, which));
        let value = RawValue::from_string(which.to_string()).ok();
        let said = Said {
            id: id(which),
            name: Some("on".into()),
            ok: true,
            value: value.map(Into::into),
            error: None,
            more: false,
        };
        let device = self.devices[n].name.clone();
        self.command(Event::Result { device, said });
    }

    /// A device hears that its result is safe.
    pub(in crate::simulation) fn result_is_safe(&mut self, n: usize, conn: u64, which: usize) {
        let open = self.devices[n].conn.as_ref();
        if open.is_some_and(|open| open.id == conn)
            && let Some(desk) = &mut self.desk
        {
            desk.actuators[n].kept.retain(|kept| *kept != which);
        }
    }
}

fn number(id: &str) -> Result<usize, String> {
    let number = id.strip_prefix('c').and_then(|rest| rest.parse().ok());
    number.ok_or_else(|| format!("{id} was never asked"))
}

fn number_of_device(device: &str) -> Result<usize, String> {
    super::super::truth::device_of(device).ok_or_else(|| format!("there is no {device}"))
}
