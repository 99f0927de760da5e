//! One value at a time: its type, its form, its range. Every refusal is a sentence that says
//! what is wrong and what to write instead.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use toml::de::DeValue;

use super::Deadband;
use super::units::{parse_duration, parse_size, show_duration, show_size};

/// Characters of an id: it is a topic level and a path segment.
pub(super) const ID_LENGTH: usize = 64;

/// How a value stands in a sentence; long ones are cut.
pub(super) fn quoted(text: &str) -> String {
    /// Enough to recognise what was written.
    const SHOWN: usize = 60;
    let mut shown: String = text.chars().take(SHOWN).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    format!("{shown:?}")
}

fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a decimal number",
        DeValue::Boolean(_) => "a truth value",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a section",
    }
}

fn expect_text<'v>(value: &'v DeValue<'_>, example: &str) -> Result<&'v str, String> {
    value.as_str().ok_or_else(|| {
        format!(
            "is {} and must be a text in quotes; write {example}",
            kind(value)
        )
    })
}

/// A text that is not empty and has no control characters.
pub(super) fn text(value: &DeValue<'_>) -> Result<String, String> {
    let text = expect_text(value, "it as \"…\"")?;
    if text.is_empty() {
        return Err("is empty; write a value or remove the line".to_owned());
    }
    if text.chars().any(char::is_control) {
        return Err(format!(
            "{} has a control character in it; remove it",
            quoted(text)
        ));
    }
    Ok(text.to_owned())
}

/// The path of a file or directory. Absolute, because a daemon's working directory is nobody's.
pub(super) fn path(value: &DeValue<'_>) -> Result<PathBuf, String> {
    let path = PathBuf::from(text(value)?);
    if path.is_absolute() {
        return Ok(path);
    }
    let text = quoted(&path.to_string_lossy());
    Err(format!(
        "{text} depends on the working directory; write the whole path, beginning with /"
    ))
}

/// A list of texts, possibly empty; `form` is what to write.
pub(super) fn texts(value: &DeValue<'_>, form: &str) -> Result<Vec<String>, String> {
    let Some(list) = value.as_array() else {
        return Err(format!(
            "is {} and must be a list of texts; write {form}",
            kind(value)
        ));
    };
    list.iter().map(|element| text(element.get_ref())).collect()
}

/// `true` or `false`.
pub(super) fn truth(value: &DeValue<'_>) -> Result<bool, String> {
    value.as_bool().ok_or_else(|| {
        format!(
            "is {} and must be true or false, without quotes",
            kind(value)
        )
    })
}

/// The path of a file that may be a secret: whole, or the name of a credential, which systemd puts
/// into a directory of its own (systemd.exec(5), `LoadCredential=`). Without that directory the
/// name stays as it is; looking at the file says why that is of no use.
pub(super) fn file(value: &DeValue<'_>) -> Result<PathBuf, String> {
    let name = text(value)?;
    if name.contains('/') || name == "." || name == ".." {
        return path(value).map_err(|error| {
            format!("{error}, or the name of a credential of systemd, without any /")
        });
    }
    Ok(credentials().map_or_else(|| PathBuf::from(&name), |directory| directory.join(&name)))
}

/// Where systemd puts the credentials of this process.
pub(super) fn credentials() -> Option<PathBuf> {
    std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from)
}

/// An address and a port.
pub(super) fn address(value: &DeValue<'_>) -> Result<SocketAddr, String> {
    let text = expect_text(value, "\"127.0.0.1:8787\"")?;
    let localhost = text
        .strip_prefix("localhost:")
        .map(|port| format!("127.0.0.1:{port}"));
    text.parse().map_err(|_| match localhost {
        Some(address) => format!(
            "{} is a name; write its address, \"{address}\"",
            quoted(text)
        ),
        None => format!(
            "{} is not an address and a port; write \"127.0.0.1:8787\" for this machine only, \
             \"0.0.0.0:8787\" for every network, or \"[::]:8787\" for IPv6 too",
            quoted(text)
        ),
    })
}

/// One of a few words.
pub(super) fn word<T: Copy + 'static>(
    words: &'static [(&'static str, T)],
) -> impl FnOnce(&DeValue<'_>) -> Result<T, String> {
    move |value| {
        let names: Vec<_> = words
            .iter()
            .map(|(name, _)| format!("\"{name}\""))
            .collect();
        let names = match names.split_last() {
            Some((last, others)) if !others.is_empty() => {
                format!("{} or {last}", others.join(", "))
            }
            _ => names.concat(),
        };
        let text = expect_text(value, &names)?;
        let found = words.iter().find(|(name, _)| *name == text);
        found
            .map(|(_, meaning)| *meaning)
            .ok_or_else(|| format!("{} is not known; write {names}", quoted(text)))
    }
}

