//! TLS on the device port: rustls with ring, on files that are followed while the hub runs.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustls::RootCertStore;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ServerConfig, WebPkiClientVerifier};
use tokio_rustls::TlsAcceptor;
use tracing::{error, info};

use super::version::Version;
use crate::certificate;
use crate::clock::unix_now;
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
    /// The certificate's validity is over.
    #[error("the certificate in {} has expired: renew it, or check the clock", .0.display())]
    Expired(PathBuf),
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

/// What the files give: the acceptor, and what judges device certificates.
struct Loaded {
    acceptor: TlsAcceptor,
    verifier: Option<Arc<dyn ClientCertVerifier>>,
    /// Unix seconds.
    not_after: Option<i64>,
}

/// Reads the files and makes an acceptor that asks for a client certificate if `auth` does.
fn load(tls: &DeviceTls, auth: Auth) -> Result<Loaded, TlsError> {
    let chain = certificates("the certificate", &tls.cert)?;
    let not_after = chain.first().and_then(|own| certificate::not_after(own));
    if not_after.is_some_and(has_passed) {
        return Err(TlsError::Expired(tls.cert.clone()));
    }
    let key = PrivateKeyDer::from_pem_file(&tls.key).map_err(|error| TlsError::File {
        what: "the private key",
        path: tls.key.clone(),
        error,
    })?;
    let provider = Arc::new(ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()?;
    let verifier = match auth {
        Auth::Certificate => Some(verifier(tls, provider)?),
        Auth::Token | Auth::Open => None,
    };
    let builder = match &verifier {
        Some(verifier) => builder.with_client_cert_verifier(verifier.clone()),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_single_cert(chain, key)?;
    if verifier.is_none() {
        // Whoever comes back resumes without the hub remembering it: a sleeper that wakes saves a
        // flight and a signature. Where certificates decide they are looked at each time.
        config.ticketer = ring::Ticketer::new()?;
    }
    // What hyper and the WebSocket speak on top.
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Loaded {
        acceptor: TlsAcceptor::from(Arc::new(config)),
        verifier,
        not_after,
    })
}

/// Judges device certificates by `client_ca`: its certificates, and the revocation lists that may
/// stand in the same file.
fn verifier(
    tls: &DeviceTls,
    provider: Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let path = tls.client_ca.as_ref().ok_or(TlsError::NoClientCa)?;
    let mut roots = RootCertStore::empty();
    for certificate in certificates("the client CA", path)? {
        roots.add(certificate)?;
    }
    let file = |error| TlsError::File {
        what: "the revocation list",
        path: path.clone(),
        error,
    };
    let lists: Vec<_> = CertificateRevocationListDer::pem_file_iter(path)
        .map_err(file)?
        .collect::<Result<_, _>>()
        .map_err(file)?;
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
        .with_crls(lists)
        // An authority without a list has revoked nothing.
        .allow_unknown_revocation_status()
        .only_check_end_entity_revocation();
    Ok(builder.build()?)
}

fn has_passed(time: i64) -> bool {
    #[expect(clippy::cast_precision_loss, reason = "seconds of some centuries fit")]
    let time = time as f64;
    time < unix_now()
}

/// A device's certificate and those that lead to its authority.
pub(super) type Chain = Arc<[CertificateDer<'static>]>;

struct State {
    versions: [Option<Version>; 3],
    loaded: Loaded,
    /// Counts the reloads that took effect.
    generation: u64,
    /// The files have changed, and could not be used when looked at last.
    unusable: bool,
    /// Somebody was told of the end of the validity.
    expiry_told: bool,
}

/// TLS as the files say it, also when they change. Connections that are open keep what they have.
pub(super) struct Tls {
    files: DeviceTls,
    auth: Auth,
    state: Mutex<State>,
}

impl Tls {
    /// Reads the files.
    pub(super) fn open(files: &DeviceTls, auth: Auth) -> Result<Self, TlsError> {
        let versions = versions(files);
        let state = State {
            versions,
            loaded: load(files, auth)?,
            generation: 0,
            unusable: false,
            expiry_told: false,
        };
        Ok(Self {
            files: files.clone(),
            auth,
            state: Mutex::new(state),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For one connection: the acceptor, and the generation that it belongs to.
    pub(super) fn acceptor(&self) -> (TlsAcceptor, u64) {
        let state = self.lock();
        (state.loaded.acceptor.clone(), state.generation)
    }

    /// Whether a device's certificate, accepted in that generation, is still accepted.
    pub(super) fn still_accepts(&self, chain: &Chain, generation: u64) -> bool {
        let state = self.lock();
        if state.generation == generation {
            return true;
        }
        let Some(verifier) = state.loaded.verifier.clone() else {
            return true;
        };
        drop(state);
        chain.split_first().is_some_and(|(own, rest)| {
            verifier
                .verify_client_cert(own, rest, UnixTime::now())
                .is_ok()
        })
    }

    /// Forgets what the files looked like, so that the next look reads them.
    pub(super) fn read_again(&self) {
        self.lock().versions = [None; 3];
    }

    /// Looks whether the files have changed and follows them. `true`: from now on devices are
    /// judged anew.
    pub(super) fn refresh(&self) -> bool {
        let versions = versions(&self.files);
        let mut state = self.lock();
        if !state.expiry_told && state.loaded.not_after.is_some_and(has_passed) {
            state.expiry_told = true;
            error!(cert = %self.files.cert.display(), "the certificate of [devices.tls] has expired; devices that look at it do not connect: renew it");
        }
        let changed = state.versions != versions;
        if !changed && !state.unusable {
            return false;
        }
        match load(&self.files, self.auth) {
            Ok(loaded) => {
                *state = State {
                    versions,
                    loaded,
                    generation: state.generation + 1,
                    unusable: false,
                    expiry_told: false,
                };
                info!(cert = %self.files.cert.display(), "certificates of [devices.tls] read again");
                true
            }
            Err(error) => {
                // Certificate and key are two files: one may be there before the other, so it is
                // looked at once more before it is said, and then not any more.
                if !changed {
                    error!(%error, "cannot use the new files of [devices.tls]; those read before stay in force");
                }
                state.unusable = changed;
                state.versions = versions;
                false
            }
        }
    }
}

fn versions(files: &DeviceTls) -> [Option<Version>; 3] {
    let paths = [
        Some(&files.cert),
        Some(&files.key),
        files.client_ca.as_ref(),
    ];
    paths.map(|path| fs::metadata(path?).ok().map(Version::from))
}
