//! What goes to the broker: batches and gap records.

use serde::ser::{Error as _, SerializeMap, SerializeSeq};
use serde::{Serialize, Serializer};

use super::decode::decode;
use super::decode::scalar::base64url;
use super::fast;
use super::influx;
use super::limits::{MAX_NAME, MAX_RESOLVED};
use super::message::FromDevice;
use super::number::Number;
use super::out::{Out, Writer};
use super::pack::Pack;
use super::pack::resolved::{Resolved, ResolvedValue};
use super::pack::times::RELATIVE_BELOW;
use crate::reading::{Batch, Doubt, Encoding, Gap};

/// `uplink.format`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// The batch as a JSON map.
    Json,
    /// The same map in CBOR, text labels included.
    Cbor,
    /// The resolved pack alone, `application/senml+json`.
    SenmlJson,
    /// The resolved pack alone, `application/senml+cbor`, by the RFC's integer labels.
    SenmlCbor,
    /// InfluxDB's line protocol, one line a reading.
    Influx,
}

/// A stored batch cannot be published. It was checked before it was taken, so its frame is not
/// what it was.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PayloadError {
    /// The frame does not decode.
    #[error("the frame does not decode: {0}")]
    Frame(String),
    /// The frame is a message without a pack.
    #[error("the frame holds no pack")]
    NoPack,
    /// The pack has no reading.
    #[error("the pack has no record with a value")]
    NoReading,
    /// The pack does not resolve.
    #[error("the pack does not resolve: {0}")]
    Pack(String),
}

/// Bytes of a payload beside its records at most: keys, device and stream of their longest,
/// numbers.
const ENVELOPE: usize = 576;

/// No payload is longer, in any format.
pub const MAX_PAYLOAD: usize = MAX_RESOLVED + ENVELOPE;

/// How many times longer a payload is than its frame, roughly: base names are written out, and
/// JSON takes more than CBOR. Only a first guess for the buffer.
const GROWTH: usize = 3;

/// What is to be said of the times of a batch; the payload of `json` and `cbor` says it itself.
///
/// # Errors
/// When the frame is not what was taken.
pub fn doubt(batch: &Batch) -> Result<Option<Doubt>, PayloadError> {
    let message = decode(batch.encoding, &batch.frame)
        .map_err(|reject| PayloadError::Frame(reject.detail))?;
    let FromDevice::Data(data) = message else {
        return Err(PayloadError::NoPack);
    };
    let received = batch.received.wall - data.age;
    Ok(data.pack.times(received).doubt(&batch.received))
}

/// The payload of `…/data` and `…/history`: see [`append_batch`].
///
/// # Errors
/// When the frame is not what was taken.
pub fn encode_batch(batch: &Batch, format: Format) -> Result<Vec<u8>, PayloadError> {
    let mut payload = Vec::with_capacity(batch.frame.len() * GROWTH + ENVELOPE);
    append_batch(&mut payload, batch, format)?;
    Ok(payload)
}

/// [`encode_batch`], published so many seconds after the arrival. Only the SenML formats ask for
/// it: a time before 1978, which comes of a hub whose clock nobody has set, is written relative to
/// the moment of publishing, because that is what a reader takes such a number for (RFC 8428
/// §4.5.3).
///
/// # Errors
/// When the frame is not what was taken.
pub fn encode_batch_after(
    batch: &Batch,
    format: Format,
    waited: f64,
) -> Result<Vec<u8>, PayloadError> {
    let mut payload = Vec::with_capacity(batch.frame.len() * GROWTH + ENVELOPE);
    append_batch_after(&mut payload, batch, format, waited)?;
    Ok(payload)
}

/// Appends the payload of `…/data` and `…/history`: reads the frame again, resolves its pack with
/// the moment of arrival, and writes it. Times that are in doubt are marked in the two formats that
/// have a place for it.
///
/// # Errors
/// When the frame is not what was taken; nothing was appended then.
pub fn append_batch(out: &mut impl Out, batch: &Batch, format: Format) -> Result<(), PayloadError> {
    append_batch_after(out, batch, format, 0.0)
}

