//! A whole arm64 machine, emulated, whose power is cut: `tests/vm.sh` makes its disk and runs this.
//! qemu is killed while devices send and the broker comes and goes; then what was acked is looked
//! for in the spool, on a copy of the disk, and at the broker. The last life drains everything.
//!
//! The disk is a qcow2 file over the image. qemu keeps in its own memory where the blocks are that
//! it has newly allocated, until the guest flushes. So what the guest wrote and did not flush is
//! mostly gone when qemu is killed, as with a disk that has a cache.
#![allow(clippy::unwrap_used, missing_docs, clippy::print_stdout)]

#[path = "support/daemon.rs"]
mod daemon;
#[path = "support/dice.rs"]
mod dice;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use daemon::{Consumer, Mosquitto, Sensor, free_port};
use dice::Dice;
use serde_json::Value;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

/// A boot takes about a minute under emulation, on a busy machine a multiple of that.
const BOOT: Duration = Duration::from_secs(600);

const DEVICES: usize = 4;

/// What systemd in the machine says of the unit in every life. With `Type=notify` it is not active
/// before the hub has said READY.
const UNIT: &[(&str, &str)] = &[
    ("Type", "notify"),
    ("ActiveState", "active"),
    ("SubState", "running"),
    ("Result", "success"),
    ("NRestarts", "0"),
    // The package's, as it is.
    ("FragmentPath", "/lib/systemd/system/telehub.service"),
    ("DropInPaths", ""),
    ("UnitFileState", "enabled"),
    ("Program", "/usr/bin/telehub"),
    ("User", "telehub"),
    // Of the process, of the state directory and of the spool in it.
    ("Owners", "telehub telehub telehub"),
    // A file there is open in the process.
    ("Spool", "/var/lib/telehub/spool"),
];

