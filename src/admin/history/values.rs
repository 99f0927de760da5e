//! What devices say now: the newest value of each name, for the overview.

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
        let those = all.iter().filter(|one| fits(one, name)).take(NAMES);
        let values: Vec<_> = those.map(newest).collect();
        (id.to_owned(), Value::from(values))
    });
    told.collect::<serde_json::Map<_, _>>().into()
}

fn fits(series: &Series, name: Option<&str>) -> bool {
    name.is_none_or(|name| series.name.to_lowercase().contains(name))
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
    fn devices_are_found_by_their_names_and_an_answer_is_bounded() {
        let told = values(&history(), &[], Some("emp"));
        let told = told.as_object().unwrap();
        assert_eq!(told.len(), DEVICES);
        assert!(told.contains_key("d00000") && !told.contains_key("d01004"));
        assert!(told.values().all(|one| one.as_array().unwrap().len() == 1));
        assert_eq!(values(&history(), &[], Some("humidity")), json!({}));
    }
}
