//! `telehub check --connect`: what a broker does not take is found before any data goes there.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "support/daemon.rs"]
mod daemon;

use std::path::Path;
use std::process::Command;

use daemon::{Hub, Mosquitto, config, until};

/// Where nobody listens. A port that was free a moment ago may be another test's broker by now.
const NOBODY: u16 = 1;

/// The exit status, and what it says of the broker: a word and a sentence for each thing that was tried.
fn check(dir: &Path, port: u16, version: &str) -> (Option<i32>, Vec<(String, String)>) {
    let file = dir.join("check.toml");
    let uplink = format!("[uplink]\nurl = \"mqtt://127.0.0.1:{port}\"\nversion = \"{version}\"\n");
    let spool = format!("[spool]\npath = \"{}\"\n", dir.join("spool").display());
    std::fs::write(&file, format!("[hub]\nid = \"barn\"\n{uplink}{spool}")).unwrap();
    let done = Command::new(env!("CARGO_BIN_EXE_telehub"))
        .args(["check", "--connect", "--config"])
        .arg(&file)
        .output()
        .unwrap();
    let text = String::from_utf8(done.stdout).unwrap();
    text.parse::<toml::Table>().unwrap();
    let lines = text.lines().filter_map(|line| line.strip_prefix("# "));
    let name = format!("mqtt://127.0.0.1:{port} ");
    let said = lines.map(|line| {
        let (word, rest) = line.split_once(' ').unwrap();
        (
            word.to_owned(),
            rest.trim().strip_prefix(&name).unwrap().to_owned(),
        )
    });
    (done.status.code(), said.collect())
}

/// The sentences that are said with this word.
fn with<'s>(word: &str, said: &'s [(String, String)]) -> Vec<&'s str> {
    let with = said.iter().filter(|(of, _)| of == word);
    with.map(|(_, sentence)| sentence.as_str()).collect()
}

#[test]
fn a_broker_that_takes_everything_is_well_in_both_versions() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Mosquitto::start(dir.path());
    for version in ["5", "3.1.1"] {
        let (status, said) = check(dir.path(), broker.port, version);
        assert_eq!((status, with("BAD", &said).len()), (Some(0), 0), "{said:?}");
        let good = with("ok", &said);
        assert!(
            good[0].starts_with(&format!("speaks MQTT {version} ")),
            "{said:?}"
        );
        for level in ["data", "history", "gap"] {
            assert!(
                good.contains(&&*format!("takes telehub/barn/_probe/{level}")),
                "{said:?}"
            );
        }
        let kept = "takes telehub/barn/_probe/status and keeps it for who comes later";
        assert!(good.contains(&kept), "{said:?}");
        assert!(
            good.iter()
                .any(|one| one.ends_with("data with 262144 bytes")),
            "{said:?}"
        );
    }
}

#[test]
fn what_its_rules_and_limits_forbid_is_named_whether_it_says_so_or_not() {
    let dir = tempfile::tempdir().unwrap();
    let acl = dir.path().join("acl");
    let rules = "topic readwrite #\ntopic deny telehub/barn/+/history\n";
    std::fs::write(&acl, rules).unwrap();
    let lines = format!("acl_file {}\nmessage_size_limit 100000", acl.display());
    let broker = Mosquitto::start_with(dir.path(), &lines);
    for (version, forbidden, large) in [
        (
            "5",
            "does not take telehub/barn/_probe/history: not authorized",
            "message_size_limit",
        ),
        (
            "3.1.1",
            "acknowledges telehub/barn/_probe/history and throws it away",
            "limit of size",
        ),
    ] {
        let (status, said) = check(dir.path(), broker.port, version);
        let bad = with("BAD", &said);
        assert_eq!((status, bad.len()), (Some(1), 2), "{said:?}");
        assert!(bad[0].starts_with(forbidden), "{said:?}");
        assert!(
            bad[1].contains("262144 bytes") && bad[1].contains(large),
            "{said:?}"
        );
        assert!(
            with("ok", &said).contains(&"takes telehub/barn/_probe/gap"),
            "{said:?}"
        );
    }
}

#[test]
fn a_broker_that_is_not_there_or_does_not_let_the_hub_in_is_said_with_the_reason() {
    let dir = tempfile::tempdir().unwrap();
    let (status, said) = check(dir.path(), NOBODY, "auto");
    let bad = with("BAD", &said);
    assert_eq!((status, bad.len(), said.len()), (Some(1), 1, 1), "{said:?}");
    assert!(bad[0].contains("refused"), "{said:?}");
    let passwords = dir.path().join("passwords");
    std::fs::write(&passwords, "").unwrap();
    let lines = format!(
        "allow_anonymous false\npassword_file {}",
        passwords.display()
    );
    let broker = Mosquitto::start_with(dir.path(), &lines);
    let (status, said) = check(dir.path(), broker.port, "auto");
    assert_eq!(status, Some(1), "{said:?}");
    assert!(said[0].1.contains("uplink.username"), "{said:?}");
}

#[tokio::test]
async fn a_hub_that_runs_keeps_its_connection() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Mosquitto::start(dir.path());
    let hub = Hub::start(dir.path(), &config(dir.path(), broker.port, "")).await;
    hub.until_uplink("connected").await;
    let since = hub.status("/uplink/since");
    let (path, port) = (dir.path().to_owned(), broker.port);
    let checked = tokio::task::spawn_blocking(move || check(&path, port, "auto"));
    assert_eq!(checked.await.unwrap().0, Some(0));
    until("the uplink as it was", || {
        hub.status("/uplink/state") == "connected"
    })
    .await;
    assert_eq!(hub.status("/uplink/since"), since);
}
