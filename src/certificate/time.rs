//! Moments as certificates have them (RFC 5280 §4.1.2.5).

use super::der::Der;

const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// Whether a tag is one of a moment.
pub(super) fn is_time(tag: u8) -> bool {
    matches!(tag, UTC_TIME | GENERALIZED_TIME)
}

/// Unix seconds of a moment with this tag.
pub(super) fn read(tag: u8, text: Der<'_>) -> Option<i64> {
    match tag {
        UTC_TIME => {
            // Two digits of the year, 1950 to 2049.
            let year = digits(text.0.get(..2)?)?;
            let century = if year >= 50 { 1900 } else { 2000 };
            unix_seconds(century + year, text.0.get(2..)?)
        }
        GENERALIZED_TIME => unix_seconds(digits(text.0.get(..4)?)?, text.0.get(4..)?),
        _ => None,
    }
}

fn digits(text: &[u8]) -> Option<i64> {
    text.iter().try_fold(0, |number, byte| {
        byte.is_ascii_digit()
            .then(|| number * 10 + i64::from(byte - b'0'))
    })
}

/// The moment of a year and `MMDDHHMMSSZ`, the only form that certificates may have.
pub(super) fn unix_seconds(year: i64, rest: &[u8]) -> Option<i64> {
    if rest.len() != 11 || rest[10] != b'Z' {
        return None;
    }
    let part = |at: usize| digits(&rest[at..at + 2]);
    let (month, day) = (part(0)?, part(2)?);
    let (hour, minute, second) = (part(4)?, part(6)?, part(8)?);
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    // Days since 1970-01-01, with years that begin in March, so that the leap day is the last.
    let (year, month) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let days = year * 365 + year.div_euclid(4) - year.div_euclid(100)
        + year.div_euclid(400)
        + (month * 153 + 2) / 5
        + day
        - 1
        - 719_468;
    Some(days * 86_400 + hour * 3_600 + minute * 60 + second)
}
