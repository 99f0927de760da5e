//! `/metrics`: well-formed, listed in docs/metrics.md, and each one moves when what it measures
//! happens.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "support/admin_rig.rs"]
mod admin_rig;
#[path = "support/daemon.rs"]
mod daemon;
#[path = "support/metrics.rs"]
mod metrics;

use std::collections::BTreeSet;
use std::time::Duration;

use admin_rig::{body, status, test, test_with};
use daemon::{Device, Hub, Mosquitto, config, until};
use metrics::{Scrape, families, family_of, promtool};
use serde_json::json;
use telehub::admin::Settings;

fn each_device_too() -> Settings {
    Settings::new(None, true).unwrap()
}

#[test]
fn promtool_has_nothing_to_complain_about() {
    test_with(each_device_too(), async |admin| {
        let device = admin.board.devices.online(&"cow".into(), 1, String::new());
        device.rtt(Duration::from_millis(3));
        let answer = admin.get("/metrics").await;
        assert_eq!(status(&answer), 200);
        assert!(
            answer.contains("content-type: text/plain; version=0.0.4"),
            "{answer}"
        );
        if let Some(checked) = promtool(&["check", "metrics"], body(&answer)) {
            assert_eq!(checked, Ok(()));
        }
        let wrong = "# TYPE telehub_x counter\ntelehub_x 1\n";
        if let Some(checked) = promtool(&["check", "metrics"], wrong) {
            assert!(checked.is_err(), "promtool complains about nothing at all");
        }
    });
}

#[test]
fn the_documentation_lists_what_is_there() {
    test_with(each_device_too(), async |admin| {
        admin.board.devices.online(&"cow".into(), 1, String::new());
        let answer = admin.get("/metrics").await;
        let expected: String = families(body(&answer))
            .iter()
            .map(|(name, (kind, help))| format!("| `{name}` | {kind} | {help} |\n"))
            .collect();
        let documented = include_str!("../docs/metrics.md");
        let rows: String = documented
            .lines()
            .filter(|line| line.starts_with("| `telehub_") || line.starts_with("| `process_"))
            .map(|line| format!("{line}\n"))
            .collect();
        assert_eq!(
            rows, expected,
            "docs/metrics.md is to have these rows:\n{expected}"
        );
    });
}

#[test]
fn metrics_of_each_device_are_only_there_when_asked_for() {
    test(async |admin| {
        admin.board.devices.online(&"cow".into(), 1, String::new());
        let answer = admin.get("/metrics").await;
        assert!(!answer.contains("cow"), "{answer}");
    });
}

