//! The program as a shell sees it: what goes to stdout, what to stderr, and the exit status.
#![allow(clippy::unwrap_used, missing_docs)]

use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output};
use std::thread;

use serde_json::json;

fn telehub(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_telehub"))
        .args(arguments)
        .output()
        .unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// The one sentence on stderr.
fn complaint(output: &Output) -> String {
    let text = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(text.trim_end().lines().count(), 1, "{text}");
    text.trim_end().to_owned()
}

fn file(directory: &Path, text: &str) -> String {
    let path = directory.join("telehub.toml");
    fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn wrong_usage_ends_with_2() {
    for arguments in [
        &[][..],
        &["fly"],
        &["run", "now"],
        &["device", "add"],
        &["device", "add", "../x"],
    ] {
        let output = telehub(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(
            output.stdout.is_empty() && !output.stderr.is_empty(),
            "{arguments:?}"
        );
    }
}

#[test]
fn check_as_another_user_than_the_hubs_warns_of_what_it_cannot_see() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: only root can be other users");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    // As the package has it: a directory of the hub's user, closed to others.
    let hub = directory.path().join("hub");
    fs::create_dir(&hub).unwrap();
    fs::set_permissions(&hub, fs::Permissions::from_mode(0o750)).unwrap();
    chown(&hub, Some(65_533), Some(65_533)).unwrap();
    let spool = format!(
        "[spool]\npath = \"{}/spool\"\nmin_free = \"0B\"\n",
        hub.display()
    );
    let path = file(directory.path(), &spool);
    // Where it is built may be closed to others as well.
    let telehub = directory.path().join("telehub");
    fs::copy(env!("CARGO_BIN_EXE_telehub"), &telehub).unwrap();
    for (user, warns) in [(65_532, true), (65_533, false)] {
        let output = Command::new(&telehub)
            .args(["check", "--config", &path])
            .uid(user)
            .gid(user)
            .output()
            .unwrap();
        let text = String::from_utf8(output.stderr.clone()).unwrap();
        assert_eq!(output.status.code(), Some(0), "{text}");
        assert_eq!(
            text.contains("cannot be seen as this user"),
            warns,
            "{text}"
        );
    }
}

#[test]
fn a_wrong_configuration_ends_check_run_and_status_with_78_and_every_fault() {
    let directory = tempfile::tempdir().unwrap();
    let path = file(
        directory.path(),
        "[devices]\nwindow = 0\n[log]\nlevel = \"loud\"\n",
    );
    for command in ["check", "run", "status"] {
        let output = telehub(&[command, "--config", &path]);
        assert_eq!(output.status.code(), Some(78), "{command}");
        let text = String::from_utf8(output.stderr).unwrap();
        let faults: Vec<_> = text.lines().collect();
        assert_eq!(faults.len(), 2, "{text}");
        assert!(
            faults[0].starts_with(&format!("{path}:2: devices.window: ")),
            "{text}"
        );
        assert!(
            faults[1].starts_with(&format!("{path}:4: log.level: ")),
            "{text}"
        );
        assert!(output.stdout.is_empty());
    }
    let none = telehub(&["run", "--config", "/nonexistent/telehub.toml"]);
    assert_eq!(none.status.code(), Some(78));
    assert!(complaint(&none).contains("there is no such file"));
}

#[test]
fn check_prints_the_configuration_resolved_and_warnings_beside_it() {
    let directory = tempfile::tempdir().unwrap();
    let path = file(
        directory.path(),
        "[hub]\nid = \"barn\"\n[devices]\nauth = \"open\"\nlisten = \"0.0.0.0:1\"\n",
    );
    let output = telehub(&["check", "--config", &path]);
    assert_eq!(output.status.code(), Some(0));
    assert!(complaint(&output).starts_with(&format!("warning: {path}:4: devices.auth: ")));
    let printed = stdout(&output);
    assert!(
        printed.contains("client_id = \"telehub-barn\""),
        "{printed}"
    );
    let again = telehub(&["check", "--config", &file(directory.path(), &printed)]);
    assert_eq!(stdout(&again), printed);
}

#[test]
fn who_asks_for_one_key_needs_no_secret_of_the_others() {
    let directory = tempfile::tempdir().unwrap();
    let path = file(
        directory.path(),
        &format!(
            "[devices]\nregistry = \"{0}/devices.toml\"\n[spool]\npath = \"{0}/spool\"\n[uplink]\n\
             username = \"u\"\npassword_file = \"telehub.mqtt-password\"\n",
            directory.path().display()
        ),
    );
    // A credential that systemd hands to the service alone.
    assert_eq!(
        telehub(&["check", "--config", &path]).status.code(),
        Some(78)
    );
    for arguments in [
        &["device", "add", "barn-1", "--config", &path][..],
        &["device", "rotate", "barn-1", "--config", &path],
        &["device", "list", "--config", &path],
        &["spool", "stat", "--config", &path],
    ] {
        let output = telehub(arguments);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {text}");
    }
}

#[test]
fn a_device_gets_a_token_once_and_the_registry_only_its_hash() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("devices.toml");
    let registry = path.to_str().unwrap();
    let added = telehub(&["device", "add", "barn-1", "--registry", registry]);
    assert_eq!(added.status.code(), Some(0));
    let token = stdout(&added).trim_end().to_owned();
    assert_eq!(token.len(), 43);
    let content = fs::read_to_string(&path).unwrap();
    assert!(
        content.starts_with("[[device]]\nid = \"barn-1\"\ntoken_sha256 = \""),
        "{content}"
    );
    assert!(!content.contains(&token), "{content}");

    let twice = telehub(&["device", "add", "barn-1", "--registry", registry]);
    assert_eq!(twice.status.code(), Some(1));
    assert!(complaint(&twice).contains("device rotate barn-1"));
    assert_eq!(fs::read_to_string(&path).unwrap(), content);

    assert!(stdout(&telehub(&["device", "list", "--registry", registry])).starts_with("barn-1 "));
    assert_eq!(
        telehub(&["device", "remove", "barn-1", "--registry", registry])
            .status
            .code(),
        Some(0)
    );
    assert!(stdout(&telehub(&["device", "list", "--registry", registry])).is_empty());
    let gone = telehub(&["device", "remove", "barn-1", "--registry", registry]);
    assert_eq!(gone.status.code(), Some(1));
    assert!(complaint(&gone).contains("there is no device"));
}

/// A hub that answers two requests, with this state of its uplink.
fn hub(uplink: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for body in [
            json!({"hub": "barn", "version": "0.1.0", "uptime": 5.0, "new": "in a later version",
                "uplink": {"state": uplink, "since": 0.0, "in_flight": 0, "published": 1,
                    "acknowledged": 1, "last_error": "connection refused"},
                "spool": {"state": "ok", "batches": 0, "readings": 0, "disk_bytes": 0, "oldest": null,
                    "written_bytes": 0, "dropped_batches": 0, "drain_eta": 0.0},
                "devices": {"connected": 0, "known": 0, "evicted": 0},
                "live": {"batches": 0, "readings": 0}}).to_string(),
            "[]".to_owned(),
        ] {
            let (mut socket, _) = listener.accept().unwrap();
            let mut request = [0; 1024];
            let _ = std::io::Read::read(&mut socket, &mut request).unwrap();
            write!(socket, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()).unwrap();
        }
    });
    format!("http://{address}")
}

