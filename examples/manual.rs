//! Writes the manual pages and the shell completions of the package into a directory, from the
//! command line's own definition and the commented default configuration:
//!
//! ```console
//! $ cargo run --example manual -- DIRECTORY
//! ```
#![allow(dead_code, reason = "only the definition of the command line is used")]

#[path = "../src/cli/mod.rs"]
mod cli;

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::Context;
use clap::{Command, CommandFactory};
use clap_complete::Shell;

/// What the page about the configuration is made from.
const SETTINGS: &str = include_str!("../systemd/telehub.toml");

fn main() -> anyhow::Result<()> {
    let directory = std::env::args_os().nth(1);
    let directory = directory.context("usage: manual DIRECTORY")?;
    let directory = Path::new(&directory);
    for part in ["man1", "man5", "completions"] {
        fs::create_dir_all(directory.join(part))?;
    }
    let mut command = cli::Arguments::command().disable_help_subcommand(true);
    command.build();
    pages(&command, "telehub", &directory.join("man1"))?;
    fs::write(directory.join("man5/telehub.toml.5"), settings())?;
    let mut command = cli::Arguments::command();
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        let into = directory.join("completions");
        clap_complete::generate_to(shell, &mut command, "telehub", into)?;
    }
    Ok(())
}

/// One page for a command and one for each below it: `telehub-device-add.1`.
fn pages(command: &Command, name: &str, directory: &Path) -> anyhow::Result<()> {
    let mut text = Vec::new();
    let source = concat!("telehub ", env!("CARGO_PKG_VERSION"));
    let man = clap_mangen::Man::new(command.clone())
        .title(name)
        .source(source);
    man.render(&mut text)?;
    let mut text = String::from_utf8(text)?;
    text.push_str(closing(name));
    fs::write(directory.join(format!("{name}.1")), text)?;
    for below in command.get_subcommands() {
        pages(below, &format!("{name}-{}", below.get_name()), directory)?;
    }
    Ok(())
}

/// What the definition of the command line does not say.
fn closing(name: &str) -> &'static str {
    if name == "telehub" {
        ".SH \"EXIT STATUS\"\n0, or 2 for wrong usage, 78 for a configuration that cannot be used \
         (every error is printed, with its line), 1 for anything else. A failure is one sentence \
         on stderr.\n\
         .SH FILES\n.TP\n\\fI/etc/telehub/telehub.toml\\fR\nThe configuration.\n\
         .TP\n\\fI/var/lib/telehub/devices.toml\\fR\nThe devices and the hashes of their tokens.\n\
         .TP\n\\fI/var/lib/telehub/spool\\fR\nWhat the broker has not got yet.\n\
         .SH SIGNALS\nSIGTERM and SIGINT stop the hub; what it has acknowledged is safe by then. \
         SIGHUP makes it read the registry and the certificates again.\n\
         .SH \"SEE ALSO\"\n\\fBtelehub.toml\\fR(5)\n"
    } else {
        ".SH \"SEE ALSO\"\n\\fBtelehub\\fR(1), \\fBtelehub.toml\\fR(5)\n"
    }
}

/// The page about the configuration: the commented default configuration itself.
fn settings() -> String {
    let mut page = format!(
        ".TH TELEHUB.TOML 5 \"\" \"telehub {}\"\n\
         .SH NAME\ntelehub.toml \\- the configuration of telehub(1)\n\
         .SH DESCRIPTION\n\
         \\fI/etc/telehub/telehub.toml\\fR is a TOML file. A key that is not there has its default; \
         a key that is not known is an error. \\fBtelehub check\\fR prints the configuration \
         resolved, or every error in it.\n.P\n\
         This is the file as it is installed, with every key. A line without # has the default; \
         a key behind # is off or depends on the machine, and its value is an example.\n",
        env!("CARGO_PKG_VERSION")
    );
    // The lines of a section; a comment right above its head belongs to it.
    let mut section: Vec<&str> = Vec::new();
    for line in SETTINGS.lines() {
        let name = line.trim_start_matches('#').strip_prefix('[');
        let Some(name) = name.and_then(|name| name.strip_suffix(']')) else {
            section.push(line);
            continue;
        };
        let comments = section
            .iter()
            .rev()
            .take_while(|line| line.starts_with('#'));
        let above = section.split_off(section.len() - comments.count());
        close(&mut page, &section);
        let _ = write!(page, ".SH [{name}]\n.EX\n");
        section = above;
    }
    close(&mut page, &section);
    page.push_str(".SH \"SEE ALSO\"\n\\fBtelehub\\fR(1)\n");
    page
}

/// Ends a section's example. What stands before the first section is about the file itself.
fn close(page: &mut String, section: &[&str]) {
    if !page.contains(".EX\n") {
        return;
    }
    let text = section.join("\n");
    for line in text.trim_end().lines() {
        let _ = writeln!(page, "{}", escaped(line));
    }
    page.push_str(".EE\n");
}

/// A line that roff prints as it is.
fn escaped(line: &str) -> String {
    let line = line.replace('\\', "\\e").replace('-', "\\-");
    if line.starts_with(['.', '\'']) {
        format!("\\&{line}")
    } else {
        line
    }
}
