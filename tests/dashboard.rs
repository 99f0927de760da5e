//! The dashboard in a real browser, before a real hub and a real mosquitto.
//!
//! Pictures of what it looks like are left in `target/screenshots/`.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "support/browser.rs"]
mod browser;
#[path = "support/daemon.rs"]
mod daemon;
#[path = "support/registry.rs"]
mod registry;
#[path = "support/slow_way.rs"]
mod slow_way;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use browser::{Browser, ENTER, RIGHT, TAB, not_tested};
use daemon::{Device, Hub, Mosquitto, PATIENCE, Sensor, config, free_port};
use registry::entry;
use serde_json::{Value, json};
use slow_way::SlowWay;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

fn screenshot(name: &str) -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    target.join("screenshots").join(format!("{name}.png"))
}

/// A hub that can be started again at the same place, with pings often enough to wait for.
fn settings(dir: &Path, broker: u16) -> String {
    config(dir, broker, "")
        .replacen("127.0.0.1:0", &format!("127.0.0.1:{}", free_port()), 1)
        .replace(
            "[admin]\nlisten = \"127.0.0.1:0\"",
            &format!("[admin]\nlisten = \"127.0.0.1:{}\"", free_port()),
        )
        .replace(
            "[devices]",
            "[devices]\nping_interval = \"1s\"\nping_timeout = \"3s\"",
        )
}

/// Everything that is drawn, as one number that changes with it.
const DRAWN: &str = "return document.querySelector('.plot canvas').toDataURL()";

#[tokio::test]
async fn the_page_follows_a_device_an_outage_a_drop_and_a_restart() {
    let Some(mut browser) = Browser::start().await else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let mut broker = Mosquitto::start(dir.path());
    let way = SlowWay::start(broker.port).await;
    let config = settings(dir.path(), way.port);
    let hub = Hub::start(dir.path(), &config).await;
    hub.until_uplink("connected").await;

    browser.screen(1280, 900, false).await;
    // The whole page, once: its size, its requests, what the browser thinks of it.
    let origin = format!("http://{}", hub.admin);
    browser.open(&origin).await;
    browser.until_text("#verdict-head", "The hub is well").await;
    browser.until_text("#uplink-state", "Connected").await;
    let bytes = browser.transferred(&origin).await;
    eprintln!("the page takes {bytes} bytes on the wire");
    assert!(bytes > 50_000.0 && bytes < 100_000.0, "{bytes} bytes");

    // A device appears, with a rate.
    let mut sensors = vec![Sensor::start(
        hub.address,
        "boiler",
        Duration::from_millis(20),
    )];
    browser.until_text("#devices tbody tr", "boiler").await;
    browser.until_text("#verdict-head", "All is well").await;
    browser.until_text("#devices tbody .c-rate", "/s").await;
    browser.until_text("#devices tbody .c-rtt", "ms").await;
    browser.until_text("#live-rate", "batches/s").await;
    browser.until_text("#spool-fill", "of 1.0").await;
    browser.picture(&screenshot("healthy")).await;

    for (id, pause) in [("barn-north", 50), ("cold-store", 100), ("greenhouse", 200)] {
        sensors.push(Sensor::start(hub.address, id, Duration::from_millis(pause)));
    }

    // Its plot moves.
    browser
        .eval("document.querySelector('a[href=\"#/device/boiler\"]').click()")
        .await;
    browser.until_text("#device h1", "boiler").await;
    browser
        .until(
            "twenty points",
            "document.querySelector('.plot')?.dataset.points > 20",
        )
        .await;
    let drawn = browser.eval(DRAWN).await;
    browser
        .until(
            "fifty points",
            "document.querySelector('.plot').dataset.points > 50",
        )
        .await;
    assert_ne!(browser.eval(DRAWN).await, drawn);
    browser.until_text("#device .history", "connected").await;
    browser.picture(&screenshot("device")).await;
    browser.eval("location.hash = '#/'").await;

    // An outage turns the picture.
    browser.until_text("#live-word", "in use").await;
    broker.stop();
    browser.until_text("#uplink-state", "Down").await;
    browser
        .until_text("#verdict-head", "The uplink is down")
        .await;
    browser.until_text("#live-word", "resting").await;
    browser.until_text("#spool-word", "filling").await;
    browser
        .until_text("#spool-eta", "once the broker is back")
        .await;
    browser
        .until(
            "a backlog",
            "Number(document.querySelector('#spool-batches').innerText.replace(',', '')) > 200",
        )
        .await;
    browser.picture(&screenshot("outage")).await;

    // The way back is slow, so that the drain can be seen.
    way.slow(true);
    broker.start_again();
    browser.until_text("#verdict-head", "Catching up").await;
    browser.until_text("#spool-word", "draining").await;
    let estimate = "/under|about/.test(document.querySelector('#spool-eta').innerText)";
    browser.until("an estimate", estimate).await;
    browser.picture(&screenshot("draining")).await;
    way.slow(false);
    browser.until_text("#spool-word", "empty").await;
    browser.until_text("#verdict-head", "All is well").await;

    // A device that does not answer is dropped, and it says why.
    let _silent = Device::connect(hub.address, "gate").await;
    browser.until_text("#devices tbody", "gate").await;
    browser.until_text("#devices tbody", "ping timeout").await;
    browser
        .until_text("#verdict-head", "One device is offline")
        .await;
    browser
        .until_text("#verdict-detail", "gate (ping timeout)")
        .await;
    browser.eval("location.hash = '#/device/gate'").await;
    browser.until_text("#device .history", "ping timeout").await;
    browser.until_text("#device .device-state", "offline").await;
    browser.eval("location.hash = '#/'").await;
    assert_eq!(browser.complaints().await, [""; 0]);

    // The hub goes and comes again.
    hub.signal("TERM");
    browser
        .until_text("#banner", "No connection to the hub")
        .await;
    browser
        .until_text("#verdict-head", "Last known: One device is offline")
        .await;
    browser
        .until_text("#banner", "What you see is from then")
        .await;
    browser.picture(&screenshot("disconnected")).await;
    let admin = hub.admin;
    assert!(hub.stop().await.success());
    // Somebody who answers with an error, after which browsers give up by themselves.
    refuse_once(admin).await;
    let hub = Hub::start(dir.path(), &config).await;
    browser
        .until(
            "the end of the banner",
            "document.querySelector('#banner').hidden",
        )
        .await;
    // The devices that connect again are there, and the alarm is no less true than before.
    browser
        .until(
            "four that are online",
            "document.querySelectorAll('#devices tbody tr[data-state=online]').length === 4",
        )
        .await;
    browser.until_text("#devices tbody", "gate").await;
    browser
        .until_text("#verdict-head", "One device is offline")
        .await;

    for url in browser.requests(&origin).await {
        assert!(url.starts_with(&format!("{origin}/")), "a request to {url}");
    }
    // While the hub was away there was nobody to connect to; nothing else is a reason to complain.
    for complaint in browser.complaints().await {
        let refused = complaint.contains("net::ERR_") || complaint.contains("503");
        assert!(refused, "{complaint}");
    }
    drop(sensors);
    assert!(hub.stop().await.success());
}

