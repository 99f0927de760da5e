//! What is kept of the devices over a restart, so that a restart ends no alarm: the shape of the
//! file, and no file.

use serde::{Deserialize, Serialize};

/// Version of the shape. A file of another one is not read.
const VERSION: u32 = 1;

/// What is kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Memory {
    version: u32,
    /// One entry a device, sorted by id.
    pub devices: Vec<Remembered>,
}

/// What is kept of one device. Times are Unix seconds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Remembered {
    /// The device's id.
    pub id: String,
    /// Whether it was connected; if not, since when it was gone, and why.
    pub online: bool,
    /// Since when.
    pub since: f64,
    /// Why.
    pub reason: String,
    /// When it last said anything.
    pub last_seen: Option<f64>,
    /// When its last reading came.
    pub last_reading: Option<f64>,
    /// Somebody knows that it is gone.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub acknowledged: bool,
    /// It sends without a connection.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub posts: bool,
}

impl Memory {
    /// Of these devices.
    #[must_use]
    pub fn of(devices: Vec<Remembered>) -> Self {
        Self {
            version: VERSION,
            devices,
        }
    }

    /// Reads a file's content.
    ///
    /// # Errors
    /// It is not ours, as one sentence.
    pub fn parse(content: &[u8]) -> Result<Self, String> {
        let memory: Self = serde_json::from_slice(content).map_err(|error| error.to_string())?;
        if memory.version == VERSION {
            Ok(memory)
        } else {
            Err(format!(
                "it is of version {}, not {VERSION}",
                memory.version
            ))
        }
    }

    /// The file's content.
    #[must_use]
    pub fn text(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_is_written_is_read_and_anything_else_is_refused() {
        let memory = Memory::of(vec![Remembered {
            id: "barn-1".into(),
            online: false,
            since: 5.0,
            reason: "ping timeout".into(),
            last_seen: Some(4.5),
            last_reading: None,
            acknowledged: true,
            posts: false,
        }]);
        assert_eq!(Memory::parse(memory.text().as_bytes()).unwrap(), memory);
        for wrong in ["", "{}", "[]", r#"{"version":2,"devices":[]}"#] {
            assert!(Memory::parse(wrong.as_bytes()).is_err(), "{wrong}");
        }
    }
}
