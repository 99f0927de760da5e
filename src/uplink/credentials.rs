//! What proves to the broker who the hub is, and to the hub who the broker is: read from files at
//! every connect, so that a renewed certificate or a changed password needs no restart.

use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use crate::config::UplinkTls;
use crate::secret;

/// The password: the first line of the file, without its line end.
///
/// # Errors
/// One sentence, when the file cannot be read.
pub(super) fn password(file: &Path) -> Result<String, String> {
    secret::read(file)
        .map_err(|error| format!("cannot read the password file {}: {error}", file.display()))
}

/// The TLS configuration with ring's cryptography.
///
/// # Errors
/// One sentence, when a file cannot be read or does not hold what it should.
pub(super) fn tls(settings: &UplinkTls) -> Result<Arc<ClientConfig>, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("TLS cannot be set up: {error}"))?
        .with_root_certificates(roots(settings.ca.as_deref())?);
    let config = match &settings.client {
        None => builder.with_no_client_auth(),
        Some((cert, key)) => {
            let chain = certificates(cert, "client certificate")?;
            let private = PrivateKeyDer::from_pem_file(key)
                .map_err(|error| unreadable(key, "private key", &error))?;
            builder
                .with_client_auth_cert(chain, private)
                .map_err(|error| {
                    format!(
                        "the client certificate {} and the key {} cannot be used: {error}",
                        cert.display(),
                        key.display()
                    )
                })?
        }
    };
    Ok(Arc::new(config))
}

/// The certificates to trust: those of the file, or the system's.
fn roots(ca: Option<&Path>) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    if let Some(file) = ca {
        for certificate in certificates(file, "CA")? {
            roots
                .add(certificate)
                .map_err(|error| format!("the CA file {} is no use: {error}", file.display()))?;
        }
    } else {
        let found = rustls_native_certs::load_native_certs();
        // Single unusable certificates in a system's store are common and harm nobody.
        let (usable, _) = roots.add_parsable_certificates(found.certs);
        if usable == 0 {
            return Err(
                "the system has no CA certificates: install ca-certificates or set uplink.ca"
                    .to_owned(),
            );
        }
    }
    Ok(roots)
}

fn certificates(file: &Path, what: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let certificates = CertificateDer::pem_file_iter(file)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| unreadable(file, what, &error))?;
    if certificates.is_empty() {
        return Err(unreadable(file, what, &pem::Error::NoItemsFound));
    }
    Ok(certificates)
}

fn unreadable(file: &Path, what: &str, error: &pem::Error) -> String {
    match error {
        pem::Error::Io(error) => format!("cannot read the {what} file {}: {error}", file.display()),
        pem::Error::NoItemsFound => format!("the {what} file {} holds none", file.display()),
        error => format!("the {what} file {} is not PEM: {error}", file.display()),
    }
}
