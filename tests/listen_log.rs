//! What the log says of those who are not let in: each once, and no secrets.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "support/device_port.rs"]
mod device_port;
#[path = "support/log.rs"]
mod log;

use std::path::Path;
use std::sync::Arc;

use device_port::{Port, devices, handshake, soon};
use log::Log;
use rustls::client::ResolvesClientCert;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, RootCertStore, SignatureScheme};
use telehub::config::{Auth, CrlExpiry, DeviceTls};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// What is logged from here on, up to the end of the guard.
fn listen() -> (Log, tracing::subscriber::DefaultGuard) {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::INFO)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    (log, tracing::subscriber::set_default(subscriber))
}

#[tokio::test]
async fn a_refused_device_is_logged_once_for_each_reason_and_its_token_never() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _guard) = listen();
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

/// Shows a certificate without a look at it, as other libraries do.
#[derive(Debug)]
struct Shows(Arc<CertifiedKey>);

impl ResolvesClientCert for Shows {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

#[tokio::test]
async fn a_device_whose_certificate_is_of_version_1_is_refused_with_that_reason() {
    let (log, _guard) = listen();
    let made = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/certificates");
    let mut settings = devices();
    settings.auth = Auth::Certificate;
    settings.tls = Some(DeviceTls {
        cert: made.join("p256.pem"),
        key: made.join("leaf.key"),
        client_ca: Some(made.join("ca.pem")),
        crl_expiry: CrlExpiry::Warn,
    });
    let port = Port::start(settings).await;
    let mut roots = RootCertStore::empty();
    let file = |name: &str| CertificateDer::from_pem_file(made.join(name)).unwrap();
    roots.add(file("ca.pem")).unwrap();
    let key = PrivateKeyDer::from_pem_file(made.join("leaf.key")).unwrap();
    let key = ring::sign::any_supported_type(&key).unwrap();
    let shows = Shows(Arc::new(CertifiedKey::new(vec![file("v1.pem")], key)));
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_client_cert_resolver(Arc::new(shows));
    let tcp = TcpStream::connect(port.addr).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let connector = TlsConnector::from(Arc::new(config));
    // In TLS 1.3 the client hears of it with its first read.
    if let Ok(mut stream) = soon(connector.connect(name, tcp)).await {
        let _ = stream.write_all(handshake("a", "").as_bytes()).await;
        assert!(soon(stream.read_to_end(&mut Vec::new())).await.is_err());
    }
    let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    let line = text.lines().find(|line| line.contains("handshake failed"));
    let line = line.unwrap_or_else(|| panic!("{text}"));
    assert!(
        line.contains("WARN") && line.contains("X.509 version 1"),
        "{line}"
    );
}
