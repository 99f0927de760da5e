//! MQTT over TLS: who trusts whom, and files that change or cannot be read.
#![allow(clippy::unwrap_used, missing_docs, unreachable_pub)]

#[allow(dead_code)]
#[path = "support/broker.rs"]
mod broker;
#[allow(dead_code)]
#[path = "support/uplink_rig.rs"]
mod uplink_rig;

use std::path::PathBuf;
use std::sync::Arc;

use broker::Broker;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use telehub::config::UplinkTls;
use telehub::uplink::{Event, Settings};
use tempfile::TempDir;
use uplink_rig::{Rig, settings};

/// The name for which certificates are issued that are not valid yet.
const TOO_NEW: &str = "127.0.0.2";

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority() -> Authority {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// A certificate for the name and its key.
fn issue(authority: &Authority, name: &str) -> (rcgen::Certificate, KeyPair) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new([name.to_owned()]).unwrap();
    params.not_before = if name == TOO_NEW {
        rcgen::date_time_ymd(4000, 1, 1)
    } else {
        rcgen::date_time_ymd(2000, 1, 1)
    };
    (params.signed_by(&key, authority).unwrap(), key)
}

/// A broker for the name; `clients`: who must have signed its clients.
async fn broker(authority: &Authority, name: &str, clients: Option<&Authority>) -> Broker {
    let (certificate, key) = issue(authority, name);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .unwrap();
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(clients) => {
            let mut roots = RootCertStore::empty();
            roots.add(clients.der().clone()).unwrap();
            let verifier =
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            builder.with_client_cert_verifier(verifier.unwrap())
        }
    };
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let config = builder.with_single_cert(vec![certificate.der().clone()], key);
    Broker::start_tls(Arc::new(config.unwrap())).await
}

struct Files(TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn write(&self, name: &str, content: &str) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    }
}

fn with_tls(port: u16, ca: PathBuf, client: Option<(PathBuf, PathBuf)>) -> Settings {
    let mut settings = settings(port);
    settings.broker.brokers[0].tls = Some(UplinkTls {
        ca: Some(ca),
        client,
    });
    settings
}

/// One item through the connection that is about to be made.
async fn flows(broker: &Broker, rig: &mut Rig) {
    let mut peer = broker.welcome_hub().await;
    let epoch = loop {
        if let Event::Up { epoch } = rig.event().await {
            break epoch;
        }
    };
    rig.submit(epoch, 1).await;
    let publish = peer.publish().await;
    peer.puback(publish.pkid).await;
    assert_eq!(rig.acked().await, 1);
}

#[tokio::test]
async fn data_flows_over_tls_to_a_broker_of_the_right_authority() {
    let files = Files::new();
    let authority = authority();
    let broker = broker(&authority, "127.0.0.1", None).await;
    let ca = files.write("ca.pem", &authority.pem());
    let mut rig = Rig::start(with_tls(broker.port, ca, None));
    flows(&broker, &mut rig).await;
}

#[tokio::test]
async fn a_broker_of_another_authority_is_not_trusted_until_the_file_names_it() {
    let files = Files::new();
    let (right, wrong) = (authority(), authority());
    let broker = broker(&right, "127.0.0.1", None).await;
    let ca = files.write("ca.pem", &wrong.pem());
    let mut rig = Rig::start(with_tls(broker.port, ca, None));
    assert!(broker.try_accept().await.is_err());
    let error = rig.down().await;
    assert!(
        error.contains("authority") && error.contains("uplink.ca"),
        "{error}"
    );
    // Both, so that the file is a bundle.
    files.write("ca.pem", &(wrong.pem() + &right.pem()));
    // A try may have been under way with the old file.
    let mut peer = loop {
        if let Ok(peer) = broker.try_accept().await {
            break peer;
        }
        rig.down().await;
    };
    peer.connect().await;
}

#[tokio::test]
async fn a_certificate_for_another_host_is_not_trusted() {
    let files = Files::new();
    let authority = authority();
    let broker = broker(&authority, "broker.example", None).await;
    let ca = files.write("ca.pem", &authority.pem());
    let mut rig = Rig::start(with_tls(broker.port, ca, None));
    assert!(broker.try_accept().await.is_err());
    let error = rig.down().await;
    assert!(
        error.contains("other names (broker.example)") && error.contains("uplink.url"),
        "{error}"
    );
}

