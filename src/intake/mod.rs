//! The intake: which way each batch goes, live or through the spool, and when it is safe.

pub mod port;
