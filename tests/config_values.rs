//! What a valid configuration means: defaults, warnings, and the form that `check` prints.
#![allow(clippy::unwrap_used, missing_docs)]

use std::collections::BTreeSet;
use std::time::Duration;

use proptest::prelude::*;
use telehub::config::{
    self, Admin, Auth, Broker, Config, CrlExpiry, Deadband, DeviceTls, DrainOrder, Format,
    LogFormat, LogLevel, MqttVersion, Overflow, ReduceRule, SpoolWrite, TopicDots, UplinkTls,
};

fn read(text: &str) -> Config {
    config::parse(text, "telehub.toml").unwrap().config
}

#[test]
fn an_empty_file_means_the_defaults_of_the_contract() {
    let config = read("");
    assert!(config::is_id(&config.hub.id));
    let devices = &config.devices;
    assert_eq!(devices.listen, "127.0.0.1:8787".parse().unwrap());
    assert_eq!(devices.auth, Auth::Token);
    assert_eq!(
        devices.registry.to_str(),
        Some("/var/lib/telehub/devices.toml")
    );
    assert_eq!(devices.ping_interval, Duration::from_secs(20));
    assert_eq!(devices.ping_timeout, Duration::from_secs(10));
    assert_eq!(devices.handshake_timeout, Duration::from_secs(5));
    assert_eq!(
        (devices.max_connections, devices.max_message),
        (1024, 65_536)
    );
    assert_eq!((devices.max_rate, devices.window), (100, 32));
    assert_eq!(devices.max_ids, 10_000);
    assert_eq!(
        (devices.max_bytes, devices.max_readings),
        (256 << 10, 5_000)
    );
    assert!(devices.origins.is_empty());
    assert_eq!(devices.tls, None);
    let spool = &config.spool;
    assert_eq!(spool.path.to_str(), Some("/var/lib/telehub/spool"));
    assert_eq!(
        (spool.write, spool.overflow),
        (SpoolWrite::Outage, Overflow::DropOldest)
    );
    assert_eq!((spool.max_size, spool.min_free), (1 << 30, 256 << 20));
    assert_eq!(spool.max_age, Duration::from_secs(30 * 86_400));
    assert_eq!(spool.commit_interval, Duration::ZERO);
    let uplink = &config.uplink;
    assert_eq!(
        uplink.brokers,
        [Broker {
            host: "localhost".into(),
            port: 1883,
            tls: None
        }]
    );
    assert_eq!(uplink.version, MqttVersion::Auto);
    assert_eq!(uplink.return_after, Duration::from_secs(300));
    assert_eq!(uplink.max_payload, 1 << 20);
    assert_eq!(uplink.client_id, format!("telehub-{}", config.hub.id));
    let values = &config.values;
    assert!(!values.enabled && values.retain && !values.plain);
    assert_eq!(values.max_rate, 1);
    assert!(!config.homeassistant.discovery);
    let commands = &config.commands;
    assert!(!commands.enabled && commands.response_prefixes.is_empty() && !commands.admin);
    assert_eq!(commands.max_size, 16 * 1_024);
    assert_eq!((uplink.prefix.as_str(), uplink.inflight), ("telehub", 100));
    assert_eq!(
        (uplink.format, uplink.drain),
        (Format::Json, DrainOrder::LiveFirst)
    );
    assert_eq!((&uplink.username, &uplink.password_file), (&None, &None));
    assert_eq!(uplink.ack_timeout, Duration::from_secs(10));
    assert_eq!(
        (uplink.pack, uplink.pack_delay),
        (0, Duration::from_secs(1))
    );
    assert_eq!(uplink.keep_alive, Duration::from_secs(30));
    assert_eq!(config.admin, None);
    assert_eq!(
        (config.log.level, config.log.format),
        (LogLevel::Info, LogFormat::Text)
    );
}

#[test]
fn the_shipped_file_states_the_defaults_and_names_every_key() {
    let shipped = include_str!("../systemd/telehub.toml");
    assert_eq!(read(shipped), read(""));
    let (mut section, mut named) = (String::new(), BTreeSet::new());
    for line in shipped.lines() {
        let line = line.strip_prefix('#').unwrap_or(line);
        if let Some(name) = line
            .strip_prefix("[[")
            .and_then(|line| line.strip_suffix("]]"))
            .or_else(|| line.strip_prefix('[')?.strip_suffix(']'))
        {
            name.clone_into(&mut section);
        } else if let Some((key, _)) = line.split_once(" = ")
            && !key.contains(' ')
        {
            named.insert(format!("{section}.{key}"));
        }
    }
    assert_eq!(named, config::keys().into_iter().collect());
}

