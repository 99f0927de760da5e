//! How the readings of the last hours are answered.

use std::fmt::Write;

use serde_json::{Value, json};

use super::History;
use super::series::Series;

/// From when to when, Unix seconds, both included.
#[derive(Debug, Clone, Copy)]
pub(in crate::admin) struct Range {
    pub(in crate::admin) from: f64,
    pub(in crate::admin) to: f64,
}

impl Range {
    fn holds(self, time: f64) -> bool {
        (self.from..=self.to).contains(&time)
    }
}

/// Every series of a device, with its readings.
pub(in crate::admin) fn all(history: &History, device: &str, range: Range) -> Value {
    let store = history.store();
    let each = store.of(device).iter().map(|series| {
        json!({"name": series.name, "unit": series.unit, "readings": readings(series, range)})
    });
    each.collect()
}

/// The readings of one name; `None`: there is no such name.
pub(in crate::admin) fn one(
    history: &History,
    device: &str,
    name: &str,
    range: Range,
) -> Option<Value> {
    let store = history.store();
    let mut named = store
        .of(device)
        .iter()
        .filter(|series| &*series.name == name)
        .peekable();
    named.peek()?;
    Some(named.flat_map(|series| readings(series, range)).collect())
}

/// The same as a table.
pub(in crate::admin) fn csv(readings: &Value) -> String {
    let mut text = "t,v,min,max\r\n".to_owned();
    for reading in readings.as_array().into_iter().flatten() {
        let cell = |key: &str| match &reading[key] {
            Value::Null => String::new(),
            Value::String(text) => quoted(text),
            other => other.to_string(),
        };
        let (t, v, min, max) = (cell("t"), cell("v"), cell("min"), cell("max"));
        let _ = write!(text, "{t},{v},{min},{max}\r\n");
    }
    text
}

/// RFC 4180; and a text that a spreadsheet would take for a formula is text.
fn quoted(text: &str) -> String {
    let shield = if text.starts_with(['=', '+', '-', '@', '\t', '\r']) {
        "'"
    } else {
        ""
    };
    format!("\"{shield}{}\"", text.replace('"', "\"\""))
}

fn readings(series: &Series, range: Range) -> Vec<Value> {
    let numbers = series
        .points
        .iter()
        .filter(|point| range.holds(point.time))
        .map(|point| {
            if point.least == point.most {
                json!({"t": point.time, "v": point.mean})
            } else {
                json!({"t": point.time, "v": point.mean, "min": point.least, "max": point.most})
            }
        });
    let changes = series
        .changes
        .iter()
        .filter(|change| range.holds(change.time));
    let changes = changes.map(|change| json!({"t": change.time, "v": change.value}));
    numbers.chain(changes).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_holds_what_a_device_may_say() {
        let readings = json!([
            {"t": 1.5, "v": 2.0, "min": 1.0, "max": 3.0},
            {"t": 2.0, "v": "say \"a, b\""},
            {"t": 3.0, "v": "=1+1"},
            {"t": 4.0, "v": true}
        ]);
        assert_eq!(
            csv(&readings),
            "t,v,min,max\r\n1.5,2.0,1.0,3.0\r\n2.0,\"say \"\"a, b\"\"\",,\r\n3.0,\"'=1+1\",,\r\n4.0,true,,\r\n"
        );
    }
}