/// Answers the next request for events with 503.
async fn refuse_once(address: SocketAddr) {
    let listener = TcpListener::bind(address).await.unwrap();
    let refused = async {
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 4096];
            let n = socket.read(&mut request).await.unwrap_or(0);
            let answer = "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\
                          Connection: close\r\n\r\n";
            let _ = socket.write_all(answer.as_bytes()).await;
            if request[..n].starts_with(b"GET /api/events") {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, refused)
        .await
        .expect("the page tries again");
}

#[tokio::test]
async fn the_files_are_served_to_those_who_read_and_sent_once() {
    let dir = tempfile::tempdir().unwrap();
    let hub = lonely_hub(dir.path()).await;
    let ask = async |method: &str, more: &str| {
        let mut socket = tokio::net::TcpStream::connect(hub.admin).await.unwrap();
        let request =
            format!("{method} / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{more}\r\n");
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.to_owned(), body.to_owned())
    };
    let (head, body) = ask("GET", "").await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    assert!(head.contains("content-security-policy: default-src 'none'; script-src 'self';"));
    assert!(head.contains("\r\ncache-control: no-cache\r\n"), "{head}");
    assert!(body.starts_with("<!doctype html>"), "{body}");
    let length = format!("\r\ncontent-length: {}\r\n", body.len());
    assert!(head.contains(&length), "{head}");
    let (only, none) = ask("HEAD", "").await;
    assert!(only.contains(&length) && none.is_empty(), "{only}");
    let tag = head.split("\r\netag: ").nth(1).unwrap();
    let tag = tag.lines().next().unwrap();
    let (known, none) = ask("GET", &format!("If-None-Match: {tag}\r\n")).await;
    assert!(
        known.starts_with("HTTP/1.1 304 ") && none.is_empty(),
        "{known}"
    );
    let (refused, _) = ask("POST", "Content-Length: 0\r\n").await;
    assert!(refused.starts_with("HTTP/1.1 405 "), "{refused}");
}

/// A page whose events come from the test.
async fn faked(browser: &Browser, hub: &Hub, prepare: &str) {
    let fake = include_str!("dashboard/fake.js");
    let source = format!("{fake}\n{prepare}");
    browser
        .devtools(
            "Page.addScriptToEvaluateOnNewDocument",
            json!({"source": source}),
        )
        .await;
    browser.screen(1280, 900, false).await;
    browser.open(&format!("http://{}/", hub.admin)).await;
    browser
        .until(
            "the first status",
            "document.querySelector('#uplink-since').innerText !== ''",
        )
        .await;
}

