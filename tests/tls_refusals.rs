//! What a TLS handshake that fails tells the operator: each cause its own sentence, which names the
//! file to look at, and nothing as a library prints it. The handshakes are real; no socket is needed.
#![allow(clippy::unwrap_used, missing_docs)]

use std::collections::BTreeMap;
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, GeneralSubtree,
    IsCa, KeyPair, NameConstraints,
};
use rustls::client::ResolvesClientCert;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::time_provider::TimeProvider;
use rustls::{
    ClientConfig, ClientConnection, Connection, Error, RootCertStore, ServerConfig,
    ServerConnection, SignatureScheme,
};
use telehub::tls_errors::{Peer, in_file, tell};

/// The hub as the broker's client, and as the devices' server.
const BROKER: Peer<'static> = Peer {
    who: "the broker",
    trust: "uplink.ca",
    name: "the host in uplink.url",
    own: "uplink.cert and uplink.key",
    shows_own: false,
};
const DEVICE: Peer<'static> = Peer {
    who: "the device",
    trust: "client_ca of [devices.tls]",
    name: "the host that it connects to",
    own: "cert of [devices.tls]",
    shows_own: true,
};

/// Within the validity of the files in tests/certificates.
#[derive(Debug)]
struct Year2030;

impl TimeProvider for Year2030 {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(std::time::Duration::from_secs(
            1_900_000_000,
        )))
    }
}

/// Shows a certificate without a look at it, as other libraries do.
#[derive(Debug)]
struct Shows(Arc<CertifiedKey>);

impl Shows {
    fn new((chain, key): Identity) -> Self {
        let key = ring::sign::any_supported_type(&key).unwrap();
        Self(Arc::new(CertifiedKey::new(chain, key)))
    }
}

impl ResolvesServerCert for Shows {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }
}

impl ResolvesClientCert for Shows {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);
type Authority = CertifiedIssuer<'static, KeyPair>;

fn file(name: &str) -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/certificates")
        .join(name)
}

fn certificate(name: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_file(file(name)).unwrap()
}

fn key(name: &str) -> PrivateKeyDer<'static> {
    PrivateKeyDer::from_pem_file(file(name)).unwrap()
}

fn authority_with(change: impl FnOnce(&mut CertificateParams)) -> Authority {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    // Of different names: two of the same are another case.
    let name = format!("{:?}", key.public_key_raw());
    params
        .distinguished_name
        .push(rcgen::DnType::CommonName, &name[..60]);
    change(&mut params);
    CertifiedIssuer::self_signed(params, key).unwrap()
}

fn issue(
    authority: &Authority,
    purpose: ExtendedKeyUsagePurpose,
    change: impl FnOnce(&mut CertificateParams),
) -> Identity {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(["localhost".to_owned()]).unwrap();
    params.extended_key_usages = vec![purpose];
    change(&mut params);
    let certificate = params.signed_by(&key, authority).unwrap();
    let key = PrivatePkcs8KeyDer::from(key.serialize_der());
    (vec![certificate.der().clone()], key.into())
}

fn roots(certificates: &[CertificateDer<'static>]) -> Arc<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for one in certificates {
        roots.add(one.clone()).unwrap();
    }
    Arc::new(roots)
}

