//! `telehub status --watch` and `telehub tail` before a real hub, and on a terminal.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "support/daemon.rs"]
mod daemon;

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use daemon::{Device, Hub, Mosquitto, Sensor, config, free_port, program, until};
use serde_json::Value;

/// A command whose output is collected.
struct Running {
    child: Child,
    out: Arc<Mutex<Vec<String>>>,
    err: Arc<Mutex<Vec<String>>>,
}

fn collect(source: impl Read + Send + 'static) -> Arc<Mutex<Vec<String>>> {
    let lines = Arc::new(Mutex::new(Vec::new()));
    let into = lines.clone();
    std::thread::spawn(move || {
        for line in BufReader::new(source).lines().map_while(Result::ok) {
            into.lock().unwrap().push(line);
        }
    });
    lines
}

impl Running {
    fn start(command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let out = collect(child.stdout.take().unwrap());
        let err = collect(child.stderr.take().unwrap());
        Self { child, out, err }
    }

    fn out(&self) -> Vec<String> {
        self.out.lock().unwrap().clone()
    }

    fn err(&self) -> String {
        self.err.lock().unwrap().join("\n")
    }

    async fn ended(&mut self) -> Option<i32> {
        let mut status = None;
        until("the command's end", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        })
        .await;
        status.unwrap().code()
    }

    fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill")
            .args([&format!("-{name}"), &pid])
            .status();
        assert!(sent.unwrap().success());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn telehub(arguments: &[&str]) -> Command {
    let mut command = Command::new(program());
    command.args(arguments);
    command
}

/// A hub whose admin listener stays where it is over a restart.
fn fixed(dir: &std::path::Path, broker: u16, admin: u16) -> String {
    let admin = format!("[admin]\nlisten = \"127.0.0.1:{admin}\"");
    config(dir, broker, "").replace("[admin]\nlisten = \"127.0.0.1:0\"", &admin)
}

#[tokio::test]
async fn tail_shows_readings_and_goes_on_when_the_hub_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let config = fixed(dir.path(), free_port(), free_port());
    let hub = Hub::start(dir.path(), &config).await;
    let url = format!("http://{}", hub.admin);
    let sensor = Sensor::start(hub.address, "cow", Duration::from_millis(20));
    let _other = Sensor::start(hub.address, "hen", Duration::from_millis(20));
    let all = Running::start(&mut telehub(&["tail", "--admin", &url]));
    until("a device", || hub.get("/api/devices/cow").0 == 200).await;
    let mut none = Running::start(&mut telehub(&["tail", "nope", "--admin", &url]));
    assert_eq!(none.ended().await, Some(1));
    until("the reason", || {
        none.err().contains("knows no device \"nope\"")
    })
    .await;
    let one = Running::start(&mut telehub(&["tail", "cow", "--json", "--admin", &url]));
    until("readings of both", || {
        let out = all.out();
        ["cow", "hen"].iter().all(|id| {
            let part = format!("Z  {id}  x  ");
            out.iter().any(|line| line.contains(&part))
        })
    })
    .await;
    until("readings of one", || one.out().len() >= 3).await;
    for line in one.out() {
        let reading: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(
            (&reading["device"], &reading["name"]),
            (&"cow".into(), &"x".into())
        );
    }

    hub.kill();
    until("the news that it is gone", || {
        all.err().contains("trying again")
    })
    .await;
    let before = all.out().len();
    let hub = Hub::start(dir.path(), &config).await;
    sensor.moved(hub.address);
    until("readings after the restart", || {
        all.err().contains("is back") && all.out().len() > before
    })
    .await;
}

#[tokio::test]
async fn tail_ends_quietly_when_nobody_reads_it_any_more() {
    let dir = tempfile::tempdir().unwrap();
    let hub = Hub::start(dir.path(), &config(dir.path(), free_port(), "")).await;
    let _sensor = Sensor::start(hub.address, "cow", Duration::from_millis(20));
    let url = format!("http://{}", hub.admin);
    let mut child = telehub(&["tail", "--admin", &url])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let pipe = child.stdout.take().unwrap();
    // Elsewhere: the sensor lives on this thread.
    let first = tokio::task::spawn_blocking(|| BufReader::new(pipe).lines().next())
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    assert!(first.contains("cow"), "{first}");
    let output = tokio::task::spawn_blocking(|| child.wait_with_output())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}

#[tokio::test]
async fn what_is_no_device_and_what_is_no_hub_is_told() {
    let nowhere = format!("http://127.0.0.1:{}", free_port());
    let mut none = Running::start(&mut telehub(&["tail", "--admin", &nowhere]));
    assert_eq!(none.ended().await, Some(1));
    let mut wrong = Running::start(&mut telehub(&["tail", "no/device"]));
    assert_eq!(wrong.ended().await, Some(2));
    until("a complaint", || !none.err().is_empty()).await;
    assert!(none.err().starts_with("no answer from"), "{}", none.err());
}

