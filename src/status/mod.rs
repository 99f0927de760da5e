//! What is going on, for those who may ask: counters that the rooms write and the admin
//! listener, the broker's `status` topics and the log read.

pub mod board;
pub mod presence;
