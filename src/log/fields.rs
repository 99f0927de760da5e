//! What an event holds.

use std::fmt::{Debug, Write};

use tracing::Event;
use tracing::field::{Field, Visit};

/// The parts of an event that decide about it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Fields {
    pub(super) message: String,
    /// Empty: of no device.
    pub(super) device: String,
}

pub(super) fn read(event: &Event<'_>) -> Fields {
    let mut fields = Fields::default();
    event.record(&mut fields);
    fields
}

impl Fields {
    fn part(&mut self, field: &Field) -> Option<&mut String> {
        match field.name() {
            "message" => Some(&mut self.message),
            "device" => Some(&mut self.device),
            _ => None,
        }
    }
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        if let Some(part) = self.part(field) {
            value.clone_into(part);
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if let Some(part) = self.part(field) {
            // Writing to a String cannot fail.
            let _ = write!(part, "{value:?}");
        }
    }
}

/// Every field by name, as text: `message` first, where there is one.
#[derive(Debug, Default)]
pub(super) struct All(pub(super) Vec<(&'static str, String)>);

pub(super) fn all(event: &Event<'_>) -> All {
    let mut all = All::default();
    event.record(&mut all);
    all.0.sort_by_key(|(name, _)| *name != "message");
    all
}

impl Visit for All {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.push((field.name(), value.to_owned()));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0.push((field.name(), format!("{value:?}")));
    }
}
