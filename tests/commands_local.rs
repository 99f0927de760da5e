//! Commands that the operator sends: by the admin listener and by `telehub command`, through the
//! whole daemon.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "support/daemon.rs"]
mod daemon;
#[path = "support/metrics.rs"]
mod metrics;
#[path = "support/registry.rs"]
mod registry;

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Output;

use daemon::{Consumer, Device, Hub, Mosquitto, config, until};
use metrics::Scrape;
use registry::registry;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

const TOKEN: &str = "0123456789abcdef";

/// What nobody may find in the log.
const SECRET: &str = "s3cr3t";

const DEVICES: [(&str, &str); 3] = [
    ("lamp", "commands = [\"on\", \"set-*\"]"),
    ("pump", "commands = [\"*\"]"),
    ("mute", ""),
];

struct Rig {
    dir: tempfile::TempDir,
    _broker: Mosquitto,
    consumer: Consumer,
    hub: Hub,
}

impl Rig {
    async fn start() -> Self {
        Self::with("enabled = true\nadmin = true", true).await
    }

    async fn with(commands: &str, token: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        std::fs::write(path("devices.toml"), registry(&DEVICES)).unwrap();
        std::fs::write(path("admin-token"), TOKEN).unwrap();
        let broker = Mosquitto::start(dir.path());
        let consumer = Consumer::start(broker.port).await;
        let auth = format!("auth = \"token\"\nregistry = {:?}", path("devices.toml"));
        let needs = format!("[admin]\ntoken_file = {:?}", path("admin-token"));
        let mut text = config(
            dir.path(),
            broker.port,
            &format!("[commands]\n{commands}\n"),
        )
        .replace("auth = \"open\"", &auth)
        .replace("[admin]", "[admin]\ndevice_metrics = true");
        if token {
            text = text.replace("[admin]", &needs);
        }
        let hub = Hub::start(dir.path(), &text).await;
        Self {
            dir,
            _broker: broker,
            consumer,
            hub,
        }
    }

    async fn device(&self, id: &str) -> Device {
        let mut device = Device::with_token(self.hub.address, id, id).await;
        device.send(json!({"hello": {}})).await;
        assert!(device.receive().await.unwrap()["welcome"].is_object());
        device
    }

    async fn post(&self, device: &str, body: impl Into<String>) -> (u16, Value) {
        let usual = ["Content-Type: application/json".to_owned(), bearer()];
        send(self.hub.admin, "POST", device, &usual, &body.into()).await
    }

    /// Asks and goes on.
    fn ask(&self, device: &'static str, body: Value) -> JoinHandle<(u16, Value)> {
        let admin = self.hub.admin;
        tokio::spawn(async move {
            let usual = ["Content-Type: application/json".to_owned(), bearer()];
            send(admin, "POST", device, &usual, &body.to_string()).await
        })
    }

    async fn get(&self, path: &str) -> String {
        request(
            self.hub.admin,
            &format!("GET {path} HTTP/1.1"),
            &[bearer()],
            "",
        )
        .await
    }

    async fn metrics(&self) -> Scrape {
        let answer = self.get("/metrics").await;
        Scrape::of(answer.split_once("\r\n\r\n").unwrap().1)
    }

    /// Waits until so many commands are accepted and have not ended.
    async fn until_open(&self, commands: f64) {
        loop {
            let now = self.metrics().await;
            let open =
                now.value("telehub_commands_waiting") + now.value("telehub_commands_under_way");
            if (open - commands).abs() < 0.5 {
                return;
            }
            tokio::task::yield_now().await;
        }
    }

    /// `telehub command`, beside whatever else goes on.
    fn command(&self, arguments: &[&str]) -> JoinHandle<Output> {
        let mut command = daemon::command();
        command
            .arg("command")
            .args(arguments)
            .args(["--admin", &format!("http://{}", self.hub.admin)])
            .arg("--token-file")
            .arg(self.dir.path().join("admin-token"));
        tokio::task::spawn_blocking(move || command.output().unwrap())
    }
}

fn bearer() -> String {
    format!("Authorization: Bearer {TOKEN}")
}

