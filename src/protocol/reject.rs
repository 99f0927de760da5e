//! Why a message is not taken.

/// Why a message was rejected: `code` of `{"reject": …}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RejectCode {
    /// Not a message: does not decode, wrong types, duplicate keys, or at the wrong time.
    Malformed,
    /// The pack breaks RFC 8428.
    BadPack,
    /// The sequence number is 0, or was used before for other content.
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
