//! Ten thousand commands for a hundred devices whose connections break, are taken over and lose their
//! power, over a link that flaps, with a hub that is killed once: whoever asked hears the end once, or
//! the link or the hub was down then, and nothing is carried out twice that may not be. Takes three and a
//! half minutes:
//!
//! ```sh
//! cargo test --test commands_soak -- --ignored --nocapture
//! ```
//!
//! With `TELEHUB_BIN=…` it is that binary which is tried, and `COMMANDS=…` is another number of them.
//! What was counted is printed; what may not be fails the test.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    missing_docs,
    unreachable_pub
)]

#[path = "soak/actuator.rs"]
mod actuator;
#[path = "support/daemon.rs"]
mod daemon;
#[path = "support/dice.rs"]
mod dice;
#[path = "support/registry.rs"]
mod registry;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use actuator::{Actuator, Deeds};
use daemon::{Consumer, Hub, Mosquitto, config, free_port};
use dice::Dice;
use rumqttc::{AsyncClient, MqttOptions, QoS};
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

const COMMANDS: usize = 10_000;
const DEVICES: usize = 100;

/// Commands a second in all: below the one a second that each device is allowed.
const RATE: u64 = 80;

const FINAL: [&str; 6] = ["done", "failed", "refused", "expired", "timeout", "unknown"];

/// What was on its way when the link broke, or comes before the hub listens again.
const MARGIN: Duration = Duration::from_secs(1);

/// A command is over after so long: it waits for its device for 5 s, and is answered within 2 s, or
/// waits for some others that are.
const LONGEST: Duration = Duration::from_secs(15);

/// A link that can be cut, on a port of its own.
async fn link(broker: u16, up: watch::Receiver<bool>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut hub, _)) = listener.accept().await {
            let mut up = up.clone();
            tokio::spawn(async move {
                let Ok(mut there) = TcpStream::connect(("127.0.0.1", broker)).await else {
                    return;
                };
                tokio::select! {
                    _ = tokio::io::copy_bidirectional(&mut hub, &mut there) => {}
                    _ = up.wait_for(|up| !*up) => {}
                }
            });
        }
    });
    port
}

/// One command, as its sender knows it.
struct Asked {
    name: &'static str,
    at: Instant,
}

/// When nobody heard commands: from then, until then; and whether the hub was killed.
struct Down {
    from: Instant,
    until: Instant,
    killed: bool,
}

#[derive(Default)]
struct Answers {
    accepted: bool,
    /// Final ones that differ, and how often one came that was there already.
    finals: BTreeSet<String>,
    lates: BTreeSet<String>,
    repeats: usize,
    states: Vec<String>,
}

/// What was said of each command, by its id.
fn answers(consumer: &Consumer) -> HashMap<String, Answers> {
    let mut all: HashMap<String, Answers> = HashMap::new();
    for got in consumer.got() {
        if !got.topic.contains("/result/") {
            continue;
        }
        let said = got.json();
        let of = all
            .entry(said["id"].as_str().unwrap().to_owned())
            .or_default();
        let state = said["state"].as_str().unwrap();
        if !FINAL.contains(&state) {
            of.accepted |= state == "accepted";
            continue;
        }
        let text = said.to_string();
        let new = match said["late"] == true {
            true => of.lates.insert(text),
            false => of.finals.insert(text),
        };
        if new {
            of.states.push(state.to_owned());
        } else {
            of.repeats += 1;
        }
    }
    all
}

#[derive(Default)]
struct Verdict {
    counts: BTreeMap<String, usize>,
    faults: Vec<String>,
}