#[test]
fn every_commented_line_of_the_shipped_file_is_valid_once_its_needs_are_met() {
    let shipped = include_str!("../systemd/telehub.toml");
    let all: String = shipped
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(rest) if !rest.starts_with(' ') => format!("{rest}\n"),
            _ => format!("{line}\n"),
        })
        .collect();
    let config = read(&all.replace("mqtt://localhost:1883", "mqtts://localhost:8883"));
    assert_eq!(config.hub.id, "barn");
    assert_eq!(config.reduce.len(), 1);
    assert!(
        config.devices.tls.is_some()
            && config.uplink.brokers[0]
                .tls
                .clone()
                .unwrap()
                .client
                .is_some()
    );
    assert_eq!(
        config.admin,
        Some(Admin {
            listen: "127.0.0.1:8788".parse().unwrap(),
            token_file: Some("/etc/telehub/admin-token".into()),
            device_metrics: true,
            history: Duration::from_secs(86_400),
            history_size: 16 << 20,
        })
    );
}

#[test]
fn rules_are_read_in_their_order_and_printed_as_they_are_understood() {
    let text = "[[reduce]]\ndevice = \"barn-*\"\nname = \"*/temperature\"\ndeadband = 0.5\n\
                [[reduce]]\ndevice = \"*\"\ndeadband = \"2%\"\nmin_interval = \"60s\"\nmax_interval = \"12h\"\n";
    let config = read(text);
    let rule = |device: &str, name: &str, min, deadband, max| ReduceRule {
        device: device.to_owned(),
        name: name.to_owned(),
        min_interval: Duration::from_secs(min),
        deadband: Some(deadband),
        max_interval: Duration::from_secs(max),
    };
    assert_eq!(
        config.reduce,
        [
            rule("barn-*", "*/temperature", 0, Deadband::Absolute(0.5), 3_600),
            rule("*", "*", 60, Deadband::Percent(2.0), 43_200),
        ]
    );
    assert_eq!(read(&config.to_string()), config);
    assert!(config.to_string().contains("deadband = \"2%\""));
    assert_eq!(config::changes(&read(""), &config), ["reduce"]);
    assert_eq!(read("").reduce, []);
}

#[test]
fn what_is_valid_but_probably_not_meant_is_warned_of() {
    let warnings = |text: &str| config::parse(text, "telehub.toml").unwrap().warnings;
    let open = warnings("[devices]\nauth = \"open\"\nlisten = \"0.0.0.0:8787\"\n");
    assert_eq!(open.len(), 1);
    assert!(
        open[0]
            .to_string()
            .starts_with("telehub.toml:2: devices.auth: \"open\" lets everybody")
    );
    assert_eq!(warnings("[devices]\nauth = \"open\"\n"), []);
    let idle = warnings("[devices.tls]\ncert = \"/c\"\nkey = \"/k\"\nclient_ca = \"/ca\"\n");
    assert!(
        idle[0]
            .to_string()
            .starts_with("telehub.toml:4: devices.tls.client_ca: has no effect")
    );
    let guarded = "[admin]\nlisten = \"0.0.0.0:8788\"\ntoken_file = \"/t\"\n";
    assert_eq!(warnings(guarded), []);
    assert_eq!(warnings("[admin]\nlisten = \"[::1]:8788\"\n"), []);
    assert_eq!(warnings("[commands]\nenabled = true\n"), []);
    assert_eq!(warnings("[commands]\nenabled = true\nadmin = true\n"), []);
    assert_eq!(warnings("[commands]\nadmin = true\n").len(), 1);
    let listens = "[admin]\nlisten = \"127.0.0.1:0\"\n";
    let no_token = format!("[commands]\nenabled = true\nadmin = true\n{listens}");
    assert_eq!(warnings(&no_token).len(), 1);
    assert_eq!(
        warnings("[commands]\nresponse_prefixes = [\"a\"]\n").len(),
        1
    );
    assert_eq!(warnings("[values]\nenabled = true\nplain = true\n"), []);
    assert_eq!(warnings("[values]\nplain = true\n").len(), 1);
    assert_eq!(warnings("[hub]\nid = \"a.b\"\n").len(), 1);
    let known = "[hub]\nid = \"a.b\"\n[uplink]\ntopic_dots = \"keep\"\n";
    assert_eq!(warnings(known), []);
    let packs = "[uplink]\npack = \"64KiB\"\npack_delay = \"5s\"\n";
    assert_eq!(warnings(packs), []);
    let senml = format!("{packs}format = \"senml-cbor\"\n");
    assert_eq!(warnings(&senml).len(), 1);
    assert_eq!(warnings("[uplink]\npack_delay = \"5s\"\n").len(), 1);
    let off = "[uplink]\npack = \"0\"\npack_delay = \"60s\"\n";
    assert_eq!(warnings(off), []);
    let own = "[commands]\nenabled = true\nresponse_prefixes = [\"a\", \"telehub/b\"]\n";
    assert_eq!(warnings(own).len(), 1);
    assert_eq!(
        warnings("[commands]\nenabled = true\n[devices]\nauth = \"open\"\n").len(),
        1
    );
    let readable = warnings("[devices]\nlisten = \"0.0.0.0:8787\"\n");
    assert_eq!(readable.len(), 1);
    assert!(
        readable[0]
            .to_string()
            .contains("tokens go to 0.0.0.0:8787 without TLS")
    );
    let tls = "[devices]\nlisten = \"0.0.0.0:8787\"\n[devices.tls]\ncert = \"/c\"\nkey = \"/k\"\n";
    assert_eq!(warnings(tls), []);
    let broker = |url: &str| {
        warnings(&format!(
            "[uplink]\nurl = \"{url}\"\nusername = \"u\"\npassword_file = \"/p\"\n"
        ))
    };
    let password = broker("mqtt://broker.example");
    assert!(
        password[0]
            .to_string()
            .contains("the password goes to broker.example")
    );
    for own in [
        "mqtts://broker.example",
        "mqtt://localhost",
        "mqtt://127.0.0.1",
        "mqtt://[::1]",
    ] {
        assert_eq!(broker(own), [], "{own}");
    }
}

