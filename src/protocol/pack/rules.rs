//! What names, units and values of a record must keep to.

use super::super::limits::{MAX_NAME, MAX_UNIT, MAX_VALUE};
use super::super::reject::RejectCode::{self, BadPack, TooLarge};
use super::PackError;

/// What is wrong with a record: the predicate of a sentence that begins with its number.
pub(in crate::protocol) struct Violation(pub(super) RejectCode, pub(super) &'static str);

impl Violation {
    #[cold]
    pub(super) fn at(self, index: usize) -> PackError {
        PackError {
            code: self.0,
            detail: format!("record {} {}", index + 1, self.1),
        }
    }
}

pub(super) fn bad(what: &'static str) -> Violation {
    Violation(BadPack, what)
}

/// The characters of names (RFC 8428 §4.5.1); the first one is checked with the whole name.
pub(super) fn check_base_name(name: &str) -> Result<&str, Violation> {
    if name.len() > MAX_NAME {
        return Err(bad("has a base name longer than 255 bytes"));
    }
    if !name.bytes().all(is_name_byte) {
        return Err(bad(
            "has a base name with other characters than A-Z a-z 0-9 - : . / _",
        ));
    }
    Ok(name)
}

/// RFC 8428 §4.5.1. The base name's characters have been checked.
pub(super) fn check_name(base: &str, name: &str) -> Result<(), Violation> {
    let Some(first) = base.as_bytes().first().or(name.as_bytes().first()) else {
        return Err(bad("has no name"));
    };
    if !name.bytes().all(is_name_byte) {
        return Err(bad(
            "has a name with other characters than A-Z a-z 0-9 - : . / _",
        ));
    }
    if !first.is_ascii_alphanumeric() {
        return Err(bad("has a name that does not begin with a letter or digit"));
    }
    if base.len() + name.len() > MAX_NAME {
        return Err(bad("has a name longer than 255 bytes, base name included"));
    }
    Ok(())
}

fn is_name_byte(byte: u8) -> bool {
    /// One entry for each byte: every name of every reading goes through here.
    static NAME_BYTES: [bool; 256] = {
        let mut table = [false; 256];
        let mut byte = 0_u8;
        while byte < 0x80 {
            table[byte as usize] =
                byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b':' | b'.' | b'/' | b'_');
            byte += 1;
        }
        table
    };
    NAME_BYTES[usize::from(byte)]
}

pub(super) fn check_unit(unit: &str) -> Result<&str, Violation> {
    if unit.len() > MAX_UNIT {
        return Err(bad("has a unit longer than 64 bytes"));
    }
    Ok(unit)
}

pub(super) fn check_length(bytes: usize) -> Result<(), Violation> {
    if bytes > MAX_VALUE {
        return Err(Violation(TooLarge, "has a value longer than 64 KiB"));
    }
    Ok(())
}

/// Bytes of the text in JSON, escapes included: control characters take up to six.
pub(super) fn json_bytes(text: &str) -> usize {
    let escapes = text.bytes().map(|byte| match byte {
        b'"' | b'\\' => 1,
        0..0x20 => 5,
        _ => 0,
    });
    text.len() + escapes.sum::<usize>()
}
