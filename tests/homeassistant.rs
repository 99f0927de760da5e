//! Home Assistant's discovery: each entity's topic and template are given what the hub publishes there,
//! and evaluated by the template language that Home Assistant uses.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "support/daemon.rs"]
mod daemon;
#[path = "support/python.rs"]
mod python;
#[path = "support/registry.rs"]
mod registry;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};

use daemon::{Consumer, Device, Hub, Mosquitto, config, until};
use serde_json::{Value, json};

/// Topic and payload.
type Message = (String, Vec<u8>);

/// All messages of a broker, as `telehub/#` and `homeassistant/#` have them.
struct Captured {
    telehub: Consumer,
    documents: tokio::task::JoinHandle<()>,
    got: Arc<Mutex<Vec<Message>>>,
    client: rumqttc::AsyncClient,
}

impl Captured {
    async fn start(port: u16) -> Self {
        let options = rumqttc::MqttOptions::new("homeassistant", "127.0.0.1", port);
        let (client, mut events) = rumqttc::AsyncClient::new(options, 16);
        let filter = "homeassistant/#";
        client
            .subscribe(filter, rumqttc::QoS::AtLeastOnce)
            .await
            .unwrap();
        let got = Arc::new(Mutex::new(Vec::new()));
        let into = got.clone();
        let documents = tokio::spawn(async move {
            while let Ok(event) = events.poll().await {
                if let rumqttc::Event::Incoming(rumqttc::Incoming::Publish(publish)) = event {
                    let message = (publish.topic, publish.payload.to_vec());
                    into.lock().unwrap().push(message);
                }
            }
        });
        Self {
            telehub: Consumer::start(port).await,
            documents,
            got,
            client,
        }
    }

    fn documents(&self) -> Vec<Message> {
        let got = self.got.lock().unwrap();
        let config = got.iter().filter(|(topic, _)| topic.ends_with("/config"));
        config.cloned().collect()
    }

    /// The newest document of a device of this name.
    fn document(&self, name: &str) -> Option<Value> {
        let documents = self.documents();
        let mut documents = documents.iter().rev();
        documents.find_map(|(_, payload)| {
            let document: Value = serde_json::from_slice(payload).ok()?;
            (document["dev"]["name"] == name).then_some(document)
        })
    }
}

impl Drop for Captured {
    fn drop(&mut self) {
        self.documents.abort();
    }
}

fn names(document: &Value) -> Vec<String> {
    let components = document["cmps"].as_object().unwrap().values();
    let mut names: Vec<_> = components
        .map(|one| one["name"].as_str().unwrap().to_owned())
        .collect();
    names.sort();
    names
}

/// Evaluates all templates of a document with the newest messages of their topics: name → state.
fn states(python: &Path, dir: &Path, document: &Value, captured: &Captured) -> Value {
    let newest: serde_json::Map<_, _> = captured
        .telehub
        .got()
        .into_iter()
        .map(|one| (one.topic, json!(String::from_utf8_lossy(&one.payload))))
        .collect();
    let input = dir.join("document.json");
    std::fs::write(&input, json!([document, newest]).to_string()).unwrap();
    let program = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/homeassistant/states.py");
    let mut command = Command::new(python);
    let output = python::run(command.arg(program).arg(&input)).unwrap();
    serde_json::from_slice(&output.stdout).unwrap()
}

#[tokio::test]
async fn every_entity_shows_what_its_device_sent() {
    let Ok(python) = python::python("homeassistant-venv", &["jinja2>=3"], "jinja2")
        .map_err(|why| python::not_tested("Home Assistant's templates", &why))
    else {
        return;
    };
    for plain in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let broker = Mosquitto::start(dir.path());
        let captured = Captured::start(broker.port).await;
        let extra = format!("[homeassistant]\ndiscovery = true\n[values]\nplain = {plain}");
        let hub = Hub::start(dir.path(), &config(dir.path(), broker.port, &extra)).await;
        hub.until_uplink("connected").await;
        let mut device = Device::connect(hub.address, "cow").await;
        device
            .send(json!({"hello": {"stream": "s", "next": 1, "model": "T1"}}))
            .await;
        device.receive().await.unwrap();
        let pack = json!([
            {"n": "temp", "u": "Cel", "v": 21.5}, {"n": "room/door", "vb": true},
            {"n": "lock", "vb": false}, {"n": "state", "vs": "x".repeat(300)},
        ]);
        device.send(json!({"data": {"seq": 1, "pack": pack}})).await;
        device.acked(1).await;
        let wanted = ["lock", "room/door", "state", "temp"];
        until("the document", || {
            captured
                .document("cow")
                .is_some_and(|one| names(&one) == wanted)
        })
        .await;
        until("the hub's document", || {
            captured.document("telehub barn").is_some()
        })
        .await;
        until("the values", || {
            captured
                .telehub
                .got()
                .iter()
                .filter(|one| one.topic.contains("/cow/value/"))
                .count()
                >= 4
        })
        .await;
        let document = captured.document("cow").unwrap();
        assert_eq!(document["dev"]["mdl"], "T1");
        let said = states(&python, dir.path(), &document, &captured);
        assert_eq!(said["states"]["temp"], "21.5");
        assert_eq!(said["states"]["room/door"], "ON");
        assert_eq!(said["states"]["lock"], "OFF");
        assert_eq!(said["states"]["state"], "x".repeat(255));
        assert_eq!(said["available"], true);
        let hub_document = captured.document("telehub barn").unwrap();
        let said = states(&python, dir.path(), &hub_document, &captured);
        assert_eq!(said["states"]["Uplink"], "ON");
        assert_eq!(said["states"]["backlog"], "0");

        // A device that sleeps is available, and one that is gone is not.
        let status = |state: &str| {
            let last = captured.telehub.last("telehub/barn/cow/status");
            last.is_some_and(|last| last["state"] == state)
        };
        device.send(json!({"bye": {"sleep": 3600}})).await;
        until("the sleep", || status("asleep")).await;
        let said = states(&python, dir.path(), &document, &captured);
        assert_eq!(said["available"], true);
        let mut device = Device::connect(hub.address, "cow").await;
        device.close().await;
        drop(device);
        until("the end", || status("offline")).await;
        let said = states(&python, dir.path(), &document, &captured);
        assert_eq!(said["available"], false);
        assert!(hub.stop().await.success());
    }
}

