//! What the log says: nothing alarming while all is well, each failure once.
#![allow(clippy::unwrap_used, missing_docs, unreachable_pub)]

#[allow(dead_code)]
#[path = "support/broker.rs"]
mod broker;
#[path = "support/log.rs"]
mod log;
#[allow(dead_code)]
#[path = "support/uplink_rig.rs"]
mod uplink_rig;

use broker::{Broker, soon};
use log::Log;
use rumqttc::{ConnectReturnCode, Packet};
use tracing::subscriber::DefaultGuard;
use uplink_rig::{Rig, batch_of, settings};

impl Log {
    /// Everything that this thread's tasks log.
    fn start() -> (Self, DefaultGuard) {
        let log = Self::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::TRACE)
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .finish();
        (log, tracing::subscriber::set_default(subscriber))
    }

    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }

    fn count(&self, what: &str) -> usize {
        self.text()
            .lines()
            .filter(|line| line.contains(what))
            .count()
    }
}

#[tokio::test]
async fn a_healthy_run_logs_no_warning_and_no_secret() {
    let (log, _guard) = Log::start();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("password");
    std::fs::write(&file, "opensesame\n").unwrap();
    let broker = Broker::start().await;
    let mut settings = settings(broker.port);
    settings.broker.username = Some("barn".into());
    settings.broker.password_file = Some(file);
    let mut rig = Rig::start(settings);
    let mut peer = broker.welcome_hub().await;
    let epoch = rig.up().await;
    for token in 0..20 {
        let frame = br#"[{"n":"payload-of-20","v":1}]"#.to_vec();
        rig.submit_item(epoch, token, batch_of(token, frame)).await;
        let publish = peer.publish().await;
        peer.puback(publish.pkid).await;
        assert_eq!(rig.acked().await, token);
    }
    let broker = tokio::spawn(async move { peer.acknowledge_until_disconnect().await });
    rig.finish().await;
    assert!(broker.await.unwrap());
    assert_eq!(log.count("WARN") + log.count("ERROR"), 0, "{}", log.text());
    assert_eq!(log.count("uplink connected"), 1, "{}", log.text());
    assert_eq!(log.count("uplink disconnected"), 1, "{}", log.text());
    assert_eq!(
        log.count("opensesame") + log.count("payload-of-20"),
        0,
        "{}",
        log.text()
    );
}

#[tokio::test]
async fn each_reason_for_not_connecting_is_logged_once() {
    let (log, _guard) = Log::start();
    let broker = Broker::start().await;
    let mut rig = Rig::start(settings(broker.port));
    for _ in 0..3 {
        for code in [
            ConnectReturnCode::NotAuthorized,
            ConnectReturnCode::ServiceUnavailable,
        ] {
            let mut peer = broker.accept().await;
            peer.connect().await;
            peer.connack(code, false).await;
            rig.down().await;
        }
    }
    // Someone must act; nobody must.
    assert_eq!(
        (log.count("ERROR"), log.count("WARN")),
        (1, 1),
        "{}",
        log.text()
    );
    // A success in between makes it news again.
    let peer = broker.welcome_hub().await;
    rig.up().await;
    drop(peer);
    rig.down().await;
    assert_eq!(log.count("uplink lost; data goes to the spool"), 1);
    let mut peer = broker.accept().await;
    peer.connect().await;
    peer.connack(ConnectReturnCode::NotAuthorized, false).await;
    rig.down().await;
    assert_eq!(
        (log.count("ERROR"), log.count("WARN")),
        (2, 2),
        "{}",
        log.text()
    );
}

#[tokio::test]
async fn the_disconnect_of_a_stop_is_read_by_the_broker() {
    let broker = Broker::start().await;
    let mut rig = Rig::start(settings(broker.port));
    let mut peer = broker.welcome_hub().await;
    rig.up().await;
    let reader = tokio::spawn(async move {
        let offline = peer.publish().await;
        peer.puback(offline.pkid).await;
        let last = peer.read().await;
        // Only now does the broker close.
        drop(peer);
        last
    });
    rig.finish().await;
    let last = soon("the last packet", reader).await.unwrap();
    assert!(matches!(last, Some(Packet::Disconnect)), "{last:?}");
}
