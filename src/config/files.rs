//! The files that a configuration names: there, readable, and what they are said to be.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustls::RootCertStore;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

use super::document::Document;
use super::problem::Problem;
use super::values::credentials;
use crate::certificate::{Certificate, next_update, not_after};
use crate::clock::unix_now;
use crate::secret::first_line;
use crate::tls_errors::in_file;

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
    /// A token in the first line.
    Token,
}

/// A file that a key names.
#[derive(Debug)]
pub(super) struct NamedFile {
    /// The key and its line; the text is filled in when something is wrong.
    place: Problem,
    path: PathBuf,
    need: Use,
    /// It belongs to the port for devices, where each handshake costs this machine time.
    serves: bool,
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
            serves: section == "devices.tls",
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
            Use::Chain => certificates(path).map(|_| ()),
            Use::KeyOf(cert) => key_of(path, cert),
            Use::Authorities => authorities(path),
            Use::Password => password(path),
            Use::Token => token(path),
        };
        checked.map_err(|text| Problem {
            text: text + &self.credential_hint(),
            ..self.place.clone()
        })
    }

    /// What is valid and probably not meant, of a file that can be read.
    pub(super) fn warnings(&self) -> Vec<Problem> {
        let path = &self.path;
        let texts = match &self.need {
            Use::Chain => [authority_as_own(path), expired(path)],
            Use::KeyOf(cert) => [open_to_others(path), costly(path, cert, self.serves)],
            Use::Authorities => [outdated_list(path), None],
            Use::Password | Use::Token => [open_to_others(path), None],
        };
        let problem = |text| Problem {
            text,
            ..self.place.clone()
        };
        texts.into_iter().flatten().map(problem).collect()
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

/// Whether any user of this machine may read a secret.
fn open_to_others(path: &Path) -> Option<String> {
    let mode = fs::metadata(path).ok()?.permissions().mode();
    (mode & 0o004 != 0).then(|| {
        let path = path.display();
        format!("{path} is a secret that every user of this machine may read; chmod o-rwx {path}")
    })
}

/// An RSA key above 2,048 bits: signing with 4,096 takes some six times as long, at each handshake.
fn costly(path: &Path, cert: &Path, serves: bool) -> Option<String> {
    const ENOUGH: usize = 2_048;
    let chain = certificates(cert).ok()?;
    let bits = Certificate::read(chain.first()?)?.rsa_bits?;
    (serves && bits > ENOUGH).then(|| {
        format!(
            "{} is an RSA key of {bits} bits, which makes each handshake slow on a small board; \
             use ECDSA P-256, or RSA of {ENOUGH} bits",
            path.display()
        )
    })
}

/// The certificate of an authority where one of its own is needed: some devices refuse it.
fn authority_as_own(path: &Path) -> Option<String> {
    let chain = certificates(path).ok()?;
    Certificate::read(chain.first()?)?.is_authority.then(|| {
        format!(
            "the first certificate in {} is that of an authority (CA:TRUE), which may sign others \
             and not stand for itself: many clients refuse it; make one with CA:FALSE that it has \
             signed",
            path.display()
        )
    })
}

fn outdated_list(path: &Path) -> Option<String> {
    let pem = read(path).ok()?;
    let lists = CertificateRevocationListDer::pem_slice_iter(&pem);
    let ends = lists.filter_map(|list| next_update(&list.ok()?));
    has_passed(ends.min()?).then(|| {
        format!(
            "a revocation list in {} is older than it says it may be; put the newest one there",
            path.display()
        )
    })
}

fn has_passed(end: i64) -> bool {
    #[expect(clippy::cast_precision_loss, reason = "seconds of some centuries fit")]
    let end = end as f64;
    end < unix_now()
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
/// begun yet says nothing. One that is over is no reason not to start either: what is taken from
/// devices that do not look at it, or waits for a broker that does, is not lost.
fn expired(path: &Path) -> Option<String> {
    let certs = certificates(path).ok()?;
    let end = certs.first().and_then(|own| not_after(own));
    end.is_some_and(has_passed).then(|| {
        format!(
            "{} has a certificate that has expired, which whoever looks at it refuses; renew it, or \
             check the clock",
            path.display()
        )
    })
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
            "{} cannot be used with {}: {}",
            path.display(),
            cert.display(),
            in_file(&error)
        )),
    }
}

fn authorities(path: &Path) -> Result<(), String> {
    let mut store = RootCertStore::empty();
    for cert in certificates(path)? {
        store.add(cert).map_err(|error| {
            format!(
                "{} has a certificate that cannot be trusted: {}",
                path.display(),
                in_file(&error)
            )
        })?;
    }
    Ok(())
}

/// The first line of a secret's file.
fn secret_line<'c>(path: &Path, content: &'c [u8]) -> Result<&'c str, String> {
    first_line(content).map_err(|error| format!("{} cannot be used: {error}", path.display()))
}

fn password(path: &Path) -> Result<(), String> {
    let content = read(path)?;
    if !secret_line(path, &content)?.trim().is_empty() {
        return Ok(());
    }
    Err(format!(
        "{} has no password in its first line; write it there",
        path.display()
    ))
}

/// Short ones can be guessed, and others than these characters get lost on the way through a
/// header.
fn token(path: &Path) -> Result<(), String> {
    const LENGTH: usize = 16;
    let content = read(path)?;
    let token = secret_line(path, &content)?.trim();
    if token.len() >= LENGTH && token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Ok(());
    }
    Err(format!(
        "{} has no token in its first line: {LENGTH} or more ASCII characters without a space; \
         make one with \"openssl rand -hex 32\"",
        path.display()
    ))
}
