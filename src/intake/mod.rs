//! The intake: which way each batch goes, live or through the spool, and when it is safe.
//!
//! One task owns the lanes. It turns what the sessions, the spool and the uplink say into events,
//! hands them to [`lanes::Lanes`], and carries out the actions that come back. It waits for
//! nobody: mailboxes merge, the spool has at most one commit and one read of ours, and the uplink
//! never has more than its window.

pub mod backlog;
pub mod byte_window;
mod elsewhere;
mod expiry;
pub mod fair;
pub mod flight;
pub mod group_commit;
mod ids;
pub mod lanes;
pub mod moved;
pub mod port;
mod rate;
pub mod refusals;
pub mod streams;
mod tracked;

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};

use self::ids::IdMap;
use self::lanes::{Action, Event, Lanes, Now, Settings};
use self::moved::Moved;
use self::port::{Answers, Arrival, Close, ConnId, Control, Mailbox};
use self::rate::DrainRate;
use crate::clock;
use crate::pulse::Pulse;
use crate::reading::{Final, GapReason, Item, unnamed_stream};
use crate::reduce::{Reducer, Rules};
use crate::spool::{self, Command};
use crate::status::board::{Board, RefusedTopic, SpoolState};
use crate::status::refused::LISTED;
use crate::uplink::{self, Submission};

/// Bytes of items that one read from the spool brings.
const LOAD_BYTES: usize = 256 * 1024;

/// Events taken from one channel before the others get their turn.
const BURST: usize = 128;

/// How long the stop waits for PUBACKs of live batches before it sends them to the disk.
const FINISH: Duration = Duration::from_secs(2);

/// How long the stop waits for the disk after that. With the farewell of the uplink this stays
/// below the 10 s that the whole stop may take.
const ABANDON: Duration = Duration::from_secs(4);

/// What the intake is connected to.
#[derive(Debug)]
pub struct Wiring {
    /// What can be set.
    pub settings: Settings,
    /// Attach and detach.
    pub control: mpsc::Receiver<Control>,
    /// What is left out of them.
    pub rules: Rules,
    /// Batches. When every sender is gone, and every answer has come, the intake finishes.
    pub data: mpsc::Receiver<Arrival>,
    /// `None`: there are no commands.
    pub answers: Option<Answers>,
    /// The spool.
    pub spool: spool::CommandSender,
    /// Its answers, `Opened` first.
    pub spool_events: mpsc::Receiver<spool::Event>,
    /// The uplink.
    pub uplink: mpsc::Sender<Submission>,
    /// Its answers.
    pub uplink_events: mpsc::Receiver<uplink::Event>,
    /// The last connection of the uplink that the intake has given up on.
    pub reconnect: watch::Sender<u64>,
    /// What is shown.
    pub board: Arc<Board>,
    /// What the topics begin with: `{prefix}/{hub}`.
    pub topics: String,
    /// Answers the watchdog.
    pub pulse: Pulse,
}

struct Intake {
    lanes: Lanes,
    wiring: Wiring,
    mailboxes: IdMap<ConnId, Arc<Mailbox>>,
    actions: Vec<Action>,
    rate: DrainRate,
    spool_well: bool,
    /// The disk left a commit unanswered, which the spool cannot say while it waits for it.
    disk_hung: bool,
    /// The commit under way: since when, and how many bytes.
    commit: Option<(Instant, usize)>,
    /// Where the names of safe answers go.
    safe: Option<mpsc::UnboundedSender<u64>>,
    /// The uplink's present or last connection.
    epoch: u64,
    /// What the broker refuses is shown again from then on.
    refused_from: Instant,
    /// The moment of all events of one burst. Under load the clocks would be asked for each of a
    /// hundred that were there at the same time.
    at: Option<Now>,
    /// Makes the names of unnamed streams unique across runs.
    run: String,
}

