//! All rogues at once against one hub, together with a hundred honest devices: what the honest
//! ones get must not change. Prints what was measured: `cargo test --test rogues -- --nocapture`.
//! How long their acks take beside the rogues is compared on a machine that has nothing else to
//! do: `cargo test --test rogues -- --ignored --nocapture`.
#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs)]

#[path = "../../tests/support/daemon.rs"]
mod daemon;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use daemon::{Consumer, Hub, Mosquitto, Received, program, until};
use serde_json::Value;

const KINDS: [&str; 10] = [
    "silent",
    "half-open",
    "flood",
    "garbage",
    "slow-loris",
    "flapping",
    "liar",
    "bomb",
    "thief",
    "hoarder",
];

/// Rogues of each kind.
const EACH: usize = 4;

const HONEST: usize = 100;

/// Below this the 99th percentile is a matter of the machine's scheduler, not of the hub: the
/// rogues, the honest devices, the broker and the hub share its cores, and it may have two.
const FLOOR_SECONDS: f64 = 0.05;

/// A measurement that something else on the machine fell into says nothing of the hub; it is
/// made anew, with and without rogues, and how busy the machine can be without them counts too.
const ATTEMPTS: u32 = 3;

/// What a connection may cost the hub at most: a message of `max_message` (64 KiB) in pieces and
/// once more whole, the records or the value that it decodes to (1 MiB), output that is not read
/// (256 KiB), and its tasks and buffers.
const PER_ROGUE: u64 = 2 * 64 + 1024 + 256 + 32;

/// KiB of batches that may wait in the live lane, held or not (24 MiB), whoever sent them.
const LANES: u64 = 24 * 1024;

/// Complaints in the log that say the same of the same peer.
const SAME: usize = 3;

/// Complaints in all: two for each address that rogues come from, and a few of the hub itself.
const COMPLAINTS: usize = 2 * KINDS.len() + 5;

/// States on the broker that one flapping device may cost: it flaps for 14 s, and is told of once
/// a second, give or take.
const STATES: usize = 20;

fn config(dir: &Path, broker: u16) -> String {
    let dir = dir.display();
    format!(
        r#"
[hub]
id = "barn"
[devices]
listen = "127.0.0.1:0"
auth = "token"
registry = "{dir}/devices.toml"
ping_interval = "4s"
ping_timeout = "5s"
handshake_timeout = "3s"
[spool]
path = "{dir}/spool"
min_free = "1MiB"
[admin]
listen = "127.0.0.1:0"
[uplink]
url = "mqtt://127.0.0.1:{broker}"
"#
    )
}

/// A file with the tokens of all devices that have one.
fn register(dir: &Path) -> PathBuf {
    let honest = (0..HONEST).map(|index| format!("swarm-{index}"));
    let rogues = KINDS
        .iter()
        .flat_map(|kind| (0..EACH).map(move |index| format!("{kind}-{index}")));
    let mut tokens = String::new();
    for id in honest.chain(rogues) {
        let added = Command::new(program())
            .args(["device", "add", &id, "--registry"])
            .arg(dir.join("devices.toml"))
            .output()
            .unwrap();
        assert!(added.status.success(), "{added:?}");
        let token = String::from_utf8(added.stdout).unwrap();
        writeln!(tokens, "{id} {}", token.trim()).unwrap();
    }
    let file = dir.join("tokens");
    std::fs::write(&file, tokens).unwrap();
    file
}

fn devices(hub: &Hub, tokens: &Path, arguments: &[&str]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_devices"))
        .args(arguments)
        .args(["--hub", &format!("ws://{}", hub.address), "--report-json"])
        .arg("--tokens")
        .arg(tokens)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

async fn report(child: Child) -> Value {
    let output = tokio::task::spawn_blocking(|| child.wait_with_output().unwrap());
    let output = output.await.unwrap();
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error} in {:?}", String::from_utf8_lossy(&output.stdout)))
}

async fn swarm(hub: &Hub, tokens: &Path) -> Value {
    let honest = HONEST.to_string();
    let arguments = [
        "swarm",
        "--devices",
        &honest,
        "--rate",
        "5",
        "--batch",
        "3",
        "--duration",
        "8s",
        "--quiet",
    ];
    let report = report(devices(hub, tokens, &arguments)).await;
    assert_eq!(report["ok"], true, "{report}");
    assert_eq!(report["never_acked"], 0, "{report}");
    assert_eq!(report["lost_connections"], 0, "{report}");
    assert_eq!(report["sent"], report["acked"], "{report}");
    report
}

/// The most memory that the hub has had, in KiB.
fn peak(hub: &Hub) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", hub.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.unwrap()
        .trim()
        .trim_end_matches(" kB")
        .parse()
        .unwrap()
}

fn start_rogues(hub: &Hub, tokens: &Path) -> Vec<Child> {
    let each = EACH.to_string();
    let start = |(index, kind): (usize, &&str)| {
        // From an address of their own, as on a real network.
        let from = format!("127.0.0.{}", index + 2);
        let seed = index.to_string();
        let arguments = [
            "rogue",
            kind,
            "--count",
            &each,
            "--duration",
            "14s",
            "--from",
            &from,
            "--seed",
            &seed,
        ];
        devices(hub, tokens, &arguments)
    };
    KINDS.iter().enumerate().map(start).collect()
}

fn total(report: &Value, what: &str) -> u64 {
    let counts = report[what].as_object().unwrap();
    counts.values().map(|count| count.as_u64().unwrap()).sum()
}

