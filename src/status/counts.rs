//! A counter for each of a few words that are known beforehand, so that each is there from the
//! start, as 0.

use super::number::Number;

/// Why connections end: what the sessions call it.
pub const ENDINGS: [&str; 13] = [
    "asleep",
    "closed",
    "connection lost",
    "hub stopping",
    "made room",
    "message too large",
    "ping timeout",
    "protocol error",
    "rate exceeded",
    "refused",
    "replaced",
    "revoked",
    "too many rejects",
];

/// Why the hub ends them because of what the device did or did not do.
pub const EVICTIONS: [&str; 6] = [
    "made room",
    "message too large",
    "ping timeout",
    "protocol error",
    "rate exceeded",
    "too many rejects",
];

/// Codes of rejected messages.
pub const CODES: [&str; 5] = [
    "bad-pack",
    "bad-seq",
    "malformed",
    "too-large",
    "unknown-kind",
];

/// Why data was dropped.
pub const GAPS: [&str; 5] = ["corrupt", "expired", "overflow", "refused", "too-large"];

/// One counter for each word.
#[derive(Debug)]
pub struct Counts<const N: usize> {
    words: [&'static str; N],
    numbers: [Number; N],
}

impl<const N: usize> Counts<N> {
    /// All at 0.
    #[must_use]
    pub fn new(words: [&'static str; N]) -> Self {
        Self {
            words,
            numbers: std::array::from_fn(|_| Number::default()),
        }
    }

    /// Adds to the counter of this word. A word that is not among them counts nowhere; tests
    /// beside those who count hold that there is none.
    pub fn add(&self, word: &str, n: u64) {
        if let Some(at) = self.words.iter().position(|known| *known == word) {
            self.numbers[at].add(n);
        }
    }

    /// Words and counters.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        let numbers = self.numbers.iter().map(Number::get);
        self.words.iter().copied().zip(numbers)
    }

    /// Whether there is such a word.
    #[must_use]
    pub fn knows(&self, word: &str) -> bool {
        self.words.contains(&word)
    }
}
