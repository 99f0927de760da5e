//! What the uplink has to do with the rest of the hub, while it is connected and while it is not.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tracing::warn;

use super::Submission;
use super::blame::Blame;
use super::connection::packs::Known as KnownPacks;
use super::event_queue::EventQueue;
use super::homeassistant::Discovery;
use super::parked::Parked;
use super::twins::Twins;
use super::values::Values;
use crate::commands::authority::Authority;
use crate::commands::desired::Desired;
use crate::commands::port::{News, UplinkWays};
use crate::pulse::Pulse;
use crate::status::board::{Board, UplinkState};
use crate::status::presence::Outbox;
use crate::stop::Stop;

/// See the module.
pub(super) struct Ports {
    pub(super) submissions: mpsc::Receiver<Submission>,
    pub(super) events: EventQueue,
    pub(super) outbox: Arc<Outbox>,
    pub(super) board: Arc<Board>,
    pub(super) reconnect: watch::Receiver<u64>,
    pub(super) pulse: Pulse,
    /// The clock was set, or is known to be right.
    pub(super) clock: watch::Receiver<u64>,
    /// Device states that the broker refuses.
    pub(super) parked: Parked,
    /// The way of commands, if there is one. Gone once the last answer has been said.
    pub(super) commands: Option<UplinkWays>,
    /// Desired and reported states, where commands are on.
    pub(super) desired: Option<Arc<Desired>>,
    /// What devices may be asked, where commands are on.
    pub(super) authority: Option<watch::Receiver<Arc<Authority>>>,
    /// When the hub's own state, which it refuses, is tried again, and the pause before that.
    pub(super) hub_pause: Option<(Instant, Duration)>,
    /// What makes the broker hang up.
    pub(super) blame: Blame,
    /// What the broker makes of packs.
    pub(super) packs: KnownPacks,
    pub(super) twins: Twins,
    /// The newest values; `None`: they are off.
    pub(super) values: Option<Values>,
    /// What Home Assistant is told; `None`: nothing.
    pub(super) discovery: Option<Discovery>,
    pub(super) client_id: String,
    /// How often this run may still look for states that an earlier one left behind.
    pub(super) stale_attempts: u8,
    /// The last connection was lost with data out, and had taken none.
    pub(super) barren: bool,
    pub(super) stop: Stop,
}

impl Ports {
    /// Tells the room of the commands, if there is one.
    pub(super) fn tell_commands(&self, news: News) {
        if let Some(commands) = &self.commands {
            // An error means that the room has ended.
            let _ = commands.news.send(news);
        }
    }

    /// The values that were out on a connection that has ended.
    pub(super) fn lose_values(&mut self, hung_up: bool) {
        let Some(values) = &mut self.values else {
            return;
        };
        let now = Instant::now();
        if let Some(discovery) = &mut self.discovery {
            discovery.lost(hung_up, now);
        }
        let paused = values.lost(hung_up, now);
        if paused > 0 {
            self.board.uplink.refused_values.add(1);
            if values.is_first_refusal() {
                warn!(
                    names = paused,
                    "the broker hung up several times while values were on the way; they are tried \
                     again with growing pauses, and data goes on: look at its ACL for value/#, whether \
                     it takes retained messages, or write values.enabled = false"
                );
            }
        }
    }

    /// Records the uplink's state.
    pub(super) fn show(&self, state: UplinkState, error: Option<String>) {
        self.board.uplink.set(state, error);
        self.board.stir();
    }

    /// Does `work` while there is no connection. `None`: the uplink is to end, and nothing is
    /// submitted any more.
    pub(super) async fn idle<T>(&mut self, work: impl Future<Output = T>) -> Option<T> {
        let mut work = pin!(work);
        loop {
            tokio::select! {
                result = &mut work => return Some(result),
                () = self.stop.requested() => break,
                () = discard(&mut self.submissions, &mut self.events) => return None,
                () = self.pulse.asked() => self.pulse.answer().await,
            }
        }
        // No further connect; the intake may still be at work on the way to its own end.
        discard(&mut self.submissions, &mut self.events).await;
        None
    }
}

/// Drops submissions, which are for connections that have ended, until there are no more.
/// Cancel safe.
pub(super) async fn discard(submissions: &mut mpsc::Receiver<Submission>, events: &mut EventQueue) {
    loop {
        tokio::select! {
            stale = submissions.recv() => if stale.is_none() {
                return;
            },
            () = events.hand_over() => {}
        }
    }
}
