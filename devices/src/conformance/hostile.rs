//! A hub that breaks the rules: the device ends the connection, keeps its memory, and comes back.

use serde_json::json;
use tokio::time::timeout;

use super::frame::{self, BINARY, CONTINUATION, FIN, PING, TEXT};
use super::network::memory;
use super::rig::{Answer, Rig};
use super::session::{Event, Session};

/// How the rules of WebSocket are broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Broken {
    /// A frame of a terabyte is announced, and begun.
    Oversized,
    /// A message of 64 MiB in fragments that never end.
    Endless,
    /// A masked frame.
    Masked,
    /// A reserved bit.
    Reserved,
    /// An opcode that nobody has.
    Opcode,
    /// A ping of 126 bytes.
    LongControl,
    /// A fragment of nothing.
    Stray,
    /// A second message within the first.
    Interleaved,
    /// A length with its highest bit set.
    Negative,
}

/// Breaks a rule in the middle of good traffic.
pub async fn broken(rig: &mut Rig, how: Broken) -> Result<(), String> {
    let mut session = rig.welcomed(60.0).await?;
    let batches = rig.take(&mut session, 3).await?;
    session.ack(batches[0].seq).await;
    let before = rig.program.peak();
    let left = match how {
        Broken::Oversized => {
            session.raw(&frame::head(FIN | BINARY, 1 << 40)).await;
            pour(&mut session, &[0; 16 * 1024]).await
        }
        Broken::Endless => {
            session.raw(&frame::frame(BINARY, &[0xa1])).await;
            pour(&mut session, &frame::frame(CONTINUATION, &[0; 16 * 1024])).await
        }
        Broken::Masked => {
            let ack = session.encoded(&json!({"ack": {"seq": batches[0].seq}}));
            let mut bytes = vec![FIN | BINARY, 0x80 | ack.len() as u8, 1, 2, 3, 4];
            bytes.extend(
                ack.iter()
                    .zip([1, 2, 3, 4].iter().cycle())
                    .map(|(a, b)| a ^ b),
            );
            session.raw(&bytes).await;
            false
        }
        Broken::Reserved => {
            session
                .raw(&frame::frame(FIN | 0x40 | BINARY, &[0xa0]))
                .await;
            false
        }
        Broken::Opcode => {
            session.raw(&frame::frame(FIN | 3, &[0xa0])).await;
            false
        }
        Broken::LongControl => {
            session.raw(&frame::frame(FIN | PING, &[7; 126])).await;
            false
        }
        Broken::Stray => {
            session
                .raw(&frame::frame(FIN | CONTINUATION, &[0xa0]))
                .await;
            false
        }
        Broken::Interleaved => {
            session.raw(&frame::frame(BINARY, &[0xa1])).await;
            session.raw(&frame::frame(FIN | TEXT, b"{}")).await;
            false
        }
        Broken::Negative => {
            session.raw(&frame::head(FIN | BINARY, u64::MAX)).await;
            pour(&mut session, &[0; 16 * 1024]).await
        }
    };
    if !left {
        leaves(&mut session, how).await?;
    }
    drop(session);
    memory(rig, before)?;
    rig.until_done().await
}

/// Sends the same piece until the device has gone, at most 64 MiB; says whether it has.
async fn pour(session: &mut Session, piece: &[u8]) -> bool {
    for _ in 0..4096 {
        session.raw(piece).await;
        while let Ok(event) = timeout(std::time::Duration::ZERO, session.event()).await {
            match event {
                Event::Close(_) | Event::Ended(_) => return true,
                _ => {}
            }
        }
    }
    false
}

async fn leaves(session: &mut Session, how: Broken) -> Result<(), String> {
    loop {
        let event = session.next("end of the connection").await;
        match event
            .map_err(|_| format!("{how:?}: the device stays with a hub that breaks RFC 6455"))?
        {
            Event::Close(_) | Event::Ended(_) => return Ok(()),
            _ => {}
        }
    }
}

/// Frames that are well and messages that are not. The device may ignore them or leave.
pub async fn bad_messages(rig: &mut Rig) -> Result<(), String> {
    let binary: [&[u8]; 12] = [
        b"",
        b"\xff\xff",
        b"\xa0",
        b"\x80",
        b"\xa1\x63ack",
        b"\xa1\x63ack\x05",
        b"\xa1\x63ack\xa0",
        b"\xa1\x63ack\xa1\x63seq\x20",
        b"\xa1\x63ack\xa1\x63seq\xf6",
        b"\xa1\x63ack\xa1\x63seq\x1b\xff\xff",
        b"\xa1\x67welcome\xa1\x63seq\x61x",
        b"\xbb\xff\xff\xff\xff\xff\xff\xff\xff\x00",
    ];
    let text: [&[u8]; 6] = [
        b"",
        b"{",
        b"[]",
        b"{\"ack\":{\"seq\":-1}}",
        b"\xff\xfe",
        b"nul",
    ];
    each(rig, &binary, FIN | BINARY).await?;
    each(rig, &text, FIN | TEXT).await?;
    rig.until_done().await
}

/// Sends each to the device, on a new connection where it left the one before.
async fn each(rig: &mut Rig, messages: &[&[u8]], first: u8) -> Result<(), String> {
    let mut session = rig.welcomed(60.0).await?;
    for (index, message) in messages.iter().enumerate() {
        session.raw(&frame::frame(first, message)).await;
        let mark = format!("after-{index}");
        session
            .raw(&frame::frame(FIN | PING, mark.as_bytes()))
            .await;
        loop {
            match session.next("pong after a bad message").await? {
                Event::Pong(payload) if payload == mark.as_bytes() => break,
                Event::Close(_) | Event::Ended(_) => {
                    drop(session);
                    session = rig.welcomed(200.0).await?;
                    break;
                }
                _ => {}
            }
        }
    }
    drop(session);
    Ok(())
}

/// A message nested ten thousand deep, and one of a thousand with an end.
pub async fn deep(rig: &mut Rig) -> Result<(), String> {
    let mut session = rig.welcomed(60.0).await?;
    let batches = rig.take(&mut session, 3).await?;
    session.ack(batches[0].seq).await;
    let before = rig.program.peak();
    for depth in [1_000, 30_000] {
        let mut message = b"\xa1\x64note".to_vec();
        message.extend(std::iter::repeat_n(0x81, depth));
        message.push(0x00);
        session.raw(&frame::frame(FIN | BINARY, &message)).await;
        let json = format!("{{\"note\":{}0{}}}", "[".repeat(depth), "]".repeat(depth));
        session
            .raw(&frame::frame(FIN | TEXT, json.as_bytes()))
            .await;
    }
    session.ack(batches[2].seq).await;
    let next = session.next("anything after deep nesting").await?;
    memory(rig, before)?;
    match next {
        Event::Close(_) | Event::Ended(_) => rig.until_done().await,
        Event::Data(batch) => {
            session.ack(batch.seq).await;
            rig.until_done_with(Some(session), Answer::Ack).await
        }
        _ => rig.until_done_with(Some(session), Answer::Ack).await,
    }
}
