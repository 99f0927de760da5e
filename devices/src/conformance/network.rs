//! What networks and proxies do: black holes, half-open connections, slow links, floods.

use serde_json::json;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, sleep, timeout};

use super::arrival::{Arrival, Io};
use super::frame::{self, FIN, PING, PONG};
use super::rig::{Answer, Rig, TOKEN};
use super::scale::Scale;
use super::session::{Event, PATIENCE, Session};

/// A device gives up a hub that does not answer within so many protocol seconds.
const GIVES_UP: f64 = 180.0;
/// What any flood may add to a device's memory, in KiB: runtimes collect late.
const MORE_MEMORY: u64 = 64 * 1024;

/// Waits until the device hangs up.
async fn hangs_up(rig: &Rig, io: &mut dyn Io) -> Result<(), String> {
    let mut sink = [0; 4096];
    let gone = async { while !matches!(io.read(&mut sink).await, Ok(0) | Err(_)) {} };
    let patience = rig.scale.real(GIVES_UP) + PATIENCE;
    timeout(patience, gone).await.map_err(|_| {
        format!("the device held a dead connection for {GIVES_UP} s and a minute of real time")
    })
}

/// A server that takes the connection and never says a word.
pub async fn no_answer(rig: &mut Rig) -> Result<(), String> {
    let (mut io, at) = rig.connection(60.0).await?;
    hangs_up(rig, &mut io).await?;
    let next = rig.arrival(120.0).await?;
    rig.waited(at, next.at, 1.0, "no answer");
    let mut session = rig.upgraded(next, 200.0).await?;
    rig.welcome(&mut session).await;
    rig.until_done_with(Some(session), Answer::Ack).await
}

/// A hub that upgrades and never answers the hello.
pub async fn no_welcome(rig: &mut Rig) -> Result<(), String> {
    let mut session = rig.session(60.0).await?;
    let patience = rig.scale.real(GIVES_UP) + PATIENCE;
    let left = timeout(patience, async {
        loop {
            match session.event().await {
                Event::Close(_) | Event::Ended(_) => return,
                _ => {}
            }
        }
    });
    left.await
        .map_err(|_| "the device waits for a welcome for ever".to_owned())?;
    drop(session);
    rig.until_done().await
}

/// After the welcome nothing comes any more, and nothing is read: the cable was pulled.
pub async fn half_open(rig: &mut Rig) -> Result<(), String> {
    rig.terms.ping_interval = 20.0;
    rig.terms.ping_timeout = 10.0;
    let mut session = rig.welcomed(60.0).await?;
    let batches = rig.take(&mut session, 3).await?;
    session.ack(batches[2].seq).await;
    let silent = Instant::now();
    let (stream, at) = rig
        .connection(600.0)
        .await
        .map_err(|fault| format!("a half-open connection was never noticed: {fault}"))?;
    drop(session);
    rig.waited(silent, at, 10.0, "half-open");
    // Pings will come late on a loaded machine; what is judged is over.
    rig.terms = super::session::Terms::default();
    let arrival = Arrival::read(Box::new(stream), at).await?;
    for fault in arrival.faults(TOKEN) {
        rig.ledger().fault(fault);
    }
    let mut session = rig.upgraded(arrival, 200.0).await?;
    rig.welcome(&mut session).await;
    rig.until_done_with(Some(session), Answer::Ack).await
}

/// A link of 1 kB/s in both directions.
pub async fn slow_link(rig: &mut Rig) -> Result<(), String> {
    let (io, at) = rig.connection(60.0).await?;
    let arrival = Arrival::read(slowed(Box::new(io), rig.scale), at).await?;
    let mut session = rig.upgraded(arrival, 200.0).await?;
    rig.welcome(&mut session).await;
    session.raw(&frame::frame(FIN | PING, b"slow")).await;
    loop {
        match session.next("pong over the slow link").await? {
            Event::Pong(payload) if payload == b"slow" => break,
            Event::Data(batch) => session.ack(batch.seq).await,
            Event::Close(_) | Event::Ended(_) => {
                return Err("the device gave up a link that is merely slow".into());
            }
            _ => {}
        }
    }
    rig.until_done_with(Some(session), Answer::Ack).await
}

/// Puts a slow link before a connection.
fn slowed(io: Box<dyn Io>, scale: Scale) -> Box<dyn Io> {
    let (near, far) = tokio::io::duplex(64);
    let (far_read, far_write) = tokio::io::split(far);
    let (read, write) = tokio::io::split(io);
    tokio::spawn(pump(read, far_write, scale));
    tokio::spawn(pump(far_read, write, scale));
    Box::new(near)
}

async fn pump(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, scale: Scale) {
    let mut piece = [0; 50];
    while let Ok(len @ 1..) = from.read(&mut piece).await {
        sleep(scale.real(len as f64 / 1000.0)).await;
        if to.write_all(&piece[..len]).await.is_err() || to.flush().await.is_err() {
            break;
        }
    }
    let _ = to.shutdown().await;
}

