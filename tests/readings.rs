//! The readings of the last hours, as the admin listener answers them and the page shows them after
//! it is loaded again.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "support/browser.rs"]
mod browser;
#[path = "support/daemon.rs"]
mod daemon;

use browser::Browser;
use daemon::{Device, Hub, config, free_port, until};
use serde_json::{Value, json};

/// A minute of readings, one a second, a door that was opened and closed, and a time in milliseconds.
async fn a_minute(hub: &Hub) -> Device {
    let mut device = Device::connect(hub.address, "cow").await;
    device.hello("s").await;
    let mut pack: Vec<Value> = (0..60)
        .map(|n| json!({"n": "barn/temp", "u": "Cel", "v": 20.0 + f64::from(n), "t": n - 60}))
        .collect();
    for (n, open) in [(50, false), (40, true), (30, true), (10, false)] {
        pack.push(json!({"n": "door", "vb": open, "t": -n}));
    }
    device.send(json!({"data": {"seq": 1, "pack": pack}})).await;
    device.acked(1).await;
    let odd = json!([{"n": "odd", "v": 1, "t": 1_795_800_000_000_u64}]);
    device.send(json!({"data": {"seq": 2, "pack": odd}})).await;
    device.acked(2).await;
    device
}

fn list(hub: &Hub, query: &str) -> Vec<Value> {
    let (code, body) = hub.get(&format!("/api/devices/cow/readings{query}"));
    assert_eq!(code, 200, "{body}");
    serde_json::from_str(&body).unwrap()
}

