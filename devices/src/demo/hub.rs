//! The hub of the demo: a child process with a configuration and a spool of its own.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

/// Time for the hub to start; it needs a fraction of a second.
const START: Duration = Duration::from_secs(20);
/// Time for the hub to stop: its own deadline is 10 s.
const STOP: Duration = Duration::from_secs(15);
/// Time for an answer of the admin listener.
const ANSWER: Duration = Duration::from_secs(2);

/// Ports of a hub.
#[derive(Debug, Clone, Copy)]
pub struct Ports {
    /// For devices.
    pub devices: u16,
    /// For the operator.
    pub admin: u16,
    /// Where it finds its broker.
    pub uplink: u16,
}

/// A running hub.
#[derive(Debug)]
pub struct Hub {
    child: Child,
    ports: Ports,
    log: PathBuf,
}

/// The `telehub` beside this program. Under cargo it is built first, if need be.
///
/// # Errors
/// When there is none, or it does not build.
pub async fn binary() -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe().context("cannot find out where this program is")?;
    let directory = own.parent().context("this program is in no directory")?;
    let hub = directory.join("telehub");
    if let Some(cargo) = std::env::var_os("CARGO") {
        let mut build = Command::new(cargo);
        // With the features of the whole workspace, as the tests build it: nothing is built twice.
        build.args(["build", "--workspace", "--features", "devices/demo"]);
        build.args(["--bin", "telehub"]);
        if directory.ends_with("release") {
            build.arg("--release");
        }
        if let Some(target) = directory.parent() {
            build.arg("--target-dir").arg(target);
        }
        eprintln!(
            "building the hub: cargo build --workspace --features devices/demo --bin telehub"
        );
        let status = build.status().await.context("cannot run cargo")?;
        if !status.success() {
            bail!("the hub does not build");
        }
    }
    if !hub.is_file() {
        bail!("there is no {}; build it with `cargo build`", hub.display());
    }
    Ok(hub)
}

/// Starts a hub and waits until it takes devices.
///
/// # Errors
/// When it does not start; the end of its log is part of the error.
pub async fn start(binary: &Path, directory: &Path, ports: Ports) -> anyhow::Result<Hub> {
    let config = directory.join("telehub.toml");
    let spool = directory.join("spool");
    let text = format!(
        r#"[hub]
id = "demo"
[devices]
listen = "127.0.0.1:{}"
auth = "open"
[spool]
path = {:?}
max_size = "64MiB"
min_free = "1MiB"
[uplink]
url = "mqtt://127.0.0.1:{}"
client_id = "telehub-demo"
[admin]
listen = "127.0.0.1:{}"
"#,
        ports.devices, spool, ports.uplink, ports.admin
    );
    std::fs::write(&config, text).with_context(|| config.display().to_string())?;
    let log = directory.join("hub.log");
    let output = std::fs::File::create(&log).with_context(|| log.display().to_string())?;
    let child = Command::new(binary)
        .arg("run")
        .arg("--config")
        .arg(&config)
        .stdin(Stdio::null())
        .stdout(output.try_clone().context("hub.log")?)
        .stderr(output)
        // Ctrl-C is for the demo, which then stops the hub in order.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("cannot run {}", binary.display()))?;
    let mut hub = Hub { child, ports, log };
    let deadline = Instant::now() + START;
    loop {
        if let Some(status) = hub.child.try_wait().context("the hub")? {
            bail!("the hub has ended at once ({status}):\n{}", hub.log_tail());
        }
        if TcpStream::connect((Ipv4Addr::LOCALHOST, ports.devices))
            .await
            .is_ok()
        {
            return Ok(hub);
        }
        if Instant::now() > deadline {
            bail!(
                "the hub does not take devices after {START:?}:\n{}",
                hub.log_tail()
            );
        }
        sleep(Duration::from_millis(50)).await;
    }
}

impl Hub {
    /// `GET /api/status`; `None` while it cannot be had.
    pub async fn status(&self) -> Option<Value> {
        timeout(ANSWER, get(self.ports.admin, "/api/status"))
            .await
            .ok()?
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Stops it with SIGTERM and waits.
    ///
    /// # Errors
    /// When it does not stop, or not well.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        let pid = self
            .child
            .id()
            .and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
        if let Some(pid) = pid {
            kill_process(pid, Signal::TERM).context("cannot stop the hub")?;
        }
        match timeout(STOP, self.child.wait()).await {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(status) => bail!("the hub ended badly ({status:?}):\n{}", self.log_tail()),
            Err(_) => bail!("the hub does not stop:\n{}", self.log_tail()),
        }
    }

    /// The end of what it logged.
    pub fn log_tail(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}

/// A plain HTTP request; one answer, then the connection is closed.
async fn get(port: u16, path: &str) -> Option<Value> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.ok()?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.ok()?;
    let answer = String::from_utf8(answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    if !head.starts_with("HTTP/1.1 200") {
        return None;
    }
    serde_json::from_str(body).ok()
}
