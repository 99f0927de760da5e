//! Simulators.
fn main() {}
