//! Bounds on what a device may send. The size of a whole message is bounded by
//! `devices.max_message`; these bound what a message of that size can turn into.

/// Records in one pack. Readings of a vibration sensor come in bursts of hundreds; 4,096 parsed
/// records are at most 1 MB of memory for the time that the frame is looked at.
pub const MAX_RECORDS: usize = 4_096;

/// Bytes of a resolved name, base name included. Names are identifiers (RFC 8428 §4.5.1 asks for
/// the form of a URI or URN); 255 is the longest that common databases take as one.
pub const MAX_NAME: usize = 255;

/// Bytes of a unit. The longest in the SenML units registry has 8.
pub const MAX_UNIT: usize = 64;

/// Bytes of one string or data value, decoded. As much as a message of the default
/// `devices.max_message` can hold.
pub const MAX_VALUE: usize = 64 * 1024;

/// Bytes of a resolved pack in its longest encoding, JSON. Bounds what a long base name over many
/// short records can grow to: 16 times the default `devices.max_message`.
pub const MAX_RESOLVED: usize = 1024 * 1024;

/// Characters of `stream`, `model` and `firmware` (the device protocol names 64 for `stream`).
pub const MAX_TEXT: usize = 64;

/// Characters of a command's id. Longer ones are never sent, so that they answer nothing.
pub const MAX_COMMAND_ID: usize = 64;

/// Bytes of a command's name.
pub const MAX_COMMAND_NAME: usize = 64;

/// Bytes of `error` in a result.
pub const MAX_ERROR_TEXT: usize = 1_024;

/// Depth of arrays and maps within the `value` of a result.
pub const MAX_VALUE_DEPTH: usize = 16;

/// Scalars, arrays and maps within the `value` of a result; a map counts [`MAP_PARTS`] times,
/// because it takes that much more memory. Bounds a decoded value to about 0.5 MB.
pub const MAX_VALUE_PARTS: usize = 4_096;

/// What a map counts for within [`MAX_VALUE_PARTS`]: even a map of one entry takes 640 bytes.
pub const MAP_PARTS: usize = 8;

/// Bytes of `detail` in a reject.
pub const MAX_DETAIL: usize = 200;
