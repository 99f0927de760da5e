//! What differs between two configurations.

use toml::{Table, Value};

use super::Config;

/// The keys whose values differ, as `section.key`, sorted. Never the values.
#[must_use]
pub fn changes(old: &Config, new: &Config) -> Vec<String> {
    let (old, new) = (keys(old), keys(new));
    let mut changed: Vec<_> = old
        .iter()
        .filter(|pair| !new.contains(pair))
        .chain(new.iter().filter(|pair| !old.contains(pair)))
        .map(|(key, _)| key.clone())
        .collect();
    changed.sort();
    changed.dedup();
    changed
}

/// The configuration as it is shown, flat: what is not shown is a secret and stands in a file.
fn keys(config: &Config) -> Vec<(String, Value)> {
    let table: Table = config.to_string().parse().unwrap_or_default();
    let mut keys = Vec::new();
    flatten("", table, &mut keys);
    keys
}

fn flatten(section: &str, table: Table, into: &mut Vec<(String, Value)>) {
    for (key, value) in table {
        let name = if section.is_empty() {
            key
        } else {
            format!("{section}.{key}")
        };
        match value {
            Value::Table(table) => flatten(&name, table, into),
            value => into.push((name, value)),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::config::parse;

    #[test]
    fn the_keys_that_differ_are_named_whether_changed_added_or_gone() {
        let config = |text: &str| parse(text, "t").unwrap().config;
        let old = config("[log]\nlevel = \"info\"\n[admin]\nlisten = \"127.0.0.1:1\"");
        let new = config("[log]\nlevel = \"debug\"\n[devices]\nmax_rate = 5");
        assert_eq!(
            changes(&old, &new),
            [
                "admin.device_metrics",
                "admin.history",
                "admin.history_size",
                "admin.listen",
                "devices.max_rate",
                "log.level"
            ]
        );
        assert!(changes(&old, &old).is_empty());
        let tls = config("[devices.tls]\ncert = \"/c\"\nkey = \"/k\"");
        assert_eq!(
            changes(&config(""), &tls),
            [
                "devices.tls.cert",
                "devices.tls.crl_expiry",
                "devices.tls.key"
            ]
        );
    }
}
