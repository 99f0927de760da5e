//! telehub, in the order in which a reading travels through it. See `ARCHITECTURE.md`.
//!
//! 1. `cli`: arguments → configuration → run → exit status
//! 2. [`config`]: raw TOML → checked values
//! 3. [`hub`]: the only wiring: channels, tasks, the order of stopping
//! 4. [`listen`]: accept, TLS, HTTP upgrade, credentials, limits
//! 5. [`session`]: one device's life: messages, liveness, window, acks
//! 6. [`protocol`]: messages in CBOR and JSON, SenML packs, broker payloads; pure
//! 7. [`reading`]: what travels: batches, gap records, marks
//! 8. [`reduce`]: which readings are worth a publish, where the operator has said so; pure
//! 9. [`intake`]: the two lanes: who goes where, and when it is safe
//! 10. [`spool`]: group commit, drain, overflow, on sled
//! 11. [`uplink`]: publish, ledger, reconnect, on rumqttc
//! 12. [`commands`]: the way back: commands to devices, and what became of them
//! 13. [`status`] and [`admin`]: what is going on, and who may ask
//! 14. [`service`]: what systemd is told, and what it hands over
//!
//! [`certificate`], [`clock`], [`log`], [`lru`], [`memory`], [`pattern`], [`plain`], [`pulse`],
//! [`secret`], [`stop`] and [`tls_errors`] serve all of them.

pub mod admin;
pub mod certificate;
pub mod clock;
pub mod commands;
pub mod config;
pub mod hub;
pub mod intake;
pub mod listen;
pub mod log;
pub mod lru;
pub mod memory;
pub mod packed;
pub mod pattern;
pub mod plain;
pub mod protocol;
pub mod pulse;
pub mod reading;
pub mod reduce;
pub mod secret;
pub mod service;
pub mod session;
#[cfg(test)]
mod simulation;
pub mod spool;
pub mod status;
pub mod stop;
pub mod tls_errors;
pub mod uplink;