/// Shakes hands. What the client and what the server found wrong.
fn shake(
    server: Identity,
    server_trusts: Option<&[CertificateDer<'static>]>,
    client: Option<Identity>,
    client_trusts: &[CertificateDer<'static>],
) -> (Option<Error>, Option<Error>) {
    let provider = Arc::new(ring::default_provider());
    let builder = ServerConfig::builder_with_details(provider.clone(), Arc::new(Year2030))
        .with_safe_default_protocol_versions()
        .unwrap();
    let builder = match server_trusts {
        Some(trusts) => {
            let verifier =
                WebPkiClientVerifier::builder_with_provider(roots(trusts), provider.clone());
            builder.with_client_cert_verifier(verifier.build().unwrap())
        }
        None => builder.with_no_client_auth(),
    };
    let server = builder.with_cert_resolver(Arc::new(Shows::new(server)));
    let builder = ClientConfig::builder_with_details(provider, Arc::new(Year2030))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots(client_trusts));
    let client = match client {
        Some(identity) => builder.with_client_cert_resolver(Arc::new(Shows::new(identity))),
        None => builder.with_no_client_auth(),
    };
    let name = ServerName::try_from("localhost").unwrap();
    let mut client: Connection = ClientConnection::new(Arc::new(client), name)
        .unwrap()
        .into();
    let mut server: Connection = ServerConnection::new(Arc::new(server)).unwrap().into();
    let (mut at_client, mut at_server) = (None, None);
    for _ in 0..10 {
        pass(&mut client, &mut server, &mut at_server);
        pass(&mut server, &mut client, &mut at_client);
    }
    (at_client, at_server)
}

fn pass(from: &mut Connection, to: &mut Connection, wrong: &mut Option<Error>) {
    let mut bytes = Vec::new();
    while from.wants_write() {
        from.write_tls(&mut bytes).unwrap();
    }
    let mut bytes = &bytes[..];
    while !bytes.is_empty() && wrong.is_none() {
        to.read_tls(&mut bytes).unwrap();
        *wrong = to.process_new_packets().err();
    }
}

/// Notes a sentence, and holds what all of them have in common.
fn note(
    told: &mut BTreeMap<String, &'static str>,
    what: &'static str,
    error: &Error,
    peer: Peer<'_>,
) -> String {
    let sentence = tell(error, peer).sentence;
    assert!(sentence.contains(peer.who), "{what}: {sentence}");
    for raw in ["Other(", "Error(", "Context {", "InvalidCertificate"] {
        assert!(!sentence.contains(raw), "{what}: {sentence}");
    }
    let before = told.insert(sentence.clone(), what);
    assert_eq!(
        before, None,
        "{what} has the sentence of another: {sentence}"
    );
    sentence
}

fn yesterday(params: &mut CertificateParams) {
    params.not_before = rcgen::date_time_ymd(2000, 1, 1);
    params.not_after = rcgen::date_time_ymd(2001, 1, 1);
}

#[test]
fn what_is_wrong_with_a_brokers_certificate_is_told_each_in_its_own_sentence() {
    use ExtendedKeyUsagePurpose::{ClientAuth, ServerAuth};
    let (good, other) = (authority_with(|_| ()), authority_with(|_| ()));
    let itself = {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(["localhost".to_owned()]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap().der().clone();
        let key = PrivatePkcs8KeyDer::from(key.serialize_der());
        (vec![certificate], PrivateKeyDer::from(key))
    };
    let limited = authority_with(|params| {
        params.name_constraints = Some(NameConstraints {
            permitted_subtrees: vec![GeneralSubtree::DnsName("elsewhere.example".into())],
            excluded_subtrees: Vec::new(),
        });
    });
    let expired_between = {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        yesterday(&mut params);
        let between = CertifiedIssuer::signed_by(params, KeyPair::generate().unwrap(), &good);
        let between = between.unwrap();
        let (mut chain, key) = issue_below(&between);
        chain.push(between.der().clone());
        (chain, key)
    };
    let named = |params: &mut CertificateParams| {
        let name = "broker.example".try_into().unwrap();
        params.subject_alt_names = vec![rcgen::SanType::DnsName(name)];
    };
    let cases: Vec<(&'static str, Identity, CertificateDer<'static>, &str)> = vec![
        (
            "X.509 v1",
            (vec![certificate("v1.pem")], key("leaf.key")),
            certificate("ca.pem"),
            "version 1",
        ),
        (
            "a CA as server certificate",
            (itself.0.clone(), itself.1),
            itself.0[0].clone(),
            "CA:FALSE",
        ),
        (
            "a P-521 authority",
            (vec![certificate("p521-signed.pem")], key("leaf.key")),
            certificate("p521-ca.pem"),
            "P-521",
        ),
        (
            "expired",
            issue(&good, ServerAuth, yesterday),
            good.der().clone(),
            "has expired",
        ),
        (
            "unknown CA",
            issue(&other, ServerAuth, |_| ()),
            good.der().clone(),
            "not in uplink.ca",
        ),
        (
            "wrong name",
            issue(&good, ServerAuth, named),
            good.der().clone(),
            "(broker.example)",
        ),
        (
            "another purpose",
            issue(&good, ClientAuth, |_| ()),
            good.der().clone(),
            "serverAuth",
        ),
        (
            "a name that the CA may not give",
            issue(&limited, ServerAuth, |_| ()),
            limited.der().clone(),
            "may not give",
        ),
    ];
    let mut told = BTreeMap::new();
    for (what, server, trusted, expected) in cases {
        let error = shake(server, None, None, &[trusted]).0.expect(what);
        let sentence = note(&mut told, what, &error, BROKER);
        assert!(sentence.contains(expected), "{what}: {sentence}");
    }
    // One above it is told like itself.
    let error = shake(expired_between, None, None, &[good.der().clone()])
        .0
        .unwrap();
    let sentence = tell(&error, BROKER);
    assert!(sentence.passing && sentence.sentence.contains("or one above it, has expired"));
}

fn issue_below(between: &Authority) -> Identity {
    issue(between, ExtendedKeyUsagePurpose::ServerAuth, |_| ())
}

#[test]
fn a_client_certificate_that_is_wanted_or_disliked_is_told_at_both_ends() {
    use ExtendedKeyUsagePurpose::{ClientAuth, ServerAuth};
    let (good, other) = (authority_with(|_| ()), authority_with(|_| ()));
    let hub = || issue(&good, ServerAuth, |_| ());
    let own_ca = {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(["localhost".to_owned()]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.signed_by(&key, &good).unwrap().der().clone();
        let key = PrivatePkcs8KeyDer::from(key.serialize_der());
        (vec![certificate], PrivateKeyDer::from(key))
    };
    let trusted = [
        good.der().clone(),
        certificate("ca.pem"),
        certificate("p521-ca.pem"),
    ];
    let cases: Vec<(&'static str, Option<Identity>, &str)> = vec![
        ("none", None, "showed no certificate"),
        (
            "X.509 v1",
            Some((vec![certificate("v1.pem")], key("leaf.key"))),
            "version 1",
        ),
        ("a CA", Some(own_ca), "CA:FALSE"),
        (
            "a P-521 authority",
            Some((vec![certificate("p521-signed.pem")], key("leaf.key"))),
            "P-521",
        ),
        (
            "expired",
            Some(issue(&good, ClientAuth, yesterday)),
            "has expired",
        ),
        (
            "unknown CA",
            Some(issue(&other, ClientAuth, |_| ())),
            "not in client_ca of [devices.tls]",
        ),
        (
            "another purpose",
            Some(issue(&good, ServerAuth, |_| ())),
            "clientAuth",
        ),
    ];
    let mut told = BTreeMap::new();
    for (what, client, expected) in cases {
        let shows_own = client.is_some();
        let (at_client, at_server) = shake(hub(), Some(&trusted), client, &[good.der().clone()]);
        let sentence = note(&mut told, what, &at_server.expect(what), DEVICE);
        assert!(sentence.contains(expected), "{what}: {sentence}");
        // The other end hears an alert: a hub at its broker, with its own certificate or without.
        let peer = Peer {
            shows_own,
            ..BROKER
        };
        let heard = tell(&at_client.expect(what), peer).sentence;
        assert!(
            heard.contains("uplink.cert and uplink.key"),
            "{what}: {heard}"
        );
        assert_eq!(
            heard.contains("wants a client certificate"),
            !shows_own,
            "{what}: {heard}"
        );
    }
    // A device that does not know the hub's authority.
    let (_, at_server) = shake(hub(), None, None, &[other.der().clone()]);
    let sentence = note(
        &mut told,
        "a hub of an unknown CA",
        &at_server.unwrap(),
        DEVICE,
    );
    assert!(sentence.contains("cert of [devices.tls]"), "{sentence}");
}

#[test]
fn a_file_of_this_side_is_told_what_is_wrong_with_it() {
    let provider = ring::default_provider();
    let v1 = CertifiedKey::from_der(vec![certificate("v1.pem")], key("leaf.key"), &provider);
    let v1 = in_file(&v1.unwrap_err());
    assert!(v1.contains("X.509 version 1"), "{v1}");
    let p521 = CertifiedKey::from_der(vec![certificate("p521-ca.pem")], key("p521.key"), &provider);
    let p521 = in_file(&p521.unwrap_err());
    assert!(p521.contains("P-256 or P-384"), "{p521}");
}
