//! The examples for consumers, run as a consumer runs them: against a real broker and hub, while
//! the hub, the broker and they themselves are killed.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "support/daemon.rs"]
mod daemon;
#[path = "support/python.rs"]
mod python;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use daemon::{Consumer, Hub, Mosquitto, Sensor, config, every_acked_batch_arrives, until};
use serde_json::{Value, json};

const PACKAGES: [&str; 5] = [
    "paho-mqtt>=2",
    "cbor2>=5",
    "zstandard>=0.22",
    "jsonschema>=4",
    "psycopg[binary]>=3",
];
const MODULES: &str = "paho.mqtt, cbor2, zstandard, jsonschema, psycopg";

fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/consumers")
}

fn own_programs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/consumers")
}

/// The Python of these tests, or a line that says why they are not run.
fn interpreter(what: &str) -> Option<PathBuf> {
    python::python("consumers-venv", &PACKAGES, MODULES)
        .map_err(|why| python::not_tested(what, &why))
        .ok()
}

/// A consumer at work; ends with the test, whatever becomes of it.
struct Running(Child);

impl Running {
    fn start(command: &mut Command) -> Self {
        let child = command
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Self(child)
    }

    /// Killed as soon as the broker keeps a session for it. Blocks.
    fn only_subscribes(command: &mut Command) {
        let mut running = Self::start(command);
        let errors = BufReader::new(running.0.stderr.take().unwrap());
        let said: Vec<_> = errors
            .lines()
            .map_while(Result::ok)
            .take_while(|line| line != "subscribed")
            .collect();
        assert!(
            running.0.try_wait().unwrap().is_none(),
            "it ended: {said:?}"
        );
        running.kill();
    }

