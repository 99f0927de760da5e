//! What arrived at the broker, and whether it is what was acked. Pure.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

/// Names of a device that are shown with their last value.
const SHOWN: usize = 2;

/// Where a hub that speaks MQTT 3.1.1 asks the broker whether it delivers; no device's id.
const PROBE: &str = "_probe";

/// Everything that arrived.
#[derive(Debug, Default)]
pub struct Ledger {
    /// The subscription stands: from now on nothing is missed.
    pub listening: bool,
    /// The hub's own status.
    pub hub: String,
    /// By id.
    pub devices: BTreeMap<String, Arrived>,
    /// Messages that could not be read.
    pub unreadable: u64,
}

/// What arrived of one device.
#[derive(Debug, Default)]
pub struct Arrived {
    /// Its status.
    pub status: String,
    /// Batches on `data`.
    pub data: u64,
    /// Batches on `history`.
    pub history: u64,
    /// Batches that gap records account for.
    pub gaps: u64,
    /// Batches that came again.
    pub twice: u64,
    /// Readings, each batch once.
    pub readings: u64,
    /// Numbers that arrived or are accounted for, by stream.
    seqs: BTreeMap<String, BTreeSet<u64>>,
    last: BTreeMap<String, String>,
}

impl Ledger {
    /// Enters one message.
    pub fn received(&mut self, topic: &str, payload: &[u8]) {
        let levels: Vec<&str> = topic.split('/').collect();
        if levels.contains(&PROBE) {
            return;
        }
        let Ok(message) = serde_json::from_slice::<Value>(payload) else {
            self.unreadable += 1;
            return;
        };
        let understood = match levels[..] {
            [_, _, "status"] => {
                self.hub = message["state"].as_str().unwrap_or("?").to_owned();
                Some(())
            }
            [_, _, device, kind] => {
                let device = self.devices.entry(device.to_owned()).or_default();
                device.received(kind, &message)
            }
            _ => Some(()),
        };
        if understood.is_none() {
            self.unreadable += 1;
        }
    }
}

impl Arrived {
    fn received(&mut self, kind: &str, message: &Value) -> Option<()> {
        match kind {
            "data" | "history" => {
                let stream = message["stream"].as_str()?;
                let seq = message["seq"].as_u64()?;
                let pack = message["pack"].as_array()?;
                if kind == "data" {
                    self.data += 1;
                } else {
                    self.history += 1;
                }
                if self.seqs.entry(stream.to_owned()).or_default().insert(seq) {
                    self.readings += pack.len() as u64;
                } else {
                    self.twice += 1;
                }
                for record in pack {
                    self.last
                        .insert(record["n"].as_str()?.to_owned(), shown(record));
                }
            }
            "gap" => {
                self.gaps += message["batches"].as_u64()?;
                let stream = message["stream"].as_str()?;
                if let (Some(from), Some(to)) = (message["from"].as_u64(), message["to"].as_u64()) {
                    self.seqs
                        .entry(stream.to_owned())
                        .or_default()
                        .extend(from..=to);
                }
            }
            "status" => {
                let (state, reason) = (message["state"].as_str()?, message["reason"].as_str()?);
                self.status = format!("{state}, {reason}");
            }
            _ => {}
        }
        Some(())
    }

    /// The numbers from 1 to `last` of a stream that have neither arrived nor are accounted for.
    #[must_use]
    pub fn missing(&self, stream: &str, last: u64) -> Vec<u64> {
        let none = BTreeSet::new();
        let seqs = self.seqs.get(stream).unwrap_or(&none);
        (1..=last).filter(|seq| !seqs.contains(seq)).collect()
    }

    /// A few last values, for a person.
    #[must_use]
    pub fn last(&self) -> String {
        let mut values: Vec<&str> = self.last.values().map(String::as_str).collect();
        values.truncate(SHOWN);
        values.join(", ")
    }
}

fn shown(record: &Value) -> String {
    let name = record["n"].as_str().unwrap_or_default();
    let name = name.split_once('/').map_or(name, |(_, name)| name);
    if let (Some("B"), Some(bytes)) = (record["u"].as_str(), record["v"].as_f64()) {
        return format!("{name} {:.1} MB", bytes / 1e6);
    }
    let value = match (&record["v"], &record["vs"], &record["vb"]) {
        (Value::Number(value), ..) => value.to_string(),
        (_, Value::String(value), _) => value.clone(),
        (.., Value::Bool(value)) => value.to_string(),
        _ => "?".to_owned(),
    };
    let unit = match record["u"].as_str() {
        Some("Cel") => " °C",
        Some("/" | "1") | None => "",
        Some(unit) => &format!(" {unit}"),
    };
    format!("{name} {value}{unit}")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn batch(seq: u64) -> Vec<u8> {
        json!({"device": "t", "stream": "s", "seq": seq, "received": 1.5, "pack": [
            {"n": "t/temperature", "u": "Cel", "v": 21.5, "t": 1.5}
        ]})
        .to_string()
        .into_bytes()
    }

    #[test]
    fn batches_count_once_and_gaps_account_for_theirs() {
        let mut ledger = Ledger::default();
        ledger.received("telehub/demo/t/data", &batch(1));
        ledger.received("telehub/demo/t/history", &batch(2));
        ledger.received("telehub/demo/t/history", &batch(1));
        let gap = json!({"device": "t", "stream": "s", "from": 4, "to": 5, "batches": 2,
            "readings": 2, "reason": "overflow", "time": 1.5});
        ledger.received("telehub/demo/t/gap", gap.to_string().as_bytes());
        let device = &ledger.devices["t"];
        assert_eq!((device.data, device.history, device.gaps), (1, 2, 2));
        assert_eq!((device.twice, device.readings), (1, 2));
        assert_eq!(device.missing("s", 6), [3, 6]);
        assert_eq!(device.missing("other", 1), [1]);
        assert_eq!(device.last(), "temperature 21.5 °C");
    }

    #[test]
    fn what_cannot_be_read_is_counted() {
        let mut ledger = Ledger::default();
        ledger.received("telehub/demo/t/data", b"{");
        ledger.received("telehub/demo/t/data", b"{}");
        assert_eq!(ledger.unreadable, 2);
    }
}
