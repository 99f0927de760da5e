//! The link between hub and broker, as a TCP relay that can be cut.

use std::net::SocketAddr;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

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
    tokio::select! {
        _ = copy_bidirectional(&mut hub, &mut broker) => {}
        _ = intact.wait_for(|intact| !intact) => {}
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
