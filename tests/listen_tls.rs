//! TLS on the device port, and client certificates as credentials.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "support/device_port.rs"]
mod device_port;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use device_port::{Device, PATIENCE, Port, devices, handshake, head, one_flight, soon};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams,
    SanType,
};
use rustls::ClientConfig;
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use telehub::config::{Auth, CrlExpiry, DeviceTls, Devices};
use telehub::intake::port::IntakePort;
use telehub::listen::{Server, TlsError};
use telehub::session::roster::Roster;
use telehub::status::board::Board;
use telehub::stop;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params
            .distinguished_name
            .push(DnType::CommonName, "farm CA");
        let key = KeyPair::generate().unwrap();
        Self(CertifiedIssuer::self_signed(params, key).unwrap())
    }

    fn issue(
        &self,
        usage: ExtendedKeyUsagePurpose,
        common_name: &str,
        names: &[&str],
    ) -> (rcgen::Certificate, KeyPair) {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params
            .distinguished_name
            .push(DnType::CommonName, common_name);
        let san = |name: &&str| SanType::DnsName((*name).try_into().unwrap());
        params.subject_alt_names = names.iter().map(san).collect();
        params.extended_key_usages = vec![usage];
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.0).unwrap(), key)
    }
}

impl Authority {
    fn issue_with_serial(&self, common_name: &str, serial: u64) -> Identity {
        let mut params = CertificateParams::default();
        params.serial_number = Some(serial.into());
        params.distinguished_name = rcgen::DistinguishedName::new();
        params
            .distinguished_name
            .push(DnType::CommonName, common_name);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        let key = PrivatePkcs8KeyDer::from(key.serialize_der());
        (vec![certificate.der().clone()], key.into())
    }
}

fn clone((chain, key): &Identity) -> Identity {
    (chain.clone(), key.clone_key())
}

type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn identity(authority: &Authority, common_name: &str, names: &[&str]) -> Identity {
    let (certificate, key) =
        authority.issue(ExtendedKeyUsagePurpose::ClientAuth, common_name, names);
    let key = PrivatePkcs8KeyDer::from(key.serialize_der());
    (vec![certificate.der().clone()], key.into())
}

fn files(dir: &Path, authority: &Authority) -> DeviceTls {
    let (certificate, key) =
        authority.issue(ExtendedKeyUsagePurpose::ServerAuth, "hub", &["localhost"]);
    let tls = DeviceTls {
        cert: dir.join("cert.pem"),
        key: dir.join("key.pem"),
        client_ca: Some(dir.join("ca.pem")),
        crl_expiry: CrlExpiry::Warn,
    };
    std::fs::write(&tls.cert, certificate.pem()).unwrap();
    std::fs::write(&tls.key, key.serialize_pem()).unwrap();
    std::fs::write(dir.join("ca.pem"), authority.0.pem()).unwrap();
    tls
}

fn with_tls(auth: Auth, tls: DeviceTls) -> Devices {
    Devices {
        auth,
        tls: Some(tls),
        ..devices()
    }
}

fn client(authority: &Authority, identity: Option<Identity>) -> Arc<ClientConfig> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(authority.0.der().clone()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    Arc::new(match identity {
        Some((chain, key)) => config.with_client_auth_cert(chain, key).unwrap(),
        None => config.with_no_client_auth(),
    })
}

async fn dial_with(
    port: &Port,
    config: &Arc<ClientConfig>,
) -> std::io::Result<TlsStream<TcpStream>> {
    let tcp = TcpStream::connect(port.addr).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    TlsConnector::from(config.clone()).connect(name, tcp).await
}

async fn dial(
    port: &Port,
    authority: &Authority,
    identity: Option<Identity>,
) -> std::io::Result<TlsStream<TcpStream>> {
    dial_with(port, &client(authority, identity)).await
}

