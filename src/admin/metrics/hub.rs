//! The metrics of the hub as a whole.

use super::text::Text;
use crate::clock::unix_now;
use crate::status::board::{Board, ProbeState, SpoolState, UplinkState};
use crate::status::process;

pub(super) fn itself(text: &mut Text, board: &Board) {
    text.gauge("telehub_build_info", "Version of the hub; always 1.")
        .labelled("version", env!("CARGO_PKG_VERSION"), 1);
    text.gauge("telehub_ready", "Whether devices are accepted: 1 or 0.")
        .value(u8::from(board.is_ready()));
    text.gauge(
        "telehub_live_batches",
        "Batches in memory that are not safe yet, in flight included.",
    )
    .value(board.live_batches.get());
    text.gauge(
        "telehub_live_readings",
        "Readings in memory that are not safe yet.",
    )
    .value(board.live_readings.get());
    let reduce = &board.reduce;
    let mut family = text.counter(
        "telehub_reduce_readings_total",
        "Readings for which there is a [[reduce]] rule, by outcome.",
    );
    for (outcome, count) in [("kept", &reduce.kept), ("left-out", &reduce.left_out)] {
        family.labelled("outcome", outcome, count.get());
    }
    let mut family = text.counter(
        "telehub_reduce_batches_total",
        "Batches that [[reduce]] rules shortened or left out as a whole.",
    );
    for (outcome, count) in [
        ("left-out", &reduce.dropped),
        ("shortened", &reduce.shortened),
    ] {
        family.labelled("outcome", outcome, count.get());
    }
    let feed = board.feed();
    text.gauge("telehub_event_readers", "Readers of /api/events.")
        .value(feed.readers());
    text.counter(
        "telehub_event_readers_dropped_total",
        "Readers of /api/events that were cut off because they did not keep up.",
    )
    .value(feed.dropped());
}

pub(super) fn devices(text: &mut Text, board: &Board) {
    let devices = &board.devices;
    let all = &devices.shared;
    let census = devices.census();
    text.gauge("telehub_devices_connected", "Open device connections.")
        .value(devices.connected.get());
    text.gauge(
        "telehub_devices_known",
        "Devices that are remembered: of the registry, of this run, or of the one before.",
    )
    .value(census.known);
    text.gauge(
        "telehub_devices_unseen",
        "Devices that have not come since the hub started.",
    )
    .value(census.unseen);
    text.gauge(
        "telehub_devices_lost",
        "Devices that went without a goodbye or did not come back, and of which nobody has said that it is known.",
    )
    .value(census.lost);
    text.gauge(
        "telehub_devices_silent",
        "Devices that are connected and have sent no readings for unusually long.",
    )
    .value(census.silent);
    text.counter(
        "telehub_device_connects_total",
        "Device connections that began.",
    )
    .value(devices.begun.get());
    text.counter(
        "telehub_device_disconnects_total",
        "Device connections that ended, by reason.",
    )
    .by("reason", devices.ended.iter());
    text.counter(
        "telehub_device_evictions_total",
        "Device connections that the hub ended because the device did not answer or misbehaved, by reason.",
    ).by("reason", devices.evictions.iter());
    text.gauge(
        "telehub_revocation_lists_expired",
        "Revocation lists of device certificates that are older than they say they may be.",
    )
    .value(devices.old_revocation_lists.get());
    text.counter(
        "telehub_devices_forgotten_total",
        "Devices that were forgotten to make room for new ones.",
    )
    .value(devices.forgotten.get());
    text.counter(
        "telehub_received_batches_total",
        "Batches taken from devices.",
    )
    .value(all.batches.get());
    text.counter(
        "telehub_received_readings_total",
        "Readings taken from devices.",
    )
    .value(all.readings.get());
    text.counter(
        "telehub_rejected_messages_total",
        "Messages of devices that were rejected, by code.",
    )
    .by("code", all.rejected.iter());
    text.counter(
        "telehub_dropped_records_total",
        "Records left out of batches because they had no finite value.",
    )
    .value(all.dropped_records.get());
    text.counter(
        "telehub_acked_batches_total",
        "Batches whose device was told that they are safe.",
    )
    .value(all.acked.get());
    text.histogram(
        "telehub_ack_latency_seconds",
        "From the arrival of a batch to its ack.",
        &all.ack_latency,
    );
}

