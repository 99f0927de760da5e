//! What the admin listener answers, field by field: the documented contract.

use serde::{Deserialize, Serialize};

pub use super::refused::RefusedReport;
use super::spool::SpoolState;
use super::uplink::UplinkState;
use crate::clock::ClockState;

/// `/api/status`. Times are Unix seconds, durations seconds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the field names are the documented contract")]
pub struct StatusReport {
    pub hub: String,
    pub version: String,
    pub uptime: f64,
    pub uplink: UplinkReport,
    pub spool: SpoolReport,
    pub devices: DevicesReport,
    pub live: LiveReport,
    #[serde(default)]
    pub clock: ClockReport,
}

/// `uplink` in `/api/status`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the field names are the documented contract")]
pub struct UplinkReport {
    pub state: UplinkState,
    pub since: f64,
    pub in_flight: u64,
    pub published: u64,
    pub acknowledged: u64,
    pub last_error: Option<String>,
    /// Topics that the broker refuses, at most [`LISTED`](super::refused::LISTED).
    #[serde(default)]
    pub refused: Vec<RefusedReport>,
    /// How many there are.
    #[serde(default)]
    pub refused_total: u64,
}

/// `spool` in `/api/status`. `drain_eta`: `None` while nothing drains.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the field names are the documented contract")]
pub struct SpoolReport {
    pub state: SpoolState,
    pub batches: u64,
    pub readings: u64,
    pub disk_bytes: u64,
    /// The setting `spool.max_size`.
    #[serde(default)]
    pub max_size: u64,
    pub oldest: Option<f64>,
    pub written_bytes: u64,
    /// Bytes a day: [`FlashPerDay`](super::flash::FlashPerDay).
    #[serde(default)]
    pub flash_per_day: u64,
    pub dropped_batches: u64,
    pub drain_eta: Option<f64>,
}

/// `devices` in `/api/status`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the field names are the documented contract")]
pub struct DevicesReport {
    pub connected: u64,
    pub known: u64,
    pub evicted: u64,
}

/// `live` in `/api/status`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the field names are the documented contract")]
pub struct LiveReport {
    pub batches: u64,
    pub readings: u64,
}

/// `clock` in `/api/status`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the field names are the documented contract")]
pub struct ClockReport {
    pub state: ClockState,
}

impl Default for ClockReport {
    /// Of a hub that says nothing of its clock: no reason to warn.
    fn default() -> Self {
        Self {
            state: ClockState::Synced,
        }
    }
}

/// One element of `/api/devices`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the field names are the documented contract")]
pub struct DeviceReport {
    pub id: String,
    pub state: String,
    pub since: f64,
    pub reason: String,
    pub last_seen: f64,
    pub remote: String,
    pub rtt_ms: Option<f64>,
    pub stream: Option<String>,
    pub seq: u64,
    pub batches: u64,
    pub readings: u64,
    pub rejected: u64,
    pub model: Option<String>,
    pub firmware: Option<String>,
    /// Kinds of its topics that the broker refuses: `data`, `gap`, `history`.
    #[serde(default)]
    pub refused: Vec<String>,
}

/// `/api/devices/{id}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the field names are the documented contract")]
pub struct DevicePage {
    pub device: DeviceReport,
    /// Newest last.
    pub history: Vec<Past>,
    /// Readings of the last batch.
    pub last: Vec<ReadingReport>,
}

/// A connect or an end in a device's history.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the field names are the documented contract")]
pub struct Past {
    pub time: f64,
    /// `online` or `offline`.
    pub state: String,
    pub reason: String,
}

/// One reading as it is shown.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the field names are the documented contract")]
pub struct ReadingReport {
    /// When its batch came.
    pub received: f64,
    /// When it was taken.
    pub time: f64,
    pub name: String,
    pub unit: Option<String>,
    /// A number, a text or a truth value; data as base64url; null for a record of a sum alone.
    pub value: serde_json::Value,
}