/// Runs the intake. `opened` is called once the marks of the spool are known, which is when
/// devices may be accepted. Returns after every sender of `data` is gone and what was taken is
/// safe, or cannot be made so in time; the spool is closed then.
///
/// # Errors
/// When the spool or the uplink ended before the intake did, or when batches were left that could
/// neither be published nor stored.
pub async fn run(mut wiring: Wiring, opened: impl FnOnce()) -> anyhow::Result<()> {
    let Some(spool::Event::Opened { marks, depth }) = wiring.spool_events.recv().await else {
        anyhow::bail!("the spool ended before it was open");
    };
    let reducer = Reducer::new(wiring.rules.clone());
    let mut lanes = Lanes::new(wiring.settings).with_reducer(reducer);
    lanes.streams.restore(marks);
    let mut intake = Intake {
        lanes,
        wiring,
        mailboxes: IdMap::default(),
        actions: Vec::new(),
        rate: DrainRate::default(),
        spool_well: true,
        disk_hung: false,
        commit: None,
        safe: None,
        epoch: 0,
        refused_from: now(),
        at: None,
        run: format!("{:x}", random()),
    };
    intake.apply(Event::Opened { depth });
    intake.show();
    opened();
    intake.serve().await?;
    intake.finish().await
}

impl Intake {
    /// Until every sender of `data` is gone.
    async fn serve(&mut self) -> anyhow::Result<()> {
        let mut acks = Vec::with_capacity(BURST);
        let mut arrivals = Vec::with_capacity(BURST);
        let mut answers = None;
        if let Some(Answers { come, safe }) = self.wiring.answers.take() {
            answers = Some(come);
            self.safe = Some(safe);
        }
        let mut batches_come = true;
        while batches_come || answers.is_some() {
            let tick = self.next_tick();
            tokio::select! {
                n = self.wiring.uplink_events.recv_many(&mut acks, BURST) => {
                    anyhow::ensure!(n > 0, "the uplink ended by itself");
                    self.at = Some(look());
                    for event in acks.drain(..) {
                        self.uplink_says(event);
                    }
                }
                came = next_in(&mut answers, &mut self.wiring.data, &mut arrivals, batches_come),
                    if self.lanes.has_room() => match came
                {
                    Came::Answer(Some(answer)) => self.apply(Event::Answered(answer)),
                    Came::Answer(None) => answers = None,
                    Came::Batches(n) => {
                        batches_come = n > 0;
                        self.at = Some(look());
                        for arrival in arrivals.drain(..) {
                            self.apply(Event::Arrived(arrival));
                        }
                    }
                },
                Some(control) = self.wiring.control.recv() => self.control(control),
                event = self.wiring.spool_events.recv() => {
                    let Some(event) = event else { anyhow::bail!("the spool ended by itself") };
                    self.spool_says(event);
                }
                () = sleep_until(tick) => self.apply(Event::Tick),
                () = self.wiring.pulse.asked() => self.wiring.pulse.answer().await,
            }
            self.at = None;
            self.show();
        }
        Ok(())
    }

    /// After the last batch: make everything safe, then close the spool.
    async fn finish(mut self) -> anyhow::Result<()> {
        self.apply(Event::Finish);
        let began = now();
        let mut abandoned = false;
        let mut uplink_gone = false;
        // What is on disk and in flight is safe; its PUBACKs are waited for all the same, or it
        // would be published again after the next start.
        while !self.lanes.all_safe() || (!abandoned && self.lanes.in_flight() > 0) {
            let now = self::now();
            if !abandoned && now >= began + FINISH {
                abandoned = true;
                self.apply(Event::Abandon);
                continue;
            }
            if now >= began + FINISH + ABANDON {
                break;
            }
            let tick = self.next_tick();
            let wake = if abandoned {
                began + FINISH + ABANDON
            } else {
                began + FINISH
            };
            tokio::select! {
                event = self.wiring.uplink_events.recv(), if !uplink_gone => match event {
                    Some(event) => self.uplink_says(event),
                    None => {
                        uplink_gone = true;
                        self.apply(Event::Down);
                    }
                },
                Some(event) = self.wiring.spool_events.recv() => self.spool_says(event),
                () = sleep_until(tick.min(wake)) => self.apply(Event::Tick),
            }
            self.show();
        }
        let left = self.lanes.unsafe_items();
        let all_safe = self.lanes.all_safe();
        let marks = self.lanes.streams.marks();
        self.tell_spool(Command::Stop { marks });
        // The uplink says goodbye once nobody can submit any more.
        let Wiring {
            mut spool_events,
            mut uplink_events,
            uplink,
            ..
        } = self.wiring;
        drop(uplink);
        let stopped = async {
            while let Some(event) = spool_events.recv().await {
                if matches!(event, spool::Event::Stopped) {
                    break;
                }
            }
        };
        let said_goodbye = async { while uplink_events.recv().await.is_some() {} };
        tokio::join!(stopped, said_goodbye);
        anyhow::ensure!(
            all_safe,
            "{left} batches could neither be published nor stored; none of them was acked, so their \
             devices still have them"
        );
        Ok(())
    }

