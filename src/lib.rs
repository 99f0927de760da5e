//! telehub, in the order in which a reading travels through it. See `ARCHITECTURE.md`.
//!
//! 1. `cli`: arguments → configuration → run → exit status
//! 2. [`config`]: raw TOML → checked values
//! 3. [`hub`]: the only wiring: channels, tasks, the order of stopping
//! 4. [`listen`]: accept, TLS, HTTP upgrade, credentials, limits
//! 5. [`session`]: one device's life: messages, liveness, window, acks
//! 6. [`protocol`]: messages in CBOR and JSON, SenML packs, broker payloads; pure
//! 7. [`reading`]: what travels: batches, gap records, marks
//! 8. [`intake`]: the two lanes: who goes where, and when it is safe
//! 9. [`spool`]: group commit, drain, overflow, on sled
//! 10. [`uplink`]: publish, ledger, reconnect, on rumqttc
//! 11. [`status`] and [`admin`]: what is going on, and who may ask
//! 12. [`service`]: what systemd is told, and what it hands over
//!
//! [`certificate`], [`clock`], [`log`], [`memory`], [`plain`], [`pulse`] and [`stop`] serve all of
//! them.

pub mod admin;
pub mod certificate;
pub mod clock;
pub mod config;
pub mod hub;
pub mod intake;
pub mod listen;
pub mod log;
pub mod memory;
pub mod plain;
pub mod protocol;
pub mod pulse;
pub mod reading;
pub mod service;
pub mod session;
#[cfg(test)]
mod simulation;
pub mod spool;
pub mod status;
pub mod stop;
pub mod uplink;