/// The hub, with a registry of these entries; their ids are their tokens.
async fn hub_with(dir: &Path, broker: u16, commands: bool, entries: &[(&str, &str)]) -> Hub {
    let file = dir.join("devices.toml");
    std::fs::write(&file, registry::registry(entries)).unwrap();
    let extra = format!("[homeassistant]\ndiscovery = true\n[commands]\nenabled = {commands}\n");
    let auth = format!("auth = \"token\"\nregistry = {file:?}");
    let text = config(dir, broker, &extra).replace("auth = \"open\"", &auth);
    let hub = Hub::start(dir, &text).await;
    hub.until_uplink("connected").await;
    hub
}

fn buttons(document: &Value) -> Vec<&Value> {
    let components = document["cmps"].as_object().unwrap().values();
    components.filter(|one| one["p"] == "button").collect()
}

#[tokio::test]
async fn commands_of_exact_names_are_buttons_which_the_device_takes_when_pressed() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Mosquitto::start(dir.path());
    let captured = Captured::start(broker.port).await;
    let entries = [
        ("lamp", "commands = [\"on\", \"set-*\", \"off\"]"),
        ("mute", ""),
    ];
    let hub = hub_with(dir.path(), broker.port, true, &entries).await;
    // Without a reading, and before the device has ever come.
    until("the buttons", || captured.document("lamp").is_some()).await;
    let document = captured.document("lamp").unwrap();
    assert_eq!(names(&document), ["off", "on"], "a pattern is no button");
    let mut lamp = Device::with_token(hub.address, "lamp", "lamp").await;
    lamp.hello("s").await;
    for button in buttons(&document) {
        // Pressed as Home Assistant does it, with what stands in the document and nothing else.
        let text = |key: &str| button[key].as_str().unwrap().to_owned();
        let pressed = captured.client.publish(
            text("command_topic"),
            rumqttc::QoS::AtLeastOnce,
            button["retain"].as_bool().unwrap(),
            text("payload_press"),
        );
        pressed.await.unwrap();
        let asked = lamp.receive().await.unwrap();
        assert_eq!(asked["command"]["name"], button["name"], "{asked}");
        let id = &asked["command"]["id"];
        lamp.send(json!({"result": {"id": id, "ok": true}})).await;
        assert_eq!(lamp.receive().await.unwrap()["ack"]["result"], *id);
    }
    // With a value there is one document of both.
    lamp.data(1).await;
    lamp.acked(1).await;
    let both = |one: Value| buttons(&one).len() == 2 && names(&one).len() > 2;
    until("both", || captured.document("lamp").is_some_and(both)).await;
    // The entry is changed while everybody is there.
    let set = |change: &[&str]| {
        let mut command = daemon::command();
        command
            .args(["device", "set", "lamp"])
            .args(change)
            .arg("--registry");
        let output = command
            .arg(dir.path().join("devices.toml"))
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
    };
    set(&["--command", "blink"]);
    until("the other button", || {
        let document = captured.document("lamp").unwrap();
        let buttons = buttons(&document);
        buttons.len() == 1 && buttons[0]["name"] == "blink"
    })
    .await;
    // Every document that was published says the same of what it is.
    for (topic, payload) in captured.documents() {
        let document: Value = serde_json::from_slice(&payload).unwrap();
        let allowed = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        let object = topic.split('/').nth(2).unwrap();
        assert!(object.chars().all(allowed), "{topic}");
        let mut ids = std::collections::BTreeSet::new();
        for component in document["cmps"].as_object().unwrap().values() {
            assert!(ids.insert(component["unique_id"].to_string()), "{document}");
        }
        for button in buttons(&document) {
            let topic = format!(
                "telehub/barn/lamp/command/{}",
                button["name"].as_str().unwrap()
            );
            assert_eq!(button["command_topic"], topic);
            assert_eq!(button["availability"].as_array().unwrap().len(), 2);
        }
    }
    assert!(captured.document("mute").is_none());
    assert!(hub.stop().await.success());
    // Without commands none of them stays, once the device has said something.
    let hub = hub_with(dir.path(), broker.port, false, &entries).await;
    let mut lamp = Device::with_token(hub.address, "lamp", "lamp").await;
    lamp.hello("s").await;
    lamp.data(2).await;
    lamp.acked(2).await;
    until("no button", || {
        captured
            .document("lamp")
            .is_some_and(|one| buttons(&one).is_empty())
    })
    .await;
    assert!(hub.stop().await.success());
}