    fn next_tick(&self) -> Instant {
        /// Gauges are refreshed at least so often.
        const IDLE: Duration = Duration::from_secs(60);
        let draining = self.rate.next_sample();
        let deadline = self.lanes.next_deadline();
        let idle = now() + IDLE;
        let refused = self.lanes.refusals().has_changed();
        let refused = refused.then_some(self.refused_from);
        [draining, deadline, refused]
            .into_iter()
            .flatten()
            .fold(idle, Instant::min)
    }

    fn control(&mut self, control: Control) {
        match control {
            Control::Attach {
                conn,
                device,
                stream,
                mailbox,
                reply,
            } => {
                let run = &self.run;
                let unnamed = || unnamed_stream(run, conn);
                let attached = self.lanes.streams.attach(conn, &device, stream, unnamed);
                self.mailboxes.insert(conn, mailbox);
                // A session that is gone meanwhile detaches by itself.
                let _ = reply.send(attached);
            }
            Control::Detach { conn } => {
                self.mailboxes.remove(&conn);
                if let Some((other, ack)) = self.lanes.detach(conn)
                    && let Some(mailbox) = self.mailboxes.get(&other)
                {
                    mailbox.settle(0, Some(ack));
                }
            }
        }
    }

    fn uplink_says(&mut self, event: uplink::Event) {
        if matches!(event, uplink::Event::Up { .. } | uplink::Event::Down { .. }) {
            // Nothing drains in between, and the next connection has a pace of its own.
            self.rate = DrainRate::default();
        }
        let event = match event {
            uplink::Event::Up { epoch } => {
                self.epoch = epoch;
                Event::Up { epoch }
            }
            uplink::Event::Down { .. } => Event::Down,
            uplink::Event::Acked { epoch, token } => Event::Acked { epoch, token },
            uplink::Event::Refused {
                epoch,
                token,
                refusal,
            } => Event::Refused {
                epoch,
                token,
                refusal,
            },
            uplink::Event::Unpublishable {
                epoch,
                token,
                error,
            } => {
                tracing::warn!(
                    error,
                    "a batch cannot be published; a gap record goes instead"
                );
                Event::Unpublishable {
                    epoch,
                    token,
                    reason: GapReason::TooLarge,
                }
            }
        };
        self.apply(event);
    }

    fn spool_says(&mut self, event: spool::Event) {
        let board = &self.wiring.board;
        let event = match event {
            spool::Event::Committed { ticket, placed } => {
                if let Some((since, bytes)) = self.commit.take() {
                    board.spool.commit_latency.observe(since.elapsed(), 1);
                    board.spool.committed_bytes.add(bytes as u64);
                }
                if std::mem::take(&mut self.disk_hung) {
                    tracing::info!("the disk answers again");
                }
                if !std::mem::replace(&mut self.spool_well, true) {
                    board.spool.set(SpoolState::Ok, None);
                }
                Event::Committed { ticket, placed }
            }
            spool::Event::CommitFailed {
                ticket,
                full,
                foreign,
                error,
            } => {
                board.spool.commit_failures.add(1);
                // The spool has logged it.
                self.spool_well = false;
                let state = match (foreign, full) {
                    (true, _) => SpoolState::Unusable,
                    (false, true) => SpoolState::Full,
                    (false, false) => SpoolState::Failed,
                };
                board.spool.set(state, Some(error));
                Event::CommitFailed { ticket, full }
            }
            spool::Event::Loaded { groups, again } => Event::Loaded { groups, again },
            spool::Event::Dropped {
                from,
                upto,
                batches,
                readings,
                replies,
                gaps,
            } => {
                tracing::error!(
                    batches,
                    readings,
                    gaps,
                    results = replies,
                    "the spool is full; its oldest went"
                );
                board.commands.lost.add(replies);
                board.spool.dropped_batches.add(batches);
                Event::Dropped {
                    groups: from..=upto,
                    batches,
                    readings,
                }
            }
            spool::Event::Compacted {
                groups,
                batches,
                readings,
                gaps,
            } => {
                tracing::error!(
                    batches,
                    readings,
                    gaps,
                    "the spool is full; the oldest of the devices with the largest shares went"
                );
                board.spool.dropped_batches.add(batches);
                Event::Compacted {
                    moved: Moved::new(groups),
                    batches,
                    readings,
                }
            }
            spool::Event::RepliesLost { replies } => {
                tracing::error!(
                    results = replies,
                    "results of commands were lost with a damaged part of the spool"
                );
                board.commands.lost.add(replies);
                return;
            }
            spool::Event::Usage(usage) => {
                board.spool.disk_bytes.set(usage.disk_bytes);
                return;
            }
            spool::Event::Unusable { error } => {
                self.spool_well = false;
                board.spool.set(SpoolState::Unusable, Some(error));
                return;
            }
            spool::Event::Writable => {
                self.spool_well = true;
                board.spool.set(SpoolState::Ok, None);
                Event::Writable
            }
            spool::Event::Reopened { marks, depth } => {
                self.lanes.streams.restore(marks);
                Event::Opened { depth }
            }
            spool::Event::Opened { .. } | spool::Event::Stopped => return,
        };
        self.apply(event);
    }

