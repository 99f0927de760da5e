//! Files that belong to the hub alone: what it writes nobody else may read, and where others may write
//! it does not.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "support/daemon.rs"]
mod daemon;

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use daemon::{Device, Hub, command, config, free_port, until};

/// A hub whose broker is away.
async fn hub(dir: &Path) -> Hub {
    Hub::start(dir, &config(dir, free_port(), "")).await
}

/// Sends a batch; whether it is acked is another matter.
async fn send(hub: &Hub, stream: &str) -> Device {
    let mut device = Device::connect(hub.address, "cow").await;
    device.hello(stream).await;
    device.data(1).await;
    device
}

#[tokio::test]
async fn a_spool_that_others_may_write_is_not_used_until_it_is_put_right() {
    for mode in [0o777, 0o770, 0o1777] {
        let dir = tempfile::tempdir().unwrap();
        let spool = dir.path().join("spool");
        fs::create_dir(&spool).unwrap();
        fs::set_permissions(&spool, Permissions::from_mode(mode)).unwrap();
        let hub = hub(dir.path()).await;
        let mut device = send(&hub, "s").await;
        until("unusable", || hub.status("/spool/state") == "unusable").await;
        let (status, reason) = hub.get("/healthz");
        assert_eq!(status, 503);
        assert!(reason.contains("chmod go-w"), "{reason}");
        assert_eq!(
            fs::read_dir(&spool).unwrap().count(),
            0,
            "nothing is put there"
        );
        // The hub goes on, and takes the spool into use when it may.
        fs::set_permissions(&spool, Permissions::from_mode(0o700)).unwrap();
        device.acked(1).await;
        until("ok", || hub.status("/spool/state") == "ok").await;
    }
}

#[tokio::test]
async fn a_spool_of_another_user_is_not_used() {
    let dir = tempfile::tempdir().unwrap();
    let spool = dir.path().join("spool");
    fs::create_dir(&spool).unwrap();
    fs::set_permissions(&spool, Permissions::from_mode(0o755)).unwrap();
    if std::os::unix::fs::chown(&spool, Some(12_345), Some(12_345)).is_err() {
        // Only root can give directories away.
        return;
    }
    let hub = hub(dir.path()).await;
    let _device = send(&hub, "s").await;
    until("unusable", || hub.status("/spool/state") == "unusable").await;
    assert_eq!(fs::read_dir(&spool).unwrap().count(), 0);
    let log = hub.log().join("\n");
    assert!(log.contains("belongs to user 12345"), "{log}");
}

#[tokio::test]
async fn links_that_lie_where_the_hub_writes_lead_nowhere() {
    let dir = tempfile::tempdir().unwrap();
    let victim = dir.path().join("victim");
    fs::write(&victim, "precious").unwrap();
    let spool = dir.path().join("spool");
    fs::create_dir(&spool).unwrap();
    fs::set_permissions(&spool, Permissions::from_mode(0o700)).unwrap();
    for name in ["marks.tmp", "format.tmp", "ballast", "touched"] {
        symlink(&victim, spool.join(name)).unwrap();
    }
    let hub = hub(dir.path()).await;
    let mut device = send(&hub, "s").await;
    device.acked(1).await;
    drop(device);
    hub.stop().await;
    assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
}

fn all_files(dir: &Path, found: &mut Vec<(std::path::PathBuf, u32)>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        found.push((path.clone(), fs::symlink_metadata(&path).unwrap().mode()));
        if path.is_dir() {
            all_files(&path, found);
        }
    }
}

#[tokio::test]
async fn nothing_that_the_hub_writes_is_open_to_others_whatever_the_umask() {
    let dir = tempfile::tempdir().unwrap();
    let plain = command();
    let mut open = Command::new("sh");
    open.args(["-c", "umask 000; exec \"$0\" \"$@\""])
        .arg(plain.get_program())
        .args(plain.get_args());
    let text = config(dir.path(), free_port(), "");
    let hub = Hub::start_by(&mut open, dir.path(), &text, |_| {}).await;
    let mut device = send(&hub, "s").await;
    device.acked(1).await;
    drop(device);
    hub.stop().await;
    let spool = dir.path().join("spool");
    let mut found = vec![(spool.clone(), fs::metadata(&spool).unwrap().mode())];
    all_files(&spool, &mut found);
    assert!(found.len() > 3, "{found:?}");
    for (path, mode) in found {
        assert_eq!(mode & 0o077, 0, "{} has mode {mode:o}", path.display());
    }
}