/// A hub without a broker, which is all that serving the page takes.
async fn lonely_hub(dir: &Path) -> Hub {
    Hub::start(dir, &settings(dir, free_port())).await
}

#[tokio::test]
async fn hostile_text_stays_text_and_breaks_nothing() {
    let Some(mut browser) = Browser::start().await else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let hub = lonely_hub(dir.path()).await;
    let evil = [
        "<img src=x onerror=\"window.caught=1\">",
        "<script>window.caught=1</script>",
        "\u{202e}\u{2066}evil\u{200f}\u{2028}",
        "a\u{0}b\u{7}c\nd\te\u{1b}[31m",
        "javascript:window.caught=1",
        "\"'`><svg onload=window.caught=1>{{1}}${1}",
        "Z\u{301}\u{302}\u{303}\u{304}\u{305}\u{306}\u{307}\u{308}\u{309}\u{30a}\u{30b}",
    ];
    let mut evil: Vec<String> = evil.map(str::to_owned).to_vec();
    evil.push("W".repeat(5_000));
    evil.push("x/".repeat(2_500));
    let prepare = format!(
        "const evil = {};
         fake.hello.hub = evil.join('');
         fake.status.uplink.state = 'down';
         fake.status.uplink.last_error = evil.join(' ');
         fake.devices = evil.map((text, i) => fake.device(text, {{
           state: i % 2 ? 'online' : 'offline', lost: true, reason: text, remote: text,
           model: text, firmware: text, stream: text }}));
         const kinds = evil.map((text) => ({{ name: text, unit: text, value: text }}));
         kinds.push(...evil.map((text, i) => ({{ name: text, unit: text, value: i }})));
         fake.page.last = kinds.map((kind) => ({{ device: '', received: 1, time: 1, ...kind }}));
         fake.page.history = evil.map((text, i) => ({{ time: i, state: text, reason: text }}));",
        json!(evil)
    );
    faked(&browser, &hub, &prepare).await;
    let count = evil.len();
    let sound = async |browser: &Browser, what: &str| {
        let found = browser
            .eval(
                "const wild = document.querySelectorAll('main img, main script, main iframe');
                 const handlers = Array.from(document.querySelectorAll('*'))
                   .flatMap((node) => node.getAttributeNames().filter((name) => name.startsWith('on')));
                 const links = Array.from(document.links).filter((a) => new URL(a.href).origin !== location.origin);
                 const seen = document.body.innerText.match(/[\\u0000-\\u0008\\u202a-\\u202e\\u2066-\\u2069\\u200b-\\u200f]/g);
                 return { caught: window.caught ?? null, wild: wild.length, handlers, links: links.length, seen,
                   wide: document.documentElement.scrollWidth - innerWidth };",
            )
            .await;
        let expected = json!({"caught": null, "wild": 0, "handlers": [], "links": 0, "seen": null});
        for (key, value) in expected.as_object().unwrap() {
            assert_eq!(&found[key], value, "{what}: {key}");
        }
        // Nothing reaches out of the window.
        assert!(found["wide"].as_i64().unwrap() <= 0, "{what}: {found}");
    };
    let rows = format!("document.querySelectorAll('#devices tbody tr').length === {count}");
    browser.until("all rows", &rows).await;
    browser.until_text("#devices tbody", "<img src=x").await;
    sound(&browser, "overview").await;
    browser.picture(&screenshot("hostile")).await;
    browser.screen(390, 844, true).await;
    sound(&browser, "overview on a phone").await;
    // No row is higher than two lines, whatever is in it.
    let highest = browser
        .eval("return Math.max(...Array.from(document.querySelectorAll('#devices tbody tr'), (row) => row.offsetHeight))")
        .await;
    assert!(highest.as_f64().unwrap() < 80.0, "{highest}");
    for i in 0..count {
        let go = format!(
            "location.hash = document.querySelectorAll('#devices tbody a')[{i}].getAttribute('href')"
        );
        browser.eval(&go).await;
        let cards = format!(
            "document.querySelectorAll('.series').length === {} && document.querySelectorAll('.history tbody tr').length === {count}",
            // Equal names and units are one series.
            count
        );
        browser.until("the device's page", &cards).await;
        sound(&browser, &format!("device {i}")).await;
    }
    browser.screen(1280, 900, false).await;
    sound(&browser, "device, wide").await;
    browser.picture(&screenshot("hostile-device")).await;
    assert_eq!(browser.complaints().await, [""; 0]);
}

