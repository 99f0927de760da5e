//! The answer to a command, on its way to whoever sent it.

use std::sync::Arc;

use bytes::Bytes;

use super::{Batch, Encoding, Moment};

/// An answer, ready to be published. It travels beside the readings and is kept like them.
#[derive(Debug, Clone, PartialEq)]
pub struct Reply {
    /// The device that the command was for. What is kept has a valid id here; what is only told
    /// may have anything that stood in the topic.
    pub device: Arc<str>,
    /// What stood behind `command/`.
    pub name: Arc<str>,
    /// Where it goes; `None`: `…/{device}/result/{name}`.
    pub topic: Option<Arc<str>>,
    /// MQTT 5 Correlation Data, given back as it came.
    pub correlation: Option<Bytes>,
    /// How `payload` is encoded.
    pub encoding: Encoding,
    /// What is published.
    pub payload: Bytes,
    /// When it was made.
    pub made: Moment,
}

const HAS_TOPIC: u8 = 1;
const HAS_CORRELATION: u8 = 2;

impl Reply {
    /// Stands for the stream where replies are stored, counted or missing. A device may have a
    /// stream of this name: nothing is decided by it.
    pub const STREAM: &'static str = "_result";

    /// Bytes of [`Reply::pack`].
    #[must_use]
    pub fn packed_len(&self) -> usize {
        let topic = self.topic.as_ref().map_or(0, |topic| 2 + topic.len());
        let correlation = self.correlation.as_ref().map_or(0, |data| 2 + data.len());
        1 + 2 + self.name.len() + topic + correlation + self.payload.len()
    }

    /// As it is stored: like a batch, in whose frame the parts stand one after the other, each
    /// with its length (two bytes, little-endian) but the last. The caller keeps topics and
    /// Correlation Data below 64 KiB, which is MQTT's own limit.
    #[must_use]
    pub fn pack(&self) -> Batch {
        let mut frame = Vec::with_capacity(self.packed_len());
        let flags = [
            (HAS_TOPIC, self.topic.is_some()),
            (HAS_CORRELATION, self.correlation.is_some()),
        ];
        let set = flags.iter().filter(|(_, set)| *set);
        frame.push(set.fold(0, |flags, (flag, _)| flags | flag));
        let mut part = |bytes: &[u8]| {
            let length = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
            frame.extend_from_slice(&length.to_le_bytes());
            frame.extend_from_slice(&bytes[..length.into()]);
        };
        part(self.name.as_bytes());
        self.topic.iter().for_each(|topic| part(topic.as_bytes()));
        self.correlation.iter().for_each(|data| part(data));
        frame.extend_from_slice(&self.payload);
        Batch {
            device: self.device.clone(),
            stream: Self::STREAM.into(),
            seq: None,
            received: self.made,
            readings: 0,
            encoding: self.encoding,
            frame: frame.into(),
        }
    }

    /// The reply in a batch that [`Reply::pack`] made. `None`: it did not.
    #[must_use]
    pub fn unpack(batch: &Batch) -> Option<Self> {
        let mut rest = &batch.frame[..];
        let mut take = |length: usize| {
            let (part, after) = rest.split_at_checked(length)?;
            rest = after;
            Some(part)
        };
        let [flags] = take(1)? else { return None };
        let mut part = || {
            let length = u16::from_le_bytes(take(2)?.try_into().ok()?);
            take(length.into())
        };
        let text = |bytes| std::str::from_utf8(bytes).ok().map(Arc::from);
        let name = text(part()?)?;
        let topic = match flags & HAS_TOPIC {
            0 => None,
            _ => Some(text(part()?)?),
        };
        let correlation = match flags & HAS_CORRELATION {
            0 => None,
            _ => Some(Bytes::copy_from_slice(part()?)),
        };
        Some(Self {
            device: batch.device.clone(),
            name,
            topic,
            correlation,
            encoding: batch.encoding,
            payload: Bytes::copy_from_slice(rest),
            made: batch.received,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_packed_unpacks_to_the_same(
            name in "[a-z]{0,64}", topic in prop::option::of("\\PC{0,40}"),
            correlation in prop::option::of(prop::collection::vec(any::<u8>(), 0..256)),
            payload in prop::collection::vec(any::<u8>(), 0..300), json: bool,
        ) {
            let reply = Reply {
                device: "lamp".into(),
                name: name.into(),
                topic: topic.map(Into::into),
                correlation: correlation.map(Into::into),
                encoding: if json { Encoding::Json } else { Encoding::Cbor },
                payload: payload.into(),
                made: Moment::at(7.5),
            };
            let batch = reply.pack();
            prop_assert_eq!(batch.frame.len(), reply.packed_len());
            prop_assert_eq!(Reply::unpack(&batch), Some(reply));
        }

        #[test]
        fn no_bytes_do_harm(frame in prop::collection::vec(any::<u8>(), 0..60)) {
            let batch = Batch {
                frame: frame.into(),
                ..Reply {
                    device: "lamp".into(),
                    name: "on".into(),
                    topic: None,
                    correlation: None,
                    encoding: Encoding::Json,
                    payload: Bytes::new(),
                    made: Moment::at(1.0),
                }
                .pack()
            };
            let _ = Reply::unpack(&batch);
        }
    }
}
