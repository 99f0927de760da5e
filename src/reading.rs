//! What travels through the hub: batches of readings, and the records of what had to be dropped.
//!
//! A batch keeps the frame that the device sent, byte for byte, and the moment of its arrival.
//! It is resolved (RFC 8428 §4.6) when it is published, so that both lanes and the spool carry
//! the smallest form, and what the broker gets does not depend on how long it had to wait.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

mod moment;
mod reply;

pub use moment::{Boot, Doubt, Moment};
pub use reply::{Final, Reply};

/// How a frame is encoded: CBOR (RFC 8949) in binary frames, JSON (RFC 8259) in text frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Encoding {
    /// Binary WebSocket frames.
    Cbor,
    /// Text WebSocket frames.
    Json,
}

/// A batch of readings that the hub has taken from a device.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// The device's id: 1 to 64 of `A-Z a-z 0-9 . _ -`, the first one alphanumeric.
    pub device: Arc<str>,
    /// The stream that `seq` counts in: 1 to 64 characters.
    pub stream: Arc<str>,
    /// Sequence number within the stream, at least 1. `None`: the device wants no ack.
    pub seq: Option<u64>,
    /// When the frame arrived.
    pub received: Moment,
    /// Number of readings (records after resolution), at least 1.
    pub readings: u32,
    /// How `frame` is encoded.
    pub encoding: Encoding,
    /// The message as the device sent it: a `data` message or a bare SenML pack. It has been
    /// checked: it decodes and its pack resolves.
    pub frame: Bytes,
}

/// What a batch says, as one number: names, units, values and sums of its readings in order, and
/// neither their times nor how they were encoded. Equal for equal content; for other content equal
/// by chance only, once in 2^64.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Content(pub u64);

/// Why data was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GapReason {
    /// The spool was full and its overflow rule is `drop-oldest`.
    Overflow,
    /// Older than `spool.max_age`.
    Expired,
    /// Unreadable on disk.
    Corrupt,
    /// Larger than what the broker takes.
    TooLarge,
    /// The broker refused it until it was too old or made way in a full spool.
    Refused,
    /// Nothing is lost: a rule of the operator's (`[[reduce]]`) left it out.
    Reduced,
}

impl GapReason {
    /// As it stands in a gap record.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Overflow => "overflow",
            Self::Expired => "expired",
            Self::Corrupt => "corrupt",
            Self::TooLarge => "too-large",
            Self::Refused => "refused",
            Self::Reduced => "reduced",
        }
    }
}

impl fmt::Display for GapReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A record of dropped data, published on `…/gap` like data. With [`GapReason::Reduced`] it is a
/// total: `batches` counts those that went whole, `readings` all that were left out from `from` to `to`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Gap {
    /// The device whose data is missing; [`Gap::UNKNOWN`] when not even that could be read.
    pub device: Arc<str>,
    /// The stream; [`Gap::UNKNOWN`] when unknown.
    pub stream: Arc<str>,
    /// First sequence number of the range; `None` when the batches had none or it is unknown.
    pub from: Option<u64>,
    /// Last sequence number of the range.
    pub to: Option<u64>,
    /// Number of batches dropped; 0 when unknown.
    pub batches: u64,
    /// Number of readings dropped; 0 when unknown.
    pub readings: u64,
    /// Why.
    pub reason: GapReason,
    /// When the hub dropped it: Unix seconds.
    pub time: f64,
    /// What is to be said of `time`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clock: Option<Doubt>,
}

impl Gap {
    /// Stands for a device or stream whose name could not be read. No device can have this id,
    /// because ids start with a letter or digit.
    pub const UNKNOWN: &'static str = "_unknown";

    /// The gap that dropping this one batch leaves.
    #[must_use]
    pub fn of(batch: &Batch, reason: GapReason, at: impl Into<Moment>) -> Self {
        let at = at.into();
        Self {
            device: batch.device.clone(),
            stream: batch.stream.clone(),
            from: batch.seq,
            to: batch.seq,
            batches: 1,
            readings: u64::from(batch.readings),
            reason,
            time: at.wall,
            clock: at.doubt(),
        }
    }

    /// Whether nothing lies between the ranges of these two, so that one record can say exactly
    /// what both say.
    #[must_use]
    pub fn adjoins(&self, other: &Self) -> bool {
        match (self.from, self.to, other.from, other.to) {
            (Some(from), Some(to), Some(other_from), Some(other_to)) => {
                other_from <= to.saturating_add(1) && from <= other_to.saturating_add(1)
            }
            (from, _, other_from, _) => from.is_none() && other_from.is_none(),
        }
    }

