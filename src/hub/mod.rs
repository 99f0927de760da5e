//! The wiring: channels, tasks, and the order of stopping.
//!
//! The stop follows the data. 1: the device port closes and the sessions end (1001), which drops
//! the last senders into the intake. 2: the intake makes safe what it holds, closes the spool,
//! and drops its sender to the uplink. 3: the uplink tells the broker who is offline, itself
//! last, and disconnects. A second signal or ten seconds ends it all regardless; what was acked is
//! on disk or PUBACKed at any moment, so that costs nothing but a few resent batches.

mod commands;
mod local;
mod reload;
mod remember;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::net::{TcpListener, TcpSocket};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;

use self::reload::Reload;
use self::remember::Remember;
use crate::config::{self, Auth, Config, DrainOrder, Overflow, SpoolWrite};
use crate::intake::group_commit::HOLD_BACK;
use crate::intake::lanes::Settings;
use crate::intake::port::{Close, IntakePort};
use crate::intake::{self, Wiring};
use crate::listen::Server;
use crate::pulse::Heart;
use crate::reduce::Rules;
use crate::service::{self, Manager};
use crate::session::roster::Roster;
use crate::status::board::Board;
use crate::status::presence::Outbox;
use crate::{admin, clock, log, memory, spool, stop, uplink};

/// The stop takes no longer than this.
const STOP: Duration = Duration::from_secs(10);

/// Connections that may wait in the kernel for the device port, as telehub.socket has it: all
/// sensors of a site come back at once after a restart. The kernel's own bound is below this
/// (`net.core.somaxconn`).
const DEVICE_BACKLOG: u32 = 4_096;

/// The same for the admin listener, where a handful of browsers and scrapers come.
const ADMIN_BACKLOG: u32 = 128;

/// Batches between the sessions and the intake. The intake empties it in one go whenever it runs,
/// so it only smooths; each may be as large as `max_message`, so it is memory as well.
const ARRIVALS: usize = 128;

/// Attaches and detaches on their way. One connection has one at a time.
const CONTROLS: usize = 128;

/// PUBACKs and other news of the uplink on their way to the intake.
const UPLINK_NEWS: usize = 1_024;

/// The parts of the hub that run as tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Devices,
    Intake,
    Uplink,
    Admin,
    Commands,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Devices => "the device port",
            Self::Intake => "the intake",
            Self::Uplink => "the uplink",
            Self::Admin => "the admin listener",
            Self::Commands => "the room of the commands",
        })
    }
}

/// What a hub is started with beside its configuration.
#[derive(Debug)]
pub struct Start {
    /// Where the configuration came from; read again on SIGHUP.
    pub file: PathBuf,
    /// The device port, when systemd holds it. Not blocking.
    pub socket: Option<std::net::TcpListener>,
}

