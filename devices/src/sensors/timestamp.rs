//! Times as RFC 3339 writes them.

/// Days from 1970-01-01 to the first of March of year 0, in the calendar that counts years from
/// March: leap days are then the last of a year.
const EPOCH: i64 = 719_468;

/// Unix seconds of `2026-01-31T12:00:00.5+01:00`. Without an offset it is UTC; a blank may stand
/// for the `T`; a date alone is its midnight. `None`: not such a time.
#[must_use]
pub fn parse(text: &str) -> Option<f64> {
    let (date, time) = match text.find(['T', 't', ' ']) {
        Some(at) => (&text[..at], Some(&text[at + 1..])),
        None => (text, None),
    };
    let mut date = date.splitn(3, '-');
    let year = digits(date.next()?, 4)?;
    let month = digits(date.next()?, 2)?;
    let day = digits(date.next()?, 2)?;
    if !(1..=12).contains(&month) || day < 1 || day > days_in(year, month) {
        return None;
    }
    let midnight = (days(year, month, day) * 86_400) as f64;
    match time {
        None => Some(midnight),
        Some(time) => Some(midnight + seconds(time)?),
    }
}

/// Seconds since the midnight in UTC of a time with its offset.
fn seconds(text: &str) -> Option<f64> {
    let (clock, offset) = match text.find(['Z', 'z', '+', '-']) {
        Some(at) => (&text[..at], &text[at..]),
        None => (text, "Z"),
    };
    let mut clock = clock.splitn(3, ':');
    let hours = digits(clock.next()?, 2)?;
    let minutes = digits(clock.next()?, 2)?;
    let (whole, fraction) = match clock.next() {
        None => ("00", None),
        Some(seconds) => match seconds.split_once('.') {
            Some((whole, fraction)) => (whole, Some(fraction)),
            None => (seconds, None),
        },
    };
    // A leap second is 60.
    let whole = digits(whole, 2).filter(|whole| *whole <= 60)?;
    if hours > 23 || minutes > 59 {
        return None;
    }
    let fraction = match fraction {
        None => 0.0,
        Some(fraction) => {
            digits(fraction, fraction.len()).filter(|_| !fraction.is_empty())?;
            format!("0.{fraction}").parse().ok()?
        }
    };
    let offset = match offset {
        "Z" | "z" => 0,
        _ => {
            let (hours, minutes) = offset[1..].split_once(':')?;
            let (hours, minutes) = (digits(hours, 2)?, digits(minutes, 2)?);
            if hours > 23 || minutes > 59 {
                return None;
            }
            let seconds = hours * 3600 + minutes * 60;
            if offset.starts_with('-') {
                -seconds
            } else {
                seconds
            }
        }
    };
    Some((hours * 3600 + minutes * 60 + whole - offset) as f64 + fraction)
}

fn digits(text: &str, len: usize) -> Option<i64> {
    let all = text.len() == len && text.bytes().all(|byte| byte.is_ascii_digit());
    // Fractions may be longer than a number; only their digits are checked here.
    all.then(|| {
        text.get(..len.min(18))
            .and_then(|text| text.parse().ok())
            .unwrap_or(0)
    })
}

fn days_in(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days since 1970-01-01.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let leap_days = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    // From March on, months are 31 and 30 days in a pattern that repeats every five.
    let before_month = (153 * month + 2) / 5;
    365 * year + leap_days + before_month + day - 1 - EPOCH
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_with_and_without_offset() {
        for (text, seconds) in [
            ("1970-01-01T00:00:00Z", 0.0),
            ("2000-02-29", 951_782_400.0),
            ("2023-11-14T22:13:20Z", 1_700_000_000.0),
            ("2023-11-14 22:13:20", 1_700_000_000.0),
            ("2023-11-14T23:43:20.25+01:30", 1_700_000_000.25),
            ("2023-11-14T17:13-05:00", 1_699_999_980.0),
            ("2016-12-31T23:59:60Z", 1_483_228_800.0),
        ] {
            assert_eq!(parse(text), Some(seconds), "{text}");
        }
    }

    #[test]
    fn what_is_no_time_is_none() {
        for text in [
            "",
            "now",
            "2023-13-01",
            "2023-02-29",
            "2023-1-1",
            "2023-01-01T24:00:00Z",
            "2023-01-01T00:00:00.Z",
            "2023-01-01T00:00:00+1",
            "2023-01-01T00:00:61Z",
            "2023-01-01Tüü",
            "2023-01-01T00:00:00Zx",
            "+023-01-01",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
