#![allow(clippy::unwrap_used)]
use std::time::Duration;

use proptest::prelude::*;

use super::*;

fn id(device: &str) -> Arc<str> {
    device.into()
}

fn following(devices: &[&str]) -> Core {
    let mut core = Core::default();
    assert_eq!(
        core.allow(devices.iter().map(|device| id(device)).collect()),
        0
    );
    core.begin(Instant::now());
    core
}

fn given(given: Result<Option<Give>, Skip>) -> Option<String> {
    given.unwrap().map(|given| given.map.get().to_owned())
}

const ANY: fn(&Arc<str>) -> bool = |_| true;

#[test]
fn a_device_is_told_once_on_each_connection_and_when_it_changes() {
    let (mut core, lamp) = (following(&["lamp"]), id("lamp"));
    assert_eq!(given(core.arrived("lamp", br#"{"on": true}"#)), None);
    let on = Some(r#"{"on":true}"#.to_owned());
    assert_eq!(given(core.online(&lamp, 1, 1_000)), on);
    // The same again, after a reconnect of the uplink too, is no change.
    assert_eq!(given(core.arrived("lamp", br#"{"on":true}"#)), None);
    core.begin(Instant::now());
    assert_eq!(given(core.arrived("lamp", br#"{"on":true}"#)), None);
    let off = Some(r#"{"on":false}"#.to_owned());
    assert_eq!(given(core.arrived("lamp", br#"{"on": false}"#)), off);
    // A second hello, and a second connection; the end of the first one is no end of that.
    assert_eq!(given(core.online(&lamp, 1, 1_000)), off);
    assert_eq!(given(core.online(&lamp, 2, 1_000)), off);
    core.offline("lamp", 1);
    assert_eq!(given(core.arrived("lamp", b"{}")), Some("{}".to_owned()));
    core.offline("lamp", 2);
    assert_eq!(given(core.arrived("lamp", br#"{"on":true}"#)), None);
    core.check();
}

#[test]
fn what_was_taken_away_is_not_told_to_whoever_comes_later() {
    let (mut core, lamp) = (following(&["lamp"]), id("lamp"));
    core.arrived("lamp", b"{\"on\":true}").unwrap();
    assert_eq!(given(core.arrived("lamp", b"")), None);
    assert_eq!(given(core.online(&lamp, 1, 1_000)), None);
    // Nor what was taken away while the broker was away: it does not come again.
    core.arrived("lamp", b"{\"on\":true}").unwrap();
    core.begin(Instant::now());
    assert_eq!(given(core.online(&lamp, 2, 1_000)), None);
}

#[test]
fn what_is_no_state_is_passed_over_and_the_one_before_it_stays() {
    let (mut core, lamp) = (following(&["lamp"]), id("lamp"));
    core.arrived("lamp", br#"{"on":true}"#).unwrap();
    let deep = format!("{{\"a\":{}1{}}}", "[".repeat(200), "]".repeat(200));
    let large = format!("{{\"a\":\"{}\"}}", "x".repeat(MAX_STATE));
    for (payload, skip) in [
        (&b"nonsense"[..], Skip::Malformed),
        (b"[]", Skip::Malformed),
        (b"7", Skip::Malformed),
        (b"null", Skip::Malformed),
        (b"{\"a\":NaN}", Skip::Malformed),
        (b"{\"a\":1,\"a\":2}", Skip::Malformed),
        (b"{\"a\":1}{}", Skip::Malformed),
        (b"\xa1\x61a\x01", Skip::Malformed),
        (b"\xff\xfe", Skip::Malformed),
        (deep.as_bytes(), Skip::Malformed),
        (large.as_bytes(), Skip::TooLarge),
    ] {
        assert_eq!(core.arrived("lamp", payload).err(), Some(skip));
    }
    for other in ["pump", "", "lamp/x"] {
        assert_eq!(core.arrived(other, b"{}").err(), Some(Skip::Forbidden));
    }
    assert!(core.complain("lamp") && !core.complain("lamp"));
    // More than the device can take.
    assert_eq!(core.online(&lamp, 1, 50).err(), Some(Skip::TooLarge));
    assert_eq!(
        given(core.online(&lamp, 1, 500)),
        Some(r#"{"on":true}"#.to_owned())
    );
    core.arrived("lamp", b"{}").unwrap();
    assert!(core.complain("lamp"), "one was good");
}

#[test]
fn whoever_is_no_longer_followed_is_unsubscribed_and_may_not_report() {
    let mut core = following(&["lamp", "pump"]);
    let lamp = id("lamp");
    core.online(&lamp, 1, 1_000).unwrap();
    assert_eq!(core.next_subscription(), Some(lamp.clone()));
    assert!(core.reported(Instant::now(), &lamp, Bytes::from_static(b"{}")));
    core.allow(BTreeSet::new());
    core.check();
    // The pump's was not made yet.
    assert_eq!(core.next_subscription(), None);
    assert_eq!(core.next_unsubscription(), Some(lamp.clone()));
    assert_eq!(core.next_unsubscription(), None);
    assert!(!core.reported(Instant::now(), &lamp, Bytes::from_static(b"{}")));
    assert!(core.all_reported());
    // And back again, while it is connected.
    core.allow([lamp.clone()].into());
    assert_eq!(core.next_subscription(), Some(lamp));
    assert!(given(core.arrived("lamp", b"{}")).is_some());
}

#[test]
fn no_more_are_followed_than_the_bound() {
    let mut core = Core::default();
    let devices = (0..FOLLOWED + 10).map(|n| format!("d{n:05}").into());
    assert_eq!(core.allow(devices.collect()), 10);
    core.begin(Instant::now());
    assert_eq!(
        std::iter::from_fn(|| core.next_subscription()).count(),
        FOLLOWED
    );
}

#[test]
fn of_many_reports_the_last_is_published_and_no_more_than_one_a_second() {
    let (mut core, lamp) = (following(&["lamp"]), id("lamp"));
    let mut now = Instant::now();
    let mut published = 0;
    for n in 0..10_000_u32 {
        assert!(core.reported(now, &lamp, Bytes::from(n.to_string())));
        if let Some(report) = core.next_report(now, false, ANY) {
            published += 1;
            core.settled(now, &lamp, report.version);
        }
        core.check();
        now += Duration::from_millis(1);
    }
    assert_eq!(published, 10);
    // At the end nothing is held back.
    let last = core.next_report(now, true, ANY).unwrap();
    assert_eq!(last.payload, "9999");
    assert!(!core.all_reported());
    core.settled(now, &lamp, last.version);
    assert!(core.all_reported() && core.next_due().is_none());
}

#[test]
fn what_the_broker_has_not_acknowledged_goes_again_unless_something_newer_is_there() {
    let (mut core, lamp) = (following(&["lamp"]), id("lamp"));
    let now = Instant::now();
    core.reported(now, &lamp, Bytes::from_static(b"1"));
    let first = core.next_report(now, false, ANY).unwrap();
    assert_eq!(core.next_report(now, true, ANY), None);
    core.begin(now);
    let again = core.next_report(now, true, ANY).unwrap();
    assert_eq!(again, first);
    core.reported(now, &lamp, Bytes::from_static(b"2"));
    core.begin(now);
    let newer = core.next_report(now, true, ANY).unwrap();
    assert_eq!(newer.payload, "2");
    // An old acknowledgement says nothing of it.
    core.settled(now, &lamp, first.version);
    assert!(!core.all_reported());
    core.settled(now, &lamp, newer.version);
    assert!(core.all_reported());
}

proptest! {
    #[test]
    fn in_the_end_the_broker_has_the_last_report_of_each_device(
        steps in proptest::collection::vec((0..4u8, 0..3usize), 1..200),
    ) {
        let names = ["a", "b", "c"];
        let mut core = following(&names);
        let mut now = Instant::now();
        let mut out: Vec<Report> = Vec::new();
        let mut said: HashMap<Arc<str>, Bytes> = HashMap::new();
        let mut broker: HashMap<Arc<str>, Bytes> = HashMap::new();
        for (n, (step, device)) in steps.into_iter().enumerate() {
            match step {
                0 => {
                    let payload = Bytes::from(n.to_string());
                    said.insert(id(names[device]), payload.clone());
                    core.reported(now, &id(names[device]), payload);
                }
                1 => out.extend(core.next_report(now, false, ANY)),
                2 if !out.is_empty() => {
                    let report = out.remove(0);
                    broker.insert(report.device.clone(), report.payload);
                    core.settled(now, &report.device, report.version);
                }
                3 => {
                    out.clear();
                    core.begin(now);
                }
                _ => now += Duration::from_millis(400),
            }
            core.check();
            let mut devices: Vec<_> = out.iter().map(|report| &report.device).collect();
            devices.dedup();
            prop_assert_eq!(devices.len(), out.len(), "one of a device at a time");
        }
        for report in out.drain(..) {
            broker.insert(report.device.clone(), report.payload);
            core.settled(now, &report.device, report.version);
        }
        while let Some(report) = core.next_report(now, true, ANY) {
            broker.insert(report.device.clone(), report.payload);
            core.settled(now, &report.device, report.version);
        }
        prop_assert!(core.all_reported());
        prop_assert_eq!(broker, said);
    }
}
