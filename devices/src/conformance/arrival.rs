//! A connection of the device up to the upgrade: its request, and the answer to it.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, timeout};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::program::ID;

/// What either end of a connection can do.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// The longest request head that is read.
const MAX_HEAD: usize = 16 * 1024;
/// What a device that has connected may take for its request, in real time: a machine under load.
const REQUEST: Duration = Duration::from_secs(30);

/// A request for an upgrade.
pub struct Arrival {
    /// The connection.
    pub io: Box<dyn Io>,
    /// When it was accepted.
    pub at: Instant,
    lines: Vec<String>,
    /// What came right behind the request.
    pub behind: Vec<u8>,
}

impl Arrival {
    /// Reads the request.
    ///
    /// # Errors
    /// When none comes.
    pub async fn read(mut io: Box<dyn Io>, at: Instant) -> Result<Self, String> {
        let mut head = Vec::new();
        let read = async {
            loop {
                if let Some(end) = head.windows(4).position(|four| four == b"\r\n\r\n") {
                    return Ok(end + 4);
                }
                if head.len() > MAX_HEAD {
                    return Err("the request head is longer than 16 KiB".to_owned());
                }
                match io.read_buf(&mut head).await {
                    Ok(0) => return Err("the connection ended before a request".to_owned()),
                    Ok(_) => {}
                    Err(error) => return Err(format!("no request: {error}")),
                }
            }
        };
        let end = timeout(REQUEST, read)
            .await
            .map_err(|_| "no request came".to_owned())??;
        let behind = head.split_off(end);
        let text = String::from_utf8(head).map_err(|_| "the request is not text".to_owned())?;
        let lines = text.lines().map(str::to_owned).collect();
        Ok(Self {
            io,
            at,
            lines,
            behind,
        })
    }

    /// The first value of a header.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.lines.iter().skip(1).find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.trim().eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    /// What is wrong with the request.
    #[must_use]
    pub fn faults(&self, token: &str) -> Vec<String> {
        let mut faults = Vec::new();
        let request = self.lines.first().map_or("", String::as_str);
        let wanted = format!("GET /v1/devices/{ID} HTTP/1.1");
        if request != wanted {
            faults.push(format!("the request is `{request}`, expected `{wanted}`"));
        }
        let offered = self.header("Sec-WebSocket-Protocol").unwrap_or_default();
        let mut offers = offered.split(',').map(str::trim);
        let bearer = self.header("Authorization") == Some(&format!("Bearer {token}"));
        if !bearer && !offers.any(|offer| offer == format!("telehub.bearer.{token}")) {
            faults.push("the request does not carry the token".into());
        }
        for (name, value) in [("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13")] {
            let got = self.header(name).unwrap_or_default();
            if !got.eq_ignore_ascii_case(value) {
                faults.push(format!("header {name} is `{got}`, expected `{value}`"));
            }
        }
        if self.header("Host").is_none() {
            faults.push("the request has no Host".into());
        }
        faults
    }

    /// The answer that upgrades.
    #[must_use]
    pub fn switching(&self) -> String {
        let key = self.header("Sec-WebSocket-Key").unwrap_or_default();
        let accept = derive_accept_key(key.as_bytes());
        let offered = self.header("Sec-WebSocket-Protocol").unwrap_or_default();
        let protocol = if offered.split(',').any(|offer| offer.trim() == "telehub.v1") {
            "Sec-WebSocket-Protocol: telehub.v1\r\n"
        } else {
            ""
        };
        format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {accept}\r\n{protocol}\r\n"
        )
    }

    /// Refuses it with a problem document, and hangs up.
    pub async fn refuse(mut self, status: u16, headers: &str) {
        let body = format!(
            "{{\"type\":\"about:blank\",\"title\":\"refused\",\"status\":{status},\
             \"detail\":\"a refusal of the conformance test\"}}"
        );
        let answer = format!(
            "HTTP/1.1 {status} Refused\r\nContent-Type: application/problem+json\r\n\
             Content-Length: {}\r\nConnection: close\r\n{headers}\r\n{body}",
            body.len()
        );
        self.last_words(answer.as_bytes()).await;
    }

    /// Sends bytes and hangs up.
    pub async fn last_words(&mut self, bytes: &[u8]) {
        let _ = self.io.write_all(bytes).await;
        let _ = self.io.shutdown().await;
    }
}