/// Holds what was said against what may be.
fn judge(
    asked: &BTreeMap<String, Asked>,
    answers: &HashMap<String, Answers>,
    downs: &[Down],
    deeds: &Deeds,
) -> Verdict {
    let mut verdict = Verdict::default();
    let none = Answers::default();
    for (id, command) in asked {
        let answers = answers.get(id).unwrap_or(&none);
        let mut count = |what: &str, times: usize| {
            *verdict.counts.entry(what.to_owned()).or_default() += times;
        };
        // Its way, or its end, lay in a time when the link was down or the hub was killed.
        let was_down = downs
            .iter()
            .any(|down| command.at + MARGIN >= down.from && command.at <= down.until + MARGIN);
        let was_killed = downs.iter().any(|down| {
            down.killed && command.at + LONGEST >= down.from && command.at <= down.until + MARGIN
        });
        for state in &answers.states {
            count(&format!("said: {state}"), 1);
        }
        count("said late", answers.lates.len());
        count(
            "the same once more after a reconnect or the kill",
            answers.repeats,
        );
        let ok = match answers.finals.len() {
            1 => true,
            0 if was_killed => {
                count("without an end: the hub was killed", 1);
                true
            }
            0 if was_down && !answers.accepted => {
                count("without an end: the link was down", 1);
                true
            }
            0 => false,
            _ => was_killed,
        };
        let late_ok = answers.lates.len() <= 1;
        let repeats_ok = answers.repeats == 0 || !downs.is_empty();
        let ran = deeds.ran.get(id).copied().unwrap_or(0);
        let ran_ok = ran <= 1 || command.name == "set";
        if ran > 1 {
            count("carried out more than once", 1);
        }
        if !(ok && late_ok && repeats_ok && ran_ok) {
            verdict.faults.push(format!(
                "{id} ({}): carried out {ran} times, {:?} {:?}",
                command.name, answers.finals, answers.lates
            ));
        }
    }
    verdict
}

struct Soak {
    dir: tempfile::TempDir,
    text: String,
    hub: Hub,
    up: watch::Sender<bool>,
    downs: Vec<Down>,
}

impl Soak {
    fn listens(&self) -> bool {
        let (_, text) = self.hub.get("/metrics");
        text.lines()
            .any(|line| line == "telehub_commands_listening 1")
    }

    async fn until_it_listens(&self) {
        let deadline = Instant::now() + daemon::PATIENCE;
        while !tokio::task::block_in_place(|| self.listens()) {
            assert!(
                Instant::now() < deadline,
                "the hub does not subscribe again"
            );
            sleep(Duration::from_millis(50)).await;
        }
    }

    async fn flap(&mut self, dice: &mut Dice) {
        let from = Instant::now();
        self.up.send_replace(false);
        sleep(Duration::from_millis(100 + dice.below(1_500))).await;
        self.up.send_replace(true);
        self.until_it_listens().await;
        self.down(from, false);
    }

    async fn kill(&mut self) {
        let from = Instant::now();
        self.hub.signal("KILL");
        self.hub.ended().await;
        self.hub = Hub::start(self.dir.path(), &self.text).await;
        self.until_it_listens().await;
        self.down(from, true);
    }

    fn down(&mut self, from: Instant, killed: bool) {
        let until = Instant::now();
        self.downs.push(Down {
            from,
            until,
            killed,
        });
    }
}

