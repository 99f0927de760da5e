//! `telehub unpack` beside real brokers: what a hub sends in packs arrives on the usual topics, all of it,
//! whoever is killed in between.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "support/daemon.rs"]
mod daemon;
#[path = "support/packs.rs"]
mod packs;

use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use daemon::{Consumer, Hub, Mosquitto, Sensor, command, config, until};
use rumqttc::{AsyncClient, MqttOptions, QoS};

const EVERY: Duration = Duration::from_millis(15);

/// The process, and what it has logged.
struct Unpack {
    child: Child,
    log: Arc<Mutex<String>>,
}

impl Unpack {
    fn start(arguments: &[&str]) -> Self {
        let mut child = command()
            .arg("unpack")
            .args(arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = Arc::new(Mutex::new(String::new()));
        let (into, mut stderr) = (log.clone(), child.stderr.take().unwrap());
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(read @ 1..) = std::io::Read::read(&mut stderr, &mut buffer) {
                let text = String::from_utf8_lossy(&buffer[..read]);
                into.lock().unwrap().push_str(&text);
            }
        });
        Self { child, log }
    }

    async fn until_it_says(&self, text: &str) {
        until(&format!("{text:?} in the log"), || self.says(text)).await;
    }

    fn says(&self, text: &str) -> bool {
        self.log.lock().unwrap().contains(text)
    }

    /// SIGKILL.
    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM, and what it logs last.
    async fn stop(mut self) -> String {
        let pid = self.child.id().to_string();
        let sent = std::process::Command::new("kill")
            .args(["-TERM", &pid])
            .status();
        assert!(sent.unwrap().success());
        assert!(self.child.wait().unwrap().success());
        self.until_it_says("stopped").await;
        self.log.lock().unwrap().clone()
    }
}

impl Drop for Unpack {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn url(broker: &Mosquitto) -> String {
    format!("mqtt://127.0.0.1:{}", broker.port)
}

fn packing(dir: &Path, port: u16) -> String {
    let lines = "pack = \"16KiB\"\npack_delay = \"100ms\"\n";
    config(dir, port, lines)
}

/// Every batch that a sensor has an ack for came on its usual topic.
async fn all_there(consumer: &Consumer, sensors: &[&Sensor]) {
    sensors.iter().for_each(|sensor| sensor.rest());
    until("all acks", || {
        sensors.iter().all(|sensor| sensor.unacked() == 0)
    })
    .await;
    until("every acked batch", || {
        let batches = consumer.batches();
        sensors.iter().all(|sensor| {
            let of = batches.keys().filter(|(device, ..)| *device == sensor.id);
            of.count() as u64 == sensor.acked()
        })
    })
    .await;
}

#[tokio::test]
async fn what_comes_in_packs_arrives_on_the_usual_topics_in_both_versions() {
    for version in ["5", "3.1.1"] {
        let dir = tempfile::tempdir().unwrap();
        let mut broker = Mosquitto::start(dir.path());
        let consumer = Consumer::start(broker.port).await;
        let file = dir.path().join("unpack.toml");
        let text = format!(
            "[uplink]\nurl = \"{}\"\nversion = \"{version}\"\n",
            url(&broker)
        );
        std::fs::write(&file, text).unwrap();
        let unpack = Unpack::start(&[file.to_str().unwrap()]);
        unpack.until_it_says("unpacking").await;
        let hub = Hub::start(dir.path(), &packing(dir.path(), broker.port)).await;
        hub.until_uplink("connected").await;
        let sensors: Vec<_> = (0..3)
            .map(|n| Sensor::start(hub.address, &format!("s{n}"), EVERY))
            .collect();
        let sensors: Vec<_> = sensors.iter().collect();
        until("live acks", || sensors[0].acked() > 30).await;
        broker.stop();
        hub.until_uplink("down").await;
        let before = sensors[0].acked();
        until("acks by the disk", || sensors[0].acked() > before + 30).await;
        broker.start_again();
        hub.until_uplink("connected").await;
        hub.until_drained().await;
        all_there(&consumer, &sensors).await;
        let kinds: Vec<_> = consumer
            .got()
            .iter()
            .map(|one| one.kind().to_owned())
            .collect();
        for kind in ["data", "history", "packed"] {
            assert!(kinds.iter().any(|one| one == kind), "no {kind}");
        }
        let said = unpack.stop().await;
        assert!(said.contains("unreadable=0 given_up=0"), "{said}");
        assert!(hub.stop().await.success());
    }
}

#[tokio::test]
async fn one_that_is_killed_again_and_again_leaves_nothing_out() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Mosquitto::start(dir.path());
    let consumer = Consumer::start(broker.port).await;
    let arguments = [url(&broker)];
    let start = || Unpack::start(&arguments.each_ref().map(String::as_str));
    let mut unpack = start();
    unpack.until_it_says("unpacking").await;
    let hub = Hub::start(dir.path(), &packing(dir.path(), broker.port)).await;
    hub.until_uplink("connected").await;
    let sensors: Vec<_> = (0..3)
        .map(|n| Sensor::start(hub.address, &format!("s{n}"), EVERY))
        .collect();
    let sensors: Vec<_> = sensors.iter().collect();
    for _ in 0..6 {
        let before = consumer.batches().len();
        until("batches", || consumer.batches().len() > before + 20).await;
        unpack.kill();
        // What comes while it is away waits in its session.
        let before = sensors[0].acked();
        until("acks", || sensors[0].acked() > before + 10).await;
        unpack = start();
    }
    all_there(&consumer, &sensors).await;
    assert!(hub.stop().await.success());
}