#[tokio::test]
async fn the_table_is_sorted_and_filtered_by_keyboard_and_holds_a_thousand_devices() {
    let Some(mut browser) = Browser::start().await else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let hub = lonely_hub(dir.path()).await;
    let prepare = "fake.devices = Array.from({ length: 1000 }, (_, i) => fake.device(`sensor-${i}`,
          { last_seen: Date.now() / 1000 - 90000, last_reading: Date.now() / 1000 - 90000, rejected: i % 7 === 3 ? i : 0, rtt_ms: (i * 37) % 100, state: i % 100 === 50 ? 'offline' : 'online', lost: i % 100 === 50, reason: i % 100 === 50 ? 'ping timeout' : 'connected' }));
        fake.status.devices = { connected: 990, known: 1000, evicted: 10 };";
    faked(&browser, &hub, prepare).await;
    let rows = |n: u32| format!("document.querySelectorAll('#devices tbody tr').length === {n}");
    let first = "#devices tbody tr a";
    browser.until("all rows", &rows(1000)).await;
    // Those that are not well come first, in the order of their numbers.
    browser.until_text(first, "sensor-50").await;
    browser.picture(&screenshot("thousand")).await;

    let settled = "Array.from(document.querySelectorAll('#devices tbody [data-state=online] .c-rate')).every((cell) => cell.textContent === '0')";
    browser.until("rates", settled).await;

    // Three devices change: nobody else's row is touched.
    let touched = browser
        .eval_async(
            "const done = arguments[0];
             const rows = new Set();
             new MutationObserver((all) => { for (const one of all) { const node = one.target.nodeType === 1 ? one.target : one.target.parentElement; rows.add(node.closest('tr')?.dataset.id ?? 'the table'); } })
               .observe(document.querySelector('#devices tbody'), { subtree: true, childList: true, characterData: true, attributes: true });
             for (const i of [1, 500, 999]) fake.tell('device', { ...fake.devices[i], rejected: 7777 });
             setTimeout(() => done(Array.from(rows).sort()), 1500);",
        )
        .await;
    assert_eq!(touched, json!(["sensor-1", "sensor-500", "sensor-999"]));

    // Every device changes every second, as it may at worst: five thousand events, which are
    // painted four times a second at most, by the page's own clock. What that costs its thread is
    // printed, and depends on the machine.
    let cpu = async || {
        let metrics = browser.devtools("Performance.getMetrics", json!({})).await;
        let metrics = metrics["metrics"].as_array().unwrap().clone();
        let of = |name: &str| {
            let metric = metrics.iter().find(|metric| metric["name"] == name);
            metric.unwrap()["value"].as_f64().unwrap()
        };
        (
            of("TaskDuration"),
            of("ScriptDuration"),
            of("LayoutDuration"),
        )
    };
    browser
        .devtools("Performance.enable", json!({"timeDomain": "threadTicks"}))
        .await;
    let before = cpu().await;
    let painted = browser
        .eval_async(
            "const done = arguments[0];
             let round = 0;
             let paints = 0;
             const began = performance.now();
             new MutationObserver(() => { paints += 1; })
               .observe(document.querySelector('#devices tbody'), { subtree: true, childList: true, characterData: true, attributes: true });
             const timer = setInterval(() => {
               round += 1;
               for (const device of fake.devices) fake.tell('device', { ...device, readings: round * 10, last_seen: Date.now() / 1000, rtt_ms: round });
               if (round === 5) { clearInterval(timer); setTimeout(() => done([paints, (performance.now() - began) / 1000]), 1000); }
             }, 1000);",
        )
        .await;
    let after = cpu().await;
    let second = |before: f64, after: f64| (after - before) / 6.0;
    let all = second(before.0, after.0);
    eprintln!(
        "a thousand devices that change every second: {all:.3} s of CPU a second, scripts {:.3}, layout {:.3}",
        second(before.1, after.1),
        second(before.2, after.2)
    );
    let (paints, seconds) = (painted[0].as_f64().unwrap(), painted[1].as_f64().unwrap());
    assert!((1.0..=4.0 * seconds + 2.0).contains(&paints), "{painted}");

    // Sorting by keyboard: from the filter with Tab into the header of the table.
    browser
        .eval("document.querySelector('#filter').focus()")
        .await;
    browser.press(&[TAB, ENTER]).await;
    browser.until_text(first, "sensor-0").await;
    browser.press(&[ENTER]).await;
    browser.until_text(first, "sensor-999").await;
    let sort = "document.querySelector('th[aria-sort]').dataset.key + ' ' + document.querySelector('th[aria-sort]').ariaSort";
    assert_eq!(
        browser.eval(&format!("return {sort}")).await,
        "id descending"
    );
    browser.press(&[TAB, TAB, TAB, TAB, TAB, ENTER]).await;
    browser
        .until(
            "the most rejects first",
            "document.querySelector('#devices tbody .c-rejected').innerText === '997'",
        )
        .await;
    assert_eq!(
        browser.eval(&format!("return {sort}")).await,
        "rejected descending"
    );

    // Filtering by keyboard.
    browser
        .eval("document.querySelector('#filter').focus()")
        .await;
    let typed: Vec<String> = "sensor-99".chars().map(String::from).collect();
    browser
        .press(&typed.iter().map(String::as_str).collect::<Vec<_>>())
        .await;
    browser.until("sensor-99 and 990 to 999", &rows(11)).await;
    browser.until_text("#announcer", "11 devices shown").await;
    browser.eval("document.querySelector('#filter').value = ''; document.querySelector('#filter').dispatchEvent(new Event('input'))").await;
    browser
        .eval("document.querySelector('input[name=state]').focus()")
        .await;
    browser.press(&[RIGHT]).await;
    browser.until("the offline ones", &rows(10)).await;

    // A row is opened by keyboard, and the focus goes with it.
    browser
        .eval("document.querySelector('#devices tbody a').focus()")
        .await;
    browser.press(&[ENTER]).await;
    browser
        .until(
            "the focus on the heading",
            "document.activeElement.matches('#device h1')",
        )
        .await;
    assert_eq!(browser.complaints().await, [""; 0]);
}

