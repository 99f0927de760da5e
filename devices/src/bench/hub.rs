//! The hub as a process of its own, seen through its log and its admin listener.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout};

use super::process::Process;

/// A start with a full spool may take this long before it counts as a fault.
const START: Duration = Duration::from_secs(60);
/// Pause between two looks at the hub's status.
const LOOK: Duration = Duration::from_millis(20);

/// A running hub.
#[derive(Debug)]
pub struct Hub {
    /// Its process.
    pub process: Process,
    /// From exec to the log line `listening`.
    pub ready_after: Duration,
    /// `ws://ADDRESS`
    pub url: String,
    admin: String,
    troubles: Arc<Troubles>,
}

/// What the hub logged above INFO.
#[derive(Debug, Default)]
struct Troubles {
    warnings: AtomicU64,
    errors: AtomicU64,
    last_error: Mutex<String>,
}

#[derive(Debug)]
struct Addresses {
    admin: String,
    listen: String,
    ready_after: Duration,
}

/// What a configuration has beside what all of them have.
#[derive(Debug, Clone, Copy, Default)]
pub struct More<'a> {
    /// Lines of `[spool]`.
    pub spool: &'a str,
    /// The registry of devices with tokens; without it anybody may connect.
    pub registry: Option<&'a Path>,
    /// Whole tables.
    pub tables: &'a str,
}

/// Writes the configuration of a hub whose spool is `dir/spool`.
fn configure(dir: &Path, broker: u16, more: More<'_>) -> anyhow::Result<PathBuf> {
    let file = dir.join("telehub.toml");
    let auth = match more.registry {
        Some(file) => format!("auth = \"token\"\nregistry = {file:?}"),
        None => "auth = \"open\"".to_owned(),
    };
    let config = format!(
        "[hub]\nid = \"bench\"\n\
         [devices]\nlisten = \"127.0.0.1:0\"\n{auth}\n\
         max_rate = 100000\nmax_bytes = \"1GiB\"\nmax_readings = 10000000\n\
         max_connections = 11000\n\
         [spool]\npath = {:?}\nmax_size = \"8GiB\"\n{}\
         [uplink]\nurl = \"mqtt://127.0.0.1:{broker}\"\n\
         [admin]\nlisten = \"127.0.0.1:0\"\n\
         [log]\nformat = \"json\"\n{}",
        dir.join("spool").display().to_string(),
        more.spool,
        more.tables,
    );
    std::fs::write(&file, config).with_context(|| format!("cannot write {}", file.display()))?;
    Ok(file)
}

impl Hub {
    /// Starts a hub and waits until it listens.
    ///
    /// # Errors
    /// When it does not.
    pub async fn start(program: &Path, dir: &Path, broker: u16) -> anyhow::Result<Self> {
        Self::start_with(program, dir, broker, More::default()).await
    }

    /// The same with more in its configuration.
    ///
    /// # Errors
    /// When it does not listen.
    pub async fn start_with(
        program: &Path,
        dir: &Path,
        broker: u16,
        more: More<'_>,
    ) -> anyhow::Result<Self> {
        let config = configure(dir, broker, more)?;
        let mut command = Command::new(program);
        command.arg("run").arg("--config").arg(config);
        // Without it the log carries no times of its own, which costs less than a person's log.
        command.env_remove("JOURNAL_STREAM").stderr(Stdio::piped());
        let since = Instant::now();
        let mut process = Process::spawn("the hub", &mut command)?;
        let log = process.child().stderr.take().context("the hub's stderr")?;
        let troubles = Arc::new(Troubles::default());
        let (sender, receiver) = oneshot::channel();
        tokio::spawn(follow(log, since, sender, troubles.clone()));
        let addresses = match timeout(START, receiver).await {
            Ok(Ok(addresses)) => addresses,
            Ok(Err(_)) => bail!(
                "the hub ended before it listened: {}",
                troubles.last_error()
            ),
            Err(_) => bail!("the hub did not listen within {} s", START.as_secs()),
        };
        Ok(Self {
            process,
            ready_after: addresses.ready_after,
            url: format!("ws://{}", addresses.listen),
            admin: addresses.admin,
            troubles,
        })
    }

    /// Where its admin listener is.
    #[must_use]
    pub fn admin(&self) -> &str {
        &self.admin
    }

