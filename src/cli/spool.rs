//! `telehub spool`: what a stopped hub still has to publish. Nothing in the spool is changed.

use std::fs::{self, DirBuilder};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail};
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use telehub::clock::{self, unix_now};
use telehub::config::{self, Format};
use telehub::plain;
use telehub::protocol::payload;
use telehub::reading::{Batch, Encoding, Item, Moment, Reply};
use telehub::spool::{self, Each, Inspection};

use super::page::{bytes, span};
use super::{ConfigFile, Failure};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Print how much is stored, in all and for each device
    #[command(after_help = "\
Example:
  telehub spool stat --config /etc/telehub/telehub.toml")]
    Stat(Arguments),
    /// Print every stored batch and gap record, oldest first, as JSON lines
    #[command(after_help = "\
Example:
  telehub spool export > batches.jsonl")]
    Export(Arguments),
    /// Read everything that is stored and compare the checksums
    #[command(after_help = "\
Example:
  telehub spool verify --json")]
    Verify(Arguments),
}

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    file: ConfigFile,
    /// Print one JSON map instead of a page of text; an export is JSON lines in any case
    #[arg(short, long)]
    json: bool,
}

/// Does it.
///
/// # Errors
/// The configuration cannot be used; the spool cannot be read, or is damaged. What can be read
/// has been printed by then.
pub(super) fn execute(command: &Command) -> Result<(), Failure> {
    let (Command::Stat(arguments) | Command::Export(arguments) | Command::Verify(arguments)) =
        command;
    let path = config::load_alone(&arguments.file.config)
        .map_err(Failure::Config)?
        .config
        .spool
        .path;
    let mut out = BufWriter::new(io::stdout().lock());
    let found = match command {
        Command::Stat(_) => inspect(&path, None)?,
        Command::Export(_) => {
            let mut print = |group: spool::Group| {
                let id = group.id.0;
                let lines = group.items.iter().map(|item| line(id, item));
                lines.into_iter().try_for_each(|line| {
                    let text = String::from_utf8_lossy(&line);
                    writeln!(out, "{}", plain::json(&text))
                })
            };
            inspect(&path, Some(&mut print))?
        }
        Command::Verify(_) => inspect(&path, Some(&mut |_| Ok(())))?,
    };
    match command {
        Command::Export(_) => {}
        _ if arguments.json => {
            writeln!(out, "{}", plain::json(&report(&path, &found).to_string()))?;
        }
        Command::Stat(_) => out.write_all(page(&path, &found, unix_now()).as_bytes())?,
        Command::Verify(_) => out.write_all(findings(&found).as_bytes())?,
    }
    out.flush()?;
    Ok(verdict(&path, &found)?)
}

fn inspect(path: &Path, each: Option<Each<'_>>) -> anyhow::Result<Inspection> {
    let scratch = Scratch::new().with_context(|| {
        format!(
            "cannot make a directory in {}; set TMPDIR to one that can be written",
            std::env::temp_dir().display()
        )
    })?;
    spool::inspect(path, &scratch.0, each).map_err(|error| {
        let path = path.display();
        match error.kind() {
            // Whoever reads our output has read enough; the caller knows that by its type.
            io::ErrorKind::BrokenPipe => error.into(),
            io::ErrorKind::ResourceBusy => anyhow!(
                "the spool {path} is in use by a running hub; stop the hub first: systemctl stop telehub"
            ),
            io::ErrorKind::Unsupported => anyhow!(
                "the spool {path} was written by a newer telehub ({error}); use that one"
            ),
            io::ErrorKind::NotADirectory => {
                anyhow!("{path} is not a directory; correct spool.path")
            }
            io::ErrorKind::PermissionDenied => anyhow!(
                "the spool {path} cannot be read ({error}); run this as root or as the hub's user"
            ),
            io::ErrorKind::StorageFull => anyhow!(
                "no space left for copies in {}; set TMPDIR to a directory with 16 MiB free",
                std::env::temp_dir().display()
            ),
            _ => anyhow!("the spool {path} cannot be read: {error}"),
        }
    })
}