#[tokio::test]
async fn request_hello_and_data_in_one_flight_are_taken_and_the_next_wake_resumes_by_its_ticket() {
    let (dir, authority) = (tempfile::tempdir().unwrap(), Authority::new());
    let tls = files(dir.path(), &authority);
    let mut port = Port::start(with_tls(Auth::Open, tls)).await;
    let config = client(&authority, None);
    for wake in 1..=10 {
        let mut stream = dial_with(&port, &config).await.unwrap();
        let kind = stream.get_ref().1.handshake_kind();
        if wake > 1 {
            assert_eq!(kind, Some(rustls::HandshakeKind::Resumed), "wake {wake}");
        }
        let flight = one_flight("a", "s", wake);
        stream.write_all(&flight).await.unwrap();
        let arrival = port.intake.arrival().await;
        assert_eq!(arrival.batch.seq, Some(wake));
        port.intake.settle(&arrival);
        let answers = soon(async {
            let mut answers = Vec::new();
            // The end comes without a TLS goodbye from some stacks.
            let _ = stream.read_to_end(&mut answers).await;
            answers
        })
        .await;
        let text = String::from_utf8_lossy(&answers);
        assert!(text.starts_with("HTTP/1.1 101 "), "{text}");
        assert!(text.contains("\"welcome\""), "{text}");
        assert!(
            text.contains(&format!("{{\"ack\":{{\"seq\":{wake}}}}}")),
            "{text}"
        );
    }
}

#[tokio::test]
async fn devices_speak_over_tls_as_over_tcp() {
    let (dir, authority) = (tempfile::tempdir().unwrap(), Authority::new());
    let tls = files(dir.path(), &authority);
    let mut port = Port::start(with_tls(Auth::Open, tls)).await;
    let stream = dial(&port, &authority, None).await.unwrap();
    let (ws, _) = tokio_tungstenite::client_async("wss://localhost/v1/devices/a", stream)
        .await
        .unwrap();
    let mut device = Device { ws };
    device.hello("s").await;
    for seq in 1..=100 {
        device.data(seq).await;
        let arrival = port.intake.arrival().await;
        port.intake.settle(&arrival);
        assert_eq!(device.ack().await, seq);
    }
    device.ws.close(None).await.unwrap();
    assert_eq!(port.offline("a").await, "closed");
}

#[tokio::test]
async fn a_client_certificate_opens_the_device_that_it_names() {
    let (dir, authority) = (tempfile::tempdir().unwrap(), Authority::new());
    let tls = files(dir.path(), &authority);
    let port = Port::start(with_tls(Auth::Certificate, tls)).await;
    for (common_name, names, device, status) in [
        ("barn-1", &[][..], "barn-1", 101),
        ("x", &["barn-1"][..], "barn-1", 101),
        ("x", &["other", "barn-1"][..], "barn-1", 101),
        ("barn-1", &["other"][..], "barn-1", 403),
        ("barn-2", &[][..], "barn-1", 403),
        ("barn-1", &[][..], "BARN-1", 403),
    ] {
        let identity = identity(&authority, common_name, names);
        let mut stream = dial(&port, &authority, Some(identity)).await.unwrap();
        stream
            .write_all(handshake(device, "").as_bytes())
            .await
            .unwrap();
        let head = head(&mut stream).await;
        let expected = format!("HTTP/1.1 {status} ");
        assert!(
            head.starts_with(&expected),
            "{common_name} {names:?}: {head}"
        );
    }
}

#[tokio::test]
async fn without_a_certificate_of_our_authority_there_is_no_connection() {
    let (dir, authority) = (tempfile::tempdir().unwrap(), Authority::new());
    let tls = files(dir.path(), &authority);
    let port = Port::start(with_tls(Auth::Certificate, tls)).await;
    let foreign = identity(&Authority::new(), "a", &[]);
    for identity in [None, Some(foreign)] {
        // In TLS 1.3 the client hears of it with its first read.
        if let Ok(mut stream) = dial(&port, &authority, identity).await {
            let _ = stream.write_all(handshake("a", "").as_bytes()).await;
            let mut answer = Vec::new();
            assert!(soon(stream.read_to_end(&mut answer)).await.is_err());
            assert!(answer.is_empty());
        }
    }
    assert!(port.board.device_reports().is_empty());
}