#[tokio::test]
async fn numbers_and_verdicts_are_written_as_people_read_them() {
    let Some(mut browser) = Browser::start().await else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let hub = lonely_hub(dir.path()).await;
    faked(&browser, &hub, "").await;
    // Each expression is evaluated with the functions of the page's own modules.
    let cases = [
        ("format.duration(59.4)", "59 s"),
        ("format.duration(3599)", "59 min"),
        ("format.duration(8040)", "2 h 14 min"),
        ("format.duration(3 * 86400 + 4 * 3600)", "3 d 4 h"),
        ("format.duration(NaN)", "–"),
        ("format.ago(-5)", "now"),
        ("format.ago(47)", "40 s"),
        ("format.estimate(0.4)", "under 10 s"),
        ("format.estimate(31)", "about 40 s"),
        ("format.estimate(150)", "about 2 min"),
        ("format.bytes(0)", "0\u{a0}B"),
        ("format.bytes(1000)", "1,000\u{a0}B"),
        ("format.bytes(1 << 30)", "1.0\u{a0}GiB"),
        ("format.rate(null)", "–"),
        ("format.rate(0.05)", "3.0/min"),
        ("format.rate(1234)", "1,234/s"),
        ("format.milliseconds(0.31)", "0.3 ms"),
        ("format.value(0.00001)", "1.000e-5"),
        ("format.value(-21.53)", "-21.53"),
        ("format.value(null)", "null"),
        ("format.value({ a: [1] })", "{\"a\":[1]}"),
        ("format.clean('a\\u202eb\\u0000c')", "a·b·c"),
        ("format.clean('abcdef', 4)", "abc…"),
        ("shown('Cel', 23.5)", "23.5 °C"),
        ("shown('B', 75.39e9)", "70.21 GiB"),
        ("shown('/', 0.68)", "68 %"),
        ("shown('m3', 4)", "4 m³"),
        ("shown('Pa', 101325)", "1,013 hPa"),
        ("shown('furlong', 3)", "3 furlong"),
        ("format.number(75.39e9)", "75,390,000,000"),
        ("span.likely(1.79e12, 1.79e9)", "it looks like milliseconds"),
        ("span.plausible(1.79e12, 1.79e9)", "false"),
        ("span.window(5, 5).join()", "-25,35"),
        ("axis(19, 23)", "19 20 21 22 23"),
        ("axis(0, 0)", "-0.4 -0.2 0 0.2 0.4"),
        (
            "axis(20, 20.000000000000004)",
            "19.998 19.999 20 20.001 20.002",
        ),
        ("verdict({ state: 'connected' }, {})", "ok All is well"),
        (
            "verdict({ state: 'connected' }, { batches: 1, drain_eta: null })",
            "busy Catching up",
        ),
        (
            "verdict({ state: 'connecting' }, {})",
            "warn Connecting to the broker",
        ),
        (
            "verdict({ state: 'connecting', last_error: 'x' }, {})",
            "warn The uplink is down",
        ),
        (
            "verdict({ state: 'down' }, { state: 'full' })",
            "bad The spool is full",
        ),
        (
            "verdict({ state: 'connected' }, { state: 'failed' })",
            "bad The spool cannot be written",
        ),
        (
            "verdict({ state: 'connected' }, { state: 'unusable' })",
            "bad The spool cannot be used",
        ),
        (
            "verdict({ state: 'connecting', twins: true }, {})",
            "bad Another hub has the id barn",
        ),
        (
            "values.brief('a', { name: 'a/t', unit: 'Cel', value: 21.5 })",
            "t 21.5\u{a0}°C",
        ),
        (
            "values.brief('a', { name: 'ab', unit: null, value: true })",
            "ab on",
        ),
        (
            "values.brief('a', { name: 'a', unit: 'furlong', value: 'x\\u202ey' })",
            "a x·y",
        ),
        (
            "verdict({ state: 'connected' }, {}, { silent: [{ id: 'a', silent: true, since: 0, usual: 1 }] })",
            "warn One device is silent",
        ),
        (
            "verdict({ state: 'connected' }, {}, { gone: 1, unseen: 1 })",
            "ok All is well",
        ),
        (
            "model.trouble({ silent: true, since: 0, last_reading: 10, usual: 0.2 }, 310)",
            "no reading for 5 min, usually every 1 s",
        ),
        // Two readings a second for ten seconds, then none.
        ("speed([[0, 100], [5000, 110], [10000, 120]], 10000)", "2"),
        ("speed([[0, 100], [10000, 120]], 20000)", "1"),
        // A counter that began anew.
        ("speed([[0, 100], [5000, 4], [7000, 8]], 7000)", "2"),
        ("speed([[0, 100]], 500)", "null"),
    ];
    let script = format!(
        "const done = arguments[0];
         Promise.all(['format', 'model', 'span', 'units', 'values'].map((name) => import(`/${{name}}.js`))).then(([format, model, span, units, values]) => {{
           const shown = (unit, v) => {{ const s = units.scale(unit, v); return `${{format.scaled(v, s.by)}} ${{s.sign}}`; }};
           const axis = (low, high) => span.axis(low, high).marks.map((mark) => format.number(mark.v)).join(' ');
           const verdict = (uplink, spool, sum) => {{
             const said = model.verdict({{ hub: 'barn', uplink: {{ since: 0, last_error: null, ...uplink }}, spool: {{ state: 'ok', batches: 0, drain_eta: 0, ...spool }} }}, {{ online: 2, lost: [], silent: [], unseen: 0, gone: 0, ...sum }}, 10);
             return said.level + ' ' + said.head;
           }};
           const speed = (samples, now) => {{
             const rate = new model.Rate();
             for (const [at, n] of samples) rate.add(n, at);
             return String(rate.perSecond(now));
           }};
           done([{}].map(String));
         }});",
        cases.map(|(expression, _)| expression).join(", ")
    );
    let said = browser.eval_async(&script).await;
    for ((expression, expected), said) in cases.iter().zip(said.as_array().unwrap()) {
        assert_eq!(said, expected, "{expression}");
    }
    assert_eq!(browser.complaints().await, [""; 0]);
}

