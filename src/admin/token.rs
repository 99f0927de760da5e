//! The token that requests need, when there is one.

use std::fmt;
use std::io;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper::HeaderMap;
use hyper::header::AUTHORIZATION;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::secret;

/// A token, as its hash: comparing hashes takes the same time wherever two tokens differ, and
/// whatever their lengths.
pub(super) struct Token([u8; 32]);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token")
    }
}

impl Token {
    /// The first line of a file.
    pub(super) fn read(file: &Path) -> io::Result<Self> {
        let line = secret::read(file)?;
        let line = line.trim();
        if line.is_empty() {
            return Err(io::Error::other("its first line is empty"));
        }
        Ok(Self::of(line.as_bytes()))
    }

    fn of(token: &[u8]) -> Self {
        Self(Sha256::digest(token).into())
    }

    /// Whether a request shows it: as a bearer token (RFC 6750 §2.1), or as the password of
    /// whatever user (RFC 7617).
    pub(super) fn is_shown_by(&self, headers: &HeaderMap) -> bool {
        let shown = headers
            .get(AUTHORIZATION)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.split_once(' '));
        let Some((scheme, credentials)) = shown else {
            return false;
        };
        let credentials = credentials.trim();
        if scheme.eq_ignore_ascii_case("bearer") {
            return self.is(credentials.as_bytes());
        }
        if !scheme.eq_ignore_ascii_case("basic") {
            return false;
        }
        let Ok(pair) = STANDARD.decode(credentials) else {
            return false;
        };
        let colon = pair.iter().position(|byte| *byte == b':');
        colon.is_some_and(|colon| self.is(&pair[colon + 1..]))
    }

    fn is(&self, shown: &[u8]) -> bool {
        Self::of(shown).0.ct_eq(&self.0).into()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn shows(value: &str) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, value.parse().unwrap());
        Token::of(b"0123456789abcdef").is_shown_by(&headers)
    }

    #[test]
    fn the_token_is_taken_in_both_ways_and_nothing_else_is() {
        assert!(shows("Bearer 0123456789abcdef"));
        assert!(shows("bearer  0123456789abcdef "));
        // "anyone:0123456789abcdef" and ":0123456789abcdef"
        assert!(shows("Basic YW55b25lOjAxMjM0NTY3ODlhYmNkZWY="));
        assert!(shows("basic OjAxMjM0NTY3ODlhYmNkZWY="));
        for wrong in [
            "Bearer 0123456789abcde",
            "Bearer 0123456789abcdef0",
            "Bearer",
            "Bearer ",
            "0123456789abcdef",
            "Digest 0123456789abcdef",
            "Basic 0123456789abcdef",
            "Basic !",
            // "0123456789abcdef", and as the name of a user.
            "Basic MDEyMzQ1Njc4OWFiY2RlZg==",
            "Basic MDEyMzQ1Njc4OWFiY2RlZjo=",
        ] {
            assert!(!shows(wrong), "{wrong}");
        }
        assert!(!Token::of(b"x").is_shown_by(&HeaderMap::new()));
    }

    #[test]
    fn a_token_is_the_first_line_and_is_never_printed() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("token");
        std::fs::write(&file, "0123456789abcdef \nmore\n").unwrap();
        let token = Token::read(&file).unwrap();
        assert!(token.is(b"0123456789abcdef"));
        assert_eq!(format!("{token:?}"), "Token");
        std::fs::write(&file, "\n").unwrap();
        assert!(Token::read(&file).is_err());
    }
}