/// Runs the hub until SIGTERM or SIGINT, or until a part of it ends by itself.
///
/// # Errors
/// When a port cannot be bound or TLS files cannot be read; when a part ended by itself; when the
/// stop left batches that could not be made safe.
pub async fn run(config: Config, start: Start) -> anyhow::Result<()> {
    let manager = Manager::new();
    let mut signals = Signals::new()?;
    let mut hangup = signal(SignalKind::hangup()).context("cannot listen for signals")?;
    let reload = Reload::new(start.file, config.clone());
    let Config {
        hub,
        devices,
        spool,
        uplink,
        reduce,
        values,
        homeassistant,
        commands,
        admin,
        log: _,
    } = config;
    let rules = Rules::new(reduce);
    let board = Board::new(&hub.id);
    board.spool.max_size.set(spool.max_size);
    board.spool.set_path(&spool.path);
    let remember = Remember::new(&spool.path, board.clone(), devices.forget_after);
    remember.restore();
    let outbox = Arc::new(Outbox::default());
    if devices.auth == Auth::Open {
        board.devices.limit(devices.max_ids);
        outbox.limit(devices.max_ids);
    }
    let roster = Roster::new(devices.max_connections, board.clone(), outbox.clone());
    let listener = match start.socket {
        Some(socket) => inherit(socket, &devices)?,
        None => listen("devices.listen", devices.listen, DEVICE_BACKLOG)?,
    };
    let admin_listener = match &admin {
        Some(admin) => Some(listen("admin.listen", admin.listen, ADMIN_BACKLOG)?),
        None => None,
    };

    let (stop_listen, listen_stop) = stop::channel();
    let memory_stop = listen_stop.clone();
    let (status_stop, feed_stop) = (listen_stop.clone(), listen_stop.clone());
    let remember_stop = listen_stop.clone();
    let (stop_uplink, uplink_stop) = stop::channel();
    let (stop_admin, admin_stop) = stop::channel();
    let (control, control_rx) = mpsc::channel(CONTROLS);
    let (data, data_rx) = mpsc::channel(ARRIVALS);
    // Twice the window: submissions of a connection that has just ended may still be in it.
    let (submit, submissions) = mpsc::channel(2 * uplink::window(&uplink) + 1);
    let (news, uplink_events) = mpsc::channel(UPLINK_NEWS);
    let (reconnect, given_up) = watch::channel(0);
    let (opened, spool_is_open) = oneshot::channel();

    let port = IntakePort { control, data };
    let mut heart = Heart::default();
    let mut server = Server::new(&devices, port, roster.clone(), listen_stop.clone())?
        .with_pulse(heart.pulse("the device port"))
        .with_ack_timeout(uplink.ack_timeout);
    let mut parts: JoinSet<(Part, anyhow::Result<()>)> = JoinSet::new();
    let (mut to_commands, mut operator, mut answers) = (None, None, None);
    if commands.enabled {
        let around = commands::Around {
            prefix: uplink.prefix.clone(),
            hub: hub.id.clone(),
            authority: server.authority(),
            board: board.clone(),
            pulse: heart.pulse("the commands"),
            stop: listen_stop,
        };
        let (wiring, ends) = commands::open(&commands, around);
        server = server.with_commands(ends.sessions, ends.desired);
        to_commands = Some(ends.uplink);
        operator = Some(ends.operator);
        answers = Some(ends.intake);
        parts.spawn(async move {
            crate::commands::run::run(wiring).await;
            (Part::Commands, Ok(()))
        });
    }
    let reloader = server.reloader();
    let (spool_sender, spool_events, spool_thread) =
        spool::start(&spool).context("cannot start the spool's thread")?;

    let work = spool_sender.work();
    let max_size = spool.max_size;
    let wiring = Wiring {
        settings: lane_settings(&spool, &uplink, &devices),
        rules: rules.clone(),
        control: control_rx,
        data: data_rx,
        answers,
        spool: spool_sender,
        spool_events,
        uplink: submit,
        uplink_events,
        reconnect,
        board: board.clone(),
        topics: format!("{}/{}", uplink.prefix, hub.id),
        pulse: heart.pulse("the intake"),
    };
    parts.spawn(async move {
        let opened = move || _ = opened.send(());
        (Part::Intake, intake::run(wiring, opened).await)
    });
    let uplink_settings = uplink::Settings {
        pulse: heart.pulse("the uplink"),
        values,
        rules,
        homeassistant,
        device_window: devices.window as usize,
        ..uplink::Settings::new(uplink, &hub.id)
    };
    let life = uplink::run(
        uplink_settings,
        submissions,
        outbox,
        news,
        board.clone(),
        given_up,
        uplink_stop,
        to_commands,
    );
    parts.spawn(async move {
        life.await;
        (Part::Uplink, Ok(()))
    });
    let doors = admin::Doors {
        tcp: admin_listener,
        unix: local::listen(),
    };
    if doors.tcp.is_some() || doors.unix.is_some() {
        let settings = admin_settings(admin.as_ref(), operator)?;
        if let Some(listener) = &doors.tcp {
            let address = listener
                .local_addr()
                .context("the admin listener has no address")?;
            tracing::info!(%address, "admin listening");
        }
        let board = board.clone();
        parts.spawn(async move {
            admin::serve_all(doors, board, settings, admin_stop).await;
            (Part::Admin, Ok(()))
        });
    }
    tokio::spawn(remember.clone().keep(remember_stop));
    tokio::spawn(clock::watch());
    let small = board.clone();
    tokio::spawn(async move { memory::keep_small(&small, memory_stop).await });
    tokio::spawn(log::tell_held_back());
    tokio::spawn(manager.keep_status(board.clone(), max_size, status_stop));
    let accepting = board.clone();
    let address = listener
        .local_addr()
        .context("the device port has no address")?;
    parts.spawn(async move {
        // Before the marks of the spool are known no device can be told where to resume.
        if spool_is_open.await.is_ok() {
            accepting.set_ready(true);
            tracing::info!(%address, "listening");
            manager.ready();
            tokio::spawn(service::feed(manager, heart, work, feed_stop));
            server.run(listener).await;
        }
        (Part::Devices, Ok(()))
    });
    tracing::info!(hub = hub.id, version = env!("CARGO_PKG_VERSION"), "started");

    let mut outcome = loop {
        tokio::select! {
            name = signals.next() => {
                tracing::info!(signal = name, "stopping");
                break Ok(());
            }
            _ = hangup.recv() => {
                tracing::info!("SIGHUP: configuration, registry and certificates are read again");
                manager.reloading();
                reloader.reload();
                let reload = reload.clone();
                // Beside everything else: the disk may hang.
                tokio::task::spawn_blocking(move || {
                    reload.read();
                    manager.ready();
                });
            }
            Some(ended) = parts.join_next() => break Err(unasked(ended)),
        }
    };

    manager.stopping();
    board.set_ready(false);
    stop_listen.stop();
    roster.close_all(Close::Stopping);
    stop_uplink.stop();
    let rest = async {
        while let Some(ended) = parts.join_next().await {
            let result = match ended {
                Ok((Part::Uplink, _)) => {
                    stop_admin.stop();
                    Ok(())
                }
                Ok((_, result)) => result,
                Err(panic) => Err(panic.into()),
            };
            if outcome.is_ok() {
                outcome = result;
            }
        }
        let last = move || {
            let _ = spool_thread.join();
            remember.save();
        };
        let _ = tokio::task::spawn_blocking(last).await;
    };
    tokio::select! {
        () = rest => {
            log::tell_held_back_now();
            tracing::info!("stopped");
        }
        name = signals.next() => anyhow::bail!("{name} came while stopping; ended at once"),
        () = tokio::time::sleep(STOP) => {
            anyhow::bail!("the stop took longer than {} s; ended at once", STOP.as_secs())
        }
    }
    outcome
}