#[tokio::test]
async fn from_one_broker_to_another_it_waits_for_the_one_that_is_away() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (broker, mut target) = (Mosquitto::start(dir.path()), Mosquitto::start(other.path()));
    let consumer = Consumer::start(target.port).await;
    let unpack = Unpack::start(&[&url(&broker), "--to", &url(&target)]);
    unpack.until_it_says("unpacking").await;
    let hub = Hub::start(dir.path(), &packing(dir.path(), broker.port)).await;
    hub.until_uplink("connected").await;
    let cow = Sensor::start(hub.address, "cow", EVERY);
    until("batches", || consumer.batches().len() > 20).await;
    target.stop();
    unpack.until_it_says("not unpacking").await;
    let before = cow.acked();
    until("acks", || cow.acked() > before + 40).await;
    target.start_again();
    all_there(&consumer, &[&cow]).await;
    assert!(consumer.got().iter().all(|one| one.kind() != "packed"));
    assert!(hub.stop().await.success());
}

/// Publishes what no hub would.
async fn publish(port: u16, topic: &str, payload: Vec<u8>) {
    let mut options = MqttOptions::new("stranger", "127.0.0.1", port);
    options.set_max_packet_size(16 << 20, 16 << 20);
    let (client, mut events) = AsyncClient::new(options, 4);
    client
        .publish(topic, QoS::AtLeastOnce, false, payload)
        .await
        .unwrap();
    loop {
        if let rumqttc::Event::Incoming(rumqttc::Incoming::PubAck(_)) = events.poll().await.unwrap()
        {
            return;
        }
    }
}

#[tokio::test]
async fn what_cannot_be_read_is_told_and_does_not_hold_up_what_can() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Mosquitto::start(dir.path());
    let consumer = Consumer::start(broker.port).await;
    let unpack = Unpack::start(&[&url(&broker)]);
    unpack.until_it_says("unpacking").await;
    let topic = "telehub/barn/packed";
    let mut bomb = Vec::new();
    telehub::packed::seal(&vec![0; 9 << 20], &mut bomb);
    let mut good = Vec::new();
    let mut sequence = Vec::new();
    let batch = br#"{"device":"cow","stream":"a","seq":1}"#;
    telehub::packed::append(telehub::packed::Kind::Data, "cow", batch, &mut sequence);
    telehub::packed::seal(&sequence, &mut good);
    for payload in [b"junk".to_vec(), Vec::new(), bomb, vec![7; 5 << 20], good] {
        publish(broker.port, topic, payload).await;
    }
    until("the good one", || consumer.batches().len() == 1).await;
    for why in ["first byte", "holds more than", "larger than any pack"] {
        unpack.until_it_says(why).await;
    }
    let said = unpack.stop().await;
    assert!(
        said.contains("published=1 unreadable=4 given_up=0"),
        "{said}"
    );
    // All of them were acknowledged: nothing comes again.
    let again = Unpack::start(&[&url(&broker)]);
    again.until_it_says("unpacking").await;
    publish(broker.port, topic, b"the last".to_vec()).await;
    again.until_it_says("first byte").await;
    let said = again.stop().await;
    assert!(said.contains("packs=1 published=0 unreadable=1"), "{said}");
}

#[tokio::test]
async fn what_the_broker_does_not_take_is_waited_for_or_given_up_as_one_says() {
    for skip in [false, true] {
        let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let acl = other.path().join("acl");
        let rules = "topic readwrite #\ntopic deny telehub/barn/bull/data\n";
        std::fs::write(&acl, rules).unwrap();
        let broker = Mosquitto::start(dir.path());
        let target = Mosquitto::start_with(other.path(), &format!("acl_file {}", acl.display()));
        let consumer = Consumer::start(target.port).await;
        let (from, to) = (url(&broker), url(&target));
        let mut arguments = vec![from.as_str(), "--to", to.as_str()];
        arguments.extend(skip.then_some("--skip"));
        let unpack = Unpack::start(&arguments);
        unpack.until_it_says("unpacking").await;
        let (mut payload, mut sequence) = (Vec::new(), Vec::new());
        for device in ["cow", "bull", "calf"] {
            let batch = format!("{{\"device\":\"{device}\",\"stream\":\"a\",\"seq\":1}}");
            let kind = telehub::packed::Kind::Data;
            telehub::packed::append(kind, device, batch.as_bytes(), &mut sequence);
        }
        telehub::packed::seal(&sequence, &mut payload);
        publish(broker.port, "telehub/barn/packed", payload).await;
        unpack.until_it_says("telehub/barn/bull/data").await;
        if skip {
            // This mosquitto (2.0.11) closes the connection behind the PUBACK that refuses.
            until("the others", || consumer.batches().len() == 2).await;
            assert!(unpack.says("given up"));
            continue;
        }
        assert!(unpack.says("nothing of its pack is acknowledged"));
        std::fs::write(&acl, "topic readwrite #\n").unwrap();
        target.signal("HUP");
        until("all three", || consumer.batches().len() == 3).await;
    }
}

#[test]
fn a_broker_that_is_none_is_a_fault_of_usage_that_says_what_to_write() {
    for (arguments, said) in [
        (&["http://broker"][..], "scheme \"http\" is not known"),
        (&["/no/such/file"], "there is no such file"),
        (
            &["mqtt://broker", "--to", "mqtt://a/b"],
            "goes on after host and port",
        ),
    ] {
        let done = command().arg("unpack").args(arguments).output().unwrap();
        let text = String::from_utf8(done.stderr).unwrap();
        assert_eq!(done.status.code(), Some(78), "{text}");
        assert!(text.contains(said), "{text}");
    }
}
