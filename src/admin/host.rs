//! Who a request was meant for.
//!
//! A page in the operator's browser can let its own name point to 127.0.0.1 and then read what
//! is served there (DNS rebinding). Its requests still carry its name as `Host`, so a listener on
//! the loopback serves only names that can mean nothing else.

use std::net::{IpAddr, SocketAddr};

/// Whether a request with this `Host` (with or without a port) may be answered by the listener
/// bound to `bound`. A listener that others can reach has names that nobody here knows.
pub(super) fn is_meant(host: &str, bound: Option<SocketAddr>) -> bool {
    let Some(bound) = bound.filter(|bound| bound.ip().is_loopback()) else {
        return true;
    };
    let name = without_port(host);
    if name.eq_ignore_ascii_case("localhost") {
        return true;
    }
    let address = name
        .strip_prefix('[')
        .and_then(|name| name.strip_suffix(']'))
        .unwrap_or(name);
    // An address needs no name service, so nobody can let it point elsewhere.
    address
        .parse::<IpAddr>()
        .is_ok_and(|ip| ip.is_loopback() || ip == bound.ip())
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        // Any port: it may have been forwarded from another one.
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::is_meant;

    #[test]
    fn a_name_that_could_be_anybodys_is_refused_on_the_loopback() {
        let bound = Some("127.0.0.1:8788".parse().unwrap());
        for host in [
            "localhost",
            "LocalHost:8788",
            "127.0.0.1:8788",
            "127.0.0.1",
            "[::1]:9",
            "[::1]",
        ] {
            assert!(is_meant(host, bound), "{host}");
        }
        for host in [
            "evil.example",
            "evil.example:8788",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "10.0.0.1",
            "",
            ":8788",
            "localhost@evil",
            "[::1]evil",
            "0.0.0.0:8788",
        ] {
            assert!(!is_meant(host, bound), "{host}");
        }
    }

    #[test]
    fn a_listener_for_others_answers_by_every_name() {
        let bound = Some("10.0.0.7:8788".parse().unwrap());
        assert!(is_meant("barn.local:8788", bound));
    }
}
