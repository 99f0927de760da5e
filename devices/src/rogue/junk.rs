//! Rogues that send what is no message: noise, and messages made to cost more than they weigh.

use std::io;

use tokio::io::AsyncWriteExt;
use tokio::time::{Duration, sleep};

use super::batch;
use super::frame::{BINARY, CONTINUATION, FIN, PING, TEXT, frame, head};
use super::link::Rogue;
use crate::wire::Encoding;

/// Noise instead of a request, instead of frames, and within frames.
pub async fn garbage(rogue: &mut Rogue) -> io::Result<()> {
    if rogue.below(4) == 0 {
        let mut tcp = rogue.tcp(None).await?;
        let noise = match rogue.below(3) {
            0 => rogue.noise(4000),
            1 => [
                b"GET /v1/devices/x HTTP/1.1\r\n".to_vec(),
                b"A: b\r\n".repeat(5000),
            ]
            .concat(),
            _ => b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n".to_vec(),
        };
        let _ = tcp.write_all(&noise).await;
        rogue.answer(&mut tcp).await?;
        return Ok(());
    }
    let Some((mut out, ear)) = rogue.upgrade(None).await? else {
        return Ok(());
    };
    let noise = rogue.noise(64);
    let one: Vec<u8> = match rogue.below(9) {
        0 => rogue.noise(512),
        // Not masked.
        1 => [head(FIN | BINARY, 64, None), noise].concat(),
        // A reserved opcode, and a reserved bit: compression that was not agreed on.
        2 => frame(FIN | 3, &noise),
        3 => frame(FIN | 0x40 | TEXT, &noise),
        // Control frames that are too long, or in pieces.
        4 => [head(FIN | PING, 126, Some([0; 4])), vec![0; 126]].concat(),
        5 => frame(PING, &noise),
        // Text that is no text, a continuation of nothing.
        6 => frame(FIN | TEXT, b"\xff\xfe{}"),
        7 => frame(FIN | CONTINUATION, &noise),
        // A length with the highest bit set.
        _ => head(FIN | BINARY, 1 << 63, Some([0; 4])),
    };
    let in_frames: Vec<_> = (0..12)
        .map(|_| {
            let len = 1 + rogue.below(300) as usize;
            frame(FIN | BINARY, &rogue.noise(len))
        })
        .collect();
    let polite = rogue.below(2) == 0;
    let send = async {
        if polite {
            for frame in in_frames {
                out.write_all(&frame).await?;
            }
        }
        out.write_all(&one).await?;
        // Some of it is only the beginning of a frame; the hub waits for the rest, and may.
        sleep(Duration::from_secs(2)).await;
        out.shutdown().await
    };
    rogue.listen(ear, send).await;
    Ok(())
}

/// Small messages that claim to be huge, or that grow when they are looked at.
pub async fn bomb(rogue: &mut Rogue) -> io::Result<()> {
    /// As long as a message may be by default.
    const LARGEST: usize = 65_000;
    let Some((mut out, ear)) = rogue.upgrade(None).await? else {
        return Ok(());
    };
    let bombs: Vec<(u8, Vec<u8>)> = vec![
        // Nesting without end.
        (BINARY, vec![0x81; LARGEST]),
        (BINARY, vec![0xd8; LARGEST]),
        (
            BINARY,
            [
                b"\xa1\x66result\xa3\x62id\x61a\x62ok\xf5\x65value".to_vec(),
                vec![0x81; LARGEST],
            ]
            .concat(),
        ),
        (TEXT, b"[".repeat(LARGEST)),
        (TEXT, b"{\"a\":".repeat(LARGEST / 5)),
        // Lengths beyond all memory: of an array, a map, a text, a byte string.
        (BINARY, b"\x9b\xff\xff\xff\xff\xff\xff\xff\xff".to_vec()),
        (BINARY, b"\xbb\x00\x00\x00\xff\xff\xff\xff\xff".to_vec()),
        (BINARY, b"\xa1\x7b\x7f\xff\xff\xff\xff\xff\xff\xff".to_vec()),
        (
            BINARY,
            b"\xa1\x64data\x5b\x00\x00\x00\x01\x00\x00\x00\x00".to_vec(),
        ),
        // A long base name over as many records as fit.
        (TEXT, base_name(LARGEST)),
        // More records than a pack may have, each as small as can be.
        (
            BINARY,
            [&[0x99, 0x7d, 0x00][..], &b"\xa1\x02\x01".repeat(0x7d00)[..]].concat(),
        ),
        // A number of a million digits, nearly.
        (
            TEXT,
            format!("[{{\"n\":\"a\",\"v\":{}}}]", "9".repeat(LARGEST)).into_bytes(),
        ),
        (
            BINARY,
            b"\x81\xa2\x00\x61a\x02\xc4\x82\x1b\x7f\xff\xff\xff\xff\xff\xff\xff\x01".to_vec(),
        ),
    ];
    let order = rogue.below(bombs.len() as u64) as usize;
    let send = async {
        for (opcode, bomb) in bombs[order..].iter().chain(&bombs[..order]) {
            out.write_all(&frame(FIN | opcode, bomb)).await?;
            // A good one between them, so that ten bad ones in a row do not end it too soon.
            out.write_all(&frame(FIN | BINARY, &batch(Encoding::Cbor, 1)))
                .await?;
            sleep(Duration::from_millis(50)).await;
        }
        // Last a frame that claims 16 EiB, or fragments that together are too long.
        if order.is_multiple_of(2) {
            return out
                .write_all(&head(FIN | BINARY, u64::MAX >> 1, Some([0; 4])))
                .await;
        }
        out.write_all(&frame(BINARY, &vec![0x81; LARGEST])).await?;
        loop {
            out.write_all(&frame(CONTINUATION, &vec![0x81; LARGEST]))
                .await?;
        }
    };
    rogue.listen(ear, send).await;
    Ok(())
}

fn base_name(len: usize) -> Vec<u8> {
    let mut pack = format!("[{{\"bn\":\"{}\",\"v\":1}}", "n".repeat(250));
    while pack.len() < len {
        pack.push_str(",{\"v\":1}");
    }
    pack.push(']');
    pack.into_bytes()
}
