//! Secrets in files: their first line, as the editors of all systems leave it.

use std::io;
use std::path::Path;

/// The first line of a secret's file. A byte order mark, which some editors put first and none
/// shows, is no part of it.
///
/// # Errors
/// `InvalidData`, with a sentence, when it is not UTF-8.
pub fn first_line(content: &[u8]) -> io::Result<&str> {
    let wrong = |sentence: &str| io::Error::new(io::ErrorKind::InvalidData, sentence.to_owned());
    if content.starts_with(b"\xff\xfe") || content.starts_with(b"\xfe\xff") {
        return Err(wrong("it is in UTF-16: save it as UTF-8"));
    }
    let content = content.strip_prefix(b"\xef\xbb\xbf").unwrap_or(content);
    let line = content.split(|byte| *byte == b'\n').next();
    let line = std::str::from_utf8(line.unwrap_or_default());
    let line = line.map_err(|_| wrong("its first line is not UTF-8"))?;
    Ok(line.strip_suffix('\r').unwrap_or(line))
}

/// Reads it.
///
/// # Errors
/// The file cannot be read, or as [`first_line`].
pub fn read(file: &Path) -> io::Result<String> {
    first_line(&std::fs::read(file)?).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_first_line_comes_without_what_editors_add() {
        for content in [
            &b"geheim"[..],
            b"geheim\n",
            b"geheim\r\n",
            b"\xef\xbb\xbfgeheim\r\nmore\n",
            b"geheim\n\xff",
        ] {
            assert_eq!(first_line(content).unwrap(), "geheim");
        }
        assert_eq!(first_line(b" a b \n").unwrap(), " a b ");
        assert_eq!(first_line(b"\xef\xbb\xbf").unwrap(), "");
        let utf16 = first_line(b"\xff\xfeg\0e\0").unwrap_err();
        assert!(utf16.to_string().contains("save it as UTF-8"), "{utf16}");
        assert!(first_line(b"\xff").is_err());
    }
}
