//! An admin listener with a board of its own, and raw sockets before it.
#![allow(dead_code, clippy::unwrap_used, missing_docs, unreachable_pub)]

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use telehub::admin;
use telehub::status::board::Board;
use telehub::stop::{self, Stopper};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// Far longer than anything here takes, far shorter than a person waits for a test.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub struct Admin {
    pub address: SocketAddr,
    pub board: Arc<Board>,
    pub stopper: Stopper,
    pub task: JoinHandle<()>,
}

pub fn test<F: Future<Output = ()>>(body: impl FnOnce(Admin) -> F) {
    test_with(admin::Settings::default(), body);
}

pub fn test_with<F: Future<Output = ()>>(settings: admin::Settings, body: impl FnOnce(Admin) -> F) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let board = Board::new("barn");
        let (stopper, stop) = stop::channel();
        let task = tokio::spawn(admin::run(listener, board.clone(), settings, stop));
        timeout(
            PATIENCE,
            body(Admin {
                address,
                board,
                stopper,
                task,
            }),
        )
        .await
        .unwrap();
    });
}

impl Admin {
    pub async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// Sends these bytes on a connection of their own; returns all that comes back.
    pub async fn send(&self, request: &str) -> String {
        let mut socket = self.connect().await;
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await.unwrap();
        answer
    }

    pub async fn get(&self, path: &str) -> String {
        self.send(&format!(
            "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        ))
        .await
    }
}

pub fn status(answer: &str) -> u16 {
    answer.split(' ').nth(1).unwrap().parse().unwrap()
}

pub fn body(answer: &str) -> &str {
    answer.split_once("\r\n\r\n").unwrap().1
}
