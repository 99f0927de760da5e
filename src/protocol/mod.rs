//! Device protocol, version 1: messages in CBOR and JSON, SenML packs. Pure: no IO, no clock.

pub mod message;
pub mod pack;
