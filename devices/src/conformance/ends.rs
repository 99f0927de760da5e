//! Ends of connections and refusals, and when the device comes back.

use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::time::{Instant, timeout};

use super::rig::Rig;
use super::session::{Event, PATIENCE};

/// Beyond what a device may wait, what a machine under load may add, in real time.
const SLACK: Duration = Duration::from_secs(30);
/// Longest pause of an ordinary backoff.
const LONGEST: f64 = 60.0;

/// When to come back, in protocol seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Back {
    /// Not before and not after.
    Between(f64, f64),
    /// Not at all.
    Never,
    /// Once an hour at most: not while the scenario looks. The device may also stop.
    Hardly,
}

async fn comes_back(rig: &mut Rig, ended: Instant, back: Back, why: &str) -> Result<(), String> {
    let (least, most) = match back {
        Back::Between(least, most) => (least, most),
        Back::Never => return stays_away(rig, why).await,
        Back::Hardly => return hardly_comes(rig, why).await,
    };
    let arrival = rig.arrival(most + 100.0).await?;
    rig.waited(ended, arrival.at, least, why);
    let waited = arrival.at.saturating_duration_since(ended);
    if waited > rig.scale.real(most) + SLACK {
        let waited = rig.scale.protocol(waited);
        return Err(format!(
            "{why}: back after {waited:.0} s, expected at most {most} s"
        ));
    }
    let mut session = rig.upgraded(arrival, 200.0).await?;
    rig.welcome(&mut session).await;
    rig.until_done_with(Some(session), super::rig::Answer::Ack)
        .await
}

async fn stays_away(rig: &mut Rig, why: &str) -> Result<(), String> {
    tokio::select! {
        ended = timeout(PATIENCE, rig.program.ended()) => match ended {
            Ok(_) if rig.program.said().stopped => Ok(()),
            Ok(status) => Err(format!("{why}: the program ended ({status}) without `stopped`")),
            Err(_) => Err(format!("{why}: the program neither came back nor said `stopped`")),
        },
        _ = rig.listener.accept() => {
            Err(format!("{why}: the device came back; it is to stop until a person acts"))
        }
    }
}

async fn hardly_comes(rig: &mut Rig, why: &str) -> Result<(), String> {
    /// Protocol seconds without an attempt that tell an hour from the pauses of a backoff.
    const LOOK: f64 = 150.0;
    tokio::select! {
        _ = rig.program.ended() => match rig.program.said().stopped {
            true => Ok(()),
            false => Err(format!("{why}: the program ended without `stopped`")),
        },
        came = timeout(rig.scale.real(LOOK), rig.listener.accept()) => match came {
            Ok(_) => Err(format!("{why}: the device asks again within {LOOK} s; a person must act")),
            Err(_) => Ok(()),
        },
    }
}

/// A close frame with this code, in the middle of the data.
pub async fn close(rig: &mut Rig, code: u16, back: Back) -> Result<(), String> {
    let mut session = rig.welcomed(60.0).await?;
    let batches = rig.take(&mut session, 3).await?;
    session.ack(batches[0].seq).await;
    let ended = Instant::now();
    session.close(code).await;
    comes_back(rig, ended, back, &format!("close {code}")).await
}

/// The connection is cut without a word.
pub async fn cut(rig: &mut Rig) -> Result<(), String> {
    let mut session = rig.welcomed(60.0).await?;
    rig.take(&mut session, 3).await?;
    let ended = Instant::now();
    drop(session);
    comes_back(rig, ended, Back::Between(0.2, LONGEST), "cut").await
}

/// An HTTP answer in place of the upgrade.
pub async fn refuse(rig: &mut Rig, status: u16, headers: &str, back: Back) -> Result<(), String> {
    let arrival = rig.arrival(60.0).await?;
    let ended = Instant::now();
    arrival.refuse(status, headers).await;
    comes_back(rig, ended, back, &format!("HTTP {status}")).await
}

/// Bytes that are no good answer to an upgrade.
pub async fn nonsense(rig: &mut Rig, answer: &[u8]) -> Result<(), String> {
    let mut arrival = rig.arrival(60.0).await?;
    let ended = Instant::now();
    arrival.last_words(answer).await;
    let mut rest = Vec::new();
    let read = timeout(PATIENCE, arrival.io.read_to_end(&mut rest)).await;
    if read.is_err() {
        return Err("the device went on with a connection that was never upgraded".into());
    }
    if !rest.is_empty() {
        return Err(format!(
            "the device sent {} bytes after a bad answer",
            rest.len()
        ));
    }
    comes_back(rig, ended, Back::Between(0.2, LONGEST), "nonsense").await
}

