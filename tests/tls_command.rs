//! `telehub tls`: certificates without an authority of one's own, that devices and hub can use.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "support/daemon.rs"]
mod daemon;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;

use daemon::{Hub, config, free_port};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

fn telehub(directory: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_telehub"))
        .args(arguments)
        .current_dir(directory)
        .output()
        .unwrap()
}

/// What it says on stdout; it has to end well.
fn said(directory: &Path, arguments: &[&str]) -> String {
    let output = telehub(directory, arguments);
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{arguments:?}: {complaint}");
    String::from_utf8(output.stdout).unwrap()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

/// The first line of the hub's answer to a device with this id.
async fn upgrade(hub: std::net::SocketAddr, directory: &Path, id: &str, own: bool) -> String {
    let mut roots = rustls::RootCertStore::empty();
    let authority = directory.join("tls/ca.pem");
    roots
        .add(CertificateDer::from_pem_file(authority).unwrap())
        .unwrap();
    let builder = rustls::ClientConfig::builder().with_root_certificates(roots);
    let client = if own {
        let chain =
            vec![CertificateDer::from_pem_file(directory.join(format!("{id}.pem"))).unwrap()];
        let key = PrivateKeyDer::from_pem_file(directory.join(format!("{id}.key"))).unwrap();
        builder.with_client_auth_cert(chain, key).unwrap()
    } else {
        builder.with_no_client_auth()
    };
    let tcp = TcpStream::connect(hub).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let connector = TlsConnector::from(Arc::new(client));
    let Ok(mut tls) = connector.connect(name, tcp).await else {
        return String::new();
    };
    let request = format!(
        "GET /v1/devices/{id} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\n\
         Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    if tls.write_all(request.as_bytes()).await.is_err() {
        return String::new();
    }
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n") {
        match tls.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => break,
        }
    }
    String::from_utf8(head).unwrap().trim_end().to_owned()
}

#[tokio::test]
async fn what_it_makes_lets_a_device_in_by_certificate_and_nobody_else() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path();
    let first = said(
        path,
        &["tls", "init", "--dir", "tls", "--name", "localhost"],
    );
    assert!(
        first.contains("ca.pem: made") && first.contains("hub.pem: made"),
        "{first}"
    );
    assert_eq!(mode(&path.join("tls/ca.key")), 0o600);
    assert_eq!(mode(&path.join("tls/hub.key")) & 0o007, 0);
    assert_eq!(mode(&path.join("tls/hub.pem")), 0o644);

    let registry = path.join("devices.toml");
    let registry = registry.to_str().unwrap();
    let made = said(
        path,
        &[
            "device",
            "add",
            "barn-1",
            "--certificate",
            "--dir",
            "tls",
            "--registry",
            registry,
        ],
    );
    assert_eq!(made.split_whitespace().count(), 2, "{made}");
    assert_eq!(mode(&path.join("barn-1.key")), 0o600);

    let tls = format!(
        "[devices.tls]\ncert = \"{0}/tls/hub.pem\"\nkey = \"{0}/tls/hub.key\"\nclient_ca = \
         \"{0}/tls/ca.pem\"\n",
        path.display()
    );
    let text = config(path, free_port(), "").replace("auth = \"open\"", "auth = \"certificate\"");
    assert!(text.contains("auth = \"certificate\""), "{text}");
    let hub = Hub::start(path, &(text + &tls)).await;
    let let_in = upgrade(hub.address, path, "barn-1", true).await;
    assert!(let_in.contains(" 101 "), "{let_in}");
    let refused = upgrade(hub.address, path, "barn-1", false).await;
    assert!(!refused.contains(" 101 "), "{refused}");
}

