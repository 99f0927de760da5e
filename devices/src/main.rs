//! Simulated and real sensors that speak to telehub.
#![allow(
    unreachable_pub,
    reason = "nothing leaves a binary; `pub` marks what a module offers its neighbours"
)]
#![allow(
    clippy::print_stdout,
    reason = "what a command found out goes to stdout, what happens on the way to stderr"
)]

mod args;
mod bench;
mod cli;
mod client;
mod conformance;
#[cfg(feature = "demo")]
mod demo;
mod lamp;
mod progress;
mod rogue;
mod sensors;
mod swarm;
mod wire;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    match cli::run(cli::Args::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("devices: {error:#}");
            ExitCode::FAILURE
        }
    }
}
