//! The hub and systemd, without systemd: a socket that hears what systemd would be told, and a
//! listening socket as systemd hands it over.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "support/daemon.rs"]
mod daemon;
#[path = "support/disc.rs"]
mod disc;

use std::io::Write;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use daemon::{Consumer, Device, Hub, Mosquitto, Sensor, config, free_port, program, until};
use disc::Disc;

/// The receiving end of what systemd is told.
struct Manager {
    path: PathBuf,
    told: Arc<Mutex<Vec<String>>>,
}

impl Manager {
    fn new(dir: &Path) -> Self {
        let path = dir.join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        let told = Arc::new(Mutex::new(Vec::new()));
        let into = told.clone();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(n) = socket.recv(&mut buffer) {
                let text = String::from_utf8_lossy(&buffer[..n]).into_owned();
                into.lock().unwrap().extend(text.lines().map(str::to_owned));
            }
        });
        Self { path, told }
    }

    /// A command for the hub with a watchdog of this time.
    fn command(&self, watchdog: Duration) -> Command {
        let mut command = daemon::command();
        command
            .env("NOTIFY_SOCKET", &self.path)
            .env("WATCHDOG_USEC", watchdog.as_micros().to_string())
            .env_remove("WATCHDOG_PID");
        command
    }

    fn told(&self) -> Vec<String> {
        self.told.lock().unwrap().clone()
    }

    fn count(&self, what: &str) -> usize {
        self.told().iter().filter(|line| *line == what).count()
    }

    fn status(&self) -> String {
        let told = self.told();
        let line = told.iter().rev().find_map(|l| l.strip_prefix("STATUS="));
        line.unwrap_or_default().to_owned()
    }

    async fn until_status(&self, begin: &str, end: &str) {
        until(&format!("the status {begin}…{end}"), || {
            let status = self.status();
            status.starts_with(begin) && status.ends_with(end)
        })
        .await;
    }

    async fn until_fed_again(&self) {
        let before = self.count("WATCHDOG=1");
        until("the watchdog is fed", || {
            self.count("WATCHDOG=1") >= before + 2
        })
        .await;
    }
}

#[tokio::test]
async fn systemd_hears_ready_the_status_reload_and_stop_and_an_idle_hub_feeds_the_watchdog() {
    let dir = tempfile::tempdir().unwrap();
    let manager = Manager::new(dir.path());
    let mut broker = Mosquitto::start(dir.path());
    let text = config(dir.path(), broker.port, "");
    let mut command = manager.command(Duration::from_secs(2));
    let hub = Hub::start_by(&mut command, dir.path(), &text, |_| {}).await;
    until("ready", || manager.count("READY=1") == 1).await;
    manager
        .until_status("uplink connected; 0 devices; spool empty", "")
        .await;
    // Nothing changes: the status is not told again, the watchdog is fed.
    let statuses = || {
        let told = manager.told();
        told.iter().filter(|l| l.starts_with("STATUS=")).count()
    };
    let before = statuses();
    manager.until_fed_again().await;
    manager.until_fed_again().await;
    assert_eq!(statuses(), before, "{:#?}", manager.told());

    let mut device = Device::connect(hub.address, "d").await;
    device.hello("s").await;
    manager
        .until_status("uplink connected; 1 device; spool empty", "")
        .await;
    broker.stop();
    hub.until_uplink("down").await;
    for seq in 1..=3 {
        device.data(seq).await;
    }
    device.acked(3).await;
    manager
        .until_status(
            "uplink down since 20",
            " UTC; 1 device; 3 batches waiting, 1 % of 1 GiB",
        )
        .await;
    manager.until_fed_again().await;

    hub.signal("HUP");
    until("ready again", || manager.count("READY=1") == 2).await;
    let told = manager.told();
    let reloading = told.iter().position(|line| line == "RELOADING=1").unwrap();
    assert!(
        told[reloading + 1].starts_with("MONOTONIC_USEC="),
        "{told:?}"
    );
    hub.signal("TERM");
    until("stopping", || manager.count("STOPPING=1") == 1).await;
    assert!(hub.stop_was_clean().await);
}

