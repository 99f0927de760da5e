//! The valid name that a mistyped one was probably meant to be.

use strsim::osa_distance;

/// The candidate nearest to `name`, if it is near enough to be a likely slip: at most a third of
/// its letters differ. `-` and `_`, and upper and lower case, count as the same letter.
pub(super) fn nearest<'c>(
    name: &str,
    candidates: impl IntoIterator<Item = &'c str>,
) -> Option<&'c str> {
    let plain = plain(name);
    candidates
        .into_iter()
        .map(|candidate| {
            let distance = osa_distance(&plain, &self::plain(candidate));
            (distance, candidate)
        })
        .filter(|(distance, candidate)| *distance <= candidate.chars().count().div_ceil(3))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

fn plain(name: &str) -> String {
    /// Longer than any key, and a bound on the work that one wrong name causes.
    const LETTERS: usize = 64;
    let letters = name.chars().take(LETTERS);
    letters
        .map(|c| match c {
            '-' => '_',
            c => c.to_ascii_lowercase(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::nearest;

    const KEYS: [&str; 4] = ["ping_interval", "ping_timeout", "window", "listen"];

    #[test]
    fn a_slip_finds_the_key_that_was_meant() {
        for (slip, meant) in [
            ("ping_intervall", "ping_interval"),
            ("ping-timeout", "ping_timeout"),
            ("Window", "window"),
            ("lisetn", "listen"),
        ] {
            assert_eq!(nearest(slip, KEYS), Some(meant), "{slip}");
        }
    }

    #[test]
    fn a_name_that_resembles_nothing_finds_nothing() {
        assert_eq!(nearest("colour", KEYS), None);
        assert_eq!(nearest("", KEYS), None);
    }
}
