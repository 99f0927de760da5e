//! Every way to get the configuration wrong is told with its line, its key and a way out.
#![allow(clippy::unwrap_used, missing_docs)]

use telehub::config::{self, Problem};

fn problems(text: &str) -> Vec<Problem> {
    config::parse(text, "telehub.toml").unwrap_err().0
}

/// A configuration with one fault, the line and the key that must be named, and what the
/// sentence must contain.
const FAULTS: &[(&str, usize, &str, &[&str])] = &[
    // Names.
    (
        "[hubb]\nid = \"a\"",
        1,
        "[hubb]",
        &["no such section; did you mean [hub]?"],
    ),
    (
        "[colours]",
        1,
        "[colours]",
        &["the sections are", "[devices.tls]", "[uplink]"],
    ),
    ("hub = 3", 1, "hub", &["is a section: write [hub]"]),
    ("\nwindow = 3", 2, "window", &["belongs below [devices]"]),
    (
        "nothing = 3",
        1,
        "nothing",
        &["every key stands in a section"],
    ),
    // A list of sections.
    (
        "[reduce]\ndeadband = 1",
        1,
        "reduce",
        &["may be there several times: write [[reduce]]"],
    ),
    (
        "reduce = [3]",
        1,
        "reduce",
        &["write [[reduce]], in double brackets"],
    ),
    (
        "[[reduce]]\ndeadband = 1\ndevice = \"a\"\n[[reduce]]\ndevice = \"b\"\ndead_band = 1\nmin_interval = \"1s\"",
        6,
        "reduce.dead_band",
        &["no such key; did you mean deadband?"],
    ),
    (
        "[[reduce]]\ndevice = \"a\"\ndeadband = 1\n[[reduce]]\ndevice = \"b\"\n",
        4,
        "reduce.min_interval",
        &["is missing, and deadband as well", "deadband = \"2%\""],
    ),
    (
        "[[reduce]]\ndevice = \"a\"\ndeadband = \"2\"",
        3,
        "reduce.deadband",
        &["\"2\" is no deadband; write 0.5"],
    ),
    (
        "[[reduce]]\ndevice = \"a\"\ndeadband = -1",
        3,
        "reduce.deadband",
        &["-1 is no step"],
    ),
    (
        "[[reduce]]\ndevice = \"a\"\ndeadband = \"200%\"",
        3,
        "reduce.deadband",
        &["is no deadband"],
    ),
    (
        "[[reduce]]\ndevice = \"barn/*\"\ndeadband = 1",
        2,
        "reduce.device",
        &["is not a pattern", "write \"barn-*\""],
    ),
    (
        "[[reduce]]\nname = \"a+\"\ndeadband = 1",
        2,
        "reduce.name",
        &["is not a pattern"],
    ),
    (
        "[[reduce]]\nname = \"a\"\nmin_interval = \"2h\"",
        3,
        "reduce.min_interval",
        &["min_interval is \"2h\" and max_interval is \"1h\""],
    ),
    (
        "[[reduce]]\nname = \"a\"\ndeadband = 1\nmax_interval = \"0s\"",
        4,
        "reduce.max_interval",
        &["out of range", "\"1s\""],
    ),
    (
        "[[hub]]\nid = \"a\"",
        1,
        "hub",
        &["is a section: write [hub]"],
    ),
    (
        "[devices]\nping_intervall = \"20s\"",
        2,
        "devices.ping_intervall",
        &["no such key; did you mean ping_interval?"],
    ),
    (
        "[devices]\nmax-rate = 3",
        2,
        "devices.max-rate",
        &["did you mean max_rate?"],
    ),
    (
        "[devices]\noverflow = \"refuse\"",
        2,
        "devices.overflow",
        &["belongs below [spool]"],
    ),
    (
        "[log]\nfile = \"/x\"",
        2,
        "log.file",
        &["the keys of [log] are level, format"],
    ),
    (
        "[devices]\ntls = true",
        2,
        "devices.tls",
        &["is a section: write [devices.tls]"],
    ),
    (
        "[devices.tsl]\nx = 1",
        1,
        "[devices.tsl]",
        &["did you mean [devices.tls]?"],
    ),
    (
        "[hub]\nid = { a = 1 }",
        2,
        "hub.id",
        &["is a section and must be a text in quotes"],
    ),
    (
        "[\"devices.tls\"]\ncert = \"/c\"",
        1,
        "[devices.tls]",
        &["there is no such section"],
    ),
    (
        "[[devices]]\nwindow = 3",
        1,
        "devices",
        &["is a section: write [devices]"],
    ),
    // Types.
    (
        "[hub]\nid = 7",
        2,
        "hub.id",
        &["is a whole number and must be a text in quotes"],
    ),
    (
        "[devices]\nwindow = \"32\"",
        2,
        "devices.window",
        &[
            "is a text and must be a whole number without quotes",
            "1 to 1024",
        ],
    ),
    (
        "[devices]\nwindow = 1.5",
        2,
        "devices.window",
        &["is a decimal number"],
    ),
    (
        "[devices]\nauth = true",
        2,
        "devices.auth",
        &["is a truth value", "\"token\", \"certificate\" or \"open\""],
    ),
    ("[spool]\npath = [\"/x\"]", 2, "spool.path", &["is a list"]),
    (
        "[spool]\nmax_age = 2026-01-01",
        2,
        "spool.max_age",
        &["is a date", "\"30d\""],
    ),
    // Forms.
    (
        "[hub]\nid = \"our barn\"",
        2,
        "hub.id",
        &["\"our barn\" is not an id", "write \"our-barn\""],
    ),
    (
        "[hub]\nid = \"\"",
        2,
        "hub.id",
        &["not an id", "write \"barn\""],
    ),
    ("[hub]\nid = \"+\"", 2, "hub.id", &["not an id"]),
    (
        "[devices]\nlisten = \"8787\"",
        2,
        "devices.listen",
        &["not an address and a port", "\"0.0.0.0:8787\""],
    ),
    (
        "[devices]\nlisten = \"localhost:9\"",
        2,
        "devices.listen",
        &["is a name", "\"127.0.0.1:9\""],
    ),
    (
        "[devices]\nauth = \"tokens\"",
        2,
        "devices.auth",
        &["\"tokens\" is not known", "\"token\""],
    ),
    (
        "[devices]\nping_interval = 20",
        2,
        "devices.ping_interval",
        &["20 has no unit", "\"20s\" for seconds"],
    ),
    (
        "[devices]\nping_interval = \"20 sec\"",
        2,
        "devices.ping_interval",
        &["\"20 sec\" is not a duration", "\"500ms\""],
    ),
    (
        "[devices]\nmax_message = \"64K\"",
        2,
        "devices.max_message",
        &["\"64K\" is not a size", "\"64KiB\""],
    ),
    (
        "[devices]\nregistry = \"devices.toml\"",
        2,
        "devices.registry",
        &["working directory", "beginning with /"],
    ),
    ("[spool]\npath = \"\"", 2, "spool.path", &["is empty"]),
    (
        "[uplink]\nurl = \"localhost:1883\"",
        2,
        "uplink.url",
        &["\"mqtt://HOST:PORT\""],
    ),
    (
        "[uplink]\nurl = \"http://broker\"",
        2,
        "uplink.url",
        &["scheme \"http\" is not known", "mqtts://"],
    ),
    (
        "[uplink]\nurl = \"ssl://broker\"",
        2,
        "uplink.url",
        &["write mqtts://"],
    ),
    (
        "[uplink]\nurl = \"mqtt://a:b@broker\"",
        2,
        "uplink.url",
        &["username and password_file"],
    ),
    (
        "[uplink]\nurl = \"mqtt://broker:0\"",
        2,
        "uplink.url",
        &["not a port", "1 to 65535"],
    ),
    (
        "[uplink]\nurl = \"mqtt://broker/topic\"",
        2,
        "uplink.url",
        &["goes on after host and port"],
    ),
    (
        "[uplink]\nprefix = \"a/+/b\"",
        2,
        "uplink.prefix",
        &["wildcard", "\"farm/north\""],
    ),
    (
        "[uplink]\nprefix = \"/a\"",
        2,
        "uplink.prefix",
        &["begins or ends with /"],
    ),
    (
        "[uplink]\nprefix = \"a/\"",
        2,
        "uplink.prefix",
        &["begins or ends with /"],
    ),
    (
        "[uplink]\nprefix = \"$SYS\"",
        2,
        "uplink.prefix",
        &["begins with $"],
    ),
    (
        "[uplink]\nprefix = \"a\\u0000b\"",
        2,
        "uplink.prefix",
        &["control character"],
    ),
    ("[uplink]\nprefix = \"\"", 2, "uplink.prefix", &["is empty"]),
    (
        "[uplink]\nclient_id = \" a\"",
        2,
        "uplink.client_id",
        &["begins with a space"],
    ),
    (
        "[log]\nlevel = \"verbose\"",
        2,
        "log.level",
        &["\"error\", \"warn\", \"info\", \"debug\" or \"trace\""],
    ),
    (
        "[uplink]\npack = \"2MiB\"",
        2,
        "uplink.pack",
        &["because", "from \"0B\" to \"1MiB\""],
    ),
    (
        "[uplink]\npack = 1000",
        2,
        "uplink.pack",
        &["hold no two batches", "\"0\" for no packs", "\"64KiB\""],
    ),
    (
        "[uplink]\npack = true",
        2,
        "uplink.pack",
        &["is a truth value"],
    ),
    (
        "[uplink]\npack_delay = \"11m\"\npack = \"64KiB\"",
        2,
        "uplink.pack_delay",
        &["out of range", "to \"590s\""],
    ),
    (
        "[uplink]\npack = \"64KiB\"\npack_delay = \"10s\"",
        3,
        "uplink.pack_delay",
        &[
            "uplink.ack_timeout",
            "is \"10s\"",
            "a shorter pack_delay, or a longer ack_timeout",
        ],
    ),
    (
        "[uplink]\npack = \"64KiB\"\nack_timeout = \"500ms\"",
        2,
        "uplink.pack",
        &["\"1s\" (pack_delay)", "is \"500ms\""],
    ),
    // Ranges, each with its reason.
    (
        "[devices]\nping_interval = \"500ms\"",
        2,
        "devices.ping_interval",
        &[
            "because more often than once a second",
            "from \"1s\" to \"1h\"",
        ],
    ),
    (
        "[devices]\nping_timeout = \"0s\"",
        2,
        "devices.ping_timeout",
        &["because", "from \"500ms\" to \"10m\""],
    ),
    (
        "[devices]\nhandshake_timeout = \"1h\"",
        2,
        "devices.handshake_timeout",
        &["from \"500ms\" to \"1m\""],
    ),
    (
        "[devices]\nmax_connections = 0",
        2,
        "devices.max_connections",
        &["from 1 to 65536"],
    ),
    (
        "[devices]\nmax_message = \"1MiB\"",
        2,
        "devices.max_message",
        &["from \"64B\" to \"256KiB\""],
    ),
    (
        "[devices]\nmax_message = 63",
        2,
        "devices.max_message",
        &["from \"64B\" to \"256KiB\""],
    ),
    (
        "[devices]\nmax_rate = -1",
        2,
        "devices.max_rate",
        &["-1 is out of range", "from 1 to 100000"],
    ),
    (
        "[devices]\nwindow = 0",
        2,
        "devices.window",
        &["from 1 to 1024"],
    ),
    (
        "[spool]\nmax_size = \"1MiB\"",
        2,
        "spool.max_size",
        &["from \"8MiB\" to \"16TiB\""],
    ),
    (
        "[spool]\nmax_age = \"0s\"",
        2,
        "spool.max_age",
        &["from \"1s\" to \"3650d\""],
    ),
    (
        "[spool]\ncommit_interval = \"11s\"",
        2,
        "spool.commit_interval",
        &[
            "is longer than uplink.ack_timeout, which is \"10s\"",
            "write \"10s\" or less",
        ],
    ),
    (
        "[spool]\ncommit_interval = \"2s\"\n[uplink]\nack_timeout = \"1s\"",
        2,
        "spool.commit_interval",
        &["wait for the disk longer than for the broker"],
    ),
    (
        "[spool]\ncommit_interval = \"1h\"\n[uplink]\nack_timeout = \"10m\"",
        2,
        "spool.commit_interval",
        &["from \"0s\" to \"10m\""],
    ),
    (
        "[uplink]\ninflight = 10001",
        2,
        "uplink.inflight",
        &["from 1 to 10000"],
    ),
    (
        "[uplink]\ninflight = 99999999999999999999",
        2,
        "uplink.inflight",
        &["from 1 to 10000"],
    ),
    (
        "[uplink]\nack_timeout = \"1ms\"",
        2,
        "uplink.ack_timeout",
        &["from \"100ms\" to \"10m\""],
    ),
    (
        "[uplink]\nkeep_alive = \"1s\"",
        2,
        "uplink.keep_alive",
        &["from \"5s\" to \"65535s\""],
    ),
    (
        "[uplink]\nkeep_alive = \"5500ms\"",
        2,
        "uplink.keep_alive",
        &["whole seconds", "\"5s\""],
    ),
    // What must hold between keys.
    (
        "[devices]\nauth = \"certificate\"",
        2,
        "devices.auth",
        &["add a section [devices.tls]"],
    ),
    (
        "[devices]\nauth = \"certificate\"\n[devices.tls]\ncert = \"/c\"\nkey = \"/k\"",
        3,
        "devices.tls.client_ca",
        &["is missing", "auth = \"certificate\" needs it"],
    ),
    (
        "[devices.tls]\ncert = \"/c\"",
        2,
        "devices.tls.key",
        &["is missing beside cert"],
    ),
    (
        "[devices.tls]\nkey = \"/k\"",
        2,
        "devices.tls.cert",
        &["is missing beside key"],
    ),
    (
        "\n[devices.tls]",
        2,
        "devices.tls.cert",
        &["is missing", "or remove [devices.tls]"],
    ),
    (
        "[uplink]\npassword_file = \"/p\"",
        2,
        "uplink.username",
        &["is missing beside password_file"],
    ),
    (
        "[uplink]\nca = \"/ca\"",
        2,
        "uplink.ca",
        &["no use without TLS", "mqtts://"],
    ),
    (
        "[uplink]\nurl = \"mqtts://b\"\ncert = \"/c\"",
        3,
        "uplink.key",
        &["is missing beside cert"],
    ),
    (
        "[admin]\nlisten = \"127.0.0.1:8787\"",
        2,
        "admin.listen",
        &["is the address of [devices] listen already"],
    ),
    (
        "[admin]\nlisten = \"0.0.0.0:8788\"",
        2,
        "admin.listen",
        &[
            "needs a token",
            "token_file = \"/etc/telehub/admin-token\"",
            "\"127.0.0.1:8788\"",
        ],
    ),
    (
        "[admin]\nlisten = \"[::]:0\"",
        2,
        "admin.listen",
        &["needs a token", "openssl rand -hex 32"],
    ),
    (
        "[admin]\nlisten = \"192.168.1.2:8788\"",
        2,
        "admin.listen",
        &["needs a token"],
    ),
];