    fn kill(&mut self) {
        let _ = self.0.kill();
        self.0.wait().unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Three sensors through two kills of the hub and a restart of the broker. Returns how many
/// batches were acked; all of them have arrived.
async fn troubled_hours(dir: &Path, broker: &mut Mosquitto, consumer: &Consumer) -> usize {
    let spool = tempfile::tempdir_in(dir).unwrap();
    let text = config(spool.path(), broker.port, "[values]\nenabled = true");
    let mut hub = Hub::start(dir, &text).await;
    let sensors: Vec<_> = ["cow", "barn.door", "pump-7"]
        .map(|id| Sensor::start(hub.address, id, Duration::from_millis(10)))
        .into();
    let grown = async |by: u64| {
        let before: Vec<_> = sensors.iter().map(Sensor::acked).collect();
        until("more acks for each sensor", || {
            let now = sensors.iter().map(Sensor::acked);
            now.zip(&before).all(|(now, before)| now >= before + by)
        })
        .await;
    };
    for _ in 0..2 {
        grown(50).await;
        sensors.iter().for_each(|one| one.moved(Sensor::NOWHERE));
        hub.kill();
        hub = Hub::start(dir, &text).await;
        sensors.iter().for_each(|one| one.moved(hub.address));
    }
    grown(20).await;
    broker.stop();
    grown(50).await;
    broker.start_again();
    grown(50).await;
    sensors.iter().for_each(Sensor::rest);
    until("the last acks", || {
        sensors.iter().all(|one| one.unacked() == 0)
    })
    .await;
    hub.until_drained().await;
    let acked = every_acked_batch_arrives(&sensors, consumer).await;
    assert!(hub.stop().await.success());
    acked
}

#[test]
fn the_yardstick_tells_holes_duplicates_and_disorder_apart() {
    let Some(python) = interpreter("the yardstick's own tests") else {
        return;
    };
    let mut command = Command::new(python);
    command
        .args(["-m", "unittest", "-q", "test_verify"])
        .current_dir(own_programs())
        .env("PYTHONPATH", examples())
        .env("PYTHONDONTWRITEBYTECODE", "1");
    python::run(&mut command).unwrap();
}

#[tokio::test]
async fn the_yardstick_finds_nothing_to_explain_and_every_message_fits_its_schema() {
    let Some(python) = interpreter("examples/consumers/verify.py") else {
        return;
    };
    for version in ["5", "3.1.1"] {
        let dir = tempfile::tempdir().unwrap();
        let mut broker = Mosquitto::start(dir.path());
        let consumer = Consumer::start(broker.port).await;
        let verify = |until: &[&str]| {
            let mut command = Command::new(&python);
            command
                .arg(examples().join("verify.py"))
                .arg(format!("mqtt://127.0.0.1:{}", broker.port))
                .args(["--json", "--mqtt", version])
                .args(until);
            command
        };
        Running::only_subscribes(&mut verify(&[]));
        let mut finish = verify(&["--batches"]);
        let acked = troubled_hours(dir.path(), &mut broker, &consumer).await;
        let different = consumer.batches().len();
        assert!(different >= acked);
        let running = Running::start(finish.arg(different.to_string()));
        let summary = tokio::task::spawn_blocking(move || summary(running));
        let summary = summary.await.unwrap();
        assert_eq!(summary["batches"], different);
        assert_eq!(summary["holes"], json!([]));
        assert_eq!(summary["out_of_order"], 0);
        fits_the_schemas(&python, dir.path(), &consumer);
    }
}

/// What it prints once it has seen enough, which is nothing wrong.
fn summary(mut running: Running) -> Value {
    let (mut out, mut errors) = (String::new(), String::new());
    let (stdout, stderr) = (running.0.stdout.take(), running.0.stderr.take());
    stdout.unwrap().read_to_string(&mut out).unwrap();
    stderr.unwrap().read_to_string(&mut errors).unwrap();
    let status = running.0.wait().unwrap();
    assert!(status.success(), "{status}: {out}{errors}");
    serde_json::from_str(&out).unwrap()
}

/// Every message that came fits docs/schema/broker/.
fn fits_the_schemas(python: &Path, dir: &Path, consumer: &Consumer) {
    let lines: String = consumer
        .got()
        .iter()
        .map(|one| json!([one.topic, String::from_utf8_lossy(&one.payload)]).to_string() + "\n")
        .collect();
    let captured = dir.join("captured");
    std::fs::write(&captured, lines).unwrap();
    let schemas = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/schema/broker");
    let mut command = Command::new(python);
    command
        .arg(own_programs().join("schemas.py"))
        .args([&schemas, &captured]);
    let output = python::run(&mut command).unwrap();
    let counts: Value = serde_json::from_slice(&output.stdout).unwrap();
    for kind in ["batch", "device-status", "hub-status", "value"] {
        assert!(counts[kind].as_u64() > Some(0), "no {kind}: {counts}");
    }
}

/// PostgreSQL's programs, newest version first.
fn postgres_programs() -> Option<PathBuf> {
    let mut versions: Vec<_> = std::fs::read_dir("/usr/lib/postgresql")
        .ok()?
        .filter_map(|entry| Some(entry.ok()?.path().join("bin")))
        .filter(|bin| bin.join("postgres").exists())
        .collect();
    versions.sort();
    versions.pop()
}

/// A database server of this test alone, on a socket in `dir`.
struct Postgres {
    server: Child,
    bin: PathBuf,
    dir: PathBuf,
}

impl Postgres {
    /// It refuses to run as root, so there it runs as nobody.
    fn program(bin: &Path, name: &str) -> Command {
        if !rustix::process::geteuid().is_root() {
            return Command::new(bin.join(name));
        }
        let mut command = Command::new("setpriv");
        command
            .args(["--reuid=nobody", "--regid=nogroup", "--clear-groups"])
            .arg(bin.join(name));
        command
    }

    async fn start(bin: &Path, dir: &Path) -> Self {
        std::fs::create_dir(dir).unwrap();
        if rustix::process::geteuid().is_root() {
            python::run(Command::new("chown").arg("nobody:nogroup").arg(dir)).unwrap();
        }
        let data = dir.join("data");
        let mut initdb = Self::program(bin, "initdb");
        initdb
            .args(["-U", "telehub", "-A", "trust", "-N", "-D"])
            .arg(&data);
        python::run(initdb.current_dir("/")).unwrap();
        let server = Self::program(bin, "postgres")
            .arg("-D")
            .arg(&data)
            .arg("-k")
            .arg(dir)
            .args(["-h", ""])
            .current_dir("/")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let postgres = Self {
            server,
            bin: bin.to_owned(),
            dir: dir.to_owned(),
        };
        until("the database", || postgres.query("SELECT 1").is_ok()).await;
        postgres
    }

    fn url(&self, database: &str) -> String {
        let socket = self.dir.display();
        format!("postgresql:///{database}?user=telehub&host={socket}")
    }

    fn psql(&self) -> Command {
        let mut command = Command::new(self.bin.join("psql"));
        command
            .args(["-v", "ON_ERROR_STOP=1", "-qAt", "-d"])
            .arg(self.url("postgres"));
        command
    }

    fn query(&self, sql: &str) -> Result<String, String> {
        let output = python::run(self.psql().args(["-c", sql]))?;
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    fn count(&self, of: &str) -> usize {
        let sql = format!("SELECT count(*) FROM {of}");
        self.query(&sql).unwrap().parse().unwrap()
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // SIGQUIT to the process that listens, which takes its children with it. `setpriv` has
        // become that process.
        let pid = rustix::process::Pid::from_child(&self.server);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::QUIT);
        let _ = self.server.wait();
    }
}

#[tokio::test]
async fn postgresql_holds_every_reading_exactly_once_whoever_is_killed() {
    let Some(python) = interpreter("examples/consumers/postgres") else {
        return;
    };
    let Some(bin) = postgres_programs() else {
        return python::not_tested("examples/consumers/postgres", "PostgreSQL is not installed");
    };
    let dir = tempfile::tempdir().unwrap();
    // The user that the server runs as has to get through to its directory.
    let through = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(dir.path(), through).unwrap();
    let postgres = Postgres::start(&bin, &dir.path().join("pg")).await;
    let schema = examples().join("postgres/schema.sql");
    for _ in 0..2 {
        python::run(postgres.psql().arg("-f").arg(&schema)).unwrap();
    }
    let mut broker = Mosquitto::start(dir.path());
    let consumer = Consumer::start(broker.port).await;
    let (urls, program) = (
        [
            format!("mqtt://127.0.0.1:{}", broker.port),
            postgres.url("postgres"),
        ],
        examples().join("postgres/consumer.py"),
    );
    let keeper = || {
        let mut command = Command::new(&python);
        command.arg(&program).args(&urls);
        command
    };
    Running::only_subscribes(&mut keeper());
    let acked = troubled_hours(dir.path(), &mut broker, &consumer).await;
    let different = consumer.batches().len();
    assert!(different >= acked);
    // Killed again and again in the middle of it.
    for part in 1..=4 {
        let mut running = Running::start(&mut keeper());
        until("a part of it in the database", || {
            postgres.count("batch") >= different * part / 4
        })
        .await;
        running.kill();
    }
    assert_eq!(postgres.count("batch"), different);
    let readings: BTreeMap<_, _> = consumer
        .got()
        .iter()
        .filter_map(|one| Some((one.batch()?, one.json()["pack"].as_array()?.len())))
        .collect();
    assert_eq!(postgres.count("reading"), readings.values().sum::<usize>());
    the_dashboard_has_something_to_show(&postgres);
}

/// Every query of the dashboard is one, and those of readings give all of them.
fn the_dashboard_has_something_to_show(postgres: &Postgres) {
    let dashboard = include_str!("../examples/consumers/postgres/grafana.json");
    let dashboard: Value = serde_json::from_str(dashboard).unwrap();
    let sql = |text: &Value| {
        let mut sql = text.as_str().unwrap().to_owned();
        for column in ["time", "received"] {
            let all = format!("{column} BETWEEN '-infinity' AND 'infinity'");
            sql = sql.replace(&format!("$__timeFilter({column})"), &all);
        }
        for (variable, table) in [("hub", "batch"), ("device", "batch"), ("name", "reading")] {
            let all = format!("SELECT {variable} FROM {table}");
            sql = sql.replace(&format!("${{{variable}:sqlstring}}"), &all);
        }
        assert!(!sql.contains('$'), "{sql}");
        sql
    };
    let rows = |text: &Value| postgres.query(&sql(text)).unwrap().lines().count();
    let panels = dashboard["panels"].as_array().unwrap();
    let of = |at: usize| rows(&panels[at]["targets"][0]["rawSql"]);
    assert_eq!(of(0), postgres.count("reading WHERE number IS NOT NULL"));
    assert!(of(1) > 0 && of(3) > 0);
    // Nothing was lost.
    assert_eq!((of(2), postgres.count("gap")), (0, 0));
    for variable in dashboard["templating"]["list"].as_array().unwrap() {
        if variable["type"] == "query" {
            assert!(rows(&variable["query"]) > 0, "{variable}");
        }
    }
}

#[tokio::test]
async fn packs_are_taken_apart_by_the_python_of_the_documentation() {
    let Some(python) = interpreter("examples/consumers/unpack.py") else {
        return;
    };
    // What the documentation shows is what the example does.
    let shown = include_str!("../docs/consumers.md");
    let shown = shown
        .split("```python\n")
        .find(|one| one.contains("def items(pack)"));
    let shown = shown.unwrap().split("```").next().unwrap();
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("shown.py"), shown).unwrap();
    let own = "import sys, json; sys.path[:0] = sys.argv[1:3]; import shown, unpack\n\
               pack = bytes.fromhex(sys.argv[3])\n\
               assert list(shown.items(pack)) == list(unpack.items(pack))\n\
               print([kind + device + payload.decode() for kind, device, payload in shown.items(pack)])";
    let (mut sequence, mut pack) = (Vec::new(), Vec::new());
    for (kind, device) in [
        (telehub::packed::Kind::Data, "cow"),
        (telehub::packed::Kind::Gap, "bull"),
    ] {
        telehub::packed::append(kind, device, b"{}", &mut sequence);
    }
    telehub::packed::seal(&sequence, &mut pack);
    let hex: String = pack.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut command = Command::new(&python);
    command
        .args(["-c", own])
        .arg(dir.path())
        .arg(examples())
        .arg(hex);
    let said = python::run(command.env("PYTHONDONTWRITEBYTECODE", "1")).unwrap();
    let said = String::from_utf8(said.stdout).unwrap();
    assert_eq!(said.trim(), "['datacow{}', 'gapbull{}']");

    let broker = Mosquitto::start(dir.path());
    let consumer = Consumer::start(broker.port).await;
    let url = format!("mqtt://127.0.0.1:{}", broker.port);
    let start = || {
        let mut command = Command::new(&python);
        command.arg(examples().join("unpack.py")).arg(&url);
        command
    };
    Running::only_subscribes(&mut start());
    let text = config(
        dir.path(),
        broker.port,
        "pack = \"16KiB\"\npack_delay = \"100ms\"",
    );
    let hub = Hub::start(dir.path(), &text).await;
    let sensors: Vec<_> = ["cow", "barn.door"]
        .map(|id| Sensor::start(hub.address, id, Duration::from_millis(10)))
        .into();
    for _ in 0..3 {
        let mut running = Running::start(&mut start());
        let before = consumer.batches().len();
        until("batches", || consumer.batches().len() > before + 50).await;
        running.kill();
    }
    let _running = Running::start(&mut start());
    sensors.iter().for_each(Sensor::rest);
    until("the last acks", || {
        sensors.iter().all(|one| one.unacked() == 0)
    })
    .await;
    every_acked_batch_arrives(&sensors, &consumer).await;
    assert!(hub.stop().await.success());
}
