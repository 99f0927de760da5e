//! What devices say now: the newest value of each name, for the overview.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::History;
use super::series::Series;

/// Devices in one answer: a page shows as many rows at first.
const DEVICES: usize = 1_000;

/// Names of a device in one answer: a row has no room for more.
const NAMES: usize = 8;

/// The newest values of these devices, or of all when none is named, by device. With a `name`
/// (in small letters): of those names that have it in them, and of the devices that have such.
pub(in crate::admin) fn values(history: &History, devices: &[String], name: Option<&str>) -> Value {
    let store = history.store();
    let mut answer = BTreeMap::new();
    if devices.is_empty() {
        let found = store.devices();
        for (id, all) in found.filter(|(_, all)| all.iter().any(|one| fits(one, name))) {
            answer.insert(&**id, all);
            // The first by their names, whatever order they are held in.
            if answer.len() > DEVICES {
                answer.pop_last();
            }
        }
    } else {
        for id in devices.iter().take(DEVICES) {
            answer.insert(id, store.of(id));
        }
    }
    let told = answer.into_iter().map(|(id, all)| {
        let mut those: Vec<_> = all.iter().filter(|one| fits(one, name)).collect();
        those.sort_by(|a, b| natural(&a.name, &b.name));
        let values: Vec<_> = those.into_iter().take(NAMES).map(newest).collect();
        (id.to_owned(), Value::from(values))
    });
    told.collect::<serde_json::Map<_, _>>().into()
}

fn fits(series: &Series, name: Option<&str>) -> bool {
    name.is_none_or(|name| series.name.to_lowercase().contains(name))
}

/// As people sort: `flow/3` before `flow/11`.
fn natural(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (a, b);
    loop {
        let (run, other) = (digits(a), digits(b));
        if !run.is_empty() && !other.is_empty() {
            let (n, m) = (run.trim_start_matches('0'), other.trim_start_matches('0'));
            // The longer number is the larger one.
            let order = n.len().cmp(&m.len()).then_with(|| n.cmp(m));
            if order.is_ne() {
                return order;
            }
            (a, b) = (&a[run.len()..], &b[other.len()..]);
            continue;
        }
        let (mut left, mut right) = (a.chars(), b.chars());
        match (left.next(), right.next()) {
            (None, None) => return Ordering::Equal,
            (one, two) if one != two => return one.cmp(&two),
            _ => (a, b) = (left.as_str(), right.as_str()),
        }
    }
}

/// The digits that a text begins with.
fn digits(text: &str) -> &str {
    let end = text.find(|c: char| !c.is_ascii_digit());
    &text[..end.unwrap_or(text.len())]
}

fn newest(series: &Series) -> Value {
    json!({"name": series.name, "unit": series.unit, "value": series.newest, "time": series.last})
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Arc;

    use super::super::Settings;
    use super::*;

    fn history() -> History {
        let history = History::new(Settings::default());
        let mut store = history.store();
        for n in 0..DEVICES + 5 {
            let id: Arc<str> = format!("d{n:05}").into();
            store.take(&id, "d/Temp", Some("Cel"), 5.0, &json!(n));
            store.take(&id, "d/door", None, 6.0, &json!(true));
        }
        drop(store);
        history
    }

    #[test]
    fn the_newest_values_are_told_of_the_devices_that_are_asked_for() {
        let asked = ["d00007".to_owned(), "nobody".to_owned()];
        let told = values(&history(), &asked, None);
        let temp = json!({"name": "d/Temp", "unit": "Cel", "value": 7, "time": 5.0});
        let door = json!({"name": "d/door", "unit": null, "value": true, "time": 6.0});
        assert_eq!(told, json!({"d00007": [temp, door], "nobody": []}));
        let told = values(&history(), &asked, Some("temp"));
        assert_eq!(told, json!({"d00007": [temp], "nobody": []}));
    }

    #[test]
    fn names_are_sorted_as_people_sort() {
        let sorted = ["", "flow/3", "flow/11", "flow/11a", "flow/x", "flöw/2"];
        for (at, a) in sorted.iter().enumerate() {
            for (other, b) in sorted.iter().enumerate() {
                assert_eq!(natural(a, b), at.cmp(&other), "{a} {b}");
            }
        }
        let long = "9".repeat(400);
        assert_eq!(natural("007", "7"), Ordering::Equal);
        assert_eq!(natural(&long, "1"), Ordering::Greater);
    }

    #[test]
    fn devices_are_found_by_their_names_and_an_answer_is_bounded() {
        let told = values(&history(), &[], Some("emp"));
        let told = told.as_object().unwrap();
        assert_eq!(told.len(), DEVICES);
        assert!(told.contains_key("d00000") && !told.contains_key("d01004"));
        assert!(told.values().all(|one| one.as_array().unwrap().len() == 1));
        assert_eq!(values(&history(), &[], Some("humidity")), json!({}));
    }
}