#[test]
fn each_fault_is_told_once_with_its_line_its_key_and_a_way_out() {
    for (text, line, key, parts) in FAULTS {
        let found = problems(text);
        assert_eq!(found.len(), 1, "{text}\n{found:#?}");
        let problem = &found[0];
        assert_eq!(
            (problem.line, problem.key.as_deref()),
            (Some(*line), Some(*key)),
            "{text}\n{problem}"
        );
        let shown = problem.to_string();
        assert!(
            shown.starts_with(&format!("telehub.toml:{line}: {key}: ")),
            "{shown}"
        );
        for part in *parts {
            assert!(shown.contains(part), "{part:?} is not in: {shown}");
        }
    }
}

#[test]
fn all_faults_are_told_at_once_in_the_order_of_lines() {
    let text: String =
        "[devices]\nwindow = 0\n[uplink]\ninflight = 0\nfromat = \"json\"\n[spool]\nwrite = 1\n"
            .into();
    let lines: Vec<_> = problems(&text).iter().map(|problem| problem.line).collect();
    assert_eq!(lines, [Some(2), Some(4), Some(5), Some(7)]);
}

#[test]
fn text_that_is_not_toml_is_told_with_every_line_that_is_not() {
    let found = problems("[devices\nwindow = 3\n[hub]\nid = = 3\n");
    let lines: Vec<_> = found.iter().map(|problem| problem.line).collect();
    assert_eq!(lines, [Some(1), Some(4)], "{found:#?}");
    assert!(
        found
            .iter()
            .all(|problem| problem.text.contains("this is not TOML"))
    );
    let twice = problems("[hub]\nid = \"a\"\nid = \"b\"\n");
    assert_eq!(
        twice[0].to_string(),
        "telehub.toml:3: id is there twice; remove one of them"
    );
}

#[test]
fn what_stands_before_an_at_sign_is_never_repeated() {
    for url in [
        "mqtt://u:geheim@b",
        "ssl://u:geheim@b",
        "u:geheim@b",
        "mqtt://u:ge/geheim@b",
    ] {
        let found = problems(&format!("[uplink]\nurl = \"{url}\""));
        assert!(!found[0].to_string().contains("geheim"), "{}", found[0]);
    }
}

#[test]
fn a_file_that_is_not_there_is_named_with_a_way_to_get_one() {
    let error = config::load("/nonexistent/telehub.toml".as_ref())
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with("/nonexistent/telehub.toml: there is no such file; write one"),
        "{error}"
    );
    assert!(error.contains("--config FILE"), "{error}");
}
