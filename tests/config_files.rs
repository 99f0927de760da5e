//! The files that a configuration names are read before the hub starts.
#![allow(clippy::unwrap_used, missing_docs)]

use std::fs;
use std::path::Path;

use rcgen::{CertificateParams, KeyPair};
use telehub::config;

/// A certificate and its key, as PEM.
fn certificate() -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let cert = CertificateParams::new(vec!["hub.example".to_owned()]).unwrap();
    (cert.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

/// The problems of a configuration in which `DIR` stands for a directory with files.
fn problems(directory: &Path, text: &str) -> Vec<String> {
    let file = directory.join("telehub.toml");
    fs::write(&file, text.replace("DIR", directory.to_str().unwrap())).unwrap();
    match config::load(&file) {
        Ok(_) => Vec::new(),
        Err(errors) => errors
            .0
            .iter()
            .map(|problem| {
                problem
                    .to_string()
                    .replace(directory.to_str().unwrap(), "DIR")
            })
            .collect(),
    }
}

fn directory() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let (cert, key) = certificate();
    let (_, other_key) = certificate();
    for (name, content) in [
        ("cert.pem", cert.as_str()),
        ("key.pem", &key),
        ("other.pem", &other_key),
        ("garbage.pem", "-----BEGIN CERTIFICATE-----\n!\n"),
        ("empty", "\n\n"),
        ("password", "geheim\n"),
        ("token", "0123456789abcdef\n"),
    ] {
        fs::write(directory.path().join(name), content).unwrap();
    }
    directory
}

#[test]
fn files_that_are_what_they_are_said_to_be_are_taken() {
    let directory = directory();
    let text = "[devices.tls]\ncert = \"DIR/cert.pem\"\nkey = \"DIR/key.pem\"\nclient_ca = \"DIR/cert.pem\"\n\
        [uplink]\nurl = \"mqtts://b\"\nca = \"DIR/cert.pem\"\ncert = \"DIR/cert.pem\"\nkey = \"DIR/key.pem\"\n\
        username = \"u\"\npassword_file = \"DIR/password\"\n\
        [admin]\nlisten = \"0.0.0.0:8788\"\ntoken_file = \"DIR/token\"\n";
    assert_eq!(problems(directory.path(), text), Vec::<String>::new());
}

#[test]
fn a_file_that_is_not_there_or_of_another_kind_is_told_with_line_and_key() {
    let directory = directory();
    for (lines, start, part) in [
        (
            "[devices.tls]\ncert = \"DIR/none\"\nkey = \"DIR/key.pem\"",
            "DIR/telehub.toml:2: devices.tls.cert: cannot read DIR/none",
            "check the path",
        ),
        (
            "[devices.tls]\ncert = \"DIR/key.pem\"\nkey = \"DIR/key.pem\"",
            "DIR/telehub.toml:2: devices.tls.cert: ",
            "no certificate",
        ),
        (
            "[devices.tls]\ncert = \"DIR/garbage.pem\"\nkey = \"DIR/key.pem\"",
            "DIR/telehub.toml:2: devices.tls.cert: ",
            "no certificate",
        ),
        (
            "[devices.tls]\ncert = \"DIR/cert.pem\"\nkey = \"DIR/cert.pem\"",
            "DIR/telehub.toml:3: devices.tls.key: ",
            "no private key",
        ),
        (
            "[devices.tls]\ncert = \"DIR/cert.pem\"\nkey = \"DIR/other.pem\"",
            "DIR/telehub.toml:3: devices.tls.key: ",
            "is not the key of the first certificate in DIR/cert.pem",
        ),
        (
            "[uplink]\nurl = \"mqtts://b\"\nca = \"DIR/password\"",
            "DIR/telehub.toml:3: uplink.ca: ",
            "no certificate",
        ),
        (
            "[uplink]\nurl = \"mqtts://b\"\nca = \"DIR\"",
            "DIR/telehub.toml:3: uplink.ca: ",
            "is not a file of this kind",
        ),
        (
            "[uplink]\nusername = \"u\"\npassword_file = \"DIR/empty\"",
            "DIR/telehub.toml:3: uplink.password_file: ",
            "no password in its first line",
        ),
        (
            "[admin]\nlisten = \"127.0.0.1:1\"\ntoken_file = \"DIR/password\"",
            "DIR/telehub.toml:3: admin.token_file: ",
            "make one with \"openssl rand -hex 32\"",
        ),
    ] {
        let found = problems(directory.path(), lines);
        assert_eq!(found.len(), 1, "{lines}\n{found:#?}");
        assert!(
            found[0].starts_with(start) && found[0].contains(part),
            "{}",
            found[0]
        );
    }
}

#[test]
fn what_a_file_contains_is_never_shown() {
    let directory = directory();
    let text = "[admin]\nlisten = \"127.0.0.1:1\"\ntoken_file = \"DIR/token\"\n\
        [uplink]\nusername = \"u\"\npassword_file = \"DIR/password\"\n";
    assert_eq!(problems(directory.path(), text), Vec::<String>::new());
    let shown = config::load(&directory.path().join("telehub.toml"))
        .unwrap()
        .config
        .to_string();
    assert!(
        shown.contains("/password\"")
            && !shown.contains("geheim")
            && !shown.contains("0123456789abcdef"),
        "{shown}"
    );
}

