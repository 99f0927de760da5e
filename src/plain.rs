//! Text of another's making, fit to stand in a terminal and in a line.
//!
//! One rule for every place that shows what devices and brokers say: control characters (C0, DEL and
//! C1, which some terminals obey), the line ends of Unicode, and the characters that turn or hide
//! what stands beside them are not passed on. Where text is shown each becomes `?`; in JSON each is
//! written as an escape, so that nothing is lost and every reader of lines sees one line.

/// Whether a character would steer what shows it.
#[must_use]
pub fn is_unseen(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{ad}'
                | '\u{61c}'
                | '\u{180e}'
                | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{feff}'
                | '\u{fff9}'..='\u{fffb}'
                | '\u{e0000}'..='\u{e007f}'
        )
}

/// The text with every such character as `?`.
#[must_use]
pub fn text(text: &str) -> String {
    text.chars()
        .map(|c| if is_unseen(c) { '?' } else { c })
        .collect()
}

/// JSON text with every such character as an escape. What stands outside of strings has none of
/// them but line ends and blanks between the parts, which stay.
#[must_use]
pub fn json(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        // In JSON these can only stand between the parts.
        let between = matches!(c, '\n' | '\r' | '\t');
        if is_unseen(c) && !between {
            let mut units = [0; 2];
            for unit in c.encode_utf16(&mut units) {
                escaped.push_str(&format!("\\u{unit:04x}"));
            }
        } else {
            escaped.push(c);
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const HOSTILE: &str = "a\u{1b}[2J\u{9b}31m\u{85}\u{2028}\u{2029}\u{202e}\u{2066}\u{200f}\u{7f}\u{e0041}\u{feff}ä😀";

    #[test]
    fn nothing_steers_a_terminal_or_ends_a_line() {
        let shown = text(HOSTILE);
        assert_eq!(shown, "a?[2J?31m?????????ä😀");
        assert_eq!(shown.chars().filter(|c| is_unseen(*c)).count(), 0);
    }

    #[test]
    fn json_says_the_same_in_one_line() {
        let written = serde_json::to_string(HOSTILE).unwrap();
        let escaped = json(&written);
        assert_eq!(escaped.chars().filter(|c| is_unseen(*c)).count(), 0);
        assert!(
            escaped.contains("\\u0085\\u2028\\u2029\\u202e"),
            "{escaped}"
        );
        assert_eq!(serde_json::from_str::<String>(&escaped).unwrap(), HOSTILE);
        let pretty = "{\n\t\"a\": 1\r\n}";
        assert_eq!(json(pretty), pretty);
    }
}
