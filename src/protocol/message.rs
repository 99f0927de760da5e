//! The messages of the device protocol, version 1, without their encoding.

use serde_json::{Map, Value};

use super::pack::Pack;
use super::reject::{Reject, RejectCode};

/// A message from a device. Texts and packs borrow from the frame where they can.
#[derive(Debug, Clone, PartialEq)]
pub enum FromDevice<'a> {
    /// First message, if sent at all.
    Hello(Hello),
    /// A batch.
    Data(Data<'a>),
    /// Answer to a command.
    Result(CommandResult),
    /// The state that it is in.
    Reported(Map<String, Value>),
    /// Going away on purpose.
    Bye(Bye),
}

/// What a device says of its own clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceClock {
    /// It has none: it may send ages and no times.
    None,
    /// It has one that may be wrong.
    Unsure,
    /// It has one that is right.
    Synced,
}

impl DeviceClock {
    /// The clock that stands so in the message.
    #[must_use]
    pub fn from_text(text: &str) -> Option<Self> {
        Some(match text {
            "none" => Self::None,
            "unsure" => Self::Unsure,
            "synced" => Self::Synced,
            _ => return None,
        })
    }
}

/// `{"hello": …}`
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Hello {
    /// Names one run of sequence numbers: 1 to 64 characters, no control characters. `None`: the
    /// hub makes a name.
    pub stream: Option<String>,
    /// The last number that the device used, plus one.
    pub next: Option<u64>,
    /// What its clock is worth.
    pub clock: Option<DeviceClock>,
    /// How many ids of commands it writes down before it carries them out.
    pub remembers: Option<u64>,
    /// Bytes of one message that it can take.
    pub max_message: Option<u64>,
    /// At most 64 characters.
    pub model: Option<String>,
    /// At most 64 characters.
    pub firmware: Option<String>,
}

impl Hello {
    /// Whether the device knows of `note`: firmware from before it may take an unknown kind of
    /// message for a fault.
    #[must_use]
    pub fn takes_notes(&self) -> bool {
        self.next.is_some() || self.clock.is_some()
    }
}

/// `{"data": …}`, or a bare pack.
#[derive(Debug, Clone, PartialEq)]
pub struct Data<'a> {
    /// At least 1; `None`: no ack wanted.
    pub seq: Option<u64>,
    /// Seconds before the arrival to which the relative times of the pack refer; 0 or more.
    pub age: f64,
    /// The readings, not yet resolved.
    pub pack: Pack<'a>,
}

/// `{"bye": …}`
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bye {
    /// The device is back in about so many seconds. `None`: it does not say when.
    pub sleep: Option<f64>,
}

/// `{"result": …}`
#[derive(Debug, Clone, PartialEq)]
pub struct CommandResult {
    /// The command's id: 1 to 64 characters.
    pub id: String,
    /// Which command it was. `None`: not said, or no name that a command can have.
    pub name: Option<String>,
    /// Whether it worked.
    pub ok: bool,
    /// What it gave.
    pub value: Option<Value>,
    /// Why it did not work.
    pub error: Option<String>,
    /// Progress: the last one follows.
    pub more: bool,
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
    /// Something that the device's author should know.
    Note(Note),
    /// From the broker.
    Command {
        /// Comes back in the result.
        id: String,
        /// The last topic level.
        name: String,
        /// Whatever the sender gave, if anything.
        args: Option<Value>,
        /// How many seconds the device has left.
        timeout: f64,
        /// It may have been sent before.
        again: bool,
    },
    /// The state that the device is to be in.
    Desired {
        /// A map.
        map: Value,
    },
    /// The last result of a command is safe.
    ResultAck {
        /// The command's id.
        id: String,
    },
    /// A result was not taken and never will be.
    ResultReject {
        /// The command's id.
        id: String,
        /// The kind of fault.
        code: RejectCode,
        /// As in [`Reject`].
        detail: String,
    },
}

/// `{"welcome": …}`
#[derive(Debug, Clone, PartialEq)]
pub struct Welcome {
    /// The stream of `hello`, or the name that the hub made.
    pub stream: String,
    /// The highest safe sequence number; 0: none.
    pub seq: u64,
    /// Whether the hub remembers the stream.
    pub known: bool,
    /// The hub's clock: Unix seconds.
    pub time: f64,
    /// The same in whole seconds, for devices whose floats have 32 bits.
    pub time_s: u64,
    /// Seconds between pings.
    pub ping_interval: f64,
    /// Seconds after a ping in which a sign of life has to come.
    pub ping_timeout: f64,
    /// Bytes of one message.
    pub max_message: u64,
    /// Messages a second.
    pub max_rate: u32,
    /// Batches that may be unacked.
    pub window: u32,
}

/// What a note is about: `code` of `{"note": …}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NoteCode {
    /// A time that cannot be true was taken, and is marked on the broker.
    ImplausibleTime,
    /// A record without a usable value was left out of a batch.
    RecordDropped,
}

impl NoteCode {
    /// As it stands in the message.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ImplausibleTime => "implausible-time",
            Self::RecordDropped => "record-dropped",
        }
    }

    /// The code that stands so in the message.
    #[must_use]
    pub fn from_text(text: &str) -> Option<Self> {
        [Self::ImplausibleTime, Self::RecordDropped]
            .into_iter()
            .find(|code| code.as_str() == text)
    }
}

/// `{"note": …}`: the message was taken all the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// What it is about.
    pub code: NoteCode,
    /// One sentence for the firmware's author.
    pub detail: String,
    /// The batch that it is about, if it had a number.
    pub seq: Option<u64>,
}
