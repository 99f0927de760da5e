//! The journal, in its own protocol: every field of an event can be asked for, as in
//! `journalctl TELEHUB_DEVICE=barn-1`. See systemd.journal-fields(7) and "Native Journal
//! Protocol" in systemd's documentation.

use std::fmt;
use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::registry::LookupSpan;

use super::fields::all;

/// Where journald listens.
pub(super) const SOCKET: &str = "/run/systemd/journal/socket";

/// Whether stderr leads to the journal: `variable` is `$JOURNAL_STREAM`, device and inode of the
/// stream that systemd made, and `stderr` what stderr is now. See systemd.exec(5).
pub(super) fn is_stream(variable: &str, stderr: (u64, u64)) -> bool {
    let (device, inode) = variable.split_once(':').unwrap_or_default();
    (device.parse(), inode.parse()) == (Ok(stderr.0), Ok(stderr.1))
}

/// Formats an event as one datagram. Lines and not lengths are what separates fields, so that it
/// is text: a line break within a value becomes a space.
#[derive(Debug)]
pub(super) struct Entry;

impl<S, N> FormatEvent<S, N> for Entry
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut out: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let metadata = event.metadata();
        // syslog(3): error, warning, info, debug.
        let priority = match *metadata.level() {
            Level::ERROR => 3,
            Level::WARN => 4,
            Level::INFO => 6,
            Level::DEBUG | Level::TRACE => 7,
        };
        let fields = all(event).0;
        out.write_str("MESSAGE=")?;
        for (at, (name, value)) in fields.iter().enumerate() {
            if at > 0 {
                out.write_char(' ')?;
            }
            match *name {
                "message" => one_line(&mut out, value)?,
                name => {
                    write!(out, "{name}=")?;
                    let quote = value.is_empty() || value.contains([' ', '=', '"']);
                    if quote {
                        write!(out, "{value:?}")?;
                    } else {
                        one_line(&mut out, value)?;
                    }
                }
            }
        }
        let module = metadata.target();
        write!(
            out,
            "\nPRIORITY={priority}\nSYSLOG_IDENTIFIER=telehub\nTELEHUB_MODULE={module}\n"
        )?;
        for (name, value) in fields.iter().filter(|(name, _)| *name != "message") {
            out.write_str("TELEHUB_")?;
            for c in name.chars() {
                let c = c.to_ascii_uppercase();
                out.write_char(if c.is_ascii_alphanumeric() { c } else { '_' })?;
            }
            out.write_char('=')?;
            one_line(&mut out, value)?;
            out.write_char('\n')?;
        }
        Ok(())
    }
}

fn one_line(out: &mut Writer<'_>, text: &str) -> fmt::Result {
    for c in text.chars() {
        out.write_char(if c.is_control() { ' ' } else { c })?;
    }
    Ok(())
}

/// Sends datagrams. Never waits: the hub is not held up by a journal that does not take them.
#[derive(Debug)]
pub(super) struct Journal {
    socket: UnixDatagram,
    path: PathBuf,
    lost: AtomicU64,
}

impl Journal {
    /// `None` when there is no journal at this path.
    pub(super) fn open(path: &Path) -> Option<Self> {
        let socket = UnixDatagram::unbound().ok()?;
        socket.set_nonblocking(true).ok()?;
        // Not connected for good: the socket may be made anew.
        UnixDatagram::unbound().ok()?.connect(path).ok()?;
        Some(Self {
            socket,
            path: path.to_owned(),
            lost: AtomicU64::new(0),
        })
    }

    fn send(&self, entry: &[u8]) {
        if self.socket.send_to(entry, &self.path).is_err() {
            self.lost.fetch_add(1, Relaxed);
            return;
        }
        let lost = self.lost.swap(0, Relaxed);
        if lost > 0 {
            let text = format!(
                "MESSAGE=the journal did not take {lost} lines\nPRIORITY=4\n\
                 SYSLOG_IDENTIFIER=telehub\n"
            );
            if self.socket.send_to(text.as_bytes(), &self.path).is_err() {
                self.lost.fetch_add(lost, Relaxed);
            }
        }
    }
}

/// Writes one event, which comes in one piece.
#[derive(Debug)]
pub(super) struct ToJournal<'a>(&'a Journal);

impl io::Write for ToJournal<'_> {
    fn write(&mut self, entry: &[u8]) -> io::Result<usize> {
        self.0.send(entry);
        Ok(entry.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Journal {
    type Writer = ToJournal<'a>;

    fn make_writer(&'a self) -> Self::Writer {
        ToJournal(self)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use tracing_subscriber::layer::SubscriberExt;

    #[test]
    fn an_event_is_one_datagram_with_a_readable_message_and_a_field_for_each_value() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        assert!(Journal::open(&path).is_none());
        let journald = UnixDatagram::bind(&path).unwrap();
        let journal = Journal::open(&path).unwrap();
        let layer = tracing_subscriber::fmt::layer()
            .event_format(Entry)
            .with_writer(journal);
        let subscriber = tracing_subscriber::registry().with(layer);
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!(device = %"barn-1", reason = "ping timeout", rtt.ms = 7, "device\nlost");
        });
        let mut buffer = [0; 1024];
        let n = journald.recv(&mut buffer).unwrap();
        let text = std::str::from_utf8(&buffer[..n]).unwrap();
        let expected = "MESSAGE=device lost device=barn-1 reason=\"ping timeout\" rtt.ms=7\n\
                        PRIORITY=6\nSYSLOG_IDENTIFIER=telehub\n\
                        TELEHUB_MODULE=telehub::log::journal::tests\n\
                        TELEHUB_DEVICE=barn-1\nTELEHUB_REASON=ping timeout\nTELEHUB_RTT_MS=7\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn a_journal_that_is_full_is_not_waited_for_and_what_it_missed_is_counted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let journald = UnixDatagram::bind(&path).unwrap();
        let journal = Journal::open(&path).unwrap();
        while journal.lost.load(Relaxed) < 3 {
            journal.send(b"MESSAGE=x\n");
        }
        let mut buffer = [0; 1024];
        journald.set_nonblocking(true).unwrap();
        while journald.recv(&mut buffer).is_ok() {}
        journal.send(b"MESSAGE=y\n");
        let n = journald.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..n], b"MESSAGE=y\n");
        let n = journald.recv(&mut buffer).unwrap();
        assert!(buffer[..n].starts_with(b"MESSAGE=the journal did not take 3 lines\n"));
    }

    #[test]
    fn only_the_stream_that_systemd_made_is_the_journal() {
        assert!(is_stream("10:7", (10, 7)));
        for other in ["10:8", "9:7", "", "10", "10:7:1", "x:y"] {
            assert!(!is_stream(other, (10, 7)), "{other}");
        }
    }
}
