//! What Home Assistant is told of a device: one retained document on
//! `homeassistant/device/{object id}/config`.

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::Facts;
use super::units::{UNITS, is_measured};
use crate::uplink::values::{Kind, Known};

/// Hexadecimal digits of a hash in an id: 2^32, so that two of some thousand names share one once in
/// a thousand installations, and then still differ in the readable part.
const DIGITS: usize = 8;

/// The platform of a component that is a command.
pub(super) const BUTTON: &str = "button";

/// A text as part of an id, which has letters, digits, `_` and `-` only, and what makes it unique.
pub(super) fn id(readable: &[&str], exact: &str) -> String {
    /// Enough to recognise it.
    const LENGTH: usize = 64;
    let allowed = |c: char| match c {
        c if c.is_ascii_alphanumeric() || c == '-' => c,
        _ => '_',
    };
    let mut id: String = readable
        .join("_")
        .chars()
        .map(allowed)
        .take(LENGTH)
        .collect();
    id.push('_');
    let hash = Sha256::digest(exact.as_bytes());
    for byte in hash.iter().take(DIGITS / 2) {
        id.push(char::from_digit(u32::from(byte >> 4), 16).unwrap_or('0'));
        id.push(char::from_digit(u32::from(byte & 0xf), 16).unwrap_or('0'));
    }
    id
}

/// What a document is made of beside the values.
#[derive(Debug)]
pub(super) struct About<'a> {
    pub(super) object: &'a str,
    pub(super) hub_object: &'a str,
    /// Where the states of hub and device stand.
    pub(super) hub_status: &'a str,
    pub(super) device_status: &'a str,
    pub(super) hub: &'a str,
    pub(super) device: &'a str,
    pub(super) version: &'a str,
    pub(super) model: Option<&'a str>,
    pub(super) firmware: Option<&'a str>,
    /// Values are bare.
    pub(super) plain: bool,
    /// The broker forgets values by itself, so that one that Home Assistant lets expire does not come
    /// back from it.
    pub(super) expires: bool,
}

impl About<'_> {
    fn hub_availability(&self) -> Value {
        json!({"topic": self.hub_status, "value_template": "{{ value_json.state }}"})
    }

    /// The part of the document that all entities share.
    fn frame(&self, device: &Value, availability: &Value, components: Map<String, Value>) -> Value {
        json!({
            "dev": device,
            "o": {"name": "telehub", "sw": self.version},
            "availability": availability,
            "availability_mode": "all",
            "qos": 1,
            "cmps": components,
        })
    }

    /// A device with its values and buttons. `recalled`: components of an earlier run that have not
    /// come yet.
    pub(super) fn device_document(&self, facts: &Facts, recalled: &Map<String, Value>) -> Value {
        let mut components = recalled.clone();
        for (known, topic) in &facts.values {
            let (key, component) = self.component(known, topic);
            components.insert(key, component);
        }
        for (name, topic) in &facts.buttons {
            let (key, component) = self.button(name, topic);
            components.insert(key, component);
        }
        let mut device = json!({
            "ids": [self.object], "name": self.device, "via_device": self.hub_object,
        });
        for (key, value) in [("mdl", self.model), ("sw", self.firmware)] {
            if let Some(value) = value {
                device[key] = json!(value);
            }
        }
        // A device that sleeps is not gone: its values are as fresh as it means them to be.
        let own = json!({
            "topic": self.device_status,
            "value_template": "{{ 'offline' if value_json.state == 'offline' else 'online' }}",
        });
        let availability = json!([self.hub_availability(), own]);
        self.frame(&device, &availability, components)
    }

    /// The hub itself, with how it is.
    pub(super) fn hub_document(&self, values: &[(Known, String)]) -> Value {
        let mut components = Map::new();
        components.insert(
            "uplink".to_owned(),
            json!({
                "p": "binary_sensor", "unique_id": format!("{}_uplink", self.object),
                "name": "Uplink", "state_topic": self.hub_status,
                "value_template": "{{ 'ON' if value_json.state == 'online' else 'OFF' }}",
                "device_class": "connectivity", "entity_category": "diagnostic",
                // It says itself when the hub is gone.
                "availability": [],
            }),
        );
        for (known, topic) in values {
            let (key, mut component) = self.component(known, topic);
            component["entity_category"] = json!("diagnostic");
            if &*known.name == "gap-batches" {
                component["state_class"] = json!("total_increasing");
            }
            components.insert(key, component);
        }
        let device = json!({
            "ids": [self.object], "name": format!("telehub {}", self.hub), "mf": "telehub",
            "sw": self.version,
        });
        self.frame(&device, &json!([self.hub_availability()]), components)
    }

    /// A command without arguments. It is refused while the device is away, asleep as well, so that it
    /// can be pressed only while the device is there; and it is never retained, which would be refused
    /// too.
    fn button(&self, name: &str, topic: &str) -> (String, Value) {
        // No value has a space in its name.
        let key = id(&[BUTTON, name], &format!("{BUTTON} {name}"));
        let online = "{{ 'online' if value_json.state == 'online' else 'offline' }}";
        let component = json!({
            "p": BUTTON,
            "unique_id": format!("{}_{key}", self.object),
            "name": name,
            "command_topic": topic,
            "payload_press": "{}",
            "qos": 1,
            "retain": false,
            "availability": [
                self.hub_availability(),
                {"topic": self.device_status, "value_template": online},
            ],
        });
        (key, component)
    }

    fn component(&self, known: &Known, topic: &str) -> (String, Value) {
        let key = id(&[&known.name], &known.name);
        let mut component = json!({
            "unique_id": format!("{}_{key}", self.object),
            "name": known.name,
            "state_topic": topic,
        });
        let value = if self.plain { "value" } else { "value_json.v" };
        match known.kind {
            Kind::Bool => {
                component["p"] = json!("binary_sensor");
                let whether = if self.plain { "value == 'true'" } else { value };
                component["value_template"] =
                    json!(format!("{{{{ 'ON' if {whether} else 'OFF' }}}}"));
            }
            Kind::Number => {
                component["p"] = json!("sensor");
                component["value_template"] = json!(format!("{{{{ {value} }}}}"));
                let known_unit = known.unit.as_deref().map(|unit| {
                    let listed = UNITS.iter().find(|(senml, _)| *senml == unit);
                    listed.map_or((Some(unit), None), |(_, unit)| (unit.unit, unit.class))
                });
                let (unit, class) = known_unit.unwrap_or((None, None));
                if let Some(unit) = unit {
                    component["unit_of_measurement"] = json!(unit);
                }
                if let Some(class) = class {
                    component["device_class"] = json!(class);
                }
                if is_measured(class) {
                    component["state_class"] = json!("measurement");
                }
            }
            Kind::Text => {
                component["p"] = json!("sensor");
                // A state has 255 characters at most.
                component["value_template"] = json!(format!("{{{{ ({value} | string)[:255] }}}}"));
            }
        }
        if let Some(expiry) = known.expiry.filter(|_| self.expires) {
            component["expire_after"] = json!(expiry);
        }
        (key, component)
    }
}
