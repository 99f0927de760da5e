//! What `/metrics` answers, taken apart.
#![allow(dead_code, clippy::unwrap_used, missing_docs, unreachable_pub)]

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::process::{Command, Stdio};

/// One answer.
pub struct Scrape(pub BTreeMap<String, f64>);

impl Scrape {
    pub fn of(text: &str) -> Self {
        let values = text.lines().filter(|line| !line.starts_with('#'));
        Self(
            values
                .map(|line| {
                    let (series, value) = line.rsplit_once(' ').unwrap();
                    (series.to_owned(), value.parse().unwrap())
                })
                .collect(),
        )
    }

    /// 0 when it is not there: devices have series once they have been there.
    pub fn value(&self, series: &str) -> f64 {
        self.0.get(series).copied().unwrap_or(0.0)
    }
}

/// Name, type and help of each family.
pub fn families(text: &str) -> BTreeMap<String, (String, String)> {
    let mut families = BTreeMap::new();
    let mut help = "";
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = rest.split_once(' ').unwrap().1;
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            families.insert(name.to_owned(), (kind.to_owned(), help.to_owned()));
        }
    }
    families
}

/// The family of a series: without labels and without what a histogram appends.
pub fn family_of<'a>(series: &'a str, families: &BTreeSet<String>) -> &'a str {
    let name = series.split('{').next().unwrap();
    ["_bucket", "_sum", "_count"]
        .iter()
        .filter_map(|suffix| name.strip_suffix(suffix))
        .find(|base| families.contains(*base))
        .unwrap_or(name)
}

/// Runs promtool on a text; what it complains about. `None`: it is not installed, which was said.
pub fn promtool(arguments: &[&str], input: &str) -> Option<Result<(), String>> {
    let spawned = Command::new("promtool")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = match spawned {
        Ok(child) => child,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            // Directly, because what tests print is shown only when they fail.
            let _ = writeln!(
                std::io::stderr(),
                "NOT TESTED: promtool {}: it is not installed (Debian package prometheus)",
                arguments.join(" ")
            );
            return None;
        }
        Err(error) => panic!("promtool: {error}"),
    };
    child
        .stdin
        .take()
        .unwrap()
        .write_all(input.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    // Lint is told on stderr with status 3.
    Some(if output.status.success() {
        Ok(())
    } else {
        Err(said)
    })
}
