//! What the log says of those who are not let in: each once, and no secrets.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "support/device_port.rs"]
mod device_port;
#[path = "support/log.rs"]
mod log;

use device_port::{Port, devices, handshake, soon};
use log::Log;
use telehub::config::Auth;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

#[tokio::test]
async fn a_refused_device_is_logged_once_for_each_reason_and_its_token_never() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::INFO)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let mut settings = devices();
    settings.auth = Auth::Token;
    settings.registry = dir.path().join("none.toml");
    let port = Port::start(settings).await;
    let ask = async |request: &str| {
        let mut tcp = TcpStream::connect(port.addr).await.unwrap();
        tcp.write_all(request.as_bytes()).await.unwrap();
        let _ = soon(tcp.read_to_end(&mut Vec::new())).await;
    };
    for _ in 0..50 {
        ask(&handshake("barn-1", "Authorization: Bearer SECRET\r\n")).await;
        ask("GET /some/SECRET%20page HTTP/1.1\r\nHost: hub\r\n\r\n").await;
        ask("\u{1}SECRET\r\n\r\n").await;
    }
    let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    let of = |what: &str| text.lines().filter(|line| line.contains(what)).count();
    assert!(!text.contains("SECRET"), "{text}");
    assert_eq!(of("not in the hub's registry"), 1, "{text}");
    assert_eq!(of("too many attempts"), 1, "{text}");
    assert_eq!(of("devices connect to"), 1, "{text}");
    assert_eq!(of("handshake failed"), 1, "{text}");
    assert_eq!(of("connection refused"), 4, "{text}");
    let known = text.lines().find(|line| line.contains("in the hub's reg"));
    assert!(known.unwrap().contains("barn-1") && known.unwrap().contains("127.0.0.1"));
}
