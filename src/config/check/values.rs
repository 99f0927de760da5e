//! `[values]` and `[homeassistant]`.

use super::{Notes, number};
use crate::config::document::Document;
use crate::config::values::{truth, whole};
use crate::config::{HomeAssistant, Values};

const S: &str = "values";

pub(super) fn homeassistant(doc: &mut Document<'_>) -> HomeAssistant {
    let discovery = doc.get("homeassistant", "discovery", truth);
    HomeAssistant {
        discovery: discovery.unwrap_or(false),
    }
}

pub(super) fn values(
    doc: &mut Document<'_>,
    homeassistant: HomeAssistant,
    notes: &mut Notes,
) -> Values {
    let max_rate = whole(
        1..=100,
        "0 would show nothing, and who needs every reading takes it from the data topics",
    );
    let default = Values::default();
    let values = Values {
        enabled: doc.get(S, "enabled", truth).unwrap_or(default.enabled)
            // Home Assistant reads them.
            || homeassistant.discovery,
        retain: doc.get(S, "retain", truth).unwrap_or(default.retain),
        plain: doc.get(S, "plain", truth).unwrap_or(default.plain),
        max_rate: number(doc.get(S, "max_rate", max_rate), default.max_rate),
    };
    for key in ["retain", "plain", "max_rate"] {
        if doc.has(S, key) && !values.enabled {
            let text =
                "has no effect: value topics are off; write enabled = true, or remove this line";
            notes.warnings.push(doc.remark(S, key, text));
        }
    }
    values
}
