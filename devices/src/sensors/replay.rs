//! A user's own data: a CSV file becomes a device. The header names the series; a first column
//! called `time` says when each row was taken.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use tokio::time::{Instant, sleep_until};

use super::csv::{BadCsv, Reader, Row};
use super::now;
use super::timestamp;
use crate::client::Source;
use crate::wire::senml::{Pack, Record, Value, name_of};

/// SenML takes times below this as relative to now (RFC 8428 §4.5.3).
const FIRST_ABSOLUTE: f64 = 268_435_456.0;

/// How fast the rows follow each other.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Pace {
    /// As they were taken, this many times faster. Rows without times: this many a second.
    Speed(f64),
    /// As soon as there is room.
    Asap,
}

/// Why a file could not be sent to its end, for whoever asked for it.
pub type Fault = Arc<Mutex<Option<String>>>;

/// The rows of a file, `batch` of them in a pack.
pub struct Replay<R> {
    rows: Reader<R>,
    base: Arc<str>,
    names: Vec<String>,
    timed: bool,
    pace: Pace,
    batch: usize,
    /// Time of the first row, and when it was sent.
    origin: Option<(f64, Instant)>,
    /// Read, but not due yet.
    ready: Option<(Instant, Pack)>,
    sent: u64,
    fault: Fault,
}

/// Opens a file and reads its header.
///
/// # Errors
/// When the file cannot be read or its header is of no use.
pub fn open(
    file: &Path,
    id: &str,
    pace: Pace,
    batch: usize,
) -> anyhow::Result<(Replay<BufReader<File>>, Fault)> {
    let input = File::open(file).with_context(|| format!("cannot read {}", file.display()))?;
    Replay::new(BufReader::new(input), id, pace, batch).with_context(|| file.display().to_string())
}

impl<R: BufRead> Replay<R> {
    fn new(input: R, id: &str, pace: Pace, batch: usize) -> anyhow::Result<(Self, Fault)> {
        let mut rows = Reader::new(input);
        let header = rows
            .row()?
            .ok_or_else(|| anyhow!("the file is empty; expected a header"))?;
        let timed = header.fields[0].trim().eq_ignore_ascii_case("time");
        let names: Vec<String> = header
            .fields
            .iter()
            .skip(usize::from(timed))
            .cloned()
            .collect();
        if names.is_empty() {
            bail!(
                "line {}: the header names no series beside `time`",
                header.line
            );
        }
        for (index, name) in names.iter().enumerate() {
            let column = index + 1 + usize::from(timed);
            if name.trim().is_empty() {
                bail!(
                    "line {}, column {column}: the series has no name",
                    header.line
                );
            }
            if names[..index]
                .iter()
                .any(|other| name_of(other) == name_of(name))
            {
                bail!(
                    "line {}, column {column}: a second series `{name}`",
                    header.line
                );
            }
        }
        let fault = Fault::default();
        let replay = Self {
            rows,
            base: format!("{}/", name_of(id)).into(),
            names: names.iter().map(|name| name_of(name)).collect(),
            timed,
            pace,
            batch,
            origin: None,
            ready: None,
            sent: 0,
            fault: fault.clone(),
        };
        Ok((replay, fault))
    }

    /// The next pack and when it is due; `None` at the end.
    fn read(&mut self) -> Result<Option<(Instant, Pack)>, BadCsv> {
        let mut pack: Option<(f64, Pack)> = None;
        let mut rows = 0;
        while rows < self.batch {
            let Some(row) = self.rows.row()? else {
                break;
            };
            let mut fields = row.fields.iter();
            let time = if self.timed {
                time_of(&row, fields.next().map_or("", String::as_str))?
            } else {
                now()
            };
            if fields.len() != self.names.len() {
                let what = format!(
                    "{} values, the header names {}",
                    fields.len(),
                    self.names.len()
                );
                return Err(bad(&row, row.fields.len(), what));
            }
            let (base, pack) =
                pack.get_or_insert_with(|| (time, Pack::new(self.base.clone(), Some(time))));
            for (name, field) in self.names.iter().zip(fields) {
                // An empty field is no reading.
                if let Some(value) = value_of(field.trim()) {
                    pack.records.push(Record {
                        name: name.clone().into(),
                        unit: None,
                        value,
                        // To the microsecond: the difference of two doubles is not exact.
                        time: ((time - *base) * 1e6).round() / 1e6,
                    });
                }
            }
            rows += 1;
        }
        let Some((time, pack)) = pack else {
            return Ok(None);
        };
        let due = self.due(time);
        self.sent += rows as u64;
        Ok(Some((due, pack)))
    }

    fn due(&mut self, time: f64) -> Instant {
        let speed = match self.pace {
            Pace::Asap => return Instant::now(),
            Pace::Speed(speed) => speed,
        };
        let (first, started) = *self.origin.get_or_insert((time, Instant::now()));
        let seconds = if self.timed {
            time - first
        } else {
            self.sent as f64
        };
        let wait = Duration::try_from_secs_f64(seconds / speed).unwrap_or_default();
        started + wait
    }
}

