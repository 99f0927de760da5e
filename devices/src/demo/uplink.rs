//! The link between hub and broker, as a TCP relay that can be cut.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::sleep;

/// Bytes a second from the hub: three times what the devices of the demo send, so that a backlog of
/// ten seconds takes about five to drain and can be watched.
pub const RATE: u32 = 128 * 1024;
/// Bytes that are carried at a time: a thirtieth of a second's.
const PIECE: usize = 4096;

/// Relays until cut, and again once restored. While it is cut, connections are dropped as soon
/// as they are made.
pub async fn relay(listener: TcpListener, broker: SocketAddr, intact: watch::Receiver<bool>) {
    while let Ok((hub, _)) = listener.accept().await {
        if *intact.borrow() {
            tokio::spawn(carry(hub, broker, intact.clone()));
        }
    }
}

async fn carry(mut hub: TcpStream, broker: SocketAddr, mut intact: watch::Receiver<bool>) {
    let Ok(mut broker) = TcpStream::connect(broker).await else {
        return;
    };
    // Without these the relay would add delays that the real link has not.
    let _ = hub.set_nodelay(true);
    let _ = broker.set_nodelay(true);
    let (mut from_hub, mut to_hub) = hub.split();
    let (mut from_broker, mut to_broker) = broker.split();
    tokio::select! {
        _ = thin(&mut from_hub, &mut to_broker) => {}
        _ = copy(&mut from_broker, &mut to_hub) => {}
        _ = intact.wait_for(|intact| !intact) => {}
    }
}

/// Carries no more than [`RATE`].
async fn thin<R, W>(from: &mut R, to: &mut W) -> io::Result<()>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut piece = [0; PIECE];
    loop {
        let length = from.read(&mut piece).await?;
        if length == 0 {
            return Ok(());
        }
        to.write_all(&piece[..length]).await?;
        sleep(Duration::from_secs_f64(length as f64 / f64::from(RATE))).await;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn a_cut_ends_connections_and_keeps_new_ones_out_until_it_is_restored() {
        let broker = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = broker.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = broker.accept().await {
                tokio::spawn(async move {
                    let (mut read, mut write) = stream.split();
                    let _ = tokio::io::copy(&mut read, &mut write).await;
                });
            }
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let here = listener.local_addr().unwrap();
        let (switch, intact) = watch::channel(true);
        tokio::spawn(relay(listener, address, intact));

        let mut byte = [0];
        let mut hub = TcpStream::connect(here).await.unwrap();
        hub.write_all(b"a").await.unwrap();
        hub.read_exact(&mut byte).await.unwrap();
        switch.send_replace(false);
        assert!(!matches!(hub.read(&mut byte).await, Ok(1..)));
        let mut hub = TcpStream::connect(here).await.unwrap();
        assert!(!matches!(hub.read(&mut byte).await, Ok(1..)));
        switch.send_replace(true);
        let mut hub = TcpStream::connect(here).await.unwrap();
        hub.write_all(b"b").await.unwrap();
        hub.read_exact(&mut byte).await.unwrap();
        assert_eq!(byte, *b"b");
    }
}
