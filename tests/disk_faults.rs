//! The whole daemon on a device that answers EIO or ENOSPC to writes and to syncs, for a while.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "support/daemon.rs"]
mod daemon;
#[path = "support/disc.rs"]
mod disc;
#[path = "support/preload.rs"]
mod preload;
#[path = "support/scene.rs"]
mod scene;

use std::collections::BTreeSet;
use std::path::PathBuf;

use scene::Scene;

const EIO: i32 = 5;
const ENOSPC: i32 = 28;

struct Faults {
    switch: PathBuf,
    log: PathBuf,
}

impl Faults {
    fn begin(&self, kind: &str, errno: i32) {
        let whole = self.switch.with_extension("new");
        std::fs::write(&whole, format!("{kind} {errno}\n")).unwrap();
        std::fs::rename(whole, &self.switch).unwrap();
    }

    fn end(&self) {
        std::fs::remove_file(&self.switch).unwrap();
    }

    /// Databases whose sync has failed, and those that were synced after that.
    fn syncs(&self) -> (BTreeSet<String>, BTreeSet<String>) {
        let (mut failed, mut again) = (BTreeSet::new(), BTreeSet::new());
        for line in std::fs::read_to_string(&self.log).unwrap().lines() {
            let (result, path) = line.split_once(' ').unwrap();
            if result == "failed" {
                failed.insert(path.to_owned());
            } else if failed.contains(path) {
                again.insert(path.to_owned());
            }
        }
        (failed, again)
    }
}

async fn scene() -> Option<(Scene, Faults)> {
    let dir = tempfile::tempdir().unwrap();
    let library = preload::shim(dir.path(), "faulty")?;
    let path = dir.path().canonicalize().unwrap();
    let faults = Faults {
        switch: path.join("faults"),
        log: path.join("syncs"),
    };
    let mut command = daemon::command();
    command
        .env("LD_PRELOAD", library)
        .env("FAULTS", &faults.switch)
        .env("FAULTS_LOG", &faults.log)
        .env("FAULTS_BELOW", path.join("spool"));
    let scene = Scene::on(dir, None, &path, &mut command, "").await;
    Some((scene, faults))
}

/// What the hub does with a device whose `kind` of calls fails with `errno`.
async fn endures(kind: &str, errno: i32, state: &str, reason: &str) {
    let Some((mut scene, faults)) = scene().await else {
        return;
    };
    scene.broker.stop();
    scene.more_acks("acks from disk").await;
    faults.begin(kind, errno);
    scene.fails(state, reason).await;
    scene.broker.start_again();
    scene
        .more_acks("live acks beside a device that fails")
        .await;
    assert_eq!(scene.hub.get("/healthz").0, 503, "it still fails");
    scene.broker.stop();
    scene.acks_nothing_more().await;
    faults.end();
    scene.more_acks("acks from disk again").await;
    scene.well().await;
    if kind == "sync" {
        let (failed, again) = faults.syncs();
        assert!(!failed.is_empty());
        assert_eq!(again, BTreeSet::new(), "a failed sync proves nothing later");
    }
    scene.broker.start_again();
    scene.ends().await;
}

#[tokio::test]
async fn writes_that_fail_are_told_cost_acks_and_nothing_else() {
    endures("write", EIO, "failed", "os error 5").await;
}

#[tokio::test]
async fn writes_that_find_no_space_are_told_cost_acks_and_nothing_else() {
    endures("write", ENOSPC, "full", "no space left").await;
}

#[tokio::test]
async fn a_sync_that_fails_is_never_asked_again_what_was_in_doubt_is_written_anew() {
    endures("sync", EIO, "failed", "os error 5").await;
}

#[tokio::test]
async fn a_sync_that_finds_no_space_is_never_asked_again() {
    endures("sync", ENOSPC, "full", "no space left").await;
}

#[tokio::test]
async fn the_engines_own_half_of_a_sync_may_fail_as_well() {
    endures("range", EIO, "failed", "os error 5").await;
}
