//! Patterns for names: `*` stands for any number of characters, and nothing else is special. The
//! registry's `commands` and the configuration's `[[reduce]]` are written in them.

/// Whether the whole name fits the pattern. Matches greedily and goes back to the last `*` on a
/// mismatch: the cost is at most the product of both lengths, however many `*` there are.
#[must_use]
pub fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name) = (pattern.as_bytes(), name.as_bytes());
    let (mut p, mut n) = (0, 0);
    let mut last_star = None;
    while n < name.len() {
        match pattern.get(p) {
            Some(b'*') => {
                last_star = Some((p, n));
                p += 1;
            }
            Some(byte) if *byte == name[n] => {
                p += 1;
                n += 1;
            }
            _ => {
                let Some((star, taken)) = last_star else {
                    return false;
                };
                last_star = Some((star, taken + 1));
                (p, n) = (star + 1, taken + 1);
            }
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_star_stands_for_any_number_of_characters_and_nothing_else_is_special() {
        for (pattern, name, fits) in [
            ("reboot", "reboot", true),
            ("reboot", "reboot2", false),
            ("set-*", "set-", true),
            ("set-*", "set-level", true),
            ("set-*", "reset-level", false),
            ("*", "anything", true),
            ("a*c", "abcbc", true),
            ("a*c", "abcb", false),
            ("**", "x", true),
            ("a.c", "abc", false),
        ] {
            assert_eq!(matches(pattern, name), fits, "{pattern} {name}");
        }
    }

    /// The definition, tried out in every way: slow, and obviously right.
    fn slow(pattern: &[u8], name: &[u8]) -> bool {
        match pattern.split_first() {
            None => name.is_empty(),
            Some((b'*', rest)) => (0..=name.len()).any(|n| slow(rest, &name[n..])),
            Some((byte, rest)) => {
                name.first() == Some(byte) && name.get(1..).is_some_and(|name| slow(rest, name))
            }
        }
    }

    proptest! {
        #[test]
        fn matching_is_what_its_definition_says(pattern in "[ab*]{0,8}", name in "[ab]{0,10}") {
            let expected = slow(pattern.as_bytes(), name.as_bytes());
            prop_assert_eq!(matches(&pattern, &name), expected);
        }
    }
}
