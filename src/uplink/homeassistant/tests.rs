#![allow(clippy::unwrap_used)]
use serde_json::json;

use super::*;
use crate::uplink::values::Kind;

fn known(name: &str, kind: Kind, unit: Option<&str>) -> (Known, String) {
    let known = Known {
        name: name.into(),
        kind,
        unit: unit.map(Into::into),
        expiry: Some(300),
    };
    (known, format!("telehub/barn/cow/value/{name}"))
}

fn facts(names: &[&str]) -> Facts {
    Facts {
        model: Some("T1".into()),
        firmware: None,
        hub_status: "telehub/barn/status".into(),
        device_status: "telehub/barn/cow/status".into(),
        expires: true,
        values: names
            .iter()
            .map(|name| known(name, Kind::Number, Some("Cel")))
            .collect(),
        buttons: Vec::new(),
    }
}

fn discovery() -> Discovery {
    Discovery::new("telehub", "barn", "1.2.3", false)
}

fn document(discovery: &mut Discovery, facts: &Facts) -> Option<Value> {
    let document = discovery.send(&"cow".into(), facts)?;
    Some(serde_json::from_slice(&document).unwrap())
}

fn components(document: &Value) -> Vec<&str> {
    let components = document["cmps"].as_object().unwrap().values();
    let mut names: Vec<_> = components
        .map(|one| one["name"].as_str().unwrap())
        .collect();
    names.sort_unstable();
    names
}

#[tokio::test]
async fn a_document_waits_until_its_device_is_quiet_and_goes_once() {
    let (mut discovery, start) = (discovery(), Instant::now());
    let cow: Arc<str> = "cow".into();
    let mut now = start;
    for _ in 0..20 {
        discovery.news(&cow, now);
        assert_eq!(discovery.next(now), None);
        discovery.unasked(now);
        now += Duration::from_secs(2);
        if discovery.next(now).is_some() {
            break;
        }
    }
    assert_eq!(now - start, PATIENCE, "a device that is never quiet");
    assert!(document(&mut discovery, &facts(&["t"])).is_some());
    discovery.answered(&cow, true, now);
    discovery.news(&cow, now);
    let next = discovery.wakes(now).unwrap();
    assert_eq!(next - now, QUIET);
    assert_eq!(discovery.next(next), Some(cow.clone()));
    assert_eq!(document(&mut discovery, &facts(&["t"])), None, "the same");
    discovery.retell(next);
    assert!(
        document(&mut discovery, &facts(&["t"])).is_some(),
        "asked again"
    );
}

#[tokio::test]
async fn what_an_earlier_run_told_stays_until_the_device_is_forgotten() {
    let (mut discovery, now) = (discovery(), Instant::now());
    let cow: Arc<str> = "cow".into();
    discovery.news(&cow, now);
    assert_eq!(discovery.unasked(now), Some(cow.clone()));
    assert_eq!(discovery.unasked(now), None);
    let mut before = self::discovery();
    before.news(&cow, now);
    let told = before.send(&cow, &facts(&["t", "h"])).unwrap();
    let topic = discovery.topic("cow");
    assert!(discovery.recall(&topic, &told));
    assert!(!discovery.recall("homeassistant/device/other/config", &told));
    let document = document(&mut discovery, &facts(&["t", "p"])).unwrap();
    assert_eq!(components(&document), ["h", "p", "t"]);
    discovery.forget(&cow, now);
    assert_eq!(discovery.removal(), Some(cow));
}

fn allowed(names: &[&str]) -> HashMap<Arc<str>, Vec<String>> {
    let names = names.iter().map(|&name| name.to_owned()).collect();
    HashMap::from([("cow".into(), names)])
}

fn with_buttons(discovery: &Discovery, names: &[&str]) -> Facts {
    let buttons = discovery.buttons("cow").iter();
    let topic = |name: &String| format!("telehub/barn/cow/command/{name}");
    Facts {
        buttons: buttons.map(|name| (name.clone(), topic(name))).collect(),
        ..facts(names)
    }
}

