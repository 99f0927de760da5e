//! The state of a hub as one aligned page of text.

use std::fmt::Write;

use telehub::clock::ClockState;
use telehub::status::board::{
    DeviceReport, ProbeState, SpoolState, StatusReport, UplinkReport, UplinkState,
};

use telehub::plain::text as plain;

use super::terminal::{Mood, Paint};

/// Devices that are listed when there is no terminal to say how many fit.
pub(super) const LISTED: usize = 16;

/// How much of the devices is shown.
#[derive(Debug, Clone, Copy)]
pub(super) enum Room {
    /// So many of them.
    Devices(usize),
    /// As many as fit into so many rows with the head above them.
    Rows(usize),
}

/// The whole page. `now`: Unix seconds.
pub(super) fn page(
    report: &StatusReport,
    devices: &[DeviceReport],
    now: f64,
    paint: Paint,
    room: Room,
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
        SpoolState::Unusable => paint.text(Mood::Bad, "unusable"),
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
    if let Some(broker) = &uplink.broker {
        line("", format!("broker {}", plain(broker)));
    }
    if let Some(error) = &uplink.last_error {
        let when = uplink
            .last_error_at
            .map(|at| format!(" {} ago", span(now - at)));
        line(
            "",
            format!("last error{}: {}", when.unwrap_or_default(), plain(error)),
        );
    }
    for trouble in uplink_trouble(&report.hub, uplink) {
        line("", trouble);
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
        "link",
        format!(
            "{} sent, {} received; {} and {} a day",
            bytes(uplink.sent_bytes),
            bytes(uplink.received_bytes),
            bytes(uplink.sent_per_day),
            bytes(uplink.received_per_day)
        ),
    );
    line(
        "live",
        format!("{} batches, {} readings", live.batches, live.readings),
    );
    if let Some(reduce) = &report.reduce {
        line(
            "reduce",
            format!(
                "{} of {} readings left out by rules, {} batches as a whole",
                reduce.left_out_readings,
                reduce.left_out_readings + reduce.kept_readings,
                reduce.left_out_batches
            ),
        );
    }
    let dropped = format!("{} batches dropped", spool.dropped_batches);
    let lost = if spool.dropped_batches > 0 {
        Mood::Bad
    } else {
        Mood::Plain
    };
    line(
        "spool",
        format!(
            "{spool_state}, {} batches, {} readings, {}, {}",
            spool.batches,
            spool.readings,
            disk(spool.disk_bytes, spool.max_size),
            paint.text(lost, dropped)
        ),
    );
    if let Some(reason) = &spool.reason {
        line("", plain(reason));
    }
    if let Some(full_in) = spool.full_in.filter(|_| spool.state == SpoolState::Ok) {
        line("", format!("full in {} at this rate", span(full_in)));
    }
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
            "{} connected, {} known, {} evicted{}",
            report.devices.connected,
            report.devices.known,
            report.devices.evicted,
            paint.text(Mood::Poor, alarms(report))
        ),
    );
    let listed = match room {
        Room::Devices(listed) => listed,
        // Between them a blank line and the heading, below them what does not fit, and the cursor.
        Room::Rows(rows) => rows.saturating_sub(page.lines().count() + 4),
    };
    table(&mut page, devices, now, paint, listed);
    page
}

/// The devices that somebody should look after, if there are any.
fn alarms(report: &StatusReport) -> String {
    let devices = &report.devices;
    [
        (devices.lost, "lost"),
        (devices.silent, "silent"),
        (devices.unseen, "not seen yet"),
    ]
    .iter()
    .filter(|(number, _)| *number > 0)
    .fold(String::new(), |text, (number, what)| {
        text + &format!(", {number} {what}")
    })
}

fn disk(used: u64, most: u64) -> String {
    if most == 0 {
        return format!("{} on disk", bytes(used));
    }
    format!("{} of {} on disk", bytes(used), bytes(most))
}

const HEADING: [&str; 9] = [
    "device", "state", "for", "reading", "ping", "batches", "readings", "rejected", "reason",
];