    fn apply(&mut self, event: Event) {
        let now = self.at.unwrap_or_else(look);
        let mut actions = std::mem::take(&mut self.actions);
        self.lanes.apply(now, event, &mut actions);
        for action in actions.drain(..) {
            self.act(action);
        }
        self.actions = actions;
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Publish {
                epoch,
                token,
                lane,
                item,
            } => {
                let submission = Submission {
                    epoch,
                    token,
                    lane,
                    item,
                };
                if self.wiring.uplink.try_send(submission).is_err() {
                    // Cannot happen while the uplink keeps up with its own epochs; a new
                    // connection puts it right in any case, because everything is sent again.
                    self.give_up();
                }
            }
            Action::Commit {
                ticket,
                items,
                marks,
            } => {
                let bytes = items.iter().map(|item| item.weight()).sum();
                self.commit = Some((Instant::now(), bytes));
                self.tell_spool(Command::Commit {
                    ticket,
                    items,
                    marks,
                });
            }
            Action::Load { after, replies } => {
                self.tell_spool(Command::Load {
                    after,
                    max_bytes: LOAD_BYTES,
                    replies,
                });
            }
            Action::Delete { groups } => self.tell_spool(Command::Delete { groups }),
            Action::Settle { conn, settled, ack } => {
                if let Some(mailbox) = self.mailboxes.get(&conn) {
                    mailbox.settle(settled, ack);
                }
            }
            Action::Safe { token } => {
                if let Some(safe) = &self.safe {
                    // The room is gone at the end of a stop: nobody waits any more.
                    let _ = safe.send(token);
                }
            }
            Action::AnswerLost { item, reason } => self.answer_lost(&item, reason),
            Action::RefusedElsewhere { device, detail } => {
                tracing::warn!(
                    device = &*device,
                    reason = detail,
                    "the broker does not take the result of a command at its Response Topic; \
                     what is for there goes to the device's own topic"
                );
            }
            Action::Conflict { conn, refused } => {
                if let Some(mailbox) = self.mailboxes.get(&conn) {
                    mailbox.refuse(refused);
                }
            }
            Action::Refuse { conn } => {
                if let Some(mailbox) = self.mailboxes.get(&conn) {
                    mailbox.close(Close::Refused);
                }
            }
            Action::Reconnect => {
                tracing::warn!("the broker acknowledges nothing; connecting anew");
                self.give_up();
            }
            Action::Refused { key, detail } => {
                let topic = key.topic.as_str();
                let refused = &self.wiring.board.uplink.refused_topics;
                refused.publishes.add(topic, 1);
                refused.set(&key.device, topic, true);
                tracing::error!(
                    device = &*key.device,
                    topic,
                    reason = detail,
                    "the broker refuses a topic of this device; what is for it stays in the spool \
                     and is tried again with growing pauses"
                );
            }
            Action::RefusedAgain { topic } => {
                let refused = &self.wiring.board.uplink.refused_topics;
                refused.publishes.add(topic.as_str(), 1);
            }
            Action::Accepted { key } => {
                let topic = key.topic.as_str();
                let refused = &self.wiring.board.uplink.refused_topics;
                refused.set(&key.device, topic, false);
                tracing::warn!(
                    device = &*key.device,
                    topic,
                    "the broker takes this topic again"
                );
            }
            Action::Unwanted { device, unwanted } => {
                self.tell_spool(Command::Unwanted { device, unwanted });
            }
            Action::Lost(gap) => {
                self.wiring.board.spool.dropped_batches.add(gap.batches);
                tracing::error!(
                    device = &*gap.device,
                    stream = &*gap.stream,
                    from = gap.from,
                    to = gap.to,
                    reason = %gap.reason,
                    "data given up; a gap record says so on the broker"
                );
            }
        }
    }

    fn answer_lost(&self, item: &Item, reason: GapReason) {
        self.wiring.board.commands.lost.add(1);
        let Item::Reply(reply) = item else { return };
        tracing::error!(
            device = &*reply.device,
            name = &*reply.name,
            reason = %reason,
            "the result of a command was given up: whoever sent it is not told"
        );
    }

    fn tell_spool(&self, command: Command) {
        // A spool that is gone ends its events too, which ends the intake.
        let _ = self.wiring.spool.send(command);
    }

    /// The present connection is of no use; what flies on it is sent again on the next.
    fn give_up(&self) {
        self.wiring.reconnect.send_replace(self.epoch);
    }

    fn show(&mut self) {
        let board = &self.wiring.board;
        if self.spool_well && self.lanes.disk_hangs(now()) {
            self.spool_well = false;
            self.disk_hung = true;
            tracing::error!("the disk does not answer; batches that wait for it are not acked");
            let error = "the disk does not answer".to_owned();
            board.spool.set(SpoolState::Failed, Some(error));
        }
        let backlog = self.lanes.backlog();
        board.spool.batches.set(backlog.batches());
        board.spool.readings.set(backlog.readings());
        let oldest = backlog.oldest().map(clock::corrected);
        board.spool.set_oldest(oldest.map(|oldest| oldest.wall));
        let millirate = self
            .rate
            .sample(now(), backlog.batches(), backlog.drained());
        board.spool.drain_millirate.set(millirate);
        self.show_refused();
        let board = &self.wiring.board;
        if let Some(counts) = self.lanes.reduced() {
            board.reduce.show(
                counts.kept,
                counts.left_out,
                counts.shortened,
                counts.dropped,
            );
        }
        board.live_batches.set(self.lanes.live_batches() as u64);
        board.live_readings.set(self.lanes.live_readings());
        board.stir();
    }
}