/// Families that cannot move in a test, or move elsewhere.
const STEADY: &[(&str, &str)] = &[
    ("process_max_fds", "a limit"),
    ("process_start_time_seconds", "does not change"),
    ("process_virtual_memory_bytes", "the kernel's"),
    ("telehub_build_info", "does not change"),
    (
        "telehub_devices_forgotten_total",
        "in src/status/devices.rs, with thousands of ids",
    ),
    ("telehub_event_readers_dropped_total", "in events.rs"),
    (
        "telehub_revocation_lists_expired",
        "in listen_tls.rs, with a list",
    ),
    ("telehub_spool_full_in_seconds", "in status::fill"),
    ("telehub_spool_max_bytes", "a limit"),
    ("telehub_uplink_packs_total", "in uplink_pack.rs"),
    ("telehub_uplink_probe_state", "in uplink_blame.rs"),
    ("telehub_uplink_refused_packs_total", "in uplink_pack.rs"),
    ("telehub_uplink_refused_statuses_total", "in uplink_v5.rs"),
    ("telehub_refused_publishes_total", "in refusals.rs"),
    ("telehub_refused_topics", "in refusals.rs"),
    ("telehub_uplink_refused_total", "in uplink_v5.rs"),
    ("telehub_uplink_skipped_total", "in uplink_v5.rs"),
    ("telehub_uplink_twins", "in uplink_v5.rs"),
    ("telehub_uplink_unheard_total", "in uplink_v5.rs"),
    ("telehub_command_latency_seconds", "in commands_local.rs"),
    ("telehub_commands_ended_total", "in commands_local.rs"),
    ("telehub_commands_late_results_total", "in commands.rs"),
    ("telehub_commands_listening", "in commands.rs"),
    ("telehub_commands_received_total", "in commands_local.rs"),
    (
        "telehub_commands_lost_results_total",
        "needs a broker that refuses them",
    ),
    ("telehub_commands_sent_total", "in commands_local.rs"),
    ("telehub_commands_stray_results_total", "in commands.rs"),
    ("telehub_commands_unanswerable_total", "in commands.rs"),
    ("telehub_commands_under_way", "in commands_local.rs"),
    ("telehub_commands_untold_total", "in commands.rs"),
    ("telehub_commands_waiting", "in commands_local.rs"),
    ("telehub_device_commands_total", "in commands_local.rs"),
    ("telehub_desired_given_total", "in desired.rs"),
    ("telehub_desired_skipped_total", "in desired.rs"),
    ("telehub_reported_published_total", "in desired.rs"),
    (
        "telehub_reported_refused_total",
        "needs a broker that refuses them",
    ),
    ("telehub_reported_skipped_total", "in desired.rs"),
    ("telehub_uplink_values_total", "in values.rs"),
    ("telehub_uplink_refused_values_total", "in values.rs"),
    ("telehub_uplink_dropped_values_total", "in uplink::values"),
    ("telehub_reduce_batches_total", "in reduce.rs"),
    ("telehub_reduce_readings_total", "in reduce.rs"),
    ("telehub_devices_lost", "in alarms.rs"),
    ("telehub_devices_silent", "in alarms.rs"),
    ("telehub_devices_unseen", "in alarms.rs"),
    ("telehub_device_lost", "in alarms.rs"),
    ("telehub_device_silent", "in alarms.rs"),
    ("telehub_device_usual_interval_seconds", "in status::rhythm"),
];

/// Whether a value has changed as expected: before, now.
type Change = fn(f64, f64) -> bool;

/// A hub, its last scrape, and the families that have moved.
struct Watch {
    hub: Hub,
    last: Scrape,
    moved: BTreeSet<String>,
    families: BTreeSet<String>,
}

impl Watch {
    fn new(hub: Hub) -> Self {
        let (code, text) = hub.get("/metrics");
        assert_eq!(code, 200);
        Self {
            hub,
            last: Scrape::of(&text),
            moved: BTreeSet::new(),
            families: families(&text).into_keys().collect(),
        }
    }

    /// Waits until the value of each of these series has changed so since the last time.
    async fn until_moved(&mut self, expected: &[(&str, Change)]) {
        let mut now = Scrape::of("");
        for (series, changed) in expected {
            until(series, || {
                now = Scrape::of(&self.hub.get("/metrics").1);
                changed(self.last.value(series), now.value(series))
            })
            .await;
            let family = family_of(series, &self.families).to_owned();
            self.moved.insert(family);
        }
        self.last = now;
    }
}

fn by_one(before: f64, now: f64) -> bool {
    now == before + 1.0
}

fn more(before: f64, now: f64) -> bool {
    now > before
}

fn one(_: f64, now: f64) -> bool {
    now == 1.0
}

fn none(_: f64, now: f64) -> bool {
    now == 0.0
}

/// A batch of about 60 KB.
fn large(seq: u64) -> serde_json::Value {
    let text = format!("{seq:->1000}");
    let records: Vec<_> = (0..57)
        .map(|n| json!({"n": format!("x{n}"), "vs": text}))
        .collect();
    json!({"data": {"seq": seq, "pack": records}})
}

