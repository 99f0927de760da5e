//! The log: text or JSON on stderr, or fields in the journal.

mod fields;
mod gate;
mod journal;
mod limit;

use std::io::{self, IsTerminal, Write, stderr};
use std::path::Path;

use tracing_subscriber::fmt;
use tracing_subscriber::layer::SubscriberExt;

use self::gate::Gate;
pub use self::gate::{level, set_level, tell_held_back, tell_held_back_now};
use self::journal::{Entry, Journal};
use crate::config::{Log, LogFormat};
use crate::plain;

/// How the log is printed, decided from the settings and from where stderr leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Style {
    /// Fields, in the journal's own protocol.
    Journal,
    Json,
    Text {
        colour: bool,
    },
}

/// The journal stamps every line by itself and keeps fields apart, and colours are for eyes only.
/// Who asks for JSON has a reader for it.
fn style(format: LogFormat, journal: bool, terminal: bool) -> Style {
    match format {
        LogFormat::Json => Style::Json,
        LogFormat::Text if journal => Style::Journal,
        LogFormat::Text => Style::Text { colour: terminal },
    }
}

/// stderr for JSON: one event is one line for every reader, whatever a peer has said. (As text the
/// fields are written with escapes by themselves.)
struct Lines;

impl Write for Lines {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(event);
        stderr().write_all(plain::json(&text).as_bytes())?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        stderr().flush()
    }
}

fn stderr_is_the_journal() -> bool {
    let Ok(variable) = std::env::var("JOURNAL_STREAM") else {
        return false;
    };
    let stat = rustix::fs::fstat(stderr());
    // Of types that differ from platform to platform.
    #[allow(clippy::useless_conversion, clippy::unnecessary_cast)]
    stat.is_ok_and(|stat| journal::is_stream(&variable, (stat.st_dev as u64, stat.st_ino as u64)))
}

/// Starts the log for the whole process. Call once, before the first event; later calls change
/// nothing but the level.
pub fn start(log: &Log) {
    set_level(log.level);
    let in_journal = stderr_is_the_journal();
    let journal = in_journal.then(|| Journal::open(Path::new(journal::SOCKET)));
    let style = style(
        log.format,
        matches!(journal, Some(Some(_))),
        stderr().is_terminal(),
    );
    let gate = tracing_subscriber::registry().with(Gate);
    let layer = fmt::layer().with_writer(stderr);
    let set = match (style, journal.flatten()) {
        (Style::Journal, Some(journal)) => {
            let layer = fmt::layer().event_format(Entry).with_writer(journal);
            tracing::subscriber::set_global_default(gate.with(layer))
        }
        (Style::Json, _) => tracing::subscriber::set_global_default(
            gate.with(
                layer
                    .with_ansi(false)
                    .json()
                    .flatten_event(true)
                    .with_writer(|| Lines),
            ),
        ),
        // A journal that cannot be spoken to but as a stream has times of its own all the same.
        _ if in_journal => tracing::subscriber::set_global_default(
            gate.with(layer.with_ansi(false).without_time()),
        ),
        (style, _) => {
            let colour = style == Style::Text { colour: true };
            tracing::subscriber::set_global_default(gate.with(layer.with_ansi(colour)))
        }
    };
    // An error means that a log has been started before, which stays.
    let _ = set;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_journal_gets_fields_and_only_a_terminal_gets_colours() {
        let text = |colour| Style::Text { colour };
        assert_eq!(style(LogFormat::Text, false, false), text(false));
        assert_eq!(style(LogFormat::Text, false, true), text(true));
        assert_eq!(style(LogFormat::Text, true, false), Style::Journal);
        assert_eq!(style(LogFormat::Json, true, true), Style::Json);
    }
}