/// An answer whose head never ends.
pub async fn endless_head(rig: &mut Rig) -> Result<(), String> {
    use tokio::io::AsyncWriteExt;
    /// Far more than any head has; a device that reads it all has no bound.
    const PIECES: usize = 1024;
    let mut arrival = rig.arrival(60.0).await?;
    let ended = Instant::now();
    let _ = arrival
        .io
        .write_all(b"HTTP/1.1 101 Switching Protocols\r\n")
        .await;
    let piece = format!("X-Filler: {}\r\n", "x".repeat(16 * 1024));
    let mut took_it_all = true;
    for _ in 0..PIECES {
        match timeout(PATIENCE, arrival.io.write_all(piece.as_bytes())).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => {
                took_it_all = false;
                break;
            }
            Err(_) => return Err("the device stopped reading a head and did not hang up".into()),
        }
        // A device that has ended its side throws away what still comes.
        let ended = timeout(Duration::ZERO, arrival.io.read(&mut [0; 16])).await;
        if matches!(ended, Ok(Ok(0) | Err(_))) {
            took_it_all = false;
            break;
        }
    }
    if took_it_all {
        return Err("the device read 16 MiB of an answer's head".into());
    }
    drop(arrival);
    comes_back(rig, ended, Back::Between(0.2, LONGEST), "endless head").await
}

/// A hub that is not there for a while: pauses grow, are bounded, and have jitter.
pub async fn backoff(rig: &mut Rig) -> Result<(), String> {
    const ATTEMPTS: usize = 7;
    let mut pauses = Vec::new();
    let mut before = None;
    for _ in 0..ATTEMPTS {
        let (stream, at) = rig.connection(2.0 * LONGEST).await?;
        if let Some(before) = before {
            pauses.push(rig.scale.protocol(at.saturating_duration_since(before)));
        }
        drop(stream);
        before = Some(Instant::now());
    }
    let told: Vec<String> = pauses.iter().map(|pause| format!("{pause:.1}")).collect();
    rig.notes.push(format!("pauses of {} s", told.join(", ")));
    if let Some(short) = pauses.iter().find(|pause| **pause < 0.2) {
        return Err(format!("a pause of {short:.2} s: expected at least 0.2 s"));
    }
    // Doubling from half a second with half of each span as jitter comes to more than this.
    let all: f64 = pauses.iter().sum();
    if all < 8.0 {
        return Err(format!(
            "{} attempts in {all:.1} s: pauses do not grow",
            ATTEMPTS
        ));
    }
    let most = rig.scale.protocol(SLACK) + LONGEST;
    if let Some(long) = pauses.iter().find(|pause| **pause > most) {
        return Err(format!(
            "a pause of {long:.0} s: expected at most {LONGEST} s"
        ));
    }
    let ratios: Vec<f64> = pauses.windows(2).map(|two| two[1] / two[0]).collect();
    let even = |ratio: &f64| (ratio - ratios[0]).abs() < 0.02 * ratios[0];
    if ratios.iter().all(even) {
        return Err(format!("pauses of {} s: no jitter", told.join(", ")));
    }
    rig.until_done().await
}

/// A server that cannot prove who it is hears nothing from the device, least of all the token.
pub async fn untrusted(rig: &mut Rig, good: tokio_rustls::TlsAcceptor) -> Result<(), String> {
    let mut before: Option<Instant> = None;
    for _ in 0..2 {
        let (stream, at) = rig.connection(2.0 * LONGEST).await?;
        if let Some(before) = before {
            rig.waited(before, at, 0.2, "untrusted server");
        }
        let Some(tls) = rig.tls.clone() else {
            return Err("the scenario has no TLS".into());
        };
        if let Ok(Ok(mut stream)) = timeout(PATIENCE, tls.accept(stream)).await {
            let mut heard = [0; 1024];
            if let Ok(Ok(len @ 1..)) = timeout(PATIENCE, stream.read(&mut heard)).await {
                return Err(format!("the device told an untrusted server {len} bytes"));
            }
        }
        before = Some(Instant::now());
    }
    rig.tls = Some(good);
    rig.until_done().await
}

/// The device takes its leave, and not before everything is safe.
pub async fn bye(rig: &mut Rig) -> Result<(), String> {
    let mut session = rig.welcomed(60.0).await?;
    let last = rig.environment.first + rig.environment.count - 1;
    loop {
        match session.next("data, bye or close").await? {
            Event::Data(batch) => session.ack(batch.seq).await,
            Event::Bye(body) => {
                if !body.is_object() {
                    return Err(format!("the body of `bye` is {body}, expected a map"));
                }
                if !rig.ledger().is_safe(last) {
                    return Err("`bye` before everything was acked".into());
                }
                return rig
                    .until_done_with(Some(session), super::rig::Answer::Ack)
                    .await;
            }
            Event::Close(_) | Event::Ended(_) => {
                return Err("the device left without `bye`".into());
            }
            _ => {}
        }
    }
}
