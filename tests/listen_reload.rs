//! SIGHUP: what can change while the hub runs is read again.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "support/daemon.rs"]
mod daemon;

use daemon::{Device, Hub, config, until};

#[tokio::test]
async fn sighup_reads_the_registry_again_and_ends_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let registry = dir.path().join("devices.toml");
    std::fs::write(&registry, "").unwrap();
    // No broker there: not what this is about.
    let text = config(dir.path(), 1, "").replace(
        "auth = \"open\"",
        &format!("auth = \"token\"\nregistry = \"{}\"", registry.display()),
    );
    let hub = Hub::start(dir.path(), &text).await;
    let read = || {
        let log = hub.log();
        let lines = log
            .iter()
            .filter(|line| line.contains("device registry read"));
        lines.count()
    };
    assert_eq!(read(), 1);
    for times in [2, 3] {
        hub.signal("HUP");
        until("the registry is read again", || read() == times).await;
    }
    assert!(Device::try_connect(hub.address, "a").await.is_none());
    assert_eq!(hub.get("/readyz").0, 200);
    assert!(hub.stop().await.success());
}