pub(super) fn uplink(text: &mut Text, board: &Board) {
    let uplink = &board.uplink;
    let mut family = text.gauge(
        "telehub_uplink_state",
        "1 for the state of the uplink, 0 for the others.",
    );
    let present = uplink.state();
    for (name, state) in [
        ("connected", UplinkState::Connected),
        ("connecting", UplinkState::Connecting),
        ("down", UplinkState::Down),
    ] {
        family.labelled("state", name, u8::from(state == present));
    }
    text.counter(
        "telehub_uplink_connects_total",
        "Connections that the broker agreed to.",
    )
    .value(uplink.connects.get());
    text.counter(
        "telehub_uplink_reconnects_total",
        "Connections to the broker beyond the first.",
    )
    .value(uplink.reconnects());
    text.counter(
        "telehub_uplink_connect_failures_total",
        "Tries to connect to the broker that came to nothing.",
    )
    .value(uplink.connect_failures.get());
    text.gauge("telehub_uplink_in_flight", "Publishes without PUBACK.")
        .value(uplink.in_flight.get());
    text.counter(
        "telehub_uplink_published_total",
        "Batches, gap records and states handed to the network; in a pack each counts.",
    )
    .value(uplink.published.get());
    text.counter(
        "telehub_uplink_acknowledged_total",
        "Those of every kind that the broker has acknowledged.",
    )
    .value(uplink.acknowledged.get());
    text.counter(
        "telehub_uplink_packs_total",
        "Publishes of batches and gap records together: uplink.pack.",
    )
    .value(uplink.packs.get());
    text.counter(
        "telehub_uplink_refused_packs_total",
        "Packs that the broker did not take as they were; they were sent again in halves.",
    )
    .value(uplink.refused_packs.get());
    traffic(text, board);
    text.counter(
        "telehub_uplink_refused_total",
        "Batches and gap records that the broker refused.",
    )
    .value(uplink.refused.get());
    text.counter(
        "telehub_uplink_refused_statuses_total",
        "Statuses that the broker refused.",
    )
    .value(uplink.refused_statuses.get());
    text.counter(
        "telehub_uplink_values_total",
        "Values that the broker has taken on topics of their own.",
    )
    .value(uplink.values.get());
    text.counter(
        "telehub_uplink_refused_values_total",
        "Values that the broker refused; their data is not concerned.",
    )
    .value(uplink.refused_values.get());
    text.counter(
        "telehub_uplink_dropped_values_total",
        "Values that were not shown: texts that are too long, or too many names.",
    )
    .value(uplink.dropped_values.get());
    text.counter(
        "telehub_uplink_unheard_total",
        "Publishes that the broker took and that nobody subscribes to.",
    )
    .value(uplink.unheard.get());
    text.counter(
        "telehub_uplink_skipped_total",
        "Messages of the broker that were skipped: unasked, too large or malformed.",
    )
    .value(uplink.skipped.get());
    text.gauge(
        "telehub_uplink_twins",
        "1 while another client seems to have the hub's client id.",
    )
    .value(uplink.twins.get());
    let mut family = text.gauge(
        "telehub_uplink_probe_state",
        "1 for what the probe of MQTT 3.1.1 has shown, 0 for the others.",
    );
    let probe = uplink.probe();
    for (name, state) in [
        ("off", ProbeState::Off),
        ("waiting", ProbeState::Waiting),
        ("heard", ProbeState::Heard),
        ("silent", ProbeState::Silent),
        ("unknown", ProbeState::Unknown),
    ] {
        family.labelled("state", name, u8::from(state == probe));
    }
    text.histogram(
        "telehub_uplink_puback_latency_seconds",
        "From the publish of a batch or gap record to its PUBACK.",
        &uplink.puback_latency,
    );
    text.counter(
        "telehub_gaps_total",
        "Gap records that the broker has acknowledged, by reason.",
    )
    .by("reason", uplink.gaps.iter());
    text.counter(
        "telehub_gap_batches_total",
        "Batches that acknowledged gap records tell of, by reason.",
    )
    .by("reason", uplink.gap_batches.iter());
    text.gauge(
        "telehub_refused_topics",
        "Topics of devices that the broker refuses at present.",
    )
    .value(uplink.refused_topics.topics.get());
    text.counter(
        "telehub_refused_publishes_total",
        "Publishes that the broker has refused, by the kind of topic.",
    )
    .by("topic", uplink.refused_topics.publishes.iter());
}