#[test]
fn an_expired_certificate_is_a_warning_and_one_of_tomorrow_is_none() {
    let directory = directory();
    let write = |from: i32, to: i32| {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["hub.example".to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(from, 1, 1);
        params.not_after = rcgen::date_time_ymd(to, 1, 1);
        let pem = params.self_signed(&key).unwrap().pem();
        fs::write(directory.path().join("cert.pem"), pem).unwrap();
        fs::write(directory.path().join("key.pem"), key.serialize_pem()).unwrap();
    };
    let text = "[devices.tls]\ncert = \"DIR/cert.pem\"\nkey = \"DIR/key.pem\"\n";
    write(2019, 2020);
    let said = warnings(directory.path(), text).join("\n");
    assert!(
        said.contains("DIR/cert.pem has a certificate that has expired"),
        "{said}"
    );
    assert!(said.contains(":2:"), "{said}");
    // The clock of the board may be wrong.
    write(2400, 2401);
    let of_time = |said: &String| said.contains("expired");
    assert!(!warnings(directory.path(), text).iter().any(of_time));
}

/// The warnings of a configuration in which `DIR` stands for a directory with files.
fn warnings(directory: &Path, text: &str) -> Vec<String> {
    let file = directory.join("telehub.toml");
    fs::write(&file, text.replace("DIR", directory.to_str().unwrap())).unwrap();
    let warnings = config::load(&file).unwrap().warnings;
    let shown = |warning: &config::Problem| {
        let shown = warning.to_string();
        shown.replace(directory.to_str().unwrap(), "DIR")
    };
    warnings.iter().map(shown).collect()
}

fn mode(directory: &Path, name: &str, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    let permissions = fs::Permissions::from_mode(mode);
    fs::set_permissions(directory.join(name), permissions).unwrap();
}

const SECRETS: &str = "[devices.tls]\ncert = \"DIR/cert.pem\"\nkey = \"DIR/key.pem\"\n\
    [uplink]\nusername = \"u\"\npassword_file = \"DIR/password\"\n\
    [admin]\nlisten = \"127.0.0.1:1\"\ntoken_file = \"DIR/token\"\n";

#[test]
fn secrets_that_every_user_may_read_are_warned_of() {
    let directory = directory();
    let path = directory.path();
    for name in ["key.pem", "password", "token"] {
        mode(path, name, 0o640);
    }
    assert_eq!(warnings(path, SECRETS), Vec::<String>::new());
    for (name, start) in [
        ("key.pem", "DIR/telehub.toml:3: devices.tls.key: "),
        ("password", "DIR/telehub.toml:6: uplink.password_file: "),
        ("token", "DIR/telehub.toml:9: admin.token_file: "),
    ] {
        mode(path, name, 0o644);
        let found = warnings(path, SECRETS);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(
            found[0].starts_with(start) && found[0].contains("chmod o-rwx"),
            "{}",
            found[0]
        );
        mode(path, name, 0o600);
    }
}

#[test]
fn a_byte_order_mark_is_no_part_of_a_secret_and_utf_16_is_told() {
    let directory = directory();
    let path = directory.path();
    fs::write(path.join("token"), "\u{feff}0123456789abcdef\r\n").unwrap();
    fs::write(path.join("password"), "\u{feff}geheim\r\n").unwrap();
    assert_eq!(problems(path, SECRETS), Vec::<String>::new());
    fs::write(path.join("password"), "\u{feff}\r\n").unwrap();
    assert!(problems(path, SECRETS)[0].contains("no password in its first line"));
    fs::write(path.join("password"), b"\xff\xfeg\0e\0").unwrap();
    assert!(problems(path, SECRETS)[0].contains("UTF-16: save it as UTF-8"));
}

/// A file of tests/certificates.
fn made(name: &str) -> String {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/certificates");
    fs::read_to_string(dir.join(name)).unwrap()
}

#[test]
fn certificates_that_will_trouble_somebody_are_told() {
    let directory = directory();
    let path = directory.path();
    let text = "[devices.tls]\ncert = \"DIR/own.pem\"\nkey = \"DIR/own.key\"\n";
    let put = |cert: &str, key: &str| {
        fs::write(path.join("own.pem"), cert).unwrap();
        fs::write(path.join("own.key"), key).unwrap();
        mode(path, "own.key", 0o600);
    };
    put(&made("rsa4096.pem"), &made("rsa4096.key"));
    let costly = warnings(path, text);
    assert!(
        costly.len() == 1 && costly[0].contains("RSA key of 4096 bits"),
        "{costly:?}"
    );
    // At the broker it is the broker's time.
    let uplink = text.replace("[devices.tls]", "[uplink]\nurl = \"mqtts://b\"");
    assert_eq!(warnings(path, &uplink), Vec::<String>::new());

    let mut params = CertificateParams::new(vec!["hub.example".to_owned()]).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    put(
        &params.self_signed(&key).unwrap().pem(),
        &key.serialize_pem(),
    );
    let authority = warnings(path, text);
    assert!(
        authority.len() == 1 && authority[0].contains("CA:FALSE"),
        "{authority:?}"
    );

    put(&made("v1.pem"), &made("leaf.key"));
    let v1 = problems(path, text);
    assert!(v1.len() == 1 && v1[0].contains("X.509 version 1"), "{v1:?}");
    put(&made("p521-ca.pem"), &made("p521.key"));
    let p521 = problems(path, text);
    assert!(
        p521.len() == 1 && p521[0].contains("P-256 or P-384"),
        "{p521:?}"
    );
}
