//! Rogues that do too little: they hold a connection and give nothing for it.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{sleep, sleep_until};

use super::frame::{BINARY, FIN, PING, frame, head};
use super::link::Rogue;
use super::{batch, hello};
use crate::wire::Encoding;

/// The smallest receive buffer that a kernel gives (tcp(7): twice this).
const SMALL: u32 = 2304;

/// Says hello, sends one batch, and never again a byte: no pong either.
pub async fn silent(rogue: &mut Rogue) -> io::Result<()> {
    let Some((mut out, ear)) = rogue.upgrade(None).await? else {
        return Ok(());
    };
    out.write_all(&frame(FIN | BINARY, &hello(Encoding::Cbor, "silent")))
        .await?;
    out.write_all(&frame(FIN | BINARY, &batch(Encoding::Cbor, 1)))
        .await?;
    rogue.listen(ear, async { Ok(()) }).await;
    Ok(())
}

/// Is there for the kernel alone: sends nothing, reads nothing, and looks only at the end at
/// what the hub had to say. (A host that vanished, whose kernel does not even acknowledge, takes
/// a firewall rule to play.)
pub async fn half_open(rogue: &mut Rogue) -> io::Result<()> {
    let Some((out, ear)) = rogue.upgrade(Some(SMALL)).await? else {
        return Ok(());
    };
    sleep_until(rogue.until).await;
    // What the hub has done long ago is there at once.
    let heard = tokio::time::timeout(Duration::from_millis(200), ear.hear(&rogue.tally)).await;
    if heard.is_err() {
        rogue.tally().left_open += 1;
    }
    drop(out);
    Ok(())
}

/// Never reads, and asks for answers: pings, and the same batches again and again.
pub async fn hoarder(rogue: &mut Rogue) -> io::Result<()> {
    let Some((mut out, ear)) = rogue.upgrade(Some(SMALL)).await? else {
        return Ok(());
    };
    let mut bundle = frame(FIN | BINARY, &batch(Encoding::Json, 1));
    for _ in 0..16 {
        bundle.extend(frame(FIN | PING, &[b'x'; 125]));
        bundle.extend(frame(FIN | BINARY, b"\xa1\x65waste\xa0"));
        bundle.extend(frame(FIN | BINARY, &batch(Encoding::Cbor, 1)));
    }
    let flood = async { while out.write_all(&bundle).await.is_ok() {} };
    tokio::select! {
        () = flood => {}
        () = sleep_until(rogue.until) => {}
    }
    let heard = tokio::time::timeout(Duration::from_millis(200), ear.hear(&rogue.tally)).await;
    if heard.is_err() {
        rogue.tally().left_open += 1;
    }
    Ok(())
}

/// Between two bytes of one that is slow.
const BEAT: Duration = Duration::from_millis(250);

/// Sends one byte at a time: of its request, or of a frame that claims to be long.
pub async fn slow_loris(rogue: &mut Rogue) -> io::Result<()> {
    if rogue.below(2) == 0 {
        slow_request(rogue).await
    } else {
        slow_frame(rogue).await
    }
}

async fn slow_request(rogue: &mut Rogue) -> io::Result<()> {
    let request = rogue.request(rogue.token.as_deref());
    // A header without an end, where the request would have ended.
    let request = format!("{}\r\nX-Patience: ", request.trim_end_matches("\r\n"));
    let mut tcp = rogue.tcp(None).await?;
    let (mut half, mut out) = tcp.split();
    let drip = async {
        for byte in request.bytes().chain(std::iter::repeat(b'a')) {
            if out.write_all(&[byte]).await.is_err() {
                break;
            }
            sleep(BEAT).await;
        }
    };
    // Whatever the hub says, it means that it has had enough.
    let mut said = [0; 1];
    tokio::select! {
        () = drip => rogue.tally().cut += 1,
        _ = half.read(&mut said) => rogue.tally().cut += 1,
        () = sleep_until(rogue.until) => rogue.tally().left_open += 1,
    }
    Ok(())
}

async fn slow_frame(rogue: &mut Rogue) -> io::Result<()> {
    let Some((mut out, ear)) = rogue.upgrade(None).await? else {
        return Ok(());
    };
    let drip = async {
        let claim = head(FIN | BINARY, 60_000, Some([0; 4]));
        out.write_all(&claim).await?;
        loop {
            out.write_all(&[0x81]).await?;
            sleep(BEAT).await;
        }
    };
    rogue.listen(ear, drip).await;
    Ok(())
}
