//! Sends every message back: the device port without the hub behind it, for conformance tests of
//! the opening handshake and the WebSocket settings that every device meets.
//!
//! `cargo run --example echo [ADDRESS]`, default 127.0.0.1:9001, then connect to
//! `ws://ADDRESS/v1/devices/{id}`. The address is printed once it accepts; port 0 picks one.
#![allow(clippy::print_stdout)]

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use telehub::config::{Auth, Devices};
use telehub::intake::port::IntakePort;
use telehub::listen::{Server, Socket};
use telehub::session::roster::Roster;
use telehub::session::wire::{Incoming, Wire};
use telehub::status::board::Board;
use telehub::stop;
use tokio::net::TcpListener;
use tokio::sync::mpsc;

/// The largest message of the known conformance cases is 16 MiB; the hub's own limit is far below.
const MAX_MESSAGE: usize = 16 << 20;

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let address = std::env::args().nth(1);
    let listener = TcpListener::bind(address.as_deref().unwrap_or("127.0.0.1:9001")).await?;
    let devices = Devices {
        listen: listener.local_addr()?,
        auth: Auth::Open,
        registry: "/nonexistent".into(),
        ping_interval: Duration::from_secs(20),
        ping_timeout: Duration::from_secs(10),
        handshake_timeout: Duration::from_secs(5),
        max_connections: 100,
        max_ids: 100,
        origins: Vec::new(),
        forget_after: Duration::from_secs(30 * 86_400),
        max_message: MAX_MESSAGE,
        max_rate: 100,
        max_bytes: u64::MAX,
        max_readings: u32::MAX,
        window: 32,
        tls: None,
    };
    // The accept path has to be given what a session would use; here nothing ever does.
    let port = IntakePort {
        control: mpsc::channel(1).0,
        data: mpsc::channel(1).0,
    };
    let roster = Roster::new(devices.max_connections, Board::new("echo"), Arc::default());
    let (_stopper, stop) = stop::channel();
    let server = Arc::new(Server::new(&devices, port, roster, stop)?);
    println!("{}", devices.listen);
    loop {
        let (tcp, remote) = listener.accept().await?;
        let server = server.clone();
        tokio::spawn(async move {
            if let Some(wire) = server.upgrade(tcp, remote).await {
                echo(wire).await;
            }
        });
    }
}

/// As a session does: never waits for a write, and reads nothing while output is blocked.
async fn echo(mut wire: Wire<Socket>) {
    let ending = loop {
        let read = !wire.is_blocked();
        let sent = match poll_fn(|cx| wire.poll(cx, read)).await {
            Some(Incoming::Message(encoding, message)) => wire.message(encoding, message.to_vec()),
            Some(Incoming::End(ending)) => break ending,
            Some(Incoming::Ping | Incoming::Pong(_) | Incoming::Part) | None => Ok(()),
        };
        if let Err(ending) = sent {
            break ending;
        }
    };
    wire.close(ending.close()).await;
}