impl<R: BufRead + Send> Source for Replay<R> {
    async fn next(&mut self) -> Option<Pack> {
        loop {
            if self.ready.is_none() {
                match self.read() {
                    Ok(ready) => self.ready = Some(ready?),
                    Err(error) => {
                        let mut fault = self.fault.lock().unwrap_or_else(PoisonError::into_inner);
                        *fault = Some(error.to_string());
                        return None;
                    }
                }
            }
            let due = self.ready.as_ref().map(|(due, _)| *due)?;
            if due > Instant::now() {
                sleep_until(due).await;
            }
            let (_, pack) = self.ready.take()?;
            // A pack may not be empty, but rows may.
            if !pack.records.is_empty() {
                return Some(pack);
            }
        }
    }
}

fn bad(row: &Row, column: usize, what: impl Into<String>) -> BadCsv {
    BadCsv {
        line: row.line,
        column,
        what: what.into(),
    }
}

fn time_of(row: &Row, field: &str) -> Result<f64, BadCsv> {
    let field = field.trim();
    let time = match field.parse::<f64>() {
        Ok(seconds) => Some(seconds),
        Err(_) => timestamp::parse(field),
    };
    match time {
        Some(time) if (FIRST_ABSOLUTE..1e12).contains(&time) => Ok(time),
        Some(_) => Err(bad(
            row,
            1,
            format!("`{field}` is not after July 1978: SenML knows no earlier times"),
        )),
        None => Err(bad(
            row,
            1,
            format!("`{field}` is no time: expected Unix seconds or 2026-01-31T12:00:00Z"),
        )),
    }
}

fn value_of(field: &str) -> Option<Value> {
    if field.is_empty() {
        return None;
    }
    Some(match field.parse::<f64>() {
        Ok(number) if number.is_finite() => Value::Number(number),
        _ if field.eq_ignore_ascii_case("true") => Value::Bool(true),
        _ if field.eq_ignore_ascii_case("false") => Value::Bool(false),
        _ => Value::Text(field.to_owned()),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn replay(text: &'static str, pace: Pace, batch: usize) -> (Replay<&'static [u8]>, Fault) {
        Replay::new(text.as_bytes(), "boat", pace, batch).unwrap()
    }

    #[tokio::test]
    async fn rows_become_packs_with_their_own_times() {
        let text = "time,Air °C,door,note\n\
                    1700000000,20.5,true,\n\
                    2023-11-14T22:13:21.25Z,,FALSE,\"a, b\"\n\
                    1700000002,21,,\n";
        let (mut replay, fault) = replay(text, Pace::Asap, 2);
        let pack = replay.next().await.unwrap();
        assert_eq!(pack.base_time, Some(1_700_000_000.0));
        let got: Vec<_> = pack
            .records
            .iter()
            .map(|record| (record.name.as_ref(), record.value.clone(), record.time))
            .collect();
        assert_eq!(
            got,
            [
                ("Air__C", Value::Number(20.5), 0.0),
                ("door", Value::Bool(true), 0.0),
                ("door", Value::Bool(false), 1.25),
                ("note", Value::Text("a, b".into()), 1.25),
            ]
        );
        assert_eq!(
            replay.next().await.unwrap().base_time,
            Some(1_700_000_002.0)
        );
        assert_eq!(replay.next().await, None);
        assert_eq!(*fault.lock().unwrap(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn speed_shortens_the_time_between_rows() {
        let text = "time,a\n1700000000,1\n1700000060,2\n";
        let (mut replay, _) = replay(text, Pace::Speed(10.0), 1);
        let started = Instant::now();
        replay.next().await.unwrap();
        assert!(started.elapsed() < Duration::from_secs(1));
        replay.next().await.unwrap();
        let waited = started.elapsed().as_secs_f64();
        assert!((6.0..6.1).contains(&waited), "{waited}");
    }

    #[tokio::test]
    async fn a_fault_ends_it_with_line_and_column() {
        for (text, place) in [
            ("time,a\n1700000000,1\nyesterday,2\n", "line 3, column 1"),
            ("a,b\n1\n", "line 2, column 1"),
            ("a,b\n1,2,3\n", "line 2, column 3"),
            ("time,a\n12,1\n", "line 2, column 1"),
        ] {
            let (mut replay, fault) = replay(text, Pace::Asap, 1);
            while replay.next().await.is_some() {}
            let fault = fault.lock().unwrap().clone().unwrap();
            assert!(fault.starts_with(place), "{fault}");
        }
    }

    #[test]
    fn a_header_without_use_is_refused() {
        for text in ["", "time\n", "a,,b\n", "a,a\n", "a b,a_b\n"] {
            assert!(
                Replay::new(text.as_bytes(), "x", Pace::Asap, 1).is_err(),
                "{text:?}"
            );
        }
    }
}
