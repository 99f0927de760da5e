//! The status line of `systemctl status`. Pure.

use std::fmt::Write;

use crate::status::board::{SpoolState, StatusReport, UplinkState};

/// What the line has to remember.
#[derive(Debug, Default)]
pub(super) struct Line {
    /// The present outage's begin, Unix seconds. The board's `since` moves with every new try.
    down_since: Option<f64>,
}

impl Line {
    /// How the hub is, in one line. `max_size`: bytes that the spool may take.
    pub(super) fn say(&mut self, status: &StatusReport, max_size: u64) -> String {
        let uplink = &status.uplink;
        if uplink.state == UplinkState::Connected {
            self.down_since = None;
            return line("uplink connected".to_owned(), status, max_size);
        }
        let since = *self.down_since.get_or_insert(uplink.since);
        let begins = uplink.state == UplinkState::Connecting && uplink.last_error.is_none();
        let uplink = if begins {
            "uplink connecting".to_owned()
        } else {
            format!("uplink down since {}", utc(since))
        };
        line(uplink, status, max_size)
    }
}

fn line(mut line: String, status: &StatusReport, max_size: u64) -> String {
    let devices = status.devices.connected;
    let s = if devices == 1 { "" } else { "s" };
    // Writing to a String cannot fail.
    let _ = write!(line, "; {} device{s}; ", grouped(devices));
    let spool = &status.spool;
    match spool.state {
        SpoolState::Ok => {}
        SpoolState::Full => line.push_str("spool full, "),
        SpoolState::Failed => line.push_str("spool cannot be written, "),
        SpoolState::Unusable => line.push_str("spool cannot be used, "),
    }
    match (spool.batches, spool.state) {
        (0, SpoolState::Ok) => line.push_str("spool empty"),
        (batches, _) => {
            let es = if batches == 1 { "" } else { "es" };
            let _ = write!(
                line,
                "{} batch{es} waiting, {} % of {}",
                grouped(batches),
                percent(spool.disk_bytes, max_size),
                size(max_size)
            );
        }
    }
    line
}

/// Rounded up, so that something is never 0 %.
fn percent(part: u64, whole: u64) -> u64 {
    let per_hundred = u128::from(part) * 100;
    let percent = per_hundred.div_ceil(u128::from(whole.max(1)));
    u64::try_from(percent).unwrap_or(u64::MAX)
}

/// 1,234,567
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn size(bytes: u64) -> String {
    for (unit, name) in [(1_u64 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB")] {
        if bytes >= unit {
            let tenths = u128::from(bytes) * 10 / u128::from(unit);
            return match (tenths / 10, tenths % 10) {
                (whole, 0) => format!("{whole} {name}"),
                (whole, tenth) => format!("{whole}.{tenth} {name}"),
            };
        }
    }
    format!("{} KiB", bytes.div_ceil(1 << 10))
}

/// Date and minute in UTC. The civil calendar from days, by eras of 400 years that begin in March.
fn utc(unix: f64) -> String {
    #[expect(clippy::cast_possible_truncation, reason = "seconds of centuries fit")]
    let minutes = (unix.max(0.0) / 60.0) as i64;
    let (days, minute) = (minutes / 1_440, minutes % 1_440);
    let shifted = days + 719_468;
    let (era, day) = (shifted / 146_097, shifted % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let of_year = day - (365 * year + year / 4 - year / 100);
    let from_march = (5 * of_year + 2) / 153;
    let of_month = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 {
        from_march + 3
    } else {
        from_march - 9
    };
    let year = era * 400 + year + i64::from(month <= 2);
    format!(
        "{year:04}-{month:02}-{of_month:02} {:02}:{:02} UTC",
        minute / 60,
        minute % 60
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::board::Board;

    fn report() -> StatusReport {
        Board::new("barn").status()
    }

    #[test]
    fn the_line_says_how_the_hub_is_in_words_for_a_person() {
        let mut status = report();
        let mut line = Line::default();
        assert_eq!(
            line.say(&status, 1 << 30),
            "uplink connecting; 0 devices; spool empty"
        );
        status.uplink.state = UplinkState::Connected;
        status.devices.connected = 12;
        assert_eq!(
            line.say(&status, 1 << 30),
            "uplink connected; 12 devices; spool empty"
        );
        status.uplink.state = UplinkState::Down;
        status.uplink.since = 1_795_183_396.0;
        status.devices.connected = 1;
        status.spool.batches = 1_234;
        status.spool.disk_bytes = 30 << 20;
        let down =
            "uplink down since 2026-11-20 14:03 UTC; 1 device; 1,234 batches waiting, 3 % of 1 GiB";
        assert_eq!(line.say(&status, 1 << 30), down);
        for state in [UplinkState::Connecting, UplinkState::Down] {
            status.uplink.state = state;
            status.uplink.since += 60.0;
            status.uplink.last_error = Some("refused".into());
            assert_eq!(line.say(&status, 1 << 30), down, "the same outage");
        }
        status.spool.state = SpoolState::Full;
        status.spool.batches = 1;
        status.spool.disk_bytes = 1 << 30;
        let full = line.say(&status, 1 << 30);
        assert!(full.ends_with("; spool full, 1 batch waiting, 100 % of 1 GiB"));
        assert_eq!(full.lines().count(), 1);
    }

    #[test]
    fn numbers_and_times_read_well() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(1_000), "1,000");
        assert_eq!(grouped(12_345_678), "12,345,678");
        assert_eq!(size(8 << 20), "8 MiB");
        assert_eq!(size(3 << 29), "1.5 GiB");
        assert_eq!(percent(0, 100), 0);
        assert_eq!(percent(1, 1 << 40), 1);
        assert_eq!(utc(0.0), "1970-01-01 00:00 UTC");
        assert_eq!(utc(951_782_399.0), "2000-02-28 23:59 UTC");
        assert_eq!(utc(951_782_400.0), "2000-02-29 00:00 UTC");
        assert_eq!(utc(1_798_761_599.0), "2026-12-31 23:59 UTC");
    }
}
