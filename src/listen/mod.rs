//! The device port: accept, TLS, HTTP upgrade, credentials, limits.
//!
//! A connection costs one short task for the handshake, under one timeout from accept to upgrade,
//! and then one small task for the session. Whatever goes wrong on the way ends that connection
//! and nothing else.

mod access;
mod admission;
mod attempts;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
mod gate;
mod handshake;
mod handshakes;
mod origin;
mod paced;
mod post;
mod refusal;
pub mod registry;
mod socket;
mod tls;
mod turns;
mod upgrade;
mod version;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tracing::{debug, warn};

use self::access::{Access, Certificates};
use self::attempts::Origin;
use self::gate::{Gate, Loudness, Open, PushedOut};
use self::handshake::{Upgraded, handshake};
use self::origin::Pages;
use self::paced::Pace;
use self::registry::Registry;
pub use self::socket::Socket;
pub use self::tls::TlsError;
use self::tls::{Tls, unix_seconds};
use crate::commands::authority::Authority;
use crate::commands::desired::Desired;
use crate::commands::port::CommandPort;
use crate::config::{Auth, Devices};
use crate::intake::port::{Close, IntakePort};
use crate::pulse::Pulse;
use crate::session::roster::Roster;
use crate::session::wire::Wire;
use crate::session::{self, Settings};
use crate::stop::Stop;
use crate::tls_errors::{self, Peer};

/// Sockets beyond `max_connections`: those of the handshakes, which make room for each other, and
/// as many of connections that are being closed, each for a second or two at most. Only when all
/// are taken do newcomers wait in the kernel's queue.
const EXTRA_SOCKETS: usize = 2 * handshakes::ALL;

/// How often the registry and the TLS files are looked at. A change has to be followed within 2
/// seconds.
const LOOK_INTERVAL: Duration = Duration::from_millis(900);

/// Pause after accept failed for want of file descriptors or memory: the connection stays in the
/// queue, and trying at once would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// How long sessions may take to end once the stop is asked for; half of the ten seconds in which
/// the hub stops.
const STOP_TIME: Duration = Duration::from_secs(5);

/// How long a handshake may still take once the stop is asked for: enough to be told so.
const STOP_HANDSHAKE: Duration = Duration::from_millis(500);

/// The default of `uplink.ack_timeout`.
const ACK_TIMEOUT: Duration = Duration::from_secs(10);

/// What every connection needs.
struct Shared {
    access: Arc<Access>,
    pages: Pages,
    gate: Arc<Gate>,
    tls: Option<Arc<Tls>>,
    pace: Arc<Pace>,
    handshake_timeout: Duration,
    /// How long a batch by `POST` waits until it is safe.
    ack_timeout: Duration,
    settings: Arc<Settings>,
    port: IntakePort,
    roster: Arc<Roster>,
    stop: Stop,
}

/// Has the files of a [`Server`] read again.
#[derive(Debug, Clone)]
pub struct Reloader(Arc<Notify>);

impl Reloader {
    /// Asks for it. It is done beside everything else.
    pub fn reload(&self) {
        self.0.notify_one();
    }
}

/// The device port, ready to run.
pub struct Server {
    shared: Arc<Shared>,
    sockets: usize,
    dead_after: Duration,
    reload: Arc<Notify>,
    pulse: Pulse,
    files: Files,
}