/// One request and all of its answer.
async fn request(admin: SocketAddr, line: &str, headers: &[String], body: &str) -> String {
    let mut socket = TcpStream::connect(admin).await.unwrap();
    let mut text = format!("{line}\r\nHost: localhost\r\nConnection: close\r\n");
    for header in headers {
        let _ = write!(text, "{header}\r\n");
    }
    if !body.is_empty() {
        let _ = write!(text, "Content-Length: {}\r\n", body.len());
    }
    let _ = write!(text, "\r\n{body}");
    // Whoever is refused early may be hung up on while he still sends.
    let _ = socket.write_all(text.as_bytes()).await;
    let mut answer = String::new();
    let _ = socket.read_to_string(&mut answer).await;
    answer
}

async fn send(
    admin: SocketAddr,
    method: &str,
    device: &str,
    headers: &[String],
    body: &str,
) -> (u16, Value) {
    let line = format!("{method} /api/devices/{device}/commands HTTP/1.1");
    let answer = request(admin, &line, headers, body).await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, serde_json::from_str(body).unwrap_or_default())
}

async fn command(device: &mut Device) -> Value {
    loop {
        let message = device.receive().await.expect("a command");
        if message["command"].is_object() {
            return message["command"].clone();
        }
        // Of the one before it.
        assert!(message["ack"]["result"].is_string(), "{message}");
    }
}

async fn result(device: &mut Device, of: &Value, ok: bool, value: Value) {
    let error = (!ok).then_some("it is jammed");
    device
        .send(json!({"result": {"id": of["id"], "ok": ok, "value": value, "error": error}}))
        .await;
}

#[tokio::test]
async fn the_operator_hears_how_his_command_ended_and_the_log_says_who_asked_and_not_for_what() {
    let rig = Rig::start().await;
    let mut lamp = rig.device("lamp").await;
    let asked = rig.ask(
        "lamp",
        json!({"name": "set-level", "args": {"level": 3, "pin": SECRET}, "timeout": 20}),
    );
    let got = command(&mut lamp).await;
    assert_eq!(got["name"], "set-level");
    assert_eq!(got["args"], json!({"level": 3, "pin": SECRET}));
    assert!(got["timeout"].as_f64().unwrap() <= 20.0);
    result(&mut lamp, &got, true, json!({"level": 3, "pin": SECRET})).await;
    let (status, answer) = asked.await.unwrap();
    assert_eq!(status, 200);
    assert_eq!(
        (&answer["state"], &answer["executed"]),
        (&json!("done"), &json!("yes"))
    );
    assert_eq!(answer["value"]["level"], 3);
    assert_eq!(answer["id"], got["id"]);
    // What a device has done is told on the broker, whoever asked for it, and is safe then.
    let safe = lamp.receive().await.unwrap();
    assert_eq!(safe, json!({"ack": {"result": got["id"]}}));
    let told = rig
        .consumer
        .last("telehub/barn/lamp/result/set-level")
        .unwrap();
    assert_eq!((&told["state"], &told["id"]), (&json!("done"), &got["id"]));

    let log = rig.hub.log();
    let audit: Vec<_> = log
        .iter()
        .filter(|line| line.contains("command ended"))
        .collect();
    assert_eq!(audit.len(), 1, "{log:#?}");
    for part in [
        "device=lamp",
        "name=set-level",
        "who=admin",
        "outcome=\"done\"",
    ] {
        assert!(audit[0].contains(part), "{part} in {}", audit[0]);
    }
    assert!(audit[0].contains(got["id"].as_str().unwrap()));
    assert!(!log.iter().any(|line| line.contains(SECRET)), "{log:#?}");

    // The page of the device has it, too, without values.
    let page = rig.get("/api/devices/lamp/commands").await;
    assert!(!page.contains(SECRET));
    let page: Value = serde_json::from_str(page.split_once("\r\n\r\n").unwrap().1).unwrap();
    assert_eq!(
        (&page["admin"], &page["takes"]),
        (&json!(true), &json!(["on", "set-*"]))
    );
    let last = &page["last"][0];
    assert_eq!(
        (&last["state"], &last["who"], &last["id"]),
        (&json!("done"), &json!("admin"), &got["id"])
    );
    assert!(last["error"].is_null() && last["time"].as_f64().unwrap() > 1.7e9);

    let metrics = rig.metrics().await;
    for (series, value) in [
        ("telehub_commands_received_total", 1.0),
        ("telehub_commands_sent_total", 1.0),
        ("telehub_commands_ended_total{outcome=\"done\"}", 1.0),
        ("telehub_commands_ended_total{outcome=\"failed\"}", 0.0),
        (
            "telehub_device_commands_total{device=\"lamp\",outcome=\"done\"}",
            1.0,
        ),
        ("telehub_command_latency_seconds_count", 1.0),
    ] {
        assert_eq!(metrics.value(series), value, "{series}");
    }
    assert!(metrics.value("telehub_command_latency_seconds_sum") > 0.0);
}

