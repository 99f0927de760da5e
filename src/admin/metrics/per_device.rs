//! Metrics of each device, behind `admin.device_metrics`: nine series for each,
//! and one for each outcome of its commands.

use super::text::Text;
use crate::status::board::Board;
use crate::status::report::DeviceReport;

pub(super) fn devices(text: &mut Text, board: &Board) {
    let devices = board.device_reports();
    let mut of_each = |name, help, value: fn(&DeviceReport) -> Option<f64>| {
        let mut family = text.gauge(name, help);
        for device in &devices {
            if let Some(value) = value(device) {
                family.labelled("device", &device.id, value);
            }
        }
    };
    of_each(
        "telehub_device_connected",
        "Whether the device is connected: 1 or 0.",
        |device| Some(f64::from(u8::from(device.state == "online"))),
    );
    of_each(
        "telehub_device_last_seen_timestamp_seconds",
        "When something last came from the device, Unix seconds.",
        |device| device.last_seen,
    );
    of_each(
        "telehub_device_last_reading_timestamp_seconds",
        "When a reading last came from the device, Unix seconds; absent before the first.",
        |device| device.last_reading,
    );
    of_each(
        "telehub_device_usual_interval_seconds",
        "Between two readings of the device, as a rule; absent before that is known.",
        |device| device.usual,
    );
    of_each(
        "telehub_device_silent",
        "Whether the device is connected and has sent no readings for unusually long: 1 or 0.",
        |device| Some(f64::from(u8::from(device.silent))),
    );
    of_each(
        "telehub_device_lost",
        "Whether the device went without a goodbye or did not come back: 1 or 0.",
        |device| Some(f64::from(u8::from(device.lost))),
    );
    of_each(
        "telehub_device_round_trip_seconds",
        "Round trip of the last ping; absent before the first.",
        |device| device.rtt_ms.map(|ms| ms / 1000.0),
    );
    let mut family = text.counter(
        "telehub_device_readings_total",
        "Readings taken from the device.",
    );
    for device in &devices {
        family.labelled("device", &device.id, device.readings);
    }
    let mut family = text.counter(
        "telehub_device_commands_total",
        "Commands for the device that ended, by outcome; those outcomes alone that were there.",
    );
    for device in board.devices.all() {
        for (outcome, ended) in device.commands.counts() {
            family.labelled_twice([("device", device.id()), ("outcome", outcome)], ended);
        }
    }
    let mut family = text.counter(
        "telehub_device_rejected_messages_total",
        "Messages of the device that were rejected.",
    );
    for device in &devices {
        family.labelled("device", &device.id, device.rejected);
    }
}
