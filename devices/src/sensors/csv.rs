//! CSV (RFC 4180), record by record, with the place of every fault.

use std::fmt;
use std::io::{BufRead, Read};

/// Longest record: more is rather a missing quote than data.
const MAX_RECORD: usize = 1024 * 1024;

/// What is wrong with a file, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadCsv {
    /// From 1.
    pub line: u64,
    /// From 1: the field, as spreadsheets count.
    pub column: usize,
    /// One clause.
    pub what: String,
}

impl fmt::Display for BadCsv {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "line {}, column {}: {}",
            self.line, self.column, self.what
        )
    }
}

impl std::error::Error for BadCsv {}

/// A record and the line on which it begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// From 1.
    pub line: u64,
    /// At least one.
    pub fields: Vec<String>,
}

/// Reads records from a file. Line ends may be CRLF or LF; empty lines are passed over; a byte
/// order mark is too. Fields are apart by what the first line has most of: `,`, `;` or a tab.
pub struct Reader<R> {
    input: R,
    line: u64,
    between: Option<char>,
}

impl<R: BufRead> Reader<R> {
    /// Reads from here on.
    pub fn new(input: R) -> Self {
        Self {
            input,
            line: 0,
            between: None,
        }
    }

    /// What stands between two fields.
    pub fn between(&self) -> char {
        self.between.unwrap_or(',')
    }

    /// The next record; `None` at the end.
    ///
    /// # Errors
    /// When the file cannot be read, is not UTF-8, or breaks the rules for quotes.
    pub fn row(&mut self) -> Result<Option<Row>, BadCsv> {
        loop {
            let Some(mut text) = self.text()? else {
                return Ok(None);
            };
            let line = self.line;
            if line == 1 && text.starts_with('\u{feff}') {
                text.remove(0);
            }
            if text.trim_end_matches(['\r', '\n']).is_empty() {
                continue;
            }
            if self.between.is_none() {
                let first = text.trim_end_matches(['\r', '\n']);
                if first.contains('\r') {
                    let what = "the lines end with CR alone; convert them first: tr '\\r' '\\n'";
                    return Err(bad(line, 1, what));
                }
                self.between = Some(most(first));
            }
            loop {
                match split(&text, self.between()) {
                    Ok(fields) => return Ok(Some(Row { line, fields })),
                    Err((column, Fault::Open)) if text.len() < MAX_RECORD => match self.text()? {
                        Some(more) => text.push_str(&more),
                        None => return Err(bad(line, column, "the quote is never closed")),
                    },
                    Err((column, fault)) => return Err(bad(line, column, fault.what())),
                }
            }
        }
    }

    fn text(&mut self) -> Result<Option<String>, BadCsv> {
        let mut bytes = Vec::new();
        let limit = MAX_RECORD as u64 + 1;
        let read = self
            .input
            .by_ref()
            .take(limit)
            .read_until(b'\n', &mut bytes);
        self.line += 1;
        match read {
            Err(error) => Err(bad(self.line, 1, error.to_string())),
            Ok(0) => Ok(None),
            Ok(read) if read as u64 == limit => Err(bad(self.line, 1, "a line above 1 MiB")),
            Ok(_) => String::from_utf8(bytes)
                .map(Some)
                .map_err(|_| bad(self.line, 1, "the line is not UTF-8")),
        }
    }
}

fn bad(line: u64, column: usize, what: impl Into<String>) -> BadCsv {
    BadCsv {
        line,
        column,
        what: what.into(),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// The record goes on on the next line.
    Open,
    Stray,
    After,
}

impl Fault {
    fn what(self) -> &'static str {
        match self {
            Self::Open => "a quoted field above 1 MiB; is a quote missing?",
            Self::Stray => "a quote inside a field that does not begin with one",
            Self::After => "text after the closing quote",
        }
    }
}

