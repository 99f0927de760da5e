//! telehub, in the order in which a reading travels through it. See `ARCHITECTURE.md`.

pub mod clock;
pub mod config;
pub mod intake;
pub mod listen;
pub mod protocol;
pub mod reading;
pub mod session;
pub mod spool;
pub mod status;
pub mod stop;
pub mod uplink;
