//! What a scenario works with: a listener, the program, the ledger, and the hub's ordinary ways.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::TlsAcceptor;

use super::arrival::{Arrival, Io};
use super::frame::{self, FIN, PING};
use super::ledger::Ledger;
use super::program::{Environment, Program};
use super::scale::Scale;
use super::session::{Event, PATIENCE, Session, Terms};

/// The token that the device is given.
pub const TOKEN: &str = "Zk3-conformance_token-0123456789abcdefghijk";
/// A scenario that has not ended by then, in real time, will not.
const END: Duration = Duration::from_secs(180);
/// Connections that a device may give up before it has said hello.
const HASTY: usize = 5;
/// Protocol seconds between two pings of the harness: half of what the welcome promises.
const PING_EVERY: f64 = 50.0;

/// Rejects, acks or nothing, as the hub's answer to one batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// Acked at once.
    Ack,
    /// Acked with the batches that follow it, when the window is full or nothing more comes.
    Merge,
}

/// Everything of one scenario.
pub struct Rig {
    /// Where the device comes.
    pub listener: TcpListener,
    /// TLS, where the scenario wants it.
    pub tls: Option<TlsAcceptor>,
    /// Real seconds of a protocol second.
    pub scale: Scale,
    /// The device.
    pub program: Program,
    /// What the program was started with.
    pub environment: Environment,
    /// The command, to start it again.
    pub command: Vec<String>,
    /// A directory that the program keeps over its restarts.
    pub state: PathBuf,
    /// The judge.
    pub ledger: Arc<Mutex<Ledger>>,
    /// Terms of every welcome.
    pub terms: Terms,
    /// What is worth telling although it is no fault.
    pub notes: Vec<String>,
}

impl Rig {
    /// The judge, for writing.
    pub fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next TCP connection.
    ///
    /// # Errors
    /// When none comes within `protocol` seconds and a minute of real time.
    pub async fn connection(&mut self, protocol: f64) -> Result<(TcpStream, Instant), String> {
        let patience = self.scale.real(protocol) + PATIENCE;
        tokio::select! {
            accepted = timeout(patience, self.listener.accept()) => match accepted {
                Ok(Ok((stream, _))) => {
                    let _ = stream.set_nodelay(true);
                    Ok((stream, Instant::now()))
                }
                Ok(Err(error)) => Err(format!("accept: {error}")),
                Err(_) => Err(format!(
                    "the device did not come (again) within {protocol} s and a minute of real time"
                )),
            },
            status = self.program.ended() => Err(format!("the program ended early: {status}")),
        }
    }

    /// TLS on a connection, where the scenario has it.
    async fn secured(&self, stream: TcpStream) -> Result<Box<dyn Io>, String> {
        match &self.tls {
            None => Ok(Box::new(stream)),
            Some(tls) => match timeout(PATIENCE, tls.accept(stream)).await {
                Ok(Ok(stream)) => Ok(Box::new(stream)),
                Ok(Err(error)) => Err(format!("TLS: {error}")),
                Err(_) => Err("TLS: the device never finished its handshake".into()),
            },
        }
    }

    /// The next request, checked. A device that hangs up before it has said anything was in a hurry
    /// on a machine under load: it may come again.
    ///
    /// # Errors
    /// As [`Self::connection`], or when no request comes.
    pub async fn arrival(&mut self, protocol: f64) -> Result<Arrival, String> {
        let mut fault = String::new();
        for _ in 0..HASTY {
            let (stream, at) = self.connection(protocol).await?;
            let read = match self.secured(stream).await {
                Ok(io) => Arrival::read(io, at).await,
                Err(fault) => Err(fault),
            };
            match read {
                Ok(arrival) => {
                    for fault in arrival.faults(TOKEN) {
                        self.ledger().fault(fault);
                    }
                    return Ok(arrival);
                }
                Err(why) => fault = why,
            }
        }
        Err(fault)
    }

    /// The next connection up to its hello, which is not answered.
    ///
    /// # Errors
    /// As [`Self::arrival`], or when no hello comes.
    pub async fn session(&mut self, protocol: f64) -> Result<Session, String> {
        let arrival = self.arrival(protocol).await?;
        self.upgraded(arrival, protocol).await
    }

    /// Upgrades this connection, or one that follows where the device was in a hurry.
    ///
    /// # Errors
    /// As [`Self::session`].
    pub async fn upgraded(&mut self, arrival: Arrival, protocol: f64) -> Result<Session, String> {
        let mut session = self.upgrade(arrival).await;
        for _ in 1..HASTY {
            if session.is_ok() {
                break;
            }
            let arrival = self.arrival(protocol).await?;
            session = self.upgrade(arrival).await;
        }
        session
    }

    /// Upgrades and waits for the hello.
    ///
    /// # Errors
    /// When no hello comes.
    async fn upgrade(&mut self, mut arrival: Arrival) -> Result<Session, String> {
        let answer = arrival.switching();
        let _ = arrival.io.write_all(answer.as_bytes()).await;
        let _ = arrival.io.flush().await;
        let mut session = Session::new(arrival.io, arrival.behind, self.ledger.clone());
        match session.next("hello").await? {
            Event::Hello(_) => Ok(session),
            other => Err(format!("expected a hello first, got {other:?}")),
        }
    }

