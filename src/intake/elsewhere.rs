//! Response Topics that the broker does not let the hub write to. Pure.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::reading::{Item, Reply};

/// Topics that are remembered. What was forgotten is tried once more, at the cost of one refusal.
const TOPICS: usize = 256;

/// See the module. Nothing is remembered across runs.
#[derive(Debug, Default)]
pub(super) struct Elsewhere(VecDeque<Arc<str>>);

impl Elsewhere {
    pub(super) fn add(&mut self, topic: &Arc<str>) {
        if self.0.contains(topic) {
            return;
        }
        if self.0.len() >= TOPICS {
            self.0.pop_front();
        }
        self.0.push_back(topic.clone());
    }

    /// An answer for such a topic goes to the device's own instead.
    pub(super) fn redirect(&self, item: Arc<Item>) -> Arc<Item> {
        match &*item {
            Item::Reply(reply) if reply.topic.as_ref().is_some_and(|at| self.0.contains(at)) => {
                let topic = None;
                let reply = Reply {
                    topic,
                    ..reply.clone()
                };
                Arc::new(Item::Reply(reply))
            }
            _ => item,
        }
    }
}
