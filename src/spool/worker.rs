//! The thread: commands in, events out.

use std::io;
use std::path::PathBuf;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::mpsc as events;

use super::look::{Make, look};
use super::segment_log::SegmentLog;
use super::{Command, Event};
use crate::pulse::Work;

/// Events that may wait for the intake. It takes them all the time and has few commands out, so
/// this is never reached for long; when it is, the thread waits.
const EVENTS: usize = 64;

/// After this long without a command drained databases are removed and idle ones closed, which
/// ends the engine's threads. Longer than the pauses of a spool in use, because a new database
/// costs some syncs.
const IDLE: Duration = Duration::from_secs(20);

/// A spool that failed and is not asked for anything is tried again after this long: short
/// enough for the operator who has just made room and looks whether it helped.
const PROBE: Duration = Duration::from_secs(5);

/// A spool that is not asked for anything is looked at this often: an outage is no time to learn
/// that it cannot be used.
const LOOK: Duration = Duration::from_secs(60);

/// What the spool's thread looks at while nobody needs the spool.
#[derive(Debug)]
pub(super) struct Looker {
    pub(super) path: PathBuf,
    pub(super) min_free: u64,
}

/// The way to the spool. Sending never blocks: the queue has no bound of its own, because the
/// intake has at most one `Commit`, one `Load` and a few `Delete`s outstanding.
#[derive(Debug, Clone)]
pub struct CommandSender(mpsc::Sender<Command>, Work);

impl CommandSender {
    /// Hands a command over.
    ///
    /// # Errors
    /// The spool's thread has ended; the command comes back.
    pub fn send(&self, command: Command) -> Result<(), Command> {
        self.0.send(command).map_err(|error| error.0)
    }

    /// What the spool's thread is busy with.
    #[must_use]
    pub fn work(&self) -> Work {
        self.1.clone()
    }
}

/// Starts the thread over a log that has not been attached.
pub(super) fn start(
    log: SegmentLog,
    idle: Duration,
    looker: Option<Looker>,
) -> io::Result<(CommandSender, events::Receiver<Event>, JoinHandle<()>)> {
    let (commands_in, commands) = mpsc::channel();
    let (events, events_out) = events::channel(EVENTS);
    let work = Work::default();
    let worker = Worker {
        looker,
        ..Worker::new(log, idle)
    };
    let busy = work.clone();
    let thread = std::thread::Builder::new()
        .name("spool".into())
        .spawn(move || run(worker, &busy, &commands, &events))?;
    Ok((CommandSender(commands_in, work), events_out, thread))
}

