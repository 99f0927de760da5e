//! `telehub setup`: what it asks and writes is a hub that runs, and nothing that somebody wrote is lost.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "support/daemon.rs"]
mod daemon;

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use daemon::{Hub, Mosquitto, post, until};

fn setup(dir: &Path, more: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_telehub"))
        .args(["setup", "--config"])
        .arg(dir.join("telehub.toml"))
        .args(more)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The configuration as written, on the loopback and free ports.
fn written(dir: &Path) -> String {
    let text = std::fs::read_to_string(dir.join("telehub.toml")).unwrap();
    text.replace("0.0.0.0:8787", "127.0.0.1:0")
        .replace("127.0.0.1:8787", "127.0.0.1:0")
        .replace("127.0.0.1:8788", "127.0.0.1:0")
}

#[tokio::test]
async fn flags_alone_make_a_hub_that_runs_and_a_device_that_is_let_in() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Mosquitto::start(dir.path());
    let url = format!("mqtt://127.0.0.1:{}", broker.port);
    let answers = [
        "--yes",
        "--id",
        "barn",
        "--broker",
        &url,
        "--first-device",
        "barn-1",
    ];
    let done = setup(dir.path(), &answers);
    let said = text(&done.stdout);
    assert!(done.status.success(), "{said}{}", text(&done.stderr));
    assert!(said.contains("takes telehub/barn/_probe/data"), "{said}");
    let token = said
        .lines()
        .skip_while(|line| !line.starts_with("The token of barn-1"));
    let token = token.skip(1).map(str::trim).next().unwrap().to_owned();
    let hub = Hub::start(dir.path(), &written(dir.path())).await;
    hub.until_uplink("connected").await;
    let address = hub.address;
    let (answer, wrong) = tokio::task::spawn_blocking(move || {
        let body = "[{\"n\":\"temp\",\"u\":\"Cel\",\"v\":21.5}]";
        let path = "/v1/devices/barn-1/data";
        // What the printed curl command does.
        let send = |token: &str| post(address, path, Some(token), body);
        (send(&token), send("wrong"))
    })
    .await
    .unwrap();
    assert!(answer.starts_with("HTTP/1.1 204"), "{answer}");
    assert!(wrong.starts_with("HTTP/1.1 401"), "{wrong}");
    until("the reading on the board", || {
        hub.status("/uplink/acknowledged").as_u64() > Some(0)
    })
    .await;
}

#[test]
fn what_somebody_wrote_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("telehub.toml");
    std::fs::write(&file, "[hub]\nid = \"mine\"\n").unwrap();
    let done = setup(dir.path(), &["--yes", "--no-connect"]);
    assert_eq!(done.status.code(), Some(1));
    assert!(
        text(&done.stderr).contains("--force"),
        "{}",
        text(&done.stderr)
    );
    assert_eq!(
        std::fs::read_to_string(&file).unwrap(),
        "[hub]\nid = \"mine\"\n"
    );
    let done = setup(dir.path(), &["--yes", "--no-connect", "--force"]);
    assert!(done.status.success(), "{}", text(&done.stderr));
    let old = std::fs::read_to_string(dir.path().join("telehub.toml.old")).unwrap();
    assert_eq!(old, "[hub]\nid = \"mine\"\n");
    // A file of comments, as the package has it, says nothing yet.
    std::fs::write(&file, "# [hub]\n# id = \"mine\"\n[devices]\n").unwrap();
    let done = setup(dir.path(), &["--yes", "--no-connect"]);
    assert!(done.status.success(), "{}", text(&done.stderr));
}

#[test]
fn without_a_terminal_or_a_broker_nothing_is_written_and_the_way_out_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("telehub.toml");
    let done = setup(dir.path(), &[]);
    assert_eq!(done.status.code(), Some(1));
    assert!(
        text(&done.stderr).contains("--yes"),
        "{}",
        text(&done.stderr)
    );
    // Nobody listens there. A port that was free a moment ago may be another test's broker by now.
    let done = setup(dir.path(), &["--yes", "--broker", "mqtt://127.0.0.1:1"]);
    assert_eq!(done.status.code(), Some(1));
    assert!(
        text(&done.stderr).contains("--no-connect"),
        "{}",
        text(&done.stderr)
    );
    assert!(
        text(&done.stdout).contains("# BAD"),
        "{}",
        text(&done.stdout)
    );
    let done = setup(dir.path(), &["--yes", "--broker", "http://broker"]);
    assert_eq!(done.status.code(), Some(78), "{}", text(&done.stderr));
    assert!(!file.exists());
}

#[test]
fn on_a_terminal_it_asks_again_until_an_answer_can_be_used() {
    if Command::new("script").arg("--version").output().is_err() {
        eprintln!("NOT TESTED: the questions: there is no script(1) (Debian package bsdutils)");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("telehub.toml");
    let program = env!("CARGO_BIN_EXE_telehub");
    let command = format!("{program} setup --no-connect --config {}", file.display());
    let mut script = Command::new("script")
        .args(["-qec", &command, "/dev/null"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // Id, network, broker, user, password, page, device.
    let answers =
        "two words\nbarn\nmaybe\ny\nhttp://x\nmqtts://broker.example\nanna\ngeheim\nn\nbarn-1\n";
    let mut stdin = script.stdin.take().unwrap();
    stdin.write_all(answers.as_bytes()).unwrap();
    let done = script.wait_with_output().unwrap();
    drop(stdin);
    let said = text(&done.stdout);
    assert!(done.status.success(), "{said}");
    for complaint in [
        "an id has 1 to 64 of",
        "y or n",
        "the scheme \"http\" is not known",
    ] {
        assert!(said.contains(complaint), "{complaint} is not in {said}");
    }
    let config: toml::Table = std::fs::read_to_string(&file).unwrap().parse().unwrap();
    let password = dir
        .path()
        .canonicalize()
        .unwrap()
        .join("telehub.mqtt-password");
    assert_eq!(config["hub"]["id"].as_str(), Some("barn"));
    assert_eq!(config["devices"]["auth"].as_str(), Some("token"));
    assert_eq!(
        config["uplink"]["url"].as_str(),
        Some("mqtts://broker.example")
    );
    assert_eq!(config["uplink"]["username"].as_str(), Some("anna"));
    assert_eq!(
        config["uplink"]["password_file"].as_str(),
        password.to_str()
    );
    assert!(!config.contains_key("admin"));
    assert_eq!(std::fs::read_to_string(password).unwrap(), "geheim\n");
    let registry = std::fs::read_to_string(dir.path().join("devices.toml")).unwrap();
    assert!(registry.contains("barn-1"), "{registry}");
}