#[test]
fn numbers_and_sizes_are_read_in_every_form_that_toml_has() {
    let config =
        read("[uplink]\ninflight = 1_000\n[devices]\nwindow = 0x10\nmax_message = 65_535\n");
    assert_eq!(config.uplink.inflight, 1_000);
    assert_eq!(
        (config.devices.window, config.devices.max_message),
        (16, 65_535)
    );
    let inline = read(
        "devices = { listen = \"[::1]:0\", max_message = \"1KiB\" }\nuplink.prefix = \"a/b\"\n",
    );
    assert_eq!(
        (inline.devices.listen.port(), inline.devices.max_message),
        (0, 1_024)
    );
    assert_eq!(inline.uplink.prefix, "a/b");
}

/// Text of any kind but control characters, which are refused.
fn text() -> impl Strategy<Value = String> {
    "[^\\p{C} ][^\\p{C}]{0,20}"
}

fn path() -> impl Strategy<Value = std::path::PathBuf> {
    text().prop_map(|name| format!("/{name}").into())
}

prop_compose! {
    fn any_config()(
        id in "[A-Za-z0-9][A-Za-z0-9._-]{0,63}", listen: std::net::Ipv6Addr, port in 1u16..8000,
        auth in prop::sample::select(vec![Auth::Token, Auth::Open]),
        ping in 1u64..3_600, timeout in 500u64..600_000,
        max_message in 64usize..=262_144, window in 1u32..=1_024, paths in prop::array::uniform8(path()),
        tls in prop::option::of(any::<bool>()), uplink_tls in prop::option::of(any::<(bool, bool)>()),
        max_size in (8u64 << 20)..(1 << 44), min_free in 0u64..(1 << 44), max_age in 1u64..300_000_000,
        commit_interval in 0u64..=10_000,
        names in prop::array::uniform3(text()), user: bool, password: bool,
        host in prop::sample::select(vec!["localhost", "::1", "a-b.example"]),
        inflight in 1u16..=10_000, keep_alive in 5u64..=65_535,
        choice in 0usize..4, values: bool, admin in prop::option::of(8000u16..), commands: bool,
    ) -> Config {
        let mut config = read("");
        let [registry, cert, key, ca, spool, up_cert, up_key, password_file] = paths;
        let [client_id, username, prefix] = names;
        config.hub.id = id;
        config.devices.listen = (listen, port).into();
        config.devices.auth = auth;
        config.devices.registry = registry;
        config.devices.ping_interval = Duration::from_secs(ping);
        config.devices.ping_timeout = Duration::from_millis(timeout);
        (config.devices.max_message, config.devices.window) = (max_message, window);
        config.devices.tls = tls.map(|ca_too| DeviceTls { cert, key, client_ca: ca_too.then_some(ca.clone()), crl_expiry: CrlExpiry::Warn });
        config.spool.path = spool;
        config.spool.write = [SpoolWrite::Outage, SpoolWrite::Always][choice % 2];
        config.spool.overflow = [Overflow::DropOldest, Overflow::Refuse][choice / 2];
        (config.spool.max_size, config.spool.min_free) = (max_size, min_free);
        config.spool.max_age = Duration::from_secs(max_age);
        config.spool.commit_interval = Duration::from_millis(commit_interval);
        let tls = uplink_tls.map(|(with_ca, client)| UplinkTls {
            ca: with_ca.then_some(ca),
            client: client.then_some((up_cert, up_key)),
        });
        config.uplink.brokers = vec![Broker { host: host.to_owned(), port, tls: tls.clone() }];
        if inflight % 2 == 0 {
            config.uplink.brokers.push(Broker { host: "second".into(), port, tls });
        }
        config.uplink.version = [MqttVersion::Auto, MqttVersion::V5, MqttVersion::V311][choice % 3];
        config.uplink.return_after = Duration::from_secs(keep_alive);
        config.uplink.max_payload = 4096 + usize::from(inflight);
        config.uplink.client_id = client_id;
        config.uplink.username = user.then_some(username);
        config.uplink.password_file = (user && password).then_some(password_file);
        config.uplink.prefix = format!("p{}", &prefix.replace(['+', '#', '/'], "-"));
        config.uplink.format = [Format::Influx, Format::Cbor, Format::SenmlJson, Format::SenmlCbor][choice];
        config.uplink.topic_dots = [TopicDots::Keep, TopicDots::Escape][choice % 2];
        config.uplink.pack = [0, 1024, 65_536, 1 << 20][choice];
        config.uplink.pack_delay = Duration::from_millis(commit_interval % 10_000);
        config.uplink.drain = [DrainOrder::LiveFirst, DrainOrder::InOrder][choice % 2];
        config.uplink.inflight = inflight;
        config.uplink.keep_alive = Duration::from_secs(keep_alive);
        config.admin = admin.map(|port| Admin {
            listen: ([127, 0, 0, 1], port).into(),
            token_file: (port % 2 == 0).then(|| "/etc/telehub/token".into()),
            device_metrics: port % 3 == 0,
            history: Duration::from_secs(u64::from(port)),
            history_size: (1 << 20) + u64::from(port),
        });
        config.values = config::Values { enabled: values || choice == 2, retain: choice > 1, plain: choice % 2 == 1, max_rate: u32::from(window as u8 % 100) + 1 };
        config.homeassistant.discovery = choice == 2;
        config.commands.enabled = commands;
        config.commands.admin = commands;
        config.commands.max_size = max_message;
        config.commands.response_prefixes = vec![prefix.replace(['+', '#', '$'], "-"), "a/b".to_owned()];
        config.log.level = [LogLevel::Error, LogLevel::Warn, LogLevel::Debug, LogLevel::Trace][choice];
        config.log.format = [LogFormat::Text, LogFormat::Json][choice % 2];
        config
    }
}