#[tokio::test]
async fn any_two_numbers_make_an_axis_that_can_be_drawn() {
    let Some(browser) = Browser::start().await else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let hub = lonely_hub(dir.path()).await;
    browser.open(&format!("http://{}/", hub.admin)).await;
    // Pairs of doubles of every size, those one unit in the last place apart among them.
    let found = browser
        .eval_async(
            "const done = arguments[0];
             import('/span.js').then(({ axis }) => {
               let seed = 12345;
               const word = () => ((seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0) ^ (seed >>> 15)) >>> 0;
               const view = new DataView(new ArrayBuffer(8));
               const any = () => { view.setUint32(0, word()); view.setUint32(4, word()); return view.getFloat64(0); };
               const next = (v) => { view.setFloat64(0, v); view.setUint32(4, view.getUint32(4) + 1); return view.getFloat64(0); };
               const wrong = [];
               const check = (a, b) => {
                 const [low, high] = a <= b ? [a, b] : [b, a];
                 const { place, marks } = axis(low, high);
                 const ends = [place(low), place(high)];
                 const inside = (at) => at >= 0 && at <= 1;
                 const ascending = marks.every((mark, i) => i === 0 || (mark.place > marks[i - 1].place && mark.v > marks[i - 1].v));
                 const finite = marks.every((mark) => Number.isFinite(mark.v) && inside(mark.place));
                 const tiny = Math.max(Math.abs(low), Math.abs(high)) < 1e-290;
                 const enough = tiny || (marks.length >= 2 && marks.length <= 6);
                 if (!(ends.every(inside) && ends[0] <= ends[1] && ascending && finite && enough)) wrong.push([low, high, marks]);
               };
               for (let i = 0; i < 20000; i += 1) {
                 const [a, b] = [any(), any()];
                 if (!Number.isFinite(a) || !Number.isFinite(b)) continue;
                 check(a, b); check(a, next(a)); check(a, a); check(-a, a); check(0, Math.abs(a));
               }
               for (const odd of [NaN, Infinity, -Infinity]) axis(odd, odd);
               done(wrong.slice(0, 3).map((one) => JSON.stringify(one)));
             });",
        )
        .await;
    assert_eq!(found, json!([]));
}

