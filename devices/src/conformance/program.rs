//! The program under test: started with everything in its environment, its lines read, ended.

use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::ledger::Ledger;

/// Lines of what it printed that are kept to show beside a fault.
const LINES: usize = 40;
/// After the end its last lines are read for at most so long: a grandchild may hold the pipe.
const LAST_LINES: Duration = Duration::from_secs(2);

/// What it is started with.
#[derive(Debug, Clone)]
pub struct Environment {
    /// `ws://…` or `wss://…`.
    pub url: String,
    /// The token.
    pub token: &'static str,
    /// A CA in PEM, for `wss`.
    pub ca: Option<std::path::PathBuf>,
    /// See [`super::scale::Scale`].
    pub scale: f64,
    /// Number of the first reading.
    pub first: u64,
    /// How many readings.
    pub count: u64,
    /// Protocol seconds between two readings; 0: as fast as the queue has room.
    pub interval: f64,
    /// Batches that its queue should hold.
    pub queue: usize,
}

/// The id of the device under test.
pub const ID: &str = "probe-1";

/// What it said.
#[derive(Debug, Default)]
pub struct Said {
    /// The last lines of stdout and stderr.
    pub lines: Vec<String>,
    /// It said `done`: all is acked or dropped.
    pub done: bool,
    /// It said `stopped`: it will not come back by itself.
    pub stopped: bool,
    /// Commands that it carried out.
    pub commands: Vec<String>,
}

/// A running program.
#[derive(Debug)]
pub struct Program {
    child: Child,
    /// What it has said so far.
    pub said: Arc<Mutex<Said>>,
    readers: Vec<tokio::task::JoinHandle<()>>,
}

impl Program {
    /// Starts it.
    ///
    /// # Errors
    /// One sentence.
    pub fn start(
        command: &[String],
        environment: &Environment,
        state: &Path,
        ledger: &Arc<Mutex<Ledger>>,
    ) -> Result<Self, String> {
        let (program, arguments) = command.split_first().ok_or("no command was given")?;
        let mut command = Command::new(program);
        command
            .args(arguments)
            .env("TELEHUB_URL", &environment.url)
            .env("TELEHUB_ID", ID)
            .env("TELEHUB_TOKEN", environment.token)
            .env("TELEHUB_TIME_SCALE", environment.scale.to_string())
            .env("TELEHUB_FIRST", environment.first.to_string())
            .env("TELEHUB_COUNT", environment.count.to_string())
            .env("TELEHUB_INTERVAL", environment.interval.to_string())
            .env("TELEHUB_QUEUE", environment.queue.to_string())
            .env("TELEHUB_STATE", state)
            .env_remove("TELEHUB_CA")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        if let Some(ca) = &environment.ca {
            command.env("TELEHUB_CA", ca);
        }
        let mut child = command
            .spawn()
            .map_err(|error| format!("cannot start {program}: {error}"))?;
        let said = Arc::new(Mutex::new(Said::default()));
        let mut readers = Vec::new();
        if let Some(out) = child.stdout.take() {
            readers.push(read(out, said.clone(), Some(ledger.clone())));
        }
        if let Some(err) = child.stderr.take() {
            readers.push(read(err, said.clone(), None));
        }
        Ok(Self {
            child,
            said,
            readers,
        })
    }

    /// Waits for its end and says how it ended.
    pub async fn ended(&mut self) -> String {
        let status = self.child.wait().await;
        for reader in self.readers.drain(..) {
            let _ = timeout(LAST_LINES, reader).await;
        }
        match status {
            Ok(status) => status.to_string(),
            Err(error) => error.to_string(),
        }
    }

    /// Ends it as a power cut would.
    pub async fn kill(&mut self) {
        let _ = self.child.kill().await;
    }

    /// The most memory that it has had, in KiB, where the system tells.
    #[must_use]
    pub fn peak(&self) -> Option<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()?)).ok()?;
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmHWM:"))?;
        line.trim().trim_end_matches(" kB").parse().ok()
    }

    /// What it said, for reading.
    pub fn said(&self) -> std::sync::MutexGuard<'_, Said> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads lines until the end; those of stdout (with a ledger) are the test contract's.
fn read(
    from: impl AsyncRead + Unpin + Send + 'static,
    said: Arc<Mutex<Said>>,
    ledger: Option<Arc<Mutex<Ledger>>>,
) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move {
        let mut lines = BufReader::new(from).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(ledger) = &ledger {
                hear(&line, &mut said, ledger);
            }
            if said.lines.len() == LINES {
                said.lines.remove(0);
            }
            said.lines.push(line);
        }
    })
}

fn hear(line: &str, said: &mut Said, ledger: &Mutex<Ledger>) {
    let words: Vec<&str> = line.split_whitespace().collect();
    match words[..] {
        ["drop", first, last] => {
            let mut ledger = ledger.lock().unwrap_or_else(PoisonError::into_inner);
            match (first.parse(), last.parse()) {
                (Ok(first), Ok(last)) => ledger.dropped(first, last),
                _ => ledger.fault(format!("`{line}`: expected drop FIRST LAST")),
            }
        }
        ["command", id, ..] => said.commands.push(id.to_owned()),
        ["done", ..] => said.done = true,
        ["stopped", ..] => said.stopped = true,
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lines_of_the_test_contract_are_understood() {
        let ledger = Mutex::new(Ledger::default());
        let mut said = Said::default();
        for line in [
            "drop 3 5",
            "command c-1 echo",
            "anything else",
            "done",
            "drop x 5",
        ] {
            hear(line, &mut said, &ledger);
        }
        let ledger = ledger.into_inner().unwrap_or_else(PoisonError::into_inner);
        assert_eq!(ledger.drops(), 3);
        assert_eq!(ledger.faults.len(), 1);
        assert!(said.done && !said.stopped);
        assert_eq!(said.commands, ["c-1"]);
    }
}