#[tokio::test]
async fn a_token_is_shown_and_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let mut broker = Mosquitto::start(dir.path());
    let token = dir.path().join("token");
    std::fs::write(&token, "0123456789abcdef\n").unwrap();
    let guarded = format!("[admin]\ntoken_file = {token:?}");
    let guarded = config(dir.path(), broker.port, "").replace("[admin]", &guarded);
    let hub = Hub::start(dir.path(), &guarded).await;
    let url = format!("http://{}", hub.admin);
    let mut without = Running::start(&mut telehub(&["status", "--admin", &url]));
    assert_eq!(without.ended().await, Some(1));
    until("a complaint", || without.err().contains("--token-file")).await;
    let file = token.to_str().unwrap();
    let arguments = ["status", "--admin", &url, "--token-file", file];
    let mut last = None;
    until("a status that is well", || {
        last = telehub(&arguments).output().unwrap().status.code();
        last == Some(0)
    })
    .await;
    broker.stop();
    until("a status that is not", || {
        last = telehub(&arguments).output().unwrap().status.code();
        last == Some(1)
    })
    .await;
    let _device = Device::connect(hub.address, "cow").await;
    let mut tail = Running::start(&mut telehub(&["tail", "--admin", &url]));
    assert_eq!(tail.ended().await, Some(1));
    assert!(
        !hub.log()
            .iter()
            .any(|line| line.contains("0123456789abcdef"))
    );
}

#[tokio::test]
async fn watch_goes_on_until_it_is_interrupted_and_ends_with_the_last_verdict() {
    let dir = tempfile::tempdir().unwrap();
    let hub = Hub::start(dir.path(), &config(dir.path(), free_port(), "")).await;
    let url = format!("http://{}", hub.admin);
    let mut watch = Running::start(&mut telehub(&["status", "--watch", "--admin", &url]));
    until("two pages", || {
        let pages = watch.out();
        pages
            .iter()
            .filter(|line| line.starts_with("hub      barn"))
            .count()
            >= 2
    })
    .await;
    assert!(!watch.out().join("").contains('\x1b'));
    watch.signal("INT");
    assert_eq!(watch.ended().await, Some(1), "the uplink is not connected");
}

/// `script` gives the command a terminal of its own.
#[tokio::test]
async fn on_a_terminal_it_is_coloured_and_what_was_there_before_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let hub = Hub::start(dir.path(), &config(dir.path(), free_port(), "")).await;
    let shell = |arguments: &str| {
        let line = format!(
            "{} {arguments} --admin http://{}",
            program().display(),
            hub.admin
        );
        let mut command = Command::new("script");
        command
            .args(["-q", "-e", "-c", &line, "/dev/null"])
            .env("TERM", "xterm");
        command.env_remove("NO_COLOR");
        command
    };
    if shell("--version").arg("--version").output().is_err() {
        let _ = writeln!(
            std::io::stderr(),
            "NOT TESTED: colours and --watch on a terminal: there is no script(1) (Debian package bsdutils)"
        );
        return;
    }
    let output = shell("status").stdin(Stdio::null()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("\x1b[2muplink  \x1b[0m \x1b["), "{text:?}");
    let output = shell("status")
        .env("NO_COLOR", "1")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        text.contains("uplink") && !text.contains("\x1b["),
        "{text:?}"
    );

    let mut watching = shell("status --watch")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut keys = watching.stdin.take().unwrap();
    let screen = Arc::new(Mutex::new(Vec::new()));
    let (into, mut from) = (screen.clone(), watching.stdout.take().unwrap());
    let reader = std::thread::spawn(move || {
        let mut chunk = [0; 4096];
        while let Ok(read @ 1..) = from.read(&mut chunk) {
            into.lock().unwrap().extend_from_slice(&chunk[..read]);
        }
    });
    let shown = || String::from_utf8_lossy(&screen.lock().unwrap()).into_owned();
    until("a page on a screen of its own", || {
        let shown = shown();
        shown.contains("\x1b[?1049h") && shown.contains("barn, version")
    })
    .await;
    // Ctrl-c, as the terminal sees it.
    keys.write_all(b"\x03").unwrap();
    let mut ended = None;
    until("the end", || {
        ended = watching.try_wait().unwrap();
        ended.is_some()
    })
    .await;
    drop(keys);
    reader.join().unwrap();
    assert!(shown().contains("\x1b[?25h\x1b[?1049l"), "{:?}", shown());
}
