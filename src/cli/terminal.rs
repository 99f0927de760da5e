//! What the terminal can show.

use std::fmt::{self, Display};
use std::io::{self, IsTerminal, Write};

/// Whether to colour what is printed. See <https://no-color.org>.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Paint(bool);

/// What a text is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mood {
    /// Nothing special.
    Plain,
    /// As it should be.
    Good,
    /// To be looked at.
    Poor,
    /// Not as it should be.
    Bad,
    /// Names of things.
    Faint,
}

impl Paint {
    /// Colour only on a terminal, and not against the user's wish.
    pub(super) fn of_stdout() -> Self {
        let set = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        let dumb = set("TERM").is_some_and(|term| term == "dumb");
        Self(io::stdout().is_terminal() && set("NO_COLOR").is_none() && !dumb)
    }

    #[cfg(test)]
    pub(super) const fn always() -> Self {
        Self(true)
    }

    #[cfg(test)]
    pub(super) const fn never() -> Self {
        Self(false)
    }

    /// A text in its colour. Pad it before: colours have no width.
    pub(super) fn text<T: Display>(self, mood: Mood, text: T) -> Painted<T> {
        Painted {
            code: match mood {
                _ if !self.0 => None,
                Mood::Plain => None,
                Mood::Good => Some("32"),
                Mood::Poor => Some("33"),
                Mood::Bad => Some("31;1"),
                Mood::Faint => Some("2"),
            },
            text,
        }
    }
}

/// See [`Paint::text`].
#[derive(Debug)]
pub(super) struct Painted<T> {
    code: Option<&'static str>,
    text: T,
}

impl<T: Display> Display for Painted<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.code {
            Some(code) => write!(f, "\x1b[{code}m{}\x1b[0m", self.text),
            None => self.text.fmt(f),
        }
    }
}

/// Columns of the terminal; `None`: stdout is none.
pub(super) fn columns() -> Option<usize> {
    let size = rustix::termios::tcgetwinsize(io::stdout()).ok()?;
    (size.ws_col > 0).then_some(usize::from(size.ws_col))
}

/// What of a page is seen on so many rows and columns: its head, each row cut to the width. Colours
/// take no room.
fn fit(page: &str, rows: usize, columns: usize) -> String {
    let lines: Vec<_> = page
        .lines()
        .take(rows)
        .map(|line| cut(line, columns))
        .collect();
    lines.join("\n")
}

fn cut(line: &str, columns: usize) -> String {
    let (mut kept, mut width, mut in_colour) = (String::new(), 0, false);
    let mut colour = false;
    let is_seen = |c: char| {
        let seen = !colour && c != '\x1b';
        colour = (colour || c == '\x1b') && c != 'm';
        seen
    };
    let visible = line.chars().map(is_seen).filter(|seen| *seen).count();
    for c in line.chars() {
        if in_colour || c == '\x1b' {
            in_colour = c != 'm';
            kept.push(c);
            continue;
        }
        width += 1;
        // A colour at the end has to end; so nothing but it follows.
        if width < columns || (width == columns && visible <= columns) {
            kept.push(c);
        } else if width == columns {
            kept.push('…');
        }
    }
    kept
}

/// Rows of the terminal; `None`: stdout is none.
pub(super) fn rows() -> Option<usize> {
    let size = rustix::termios::tcgetwinsize(io::stdout()).ok()?;
    (size.ws_row > 0).then_some(usize::from(size.ws_row))
}

/// The terminal's second screen, on which pages replace each other. Dropping it brings back what
/// was there before.
#[derive(Debug)]
pub(super) struct Screen(());

impl Screen {
    pub(super) fn open() -> io::Result<Self> {
        let mut out = io::stdout().lock();
        out.write_all(b"\x1b[?1049h\x1b[?25l")?;
        out.flush()?;
        Ok(Self(()))
    }

    /// Shows a page in place of the last one, without a flicker.
    pub(super) fn show(&self, page: &str) -> io::Result<()> {
        let mut out = io::stdout().lock();
        let page = match (rows(), columns()) {
            (Some(rows), Some(columns)) => fit(page, rows, columns),
            _ => page.to_owned(),
        };
        write!(
            out,
            "\x1b[H{}\x1b[K\x1b[J",
            page.replace('\n', "\x1b[K\r\n")
        )?;
        out.flush()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let mut out = io::stdout().lock();
        // A terminal that is gone needs no restoring.
        let _ = out.write_all(b"\x1b[?25h\x1b[?1049l");
        let _ = out.flush();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_cut_to_the_terminal_and_its_head_stays() {
        let page = "head\nlong line\n\x1b[32mgreen\x1b[0m and more\nlast\n";
        assert_eq!(fit(page, 3, 7), "head\nlong l…\n\x1b[32mgreen\x1b[0m …");
        assert_eq!(fit(page, 1, 80), "head");
        assert_eq!(fit("exact", 1, 5), "exact");
        assert_eq!(fit("\x1b[2mexact\x1b[0m", 1, 5), "\x1b[2mexact\x1b[0m");
    }

    #[test]
    fn a_text_is_coloured_only_when_asked_for() {
        let (with, without) = (Paint::always(), Paint::never());
        assert_eq!(
            with.text(Mood::Bad, "down").to_string(),
            "\x1b[31;1mdown\x1b[0m"
        );
        assert_eq!(with.text(Mood::Plain, "x").to_string(), "x");
        assert_eq!(without.text(Mood::Bad, "down").to_string(), "down");
    }
}