#[tokio::test]
async fn the_buttons_of_a_device_without_values_go_with_its_rights() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Mosquitto::start(dir.path());
    let captured = Captured::start(broker.port).await;
    let entries = [("lamp", "commands = [\"on\"]")];
    let hub = hub_with(dir.path(), broker.port, true, &entries).await;
    until("the button", || captured.document("lamp").is_some()).await;
    let mut remove = daemon::command();
    remove.args(["device", "remove", "lamp", "--registry"]);
    let output = remove
        .arg(dir.path().join("devices.toml"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    until("the document is taken back", || {
        let documents = captured.documents();
        documents
            .iter()
            .any(|(topic, payload)| topic.contains("barn_lamp") && payload.is_empty())
    })
    .await;
    assert!(hub.stop().await.success());
}

#[tokio::test]
async fn documents_come_again_at_a_birth_keep_what_an_earlier_run_told_and_go_with_a_forget() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Mosquitto::start(dir.path());
    let captured = Captured::start(broker.port).await;
    let extra = "[homeassistant]\ndiscovery = true";
    let text = config(dir.path(), broker.port, extra);
    let hub = Hub::start(dir.path(), &text).await;
    hub.until_uplink("connected").await;
    let mut device = Device::connect(hub.address, "cow").await;
    let pack = json!([{"n": "a", "v": 1}, {"n": "b", "v": 2}]);
    device.send(json!({"data": {"seq": 1, "pack": pack}})).await;
    device.acked(1).await;
    until("the document", || captured.document("cow").is_some()).await;
    captured.got.lock().unwrap().clear();
    let birth = captured.client.publish(
        "homeassistant/status",
        rumqttc::QoS::AtLeastOnce,
        false,
        "online",
    );
    birth.await.unwrap();
    until("the document after the birth", || {
        captured.document("cow").is_some()
    })
    .await;
    assert!(hub.stop().await.success());

    captured.got.lock().unwrap().clear();
    let token = dir.path().join("token");
    std::fs::write(&token, "0123456789abcdef\n").unwrap();
    let with_token = format!("[admin]\ntoken_file = \"{}\"", token.display());
    let text = text.replacen("[admin]", &with_token, 1);
    let hub = Hub::start(dir.path(), &text).await;
    until("the hub is online", || {
        let last = captured.telehub.last("telehub/barn/status");
        last.is_some_and(|last| last["state"] == "online")
    })
    .await;
    let mut device = Device::connect(hub.address, "cow").await;
    let pack = json!([{"n": "b", "v": 2}, {"n": "c", "v": 3}]);
    device.send(json!({"data": {"seq": 1, "pack": pack}})).await;
    device.acked(1).await;
    until("what both runs have seen", || {
        captured
            .document("cow")
            .is_some_and(|one| names(&one) == ["a", "b", "c"])
    })
    .await;
    device.close().await;
    drop(device);
    until("the device is gone", || {
        let last = captured.telehub.last("telehub/barn/cow/status");
        last.is_some_and(|last| last["state"] == "offline")
    })
    .await;
    let mut forget = daemon::command();
    forget.args(["device", "forget", "cow", "--admin"]);
    forget.arg(format!("http://{}", hub.admin));
    forget.arg("--token-file").arg(&token);
    until("the device is forgotten", || {
        forget.output().unwrap().status.success()
    })
    .await;
    until("the document is taken back", || {
        let documents = captured.documents();
        documents
            .iter()
            .any(|(topic, payload)| topic.contains("barn_cow") && payload.is_empty())
    })
    .await;
    until("its values are taken back", || {
        let got = captured.telehub.got();
        got.iter()
            .any(|one| one.topic == "telehub/barn/cow/value/b" && one.payload.is_empty())
    })
    .await;
    assert!(hub.stop().await.success());
}
