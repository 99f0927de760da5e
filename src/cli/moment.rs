//! Times as the command line prints them.

use time::OffsetDateTime;

/// Unix seconds as `2025-11-20T00:53:20Z`; as they are when no calendar has that day.
pub(super) fn utc(seconds: u64) -> String {
    let at = i64::try_from(seconds).map(OffsetDateTime::from_unix_timestamp);
    let Ok(Ok(at)) = at else {
        return seconds.to_string();
    };
    let ((year, month, day), (hour, minute, second)) = (at.to_calendar_date(), at.to_hms());
    let month = u8::from(month);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::utc;

    #[test]
    fn times_are_printed_in_utc() {
        assert_eq!(utc(0), "1970-01-01T00:00:00Z");
        assert_eq!(utc(951_782_399), "2000-02-28T23:59:59Z");
        assert_eq!(utc(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(utc(1_763_600_000), "2025-11-20T00:53:20Z");
        assert_eq!(utc(u64::MAX), u64::MAX.to_string());
    }
}
