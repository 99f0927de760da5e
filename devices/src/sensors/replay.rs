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
    /// What times are divided by to be seconds; the first row tells.
    unit: Option<f64>,
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
    let read = || -> anyhow::Result<_> {
        let input = File::open(file).with_context(|| format!("cannot read {}", file.display()))?;
        let regular = input.metadata().is_ok_and(|meta| meta.is_file());
        let replay = Replay::new(BufReader::new(input), id, pace, batch);
        Ok((regular, replay.with_context(|| file.display().to_string())?))
    };
    let (regular, (mut whole, _)) = read()?;
    if !regular {
        // What can be read only once is judged as it comes.
        return Ok(read()?.1);
    }
    whole.check().with_context(|| file.display().to_string())?;
    Ok(read()?.1)
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
            unit: None,
            pace,
            batch,
            origin: None,
            ready: None,
            sent: 0,
            fault: fault.clone(),
        };
        Ok((replay, fault))
    }

    /// Reads to the end: whether all of it can be sent.
    fn check(&mut self) -> anyhow::Result<()> {
        self.pace = Pace::Asap;
        if self.read()?.is_none() {
            bail!("there is a header and no row below it");
        }
        while self.read()?.is_some() {}
        Ok(())
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
                let field = fields.next().map_or("", String::as_str);
                time_of(&row, field, self.rows.between(), &mut self.unit)?
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
            for (column, (name, field)) in (1..).zip(self.names.iter().zip(fields)) {
                let value = value_of(field.trim(), self.rows.between())
                    .map_err(|what| bad(&row, column + usize::from(self.timed), what))?;
                // An empty field is no reading.
                if let Some(value) = value {
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

/// Units in which a time may stand, and what makes seconds of it.
const UNITS: [f64; 4] = [1.0, 1e3, 1e6, 1e9];

/// Times from here on are later than the year 5138, or in a smaller unit.
const LAST: f64 = 1e11;

fn time_of(row: &Row, field: &str, between: char, unit: &mut Option<f64>) -> Result<f64, BadCsv> {
    let field = field.trim();
    let time = match pointed(field, between).parse::<f64>() {
        Ok(number) => {
            let fits = |unit: &&f64| number / **unit < LAST;
            let unit = *unit.get_or_insert_with(|| *UNITS.iter().find(fits).unwrap_or(&1.0));
            Some(number / unit)
        }
        Err(_) => timestamp::parse(field),
    };
    match time {
        Some(time) if (FIRST_ABSOLUTE..LAST).contains(&time) => Ok(time),
        Some(_) => Err(bad(
            row,
            1,
            format!(
                "`{field}` is not between July 1978, before which SenML knows no times, and the \
                 year 5138; all times of a file are in the unit of the first one"
            ),
        )),
        None => Err(bad(
            row,
            1,
            format!("`{field}` is no time: expected Unix seconds or 2026-01-31T12:00:00Z"),
        )),
    }
}

/// A number with a decimal comma as one with a point, where commas do not separate fields.
fn pointed(field: &str, between: char) -> String {
    if between != ',' && has_comma(field) {
        field.replace(',', ".")
    } else {
        field.to_owned()
    }
}

/// Digits, one comma, digits.
fn has_comma(field: &str) -> bool {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let unsigned = field.strip_prefix(['-', '+']).unwrap_or(field);
    let parts = unsigned.split_once(',');
    parts.is_some_and(|(whole, part)| digits(whole) && digits(part))
}

/// Digits with both a point and a comma: which one of them groups thousands nobody knows.
fn is_grouped(field: &str) -> bool {
    let known = |byte: u8| byte.is_ascii_digit() || b"-+.,".contains(&byte);
    field.contains('.') && field.contains(',') && field.bytes().all(known)
}

fn value_of(field: &str, between: char) -> Result<Option<Value>, String> {
    if field.is_empty() {
        return Ok(None);
    }
    if between == ',' && has_comma(field) {
        return Err(format!(
            "`{field}` has a decimal comma: write a point, or separate the fields by `;`"
        ));
    }
    if is_grouped(field) {
        return Err(format!(
            "`{field}` has a point and a comma: write the number with a decimal point alone"
        ));
    }
    let field = pointed(field, between);
    if let Ok(integer) = field.parse::<i64>()
        && integer.unsigned_abs() > EXACT
    {
        return Ok(Some(Value::Integer(integer)));
    }
    Ok(Some(match field.parse::<f64>() {
        Ok(number) if number.is_finite() => Value::Number(number),
        _ if field.eq_ignore_ascii_case("true") => Value::Bool(true),
        _ if field.eq_ignore_ascii_case("false") => Value::Bool(false),
        _ => Value::Text(field),
    }))
}

/// Up to here every integer is a double of its own.
const EXACT: u64 = 1 << 53;

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

    fn written(text: &str) -> anyhow::Result<Vec<(Option<f64>, Vec<Value>)>> {
        let file = tempfile::NamedTempFile::new()?;
        std::fs::write(file.path(), text)?;
        let (mut replay, _) = open(file.path(), "boat", Pace::Asap, 1)?;
        let mut rows = Vec::new();
        while let Some((_, pack)) = replay.read()? {
            let values = pack.records.into_iter().map(|record| record.value);
            rows.push((pack.base_time, values.collect()));
        }
        Ok(rows)
    }

    #[test]
    fn what_spreadsheets_write_is_read_as_it_was_meant() {
        let number = |n: f64| vec![Value::Number(n)];
        for (text, expected) in [
            ("time;t\n1700000000;20,5\n", (1.7e9, number(20.5))),
            ("time\tt\r\n1700000000\t-0,25\r\n", (1.7e9, number(-0.25))),
            (
                "time;t\n1700000000,5;20.5\n",
                (1_700_000_000.5, number(20.5)),
            ),
            ("time,t\n1700000000500,1\n", (1_700_000_000.5, number(1.0))),
            ("time,t\n1700000000000000,1\n", (1.7e9, number(1.0))),
            (
                "time,t\n1700000000,9007199254740993\n",
                (1.7e9, vec![Value::Integer(9_007_199_254_740_993)]),
            ),
        ] {
            let (time, values) = expected;
            assert_eq!(written(text).unwrap(), [(Some(time), values)], "{text:?}");
        }
    }

    #[test]
    fn what_would_be_sent_as_rubbish_is_refused_before_anything_is_sent() {
        for (text, why) in [
            ("time,t\n", "no row"),
            ("time,t\r1700000000,1\r1700000001,2\r", "tr '\\r' '\\n'"),
            ("time,t\n1700000000,\"20,5\"\n", "decimal comma"),
            ("time;t\n1700000000;1.234,5\n", "a point and a comma"),
            (
                "time,t\n1700000000,1\n1700000001000,2\n",
                "in the unit of the first",
            ),
            ("time,t\n1700000000,1\nlater,2\n", "is no time"),
        ] {
            let error = format!("{:#}", written(text).unwrap_err());
            assert!(error.contains(why), "{text:?}: {error}");
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