/// A whole number within a range; `why` is the reason for the range.
pub(super) fn whole(
    range: RangeInclusive<u64>,
    why: &'static str,
) -> impl FnOnce(&DeValue<'_>) -> Result<u64, String> {
    move |value| {
        let (low, high) = (range.start(), range.end());
        let Some(number) = value.as_integer() else {
            return Err(format!(
                "is {} and must be a whole number without quotes; write one from {low} to {high}",
                kind(value)
            ));
        };
        // One that does not even fit is out of any range.
        let fits = i64::from_str_radix(number.as_str(), number.radix());
        match fits.ok().and_then(|number| u64::try_from(number).ok()) {
            Some(number) if range.contains(&number) => Ok(number),
            _ => Err(format!(
                "{number} is out of range, because {why}; write a number from {low} to {high}"
            )),
        }
    }
}

/// A duration within a range; `why` is the reason for the range.
pub(super) fn duration(
    range: RangeInclusive<Duration>,
    why: &'static str,
) -> impl FnOnce(&DeValue<'_>) -> Result<Duration, String> {
    move |value| {
        const FORM: &str =
            "a number and a unit, such as \"20s\", \"500ms\", \"5m\", \"12h\" or \"30d\"";
        if let Some(number) = value.as_integer() {
            return Err(format!(
                "{number} has no unit; write {FORM}; \"{number}s\" for seconds"
            ));
        }
        let text = expect_text(value, FORM)?;
        let duration = parse_duration(text)
            .ok_or_else(|| format!("{} is not a duration; write {FORM}", quoted(text)))?;
        if range.contains(&duration) {
            return Ok(duration);
        }
        let (low, high) = (show_duration(*range.start()), show_duration(*range.end()));
        Err(format!(
            "{} is out of range, because {why}; write a duration from \"{low}\" to \"{high}\"",
            quoted(text)
        ))
    }
}

/// A size in bytes within a range; `why` is the reason for the range. A bare number is bytes.
pub(super) fn size(
    range: RangeInclusive<u64>,
    why: &'static str,
) -> impl FnOnce(&DeValue<'_>) -> Result<u64, String> {
    move |value| {
        const FORM: &str =
            "bytes or a number and a unit, such as \"4096\", \"64KiB\", \"10MB\" or \"1GiB\"";
        let text = match value.as_integer() {
            Some(number) if number.radix() == 10 => number.as_str().replace('_', ""),
            _ => expect_text(value, FORM)?.to_owned(),
        };
        let size = parse_size(&text)
            .ok_or_else(|| format!("{} is not a size; write {FORM}", quoted(&text)))?;
        if range.contains(&size) {
            return Ok(size);
        }
        let (low, high) = (show_size(*range.start()), show_size(*range.end()));
        Err(format!(
            "{} is out of range, because {why}; write a size from \"{low}\" to \"{high}\"",
            quoted(&text)
        ))
    }
}

/// A pattern for names: `chars` and `*`. `others`: what is allowed beside letters and digits.
pub(super) fn pattern(
    chars: &'static str,
    others: &'static [u8],
    length: usize,
    example: &'static str,
) -> impl FnOnce(&DeValue<'_>) -> Result<String, String> {
    move |value| {
        let text = expect_text(value, example)?;
        let allowed =
            |byte: u8| byte.is_ascii_alphanumeric() || byte == b'*' || others.contains(&byte);
        if (1..=length).contains(&text.len()) && text.bytes().all(allowed) {
            return Ok(text.to_owned());
        }
        Err(format!(
            "{} is not a pattern: 1 to {length} of {chars}, and * for any number of characters; write \
             {example}, or \"*\" for all",
            quoted(text)
        ))
    }
}

