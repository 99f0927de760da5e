//! Which device takes which commands, as the registry says it.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use crate::pattern::matches;

/// Bytes of a command's name, and of a pattern for names.
pub const MAX_NAME: usize = 64;

/// Whether this is the name of a command: 1 to 64 of `A-Z a-z 0-9 . _ -`.
#[must_use]
pub fn is_name(text: &str) -> bool {
    (1..=MAX_NAME).contains(&text.len()) && text.bytes().all(is_name_byte)
}

/// Whether this is a pattern for names: as a name, with `*` for any number of characters.
#[must_use]
pub fn is_pattern(text: &str) -> bool {
    let allowed = |byte| is_name_byte(byte) || byte == b'*';
    (1..=MAX_NAME).contains(&text.len()) && text.bytes().all(allowed)
}

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"._-".contains(&byte)
}

/// What each device takes at one moment: names, or patterns with `*`. A device that is not in it
/// takes nothing. And which devices have a desired state.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Authority {
    takes: HashMap<Arc<str>, Vec<String>>,
    desired: BTreeSet<Arc<str>>,
}

impl Authority {
    /// Whether the device takes commands of this name.
    #[must_use]
    pub fn allows(&self, device: &str, name: &str) -> bool {
        let mut takes = self.takes(device).iter();
        takes.any(|pattern| matches(pattern, name))
    }
}

impl Authority {
    /// The names and patterns of what the device takes.
    #[must_use]
    pub fn takes(&self, device: &str) -> &[String] {
        self.takes.get(device).map_or(&[], Vec::as_slice)
    }

    /// The names that devices take and that stand in the registry as they are, each once and in order:
    /// what can be offered to somebody to choose from. Patterns cannot.
    #[must_use]
    pub fn exact_names(&self) -> HashMap<Arc<str>, Vec<String>> {
        let exact = |names: &Vec<String>| {
            let exact = names.iter().filter(|name| is_name(name)).cloned();
            exact
                .collect::<BTreeSet<_>>()
                .into_iter()
                .collect::<Vec<_>>()
        };
        let devices = self.takes.iter();
        let devices = devices.map(|(device, names)| (device.clone(), exact(names)));
        devices.filter(|(_, names)| !names.is_empty()).collect()
    }

    /// The same, and these devices have a desired state.
    #[must_use]
    pub fn with_desired(self, desired: BTreeSet<Arc<str>>) -> Self {
        Self { desired, ..self }
    }

    /// The devices that have a desired state.
    #[must_use]
    pub fn desired(&self) -> &BTreeSet<Arc<str>> {
        &self.desired
    }
}

impl FromIterator<(Arc<str>, Vec<String>)> for Authority {
    fn from_iter<I: IntoIterator<Item = (Arc<str>, Vec<String>)>>(entries: I) -> Self {
        Self {
            takes: entries.into_iter().collect(),
            desired: BTreeSet::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_without_an_entry_takes_nothing() {
        let authority = Authority::from_iter([("lamp".into(), vec!["set-*".to_owned()])]);
        assert!(authority.allows("lamp", "set-level"));
        assert!(!authority.allows("lamp", "reboot"));
        assert!(!authority.allows("pump", "set-level"));
    }

    #[test]
    fn exact_names_are_those_without_a_star_once_and_in_order() {
        let of = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        let authority = Authority::from_iter([
            ("lamp".into(), of(&["on", "set-*", "blink", "on"])),
            ("pump".into(), of(&["*"])),
        ]);
        let expected = [("lamp".into(), of(&["blink", "on"]))];
        assert_eq!(authority.exact_names(), HashMap::from(expected));
    }
}
