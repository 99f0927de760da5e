//! The uplink's life: connect, serve, wait, connect again, until the submissions end.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;

use tokio::sync::{mpsc, watch};
use tracing::{debug, error, info, warn};

use super::backoff::Backoff;
use super::connection::{self, End};
use super::door::{Dial, Signal, Wire};
use super::failure::Failure;
use super::outlet::Outlet;
use super::publication::Publisher;
use super::{Event, Settings, Submission, stale};
use crate::clock;
use crate::pulse::Pulse;
use crate::status::board::{Board, UplinkState};
use crate::status::presence::Outbox;
use crate::stop::Stop;

/// Different reasons for failing to connect that are remembered as logged. More than these
/// means that the sentences themselves vary; the rest is for `debug`.
const REASONS: usize = 16;

/// What the uplink has to do with the rest of the hub.
pub(super) struct Ports {
    pub(super) submissions: mpsc::Receiver<Submission>,
    pub(super) outlet: Outlet,
    pub(super) outbox: Arc<Outbox>,
    pub(super) board: Arc<Board>,
    pub(super) reconnect: watch::Receiver<u64>,
    pub(super) pulse: Pulse,
    /// The clock was set, or is known to be right.
    pub(super) clock: watch::Receiver<u64>,
    /// How often this run may still look for states that an earlier one left behind.
    pub(super) stale_attempts: u8,
    stop: Stop,
}

/// See [`super::run`].
#[expect(
    clippy::too_many_arguments,
    reason = "each is an end of one of its ways"
)]
pub(super) async fn run<D: Dial>(
    library: D,
    settings: Settings,
    submissions: mpsc::Receiver<Submission>,
    outbox: Arc<Outbox>,
    events: mpsc::Sender<Event>,
    board: Arc<Board>,
    reconnect: watch::Receiver<u64>,
    stop: Stop,
) {
    let pulse = settings.pulse.clone();
    let settings = Arc::new(settings);
    let broker = &settings.broker;
    let publisher = Arc::new(Publisher::new(
        &broker.prefix,
        &settings.hub,
        broker.format,
        &settings.version,
    ));
    let mut ports = Ports {
        submissions,
        outlet: Outlet::new(events),
        outbox,
        board,
        reconnect,
        pulse,
        clock: clock::changes(),
        stale_attempts: stale::ATTEMPTS,
        stop,
    };
    let mut backoff = Backoff::new(settings.pace.first_retry, settings.pace.longest_retry);
    let mut reasons = Vec::new();
    let mut epoch = 0;
    loop {
        ports.show(UplinkState::Connecting, None);
        let Some(attempt) = ports.idle(connect(&library, &settings, &publisher)).await else {
            break;
        };
        let failure = match attempt {
            Err(failure) => {
                ports.board.uplink.connect_failures.add(1);
                log_failure(&failure, &mut reasons);
                failure
            }
            Ok((link, wire)) => {
                epoch += 1;
                ports.board.uplink.connects.add(1);
                reasons.clear();
                let broker = wire.broker().to_owned();
                info!(%broker, epoch, "uplink connected");
                let end = connection::serve(&mut ports, &settings, &publisher, link, wire, epoch);
                let (failure, good) = match Box::pin(end).await {
                    End::Finished => {
                        info!(%broker, epoch, "uplink disconnected");
                        break;
                    }
                    End::Lost { failure, good } => (failure, good),
                };
                warn!(%broker, epoch, error = %failure.sentence, "uplink lost; data goes to the spool");
                if good {
                    backoff.reset();
                }
                failure
            }
        };
        let (error, hung_up) = (failure.sentence, failure.hung_up);
        ports.show(UplinkState::Down, Some(error.clone()));
        ports.outlet.push(Event::Down {
            epoch,
            error,
            hung_up,
        });
        let wait = backoff.next(library.chance());
        debug!(?wait, "next connect");
        if ports.idle(tokio::time::sleep(wait)).await.is_none() {
            break;
        }
    }
    ports.show(UplinkState::Down, None);
}

impl Ports {
    /// Records the uplink's state.
    pub(super) fn show(&self, state: UplinkState, error: Option<String>) {
        self.board.uplink.set(state, error);
        self.board.stir();
    }

    /// Does `work` while there is no connection. `None`: the uplink is to end, and nothing is
    /// submitted any more.
    async fn idle<T>(&mut self, work: impl Future<Output = T>) -> Option<T> {
        let mut work = pin!(work);
        loop {
            tokio::select! {
                result = &mut work => return Some(result),
                () = self.stop.requested() => break,
                () = discard(&mut self.submissions, &mut self.outlet) => return None,
                () = self.pulse.asked() => self.pulse.answer().await,
            }
        }
        // No further connect; the intake may still be at work on the way to its own end.
        discard(&mut self.submissions, &mut self.outlet).await;
        None
    }
}

/// Drops submissions, which are for connections that have ended, until there are no more.
/// Cancel safe.
async fn discard(submissions: &mut mpsc::Receiver<Submission>, outlet: &mut Outlet) {
    loop {
        tokio::select! {
            stale = submissions.recv() => if stale.is_none() {
                return;
            },
            () = outlet.hand_over() => {}
        }
    }
}

/// Reads the files, connects, and waits for the broker's consent.
async fn connect<D: Dial>(
    library: &D,
    settings: &Arc<Settings>,
    publisher: &Publisher,
) -> Result<(D::Link, D::Wire), Failure> {
    let capacity = connection::capacity(settings.broker.inflight);
    // The moment of the end is not known now; it is not before this one.
    let will = publisher.hub_status("offline", clock::now());
    let (link, mut wire) = library.dial(settings, will, capacity).await?;
    while wire.next().await? != Signal::Connected {}
    Ok((link, wire))
}

/// Each reason once, until a connection succeeds.
fn log_failure(failure: &Failure, reasons: &mut Vec<String>) {
    let reason = &failure.sentence;
    if reasons.contains(reason) || reasons.len() >= REASONS {
        debug!(error = %reason, "uplink still not connected");
        return;
    }
    reasons.push(reason.clone());
    if failure.needs_someone {
        error!(error = %reason, "uplink cannot connect; data goes to the spool");
    } else {
        warn!(error = %reason, "uplink not connected; data goes to the spool");
    }
}