    /// `GET /api/status`
    ///
    /// # Errors
    /// When the hub does not answer.
    pub async fn status(&self) -> anyhow::Result<Status> {
        let answer = timeout(Duration::from_secs(10), get(&self.admin, "/api/status"))
            .await
            .context("the hub's admin listener did not answer within 10 s")??;
        Ok(Status(answer))
    }

    /// `GET /metrics`
    ///
    /// # Errors
    /// When the hub does not answer.
    pub async fn metrics(&self) -> anyhow::Result<String> {
        get_text(&self.admin, "/metrics").await
    }

    /// Waits until the status is as it should be, and says when it was.
    ///
    /// # Errors
    /// When it is not within `patience`.
    pub async fn wait(
        &self,
        what: &str,
        patience: Duration,
        good: impl Fn(&Status) -> bool,
    ) -> anyhow::Result<(Instant, Status)> {
        let deadline = Instant::now() + patience;
        loop {
            let status = self.status().await?;
            let now = Instant::now();
            if good(&status) {
                return Ok((now, status));
            }
            if now > deadline {
                bail!("waited {} s in vain: {what}", patience.as_secs());
            }
            sleep(LOOK).await;
        }
    }

    /// Waits until the uplink works.
    ///
    /// # Errors
    /// When it does not.
    pub async fn connected(&self) -> anyhow::Result<Instant> {
        let patience = Duration::from_secs(70);
        let wait = self.wait("the uplink connects", patience, |s| {
            s.uplink() == "connected"
        });
        Ok(wait.await?.0)
    }

    /// Warnings and errors so far, and the last error.
    #[must_use]
    pub fn troubles(&self) -> (u64, u64, String) {
        let (warnings, errors) = (&self.troubles.warnings, &self.troubles.errors);
        (
            warnings.load(Relaxed),
            errors.load(Relaxed),
            self.troubles.last_error(),
        )
    }
}

impl Troubles {
    fn last_error(&self) -> String {
        let text = self.last_error.lock();
        text.unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Reads the log until its end, so that the hub never waits for its reader.
async fn follow(
    log: impl tokio::io::AsyncRead + Unpin,
    since: Instant,
    ready: oneshot::Sender<Addresses>,
    troubles: Arc<Troubles>,
) {
    let mut ready = Some(ready);
    let mut admin = String::new();
    let mut lines = BufReader::new(log).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let now = Instant::now();
        let event: Value = serde_json::from_str(&line).unwrap_or(Value::Null);
        match event["level"].as_str() {
            Some("WARN") => _ = troubles.warnings.fetch_add(1, Relaxed),
            Some("INFO" | "DEBUG" | "TRACE") => {}
            // A panic or a complaint on the way out is no event.
            _ => {
                troubles.errors.fetch_add(1, Relaxed);
                let mut last = troubles.last_error.lock();
                let last = last.as_deref_mut();
                if let Ok(last) = last {
                    line.clone_into(last);
                }
            }
        }
        let address = event["address"].as_str().unwrap_or_default().to_owned();
        match event["message"].as_str() {
            Some("admin listening") => admin = address,
            Some("listening") => {
                if let Some(ready) = ready.take() {
                    let _ = ready.send(Addresses {
                        admin: admin.clone(),
                        listen: address,
                        ready_after: now - since,
                    });
                }
            }
            _ => {}
        }
    }
}

/// `/api/status`, read where it is needed.
#[derive(Debug)]
pub struct Status(Value);

impl Status {
    /// `uplink.state`
    #[must_use]
    pub fn uplink(&self) -> &str {
        self.0["uplink"]["state"].as_str().unwrap_or_default()
    }

    /// A counter such as `/spool/batches`; zero when there is none.
    #[must_use]
    pub fn number(&self, pointer: &str) -> u64 {
        let number = self.0.pointer(pointer);
        number.and_then(Value::as_f64).unwrap_or_default() as u64
    }
}

async fn get(address: &str, path: &str) -> anyhow::Result<Value> {
    let body = get_text(address, path).await?;
    serde_json::from_str(&body).with_context(|| format!("{path} is not JSON"))
}

async fn get_text(address: &str, path: &str) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP answer")?;
    if !head.starts_with("HTTP/1.1 200") {
        bail!("{path}: {}", head.lines().next().unwrap_or_default());
    }
    Ok(body.to_owned())
}
