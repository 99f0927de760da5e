//! What is going on, for those who may ask: counters that the rooms write and the admin
//! listener, the broker's `status` topics and the log read.

pub mod board;
pub mod commands;
pub mod counts;
pub mod device;
pub mod devices;
pub mod feed;
pub mod fill;
pub mod histogram;
pub mod history;
pub mod last_batches;
pub mod memory;
pub mod number;
pub mod per_day;
pub mod presence;
pub mod process;
pub mod reduce;
pub mod refused;
pub mod report;
pub mod rhythm;
pub mod sampling;
pub mod shared;
pub mod spool;
pub mod tap;
pub mod uplink;
