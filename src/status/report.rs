//! What the admin listener answers, field by field: the documented contract.

use serde::{Deserialize, Serialize};

pub use super::reduce::ReduceReport;
pub use super::refused::RefusedTopic;
use super::spool::SpoolState;
use super::uplink::{ProbeState, UplinkState};
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
    /// Only where there are rules.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reduce: Option<ReduceReport>,
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
    /// Why it is not connected; none while it is.
    pub last_error: Option<String>,
    /// When that was.
    #[serde(default)]
    pub last_error_at: Option<f64>,
    /// Of the present or last connection.
    #[serde(default)]
    pub broker: Option<String>,
    /// Version of MQTT: `5` or `3.1.1`.
    #[serde(default)]
    pub mqtt: Option<String>,
    #[serde(default)]
    pub probe: ProbeState,
    /// Another client seems to have the same client id.
    #[serde(default)]
    pub twins: bool,
    /// Topics that the broker refuses, at most [`LISTED`](super::refused::LISTED).
    #[serde(default)]
    pub refused: Vec<RefusedTopic>,
    /// How many there are.
    #[serde(default)]
    pub refused_total: u64,
    /// Batches and gap records that the broker refused, in all.
    #[serde(default)]
    pub refused_publishes: u64,
    /// Devices whose status it refuses now.
    #[serde(default)]
    pub refused_statuses: u64,
    /// Publishes that nobody subscribes to, in all.
    #[serde(default)]
    pub unheard: u64,
    /// Messages of the broker that were skipped, in all.
    #[serde(default)]
    pub skipped: u64,
    /// MQTT's bytes to all brokers, without TLS and what is below it.
    #[serde(default)]
    pub sent_bytes: u64,
    #[serde(default)]
    pub received_bytes: u64,
    /// Bytes a day: [`BytesPerDay`](super::per_day::BytesPerDay).
    #[serde(default)]
    pub sent_per_day: u64,
    #[serde(default)]
    pub received_per_day: u64,
}

/// `spool` in `/api/status`. `drain_eta`: `None` while nothing drains.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the field names are the documented contract")]
pub struct SpoolReport {
    pub state: SpoolState,
    /// Why it is not `ok`.
    #[serde(default)]
    pub reason: Option<String>,
    pub batches: u64,
    pub readings: u64,
    pub disk_bytes: u64,
    /// The setting `spool.max_size`.
    #[serde(default)]
    pub max_size: u64,
    pub oldest: Option<f64>,
    pub written_bytes: u64,
    /// Bytes a day: [`BytesPerDay`](super::per_day::BytesPerDay).
    #[serde(default)]
    pub flash_per_day: u64,
    pub dropped_batches: u64,
    pub drain_eta: Option<f64>,
    /// Seconds until it is full, as fast as it grows; none while it does not.
    #[serde(default)]
    pub full_in: Option<f64>,
}

/// `devices` in `/api/status`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the field names are the documented contract")]
pub struct DevicesReport {
    pub connected: u64,
    pub known: u64,
    pub evicted: u64,
    /// Expected, and not here since the hub started.
    #[serde(default)]
    pub unseen: u64,
    /// Gone without a word, and nobody has said that it is known.
    #[serde(default)]
    pub lost: u64,
    /// Connected, and without readings for unusually long.
    #[serde(default)]
    pub silent: u64,
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
    /// `online`, `asleep`, `offline` or `unseen`.
    pub state: String,
    pub since: f64,
    pub reason: String,
    /// None: never, as far as is known.
    pub last_seen: Option<f64>,
    /// When its last reading came; a pong is none.
    #[serde(default)]
    pub last_reading: Option<f64>,
    /// Seconds between its readings, as a rule; none before that is known.
    #[serde(default)]
    pub usual: Option<f64>,
    /// `expect` of its entry in the registry, seconds.
    #[serde(default)]
    pub expect: Option<f64>,
    /// Connected, and without readings for unusually long, or for longer than `expect`.
    #[serde(default)]
    pub silent: bool,
    /// It went without a goodbye, or has not come back since the hub started.
    #[serde(default)]
    pub lost: bool,
    /// Somebody has said that this is known.
    #[serde(default)]
    pub acknowledged: bool,
    /// It has an entry in the registry.
    #[serde(default)]
    pub registered: bool,
    /// The last time that it was refused since it was last here.
    #[serde(default)]
    pub refused: Option<RefusedReport>,
    pub remote: String,
    pub rtt_ms: Option<f64>,
    pub stream: Option<String>,
    pub seq: u64,
    pub batches: u64,
    pub readings: u64,
    pub rejected: u64,
    /// Records left out because they had no usable value.
    #[serde(default)]
    pub dropped_records: u64,
    pub model: Option<String>,
    pub firmware: Option<String>,
    /// Kinds of its topics that the broker refuses: `data`, `gap`, `history`.
    #[serde(default)]
    pub refused_topics: Vec<String>,
}

/// `refused` of a device: an attempt to connect by its name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the field names are the documented contract")]
pub struct RefusedReport {
    pub time: f64,
    pub why: String,
    pub remote: String,
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
    /// As `GET /api/devices/{id}/commands` has it.
    pub commands: CommandsPage,
}

/// `GET /api/devices/{id}/commands`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CommandsPage {
    /// Whoever asks may send commands here.
    pub admin: bool,
    /// Names and patterns of what the device takes.
    pub takes: Vec<String>,
    /// How the last ones ended, newest last.
    pub last: Vec<PastCommand>,
}

/// An ended command of a device.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the field names are the documented contract")]
pub struct PastCommand {
    pub time: f64,
    pub id: Option<String>,
    pub name: String,
    /// The topic that it came by, `admin`, or `device` for a result that nobody asked for.
    pub who: String,
    pub state: String,
    /// Why, where the hub decided.
    pub error: Option<String>,
    pub attempt: u32,
    /// Seconds from receipt to the end.
    pub took: f64,
    pub late: bool,
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
