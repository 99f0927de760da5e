//! The admin listener beside the rest of the daemon: apart from the device port, and without a
//! cost while nobody looks.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "support/daemon.rs"]
mod daemon;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use daemon::{Device, Hub, Mosquitto, config, free_port, until};

#[tokio::test]
async fn the_device_port_answers_nothing_of_the_admin_listener() {
    let dir = tempfile::tempdir().unwrap();
    let hub = Hub::start(dir.path(), &config(dir.path(), free_port(), "")).await;
    for path in [
        "/",
        "/healthz",
        "/readyz",
        "/metrics",
        "/api/status",
        "/api/devices",
        "/api/devices/cow",
        "/api/events",
    ] {
        let mut stream = TcpStream::connect(hub.address).unwrap();
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 404 "), "{path}: {answer}");
    }
    // Nor the other way round.
    assert!(Device::try_connect(hub.admin, "cow").await.is_none());
}

/// How often the threads of a process have gone to sleep, which is how often they were woken.
fn wakes(pid: u32) -> u64 {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let of_thread = |thread: std::io::Result<std::fs::DirEntry>| {
        let status =
            std::fs::read_to_string(thread.unwrap().path().join("status")).unwrap_or_default();
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        line.map_or(0, |number| number.trim().parse().unwrap())
    };
    threads.map(of_thread).sum()
}

/// How often the hub is woken in six seconds: by its own timers, one of which looks every second
/// whether the registry has changed. The least of some tries, because a busy machine adds to it.
async fn woken(hub: &Hub, tries: u32) -> u64 {
    let mut least = u64::MAX;
    for _ in 0..tries {
        let before = wakes(hub.pid());
        tokio::time::sleep(Duration::from_secs(6)).await;
        least = least.min(wakes(hub.pid()) - before);
    }
    least
}

#[tokio::test]
async fn an_idle_hub_is_woken_no_more_often_after_somebody_has_looked_than_before() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Mosquitto::start(dir.path());
    let hub = Hub::start(dir.path(), &config(dir.path(), broker.port, "")).await;
    hub.until_uplink("connected").await;
    let before = woken(&hub, 2).await;

    let mut reader = TcpStream::connect(hub.admin).unwrap();
    reader
        .write_all(b"GET /api/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .unwrap();
    until("the reader", || {
        hub.get("/metrics")
            .1
            .contains("\ntelehub_event_readers 1\n")
    })
    .await;
    // A look for changes every second: that much can be seen, sooner or later.
    let mut watched = woken(&hub, 1).await;
    for _ in 0..5 {
        watched = watched.max(woken(&hub, 1).await);
        if watched >= before + 5 {
            break;
        }
    }
    assert!(
        watched >= before + 5,
        "{watched} times while watched, {before} before"
    );
    drop(reader);
    until("its end", || {
        hub.get("/metrics")
            .1
            .contains("\ntelehub_event_readers 0\n")
    })
    .await;
    let mut after = u64::MAX;
    for _ in 0..5 {
        after = after.min(woken(&hub, 1).await);
        if after <= before + 3 {
            return;
        }
    }
    panic!("woken {before} times before, and {after} times after");
}
