//! `[[reduce]]`: a list of sections.

use std::time::Duration;

use super::{Notes, secs};
use crate::config::document::Document;
use crate::config::units::show_duration;
use crate::config::values::{deadband, duration, pattern};
use crate::config::{ReduceRule, Spool};
use crate::protocol::limits::MAX_NAME;

const S: &str = "reduce";

/// Rules are looked through for each reading.
const RULES: usize = 64;

/// What nobody is told of for longer than this, most will take for broken.
const MAX_INTERVAL: Duration = Duration::from_secs(3_600);

pub(super) fn reduce(doc: &mut Document<'_>, spool: &Spool, notes: &mut Notes) -> Vec<ReduceRule> {
    let count = doc.entries(S);
    let mut rules = Vec::with_capacity(count);
    // Once in any case: asking for a key is what makes it known.
    for at in 0..count.max(1) {
        doc.enter(S, at);
        let rule = rule(doc, notes);
        if at == RULES {
            let text = "is one rule too many: 64 is the most, because each reading is compared with \
                        them; write what their patterns have in common";
            doc.problem(S, "device", text);
        }
        if at < count {
            rules.push(rule);
        }
    }
    if let Some(longest) = rules.iter().map(|rule| rule.max_interval).max()
        && longest > spool.max_age
    {
        let text = format!(
            "is longer than spool.max_age, which is \"{}\": after an outage the last value may be gone",
            show_duration(spool.max_age)
        );
        notes.warnings.push(doc.remark(S, "max_interval", text));
    }
    rules
}

fn rule(doc: &mut Document<'_>, notes: &mut Notes) -> ReduceRule {
    let interval = |why| duration(secs(1..=30 * 86_400), why);
    let device = pattern("A-Z a-z 0-9 . _ -", b"._-", 64, "\"barn-*\"");
    let name = pattern(
        "A-Z a-z 0-9 - : . / _",
        b"-:./_",
        MAX_NAME,
        "\"*/temperature\"",
    );
    let min = interval("devices count in seconds, and what comes once a month needs no rule");
    let max = interval("a value has to be told again before everybody takes it for gone");
    let rule = ReduceRule {
        device: doc
            .get(S, "device", device)
            .unwrap_or_else(|| "*".to_owned()),
        name: doc.get(S, "name", name).unwrap_or_else(|| "*".to_owned()),
        min_interval: doc.get(S, "min_interval", min).unwrap_or(Duration::ZERO),
        deadband: doc.get(S, "deadband", deadband),
        max_interval: doc.get(S, "max_interval", max).unwrap_or(MAX_INTERVAL),
    };
    if !doc.is_inside(S) {
        return rule;
    }
    if !doc.has(S, "min_interval") && !doc.has(S, "deadband") {
        let text = "is missing, and deadband as well, so this rule leaves nothing out; write \
                    min_interval = \"60s\", deadband = 0.5 or deadband = \"2%\", or remove the rule";
        doc.problem(S, "min_interval", text);
    }
    if rule.min_interval > rule.max_interval {
        let at = if doc.has(S, "max_interval") {
            "max_interval"
        } else {
            "min_interval"
        };
        let text = format!(
            "does not fit: min_interval is \"{}\" and max_interval is \"{}\"; write a max_interval that \
             is as long or longer",
            show_duration(rule.min_interval),
            show_duration(rule.max_interval)
        );
        doc.problem(S, at, text);
    }
    if !doc.has(S, "device") && !doc.has(S, "name") {
        let text = "and name are missing: this rule holds for everything that every device sends; to say \
                    so on purpose, write device = \"*\"";
        notes.warnings.push(doc.remark(S, "device", text));
    }
    rule
}