#[tokio::test]
async fn a_part_that_is_stuck_stops_the_feeding_and_is_named() {
    let parts = ["the device port", "the intake", "the uplink", "the spool"];
    for part in parts {
        let dir = tempfile::tempdir().unwrap();
        let manager = Manager::new(dir.path());
        // Without a broker the spool has something to do.
        let text = config(dir.path(), free_port(), "");
        let watchdog = Duration::from_secs(1);
        let stall = dir.path().join("stall");
        let mut command = manager.command(watchdog);
        command.env("TELEHUB_STALL", &stall);
        let hub = Hub::start_by(&mut command, dir.path(), &text, |_| {}).await;
        let _sensor = Sensor::start(hub.address, "s", Duration::from_millis(20));
        manager.until_fed_again().await;
        std::fs::write(&stall, part).unwrap();
        until("the log says who is stuck", || {
            let log = hub.log();
            log.iter().any(|line| {
                line.contains("ERROR")
                    && line.contains("no progress")
                    && line.contains(&format!("parts=\"{part}\""))
            })
        })
        .await;
        let before = manager.count("WATCHDOG=1");
        tokio::time::sleep(2 * watchdog).await;
        assert_eq!(manager.count("WATCHDOG=1"), before, "{part}");
    }
}

#[tokio::test]
async fn a_disk_that_hangs_is_no_reason_to_be_killed() {
    let dir = tempfile::tempdir().unwrap();
    let Some(disc) = Disc::new(dir.path(), 64) else {
        return;
    };
    let manager = Manager::new(dir.path());
    let text = config(&disc.path, free_port(), "");
    let mut command = manager.command(Duration::from_secs(2));
    let hub = Hub::start_by(&mut command, dir.path(), &text, |_| {}).await;
    let sensor = Sensor::start(hub.address, "s", Duration::from_millis(5));
    until("acks from the disk", || sensor.acked() > 20).await;
    disc.freeze();
    until("the disk hangs", || hub.get("/healthz").0 == 503).await;
    for _ in 0..6 {
        manager.until_fed_again().await;
    }
    let complaints = hub.complaints();
    assert!(
        !complaints.iter().any(|line| line.contains("no progress")),
        "{complaints:#?}"
    );
    disc.thaw();
    let acked = sensor.acked();
    until("acks again", || sensor.acked() > acked).await;
    drop(sensor);
    hub.stop().await;
}

/// The hub's command, with this as file descriptor 3 and as many announced.
fn activated(socket: OwnedFd, count: usize) -> Command {
    let mut command = Command::new("sh");
    let script =
        format!("exec 3<&0 4<&0 </dev/null; LISTEN_PID=$$ LISTEN_FDS={count} exec \"$0\" \"$@\"");
    command.args(["-c", &script]).arg(program()).stdin(socket);
    command
}

/// Fifty devices that come back whenever they are cut off. Returns how often they were taken, and
/// how often their TCP connection was refused.
struct Crowd {
    taken: Arc<AtomicUsize>,
    refused: Arc<AtomicUsize>,
    online: Arc<AtomicUsize>,
    over: Arc<AtomicBool>,
}

const CROWD: usize = 50;

impl Crowd {
    fn start(hub: std::net::SocketAddr) -> Self {
        let crowd = Self {
            taken: Arc::default(),
            refused: Arc::default(),
            online: Arc::default(),
            over: Arc::default(),
        };
        for n in 0..CROWD {
            let (taken, refused) = (crowd.taken.clone(), crowd.refused.clone());
            let (online, over) = (crowd.online.clone(), crowd.over.clone());
            tokio::spawn(async move {
                while !over.load(SeqCst) {
                    if tokio::net::TcpStream::connect(hub).await.is_err() {
                        refused.fetch_add(1, SeqCst);
                    }
                    let Some(mut device) = Device::try_connect(hub, &format!("d-{n}")).await else {
                        // Taken while the hub stopped, and told to come back.
                        tokio::time::sleep(Duration::from_millis(20)).await;
                        continue;
                    };
                    taken.fetch_add(1, SeqCst);
                    online.fetch_add(1, SeqCst);
                    while device.try_receive().await {}
                    online.fetch_sub(1, SeqCst);
                }
            });
        }
        crowd
    }

    async fn until_online(&self) {
        until("all devices online", || self.online.load(SeqCst) == CROWD).await;
    }
}

