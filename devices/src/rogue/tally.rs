//! What the hub did about the rogues.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde_json::{Value, json};

type Counts = BTreeMap<String, u64>;

/// Counts of one run.
#[derive(Debug, Default)]
pub struct Tally {
    /// TCP connections made.
    pub connections: u64,
    /// TCP connections that did not come about.
    pub unreachable: u64,
    /// HTTP statuses.
    pub answers: Counts,
    /// Close codes, with their reasons.
    pub closes: Counts,
    /// Connections that ended without a close frame.
    pub cut: u64,
    /// Connections that the rogue itself ended, or that were open when the time was up.
    pub left_open: u64,
    /// Codes of rejects.
    pub rejects: Counts,
    /// Acks.
    pub acks: u64,
    /// Commands of the hub.
    pub commands: u64,
    /// Results that it says are safe.
    pub results: u64,
    /// Pings of the hub.
    pub pings: u64,
    /// What no hub may send.
    pub violations: Counts,
}

/// Counts one.
pub fn count(counts: &mut Counts, what: impl Into<String>) {
    *counts.entry(what.into()).or_default() += 1;
}

impl Tally {
    /// In one line.
    #[must_use]
    pub fn text(&self) -> String {
        let mut out = format!("{} connections", self.connections);
        let number = |out: &mut String, name: &str, count: u64| {
            if count > 0 {
                let _ = write!(out, "; {name} {count}");
            }
        };
        let several = |out: &mut String, name: &str, counts: &Counts| {
            for (index, (what, count)) in counts.iter().enumerate() {
                let name = if index == 0 {
                    format!("; {name}")
                } else {
                    ",".into()
                };
                let _ = write!(out, "{name} {what} × {count}");
            }
        };
        number(&mut out, "unreachable", self.unreachable);
        several(&mut out, "HTTP", &self.answers);
        several(&mut out, "closed", &self.closes);
        number(&mut out, "cut off", self.cut);
        number(&mut out, "left open", self.left_open);
        several(&mut out, "rejected", &self.rejects);
        number(&mut out, "acks", self.acks);
        number(&mut out, "commands", self.commands);
        number(&mut out, "results acked", self.results);
        number(&mut out, "pings", self.pings);
        several(&mut out, "VIOLATIONS", &self.violations);
        out
    }

    /// For scripts. `run`: a map of what was asked for, which comes first.
    #[must_use]
    pub fn json(&self, mut run: Value) -> Value {
        let counts = json!({
            "connections": self.connections,
            "unreachable": self.unreachable,
            "answers": self.answers,
            "closes": self.closes,
            "cut": self.cut,
            "left_open": self.left_open,
            "rejects": self.rejects,
            "acks": self.acks,
            "commands": self.commands,
            "results": self.results,
            "pings": self.pings,
            "violations": self.violations,
        });
        if let (Value::Object(run), Value::Object(counts)) = (&mut run, counts) {
            run.extend(counts);
        }
        run
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_names_what_happened_and_leaves_out_what_did_not() {
        let mut tally = Tally {
            connections: 3,
            acks: 7,
            ..Tally::default()
        };
        for status in ["101", "401", "401"] {
            count(&mut tally.answers, status);
        }
        assert_eq!(tally.text(), "3 connections; HTTP 101 × 1, 401 × 2; acks 7");
    }
}
