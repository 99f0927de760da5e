//! telehub, the daemon.
fn main() {}
