//! Silent connections over TLS: a handshake, an upgrade, and pongs, without what a simulator keeps.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::client::Resumption;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, pem::PemObject};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

/// Handshakes at a time: the hub allows one address 64, and one that is answered may count for a moment.
const AT_A_TIME: usize = 16;

/// A certificate for 127.0.0.1 and its key, in files.
#[derive(Debug)]
pub struct Certificate {
    /// PEM.
    pub cert: PathBuf,
    /// PEM.
    pub key: PathBuf,
}

impl Certificate {
    /// Makes one that signs itself.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn make(dir: &Path) -> anyhow::Result<Self> {
        let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()])?;
        let files = Self {
            cert: dir.join("cert.pem"),
            key: dir.join("key.pem"),
        };
        std::fs::write(&files.cert, made.cert.pem())?;
        std::fs::write(&files.key, made.signing_key.serialize_pem())?;
        Ok(files)
    }

    /// Tables of the hub's configuration.
    #[must_use]
    pub fn tables(&self) -> String {
        format!(
            "[devices.tls]\ncert = {:?}\nkey = {:?}\n",
            self.cert.display().to_string(),
            self.key.display().to_string()
        )
    }

    fn connector(&self) -> anyhow::Result<TlsConnector> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(&self.cert)?)?;
        let provider = Arc::new(ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.resumption = Resumption::disabled();
        Ok(TlsConnector::from(Arc::new(config)))
    }
}

/// Devices that say nothing and answer pings, until it is dropped.
///
/// # Errors
/// When one of them is not let in.
pub async fn silent(
    url: &str,
    certificate: &Certificate,
    count: u64,
) -> anyhow::Result<JoinSet<anyhow::Result<()>>> {
    let address: SocketAddr = url.trim_start_matches("ws://").parse()?;
    let connector = certificate.connector()?;
    let turns = Arc::new(Semaphore::new(AT_A_TIME));
    let mut connecting = JoinSet::new();
    for number in 0..count {
        let (connector, turns) = (connector.clone(), turns.clone());
        connecting.spawn(async move {
            let _turn = turns.acquire().await?;
            connect(&connector, address, number).await
        });
    }
    let mut silent = JoinSet::new();
    while let Some(connected) = connecting.join_next().await {
        let stream = connected
            .context("a device crashed")?
            .context("a device with TLS")?;
        silent.spawn(answer_pings(stream));
    }
    Ok(silent)
}

async fn connect(
    connector: &TlsConnector,
    address: SocketAddr,
    number: u64,
) -> anyhow::Result<TlsStream<TcpStream>> {
    let tcp = TcpStream::connect(address).await?;
    let name = ServerName::IpAddress(address.ip().into());
    let mut stream = connector.connect(name, tcp).await?;
    let request = format!(
        "GET /v1/devices/silent-{number} HTTP/1.1\r\nHost: {address}\r\nConnection: Upgrade\r\n\
         Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(stream.read_u8().await?);
    }
    if !answer.starts_with(b"HTTP/1.1 101") {
        bail!("{}", String::from_utf8_lossy(&answer));
    }
    Ok(stream)
}

/// Reads frames as a hub sends them to who is silent: short, in one piece, not masked.
async fn answer_pings(mut stream: TlsStream<TcpStream>) -> anyhow::Result<()> {
    const PING: u8 = 0x89;
    const PONG: u8 = 0x8a;
    loop {
        let [first, length] = stream.read_u16().await?.to_be_bytes();
        if length > 125 {
            bail!("a frame of the hub is longer than a ping");
        }
        let mut payload = vec![0; usize::from(length)];
        stream.read_exact(&mut payload).await?;
        if first == PING {
            // Masked with zeros, which leaves it as it is.
            let mut pong = vec![PONG, 0x80 | length, 0, 0, 0, 0];
            pong.extend_from_slice(&payload);
            stream.write_all(&pong).await?;
        }
    }
}
