//! Rogues that do too much: too many messages, connections, numbers, tokens.

use std::io;
use std::time::Duration;

use tokio::io::AsyncWriteExt;

use super::frame::{BINARY, CLOSE, CONTINUATION, FIN, PING, TEXT, frame};
use super::link::Rogue;
use super::{batch, hello};
use crate::wire::Encoding;

/// Good batches, pings and tiny fragments as fast as the hub takes them, beyond its window.
pub async fn flood(rogue: &mut Rogue) -> io::Result<()> {
    let Some((mut out, ear)) = rogue.upgrade(None).await? else {
        return Ok(());
    };
    let kind = rogue.below(3);
    let stream = format!("flood-{:x}", rogue.rng.bits());
    let flood = async {
        out.write_all(&frame(FIN | BINARY, &hello(Encoding::Cbor, &stream)))
            .await?;
        let mut seq = 0;
        loop {
            let mut bundle = Vec::new();
            for _ in 0..64 {
                seq += 1;
                match kind {
                    0 => bundle.extend(frame(FIN | BINARY, &batch(Encoding::Cbor, seq))),
                    1 => bundle.extend(frame(FIN | PING, &seq.to_be_bytes())),
                    _ => {
                        // A batch in fragments of one byte, with empty ones between them.
                        for (at, byte) in batch(Encoding::Cbor, seq).iter().enumerate() {
                            let opcode = if at == 0 { BINARY } else { CONTINUATION };
                            bundle.extend(frame(opcode, &[*byte]));
                            bundle.extend(frame(CONTINUATION, &[]));
                        }
                        bundle.extend(frame(FIN | CONTINUATION, &[]));
                    }
                }
            }
            out.write_all(&bundle).await?;
        }
    };
    rogue.listen(ear, flood).await;
    Ok(())
}

/// Comes and goes: as soon as it is in it leaves, with a goodbye or without, or comes again
/// beside itself.
pub async fn flapping(rogue: &mut Rogue) -> io::Result<()> {
    let Some((mut out, ear)) = rogue.upgrade(None).await? else {
        return Ok(());
    };
    out.write_all(&frame(FIN | TEXT, &hello(Encoding::Json, "flap")))
        .await?;
    match rogue.below(3) {
        0 => {
            out.write_all(&frame(FIN | CLOSE, &1000_u16.to_be_bytes()))
                .await?;
            let tally = rogue.tally.clone();
            let _ = tokio::time::timeout(Duration::from_secs(2), ear.hear(&tally)).await;
        }
        1 => rogue.tally().left_open += 1,
        _ => {
            let again = rogue.upgrade(None).await?;
            let tally = rogue.tally.clone();
            // The first of the two is replaced.
            let _ = tokio::time::timeout(Duration::from_secs(2), ear.hear(&tally)).await;
            drop(again);
        }
    }
    Ok(())
}

/// Wrong tokens: guessed, none, its own with a slip, too long to be one; with its own, if it has
/// one, at another device's door.
pub async fn thief(rogue: &mut Rogue) -> io::Result<()> {
    let own = rogue.token.clone().unwrap_or_else(|| "A".repeat(43));
    let token = match rogue.below(5) {
        0 => None,
        1 => Some("A".repeat(8000)),
        2 => Some(own[..own.len() - 1].to_owned()),
        3 if rogue.token.is_some() => Some(own),
        _ => Some(format!(
            "{:016x}{:016x}",
            rogue.rng.bits(),
            rogue.rng.bits()
        )),
    };
    let mut request = rogue.request(token.as_deref());
    if rogue.token.is_some() {
        request = request.replacen(&rogue.id, &format!("{}-neighbour", rogue.id), 1);
    }
    let mut tcp = rogue.tcp(None).await?;
    tcp.write_all(request.as_bytes()).await?;
    rogue.answer(&mut tcp).await?;
    Ok(())
}
