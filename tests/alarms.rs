//! What the operator is told of devices and of the spool can be believed: over a restart, before the
//! first outage, and of a device that is connected and says nothing.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "support/daemon.rs"]
mod daemon;

use std::path::Path;
use std::process::{Command, Output};

use daemon::{Device, Hub, config, free_port, program, until};
use serde_json::Value;

fn telehub(arguments: &[&str]) -> Output {
    Command::new(program()).args(arguments).output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// What `/api/devices` says of one device.
fn device(hub: &Hub, id: &str) -> Option<Value> {
    let list: Vec<Value> = serde_json::from_str(&hub.get("/api/devices").1).unwrap();
    list.into_iter().find(|device| device["id"] == id)
}

fn state(hub: &Hub, id: &str) -> String {
    device(hub, id).map_or_else(String::new, |device| {
        format!(
            "{} {}",
            device["state"].as_str().unwrap(),
            device["reason"].as_str().unwrap()
        )
    })
}

/// A configuration with a registry and an admin token.
fn guarded(dir: &Path) -> (String, String) {
    let registry = dir.join("devices.toml").display().to_string();
    let token = dir.join("token");
    std::fs::write(&token, "0123456789abcdef\n").unwrap();
    let text = config(dir, free_port(), "")
        .replace(
            "auth = \"open\"",
            &format!("auth = \"token\"\nregistry = \"{registry}\""),
        )
        .replace(
            "[admin]",
            &format!("[admin]\ntoken_file = \"{}\"", token.display()),
        );
    (text, registry)
}

/// `/api/devices` of a hub with an admin token.
fn listed(hub: &Hub, token_file: &Path) -> Value {
    let url = format!("http://{}", hub.admin);
    let file = token_file.to_str().unwrap();
    let status = telehub(&["status", "--json", "--admin", &url, "--token-file", file]);
    serde_json::from_slice(&status.stdout).unwrap()
}

fn found<'a>(all: &'a Value, id: &str) -> &'a Value {
    let list = all["devices"].as_array().unwrap();
    let found = list.iter().find(|device| device["id"] == id);
    found.unwrap_or_else(|| panic!("no {id} in {all}"))
}

#[tokio::test]
async fn a_restart_ends_no_alarm() {
    let dir = tempfile::tempdir().unwrap();
    let text = config(dir.path(), free_port(), "").replace(
        "[devices]",
        "[devices]\nping_interval = \"1s\"\nping_timeout = \"1s\"",
    );
    let text = text.replace("[admin]", "[admin]\ndevice_metrics = true");
    let hub = Hub::start(dir.path(), &text).await;
    // One goes without a word, one says goodbye, one is here to the end.
    let lost = Device::connect(hub.address, "lost").await;
    let mut left = Device::connect(hub.address, "left").await;
    left.hello("s").await;
    left.close().await;
    until("the end", || state(&hub, "lost") == "offline ping timeout").await;
    drop(lost);
    until("the goodbye", || state(&hub, "left") == "offline closed").await;
    let mut stays = Device::connect(hub.address, "stays").await;
    stays.hello("s").await;
    stays.data(1).await;
    stays.acked(1).await;
    let before = device(&hub, "lost").unwrap();
    assert_eq!(
        (&before["lost"], &before["acknowledged"]),
        (&true.into(), &false.into())
    );
    assert_eq!(hub.status("/devices/lost"), 1);
    assert!(hub.stop().await.success());
    drop(stays);

    let hub = Hub::start(dir.path(), &text).await;
    let after = device(&hub, "lost").unwrap();
    assert_eq!(state(&hub, "lost"), "offline ping timeout");
    assert_eq!(after["lost"], true);
    let apart = |key: &str| (after[key].as_f64().unwrap() - before[key].as_f64().unwrap()).abs();
    assert!(
        apart("since") < 1.0 && apart("last_seen") < 1.0,
        "{before} {after}"
    );
    assert_eq!(hub.status("/devices/lost"), 1);
    assert_eq!(device(&hub, "left").unwrap()["lost"], false);
    assert_eq!(state(&hub, "stays"), "unseen hub restarted");
    let stays = device(&hub, "stays").unwrap();
    assert!(stays["last_reading"].is_f64(), "{stays}");
    assert_eq!(hub.status("/devices/unseen"), 1);
    let (_, metrics) = hub.get("/metrics");
    for line in [
        "telehub_devices_lost 1",
        "telehub_devices_unseen 1",
        "telehub_devices_silent 0",
        "telehub_device_lost{device=\"lost\"} 1",
        "telehub_device_silent{device=\"left\"} 0",
    ] {
        assert!(
            metrics.contains(&format!("\n{line}\n")),
            "{line}: {metrics}"
        );
    }

    // Who comes back is well again.
    let mut back = Device::connect(hub.address, "lost").await;
    back.hello("s").await;
    until("nobody lost", || hub.status("/devices/lost") == 0).await;
    assert_eq!(state(&hub, "lost"), "online connected");
    assert!(hub.stop().await.success());
}