#[tokio::test]
async fn what_is_no_command_or_is_not_allowed_is_refused_and_says_why() {
    let rig = Rig::start().await;
    let mut lamp = rig.device("lamp").await;
    let deep = format!(
        r#"{{"name": "on", "args": {}1{}}}"#,
        "[".repeat(200),
        "]".repeat(200)
    );
    let long = format!(r#"{{"name": "{}"}}"#, "x".repeat(65));
    for body in [
        "nonsense",
        "[]",
        r#"{"name": "on""#,
        r#"{"name": "on", "args": NaN}"#,
        r#"{"name": "on", "args": 1e999}"#,
        deep.as_str(),
        r#"{"name": "a/b"}"#,
        long.as_str(),
        r#"{"args": 1}"#,
        r#"{"name": "on", "timeout": 0}"#,
        r#"{"name": "on", "timeout": 86400}"#,
        r#"{"name": "on", "id": "mine"}"#,
        r#"{"name": "on", "name": "on"}"#,
    ] {
        let (status, problem) = rig.post("lamp", body).await;
        assert_eq!(status, 400, "{body}: {problem}");
        assert!(problem["detail"].is_string());
    }
    let large = json!({"name": "on", "args": "x".repeat(64 * 1024)}).to_string();
    let (status, problem) = rig.post("lamp", large).await;
    assert_eq!(status, 413);
    assert!(
        problem["detail"]
            .as_str()
            .unwrap()
            .contains("commands.max_size")
    );
    // Of a command that can be judged the end is told.
    for (device, name, error) in [
        ("lamp", "off", "forbidden"),
        ("mute", "on", "forbidden"),
        ("nobody", "on", "forbidden"),
        ("n%20b", "on", "forbidden"),
    ] {
        let (status, answer) = rig.post(device, json!({ "name": name }).to_string()).await;
        assert_eq!(
            (status, &answer["state"]),
            (200, &json!("refused")),
            "{device} {name}"
        );
        assert_eq!(
            (&answer["error"], &answer["executed"]),
            (&json!(error), &json!("no"))
        );
    }
    // Nothing of all this was sent; this is.
    let asked = rig.ask("lamp", json!({"name": "on"}));
    let got = command(&mut lamp).await;
    assert_eq!(got["name"], "on");
    result(&mut lamp, &got, true, Value::Null).await;
    assert_eq!(asked.await.unwrap().1["state"], "done");
    drop(lamp);
    until_refused(&rig, "offline").await;
    let log = rig.hub.log().join("\n");
    assert!(
        log.contains("outcome=\"forbidden\"") && log.contains("who=admin"),
        "{log}"
    );
}

/// The device has gone: waits until that is known.
async fn until_refused(rig: &Rig, error: &str) {
    loop {
        let (_, answer) = rig
            .post("lamp", json!({"name": "on", "timeout": 0.2}).to_string())
            .await;
        if answer["state"] == "refused" && answer["error"] == error {
            return;
        }
    }
}

#[tokio::test]
async fn only_who_has_the_token_and_is_no_page_of_another_site_may_ask() {
    let rig = Rig::start().await;
    let json_type = "Content-Type: application/json";
    let body = r#"{"name": "on"}"#;
    for (headers, expected) in [
        (vec![json_type], 401),
        (vec![json_type, "Authorization: Bearer wrong"], 401),
        (vec![&*bearer()], 415),
        (vec![&*bearer(), "Content-Type: text/plain"], 415),
        (
            vec![
                &*bearer(),
                "Content-Type: application/x-www-form-urlencoded",
            ],
            415,
        ),
        (
            vec![&*bearer(), json_type, "Origin: http://evil.example"],
            403,
        ),
        (
            vec![&*bearer(), json_type, "Sec-Fetch-Site: cross-site"],
            403,
        ),
        (
            vec![&*bearer(), json_type, "Sec-Fetch-Site: same-site"],
            403,
        ),
        (
            vec![&*bearer(), "Content-Type: application/json; charset=utf-8"],
            200,
        ),
    ] {
        let headers: Vec<_> = headers.into_iter().map(str::to_owned).collect();
        let (status, _) = send(rig.hub.admin, "POST", "lamp", &headers, body).await;
        assert_eq!(status, expected, "{headers:?}");
    }
    let (status, _) = send(rig.hub.admin, "PUT", "lamp", &[bearer()], body).await;
    assert_eq!(status, 405);
    let (status, _) = send(rig.hub.admin, "GET", "nobody", &[bearer()], "").await;
    assert_eq!(status, 404);
    let metrics = rig.metrics().await;
    assert_eq!(metrics.value("telehub_commands_received_total"), 1.0);
}

#[tokio::test]
async fn a_hub_that_was_not_told_to_takes_no_commands_here_and_says_which_key_is_missing() {
    for (commands, token, key) in [
        ("enabled = true", true, "admin = true"),
        ("enabled = false", true, "enabled = true"),
        ("enabled = true\nadmin = true", false, "token_file"),
    ] {
        let rig = Rig::with(commands, token).await;
        let (status, problem) = rig.post("lamp", r#"{"name": "on"}"#).await;
        assert_eq!(status, 403, "{problem}");
        assert!(
            problem["detail"].as_str().unwrap().contains(key),
            "{problem}"
        );
        let page = rig.get("/api/devices/lamp/commands").await;
        assert!(page.contains("\"admin\":false"), "{page}");
        let output = rig.command(&["lamp", "on"]).await.unwrap();
        assert_eq!(output.status.code(), Some(1));
        let complaint = String::from_utf8(output.stderr).unwrap();
        assert!(complaint.contains(key), "{complaint}");
    }
}

#[tokio::test]
async fn who_hangs_up_gives_his_place_back_and_the_command_goes_on() {
    let rig = Rig::start().await;
    let mut lamp = rig.device("lamp").await;
    // Eight wait and one is under way; another eight are refused at once.
    let mut askers: Vec<_> = (0..9)
        .map(|_| rig.ask("lamp", json!({"name": "on"})))
        .collect();
    rig.until_open(9.0).await;
    let (_, refused) = rig.post("lamp", r#"{"name": "on"}"#).await;
    assert_eq!(refused["error"], "busy");
    let got = command(&mut lamp).await;
    for asker in &askers {
        asker.abort();
    }
    askers.clear();
    // The one that was sent is answered on the broker.
    result(&mut lamp, &got, true, json!(1)).await;
    let told = || {
        let told = rig.consumer.last("telehub/barn/lamp/result/on");
        told.is_some_and(|told| told["id"] == got["id"] && told["state"] == "done")
    };
    until("the end on the broker", told).await;
}

#[tokio::test]
async fn no_more_than_sixteen_wait_for_an_end_and_others_are_told_so() {
    let rig = Rig::start().await;
    let (mut lamp, mut pump) = (rig.device("lamp").await, rig.device("pump").await);
    // One whose body does not come takes no place, and is told within seconds.
    let mut half = TcpStream::connect(rig.hub.admin).await.unwrap();
    let head = format!(
        "POST /api/devices/lamp/commands HTTP/1.1\r\nHost: localhost\r\n{}\r\n\
         Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{{",
        bearer()
    );
    half.write_all(head.as_bytes()).await.unwrap();
    let ask = |device, times| (0..times).map(move |_| (device, json!({"name": "on"})));
    let waiting: Vec<_> = ask("lamp", 9)
        .chain(ask("pump", 7))
        .map(|(device, body)| rig.ask(device, body))
        .collect();
    rig.until_open(16.0).await;
    let (status, problem) = rig.post("pump", r#"{"name": "on"}"#).await;
    assert_eq!(status, 503, "{problem}");
    let mut answer = String::new();
    half.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    for (device, times) in [(&mut lamp, 9), (&mut pump, 7)] {
        for _ in 0..times {
            let got = command(device).await;
            result(device, &got, true, Value::Null).await;
        }
    }
    for asker in waiting {
        assert_eq!(asker.await.unwrap().1["state"], "done");
    }
    let asked = rig.ask("pump", json!({"name": "on"}));
    let got = command(&mut pump).await;
    result(&mut pump, &got, true, Value::Null).await;
    assert_eq!(asked.await.unwrap().0, 200);
}

#[tokio::test]
async fn telehub_command_ends_with_0_done_1_not_done_and_3_not_known() {
    let rig = Rig::start().await;
    let mut lamp = rig.device("lamp").await;
    let code = |output: &Output| output.status.code().unwrap();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();

    let asked = rig.command(&["lamp", "set-level", r#"{"level": 3}"#, "--idempotent"]);
    let got = command(&mut lamp).await;
    assert_eq!(got["args"], json!({"level": 3}));
    result(&mut lamp, &got, true, json!({"was": "\u{1b}[2J"})).await;
    let done = asked.await.unwrap();
    assert_eq!((code(&done), text(&done.stderr)), (0, String::new()));
    assert_eq!(text(&done.stdout), "{\"was\":\"\\u001b[2J\"}\n");

    let asked = rig.command(&["lamp", "on", "--json"]);
    let got = command(&mut lamp).await;
    result(&mut lamp, &got, false, Value::Null).await;
    let failed = asked.await.unwrap();
    assert_eq!(code(&failed), 1);
    let printed: Value = serde_json::from_slice(&failed.stdout).unwrap();
    assert_eq!(printed["state"], "failed");
    assert!(text(&failed.stderr).contains("it is jammed"));

    let refused = rig.command(&["lamp", "off"]).await.unwrap();
    assert_eq!(code(&refused), 1);
    assert!(text(&refused.stderr).contains("telehub device set lamp --command off"));

    let asked = rig.command(&["lamp", "on", "--timeout", "100ms"]);
    let _got = command(&mut lamp).await;
    let timeout = asked.await.unwrap();
    assert_eq!(code(&timeout), 3, "{}", text(&timeout.stderr));

    for wrong in [
        &["lamp", "on", "{"][..],
        &["lamp", "a/b"],
        &["la mp", "on"],
        &["lamp", "on", "--timeout", "1d"],
        &["lamp", "on", "--timeout", "0s"],
        &["lamp"],
    ] {
        let output = rig.command(wrong).await.unwrap();
        assert_eq!(code(&output), 2, "{wrong:?}");
    }

    // The hub stops with one under way.
    let asked = rig.command(&["lamp", "on"]);
    let _got = command(&mut lamp).await;
    assert!(rig.hub.stop().await.success());
    let unknown = asked.await.unwrap();
    assert_eq!(code(&unknown), 3);
    assert!(
        text(&unknown.stderr).contains("hub stopping"),
        "{}",
        text(&unknown.stderr)
    );
}

#[tokio::test]
async fn a_hub_that_is_killed_or_is_not_there_is_told_apart() {
    let rig = Rig::start().await;
    let mut lamp = rig.device("lamp").await;
    let asked = rig.command(&["lamp", "on"]);
    let _got = command(&mut lamp).await;
    let (admin, file) = (rig.hub.admin, rig.dir.path().join("admin-token"));
    rig.hub.kill();
    let killed = asked.await.unwrap();
    assert_eq!(killed.status.code(), Some(3));
    let words = String::from_utf8(killed.stderr).unwrap();
    assert!(words.contains("it is not known whether"), "{words}");
    let absent = not_there(admin, &file).await;
    assert_eq!(absent.status.code(), Some(1));
}

async fn not_there(admin: SocketAddr, token: &Path) -> Output {
    let mut command = daemon::command();
    command
        .args([
            "command",
            "lamp",
            "on",
            "--admin",
            &format!("http://{admin}"),
        ])
        .arg("--token-file")
        .arg(token);
    let asked = tokio::task::spawn_blocking(move || command.output().unwrap());
    asked.await.unwrap()
}