#[tokio::test]
async fn the_last_hours_are_answered_by_name_and_time_as_json_and_as_a_table() {
    let dir = tempfile::tempdir().unwrap();
    let hub = Hub::start(dir.path(), &config(dir.path(), free_port(), "")).await;
    let _cow = a_minute(&hub).await;
    until("all names", || list(&hub, "").len() == 3).await;
    let all = list(&hub, "");
    let names: Vec<_> = all
        .iter()
        .map(|one| one["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["barn/temp", "door", "odd"]);
    assert_eq!(all[0]["unit"], "Cel");
    let temperatures = list(&hub, "?name=barn%2Ftemp");
    let values: Vec<_> = temperatures
        .iter()
        .map(|one| one["v"].as_f64().unwrap())
        .collect();
    let expected: Vec<_> = (0..60).map(|n| 20.0 + f64::from(n)).collect();
    // One a second; two may fall into the same one by a rounding.
    assert!(values.len() >= 58, "{values:?}");
    assert_eq!((values[0], values.last()), (20.0, expected.last()));
    let times: Vec<_> = temperatures
        .iter()
        .map(|one| one["t"].as_f64().unwrap())
        .collect();
    let (from, to) = (times[10], times[19]);
    let part = list(&hub, &format!("?name=barn%2Ftemp&from={from}&to={to}"));
    assert_eq!(part, &temperatures[10..20]);
    // Where it changed, and no more.
    let door: Vec<_> = list(&hub, "?name=door")
        .iter()
        .map(|one| one["v"].clone())
        .collect();
    assert_eq!(door, [json!(false), json!(true), json!(false)]);
    // A time that cannot be true stands where it came.
    let odd = list(&hub, "?name=odd")[0]["t"].as_f64().unwrap();
    assert!(
        (odd - times[59.min(times.len() - 1)]).abs() < 120.0,
        "{odd}"
    );

    let (code, table) = hub.get("/api/devices/cow/readings?name=door&format=csv");
    assert_eq!(code, 200);
    let lines: Vec<_> = table.lines().collect();
    assert_eq!((lines[0], lines.len()), ("t,v,min,max", 4), "{table}");
    for (path, code) in [
        ("/api/devices/pig/readings", 404),
        ("/api/devices/cow/readings?name=nothing", 404),
        ("/api/devices/cow/readings?name=door&format=xml", 400),
        ("/api/devices/cow/readings?format=csv", 400),
        ("/api/devices/cow/readings?name=door&from=yesterday", 400),
    ] {
        assert_eq!(hub.get(path).0, code, "{path}");
    }
    // Nothing of it is on the disk.
    let files = std::fs::read_dir(dir.path().join("spool")).unwrap();
    for file in files {
        let path = file.unwrap().path();
        assert!(
            !path.to_string_lossy().contains("reading"),
            "{}",
            path.display()
        );
    }
    assert!(hub.stop().await.success());
}

#[tokio::test]
async fn nothing_is_kept_where_nothing_is_to_be_kept() {
    let dir = tempfile::tempdir().unwrap();
    let text = config(dir.path(), free_port(), "").replace("[admin]", "[admin]\nhistory = \"0s\"");
    let hub = Hub::start(dir.path(), &text).await;
    let _cow = a_minute(&hub).await;
    assert!(list(&hub, "").is_empty());
    // What it said last is shown all the same.
    assert!(hub.get("/api/devices/cow").1.contains("\"name\":\"odd\""));
    assert!(hub.stop().await.success());
}

#[tokio::test]
async fn the_page_of_a_device_remembers_over_a_reload() {
    let Some(mut browser) = Browser::start().await else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let hub = Hub::start(dir.path(), &config(dir.path(), free_port(), "")).await;
    let _cow = a_minute(&hub).await;
    until("all names", || list(&hub, "").len() == 3).await;
    browser.screen(1280, 900, false).await;
    for _ in 0..2 {
        browser
            .open(&format!("http://{}/#/device/cow", hub.admin))
            .await;
        let points = "document.querySelector('.plot')?.dataset.points >= 58";
        browser.until("the minute before the page", points).await;
        browser.until_text(".grid .unit", "°C").await;
        browser.until_text(".words .note", "true").await;
        let bar = "document.querySelectorAll('.bar span').length === 3";
        browser.until("the door's times", bar).await;
    }
    let target = std::path::Path::new(env!("CARGO_TARGET_TMPDIR"))
        .parent()
        .unwrap();
    browser
        .picture(&target.join("screenshots/remembered.png"))
        .await;
    assert_eq!(browser.complaints().await, [""; 0]);
    assert!(hub.stop().await.success());
}

/// Forty names, in no order: a pipe's flows and a door.
async fn forty_names(hub: &Hub) -> Device {
    let mut device = Device::connect(hub.address, "plant").await;
    device.hello("s").await;
    for (seq, swing) in [(1, 0.0), (2, 4.0), (3, 1.0)] {
        let flows = (0..39_u32).map(|n| {
            let n = n * 7 % 39;
            json!({"n": format!("plant/flow/{n}"), "u": "m3", "v": f64::from(n) + swing, "t": seq - 10})
        });
        let mut pack: Vec<Value> = flows.collect();
        pack.push(json!({"n": "plant/zdoor", "vb": seq == 3}));
        device
            .send(json!({"data": {"seq": seq, "pack": pack}}))
            .await;
        device.acked(seq as u64).await;
    }
    device
}

#[tokio::test]
async fn what_devices_say_now_is_told_of_those_that_are_asked_for_and_found_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let hub = Hub::start(dir.path(), &config(dir.path(), free_port(), "")).await;
    let _cow = a_minute(&hub).await;
    let _plant = forty_names(&hub).await;
    let values = |query: &str| -> Value {
        let (code, body) = hub.get(&format!("/api/values{query}"));
        assert_eq!(code, 200, "{body}");
        serde_json::from_str(&body).unwrap()
    };
    until("both", || {
        values("?name=odd") != json!({}) && values("?name=zdoor") != json!({})
    })
    .await;
    let cow = values("?device=cow")["cow"].clone();
    let said: Vec<_> = cow
        .as_array()
        .unwrap()
        .iter()
        .map(|one| (one["name"].as_str().unwrap(), &one["unit"], &one["value"]))
        .collect();
    let (none, unit) = (Value::Null, json!("Cel"));
    let (temp, door, odd) = (json!(79.0), json!(false), json!(1));
    assert_eq!(
        said,
        [
            ("barn/temp", &unit, &temp),
            ("door", &none, &door),
            ("odd", &none, &odd)
        ]
    );
    let found = values("?name=DOOR");
    let found = found.as_object().unwrap();
    assert_eq!(found.keys().collect::<Vec<_>>(), ["cow", "plant"]);
    assert_eq!(found["plant"][0]["value"], json!(true));
    assert_eq!(values("?name=nothing"), json!({}));
    assert_eq!(values("?device=pig"), json!({"pig": []}));
    assert!(hub.stop().await.success());
}

#[tokio::test]
async fn the_overview_has_current_values_and_its_filter_finds_names_of_readings() {
    let Some(mut browser) = Browser::start().await else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let hub = Hub::start(dir.path(), &config(dir.path(), free_port(), "")).await;
    let _cow = a_minute(&hub).await;
    let _plant = forty_names(&hub).await;
    browser.screen(1280, 900, false).await;
    browser.open(&format!("http://{}/", hub.admin)).await;
    let row = |id: &str| format!("#devices tbody tr[data-id={id}] .c-now");
    browser
        .until_text(&row("cow"), "barn/temp 79\u{a0}°C, door off, odd 1")
        .await;
    browser
        .until_text(
            &row("plant"),
            "flow/0 1\u{a0}m³, flow/1 2\u{a0}m³, flow/2 3\u{a0}m³, …",
        )
        .await;
    let type_in = |words: &str| {
        format!(
            "const filter = document.querySelector('#filter'); filter.value = {};
             filter.dispatchEvent(new Event('input'));",
            json!(words)
        )
    };
    let rows = |ids: &str| {
        format!(
            "Array.from(document.querySelectorAll('#devices tbody tr'), (row) => row.dataset.id).sort().join() === '{ids}'"
        )
    };
    browser.eval(&type_in("zdoor")).await;
    browser
        .until("the device with such a door", &rows("plant"))
        .await;
    browser.until_text(&row("plant"), "zdoor on").await;
    browser.eval(&type_in("door")).await;
    browser.until("both", &rows("cow,plant")).await;
    browser.eval(&type_in("cow door")).await;
    browser
        .until("words of the device and of its reading", &rows("cow"))
        .await;
    browser.eval(&type_in("nothing")).await;
    browser.until_text("#empty", "No device matches.").await;
    browser.eval(&type_in("")).await;
    browser.until("all again", &rows("cow,plant")).await;
    let target = std::path::Path::new(env!("CARGO_TARGET_TMPDIR"))
        .parent()
        .unwrap();
    let picture = |name: &str| target.join(format!("screenshots/{name}.png"));
    browser.picture(&picture("overview-values")).await;
    browser.screen(390, 844, true).await;
    browser.picture(&picture("overview-values-phone")).await;
    browser.screen(1280, 900, false).await;

    // Forty names: a list in the order that people count in, each with its curve.
    browser
        .open(&format!("http://{}/#/device/plant", hub.admin))
        .await;
    let list = "Array.from(document.querySelectorAll('#device .grid.compact:not(.words) > *'), (card) => card.series.key.split('\\u0000')[0])";
    browser
        .until("the list", &format!("{list}.length === 39"))
        .await;
    let names = browser.eval(&format!("return {list}")).await;
    let expected: Vec<_> = (0..39).map(|n| format!("plant/flow/{n}")).collect();
    assert_eq!(names, json!(expected));
    browser.picture(&picture("forty-names")).await;
    assert_eq!(browser.complaints().await, [""; 0]);
    assert!(hub.stop().await.success());
}
