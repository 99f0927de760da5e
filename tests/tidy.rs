//! What ARCHITECTURE.md says of the rooms holds: imports point one way, and each outside thing
//! has one door.
#![allow(clippy::unwrap_used, missing_docs)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

#[path = "support/imports.rs"]
mod imports;

/// Which other rooms a room may name. What is not listed may name none.
const MAY_NAME: &[(&str, &[&str])] = &[
    ("reading", &[]),
    ("clock", &["reading"]),
    ("certificate", &[]),
    ("lru", &[]),
    ("secret", &[]),
    ("tls_errors", &[]),
    ("stop", &[]),
    ("pulse", &[]),
    ("service", &["pulse", "status", "stop"]),
    ("packed", &[]),
    ("pattern", &[]),
    (
        "reduce",
        &["config", "lru", "pattern", "protocol", "reading"],
    ),
    ("protocol", &["reading"]),
    (
        "commands",
        &[
            "pattern", "protocol", "reading", "clock", "pulse", "status", "stop",
        ],
    ),
    (
        "config",
        &["protocol", "certificate", "clock", "secret", "tls_errors"],
    ),
    ("plain", &[]),
    ("log", &["config", "plain"]),
    ("status", &["reading", "clock", "lru"]),
    ("memory", &["status", "stop"]),
    ("spool", &["pulse", "reading", "config", "clock"]),
    (
        "uplink",
        &[
            "commands",
            "pulse",
            "reading",
            "reduce",
            "protocol",
            "config",
            "status",
            "clock",
            "stop",
            "secret",
            "tls_errors",
            "lru",
            "packed",
        ],
    ),
    (
        "intake",
        &[
            "pulse", "reading", "reduce", "spool", "uplink", "status", "clock", "lru",
        ],
    ),
    (
        "session",
        &[
            "commands", "protocol", "reading", "intake", "status", "clock", "config", "lru",
        ],
    ),
    (
        "listen",
        &[
            "commands",
            "pulse",
            "session",
            "intake",
            "config",
            "stop",
            "status",
            "clock",
            "certificate",
            "lru",
            "tls_errors",
        ],
    ),
    (
        "admin",
        &[
            "commands", "status", "reading", "protocol", "clock", "stop", "secret",
        ],
    ),
    (
        "hub",
        &[
            "commands", "log", "pulse", "service", "admin", "clock", "config", "intake", "listen",
            "memory", "reduce", "session", "spool", "status", "stop", "uplink",
        ],
    ),
];

/// Crates that only these files may name, tests aside.
const DOORS: &[(&str, &[&str])] = &[
    ("sled", &["src/spool/disk.rs"]),
    (
        "rumqttc",
        &[
            "src/uplink/mqtt/connect.rs",
            "src/uplink/mqtt/incoming.rs",
            "src/uplink/mqtt/packets.rs",
            // In its tests.
            "src/uplink/mqtt/publish.rs",
        ],
    ),
    ("tokio_tungstenite", &["src/session/wire.rs"]),
    (
        "ruzstd",
        &[
            "src/packed/open.rs",
            // In its tests.
            "src/packed/zstd/mod.rs",
        ],
    ),
    (
        "sd_notify",
        &["src/service/manager.rs", "src/service/socket.rs"],
    ),
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn rust_files(dir: &Path, into: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.push(path);
        }
    }
}

/// Code without comments.
fn code(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap();
    let lines = text.lines().map(|line| line.split("//").next().unwrap());
    lines.collect::<Vec<_>>().join("\n")
}

/// Every room named as `crate::room` or within `crate::{…}`.
fn named(code: &str) -> BTreeSet<String> {
    let mut rooms = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        if code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_') {
            continue;
        }
        let rest = &code[at + "crate::".len()..];
        let word = |text: &str| {
            let end = text
                .find(|c: char| !c.is_alphanumeric() && c != '_')
                .unwrap_or(text.len());
            text[..end].to_owned()
        };
        if let Some(list) = rest.strip_prefix('{') {
            let list = &list[..list.find("};").unwrap()];
            let mut depth = 0;
            let mut start = 0;
            for (i, c) in list.char_indices().chain([(list.len(), ',')]) {
                match c {
                    '{' => depth += 1,
                    '}' => depth -= 1,
                    ',' if depth == 0 => {
                        rooms.insert(word(list[start..i].trim()));
                        start = i + 1;
                    }
                    _ => {}
                }
            }
        } else {
            rooms.insert(word(rest));
        }
    }
    rooms.remove("");
    rooms
}

