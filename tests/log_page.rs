//! docs/operations.md explains every warning and every error that the hub can log, under its level,
//! and none that it cannot.
#![allow(clippy::unwrap_used, missing_docs)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn rust_files(dir: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if path.is_dir() && name != "tests" {
            rust_files(&path, into);
        } else if name.ends_with(".rs") && !name.ends_with("tests.rs") {
            into.push(path);
        }
    }
}

/// The last string in each call of this macro of tracing, which is its message. Escapes are resolved.
fn messages(source: &str, level: &str) -> Vec<String> {
    let call = format!("{level}!(");
    let mut found = Vec::new();
    for (at, _) in source.match_indices(&call) {
        // Not a macro whose name ends like this one.
        let before = source[..at].chars().next_back();
        if before.is_some_and(|c| c.is_alphanumeric() || c == '_') {
            continue;
        }
        let mut chars = source[at + call.len()..].chars();
        let (mut depth, mut last) = (1, None);
        while depth > 0 {
            match chars.next().expect("the call ends") {
                '(' => depth += 1,
                ')' => depth -= 1,
                '"' => last = Some(string(&mut chars)),
                _ => {}
            }
        }
        found.extend(last);
    }
    found
}

/// The rest of a string literal.
fn string(chars: &mut std::str::Chars<'_>) -> String {
    let mut text = String::new();
    loop {
        match chars.next().expect("the string ends") {
            '"' => return text,
            '\\' => match chars.next().unwrap() {
                '\n' => {
                    let rest = chars.as_str().trim_start();
                    *chars = rest.chars();
                }
                escaped => text.push(escaped),
            },
            c => text.push(c),
        }
    }
}

/// What the hub can say at a level. Texts that are made elsewhere (`{text}`) are not among them.
fn said(level: &str) -> BTreeSet<String> {
    let mut files = Vec::new();
    rust_files(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("src"),
        &mut files,
    );
    let mut said = BTreeSet::new();
    for file in files {
        let source = fs::read_to_string(file).unwrap();
        let code = source.split("#[cfg(test)]\nmod tests").next().unwrap();
        let messages = messages(code, level).into_iter();
        said.extend(messages.filter(|text| !text.contains('{')));
    }
    said
}

/// The first column of the table under this heading.
fn explained(heading: &str) -> BTreeSet<String> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/operations.md");
    let page = fs::read_to_string(page).unwrap();
    let (_, section) = page.split_once(&format!("\n### {heading}\n")).unwrap();
    let section = section.split("\n### ").next().unwrap();
    let rows = section.lines().filter(|line| line.starts_with("| "));
    let cells = rows.map(|row| row.split(" | ").next().unwrap()[2..].trim().to_owned());
    cells.filter(|cell| cell != "line").collect()
}

#[test]
fn the_page_explains_every_error() {
    assert_eq!(said("error"), explained("Errors"));
}

#[test]
fn the_page_explains_every_warning() {
    assert_eq!(said("warn"), explained("Warnings"));
}

#[test]
fn the_parser_of_this_test_sees_what_it_should() {
    let source = r#"tracing::warn!(%error, path = "x", "a (b) \"c\" \
                    d"); error!("e"); my_warn!("f");"#;
    assert_eq!(messages(source, "warn"), ["a (b) \"c\" d"]);
    assert_eq!(messages(source, "error"), ["e"]);
    assert!(said("error").len() > 10 && said("warn").len() > 10);
}
