//! What was measured, beside what it must be.

use std::time::Duration;

use serde_json::{Value, json};

use crate::progress::short;

/// A figure, in the unit that it is compared in.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Figure {
    /// Events a second.
    Rate(f64, &'static str),
    /// CPU time for one reading, microseconds.
    Cost(f64),
    /// A quotient.
    Ratio(f64),
    /// A quotient near 1, in percent.
    Percent(f64),
    /// How long something took.
    Time(Duration),
    /// Memory or disk, bytes.
    Bytes(u64),
    /// Several figures that only belong together; no bound holds for them.
    Count(u64, &'static str),
}

impl Figure {
    fn value(self) -> f64 {
        match self {
            Self::Rate(value, _)
            | Self::Cost(value)
            | Self::Ratio(value)
            | Self::Percent(value) => value,
            Self::Time(time) => time.as_secs_f64(),
            Self::Bytes(count) | Self::Count(count, _) => count as f64,
        }
    }

    fn unit(self) -> String {
        match self {
            Self::Rate(_, what) => format!("{what}/s"),
            Self::Cost(_) => "µs".into(),
            Self::Ratio(_) => String::new(),
            Self::Percent(_) => "%".into(),
            Self::Time(_) => "s".into(),
            Self::Bytes(_) => "bytes".into(),
            Self::Count(_, what) => what.into(),
        }
    }

    fn text(self) -> String {
        match self {
            Self::Rate(value, what) => format!("{} {what}/s", thousands(value)),
            Self::Cost(value) => format!("{value:.2} µs"),
            Self::Ratio(value) => format!("{value:.2}"),
            Self::Percent(value) => format!("{value:.1} %"),
            Self::Time(time) => short(time),
            Self::Bytes(count) if count < 100_000 => format!("{} bytes", thousands(count as f64)),
            Self::Bytes(count) => format!("{:.1} MB", count as f64 / 1e6),
            Self::Count(count, what) => format!("{} {what}", thousands(count as f64)),
        }
    }
}

/// What a figure must be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Bound {
    /// This or more.
    AtLeast(Figure),
    /// This or less.
    AtMost(Figure),
    /// Less than this.
    Below(Figure),
}

impl Bound {
    fn holds(self, figure: Figure) -> bool {
        let value = figure.value();
        match self {
            Self::AtLeast(bound) => value >= bound.value(),
            Self::AtMost(bound) => value <= bound.value(),
            Self::Below(bound) => value < bound.value(),
        }
    }

    fn text(self) -> String {
        match self {
            Self::AtLeast(bound) => format!("≥ {}", bound.text()),
            Self::AtMost(bound) => format!("≤ {}", bound.text()),
            Self::Below(bound) => format!("< {}", bound.text()),
        }
    }

    fn figure(self) -> (Figure, &'static str) {
        match self {
            Self::AtLeast(bound) => (bound, "at least"),
            Self::AtMost(bound) => (bound, "at most"),
            Self::Below(bound) => (bound, "below"),
        }
    }
}

#[derive(Debug)]
struct Row {
    group: &'static str,
    what: String,
    figure: Figure,
    bound: Option<Bound>,
}

/// All figures, in the order in which they were measured.
#[derive(Debug, Default)]
pub struct Table {
    rows: Vec<Row>,
    /// What a reader must know beside the figures.
    notes: Vec<String>,
}

impl Table {
    /// A figure that others are compared with, or that is only told.
    pub fn told(&mut self, group: &'static str, what: impl Into<String>, figure: Figure) {
        self.push(group, what.into(), figure, None);
    }

    /// A figure with a bound.
    pub fn bound(
        &mut self,
        group: &'static str,
        what: impl Into<String>,
        figure: Figure,
        bound: Bound,
    ) {
        self.push(group, what.into(), figure, Some(bound));
    }

    fn push(&mut self, group: &'static str, what: String, figure: Figure, bound: Option<Bound>) {
        eprintln!("  {what}: {}", figure.text());
        self.rows.push(Row {
            group,
            what,
            figure,
            bound,
        });
    }

    /// A sentence below the table.
    pub fn note(&mut self, text: impl Into<String>) {
        self.notes.push(text.into());
    }

    /// Every bound holds.
    #[must_use]
    pub fn all_reached(&self) -> bool {
        let mut bounds = self.rows.iter().filter_map(|row| Some((row.bound?, row)));
        bounds.all(|(bound, row)| bound.holds(row.figure))
    }

    /// A table in Markdown, which is readable as it is.
    #[must_use]
    pub fn text(&self) -> String {
        let head = ["", "what", "measured", "bound", "reached"].map(str::to_owned);
        let mut cells = vec![head];
        let mut last = "";
        for row in &self.rows {
            let group = if row.group == last { "" } else { row.group };
            last = row.group;
            let bound = row.bound.map(Bound::text).unwrap_or_default();
            let reached = match row.bound.map(|bound| bound.holds(row.figure)) {
                None => "",
                Some(true) => "yes",
                Some(false) => "**no**",
            };
            let what = row.what.clone();
            cells.push([group.into(), what, row.figure.text(), bound, reached.into()]);
        }
        let mut widths = [0; 5];
        for row in &cells {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = cell.chars().count().max(*width);
            }
        }
        let mut out = String::new();
        for (index, row) in cells.iter().enumerate() {
            for (width, cell) in widths.iter().zip(row) {
                out.push_str("| ");
                out.push_str(cell);
                out.push_str(&" ".repeat(width + 1 - cell.chars().count()));
            }
            out.push_str("|\n");
            if index == 0 {
                for width in widths {
                    out.push_str("|-");
                    out.push_str(&"-".repeat(width));
                    out.push('-');
                }
                out.push_str("|\n");
            }
        }
        for note in &self.notes {
            out.push_str(&format!("\n{note}\n"));
        }
        out
    }

    /// For scripts.
    #[must_use]
    pub fn json(&self) -> Value {
        let rows = self.rows.iter().map(|row| {
            let mut object = json!({
                "group": row.group,
                "what": row.what,
                "value": row.figure.value(),
                "unit": row.figure.unit(),
            });
            if let Some(bound) = row.bound {
                let (figure, relation) = bound.figure();
                object["bound"] = json!({"is": relation, "value": figure.value()});
                object["reached"] = bound.holds(row.figure).into();
            }
            object
        });
        json!({"rows": rows.collect::<Vec<_>>(), "notes": self.notes})
    }
}

/// A whole number with a comma between thousands.
fn thousands(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_that_is_not_reached_is_told_and_counts() {
        let mut table = Table::default();
        let ratio = |value| Figure::Ratio(value);
        table.told("live", "bridge", Figure::Rate(30_000.0, "readings"));
        table.bound("live", "faster", ratio(12.0), Bound::AtLeast(ratio(10.0)));
        assert!(table.all_reached());
        let memory = Bound::Below(Figure::Bytes(12_000_000));
        table.bound("memory", "idle", Figure::Bytes(12_000_000), memory);
        assert!(!table.all_reached());
        let text = table.text();
        assert!(text.contains("| 30,000 readings/s |"), "{text}");
        assert!(
            text.contains("| 12.0 MB           | < 12.0 MB | **no**  |"),
            "{text}"
        );
        assert_eq!(table.json()["rows"][1]["reached"], true);
    }

    #[test]
    fn thousands_are_set_apart() {
        assert_eq!(thousands(999.4), "999");
        assert_eq!(thousands(1_000.0), "1,000");
        assert_eq!(thousands(1_234_567.0), "1,234,567");
    }
}