proptest! {
    #[test]
    fn what_check_prints_reads_back_to_the_same_configuration(config in any_config()) {
        let printed = config.to_string();
        let read = config::parse(&printed, "telehub.toml");
        prop_assert!(read.is_ok(), "{}\n{}", read.unwrap_err(), printed);
        prop_assert_eq!(read.unwrap().config, config, "{}", printed);
    }

    #[test]
    fn no_text_makes_the_reader_fall_over(text in "(\\[|\\]|[a-z.]{1,9}|=|\"|'|\n|\\{|\\}|[0-9]|\\PC){0,60}") {
        if let Err(errors) = config::parse(&text, "telehub.toml") {
            prop_assert!(!errors.0.is_empty());
            prop_assert!(errors.0.iter().all(|problem| problem.line.is_some()));
        }
    }
}

#[test]
fn discovery_turns_value_topics_on_and_says_so() {
    for text in [
        "[homeassistant]\ndiscovery = true\n[values]\nmax_rate = 2\n",
        "[homeassistant]\ndiscovery = true\n[values]\nenabled = false\n",
    ] {
        let checked = config::parse(text, "telehub.toml").unwrap();
        assert_eq!(checked.warnings, []);
        let shown = checked.config.to_string();
        assert!(shown.contains("[values]\nenabled = true\n"), "{shown}");
    }
    let off = config::parse("", "telehub.toml")
        .unwrap()
        .config
        .to_string();
    assert!(off.contains("[values]\nenabled = false\n"), "{off}");
}