#[tokio::test]
async fn a_device_of_the_registry_is_expected_and_its_refusals_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let (text, registry) = guarded(dir.path());
    let token = dir.path().join("token");
    for id in ["barn-1", "barn-2"] {
        let added = telehub(&["device", "add", id, "--registry", &registry]);
        assert!(added.status.success(), "{added:?}");
        assert_eq!(stderr(&added), format!("wrote {registry}\n"));
    }
    let hub = Hub::start(dir.path(), &text).await;
    let all = listed(&hub, &token);
    assert_eq!(all["status"]["devices"]["unseen"], 2, "{all}");
    assert_eq!(all["status"]["devices"]["known"], 2, "{all}");
    let unseen = found(&all, "barn-1");
    assert_eq!(unseen["state"], "unseen");
    assert_eq!(unseen["registered"], true);
    assert_eq!(unseen["last_seen"], Value::Null);
    // One that never came is no alarm.
    assert_eq!(all["status"]["devices"]["lost"], 0);

    assert!(Device::try_connect(hub.address, "barn-1").await.is_none());
    assert!(Device::try_connect(hub.address, "nobody").await.is_none());
    let all = listed(&hub, &token);
    let refused = &found(&all, "barn-1")["refused"];
    assert!(
        refused["why"].as_str().unwrap().contains("Bearer"),
        "{refused}"
    );
    assert_eq!(refused["remote"], "127.0.0.1");
    assert_eq!(found(&all, "barn-2")["refused"], Value::Null);
    assert_eq!(
        all["devices"].as_array().unwrap().len(),
        2,
        "nobody is made known by trying"
    );

    // What is taken out of the registry is expected no longer.
    assert!(
        telehub(&["device", "remove", "barn-2", "--registry", &registry])
            .status
            .success()
    );
    until("the end of the expectation", || {
        listed(&hub, &token)["status"]["devices"]["known"] == 1
    })
    .await;
    assert!(hub.stop().await.success());
}

#[tokio::test]
async fn a_connected_device_that_sends_less_than_is_expected_is_an_alarm() {
    let dir = tempfile::tempdir().unwrap();
    let registry = dir.path().join("devices.toml");
    std::fs::write(&registry, "").unwrap();
    let (text, registry) = guarded(dir.path());
    let token_file = dir.path().join("token");
    let added = telehub(&[
        "device",
        "add",
        "cow",
        "--expect",
        "500ms",
        "--registry",
        &registry,
    ]);
    let token = stdout(&added).trim().to_owned();
    let hub = Hub::start(dir.path(), &text).await;
    let mut cow = Device::connect_with(hub.address, "cow", &token).await;
    cow.hello("s").await;
    cow.data(1).await;
    cow.acked(1).await;
    let cow_says = |all: &Value, key: &str| found(all, "cow")[key].clone();
    until("the alarm", || {
        let all = listed(&hub, &token_file);
        cow_says(&all, "silent") == true && all["status"]["devices"]["silent"] == 1
    })
    .await;
    let set = telehub(&[
        "device",
        "set",
        "cow",
        "--expect",
        "1h",
        "--registry",
        &registry,
    ]);
    assert!(set.status.success(), "{set:?}");
    until("the end of the alarm", || {
        let all = listed(&hub, &token_file);
        cow_says(&all, "silent") == false && cow_says(&all, "expect") == 3_600.0
    })
    .await;
    // Its connection has outlived the change.
    assert_eq!(cow_says(&listed(&hub, &token_file), "state"), "online");
    assert!(hub.stop().await.success());
}

