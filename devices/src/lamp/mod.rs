//! A lamp that takes commands: an actuator to try them on, with all the ways in which one can go.

mod bulb;

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Args;
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use self::bulb::{Bulb, Note, REMEMBERED, Wish};
use crate::args::{Common, Identity};
use crate::client::connect::{self, Refused, Socket};
use crate::client::{Full, Stop, Stopper};
use crate::sensors::on_interrupt;
use crate::wire::Encoding;
use crate::wire::cbor::{self, Writer};

/// Between two attempts to connect.
const PAUSE: Duration = Duration::from_secs(1);

/// `devices lamp`
#[derive(Debug, Args)]
pub struct LampArgs {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    identity: Identity,
    /// Write ids and results down here before and after each command: without it the lamp says
    /// that it remembers nothing, and is sent nothing a second time
    #[arg(long, value_name = "FILE")]
    memory: Option<PathBuf>,
}

/// Runs it until Ctrl-C.
///
/// # Errors
/// When there is no runtime, or the file cannot be read.
pub fn run(args: LampArgs) -> anyhow::Result<ExitCode> {
    let (id, token) = args.identity.resolve("lamp")?;
    let options = args.common.options(id, token, Full::Wait)?;
    let notes = match &args.memory {
        Some(path) => load(path)?,
        None => Vec::new(),
    };
    let mut lamp = Lamp {
        bulb: Bulb::restored(notes),
        memory: args.memory,
        encoding: options.encoding,
        id: options.id.clone(),
    };
    let request = || connect::request(&options.hub, &options.id, options.token.as_deref());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start")?;
    runtime.block_on(async {
        let (stopper, mut stop) = Stopper::new();
        on_interrupt(stopper);
        loop {
            let request = match request() {
                Ok(request) => request,
                Err(error) => bail!("{error}"),
            };
            let pause = match connect::connect(request, options.tls.clone()).await {
                Ok(socket) => {
                    if lamp.converse(socket, &mut stop).await? {
                        break;
                    }
                    PAUSE
                }
                Err(Refused::Never(text)) => bail!("{text}"),
                Err(Refused::Later(pause, text)) => {
                    eprintln!("{}: {text}", lamp.id);
                    pause.unwrap_or(PAUSE)
                }
            };
            tokio::select! {
                () = stop.wait() => break,
                () = tokio::time::sleep(pause) => {}
            }
        }
        // For whoever wants to know whether something was done twice.
        let twice = lamp
            .bulb
            .carried_out
            .values()
            .filter(|times| **times > 1)
            .count();
        println!(
            "{} commands carried out, {twice} of them more than once",
            lamp.bulb.carried_out.len()
        );
        Ok(if twice == 0 {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    })
}

struct Lamp {
    bulb: Bulb,
    memory: Option<PathBuf>,
    encoding: Encoding,
    id: String,
}

impl Lamp {
    /// One connection. `true`: it was asked to end.
    async fn converse(&mut self, mut socket: Socket, stop: &mut Stop) -> anyhow::Result<bool> {
        let remembers = if self.memory.is_some() { REMEMBERED } else { 0 };
        let hello = json!({"hello": {"model": "lamp", "remembers": remembers}});
        if socket.send(self.frame(&hello)).await.is_err() {
            return Ok(false);
        }
        loop {
            let mut wishes = Vec::new();
            let due = self.bulb.due();
            tokio::select! {
                () = stop.wait() => {
                    let _ = socket.close(None).await;
                    return Ok(true);
                }
                () = at(due) => self.bulb.tick(Instant::now(), &mut wishes),
                frame = socket.next() => match frame {
                    Some(Ok(Message::Binary(bytes))) => self.heard(Encoding::Cbor, &bytes, &mut wishes),
                    Some(Ok(Message::Text(text))) => {
                        self.heard(Encoding::Json, text.as_bytes(), &mut wishes);
                    }
                    // Its answer to a ping is queued, and flushed here.
                    Some(Ok(Message::Ping(_))) => {
                        if socket.flush().await.is_err() {
                            return Ok(false);
                        }
                    }
                    Some(Ok(Message::Close(close))) => {
                        eprintln!("{}: the hub closed the connection: {close:?}", self.id);
                        return Ok(false);
                    }
                    Some(Ok(_)) => {}
                    Some(Err(_)) | None => return Ok(false),
                },
            }
            for wish in wishes {
                match wish {
                    Wish::Save => self.save()?,
                    Wish::Say(message) => {
                        if socket.send(self.frame(&message)).await.is_err() {
                            return Ok(false);
                        }
                    }
                    Wish::HangUp => {
                        let _ = socket.close(None).await;
                        return Ok(false);
                    }
                }
            }
        }
    }

    fn heard(&mut self, encoding: Encoding, bytes: &[u8], wishes: &mut Vec<Wish>) {
        let message = match encoding {
            Encoding::Cbor => cbor::read(bytes).ok(),
            Encoding::Json => serde_json::from_slice(bytes).ok(),
        };
        let Some(Value::Object(message)) = message else {
            eprintln!("{}: a message that is no map", self.id);
            return;
        };
        for (kind, body) in message {
            match kind.as_str() {
                "welcome" => self.bulb.welcomed(wishes),
                "desired" => {
                    eprintln!("{}: is to be {body}", self.id);
                    self.bulb.desired(&body, wishes);
                }
                "command" => {
                    eprintln!("{}: {}", self.id, body["name"]);
                    self.bulb.command(Instant::now(), &body, wishes);
                }
                "ack" | "reject" => {
                    if let Some(id) = body["result"].as_str() {
                        self.bulb.settled(id, wishes);
                    }
                }
                _ => {}
            }
        }
    }

    fn frame(&self, message: &Value) -> Message {
        match self.encoding {
            Encoding::Json => Message::text(message.to_string()),
            Encoding::Cbor => {
                let mut out = Writer::default();
                out.json(message);
                Message::binary(out.into_bytes())
            }
        }
    }

    fn save(&self) -> anyhow::Result<()> {
        let Some(path) = &self.memory else {
            return Ok(());
        };
        let notes: Vec<Value> = self
            .bulb
            .notes()
            .map(|note| json!([note.id, note.name, note.result, note.safe]))
            .collect();
        save(path, &json!(notes)).with_context(|| format!("cannot write {}", path.display()))
    }
}

/// Replaces the file as one step that survives a power cut.
fn save(path: &Path, notes: &Value) -> std::io::Result<()> {
    let new = path.with_extension("new");
    let mut file = File::create(&new)?;
    file.write_all(notes.to_string().as_bytes())?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    match path.parent().filter(|parent| *parent != Path::new("")) {
        Some(parent) => File::open(parent)?.sync_all(),
        None => File::open(".")?.sync_all(),
    }
}

fn load(path: &Path) -> anyhow::Result<Vec<Note>> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    let notes: Vec<(String, String, Option<Value>, bool)> = serde_json::from_slice(&text)
        .with_context(|| format!("{} is not a lamp's memory", path.display()))?;
    let note = |(id, name, result, safe)| Note {
        id,
        name,
        result,
        safe,
    };
    Ok(notes.into_iter().map(note).collect())
}

async fn at(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}
