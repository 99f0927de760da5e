//! The log: text or JSON on stderr.

use std::io::{IsTerminal, stderr};

use tracing::level_filters::LevelFilter;
use tracing_subscriber::fmt;

use crate::config::{Log, LogFormat, LogLevel};

/// How the log is printed, decided from the settings and from where stderr leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Style {
    json: bool,
    time: bool,
    colour: bool,
}

/// The journal stamps every line by itself, and colours are for eyes only.
fn style(format: LogFormat, journal: bool, terminal: bool) -> Style {
    let json = format == LogFormat::Json;
    Style {
        json,
        time: json || !journal,
        colour: !json && terminal,
    }
}

fn level(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    }
}

/// Starts the log for the whole process. Call once, before the first event; later calls change
/// nothing.
pub fn start(log: &Log) {
    let journal = std::env::var_os("JOURNAL_STREAM").is_some();
    let style = style(log.format, journal, stderr().is_terminal());
    let plain = fmt().with_max_level(level(log.level)).with_writer(stderr);
    let text = plain.with_ansi(style.colour);
    let set = if style.json {
        tracing::subscriber::set_global_default(text.json().flatten_event(true).finish())
    } else if style.time {
        tracing::subscriber::set_global_default(text.finish())
    } else {
        tracing::subscriber::set_global_default(text.without_time().finish())
    };
    // An error means that a log has been started before, which stays.
    let _ = set;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_journal_gets_no_second_time_and_only_a_terminal_gets_colours() {
        let plain = Style {
            json: false,
            time: true,
            colour: false,
        };
        assert_eq!(style(LogFormat::Text, false, false), plain);
        assert_eq!(
            style(LogFormat::Text, false, true),
            Style {
                colour: true,
                ..plain
            }
        );
        assert_eq!(
            style(LogFormat::Text, true, false),
            Style {
                time: false,
                ..plain
            }
        );
        let json = Style {
            json: true,
            ..plain
        };
        assert_eq!(style(LogFormat::Json, true, true), json);
    }
}