#[tokio::test]
async fn the_operator_ends_an_alarm_from_the_command_line_and_a_restart_keeps_that() {
    let dir = tempfile::tempdir().unwrap();
    let (text, registry) = guarded(dir.path());
    let text = text.replace(
        "[devices]",
        "[devices]\nping_interval = \"1s\"\nping_timeout = \"1s\"",
    );
    let token_file = dir.path().join("token");
    let file = token_file.to_str().unwrap();
    let token = stdout(&telehub(&["device", "add", "cow", "--registry", &registry]));
    let hub = Hub::start(dir.path(), &text).await;
    let url = format!("http://{}", hub.admin);
    let cow = Device::connect_with(hub.address, "cow", token.trim()).await;
    let lost = |hub: &Hub| listed(hub, &token_file)["status"]["devices"]["lost"] == 1;
    until("the alarm", || lost(&hub)).await;
    drop(cow);
    let without = telehub(&["device", "acknowledge", "cow", "--admin", &url]);
    assert_eq!(without.status.code(), Some(1));
    assert!(stderr(&without).contains("--token-file"), "{without:?}");
    let address = ["--admin", &url, "--token-file", file];
    let acknowledge = [&["device", "acknowledge", "cow"][..], &address].concat();
    let done = telehub(&acknowledge);
    assert!(done.status.success(), "{done:?}");
    assert!(!lost(&hub));
    assert!(hub.stop().await.success());

    let hub = Hub::start(dir.path(), &text).await;
    let all = listed(&hub, &token_file);
    assert_eq!(found(&all, "cow")["acknowledged"], true, "{all}");
    assert_eq!(all["status"]["devices"]["lost"], 0, "{all}");
    let url = format!("http://{}", hub.admin);
    let address = ["--admin", &url, "--token-file", file];
    let none = telehub(&[&["device", "forget", "pig"][..], &address].concat());
    assert!(
        stderr(&none).contains("no device of this id is known"),
        "{none:?}"
    );
    assert!(
        telehub(&[&["device", "forget", "cow"][..], &address].concat())
            .status
            .success()
    );
    let all = listed(&hub, &token_file);
    assert_eq!(
        found(&all, "cow")["state"],
        "unseen",
        "it is in the registry"
    );
    assert_eq!(found(&all, "cow")["last_seen"], Value::Null);
    assert!(hub.stop().await.success());
}

#[tokio::test]
async fn a_new_token_leaves_the_old_one_good_for_a_while_and_the_connection_alone() {
    let dir = tempfile::tempdir().unwrap();
    let (text, registry) = guarded(dir.path());
    let old = stdout(&telehub(&["device", "add", "cow", "--registry", &registry]));
    let hub = Hub::start(dir.path(), &text).await;
    let mut cow = Device::connect_with(hub.address, "cow", old.trim()).await;
    cow.hello("s").await;
    let new = stdout(&telehub(&[
        "device",
        "rotate",
        "cow",
        "--registry",
        &registry,
    ]));
    assert_ne!(old, new);
    let mut seq = 0;
    loop {
        seq += 1;
        cow.data(seq).await;
        cow.acked(seq).await;
        if Device::try_connect_with(hub.address, "other", new.trim())
            .await
            .is_err_and(|status| status == 403)
        {
            break;
        }
    }
    // The hub has followed. Who comes with the old one is let in, and takes the other's place.
    let mut again = Device::connect_with(hub.address, "cow", old.trim()).await;
    again.hello("s").await;
    assert_eq!(cow.close_code().await, 4001);
    let newest = stdout(&telehub(&[
        "device",
        "rotate",
        "cow",
        "--keep",
        "0s",
        "--registry",
        &registry,
    ]));
    assert_eq!(again.close_code().await, 4002);
    Device::connect_with(hub.address, "cow", newest.trim())
        .await
        .hello("s")
        .await;
    assert!(hub.stop().await.success());
}

