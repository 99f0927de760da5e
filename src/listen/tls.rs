//! TLS on the device port: rustls with ring.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::crypto::ring;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ServerConfig, WebPkiClientVerifier};
use tokio_rustls::TlsAcceptor;

use crate::config::{Auth, DeviceTls};

/// Why TLS cannot be set up: one sentence that names the file.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file is missing or is no PEM of the right kind.
    #[error("cannot read {what} from {}: {error}", path.display())]
    File {
        /// What should be in it.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        error: pem::Error,
    },
    /// The file has no certificate in it.
    #[error("there is no certificate in {}", .0.display())]
    Empty(PathBuf),
    /// `auth = "certificate"` without a CA.
    #[error("auth = \"certificate\" needs client_ca in [devices.tls]")]
    NoClientCa,
    /// Certificate and key do not fit, or are of no use.
    #[error("cannot use the certificate and key of [devices.tls]: {0}")]
    Unusable(#[from] rustls::Error),
    /// The client CA is of no use.
    #[error("cannot use client_ca of [devices.tls]: {0}")]
    ClientCa(#[from] rustls::server::VerifierBuilderError),
}

fn certificates(what: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let file = |error| TlsError::File {
        what,
        path: path.to_owned(),
        error,
    };
    let certificates: Vec<_> = CertificateDer::pem_file_iter(path)
        .map_err(file)?
        .collect::<Result<_, _>>()
        .map_err(file)?;
    if certificates.is_empty() {
        return Err(TlsError::Empty(path.to_owned()));
    }
    Ok(certificates)
}

/// Reads the files and makes an acceptor that asks for a client certificate if `auth` does.
pub(super) fn acceptor(tls: &DeviceTls, auth: Auth) -> Result<TlsAcceptor, TlsError> {
    let chain = certificates("the certificate", &tls.cert)?;
    let key = PrivateKeyDer::from_pem_file(&tls.key).map_err(|error| TlsError::File {
        what: "the private key",
        path: tls.key.clone(),
        error,
    })?;
    let provider = Arc::new(ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()?;
    let builder = if auth == Auth::Certificate {
        let path = tls.client_ca.as_ref().ok_or(TlsError::NoClientCa)?;
        let mut roots = RootCertStore::empty();
        for certificate in certificates("the client CA", path)? {
            roots.add(certificate)?;
        }
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build()?;
        builder.with_client_cert_verifier(verifier)
    } else {
        builder.with_no_client_auth()
    };
    let mut config = builder.with_single_cert(chain, key)?;
    // What hyper and the WebSocket speak on top.
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}