/// What a metered link costs.
fn traffic(text: &mut Text, board: &Board) {
    let [sent, received] = board.traffic();
    text.counter(
        "telehub_uplink_sent_bytes_total",
        "Bytes of MQTT sent to the broker, without TLS and what is below it.",
    )
    .value(board.uplink.sent_bytes.get());
    text.counter(
        "telehub_uplink_received_bytes_total",
        "Bytes of MQTT received from the broker, without TLS and what is below it.",
    )
    .value(board.uplink.received_bytes.get());
    text.gauge(
        "telehub_uplink_sent_bytes_per_day",
        "Bytes sent in the last 24 h; those of a younger run are scaled up to a day.",
    )
    .value(sent);
    text.gauge(
        "telehub_uplink_received_bytes_per_day",
        "Bytes received in the last 24 h; those of a younger run are scaled up to a day.",
    )
    .value(received);
}

pub(super) fn commands(text: &mut Text, board: &Board) {
    let commands = &board.commands;
    text.gauge(
        "telehub_commands_listening",
        "1 while the broker sends commands to the hub.",
    )
    .value(commands.listening.get());
    text.counter(
        "telehub_commands_received_total",
        "Messages on topics of commands, and requests of the operator.",
    )
    .value(commands.received.get());
    text.counter(
        "telehub_commands_sent_total",
        "Commands sent to devices, those sent again included.",
    )
    .value(commands.sent.get());
    text.gauge(
        "telehub_commands_waiting",
        "Commands that were accepted and wait for their turn.",
    )
    .value(commands.waiting.get());
    text.gauge(
        "telehub_commands_under_way",
        "Commands that were sent and have not ended.",
    )
    .value(commands.under_way.get());
    text.counter(
        "telehub_commands_ended_total",
        "Commands that ended, by outcome.",
    )
    .by("outcome", commands.ended.iter());
    text.histogram(
        "telehub_command_latency_seconds",
        "From the receipt of a command to its end, of those that were sent to their device.",
        &commands.latency,
    );
    text.counter(
        "telehub_commands_late_results_total",
        "Results of devices that came after the end had been told, or to nothing that was asked.",
    )
    .value(commands.late.get());
    text.counter(
        "telehub_commands_stray_results_total",
        "Results of devices that answer nothing, or say again what was said.",
    )
    .value(commands.stray.get());
    text.counter(
        "telehub_commands_unanswerable_total",
        "Messages below the topics of commands that no answer could be sent to.",
    )
    .value(commands.unanswerable.get());
    text.counter(
        "telehub_commands_untold_total",
        "Refusals and progress that nobody was told of.",
    )
    .value(commands.untold.get());
    text.counter(
        "telehub_commands_lost_results_total",
        "Results of commands that were given up: too old, too large for the broker, or gone with a part of the spool.",
    )
    .value(commands.lost.get());
    states(text, board);
}

fn states(text: &mut Text, board: &Board) {
    let commands = &board.commands;
    text.counter(
        "telehub_desired_given_total",
        "Desired states that were handed to devices.",
    )
    .value(commands.desired_given.get());
    text.counter(
        "telehub_desired_skipped_total",
        "Desired states that were passed over, by reason.",
    )
    .by("reason", commands.desired_skipped.iter());
    text.counter(
        "telehub_reported_published_total",
        "Reported states that the broker has taken.",
    )
    .value(commands.reported.get());
    text.counter(
        "telehub_reported_refused_total",
        "Reported states that the broker did not take.",
    )
    .value(commands.reported_refused.get());
    text.counter(
        "telehub_reported_skipped_total",
        "Reported states of devices whose entry in the registry does not have desired = true.",
    )
    .value(commands.reported_skipped.get());
}