/// How often a key that begins so was counted.
fn counted(report: &Value, what: &str, start: &str) -> u64 {
    let counts = report[what].as_object().unwrap();
    let fits = counts.iter().filter(|(key, _)| key.starts_with(start));
    fits.map(|(_, count)| count.as_u64().unwrap()).sum()
}

/// What the log complains of, and how often: lines without their time and without what a peer can
/// vary at will, the ports that it comes from.
fn complaints(hub: &Hub) -> BTreeMap<String, usize> {
    let mut complaints = BTreeMap::new();
    for line in hub.complaints() {
        let what = line.split_once('Z').map_or(&*line, |(_, rest)| rest);
        let without_port = |word: &str| match word.rsplit_once(':') {
            Some((address, port)) if port.trim_end_matches('"').parse::<u16>().is_ok() => {
                address.to_owned()
            }
            _ => word.to_owned(),
        };
        let words: Vec<_> = what.split_whitespace().map(without_port).collect();
        *complaints.entry(words.join(" ")).or_default() += 1;
    }
    complaints
}

fn check_rogue(report: &Value) {
    let kind = report["kind"].as_str().unwrap();
    assert_eq!(total(report, "violations"), 0, "{report}");
    let told_off = match kind {
        "silent" | "half-open" => counted(report, "closes", "4000"),
        // Slowed down, which shows in what was acked: a burst, then `max_rate`.
        "flood" => report["acks"].as_u64().unwrap(),
        "garbage" => counted(report, "closes", "1002").min(counted(report, "closes", "1007")),
        "slow-loris" => report["cut"].as_u64().unwrap(),
        "flapping" => counted(report, "answers", "101"),
        "liar" => counted(report, "rejects", "bad-seq"),
        "bomb" => counted(report, "rejects", "malformed") + counted(report, "rejects", "too-large"),
        "thief" => {
            assert_eq!(counted(report, "answers", "101"), 0, "{report}");
            counted(report, "answers", "401") + counted(report, "answers", "429")
        }
        // Cut off in the middle of what it did not read.
        "hoarder" => report["cut"].as_u64().unwrap() + counted(report, "closes", "4"),
        other => panic!("{other} is no rogue"),
    };
    assert!(told_off > 0, "the hub did nothing about it: {report}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rogues_of_every_kind_at_once_cost_a_hundred_honest_devices_nothing() {
    rogues_beside_honest_devices(false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "compares latencies: wants a machine that has nothing else to do"]
async fn rogues_of_every_kind_at_once_delay_no_honest_ack() {
    rogues_beside_honest_devices(true).await;
}

/// `compare`: whether the latency of the honest devices' acks is held to what it is without rogues.
async fn rogues_beside_honest_devices(compare: bool) {
    let dir = tempfile::tempdir().unwrap();
    let broker = Mosquitto::start(dir.path());
    let consumer = Consumer::start(broker.port).await;
    let tokens = register(dir.path());
    let hub = Hub::start(dir.path(), &config(dir.path(), broker.port)).await;
    hub.until_uplink("connected").await;

    let mut acked = 0;
    let mut attempts = 0;
    let mut before = None;
    let (mut worst_alone, mut best_among) = (FLOOR_SECONDS / 2.0, f64::INFINITY);
    loop {
        attempts += 1;
        let alone = swarm(&hub, &tokens).await;
        let before = *before.get_or_insert_with(|| peak(&hub));
        let rogues = start_rogues(&hub, &tokens);
        let among_rogues = swarm(&hub, &tokens).await;
        for rogue in rogues {
            let report = report(rogue).await;
            println!("{report}");
            check_rogue(&report);
        }
        acked += alone["acked"].as_u64().unwrap() + among_rogues["acked"].as_u64().unwrap();

        let p99 = |report: &Value| report["latency"]["p99"].as_f64().unwrap();
        println!(
            "ack latency p99: {:.1} ms alone, {:.1} ms among rogues; memory at most {before} KiB \
             alone, {} KiB among rogues",
            p99(&alone) * 1000.0,
            p99(&among_rogues) * 1000.0,
            peak(&hub)
        );
        worst_alone = p99(&alone).max(worst_alone);
        best_among = p99(&among_rogues).min(best_among);
        if !compare || best_among <= 2.0 * worst_alone {
            break;
        }
        assert!(
            attempts < ATTEMPTS,
            "alone {alone}, among rogues {among_rogues}"
        );
    }
    let (before, after) = (before.unwrap(), peak(&hub));
    let bound = before + PER_ROGUE * (KINDS.len() * EACH) as u64 + LANES;
    assert!(after <= bound, "{after} KiB, {before} KiB alone");

    let honest = || {
        let mut batches = consumer.batches();
        batches.retain(|(device, _, _), _| device.starts_with("swarm-"));
        batches
    };
    until("every honest batch on the broker", || {
        honest().len() as u64 >= acked
    })
    .await;
    let batches = honest();
    assert_eq!(batches.len() as u64, acked);
    assert!(batches.values().all(|times| *times == 1));

    let of_flapping = |message: &Received| message.topic.contains("/flapping-");
    let states = consumer.got().into_iter().filter(of_flapping).count();
    println!(
        "{} lines of log; {states} states of flapping devices",
        hub.log().len()
    );
    assert!(
        states <= attempts as usize * EACH * STATES,
        "{states} states"
    );
    let complaints = complaints(&hub);
    println!("{complaints:#?}");
    assert!(complaints.values().all(|times| *times <= SAME));
    assert!(complaints.len() <= COMPLAINTS);
    assert_eq!(hub.get("/healthz").0, 200);
    assert!(hub.stop().await.success());
}
