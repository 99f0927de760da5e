//! The state of a hub as one aligned page of text.

use std::fmt::Write;

use telehub::clock::ClockState;
use telehub::status::board::{DeviceReport, SpoolState, StatusReport, UplinkState};

use super::terminal::{Mood, Paint};

/// Devices that are listed when there is no terminal to say how many fit.
pub(super) const LISTED: usize = 16;

/// The whole page, with at most `listed` devices. `now`: Unix seconds.
pub(super) fn page(
    report: &StatusReport,
    devices: &[DeviceReport],
    now: f64,
    paint: Paint,
    listed: usize,
) -> String {
    let mut page = String::new();
    let StatusReport {
        uplink,
        spool,
        live,
        ..
    } = report;
    let uplink_state = match uplink.state {
        UplinkState::Connected => paint.text(Mood::Good, "connected"),
        UplinkState::Connecting => paint.text(Mood::Poor, "connecting"),
        UplinkState::Down => paint.text(Mood::Bad, "down"),
    };
    let spool_state = match spool.state {
        SpoolState::Ok => paint.text(Mood::Good, "ok"),
        SpoolState::Full => paint.text(Mood::Bad, "full"),
        SpoolState::Failed => paint.text(Mood::Bad, "failed"),
    };
    let mut line = |name: &str, text: String| {
        let name = paint.text(Mood::Faint, format!("{name:<8}"));
        let _ = writeln!(page, "{name} {text}");
    };
    let up = span(report.uptime);
    line(
        "hub",
        format!(
            "{}, version {}, up {up}",
            plain(&report.hub),
            plain(&report.version)
        ),
    );
    if report.clock.state == ClockState::Unsynced {
        line(
            "clock",
            "not synchronised: times may be years off".to_owned(),
        );
    }
    line(
        "uplink",
        format!(
            "{uplink_state} for {}, {} in flight, {} published, {} acknowledged",
            span(now - uplink.since),
            uplink.in_flight,
            uplink.published,
            uplink.acknowledged
        ),
    );
    if let Some(error) = &uplink.last_error {
        line("", format!("last error: {}", plain(error)));
    }
    if let Some(refused) = uplink.refused.first() {
        let more = match uplink.refused_total.saturating_sub(1) {
            0 => String::new(),
            more => format!(" (and {more} more topics; --json lists them)"),
        };
        let text = format!("the broker refuses: {}{more}", plain(&refused.reason));
        line("", paint.text(Mood::Bad, text).to_string());
    }
    line(
        "live",
        format!("{} batches, {} readings", live.batches, live.readings),
    );
    let dropped = format!("{} batches dropped", spool.dropped_batches);
    let lost = if spool.dropped_batches > 0 {
        Mood::Bad
    } else {
        Mood::Plain
    };
    line(
        "spool",
        format!(
            "{spool_state}, {} batches, {} readings, {} on disk, {}",
            spool.batches,
            spool.readings,
            bytes(spool.disk_bytes),
            paint.text(lost, dropped)
        ),
    );
    if let Some(oldest) = spool.oldest {
        let eta = spool.drain_eta.map_or("not draining".to_owned(), |eta| {
            format!("empty in about {}", span(eta))
        });
        line("", format!("oldest {} ago, {eta}", span(now - oldest)));
    }
    line(
        "flash",
        format!(
            "{} written, {} a day",
            bytes(spool.written_bytes),
            bytes(spool.flash_per_day)
        ),
    );
    line(
        "devices",
        format!(
            "{} connected, {} known, {} evicted",
            report.devices.connected, report.devices.known, report.devices.evicted
        ),
    );
    table(&mut page, devices, now, paint, listed);
    page
}

const HEADING: [&str; 9] = [
    "device", "state", "for", "seen", "ping", "batches", "readings", "rejected", "reason",
];

fn table(page: &mut String, devices: &[DeviceReport], now: f64, paint: Paint, listed: usize) {
    if devices.is_empty() {
        return;
    }
    // Those who are gone first: they are what one looks for.
    let mut shown: Vec<_> = devices.iter().collect();
    shown.sort_by(|a, b| (&a.state, &a.id).cmp(&(&b.state, &b.id)));
    let rest = shown.len().saturating_sub(listed);
    shown.truncate(listed);
    let mut rows = vec![(HEADING.map(str::to_owned), Mood::Faint)];
    rows.extend(shown.into_iter().map(|device| {
        let mood = if device.state == "online" {
            Mood::Plain
        } else {
            Mood::Poor
        };
        (cells(device, now), mood)
    }));
    let widths: [usize; HEADING.len()] = std::array::from_fn(|column| {
        let width = |(row, _): &([String; HEADING.len()], Mood)| row[column].chars().count();
        rows.iter().map(width).max().unwrap_or(0)
    });
    page.push('\n');
    for (row, mood) in &rows {
        let cells = row.iter().zip(widths).enumerate();
        let padded = cells.map(|(column, (cell, width))| {
            // Names to the left, numbers to the right.
            if matches!(column, 0 | 1 | 8) {
                format!("{cell:<width$}")
            } else {
                format!("{cell:>width$}")
            }
        });
        let line = padded.collect::<Vec<_>>().join("  ");
        let _ = writeln!(page, "{}", paint.text(*mood, line.trim_end()));
    }
    if rest > 0 {
        let _ = writeln!(page, "and {rest} more; --json lists all");
    }
}

