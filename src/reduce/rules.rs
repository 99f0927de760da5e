//! Which rule holds for which series.

use std::sync::Arc;

use crate::config::ReduceRule;
use crate::pattern::matches;

/// The rules in the order in which they are written: the first one whose patterns fit holds.
#[derive(Debug, Clone, Default)]
pub struct Rules(Arc<[ReduceRule]>);

impl Rules {
    /// These.
    #[must_use]
    pub fn new(rules: Vec<ReduceRule>) -> Self {
        Self(rules.into())
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether some rule may hold for something of this device.
    #[must_use]
    pub fn concern(&self, device: &str) -> bool {
        self.0.iter().any(|rule| matches(&rule.device, device))
    }

    /// The rule for a name of a device, base name included.
    #[must_use]
    pub fn of(&self, device: &str, name: &str) -> Option<&ReduceRule> {
        self.0
            .iter()
            .find(|rule| matches(&rule.device, device) && matches(&rule.name, name))
    }
}