/// A number, or a text of a number and `%`.
pub(super) fn deadband(value: &DeValue<'_>) -> Result<Deadband, String> {
    const FORM: &str =
        "0.5 for a step in the unit of the reading, or \"2%\" for a part of its value";
    let number = match value {
        DeValue::Integer(number) if number.radix() == 10 => {
            number.as_str().replace('_', "").parse().ok()
        }
        DeValue::Float(number) => number.as_str().replace('_', "").parse().ok(),
        _ => None,
    };
    if let Some(number) = number {
        let number: f64 = number;
        return match number.is_finite() && number >= 0.0 {
            true => Ok(Deadband::Absolute(number)),
            false => Err(format!("{number} is no step; write {FORM}")),
        };
    }
    let text = expect_text(value, FORM)?;
    let percent = text
        .strip_suffix('%')
        .and_then(|number| number.trim().parse::<f64>().ok());
    match percent {
        Some(percent) if (0.0..=100.0).contains(&percent) => Ok(Deadband::Percent(percent)),
        _ => Err(format!("{} is no deadband; write {FORM}", quoted(text))),
    }
}

/// Whether a text can be the id of a device or a hub: 1 to 64 of `A-Z a-z 0-9 . _ -`, the first
/// one alphanumeric.
#[must_use]
pub fn is_id(text: &str) -> bool {
    let inside = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    text.len() <= ID_LENGTH
        && text.bytes().all(inside)
        && text
            .bytes()
            .next()
            .is_some_and(|first| first.is_ascii_alphanumeric())
}

/// An id.
pub(super) fn id(value: &DeValue<'_>) -> Result<String, String> {
    let text = expect_text(value, "\"barn\"")?;
    if is_id(text) {
        return Ok(text.to_owned());
    }
    let instead = id_from(text).map_or_else(|| "\"barn\"".to_owned(), |id| format!("\"{id}\""));
    Err(format!(
        "{} is not an id: 1 to {ID_LENGTH} of A-Z a-z 0-9 . _ -, beginning with a letter or \
         digit; write {instead}",
        quoted(text)
    ))
}

/// The id nearest to a name: other characters become `-`, leading ones that may not lead go.
pub(super) fn id_from(name: &str) -> Option<String> {
    let start = name.trim_start_matches(|c: char| !c.is_ascii_alphanumeric());
    let allowed = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let id: String = start
        .chars()
        .take(ID_LENGTH)
        .map(|c| if allowed(c) { c } else { '-' })
        .collect();
    (!id.is_empty()).then_some(id)
}

/// The first topic level or levels.
pub(super) fn prefix(value: &DeValue<'_>) -> Result<String, String> {
    /// Topics may have 65,535 bytes; ids and names need some of them, brokers often allow less.
    const LENGTH: usize = 200;
    let prefix = text(value)?;
    let wrong = if prefix.contains(['+', '#']) {
        "has a wildcard (+ or #), to which nobody can publish"
    } else if prefix.starts_with('$') {
        "begins with $, which brokers keep for themselves"
    } else if prefix.starts_with('/') || prefix.ends_with('/') {
        "begins or ends with /, which makes an empty topic level"
    } else if prefix.len() > LENGTH {
        "has more than 200 bytes"
    } else {
        return Ok(prefix);
    };
    Err(format!(
        "{} {wrong}; write topic levels such as \"telehub\" or \"farm/north\"",
        quoted(&prefix)
    ))
}

/// A list of topics, each of one level or more.
pub(super) fn topics(value: &DeValue<'_>) -> Result<Vec<String>, String> {
    /// Each is compared with the topic of every command.
    const COUNT: usize = 64;
    let form = "a list of texts, such as [\"app/answers\"]";
    let Some(list) = value.as_array() else {
        return Err(format!("is {} and must be {form}", kind(value)));
    };
    if list.len() > COUNT {
        return Err(format!(
            "has more than {COUNT} entries; write what they have in common"
        ));
    }
    let topic = |value: &toml::Spanned<DeValue<'_>>| {
        let topic = text(value.get_ref()).map_err(|error| format!("has an entry that {error}"))?;
        if topic.contains(['+', '#']) || topic.starts_with('$') {
            return Err(format!(
                "{} has a wildcard (+ or #) or begins with $; write {form}",
                quoted(&topic)
            ));
        }
        Ok(topic)
    };
    list.iter().map(topic).collect()
}

/// The MQTT client id.
pub(super) fn client_id(value: &DeValue<'_>) -> Result<String, String> {
    /// What common brokers take; the specification asks them for 23 only.
    const LENGTH: usize = 128;
    let id = text(value)?;
    if id.len() <= LENGTH && !id.starts_with(' ') {
        return Ok(id);
    }
    Err(format!(
        "{} is longer than {LENGTH} bytes or begins with a space; write a shorter name",
        quoted(&id)
    ))
}
