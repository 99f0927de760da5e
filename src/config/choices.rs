//! The words that stand for the values of a fixed list, as they are written and printed.

use super::{
    Auth, CrlExpiry, DrainOrder, Format, LogFormat, LogLevel, MqttVersion, Overflow, SpoolWrite,
    TopicDots,
};

pub(super) const AUTH: &[(&str, Auth)] = &[
    ("token", Auth::Token),
    ("certificate", Auth::Certificate),
    ("open", Auth::Open),
];
pub(super) const CRL_EXPIRY: &[(&str, CrlExpiry)] =
    &[("warn", CrlExpiry::Warn), ("error", CrlExpiry::Error)];
pub(super) const WRITE: &[(&str, SpoolWrite)] = &[
    ("outage", SpoolWrite::Outage),
    ("always", SpoolWrite::Always),
];
pub(super) const OVERFLOW: &[(&str, Overflow)] = &[
    ("drop-oldest", Overflow::DropOldest),
    ("refuse", Overflow::Refuse),
];
pub(super) const FORMAT: &[(&str, Format)] = &[
    ("json", Format::Json),
    ("cbor", Format::Cbor),
    ("senml-json", Format::SenmlJson),
    ("senml-cbor", Format::SenmlCbor),
    ("influx", Format::Influx),
];
pub(super) const DRAIN: &[(&str, DrainOrder)] = &[
    ("live-first", DrainOrder::LiveFirst),
    ("in-order", DrainOrder::InOrder),
];
pub(super) const VERSION: &[(&str, MqttVersion)] = &[
    ("auto", MqttVersion::Auto),
    ("5", MqttVersion::V5),
    ("3.1.1", MqttVersion::V311),
];
pub(super) const DOTS: &[(&str, TopicDots)] =
    &[("keep", TopicDots::Keep), ("escape", TopicDots::Escape)];
pub(super) const LEVEL: &[(&str, LogLevel)] = &[
    ("error", LogLevel::Error),
    ("warn", LogLevel::Warn),
    ("info", LogLevel::Info),
    ("debug", LogLevel::Debug),
    ("trace", LogLevel::Trace),
];
pub(super) const LOG_FORMAT: &[(&str, LogFormat)] =
    &[("text", LogFormat::Text), ("json", LogFormat::Json)];