/// [`append_batch`], published so many seconds after the arrival: see [`encode_batch_after`].
///
/// # Errors
/// When the frame is not what was taken; nothing was appended then.
pub fn append_batch_after(
    out: &mut impl Out,
    batch: &Batch,
    format: Format,
    waited: f64,
) -> Result<(), PayloadError> {
    if append_walked(out, batch, format) {
        return Ok(());
    }
    append_decoded_after(out, batch, format, waited)
}

/// The short cut: an ordinary batch in CBOR to JSON in one pass. `false`: it has to go the long way,
/// and nothing was appended.
fn append_walked(out: &mut impl Out, batch: &Batch, format: Format) -> bool {
    let envelope = match (batch.encoding, format) {
        (Encoding::Cbor, Format::Json) => true,
        (Encoding::Cbor, Format::SenmlJson) => false,
        _ => return false,
    };
    let start = out.len();
    out.reserve(batch.frame.len() * GROWTH + ENVELOPE);
    if envelope {
        let whole = Whole::<()>::of(batch, batch.received.doubt(), None);
        if serde_json::to_writer(Writer(out), &whole).is_err() {
            out.truncate(start);
            return false;
        }
        // The pack goes in where the map ends.
        out.truncate(out.len() - 1);
        out.put(b",\"pack\":");
    }
    out.put(b"[");
    let walked = fast::walk(&batch.frame, batch.received.wall, &mut fast::Json::new(out));
    let ordinary = walked.is_some_and(|walked| {
        let times = walked.pack.times;
        match envelope {
            true => !times.are_implausible(&batch.received),
            false => times.relative.first >= RELATIVE_BELOW,
        }
    });
    if !ordinary {
        out.truncate(start);
        return false;
    }
    out.put(if envelope { b"]}" } else { b"]" });
    true
}

/// Appends a batch in line protocol, with the hub's id among the tags if it is known.
///
/// # Errors
/// When the frame is not what was taken; nothing was appended then.
pub fn append_lines(
    out: &mut impl Out,
    batch: &Batch,
    hub: Option<&str>,
) -> Result<(), PayloadError> {
    let message = decode(batch.encoding, &batch.frame)
        .map_err(|reject| PayloadError::Frame(reject.detail))?;
    let FromDevice::Data(data) = message else {
        return Err(PayloadError::NoPack);
    };
    if data.pack.readings() == 0 {
        return Err(PayloadError::NoReading);
    }
    let received = batch.received.wall - data.age;
    let doubt = data.pack.times(received).doubt(&batch.received);
    let mut lines = influx::Lines::new(batch, hub, doubt);
    for record in data.pack.resolve(received) {
        lines.record(&record.map_err(|error| PayloadError::Pack(error.to_string()))?);
    }
    out.put(lines.finish().as_bytes());
    Ok(())
}

/// The payload of `…/gap` in line protocol.
#[must_use]
pub fn gap_line(gap: &Gap, hub: Option<&str>) -> Vec<u8> {
    influx::gap(gap, hub).into_bytes()
}

/// [`append_batch`] by the long way alone, which takes every encoding and format. What the short cut
/// writes is compared with this.
///
/// # Errors
/// When the frame is not what was taken; nothing was appended then.
pub fn append_decoded(
    out: &mut impl Out,
    batch: &Batch,
    format: Format,
) -> Result<(), PayloadError> {
    append_decoded_after(out, batch, format, 0.0)
}

fn append_decoded_after(
    out: &mut impl Out,
    batch: &Batch,
    format: Format,
    waited: f64,
) -> Result<(), PayloadError> {
    let message = decode(batch.encoding, &batch.frame)
        .map_err(|reject| PayloadError::Frame(reject.detail))?;
    let FromDevice::Data(data) = message else {
        return Err(PayloadError::NoPack);
    };
    let readings = data.pack.readings();
    if readings == 0 {
        return Err(PayloadError::NoReading);
    }
    let labels = match format {
        Format::SenmlCbor => Labels::Integers,
        _ => Labels::Texts,
    };
    let received = batch.received.wall - data.age;
    let published = match format {
        Format::SenmlJson | Format::SenmlCbor => Some(batch.received.wall + waited),
        Format::Json | Format::Cbor | Format::Influx => None,
    };
    let pack = Records {
        pack: &data.pack,
        readings,
        received,
        published,
        labels,
    };
    let start = out.len();
    let doubt = data.pack.times(received).doubt(&batch.received);
    let whole = Whole::of(batch, doubt, Some(&pack));
    let written = match format {
        Format::Json => to_json(out, &whole),
        Format::SenmlJson => to_json(out, &pack),
        Format::Cbor => to_cbor(out, &whole),
        Format::SenmlCbor => to_cbor(out, &pack),
        Format::Influx => append_lines(out, batch, None),
    };
    if written.is_err() {
        out.truncate(start);
    }
    written
}