/// Small steps of network, one byte at a time.
pub async fn byte_by_byte(rig: &mut Rig) -> Result<(), String> {
    let mut session = rig.session(60.0).await?;
    let body = session.welcome_body(0, false, &rig.terms);
    for byte in session.framed(&json!({ "welcome": body })) {
        session.raw(&[byte]).await;
    }
    let batches = rig.take(&mut session, 3).await?;
    session.acked(batches[2].seq);
    for byte in session.framed(&json!({"ack": {"seq": batches[2].seq}})) {
        session.raw(&[byte]).await;
    }
    rig.until_done_with(Some(session), Answer::Ack).await
}

/// What a flood is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flood {
    /// Notes, which may be ignored.
    Notes,
    /// Commands, each of which wants an answer.
    Commands,
    /// Pings.
    Pings,
    /// Acks of what is acked already.
    Acks,
}

/// More than any hub sends. The device goes on, answers the ping behind it, and keeps its memory.
pub async fn flood(rig: &mut Rig, of: Flood) -> Result<(), String> {
    const MANY: usize = 1000;
    let mut session = rig.welcomed(60.0).await?;
    let batches = rig.take(&mut session, 3).await?;
    session.ack(batches[0].seq).await;
    let before = rig.program.peak();
    for index in 0..MANY {
        let bytes = match of {
            Flood::Notes => session.framed(&json!({"note": {
                "code": "record-dropped", "detail": "flood ".repeat(20), "seq": batches[0].seq}})),
            Flood::Commands => session.framed(&json!({"command": {
                "id": format!("flood-{index}"), "name": "echo", "args": index, "timeout": 30}})),
            Flood::Pings => frame::frame(FIN | PING, format!("flood-{index}").as_bytes()),
            Flood::Acks => session.framed(&json!({"ack": {"seq": batches[0].seq}})),
        };
        session.raw(&bytes).await;
        // Its answers are taken meanwhile, so that nobody waits for the other.
        while let Ok(event) = timeout(std::time::Duration::ZERO, session.event()).await {
            if let Some(left) = during_flood(&mut session, event).await {
                return after_flood(rig, left, before).await;
            }
        }
    }
    session.raw(&frame::frame(FIN | PING, b"behind")).await;
    loop {
        match session.next("pong behind the flood").await? {
            Event::Pong(payload) if payload == b"behind" => break,
            event => {
                if let Some(left) = during_flood(&mut session, event).await {
                    return after_flood(rig, left, before).await;
                }
            }
        }
    }
    memory(rig, before)?;
    rig.until_done_with(Some(session), Answer::Ack).await
}

/// Deals with one event; says how the device left, if it did.
async fn during_flood(session: &mut Session, event: Event) -> Option<String> {
    match event {
        Event::Data(batch) => session.ack(batch.seq).await,
        Event::Result(result) => {
            session
                .send(&json!({"ack": {"result": result["id"]}}))
                .await
        }
        Event::Close(code) => return Some(format!("with close code {code:?}")),
        Event::Ended(why) => return Some(why),
        _ => {}
    }
    None
}

/// A device that has had enough may leave, if it comes back.
async fn after_flood(rig: &mut Rig, left: String, before: Option<u64>) -> Result<(), String> {
    rig.notes.push(format!("left the flood: {left}"));
    memory(rig, before)?;
    rig.until_done().await
}

/// Its memory has not grown by more than is reasonable.
pub fn memory(rig: &mut Rig, before: Option<u64>) -> Result<(), String> {
    let (Some(before), Some(after)) = (before, rig.program.peak()) else {
        return Ok(());
    };
    let grown = after.saturating_sub(before);
    rig.notes.push(format!("memory grew by {grown} KiB"));
    if grown > MORE_MEMORY {
        return Err(format!("the device's memory grew by {grown} KiB"));
    }
    Ok(())
}

/// Pings of all sizes are answered with their own payload; a pong that nobody asked for is none.
pub async fn pongs(rig: &mut Rig) -> Result<(), String> {
    let mut session = rig.welcomed(60.0).await?;
    for len in [0, 1, 4, 125] {
        let payload: Vec<u8> = (0..len).map(|byte| byte as u8).collect();
        session.raw(&frame::frame(FIN | PONG, b"unasked")).await;
        session.raw(&frame::frame(FIN | PING, &payload)).await;
        loop {
            match session.next("pong").await? {
                Event::Pong(got) if got == payload => break,
                Event::Pong(got) => {
                    return Err(format!(
                        "a ping of {len} bytes was answered with {} bytes",
                        got.len()
                    ));
                }
                Event::Data(batch) => session.ack(batch.seq).await,
                Event::Close(_) | Event::Ended(_) => {
                    return Err("the device left a good hub".into());
                }
                _ => {}
            }
        }
    }
    rig.until_done_with(Some(session), Answer::Ack).await
}
