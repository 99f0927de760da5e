//! The messages of the device protocol, version 1, without their encoding.

use serde_json::Value;

use super::pack::Pack;

/// A message from a device. Texts and packs borrow from the frame where they can.
#[derive(Debug, Clone, PartialEq)]
pub enum FromDevice<'a> {
    /// First message, if sent at all.
    Hello(Hello),
    /// A batch.
    Data(Data<'a>),
    /// Answer to a command.
    Result(CommandResult),
}

/// `{"hello": …}`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// Names one run of sequence numbers: 1 to 64 characters, no control characters.
    pub stream: String,
    /// At most 64 characters.
    pub model: Option<String>,
    /// At most 64 characters.
    pub firmware: Option<String>,
}

/// `{"data": …}`, or a bare pack.
#[derive(Debug, Clone, PartialEq)]
pub struct Data<'a> {
    /// At least 1; `None`: no ack wanted.
    pub seq: Option<u64>,
    /// The readings, not yet resolved.
    pub pack: Pack<'a>,
}

/// `{"result": …}`
#[derive(Debug, Clone, PartialEq)]
pub struct CommandResult {
    /// The command's id.
    pub id: String,
    /// Whether it worked.
    pub ok: bool,
    /// What it gave.
    pub value: Option<Value>,
    /// Why it did not work.
    pub error: Option<String>,
}

/// A message to a device.
#[derive(Debug, Clone, PartialEq)]
pub enum ToDevice {
    /// Answer to `hello`.
    Welcome(Welcome),
    /// Every batch up to and including `seq` is safe.
    Ack {
        /// At least 1.
        seq: u64,
    },
    /// A message was not taken and never will be.
    Reject(Reject),
    /// From the broker.
    Command {
        /// Comes back in the result.
        id: String,
        /// The last topic level.
        name: String,
        /// Whatever the sender gave.
        args: Value,
    },
}

/// `{"welcome": …}`
#[derive(Debug, Clone, PartialEq)]
pub struct Welcome {
    /// The stream of `hello`.
    pub stream: String,
    /// The highest safe sequence number; 0: none.
    pub seq: u64,
    /// The hub's clock: Unix seconds.
    pub time: f64,
    /// Seconds between pings.
    pub ping_interval: f64,
    /// Bytes of one message.
    pub max_message: u64,
    /// Batches that may be unacked.
    pub window: u32,
}

/// Why a message was rejected: `code` of `{"reject": …}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RejectCode {
    /// Not a message: does not decode, wrong types, duplicate keys.
    Malformed,
    /// The pack breaks RFC 8428.
    BadPack,
    /// The sequence number is 0, or goes backwards to one that was never sent.
    BadSeq,
    /// The batch is larger than the hub passes on.
    TooLarge,
    /// A map with one key that is no known kind of message.
    UnknownKind,
}

impl RejectCode {
    /// As it stands in the message.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::BadPack => "bad-pack",
            Self::BadSeq => "bad-seq",
            Self::TooLarge => "too-large",
            Self::UnknownKind => "unknown-kind",
        }
    }

    /// The code that stands so in the message.
    #[must_use]
    pub fn from_text(text: &str) -> Option<Self> {
        [
            Self::Malformed,
            Self::BadPack,
            Self::BadSeq,
            Self::TooLarge,
            Self::UnknownKind,
        ]
        .into_iter()
        .find(|code| code.as_str() == text)
    }
}

/// `{"reject": …}`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reject {
    /// The sequence number of the rejected batch, when it could be read.
    pub seq: Option<u64>,
    /// The kind of fault.
    pub code: RejectCode,
    /// One sentence for the firmware's author: what is wrong and where. At most 200 bytes, and
    /// never a copy of more than a few bytes of what the device sent.
    pub detail: String,
}
