//! The spool on a simulated disk, for the simulation: the thread's work without the thread, files
//! in memory, and an engine that keeps to the contract of `store` and to nothing more.

pub(crate) mod chance;
pub(crate) mod disk;
mod engine;
pub(crate) mod medium;

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use self::medium::with_disk;
use super::codec;
use super::segment_log::SegmentLog;
use super::worker::{self, CommandSender, Worker};
use super::{Command, Event};
use crate::config;
use crate::reading::{Gap, Item};

/// A group that has reached the medium.
#[derive(Debug)]
pub(crate) struct Stored {
    pub(crate) id: u64,
    pub(crate) items: Vec<Arc<Item>>,
}

/// What has reached the medium since the last call.
pub(crate) fn take_synced() -> Vec<Stored> {
    let groups = medium::take().into_iter();
    groups
        .map(|(id, bytes)| Stored {
            id,
            items: codec::decode(&bytes, 0.0).unwrap_or_default(),
        })
        .collect()
}

/// What a damaged place of a log has hit.
#[derive(Debug)]
pub(crate) struct Hit {
    /// The items of the groups there.
    pub(crate) items: Vec<Arc<Item>>,
    /// It was the newest log, or nothing beside it says how much is in it.
    pub(crate) newest: bool,
}

/// Damages one byte of the newest or another log, and says which groups were there.
pub(crate) fn damage(spool: &Path, which: u64, at: u64) -> Option<Hit> {
    with_disk(|disk| {
        let mood = std::mem::replace(&mut disk.mood, disk::Mood::Well);
        let names = disk.names(spool).unwrap_or_default();
        let logs: Vec<_> = names
            .iter()
            .filter(|name| super::space::parse_name(&name.to_string_lossy()).is_some())
            .map(|name| spool.join(name).join("db"))
            .collect();
        let hit = (!logs.is_empty()).then(|| {
            let at_log = usize::try_from(which).unwrap_or(0) % logs.len();
            let path = &logs[at_log];
            let items = disk.read(path).map(|bytes| engine::items(&bytes));
            disk.damage(path, at);
            Hit {
                items: items.unwrap_or_default(),
                newest: at_log + 1 == logs.len()
                    || disk.read(&path.with_file_name("summary")).is_err(),
            }
        });
        disk.mood = mood;
        hit
    })
    .flatten()
}

/// Whether a gap record says of itself that nothing is known.
pub(crate) fn is_unknown(gap: &Gap) -> bool {
    &*gap.device == Gap::UNKNOWN
}

/// How the engine behaves.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Manner {
    pub(crate) checked: bool,
    pub(crate) lazy: bool,
}

/// The spool's thread, without the thread.
pub(crate) struct Spool {
    worker: Worker,
    commands: mpsc::Receiver<Command>,
}

impl Spool {
    pub(crate) fn new(config: &config::Spool, manner: Manner) -> (CommandSender, Self) {
        let Manner { checked, lazy } = manner;
        let log = SegmentLog::new(config, Box::new(engine::Log { checked, lazy }));
        let (sender, commands) = worker::commands();
        let worker = Worker::new(log, worker::IDLE_AFTER);
        (sender, Self { worker, commands })
    }

    pub(crate) fn begin(&mut self) -> Vec<Event> {
        self.worker.begin();
        self.worker.take_events()
    }

    /// The next command that waits.
    pub(crate) fn next(&mut self) -> Option<Command> {
        self.commands.try_recv().ok()
    }

    pub(crate) fn serve(&mut self, command: Command) -> Vec<Event> {
        self.worker.serve(command);
        self.worker.take_events()
    }

    pub(crate) fn patience(&self) -> Option<Duration> {
        self.worker.patience()
    }

    pub(crate) fn waited(&mut self) -> Vec<Event> {
        self.worker.waited();
        self.worker.take_events()
    }

    pub(crate) fn stopped(&self) -> bool {
        self.worker.stopped
    }
}