    /// The next connection, welcomed truthfully.
    ///
    /// # Errors
    /// As [`Self::session`].
    pub async fn welcomed(&mut self, protocol: f64) -> Result<Session, String> {
        let mut session = self.session(protocol).await?;
        self.welcome(&mut session).await;
        Ok(session)
    }

    /// Welcomes truthfully.
    pub async fn welcome(&mut self, session: &mut Session) {
        let (mark, known) = {
            let ledger = self.ledger();
            (ledger.mark(&session.stream), ledger.knows(&session.stream))
        };
        session.welcome(mark, known, &self.terms).await;
    }

    /// Takes `count` batches without an answer.
    ///
    /// # Errors
    /// When they do not come.
    pub async fn take(
        &mut self,
        session: &mut Session,
        count: usize,
    ) -> Result<Vec<super::ledger::Batch>, String> {
        let mut batches = Vec::new();
        while batches.len() < count {
            match session.next("data").await? {
                Event::Data(batch) => batches.push(batch),
                Event::Close(_) | Event::Ended(_) => {
                    return Err(format!(
                        "the device left after {} of {count} batches",
                        batches.len()
                    ));
                }
                _ => {}
            }
        }
        Ok(batches)
    }

    /// Serves one connection as a good hub does until it ends.
    pub async fn serve_with(&mut self, mut session: Session, answer: Answer) {
        let mut pings = tokio::time::interval(self.scale.real(PING_EVERY));
        let quiet = Duration::from_millis(100);
        loop {
            let event = tokio::select! {
                event = session.event() => event,
                _ = pings.tick() => {
                    session.raw(&frame::frame(FIN | PING, b"tick")).await;
                    continue;
                }
                () = sleep(quiet), if !session.unacked.is_empty() => {
                    let highest = session.unacked.iter().max().copied().unwrap_or(0);
                    session.ack(highest).await;
                    continue;
                }
            };
            match event {
                Event::Data(batch) => {
                    let full = session.unacked.len() as u64 >= self.terms.window;
                    if answer == Answer::Ack || full {
                        session.ack(batch.seq).await;
                    }
                }
                Event::Result(result) if result["more"] != true => {
                    let ack = json!({"ack": {"result": result["id"]}});
                    session.send(&ack).await;
                }
                Event::Close(code) => {
                    session.raw(&frame::close(code.unwrap_or(1000), "")).await;
                    session.linger().await;
                    return;
                }
                Event::Ended(_) => return,
                _ => {}
            }
        }
    }

    /// Serves as a good hub until the program ends, and judges what became of its readings.
    ///
    /// # Errors
    /// When it does not end.
    pub async fn until_done(&mut self) -> Result<(), String> {
        self.until_done_with(None, Answer::Ack).await
    }

    /// As [`Self::until_done`], beginning with a connection that is open.
    ///
    /// # Errors
    /// When it does not end.
    pub async fn until_done_with(
        &mut self,
        open: Option<Session>,
        answer: Answer,
    ) -> Result<(), String> {
        let until = Instant::now() + END;
        let mut open = open;
        while !self.program.said().done {
            if Instant::now() > until {
                return Err("the program did not get everything acked and say `done`".into());
            }
            let session = match open.take() {
                Some(session) => session,
                None => match self.session_or_end().await? {
                    Some(mut session) => {
                        self.welcome(&mut session).await;
                        session
                    }
                    None => break,
                },
            };
            if timeout(END, self.serve_with(session, answer))
                .await
                .is_err()
            {
                return Err("the program did not get everything acked and say `done`".into());
            }
        }
        let status = timeout(PATIENCE, self.program.ended()).await;
        let status = status.map_err(|_| "the program said `done` and did not end".to_owned())?;
        if !self.program.said().done {
            return Err(format!("the program ended without `done`: {status}"));
        }
        let (first, count) = (self.environment.first, self.environment.count);
        self.ledger().complete(first, count);
        Ok(())
    }

    /// The next session, or nothing when the program has ended.
    async fn session_or_end(&mut self) -> Result<Option<Session>, String> {
        match self.session(400.0).await {
            Ok(session) => Ok(Some(session)),
            // It may end while its last line is still on its way.
            Err(_) if self.program.said().done => Ok(None),
            Err(fault) => Err(fault),
        }
    }

    /// Ends the program as a power cut would and starts it again, with readings from `first`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub async fn restart(&mut self, first: u64) -> Result<(), String> {
        self.program.kill().await;
        self.environment.first = first;
        let (command, environment) = (&self.command, &self.environment);
        self.program = Program::start(command, environment, &self.state, &self.ledger)?;
        Ok(())
    }

    /// Checks that the device waited at least so long, in protocol seconds, since `since`.
    pub fn waited(&mut self, since: Instant, until: Instant, least: f64, why: &str) {
        /// Clocks of two processes, and timers that round down.
        const TOLERANCE: f64 = 0.95;
        let waited = self.scale.protocol(until.saturating_duration_since(since));
        self.notes.push(format!("{why}: back after {waited:.1} s"));
        if waited < least * TOLERANCE {
            self.ledger().fault(format!(
                "{why}: the device came back after {waited:.2} s, expected at least {least} s"
            ));
        }
    }
}
