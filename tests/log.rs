//! The log of the whole daemon: quiet while all is well, readable by machines, changed while it
//! runs, and never a secret in it.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "support/daemon.rs"]
mod daemon;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use daemon::{
    Consumer, Device, Hub, Mosquitto, PATIENCE, Sensor, config, every_acked_batch_arrives,
    free_port, program, until,
};
use serde_json::{Value, json};

/// A process that does not outlive the test.
struct Ends(Child);

impl Drop for Ends {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn with_log(text: &str, log: &str) -> String {
    format!("{text}\n[log]\n{log}\n")
}

/// In small what a healthy hour holds: devices that send, devices that come and go.
const HEALTHY: Duration = Duration::from_secs(10);

#[tokio::test]
async fn a_healthy_hub_logs_no_warning_while_devices_send_come_and_go() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Mosquitto::start(dir.path());
    let consumer = Consumer::start(broker.port).await;
    let hub = Hub::start(dir.path(), &config(dir.path(), broker.port, "")).await;
    hub.until_uplink("connected").await;
    let sensors: Vec<_> = (0..5)
        .map(|n| Sensor::start(hub.address, &format!("s-{n}"), Duration::from_millis(20)))
        .collect();
    let begun = Instant::now();
    let acked = || sensors.iter().map(Sensor::acked).sum::<u64>();
    while begun.elapsed() < HEALTHY || acked() <= 100 {
        for n in 0..3 {
            let mut device = Device::connect(hub.address, &format!("wanderer-{n}")).await;
            device.hello("s").await;
            drop(device);
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    sensors.iter().for_each(Sensor::rest);
    until("every ack", || sensors.iter().all(|s| s.unacked() == 0)).await;
    let batches = every_acked_batch_arrives(&sensors, &consumer).await;
    assert!(batches > 100);
    drop(sensors);
    assert_eq!(hub.complaints(), Vec::<String>::new());
    hub.signal("TERM");
    assert!(hub.stop_was_clean().await);
}

#[tokio::test]
async fn json_lines_are_objects_with_time_level_and_fields() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Mosquitto::start(dir.path());
    let text = with_log(&config(dir.path(), broker.port, ""), "format = \"json\"");
    let file = dir.path().join("telehub.toml");
    std::fs::write(&file, &text).unwrap();
    let output = dir.path().join("log");
    let stderr = std::fs::File::create(&output).unwrap();
    // systemd would say so; JSON stays JSON.
    let mut command = Command::new(program());
    command.env("JOURNAL_STREAM", "1:1");
    command
        .args(["run", "--config"])
        .arg(&file)
        .stdout(Stdio::null())
        .stderr(stderr);
    let mut hub = Ends(command.spawn().unwrap());
    let lines = || -> Vec<Value> {
        let text = std::fs::read_to_string(&output).unwrap();
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let parse = |line: &str| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"));
        whole.lines().map(parse).collect()
    };
    let find = |message: &str| lines().into_iter().find(|line| line["message"] == message);
    until("listening", || find("listening").is_some()).await;
    let address: SocketAddr = find("listening").unwrap()["address"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap();
    let mut device = Device::connect(address, "d").await;
    device.hello("s").await;
    drop(device);
    until("the end", || find("device disconnected").is_some()).await;
    let kill = Command::new("kill").arg(hub.0.id().to_string()).status();
    assert!(kill.unwrap().success());
    assert!(hub.0.wait().unwrap().success());
    let line = find("device disconnected").unwrap();
    assert_eq!(line["device"], "d");
    assert_eq!(line["level"], "INFO");
    assert!(line["reason"].is_string() && line["timestamp"].is_string());
    assert!(find("stopped").is_some(), "{:#?}", lines());
}

#[tokio::test]
async fn sighup_changes_the_level_names_what_needs_a_restart_and_survives_a_broken_file() {
    let dir = tempfile::tempdir().unwrap();
    let text = config(dir.path(), free_port(), "");
    let hub = Hub::start(dir.path(), &text).await;
    let file = dir.path().join("telehub.toml");
    let said = |what: &str| hub.log().iter().filter(|line| line.contains(what)).count();
    let reload = async |text: &str, what: &str| {
        std::fs::write(&file, text).unwrap();
        let before = said(what);
        hub.signal("HUP");
        until(what, || said(what) > before).await;
    };
    let read = "configuration read again";
    assert_eq!(said("DEBUG"), 0);
    reload(&with_log(&text, "level = \"debug\""), read).await;
    // The uplink tries and fails, which is said at this level.
    until("debug lines", || said("DEBUG") > 0).await;
    let broken = text.replace("max_rate = 100000", "max_rate = \"lots\"");
    reload(&broken, "what was read before stays in force").await;
    let complaints = hub.complaints();
    let named = |line: &&String| line.contains("ERROR") && line.contains("devices.max_rate");
    assert_eq!(
        complaints.iter().filter(named).count(),
        1,
        "{complaints:#?}"
    );
    let before = said("DEBUG");
    until("debug lines go on", || said("DEBUG") > before).await;
    let other = text.replace("max_rate = 100000", "max_rate = 5\nwindow = 3");
    let restart = "changes that need a restart";
    reload(&with_log(&other, "level = \"error\""), restart).await;
    // By now only errors are printed, so that this one was said before the level changed or
    // passed for the one that says it.
    let log = hub.log();
    let line = log.iter().find(|line| line.contains(restart)).unwrap();
    assert!(line.contains("devices.max_rate, devices.window"), "{line}");
    assert_eq!(hub.get("/readyz").0, 200);
    hub.stop().await;
}

#[tokio::test]
async fn a_loud_device_does_not_fill_the_log_and_the_rest_is_counted() {
    const TIMES: usize = 25;
    let dir = tempfile::tempdir().unwrap();
    let mut hub = Hub::start(dir.path(), &config(dir.path(), free_port(), "")).await;
    for _ in 0..TIMES {
        drop(Device::connect(hub.address, "loud").await);
    }
    let mut calm = Device::connect(hub.address, "calm").await;
    calm.hello("s").await;
    // One that has gone may not have been counted as come yet.
    let all = format!("\ntelehub_device_connects_total {}\n", TIMES + 1);
    until("all come and gone", || {
        let metrics = hub.get("/metrics").1;
        metrics.contains(&all) && metrics.contains("\ntelehub_devices_connected 1\n")
    })
    .await;
    hub.signal("TERM");
    assert!(hub.ended().await.success());
    let lines = |what: &str, device: &str| {
        let log = hub.log();
        let of = |line: &&String| line.contains(what) && line.contains(device);
        log.iter().filter(of).cloned().collect::<Vec<_>>()
    };
    assert_eq!(lines(" device connected", "device=loud").len(), 20);
    assert_eq!(lines(" device connected", "device=calm").len(), 1);
    let counted = lines("… and 5 more: device connected", "loud");
    assert_eq!(counted.len(), 1, "{:#?}", hub.log());
}

/// What must not be in any log.
const SECRETS: [&str; 4] = [
    "tokenSECRET",
    "passwordSECRET",
    "payloadSECRET",
    "frameSECRET",
];

fn no_secret(hub: &Hub) {
    let log = hub.log();
    assert!(
        log.iter()
            .any(|line| line.contains("TRACE") || line.contains("DEBUG"))
    );
    for secret in SECRETS {
        let told: Vec<_> = log.iter().filter(|line| line.contains(secret)).collect();
        assert!(told.is_empty(), "{told:#?}");
    }
}

/// A registry in which the device `d` has a token, and that token.
fn registry(dir: &Path) -> (String, String) {
    let path = dir.join("devices.toml");
    let output = Command::new(program())
        .args(["device", "add", "d", "--registry"])
        .arg(&path)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let token = text.split_whitespace().max_by_key(|word| word.len());
    (path.display().to_string(), token.unwrap().to_owned())
}

fn upgrade(hub: SocketAddr, device: &str, header: &str) -> (TcpStream, String) {
    let mut tcp = TcpStream::connect(hub).unwrap();
    tcp.set_read_timeout(Some(PATIENCE)).unwrap();
    let request = format!(
        "GET /v1/devices/{device} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\n\
         Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{header}\r\n\r\n"
    );
    tcp.write_all(request.as_bytes()).unwrap();
    let mut answer = Vec::new();
    let mut byte = [0];
    while !answer.ends_with(b"\r\n\r\n") && tcp.read(&mut byte).is_ok_and(|n| n == 1) {
        answer.push(byte[0]);
    }
    (tcp, String::from_utf8_lossy(&answer).into_owned())
}

/// A masked frame (RFC 6455, 5.2) with a mask of zeros, of less than 126 bytes.
fn frame(opcode: u8, content: &[u8]) -> Vec<u8> {
    let length = u8::try_from(content.len()).unwrap();
    assert!(length < 126);
    [&[0x80 | opcode, 0x80 | length, 0, 0, 0, 0], content].concat()
}

#[tokio::test]
async fn no_secret_and_no_payload_is_in_the_log_at_any_level_in_good_runs_and_in_bad_ones() {
    let dir = tempfile::tempdir().unwrap();
    let mut broker = Mosquitto::start(dir.path());
    let password = dir.path().join("password");
    std::fs::write(&password, "passwordSECRET\n").unwrap();
    let (registry, token) = registry(dir.path());
    let login = format!(
        "username = \"barn\"\npassword_file = \"{}\"\n",
        password.display()
    );
    let text = config(dir.path(), broker.port, &login).replace(
        "auth = \"open\"",
        &format!("auth = \"token\"\nregistry = \"{registry}\""),
    );
    let text = with_log(&text, "level = \"trace\"");
    let hub = Hub::start(dir.path(), &text).await;
    hub.until_uplink("connected").await;

    // A good run, and one through the disk.
    let bearer = format!("Authorization: Bearer {token}");
    let (mut tcp, answer) = upgrade(hub.address, "d", &bearer);
    assert!(answer.contains(" 101 "), "{answer}");
    let batch = |seq: u64| {
        let pack = json!([{"n": "d", "vs": "payloadSECRET"}]);
        frame(
            1,
            json!({"data": {"seq": seq, "pack": pack}})
                .to_string()
                .as_bytes(),
        )
    };
    tcp.write_all(&batch(1)).unwrap();
    until("the ack from the broker", || {
        hub.status("/uplink/acknowledged").as_u64() >= Some(3)
    })
    .await;
    broker.stop();
    hub.until_uplink("down").await;
    tcp.write_all(&batch(2)).unwrap();
    until("the batch on disk", || hub.status("/spool/batches") == 1).await;
    broker.start_again();
    hub.until_drained().await;

    // Malformed frames of every sort.
    for content in [
        &br#"{"result": {"id": "frameSECRET", "ok": true}}"#[..],
        b"frameSECRET",
        br#"{"frameSECRET": 1}"#,
        br#"{"data": {"seq": 3, "pack": [{"n": "frameSECRET frameSECRET", "v": 1}]}}"#,
        br#"{"data": {"seq": 3, "pack": [{"n": "a", "frameSECRET_": 1}]}}"#,
        br#"{"hello": {"stream": 5, "x": "frameSECRET"}}"#,
    ] {
        for opcode in [1, 2] {
            tcp.write_all(&frame(opcode, content)).unwrap();
        }
    }
    tcp.write_all(b"frameSECRET").unwrap();
    until("the end of the bad device", || {
        hub.status("/devices/connected") == 0
    })
    .await;
    // Wrong tokens, in every place where one may stand, and requests of another kind.
    for header in [
        "Authorization: Bearer tokenSECRET",
        "Authorization: Basic tokenSECRET",
        "Sec-WebSocket-Protocol: telehub.v1, telehub.bearer.tokenSECRET",
        "Cookie: tokenSECRET",
    ] {
        let (_, answer) = upgrade(hub.address, "d", header);
        assert!(!answer.contains(" 101 "), "{answer}");
    }
    let (_, answer) = upgrade(hub.address, "tokenSECRET%20x", "X: y");
    assert!(answer.contains(" 4"), "{answer}");
    no_secret(&hub);
    assert!(
        !hub.log().iter().any(|line| line.contains(&token)),
        "the token is in the log"
    );
    assert!(hub.stop().await.success());
}

#[tokio::test]
async fn a_password_that_the_broker_refuses_is_not_in_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let password = dir.path().join("password");
    std::fs::write(&password, "passwordSECRET\n").unwrap();
    let port = free_port();
    // mosquitto with a password file that knows nobody.
    let known = dir.path().join("known");
    std::fs::write(&known, "").unwrap();
    let conf = dir.path().join("strict.conf");
    let text = format!(
        "listener {port} 127.0.0.1\nallow_anonymous false\npassword_file {}\nuser root\n",
        known.display()
    );
    std::fs::write(&conf, text).unwrap();
    let mut command = Command::new(daemon::mosquitto());
    command
        .arg("-c")
        .arg(&conf)
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let _broker = Ends(command.spawn().unwrap());
    until("mosquitto", || {
        TcpStream::connect(("127.0.0.1", port)).is_ok()
    })
    .await;
    let login = format!(
        "username = \"barn\"\npassword_file = \"{}\"\n",
        password.display()
    );
    let text = with_log(&config(dir.path(), port, &login), "level = \"trace\"");
    let hub = Hub::start(dir.path(), &text).await;
    until("the refusal, and the wait after it", || {
        let log = hub.log();
        let has = |what: &str| log.iter().any(|line| line.contains(what));
        has("uplink cannot connect") && has("DEBUG")
    })
    .await;
    no_secret(&hub);
    assert!(hub.stop().await.success());
}
