//! mosquitto, as the final broker and as the bridge that the hub is measured against.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::time::{Instant, sleep};

use super::process::{Process, find};

/// mosquitto opens its port within milliseconds.
const START: Duration = Duration::from_secs(5);

/// A running mosquitto.
#[derive(Debug)]
pub struct Broker {
    /// Its process.
    pub process: Process,
    /// Where it listens on 127.0.0.1.
    pub port: u16,
}

/// Where mosquitto is.
///
/// # Errors
/// When it is not installed: how to get it.
pub fn mosquitto() -> anyhow::Result<PathBuf> {
    find("mosquitto").context("mosquitto is missing: apt-get install mosquitto")
}

/// A port that is free now.
///
/// # Errors
/// When there is none.
pub fn free_port() -> anyhow::Result<u16> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").context("no free port")?;
    Ok(listener.local_addr()?.port())
}

impl Broker {
    /// The final broker: nothing on disk, no limit to what it takes.
    ///
    /// # Errors
    /// When it does not open its port.
    pub async fn start(program: &Path, dir: &Path, port: u16) -> anyhow::Result<Self> {
        Self::with(program, &dir.join("broker.conf"), port, "persistence false").await
    }

    /// A broker with persistence and a QoS 1 bridge to `target`. Its queue is unlimited, so that
    /// it loses nothing when it is loaded faster than it forwards.
    ///
    /// # Errors
    /// When it does not open its port.
    pub async fn bridge(program: &Path, dir: &Path, target: u16) -> anyhow::Result<Self> {
        let store = dir.join("bridge");
        std::fs::create_dir_all(&store)?;
        let settings = format!(
            "persistence true\n\
             persistence_location {}/\n\
             connection final\n\
             address 127.0.0.1:{target}\n\
             topic # out 1\n\
             notifications false\n\
             try_private true\n\
             cleansession false",
            store.display()
        );
        Self::with(program, &dir.join("bridge.conf"), free_port()?, &settings).await
    }

    async fn with(program: &Path, file: &Path, port: u16, settings: &str) -> anyhow::Result<Self> {
        // `user root`: started by root, it would else change to a user that may not write here.
        let config = format!(
            "listener {port} 127.0.0.1\n\
             allow_anonymous true\n\
             user root\n\
             set_tcp_nodelay true\n\
             max_queued_messages 0\n\
             max_inflight_messages 100\n\
             sys_interval 1\n\
             log_type error\n\
             {settings}\n"
        );
        std::fs::write(file, config)?;
        let mut command = Command::new(program);
        let complaints = file.with_extension("log");
        let stderr = File::create(&complaints)?;
        command.arg("-c").arg(file);
        command.stdout(Stdio::null()).stderr(stderr);
        let mut process = Process::spawn("mosquitto", &mut command)?;
        let deadline = Instant::now() + START;
        while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            if let Some(status) = process.child().try_wait()? {
                let why = std::fs::read_to_string(complaints).unwrap_or_default();
                bail!("mosquitto ended at once, {status}: {}", why.trim_end());
            }
            if Instant::now() > deadline {
                bail!("mosquitto did not open port {port}");
            }
            sleep(Duration::from_millis(10)).await;
        }
        Ok(Self { process, port })
    }
}