#[tokio::test]
async fn a_page_of_numbers_that_no_sensor_should_send_is_drawn_and_says_what_is_odd() {
    let Some(mut browser) = Browser::start().await else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let hub = lonely_hub(dir.path()).await;
    let prepare = "const now = Date.now() / 1000;
        fake.devices = [fake.device('odd', {})];
        const reading = (name, value, time = now - 1) => ({ name, unit: null, value, time, received: now });
        fake.page.last = [reading('ulp', 20.0), reading('ulp', 20.000000000000004), reading('huge', 1.7e308), reading('huge', -1.7e308),
          reading('counter', 9007199254740991), reading('counter', 9007199254740992), reading('micro', 1, now * 1e6), reading('milli', 2, now * 1e3),
          reading('one', 5), reading('tiny', 5e-324), reading('door', true), reading('door', false, now)];";
    faked(&browser, &hub, prepare).await;
    // All of them on the screen: plots outside of it are not drawn.
    browser.screen(1280, 2000, false).await;
    browser.eval("location.hash = '#/device/odd'").await;
    let drawn = "document.querySelectorAll('.plot canvas').length === 7";
    browser.until("every plot", drawn).await;
    browser
        .until_text(".odd", "it looks like milliseconds")
        .await;
    browser.until_text(".odd", "2 readings").await;
    browser.picture(&screenshot("odd-numbers")).await;
    assert_eq!(browser.complaints().await, [""; 0]);
}

/// axe-core from npm, or why it is not there.
fn axe() -> Result<String, String> {
    const VERSION: &str = "4.14.1";
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("axe-core-{VERSION}"));
    let file = dir.join("package/axe.min.js");
    if !file.exists() {
        std::fs::create_dir_all(&dir).map_err(|error| error.to_string())?;
        let package = format!("axe-core@{VERSION}");
        for (program, args) in [
            ("npm", vec!["pack", "--silent", &package]),
            ("tar", vec!["xzf", &format!("axe-core-{VERSION}.tgz")]),
        ] {
            let run = Command::new(program)
                .args(args)
                .current_dir(&dir)
                .output()
                .map_err(|error| format!("{program}: {error}"))?;
            if !run.status.success() {
                return Err(String::from_utf8_lossy(&run.stderr).into_owned());
            }
        }
    }
    std::fs::read_to_string(&file).map_err(|error| error.to_string())
}

