//! TLS on the device port: rustls with ring, on files that are followed while the hub runs.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustls::RootCertStore;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, ServerConfig, WebPkiClientVerifier};
use tokio_rustls::TlsAcceptor;
use tracing::{error, info, warn};

use super::version::Version;
use crate::certificate::{self, Certificate};
use crate::clock::unix_now;
use crate::config::{Auth, CrlExpiry, DeviceTls};
use crate::tls_errors;

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
    #[error("cannot use the certificate and key of [devices.tls]: {}", tls_errors::in_file(.0))]
    Unusable(#[from] rustls::Error),
    /// A certificate among the client CAs is of no use.
    #[error("cannot use a certificate in {}: {}", .0.display(), tls_errors::in_file(.1))]
    Authority(PathBuf, rustls::Error),
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
    authorities: Authorities,
}

/// What `client_ca` says beside the verifier.
#[derive(Debug, Default)]
struct Authorities {
    /// Those that may give some names only, as they stand in the certificates below them.
    limited: Vec<Vec<u8>>,
    /// When the revocation lists should have been replaced: Unix seconds.
    next_updates: Vec<i64>,
    /// Whether a list that is too old counts as an error.
    enforced: bool,
}

/// Reads the files and makes an acceptor that asks for a client certificate if `auth` does.
fn load(tls: &DeviceTls, auth: Auth) -> Result<Loaded, TlsError> {
    let chain = certificates("the certificate", &tls.cert)?;
    let not_after = chain.first().and_then(|own| certificate::not_after(own));
    let key = PrivateKeyDer::from_pem_file(&tls.key).map_err(|error| TlsError::File {
        what: "the private key",
        path: tls.key.clone(),
        error,
    })?;
    let provider = Arc::new(ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()?;
    let (verifier, authorities) = match auth {
        Auth::Certificate => {
            let (verifier, authorities) = verifier(tls, provider)?;
            (Some(verifier), authorities)
        }
        Auth::Token | Auth::Open => (None, Authorities::default()),
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
    if verifier.is_some() {
        // A resumed session is not verified: it would be good for ever, whatever has ended or was
        // revoked since.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
    }
    Ok(Loaded {
        acceptor: TlsAcceptor::from(Arc::new(config)),
        verifier,
        not_after,
        authorities,
    })
}

/// Judges device certificates by `client_ca`: its certificates, and the revocation lists that may
/// stand in the same file.
fn verifier(
    tls: &DeviceTls,
    provider: Arc<CryptoProvider>,
) -> Result<(Arc<dyn ClientCertVerifier>, Authorities), TlsError> {
    let path = tls.client_ca.as_ref().ok_or(TlsError::NoClientCa)?;
    let mut roots = RootCertStore::empty();
    let mut authorities = Authorities {
        enforced: tls.crl_expiry == CrlExpiry::Error,
        ..Authorities::default()
    };
    for certificate in certificates("the client CA", path)? {
        if let Some(read) = Certificate::read(&certificate).filter(|read| read.limits_names) {
            authorities.limited.push(read.subject.to_vec());
        }
        let added = roots.add(certificate);
        added.map_err(|error| TlsError::Authority(path.clone(), error))?;
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
    authorities.next_updates = lists
        .iter()
        .filter_map(|list| certificate::next_update(list))
        .collect();
    let mut builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
        .with_crls(lists)
        // An authority without a list has revoked nothing.
        .allow_unknown_revocation_status();
    if authorities.enforced {
        builder = builder.enforce_revocation_expiration();
    }
    Ok((builder.build()?, authorities))
}

/// The clock that certificates are held against.
pub(super) fn unix_seconds() -> i64 {
    #[expect(clippy::cast_possible_truncation, reason = "whole seconds are meant")]
    let seconds = unix_now() as i64;
    seconds
}

fn has_passed(time: i64) -> bool {
    time < unix_seconds()
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
    /// Revocation lists that somebody was told to be too old.
    lists_told: usize,
}

/// TLS as the files say it, also when they change. Connections that are open keep what they have.
pub(super) struct Tls {
    files: DeviceTls,
    auth: Auth,
    state: Mutex<State>,
}

impl Tls {
    /// Reads the files. A certificate that has expired is no reason not to start: devices without a
    /// clock do not look at that, and a hub that is not there takes nothing from anybody, over a clock
    /// that is ahead as well. [`Self::refresh`] says so.
    pub(super) fn open(files: &DeviceTls, auth: Auth) -> Result<Self, TlsError> {
        let versions = versions(files);
        let state = State {
            versions,
            loaded: load(files, auth)?,
            generation: 0,
            unusable: false,
            expiry_told: false,
            lists_told: 0,
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
        drop(state);
        self.accepts(chain)
    }

    /// Whether a device's certificate would be accepted now.
    pub(super) fn accepts(&self, chain: &Chain) -> bool {
        let Some(verifier) = self.lock().loaded.verifier.clone() else {
            return true;
        };
        chain.split_first().is_some_and(|(own, rest)| {
            verifier
                .verify_client_cert(own, rest, UnixTime::now())
                .is_ok()
        })
    }

    /// Until when nothing ends that a certificate rests on: itself, those above it, the revocation
    /// lists if that is an error. Unix seconds.
    pub(super) fn until(&self, chain: &Chain, now: i64) -> i64 {
        let state = self.lock();
        let Authorities {
            next_updates,
            enforced,
            ..
        } = &state.loaded.authorities;
        let ends = chain.iter().filter_map(|one| certificate::not_after(one));
        let lists = next_updates.iter().copied().filter(|_| *enforced);
        // Valid up to and including that second.
        let coming = ends.chain(lists).map(|end| end.saturating_add(1));
        coming.filter(|end| *end > now).min().unwrap_or(i64::MAX)
    }

    /// Whether an authority above a certificate may give some names only. Those of the file that
    /// have the name of an issuer count, and all that were shown, whether or not the way to the
    /// file leads through them.
    pub(super) fn limits_names(&self, chain: &Chain) -> bool {
        let state = self.lock();
        let limited = &state.loaded.authorities.limited;
        let below = |issuer: &[u8]| limited.iter().any(|subject| subject == issuer);
        chain.iter().any(|one| {
            Certificate::read(one).is_none_or(|read| read.limits_names || below(read.issuer))
        })
    }

    /// How many revocation lists are too old. Says so when there are more than before.
    pub(super) fn old_lists(&self) -> usize {
        let mut state = self.lock();
        let lists = state.loaded.authorities.next_updates.iter();
        let old = lists.filter(|end| has_passed(**end)).count();
        if old > state.lists_told {
            let client_ca = self.files.client_ca.as_deref().unwrap_or(Path::new(""));
            warn!(client_ca = %client_ca.display(), lists = old, refused = state.loaded.authorities.enforced, "a revocation list is older than it says it may be; what was revoked since is not known: put the newest one there");
        }
        state.lists_told = old;
        old
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
        let expired = |loaded: &Loaded| loaded.not_after.is_some_and(has_passed);
        let loaded = load(&self.files, self.auth).and_then(|new| {
            match expired(&new) && !expired(&state.loaded) {
                true => Err(TlsError::Expired(self.files.cert.clone())),
                false => Ok(new),
            }
        });
        match loaded {
            Ok(loaded) => {
                *state = State {
                    versions,
                    loaded,
                    generation: state.generation + 1,
                    unusable: false,
                    expiry_told: false,
                    lists_told: 0,
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
