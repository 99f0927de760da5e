//! The intake: which way each batch goes, live or through the spool, and when it is safe.

pub mod backlog;
pub mod flight;
pub mod lanes;
pub mod poison;
pub mod port;
pub mod streams;
