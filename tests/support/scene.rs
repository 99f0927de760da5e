//! A hub with live devices and a broker, its spool on a disk that gets into trouble.
#![allow(dead_code, clippy::unwrap_used, missing_docs, unreachable_pub)]

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::daemon::{Consumer, Hub, Mosquitto, Sensor, config, until};
use crate::disc::Disc;

/// Long enough for a device to hear an ack that must not come.
pub const A_WHILE: Duration = Duration::from_millis(1_500);

pub struct Scene {
    // In this order: the hub lets go of the disk before it is unmounted.
    pub hub: Hub,
    pub sensors: Vec<Sensor>,
    pub consumer: Consumer,
    pub broker: Mosquitto,
    disc: Option<Disc>,
    pub dir: tempfile::TempDir,
}

impl Scene {
    /// On a disk of its own.
    pub async fn new(extra: &str) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let disc = Disc::new(dir.path(), 64)?;
        let path = disc.path.clone();
        let mut command = crate::daemon::command();
        Some(Self::on(dir, Some(disc), &path, &mut command, extra).await)
    }

    /// In a directory, by a command. `extra`: keys of `[spool]`.
    pub async fn on(
        dir: tempfile::TempDir,
        disc: Option<Disc>,
        path: &Path,
        command: &mut Command,
        extra: &str,
    ) -> Self {
        let broker = Mosquitto::start(dir.path());
        let consumer = Consumer::start(broker.port).await;
        let text = config(path, broker.port, "").replace("[admin]", &format!("{extra}\n[admin]"));
        let hub = Hub::start_by(command, dir.path(), &text, |_| {}).await;
        hub.until_uplink("connected").await;
        let start = |n| Sensor::start(hub.address, &format!("s-{n}"), Duration::from_millis(5));
        let sensors = (0..3).map(start).collect();
        let scene = Self {
            hub,
            sensors,
            consumer,
            broker,
            disc,
            dir,
        };
        scene.more_acks("live acks").await;
        scene
    }

    pub fn disc(&self) -> &Disc {
        self.disc.as_ref().expect("made with one")
    }

    pub fn acked(&self) -> Vec<u64> {
        self.sensors.iter().map(Sensor::acked).collect()
    }

    /// Every device hears of more.
    pub async fn more_acks(&self, what: &str) {
        let before = self.acked();
        let more = || {
            self.acked()
                .iter()
                .zip(&before)
                .all(|(now, before)| *now > before + 20)
        };
        until(what, more).await;
    }

    /// The hub lives, says so everywhere with this reason, and acks nothing more.
    pub async fn fails(&self, state: &str, reason: &str) {
        until("the report of a disk that fails", || {
            self.hub.get("/healthz").0 == 503
        })
        .await;
        let body = self.hub.get("/healthz").1;
        assert!(body.contains(reason), "{body}");
        assert_eq!(self.hub.status("/spool/state"), state);
        let complaints = self.hub.complaints();
        let told = |line: &String| line.contains("ERROR") && line.contains("not acked");
        assert!(complaints.iter().any(told), "{complaints:?}");
        self.acks_nothing_more().await;
    }

    /// The same once what is on its way has come.
    pub async fn acks_nothing_more(&self) {
        tokio::time::sleep(A_WHILE).await;
        self.acks_nothing().await;
    }

    pub async fn acks_nothing(&self) {
        let before = self.acked();
        tokio::time::sleep(A_WHILE).await;
        assert_eq!(self.acked(), before, "acked what is not safe");
    }

    pub async fn well(&self) {
        until("health", || self.hub.get("/healthz").0 == 200).await;
    }

    /// Everything that was ever acked is on the broker, and nothing was given up.
    pub async fn ends(mut self) {
        self.sensors.iter().for_each(Sensor::rest);
        let all = || self.sensors.iter().all(|sensor| sensor.unacked() == 0);
        until("every ack", all).await;
        self.hub.until_drained().await;
        let acked: Vec<_> = self
            .sensors
            .iter()
            .flat_map(Sensor::acked_batches)
            .collect();
        let here = || self.consumer.batches().len() >= acked.len();
        until("every acked batch on the broker", here).await;
        let batches = self.consumer.batches();
        for id in acked {
            assert!(
                batches.contains_key(&id),
                "{id:?} was acked and never arrived"
            );
        }
        let gaps: Vec<_> = self
            .consumer
            .got()
            .into_iter()
            .filter(|got| got.kind() == "gap")
            .collect();
        assert!(gaps.is_empty(), "{gaps:?}");
        self.sensors.clear();
        assert!(self.hub.stop().await.success());
    }
}
