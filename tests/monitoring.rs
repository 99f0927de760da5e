//! The alert rules and the Grafana dashboard in docs/monitoring/ speak of metrics that there are,
//! and the rules do what they say.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "support/metrics.rs"]
mod metrics;

use std::collections::BTreeSet;
use std::path::Path;

use metrics::{family_of, promtool};
use serde_json::Value;

fn directory() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/monitoring")
}

/// Those in docs/metrics.md, which another test holds against `/metrics`.
fn known() -> BTreeSet<String> {
    include_str!("../docs/metrics.md")
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once('`'))
        .filter(|(name, _)| name.contains('_'))
        .map(|(name, _)| name.to_owned())
        .collect()
}

/// Names of metrics in a text.
fn named(text: &str) -> BTreeSet<String> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.split(|c| !is_part(c))
        .filter(|word| word.starts_with("telehub_") || word.starts_with("process_"))
        .map(str::to_owned)
        .collect()
}

fn assert_known(text: &str) -> BTreeSet<String> {
    let known = known();
    let families: BTreeSet<_> = named(text)
        .iter()
        .map(|name| family_of(name, &known).to_owned())
        .collect();
    let unknown: Vec<_> = families.difference(&known).collect();
    assert!(unknown.is_empty(), "no such metrics: {unknown:?}");
    families
}

fn expressions(value: &Value, into: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                match value {
                    Value::String(text) if key == "expr" || key == "query" => {
                        into.push(text.clone());
                    }
                    _ => expressions(value, into),
                }
            }
        }
        Value::Array(list) => list.iter().for_each(|value| expressions(value, into)),
        _ => {}
    }
}

#[test]
fn the_dashboard_shows_metrics_that_there_are() {
    let text = std::fs::read_to_string(directory().join("grafana.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&text).unwrap();
    let mut found = Vec::new();
    expressions(&dashboard, &mut found);
    let shown = assert_known(&found.join("\n"));
    for wanted in [
        "telehub_uplink_state",
        "telehub_spool_disk_bytes",
        "telehub_devices_connected",
        "telehub_gaps_total",
        "telehub_flash_written_bytes_per_day",
        "telehub_ack_latency_seconds",
    ] {
        assert!(shown.contains(wanted), "{wanted}");
    }
    let ids: BTreeSet<_> = dashboard["panels"]
        .as_array()
        .unwrap()
        .iter()
        .map(|panel| panel["id"].as_u64().unwrap())
        .collect();
    assert_eq!(ids.len(), dashboard["panels"].as_array().unwrap().len());
}

/// The dashboard's expressions as rules, which promtool can read.
#[test]
fn promtool_reads_the_dashboards_expressions() {
    let text = std::fs::read_to_string(directory().join("grafana.json")).unwrap();
    let mut found = Vec::new();
    expressions(&serde_json::from_str(&text).unwrap(), &mut found);
    let mut rules = "groups: [{name: dashboard, rules: [".to_owned();
    for (at, expression) in found
        .iter()
        .filter(|text| text.contains("$job\","))
        .enumerate()
    {
        let expression = expression
            .replace("$__rate_interval", "5m")
            .replace("$__range", "6h");
        let quoted = serde_json::to_string(&expression).unwrap();
        rules += &format!("{{record: \"r{at}\", expr: {quoted}}},");
    }
    rules += "]}]";
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("rules.yml");
    std::fs::write(&file, rules).unwrap();
    if let Some(checked) = promtool(&["check", "rules", file.to_str().unwrap()], "") {
        assert_eq!(checked, Ok(()));
    }
}

#[test]
fn the_alert_rules_speak_of_metrics_that_there_are_and_do_what_they_say() {
    let rules = directory().join("telehub.rules.yml");
    let text = std::fs::read_to_string(&rules).unwrap();
    assert_known(&text);
    let tests = directory().join("telehub.rules.test.yml");
    let tested = std::fs::read_to_string(&tests).unwrap();
    for name in text
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- alert: "))
    {
        let fires = format!("alertname: {name}\n");
        assert!(tested.contains(&fires), "no test in which {name} fires");
    }
    for (what, file) in [("check", &rules), ("test", &tests)] {
        if let Some(checked) = promtool(&[what, "rules", file.to_str().unwrap()], "") {
            assert_eq!(checked, Ok(()));
        }
    }
    let config = directory().join("prometheus.yml");
    let arguments = ["check", "config", "--syntax-only", config.to_str().unwrap()];
    if let Some(checked) = promtool(&arguments, "") {
        assert_eq!(checked, Ok(()));
    }
}