#[test]
fn what_is_there_is_kept_and_made_anew_for_other_names_or_when_it_ends() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path();
    let read = |name: &str| fs::read_to_string(path.join("tls").join(name)).unwrap();
    said(path, &["tls", "init", "-d", "tls", "-n", "hub.example"]);
    let (authority, certificate) = (read("ca.pem"), read("hub.pem"));
    let again = said(path, &["tls", "init", "-d", "tls"]);
    assert!(
        again.contains("ca.pem: kept") && again.contains("hub.pem: kept"),
        "{again}"
    );
    assert_eq!(said(path, &["tls", "renew", "-d", "tls"]), "");
    assert_eq!(read("hub.pem"), certificate);
    let other = said(
        path,
        &[
            "tls",
            "init",
            "-d",
            "tls",
            "-n",
            "hub.example",
            "-n",
            "192.0.2.7",
        ],
    );
    assert!(
        other.contains("hub.pem: made") && other.contains("192.0.2.7"),
        "{other}"
    );
    assert_ne!(read("hub.pem"), certificate);
    assert_eq!(read("ca.pem"), authority);

    // One that has ended.
    let key = rcgen::KeyPair::from_pem(&read("hub.key")).unwrap();
    let mut params = rcgen::CertificateParams::new(vec!["hub.example".to_owned()]).unwrap();
    params.not_after = rcgen::date_time_ymd(2020, 1, 1);
    let ended = params.self_signed(&key).unwrap();
    fs::write(path.join("tls/hub.pem"), ended.pem()).unwrap();
    let text = format!(
        "[devices.tls]\ncert = \"{0}/tls/hub.pem\"\nkey = \"{0}/tls/hub.key\"\n",
        path.display()
    );
    fs::write(path.join("telehub.toml"), text).unwrap();
    let check = telehub(path, &["tls", "check", "-c", "telehub.toml"]);
    let told = String::from_utf8_lossy(&check.stdout).into_owned();
    assert_eq!(check.status.code(), Some(1), "{told}");
    assert!(told.contains("HAS ENDED 2020-01-01"), "{told}");
    let renewed = said(path, &["tls", "renew", "-d", "tls"]);
    assert!(renewed.contains("renewed"), "{renewed}");
    let check = said(path, &["tls", "check", "-c", "telehub.toml"]);
    assert!(
        check.contains("ends 20") && !check.contains("ENDED"),
        "{check}"
    );
}

#[test]
fn nothing_of_somebody_else_is_overwritten_and_what_is_missing_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path();
    let fails = |arguments: &[&str], word: &str| {
        let output = telehub(path, arguments);
        let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {complaint}");
        assert!(complaint.contains(word), "{complaint}");
    };
    fails(&["tls", "renew", "-d", "tls"], "telehub tls init");
    let registry = ["--registry", "devices.toml", "--dir", "tls"];
    let add = |id| [&["device", "add", id, "--certificate"][..], &registry].concat();
    fails(&add("barn-1"), "telehub tls init");
    // Nobody is let in without a certificate to show.
    assert!(!path.join("devices.toml").exists());
    fs::create_dir(path.join("tls")).unwrap();
    fs::write(path.join("tls/ca.pem"), "somebody's").unwrap();
    fails(&["tls", "init", "-d", "tls"], "without its key");
    fs::remove_file(path.join("tls/ca.pem")).unwrap();
    fs::write(path.join("tls/hub.pem"), "somebody's").unwrap();
    fs::write(path.join("tls/hub.key"), "somebody's").unwrap();
    fails(&["tls", "init", "-d", "tls"], "choose another --dir");
    assert_eq!(
        fs::read_to_string(path.join("tls/hub.pem")).unwrap(),
        "somebody's"
    );
    fs::remove_file(path.join("tls/hub.pem")).unwrap();
    said(path, &["tls", "init", "-d", "tls", "-n", "hub"]);
    fs::write(path.join("barn-1.key"), "somebody's").unwrap();
    fails(&add("barn-1"), "is there already");
    assert!(!path.join("devices.toml").exists());
    fails(&["tls", "check", "-c", "nowhere.toml"], "nowhere.toml");
}