#[tokio::test]
async fn each_metric_moves_when_what_it_measures_happens() {
    let dir = tempfile::tempdir().unwrap();
    let mut broker = Mosquitto::start(dir.path());
    let small = config(dir.path(), broker.port, "")
        .replace("min_free =", "max_size = \"8MiB\"\nmin_free =")
        .replace("[admin]", "[admin]\ndevice_metrics = true")
        .replace(
            "[devices]",
            "[devices]\nping_interval = \"1s\"\nping_timeout = \"60s\"",
        );
    let hub = Hub::start(dir.path(), &small).await;
    hub.until_uplink("connected").await;
    let address = hub.address;
    let mut watch = Watch::new(hub);
    assert_eq!(watch.last.value("telehub_ready"), 1.0);
    assert_eq!(
        watch.last.value("telehub_spool_max_bytes"),
        f64::from(8 << 20)
    );
    watch.moved.insert("telehub_ready".to_owned());

    // A device that does what it should.
    let mut device = Device::connect(address, "hive").await;
    device.hello("s").await;
    device.data(1).await;
    device.acked(1).await;
    watch
        .until_moved(&[
            ("telehub_devices_connected", by_one),
            ("telehub_devices_known", by_one),
            ("telehub_device_connects_total", by_one),
            ("telehub_received_batches_total", by_one),
            ("telehub_received_readings_total", by_one),
            ("telehub_acked_batches_total", by_one),
            ("telehub_ack_latency_seconds_count", by_one),
            ("telehub_ack_latency_seconds_sum", more),
            ("telehub_uplink_published_total", more),
            ("telehub_uplink_acknowledged_total", more),
            ("telehub_uplink_sent_bytes_total", more),
            ("telehub_uplink_received_bytes_total", more),
            ("telehub_uplink_sent_bytes_per_day", more),
            ("telehub_uplink_received_bytes_per_day", more),
            ("telehub_uplink_puback_latency_seconds_count", by_one),
            ("process_cpu_seconds_total", more),
        ])
        .await;
    let each = "{device=\"hive\"}";
    for family in ["connected", "readings_total"] {
        let series = format!("telehub_device_{family}{each}");
        assert_eq!(watch.last.value(&series), 1.0, "{series}");
        watch.moved.insert(format!("telehub_device_{family}"));
    }
    let last = "telehub_device_last_reading_timestamp_seconds";
    assert!(watch.last.value(&format!("{last}{each}")) > 1.7e9);
    watch.moved.insert(last.to_owned());

    // One with an unplugged sensor.
    let mut unplugged = Device::connect(address, "unplugged").await;
    let pack = r#"[{"n":"a","v":1},{"n":"b","v":null}]"#;
    unplugged.send_text(pack).await;
    watch
        .until_moved(&[("telehub_dropped_records_total", by_one)])
        .await;
    drop(unplugged);

    // One that does not, until it is sent away. Its connection stays for now.
    let mut rogue = Device::connect(address, "rogue").await;
    for _ in 0..10 {
        rogue.send_text("{\"data\": 7}").await;
    }
    watch
        .until_moved(&[
            (
                "telehub_rejected_messages_total{code=\"malformed\"}",
                |_, now| now == 10.0,
            ),
            (
                "telehub_device_rejected_messages_total{device=\"rogue\"}",
                |_, now| now == 10.0,
            ),
            (
                "telehub_device_disconnects_total{reason=\"too many rejects\"}",
                by_one,
            ),
            (
                "telehub_device_evictions_total{reason=\"too many rejects\"}",
                by_one,
            ),
        ])
        .await;

    // Somebody watches, and pings come back.
    let events = std::net::TcpStream::connect(watch.hub.admin).unwrap();
    std::io::Write::write_all(
        &mut &events,
        b"GET /api/events HTTP/1.1\r\nHost: localhost\r\n\r\n",
    )
    .unwrap();
    watch
        .until_moved(&[
            ("telehub_event_readers", by_one),
            ("process_open_fds", more),
            ("process_resident_memory_bytes", |_, now| now > 1e6),
        ])
        .await;
    let mut seq = 1;
    let rtt = "telehub_device_round_trip_seconds{device=\"hive\"}";
    // The device answers pings only while it reads.
    while !watch.hub.get("/metrics").1.contains(rtt) {
        seq += 1;
        device.data(seq).await;
        device.acked(seq).await;
    }
    watch
        .moved
        .insert("telehub_device_round_trip_seconds".to_owned());
    watch
        .until_moved(&[(
            "telehub_device_last_seen_timestamp_seconds{device=\"hive\"}",
            more,
        )])
        .await;

    // A broker that says nothing: the batch waits in memory.
    broker.signal("STOP");
    seq += 1;
    device.data(seq).await;
    watch
        .until_moved(&[
            ("telehub_live_batches", one),
            ("telehub_live_readings", one),
            ("telehub_uplink_in_flight", |_, now| now >= 1.0),
        ])
        .await;
    broker.signal("CONT");
    device.acked(seq).await;

    // An outage, and more data than the spool holds.
    broker.stop();
    watch
        .until_moved(&[
            ("telehub_uplink_state{state=\"connected\"}", none),
            ("telehub_uplink_connect_failures_total", more),
        ])
        .await;
    let first = seq + 1;
    while seq < first + 200 {
        seq += 1;
        device.send(large(seq)).await;
        device.acked(seq).await;
    }
    watch
        .until_moved(&[
            ("telehub_spool_batches", more),
            ("telehub_spool_readings", more),
            ("telehub_spool_disk_bytes", more),
            ("telehub_spool_oldest_age_seconds", more),
            ("telehub_spool_commits_total", more),
            ("telehub_spool_commit_latency_seconds_count", more),
            ("telehub_spool_committed_bytes_total", |_, now| now > 11e6),
            ("telehub_spool_dropped_batches_total", more),
        ])
        .await;
    let said: f64 = watch.hub.status("/spool/written_bytes").as_f64().unwrap();
    if said > 0.0 {
        watch
            .until_moved(&[
                ("telehub_flash_written_bytes_total", |_, now| now > 0.0),
                ("telehub_flash_written_bytes_per_day", |_, now| now > 0.0),
            ])
            .await;
    } else {
        // A file system in memory.
        for family in ["bytes_total", "bytes_per_day"] {
            let family = format!("telehub_flash_written_{family}");
            watch.moved.insert(family);
        }
    }
    broker.start_again();
    watch
        .until_moved(&[
            ("telehub_uplink_connects_total", by_one),
            ("telehub_uplink_reconnects_total", by_one),
            ("telehub_uplink_state{state=\"connected\"}", one),
            ("telehub_gaps_total{reason=\"overflow\"}", more),
            ("telehub_gap_batches_total{reason=\"overflow\"}", more),
            ("telehub_spool_batches", none),
            ("telehub_spool_oldest_age_seconds", none),
        ])
        .await;
    drop(watch.hub);

    // A disk with less room than is to stay free.
    let full = config(dir.path(), daemon::free_port(), "")
        .replace(
            "min_free = \"1MiB\"",
            "min_free = \"15TiB\"\noverflow = \"refuse\"",
        )
        .replace("/spool\"", "/other\"");
    let hub = Hub::start(dir.path(), &full).await;
    let address = hub.address;
    let (moved, families) = (watch.moved, watch.families);
    let mut watch = Watch::new(hub);
    (watch.moved, watch.families) = (moved, families);
    let mut device = Device::connect(address, "hive").await;
    device.hello("s").await;
    device.data(1).await;
    watch
        .until_moved(&[
            ("telehub_spool_commit_failures_total", more),
            ("telehub_spool_state{state=\"full\"}", one),
        ])
        .await;

    let steady: BTreeSet<_> = STEADY.iter().map(|(name, _)| (*name).to_owned()).collect();
    let missed: Vec<_> = watch
        .families
        .iter()
        .filter(|family| !watch.moved.contains(*family) && !steady.contains(*family))
        .collect();
    assert!(missed.is_empty(), "nothing moved {missed:#?}");
}
