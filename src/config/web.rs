//! Origins of web pages (RFC 6454): scheme, host and port.

use std::fmt;
use std::net::IpAddr;

use toml::de::DeValue;

use super::values::{quoted, texts};

/// Where a web page comes from, as browsers send it in `Origin`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebOrigin {
    scheme: Scheme,
    /// In lower case; an IPv6 address with its brackets.
    host: String,
    port: u16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scheme {
    Http,
    Https,
}

impl Scheme {
    fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

/// Host and port of an authority without user name. `None`: it is none.
fn authority(text: &str, default_port: u16) -> Option<(String, u16)> {
    let after_host = text.rfind(']').map_or(0, |at| at + 1);
    let (host, port) = match text[after_host..].find(':') {
        Some(at) => {
            let (host, port) = text.split_at(after_host + at);
            (host, port[1..].parse().ok()?)
        }
        None => (text, default_port),
    };
    let inside = |c: char| c.is_ascii_alphanumeric() || "-._[]:".contains(c);
    let plain = !host.is_empty() && host.chars().all(inside);
    let bracketed = !host.contains([':', '[', ']']) || address(host).is_some();
    (plain && bracketed).then(|| (host.to_ascii_lowercase(), port))
}

/// The address that a host is, an IPv6 one in its brackets.
fn address(host: &str) -> Option<IpAddr> {
    match host.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']')?.parse().ok().map(IpAddr::V6),
        None => host.parse().ok().map(IpAddr::V4),
    }
}

impl WebOrigin {
    /// Reads `http://HOST[:PORT]` or `https://HOST[:PORT]`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (scheme, rest) = text.split_once("://")?;
        let scheme = match scheme.to_ascii_lowercase().as_str() {
            "http" => Scheme::Http,
            "https" => Scheme::Https,
            _ => return None,
        };
        let (host, port) = authority(rest, scheme.default_port())?;
        Some(Self { scheme, host, port })
    }

    /// Whether a page of this origin that asks for this `Host` can only be one of the same machine:
    /// it is the same host and port, and no name that somebody else could let point here.
    #[must_use]
    pub fn is_host_itself(&self, host: &str) -> bool {
        let same = authority(host, self.scheme.default_port())
            .is_some_and(|(host, port)| host == self.host && port == self.port);
        same && (self.host == "localhost" || address(&self.host).is_some())
    }
}

impl fmt::Display for WebOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.scheme {
            Scheme::Http => "http",
            Scheme::Https => "https",
        };
        write!(f, "{scheme}://{}", self.host)?;
        if self.port == self.scheme.default_port() {
            return Ok(());
        }
        write!(f, ":{}", self.port)
    }
}

/// Whether a `Host` names this machine in a way that nobody else can let point here: `localhost` or
/// an address of the loopback.
#[must_use]
pub fn is_loopback_host(host: &str) -> bool {
    authority(host, 0).is_some_and(|(host, _)| {
        host == "localhost" || address(&host).is_some_and(|address| address.is_loopback())
    })
}

/// A list of origins.
pub(super) fn origins(value: &DeValue<'_>) -> Result<Vec<WebOrigin>, String> {
    const FORM: &str = "[\"https://farm.example.org\"], with the port if it is not the usual one";
    let texts = texts(value, FORM)?;
    let origin = |text: &String| {
        WebOrigin::parse(text).ok_or_else(|| {
            format!(
                "{} is not the origin of web pages (http:// or https://, host, port, and nothing \
                 behind); write {FORM}",
                quoted(text)
            )
        })
    };
    texts.iter().map(origin).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn origins_are_read_with_their_default_ports() {
        for (text, shown) in [
            ("https://Farm.example", "https://farm.example"),
            ("https://farm.example:443", "https://farm.example"),
            ("HTTP://farm.example:8080", "http://farm.example:8080"),
            ("http://[fd00::1]:80", "http://[fd00::1]"),
        ] {
            assert_eq!(WebOrigin::parse(text).unwrap().to_string(), shown);
        }
        for text in [
            "",
            "null",
            "*",
            "farm.example",
            "ws://farm.example",
            "file://",
            "https://",
            "https://farm.example/",
            "https://user@farm.example",
            "https://farm.example:x",
            "https://a b",
            "https://[::1",
            "https://::1",
            "https://farm.example?x",
            "http://:80",
        ] {
            assert_eq!(WebOrigin::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_page_of_the_machine_itself_is_known_by_an_address_or_localhost() {
        let is = |origin: &str, host| WebOrigin::parse(origin).unwrap().is_host_itself(host);
        assert!(is("http://192.0.2.7:8787", "192.0.2.7:8787"));
        assert!(is("http://localhost:8787", "LOCALHOST:8787"));
        assert!(is("http://[::1]:8787", "[::1]:8787"));
        assert!(is("http://192.0.2.7", "192.0.2.7"));
        assert!(is("https://192.0.2.7", "192.0.2.7:443"));
        assert!(!is("http://192.0.2.7:1", "192.0.2.7:8787"));
        assert!(!is("http://192.0.2.8:8787", "192.0.2.7:8787"));
        // A name may be let point here by whoever has it.
        assert!(!is("http://evil.example:8787", "evil.example:8787"));
        assert!(!is(
            "http://localhost.evil.example",
            "localhost.evil.example"
        ));
    }

    #[test]
    fn only_the_loopback_is_a_loopback_host() {
        for host in [
            "localhost",
            "LocalHost:1",
            "127.0.0.1",
            "127.9.9.9:8787",
            "[::1]:8787",
        ] {
            assert!(is_loopback_host(host), "{host}");
        }
        for host in [
            "",
            "evil.example",
            "192.0.2.7",
            "127.0.0.1.evil.example",
            "::1",
            "a@localhost",
        ] {
            assert!(!is_loopback_host(host), "{host}");
        }
    }
}