#[tokio::test]
async fn with_systemds_socket_no_device_is_refused_while_the_hub_restarts() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Mosquitto::start(dir.path());
    let port = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = port.local_addr().unwrap();
    // Another one than the configuration names, which could not be had at all.
    let text = config(dir.path(), broker.port, "").replace(
        "[devices]\nlisten = \"127.0.0.1:0\"",
        "[devices]\nlisten = \"192.0.2.1:8787\"",
    );
    let start = async || {
        let mut command = activated(port.try_clone().unwrap().into(), 1);
        Hub::start_by(&mut command, dir.path(), &text, |_| {}).await
    };
    let mut hub = start().await;
    assert_eq!(hub.address, address);
    let said = |line: &String| line.contains("systemd's socket") && line.contains("192.0.2.1:8787");
    assert!(hub.log().iter().any(said), "{:#?}", hub.log());
    let crowd = Crowd::start(address);
    for restarts in 1..=3 {
        crowd.until_online().await;
        assert!(crowd.taken.load(SeqCst) >= restarts * CROWD);
        assert!(hub.stop().await.success());
        hub = start().await;
    }
    crowd.until_online().await;
    assert_eq!(crowd.refused.load(SeqCst), 0);
    crowd.over.store(true, SeqCst);
    assert!(hub.stop().await.success());
}

#[test]
fn what_cannot_be_the_device_port_is_a_configuration_error() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("telehub.toml");
    std::fs::write(&file, config(dir.path(), 1, "")).unwrap();
    let run = |socket: OwnedFd, count| {
        let output = activated(socket, count)
            .args(["run", "--config"])
            .arg(&file)
            .stderr(Stdio::piped())
            .stdout(Stdio::null())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), said)
    };
    let port = || OwnedFd::from(TcpListener::bind("127.0.0.1:0").unwrap());
    let (code, said) = run(port(), 2);
    assert_eq!(code, Some(78), "{said}");
    assert!(said.contains("2 sockets") && said.contains("telehub.socket"));
    let datagrams = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let (code, said) = run(datagrams.into(), 1);
    assert_eq!(code, Some(78), "{said}");
    assert!(said.contains("no TCP socket") && said.lines().count() == 1);
}

#[test]
fn the_unit_is_rated_at_most_1_2_by_systemd() {
    let unit = concat!(env!("CARGO_MANIFEST_DIR"), "/systemd/telehub.service");
    let output = Command::new("systemd-analyze")
        .args(["security", "--offline=true", "--no-pager", "--threshold=12"])
        .arg(unit)
        .output();
    let Ok(output) = output else {
        // Past the test harness, which swallows what passing tests print.
        let _ = writeln!(
            std::io::stderr(),
            "\nNOT TESTED: the rating of the unit needs systemd-analyze (Debian package systemd)\n"
        );
        return;
    };
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("Overall exposure level"), "{output:?}");
    assert!(output.status.success(), "{said}");
}

#[tokio::test]
async fn a_secret_can_be_a_credential_of_systemd() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Mosquitto::start(dir.path());
    let consumer = Consumer::start(broker.port).await;
    let credentials = dir.path().join("credentials");
    std::fs::create_dir(&credentials).unwrap();
    let secret = "username = \"barn\"\npassword_file = \"telehub.mqtt-password\"\n";
    let text = config(dir.path(), broker.port, secret);
    let file = dir.path().join("telehub.toml");
    std::fs::write(&file, &text).unwrap();
    let check = |credentials: Option<&Path>| {
        let mut command = Command::new(program());
        command.args(["check", "--config"]).arg(&file);
        match credentials {
            Some(path) => command.env("CREDENTIALS_DIRECTORY", path),
            None => command.env_remove("CREDENTIALS_DIRECTORY"),
        };
        let output = command.output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (
            output.status.code(),
            String::from_utf8_lossy(&text).into_owned(),
        )
    };
    let (code, said) = check(None);
    assert_eq!(code, Some(78));
    assert!(
        said.contains("LoadCredential=telehub.mqtt-password"),
        "{said}"
    );
    let (code, said) = check(Some(&credentials));
    assert_eq!(code, Some(78));
    let wanted = credentials.join("telehub.mqtt-password");
    assert!(said.contains(wanted.to_str().unwrap()), "{said}");
    assert!(said.contains("/etc/credstore"), "{said}");

    std::fs::write(&wanted, "opensesame\n").unwrap();
    let (code, said) = check(Some(&credentials));
    assert_eq!(code, Some(0), "{said}");
    assert!(!said.contains("opensesame"));
    let mut command = Command::new(program());
    command.env("CREDENTIALS_DIRECTORY", &credentials);
    let hub = Hub::start_by(&mut command, dir.path(), &text, |_| {}).await;
    hub.until_uplink("connected").await;
    until("online", || consumer.last("telehub/barn/status").is_some()).await;
    assert!(hub.stop().await.success());
}