/// The character that separates the fields of a header.
fn most(header: &str) -> char {
    let mut quoted = false;
    let mut counts = [(',', 0), (';', 0), ('\t', 0)];
    for c in header.chars() {
        quoted ^= c == '"';
        for (between, count) in &mut counts {
            *count += usize::from(!quoted && c == *between);
        }
    }
    // The first of those with as many.
    let most = counts.iter().rev().max_by_key(|(_, count)| *count);
    most.map_or(',', |(between, _)| *between)
}

/// Splits one record; the fault comes with its column.
fn split(text: &str, between: char) -> Result<Vec<String>, (usize, Fault)> {
    let text = text
        .strip_suffix('\n')
        .map_or(text, |text| text.strip_suffix('\r').unwrap_or(text));
    let mut fields = Vec::new();
    let mut rest = text;
    loop {
        let column = fields.len() + 1;
        let (field, after) = match rest.strip_prefix('"') {
            Some(quoted) => quoted_field(quoted).ok_or((column, Fault::Open))?,
            None => {
                let end = rest.find(between).unwrap_or(rest.len());
                if rest[..end].contains('"') {
                    return Err((column, Fault::Stray));
                }
                (rest[..end].to_owned(), &rest[end..])
            }
        };
        fields.push(field);
        match after.strip_prefix(between) {
            Some(more) => rest = more,
            None if after.is_empty() => return Ok(fields),
            None => return Err((column, Fault::After)),
        }
    }
}

/// The field behind an opening quote, and what follows its closing one; `None`: there is none.
fn quoted_field(text: &str) -> Option<(String, &str)> {
    let mut field = String::new();
    let mut rest = text;
    loop {
        let end = rest.find('"')?;
        field.push_str(&rest[..end]);
        rest = &rest[end + 1..];
        match rest.strip_prefix('"') {
            Some(more) => {
                field.push('"');
                rest = more;
            }
            None => return Some((field, rest)),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    fn all(text: &str) -> Result<Vec<Row>, BadCsv> {
        let mut reader = Reader::new(text.as_bytes());
        let mut rows = Vec::new();
        while let Some(row) = reader.row()? {
            rows.push(row);
        }
        Ok(rows)
    }

    #[test]
    fn quotes_line_ends_and_empty_fields_are_as_rfc_4180_has_them() {
        let rows = all("\u{feff}a,\"b \"\"x\"\"\",\r\n\r\n\"1\r\n2\",,\"\"\nlast,,").unwrap();
        let fields: Vec<_> = rows.iter().map(|row| row.fields.clone()).collect();
        assert_eq!(fields[0], ["a", "b \"x\"", ""]);
        assert_eq!(fields[1], ["1\r\n2", "", ""]);
        assert_eq!(fields[2], ["last", "", ""]);
        assert_eq!(
            rows.iter().map(|row| row.line).collect::<Vec<_>>(),
            [1, 3, 5]
        );
    }

    #[test]
    fn a_fault_is_told_with_line_and_column() {
        for (text, line, column) in [
            ("a,b\n1,x\"y\n", 2, 2),
            ("a,b\n\"1\"x,2\n", 2, 1),
            ("a,b\n1,2\n3,\"4\n5", 3, 2),
        ] {
            let error = all(text).unwrap_err();
            assert_eq!(
                (error.line, error.column),
                (line, column),
                "{text:?}: {error}"
            );
        }
    }

    proptest! {
        #[test]
        fn what_is_quoted_comes_back(
            rows in proptest::collection::vec(proptest::collection::vec(any::<String>(), 1..5), 0..5)
        ) {
            let mut text = String::new();
            for row in &rows {
                let fields: Vec<String> =
                    row.iter().map(|field| format!("\"{}\"", field.replace('"', "\"\""))).collect();
                text.push_str(&fields.join(","));
                text.push_str("\r\n");
            }
            let back: Vec<_> = all(&text).unwrap().into_iter().map(|row| row.fields).collect();
            prop_assert_eq!(back, rows);
        }
    }
}
