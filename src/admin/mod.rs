//! The admin listener: HTTP/1.1 for the operator, answered from the board alone.
//!
//! Nothing here waits for the rest of the hub, and nothing in the hub waits for this: a client
//! that reads slowly, or not at all, costs one of [`MAX_CONNECTIONS`] until its time is over. The one
//! thing that waits for others is a command (`command`), for which its own connection waits.

mod answer;
mod change;
mod command;
mod events;
mod guard;
mod history;
mod host;
mod line;
mod list;
mod metrics;
pub mod page;
mod query;
mod readings;
mod reply;
mod seats;
mod token;

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustix::net::sockopt;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

pub use self::command::Commander;
use self::guard::Wrong;
use self::history::History;
pub use self::history::Settings as HistorySettings;
use self::line::{Line, Table};
use self::token::Token;
use crate::status::board::Board;
use crate::stop::Stop;

/// Connections at a time: a few browsers, a monitoring system, and some that hang. Each takes
/// about 10 KiB.
pub const MAX_CONNECTIONS: usize = 64;

/// From accept, or from the last answer, to the end of the next request's header.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);

/// How long one connection is served. Clients that keep it open connect again. Events have no
/// such end, nor has a command that is waited for.
const LIFETIME: Duration = Duration::from_secs(120);

/// How long the other end may leave what it is sent unacknowledged, milliseconds: a phone that
/// went out of reach does not keep the place of a reader of events.
const UNACKNOWLEDGED: u32 = 30_000;

/// How long an answer that is on its way may take once the connection is to end.
const GRACE: Duration = Duration::from_secs(1);

/// Bytes of a request's header; ours fit into a tenth.
const MAX_HEADER: usize = 16 * 1024;

/// Pause when the process has no file descriptor left: the next accept would fail at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(500);

/// What a client hears when [`MAX_CONNECTIONS`] are open, each by right.
const FULL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\
    Retry-After: 1\r\nConnection: close\r\n\r\n";

/// What can be set.
#[derive(Debug, Default)]
pub struct Settings {
    token: Option<Token>,
    device_metrics: bool,
    history: HistorySettings,
    commands: Option<Commander>,
}

impl Settings {
    /// `token_file`: what requests need is its first line. `device_metrics`: `/metrics` has
    /// metrics of each device.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn new(token_file: Option<&Path>, device_metrics: bool) -> anyhow::Result<Self> {
        let token = token_file
            .map(|file| {
                Token::read(file).with_context(|| format!("cannot read {}", file.display()))
            })
            .transpose()?;
        Ok(Self {
            token,
            device_metrics,
            history: HistorySettings::default(),
            commands: None,
        })
    }

    /// The same, and how much is kept of the last hours.
    #[must_use]
    pub fn with_history(self, history: HistorySettings) -> Self {
        Self { history, ..self }
    }

    /// The same where commands are on.
    #[must_use]
    pub fn with_commands(self, commands: Commander) -> Self {
        Self {
            commands: Some(commands),
            ..self
        }
    }
}

/// What the answers need to know.
#[derive(Debug)]
struct Desk {
    board: Arc<Board>,
    settings: Settings,
    bound: Option<SocketAddr>,
    wrong: Wrong,
    history: History,
}

/// Serves `board` on `listener` until the stop is asked for, and a second longer at most.
pub async fn run(listener: TcpListener, board: Arc<Board>, settings: Settings, stop: Stop) {
    let doors = Doors {
        tcp: Some(listener),
        unix: None,
    };
    serve_all(doors, board, settings, stop).await;
}

/// Where the listener is reached.
#[derive(Debug)]
pub struct Doors {
    /// `admin.listen`.
    pub tcp: Option<TcpListener>,
    /// A socket of this machine. Whoever may open it needs no token, because its mode says who may.
    pub unix: Option<UnixListener>,
}

/// A client's end.
enum Client {
    Tcp(TcpStream, IpAddr),
    Unix(UnixStream),
}

impl Doors {
    /// Cancel safe.
    async fn next(&self) -> std::io::Result<Client> {
        let tcp = async {
            match &self.tcp {
                Some(listener) => listener.accept().await,
                None => std::future::pending().await,
            }
        };
        let unix = async {
            match &self.unix {
                Some(listener) => listener.accept().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            tcp = tcp => tcp.map(|(socket, remote)| Client::Tcp(socket, remote.ip())),
            unix = unix => unix.map(|(socket, _)| Client::Unix(socket)),
        }
    }
}

/// Serves `board` at all doors until the stop is asked for, and a second longer at most.
pub async fn serve_all(doors: Doors, board: Arc<Board>, settings: Settings, mut stop: Stop) {
    let desk = Arc::new(Desk {
        board: board.clone(),
        history: History::new(settings.history),
        settings,
        bound: doors.tcp.as_ref().and_then(|tcp| tcp.local_addr().ok()),
        wrong: Wrong::default(),
    });
    let table = Table::new(MAX_CONNECTIONS);
    let mut connections = JoinSet::new();
    let mut telling = pin!(events::tell(&board));
    let mut gathering = pin!(desk.history.gather(&board));
    loop {
        let accepted = tokio::select! {
            () = stop.requested() => break,
            Some(_) = connections.join_next() => continue,
            () = &mut telling => continue,
            () = &mut gathering => continue,
            accepted = doors.next() => accepted,
        };
        let client = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection to the admin listener");
                tokio::select! {
                    () = stop.requested() => break,
                    () = sleep(ACCEPT_PAUSE) => continue,
                }
            }
        };
        let (desk, stop) = (desk.clone(), stop.clone());
        match client {
            Client::Tcp(socket, from) => {
                let Some(line) = table.enter(from) else {
                    // Without waiting: whoever does not read it hears nothing.
                    let _ = socket.try_write(FULL);
                    continue;
                };
                // Small answers; the options' absence costs only time.
                let _ = socket.set_nodelay(true);
                let _ = sockopt::set_tcp_user_timeout(&socket, UNACKNOWLEDGED);
                connections.spawn(async move { serve(socket, &desk, line, stop).await });
            }
            Client::Unix(socket) => {
                let Some(line) = table.enter_local() else {
                    let _ = socket.try_write(FULL);
                    continue;
                };
                connections.spawn(async move { serve(socket, &desk, line, stop).await });
            }
        }
    }
    drop(doors);
    board.feed().close();
    let _ = timeout(GRACE, async {
        while connections.join_next().await.is_some() {}
    })
    .await;
}

async fn serve<S>(socket: S, desk: &Desk, line: Line, mut stop: Stop)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let line = &line;
    let service = service_fn(|request| async move {
        Ok::<_, Infallible>(answer::answer(desk, line, request).await)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(MAX_HEADER)
        .serve_connection(TokioIo::new(socket), service);
    tokio::pin!(connection);
    let mut lifetime = pin!(sleep(LIFETIME));
    // A peer's protocol error ends the peer's connection, which is all there is to do about it.
    loop {
        tokio::select! {
            _ = connection.as_mut() => return,
            () = line.cut.notified() => return,
            () = stop.requested() => break,
            () = &mut lifetime => {}
        }
        if !line.is_held() {
            break;
        }
        lifetime.as_mut().reset(Instant::now() + LIFETIME);
    }
    connection.as_mut().graceful_shutdown();
    let _ = timeout(GRACE, connection).await;
}