impl Intake {
    /// Shows what the broker refuses, at most once a second.
    fn show_refused(&mut self) {
        const PAUSE: Duration = Duration::from_secs(1);
        let now = now();
        if self.refused_from > now || !self.lanes.refusals_changed() {
            return;
        }
        self.refused_from = now + PAUSE;
        let refusals = self.lanes.refusals();
        let wall = |at: Instant| {
            let ahead = at.saturating_duration_since(now).as_secs_f64();
            clock::wall_at(clock::uptime() + ahead)
        };
        let list = refusals.shown().take(LISTED).map(|shown| RefusedTopic {
            topic: format!(
                "{}/{}/{}",
                self.wiring.topics,
                shown.key.device,
                shown.key.topic.as_str()
            ),
            reason: shown.detail.to_string(),
            since: clock::corrected(shown.since).wall,
            batches: shown.batches,
            next_try: shown.next_try.map(wall),
        });
        let refused = &self.wiring.board.uplink.refused_topics;
        refused.show(list.collect(), refusals.len());
    }
}

/// What came in.
enum Came {
    /// `None`: there will be no more.
    Answer(Option<Final>),
    /// So many, none when there will be no more.
    Batches(usize),
}

/// The next of what comes in. Answers first: they are few, and a simulated history can be told
/// again. Cancel safe.
async fn next_in(
    answers: &mut Option<mpsc::Receiver<Final>>,
    data: &mut mpsc::Receiver<Arrival>,
    into: &mut Vec<Arrival>,
    batches_come: bool,
) -> Came {
    let answer = async {
        match answers {
            Some(answers) => answers.recv().await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        biased;
        answer = answer => Came::Answer(answer),
        n = data.recv_many(into, BURST), if batches_come => Came::Batches(n),
    }
}

/// The runtime's clock, which a test can hold.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

fn look() -> Now {
    Now {
        mono: now(),
        moment: clock::now_for_ages(),
    }
}

/// The keys of a hasher are random. The time would not do: a board without a clock of its own
/// starts at the same one again and again.
fn random() -> u64 {
    RandomState::new().hash_one(0)
}

async fn sleep_until(at: Instant) {
    tokio::time::sleep_until(at.into()).await;
}
