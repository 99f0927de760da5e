//! Writes the manual pages of the package `telehub-devices` into a directory, from the command line's
//! own definition:
//!
//! ```console
//! $ cargo run -p devices --example devices-manual -- DIRECTORY
//! ```
#![allow(
    dead_code,
    unreachable_pub,
    clippy::print_stdout,
    reason = "only the definition of the command line is used, of a program whose parts these are"
)]

#[path = "../src/args.rs"]
mod args;
#[path = "../src/bench/mod.rs"]
mod bench;
#[path = "../src/cli.rs"]
mod cli;
#[path = "../src/client/mod.rs"]
mod client;
#[path = "../src/conformance/mod.rs"]
mod conformance;
#[cfg(feature = "demo")]
#[path = "../src/demo/mod.rs"]
mod demo;
#[path = "../src/lamp/mod.rs"]
mod lamp;
#[path = "../src/progress.rs"]
mod progress;
#[path = "../src/rogue/mod.rs"]
mod rogue;
#[path = "../src/sensors/mod.rs"]
mod sensors;
#[path = "../src/swarm/mod.rs"]
mod swarm;
#[path = "../src/wire/mod.rs"]
mod wire;

use std::fs;
use std::path::Path;

use anyhow::Context;
use clap::CommandFactory;

fn main() -> anyhow::Result<()> {
    let directory = std::env::args_os().nth(1);
    let directory = directory.context("usage: devices-manual DIRECTORY")?;
    let directory = Path::new(&directory).join("man1");
    fs::create_dir_all(&directory)?;
    let command = cli::Args::command()
        .name("telehub-devices")
        .display_name("telehub-devices")
        .disable_help_subcommand(true)
        // The package's program is built without it.
        .mut_subcommand("demo", |demo| demo.hide(true));
    clap_mangen::generate_to(command, &directory)?;
    Ok(())
}