#[tokio::test]
async fn buttons_come_and_go_with_what_the_registry_allows() {
    let (mut discovery, now) = (discovery(), Instant::now());
    let cow: Arc<str> = "cow".into();
    discovery.offer(allowed(&["on", "t"]), now);
    assert!(discovery.knows("cow"), "without any value");
    let told = with_buttons(&discovery, &["t"]);
    let first = document(&mut discovery, &told).unwrap();
    assert_eq!(components(&first), ["on", "t", "t"]);
    let all = first["cmps"].as_object().unwrap().values();
    let ids: BTreeSet<_> = all
        .clone()
        .map(|one| one["unique_id"].to_string())
        .collect();
    assert_eq!(ids.len(), 3, "a value and a command of one name");
    let mut buttons = all.filter(|one| one["p"] == "button");
    let on = buttons.find(|one| one["name"] == "on").unwrap();
    assert_eq!(on["command_topic"], "telehub/barn/cow/command/on");
    assert_eq!(
        (&on["payload_press"], &on["retain"]),
        (&json!("{}"), &json!(false))
    );
    discovery.answered(&cow, true, now);
    // The same is no news, another one is.
    discovery.offer(allowed(&["on", "t"]), now);
    assert_eq!(discovery.wakes(now), None);
    discovery.offer(allowed(&["off"]), now);
    let told = with_buttons(&discovery, &["t"]);
    assert_eq!(
        components(&document(&mut discovery, &told).unwrap()),
        ["off", "t"]
    );
    discovery.answered(&cow, true, now);
    // Nothing is left: the document goes, once.
    discovery.offer(HashMap::new(), now);
    let told = with_buttons(&discovery, &[]);
    assert_eq!(discovery.send(&cow, &told), Some(Vec::new()));
    discovery.answered(&cow, true, now);
    discovery.retell(now);
    assert_eq!(discovery.send(&cow, &told), None);
}

#[tokio::test]
async fn a_button_of_an_earlier_run_does_not_stay_and_one_of_a_forgotten_device_comes_again() {
    let (mut discovery, now) = (discovery(), Instant::now());
    let cow: Arc<str> = "cow".into();
    let mut before = self::discovery();
    before.offer(allowed(&["on"]), now);
    let told = with_buttons(&before, &["t"]);
    let told = before.send(&cow, &told).unwrap();
    discovery.news(&cow, now);
    assert!(discovery.recall(&discovery.topic("cow"), &told));
    let document = document(&mut discovery, &facts(&["h"])).unwrap();
    assert_eq!(components(&document), ["h", "t"]);
    discovery.offer(allowed(&["on"]), now);
    discovery.forget(&cow, now);
    assert_eq!(discovery.removal(), Some(cow.clone()));
    assert!(discovery.knows("cow"));
}

#[tokio::test]
async fn a_document_that_is_refused_or_hung_up_on_pauses() {
    let (mut discovery, now) = (discovery(), Instant::now());
    let cow: Arc<str> = "cow".into();
    discovery.news(&cow, now);
    discovery.unasked(now);
    document(&mut discovery, &facts(&["t"])).unwrap();
    discovery.answered(&cow, false, now);
    assert_eq!(discovery.wakes(now), Some(now + Duration::from_secs(60)));
    let later = now + Duration::from_secs(60);
    assert_eq!(discovery.next(later), Some(cow.clone()));
    document(&mut discovery, &facts(&["t"])).unwrap();
    discovery.lost(true, later);
    discovery.unasked(later);
    assert_eq!(
        discovery.wakes(later),
        Some(later + Duration::from_secs(120))
    );
}

#[test]
fn ids_are_what_home_assistant_allows_and_differ_for_all_that_differs() {
    let discovery = discovery();
    let mut topics: Vec<_> = ["a.b", "a_b", "a-b", "A.b", HUB]
        .iter()
        .map(|device| discovery.topic(device))
        .collect();
    for topic in &topics {
        let object = topic.split('/').nth(2).unwrap();
        let allowed = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        assert!(object.chars().all(allowed), "{topic}");
        assert!(object.starts_with("telehub_barn_"));
    }
    topics.sort();
    topics.dedup();
    assert_eq!(topics.len(), 5);
}

#[test]
fn units_have_the_class_that_home_assistant_wants_with_them() {
    let mut discovery = discovery();
    let now = Instant::now();
    discovery.news(&"cow".into(), now);
    let values = vec![
        known("a", Kind::Number, Some("Cel")),
        known("b", Kind::Number, Some("kWh")),
        known("c", Kind::Number, Some("odd")),
        known("d", Kind::Bool, None),
        known("e", Kind::Text, None),
    ];
    let facts = Facts {
        values,
        ..facts(&[])
    };
    let document = document(&mut discovery, &facts).unwrap();
    let of = |name: &str| {
        let mut all = document["cmps"].as_object().unwrap().values();
        all.find(|one| one["name"] == name).unwrap().clone()
    };
    let temperature = of("a");
    assert_eq!(temperature["unit_of_measurement"], "°C");
    assert_eq!(temperature["device_class"], "temperature");
    assert_eq!(temperature["state_class"], "measurement");
    assert_eq!(temperature["expire_after"], 300);
    assert_eq!(of("b").get("state_class"), None, "energy is no measurement");
    assert_eq!(of("c")["unit_of_measurement"], "odd");
    assert_eq!(of("c").get("device_class"), None);
    assert_eq!(of("d")["p"], "binary_sensor");
    assert_eq!(of("e").get("state_class"), None);
    assert_eq!(document["dev"]["mdl"], "T1");
    assert_eq!(document["availability_mode"], json!("all"));
}
