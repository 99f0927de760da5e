//! A spool that somebody else holds when the hub starts, and lets go of later.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "support/daemon.rs"]
mod daemon;

use std::fs::File;

use daemon::{Consumer, Device, Hub, Mosquitto, config, until};
use rustix::fs::{FlockOperation, flock};

#[tokio::test]
async fn what_was_stored_in_a_spool_that_comes_late_is_counted_once_resumed_and_drained() {
    let dir = tempfile::tempdir().unwrap();
    let mut broker = Mosquitto::start(dir.path());
    let consumer = Consumer::start(broker.port).await;
    broker.stop();
    let text = config(dir.path(), broker.port, "");
    let hub = Hub::start(dir.path(), &text).await;
    let mut device = Device::connect(hub.address, "d").await;
    device.hello("s").await;
    for seq in 1..=20 {
        device.data(seq).await;
    }
    device.acked(20).await;
    assert!(hub.stop().await.success());

    let spool = File::open(dir.path().join("spool")).unwrap();
    flock(&spool, FlockOperation::LockExclusive).unwrap();
    let hub = Hub::start(dir.path(), &text).await;
    until("the report of a spool that cannot be used", || {
        let (code, body) = hub.get("/healthz");
        code == 503 && body.contains("in use by another process")
    })
    .await;
    let mut other = Device::connect(hub.address, "other").await;
    assert_eq!(other.hello("s").await, 0);
    other.data(1).await;
    assert_eq!(hub.status("/spool/batches"), 0);

    drop(spool);
    other.acked(1).await;
    until("the spool", || hub.get("/healthz").0 == 200).await;
    assert_eq!(hub.status("/spool/batches"), 21);
    let mut device = Device::connect(hub.address, "d").await;
    assert_eq!(device.hello("s").await, 20);

    broker.start_again();
    hub.until_drained().await;
    until("every batch on the broker", || {
        consumer.batches().len() == 21
    })
    .await;
    assert!(consumer.batches().values().all(|times| *times == 1));
    assert!(hub.stop().await.success());
}

#[tokio::test]
async fn a_spool_that_comes_late_is_found_without_a_batch_to_store() {
    let dir = tempfile::tempdir().unwrap();
    let text = config(dir.path(), daemon::free_port(), "");
    let hub = Hub::start(dir.path(), &text).await;
    let mut device = Device::connect(hub.address, "d").await;
    device.hello("s").await;
    device.data(1).await;
    device.acked(1).await;
    hub.kill();

    let spool = File::open(dir.path().join("spool")).unwrap();
    flock(&spool, FlockOperation::LockExclusive).unwrap();
    let hub = Hub::start(dir.path(), &text).await;
    until("the report", || hub.get("/healthz").0 == 503).await;
    drop(spool);
    until("the spool", || hub.get("/healthz").0 == 200).await;
    assert_eq!(hub.status("/spool/batches"), 1);
    assert!(hub.stop().await.success());
}

#[tokio::test]
async fn of_two_hubs_with_one_spool_the_second_says_so_while_all_is_well() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Mosquitto::start(dir.path());
    let text = config(dir.path(), broker.port, "");
    assert!(!dir.path().join("spool").exists());
    let first = Hub::start(dir.path(), &text).await;
    until("the directory", || dir.path().join("spool").exists()).await;
    assert_eq!(first.get("/healthz").0, 200);
    let second = Hub::start(dir.path(), &text.replace("id = \"barn\"", "id = \"shed\"")).await;
    until("the report of a spool that is in use", || {
        let (code, body) = second.get("/healthz");
        code == 503 && body.contains("in use by another process, a second hub maybe")
    })
    .await;
    assert_eq!(second.status("/spool/state"), "unusable");
    assert_eq!(first.get("/healthz").0, 200);
    assert!(first.stop().await.success());
    until("the spool", || second.get("/healthz").0 == 200).await;
    assert!(second.stop().await.success());
}