    /// Widens this gap by another of the same device, stream and reason. Returns `false`, and
    /// changes nothing, when they differ in one of these.
    pub fn merge(&mut self, other: &Self) -> bool {
        if (&self.device, &self.stream, self.reason) != (&other.device, &other.stream, other.reason)
        {
            return false;
        }
        self.from = match (self.from, other.from) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        self.to = self.to.max(other.to);
        // Saturating, as wherever such counts are added: they may come from a disk, and a wrong
        // number is better than no hub.
        self.batches = self.batches.saturating_add(other.batches);
        self.readings = self.readings.saturating_add(other.readings);
        self.time = self.time.max(other.time);
        self.clock = self.clock.or(other.clock);
        true
    }
}

/// What lanes and spool carry.
#[derive(Debug, Clone, PartialEq)]
pub enum Item {
    /// Readings.
    Batch(Batch),
    /// The record of dropped readings.
    Gap(Gap),
    /// The final answer to a command.
    Reply(Reply),
}

impl Item {
    /// Fixed parts, headers and bookkeeping of one item, in bytes.
    pub const OVERHEAD: usize = 128;

    /// About how many bytes this item holds in memory and on disk.
    #[must_use]
    pub fn weight(&self) -> usize {
        match self {
            Self::Batch(batch) => batch.frame.len() + Self::OVERHEAD,
            Self::Gap(_) => Self::OVERHEAD,
            Self::Reply(reply) => reply.weight(),
        }
    }

    /// The device that it is of.
    #[must_use]
    pub fn device(&self) -> &Arc<str> {
        match self {
            Self::Batch(batch) => &batch.device,
            Self::Gap(gap) => &gap.device,
            Self::Reply(reply) => &reply.device,
        }
    }

    /// The kind of topic that it is published on.
    #[must_use]
    pub fn topic(&self, lane: Lane) -> Topic {
        match (self, lane) {
            (Self::Batch(_), Lane::Live) => Topic::Data,
            (Self::Batch(_), Lane::History) => Topic::History,
            (Self::Gap(_), _) => Topic::Gap,
            (Self::Reply(reply), _) if reply.topic.is_some() => Topic::Response,
            (Self::Reply(_), _) => Topic::Result,
        }
    }

    /// About how many bytes its payload will have. For what is read back; of what arrives the
    /// resolved size is known.
    #[must_use]
    pub fn payload_estimate(&self) -> usize {
        /// A record of a number with a name, a unit and a time, in JSON.
        const RECORD: usize = 64;
        match self {
            Self::Batch(batch) => batch.frame.len() + batch.readings as usize * RECORD,
            Self::Gap(_) => Self::OVERHEAD,
            Self::Reply(reply) => reply.payload.len(),
        }
    }

    /// Number of readings carried; what is no batch carries none.
    #[must_use]
    pub fn readings(&self) -> u32 {
        match self {
            Self::Batch(batch) => batch.readings,
            Self::Gap(_) | Self::Reply(_) => 0,
        }
    }
}

/// The way that a batch takes to the broker, which its topic tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Lane {
    /// Fresh, from memory: `…/data`.
    Live,
    /// Had to wait in the spool: `…/history`.
    History,
}

/// What is published of a device for its own sake; each has a topic of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Topic {
    /// `…/data`
    Data,
    /// `…/history`
    History,
    /// `…/gap`
    Gap,
    /// `…/result/{name}`
    Result,
    /// Wherever whoever sent a command wants to have the answer. It is no topic of the device's:
    /// what is refused there goes to [`Topic::Result`].
    Response,
}

impl Topic {
    /// The last level of the topic.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Data => "data",
            Self::History => "history",
            Self::Gap => "gap",
            Self::Result => "result",
            Self::Response => "response",
        }
    }
}

/// The name of the stream of a device that named none: `run` is this run of the hub in lower-case
/// hex, `conn` its connection.
#[must_use]
pub fn unnamed_stream(run: &str, conn: u64) -> Arc<str> {
    format!("~{run}-{conn}").into()
}

/// Whether the hub made this name up. Such a stream ends with its connection: it can never be
/// resumed, so it needs no [`Mark`].
#[must_use]
pub fn is_unnamed(stream: &str) -> bool {
    let hex = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_hexdigit());
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    stream
        .strip_prefix('~')
        .and_then(|rest| rest.split_once('-'))
        .is_some_and(|(run, conn)| hex(run) && digits(conn))
}

/// The highest safe sequence number of a stream, as it is kept across restarts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// The device's id.
    pub device: Arc<str>,
    /// The stream's name.
    pub stream: Arc<str>,
    /// Every batch up to and including this number is safe.
    pub seq: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_the_hub_made_up_is_known_by_its_form() {
        assert!(is_unnamed(&unnamed_stream("19a1b2c3d4e", 17)));
        for named in [
            "", "~", "boot-1", "~boot-1x", "~-1", "~19a1", "~19a1-", "19a1-17",
        ] {
            assert!(!is_unnamed(named), "{named}");
        }
    }
}