fn run(program: &str, args: &[&str]) {
    let output = Command::new(program).args(args).output().unwrap();
    assert!(
        output.status.success(),
        "{program} {args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Waits for a condition, longer than on a real machine.
async fn within(limit: Duration, what: &str, mut condition: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < limit, "waited in vain for: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Ends with the test.
struct Machine(Child);

impl Machine {
    fn cut_power(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct Rig {
    dir: PathBuf,
    barrier: String,
    hub: SocketAddr,
    admin: u16,
    unit: u16,
}

impl Rig {
    fn path(&self, name: &str) -> String {
        self.dir.join(name).to_str().unwrap().to_owned()
    }

    /// Begins to boot, with an empty layer over the disk as it is.
    fn boot(&self, broker: u16) -> Machine {
        let (base, layer) = (self.path("base.raw"), self.path("layer.qcow2"));
        run(
            "qemu-img",
            &[
                "create", "-q", "-f", "qcow2", "-F", "raw", "-b", &base, &layer,
            ],
        );
        let hub = self.hub.port();
        let (admin, unit) = (self.admin, self.unit);
        let console = File::options()
            .create(true)
            .append(true)
            .open(self.path("console"))
            .unwrap();
        let child = Command::new("setpriv")
            // Not even a test that is killed leaves it behind.
            .args(["--pdeathsig", "KILL", "qemu-system-aarch64"])
            .args([
                "-M",
                "virt",
                "-cpu",
                "cortex-a53",
                "-m",
                "512",
                "-nographic",
            ])
            .args([
                "-kernel",
                &self.path("vmlinuz"),
                "-initrd",
                &self.path("initrd.gz"),
            ])
            .arg("-append")
            .arg(format!(
                "console=ttyAMA0 quiet broker={broker} barrier={}",
                self.barrier
            ))
            .arg("-drive")
            // The host does not lose its power, so its own cache is as good as its disk.
            .arg(format!(
                "file={layer},format=qcow2,if=none,id=disk,cache=unsafe"
            ))
            .args(["-device", "virtio-blk-pci,drive=disk"])
            .arg("-netdev")
            .arg(format!(
                "user,id=net,hostfwd=tcp:127.0.0.1:{hub}-:8787,\
                 hostfwd=tcp:127.0.0.1:{admin}-:8788,hostfwd=tcp:127.0.0.1:{unit}-:8789"
            ))
            .args(["-device", "virtio-net-pci,netdev=net,romfile="])
            .stdin(Stdio::null())
            .stdout(console.try_clone().unwrap())
            .stderr(console)
            .spawn()
            .unwrap();
        Machine(child)
    }

    /// What the hub in the machine says of itself; `None` while it does not answer.
    fn status(&self) -> Option<Value> {
        let output = daemon::command()
            .args(["status", "--json", "--admin"])
            .arg(format!("http://127.0.0.1:{}", self.admin))
            .args(["--token-file", &self.path("admin-token")])
            .output()
            .unwrap();
        let answer: Value = serde_json::from_slice(&output.stdout).ok()?;
        Some(answer["status"].clone())
    }

    /// Asks systemd in the machine after the unit, and holds the answer against [`UNIT`]. The status
    /// line that the hub has given, and its warnings and errors since the boot.
    async fn unit_is_well(&self) -> (String, Vec<String>) {
        let ask = async {
            let mut answer = String::new();
            let mut stream = TcpStream::connect(("127.0.0.1", self.unit)).await.unwrap();
            stream.read_to_string(&mut answer).await.unwrap();
            answer
        };
        let answer = tokio::time::timeout(BOOT, ask).await.expect("an answer");
        let lines = || answer.lines().filter_map(|line| line.split_once('='));
        let unit: BTreeMap<&str, &str> = lines().collect();
        for (key, value) in UNIT {
            assert_eq!(unit.get(key), Some(value), "{key} in {answer}");
        }
        let status = unit["StatusText"].to_owned();
        assert!(!status.is_empty(), "{answer}");
        let said = lines().filter(|(key, _)| *key == "Said");
        (status, said.map(|(_, line)| line.to_owned()).collect())
    }

    /// The layer becomes part of the disk, as the cut has left it.
    fn keep(&self) {
        run("qemu-img", &["commit", "-q", &self.path("layer.qcow2")]);
    }

    /// The batches in the spool, on a copy of the disk as the next boot would find it.
    fn look(&self) -> BTreeSet<(String, u64)> {
        let (copy, at) = (self.path("copy.raw"), self.path("mounted"));
        run("cp", &["--sparse=always", &self.path("base.raw"), &copy]);
        std::fs::create_dir_all(&at).unwrap();
        run("mount", &["-o", "loop", &copy, &at]);
        let stored = stored(&self.dir, Path::new(&at));
        run("umount", &[&at]);
        std::fs::remove_file(&copy).unwrap();
        stored
    }
}

fn stored(dir: &Path, disk: &Path) -> BTreeSet<(String, u64)> {
    let spool = disk.join("var/lib/telehub/spool");
    if !spool.exists() {
        return BTreeSet::new();
    }
    let config = dir.join("look.toml");
    let text = format!("[spool]\npath = \"{}\"\n", spool.display());
    std::fs::write(&config, text).unwrap();
    let export = daemon::command()
        .args(["spool", "export", "--config"])
        .arg(&config)
        .output()
        .unwrap();
    assert!(
        export.status.success(),
        "{}",
        String::from_utf8_lossy(&export.stderr)
    );
    let mut stored = BTreeSet::new();
    for line in String::from_utf8(export.stdout).unwrap().lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        assert!(!line["pack"].is_null(), "a gap record: {line}");
        let seq = line["seq"].as_u64().unwrap();
        assert_eq!(line["pack"][0]["v"], seq, "exactly as taken");
        stored.insert((line["device"].as_str().unwrap().to_owned(), seq));
    }
    stored
}

#[tokio::test]
#[ignore = "takes a minute a cut: tests/vm.sh"]
async fn what_was_acked_survives_power_cuts_of_a_whole_machine() {
    let dir = PathBuf::from(std::env::var("VM_DIR").expect("set by tests/vm.sh"));
    let cuts: u64 = std::env::var("VM_CUTS").unwrap().parse().unwrap();
    let rig = Rig {
        barrier: std::env::var("VM_BARRIER").unwrap(),
        hub: SocketAddr::from(([127, 0, 0, 1], free_port())),
        admin: free_port(),
        unit: free_port(),
        dir: dir.clone(),
    };
    let control = rig.barrier == "0";
    let begun = Instant::now();
    let mut dice = Dice::new();
    let mut broker = Mosquitto::start(&dir);
    let consumer = Consumer::start(broker.port).await;
    let sensors: Vec<Sensor> = (0..DEVICES)
        .map(|n| Sensor::heavy(rig.hub, &format!("d{n}"), Duration::from_millis(20), 1_000))
        .collect();
    let acked = || sensors.iter().map(Sensor::acked).sum::<u64>();
    let mut at_broker: BTreeSet<(String, u64)> = BTreeSet::new();
    let mut lost: BTreeSet<(String, u64)> = BTreeSet::new();
    let mut complaints: BTreeSet<String> = BTreeSet::new();
    // The last parts of the topics that came.
    let mut kinds: BTreeSet<String> = BTreeSet::new();

    for cut in 1..=cuts {
        // The broker is there, or it is not, or it comes or goes in the middle.
        let (first, then) =
            [(true, true), (false, false), (false, true), (true, false)][(cut % 4) as usize];
        let set = |broker: &mut Mosquitto, up: bool| match (broker.runs(), up) {
            (false, true) => broker.start_again(),
            (true, false) => broker.stop(),
            _ => {}
        };
        set(&mut broker, first);
        let (before, booted) = (acked(), Instant::now());
        let machine = rig.boot(broker.port);
        within(BOOT, "acks after a boot", || acked() > before).await;
        let boot = booted.elapsed();
        tokio::time::sleep(dice.millis(3_000)).await;
        set(&mut broker, then);
        let middle = acked();
        within(BOOT, "acks before the cut", || acked() > middle + 20).await;
        let (says, said) = rig.unit_is_well().await;
        complaints.extend(said);
        tokio::time::sleep(dice.millis(3_000)).await;
        machine.cut_power();
        // Acks that had arrived before count.
        tokio::time::sleep(Duration::from_millis(500)).await;

        rig.keep();
        let stored = rig.look();
        let mut missing: BTreeSet<_> = sensors
            .iter()
            .flat_map(|sensor| (1..=sensor.acked()).map(|seq| (sensor.id.clone(), seq)))
            .filter(|batch| !stored.contains(batch))
            .collect();
        // What was PUBACKed may still be on its way to the consumer, which needs its broker for it.
        set(&mut broker, true);
        let waited = Instant::now();
        loop {
            let got = consumer.take();
            kinds.extend(got.iter().map(|message| message.kind().to_owned()));
            let batches = got.iter().filter_map(daemon::Received::batch);
            at_broker.extend(batches.map(|(device, _, seq)| (device, seq)));
            missing.retain(|batch| !at_broker.contains(batch));
            if missing.is_empty() || waited.elapsed() > Duration::from_secs(20) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        println!(
            "cut {cut}: booted in {:.0} s, broker {}, {} batches acked, {} in the spool, \
             {} at the broker, {} lost; the unit: active, {says}",
            boot.as_secs_f64(),
            match (first, then) {
                (true, true) => "there",
                (false, false) => "away",
                (false, true) => "came",
                (true, false) => "went",
            },
            acked(),
            stored.len(),
            at_broker.len(),
            missing.len()
        );
        lost.extend(missing);
        if control && !lost.is_empty() {
            println!("the control has lost what was acked, as it should");
            return;
        }
    }
    assert!(!control, "the control lost nothing: the rig shows nothing");

    let before = acked();
    let machine = rig.boot(broker.port);
    within(BOOT, "acks after the last boot", || acked() > before).await;
    sensors.iter().for_each(Sensor::rest);
    within(BOOT, "the drain", || {
        let status = rig.status();
        status.is_some_and(|status| {
            status["spool"]["batches"] == 0
                && status["uplink"]["state"] == "connected"
                && status["uplink"]["in_flight"] == 0
        }) && sensors.iter().all(|sensor| sensor.unacked() == 0)
    })
    .await;
    complaints.extend(rig.unit_is_well().await.1);
    let batches = || {
        consumer
            .got()
            .iter()
            .filter_map(daemon::Received::batch)
            .collect::<Vec<_>>()
    };
    let expected = acked();
    let all = |at_broker: &BTreeSet<(String, u64)>| {
        let mut all = at_broker.clone();
        all.extend(batches().into_iter().map(|(device, _, seq)| (device, seq)));
        all
    };
    let waited = Instant::now();
    while (all(&at_broker).len() as u64) < expected && waited.elapsed() < Duration::from_secs(20) {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    at_broker = all(&at_broker);
    kinds.extend(consumer.got().iter().map(|m| m.kind().to_owned()));
    for sensor in &sensors {
        for seq in 1..=sensor.acked() {
            if !at_broker.contains(&(sensor.id.clone(), seq)) {
                lost.insert((sensor.id.clone(), seq));
            }
        }
    }
    machine.cut_power();
    rig.keep();
    let stored = rig.look();
    println!(
        "{cuts} power cuts: {} batches acked, {} at the broker, {} left in the spool, {} lost, {:.0} s",
        acked(),
        at_broker.len(),
        stored.len(),
        lost.len(),
        begun.elapsed().as_secs_f64()
    );
    for line in &complaints {
        println!("the hub's log: {line}");
    }
    assert!(lost.is_empty(), "lost: {lost:?}");
    // Fresh, from the spool, who is there; and no gap record.
    assert!(kinds.iter().eq(["data", "history", "status"]), "{kinds:?}");
    // The uplink's are what this is about, and the ports are open to everybody.
    let unexpected: Vec<_> = complaints
        .iter()
        .filter(|line| {
            ["uplink", "everybody"]
                .iter()
                .all(|word| !line.contains(word))
        })
        .collect();
    assert!(unexpected.is_empty(), "{unexpected:#?}");
    let told = complaints.iter().any(|line| line.contains("everybody"));
    assert!(told, "the log was not read: {complaints:?}");
}