impl Server {
    /// Reads the registry and the TLS files. `roster`: of `max_connections` seats.
    ///
    /// # Errors
    /// When TLS is configured and its files cannot be used.
    pub fn new(
        devices: &Devices,
        port: IntakePort,
        roster: Arc<Roster>,
        stop: Stop,
    ) -> Result<Self, TlsError> {
        let tls = match &devices.tls {
            Some(files) => Some(Arc::new(Tls::open(files, devices.auth)?)),
            None => None,
        };
        let access = match (devices.auth, &tls) {
            (Auth::Open, _) => Access::Open,
            (Auth::Token, _) => Access::Token(Registry::open(&devices.registry)),
            (Auth::Certificate, None) => return Err(TlsError::NoClientCa),
            (Auth::Certificate, Some(tls)) => Access::Certificate(Certificates::new(tls.clone())),
        };
        // There entries only say more of devices that certificates let in.
        let roll = (devices.auth == Auth::Certificate)
            .then(|| Arc::new(Registry::optional(&devices.registry)));
        let files = Files {
            access: Arc::new(access),
            roll,
            tls: tls.clone(),
            roster: roster.clone(),
        };
        files.tell_roll();
        Ok(Self {
            sockets: devices.max_connections.saturating_add(EXTRA_SOCKETS),
            dead_after: devices.ping_interval + devices.ping_timeout,
            reload: Arc::default(),
            pulse: Pulse::default(),
            shared: Arc::new(Shared {
                access: files.access.clone(),
                pages: Pages::new(devices.auth, devices.origins.clone()),
                gate: Gate::new(),
                tls,
                pace: Pace::new(),
                handshake_timeout: devices.handshake_timeout,
                ack_timeout: ACK_TIMEOUT,
                settings: Arc::new(Settings::from(devices)),
                port,
                roster,
                stop,
            }),
            files,
        })
    }

    /// Asks for a look at the registry and the TLS files whether they seem to have changed or not.
    #[must_use]
    pub fn reloader(&self) -> Reloader {
        Reloader(self.reload.clone())
    }

    /// The same, and its sessions take commands to their devices.
    #[must_use]
    pub fn with_commands(mut self, port: CommandPort, desired: Arc<Desired>) -> Self {
        if let Some(shared) = Arc::get_mut(&mut self.shared) {
            let settings = Settings::clone(&shared.settings);
            shared.settings = Arc::new(Settings {
                commands: Some(port),
                desired: Some(desired),
                ..settings
            });
        }
        self
    }

    /// Which device takes which commands, as of now and of every change in the registry. In
    /// `auth = "open"` anybody could be any device, so none takes any.
    #[must_use]
    pub fn authority(&self) -> watch::Receiver<Arc<Authority>> {
        match self.files.registry() {
            Some(registry) => registry.authority(),
            None => watch::Sender::default().subscribe(),
        }
    }

    /// The same, and it answers the watchdog.
    #[must_use]
    pub fn with_pulse(self, pulse: Pulse) -> Self {
        Self { pulse, ..self }
    }

    /// The same, and a batch by `POST` waits so long until it is safe (`uplink.ack_timeout`).
    #[must_use]
    pub fn with_ack_timeout(mut self, ack_timeout: Duration) -> Self {
        // Nobody else has it yet.
        if let Some(shared) = Arc::get_mut(&mut self.shared) {
            shared.ack_timeout = ack_timeout;
        }
        self
    }

    /// Serves one connection up to the end of its opening handshake and hands out its WebSocket,
    /// set up as every session's is, instead of running a session on it. How often somebody comes
    /// is not counted. `None`: it was refused or lost, or took longer than `handshake_timeout`.
    pub async fn upgrade(&self, tcp: TcpStream, remote: SocketAddr) -> Option<Wire<Socket>> {
        let shared = &self.shared;
        socket::prepare(&tcp, self.dead_after).ok()?;
        let gate = Gate::new();
        let (open, _) = gate.open(remote.ip());
        let outcome = timeout(
            shared.handshake_timeout,
            handshake(
                shared,
                &gate,
                &open,
                tcp,
                remote.ip().into(),
                &AtomicBool::new(false),
            ),
        )
        .await;
        let upgraded = outcome.ok()?.ok()??;
        Some(
            Wire::new(
                upgraded.socket,
                upgraded.already_read,
                shared.settings.max_message,
            )
            .await,
        )
    }

