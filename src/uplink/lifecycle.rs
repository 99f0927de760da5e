//! The uplink's life: connect, serve, wait, connect again, until the submissions end.

use std::sync::Arc;

use tokio::sync::{mpsc, watch};
use tracing::{debug, error, info, warn};

use super::backoff::Backoff;
use super::blame::Blame;
use super::connection::packs::Known as KnownPacks;
use super::connection::{self, End, Leave};
use super::event_queue::EventQueue;
use super::failure::Failure;
use super::homeassistant::Discovery;
use super::parked::Parked;
use super::paths::{Paths, reason_to_leave};
use super::ports::Ports;
use super::publication::Publisher;
use super::route::{Returns, Target};
use super::transport::{Client, Dial, Wire};
use super::twins::Twins;
use super::values::Values;
use super::{Event, Settings, Submission, retained_states};
use crate::clock;
use crate::commands::port::{News, UplinkWays};
use crate::status::board::{Board, UplinkState};
use crate::status::presence::Outbox;
use crate::stop::Stop;

/// Different reasons for failing to connect that are remembered as logged. More than these
/// means that the sentences themselves vary; the rest is for `debug`.
const REASONS: usize = 16;

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
    commands: Option<UplinkWays>,
) {
    let broker = &settings.broker;
    let takes_commands = commands.is_some();
    let ports = Ports {
        submissions,
        events: EventQueue::new(events),
        outbox,
        board,
        reconnect,
        pulse: settings.pulse.clone(),
        clock: clock::changes(),
        parked: Parked::default(),
        desired: commands.as_ref().map(|ways| ways.desired.clone()),
        authority: commands.as_ref().map(|ways| ways.authority.clone()),
        commands,
        hub_pause: None,
        blame: Blame::default(),
        packs: KnownPacks::default(),
        twins: Twins::default(),
        values: Values::new(
            &settings.values,
            settings.homeassistant.discovery,
            &settings.rules,
        ),
        discovery: settings.homeassistant.discovery.then(|| {
            let plain = settings.values.plain;
            Discovery::new(&broker.prefix, &settings.hub, &settings.version, plain)
        }),
        client_id: broker.client_id.clone(),
        stale_attempts: retained_states::ATTEMPTS,
        barren: false,
        stop,
    };
    let lifecycle = Lifecycle {
        publisher: Publisher::new(
            &broker.prefix,
            &settings.hub,
            broker.format,
            &settings.version,
            broker.max_payload,
            takes_commands,
        )
        .with_dots(broker.topic_dots),
        paths: Paths::new(&settings),
        returns: Returns::new(broker.return_after),
        backoff: Backoff::new(settings.pace.first_retry, settings.pace.longest_retry),
        settings: Arc::new(settings),
        library,
        ports,
        reasons: Vec::new(),
        last: None,
        epoch: 0,
    };
    lifecycle.run().await;
}

/// What there is beside the connection, over all connections.
struct Lifecycle<D> {
    library: D,
    settings: Arc<Settings>,
    publisher: Publisher,
    ports: Ports,
    paths: Paths,
    returns: Returns,
    backoff: Backoff,
    /// Reasons for failing to connect that the log has.
    reasons: Vec<String>,
    /// The broker of the last connection: host and port.
    last: Option<(String, u16)>,
    epoch: u64,
}

/// What follows a connection, or the failure to make one.
enum Next {
    Stop,
    /// The next connection, at once.
    Connect,
    /// The next connection, after a while.
    Wait(Failure),
}

impl<D: Dial> Lifecycle<D> {
    async fn run(mut self) {
        loop {
            match self.once().await {
                Next::Stop => break,
                Next::Connect => {}
                Next::Wait(failure) => {
                    let error = Some(failure.sentence.clone());
                    self.ports.show(UplinkState::Down, error);
                    self.down(failure.sentence, failure.hung_up);
                    let wait = self.backoff.next(self.library.chance());
                    debug!(?wait, "next connect");
                    let over = self.ports.idle(tokio::time::sleep(wait)).await;
                    if over.is_none() {
                        break;
                    }
                }
            }
        }
        self.ports.show(UplinkState::Down, None);
    }

    fn down(&mut self, error: String, hung_up: bool) {
        self.ports.events.push(Event::Down {
            epoch: self.epoch,
            error,
            hung_up,
        });
    }

    /// One attempt to connect, and the connection that comes of it.
    async fn once(&mut self) -> Next {
        self.ports.show(UplinkState::Connecting, None);
        let connect =
            self.paths
                .connect(&self.library, &self.settings, Client::Hub(&self.publisher));
        let Some(attempt) = self.ports.idle(connect).await else {
            return Next::Stop;
        };
        match attempt {
            Err(failure) => {
                self.ports.board.uplink.connect_failures.add(1);
                log_failure(&failure, &mut self.reasons);
                Next::Wait(failure)
            }
            Ok((wire, place, target)) => self.connected(wire, place, target).await,
        }
    }

    async fn connected(&mut self, wire: D::Wire, place: usize, target: Target) -> Next {
        self.epoch += 1;
        self.reasons.clear();
        let (broker, epoch) = (wire.broker().to_owned(), self.epoch);
        let version = wire.terms().version.name();
        info!(%broker, version, epoch, "uplink connected");
        let board = &self.ports.board.uplink;
        board.connects.add(1);
        board.set_broker(&broker, version);
        let here = Some((target.host.clone(), target.port));
        if self.last != here {
            // What another broker refused says nothing about this one.
            self.ports.blame.forget();
            self.ports.packs = KnownPacks::default();
            if let Some(values) = &mut self.ports.values {
                values.forgive();
            }
            self.last = here;
        }
        self.returns.connected(place);
        let (library, settings) = (&self.library, &self.settings);
        let leave = reason_to_leave(library, settings, &self.paths, &self.returns, &target);
        let end = connection::serve(
            &mut self.ports,
            settings,
            &self.publisher,
            wire,
            epoch,
            leave,
        );
        let end = Box::pin(end).await;
        let barren = std::mem::take(&mut self.ports.barren);
        self.paths.shun(barren.then_some(place));
        self.ports.board.commands.listening.set(0);
        self.ports.tell_commands(News::Down);
        self.ports.parked.ended();
        let hung_up =
            matches!(&end, End::Lost { failure, .. } if failure.hung_up && !failure.is_explained());
        self.ports.lose_values(hung_up);
        match end {
            End::Finished => {
                info!(%broker, epoch, "uplink disconnected");
                Next::Stop
            }
            End::Left(why) => {
                let error = match why {
                    Leave::Return => {
                        self.returns.left();
                        format!("{broker} was left for the first choice, which answers again")
                    }
                    Leave::Version => format!("{broker} is asked for MQTT 5 again"),
                };
                info!(%broker, epoch, "{error}");
                self.down(error, false);
                Next::Connect
            }
            End::Lost { failure, good } => {
                warn!(%broker, epoch, error = %failure.sentence, "uplink lost; data goes to the spool");
                if good {
                    self.paths.route.stay(place);
                    self.backoff.reset();
                }
                Next::Wait(failure)
            }
        }
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
