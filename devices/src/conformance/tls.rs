//! Certificates made for one run: a CA that the device is told to trust, a server's certificate
//! under it, one with another name, one that is out of date, and one of a CA that it does not know.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

/// What the server shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shows {
    /// A good certificate.
    Good,
    /// One of a CA that the device was not given.
    OtherCa,
    /// One for another name.
    OtherName,
    /// One that ended years ago.
    Expired,
}

/// Everything for TLS in one run.
pub struct Certificates {
    /// The CA, in PEM.
    pub ca: PathBuf,
    good: TlsAcceptor,
    other_ca: TlsAcceptor,
    other_name: TlsAcceptor,
    expired: TlsAcceptor,
}

impl Certificates {
    /// Makes them, and writes the CA into `dir`.
    ///
    /// # Errors
    /// When a key cannot be made or the file not be written.
    pub fn make(dir: &Path) -> anyhow::Result<Self> {
        let (pem, issuer) = authority("conformance CA")?;
        let (_, other) = authority("another CA")?;
        let ca = dir.join("ca.pem");
        std::fs::write(&ca, pem).with_context(|| format!("cannot write {}", ca.display()))?;
        Ok(Self {
            ca,
            good: acceptor(&issuer, "localhost", false)?,
            other_ca: acceptor(&other, "localhost", false)?,
            other_name: acceptor(&issuer, "elsewhere.example", false)?,
            expired: acceptor(&issuer, "localhost", true)?,
        })
    }

    /// The server's side that shows this.
    #[must_use]
    pub fn acceptor(&self, shows: Shows) -> TlsAcceptor {
        match shows {
            Shows::Good => self.good.clone(),
            Shows::OtherCa => self.other_ca.clone(),
            Shows::OtherName => self.other_name.clone(),
            Shows::Expired => self.expired.clone(),
        }
    }
}

fn authority(name: &str) -> anyhow::Result<(String, Issuer<'static, KeyPair>)> {
    let mut params = CertificateParams::new(Vec::new())?;
    params
        .distinguished_name
        .push(rcgen::DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![
        rcgen::KeyUsagePurpose::KeyCertSign,
        rcgen::KeyUsagePurpose::CrlSign,
        rcgen::KeyUsagePurpose::DigitalSignature,
    ];
    let key = KeyPair::generate()?;
    let pem = params.self_signed(&key)?.pem();
    Ok((pem, Issuer::new(params, key)))
}

fn acceptor(
    issuer: &Issuer<'static, KeyPair>,
    name: &str,
    expired: bool,
) -> anyhow::Result<TlsAcceptor> {
    let mut params = CertificateParams::new(vec![name.to_owned()])?;
    params
        .distinguished_name
        .push(rcgen::DnType::CommonName, name);
    params.use_authority_key_identifier_extension = true;
    if expired {
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2021, 1, 1);
    }
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, issuer)?;
    let der = PrivateKeyDer::try_from(key.serialize_der()).map_err(anyhow::Error::msg)?;
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], der)?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}