#[tokio::test]
async fn the_page_is_accessible_in_light_and_dark() {
    let Some(browser) = Browser::start().await else {
        return;
    };
    let axe = match axe() {
        Ok(axe) => axe,
        Err(why) => {
            return not_tested(&format!(
                "accessibility of the dashboard (axe-core from npm): {why}"
            ));
        }
    };
    let dir = tempfile::tempdir().unwrap();
    let hub = lonely_hub(dir.path()).await;
    let prepare = "fake.devices = ['barn', 'boiler', 'gate'].map((id, i) => fake.device(id, { rejected: i, state: i === 2 ? 'offline' : 'online', lost: i === 2, reason: i === 2 ? 'ping timeout' : 'connected' }));
        fake.status.spool = { ...fake.status.spool, batches: 1200, disk_bytes: 90_000_000, oldest: Date.now() / 1000 - 600, drain_eta: 60 };
        fake.page.history = [{ time: Date.now() / 1000 - 80, state: 'online', reason: 'connected' }, { time: Date.now() / 1000 - 70, state: 'offline', reason: 'ping timeout' }];
        fake.page.last = [1, 2, 3].map((i) => ({ received: 1e9 + i, time: 1e9 + i, name: 'temperature', unit: 'Cel', value: 20 + i }));
        fake.page.last.push({ received: 1e9, time: 1e9, name: 'door', unit: null, value: true });";
    faked(&browser, &hub, prepare).await;
    let check = async |what: &str| {
        // Colours change over time where a transition is under way; there is none here.
        let script = format!(
            "{axe};
             const done = arguments[0];
             axe.run(document, {{ runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice'] }})
               .then((result) => done({{ passes: result.passes.length,
                 violations: result.violations.map((one) => ({{ id: one.id, help: one.help, nodes: one.nodes.map((node) => node.html + ' ' + node.failureSummary) }})) }}));"
        );
        let result: Value = browser.eval_async(&script).await;
        assert_eq!(result["violations"], json!([]), "{what}: {result:#}");
        // It did look.
        assert!(result["passes"].as_u64().unwrap() > 15, "{result}");
    };
    let outage = "fake.status.uplink.state = 'down'; fake.status.uplink.last_error = 'connection refused'; fake.tell('status', fake.status)";
    let back = "fake.status.uplink.state = 'connected'; fake.tell('status', fake.status)";
    for (dark, name) in [(false, "light"), (true, "dark")] {
        browser.scheme(dark).await;
        for (width, phone) in [(1280, false), (390, true)] {
            let size = if phone { "phone" } else { "wide" };
            browser.screen(width, 900, phone).await;
            browser.eval("location.hash = '#/'").await;
            browser.until_text("#verdict-head", "Catching up").await;
            check(&format!("overview {name} {size}")).await;
            browser
                .picture(&screenshot(&format!("{size}-{name}")))
                .await;
            browser.eval(outage).await;
            browser
                .until_text("#verdict-head", "The uplink is down")
                .await;
            check(&format!("outage {name} {size}")).await;
            browser
                .picture(&screenshot(&format!("{size}-{name}-outage")))
                .await;
            browser.eval(back).await;
            browser.eval("location.hash = '#/device/gate'").await;
            browser
                .until(
                    "a plot",
                    "document.querySelector('.plot')?.dataset.points > 2",
                )
                .await;
            check(&format!("device {name} {size}")).await;
            browser
                .picture(&screenshot(&format!("{size}-{name}-device")))
                .await;
        }
    }
}

/// The token as a password, as a browser sends it.
const TOKEN: &str = "0123456789abcdef";

#[tokio::test]
async fn a_device_is_commanded_from_its_page_by_the_names_that_it_takes_and_by_nobody_without_a_token()
 {
    let Some(mut browser) = Browser::start().await else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let broker = Mosquitto::start(dir.path());
    let (registry, token) = (dir.path().join("devices.toml"), dir.path().join("token"));
    let entries = entry("lamp", "commands = [\"on\", \"off\"]")
        + &entry("pump", "commands = [\"set-*\"]")
        + &entry("mute", "");
    std::fs::write(&registry, entries).unwrap();
    std::fs::write(&token, TOKEN).unwrap();
    let text = config(
        dir.path(),
        broker.port,
        "[commands]\nenabled = true\nadmin = true\n",
    )
    .replace(
        "auth = \"open\"",
        &format!("auth = \"token\"\nregistry = {registry:?}"),
    )
    .replace("[admin]", &format!("[admin]\ntoken_file = {token:?}"));
    let hub = Hub::start(dir.path(), &text).await;
    let mut lamp = Device::with_token(hub.address, "lamp", "lamp").await;
    lamp.send(json!({"hello": {}})).await;
    assert!(lamp.receive().await.unwrap()["welcome"].is_object());
    let _pump = Device::with_token(hub.address, "pump", "pump").await;
    let _mute = Device::with_token(hub.address, "mute", "mute").await;

    // The browser keeps the password for the site, as it does once somebody has typed it.
    browser
        .open(&format!("http://any:{TOKEN}@{}", hub.admin))
        .await;
    browser.until_text("#devices tbody", "lamp").await;
    let page = format!("http://{}/#/device/lamp", hub.admin);
    browser.open("about:blank").await;
    browser.open(&page).await;
    browser.until_text("#device .commands h2", "Commands").await;
    let names = "[...document.querySelectorAll('.commands option')].map((o) => o.value).join()";
    browser
        .until("the names", &format!("{names} === 'on,off'"))
        .await;
    // What is no JSON is not sent.
    let fill = |args: &str| {
        format!(
            "const form = document.querySelector('.commands form');\
             form.querySelector('.args').value = {args:?};\
             form.requestSubmit();"
        )
    };
    browser.eval(&fill("{nonsense")).await;
    browser.until_text(".commands .outcome", "no JSON").await;
    browser
        .eval(&fill("{\"level\": 12345678901234567890}"))
        .await;
    let message = lamp.receive().await.unwrap();
    let asked = &message["command"];
    assert_eq!(asked["name"], "on");
    assert_eq!(
        asked["args"]["level"],
        json!(12_345_678_901_234_567_890_u64)
    );
    let hostile = "<img src=x onerror=alert(1)>\u{202e}";
    lamp.send(json!({"result": {"id": asked["id"], "ok": true, "value": hostile}}))
        .await;
    browser.until_text(".commands .outcome", "on: done").await;
    browser.until_text(".commands .outcome", "<img src=x").await;
    browser.until_text(".commands tbody", "admin").await;
    browser.picture(&screenshot("commands")).await;
    browser.screen(360, 640, true).await;
    browser.picture(&screenshot("commands-phone")).await;

    // Where patterns are allowed there is a free field; where nothing is, there is nothing.
    browser.eval("location.hash = '#/device/pump'").await;
    let field = "document.querySelector('.commands label input')?.placeholder === 'set-*'";
    browser.until("a free field", field).await;
    browser.eval("location.hash = '#/device/mute'").await;
    browser.until_text("#device h1", "mute").await;
    let hidden = "document.querySelector('#device .commands')?.hidden === true";
    browser.until("no form", hidden).await;
    assert_eq!(browser.complaints().await, Vec::<String>::new());
}