#[test]
fn status_ends_with_0_when_all_is_well_and_else_with_1_and_the_reason() {
    let well = telehub(&["status", "--admin", &hub("connected")]);
    assert_eq!(well.status.code(), Some(0), "{well:?}");
    assert!(
        stdout(&well).starts_with("hub      barn, version 0.1.0"),
        "{well:?}"
    );
    let down = telehub(&["status", "--admin", &hub("down")]);
    assert_eq!(down.status.code(), Some(1));
    assert_eq!(
        complaint(&down),
        "the uplink is not connected: connection refused"
    );
    assert!(stdout(&down).contains("uplink   down"));
    let json = telehub(&["status", "--json", "--admin", &hub("connected")]);
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(
        (&json["status"]["new"], &json["devices"]),
        (&json!("in a later version"), &json!([]))
    );
}

#[test]
fn status_prints_no_colour_where_there_is_no_terminal() {
    let well = telehub(&["status", "--admin", &hub("connected")]);
    assert!(!stdout(&well).contains('\x1b'), "{well:?}");
    let help = stdout(&telehub(&["status", "--help"]));
    assert!(
        help.contains("Exit status") && help.contains("NO_COLOR"),
        "{help}"
    );
}

#[test]
fn status_without_a_hub_says_where_it_asked() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", free.local_addr().unwrap());
    drop(free);
    let output = telehub(&["status", "--admin", &address]);
    assert_eq!(output.status.code(), Some(1));
    assert!(complaint(&output).starts_with(&format!("no answer from {address}; ")));
}

#[test]
fn the_version_is_that_of_the_package() {
    let output = telehub(&["--version"]);
    assert_eq!(
        stdout(&output),
        format!("telehub {}\n", env!("CARGO_PKG_VERSION"))
    );
}
