//! A deterministic simulation.
pub(crate) mod chance;