/// The thread: waits for commands, and sends what they lead to.
fn run(
    mut worker: Worker,
    work: &Work,
    commands: &mpsc::Receiver<Command>,
    events: &events::Sender<Event>,
) {
    work.busy(|| worker.begin());
    loop {
        for event in worker.take_events() {
            // Nobody there to hear it: the commands end as well, soon.
            let _ = events.blocking_send(event);
        }
        if worker.stopped {
            return;
        }
        let received = match worker.patience() {
            Some(patience) => commands.recv_timeout(patience),
            None => commands.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        match received {
            Ok(command) => work.busy(|| worker.serve(command)),
            Err(RecvTimeoutError::Timeout) => work.busy(|| worker.waited()),
            Err(RecvTimeoutError::Disconnected) => {
                worker.serve(Command::Stop { marks: Vec::new() })
            }
        }
    }
}

/// The two ends of the commands' way, without a thread behind it.
#[cfg(test)]
pub(super) fn commands() -> (CommandSender, mpsc::Receiver<Command>) {
    let (commands_in, commands) = mpsc::channel();
    (CommandSender(commands_in, Work::default()), commands)
}

/// [`IDLE`], for [`start`].
pub(super) const IDLE_AFTER: Duration = IDLE;

/// What the thread does, without waiting for anybody.
pub(super) struct Worker {
    log: SegmentLog,
    events: Vec<Event>,
    /// `None`: only what is asked for shows whether the disk can be used.
    looker: Option<Looker>,
    idle: Duration,
    probe: Duration,
    /// The last attempt to use the disk failed, and that has been logged.
    failing: bool,
    /// Nothing is left to do before the next command.
    rested: bool,
    /// The store is closed; there will be no more events.
    pub(super) stopped: bool,
}

impl Worker {
    pub(super) fn new(log: SegmentLog, idle: Duration) -> Self {
        Self {
            log,
            events: Vec::new(),
            looker: None,
            idle,
            probe: PROBE,
            failing: false,
            rested: false,
            stopped: false,
        }
    }

    /// What there is to tell, in order.
    pub(super) fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    fn tell(&mut self, event: Event) {
        self.events.push(event);
    }

    fn tell_usage(&mut self) {
        self.tell(Event::Usage(self.log.usage()));
    }

    /// Takes the directory into use. Before anything else.
    pub(super) fn begin(&mut self) {
        let attached = self.log.attach(false);
        if let Err(failure) = &attached {
            self.failing = true;
            tracing::error!(
                path = %self.log.path.display(), error = failure.error,
                "the spool cannot be opened: working without it until it can"
            );
        }
        self.tell(Event::Opened {
            marks: self.log.marks.all(),
            depth: self.log.depth(),
        });
        self.log.announced = true;
        if let Err(failure) = attached {
            self.tell(Event::Unusable {
                error: failure.error,
            });
        } else {
            self.look();
        }
        self.tell_usage();
    }

    /// Whether the directory could be used. The first word of trouble is logged and told.
    fn look(&mut self) -> bool {
        let Some(looker) = &self.looker else {
            return true;
        };
        // One that holds something makes room by giving that up.
        let min_free = (self.log.depth().groups == 0).then_some(looker.min_free);
        let Err(error) = look(&looker.path, min_free, Make::Yes) else {
            return true;
        };
        if !std::mem::replace(&mut self.failing, true) {
            tracing::error!(
                error,
                "the spool cannot be used: at the next loss of the broker no batch can be acked"
            );
            self.tell(Event::Unusable { error });
        }
        false
    }

    /// How long to wait for a command before [`Worker::waited`]; `None`: for ever.
    pub(super) fn patience(&self) -> Option<Duration> {
        if self.failing {
            Some(self.probe)
        } else {
            let restless = self.log.is_open() && !self.rested || self.log.has_deletions_due();
            let look = self.looker.is_some().then_some(LOOK);
            if restless { Some(self.idle) } else { look }
        }
    }

    /// No command came for so long.
    pub(super) fn waited(&mut self) {
        if self.failing {
            self.probe();
            return;
        }
        if !std::mem::replace(&mut self.rested, true) || self.log.has_deletions_due() {
            if self.log.idle() {
                self.tell_usage();
            }
        } else if !self.look() {
            self.tell_usage();
        }
    }

    /// Whether a spool that failed can be written again, when nobody else finds out.
    fn probe(&mut self) {
        let well = self.look() && self.log.probe();
        self.tell_news();
        if well {
            self.failing = false;
            tracing::info!("the spool can be written again");
            self.tell(Event::Writable);
            self.tell_usage();
        }
    }

    fn tell_news(&mut self) {
        for event in std::mem::take(&mut self.log.news) {
            self.tell(event);
        }
    }

    /// Does what is asked.
    pub(super) fn serve(&mut self, command: Command) {
        self.rested = false;
        match command {
            Command::Commit {
                ticket,
                items,
                marks,
            } => {
                let outcome = self.log.commit(&items, &marks);
                self.tell_news();
                match outcome {
                    Ok(placed) => {
                        if std::mem::take(&mut self.failing) {
                            tracing::info!("the spool can be written again");
                        }
                        self.tell(Event::Committed { ticket, placed });
                    }
                    Err(failure) => {
                        if !std::mem::replace(&mut self.failing, true) {
                            tracing::error!(
                                full = failure.full,
                                error = failure.error,
                                "the spool cannot be written; batches are not acked"
                            );
                        }
                        self.tell(Event::CommitFailed {
                            ticket,
                            full: failure.full,
                            foreign: self.log.foreign,
                            error: failure.error,
                        });
                    }
                }
                self.tell_usage();
            }
            Command::Load {
                after,
                max_bytes,
                replies,
            } => {
                let groups = if replies {
                    self.log.load_replies(after, max_bytes)
                } else {
                    self.log.load(after, max_bytes)
                };
                let again = self.log.unreadable;
                self.tell(Event::Loaded { groups, again });
            }
            Command::Delete { groups } => {
                if self.log.delete(&groups) {
                    self.tell_usage();
                }
            }
            Command::Unwanted { device, unwanted } => {
                if unwanted {
                    self.log.unwanted.insert(device);
                } else {
                    self.log.unwanted.remove(&device);
                }
            }
            Command::Stop { marks } => {
                self.log.stop(marks);
                self.tell(Event::Stopped);
                self.stopped = true;
            }
        }
    }
}
