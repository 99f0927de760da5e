//! What is known of the devices, kept over a restart in a file beside the spool.
//!
//! It is written at the stop, and after something else has been written anyway: a healthy hour
//! costs no flash. What a kill loses is what happened since, in an hour in which nothing else was
//! written.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::OFlags;
use tokio::time::{Instant, sleep};

use crate::clock;
use crate::status::board::Board;
use crate::status::memory::Memory;
use crate::stop::Stop;

/// In the spool's directory.
const FILE: &str = "devices.json";

/// How often it is looked whether something was written, and who is to be forgotten.
const LOOK: Duration = Duration::from_secs(60);

/// Two writes during an outage are so far apart at least: one of a thousand devices is 200 KB.
const PAUSE: Duration = Duration::from_secs(600);

/// Bytes that are read at most: 16,384 devices take 5 MB.
const LIMIT: u64 = 16 << 20;

/// The file of one hub.
#[derive(Debug)]
pub(super) struct Remember {
    directory: PathBuf,
    board: Arc<Board>,
    forget_after: f64,
}

impl Remember {
    pub(super) fn new(directory: &Path, board: Arc<Board>, forget_after: Duration) -> Arc<Self> {
        Arc::new(Self {
            directory: directory.to_owned(),
            board,
            forget_after: forget_after.as_secs_f64(),
        })
    }

    /// Takes what the last run has kept. That there is nothing, or nothing of use, is no reason not
    /// to start.
    pub(super) fn restore(&self) {
        let path = self.directory.join(FILE);
        let read = read(&path).and_then(|content| match content {
            Some(content) => Memory::parse(&content).map(Some),
            None => Ok(None),
        });
        match read {
            Ok(None) => {}
            Ok(Some(memory)) => {
                self.board.devices.restore(&memory, clock::unix_now());
                self.board.devices.forget_gone(self.forget_after);
            }
            Err(error) => tracing::warn!(
                path = %path.display(), error,
                "cannot read what was known of the devices; who was here before is not known"
            ),
        }
    }

    /// Writes it. Blocks.
    pub(super) fn save(&self) {
        let memory = self.board.devices.remember();
        if memory.devices.is_empty() && !self.directory.join(FILE).exists() {
            return;
        }
        let text = memory.text();
        if let Err(error) = replace(&self.directory, text.as_bytes()) {
            tracing::warn!(
                path = %self.directory.join(FILE).display(), %error,
                "cannot write what is known of the devices; the next start will not know who was here"
            );
        }
    }

    /// Keeps it up to date until the stop is asked for.
    pub(super) async fn keep(self: Arc<Self>, mut stop: Stop) {
        let commits = || self.board.spool.committed_bytes.get();
        let (mut seen, mut saved) = (commits(), Instant::now());
        loop {
            tokio::select! {
                () = sleep(LOOK) => {}
                () = stop.requested() => return,
            }
            self.board.devices.forget_gone(self.forget_after);
            if commits() != seen && saved.elapsed() >= PAUSE {
                (seen, saved) = (commits(), Instant::now());
                let this = self.clone();
                // Beside everything else: the disk may hang.
                let _ = tokio::task::spawn_blocking(move || this.save()).await;
            }
        }
    }
}

fn read(path: &Path) -> Result<Option<Vec<u8>>, String> {
    let flags = OFlags::NOFOLLOW.bits().cast_signed();
    let mut options = OpenOptions::new();
    let file = match options.read(true).custom_flags(flags).open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(|error| error.to_string())?,
    };
    let mut content = Vec::new();
    io::Read::read_to_end(&mut io::Read::take(file, LIMIT), &mut content)
        .map_err(|error| error.to_string())?;
    Ok(Some(content))
}

/// Puts a new content in the place of the old one at once, whenever the power goes.
fn replace(directory: &Path, content: &[u8]) -> io::Result<()> {
    let new = directory.join(format!("{FILE}.tmp"));
    // What a killed run has left; the spool's lock says that no other hub is at work here.
    let _ = fs::remove_file(&new);
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&new)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&new, directory.join(FILE))
}
