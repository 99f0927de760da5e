//! Who is connected: at most one present session a device, and how many there may be.
//!
//! Every change of a device's state goes through one lock, and the board and the presence for
//! the broker change under it: two connections of one device that come and go at the same moment
//! leave the same last word everywhere.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::ending::Ending;
use super::rates::{Purse, Rates};
use super::seats::{Admission, Seats};
use crate::clock;
use crate::intake::port::{Close, ConnId, Mailbox};
use crate::reading::Moment;
use crate::status::board::{Board, DeviceBoard};
use crate::status::presence::{Outbox, Presence};

#[derive(Debug)]
struct Entry {
    conn: ConnId,
    mailbox: Arc<Mailbox>,
    since: Moment,
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
                closing: None,
            }),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
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
            model: None,
            firmware: None,
        };
        let board = self.board.devices.online(&device, conn, remote.clone());
        self.outbox
            .put(&device, entry.presence("online", entry.since, "connected"));
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

    /// The board on which its devices stand.
    #[must_use]
    pub fn board(&self) -> &Arc<Board> {
        &self.board
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
    /// A message came from the device: the session makes room for nobody from now on.
    pub fn spoke(&self) {
        if !self.spoke.swap(true, Relaxed) {
            self.roster.lock().seats.settle(self.conn);
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
            roster
                .board
                .devices
                .offline(&self.device, self.conn, reason);
            let presence = entry.presence("offline", clock::now(), reason);
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
}
