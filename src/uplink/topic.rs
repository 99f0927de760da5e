//! Names as topic levels.
//!
//! A `/` in a name stays and makes levels. What a topic cannot hold is written as in a URL: `%` and
//! two hexadecimal digits for each byte of UTF-8. That goes for `+` and `#` (wildcards), `$` (where
//! brokers keep their own topics), control characters, and `%` itself, so that no two names make the
//! same topic. A level without characters, which some brokers do not take, is a lone `%`: no escaped
//! byte looks like it.
//!
//! With `uplink.topic_dots = "escape"` a dot is escaped as well (`%2E`), in ids too: RabbitMQ makes a
//! `/` of it, and NATS before 2.10 closes the connection.

use std::borrow::Cow;

fn is_plain(character: char, dots: bool) -> bool {
    match character {
        '+' | '#' | '$' | '%' => false,
        '.' => !dots,
        other => !other.is_control(),
    }
}

/// The name as topic levels: see the module. `dots`: they are escaped as well.
pub(super) fn escape(name: &str, dots: bool) -> Cow<'_, str> {
    let has_empty_level = name.split('/').any(str::is_empty);
    if !has_empty_level && name.chars().all(|one| is_plain(one, dots)) {
        return Cow::Borrowed(name);
    }
    let mut topic = String::with_capacity(name.len() + 8);
    for (at, level) in name.split('/').enumerate() {
        if at > 0 {
            topic.push('/');
        }
        if level.is_empty() {
            topic.push('%');
        }
        for character in level.chars() {
            push(&mut topic, character, dots);
        }
    }
    Cow::Owned(topic)
}

fn push(topic: &mut String, character: char, dots: bool) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    if is_plain(character, dots) {
        topic.push(character);
        return;
    }
    let mut bytes = [0; 4];
    for byte in character.encode_utf8(&mut bytes).bytes() {
        topic.push('%');
        topic.push(char::from(DIGITS[usize::from(byte >> 4)]));
        topic.push(char::from(DIGITS[usize::from(byte & 0xf)]));
    }
}

/// An escaped dot.
const DOT: &str = "%2E";

/// An id as a topic level.
pub(super) fn escape_dots(id: &str) -> Cow<'_, str> {
    match id.contains('.') {
        true => Cow::Owned(id.replace('.', DOT)),
        false => Cow::Borrowed(id),
    }
}

/// Ids in topic levels as they are: they hold no `%` of their own.
pub(super) fn unescape_dots(levels: &str) -> Cow<'_, str> {
    match levels.contains(DOT) {
        true => Cow::Owned(levels.replace(DOT, ".")),
        false => Cow::Borrowed(levels),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_a_topic_holds_stays_and_the_rest_is_escaped() {
        for (name, topic) in [
            ("temp", "temp"),
            ("room/1/temp.a:b_c-d", "room/1/temp.a:b_c-d"),
            ("a+b", "a%2Bb"),
            ("#", "%23"),
            ("$SYS/x", "%24SYS/x"),
            ("50%", "50%25"),
            ("a\0b\n", "a%00b%0A"),
            ("grün", "grün"),
            ("\u{85}", "%C2%85"),
            ("a//b", "a/%/b"),
            ("a/", "a/%"),
            ("", "%"),
            ("a/%/b", "a/%25/b"),
        ] {
            assert_eq!(escape(name, false), topic, "{name:?}");
        }
        assert_eq!(escape("a.b/c", true), "a%2Eb/c");
    }

    #[test]
    fn ids_with_dots_come_back_as_they_were() {
        for id in ["a.b", "..", "a", "a.b.c"] {
            let level = escape_dots(id);
            assert!(!level.contains('.'));
            assert_eq!(unescape_dots(&level), id);
        }
    }

    proptest! {
        /// Names of the characters that matter most, so that collisions would be found.
        #[test]
        fn no_two_names_make_the_same_topic_and_every_topic_is_one(
            names in prop::collection::vec("[a/%+#$.0-2B\0é]{0,6}", 2..40), dots: bool,
        ) {
            let mut topics = HashMap::new();
            for name in &names {
                let topic = escape(name, dots).into_owned();
                prop_assert!(!topic.contains(['+', '#', '$', '\0']));
                prop_assert!(topic.split('/').all(|level| !level.is_empty()));
                prop_assert_eq!(topic.split('/').count(), name.split('/').count());
                let other = topics.insert(topic, name);
                prop_assert!(other.is_none_or(|other| other == name));
            }
        }
    }
}
