//! The service manager (systemd): what it is told, and what it hands over.
//!
//! Without systemd nobody listens, and nothing here does anything.

mod evidence;
mod line;
mod manager;
mod round;
pub mod socket;
mod watchdog;

pub use manager::Manager;
pub use watchdog::feed;
