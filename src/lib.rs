//! telehub, in the order in which a reading travels through it. See `ARCHITECTURE.md`.

pub mod admin;
pub mod clock;
pub mod config;
pub mod hub;
pub mod intake;
pub mod log;
pub mod protocol;
pub mod reading;
pub mod spool;
pub mod status;
pub mod stop;
pub mod uplink;