pub(super) fn spool(text: &mut Text, board: &Board) {
    let spool = &board.spool;
    let mut family = text.gauge(
        "telehub_spool_state",
        "1 for the state of the spool, 0 for the others.",
    );
    let (present, _) = spool.state();
    for (name, state) in [
        ("failed", SpoolState::Failed),
        ("full", SpoolState::Full),
        ("ok", SpoolState::Ok),
        ("unusable", SpoolState::Unusable),
    ] {
        family.labelled("state", name, u8::from(state == present));
    }
    text.gauge("telehub_spool_batches", "Batches on disk without PUBACK.")
        .value(spool.batches.get());
    text.gauge("telehub_spool_readings", "Readings on disk without PUBACK.")
        .value(spool.readings.get());
    text.gauge(
        "telehub_spool_oldest_age_seconds",
        "Since the arrival of the oldest batch on disk; 0 when there is none.",
    )
    .value(
        spool
            .oldest()
            .map_or(0.0, |oldest| (unix_now() - oldest).max(0.0)),
    );
    text.gauge(
        "telehub_spool_disk_bytes",
        "What the spool's files take on disk.",
    )
    .value(spool.disk_bytes.get());
    text.gauge(
        "telehub_spool_max_bytes",
        "What the spool's files may take on disk: spool.max_size.",
    )
    .value(spool.max_size.get());
    let mut family = text.gauge(
        "telehub_spool_full_in_seconds",
        "Until the spool is full, as fast as it has grown in the last minutes; absent while it does not grow.",
    );
    if let Some(seconds) = spool.full_in() {
        family.plain(seconds);
    }
    text.counter(
        "telehub_spool_dropped_batches_total",
        "Batches that were given up, as soon as they were; gap records follow.",
    )
    .value(spool.dropped_batches.get());
    text.counter("telehub_spool_commits_total", "Commits to disk.")
        .value(
            spool
                .commit_latency
                .cumulated()
                .last()
                .copied()
                .unwrap_or(0),
        );
    text.counter(
        "telehub_spool_commit_failures_total",
        "Commits that came to nothing.",
    )
    .value(spool.commit_failures.get());
    text.counter(
        "telehub_spool_committed_bytes_total",
        "Bytes of batches that were committed to disk.",
    )
    .value(spool.committed_bytes.get());
    text.histogram(
        "telehub_spool_commit_latency_seconds",
        "From the order to commit to the end of its sync.",
        &spool.commit_latency,
    );
    let (written, per_day) = board.flash();
    text.counter(
        "telehub_flash_written_bytes_total",
        "Bytes that the hub has caused to be written to disk, by the kernel's account.",
    )
    .value(written);
    text.gauge(
        "telehub_flash_written_bytes_per_day",
        "Bytes written to disk in the last 24 h; those of a younger run are scaled up to a day.",
    )
    .value(per_day);
}

pub(super) fn process(text: &mut Text, board: &Board) {
    let (virtual_bytes, resident) = process::memory();
    let (open, most) = process::descriptors();
    text.counter(
        "process_cpu_seconds_total",
        "Processor time, user and system.",
    )
    .value(process::cpu_seconds());
    text.gauge("process_resident_memory_bytes", "Resident memory.")
        .value(resident);
    text.gauge("process_virtual_memory_bytes", "Virtual memory.")
        .value(virtual_bytes);
    text.gauge(
        "process_start_time_seconds",
        "Start of the hub, Unix seconds.",
    )
    .value(board.started());
    text.gauge("process_open_fds", "Open file descriptors.")
        .value(open);
    text.gauge("process_max_fds", "Most file descriptors that may be open.")
        .value(most);
}
