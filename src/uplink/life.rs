//! The uplink's life: connect, serve, wait, connect again, until the submissions end.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tracing::{debug, error, info, warn};

use super::backoff::Backoff;
use super::blame::Blame;
use super::connection::{self, End, Leave};
use super::door::{Attempt, Dial, Wire};
use super::failure::Failure;
use super::outlet::Outlet;
use super::parked::Parked;
use super::publication::Publisher;
use super::route::{Returns, Route, Target, Versions};
use super::twins::Twins;
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
    /// Device states that the broker refuses.
    pub(super) parked: Parked,
    /// When the hub's own state, which it refuses, is tried again, and the pause before that.
    pub(super) hub_pause: Option<(Instant, Duration)>,
    /// What makes the broker hang up.
    pub(super) blame: Blame,
    pub(super) twins: Twins,
    pub(super) client_id: String,
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
        broker.max_payload,
    ));
    let mut ports = Ports {
        submissions,
        outlet: Outlet::new(events),
        outbox,
        board,
        reconnect,
        pulse,
        clock: clock::changes(),
        parked: Parked::default(),
        hub_pause: None,
        blame: Blame::default(),
        twins: Twins::default(),
        client_id: broker.client_id.clone(),
        stale_attempts: stale::ATTEMPTS,
        stop,
    };
    let mut paths = Paths {
        route: Route::new(&settings.broker.brokers),
        versions: Versions::new(settings.broker.version),
    };
    let mut backoff = Backoff::new(settings.pace.first_retry, settings.pace.longest_retry);
    let mut reasons = Vec::new();
    let mut returns = Returns::new(settings.broker.return_after);
    let mut last: Option<Target> = None;
    let mut epoch = 0;
    loop {
        ports.show(UplinkState::Connecting, None);
        let Some(attempt) = ports
            .idle(paths.connect(&library, &settings, &publisher))
            .await
        else {
            break;
        };
        let failure = match attempt {
            Err(failure) => {
                ports.board.uplink.connect_failures.add(1);
                log_failure(&failure, &mut reasons);
                failure
            }
            Ok((wire, place, target)) => {
                epoch += 1;
                ports.board.uplink.connects.add(1);
                reasons.clear();
                let broker = wire.broker().to_owned();
                let version = wire.terms().version.name();
                info!(%broker, version, epoch, "uplink connected");
                ports.board.uplink.set_broker(&broker, version);
                if last.as_ref() != Some(&target) {
                    // What another broker refused says nothing about this one.
                    ports.blame.forget();
                    last = Some(target.clone());
                }
                returns.connected(place);
                let leave = reason_to_leave(&library, &settings, &paths, &returns, &target);
                let end = connection::serve(&mut ports, &settings, &publisher, wire, epoch, leave);
                let (failure, good) = match Box::pin(end).await {
                    End::Finished => {
                        info!(%broker, epoch, "uplink disconnected");
                        break;
                    }
                    End::Left(why) => {
                        ports.parked.ended();
                        let error = match why {
                            Leave::Return => {
                                returns.left();
                                format!(
                                    "{broker} was left for the first choice, which answers again"
                                )
                            }
                            Leave::Version => format!("{broker} is asked for MQTT 5 again"),
                        };
                        info!(%broker, epoch, "{error}");
                        ports.outlet.push(Event::Down {
                            epoch,
                            error,
                            hung_up: false,
                        });
                        continue;
                    }
                    End::Lost { failure, good } => (failure, good),
                };
                warn!(%broker, epoch, error = %failure.sentence, "uplink lost; data goes to the spool");
                ports.parked.ended();
                if good {
                    paths.route.stay(place);
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

/// Where the brokers are, and what they speak.
struct Paths {
    route: Route,
    versions: Versions,
}

impl Paths {
    /// One attempt: every address of every broker, the first choice first. Tells the place of the
    /// broker in the list.
    async fn connect<D: Dial>(
        &mut self,
        library: &D,
        settings: &Arc<Settings>,
        publisher: &Publisher,
    ) -> Result<(D::Wire, usize, Target), Failure> {
        let mut failures: Vec<Failure> = Vec::new();
        for (place, broker) in self.route.brokers().to_vec().iter().enumerate() {
            let addresses = match library.resolve(broker).await {
                Ok(addresses) => addresses,
                Err(failure) => {
                    failures.push(failure);
                    continue;
                }
            };
            // Of several addresses the last one speaks for all.
            let mut last = None;
            for target in self.route.order(place, addresses) {
                match self.dial(library, settings, publisher, &target).await {
                    Ok(wire) => return Ok((wire, place, target)),
                    Err(failure) => last = Some(failure),
                }
            }
            failures.extend(last);
        }
        Err(together(failures))
    }

    /// One address, with the versions of MQTT that it may speak.
    async fn dial<D: Dial>(
        &mut self,
        library: &D,
        settings: &Arc<Settings>,
        publisher: &Publisher,
        target: &Target,
    ) -> Result<D::Wire, Failure> {
        let mut trial = self.versions.begin(target, Instant::now());
        loop {
            let attempt = Attempt {
                target: target.clone(),
                version: trial.version,
                // The moment of the end is not known now; it is not before this one.
                will: publisher.hub_status("offline", clock::now()),
            };
            match library.dial(settings, &attempt).await {
                Ok(wire) => {
                    self.versions.agreed(&trial, target, Instant::now());
                    return Ok(wire);
                }
                Err(missed) => {
                    if !self.versions.failed(&mut trial, target, missed.version) {
                        return Err(missed.failure);
                    }
                    debug!(error = %missed.failure.sentence, "trying MQTT {}", trial.version.name());
                }
            }
        }
    }
}

/// Between two looks at the first choice: often enough to notice that it comes and goes.
const LOOKS: u32 = 5;

/// No longer than this between them.
const LONGEST_LOOK: Duration = Duration::from_secs(60);

/// Waits for a reason to leave a connection that works. Cancel safe.
async fn reason_to_leave<D: Dial>(
    library: &D,
    settings: &Arc<Settings>,
    paths: &Paths,
    returns: &Returns,
    target: &Target,
) -> Leave {
    let again = async {
        match paths.versions.again(target) {
            Some(time) => tokio::time::sleep_until(time).await,
            None => std::future::pending().await,
        }
    };
    let back = async {
        let (Some(wait), Some(first)) = (returns.wait(), paths.route.brokers().first()) else {
            return std::future::pending().await;
        };
        let mut since = None;
        loop {
            tokio::time::sleep((wait / LOOKS).min(LONGEST_LOOK)).await;
            if !answers(library, settings, first).await {
                since = None;
            } else if since.get_or_insert_with(Instant::now).elapsed() >= wait {
                return;
            }
        }
    };
    tokio::select! {
        () = again => Leave::Version,
        () = back => Leave::Return,
    }
}

/// Whether one of a broker's addresses answers.
async fn answers<D: Dial>(library: &D, settings: &Arc<Settings>, broker: &Target) -> bool {
    for address in library.resolve(broker).await.unwrap_or_default() {
        if library.knock(settings, &address).await {
            return true;
        }
    }
    false
}

/// What several brokers said, in one sentence.
fn together(mut failures: Vec<Failure>) -> Failure {
    if failures.len() == 1
        && let Some(only) = failures.pop()
    {
        return only;
    }
    let sentences: Vec<_> = failures.iter().map(|failure| &*failure.sentence).collect();
    Failure {
        needs_someone: failures.iter().any(|failure| failure.needs_someone),
        ..Failure::passing(sentences.join("; "))
    }
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