/// The payload of `…/gap`: a map, as JSON with the JSON formats and as CBOR with the CBOR ones.
/// SenML has no way to say it, so `senml-json` and `senml-cbor` get the same map. In line protocol it
/// is a line.
#[must_use]
pub fn encode_gap(gap: &Gap, format: Format) -> Vec<u8> {
    let mut payload = Vec::with_capacity(ENVELOPE);
    match format {
        Format::Influx => return gap_line(gap, None),
        Format::Json | Format::SenmlJson => to_json(&mut payload, gap),
        Format::Cbor | Format::SenmlCbor => to_cbor(&mut payload, gap),
    }
    .expect("invariant: texts and numbers always serialize");
    payload
}

fn to_json<T: Serialize>(out: &mut impl Out, value: &T) -> Result<(), PayloadError> {
    serde_json::to_writer(Writer(out), value).map_err(|error| PayloadError::Pack(error.to_string()))
}

fn to_cbor<T: Serialize>(out: &mut impl Out, value: &T) -> Result<(), PayloadError> {
    let mut writer = Writer(out);
    value
        .serialize(&mut serde_cbor::Serializer::new(
            serde_cbor::ser::IoWrite::new(&mut writer),
        ))
        .map_err(|error| PayloadError::Pack(error.to_string()))
}

/// A batch as a map. Without a pack it is the beginning of one.
#[derive(Serialize)]
struct Whole<'a, P> {
    device: &'a str,
    stream: &'a str,
    seq: Option<u64>,
    received: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    clock: Option<Doubt>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pack: Option<P>,
}

impl<'a, P> Whole<'a, P> {
    fn of(batch: &'a Batch, clock: Option<Doubt>, pack: Option<P>) -> Self {
        Self {
            device: &batch.device,
            stream: &batch.stream,
            seq: batch.seq,
            received: batch.received.wall,
            clock,
            pack,
        }
    }
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Labels {
    Texts,
    Integers,
}

struct Records<'a> {
    pack: &'a Pack<'a>,
    readings: usize,
    received: f64,
    /// By the hub's clock; `None`: times stay as they are resolved.
    published: Option<f64>,
    labels: Labels,
}

impl Serialize for Records<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut array = serializer.serialize_seq(Some(self.readings))?;
        for record in self.pack.resolve(self.received) {
            let mut record = record.map_err(S::Error::custom)?;
            if let Some(published) = self.published
                && record.time.as_f64() < RELATIVE_BELOW
            {
                record.time = Number::from_float(record.time.as_f64() - published)
                    .ok_or_else(|| S::Error::custom("a time before all times"))?;
            }
            array.serialize_element(&One {
                record: &record,
                labels: self.labels,
            })?;
        }
        array.end()
    }
}

struct One<'a> {
    record: &'a Resolved<'a>,
    labels: Labels,
}

impl Serialize for One<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let record = self.record;
        let binary = !serializer.is_human_readable();
        let fields = 2
            + usize::from(record.version.is_some())
            + usize::from(record.unit.is_some())
            + usize::from(record.value.is_some())
            + usize::from(record.sum.is_some())
            + usize::from(record.update_time.is_some());
        let mut map = Fields {
            map: serializer.serialize_map(Some(fields))?,
            labels: self.labels,
        };
        if let Some(version) = record.version {
            map.put("bver", -1, &version)?;
        }
        let mut name = [0; MAX_NAME];
        let joined = join(&mut name, record.base_name, record.name);
        map.put("n", 0, joined)?;
        map.says(record, binary)?;
        map.put("t", 6, &record.time)?;
        if let Some(update_time) = record.update_time {
            map.put("ut", 7, &update_time)?;
        }
        map.map.end()
    }
}