fn admin_settings(
    admin: Option<&config::Admin>,
    operator: Option<admin::Commander>,
) -> anyhow::Result<admin::Settings> {
    let mut settings = admin::Settings::default();
    if let Some(admin) = admin {
        settings = admin::Settings::new(admin.token_file.as_deref(), admin.device_metrics)?
            .with_history(admin::HistorySettings {
                span: admin.history,
                bytes: usize::try_from(admin.history_size).unwrap_or(usize::MAX),
            });
    }
    Ok(match operator {
        Some(operator) => settings.with_commands(operator),
        None => settings,
    })
}

fn unasked(ended: Result<(Part, anyhow::Result<()>), tokio::task::JoinError>) -> anyhow::Error {
    let error = match ended {
        Ok((part, Ok(()))) => anyhow::anyhow!("{part} ended by itself"),
        Ok((part, Err(error))) => error.context(format!("{part} ended")),
        Err(panic) => anyhow::Error::new(panic).context("a part of the hub panicked"),
    };
    tracing::error!(
        error = format!("{error:#}"),
        "stopping, because a part of the hub ended"
    );
    error
}

fn listen(key: &str, address: std::net::SocketAddr, backlog: u32) -> anyhow::Result<TcpListener> {
    let bind = || {
        let socket = match address {
            std::net::SocketAddr::V4(_) => TcpSocket::new_v4()?,
            std::net::SocketAddr::V6(_) => TcpSocket::new_v6()?,
        };
        // So that the hub can start again while connections of the one before are still ending.
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(backlog)
    };
    bind().with_context(|| {
        format!("cannot listen on {address} ({key}); is another hub running, or the address taken?")
    })
}

/// The device port that systemd holds.
fn inherit(
    socket: std::net::TcpListener,
    devices: &config::Devices,
) -> anyhow::Result<TcpListener> {
    let listener = TcpListener::from_std(socket).context("cannot take over systemd's socket")?;
    let address = listener
        .local_addr()
        .context("systemd's socket has no address")?;
    tracing::info!(
        instead_of = %devices.listen,
        address = %address,
        "the device port is systemd's socket, not devices.listen"
    );
    if devices.auth == Auth::Open && !address.ip().is_loopback() {
        tracing::warn!(
            %address,
            "auth = \"open\" lets everybody who reaches this address send as any device"
        );
    }
    Ok(listener)
}

fn lane_settings(
    spool: &config::Spool,
    uplink: &config::Uplink,
    devices: &config::Devices,
) -> Settings {
    Settings {
        write_always: spool.write == SpoolWrite::Always,
        in_order: uplink.drain == DrainOrder::InOrder,
        refuse: spool.overflow == Overflow::Refuse,
        window: uplink::window(uplink),
        pack: uplink.pack,
        pack_delay: match uplink.pack {
            0 => Duration::ZERO,
            _ => uplink.pack_delay,
        },
        device_window: devices.window as usize,
        ack_timeout: uplink.ack_timeout,
        max_age: spool.max_age,
        live_batches: Settings::LIVE_BATCHES,
        live_bytes: Settings::LIVE_BYTES,
        held_bytes: Settings::HELD_BYTES,
        hold_back: HOLD_BACK,
        commit_interval: spool.commit_interval,
    }
}

/// The signals that ask for a stop.
struct Signals {
    term: Signal,
    int: Signal,
}

impl Signals {
    fn new() -> anyhow::Result<Self> {
        let listen = |kind| signal(kind).context("cannot listen for signals");
        Ok(Self {
            term: listen(SignalKind::terminate())?,
            int: listen(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.term.recv() => "SIGTERM",
            _ = self.int.recv() => "SIGINT",
        }
    }
}
