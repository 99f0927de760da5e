//! The files that a configuration names: there, readable, and what they are said to be.

use std::fs;
use std::path::{Path, PathBuf};

use rustls::RootCertStore;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

use super::document::Document;
use super::problem::Problem;
use super::values::credentials;
use crate::certificate::not_after;
use crate::clock::unix_now;

/// What a file is needed for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Use {
    /// PEM certificate chain.
    Chain,
    /// PEM private key of the first certificate in this file.
    KeyOf(PathBuf),
    /// PEM certificates to trust.
    Authorities,
    /// A password in the first line.
    Password,
}

/// A file that a key names.
#[derive(Debug)]
pub(super) struct NamedFile {
    /// The key and its line; the text is filled in when something is wrong.
    place: Problem,
    path: PathBuf,
    need: Use,
}

impl NamedFile {
    pub(super) fn new(
        doc: &Document<'_>,
        section: &str,
        key: &str,
        path: &Path,
        need: Use,
    ) -> Self {
        let place = doc.remark(section, key, "");
        Self {
            place,
            path: path.to_owned(),
            need,
        }
    }

    /// Reads the file.
    ///
    /// # Errors
    ///
    /// What is wrong with it and what to do.
    pub(super) fn check(&self) -> Result<(), Problem> {
        let path = &self.path;
        if path.is_relative() {
            let name = path.display();
            let text = format!(
                "{name} is the name of a credential, and this process has none from systemd; \
                 write a whole path, or start it by a unit with LoadCredential={name}; to check \
                 it as the service sees it: systemd-run --pipe --wait -p \
                 LoadCredential={name} telehub check"
            );
            return Err(Problem {
                text,
                ..self.place.clone()
            });
        }
        let checked = match &self.need {
            Use::Chain => chain(path),
            Use::KeyOf(cert) => key_of(path, cert),
            Use::Authorities => authorities(path),
            Use::Password => password(path),
        };
        checked.map_err(|text| Problem {
            text: text + &self.credential_hint(),
            ..self.place.clone()
        })
    }
}

impl NamedFile {
    /// Where a credential comes from.
    fn credential_hint(&self) -> String {
        let name = self.path.file_name().unwrap_or_default().to_string_lossy();
        if credentials().is_some_and(|dir| self.path.parent() == Some(&dir)) {
            return format!(
                "; it is a credential: systemd takes it from /etc/credstore/{name}, or from \
                 where LoadCredential={name}:PATH in the unit says"
            );
        }
        String::new()
    }
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    /// Chains and bundles of authorities have some 100 KiB; this keeps a wrong path, to a disk
    /// image say, from filling the memory.
    const LIMIT: u64 = 4 << 20;
    let failed = |error: std::io::Error| {
        format!(
            "cannot read {}: {error}; check the path and its permissions",
            path.display()
        )
    };
    let meta = fs::metadata(path).map_err(failed)?;
    if !meta.is_file() || meta.len() > LIMIT {
        return Err(format!(
            "{} is not a file of this kind; check the path",
            path.display()
        ));
    }
    fs::read(path).map_err(failed)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let pem = read(path)?;
    let certs: Result<Vec<_>, pem::Error> = CertificateDer::pem_slice_iter(&pem).collect();
    match certs {
        Ok(certs) if !certs.is_empty() => Ok(certs),
        _ => Err(format!(
            "{} has no certificate that can be read; name a PEM file with \
             -----BEGIN CERTIFICATE----- in it",
            path.display()
        )),
    }
}

/// The clock of a board without a battery starts in the past, so that a validity that has not
/// begun yet says nothing.
fn chain(path: &Path) -> Result<(), String> {
    let certs = certificates(path)?;
    let end = certs.first().and_then(|own| not_after(own));
    #[expect(clippy::cast_precision_loss, reason = "seconds of some centuries fit")]
    if end.is_some_and(|end| (end as f64) < unix_now()) {
        return Err(format!(
            "{} has a certificate that has expired; renew it, or check the clock",
            path.display()
        ));
    }
    Ok(())
}

fn key_of(path: &Path, cert: &Path) -> Result<(), String> {
    let pem = read(path)?;
    let key = PrivateKeyDer::from_pem_slice(&pem).map_err(|_| {
        format!(
            "{} has no private key that can be read; name a PEM file with -----BEGIN PRIVATE \
             KEY----- in it, without a passphrase",
            path.display()
        )
    })?;
    // A fault of the chain is said where the chain is named.
    let Ok(chain) = certificates(cert) else {
        return Ok(());
    };
    let provider = rustls::crypto::ring::default_provider();
    match CertifiedKey::from_der(chain, key, &provider) {
        Ok(_) => Ok(()),
        Err(rustls::Error::InconsistentKeys(_)) => Err(format!(
            "{} is not the key of the first certificate in {}; name the two files that were \
             made together",
            path.display(),
            cert.display()
        )),
        Err(error) => Err(format!(
            "{} cannot be used with {}: {error}; name a key of type RSA (2,048 bits or more), \
             ECDSA P-256 or P-384, or Ed25519",
            path.display(),
            cert.display()
        )),
    }
}

fn authorities(path: &Path) -> Result<(), String> {
    let mut store = RootCertStore::empty();
    for cert in certificates(path)? {
        store.add(cert).map_err(|error| {
            format!(
                "{} has a certificate that cannot be trusted: {error}",
                path.display()
            )
        })?;
    }
    Ok(())
}

fn password(path: &Path) -> Result<(), String> {
    let content = read(path)?;
    if content
        .split(|byte| *byte == b'\n')
        .next()
        .is_some_and(|line| !line.trim_ascii().is_empty())
    {
        return Ok(());
    }
    Err(format!(
        "{} has no password in its first line; write it there",
        path.display()
    ))
}