#[tokio::test]
async fn a_certificate_that_is_not_valid_yet_points_to_the_clock() {
    let files = Files::new();
    let authority = authority();
    let broker = broker(&authority, TOO_NEW, None).await;
    let ca = files.write("ca.pem", &authority.pem());
    let mut rig = Rig::start(with_tls(broker.port, ca, None));
    assert!(broker.try_accept().await.is_err());
    let error = rig.down().await;
    assert!(
        error.contains("not valid yet") && error.contains("clock"),
        "{error}"
    );
}

#[tokio::test]
async fn a_client_certificate_is_shown_to_a_broker_that_asks() {
    let files = Files::new();
    let authority = authority();
    let broker = broker(&authority, "127.0.0.1", Some(&authority)).await;
    let ca = files.write("ca.pem", &authority.pem());
    let (certificate, key) = issue(&authority, "barn");
    let client = (
        files.write("cert.pem", &certificate.pem()),
        files.write("key.pem", &key.serialize_pem()),
    );
    let mut rig = Rig::start(with_tls(broker.port, ca, Some(client)));
    flows(&broker, &mut rig).await;
}

#[tokio::test]
async fn without_a_client_certificate_a_broker_that_asks_is_not_reached() {
    let files = Files::new();
    let authority = authority();
    let broker = broker(&authority, "127.0.0.1", Some(&authority)).await;
    let ca = files.write("ca.pem", &authority.pem());
    let mut rig = Rig::start(with_tls(broker.port, ca, None));
    assert!(broker.try_accept().await.is_err());
    let error = rig.down().await;
    assert!(error.contains("uplink.cert"), "{error}");
}

#[tokio::test]
async fn files_that_are_no_use_are_named_and_read_again_later() {
    let files = Files::new();
    let authority = authority();
    let broker = broker(&authority, "127.0.0.1", Some(&authority)).await;
    let (certificate, key) = issue(&authority, "barn");
    let (_, other_key) = issue(&authority, "barn");
    let good = [authority.pem(), certificate.pem(), key.serialize_pem()];
    let names = ["ca.pem", "cert.pem", "key.pem"];
    let truncated = &good[0][..good[0].len() / 2];
    for (bad, name) in names.iter().enumerate() {
        for content in [None, Some(""), Some("no PEM at all"), Some(truncated)] {
            for (name, good) in names.iter().zip(&good) {
                files.write(name, good);
            }
            let path = files.0.path().join(name);
            match content {
                None => std::fs::remove_file(&path).unwrap(),
                Some(content) => std::fs::write(&path, content).unwrap(),
            }
            let [ca, cert, key] = names.map(|name| files.0.path().join(name));
            let mut rig = Rig::start(with_tls(broker.port, ca, Some((cert, key))));
            let error = rig.down().await;
            assert!(
                error.contains(path.to_str().unwrap()),
                "{name}, {content:?}: {error}"
            );
            // Put right.
            std::fs::write(&path, &good[bad]).unwrap();
            flows(&broker, &mut rig).await;
        }
    }
    files.write("key.pem", &other_key.serialize_pem());
    let [ca, cert, key] = names.map(|name| files.0.path().join(name));
    let mut rig = Rig::start(with_tls(broker.port, ca, Some((cert, key))));
    let error = rig.down().await;
    assert!(error.contains("key.pem"), "{error}");
}

#[tokio::test]
async fn a_broker_that_does_not_speak_tls_or_says_nothing_is_a_down() {
    let files = Files::new();
    let ca = files.write("ca.pem", &authority().pem());
    let broker = Broker::start().await;
    let mut rig = Rig::start(with_tls(broker.port, ca, None));
    let mut peer = broker.accept().await;
    peer.raw(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
    let error = rig.down().await;
    assert!(error.contains("TLS with mqtts://127.0.0.1"), "{error}");
    drop(peer);
    let peer = broker.accept().await;
    let error = rig.down().await;
    assert!(error.contains("did not answer within 1 s"), "{error}");
    drop(peer);
}