/// A directory for copies, for our eyes only, that goes with the value.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> io::Result<Self> {
        let name = format!("telehub-spool-{}", std::process::id());
        let mut number = 0;
        loop {
            let path = std::env::temp_dir().join(format!("{name}-{number}"));
            match DirBuilder::new().mode(0o700).create(&path) {
                // Left by a process of the same number.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => number += 1,
                made => return made.map(|()| Self(path)),
            }
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// An item as a line of JSON: what the broker would get, with the group that it is stored in.
fn line(group: u64, item: &Item) -> Vec<u8> {
    let (head, payload) = match item {
        Item::Batch(batch) => {
            let batch = Batch {
                received: clock::corrected(batch.received),
                ..batch.clone()
            };
            match payload::encode_batch(&batch, Format::Json) {
                Ok(payload) => (head(group, &batch), payload),
                Err(error) => return unreadable(group, &batch, &error.to_string()),
            }
        }
        Item::Gap(gap) => (
            format!("{{\"group\":{group},"),
            payload::encode_gap(gap, Format::Json),
        ),
        Item::Reply(reply) => return result_line(group, reply),
    };
    // Both are maps with at least one entry: one goes on where the other begins.
    let mut line = head.into_bytes();
    line.extend_from_slice(payload.strip_prefix(b"{").unwrap_or(&payload));
    line
}

/// The final answer to a command: where it goes, and what it says.
fn result_line(group: u64, reply: &Reply) -> Vec<u8> {
    let result: serde_json::Value = match reply.encoding {
        Encoding::Json => serde_json::from_slice(&reply.payload).unwrap_or_default(),
        Encoding::Cbor => serde_cbor::from_slice(&reply.payload).unwrap_or_default(),
    };
    let line = json!({
        "group": group, "device": reply.device, "name": reply.name, "topic": reply.topic,
        "result": result,
    });
    line.to_string().into_bytes()
}

/// What the broker is not told. With boot and uptime a person who knows when that boot began can
/// work out times that the hub could not.
fn head(group: u64, batch: &Batch) -> String {
    let mut head = format!("{{\"group\":{group},\"readings\":{},", batch.readings);
    let Moment {
        boot,
        uptime,
        synced,
        ..
    } = batch.received;
    if !synced {
        head += &format!("\"boot\":\"{boot}\",\"uptime\":{uptime:.3},");
    }
    head
}

/// A batch whose checksum holds and whose frame is not one that this version understands.
fn unreadable(group: u64, batch: &Batch, error: &str) -> Vec<u8> {
    let map = json!({
        "group": group, "device": *batch.device, "stream": *batch.stream, "seq": batch.seq,
        "received": batch.received.wall, "readings": batch.readings, "error": error,
    });
    map.to_string().into_bytes()
}

/// Streams of one device, which stand together.
fn devices(found: &Inspection) -> impl Iterator<Item = &[spool::StreamDepth]> {
    found.streams.chunk_by(|a, b| a.device == b.device)
}

fn report(path: &Path, found: &Inspection) -> Value {
    let devices: Vec<_> = devices(found)
        .map(|streams| {
            let of_device: Vec<_> = streams
                .iter()
                .map(|stream| {
                    json!({
                        "stream": *stream.stream, "from": stream.from, "to": stream.to,
                        "batches": stream.batches, "readings": stream.readings,
                    })
                })
                .collect();
            json!({
                "id": *streams[0].device,
                "batches": streams.iter().map(|stream| stream.batches).sum::<u64>(),
                "readings": streams.iter().map(|stream| stream.readings).sum::<u64>(),
                "streams": of_device,
            })
        })
        .collect();
    json!({
        "path": path,
        "state": if found.faults.is_empty() { "ok" } else { "damaged" },
        "batches": found.depth.batches, "readings": found.depth.readings, "gaps": found.gaps,
        "results": found.replies,
        "groups": found.depth.groups, "disk_bytes": found.usage.disk_bytes,
        "oldest": found.depth.oldest, "devices": devices, "faults": found.faults,
        "set_aside": found.set_aside, "foreign": found.foreign,
    })
}

/// The state as an aligned page. `now`: Unix seconds.
fn page(path: &Path, found: &Inspection, now: f64) -> String {
    let depth = &found.depth;
    let mut page = format!("spool    {}\n", path.display());
    page += &format!(
        "stored   {} batches, {} readings, {} gap records\n",
        depth.batches, depth.readings, found.gaps
    );
    if found.replies > 0 {
        page += &format!("results  {} of commands\n", found.replies);
    }
    page += &format!("on disk  {}\n", bytes(found.usage.disk_bytes));
    if let Some(oldest) = depth.oldest {
        page += &format!("oldest   {} ago\n", span(now - oldest));
    }
    page += &remarks(found);
    let heading = ["device", "stream", "batches", "readings", "from", "to"];
    let mut rows = vec![heading.map(str::to_owned)];
    let number = |seq: Option<u64>| seq.map_or_else(|| "-".to_owned(), |seq| seq.to_string());
    rows.extend(found.streams.iter().map(|stream| {
        [
            plain::text(&stream.device),
            plain::text(&stream.stream),
            stream.batches.to_string(),
            stream.readings.to_string(),
            number(stream.from),
            number(stream.to),
        ]
    }));
    if rows.len() > 1 {
        page.push('\n');
        page += &aligned(&rows);
    }
    page
}

/// The first two columns to the left, numbers to the right.
fn aligned(rows: &[[String; 6]]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.max().unwrap_or(0)
    };
    let widths: [usize; 6] = std::array::from_fn(width);
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().zip(widths).enumerate();
        let cells: Vec<_> = cells
            .map(|(column, (cell, width))| match column {
                0 | 1 => format!("{cell:<width$}"),
                _ => format!("{cell:>width$}"),
            })
            .collect();
        text += cells.join("  ").trim_end();
        text.push('\n');
    }
    text
}