/// The fields of a resolved record (RFC 8428 §5, §6).
pub(super) struct Fields<M> {
    pub(super) map: M,
    pub(super) labels: Labels,
}

impl<M: SerializeMap> Fields<M> {
    /// One of them, by both its labels.
    pub(super) fn put<T: Serialize + ?Sized>(
        &mut self,
        text: &'static str,
        integer: i8,
        value: &T,
    ) -> Result<(), M::Error> {
        match self.labels {
            Labels::Texts => self.map.serialize_entry(text, value),
            Labels::Integers => self.map.serialize_entry(&integer, value),
        }
    }

    /// Unit, value and sum. `binary`: there are byte strings.
    pub(super) fn says(&mut self, record: &Resolved<'_>, binary: bool) -> Result<(), M::Error> {
        if let Some(unit) = record.unit {
            self.put("u", 1, unit)?;
        }
        match record.value {
            None => {}
            Some(ResolvedValue::Number(value)) => self.put("v", 2, &value)?,
            Some(ResolvedValue::Text(text)) => self.put("vs", 3, text)?,
            Some(ResolvedValue::Bool(value)) => self.put("vb", 4, &value)?,
            Some(ResolvedValue::Data(data)) if binary => self.put("vd", 8, &Bytes(data))?,
            Some(ResolvedValue::Data(data)) => self.put("vd", 8, &*base64url(data))?,
        }
        match record.sum {
            Some(sum) => self.put("s", 5, &sum),
            None => Ok(()),
        }
    }
}

struct Bytes<'a>(&'a [u8]);

impl Serialize for Bytes<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.0)
    }
}

/// The whole name, put together without an allocation.
fn join<'b>(room: &'b mut [u8; MAX_NAME], base: &'b str, name: &'b str) -> &'b str {
    if base.is_empty() {
        return name;
    }
    let whole = base.len() + name.len();
    room[..base.len()].copy_from_slice(base.as_bytes());
    room[base.len()..whole].copy_from_slice(name.as_bytes());
    std::str::from_utf8(&room[..whole]).expect("invariant: two texts in a row are a text")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::reading::{GapReason, Moment};

    const FORMATS: [Format; 4] = [
        Format::Json,
        Format::Cbor,
        Format::SenmlJson,
        Format::SenmlCbor,
    ];

    #[test]
    fn the_longest_device_and_stream_fit_in_the_envelope() {
        for stream in ["\u{10ffff}".repeat(64), "\"".repeat(64)] {
            let batch = Batch {
                device: "d".repeat(64).into(),
                stream: stream.as_str().into(),
                seq: Some(u64::MAX),
                received: Moment {
                    synced: false,
                    ..Moment::at(1_700_000_000.123_456_7)
                },
                readings: 1,
                encoding: Encoding::Json,
                frame: br#"[{"n":"a","v":1}]"#.as_slice().into(),
            };
            let gap = Gap {
                from: Some(u64::MAX),
                batches: u64::MAX,
                readings: u64::MAX,
                ..Gap::of(&batch, GapReason::TooLarge, batch.received)
            };
            for format in FORMATS {
                assert!(encode_batch(&batch, format).unwrap().len() <= ENVELOPE);
                assert!(encode_gap(&gap, format).len() <= ENVELOPE);
            }
        }
    }

    #[test]
    fn a_frame_that_is_not_what_it_was_is_an_error() {
        let batch = |frame: &'static str| Batch {
            device: "d".into(),
            stream: "s".into(),
            seq: None,
            received: Moment::at(0.0),
            readings: 1,
            encoding: Encoding::Json,
            frame: frame.as_bytes().into(),
        };
        for format in FORMATS {
            let error = |frame| encode_batch(&batch(frame), format).unwrap_err();
            assert!(matches!(error("[{"), PayloadError::Frame(_)));
            assert_eq!(error(r#"{"hello":{"stream":"s"}}"#), PayloadError::NoPack);
            assert_eq!(error(r#"[{"bn":"a"}]"#), PayloadError::NoReading);
            assert!(matches!(error(r#"[{"v":1}]"#), PayloadError::Pack(_)));
        }
    }
}
