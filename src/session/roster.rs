//! Who is connected: at most one present session a device, and how many there may be.
//!
//! Every change of a device's state goes through one lock, and the board and the presence for
//! the broker change under it: two connections of one device that come and go at the same moment
//! leave the same last word everywhere.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::ending::{ASLEEP, Ending};
use super::rates::{Purse, Rates};
use super::seats::{Admission, Seats};
use super::sleepers::Sleepers;
use crate::clock;
use crate::intake::port::{Close, ConnId, Mailbox};
use crate::reading::Moment;
use crate::status::board::{Board, DeviceBoard};
use crate::status::presence::{Outbox, Presence};

/// Why a device that should be back is offline.
const OVERDUE: &str = "overdue";

#[derive(Debug)]
struct Entry {
    conn: ConnId,
    mailbox: Arc<Mailbox>,
    since: Moment,
    /// The broker has it that the device sleeps: it woke when it said that it would.
    quiet: bool,
    model: Option<String>,
    firmware: Option<String>,
}

impl Entry {
    fn presence(&self, state: &'static str, since: Moment, reason: &str) -> Presence {
        Presence {
            state,
            since,
            reason: reason.to_owned(),
            model: self.model.clone(),
            firmware: self.firmware.clone(),
        }
    }
}

#[derive(Debug)]
struct State {
    last_conn: ConnId,
    seats: Seats,
    /// Sessions, present ones and those that were replaced and have not ended yet.
    sessions: u64,
    present: HashMap<Arc<str>, Entry>,
    rates: Rates,
    sleepers: Sleepers,
    /// Devices with a batch under way that came by `POST`.
    posting: HashSet<Arc<str>>,
    closing: Option<Close>,
}

/// All sessions of the hub.
#[derive(Debug)]
pub struct Roster {
    board: Arc<Board>,
    outbox: Arc<Outbox>,
    state: Mutex<State>,
}

/// The right to hold one session; given back when dropped.
#[derive(Debug)]
pub struct Seat(Arc<Roster>);

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.lock().seats.give_back();
    }
}