    /// Accepts devices until the stop is asked for, then waits a few seconds for the sessions to
    /// end. Who asks them to end is the roster's owner.
    pub async fn run(self, listener: TcpListener) {
        let Self {
            shared,
            sockets,
            dead_after,
            reload,
            mut pulse,
            files,
        } = self;
        let mut looking: Option<JoinHandle<()>> = None;
        let sockets = u32::try_from(sockets).unwrap_or(u32::MAX);
        let free = Arc::new(Semaphore::new(sockets as usize));
        let mut stop = shared.stop.clone();
        let mut look = interval(LOOK_INTERVAL);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut acceptor = Acceptor::new(listener, free.clone());
        loop {
            let (tcp, remote, permit) = tokio::select! {
                () = stop.requested() => break,
                () = reload.notified() => {
                    files.read_again();
                    look.reset_immediately();
                    continue;
                }
                _ = look.tick() => {
                    shared.roster.look_for_sleepers(Instant::now());
                    // Beside everything else: a disk that hangs must not hold up the devices.
                    if looking.as_ref().is_none_or(JoinHandle::is_finished) {
                        let files = files.clone();
                        looking = Some(tokio::task::spawn_blocking(move || files.follow()));
                    }
                    continue;
                }
                () = pulse.asked() => {
                    pulse.answer().await;
                    continue;
                }
                accepted = acceptor.next() => accepted,
            };
            if let Err(error) = socket::prepare(&tcp, dead_after) {
                debug!(%remote, %error, "connection lost before the handshake");
                continue;
            }
            let open = shared.gate.open(remote.ip());
            tokio::spawn(connection(shared.clone(), tcp, remote, permit, open));
        }
        // Closes the port, so that devices are refused at once.
        drop(acceptor);
        drop(shared);
        let _ = timeout(STOP_TIME, free.acquire_many(sockets)).await;
    }
}

/// The files that are followed while the hub runs.
#[derive(Clone)]
struct Files {
    access: Arc<Access>,
    /// The registry, where it admits nobody.
    roll: Option<Arc<Registry>>,
    tls: Option<Arc<Tls>>,
    roster: Arc<Roster>,
}

impl Files {
    fn registry(&self) -> Option<&Registry> {
        match &*self.access {
            Access::Token(registry) => Some(registry),
            Access::Certificate(_) | Access::Open => self.roll.as_deref(),
        }
    }

    /// Tells the board which devices there are to be.
    fn tell_roll(&self) {
        if let Some(roll) = self.registry().and_then(Registry::take_roll) {
            self.roster.board().devices.expect(roll);
        }
    }

    /// Looks at them, and closes the sessions of devices that may no longer connect. Blocks.
    fn follow(&self) {
        let renewed = self.tls.as_ref().is_some_and(|tls| tls.refresh());
        let lost = match &*self.access {
            Access::Token(registry) => registry.refresh(),
            Access::Certificate(certificates) if renewed => certificates.rejected(),
            Access::Certificate(certificates) => certificates.over(unix_seconds()),
            Access::Open => Vec::new(),
        };
        if let Some(tls) = &self.tls {
            let devices = &self.roster.board().devices;
            devices.old_revocation_lists.set(tls.old_lists() as u64);
        }
        for device in lost {
            self.roster.close(&device, Close::Revoked);
        }
        if let Some(roll) = &self.roll {
            roll.refresh();
        }
        self.tell_roll();
    }

    fn read_again(&self) {
        if let Some(tls) = &self.tls {
            tls.read_again();
        }
        if let Some(registry) = self.registry() {
            registry.read_again();
        }
    }
}

/// Accepts connections, each with the permit for its socket.
struct Acceptor {
    listener: TcpListener,
    free: Arc<Semaphore>,
    permit: Option<OwnedSemaphorePermit>,
    failing: bool,
}

impl Acceptor {
    fn new(listener: TcpListener, free: Arc<Semaphore>) -> Self {
        Self {
            listener,
            free,
            permit: None,
            failing: false,
        }
    }

