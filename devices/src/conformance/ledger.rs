//! What the device has sent under which number, what became of it, and what it did wrong. Pure.

use std::collections::{BTreeSet, HashMap, HashSet};

use serde_json::Value;

/// Content as the contract defines it: resolved names, units and values in order; no times.
pub type Content = Vec<(String, String, String)>;

/// Faults that are kept; a device that does one thing wrong ten thousand times has done it.
const MAX_FAULTS: usize = 20;

/// Name of the readings that are counted.
const COUNT: &str = "count";

/// One batch as it came.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// Its number.
    pub seq: u64,
    /// Numbers of the readings in it.
    pub readings: Vec<u64>,
    /// All of it but the times.
    pub content: Content,
}

impl Batch {
    /// Reads the body of a `data` message, whose keys are text (integer labels as decimal text).
    ///
    /// # Errors
    /// One sentence.
    pub fn read(body: &Value) -> Result<Self, String> {
        let seq = number(&body["seq"]).ok_or("`data` has no unsigned integer `seq`")?;
        if seq == 0 {
            return Err("`data` has the number 0; numbers begin at 1".into());
        }
        let pack = body["pack"]
            .as_array()
            .ok_or("`data` has no array `pack`")?;
        let content = resolve(pack)?;
        let readings = content
            .iter()
            .filter(|(name, ..)| name.ends_with(COUNT))
            .filter_map(|(_, _, value)| value.parse::<f64>().ok())
            .map(|value| value as u64)
            .collect();
        Ok(Self {
            seq,
            readings,
            content,
        })
    }
}

/// An unsigned integer, or a float that is exactly one.
fn number(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| {
        let float = value.as_f64()?;
        (float >= 0.0 && float.fract() == 0.0).then_some(float as u64)
    })
}

/// Names, units and values with the base fields applied (RFC 8428 §4.6).
fn resolve(pack: &[Value]) -> Result<Content, String> {
    let (mut base_name, mut base_unit) = (String::new(), String::new());
    let mut content = Vec::with_capacity(pack.len());
    for record in pack {
        let record = record
            .as_object()
            .ok_or("a record of a pack is not a map")?;
        let field = |text: &str, label: &str| record.get(text).or_else(|| record.get(label));
        let text = |text: &str, label: &str| {
            let value = field(text, label)?.as_str()?;
            Some(value.to_owned())
        };
        base_name = text("bn", "-2").unwrap_or(base_name);
        base_unit = text("bu", "-4").unwrap_or(base_unit);
        let name = format!("{base_name}{}", text("n", "0").unwrap_or_default());
        let unit = text("u", "1").unwrap_or_else(|| base_unit.clone());
        let value = match field("v", "2") {
            Some(Value::Number(number)) => number.as_f64().unwrap_or(f64::NAN).to_string(),
            Some(Value::Null) => "null".into(),
            _ => {
                let other = field("vs", "3").or(field("vb", "4")).or(field("vd", "8"));
                other.ok_or("a record has no value")?.to_string()
            }
        };
        content.push((name, unit, value));
    }
    Ok(content)
}

/// The judge's memory of one scenario.
#[derive(Debug, Default)]
pub struct Ledger {
    sent: HashMap<(String, u64), Batch>,
    /// The highest number seen of each stream.
    highest: HashMap<String, u64>,
    /// Readings that the hub called safe.
    safe: BTreeSet<u64>,
    /// The highest safe number of each stream.
    marks: HashMap<String, u64>,
    /// Batches that were rejected, and are therefore not safe by an ack of a higher number.
    untaken: HashSet<(String, u64)>,
    refused: BTreeSet<u64>,
    dropped: BTreeSet<u64>,
    /// What the device did wrong, in sentences.
    pub faults: Vec<String>,
}

impl Ledger {
    /// Notes a fault once.
    pub fn fault(&mut self, what: String) {
        if self.faults.len() < MAX_FAULTS && !self.faults.contains(&what) {
            self.faults.push(what);
        }
    }

    /// Takes a batch and says whether it has come before.
    pub fn took(&mut self, stream: &str, batch: &Batch) -> bool {
        let key = (stream.to_owned(), batch.seq);
        if let Some(before) = self.sent.get(&key) {
            let same = before.content == batch.content;
            if !same {
                let (old, new) = (before.readings.clone(), batch.readings.clone());
                self.fault(format!(
                    "number {} of stream {stream} was used for readings {old:?} and again for \
                     {new:?}: no number may be used for other content",
                    batch.seq
                ));
            }
            return true;
        }
        for reading in &batch.readings {
            if self.safe.contains(reading) {
                self.fault(format!(
                    "reading {reading} was acked, and came again as number {} of stream {stream}",
                    batch.seq
                ));
            }
        }
        self.sent.insert(key, batch.clone());
        let highest = self.highest.entry(stream.to_owned()).or_default();
        *highest = (*highest).max(batch.seq);
        false
    }

    /// Checks `next` of a hello: no number from it on may have been used.
    pub fn next(&mut self, stream: &str, next: u64) {
        let highest = self.highest.get(stream).copied().unwrap_or(0);
        if next <= highest {
            self.fault(format!(
                "`hello` says next {next}, but number {highest} of stream {stream} was used"
            ));
        }
    }

