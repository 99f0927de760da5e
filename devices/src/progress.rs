//! What a person sees while devices run: a live line on a terminal, else a line now and then.
//! All of it goes to stderr.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use crate::client::Stats;

/// How often the live line changes: fast enough to look alive, slow enough to read.
const LIVE: Duration = Duration::from_millis(250);
/// How often a line is written where nobody may be looking.
const PLAIN: Duration = Duration::from_secs(10);

/// Back to the start of the line, and clear it.
const CLEAR: &str = "\r\x1b[K";

/// Shows progress until its end.
pub struct Progress {
    terminal: bool,
    quiet: bool,
    last: Instant,
}

impl Progress {
    /// `quiet`: notes only.
    #[must_use]
    pub fn new(quiet: bool) -> Self {
        Self {
            terminal: std::io::stderr().is_terminal(),
            quiet,
            last: Instant::now(),
        }
    }

    /// How long to wait between two calls of [`show`](Self::show).
    #[must_use]
    pub fn period(&self) -> Duration {
        LIVE
    }

    /// Prints the notes, and the line where it is due.
    pub fn show(&mut self, stats: &Stats, line: impl FnOnce() -> String) {
        self.notes(stats);
        if self.quiet {
            return;
        }
        let mut err = std::io::stderr().lock();
        if self.terminal {
            let _ = write!(err, "{CLEAR}{}", line());
            let _ = err.flush();
        } else if self.last.elapsed() >= PLAIN {
            self.last = Instant::now();
            let _ = writeln!(err, "{}", line());
        }
    }

    fn notes(&self, stats: &Stats) {
        let mut err = std::io::stderr().lock();
        let clear = if self.terminal { CLEAR } else { "" };
        let (notes, unsaid) = stats.take_notes();
        for note in notes {
            let _ = writeln!(err, "{clear}{note}");
        }
        if unsaid > 0 {
            let _ = writeln!(err, "{clear}and {unsaid} more like these");
        }
    }

    /// Prints the last notes and makes room for what is printed next.
    pub fn end(self, stats: &Stats) {
        self.notes(stats);
        if self.terminal && !self.quiet {
            let _ = write!(std::io::stderr(), "{CLEAR}");
        }
    }
}

/// A duration in the unit that fits it.
#[must_use]
pub fn short(duration: Duration) -> String {
    let micros = duration.as_micros() as f64;
    if micros < 1_000.0 {
        format!("{micros:.0} µs")
    } else if micros < 1_000_000.0 {
        format!("{:.1} ms", micros / 1_000.0)
    } else {
        format!("{:.1} s", micros / 1_000_000.0)
    }
}

/// Sequence numbers as ranges: `3, 7..9`; at most ten of them.
#[must_use]
pub fn ranges(seqs: &[u64]) -> String {
    let mut found: Vec<(u64, u64)> = Vec::new();
    for &seq in seqs {
        match found.last_mut() {
            Some((_, to)) if *to + 1 == seq => *to = seq,
            _ => found.push((seq, seq)),
        }
    }
    let more = found.len().saturating_sub(10);
    let mut texts: Vec<String> = found
        .iter()
        .take(10)
        .map(|(from, to)| {
            if from == to {
                from.to_string()
            } else {
                format!("{from}..{to}")
            }
        })
        .collect();
    if more > 0 {
        texts.push(format!("and {more} more ranges"));
    }
    texts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_a_row_become_one_range() {
        assert_eq!(ranges(&[3, 7, 8, 9, 11]), "3, 7..9, 11");
        assert_eq!(ranges(&[]), "");
        let many: Vec<u64> = (0..50).map(|n| n * 2).collect();
        assert!(ranges(&many).ends_with("and 40 more ranges"));
    }
}