/// Those that somebody should look after first.
fn rank(device: &DeviceReport) -> u8 {
    match (
        device.lost && !device.acknowledged,
        device.silent,
        &*device.state,
    ) {
        (true, ..) => 0,
        (_, true, _) => 1,
        (.., "offline") => 2,
        (.., "unseen") => 3,
        (.., "asleep") => 4,
        _ => 5,
    }
}

fn table(page: &mut String, devices: &[DeviceReport], now: f64, paint: Paint, listed: usize) {
    if devices.is_empty() {
        return;
    }
    let mut shown: Vec<_> = devices.iter().collect();
    shown.sort_by(|a, b| (rank(a), &a.id).cmp(&(rank(b), &b.id)));
    let rest = shown.len().saturating_sub(listed);
    shown.truncate(listed);
    let mut rows = vec![(HEADING.map(str::to_owned), Mood::Faint)];
    rows.extend(shown.into_iter().map(|device| {
        let mood = match rank(device) {
            0 | 1 => Mood::Poor,
            5 => Mood::Plain,
            _ => Mood::Faint,
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
    let reading = device
        .last_reading
        .map(|at| format!("{} ago", span(now - at)));
    [
        plain(&device.id),
        plain(if device.silent {
            "silent"
        } else {
            &device.state
        }),
        span(now - device.since),
        reading.unwrap_or_else(|| "-".to_owned()),
        ping.unwrap_or_else(|| "-".to_owned()),
        device.batches.to_string(),
        device.readings.to_string(),
        device.rejected.to_string(),
        why(device),
    ]
}

/// Why it stands as it does.
fn why(device: &DeviceReport) -> String {
    let mut why = plain(&device.reason);
    if device.silent {
        let after = device.expect.or(device.usual);
        why = after.map_or(why, |seconds| format!("usually every {}", span(seconds)));
    }
    if let Some(refused) = device.refused.as_ref().filter(|_| device.state != "online") {
        why = format!("refused: {}", plain(&refused.why));
    }
    if device.acknowledged {
        why.push_str(" (known)");
    }
    why
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

/// What is wrong with an uplink that is connected.
fn uplink_trouble(hub: &str, uplink: &UplinkReport) -> Vec<String> {
    let mut trouble = Vec::new();
    match uplink.probe {
        ProbeState::Silent => trouble.push(
            "the broker acknowledges and does not deliver: check its rules (ACL) and \
             message_size_limit"
                .to_owned(),
        ),
        ProbeState::Unknown => trouble.push(
            "cannot know whether the broker delivers: MQTT 3.1.1, and the hub may not subscribe"
                .to_owned(),
        ),
        ProbeState::Off | ProbeState::Waiting | ProbeState::Heard => {}
    }
    if uplink.twins {
        trouble.push(format!(
            "another hub has the id {} (is its card a copy?): each ends the other's connection; \
             write another [hub] id, or uplink.client_id, for one of them",
            plain(hub)
        ));
    }
    if uplink.refused_statuses > 0 {
        let devices = uplink.refused_statuses;
        trouble.push(format!(
            "the broker refuses the status of {devices} devices"
        ));
    }
    trouble
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
        (status.uplink.sent_bytes, status.uplink.sent_per_day) = (2 << 20, 3 << 20);
        let page = page(
            &status,
            &board.device_reports(),
            unix_now(),
            Paint::never(),
            Room::Devices(LISTED),
        );
        let lines: Vec<_> = page.lines().collect();
        assert!(lines[0].starts_with("hub      barn, version "), "{page}");
        assert!(lines[1].starts_with("clock    not synchronised"), "{page}");
        assert!(
            lines[2].starts_with("uplink   connected for 0s, 0 in flight"),
            "{page}"
        );
        assert!(
            lines.contains(&"link     2.0 MiB sent, 0 B received; 3.0 MiB and 0 B a day"),
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
        let painted = |paint| page(&status, &devices, unix_now(), paint, Room::Devices(LISTED));
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
            Room::Devices(5),
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
