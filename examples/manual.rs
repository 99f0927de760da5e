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
    let help = command.get_after_help().map(ToString::to_string);
    // Told below, under the headings that a manual page has for it.
    let bare = command.clone().after_help("");
    let man = clap_mangen::Man::new(bare).title(name).source(source);
    man.render_title(&mut text)?;
    man.render_name_section(&mut text)?;
    text.extend(synopsis(command, name).into_bytes());
    man.render_description_section(&mut text)?;
    man.render_options_section(&mut text)?;
    if command.has_subcommands() {
        man.render_subcommands_section(&mut text)?;
    }
    let mut text = String::from_utf8(text)?;
    text.push_str(&told(help.as_deref().unwrap_or_default()));
    text.push_str(&closing(name));
    fs::write(directory.join(format!("{name}.1")), text)?;
    for below in command.get_subcommands() {
        pages(below, &format!("{name}-{}", below.get_name()), directory)?;
    }
    Ok(())
}

/// The command with every option and what it takes.
fn synopsis(command: &Command, name: &str) -> String {
    let mut line = format!(".SH SYNOPSIS\n\\fB{}\\fR", name.replace('-', " "));
    for argument in command.get_arguments().filter(|one| !one.is_hide_set()) {
        let takes = argument
            .get_num_args()
            .is_none_or(|range| range.takes_values());
        let values = argument.get_value_names().unwrap_or_default();
        let value = values.first().map_or_else(
            || argument.get_id().as_str().to_uppercase(),
            ToString::to_string,
        );
        let many = argument
            .get_num_args()
            .is_some_and(|range| range.max_values() > 1);
        let value = format!("\\fI{value}\\fR{}", if many { "…" } else { "" });
        let shown = match argument.get_long() {
            Some(long) if takes => format!("\\fB\\-\\-{}\\fR {value}", long.replace('-', "\\-")),
            Some(long) => format!("\\fB\\-\\-{}\\fR", long.replace('-', "\\-")),
            None => value,
        };
        if argument.is_required_set() {
            line.push_str(&format!(" {shown}"));
        } else {
            line.push_str(&format!(" [{shown}]"));
        }
    }
    if command.has_subcommands() {
        line.push_str(" \\fICOMMAND\\fR");
    }
    line + "\n"
}

/// What is told below the options in `--help`, under headings of its own: `Examples:` and `Exit
/// status…:` begin blocks that are indented; the rest are notes.
fn told(help: &str) -> String {
    let mut text = String::new();
    let mut notes = String::new();
    let mut lines = help.lines().peekable();
    while let Some(line) = lines.next() {
        let heading = match line {
            "Example:" | "Examples:" => "EXAMPLES",
            line if line.starts_with("Exit status") && line.ends_with(':') => "EXIT STATUS",
            _ => {
                notes.push_str(&escaped(line));
                notes.push('\n');
                continue;
            }
        };
        let _ = writeln!(text, ".SH \"{heading}\"\n.nf");
        while let Some(line) = lines.next_if(|line| line.starts_with("  ")) {
            let _ = writeln!(text, "{}", escaped(line.trim_start()));
        }
        text.push_str(".fi\n");
    }
    if !notes.trim().is_empty() {
        let _ = write!(
            text,
            ".SH NOTES\n{}",
            notes.trim_start().replace("\n\n", "\n.PP\n")
        );
    }
    text
}

/// What the command reads of its environment, and its files.
fn surroundings(name: &str) -> &'static str {
    match name {
        "telehub-run" => {
            ".SH ENVIRONMENT\n.TP\nNOTIFY_SOCKET, WATCHDOG_USEC, LISTEN_FDS, JOURNAL_STREAM\n\
             From systemd: readiness, the watchdog, the device port, the journal.\n\
             .TP\nCREDENTIALS_DIRECTORY\nWhere names of files without a slash are looked for.\n\
             .TP\nRUNTIME_DIRECTORY\nWhere the socket for the local operator is made.\n"
        }
        "telehub-status" | "telehub-tail" => {
            ".SH ENVIRONMENT\n.TP\nNO_COLOR\nNot empty: no colour.\n\
             .TP\nTERM\n\\fBdumb\\fR: no colour.\n\
             .SH FILES\n.TP\n\\fI/run/telehub/admin.sock\\fR\nThe socket of the hub that systemd runs, for \
             root and the group telehub; asked first.\n\
             .TP\n\\fI/etc/telehub/telehub.toml\\fR\nWhose [admin] is asked when there is no socket.\n"
        }
        "telehub-spool-stat" | "telehub-spool-export" | "telehub-spool-verify" => {
            ".SH ENVIRONMENT\n.TP\nTMPDIR\nWhere copies of what is read are made.\n\
             .SH FILES\n.TP\n\\fI/etc/telehub/telehub.toml\\fR\nWhose spool.path is read.\n"
        }
        "telehub-check" => {
            ".SH FILES\n.TP\n\\fI/etc/telehub/telehub.toml\\fR\nThe configuration.\n"
        }
        name if name.starts_with("telehub-device-") => {
            ".SH FILES\n.TP\n\\fI/var/lib/telehub/devices.toml\\fR\nThe registry, unless the \
             configuration or the command line names another one.\n"
        }
        _ => "",
    }
}

/// What the definition of the command line does not say.
fn closing(name: &str) -> String {
    let status = match name {
        "telehub-status" => "",
        "telehub-check" => {
            ".SH \"EXIT STATUS\"\n0, or 78 for a configuration that cannot be used, 1 for a \
             spool that could not be used by this user, 2 for wrong usage.\n"
        }
        _ => {
            ".SH \"EXIT STATUS\"\n0, or 2 for wrong usage, 78 for a configuration that cannot be used, 1 \
             for anything else.\n"
        }
    };
    if name == "telehub" {
        return ends(name).to_owned();
    }
    format!("{}{status}{}", surroundings(name), ends(name))
}

fn ends(name: &str) -> &'static str {
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
