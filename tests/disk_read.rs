//! A device that does not give what was stored, for a while and for good: the whole daemon with
//! `strace` answering EIO to its reads.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "support/daemon.rs"]
mod daemon;

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use daemon::{Consumer, Device, Hub, Mosquitto, config, until};

const BATCHES: u64 = 40;

/// While this lives, reads of stored data fail.
struct Deaf(Child);

impl Deaf {
    /// `None`, said loudly, without strace or the right to use it.
    fn new(hub: &Hub, spool: &Path) -> Option<Self> {
        let mut command = Command::new("strace");
        command.args(["-f", "-o", "/dev/null", "-p", &hub.pid().to_string()]);
        for entry in std::fs::read_dir(spool).unwrap() {
            let db = entry.unwrap().path().join("db");
            if db.exists() {
                command.arg("-P").arg(db);
            }
        }
        command.args(["-e", "inject=read,pread64:error=EIO"]);
        let child = command.stderr(Stdio::piped()).spawn();
        if let Ok(mut child) = child {
            let lines = BufReader::new(child.stderr.take().unwrap()).lines();
            if lines
                .map_while(Result::ok)
                .any(|line| line.contains("attached"))
            {
                return Some(Self(child));
            }
        }
        // Past the test harness, which swallows what passing tests print.
        let _ = writeln!(
            std::io::stderr(),
            "\nNOT TESTED: a device that does not read needs strace and ptrace\n"
        );
        None
    }
}

impl Drop for Deaf {
    /// SIGTERM: it lets go of the hub first.
    fn drop(&mut self) {
        let _ = Command::new("kill").arg(self.0.id().to_string()).status();
        let _ = self.0.wait();
    }
}

struct Scene {
    hub: Hub,
    deaf: Deaf,
    consumer: Consumer,
}

/// A hub that has found batches in its spool, cannot read them, and has a broker to send them to.
async fn scene(dir: &Path) -> Option<(Scene, Mosquitto)> {
    let mut broker = Mosquitto::start(dir);
    let consumer = Consumer::start(broker.port).await;
    broker.stop();
    let text = config(dir, broker.port, "");
    let hub = Hub::start(dir, &text).await;
    let mut device = Device::connect(hub.address, "d").await;
    device.hello("s").await;
    for seq in 1..=BATCHES {
        device.data(seq).await;
        device.acked(seq).await;
    }
    assert!(hub.stop().await.success());
    let hub = Hub::start(dir, &text).await;
    let deaf = Deaf::new(&hub, &dir.join("spool"))?;
    broker.start_again();
    let refused = || {
        hub.log()
            .iter()
            .any(|line| line.contains("cannot be read now"))
    };
    until("a read that fails", refused).await;
    let scene = Scene {
        hub,
        deaf,
        consumer,
    };
    Some((scene, broker))
}

fn gaps(consumer: &Consumer) -> Vec<serde_json::Value> {
    let got = consumer.got();
    let gaps = got.iter().filter(|got| got.kind() == "gap");
    gaps.map(daemon::Received::json).collect()
}

#[tokio::test]
async fn a_device_that_does_not_read_for_a_moment_costs_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let Some((scene, _broker)) = scene(dir.path()).await else {
        return;
    };
    drop(scene.deaf);
    scene.hub.until_drained().await;
    let all = || scene.consumer.batches().len() as u64 == BATCHES;
    until("every batch on the broker", all).await;
    assert!(gaps(&scene.consumer).is_empty());
    let complaints = scene.hub.complaints();
    assert!(
        !complaints.iter().any(|line| line.contains("ERROR")),
        "{complaints:?}"
    );
}

#[tokio::test]
async fn what_a_device_does_not_give_at_all_becomes_an_exact_record_and_new_data_flows() {
    let dir = tempfile::tempdir().unwrap();
    let Some((scene, _broker)) = scene(dir.path()).await else {
        return;
    };
    let mut device = Device::connect(scene.hub.address, "other").await;
    device.hello("s").await;
    device.data(1).await;
    device.acked(1).await;
    let given_up = || {
        scene
            .hub
            .log()
            .iter()
            .any(|line| line.contains("is damaged"))
    };
    until("the end of the attempts", given_up).await;
    drop(scene.deaf);
    until("the record", || !gaps(&scene.consumer).is_empty()).await;
    let gaps = gaps(&scene.consumer);
    assert_eq!(gaps.len(), 1, "{gaps:?}");
    let gap = &gaps[0];
    assert_eq!((&gap["device"], &gap["stream"]), (&"d".into(), &"s".into()));
    assert_eq!((&gap["from"], &gap["to"]), (&1.into(), &BATCHES.into()));
    assert_eq!(
        (&gap["batches"], &gap["reason"]),
        (&BATCHES.into(), &"corrupt".into())
    );
    scene.hub.until_drained().await;
    assert_eq!(scene.consumer.batches().len(), 1, "the live one");
}