    /// Cancel safe.
    async fn next(&mut self) -> (TcpStream, SocketAddr, OwnedSemaphorePermit) {
        loop {
            if self.permit.is_none() {
                // An error would mean that the semaphore is closed, which it never is.
                self.permit = self.free.clone().acquire_owned().await.ok();
            }
            match self.listener.accept().await {
                Ok((tcp, remote)) => {
                    self.failing = false;
                    if let Some(permit) = self.permit.take() {
                        return (tcp, remote, permit);
                    }
                }
                // The device gave up while it waited in the queue.
                Err(error) if is_the_peers(&error) => {}
                Err(error) => {
                    if !self.failing {
                        self.failing = true;
                        warn!(%error, "cannot accept devices for the moment");
                    }
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

fn is_the_peers(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
    )
}

/// The handshake of one connection. Its task ends with it, and frees what HTTP and TLS took.
async fn connection(
    shared: Arc<Shared>,
    tcp: TcpStream,
    remote: SocketAddr,
    permit: OwnedSemaphorePermit,
    (open, pushed_out): (Open, PushedOut),
) {
    let origin = Origin::from(remote.ip());
    let mut stop = shared.stop.clone();
    let posted = AtomicBool::new(false);
    let cut = async {
        let stopped = async {
            stop.requested().await;
            sleep(STOP_HANDSHAKE).await;
        };
        // Either way the time is up.
        let _ = timeout(shared.handshake_timeout, stopped).await;
        if posted.load(Relaxed) {
            // It has its answer before that.
            sleep(shared.ack_timeout + STOP_HANDSHAKE).await;
        }
    };
    let outcome = tokio::select! {
        outcome = handshake(&shared, &shared.gate, &open, tcp, origin, &posted) => outcome,
        () = pushed_out.heard() => {
            let reason = "too many open handshakes; this one made room for a newer one";
            return shared.gate.log(Loudness::Info, origin, reason, "");
        }
        () = cut => {
            let reason = "handshake not finished in time";
            return shared.gate.log(Loudness::Info, origin, reason, "");
        }
    };
    drop(open);
    match outcome {
        Ok(Some(upgraded)) => {
            start_session(&shared, upgraded, remote, permit);
        }
        Ok(None) => {}
        Err(error) => {
            // Without its certificate being accepted a device cannot even be refused by name.
            let device = matches!(*shared.access, Access::Certificate(_))
                && error.kind() == io::ErrorKind::InvalidData;
            let loudness = if device {
                Loudness::Warn
            } else {
                Loudness::Info
            };
            let sentence = describe(&error);
            shared
                .gate
                .log(loudness, origin, "handshake failed", &sentence);
        }
    }
}

/// What went wrong before the request, and where to look.
fn describe(error: &io::Error) -> String {
    let cause = error.get_ref().and_then(|inner| inner.downcast_ref());
    if let Some(cause) = cause {
        let peer = Peer {
            who: "the device",
            trust: "client_ca of [devices.tls]",
            name: "the host that it connects to",
            own: "cert of [devices.tls]",
            shows_own: true,
        };
        return tls_errors::tell(cause, peer).sentence;
    }
    if error.kind() == io::ErrorKind::UnexpectedEof {
        return "the device hung up in the middle of the handshake, without saying why; with TLS it \
                may not trust cert of [devices.tls]"
            .to_owned();
    }
    error.to_string()
}

fn start_session(
    shared: &Shared,
    upgraded: Upgraded,
    remote: SocketAddr,
    permit: OwnedSemaphorePermit,
) {
    let Upgraded {
        socket,
        already_read,
        device,
        grant,
        seat,
    } = upgraded;
    let present = shared.roster.enter(device.into(), remote.to_string(), seat);
    // What it was granted for may have changed between the answer and the entry, when there was
    // no session yet to close.
    if !shared.access.enter(&present.device, &grant) {
        present.mailbox.close(Close::Revoked);
    }
    let (settings, port) = (shared.settings.clone(), shared.port.clone());
    let (access, device) = (shared.access.clone(), present.device.clone());
    // Ten thousand of these wait at a time: what only the beginning needs is no part of it.
    tokio::spawn(async move {
        let wire = Wire::new(socket, already_read, settings.max_message).await;
        session::run(wire, &settings, port, present).await;
        access.leave(&device, &grant);
        drop(permit);
    });
}
