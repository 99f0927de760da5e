//! The state that a device is to be in, and the one that it says it is in: retained documents on the
//! broker, one each way. What has to arrive some day goes here and not into a command.
//!
//! Shared by the sessions, which hand over and are handed, and the uplink, which subscribes and
//! publishes. Of either document the last one counts, so that nothing queues: the bound is two
//! documents for each device that is followed.
//!
//! Each device has a subscription of its own, by its exact topic: there are brokers that send
//! nothing retained for a filter with a wildcard, and none that does not for a topic.

mod core;

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use tokio::sync::Notify;
use tracing::{debug, info, warn};

use self::core::{Core, Give};
pub use self::core::{FOLLOWED, MAX_STATE, Report, Skip};
use super::tray::Tray;
use crate::status::board::Board;

/// See the module.
#[derive(Debug)]
pub struct Desired {
    state: Mutex<State>,
    /// There is something for the uplink.
    changed: Notify,
    board: Arc<Board>,
}

#[derive(Debug, Default)]
struct State {
    core: Core,
    trays: HashMap<Arc<str>, (u64, Arc<Tray>)>,
    /// Devices that are too many, as the log has it.
    too_many: usize,
}

impl Desired {
    /// Nothing yet, and no device that is followed.
    #[must_use]
    pub fn new(board: Arc<Board>) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::default(),
            changed: Notify::new(),
            board,
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The registry was read: these have `desired = true`.
    pub fn allow(&self, devices: BTreeSet<Arc<str>>) {
        let mut state = self.lock();
        let too_many = state.core.allow(devices);
        if too_many > 0 && too_many != state.too_many {
            warn!(
                too_many,
                most = FOLLOWED,
                "more devices have desired = true in the registry than are followed; the last ones by name are not"
            );
        }
        state.too_many = too_many;
        drop(state);
        self.changed.notify_one();
    }

    /// A device can be told.
    pub fn online(&self, device: &Arc<str>, conn: u64, max_message: usize, tray: &Arc<Tray>) {
        let mut state = self.lock();
        state.trays.insert(device.clone(), (conn, tray.clone()));
        let given = state.core.online(device, conn, max_message);
        self.hand_over(&mut state, device, given);
    }

    /// A connection has ended.
    pub fn offline(&self, device: &str, conn: u64) {
        let mut state = self.lock();
        if state
            .trays
            .get(device)
            .is_some_and(|(known, _)| *known == conn)
        {
            state.trays.remove(device);
        }
        state.core.offline(device, conn);
    }

    /// A device says how it is: a JSON map of at most [`MAX_STATE`] bytes. `false`: it may not, as
    /// its entry in the registry has it.
    pub fn reported(&self, device: &Arc<str>, payload: Bytes) -> bool {
        let taken = self.lock().core.reported(Instant::now(), device, payload);
        if taken {
            self.changed.notify_one();
        } else {
            self.board.commands.reported_skipped.add(1);
        }
        taken
    }

    /// Returns when there may be something for the uplink. Cancel safe. For one waiter.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// A connection to the broker begins.
    pub fn begin(&self) {
        self.lock().core.begin(Instant::now());
    }

    /// The next device whose topic is to be subscribed to.
    pub fn next_subscription(&self) -> Option<Arc<str>> {
        self.lock().core.next_subscription()
    }

    /// The next device whose topic is no longer of interest.
    pub fn next_unsubscription(&self) -> Option<Arc<str>> {
        self.lock().core.next_unsubscription()
    }

    /// The broker has sent a desired state.
    pub fn arrived(&self, device: &str, payload: &[u8]) {
        let mut state = self.lock();
        let given = state.core.arrived(device, payload);
        self.hand_over(&mut state, device, given);
    }

    fn hand_over(&self, state: &mut State, device: &str, given: Result<Option<Give>, Skip>) {
        let board = &self.board.commands;
        match given {
            Ok(None) => {}
            Ok(Some(Give { conn, map })) => {
                let tray = state.trays.get(device);
                if let Some((_, tray)) = tray.filter(|(known, _)| *known == conn) {
                    tray.desire(map);
                    board.desired_given.add(1);
                    info!(device, "desired state handed to the device");
                }
            }
            Err(skip) => {
                let why = skip.as_str();
                board.desired_skipped.add(why, 1);
                if state.core.complain(device) {
                    warn!(
                        device,
                        why,
                        most = MAX_STATE,
                        "a desired state is passed over: it has to be a JSON map of so many bytes at most, that the device can take"
                    );
                } else {
                    debug!(device, why, "a desired state is passed over");
                }
            }
        }
    }

    /// Takes the next report that may go now; in a `hurry` none is held back.
    pub fn next_report(&self, hurry: bool, may: impl Fn(&Arc<str>) -> bool) -> Option<Report> {
        self.lock().core.next_report(Instant::now(), hurry, may)
    }

    /// When [`Desired::next_report`] has one.
    #[must_use]
    pub fn next_due(&self) -> Option<Instant> {
        self.lock().core.next_due()
    }

    /// Whether every report is with the broker.
    #[must_use]
    pub fn all_reported(&self) -> bool {
        self.lock().core.all_reported()
    }

    /// The broker has taken a report.
    pub fn taken(&self, device: &Arc<str>, version: u64) {
        self.board.commands.reported.add(1);
        self.lock().core.settled(Instant::now(), device, version);
        self.changed.notify_one();
    }

    /// The broker does not take a report: it is given up, and the device's next one is tried.
    pub fn refused(&self, device: &Arc<str>, version: u64, why: &str) {
        self.board.commands.reported_refused.add(1);
        self.lock().core.settled(Instant::now(), device, version);
        warn!(%device, why, "the broker does not take what a device reports of its state; the next report is tried again");
    }
}

#[cfg(test)]
mod tests;
