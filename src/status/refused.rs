//! What the broker refuses, as far as it is shown.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use serde::{Deserialize, Serialize};

use super::counts::Counts;
use super::number::{Number, lock};

/// Topics that are listed. More tell nobody more; how many there are is said beside them.
pub const LISTED: usize = 100;

/// Kinds of topics that a publish can be refused on.
pub const TOPICS: [&str; 4] = ["data", "gap", "history", "result"];

/// A topic that the broker refuses.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the field names are the documented contract")]
pub struct RefusedTopic {
    pub topic: String,
    pub reason: String,
    pub since: f64,
    pub batches: u64,
    pub next_try: Option<f64>,
}

/// See the module.
#[derive(Debug)]
pub struct RefusedBoard {
    list: Mutex<Vec<RefusedTopic>>,
    /// Gauge: topics that are refused.
    pub topics: Number,
    /// Publishes that were refused, by the kind of topic.
    pub publishes: Counts<{ TOPICS.len() }>,
    by_device: Mutex<HashMap<Arc<str>, Vec<&'static str>>>,
}

impl Default for RefusedBoard {
    fn default() -> Self {
        Self {
            list: Mutex::default(),
            topics: Number::default(),
            publishes: Counts::new(TOPICS),
            by_device: Mutex::default(),
        }
    }
}

impl RefusedBoard {
    /// Shows these, the first [`LISTED`] of so many.
    pub fn show(&self, list: Vec<RefusedTopic>, total: usize) {
        *lock(&self.list) = list;
        self.topics.set(total as u64);
    }

    /// A topic of a device is refused from now on, or not any more.
    pub fn set(&self, device: &Arc<str>, topic: &'static str, refused: bool) {
        let mut by_device = lock(&self.by_device);
        if refused {
            let topics = by_device.entry(device.clone()).or_default();
            if !topics.contains(&topic) {
                topics.push(topic);
                topics.sort_unstable();
            }
        } else if let Some(topics) = by_device.get_mut(device) {
            topics.retain(|known| *known != topic);
            if topics.is_empty() {
                by_device.remove(device);
            }
        }
    }

    /// What is listed.
    #[must_use]
    pub fn list(&self) -> Vec<RefusedTopic> {
        lock(&self.list).clone()
    }

    /// Kinds of topics of this device that are refused, in the order of the alphabet.
    #[must_use]
    pub fn of(&self, device: &str) -> Vec<&'static str> {
        lock(&self.by_device)
            .get(device)
            .cloned()
            .unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_shown_with_what_is_refused_of_it_and_without_when_that_is_over() {
        let board = RefusedBoard::default();
        let device: Arc<str> = "cow".into();
        board.set(&device, "history", true);
        board.set(&device, "data", true);
        board.set(&device, "data", true);
        assert_eq!(board.of("cow"), ["data", "history"]);
        board.set(&device, "data", false);
        board.set(&device, "history", false);
        assert!(board.of("cow").is_empty() && lock(&board.by_device).is_empty());
    }
}
