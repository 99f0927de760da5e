//! JSON (RFC 8259), as much of it as packs need, appended to a string.

use std::fmt::Write;

/// The name of a member and its colon, after a comma unless it is the first of its object.
pub fn member(out: &mut String, name: &str) {
    if !out.ends_with('{') {
        out.push(',');
    }
    text(out, name);
    out.push(':');
}

/// A string.
pub fn text(out: &mut String, value: &str) {
    out.push('"');
    for c in value.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            c if c < ' ' => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

/// A finite number, with as many digits as bring it back exactly.
pub fn number(out: &mut String, value: f64) {
    let size = value.abs();
    let _ = if size == 0.0 || (1e-5..1e17).contains(&size) {
        write!(out, "{value}")
    } else {
        write!(out, "{value:e}")
    };
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn texts_come_back(value in any::<String>()) {
            let mut out = String::new();
            text(&mut out, &value);
            prop_assert_eq!(serde_json::from_str::<String>(&out).unwrap(), value);
        }

        #[test]
        fn numbers_come_back(value in any::<f64>().prop_filter("finite", |v| v.is_finite())) {
            let mut out = String::new();
            number(&mut out, value);
            prop_assert_eq!(out.parse::<f64>().unwrap().to_bits(), value.to_bits());
            prop_assert!(serde_json::from_str::<serde_json::Value>(&out).is_ok(), "{}", out);
        }
    }
}
