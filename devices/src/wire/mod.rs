//! The device's end of the protocol, written from the contract and the RFCs alone. It shares no
//! code with the hub, so that an error in one end cannot hide behind the same error in the other.

pub mod cbor;
pub mod json;
pub mod message;
pub mod senml;

#[cfg(test)]
mod golden;

/// How frames are encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// Binary frames (RFC 8949).
    Cbor,
    /// Text frames (RFC 8259).
    Json,
}
