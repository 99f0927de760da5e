//! The load: this very program as `devices swarm`, in a process of its own.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::Value;
use tokio::io::AsyncReadExt;
use tokio::process::Command;

use super::process::Process;

/// What a swarm does.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    /// How many devices.
    pub devices: usize,
    /// Readings in a batch.
    pub batch: usize,
    /// Batches a second and device; zero: as many as the window allows.
    pub rate: f64,
    /// Tighter than the hub's window, if given.
    pub window: Option<usize>,
    /// For how long.
    pub time: Duration,
}

/// What came of it.
#[derive(Debug)]
pub struct Outcome(Value);

impl Outcome {
    /// A figure of the swarm's report such as `/latency/p99`.
    #[must_use]
    pub fn figure(&self, pointer: &str) -> f64 {
        let figure = self.0.pointer(pointer);
        figure.and_then(Value::as_f64).unwrap_or_default()
    }

    /// Acks came this long after the batches were made.
    #[must_use]
    pub fn latency(&self, quantile: &str) -> Duration {
        let seconds = self.figure(&format!("/latency/{quantile}"));
        Duration::try_from_secs_f64(seconds).unwrap_or_default()
    }

    /// Readings acked, all in all.
    #[must_use]
    pub fn readings(&self) -> f64 {
        self.figure("/acked_readings")
    }
}

fn command(url: &str, load: &Load, tokens: Option<&Path>) -> anyhow::Result<Command> {
    let mut command = Command::new(std::env::current_exe().context("where am I?")?);
    command
        .args(["swarm", "--quiet", "--report-json", "--hub", url])
        .args(["--drain-timeout", "20s"])
        .args(["--devices", &load.devices.to_string()])
        .args(["--batch", &load.batch.to_string()])
        .args(["--rate", &load.rate.to_string()])
        .args(["--duration", &format!("{}s", load.time.as_secs_f64())]);
    if let Some(window) = load.window {
        command.args(["--window", &window.to_string()]);
    }
    if let Some(tokens) = tokens {
        command.arg("--tokens").arg(tokens);
    }
    Ok(command)
}

/// Runs a load to its end.
///
/// # Errors
/// When the swarm found a fault: a batch that was never acked, a refusal, a lost connection.
pub async fn run(url: &str, load: &Load) -> anyhow::Result<Outcome> {
    run_with(url, load, None).await
}

/// The same with a file of tokens.
///
/// # Errors
/// As [`run`].
pub async fn run_with(url: &str, load: &Load, tokens: Option<&Path>) -> anyhow::Result<Outcome> {
    let mut command = command(url, load, tokens)?;
    let mut process = Process::spawn("the swarm", command.stdout(Stdio::piped()))?;
    let mut text = String::new();
    let mut stdout = process
        .child()
        .stdout
        .take()
        .context("the swarm's stdout")?;
    stdout.read_to_string(&mut text).await?;
    let status = process.child().wait().await?;
    let report: Value = serde_json::from_str(&text).context("the swarm left no report")?;
    if !status.success() {
        bail!("the swarm found a fault: {report}");
    }
    Ok(Outcome(report))
}

/// Connects devices that say nothing, until it is dropped or stopped.
///
/// # Errors
/// When the swarm cannot be started.
pub fn idle(url: &str, devices: usize) -> anyhow::Result<Process> {
    let load = Load {
        devices,
        batch: 1,
        // The first batch at a random moment of the next eleven days.
        rate: 1e-6,
        window: None,
        time: Duration::from_secs(3600),
    };
    Process::spawn(
        "the swarm",
        command(url, &load, None)?.stdout(Stdio::null()),
    )
}