fn remarks(found: &Inspection) -> String {
    let lines = |what: &str, entries: Vec<String>| {
        let lines = entries
            .into_iter()
            .map(|entry| format!("{what:<8} {}\n", plain::text(&entry)));
        lines.collect::<String>()
    };
    let paths = |paths: &[PathBuf]| {
        let paths = paths.iter().map(|path| path.display().to_string());
        paths.collect::<Vec<_>>()
    };
    lines("damaged", found.faults.clone())
        + &lines("aside", paths(&found.set_aside))
        + &lines("foreign", paths(&found.foreign))
}

/// The final answers to commands, where there are some.
fn results(found: &Inspection) -> String {
    match found.replies {
        0 => String::new(),
        replies => format!(", {replies} results of commands"),
    }
}

fn findings(found: &Inspection) -> String {
    let depth = &found.depth;
    let mut text = remarks(found);
    if found.faults.is_empty() {
        text += &format!(
            "every checksum holds: {} batches, {} readings, {} gap records{} in {} groups\n",
            depth.batches,
            depth.readings,
            found.gaps,
            results(found),
            depth.groups
        );
    }
    text
}

fn verdict(path: &Path, found: &Inspection) -> anyhow::Result<()> {
    if found.faults.is_empty() {
        return Ok(());
    }
    bail!(
        "the spool {} is damaged ({} faults; telehub spool verify lists them); start the hub: it sets the damaged parts aside, \
         keeps what is whole and publishes gap records for the rest",
        path.display(),
        found.faults.len()
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use telehub::spool::{Depth, StreamDepth};

    use super::*;

    fn stream(device: &str, stream: &str, batches: u64) -> StreamDepth {
        StreamDepth {
            device: device.into(),
            stream: stream.into(),
            from: Some(1),
            to: None,
            batches,
            readings: 10 * batches,
        }
    }

    fn found() -> Inspection {
        Inspection {
            depth: Depth {
                replies: 0,
                groups: 2,
                batches: 112,
                readings: 1_120,
                oldest: Some(100.0),
            },
            streams: vec![
                stream("a", "x", 7),
                stream("a", "y", 5),
                stream("b\u{7}", "x", 100),
            ],
            ..Inspection::default()
        }
    }

    #[test]
    fn the_page_is_aligned_and_safe_to_print() {
        let page = page(Path::new("/s"), &found(), 160.0);
        let expected = "\
spool    /s
stored   112 batches, 1120 readings, 0 gap records
on disk  0 B
oldest   1m 0s ago

device  stream  batches  readings  from  to
a       x             7        70     1   -
a       y             5        50     1   -
b?      x           100      1000     1   -
";
        assert_eq!(page, expected);
    }

    #[test]
    fn the_report_sums_up_each_device() {
        let report = report(Path::new("/s"), &found());
        assert_eq!(report["devices"][0]["batches"], 12);
        assert_eq!(report["devices"][0]["streams"][1]["stream"], "y");
        assert_eq!(report["devices"].as_array().unwrap().len(), 2);
        assert_eq!(report["state"], "ok");
    }

    #[test]
    fn damage_is_a_failure_that_says_what_happens_next() {
        assert!(verdict(Path::new("/s"), &found()).is_ok());
        let damaged = Inspection {
            faults: vec!["x".into()],
            ..found()
        };
        let sentence = verdict(Path::new("/s"), &damaged).unwrap_err().to_string();
        assert!(sentence.contains("start the hub"), "{sentence}");
    }
}