#[tokio::test]
async fn a_tls_handshake_that_never_finishes_is_cut() {
    let (dir, authority) = (tempfile::tempdir().unwrap(), Authority::new());
    let mut settings = with_tls(Auth::Open, files(dir.path(), &authority));
    settings.handshake_timeout = Duration::from_millis(300);
    let port = Port::start(settings).await;
    for sent in [
        &b""[..],
        b"\x16\x03\x01\x02\x00\x01",
        b"GET / HTTP/1.1\r\n\r\n",
    ] {
        let mut tcp = TcpStream::connect(port.addr).await.unwrap();
        tcp.write_all(sent).await.unwrap();
        let _ = soon(tcp.read_to_end(&mut Vec::new())).await;
    }
    // TLS done, and then silence: the same clock runs on.
    let mut stream = dial(&port, &authority, None).await.unwrap();
    let _ = soon(stream.read_to_end(&mut Vec::new())).await;
}

#[tokio::test]
async fn files_that_are_of_no_use_are_named() {
    let (dir, authority) = (tempfile::tempdir().unwrap(), Authority::new());
    let good = files(dir.path(), &authority);
    let error = |auth, tls: DeviceTls| {
        let port = IntakePort {
            control: mpsc::channel(1).0,
            data: mpsc::channel(1).0,
        };
        let roster = Roster::new(1, Board::new("barn"), Arc::default());
        let server = Server::new(&with_tls(auth, tls), port, roster, stop::channel().1);
        server.err().expect("an error")
    };
    let mut tls = good.clone();
    tls.cert = dir.path().join("missing.pem");
    assert!(error(Auth::Open, tls).to_string().contains("missing.pem"));
    let mut tls = good.clone();
    tls.key = good.cert.clone();
    assert!(error(Auth::Open, tls).to_string().contains("cert.pem"));
    let mut tls = good.clone();
    tls.client_ca = None;
    assert!(matches!(
        error(Auth::Certificate, tls),
        TlsError::NoClientCa
    ));
    let mut tls = good.clone();
    tls.cert.clone_from(&good.key);
    assert!(matches!(error(Auth::Open, tls), TlsError::Empty(_)));
}