#[test]
fn many_devices_are_added_at_once_or_none() {
    let dir = tempfile::tempdir().unwrap();
    let registry = dir.path().join("devices.toml");
    let registry = registry.to_str().unwrap();
    let csv = dir.path().join("ids.csv");
    let from = csv.to_str().unwrap();
    let add = |text: &str| {
        std::fs::write(&csv, text).unwrap();
        telehub(&["device", "add", "--from", from, "--registry", registry])
    };
    let added = add("\u{feff}id;place\r\nbarn-1;north\r\n\r\n# later\r\n\"barn-2\";south\r\n");
    assert!(added.status.success(), "{added:?}");
    let lines = stdout(&added);
    let lines: Vec<_> = lines.lines().collect();
    assert_eq!(lines.len(), 2, "{lines:?}");
    for (line, id) in lines.iter().zip(["barn-1", "barn-2"]) {
        let (name, token) = line.split_once(',').unwrap();
        assert_eq!((name, token.len()), (id, 43));
    }
    for (text, why) in [
        ("barn-3\nbarn 4\n", ":2: \"barn 4\" is no id"),
        ("barn-3\nbarn-3\n", "barn-3 is there twice"),
        ("barn-3\nbarn-1\n", "device rotate barn-1"),
        ("id\n", "has no ids"),
    ] {
        let refused = add(text);
        assert_eq!(refused.status.code(), Some(1));
        assert!(stderr(&refused).contains(why), "{refused:?}");
        assert!(stdout(&refused).is_empty());
    }
    let list = stdout(&telehub(&["device", "list", "--registry", registry]));
    assert_eq!(list.lines().count(), 2, "{list}");
}

#[tokio::test]
async fn who_may_open_the_socket_of_the_machine_needs_neither_listener_nor_token() {
    let dir = tempfile::tempdir().unwrap();
    let (text, registry) = guarded(dir.path());
    let token = stdout(&telehub(&["device", "add", "cow", "--registry", &registry]));
    let mut command = daemon::command();
    command.env("RUNTIME_DIRECTORY", dir.path());
    let hub = Hub::start_by(&mut command, dir.path(), &text, |_| {}).await;
    let socket = dir.path().join("admin.sock");
    let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(&socket).unwrap());
    assert_eq!(mode & 0o777, 0o660);
    let url = format!("unix:{}", socket.display());
    let status = telehub(&["status", "--json", "-a", &url]);
    let all: Value = serde_json::from_slice(&status.stdout).unwrap();
    assert_eq!(found(&all, "cow")["state"], "unseen");
    let mut cow = Device::connect_with(hub.address, "cow", token.trim()).await;
    cow.hello("s").await;
    cow.close().await;
    until("the change", || {
        telehub(&["device", "acknowledge", "cow", "-a", &url])
            .status
            .success()
    })
    .await;
    // By the other door the token is asked for as ever.
    let without = telehub(&["status", "-a", &format!("http://{}", hub.admin)]);
    assert!(stderr(&without).contains("--token-file"), "{without:?}");
    assert!(hub.stop().await.success());
}

#[tokio::test]
async fn a_spool_that_cannot_be_used_is_told_before_it_is_needed_and_when_it_can_be_again() {
    let dir = tempfile::tempdir().unwrap();
    // Where root cannot make a directory either.
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    let spool = file.join("spool");
    let usual = dir.path().join("spool");
    let text = config(dir.path(), free_port(), "").replace(
        &format!("path = \"{}\"", usual.display()),
        &format!("path = \"{}\"", spool.display()),
    );
    let hub = Hub::start(dir.path(), &text).await;
    let named = |text: &str| text.contains(spool.to_str().unwrap());
    until("the state", || hub.status("/spool/state") == "unusable").await;
    assert!(named(hub.status("/spool/reason").as_str().unwrap()));
    let (code, body) = hub.get("/healthz");
    assert_eq!(code, 503);
    assert!(named(&body), "{body}");
    let (_, metrics) = hub.get("/metrics");
    assert!(metrics.contains("\ntelehub_spool_state{state=\"unusable\"} 1\n"));
    let complaints = hub.complaints();
    let told = complaints
        .iter()
        .any(|line| line.contains("ERROR") && named(line));
    assert!(told, "{complaints:#?}");
    let status = telehub(&["status", "--admin", &format!("http://{}", hub.admin)]);
    assert_eq!(status.status.code(), Some(1));
    assert!(named(&stderr(&status)), "{status:?}");
    let toml = dir.path().join("telehub.toml");
    let check = telehub(&["check", "--config", toml.to_str().unwrap()]);
    assert_eq!(check.status.code(), Some(1));
    assert!(named(&stderr(&check)), "{check:?}");
    // Somebody mends it.
    std::fs::remove_file(&file).unwrap();
    until("the end of the trouble", || {
        hub.status("/spool/state") == "ok"
    })
    .await;
    assert_eq!(hub.get("/healthz").0, 200);
    assert!(hub.stop().await.success());
}
