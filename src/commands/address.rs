//! Where commands come in and where their answers go: topics and Response Topics.

use std::sync::Arc;

use bytes::Bytes;

use crate::reading::Encoding;

/// Bytes of Correlation Data that come back with the answer. Enough for two UUIDs in text and a
/// signature; each command that waits keeps them in memory.
pub const MAX_CORRELATION: usize = 256;

/// Bytes of a Response Topic that is kept with a command. Longer ones are passed over.
const MAX_RESPONSE_TOPIC: usize = 512;

/// Bytes of what stands behind `…/command/` that the answer's topic repeats. A name has 64 at
/// most; what is longer is answered nowhere.
const MAX_ECHO: usize = 256;

/// Who hears how a command ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asker {
    /// Whoever listens on the broker.
    Broker(ReplyTo),
    /// A request at the admin listener, by its number.
    Admin(u64),
}

/// Where on the broker, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplyTo {
    /// A Response Topic that is allowed; `None`: `…/{device}/result/{name}`.
    pub topic: Option<Arc<str>>,
    /// Correlation Data, given back as it came.
    pub correlation: Option<Bytes>,
    /// As the command was encoded.
    pub encoding: Encoding,
}

/// The device and what stands behind `command/` of a topic below `root` (`{prefix}/{hub}/`).
/// Neither has been checked. `None`: no topic of a command, or nothing that can be answered.
#[must_use]
pub fn parse<'t>(root: &str, topic: &'t str) -> Option<(&'t str, &'t str)> {
    let (device, rest) = topic.strip_prefix(root)?.split_once('/')?;
    let name = match rest.strip_prefix("command")? {
        "" => "",
        rest => rest.strip_prefix('/')?,
    };
    (device.len() <= MAX_ECHO && name.len() <= MAX_ECHO).then_some((device, name))
}

/// Whether answers may go to a Response Topic: it lies at or below one of `allowed`, at a level
/// boundary, and is neither the broker's own (`$…`) nor below `prefix`, where it could pass for
/// data or for a command.
#[must_use]
pub fn may_answer_at(topic: &str, allowed: &[String], prefix: &str) -> bool {
    let sound = !topic.is_empty()
        && topic.len() <= MAX_RESPONSE_TOPIC
        && !topic.contains(['+', '#', '\0'])
        && !topic.starts_with('$');
    sound && !within(topic, prefix) && allowed.iter().any(|entry| within(topic, entry))
}

fn within(topic: &str, level: &str) -> bool {
    let level = level.strip_suffix('/').unwrap_or(level);
    let rest = topic.strip_prefix(level);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_names_device_and_command_whatever_stands_there() {
        let parsed = |topic| parse("farm/telehub/barn/", topic);
        assert_eq!(
            parsed("farm/telehub/barn/lamp/command/on"),
            Some(("lamp", "on"))
        );
        assert_eq!(
            parsed("farm/telehub/barn/lamp/command/a/b"),
            Some(("lamp", "a/b"))
        );
        assert_eq!(parsed("farm/telehub/barn/lamp/command"), Some(("lamp", "")));
        assert_eq!(
            parsed("farm/telehub/barn/lamp/command/"),
            Some(("lamp", ""))
        );
        assert_eq!(parsed("farm/telehub/barn//command/x"), Some(("", "x")));
        for other in [
            "farm/telehub/barn/lamp/commands/on",
            "farm/telehub/barn/lamp/data",
            "farm/telehub/boat/lamp/command/on",
            "farm/telehub/barn/command",
        ] {
            assert_eq!(parsed(other), None, "{other}");
        }
        let long = format!("farm/telehub/barn/lamp/command/{}", "x".repeat(300));
        assert_eq!(parsed(&long), None);
    }

    #[test]
    fn a_response_topic_counts_only_below_an_entry_and_never_below_the_hubs_own() {
        let allowed = [
            "app/answers".to_owned(),
            "telehub/".to_owned(),
            "$SYS".to_owned(),
        ];
        let may = |topic: &str| may_answer_at(topic, &allowed, "telehub");
        assert!(may("app/answers/17") && may("app/answers/a/b") && may("app/answers"));
        for refused in [
            "",
            "app/answers17",
            "app",
            "other",
            "telehub",
            "telehub/barn/lamp/command/on",
            "$SYS/x",
            "app/answers/+",
            "app/answers/#",
            "app/answers/\0",
        ] {
            assert!(!may(refused), "{refused}");
        }
        assert!(!may_answer_at(
            "telehub2/x",
            &["telehub".to_owned()],
            "telehub"
        ));
        assert!(!may(&format!("app/answers/{}", "x".repeat(600))));
        assert!(!may_answer_at("app/answers/1", &[], "telehub"));
    }
}
