//! Device protocol, version 1: messages in CBOR and JSON, SenML packs, broker payloads. Pure: no
//! IO, no clock.
//!
//! A frame goes through [`decode()`], which finds the message and the records of its pack, and
//! [`pack::Pack::check`], which resolves them (RFC 8428 §4.6) without building anything. When the
//! batch is published, [`payload::append_batch`] does both again and writes the result. An ordinary
//! batch in CBOR takes the short cut of [`fast`], both times.

pub mod client;
pub mod decode;
pub mod encode;
pub mod fast;
mod influx;
pub mod limits;
pub mod message;
pub mod number;
pub mod out;
pub mod pack;
pub mod payload;
pub mod reject;
pub mod select;
pub mod visit;

pub use client::decode_to_device;
pub(crate) use decode::scalar::base64url;
pub use decode::{decode, decode_value, result_id, seq_of_beginning};
pub use encode::encode;
