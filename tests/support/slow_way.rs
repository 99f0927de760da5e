//! A way to the broker that can be made slow: a relay between the hub and mosquitto.
#![allow(clippy::unwrap_used, missing_docs, unreachable_pub)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy};
use tokio::net::{TcpListener, TcpStream};

/// Slow: so many bytes, then a pause. 20 KB a second are about 150 batches.
const PIECE: usize = 1024;
const PAUSE: Duration = Duration::from_millis(50);

pub struct SlowWay {
    pub port: u16,
    slow: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<()>,
}

impl SlowWay {
    /// Listens, and connects each connection on to this port of 127.0.0.1.
    pub async fn start(to: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let slow = Arc::new(AtomicBool::new(false));
        let is_slow = slow.clone();
        let task = tokio::spawn(async move {
            while let Ok((hub, _)) = listener.accept().await {
                let slow = is_slow.clone();
                tokio::spawn(async move {
                    if let Ok(broker) = TcpStream::connect(("127.0.0.1", to)).await {
                        relay(hub, broker, &slow).await;
                    }
                });
            }
        });
        Self { port, slow, task }
    }

    pub fn slow(&self, slow: bool) {
        self.slow.store(slow, Ordering::SeqCst);
    }
}

impl Drop for SlowWay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Until either side is done.
async fn relay(hub: TcpStream, broker: TcpStream, slow: &AtomicBool) {
    let (mut from_hub, mut to_hub) = hub.into_split();
    let (mut from_broker, mut to_broker) = broker.into_split();
    let up = async {
        let mut piece = vec![0; PIECE];
        while let Ok(n @ 1..) = from_hub.read(&mut piece).await {
            if to_broker.write_all(&piece[..n]).await.is_err() {
                return;
            }
            if slow.load(Ordering::SeqCst) {
                tokio::time::sleep(PAUSE).await;
            }
        }
    };
    tokio::select! {
        () = up => {}
        _ = copy(&mut from_broker, &mut to_hub) => {}
    }
}
