//! telehub, the daemon: arguments → configuration → run → exit status.

mod cli;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    cli::execute(cli::Arguments::parse())
}
