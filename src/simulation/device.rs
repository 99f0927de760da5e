//! Devices in the simulation, each with the session that carries it.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::oneshot;

use super::trace::Uid;
use crate::intake::port::{Attached, Mailbox, StreamId};
use crate::spool::simulated::chance::Chance;

/// A batch that the device keeps until it is acked.
#[derive(Debug, Clone)]
pub(super) struct Kept {
    pub(super) seq: u64,
    pub(super) uid: Uid,
    pub(super) readings: u32,
    pub(super) frame: Bytes,
}

/// A connection of a device.
#[derive(Debug)]
pub(super) struct Conn {
    pub(super) id: u64,
    pub(super) mailbox: Arc<Mailbox>,
    /// Until the hub has answered `hello`.
    pub(super) reply: Option<oneshot::Receiver<Attached>>,
    pub(super) attached: Option<StreamId>,
    /// The device has heard the welcome.
    pub(super) welcomed: bool,
    /// How many of the kept batches have been sent on this connection.
    pub(super) sent: usize,
    /// On the way to the hub.
    pub(super) coming: VecDeque<Kept>,
}

#[derive(Debug)]
pub(super) struct Device {
    pub(super) name: Arc<str>,
    pub(super) boots: u64,
    /// The stream: its name, and its number in the truth.
    pub(super) stream_name: Arc<str>,
    pub(super) stream: usize,
    pub(super) last_seq: u64,
    pub(super) kept: VecDeque<Kept>,
    pub(super) conn: Option<Conn>,
}

impl Device {
    /// `welcome` or `ack`: everything up to this number is safe.
    pub(super) fn hears(&mut self, seq: u64) {
        while self.kept.front().is_some_and(|kept| kept.seq <= seq) {
            self.kept.pop_front();
            if let Some(conn) = &mut self.conn {
                conn.sent = conn.sent.saturating_sub(1);
            }
        }
    }

    /// What may be sent now.
    pub(super) fn next(&mut self, window: usize) -> Option<Kept> {
        let conn = self.conn.as_mut().filter(|conn| conn.welcomed)?;
        if conn.sent >= window {
            return None;
        }
        let kept = self.kept.get(conn.sent)?.clone();
        conn.sent += 1;
        Some(kept)
    }
}

/// The message of a batch: its number as the first value, more values, some padding.
pub(super) fn frame(chance: &mut Chance, seq: u64, uid: Uid, padding: u64) -> (u32, Bytes) {
    let more = chance.range(0, 3);
    let mut text = format!(r#"{{"data":{{"seq":{seq},"pack":[{{"n":"u","v":{uid}}}"#);
    for at in 0..more {
        let _ = write!(text, r#",{{"n":"m{at}","v":{at}}}"#);
    }
    let len = chance.range(0, padding.max(1)) as usize;
    let _ = write!(text, r#",{{"n":"p","vs":"{}"}}]}}}}"#, "x".repeat(len));
    let readings = u32::try_from(more).unwrap_or(0) + 2;
    (readings, Bytes::from(text))
}