    /// Every batch of the stream up to `seq` is safe, by an ack or a welcome.
    pub fn safe(&mut self, stream: &str, seq: u64) {
        for ((of, number), batch) in &self.sent {
            if of == stream && *number <= seq && !self.untaken.contains(&(of.clone(), *number)) {
                self.safe.extend(&batch.readings);
            }
        }
        let mark = self.marks.entry(stream.to_owned()).or_default();
        *mark = (*mark).max(seq);
    }

    /// The hub did not take this batch, although numbers above it may be safe.
    pub fn forget(&mut self, stream: &str, seq: u64) {
        self.untaken.insert((stream.to_owned(), seq));
    }

    /// The highest safe number of a stream.
    #[must_use]
    pub fn mark(&self, stream: &str) -> u64 {
        self.marks.get(stream).copied().unwrap_or(0)
    }

    /// Whether the stream was seen before.
    #[must_use]
    pub fn knows(&self, stream: &str) -> bool {
        self.highest.contains_key(stream)
    }

    /// The hub refused these for good.
    pub fn refused(&mut self, readings: &[u64]) {
        self.refused.extend(readings);
    }

    /// The device said that it dropped these.
    pub fn dropped(&mut self, first: u64, last: u64) {
        // A wild range must not cost the harness its memory.
        if first > last || last - first > 1_000_000 {
            self.fault(format!("`drop {first} {last}` is no range of readings"));
            return;
        }
        self.dropped.extend(first..=last);
    }

    /// How many readings were said to be dropped.
    #[must_use]
    pub fn drops(&self) -> usize {
        self.dropped.len()
    }

    /// Readings that are safe.
    #[must_use]
    pub fn safe_readings(&self) -> usize {
        self.safe.len()
    }

    /// Whether a reading is safe.
    #[must_use]
    pub fn is_safe(&self, reading: u64) -> bool {
        self.safe.contains(&reading)
    }

    /// At the end: each reading is safe, refused, or was reported as dropped.
    pub fn complete(&mut self, first: u64, count: u64) {
        let lost: Vec<u64> = (first..first + count)
            .filter(|reading| {
                !self.safe.contains(reading)
                    && !self.dropped.contains(reading)
                    && !self.refused.contains(reading)
            })
            .collect();
        if !lost.is_empty() {
            let some = &lost[..lost.len().min(10)];
            self.fault(format!(
                "{} readings were lost without a word, among them {some:?}",
                lost.len()
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::json;

    use super::*;

    fn batch(seq: u64, value: u64) -> Batch {
        Batch::read(&json!({"seq": seq, "pack": [{"n": "count", "v": value}]})).unwrap()
    }

    #[test]
    fn a_number_with_other_content_is_a_fault_and_a_resend_is_not() {
        let mut ledger = Ledger::default();
        assert!(!ledger.took("s", &batch(1, 1)));
        assert!(ledger.took("s", &batch(1, 1)));
        assert!(ledger.faults.is_empty());
        ledger.took("t", &batch(1, 2));
        assert!(
            ledger.faults.is_empty(),
            "another stream has its own numbers"
        );
        ledger.took("s", &batch(1, 2));
        assert!(
            ledger.faults[0].contains("number 1 of stream s"),
            "{:?}",
            ledger.faults
        );
    }

    #[test]
    fn what_is_neither_safe_nor_refused_nor_reported_is_lost() {
        let mut ledger = Ledger::default();
        for reading in 1..=4 {
            ledger.took("s", &batch(reading, reading));
        }
        ledger.safe("s", 2);
        ledger.refused(&[3]);
        ledger.dropped(5, 5);
        ledger.complete(1, 5);
        assert_eq!(ledger.faults.len(), 1);
        assert!(ledger.faults[0].contains("[4]"), "{:?}", ledger.faults);
    }

    #[test]
    fn an_acked_reading_under_a_new_number_is_a_fault() {
        let mut ledger = Ledger::default();
        ledger.took("s", &batch(1, 1));
        ledger.safe("s", 1);
        ledger.took("s", &batch(2, 1));
        assert!(
            ledger.faults[0].contains("came again"),
            "{:?}",
            ledger.faults
        );
    }

    #[test]
    fn next_at_or_below_a_used_number_is_a_fault() {
        let mut ledger = Ledger::default();
        ledger.took("s", &batch(7, 1));
        ledger.next("s", 8);
        ledger.next("t", 1);
        assert!(ledger.faults.is_empty());
        ledger.next("s", 7);
        assert_eq!(ledger.faults.len(), 1);
    }

    #[test]
    fn base_fields_and_integer_labels_are_resolved() {
        let content = resolve(&[
            json!({"-2": "a/", "-4": "Cel", "0": "x", "2": 1}),
            json!({"n": "count", "u": "V", "v": 2.0}),
            json!({"n": "on", "vb": true, "t": 5}),
        ])
        .unwrap();
        let text = |a: &str, b: &str, c: &str| (a.to_owned(), b.to_owned(), c.to_owned());
        let expected = [
            text("a/x", "Cel", "1"),
            text("a/count", "V", "2"),
            text("a/on", "Cel", "true"),
        ];
        assert_eq!(content, expected);
    }
}