/// The certificate that the hub shows now.
async fn shown(port: &Port, authority: &Authority) -> Vec<u8> {
    let stream = dial(port, authority, None).await.unwrap();
    stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

async fn follows(port: &Port, authority: &Authority, before: &[u8]) -> bool {
    let start = Instant::now();
    while start.elapsed() < PATIENCE {
        if shown(port, authority).await != before {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    false
}

#[tokio::test]
async fn a_renewed_certificate_is_shown_without_dropping_anyone() {
    let (dir, authority) = (tempfile::tempdir().unwrap(), Authority::new());
    let tls = files(dir.path(), &authority);
    let port = Port::start(with_tls(Auth::Open, tls)).await;
    let stream = dial(&port, &authority, None).await.unwrap();
    let (ws, _) = tokio_tungstenite::client_async("wss://localhost/v1/devices/a", stream)
        .await
        .unwrap();
    let mut device = Device { ws };
    let before = shown(&port, &authority).await;
    files(dir.path(), &authority);
    assert!(follows(&port, &authority, &before).await);
    device.hello("s").await;
}

#[tokio::test]
async fn a_broken_or_expired_pair_leaves_the_one_before_in_force() {
    let (dir, authority) = (tempfile::tempdir().unwrap(), Authority::new());
    let tls = files(dir.path(), &authority);
    let port = Port::start(with_tls(Auth::Open, tls.clone())).await;
    let before = shown(&port, &authority).await;
    let good = std::fs::read(&tls.cert).unwrap();
    let another = tempfile::tempdir().unwrap();
    files(another.path(), &authority);
    // A certificate without its key, no certificate at all, and one of last year.
    let mismatched = std::fs::read(another.path().join("cert.pem")).unwrap();
    let expired = {
        let mut params = CertificateParams::new(["localhost".to_owned()]).unwrap();
        params.not_after = rcgen::date_time_ymd(2020, 1, 1);
        let key = KeyPair::from_pem(&std::fs::read_to_string(&tls.key).unwrap()).unwrap();
        params.signed_by(&key, &authority.0).unwrap().pem()
    };
    for broken in [&mismatched[..], b"nothing", expired.as_bytes()] {
        std::fs::write(&tls.cert, broken).unwrap();
        tokio::time::sleep(Duration::from_millis(2_200)).await;
        assert_eq!(shown(&port, &authority).await, before);
    }
    // The good one again, now with the new key beside it: both halves have to be there.
    std::fs::write(&tls.cert, good).unwrap();
    files(dir.path(), &authority);
    assert!(follows(&port, &authority, &before).await);
}

/// A board that starts after its certificate has ended, or with a clock that is ahead, takes what devices
/// send that do not look at it, and follows the new one.
#[tokio::test]
async fn a_hub_starts_with_an_expired_certificate_and_follows_the_next_one() {
    let (dir, authority) = (tempfile::tempdir().unwrap(), Authority::new());
    let tls = files(dir.path(), &authority);
    let mut params = CertificateParams::new(["localhost".to_owned()]).unwrap();
    params.not_after = rcgen::date_time_ymd(2020, 1, 1);
    let key = KeyPair::from_pem(&std::fs::read_to_string(&tls.key).unwrap()).unwrap();
    let expired = params.signed_by(&key, &authority.0).unwrap();
    std::fs::write(&tls.cert, expired.pem()).unwrap();
    let port = Port::start(with_tls(Auth::Open, tls)).await;
    let mut without_clock = (*client(&authority, None)).clone();
    without_clock.time_provider = Arc::new(Year2019);
    let stream = dial_with(&port, &Arc::new(without_clock)).await.unwrap();
    let chain = stream.get_ref().1.peer_certificates().unwrap();
    assert_eq!(&chain[0], expired.der());
    assert!(dial(&port, &authority, None).await.is_err(), "with a clock");
    files(dir.path(), &authority);
    let start = Instant::now();
    while dial(&port, &authority, None).await.is_err() {
        assert!(start.elapsed() < PATIENCE, "the new one is not followed");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A device whose clock has never been set.
#[derive(Debug)]
struct Year2019;

impl rustls::time_provider::TimeProvider for Year2019 {
    fn current_time(&self) -> Option<rustls::pki_types::UnixTime> {
        let seconds = Duration::from_secs(1_560_000_000);
        Some(rustls::pki_types::UnixTime::since_unix_epoch(seconds))
    }
}

#[tokio::test]
async fn a_revoked_certificate_loses_its_connection_and_the_others_keep_theirs() {
    let (dir, authority) = (tempfile::tempdir().unwrap(), Authority::new());
    let tls = files(dir.path(), &authority);
    let port = Port::start(with_tls(Auth::Certificate, tls)).await;
    let connect = async |id: &str, identity: Identity| {
        let stream = dial(&port, &authority, Some(identity)).await.ok()?;
        let url = format!("wss://localhost/v1/devices/{id}");
        let (ws, _) = tokio_tungstenite::client_async(url, stream).await.ok()?;
        Some(Device { ws })
    };
    let (lost, kept) = (
        authority.issue_with_serial("lost", 7),
        authority.issue_with_serial("kept", 8),
    );
    let mut a = connect("lost", clone(&lost)).await.unwrap();
    let mut b = connect("kept", clone(&kept)).await.unwrap();
    let list = CertificateRevocationListParams {
        this_update: rcgen::date_time_ymd(2024, 1, 1),
        next_update: rcgen::date_time_ymd(2040, 1, 1),
        crl_number: 1.into(),
        issuing_distribution_point: None,
        revoked_certs: vec![RevokedCertParams {
            serial_number: 7.into(),
            revocation_time: rcgen::date_time_ymd(2024, 1, 1),
            reason_code: None,
            invalidity_date: None,
        }],
        key_identifier_method: KeyIdMethod::Sha256,
    };
    let list = list.signed_by(&authority.0).unwrap().pem().unwrap();
    std::fs::write(dir.path().join("ca.pem"), authority.0.pem() + &list).unwrap();
    assert_eq!(a.closed().await, 4002);
    assert!(connect("lost", lost).await.is_none());
    b.hello("s").await;
    assert!(connect("kept", kept).await.is_some());
}

#[tokio::test]
async fn an_authority_that_is_taken_away_takes_its_devices_along() {
    let (dir, authority) = (tempfile::tempdir().unwrap(), Authority::new());
    let tls = files(dir.path(), &authority);
    let port = Port::start(with_tls(Auth::Certificate, tls)).await;
    let identity = identity(&authority, "a", &[]);
    let stream = dial(&port, &authority, Some(identity)).await.unwrap();
    let (ws, _) = tokio_tungstenite::client_async("wss://localhost/v1/devices/a", stream)
        .await
        .unwrap();
    let mut device = Device { ws };
    std::fs::write(dir.path().join("ca.pem"), Authority::new().0.pem()).unwrap();
    assert_eq!(device.closed().await, 4002);
    assert_eq!(port.offline("a").await, "revoked");
}

/// So many seconds from now.
fn in_seconds(seconds: u64) -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.unwrap().as_secs() + seconds
}

/// An authority below another one.
fn authority_below(
    above: &Authority,
    serial: u64,
    change: impl FnOnce(&mut CertificateParams),
) -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.serial_number = Some(serial.into());
    params
        .distinguished_name
        .push(DnType::CommonName, format!("site {serial}"));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    change(&mut params);
    CertifiedIssuer::signed_by(params, KeyPair::generate().unwrap(), &above.0).unwrap()
}

/// A device's certificate with a common name and these alternative names, and those above it.
fn identity_below(
    issuer: &CertifiedIssuer<'static, KeyPair>,
    common_name: &str,
    names: Vec<SanType>,
    change: impl FnOnce(&mut CertificateParams),
) -> Identity {
    let mut params = CertificateParams::default();
    params
        .distinguished_name
        .push(DnType::CommonName, common_name);
    params.subject_alt_names = names;
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    change(&mut params);
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, issuer).unwrap();
    let key = PrivatePkcs8KeyDer::from(key.serialize_der());
    let chain = vec![certificate.der().clone(), issuer.der().clone()];
    (chain, key.into())
}

fn dns(name: &str) -> SanType {
    SanType::DnsName(name.try_into().unwrap())
}

/// The answer's status; `None`: the certificate was not accepted.
async fn status(
    port: &Port,
    authority: &Authority,
    identity: Identity,
    device: &str,
) -> Option<u16> {
    let mut stream = dial(port, authority, Some(identity)).await.ok()?;
    let request = handshake(device, "");
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut answer = [0; 12];
    // In TLS 1.3 the client hears of a refusal with its first read.
    soon(stream.read_exact(&mut answer)).await.ok()?;
    std::str::from_utf8(&answer[9..]).unwrap().parse().ok()
}

#[tokio::test]
async fn a_session_ends_when_its_certificate_does() {
    let (dir, authority) = (tempfile::tempdir().unwrap(), Authority::new());
    let port = Port::start(with_tls(Auth::Certificate, files(dir.path(), &authority))).await;
    let between = authority_below(&authority, 7, |_| ());
    let until = |seconds| rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(seconds);
    let end = in_seconds(3);
    let ends = identity_below(&between, "x", vec![dns("ends")], |params| {
        params.not_after = until(end);
    });
    // Its authority ends, not the certificate itself.
    let ending = authority_below(&authority, 8, |params| params.not_after = until(end));
    let below = identity_below(&ending, "x", vec![dns("below")], |_| ());
    let stays = identity_below(&between, "x", vec![dns("stays")], |_| ());
    let mut devices = Vec::new();
    for (id, identity) in [("ends", &ends), ("below", &below), ("stays", &stays)] {
        let stream = dial(&port, &authority, Some(clone(identity)));
        let url = format!("wss://localhost/v1/devices/{id}");
        let ws = tokio_tungstenite::client_async(url, stream.await.unwrap());
        devices.push(Device {
            ws: ws.await.unwrap().0,
        });
    }
    assert_eq!(devices[0].closed().await, 4002);
    assert_eq!(devices[1].closed().await, 4002);
    assert!(in_seconds(0) > end, "not before its end");
    assert_eq!(port.offline("ends").await, "revoked");
    devices[2].hello("s").await;
    for (id, identity) in [("ends", ends), ("below", below)] {
        assert_eq!(status(&port, &authority, identity, id).await, None);
    }
}

#[tokio::test]
async fn a_device_with_a_certificate_is_verified_at_each_connect_and_never_resumes() {
    let (dir, authority) = (tempfile::tempdir().unwrap(), Authority::new());
    let tls = files(dir.path(), &authority);
    for auth in [Auth::Certificate, Auth::Open] {
        let port = Port::start(with_tls(auth, tls.clone())).await;
        for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
            let mut roots = rustls::RootCertStore::empty();
            roots.add(authority.0.der().clone()).unwrap();
            let (chain, key) = identity(&authority, "a", &[]);
            let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
                .with_protocol_versions(&[version])
                .unwrap()
                .with_root_certificates(roots)
                .with_client_auth_cert(chain, key)
                .unwrap();
            let connector = TlsConnector::from(Arc::new(config));
            let mut kinds = Vec::new();
            for _ in 0..3 {
                let tcp = TcpStream::connect(port.addr).await.unwrap();
                let name = ServerName::try_from("localhost").unwrap();
                let mut stream = connector.connect(name, tcp).await.unwrap();
                // Tickets of TLS 1.3 come with the first answer.
                let request = handshake("a", "");
                stream.write_all(request.as_bytes()).await.unwrap();
                assert!(head(&mut stream).await.starts_with("HTTP/1.1 101 "));
                kinds.push(stream.get_ref().1.handshake_kind().unwrap());
            }
            let resumed = kinds.contains(&rustls::HandshakeKind::Resumed);
            // Where no certificate is asked for it saves small boards a second, and harms nobody.
            assert_eq!(resumed, auth == Auth::Open, "{kinds:?}");
        }
    }
}

#[tokio::test]
async fn an_authority_that_may_give_some_names_gives_no_others_in_any_form() {
    let dir = tempfile::tempdir().unwrap();
    let limits = |params: &mut CertificateParams| {
        params.name_constraints = Some(rcgen::NameConstraints {
            permitted_subtrees: vec![rcgen::GeneralSubtree::DnsName("site-a".into())],
            excluded_subtrees: Vec::new(),
        });
    };
    let authority = Authority::new();
    let limited = authority_below(&authority, 7, limits);
    let free = authority_below(&authority, 8, |_| ());
    let tls = files(dir.path(), &authority);
    // Once with the limited authority between, and once in the file itself.
    for in_file in [false, true] {
        if in_file {
            std::fs::write(dir.path().join("ca.pem"), limited.pem() + &free.pem()).unwrap();
        }
        let port = Port::start(with_tls(Auth::Certificate, tls.clone())).await;
        let uri = |name: &str| vec![SanType::URI(name.try_into().unwrap())];
        let mail = |name: &str| vec![SanType::Rfc822Name(name.try_into().unwrap())];
        for (issuer, common_name, names, device, expected) in [
            (&limited, "x", vec![dns("site-a")], "site-a", Some(101)),
            (&limited, "x", vec![dns("site-b")], "site-b", None),
            (&limited, "site-b", vec![], "site-b", Some(403)),
            (&limited, "site-a", vec![], "site-a", Some(403)),
            (&limited, "x", uri("site-b"), "site-b", Some(403)),
            (&limited, "site-b", mail("a@site-a"), "site-b", Some(403)),
            (&free, "site-b", vec![], "site-b", Some(101)),
            (&free, "site-b", uri("urn:x"), "site-b", Some(403)),
            (&free, "x", uri("site-b"), "site-b", Some(403)),
        ] {
            let shown = format!("{common_name} {names:?} {in_file}");
            let identity = identity_below(issuer, common_name, names, |_| ());
            let status = status(&port, &authority, identity, device).await;
            assert_eq!(status, expected, "{shown}");
        }
    }
}

fn list(issuer: &CertifiedIssuer<'static, KeyPair>, revoked: &[u64], year: i32) -> String {
    let entry = |serial: &u64| RevokedCertParams {
        serial_number: (*serial).into(),
        revocation_time: rcgen::date_time_ymd(2024, 1, 1),
        reason_code: None,
        invalidity_date: None,
    };
    let list = CertificateRevocationListParams {
        this_update: rcgen::date_time_ymd(2024, 1, 1),
        next_update: rcgen::date_time_ymd(year, 1, 1),
        crl_number: 1.into(),
        issuing_distribution_point: None,
        revoked_certs: revoked.iter().map(entry).collect(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    list.signed_by(issuer).unwrap().pem().unwrap()
}

#[tokio::test]
async fn a_revoked_authority_below_ours_takes_its_devices_along() {
    let (dir, authority) = (tempfile::tempdir().unwrap(), Authority::new());
    let mut tls = files(dir.path(), &authority);
    let (revoked, good) = (
        authority_below(&authority, 7, |_| ()),
        authority_below(&authority, 8, |_| ()),
    );
    let lists = authority.0.pem() + &list(&authority.0, &[7], 2090);
    std::fs::write(tls.client_ca.as_ref().unwrap(), lists).unwrap();
    for crl_expiry in [CrlExpiry::Warn, CrlExpiry::Error] {
        tls.crl_expiry = crl_expiry;
        let port = Port::start(with_tls(Auth::Certificate, tls.clone())).await;
        for (issuer, expected) in [(&revoked, None), (&good, Some(101))] {
            let identity = identity_below(issuer, "x", vec![dns("a")], |_| ());
            assert_eq!(status(&port, &authority, identity, "a").await, expected);
        }
        assert_eq!(port.board.devices.old_revocation_lists.get(), 0);
    }
}

#[tokio::test]
async fn an_outdated_revocation_list_is_counted_and_by_choice_an_error() {
    let (dir, authority) = (tempfile::tempdir().unwrap(), Authority::new());
    let mut tls = files(dir.path(), &authority);
    let lists = authority.0.pem() + &list(&authority.0, &[7], 2025);
    std::fs::write(tls.client_ca.as_ref().unwrap(), lists).unwrap();
    let (revoked, good) = (
        authority.issue_with_serial("a", 7),
        authority.issue_with_serial("a", 8),
    );
    for (crl_expiry, expected) in [(CrlExpiry::Warn, Some(101)), (CrlExpiry::Error, None)] {
        tls.crl_expiry = crl_expiry;
        let port = Port::start(with_tls(Auth::Certificate, tls.clone())).await;
        // What it does say counts either way.
        let refused = status(&port, &authority, clone(&revoked), "a").await;
        assert_eq!(refused, None);
        let answer = status(&port, &authority, clone(&good), "a").await;
        assert_eq!(answer, expected);
        device_port::until(|| port.board.devices.old_revocation_lists.get() == 1).await;
    }
}