#[test]
fn imports_point_one_way() {
    let mut wrong = Vec::new();
    for (room, may_name) in MAY_NAME {
        let mut files = Vec::new();
        let dir = root().join("src").join(room);
        if dir.is_dir() {
            rust_files(&dir, &mut files);
        } else {
            files.push(dir.with_extension("rs"));
        }
        for file in files {
            for name in named(&code(&file)) {
                if name != *room && !may_name.contains(&name.as_str()) {
                    wrong.push(format!("{} names {name}", file.display()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn every_room_is_listed_and_drawn() {
    let lib = std::fs::read_to_string(root().join("src/lib.rs")).unwrap();
    let rooms = lib.lines().filter_map(|line| line.strip_prefix("pub mod "));
    let drawn = std::fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    for room in rooms.map(|room| room.trim_end_matches(';')) {
        assert!(
            MAY_NAME.iter().any(|(listed, _)| *listed == room),
            "{room} is not listed here"
        );
        assert!(
            drawn.contains(&format!("`{room}`")),
            "{room} is not in ARCHITECTURE.md"
        );
    }
}

#[test]
fn each_outside_thing_has_one_door() {
    let mut files = Vec::new();
    rust_files(&root().join("src"), &mut files);
    let mut wrong = Vec::new();
    for file in files {
        let name = file
            .strip_prefix(root())
            .unwrap()
            .to_str()
            .unwrap()
            .to_owned();
        let code = code(&file);
        for (krate, doors) in DOORS {
            if code.contains(&format!("{krate}::")) && !doors.contains(&name.as_str()) {
                wrong.push(format!("{name} names {krate}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn every_duty_of_an_mqtt_client_names_a_test_that_is_there() {
    let table = std::fs::read_to_string(root().join("src/uplink/mqtt/mod.rs")).unwrap();
    let (mut files, mut all) = (Vec::new(), String::new());
    for dir in ["src/uplink", "tests"] {
        rust_files(&root().join(dir), &mut files);
    }
    for file in files {
        all.push_str(&code(&file));
    }
    let rows: Vec<_> = table
        .lines()
        .filter(|line| line.starts_with("//! | "))
        .filter_map(|line| line.rsplit('`').nth(1))
        .collect();
    assert!(rows.len() > 10, "{rows:?}");
    for test in rows {
        assert!(all.contains(&format!("fn {test}(")), "no test {test}");
    }
}

#[test]
fn the_simulators_share_no_code_with_the_hub() {
    let mut files = Vec::new();
    rust_files(&root().join("devices/src"), &mut files);
    for file in files {
        assert!(
            !code(&file).contains("telehub::"),
            "{} uses the hub's code",
            file.display()
        );
    }
    let manifest = std::fs::read_to_string(root().join("devices/Cargo.toml")).unwrap();
    assert!(
        !manifest.lines().any(|line| line.starts_with("telehub")),
        "devices depends on telehub"
    );
}

/// The circles among the files of this folder, as lines.
fn circles_in(sources: &Path) -> Vec<String> {
    let mut paths = Vec::new();
    rust_files(sources, &mut paths);
    let files: Vec<_> = paths.iter().map(|path| (&**path, code(path))).collect();
    let circles = imports::circles(&imports::imports(sources, &files));
    let names = |circle: BTreeSet<imports::Module>| {
        let names = circle.iter().map(|module| module.join("::"));
        names.collect::<Vec<_>>().join(", ")
    };
    circles.into_iter().map(names).collect()
}

#[test]
fn no_files_import_each_other_in_a_circle() {
    for sources in ["src", "devices/src"] {
        assert_eq!(circles_in(&root().join(sources)), Vec::<String>::new());
    }
}

#[test]
fn a_circle_would_be_seen() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    file("lib.rs", "mod a; mod b; mod c; mod d;");
    file(
        "a.rs",
        "use crate::{c, b::{self, X as Y}};\nfn f() { b::g() }",
    );
    file("b/mod.rs", "mod inner;\nuse self::inner::Deep;");
    file(
        "b/inner.rs",
        "use super::Thing;\nfn h() { super::super::c::i() }",
    );
    file("c.rs", "// use crate::a::X;\nmod unused {}");
    file("d.rs", "use crate::a::X;");
    assert_eq!(circles_in(dir.path()), Vec::<String>::new());
    // A module's name alone ties nothing; what is taken from it does.
    file("c.rs", "use super::b;");
    assert_eq!(circles_in(dir.path()), Vec::<String>::new());
    file("c.rs", "use super::b;\nfn j() { b::inner::h() }");
    assert_eq!(circles_in(dir.path()), ["b::inner, c"]);
    file("c.rs", "pub(crate) use super::d::{\n    A,\n};");
    file("a.rs", "fn f() { crate::c::i() }");
    assert_eq!(circles_in(dir.path()), ["a, c, d"]);
}

#[test]
fn the_parser_of_this_test_sees_what_it_should() {
    let seen =
        named("use crate::{admin, spool::{A, B},\n stop};\nfoo(crate::clock::x()); mycrate::no");
    let expected = ["admin", "clock", "spool", "stop"].map(str::to_owned);
    assert_eq!(seen, BTreeSet::from(expected));
}
