//! The answer to a command, on its way to whoever sent it.

use std::sync::Arc;

use bytes::Bytes;

use super::Encoding;

/// An answer, ready to be published.
#[derive(Debug, Clone, PartialEq)]
pub struct Reply {
    /// The device that the command was for; of a refusal, whatever stood in its place in the topic.
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
}

impl Reply {
    /// Fixed parts and bookkeeping of one reply, in bytes.
    const OVERHEAD: usize = 128;

    /// About how many bytes it holds in memory.
    #[must_use]
    pub fn weight(&self) -> usize {
        let topic = self.topic.as_ref().map_or(0, |topic| topic.len());
        let correlation = self.correlation.as_ref().map_or(0, Bytes::len);
        let names = self.device.len() + self.name.len();
        self.payload.len() + topic + correlation + names + Self::OVERHEAD
    }
}