async fn ask_all(
    port: u16,
    commands: usize,
    asked: Arc<Mutex<BTreeMap<String, Asked>>>,
) -> AsyncClient {
    let mut options = MqttOptions::new("asker", "127.0.0.1", port);
    options.set_inflight(1_000);
    let (client, mut events) = AsyncClient::new(options, 1_000);
    tokio::spawn(async move { while events.poll().await.is_ok() {} });
    let mut dice = Dice::of(4_711);
    let mut tick = tokio::time::interval(Duration::from_micros(1_000_000 / RATE));
    for n in 0..commands {
        tick.tick().await;
        let name = match dice.below(100) {
            0 => "mute",
            1 | 2 => "slow",
            3..23 => "set",
            _ => "toggle",
        };
        let id = format!("c{n:05}");
        let payload = json!({"id": id, "timeout": 2, "wait": 5, "idempotent": name == "set"});
        let topic = format!("telehub/barn/lamp-{}/command/{name}", n % DEVICES);
        let at = Instant::now();
        asked.lock().unwrap().insert(id, Asked { name, at });
        client
            .publish(topic, QoS::AtLeastOnce, false, payload.to_string())
            .await
            .unwrap();
    }
    client
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes"]
async fn ten_thousand_commands_have_one_end_each_and_none_is_carried_out_twice() {
    let commands = std::env::var("COMMANDS").map_or(COMMANDS, |text| text.parse().unwrap());
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("devices.toml");
    let ids: Vec<String> = (0..DEVICES).map(|n| format!("lamp-{n}")).collect();
    let entries: Vec<_> = ids
        .iter()
        .map(|id| (id.as_str(), "commands = [\"*\"]"))
        .collect();
    std::fs::write(&file, registry::registry(&entries)).unwrap();
    let broker = Mosquitto::start(dir.path());
    let consumer = Consumer::start(broker.port).await;
    let (up, is_up) = watch::channel(true);
    let way = link(broker.port, is_up).await;
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let auth = format!("auth = \"token\"\nregistry = {file:?}");
    let text = config(dir.path(), way, "[commands]\nenabled = true\n")
        .replace("auth = \"open\"", &auth)
        .replace("127.0.0.1:0\"\nauth", &format!("{address}\"\nauth"));
    let hub = Hub::start(dir.path(), &text).await;
    let mut soak = Soak {
        dir,
        text,
        hub,
        up,
        downs: Vec::new(),
    };
    soak.until_it_listens().await;
    let deeds = Arc::new(Mutex::new(Deeds::default()));
    let (over, is_over) = watch::channel(false);
    let mut devices = tokio::task::JoinSet::new();
    for n in 0..DEVICES {
        devices.spawn(Actuator::new(n, address, deeds.clone(), is_over.clone()).live());
    }
    let asked = Arc::new(Mutex::new(BTreeMap::new()));
    let start = Instant::now();
    let mut asker = tokio::spawn(ask_all(broker.port, commands, asked.clone()));
    let mut dice = Dice::of(1);
    let mut killed = false;
    let client = loop {
        let calm = Duration::from_millis(6_000 + dice.below(6_000));
        tokio::select! {
            client = &mut asker => break client.unwrap(),
            () = sleep(calm) => {}
        }
        let half = asked.lock().unwrap().len() > commands / 2;
        if half && !killed {
            killed = true;
            soak.kill().await;
        } else {
            soak.flap(&mut dice).await;
        }
    };
    let took = start.elapsed();
    over.send_replace(true);
    while devices.join_next().await.is_some() {}
    // The last answers are on their way.
    let deadline = Instant::now() + 2 * LONGEST;
    let verdict = loop {
        let verdict = {
            let (asked, deeds) = (asked.lock().unwrap(), deeds.lock().unwrap());
            judge(&asked, &answers(&consumer), &soak.downs, &deeds)
        };
        if verdict.faults.is_empty() || Instant::now() > deadline {
            break verdict;
        }
        sleep(Duration::from_millis(500)).await;
    };
    drop(client);
    report(&verdict, &soak, &deeds.lock().unwrap(), commands, took);
    assert!(
        verdict.faults.is_empty(),
        "{} faults, the first: {:#?}",
        verdict.faults.len(),
        &verdict.faults[..verdict.faults.len().min(10)]
    );
    let deeds = deeds.lock().unwrap();
    assert_eq!((deeds.unmarked, deeds.rejected), (0, 0));
}

fn report(verdict: &Verdict, soak: &Soak, deeds: &Deeds, commands: usize, took: Duration) {
    let seconds = took.as_secs();
    println!("{commands} commands for {DEVICES} devices in {seconds} s");
    for (what, count) in &verdict.counts {
        println!("  {what}: {count}");
    }
    let kills = soak.downs.iter().filter(|down| down.killed).count();
    let flaps = soak.downs.len() - kills;
    let down: Duration = soak.downs.iter().map(|down| down.until - down.from).sum();
    println!(
        "  link cut {flaps} times, hub killed {kills} times, {} s without commands",
        down.as_secs()
    );
    println!(
        "  devices: {} connects, {} takeovers, {} power cuts, {} commands sent again",
        deeds.connects, deeds.takeovers, deeds.power_cuts, deeds.again
    );
    let ran: usize = deeds.ran.len();
    println!("  carried out: {ran}; faults: {}", verdict.faults.len());
}