fn cells(device: &DeviceReport, now: f64) -> [String; HEADING.len()] {
    let ping = device.rtt_ms.map(|ms| format!("{ms:.1} ms"));
    [
        plain(&device.id),
        plain(&device.state),
        span(now - device.since),
        format!("{} ago", span(now - device.last_seen)),
        ping.unwrap_or_else(|| "-".to_owned()),
        device.batches.to_string(),
        device.readings.to_string(),
        device.rejected.to_string(),
        plain(&device.reason),
    ]
}

/// Text of another's making, without the control characters that could steer a terminal.
pub(super) fn plain(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '?' } else { c })
        .collect()
}

/// A duration in its two largest units.
pub(super) fn span(seconds: f64) -> String {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "clamped by max, saturates"
    )]
    let seconds = seconds.max(0.0) as u64;
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m {}s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{}h {}m", seconds / 3_600, seconds / 60 % 60),
        _ => format!("{}d {}h", seconds / 86_400, seconds / 3_600 % 24),
    }
}

pub(super) fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let power = (bytes.max(1).ilog2() / 10).min(4) as usize;
    if power == 0 {
        return format!("{bytes} B");
    }
    #[expect(clippy::cast_precision_loss, reason = "for reading, with one decimal")]
    let scaled = bytes as f64 / (1u64 << (10 * power)) as f64;
    format!("{scaled:.1} {}", UNITS[power])
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Arc;

    use telehub::clock::unix_now;
    use telehub::status::board::Board;

    use super::*;

    #[test]
    fn the_page_is_aligned_and_lists_who_is_gone_first() {
        let board = Board::new("barn");
        board.uplink.set(UplinkState::Connected, None);
        let device: Arc<str> = "a-long-device-name".into();
        board.devices.online(&device, 1, "10.0.0.1:5".into());
        board.devices.online(&"b".into(), 2, "10.0.0.2:5".into());
        board.devices.offline("b", 2, "ping\u{1b}timeout");
        let mut status = board.status();
        status.clock.state = ClockState::Unsynced;
        (status.spool.written_bytes, status.spool.flash_per_day) = (1 << 20, 24 << 20);
        let page = page(
            &status,
            &board.device_reports(),
            unix_now(),
            Paint::never(),
            LISTED,
        );
        let lines: Vec<_> = page.lines().collect();
        assert!(lines[0].starts_with("hub      barn, version "), "{page}");
        assert!(lines[1].starts_with("clock    not synchronised"), "{page}");
        assert!(
            lines[2].starts_with("uplink   connected for 0s, 0 in flight"),
            "{page}"
        );
        assert!(
            lines.contains(&"flash    1.0 MiB written, 24.0 MiB a day"),
            "{page}"
        );
        let heading = lines
            .iter()
            .position(|line| line.starts_with("device  "))
            .unwrap();
        assert!(
            lines[heading + 1].starts_with("b                   offline "),
            "{page}"
        );
        assert!(
            lines[heading + 2].starts_with("a-long-device-name  online "),
            "{page}"
        );
        assert!(lines[heading + 1].ends_with("ping?timeout"), "{page}");
    }

    #[test]
    fn colour_changes_nothing_but_colour() {
        let board = Board::new("barn");
        board.devices.online(&"a".into(), 1, String::new());
        board.devices.online(&"b".into(), 2, String::new());
        board.devices.offline("b", 2, "closed");
        board.uplink.set(UplinkState::Down, None);
        let (status, devices) = (board.status(), board.device_reports());
        let painted = |paint| page(&status, &devices, unix_now(), paint, LISTED);
        let (with, without) = (painted(Paint::always()), painted(Paint::never()));
        assert!(
            !without.contains('\x1b') && with.contains("\x1b[31;1m"),
            "{with:?}"
        );
        let mut bare = String::new();
        for (at, part) in with.split("\x1b[").enumerate() {
            bare += if at == 0 {
                part
            } else {
                part.split_once('m').unwrap().1
            };
        }
        assert_eq!(bare, without);
    }

    #[test]
    fn what_does_not_fit_is_counted() {
        let board = Board::new("barn");
        for conn in 0..30 {
            board
                .devices
                .online(&format!("device-{conn}").into(), conn, String::new());
        }
        let page = page(
            &board.status(),
            &board.device_reports(),
            unix_now(),
            Paint::never(),
            5,
        );
        assert!(page.ends_with("and 25 more; --json lists all\n"), "{page}");
        assert_eq!(page.matches("device-").count(), 5);
    }

    #[test]
    fn spans_and_sizes_are_short() {
        assert_eq!(span(59.9), "59s");
        assert_eq!(span(3_725.0), "1h 2m");
        assert_eq!(span(-1.0), "0s");
        assert_eq!(span(200_000.0), "2d 7h");
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(u64::MAX), "16777216.0 TiB");
    }
}