impl Roster {
    /// An empty roster for this many sessions.
    #[must_use]
    pub fn new(max: usize, board: Arc<Board>, outbox: Arc<Outbox>) -> Arc<Self> {
        Arc::new(Self {
            board,
            outbox,
            state: Mutex::new(State {
                last_conn: 0,
                seats: Seats::new(max),
                sessions: 0,
                present: HashMap::new(),
                rates: Rates::default(),
                sleepers: Sleepers::default(),
                posting: HashSet::new(),
                closing: None,
            }),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where it is told who is here.
    #[must_use]
    pub fn board(&self) -> &Board {
        &self.board
    }

    /// A seat for a device, or `None` when the hub is full of sessions that are in use: one that
    /// has said nothing has to end for it. A device that is present may always come back: it takes
    /// the place of its old connection.
    #[must_use]
    pub fn admit(self: &Arc<Self>, device: &str) -> Option<Seat> {
        let mut state = self.lock();
        let back = state.present.contains_key(device);
        match state.seats.take(back) {
            Admission::Free => {}
            Admission::InPlaceOf(silent) => {
                if let Some(entry) = state.present.get(&silent) {
                    entry.mailbox.close(Close::MadeRoom);
                }
            }
            Admission::Full => return None,
        }
        Some(Seat(self.clone()))
    }

    /// A session begins. An older one of the same device is asked to close at once.
    #[must_use]
    pub fn enter(self: &Arc<Self>, device: Arc<str>, remote: String, seat: Seat) -> Present {
        let mailbox = Arc::new(Mailbox::default());
        let mut state = self.lock();
        state.last_conn += 1;
        let conn = state.last_conn;
        let entry = Entry {
            conn,
            mailbox: mailbox.clone(),
            since: clock::now(),
            quiet: state.sleepers.expects(&device),
            model: None,
            firmware: None,
        };
        let board = self.board.devices.online(&device, conn, remote.clone());
        if !entry.quiet {
            self.outbox
                .hold(&device, entry.presence("online", entry.since, "connected"));
        }
        if let Some(older) = state.present.insert(device.clone(), entry) {
            state.seats.settle(older.conn);
            older.mailbox.close(Close::Replaced);
        }
        state.seats.sit(conn, device.clone());
        let purse = state.rates.take(&device);
        if let Some(reason) = state.closing {
            mailbox.close(reason);
        }
        state.sessions += 1;
        self.board.devices.connected.set(state.sessions);
        self.board.stir();
        drop(state);
        Present {
            roster: self.clone(),
            device,
            conn,
            remote,
            mailbox,
            board,
            purse,
            ending: Ending::Lost,
            spoke: AtomicBool::new(false),
            _seat: seat,
        }
    }

    /// A batch comes by `POST`; `None`: another one of the device is under way.
    #[must_use]
    pub fn begin_post(self: &Arc<Self>, device: &Arc<str>) -> Option<Posting> {
        let mut state = self.lock();
        if !state.posting.insert(device.clone()) {
            return None;
        }
        state.last_conn += 1;
        Some(Posting {
            roster: self.clone(),
            device: device.clone(),
            conn: state.last_conn,
            board: self.board.devices.posting(device),
            purse: state.rates.take(device),
            began: Instant::now(),
        })
    }

    /// Whether the device comes back just when it said that it would.
    #[must_use]
    pub fn is_on_time(&self, device: &str) -> bool {
        self.lock().sleepers.is_on_time(device, Instant::now())
    }

    /// Time has passed: says of the devices that should be back by now and are not that they are
    /// offline, and of those that stay that they are online.
    pub fn look_for_sleepers(&self, now: Instant) {
        let mut state = self.lock();
        while let Some(device) = state.sleepers.overdue(now) {
            if let Some(entry) = state.present.get_mut(&device) {
                if std::mem::take(&mut entry.quiet) {
                    let presence = entry.presence("online", entry.since, "connected");
                    self.outbox.put(&device, presence);
                }
            } else if self.board.devices.overdue(&device, OVERDUE) {
                self.outbox.amend(&device, "offline", clock::now(), OVERDUE);
            }
        }
    }

    /// Asks the session of one device to close.
    pub fn close(&self, device: &str, reason: Close) {
        if let Some(entry) = self.lock().present.get(device) {
            entry.mailbox.close(reason);
        }
    }

    /// Asks every session to close, and every one that still begins.
    pub fn close_all(&self, reason: Close) {
        let mut state = self.lock();
        state.closing.get_or_insert(reason);
        for entry in state.present.values() {
            entry.mailbox.close(reason);
        }
    }

    /// Ids of the devices that are connected, in no order.
    #[must_use]
    pub fn devices(&self) -> Vec<Arc<str>> {
        self.lock().present.keys().cloned().collect()
    }
}

/// A batch that came by `POST` and is under way. The device's state does not change by it.
#[derive(Debug)]
pub struct Posting {
    roster: Arc<Roster>,
    device: Arc<str>,
    /// Stands for a connection towards the intake.
    pub conn: ConnId,
    /// The device's part of the board.
    pub board: Arc<DeviceBoard>,
    /// What the device has left to spend.
    pub purse: Purse,
    /// When it came.
    pub began: Instant,
}

impl Drop for Posting {
    fn drop(&mut self) {
        let mut state = self.roster.lock();
        state.posting.remove(&self.device);
        if !state.present.contains_key(&self.device) {
            state.rates.put_by(&self.device);
        }
    }
}

/// A session's place in the roster. Dropping it leaves: also when the session's task dies.
#[derive(Debug)]
pub struct Present {
    roster: Arc<Roster>,
    /// The device's id.
    pub device: Arc<str>,
    /// The connection.
    pub conn: ConnId,
    /// The other end's address.
    pub remote: String,
    /// News from the hub.
    pub mailbox: Arc<Mailbox>,
    /// The device's part of the board.
    pub board: Arc<DeviceBoard>,
    /// What the device has left to spend.
    pub purse: Purse,
    ending: Ending,
    /// Its first message has come.
    spoke: AtomicBool,
    _seat: Seat,
}

impl Present {
    /// A message came from the device: the session makes room for nobody from now on. Whether it
    /// was the first.
    pub fn spoke(&self) -> bool {
        let first = !self.spoke.swap(true, Relaxed);
        if first {
            self.roster.lock().seats.settle(self.conn);
        }
        first
    }

    /// The first message has been read: the broker may hear of the connection.
    pub fn introduced(&self) {
        let state = self.roster.lock();
        let entry = state.present.get(&self.device);
        if entry.is_some_and(|entry| entry.conn == self.conn && !entry.quiet) {
            self.roster.outbox.release(&self.device);
        }
    }

    /// What `hello` said of the device, for the board and the broker.
    pub fn describe(&self, model: Option<String>, firmware: Option<String>) {
        if model.is_none() && firmware.is_none() {
            return;
        }
        let mut state = self.roster.lock();
        let Some(entry) = state.present.get_mut(&self.device) else {
            return;
        };
        if entry.conn != self.conn {
            return;
        }
        self.board.describe(model.clone(), firmware.clone());
        (entry.model, entry.firmware) = (model, firmware);
        if entry.quiet {
            return;
        }
        let presence = entry.presence("online", entry.since, "connected");
        self.roster.outbox.put(&self.device, presence);
    }

    /// Leaves, and says why.
    pub fn leave(mut self, ending: Ending) {
        self.ending = ending;
    }
}

impl Drop for Present {
    fn drop(&mut self) {
        let roster = &self.roster;
        let mut state = roster.lock();
        state.sessions -= 1;
        state.seats.settle(self.conn);
        roster.board.devices.connected.set(state.sessions);
        roster.board.stir();
        let reason = self.ending.reason();
        let devices = &roster.board.devices;
        devices.count_end(reason, self.ending.is_eviction());
        let is_present = |entry: &Entry| entry.conn == self.conn;
        if state.present.get(&self.device).is_some_and(is_present)
            && let Some(entry) = state.present.remove(&self.device)
        {
            state.rates.put_by(&self.device);
            let sleeps = match self.ending {
                Ending::Asleep { sleep } => {
                    let now = Instant::now();
                    state.sleepers.falls(&self.device, sleep, now)
                }
                _ => {
                    state.sleepers.forget(&self.device);
                    false
                }
            };
            let reason = match self.ending {
                Ending::Asleep { .. } if !sleeps => Ending::Bye.reason(),
                ending => ending.reason(),
            };
            roster
                .board
                .devices
                .offline(&self.device, self.conn, reason);
            let word = if sleeps { ASLEEP } else { "offline" };
            // A device that wakes and sleeps as it said changes nothing.
            if sleeps && entry.quiet {
                return;
            }
            let presence = entry.presence(word, clock::now(), reason);
            if self.board.batches.get() == 0 {
                roster.outbox.put_empty(&self.device, presence);
            } else {
                roster.outbox.put(&self.device, presence);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::Duration;

    use super::*;

    fn roster(max: usize) -> (Arc<Roster>, Arc<Board>, Arc<Outbox>) {
        let (board, outbox) = (Board::new("barn"), Arc::new(Outbox::default()));
        let roster = Roster::new(max, board.clone(), outbox.clone());
        (roster, board, outbox)
    }

    fn enter(roster: &Arc<Roster>, device: &str) -> Present {
        let seat = roster.admit(device).unwrap();
        roster.enter(device.into(), "127.0.0.1:1".into(), seat)
    }

    fn last(outbox: &Outbox) -> Presence {
        std::iter::from_fn(|| outbox.try_last()).last().unwrap().1
    }

    #[test]
    fn a_second_connection_closes_the_first_and_the_device_stays_online() {
        let (roster, board, outbox) = roster(10);
        let first = enter(&roster, "a");
        let second = enter(&roster, "a");
        assert_eq!(first.mailbox.try_take().close, Some(Close::Replaced));
        assert_eq!(second.mailbox.try_take().close, None);
        assert_eq!(board.devices.connected.get(), 2);
        first.leave(Ending::Replaced);
        assert_eq!(board.devices.connected.get(), 1);
        assert_eq!(last(&outbox).state, "online");
        assert_eq!(board.device_reports()[0].state, "online");

        second.leave(Ending::PingTimeout);
        let presence = last(&outbox);
        assert_eq!(
            (presence.state, &*presence.reason),
            ("offline", "ping timeout")
        );
        assert_eq!(board.devices.evicted.get(), 1);
        assert!(roster.devices().is_empty());
    }

    #[test]
    fn a_full_hub_refuses_newcomers_but_lets_a_present_device_come_back() {
        let (roster, ..) = roster(2);
        let a = enter(&roster, "a");
        let b = enter(&roster, "b");
        a.spoke();
        b.spoke();
        assert!(roster.admit("c").is_none());
        let a2 = enter(&roster, "a");
        a2.spoke();
        a.leave(Ending::Replaced);
        assert!(roster.admit("c").is_none());
        b.leave(Ending::Closed);
        let reserved = roster.admit("c").unwrap();
        assert!(roster.admit("d").is_none(), "a seat counts from admission");
        drop(reserved);
        assert!(roster.admit("d").is_some());
        drop(a2);
    }

    #[test]
    fn a_silent_session_makes_room_in_a_full_hub_and_counts_as_evicted() {
        let (roster, board, outbox) = roster(2);
        let silent = enter(&roster, "silent");
        let speaks = enter(&roster, "speaks");
        speaks.spoke();
        let newcomer = enter(&roster, "newcomer");
        assert_eq!(silent.mailbox.try_take().close, Some(Close::MadeRoom));
        assert_eq!(speaks.mailbox.try_take().close, None);
        silent.leave(Close::MadeRoom.into());
        let told = std::iter::from_fn(|| outbox.try_last());
        let reasons: HashMap<_, _> = told.map(|(id, told)| (id, told.reason)).collect();
        assert_eq!(reasons["silent"], "made room");
        assert_eq!(reasons["newcomer"], "connected");
        assert_eq!(board.devices.evicted.get(), 1);
        // Its seat counts once: now everybody who is there has spoken.
        newcomer.spoke();
        assert!(roster.admit("another").is_none());
    }

    #[test]
    fn presence_carries_what_hello_said_until_the_end() {
        let (roster, _, outbox) = roster(2);
        let a = enter(&roster, "a");
        a.describe(Some("TH-2".into()), None);
        assert_eq!(last(&outbox).model.as_deref(), Some("TH-2"));
        drop(a);
        let presence = last(&outbox);
        assert_eq!(presence.model.as_deref(), Some("TH-2"));
        assert_eq!(presence.reason, "connection lost");
    }

    #[test]
    fn a_device_that_wakes_and_sleeps_as_it_said_changes_nothing_on_the_broker() {
        let (roster, board, outbox) = roster(2);
        let sleep = Duration::from_secs(600);
        let asleep = Ending::Asleep { sleep };
        enter(&roster, "a").leave(asleep);
        assert_eq!(last(&outbox).state, "asleep");
        assert_eq!(board.device_reports()[0].state, "asleep");
        for _ in 0..10 {
            let a = enter(&roster, "a");
            assert_eq!(board.device_reports()[0].state, "online");
            a.describe(Some("TH-2".into()), None);
            a.leave(asleep);
        }
        assert!(outbox.try_last().is_none());
        assert_eq!(board.device_reports()[0].state, "asleep");

        let late = Instant::now() + sleep * 2;
        roster.look_for_sleepers(late - sleep);
        assert!(outbox.try_last().is_none());
        roster.look_for_sleepers(late);
        let presence = last(&outbox);
        assert_eq!((presence.state, &*presence.reason), ("offline", "overdue"));
        assert_eq!(board.device_reports()[0].state, "offline");
        // And back again it is like any other.
        let a = enter(&roster, "a");
        assert_eq!(last(&outbox).state, "online");
        a.leave(Ending::Bye);
        assert_eq!(last(&outbox).reason, "closed");
    }

    #[test]
    fn a_sleeper_that_stays_is_online_and_one_that_is_lost_is_offline() {
        let (roster, _, outbox) = roster(2);
        let sleep = Duration::from_secs(60);
        enter(&roster, "a").leave(Ending::Asleep { sleep });
        assert_eq!(last(&outbox).state, "asleep");
        let a = enter(&roster, "a");
        roster.look_for_sleepers(Instant::now() + sleep * 2);
        assert_eq!(last(&outbox).state, "online");
        a.leave(Ending::Asleep { sleep });
        assert_eq!(last(&outbox).state, "asleep");
        enter(&roster, "a").leave(Ending::PingTimeout);
        assert_eq!(last(&outbox).reason, "ping timeout");
        roster.look_for_sleepers(Instant::now() + sleep * 2);
        assert!(outbox.try_last().is_none());
    }
}
